/* How near the CPU kernels come to what the machine can do: bench_kernels [threads] [isa] [filter].
 *
 * First the ceilings, measured in this run: reading memory (a plain loop over a block beyond all
 * caches) and multiply-adds out of registers, with all threads. Then matmul, experts and attention
 * at the shapes of OLMoE-1B-7B and of the bundled model. Weights rotate over more memory than the
 * caches hold, as in a forward pass. Each line is the best of several runs.
 * `make build/tests/bench/bench_kernels` builds it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"
#include "tests/bench/ceiling.h"

#define COLD_BYTES ((size_t)1 << 30) /* a layer of OLMoE is 805 MB */
#define REPEATS 12
#define CEILING_RUNS 64

struct ceilings {
    double read;  /* GB/s */
    double flops; /* GFLOP/s */
};

struct bench {
    struct kernels *k;
    struct ceilings top;
    char *cold; /* [COLD_BYTES] of small bf16 values */
    const char *filter;
};

/* With one thread, its CPU time: a busy machine disturbs that less. */
static clockid_t the_clock = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;

    clock_gettime(the_clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void measure_ceilings(struct bench *b)
{
    b->top.read = ceiling_read(b->cold, COLD_BYTES, b->k->threads, CEILING_RUNS, the_clock);
    b->top.flops = ceiling_flops(b->k->isa, b->k->threads, CEILING_RUNS, the_clock);
    printf("%s %s, %u threads: reads %.1f GB/s", b->k->isa,
           b->k->numerics == NUMERICS_FAST ? "fast" : "exact", b->k->threads, b->top.read);
    if (b->top.flops > 0.0)
        printf(", multiply-adds %.0f GFLOP/s", b->top.flops);
    printf("\n");
}

/* --- operations ------------------------------------------------------------------------------- */

static bool wanted(const struct bench *b, const char *name)
{
    return !b->filter || strstr(name, b->filter);
}

static void report(const struct bench *b, const char *name, double seconds, double bytes,
                   double flops)
{
    double rate = bytes / seconds * 1e-9, speed = flops / seconds * 1e-9;

    printf("%-44s %9.1f us  %6.1f GB/s (%3.0f %%)  %7.1f GFLOP/s", name, seconds * 1e6, rate,
           100.0 * rate / b->top.read, speed);
    if (b->top.flops > 0.0)
        printf(" (%3.0f %%)", 100.0 * speed / b->top.flops);
    printf("\n");
}

static void *must(void *memory)
{
    if (!memory) {
        fprintf(stderr, "bench_kernels: out of memory\n");
        exit(1);
    }
    return memory;
}

static float *floats(struct bench *b, size_t n)
{
    float *x = must(b->k->op->alloc(b->k, n * sizeof *x));

    for (size_t i = 0; i < n; i++)
        x[i] = (float)(i * 2654435761u >> 16 & 0xff) * 0x1p-8f - 0.5f;
    return x;
}

/* A layer's worth of different matrices in turn, so that none is in a cache when its turn comes
 * (unless `warm`: then one matrix over and over). */
static void bench_matmul(struct bench *b, uint32_t n, uint32_t rows, uint32_t cols, bool warm)
{
    size_t bytes = (size_t)rows * cols * 2, matrices = warm ? 1 : COLD_BYTES / bytes;
    uint32_t count = warm ? 20 : (uint32_t)(matrices < 40 ? matrices : 40);
    float *x = floats(b, (size_t)n * cols), *y = floats(b, (size_t)n * rows);
    double best = 1e30;
    size_t next = 0;
    char name[64];

    snprintf(name, sizeof name, "matmul n=%u %ux%u bf16%s", n, rows, cols, warm ? " warm" : "");
    if (n >= 64)
        count = 2;
    for (int repeat = 0; repeat < REPEATS && wanted(b, name); repeat++) {
        double from = now();

        for (uint32_t i = 0; i < count; i++, next = (next + 1) % matrices) {
            struct weight w = {b->cold + next * bytes, DTYPE_BF16, rows, cols};

            b->k->op->matmul(b->k, y, x, &w, n, false);
        }
        from = (now() - from) / count;
        best = from < best ? from : best;
    }
    if (wanted(b, name))
        report(b, name, best, (double)bytes, 2.0 * n * rows * cols);
    b->k->op->free(b->k, x, 0);
    b->k->op->free(b->k, y, 0);
}

/* n tokens, topk experts each, spread over all slots. */
static void bench_experts(struct bench *b, uint32_t n, uint32_t topk, uint32_t slots,
                          uint32_t hidden, uint32_t inter)
{
    size_t stride = (size_t)3 * hidden * inter * 2, layers = COLD_BYTES / (stride * slots);
    struct expert_pool pool = {NULL, stride, DTYPE_BF16, slots, hidden, inter};
    uint32_t pairs = n * topk, offsets[257] = {0}, active = 0;
    uint32_t *row = must(calloc(pairs, sizeof *row)), *out = must(calloc(pairs, sizeof *out));
    float *x = floats(b, (size_t)n * hidden), *y = floats(b, (size_t)pairs * hidden);
    double best = 1e30;
    size_t next = 0;
    char name[64];

    for (uint32_t s = 0; s < slots; s++) { /* pair p belongs to slot p * 7 % slots, or its like */
        offsets[s + 1] = offsets[s];
        for (uint32_t p = 0; p < pairs; p++) {
            if (p * 7 % slots == s) {
                row[offsets[s + 1]] = p / topk;
                out[offsets[s + 1]++] = p;
            }
        }
        active += offsets[s + 1] > offsets[s];
    }
    snprintf(name, sizeof name, "experts n=%u top-%u of %u, %ux%u", n, topk, slots, hidden, inter);
    for (int repeat = 0; repeat < REPEATS && wanted(b, name); repeat++) {
        uint32_t count = n >= 64 ? 1 : 20;
        double from = now();

        for (uint32_t i = 0; i < count; i++, next = (next + 1) % (layers ? layers : 1)) {
            pool.base = b->cold + next * stride * slots;
            b->k->op->experts(b->k, y, x, &pool, offsets, row, out);
        }
        from = (now() - from) / count;
        best = from < best ? from : best;
    }
    if (wanted(b, name))
        report(b, name, best, (double)stride * active, 6.0 * pairs * hidden * inter);
    free(row);
    free(out);
    b->k->op->free(b->k, x, 0);
    b->k->op->free(b->k, y, 0);
}

/* n rows: of n sequences that are `context` long, or the last n of one. */
static void bench_attention(struct bench *b, uint32_t n, bool prefill, uint32_t context,
                            uint32_t heads, uint32_t kv_heads, uint32_t dim)
{
    enum dtype dtype = b->k->numerics == NUMERICS_FAST ? DTYPE_BF16 : DTYPE_F32;
    uint32_t each = (context + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    uint32_t blocks = prefill ? each : n * each;
    size_t elements = (size_t)blocks * kv_heads * dim * KV_BLOCK_TOKENS;
    struct kv_layer kv = {b->cold, b->cold + elements * dtype_size(dtype), dtype, kv_heads, dim};
    uint32_t *pos = must(calloc(n, sizeof *pos)), *at = must(calloc(n, sizeof *at));
    uint32_t *tables = must(calloc(blocks, sizeof *tables));
    struct kernel_rows rows = {n, pos, at, tables};
    float *q = floats(b, (size_t)n * heads * dim), *out = floats(b, (size_t)n * heads * dim);
    double best = 1e30, positions = 0.0;
    char name[64];

    for (uint32_t i = 0; i < blocks; i++)
        tables[i] = i;
    for (uint32_t i = 0; i < n; i++) {
        pos[i] = prefill ? context - n + i : context - 1;
        at[i] = prefill ? 0 : i * each;
        positions += pos[i] + 1;
    }
    snprintf(name, sizeof name, "attention %s n=%u context %u, %u/%u x %u",
             prefill ? "prefill" : "decode", n, context, heads, kv_heads, dim);
    for (int repeat = 0; repeat < REPEATS && wanted(b, name); repeat++) {
        double from = now();

        b->k->op->attention(b->k, out, q, (size_t)heads * dim, &kv, &rows, heads, 0.1f, 0);
        from = now() - from;
        best = from < best ? from : best;
    }
    if (wanted(b, name))
        report(b, name, best, 2.0 * (double)elements * (double)dtype_size(dtype),
               4.0 * positions * heads * dim);
    free(pos);
    free(at);
    free(tables);
    b->k->op->free(b->k, q, 0);
    b->k->op->free(b->k, out, 0);
}

static void bench_sample(struct bench *b, float temperature, uint32_t vocab)
{
    struct sample_params p = {
        .temperature = temperature, .top_p = 0.95f, .forced = -1, .n_logprobs = -1};
    struct sample_result result;
    float *logits = floats(b, vocab);
    double best = 1e30;
    char name[64];

    for (uint32_t i = 0; i < vocab; i++)
        logits[i] *= 20.0f;
    snprintf(name, sizeof name, "sample temperature %.1f, vocabulary %u", (double)temperature,
             vocab);
    for (int repeat = 0; repeat < REPEATS && wanted(b, name); repeat++) {
        double from = now();

        b->k->op->sample(b->k, &result, logits, &p, 1, vocab);
        from = now() - from;
        best = from < best ? from : best;
    }
    if (wanted(b, name))
        report(b, name, best, 4.0 * vocab, 0.0);
    b->k->op->free(b->k, logits, 0);
}

static void run_all(struct bench *b)
{
    static const uint32_t rows[] = {1, 2, 3, 4, 8, 16, 64, 512};

    measure_ceilings(b);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        bench_matmul(b, rows[i], 2048, 2048, false);
    bench_matmul(b, 1, 50304, 2048, false);
    bench_matmul(b, 1, 1024, 2048, true);
    bench_matmul(b, 512, 2048, 1024, true);
    bench_matmul(b, 1, 256, 256, true);
    bench_matmul(b, 64, 256, 256, true);
    bench_experts(b, 1, 8, 64, 2048, 1024);
    bench_experts(b, 8, 8, 64, 2048, 1024);
    bench_experts(b, 64, 8, 64, 2048, 1024);
    bench_experts(b, 512, 8, 64, 2048, 1024);
    bench_experts(b, 1, 2, 16, 256, 128);
    bench_experts(b, 16, 2, 16, 256, 128);
    bench_experts(b, 512, 2, 16, 256, 128);
    bench_attention(b, 1, false, 2048, 16, 16, 128);
    bench_attention(b, 1, false, 1024, 8, 4, 32);
    bench_attention(b, 32, false, 320, 8, 4, 32);
    bench_attention(b, 8, false, 1024, 16, 16, 128);
    bench_attention(b, 8, false, 1024, 32, 8, 128);
    bench_attention(b, 512, true, 1024, 16, 16, 128);
    bench_attention(b, 512, true, 512, 8, 4, 32);
    bench_sample(b, 0.0f, 50304);
    bench_sample(b, 1.0f, 50304);
}

int main(int argc, char **argv)
{
    struct kernels_options o = {
        .backend = "cpu",
        .threads = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 2,
        .isa = argc > 2 && strcmp(argv[2], "best") != 0 ? argv[2] : NULL,
        .limits = {.width = 8192, .inter = 8192, .positions = 4096, .vocab = 65536},
    };
    struct bench b = {.filter = argc > 3 ? argv[3] : NULL};
    struct mt_err err;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (o.threads == 1)
        the_clock = CLOCK_PROCESS_CPUTIME_ID;
    for (int fast = 0; fast < 2; fast++) {
        o.numerics = fast ? NUMERICS_FAST : NUMERICS_EXACT;
        if (kernels_open(&o, &b.k, &err)) {
            fprintf(stderr, "bench_kernels: %s\n", err.text);
            return 1;
        }
        b.cold = must(b.k->op->alloc(b.k, COLD_BYTES));
        for (size_t i = 0; i < COLD_BYTES / 2; i++) /* bf16 of 1/128 to 1/64, both signs */
            ((uint16_t *)(void *)b.cold)[i] =
                (uint16_t)(0x3c00u | (i * 2654435761u >> 13 & 0x807f));
        run_all(&b);
        b.k->op->free(b.k, b.cold, COLD_BYTES);
        kernels_close(b.k);
    }
    return 0;
}
