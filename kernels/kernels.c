/* Opening the CPU backend: which instruction set, and all of its working memory. */
#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/cpu/layout.h"
#include "kernels/pool.h"

struct isa {
    const char *name;
    const struct kernels_ops *ops;
    bool (*available)(void);
};

#if defined __x86_64__
/* These also ask whether the operating system saves the registers. */
static bool have_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

/* f16c has no name in older compilers; every processor with AVX2 and FMA has it. */
static bool have_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool have_bf16(void)
{
    return have_avx512() && __builtin_cpu_supports("avx512bf16");
}
#else
static bool have_bf16(void)
{
    return false;
}
#endif

static bool have_portable(void)
{
    return true;
}

static const struct isa isas[] = {
#if defined __x86_64__
    {"avx512", &kernels_cpu_ops_avx512, have_avx512},
    {"avx2", &kernels_cpu_ops_avx2, have_avx2},
#endif
    {"portable", &kernels_cpu_ops_portable, have_portable},
};
#define N_ISAS (sizeof isas / sizeof *isas)

const char *const *kernels_isas(void)
{
    /* The names that processors can have are suffixes of the whole list, but for a machine with
     * AVX-512 and without AVX2, which does not exist. */
    static const char *const names[N_ISAS + 1] = {
#if defined __x86_64__
        "avx512",
        "avx2",
#endif
        "portable"
    };
    size_t i = 0;

    while (!isas[i].available())
        i++;
    return names + i;
}

static const struct isa *isa_find(const char *name, struct mt_err *reterr)
{
    char list[64] = "";
    size_t used = 0;

    for (size_t i = 0; i < N_ISAS; i++) {
        if (!isas[i].available())
            continue;
        if (!name || strcmp(name, isas[i].name) == 0)
            return &isas[i];
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "",
                                 isas[i].name);
    }
    mt_error(reterr, MT_EUNSUPPORTED, "instruction set \"%s\": this processor has %s", name, list);
    return NULL;
}

static int check_options(const struct kernels_options *o, struct mt_err *reterr)
{
    const struct kernels_limits *l = &o->limits;

    if (!o->backend || strcmp(o->backend, "cpu") != 0)
        return mt_error(reterr, MT_EUNSUPPORTED, "backend \"%s\": this build has cpu",
                        o->backend ? o->backend : "");
    if (o->threads < 1 || o->threads > KERNELS_MAX_THREADS)
        return mt_error(reterr, MT_EINVAL, "threads: expected 1 to %d, found %u",
                        KERNELS_MAX_THREADS, o->threads);
    if (!l->width || !l->inter || !l->positions || !l->vocab)
        return mt_error(reterr, MT_EINVAL,
                        "limits: expected all > 0, found width %u, inter %u, positions %u, "
                        "vocab %u",
                        l->width, l->inter, l->positions, l->vocab);
    if (l->width > 1u << 24 || l->inter > 1u << 24 || l->positions > 1u << 28 ||
        l->vocab > 1u << 28)
        return mt_error(reterr, MT_ELIMIT,
                        "limits: width %u, inter %u, positions %u or vocab %u "
                        "is beyond any model",
                        l->width, l->inter, l->positions, l->vocab);
    return 0;
}

/* Hands out 64-byte aligned arrays from one block; without a block, measures it. */
struct arena {
    char *memory;
    size_t used;
};

static void *arena_take(struct arena *a, size_t count, size_t size)
{
    void *at = a->memory ? a->memory + a->used : NULL;

    a->used += (count * size + 63) / 64 * 64;
    return at;
}

static void lay_out(struct cpu_kernels *k, struct arena *a)
{
    const struct kernels_limits *l = &k->limits;

    k->inter = arena_take(a, (size_t)PASS_ROWS * l->inter, sizeof *k->inter);
    k->runs = arena_take(a, PASS_ROWS, sizeof *k->runs);
    if (k->base.numerics == NUMERICS_FAST)
        k->rounded = arena_take(a, (size_t)PASS_ROWS * l->width, sizeof *k->rounded);
    for (unsigned i = 0; i < k->base.threads; i++) {
        struct cpu_thread *t = &k->thread[i];
        size_t queries = ATTENTION_QUERIES;

        t->wide = arena_take(a, PANEL_ROWS * PANEL_DEPTH, sizeof(float));
        t->sums = arena_take(a, PANEL_ROWS * PANEL_X * 16, sizeof(float));
        t->tile = arena_take(a, 2 * (PANEL_X + 1) * PANEL_ROWS, sizeof(float));
        t->query = arena_take(a, queries * l->width, sizeof(float));
        t->mix = arena_take(a, queries * l->width, sizeof(float));
        t->scores = arena_take(a, queries * (l->positions + 16), sizeof(float));
        t->weights = arena_take(a, l->vocab, sizeof(float));
        t->order = arena_take(a, l->vocab, sizeof(uint32_t));
        arena_take(a, 32, sizeof(float)); /* neighbours' data share no cache line pair */
    }
}

static struct kernels_limits round_limits(const struct kernels_limits *l)
{
    return (struct kernels_limits){
        .width = (l->width + 31) / 32 * 32,
        .inter = (l->inter + 31) / 32 * 32,
        .positions = (l->positions + 15) / 16 * 16,
        .vocab = (l->vocab + 15) / 16 * 16,
    };
}

int kernels_open(const struct kernels_options *o, struct kernels **ret, struct mt_err *reterr)
{
    struct cpu_kernels *k;
    const struct isa *isa;
    struct arena arena = {0};
    int rc = check_options(o, reterr);

    if (rc)
        return rc;
    isa = isa_find(o->isa, reterr);
    if (!isa)
        return MT_EUNSUPPORTED;
    k = calloc(1, sizeof *k + o->threads * sizeof k->thread[0]);
    if (!k)
        return mt_error(reterr, MT_ENOMEM, "no memory for the kernels");
    k->base = (struct kernels){isa->ops, "cpu", isa->name, o->numerics, o->threads};
    k->limits = round_limits(&o->limits);
    k->bf16_dot = o->numerics == NUMERICS_FAST && strcmp(isa->name, "avx512") == 0 && have_bf16();
    lay_out(k, &arena);
    k->memory = kernels_cpu_alloc(&k->base, arena.used);
    if (!k->memory) {
        rc = mt_error(reterr, MT_ENOMEM, "no memory for %zu bytes of working memory", arena.used);
        goto fail;
    }
    arena = (struct arena){.memory = k->memory};
    lay_out(k, &arena);
    rc = pool_new(o->threads, &k->pool, reterr);
    if (rc)
        goto fail;
    *ret = &k->base;
    return 0;

fail:
    kernels_close(&k->base);
    return rc;
}

void kernels_close(struct kernels *kernels)
{
    struct cpu_kernels *k = cpu_of(kernels);

    if (!k)
        return;
    pool_free(k->pool);
    kernels_cpu_free(&k->base, k->memory, 0);
    free(k);
}
