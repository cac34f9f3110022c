#include "worker/ep.h"

int ep_reserve(struct ep *ep, const struct ep_shape *shape, struct mt_err *reterr)
{
    ep->shape = *shape;
    return ep->op->reserve(ep, reterr);
}

void ep_close(struct ep *ep)
{
    if (ep)
        ep->op->close(ep);
}
