/* The transport of a job of one rank: nothing leaves it. */
#include <stdlib.h>

#include "worker/ep.h"

static const uint32_t self_node[1];

static void self_close(struct ep *ep)
{
    free(ep);
}

static int self_reserve(struct ep *ep, struct mt_err *reterr)
{
    (void)ep, (void)reterr;
    return 0;
}

static int self_post(struct ep *ep, const uint8_t *bytes, size_t len, struct mt_err *reterr)
{
    (void)ep, (void)bytes, (void)len, (void)reterr;
    return 0;
}

static int self_poll(struct ep *ep, struct buf *out, bool *ret_got, struct mt_err *reterr)
{
    (void)ep, (void)out, (void)reterr;
    *ret_got = false;
    return 0;
}

static int self_gather(struct ep *ep, const struct buf *mine, struct buf *all,
                       struct mt_err *reterr)
{
    (void)ep, (void)mine, (void)all, (void)reterr;
    return 0;
}

static int self_begin(struct ep *ep, const uint32_t *rank_tokens, struct mt_err *reterr)
{
    (void)ep, (void)rank_tokens, (void)reterr;
    return 0;
}

static int self_dispatch(struct ep *ep, struct ep_exchange *x, struct mt_err *reterr)
{
    size_t pairs = (size_t)x->n * ep->shape.topk;

    (void)reterr;
    for (size_t i = 0; i < pairs; i++) {
        x->row_slot[i] = x->slot[i];
        x->row_weight[i] = x->weight[i];
    }
    x->rows = x->n;
    return 0;
}

static int self_combine(struct ep *ep, struct ep_exchange *x, struct mt_err *reterr)
{
    (void)ep, (void)x, (void)reterr;
    return 0;
}

static const struct ep_ops self_ops = {
    .name = "self",
    .close = self_close,
    .reserve = self_reserve,
    .post = self_post,
    .poll = self_poll,
    .gather = self_gather,
    .begin = self_begin,
    .dispatch = self_dispatch,
    .combine = self_combine,
};

int ep_open_self(struct ep **ret, struct mt_err *reterr)
{
    struct ep *ep = calloc(1, sizeof *ep);

    if (!ep)
        return mt_error(reterr, MT_ENOMEM, "no memory for the transport");
    *ep = (struct ep){.op = &self_ops, .rank = 0, .ranks = 1, .node = self_node};
    *ret = ep;
    return 0;
}
