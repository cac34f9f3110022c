/* Placements that look at no load: contiguous and random. Spare slots stay empty. */
#include <stdlib.h>

#include "placement/baseline.h"
#include "placement/methods.h"
#include "placement/random.h"

/* One copy of each expert: order[layers][experts] laid out rank by rank; NULL: by number. */
static int plan_in_order(const struct place_problem *p, const uint16_t *order, struct plan *ret,
                         struct mt_err *reterr)
{
    size_t pairs = (size_t)p->layers * p->experts, at = 0;
    uint32_t size[PLAN_MAX_RANKS];
    struct plan plan;
    int rc = baseline_sizes(p, size, reterr);

    if (!rc)
        rc = plan_contiguous(p->layers, p->experts, p->cluster.ranks, &plan, reterr);
    if (rc)
        return rc;
    while (at < pairs)
        for (uint32_t r = 0; r < p->cluster.ranks; r++)
            for (uint32_t i = 0; i < size[r]; i++, at++) {
                size_t layer = at / p->experts * p->experts;

                plan.rank[order ? layer + order[at] : at] = (uint16_t)r;
            }
    *ret = plan;
    return 0;
}

int contiguous_solve(const struct place_problem *p, const struct place_run *run,
                     struct place_result *ret, struct mt_err *reterr)
{
    struct plan plan;
    int rc = plan_in_order(p, NULL, &plan, reterr);

    (void)run;
    return rc ? rc : baseline_result(p, &plan, "contiguous", NULL, ret, reterr);
}

int random_solve(const struct place_problem *p, const struct place_run *run,
                 struct place_result *ret, struct mt_err *reterr)
{
    struct random random = {run->seed};
    uint16_t *order = calloc((size_t)p->layers * p->experts, sizeof *order);
    struct plan plan;
    int rc;

    if (!order)
        return mt_error(reterr, MT_ENOMEM, "placement: no memory for an order of experts");
    for (uint32_t l = 0; l < p->layers; l++) {
        uint16_t *o = order + (size_t)l * p->experts;

        for (uint32_t e = 0; e < p->experts; e++) { /* inside-out Fisher-Yates */
            uint32_t at = random_below(&random, e + 1);

            o[e] = o[at];
            o[at] = (uint16_t)e;
        }
    }
    rc = plan_in_order(p, order, &plan, reterr);
    free(order);
    return rc ? rc : baseline_result(p, &plan, "random", NULL, ret, reterr);
}
