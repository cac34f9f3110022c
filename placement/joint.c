/* Our method: the whole objective at once. Cross-validation chooses how much to resample; rounds of
 * search find placements; the oracle judges them beside the incumbent and the baselines. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement/bound.h"
#include "placement/columns.h"
#include "placement/crossval.h"
#include "placement/exact.h"
#include "placement/flow.h"
#include "placement/homes.h"
#include "placement/methods.h"
#include "placement/relabel.h"
#include "placement/score.h"
#include "placement/search.h"
#include "placement/split.h"

#define FIRST_MOVES 32 /* a slot and layer, in the first round */
#define GROWTH 3       /* of the moves from round to round */
#define LAST_MOVES (1u << 22)
#define SETTLED_MOVES 20000   /* a round of fewer does not tell that nothing is left to find */
#define SETTLED 2e-5          /* relative gain of a round that counts as none */
#define ALTERNATIONS 4        /* of homes and placement */
#define RULE_PART 0.2         /* of the time */
#define SEARCH_PART 0.9       /* where there is no bound to find */
#define SEARCH_PART_BOUND 0.4 /* where there is */
#define EXACT_PART 0.2        /* of the time, after what is gone */
#define BOUND_PART 0.97
#define BOUND_ASKS 2000   /* questions whether to stop, where moves and not time are limited */
#define COLUMN_TICKS 2000 /* of lp_solve, for a layer's columns */

struct joint {
    const struct place_problem *p;
    const struct place_run *run;
    struct place_run part; /* run, but stops when its part of the time is gone */
    double until;
    struct search_rule rule;
    uint64_t left, tried;
    struct score *score; /* scratch */
    enum score_evaluation how;
    struct plan best; /* of what was found, by the oracle; the start until then */
    double best_j;
    struct plan start, incumbent;
    double start_j, incumbent_j;
    double bound; /* 0: none, and no_bound says why */
    const char *no_bound;
    uint64_t asks; /* until part_stop says so; 0: as long as it takes */
    double offset; /* what J has beyond the search's price */
    int kind;      /* CROSSVAL_... */
    bool proven;   /* nothing is left to search for */
};

static bool part_stop(void *user)
{
    struct joint *j = user;

    if (j->run->stop && j->run->stop(j->run->user))
        return true;
    if (j->asks && !--j->asks)
        return true;
    return j->run->spent && j->run->spent(j->run->user) >= j->until;
}

static void tell(const struct joint *j, const char *stage, double objective)
{
    struct place_progress now = {stage, objective, 0, j->tried};

    if (j->run->progress)
        j->run->progress(j->run->user, &now);
}

/* Keeps a copy of the plan if the oracle says that it is the best so far. */
static int offer(struct joint *j, const struct plan *plan, struct mt_err *reterr)
{
    struct plan copy;
    int rc = score_plan(j->p, plan, j->how, j->score, reterr);

    if (rc || j->score->j >= j->best_j)
        return rc;
    rc = plan_copy(plan, &copy, reterr);
    if (rc)
        return rc;
    plan_done(&j->best);
    j->best = copy;
    j->best_j = j->score->j;
    return 0;
}

/* What a method without search finds; one that is not defined here offers nothing. */
static int offer_method(struct joint *j,
                        int (*solve)(const struct place_problem *, const struct place_run *,
                                     struct place_result *, struct mt_err *),
                        struct mt_err *reterr)
{
    struct place_result r = {0};
    int rc = solve(j->p, j->run, &r, reterr);

    if (rc == MT_EUNSUPPORTED)
        return 0;
    if (!rc)
        rc = offer(j, &r.plan, reterr);
    place_result_done(&r);
    return rc;
}

/* Rounds until the time of the part is gone or nothing is left to find. */
static void run_rounds(struct joint *j, struct search *s)
{
    uint64_t moves = FIRST_MOVES * cluster_slots(&j->p->cluster);
    int settled = 0;

    j->offset = j->start_j - search_price(s);
    while (settled < 2 && j->left && !part_stop(j)) {
        double before = search_price(s);

        search_round(s, moves, &j->part, &j->left, &j->tried);
        tell(j, "search", search_price(s) + j->offset);
        settled =
            moves >= SETTLED_MOVES && search_price(s) > before * (1 - SETTLED) ? settled + 1 : 0;
        moves = moves * GROWTH < LAST_MOVES ? moves * GROWTH : LAST_MOVES;
    }
}

/* homes of every scenario's trace under a plan; owned by the caller: free(ret[i]), once a trace. */
static int find_homes(const struct place_problem *p, const struct plan *plan, uint16_t **ret,
                      struct mt_err *reterr)
{
    for (uint32_t i = 0; i < p->scenarios; i++) {
        const struct trace *t = p->scenario[i].trace;
        int rc;

        if (!t)
            continue;
        ret[i] = calloc(t->documents, sizeof **ret);
        if (!ret[i])
            return mt_error(reterr, MT_ENOMEM, "search: no memory for homes");
        rc = homes_affinity(p, t, plan, ret[i], reterr);
        if (rc)
            return rc;
    }
    return 0;
}

/* Offers what the rounds' placements of single copies give when they are put together anew. */
static int recombine(struct joint *j, struct search *s, struct mt_err *reterr)
{
    const struct place_problem *p = j->p;
    uint16_t *past = calloc((size_t)SEARCH_PAST * p->experts, sizeof *past);
    uint16_t *rank = calloc(p->experts, sizeof *rank);
    uint8_t *held = calloc((size_t)p->layers * p->experts, p->cluster.ranks);
    struct plan plan = {0};
    bool any = false;
    int rc = past && rank && held ? search_single_plan(s, &plan, reterr)
                                  : mt_error(reterr, MT_ENOMEM, "search: no memory for columns");

    for (uint32_t l = 0; !rc && l < p->layers && !part_stop(j); l++) {
        uint32_t n = search_past(s, l, past);
        double seconds;
        bool better = false;

        if (n > 1)
            rc = columns_recombine_plans(p, l, n, past, &j->part, COLUMN_TICKS, rank, &seconds,
                                         &better, reterr);
        any |= better;
        for (uint32_t e = 0; !rc && better && e < p->experts; e++)
            plan.rank[plan.start[(size_t)l * p->experts + e]] = rank[e];
    }
    if (!rc && any)
        search_offer(s, &plan);
    plan_done(&plan);
    free(past);
    free(rank);
    free(held);
    return rc;
}

/* The search's best, with copies and without, as the oracle sees them. */
static int offer_found(struct joint *j, const struct search *s, struct mt_err *reterr)
{
    struct plan plan;
    int rc = search_plan(s, &plan, reterr);

    if (!rc) {
        rc = offer(j, &plan, reterr);
        plan_done(&plan);
    }
    if (!rc)
        rc = search_single_plan(s, &plan, reterr);
    if (!rc) {
        rc = offer(j, &plan, reterr);
        plan_done(&plan);
    }
    return rc;
}

static int search_once(struct joint *j, const uint16_t *const *homes, const struct plan *start,
                       uint64_t seed, struct mt_err *reterr)
{
    struct search *s;
    int rc = search_new(j->p, &j->rule, homes, start, seed, &s, reterr);

    if (rc)
        return rc;
    run_rounds(j, s);
    if (j->p->homes == PLACE_HOMES_LOAD)
        rc = recombine(j, s, reterr);
    if (!rc)
        rc = offer_found(j, s, reterr);
    search_free(s);
    return rc;
}

/* Offers a plan made from the best by `make`; one that is not defined here offers nothing. */
static int offer_relabelled(struct joint *j, struct mt_err *reterr)
{
    struct plan plan;
    int rc;

    if (!j->p->from || !(j->p->horizon > 0) || j->p->homes != PLACE_HOMES_LOAD)
        return 0;
    rc = relabel_plan(&j->p->cluster, j->p->from, &j->best, &plan, reterr);
    if (!rc) {
        rc = offer(j, &plan, reterr);
        plan_done(&plan);
    }
    return rc;
}

static int offer_split(struct joint *j, struct mt_err *reterr)
{
    struct plan plan;
    int rc;

    if (j->best.start[(size_t)j->p->layers * j->p->experts] == j->p->layers * j->p->experts)
        return 0; /* one copy each: nothing to split */
    rc = split_solve(j->p, &j->best, &plan, reterr);
    if (!rc) {
        rc = offer(j, &plan, reterr);
        plan_done(&plan);
    }
    return rc;
}

/* Up to 16 experts the optimum of the fluid objective is found outright. */
static int offer_exact(struct joint *j, double from, struct mt_err *reterr)
{
    struct exact_result r = {0};
    double until = j->until;
    int rc;

    if (cluster_slots(&j->p->cluster) > j->p->experts || exact_refuses(j->p))
        return 0; /* with replicas it would prove nothing */
    j->until = from + EXACT_PART;
    rc = exact_solve(j->p, &j->part, &r, reterr);
    j->until = until;
    if (rc)
        return rc;
    j->bound = r.bound;
    j->proven = r.optimal && !j->p->from;
    if (r.optimal && !(j->rule.sample.documents > 0))
        rc = offer(j, &r.plan, reterr);
    exact_done(&r);
    return rc;
}

/* Homes by affinity: homes for the best placement, a placement for these homes, and again. */
static int alternate(struct joint *j, double from, double until, struct mt_err *reterr)
{
    int rc = 0;

    for (uint32_t i = 0; !rc && i < ALTERNATIONS; i++) {
        uint16_t *homes[PLACE_MAX_SCENARIOS] = {0};
        struct plan start = {0};
        uint64_t left = j->left;

        j->until = from + (until - from) * (i + 1) / ALTERNATIONS;
        j->left = left / (ALTERNATIONS - i);
        left -= j->left;
        rc = find_homes(j->p, &j->best, homes, reterr);
        if (!rc)
            rc = plan_copy(&j->best, &start, reterr);
        if (!rc)
            rc = search_once(j, (const uint16_t *const *)homes, &start, j->run->seed + i, reterr);
        plan_done(&start);
        for (uint32_t k = 0; k < PLACE_MAX_SCENARIOS; k++)
            free(homes[k]);
        j->left += left;
    }
    return rc;
}

/* The incumbent, which nothing that the oracle scores worse may replace, and the best plan to start
 * from: a baseline may fit these traces better than what will generalise, so that being a start is
 * all it is. */
static int find_start(struct joint *j, struct mt_err *reterr)
{
    int rc = j->p->from ? offer(j, j->p->from, reterr) : offer_method(j, contiguous_solve, reterr);

    if (!rc && !j->best.start)
        rc = mt_error(reterr, MT_EUNSUPPORTED, "search: no method gives a plan to start from");
    if (!rc)
        rc = plan_copy(&j->best, &j->incumbent, reterr);
    j->incumbent_j = j->best_j;
    if (!rc && j->p->from)
        rc = offer_method(j, contiguous_solve, reterr);
    if (!rc)
        rc = offer_method(j, eplb_solve, reterr);
    if (!rc)
        rc = plan_copy(&j->best, &j->start, reterr);
    j->start_j = j->best_j;
    j->best_j = INFINITY;
    return rc;
}

/* The incumbent after all, if the oracle prefers it. */
static void prefer_incumbent(struct joint *j)
{
    struct plan found = j->best;

    if (j->best_j < j->incumbent_j)
        return;
    j->best = j->incumbent;
    j->incumbent = found;
}

/* What no plan can be below, in the time that is left. */
static int find_bound(struct joint *j, struct mt_err *reterr)
{
    struct bound b = {0};
    int rc;

    if (j->bound > 0 || j->no_bound)
        return 0;
    j->until = BOUND_PART;
    j->asks = j->run->iterations && !j->run->spent ? BOUND_ASKS : 0;
    tell(j, "bound", j->best_j);
    rc = bound_solve(j->p, &j->best, &j->part, &b, reterr);
    j->bound = b.value;
    j->no_bound = b.missing;
    return rc;
}

static int choose_rule(struct joint *j, struct mt_err *reterr)
{
    struct crossval found = {0};
    int rc = 0;

    j->rule = CROSSVAL_PLAIN;
    j->until = RULE_PART;
    if (j->run->plain)
        return 0;
    tell(j, "cross-validation", j->start_j);
    rc = crossval_choose(j->p, &j->part, &found, reterr);
    j->rule = CROSSVAL_RULES[found.rule];
    j->rule.single = found.kind == CROSSVAL_SINGLE;
    j->kind = found.kind;
    return rc;
}

static int solve(struct joint *j, struct mt_err *reterr)
{
    double from;
    int rc = find_start(j, reterr);

    if (!rc)
        rc = choose_rule(j, reterr);
    if (rc)
        return rc;
    from = j->run->spent ? j->run->spent(j->run->user) : 0;
    j->no_bound = bound_missing(j->p);
    if (!j->no_bound && j->run->skip_bound)
        j->no_bound = "not asked for";
    j->until = j->no_bound || j->how == SCORE_FLUID ? SEARCH_PART : SEARCH_PART_BOUND;
    if (j->p->homes == PLACE_HOMES_AFFINITY)
        rc = alternate(j, from, SEARCH_PART, reterr);
    else
        rc = offer_exact(j, from, reterr);
    if (!rc && j->p->homes == PLACE_HOMES_LOAD && (!j->proven || j->rule.sample.documents > 0))
        rc = search_once(j, NULL, &j->start, j->run->seed, reterr);
    if (!rc && (j->kind == CROSSVAL_EPLB || j->kind == CROSSVAL_ANY))
        rc = offer_method(j, eplb_solve, reterr);
    if (!rc)
        rc = offer_relabelled(j, reterr);
    if (!rc)
        rc = offer_split(j, reterr);
    if (!rc)
        prefer_incumbent(j);
    if (!rc)
        rc = find_bound(j, reterr);
    return rc;
}

static void describe(const struct joint *j, struct place_result *ret)
{
    const struct sample_rule *r = &j->rule.sample;

    if (!j->tried && !j->proven)
        snprintf(ret->note, sizeof ret->note,
                 "no time for a search: this is the best of the starts; give it more");
    else if (j->how == SCORE_FLUID)
        snprintf(ret->note, sizeof ret->note, "fitted to the loads as they are");
    else if (r->documents > 0)
        snprintf(
            ret->note, sizeof ret->note,
            "steps resampled from %g of the documents, %g tokens of each at most; traffic x %g",
            r->documents, r->cap, j->rule.traffic);
    else
        snprintf(ret->note, sizeof ret->note, "steps as in the traces; traffic x %g",
                 j->rule.traffic);
}

/* Flow semantics have a search, and a bound, of their own (flow.h). */
static int solve_flow(const struct place_problem *p, const struct place_run *run,
                      struct place_result *ret, struct mt_err *reterr)
{
    struct place_result start = {0};
    struct flow_found found = {0};
    struct plan plan = {0};
    bool exact = false;
    double bound = 0;
    int rc = p->from ? plan_copy(p->from, &plan, reterr) : contiguous_solve(p, run, &start, reterr);

    if (!rc && !p->from)
        rc = plan_copy(&start.plan, &plan, reterr);
    if (!rc)
        rc = flow_search(p, run, &plan, &found, reterr);
    if (!rc)
        rc = flow_bound(p, run, &bound, &exact, reterr);
    place_result_done(&start);
    if (rc) {
        plan_done(&plan);
        return rc;
    }
    *ret = (struct place_result){.plan = plan,
                                 .method = "joint",
                                 .objective = found.objective,
                                 .bound = bound,
                                 .optimal = found.optimal,
                                 .iterations = found.moves,
                                 .note = "flow semantics: one copy of each expert"};
    return 0;
}

int joint_solve(const struct place_problem *p, const struct place_run *run,
                struct place_result *ret, struct mt_err *reterr)
{
    struct joint j = {.p = p, .run = run, .best_j = INFINITY, .how = SCORE_SAMPLED};
    int rc;

    if (p->semantics == PLACE_FLOW)
        return solve_flow(p, run, ret, reterr);
    j.left = run->iterations ? run->iterations : UINT64_MAX;
    j.part = *run;
    j.part.stop = part_stop;
    j.part.user = &j;
    j.part.progress = NULL;
    j.part.spent = NULL;
    for (uint32_t i = 0; i < p->scenarios; i++)
        if (!p->scenario[i].trace)
            j.how = SCORE_FLUID;
    j.score = malloc(sizeof *j.score);
    rc = j.score ? solve(&j, reterr) : mt_error(reterr, MT_ENOMEM, "search: no memory for a score");
    if (!rc)
        rc = score_plan(p, &j.best, SCORE_FLUID, j.score, reterr);
    if (rc) {
        plan_done(&j.best);
    } else {
        *ret = (struct place_result){.plan = j.best,
                                     .method = "joint",
                                     .objective = j.score->j,
                                     .bound = j.bound,
                                     .no_bound = j.bound > 0  ? NULL
                                                 : j.no_bound ? j.no_bound
                                                              : "no time for it",
                                     .optimal = j.bound >= j.score->j * (1 - 1e-9),
                                     .iterations = j.tried};
        describe(&j, ret);
    }
    free(j.score);
    plan_done(&j.start);
    plan_done(&j.incumbent);
    return rc;
}
