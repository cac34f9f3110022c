/* Memory: a rank may be asked to serve every pair of every token of a step, so the result buffer is
 * ranks * max_tokens * topk * hidden floats. That is the price of capacities that are never
 * exceeded; --step-tokens bounds it. */
#include "worker/moe.h"

#include <stdlib.h>
#include <string.h>

struct moe {
    struct kernels *k;
    struct ep *ep;
    const struct model *model;
    struct ep_exchange x;
    size_t max_rows;
    float *logits;      /* [max_tokens][experts] */
    int32_t *ids;       /* [max_tokens][topk] */
    float *weights;     /* [max_tokens][topk] */
    uint16_t *rank;     /* [max_tokens][topk] */
    int32_t *slot;      /* [max_tokens][topk] */
    uint32_t *offsets;  /* [slots + 1] */
    uint32_t *fill;     /* [slots] */
    uint32_t *pair_row; /* [max_rows*topk] */
    uint32_t *pair_out; /* [max_rows*topk] */
    size_t x_bytes, y_bytes, partial_bytes;
};

static bool moe_reserve(struct moe *m)
{
    const struct ep_shape *s = &m->ep->shape;
    const struct router *router = &m->model->config.router;
    size_t tokens = s->max_tokens, pairs = tokens * s->topk, rows = m->max_rows,
           served = rows * s->topk;
    uint32_t slots = m->model->layer[0].pool.slots;

    m->x_bytes = rows * s->hidden * sizeof(float);
    m->y_bytes = served * s->hidden * sizeof(float);
    m->partial_bytes = s->numerics == NUMERICS_FAST ? rows * s->hidden * sizeof(float) : 0;
    m->x.x = m->k->op->alloc(m->k, m->x_bytes);
    m->x.y = m->k->op->alloc(m->k, m->y_bytes);
    m->x.partial = m->partial_bytes ? m->k->op->alloc(m->k, m->partial_bytes) : NULL;
    m->x.row_slot = malloc(served * sizeof *m->x.row_slot);
    m->x.row_weight = malloc(served * sizeof *m->x.row_weight);
    m->logits = malloc(tokens * router->experts * sizeof *m->logits);
    m->ids = malloc(pairs * sizeof *m->ids);
    m->weights = malloc(pairs * sizeof *m->weights);
    m->rank = malloc(pairs * sizeof *m->rank);
    m->slot = malloc(pairs * sizeof *m->slot);
    m->offsets = malloc((slots + 1) * sizeof *m->offsets);
    m->fill = malloc((slots + 1) * sizeof *m->fill);
    m->pair_row = malloc(served * sizeof *m->pair_row);
    m->pair_out = malloc(served * sizeof *m->pair_out);
    return m->x.x && m->x.y && (m->x.partial || !m->partial_bytes) && m->x.row_slot &&
           m->x.row_weight && m->logits && m->ids && m->weights && m->rank && m->slot &&
           m->offsets && m->fill && m->pair_row && m->pair_out;
}

int moe_open(struct kernels *k, struct ep *ep, const struct model *model, struct moe **ret,
             struct mt_err *reterr)
{
    struct moe *m = calloc(1, sizeof *m);

    if (!m)
        return mt_error(reterr, MT_ENOMEM, "no memory for the expert exchange");
    m->k = k;
    m->ep = ep;
    m->model = model;
    m->max_rows = ep_max_rows(ep);
    if (!moe_reserve(m)) {
        size_t mib = (m->x_bytes + m->y_bytes + m->partial_bytes) >> 20;
        moe_close(m);
        return mt_error(
            reterr, MT_ENOMEM,
            "no memory for an expert exchange of %zu MiB (%u ranks x %u tokens x top-%u "
            "x %u): lower --step-tokens",
            mib, ep->ranks, ep->shape.max_tokens, ep->shape.topk, ep->shape.hidden);
    }
    *ret = m;
    return 0;
}

void moe_close(struct moe *m)
{
    if (!m)
        return;
    m->k->op->free(m->k, m->x.x, m->x_bytes);
    m->k->op->free(m->k, m->x.y, m->y_bytes);
    m->k->op->free(m->k, m->x.partial, m->partial_bytes);
    free(m->x.row_slot);
    free(m->x.row_weight);
    free(m->logits);
    free(m->ids);
    free(m->weights);
    free(m->rank);
    free(m->slot);
    free(m->offsets);
    free(m->fill);
    free(m->pair_row);
    free(m->pair_out);
    free(m);
}

float *moe_input(struct moe *m)
{
    return m->x.x;
}

/* Sorts the served pairs by slot (a counting sort, stable in row order) and gives each its place in
 * y: see ep.h for the layout in exact mode; in fast mode it is y[row*topk + j], with zeros where a
 * pair is served elsewhere. */
static void moe_permute(struct moe *m, uint32_t slots)
{
    const struct ep_exchange *x = &m->x;
    uint32_t topk = m->ep->shape.topk, hidden = m->ep->shape.hidden;
    uint32_t pairs = x->rows * topk, received = x->n * topk;
    bool exact = m->ep->shape.numerics == NUMERICS_EXACT;

    memset(m->offsets, 0, (slots + 1) * sizeof *m->offsets);
    for (uint32_t p = 0; p < pairs; p++)
        if (x->row_slot[p] >= 0)
            m->offsets[x->row_slot[p] + 1]++;
    for (uint32_t s = 0; s < slots; s++) {
        m->fill[s] = m->offsets[s];
        m->offsets[s + 1] += m->offsets[s];
    }
    for (uint32_t p = 0; p < pairs; p++) {
        int32_t slot = x->row_slot[p];
        if (slot < 0) {
            if (!exact)
                memset(x->y + (size_t)p * hidden, 0, hidden * sizeof *x->y);
            continue;
        }
        m->pair_row[m->fill[slot]] = p / topk;
        m->pair_out[m->fill[slot]] = exact && p >= x->n * topk ? received++ : p;
        m->fill[slot]++;
    }
}

static int moe_finish(struct moe *m, float *h, struct mt_err *reterr)
{
    struct ep_exchange *x = &m->x;
    uint32_t topk = m->ep->shape.topk, hidden = m->ep->shape.hidden;
    uint32_t received = x->rows - x->n;
    int rc;

    if (m->ep->shape.numerics == NUMERICS_EXACT) {
        rc = m->ep->op->combine(m->ep, x, reterr);
        if (!rc)
            m->k->op->combine(m->k, h, x->y, m->weights, x->n, topk, hidden);
        return rc;
    }
    m->k->op->combine(m->k, h, x->y, x->row_weight, x->n, topk, hidden);
    memset(x->partial, 0, (size_t)received * hidden * sizeof *x->partial);
    m->k->op->combine(m->k, x->partial, x->y + (size_t)x->n * topk * hidden,
                      x->row_weight + (size_t)x->n * topk, received, topk, hidden);
    x->sum = h;
    return m->ep->op->combine(m->ep, x, reterr);
}

int moe_run(struct moe *m, uint32_t layer, const struct expert_map *map, float *h, uint32_t n,
            const uint32_t *positions, uint64_t *wait_ns, struct mt_err *reterr)
{
    const struct layer_weights *w = m->model->layer + layer;
    struct ep_exchange *x = &m->x;
    uint32_t topk = m->ep->shape.topk;
    int rc;

    x->n = n;
    x->rank = m->rank;
    x->slot = m->slot;
    x->weight = m->weights;
    x->wait_ns = 0;
    if (n) {
        m->k->op->matmul(m->k, m->logits, x->x, &w->router, n, false);
        m->k->op->route(m->k, m->ids, m->weights, m->logits, &m->model->config.router, n);
    }
    for (uint32_t i = 0; i < n; i++)
        expert_choose(map, m->ep->node, m->ep->rank, layer, positions[i], m->ids + i * topk, topk,
                      m->rank + i * topk, m->slot + i * topk);
    rc = m->ep->op->dispatch(m->ep, x, reterr);
    if (rc)
        return rc;
    moe_permute(m, w->pool.slots);
    m->k->op->experts(m->k, x->y, x->x, &w->pool, m->offsets, m->pair_row, m->pair_out);
    rc = moe_finish(m, h, reterr);
    *wait_ns += x->wait_ns;
    return rc;
}
