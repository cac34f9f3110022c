#include "placement/crossval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/methods.h"
#include "placement/score.h"

#define LAYERS 6 /* of the problem that are looked at */
#define ROUNDS 2
#define MOVES 4000 /* a layer, in the first round; GROWTH times as many in each further one */
#define SEED \
    1 /* not the run's: runs of several seeds are compared by their fit, so that all of them have \
         to fit by the same rule */
#define GROWTH 4
#define FEWEST 200      /* moves with which a comparison means something */
#define SURE_EPLB 0.998 /* the search here is a short one */
#define SURE 0.999      /* a rule replaces the first only if its J is lower by more than noise */

const struct search_rule CROSSVAL_PLAIN = {{0, 0, 64}, 1, false};

const struct search_rule CROSSVAL_RULES[] = {
    {{0.25, 200, 64}, 1, false},   {{0, 0, 64}, 1, false},   {{0.1, 200, 96}, 1, false},
    {{0.25, 200, 64}, 1.6, false}, {{0, 0, 64}, 1.6, false},
};
const uint32_t CROSSVAL_N = sizeof CROSSVAL_RULES / sizeof *CROSSVAL_RULES;

/* Half of a problem: some layers of some documents. */
struct fold {
    struct place_problem p;
    struct trace trace[PLACE_MAX_SCENARIOS]; /* owned; empty where a scenario shares another's */
    double *load[PLACE_MAX_SCENARIOS];       /* owned likewise */
};

static void fold_done(struct fold *f)
{
    for (uint32_t i = 0; i < PLACE_MAX_SCENARIOS; i++) {
        trace_done(&f->trace[i]);
        free(f->load[i]);
    }
}

static uint32_t layers_of(const struct place_problem *p)
{
    return p->layers < LAYERS ? p->layers : LAYERS;
}

/* Keeps every layer that is looked at, in place. */
static void thin(struct trace *t, uint32_t layers)
{
    size_t row = t->topk * sizeof *t->choice;

    for (uint32_t i = 0; i < t->tokens; i++)
        for (uint32_t k = 0; k < layers; k++) {
            uint32_t from = (uint32_t)((2ull * k + 1) * t->layers / (2ull * layers));

            memmove(t->choice + ((size_t)i * layers + k) * t->topk,
                    t->choice + ((size_t)i * t->layers + from) * t->topk, row);
        }
    t->layers = layers;
}

static int cut(const struct trace *t, bool second, struct trace *ret, struct mt_err *reterr)
{
    uint32_t half = trace_split(t, 0.5);

    return second ? trace_slice(t, half, t->documents - half, 0, ret, reterr)
                  : trace_slice(t, 0, half, 0, ret, reterr);
}

static int fold_new(const struct place_problem *p, bool second, struct fold *ret,
                    struct mt_err *reterr)
{
    uint32_t layers = layers_of(p);
    int rc = 0;

    *ret = (struct fold){.p = *p};
    ret->p.layers = layers;
    ret->p.from = NULL;
    ret->p.homes = PLACE_HOMES_LOAD;
    for (uint32_t i = 0; !rc && i < p->scenarios; i++) {
        struct place_scenario *s = &ret->p.scenario[i];
        uint32_t k = 0;

        while (k < i && p->scenario[k].trace != p->scenario[i].trace)
            k++;
        if (k < i) {
            s->trace = ret->p.scenario[k].trace;
            s->load = ret->p.scenario[k].load;
            continue;
        }
        rc = cut(p->scenario[i].trace, second, &ret->trace[i], reterr);
        if (rc)
            break;
        thin(&ret->trace[i], layers);
        ret->load[i] = calloc((size_t)layers * p->experts, sizeof(double));
        if (!ret->load[i]) {
            rc = mt_error(reterr, MT_ENOMEM, "search: no memory for loads");
            break;
        }
        trace_loads(&ret->trace[i], ret->load[i]);
        s->trace = &ret->trace[i];
        s->load = ret->load[i];
    }
    return rc;
}

static int fit(const struct fold *f, const struct search_rule *rule, uint64_t moves,
               const struct place_run *run, struct plan *ret, struct mt_err *reterr)
{
    struct place_result start = {0};
    struct search *s = NULL;
    uint64_t left = UINT64_MAX, tried = 0;
    int rc = contiguous_solve(&f->p, run, &start, reterr);

    if (!rc)
        rc = search_new(&f->p, rule, NULL, &start.plan, SEED, &s, reterr);
    for (int i = 0; !rc && i < ROUNDS; i++, moves *= GROWTH)
        search_round(s, moves, run, &left, &tried);
    if (!rc)
        rc = search_plan(s, ret, reterr);
    search_free(s);
    place_result_done(&start);
    return rc;
}

/* The sum over both folds of J on the one that was not fitted. */
static int try_rule(const struct fold *f, const struct search_rule *rule, uint64_t moves,
                    const struct place_run *run, double *ret, struct mt_err *reterr)
{
    struct score *s = malloc(sizeof *s);
    int rc = s ? 0 : mt_error(reterr, MT_ENOMEM, "search: no memory for a score");
    double sum = 0;

    for (int k = 0; !rc && k < 2; k++) {
        struct plan plan = {0};

        rc = fit(&f[k], rule, moves, run, &plan, reterr);
        if (!rc)
            rc = score_plan(&f[!k].p, &plan, SCORE_SAMPLED, s, reterr);
        if (!rc)
            sum += s->j;
        plan_done(&plan);
    }
    free(s);
    *ret = sum;
    return rc;
}

/* The same for EPLB, which fits loads alone; infinite where it is not defined. */
static int try_eplb(const struct fold *f, const struct place_run *run, double *ret,
                    struct mt_err *reterr)
{
    struct score *s = malloc(sizeof *s);
    int rc = s ? 0 : mt_error(reterr, MT_ENOMEM, "search: no memory for a score");
    double sum = 0;

    for (int k = 0; !rc && k < 2; k++) {
        struct place_result r = {0};

        rc = eplb_solve(&f[k].p, run, &r, reterr);
        if (!rc)
            rc = score_plan(&f[!k].p, &r.plan, SCORE_SAMPLED, s, reterr);
        if (!rc)
            sum += s->j;
        place_result_done(&r);
    }
    free(s);
    *ret = rc ? INFINITY : sum;
    return rc == MT_EUNSUPPORTED ? 0 : rc;
}

static bool has_spare(const struct place_problem *p)
{
    uint32_t slots = 0;

    for (uint32_t g = 0; g < p->cluster.ranks; g++)
        slots += p->cluster.slots[g];
    return slots > p->experts;
}

static bool comparable(const struct place_problem *p)
{
    for (uint32_t i = 0; i < p->scenarios; i++)
        if (!p->scenario[i].trace || p->scenario[i].trace->documents < 2)
            return false;
    return p->cluster.ranks > 1;
}

/* Moves of a layer in the first round: a quarter of all that the run may try, over all fits. */
static uint64_t first_moves(const struct place_problem *p, const struct place_run *run)
{
    uint64_t fits = 4ull * CROSSVAL_N * 2 * layers_of(p) * (1 + GROWTH);

    return run->iterations && run->iterations / fits < MOVES ? run->iterations / fits : MOVES;
}

static bool stopped(const struct place_run *run)
{
    return run->stop && run->stop(run->user);
}

/* Of both folds: so many had a say. A saving that one of them alone could bring is no evidence that
 * copies pay, since a document of another kind makes them pay elsewhere. */
static double documents(const struct place_problem *p)
{
    double n = 0;

    for (uint32_t i = 0; i < p->scenarios; i++) {
        uint32_t k = 0;

        while (p->scenario[k].trace != p->scenario[i].trace)
            k++;
        n += k == i ? 2.0 * p->scenario[i].trace->documents : 0;
    }
    return n;
}

/* By the first rule: whether copies hold what they promise, and whether search does better than
 * EPLB. *least: J of the first rule with one copy of each expert. */
static int choose_kind(const struct fold *f, uint64_t moves, const struct place_run *run,
                       struct crossval *c, double *least, struct mt_err *reterr)
{
    struct search_rule rule = CROSSVAL_RULES[0];
    double copies = INFINITY, eplb = INFINITY;
    int rc;

    rule.single = true;
    rc = try_rule(f, &rule, moves, run, least, reterr);
    rule.single = false;
    if (!rc && has_spare(&f->p))
        rc = try_rule(f, &rule, moves, run, &copies, reterr);
    if (rc || stopped(run))
        return rc;
    rc = try_eplb(f, run, &eplb, reterr);
    c->kind = copies < *least * (1 - 0.5 / documents(&f->p)) ? CROSSVAL_COPIES : CROSSVAL_SINGLE;
    if (eplb < (copies < *least ? copies : *least) * SURE_EPLB)
        c->kind = CROSSVAL_EPLB;
    return rc;
}

/* The rule of least J with one copy of each expert; one that was not tried to its end does not
 * count. */
static int choose_rule(const struct fold *f, uint64_t moves, const struct place_run *run,
                       struct crossval *c, double least, struct mt_err *reterr)
{
    int rc = 0;

    for (uint32_t i = 1; !rc && i < CROSSVAL_N && !stopped(run); i++) {
        struct search_rule rule = CROSSVAL_RULES[i];
        double j = 0;

        rule.single = true;
        rc = try_rule(f, &rule, moves, run, &j, reterr);
        if (!stopped(run) && j < least * (c->rule == 0 ? SURE : 1)) {
            least = j;
            c->rule = i;
        }
    }
    return rc;
}

int crossval_choose(const struct place_problem *p, const struct place_run *run,
                    struct crossval *ret, struct mt_err *reterr)
{
    uint64_t moves = first_moves(p, run);
    struct crossval c = {0, CROSSVAL_ANY};
    double least = INFINITY;
    struct fold *f;
    int rc;

    if (!comparable(p) || moves < FEWEST) {
        *ret = c;
        return 0;
    }
    f = calloc(2, sizeof *f);
    if (!f)
        return mt_error(reterr, MT_ENOMEM, "search: no memory for folds");
    rc = fold_new(p, false, &f[0], reterr);
    if (!rc)
        rc = fold_new(p, true, &f[1], reterr);
    if (!rc)
        rc = choose_kind(f, moves, run, &c, &least, reterr);
    if (!rc)
        rc = choose_rule(f, moves, run, &c, least, reterr);
    fold_done(&f[0]);
    fold_done(&f[1]);
    free(f);
    if (!rc)
        *ret = c;
    return rc;
}
