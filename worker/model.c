/* Loading: dense weights in place where the file allows it, experts packed into slots. */
#include "worker/model.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/tensors.h"

#define NAME_BYTES 256
#define SLOT_ALIGN 64
#define EXPERT_PARTS 3
/* Memory of one model besides the mapping: a layer's norms, q, k, v, o and router; embedding, head,
 * final norm, two rope tables, the slots. */
#define MAX_KEPT (MODEL_MAX_LAYERS * 7 + 6)

struct model_files {
    struct tensors *tensors;
    unsigned n;
    struct kept {
        void *memory;
        size_t bytes;
    } kept[MAX_KEPT];
};

struct loader {
    const struct model_config *c;
    const struct family_names *names;
    const struct tensors *tensors;
    struct kernels *k;
    struct model *m;
    struct mt_err *err;
};

/* --- pieces -------------------------------------------------------------------------------- */

/* Memory of the backend that lives as long as the model; NULL with an error. */
static void *keep(struct loader *l, size_t bytes, const char *what)
{
    struct model_files *files = l->m->files;
    void *memory = files->n < MAX_KEPT ? l->k->op->alloc(l->k, bytes) : NULL;

    if (!memory) {
        mt_error(l->err, MT_ENOMEM, "no memory for %s: %zu bytes", what, bytes);
        return NULL;
    }
    files->kept[files->n++] = (struct kept){memory, bytes};
    return memory;
}

/* The data of a tensor that every rank holds: in the file if it is aligned there, else a copy. */
static int load_dense(struct loader *l, const struct tensor *t, const void **ret)
{
    void *copy;

    l->m->dense_bytes += t->bytes;
    if (t->data && (uintptr_t)t->data % dtype_size(t->dtype) == 0) {
        tensors_will_need(t);
        *ret = t->data;
        return 0;
    }
    copy = keep(l, t->bytes, t->name);
    if (!copy)
        return MT_ENOMEM;
    tensors_read(l->tensors, t, copy);
    *ret = copy;
    return 0;
}

static int load_matrix(struct loader *l, const char *format, uint32_t layer, uint32_t rows,
                       uint32_t cols, struct weight *ret)
{
    char name[NAME_BYTES];
    struct tensor t;
    int rc;

    snprintf(name, sizeof name, format, layer);
    rc = tensors_find(l->tensors, name, TENSORS_ANY, 2, (uint64_t[]){rows, cols}, &t, l->err);
    if (rc)
        return rc;
    *ret = (struct weight){.dtype = t.dtype, .rows = rows, .cols = cols};
    return load_dense(l, &t, &ret->data);
}

static int load_norm(struct loader *l, const char *format, uint32_t layer, const void **ret,
                     enum dtype *ret_dtype)
{
    char name[NAME_BYTES];
    struct tensor t;
    int rc;

    snprintf(name, sizeof name, format, layer);
    rc = tensors_find(l->tensors, name, TENSORS_ANY, 1, (uint64_t[]){l->c->hidden}, &t, l->err);
    if (rc)
        return rc;
    *ret_dtype = t.dtype;
    return load_dense(l, &t, ret);
}

/* --- dense --------------------------------------------------------------------------------- */

static int load_layer(struct loader *l, uint32_t layer)
{
    const struct model_config *c = l->c;
    const struct family_names *n = l->names;
    struct layer_weights *w = l->m->layer + layer;
    uint32_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    int rc = load_norm(l, n->attn_norm, layer, &w->attn_norm, &w->attn_norm_dtype);

    if (!rc)
        rc = load_norm(l, n->ffn_norm, layer, &w->ffn_norm, &w->ffn_norm_dtype);
    if (!rc)
        rc = load_matrix(l, n->q, layer, q, c->hidden, &w->q);
    if (!rc)
        rc = load_matrix(l, n->k, layer, kv, c->hidden, &w->k);
    if (!rc)
        rc = load_matrix(l, n->v, layer, kv, c->hidden, &w->v);
    if (!rc)
        rc = load_matrix(l, n->o, layer, c->hidden, q, &w->o);
    if (!rc)
        rc = load_matrix(l, n->router, layer, c->router.experts, c->hidden, &w->router);
    return rc;
}

static int load_ends(struct loader *l)
{
    struct model *m = l->m;
    int rc = load_matrix(l, l->names->embed, 0, l->c->vocab, l->c->hidden, &m->embed);

    if (!rc)
        rc = load_norm(l, l->names->final_norm, 0, &m->final_norm, &m->final_norm_dtype);
    if (!rc && l->c->tied)
        m->head = m->embed;
    else if (!rc)
        rc = load_matrix(l, l->names->head, 0, l->c->vocab, l->c->hidden, &m->head);
    return rc;
}

/* Frequencies and angles are float32, as the reference implementation computes them: at position
 * 100,000 an angle's rounding alone is 0.004. Powers, sines and cosines are those of double,
 * rounded once, so that the table does not depend on the C library's float functions. */
static int make_rope(struct loader *l)
{
    const struct model_config *c = l->c;
    uint32_t half = c->rope_dims / 2;
    size_t bytes = (size_t)c->max_positions * half * sizeof(float);
    float *cosines = keep(l, bytes, "the rope table");
    float *sines = cosines ? keep(l, bytes, "the rope table") : NULL;
    float frequency[MODEL_MAX_HEAD_DIM / 2];

    if (!sines)
        return MT_ENOMEM;
    for (uint32_t i = 0; i < half; i++)
        frequency[i] = 1.0f / (float)pow(c->rope_theta, (float)(2 * i) / (float)c->rope_dims);
    for (uint32_t p = 0; p < c->max_positions; p++)
        for (uint32_t i = 0; i < half; i++) {
            float angle = (float)p * frequency[i];

            cosines[(size_t)p * half + i] = (float)cos(angle);
            sines[(size_t)p * half + i] = (float)sin(angle);
        }
    l->m->rope = (struct rope){.cos = cosines, .sin = sines, .dims = c->rope_dims};
    return 0;
}

/* --- experts ------------------------------------------------------------------------------- */

/* The parts of an expert in the order in which a slot packs them. */
static int find_expert(const struct loader *l, unsigned dtypes, uint32_t layer, uint32_t expert,
                       char names[EXPERT_PARTS][NAME_BYTES], struct tensor ret[EXPERT_PARTS])
{
    const char *const formats[EXPERT_PARTS] = {l->names->expert_gate, l->names->expert_up,
                                               l->names->expert_down};
    const uint64_t in[] = {l->c->inter, l->c->hidden}, out[] = {l->c->hidden, l->c->inter};

    for (unsigned i = 0; i < EXPERT_PARTS; i++) {
        int rc;

        snprintf(names[i], NAME_BYTES, formats[i], layer, expert);
        rc = tensors_find(l->tensors, names[i], dtypes, 2, i < 2 ? in : out, ret + i, l->err);
        if (rc)
            return rc;
        dtypes = TENSORS_ONLY(ret[0].dtype);
    }
    return 0;
}

/* All experts, held or not, must be there in one shape and dtype: slots are of one size on all
 * ranks and experts will move between them. Reads headers only. */
static int check_experts(struct loader *l, enum dtype *ret)
{
    char names[EXPERT_PARTS][NAME_BYTES];
    struct tensor parts[EXPERT_PARTS] = {0};
    unsigned dtypes = TENSORS_ANY;

    for (uint32_t layer = 0; layer < l->c->layers; layer++)
        for (uint32_t e = 0; e < l->c->router.experts; e++) {
            int rc = find_expert(l, dtypes, layer, e, names, parts);

            if (rc)
                return rc;
            dtypes = TENSORS_ONLY(parts[0].dtype);
        }
    *ret = parts[0].dtype;
    return 0;
}

/* What one thread of the loading fills. */
struct filling {
    struct loader l;     /* with an error of its own */
    const int32_t *held; /* [layers][slots] */
    char *base;          /* the first slot of all */
    uint32_t slots;      /* of a layer */
    uint32_t begin, end; /* slots, numbered through all layers */
    uint64_t bytes;      /* of the experts in them */
    struct mt_err err;
    int rc;
    pthread_t id;
    bool started;
};

static int fill_slot(struct filling *f, uint32_t layer, int32_t expert, char *slot)
{
    struct loader *l = &f->l;
    char names[EXPERT_PARTS][NAME_BYTES];
    struct tensor parts[EXPERT_PARTS];
    size_t at = 0, stride = l->m->layer[layer].pool.stride;
    int rc = 0;

    if (expert >= 0)
        rc = find_expert(l, TENSORS_ANY, layer, (uint32_t)expert, names, parts);
    if (rc)
        return rc;
    for (unsigned i = 0; expert >= 0 && i < EXPERT_PARTS; i++) {
        tensors_read(l->tensors, parts + i, slot + at);
        tensors_done_with(parts + i);
        at += parts[i].bytes;
    }
    memset(slot + at, 0, stride - at);
    f->bytes += at;
    return 0;
}

static void *fill_slots(void *argument)
{
    struct filling *f = argument;

    f->l.err = &f->err;
    for (uint32_t s = f->begin; s < f->end && !f->rc; s++)
        f->rc = fill_slot(f, s / f->slots, f->held[s],
                          f->base + s * f->l.m->layer[s / f->slots].pool.stride);
    return NULL;
}

/* All slots, by as many threads as the kernels have. A thread that cannot be started leaves its
 * share to this one. */
static int fill_all(struct loader *l, const int32_t *held, char *base, uint32_t slots)
{
    const uint64_t total = (uint64_t)slots * l->c->layers;
    const unsigned threads = l->k->threads;
    struct filling *f = calloc(threads, sizeof *f);
    int rc = 0;

    if (!f)
        return mt_error(l->err, MT_ENOMEM, "no memory for %u loading threads", threads);
    for (unsigned i = threads; i-- > 0;) {
        f[i] = (struct filling){.l = *l,
                                .held = held,
                                .base = base,
                                .slots = slots,
                                .begin = (uint32_t)(total * i / threads),
                                .end = (uint32_t)(total * (i + 1) / threads)};
        f[i].started = i && !pthread_create(&f[i].id, NULL, fill_slots, f + i);
        if (!f[i].started)
            fill_slots(f + i);
    }
    for (unsigned i = 0; i < threads; i++) {
        if (f[i].started)
            pthread_join(f[i].id, NULL);
        l->m->held_bytes += f[i].bytes;
        if (f[i].rc && !rc) {
            rc = f[i].rc;
            if (l->err)
                *l->err = f[i].err;
        }
    }
    free(f);
    return rc;
}

static int load_experts(struct loader *l, const int32_t *held, uint32_t slots)
{
    struct model *m = l->m;
    enum dtype dtype = DTYPE_F32;
    size_t stride, bytes;
    char *base = NULL;
    int rc = check_experts(l, &dtype);

    if (rc)
        return rc;
    m->expert_bytes = (uint64_t)EXPERT_PARTS * l->c->hidden * l->c->inter * dtype_size(dtype);
    stride = (m->expert_bytes + SLOT_ALIGN - 1) / SLOT_ALIGN * SLOT_ALIGN;
    if (__builtin_mul_overflow(stride, (size_t)slots * l->c->layers, &bytes))
        return mt_error(l->err, MT_ELIMIT, "expert slots: %u in %u layers of %zu bytes overflow",
                        slots, l->c->layers, stride);
    if (bytes) {
        base = keep(l, bytes, "the expert slots");
        if (!base)
            return MT_ENOMEM;
    }
    for (uint32_t layer = 0; layer < l->c->layers; layer++)
        m->layer[layer].pool = (struct expert_pool){
            .base = base ? base + (size_t)layer * slots * stride : NULL,
            .stride = stride,
            .dtype = dtype,
            .slots = slots,
            .hidden = l->c->hidden,
            .inter = l->c->inter,
        };
    return fill_all(l, held, base, slots);
}

/* --- the whole ----------------------------------------------------------------------------- */

static int check_held(const struct model_config *c, const int32_t *held, uint32_t slots,
                      struct mt_err *reterr)
{
    for (uint32_t layer = 0; layer < c->layers; layer++) {
        bool seen[MODEL_MAX_EXPERTS] = {false};

        for (uint32_t s = 0; s < slots; s++) {
            int32_t e = held[(size_t)layer * slots + s];

            if (e < -1 || e >= (int32_t)c->router.experts)
                return mt_error(reterr, MT_EINVAL,
                                "layer %u, slot %u: expected an expert below %u or -1, found %d",
                                layer, s, c->router.experts, e);
            if (e >= 0 && seen[e])
                return mt_error(reterr, MT_EINVAL, "layer %u, slot %u: expert %d is there twice",
                                layer, s, e);
            if (e >= 0)
                seen[e] = true;
        }
    }
    return 0;
}

static int load_all(struct loader *l, const int32_t *held, uint32_t slots)
{
    int rc = load_ends(l);

    for (uint32_t layer = 0; layer < l->c->layers && !rc; layer++)
        rc = load_layer(l, layer);
    if (!rc)
        rc = make_rope(l);
    if (!rc)
        rc = load_experts(l, held, slots);
    return rc;
}

int model_load_from(struct tensors *source, const struct model_config *config, struct kernels *k,
                    const int32_t *held, uint32_t slots, struct model **ret, struct mt_err *reterr)
{
    const struct family *family = family_find(config->family);
    struct loader l = {.c = config, .tensors = source, .k = k, .err = reterr};
    int rc;

    if (!family)
        return mt_error(reterr, MT_EUNSUPPORTED, "expected a known family (%s), found \"%s\"",
                        family_list(), config->family);
    rc = check_held(config, held, slots, reterr);
    if (rc)
        return rc;
    l.names = &family->names;
    l.m = calloc(1, sizeof *l.m);
    if (l.m)
        l.m->files = calloc(1, sizeof *l.m->files);
    if (!l.m || !l.m->files) {
        free(l.m);
        return mt_error(reterr, MT_ENOMEM, "no memory for a model's tables");
    }
    l.m->config = *config;
    rc = load_all(&l, held, slots);
    if (rc) {
        model_free(l.m, k);
        return rc;
    }
    l.m->files->tensors = source;
    *ret = l.m;
    return 0;
}

int model_load(const struct model_source *source, const struct model_config *config,
               struct kernels *k, const int32_t *held, uint32_t slots, struct model **ret,
               struct mt_err *reterr)
{
    struct tensors *tensors;
    int rc = tensors_open(source, &tensors, reterr);

    if (rc)
        return rc;
    rc = model_load_from(tensors, config, k, held, slots, ret, reterr);
    if (rc)
        tensors_close(tensors);
    return rc;
}

void model_free(struct model *m, struct kernels *k)
{
    if (!m)
        return;
    for (unsigned i = 0; i < m->files->n; i++)
        k->op->free(k, m->files->kept[i].memory, m->files->kept[i].bytes);
    tensors_close(m->files->tensors);
    free(m->files);
    free(m);
}
