#include "worker/forward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/moe.h"

struct forward {
    struct kernels *k;
    const struct model *model;
    struct ep *ep;
    const struct kvcache *kv;
    struct moe *moe;
    float *memory; /* the arrays below */
    size_t bytes;
    float *h;      /* [max_tokens][hidden] residual stream */
    float *q;      /* [max_tokens][heads*head_dim] */
    float *key;    /* [max_tokens][kv_heads*head_dim] */
    float *value;  /* [max_tokens][kv_heads*head_dim] */
    float *att;    /* [max_tokens][heads*head_dim] */
    float *norm;   /* [max_tokens][hidden] attention's input */
    float *last;   /* [FORWARD_LOGIT_ROWS][hidden] */
    float *logits; /* [FORWARD_LOGIT_ROWS][vocab] */
    void (*moved)(void *user);
    void *user;
};

static bool forward_reserve(struct forward *f)
{
    const struct model_config *c = &f->model->config;
    size_t tokens = f->ep->shape.max_tokens, q = (size_t)c->heads * c->head_dim,
           kv = (size_t)c->kv_heads * c->head_dim;
    struct {
        float **at;
        size_t floats;
    } part[] = {
        {&f->h, tokens * c->hidden},
        {&f->q, tokens * q},
        {&f->key, tokens * kv},
        {&f->value, tokens * kv},
        {&f->att, tokens * q},
        {&f->norm, tokens * c->hidden},
        {&f->last, (size_t)FORWARD_LOGIT_ROWS * c->hidden},
        {&f->logits, (size_t)FORWARD_LOGIT_ROWS * c->vocab},
    };
    size_t at = 0, floats = 0;

    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        floats += (part[i].floats + 15) & ~(size_t)15;
    f->bytes = floats * sizeof(float);
    f->memory = f->k->op->alloc(f->k, f->bytes);
    for (size_t i = 0; f->memory && i < sizeof part / sizeof *part; i++) {
        *part[i].at = f->memory + at;
        at += (part[i].floats + 15) & ~(size_t)15;
    }
    return f->memory;
}

int forward_open(struct kernels *k, struct ep *ep, const struct model *model,
                 const struct kvcache *kv, struct forward **ret, struct mt_err *reterr)
{
    struct forward *f = calloc(1, sizeof *f);
    int rc;

    if (!f)
        return mt_error(reterr, MT_ENOMEM, "no memory for the forward pass");
    f->k = k;
    f->ep = ep;
    f->model = model;
    f->kv = kv;
    rc = moe_open(k, ep, model, &f->moe, reterr);
    if (!rc && !forward_reserve(f))
        rc = mt_error(reterr, MT_ENOMEM,
                      "no memory for %zu MiB of activations: lower --step-tokens", f->bytes >> 20);
    if (rc) {
        forward_close(f);
        return rc;
    }
    *ret = f;
    return 0;
}

void forward_close(struct forward *f)
{
    if (!f)
        return;
    moe_close(f->moe);
    if (f->memory)
        f->k->op->free(f->k, f->memory, f->bytes);
    free(f);
}

void forward_watch(struct forward *f, void (*moved)(void *user), void *user)
{
    f->moved = moved;
    f->user = user;
}

/* h += attention(norm(h)) */
static void forward_attention(struct forward *f, uint32_t layer, const struct kernel_rows *rows)
{
    const struct model_config *c = &f->model->config;
    const struct layer_weights *w = f->model->layer + layer;
    const struct kernels_ops *op = f->k->op;
    size_t q_stride = (size_t)c->heads * c->head_dim, kv_stride = (size_t)c->kv_heads * c->head_dim;
    uint32_t n = rows->n;

    op->rmsnorm(f->k, f->norm, f->h, w->attn_norm, w->attn_norm_dtype, c->rms_eps, n, c->hidden);
    op->matmuls(f->k, (float *const[]){f->q, f->key, f->value}, f->norm,
                (const struct weight *const[]){&w->q, &w->k, &w->v}, 3, n);
    op->rope(f->k, f->q, q_stride, &f->model->rope, rows->pos, n, c->heads, c->head_dim);
    op->rope(f->k, f->key, kv_stride, &f->model->rope, rows->pos, n, c->kv_heads, c->head_dim);
    op->kv_write(f->k, f->kv->layer + layer, f->key, f->value, kv_stride, rows);
    op->attention(f->k, f->att, f->q, q_stride, f->kv->layer + layer, rows, c->heads,
                  1.0f / sqrtf((float)c->head_dim), c->window);
    op->matmul(f->k, f->h, f->att, &w->o, n, true);
}

int forward_run(struct forward *f, const struct expert_map *map, const int32_t *ids,
                const struct kernel_rows *rows, uint64_t *ret_wait_ns, struct mt_err *reterr)
{
    const struct model_config *c = &f->model->config;
    const struct kernels_ops *op = f->k->op;
    uint64_t wait_ns = 0;

    if (rows->n)
        op->embed(f->k, f->h, &f->model->embed, ids, rows->n);
    for (uint32_t l = 0; l < c->layers; l++) {
        const struct layer_weights *w = f->model->layer + l;
        int rc;

        if (rows->n) {
            forward_attention(f, l, rows);
            op->rmsnorm(f->k, moe_input(f->moe), f->h, w->ffn_norm, w->ffn_norm_dtype, c->rms_eps,
                        rows->n, c->hidden);
        }
        rc = moe_run(f->moe, l, map, f->h, rows->n, rows->pos, &wait_ns, reterr);
        if (rc)
            return rc;
        if (f->moved)
            f->moved(f->user);
    }
    *ret_wait_ns = wait_ns;
    return op->sync(f->k, reterr);
}

const float *forward_logits(struct forward *f, const uint32_t *row, uint32_t n)
{
    const struct model *m = f->model;

    for (uint32_t i = 0; i < n; i++)
        memcpy(f->last + (size_t)i * m->config.hidden, f->h + (size_t)row[i] * m->config.hidden,
               m->config.hidden * sizeof *f->h);
    f->k->op->rmsnorm(f->k, f->last, f->last, m->final_norm, m->final_norm_dtype, m->config.rms_eps,
                      n, m->config.hidden);
    f->k->op->matmul(f->k, f->logits, f->last, &m->head, n, false);
    return f->logits;
}
