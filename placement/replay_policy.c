/* Re-solving on what was seen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement/replay.h"

/* The same copies on the same ranks, split alike. */
static bool same(const struct plan *a, const struct plan *b)
{
    size_t pairs = (size_t)a->layers * a->experts, copies = a->start[pairs];

    return !memcmp(a->start, b->start, (pairs + 1) * sizeof *a->start) &&
           !memcmp(a->rank, b->rank, copies * sizeof *a->rank) && !a->share == !b->share &&
           (!a->share || !memcmp(a->share, b->share, copies * sizeof *a->share));
}

int replay_fit(const struct replay_policy *policy, const struct trace *t, uint32_t tokens,
               const struct plan *from, struct plan *ret, struct mt_err *reterr)
{
    struct place_problem p = *policy->problem;
    struct place_result result = {0};
    double *load = calloc((size_t)p.layers * p.experts, sizeof *load);
    int rc;

    if (!load)
        return mt_error(reterr, MT_ENOMEM, "replay: no memory for the loads of %u layers",
                        p.layers);
    trace_loads(t, load);
    p.scenarios = 1;
    p.scenario[0] = (struct place_scenario){
        .phase = PLACE_DECODE, .share = 1, .tokens = tokens, .trace = t, .load = load};
    snprintf(p.scenario[0].name, sizeof p.scenario[0].name, "%s", t->name);
    p.from = from;
    p.horizon = from ? policy->horizon : 0;
    rc = policy->method->solve(&p, &policy->run, &result, reterr);
    if (!rc) {
        *ret = result.plan;
        result.plan = (struct plan){0};
        place_result_done(&result);
    }
    free(load);
    return rc;
}

int replay_solve(void *user, const struct replay_view *now, struct replay_answer *ret,
                 struct mt_err *reterr)
{
    struct plan plan = {0};
    int rc;

    if (!now->window)
        return 0;
    rc = replay_fit(user, now->window, now->step_tokens, now->plan, &plan, reterr);
    if (rc)
        return rc;
    if (same(now->plan, &plan)) {
        plan_done(&plan);
        return 0;
    }
    ret->change = true;
    ret->plan = plan;
    return 0;
}

int replay_known(void *user, const struct replay_view *now, struct replay_answer *ret,
                 struct mt_err *reterr)
{
    const struct replay_policy *policy = user;
    int rc;

    if (!now->changed)
        return 0;
    rc = plan_copy(&policy->known[now->domain], &ret->plan, reterr);
    if (rc)
        return rc;
    ret->change = ret->free = true;
    return 0;
}
