#include "placement/baseline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement/score.h"

int baseline_loads(const struct place_problem *p, double **ret, struct mt_err *reterr)
{
    size_t pairs = (size_t)p->layers * p->experts;
    double *load = calloc(pairs, sizeof *load);

    if (!load)
        return mt_error(reterr, MT_ENOMEM, "placement: no memory for loads");
    for (uint32_t s = 0; s < p->scenarios; s++)
        for (size_t i = 0; i < pairs; i++)
            load[i] += p->scenario[s].share * p->scenario[s].load[i];
    *ret = load;
    return 0;
}

/* Contiguous blocks of e * ranks / experts where they fit; otherwise one expert at a time to the
 * emptiest rank with room. */
int baseline_sizes(const struct place_problem *p, uint32_t *ret, struct mt_err *reterr)
{
    const struct cluster *c = &p->cluster;
    uint32_t size[PLAN_MAX_RANKS] = {0};
    bool fits = true;

    for (uint32_t e = 0; e < p->experts; e++)
        size[(uint64_t)e * c->ranks / p->experts]++;
    for (uint32_t r = 0; r < c->ranks; r++)
        fits = fits && size[r] <= c->slots[r];
    if (!fits) {
        memset(size, 0, sizeof size);
        for (uint32_t e = 0; e < p->experts; e++) {
            uint32_t best = UINT32_MAX;

            for (uint32_t r = 0; r < c->ranks; r++)
                if (size[r] < c->slots[r] && (best == UINT32_MAX || size[r] < size[best]))
                    best = r;
            if (best == UINT32_MAX)
                return mt_error(reterr, MT_EINVAL,
                                "placement: expected slots for %u experts in each layer, found %u",
                                p->experts, e);
            size[best]++;
        }
    }
    memcpy(ret, size, c->ranks * sizeof *ret);
    return 0;
}

int baseline_result(const struct place_problem *p, struct plan *plan, const char *method,
                    const char *note, struct place_result *ret, struct mt_err *reterr)
{
    struct score score;
    int rc = score_plan(p, plan, SCORE_FLUID, &score, reterr);

    if (rc) {
        plan_done(plan);
        return rc;
    }
    *ret = (struct place_result){.plan = *plan,
                                 .method = method,
                                 .objective = score.j,
                                 .no_bound = "the method gives no bound"};
    if (note)
        snprintf(ret->note, sizeof ret->note, "%s", note);
    *plan = (struct plan){0};
    return 0;
}
