#include "placement/relabel.h"

#include <stdlib.h>
#include <string.h>

#include "placement/lp.h"

struct relabel {
    const struct cluster *c;
    const struct plan *from, *plan;
    uint8_t *held; /* [layers][experts][ranks] of the result */
    double *cost;  /* [n][n]: copies that would move if rank i's contents went to rank k */
};

/* The ranks of one node with as many slots as rank g, which is the lowest of them; 0 if it is not.
 */
static uint32_t alike(const struct cluster *c, uint32_t g, uint32_t *ret)
{
    uint32_t n = 0;

    for (uint32_t h = 0; h < c->ranks; h++)
        if (c->node[h] == c->node[g] && c->slots[h] == c->slots[g])
            ret[n++] = h;
    return ret[0] == g ? n : 0;
}

static int assign(struct relabel *r, uint32_t layer, const uint32_t *rank, uint32_t n,
                  struct mt_err *reterr)
{
    uint32_t experts = r->plan->experts, to[PLAN_MAX_RANKS];
    int rc;

    memset(r->cost, 0, (size_t)n * n * sizeof *r->cost);
    for (uint32_t e = 0; e < experts; e++) {
        size_t pair = (size_t)layer * experts + e;

        for (uint32_t i = 0; i < n; i++)
            for (uint32_t k = 0; plan_holds(r->plan, pair, rank[i]) && k < n; k++)
                r->cost[(size_t)i * n + k] += !plan_holds(r->from, pair, rank[k]);
    }
    rc = lp_assign(n, r->cost, to, reterr);
    for (uint32_t e = 0; !rc && e < experts; e++) {
        size_t pair = (size_t)layer * experts + e;

        for (uint32_t i = 0; i < n; i++)
            if (plan_holds(r->plan, pair, rank[i]))
                r->held[pair * r->c->ranks + rank[to[i]]] = 1;
    }
    return rc;
}

int relabel_plan(const struct cluster *c, const struct plan *from, const struct plan *plan,
                 struct plan *ret, struct mt_err *reterr)
{
    size_t pairs = (size_t)plan->layers * plan->experts;
    struct relabel r = {c, from, plan, calloc(pairs, c->ranks),
                        calloc((size_t)c->ranks * c->ranks, sizeof *r.cost)};
    int rc = 0;

    if (!r.held || !r.cost)
        rc = mt_error(reterr, MT_ENOMEM, "relabel: no memory for %zu pairs", pairs);
    for (uint32_t l = 0; !rc && l < plan->layers; l++)
        for (uint32_t g = 0; !rc && g < c->ranks; g++) {
            uint32_t rank[PLAN_MAX_RANKS], n = alike(c, g, rank);

            if (n)
                rc = assign(&r, l, rank, n, reterr);
        }
    if (!rc)
        rc = plan_from_held(plan->layers, plan->experts, c->ranks, r.held, ret, reterr);
    free(r.held);
    free(r.cost);
    return rc;
}
