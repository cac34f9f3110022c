/* What every method and evaluation may rely on. */
#include <math.h>
#include <string.h>

#include "placement/placement.h"

#define SHARE_SLACK 1e-6 /* of the scenarios' shares */
#define LOAD_SLACK 1e-3  /* of a layer's loads, relative */
#define SPLIT_SLACK 1e-3 /* of an expert's split fractions, which are floats */

static int check_shape(const struct place_problem *p, struct mt_err *reterr)
{
    const struct {
        const char *field;
        uint32_t value, min, max;
    } rows[] = {
        {"layers", p->layers, 1, PLACE_MAX_LAYERS},
        {"experts", p->experts, 1, PLACE_MAX_EXPERTS},
        {"topk", p->topk, 1, p->experts < TRACE_MAX_TOPK ? p->experts : TRACE_MAX_TOPK},
        {"scenarios", p->scenarios, 1, PLACE_MAX_SCENARIOS},
        {"semantics", (uint32_t)p->semantics, PLACE_HOME, PLACE_FLOW},
        {"homes", (uint32_t)p->homes, PLACE_HOMES_LOAD, PLACE_HOMES_AFFINITY},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].value < rows[i].min || rows[i].value > rows[i].max)
            return mt_error(reterr, MT_EINVAL, "problem: %s: expected %u to %u, found %u",
                            rows[i].field, rows[i].min, rows[i].max, rows[i].value);
    return 0;
}

static int check_numbers(const struct place_problem *p, struct mt_err *reterr)
{
    if (!isfinite(p->horizon) || p->horizon < 0)
        return mt_error(reterr, MT_EINVAL, "problem: horizon: expected tokens, 0 or more, found %g",
                        p->horizon);
    if (!(p->prompt_fraction > 0 && p->prompt_fraction <= 1))
        return mt_error(reterr, MT_EINVAL,
                        "problem: prompt_fraction: expected more than 0, at most 1, found %g",
                        p->prompt_fraction);
    if (!isfinite(p->home_slack) || p->home_slack < 0)
        return mt_error(reterr, MT_EINVAL, "problem: home_slack: expected 0 or more, found %g",
                        p->home_slack);
    return 0;
}

static int check_slots(const struct place_problem *p, struct mt_err *reterr)
{
    uint64_t slots = cluster_slots(&p->cluster);

    if (slots < p->experts)
        return mt_error(reterr, MT_EINVAL,
                        "cluster: slots: expected at least %u over all ranks, one for each expert "
                        "of a layer, found %llu",
                        p->experts, (unsigned long long)slots);
    return 0;
}

static int check_loads(const struct place_problem *p, const struct place_scenario *s,
                       struct mt_err *reterr)
{
    if (!s->load)
        return mt_error(reterr, MT_EINVAL, "scenario %s: load: expected an array, found none",
                        s->name);
    for (uint32_t l = 0; l < p->layers; l++) {
        const double *load = s->load + (size_t)l * p->experts;
        double sum = 0;

        for (uint32_t e = 0; e < p->experts; e++) {
            if (!isfinite(load[e]) || load[e] < 0)
                return mt_error(reterr, MT_EINVAL,
                                "scenario %s: load: layer %u, expert %u: expected 0 or more, "
                                "found %g",
                                s->name, l, e, load[e]);
            sum += load[e];
        }
        if (!(fabs(sum - p->topk) <= LOAD_SLACK * p->topk))
            return mt_error(reterr, MT_EINVAL,
                            "scenario %s: load: layer %u: expected a sum of %u choices per token, "
                            "found %g",
                            s->name, l, p->topk, sum);
    }
    return 0;
}

static int check_scenario(const struct place_problem *p, const struct place_scenario *s,
                          struct mt_err *reterr)
{
    const struct trace *t = s->trace;

    if (!memchr(s->name, 0, sizeof s->name))
        return mt_error(reterr, MT_EINVAL, "scenario %.20s...: name: expected at most %d bytes",
                        s->name, TRACE_NAME - 1);
    if ((unsigned)s->phase > PLACE_DECODE)
        return mt_error(reterr, MT_EINVAL, "scenario %s: phase: expected %d or %d, found %d",
                        s->name, PLACE_PREFILL, PLACE_DECODE, (int)s->phase);
    if (!(s->share >= 0 && s->share <= 1 + SHARE_SLACK))
        return mt_error(reterr, MT_EINVAL, "scenario %s: share: expected 0 to 1, found %g", s->name,
                        s->share);
    if (s->tokens < 1 || s->tokens > TRACE_MAX_TOKENS)
        return mt_error(reterr, MT_EINVAL,
                        "scenario %s: tokens: expected 1 to %u in a step, found %u", s->name,
                        TRACE_MAX_TOKENS, s->tokens);
    if (t && (t->layers != p->layers || t->experts != p->experts || t->topk != p->topk))
        return mt_error(reterr, MT_EINVAL,
                        "scenario %s: trace: expected %u layers, %u experts, top-%u; found %u "
                        "layers, %u experts, top-%u",
                        s->name, p->layers, p->experts, p->topk, t->layers, t->experts, t->topk);
    if (t && (!t->tokens || !t->documents))
        return mt_error(reterr, MT_EINVAL, "scenario %s: trace: expected tokens, found none",
                        s->name);
    return check_loads(p, s, reterr);
}

static int check_scenarios(const struct place_problem *p, struct mt_err *reterr)
{
    double sum = 0;

    for (uint32_t s = 0; s < p->scenarios; s++) {
        int rc = check_scenario(p, &p->scenario[s], reterr);

        if (rc)
            return rc;
        sum += p->scenario[s].share;
    }
    if (!(fabs(sum - 1) <= SHARE_SLACK))
        return mt_error(reterr, MT_EINVAL, "scenarios: share: expected a sum of 1, found %.9g",
                        sum);
    return 0;
}

int place_check(const struct place_problem *p, struct mt_err *reterr)
{
    int rc = check_shape(p, reterr);

    if (!rc)
        rc = check_numbers(p, reterr);
    if (!rc)
        rc = cluster_check(&p->cluster, reterr);
    if (!rc)
        rc = check_slots(p, reterr);
    if (!rc)
        rc = check_scenarios(p, reterr);
    if (!rc && p->from) {
        rc = place_fits(p, p->from, reterr);
        if (rc)
            mt_error_prefix(reterr, "from");
    }
    return rc;
}

/* The copies of one expert, counted into held[ranks]. */
static int check_copies(const struct plan *plan, size_t pair, uint32_t *held, struct mt_err *reterr)
{
    size_t layer = pair / plan->experts, expert = pair % plan->experts;
    uint32_t first = plan->start[pair], end = plan->start[pair + 1];
    double sum = 0;

    if (end <= first)
        return mt_error(reterr, MT_EINVAL,
                        "placement: layer %zu, expert %zu: expected a copy, found none", layer,
                        expert);
    for (uint32_t i = first; i < end; i++) {
        if (plan->rank[i] >= plan->ranks)
            return mt_error(reterr, MT_EINVAL,
                            "placement: layer %zu, expert %zu: expected a rank below %u, found %u",
                            layer, expert, plan->ranks, plan->rank[i]);
        for (uint32_t k = first; k < i; k++)
            if (plan->rank[k] == plan->rank[i])
                return mt_error(reterr, MT_EINVAL,
                                "placement: layer %zu, expert %zu: expected distinct ranks, found "
                                "rank %u twice",
                                layer, expert, plan->rank[i]);
        held[plan->rank[i]]++;
        if (plan->share && !(plan->share[i] >= 0))
            return mt_error(reterr, MT_EINVAL,
                            "placement: layer %zu, expert %zu: split: expected 0 or more, found %g",
                            layer, expert, (double)plan->share[i]);
        sum += plan->share ? (double)plan->share[i] : 0;
    }
    if (plan->share && !(fabs(sum - 1) <= SPLIT_SLACK))
        return mt_error(reterr, MT_EINVAL,
                        "placement: layer %zu, expert %zu: split: expected a sum of 1, found %g",
                        layer, expert, sum);
    return 0;
}

int place_fits(const struct place_problem *p, const struct plan *plan, struct mt_err *reterr)
{
    const struct cluster *c = &p->cluster;
    int rc = plan_check(plan, p->layers, p->experts, c->ranks, reterr);

    for (uint32_t l = 0; !rc && l < plan->layers; l++) {
        uint32_t held[PLAN_MAX_RANKS] = {0};

        for (uint32_t e = 0; !rc && e < plan->experts; e++)
            rc = check_copies(plan, (size_t)l * plan->experts + e, held, reterr);
        for (uint32_t r = 0; !rc && r < plan->ranks; r++)
            if (held[r] > c->slots[r])
                rc = mt_error(reterr, MT_EINVAL,
                              "placement: layer %u, rank %u: expected at most %u copies, its "
                              "slots; found %u",
                              l, r, c->slots[r], held[r]);
    }
    return rc;
}

void place_result_done(struct place_result *r)
{
    if (!r)
        return;
    plan_done(&r->plan);
    *r = (struct place_result){0};
}
