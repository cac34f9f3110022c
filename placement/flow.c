#include "placement/flow.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/link.h"

/* The counters of one scenario under a plan; independent of what searches count. */
struct flows {
    const struct place_problem *p;
    const struct plan *plan;
    double *m;    /* [layers][ranks][ranks]: pairs from a layer to the next */
    double *load; /* [layers][experts]: tokens */
    double ranks, pairs, tokens;
};

static int flows_make(const struct place_problem *p, const struct plan *plan, struct flows *ret,
                      struct mt_err *reterr)
{
    size_t ranks = p->cluster.ranks;
    struct flows f = {.p = p, .plan = plan};

    f.m = calloc(p->layers * ranks * ranks + 1, sizeof *f.m);
    f.load = calloc((size_t)p->layers * p->experts + 1, sizeof *f.load);
    if (!f.m || !f.load) {
        free(f.m);
        free(f.load);
        return mt_error(reterr, MT_ENOMEM, "flow: no memory for %u layers", p->layers);
    }
    *ret = f;
    return 0;
}

static void flows_done(struct flows *f)
{
    free(f->m);
    free(f->load);
}

static void clear(struct flows *f)
{
    size_t ranks = f->p->cluster.ranks;

    memset(f->m, 0, f->p->layers * ranks * ranks * sizeof *f->m);
    memset(f->load, 0, (size_t)f->p->layers * f->p->experts * sizeof *f->load);
    f->ranks = f->pairs = f->tokens = 0;
}

static uint32_t rank_of(const struct flows *f, uint32_t layer, uint32_t expert)
{
    return f->plan->rank[f->plan->start[(size_t)layer * f->p->experts + expert]];
}

static void add_token(struct flows *f, const struct trace *t, uint32_t token)
{
    uint32_t ranks = f->p->cluster.ranks;

    for (uint32_t l = 0; l < t->layers; l++) {
        const uint16_t *chosen = trace_at(t, token, l);

        for (uint32_t i = 0; i < t->topk; i++) {
            uint32_t from = rank_of(f, l, chosen[i]);
            bool seen = false;

            f->load[(size_t)l * f->p->experts + chosen[i]]++;
            for (uint32_t k = 0; k < i; k++)
                seen = seen || rank_of(f, l, chosen[k]) == from;
            f->ranks += !seen;
            for (uint32_t k = 0; l + 1 < t->layers && k < t->topk; k++) {
                uint32_t to = rank_of(f, l + 1, trace_at(t, token, l + 1)[k]);

                f->m[((size_t)l * ranks + from) * ranks + to]++;
                f->pairs++;
            }
        }
    }
    f->tokens++;
}

/* --- seconds of a step
 * ----------------------------------------------------------------------------- */

/* The busiest rank of a layer. n: tokens of the step; counts are scaled by n / f->tokens. A step
 * that was really taken has the experts it has; one in expectation has each by its chance. */
static void add_compute(const struct flows *f, uint32_t layer, double n, bool taken,
                        struct step_terms *t, struct step_figures *figures, double *loads)
{
    const struct cluster *c = &f->p->cluster;
    double load[PLAN_MAX_RANKS] = {0}, active[PLAN_MAX_RANKS] = {0};
    double worst = 0, most = 0, total = 0, busiest = 0;

    for (uint32_t e = 0; e < f->p->experts; e++) {
        uint32_t g = rank_of(f, layer, e);
        double chosen = f->tokens > 0 ? f->load[(size_t)layer * f->p->experts + e] / f->tokens : 0;

        load[g] += n * chosen;
        if (taken || chosen >= 1)
            active[g] += chosen > 0;
        else
            active[g] += -expm1(n * log1p(-chosen));
    }
    for (uint32_t g = 0; g < c->ranks; g++) {
        worst = fmax(worst, c->token_expert * load[g] + c->active_expert * active[g]);
        most = fmax(most, load[g]);
        busiest = fmax(busiest, active[g]);
        total += load[g];
        loads[(size_t)layer * c->ranks + g] += load[g];
    }
    t->compute += worst;
    figures->load += total > 0 ? most * c->ranks / total : 1;
    figures->active += busiest;
}

static void add_exchange(struct flows *f, uint32_t layer, double n, struct step_terms *t,
                         double *kept)
{
    const struct cluster *c = &f->p->cluster;
    double *m = f->m + (size_t)layer * c->ranks * c->ranks;
    double by = n / (f->tokens * f->p->topk);

    for (uint32_t g = 0; g < c->ranks; g++)
        *kept += m[(size_t)g * c->ranks + g];
    for (size_t i = 0; i < (size_t)c->ranks * c->ranks; i++)
        m[i] *= by;
    t->dispatch += link_seconds(c, m, NULL, c->dispatch_bytes, NULL);
}

/* Adds the step that was counted to *ret (its figures are sums over layers). */
static void add_step(struct flows *f, double n, bool taken, struct step_terms *t,
                     struct step_figures *figures, double *loads)
{
    double kept = 0;

    for (uint32_t l = 0; l < f->p->layers; l++) {
        add_compute(f, l, n, taken, t, figures, loads);
        if (f->pairs > 0 && l + 1 < f->p->layers)
            add_exchange(f, l, n, t, &kept);
    }
    if (f->tokens > 0)
        figures->ranks += f->ranks / f->tokens;
    figures->local += f->pairs > 0 ? kept / f->pairs : 1;
}

static void finish(const struct place_problem *p, const struct step_figures *sum, double steps,
                   const double *loads, struct score_scenario *ret)
{
    double by = 1 / (steps * p->layers);

    ret->straggler = sum->load * by;
    ret->active = sum->active * by;
    ret->ranks = sum->ranks * by;
    ret->local = sum->local / steps;
    ret->remote = p->topk * (1 - ret->local);
    ret->step = step_seconds(&ret->terms);
    for (uint32_t l = 0; l < p->layers; l++) {
        double most = 0, total = 0, ratio;

        for (uint32_t g = 0; g < p->cluster.ranks; g++) {
            most = fmax(most, loads[(size_t)l * p->cluster.ranks + g]);
            total += loads[(size_t)l * p->cluster.ranks + g];
        }
        ratio = total > 0 ? most * p->cluster.ranks / total : 1;
        ret->load += ratio / p->layers;
        ret->load_worst = fmax(ret->load_worst, ratio);
    }
}

static void score_fluid(struct flows *f, const struct place_scenario *s, double *loads,
                        struct score_scenario *ret)
{
    struct step_figures sum = {0};

    if (s->trace) {
        for (uint32_t i = 0; i < s->trace->tokens; i++)
            add_token(f, s->trace, i);
    } else {
        memcpy(f->load, s->load, (size_t)f->p->layers * f->p->experts * sizeof *f->load);
        f->tokens = 1;
    }
    add_step(f, s->tokens, false, &ret->terms, &sum, loads);
    finish(f->p, &sum, 1, loads, ret);
}

/* Steps as the oracle takes them for homes by load: a contiguous part of the trace for each rank,
 * whose tokens of a step are consecutive (prefill) or spread (decode). */
static void score_steps(struct flows *f, const struct place_scenario *s, double *loads,
                        struct score_scenario *ret)
{
    uint32_t ranks = f->p->cluster.ranks, steps = 1;
    uint64_t n = s->trace->tokens, tokens = s->tokens;
    uint64_t first[PLAN_MAX_RANKS], length[PLAN_MAX_RANKS], take[PLAN_MAX_RANKS];
    struct step_figures sum = {0};

    for (uint32_t g = 0; g < ranks; g++) {
        uint64_t before = tokens * g / ranks, after = tokens * (g + 1) / ranks;
        uint64_t end = n * after / tokens;

        first[g] = n * before / tokens < n ? n * before / tokens : n - 1;
        length[g] = end > first[g] ? end - first[g] : 1;
        take[g] = after - before;
        if (take[g] && (length[g] + take[g] - 1) / take[g] > steps)
            steps = (uint32_t)((length[g] + take[g] - 1) / take[g]);
    }
    for (uint32_t i = 0; i < steps; i++) {
        clear(f);
        for (uint32_t g = 0; g < ranks; g++)
            for (uint64_t j = 0; j < take[g]; j++) {
                uint64_t at =
                    s->phase == PLACE_PREFILL ? i * take[g] + j : j * length[g] / take[g] + i;

                add_token(f, s->trace, (uint32_t)(first[g] + at % length[g]));
            }
        add_step(f, f->tokens, true, &ret->terms, &sum, loads);
    }
    ret->terms.compute /= steps;
    ret->terms.dispatch /= steps;
    ret->steps = steps;
    finish(f->p, &sum, steps, loads, ret);
}

static void add_scenario(struct score *to, const struct score_scenario *s, double share)
{
    double by = share / s->tokens;

    to->tokens_seconds += by * s->step;
    to->terms.compute += by * s->terms.compute;
    to->terms.dispatch += by * s->terms.dispatch;
    to->load += share * s->load;
    to->straggler += share * s->straggler;
    to->load_worst = fmax(to->load_worst, s->load_worst);
    to->ranks += share * s->ranks;
    to->remote += share * s->remote;
    to->local += share * s->local;
}

static int check_copies(const struct plan *plan, struct mt_err *reterr)
{
    for (size_t i = 0; i < (size_t)plan->layers * plan->experts; i++)
        if (plan->start[i + 1] - plan->start[i] != 1)
            return mt_error(reterr, MT_EUNSUPPORTED,
                            "flow: layer %zu, expert %zu: expected one copy, found %u: which copy "
                            "serves a token that comes from another layer's rank is not defined",
                            i / plan->experts, i % plan->experts,
                            plan->start[i + 1] - plan->start[i]);
    return 0;
}

int flow_score(const struct place_problem *p, const struct plan *plan, enum score_evaluation how,
               struct score *ret, struct mt_err *reterr)
{
    size_t cells = (size_t)p->layers * p->cluster.ranks;
    struct score *s = NULL;
    struct flows f = {0};
    double *loads = NULL;
    int rc = check_copies(plan, reterr);

    for (uint32_t i = 0; !rc && how == SCORE_SAMPLED && i < p->scenarios; i++)
        if (!p->scenario[i].trace)
            rc = mt_error(reterr, MT_EUNSUPPORTED,
                          "scenario %s: steps need token paths, and only loads are known",
                          p->scenario[i].name);
    if (!rc)
        rc = flows_make(p, plan, &f, reterr);
    if (rc)
        return rc;
    s = calloc(1, sizeof *s);
    loads = calloc(cells + 1, sizeof *loads);
    if (!s || !loads)
        rc = mt_error(reterr, MT_ENOMEM, "flow: no memory for a score");
    for (uint32_t i = 0; !rc && i < p->scenarios; i++) {
        struct score_scenario *k = &s->scenario[i];

        memset(loads, 0, cells * sizeof *loads);
        clear(&f);
        k->tokens = p->scenario[i].tokens;
        k->traffic = p->scenario[i].trace != NULL;
        if (how == SCORE_SAMPLED)
            score_steps(&f, &p->scenario[i], loads, k);
        else
            score_fluid(&f, &p->scenario[i], loads, k);
        add_scenario(s, k, p->scenario[i].share);
    }
    if (!rc) {
        s->evaluation = how;
        s->scenarios = p->scenarios;
        if (p->from)
            s->migration = score_migration(&p->cluster, p->from, plan);
        s->j = s->tokens_seconds + (p->horizon > 0 ? s->migration / p->horizon : 0);
        *ret = *s;
    }
    free(s);
    free(loads);
    flows_done(&f);
    return rc;
}
