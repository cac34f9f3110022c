/* Search for plans of little flow objective: annealing by exchanges and moves within a layer, then
 * descent, from the plan given and from MoETuner's; then, for few placements, the exact chain. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/flow_tables.h"
#include "placement/moetuner.h"
#include "placement/random.h"

#define HOT 2.0 /* of the mean worth of an expert's place */
#define COLD 0.003
#define ASK_EVERY 256
#define LAST 0.95       /* of the time: what follows is descent */
#define STAGES 16       /* of the annealing: after each, ranks are renamed */
#define PASS_MOVES 1000 /* per expert and layer, of a pass that is not told how long to be */
#define FIRST_PASS 30

struct annealing {
    const struct flow_tables *t;
    const struct place_run *run;
    struct flow_state *state;
    struct random random;
    uint16_t *best; /* [layers][experts] */
    double cost, best_cost;
    uint64_t moves, limit; /* limit 0: until stopped */
    bool stopped;
};

static size_t plan_cells(const struct flow_tables *t)
{
    return (size_t)t->p->layers * t->p->experts;
}

static void remember(struct annealing *a)
{
    memcpy(a->best, flow_state_ranks(a->state), plan_cells(a->t) * sizeof *a->best);
    a->best_cost = a->cost;
}

/* A move that fits the slots; false if this draw gives none. */
static bool draw(struct annealing *a, struct flow_move *ret)
{
    const struct place_problem *p = a->t->p;
    const uint16_t *rank;
    struct flow_move m = {.layer = random_below(&a->random, p->layers),
                          .e = random_below(&a->random, p->experts),
                          .f = random_below(&a->random, p->experts)};

    rank = flow_state_ranks(a->state) + (size_t)m.layer * p->experts;
    m.rank = random_below(&a->random, p->cluster.ranks);
    if ((random_next(&a->random) & 3) == 0 && m.rank != rank[m.e] &&
        flow_state_size(a->state, m.layer, m.rank) < p->cluster.slots[m.rank])
        m.f = FLOW_NO_EXPERT;
    else if (rank[m.e] == rank[m.f])
        return false;
    *ret = m;
    return true;
}

static bool is_over(struct annealing *a)
{
    if (a->limit && a->moves >= a->limit)
        return true;
    if (!a->stopped && a->moves % ASK_EVERY == 0 && a->run->stop && a->run->stop(a->run->user))
        a->stopped = true;
    return a->stopped;
}

static void tell(const struct annealing *a)
{
    struct place_progress now = {"flow", a->best_cost, 0, a->moves};

    if (a->run->progress)
        a->run->progress(a->run->user, &now);
}

/* Starts from these ranks. */
static int restart(struct annealing *a, const uint16_t *rank, struct mt_err *reterr)
{
    struct flow_state *state;
    int rc = flow_state_new(a->t, rank, &state, reterr);

    if (rc)
        return rc;
    flow_state_free(a->state);
    a->state = state;
    a->cost = flow_state_cost(state);
    if (a->cost < a->best_cost)
        remember(a);
    return 0;
}

/* Goes on from the plan under better names. */
static int relabel(struct annealing *a, struct mt_err *reterr)
{
    size_t bytes = plan_cells(a->t) * sizeof *a->best;
    uint16_t *rank = calloc(1, bytes + 1);
    bool better = false;
    int rc = 0;

    if (!rank)
        return mt_error(reterr, MT_ENOMEM, "flow: no memory for a plan");
    memcpy(rank, flow_state_ranks(a->state), bytes);
    rc = flow_relabel(a->t, rank, &better, reterr);
    if (!rc && better)
        rc = restart(a, rank, reterr);
    free(rank);
    return rc;
}

/* Falling temperature over `moves`, or if 0 over the time that is left but for some. */
static int anneal(struct annealing *a, uint64_t moves, struct mt_err *reterr)
{
    uint32_t stage = 1;
    int rc = 0;
    double place = a->cost / (double)plan_cells(a->t), heat = HOT * place;
    double begin = moves || !a->run->spent ? 0 : a->run->spent(a->run->user), part = 0;

    for (uint64_t i = 0; !rc && part < 1 && !is_over(a); i++) {
        struct flow_move m;
        double delta;

        if (i % ASK_EVERY == 0) {
            part = moves || !a->run->spent ? (double)i / (double)moves
                                           : (a->run->spent(a->run->user) - begin) / (LAST - begin);
            heat = HOT * place * pow(COLD / HOT, part);
            if (part * STAGES > stage) {
                rc = relabel(a, reterr);
                stage++;
            }
        }
        a->moves++;
        if (!draw(a, &m))
            continue;
        delta = flow_state_try(a->state, &m);
        if (delta > 0 && random_unit(&a->random) >= exp(-delta / heat)) {
            flow_state_undo(a->state, &m);
            continue;
        }
        flow_state_keep(a->state, &m);
        a->cost += delta;
        if (a->cost < a->best_cost * (1 - 1e-12))
            remember(a);
    }
    a->cost = flow_state_cost(a->state);
    return rc;
}

/* Every exchange and move of a layer that helps. */
static bool descend_layer(struct annealing *a, uint32_t layer)
{
    const struct place_problem *p = a->t->p;
    const uint16_t *rank = flow_state_ranks(a->state) + (size_t)layer * p->experts;
    bool better = false;

    for (uint32_t e = 0; e < p->experts; e++)
        for (uint32_t k = 0; k < e + p->cluster.ranks && !is_over(a); k++) {
            struct flow_move m = {layer, e, k, 0};
            double delta;

            if (k >= e) {
                m.f = FLOW_NO_EXPERT;
                m.rank = k - e;
            }
            if (m.f == FLOW_NO_EXPERT
                    ? m.rank == rank[e] ||
                          flow_state_size(a->state, layer, m.rank) >= p->cluster.slots[m.rank]
                    : rank[e] == rank[m.f])
                continue;
            a->moves++;
            delta = flow_state_try(a->state, &m);
            if (delta >= -1e-12 * a->cost) {
                flow_state_undo(a->state, &m);
                continue;
            }
            flow_state_keep(a->state, &m);
            a->cost += delta;
            better = true;
        }
    return better;
}

static void descend(struct annealing *a)
{
    bool better = true;

    while (better && !is_over(a)) {
        better = false;
        for (uint32_t l = 0; l < a->t->p->layers; l++)
            better |= descend_layer(a, l);
    }
    a->cost = flow_state_cost(a->state);
    if (a->cost < a->best_cost)
        remember(a);
}

/* Annealing, then from the best so far new names and descent. */
static int pass(struct annealing *a, uint64_t moves, struct mt_err *reterr)
{
    int rc = anneal(a, moves, reterr);

    if (!rc)
        rc = restart(a, a->best, reterr);
    if (!rc)
        rc = relabel(a, reterr);
    if (!rc)
        descend(a);
    tell(a);
    return rc;
}

/* One pass of the moves or the time allowed; where neither is known ever longer ones until
 * stopped, and only one if nothing would. */
static int run_passes(struct annealing *a, struct mt_err *reterr)
{
    uint64_t moves = PASS_MOVES * plan_cells(a->t);
    int rc = 0;

    if (a->limit)
        return pass(a, a->limit - a->limit / 8, reterr);
    if (a->run->spent && a->run->spent(a->run->user) < LAST)
        return pass(a, 0, reterr);
    if (a->run->stop)
        moves /= FIRST_PASS;
    do {
        rc = pass(a, moves, reterr);
        moves *= 2;
    } while (!rc && a->run->stop && !a->stopped);
    return rc;
}

/* --- starts
 * ---------------------------------------------------------------------------------------- */

/* MoETuner's plan is a start where it is defined. */
static int offer_moetuner(struct annealing *a, struct mt_err *reterr)
{
    uint16_t *rank = calloc(plan_cells(a->t) + 1, sizeof *rank);
    int rc = rank ? moetuner_start(a->t->p, a->run, rank, reterr)
                  : mt_error(reterr, MT_ENOMEM, "flow: no memory for a plan");

    if (!rc)
        rc = restart(a, rank, reterr);
    free(rank);
    return rc == MT_EUNSUPPORTED ? 0 : rc;
}

static int check_start(const struct place_problem *p, const struct plan *plan, uint16_t *rank,
                       struct mt_err *reterr)
{
    size_t cells = (size_t)p->layers * p->experts;

    for (size_t i = 0; i < cells; i++) {
        if (plan->start[i + 1] - plan->start[i] != 1)
            return mt_error(reterr, MT_EUNSUPPORTED,
                            "flow: layer %zu, expert %zu: expected one copy, found %u: which copy "
                            "serves a token that comes from another layer's rank is not defined",
                            i / p->experts, i % p->experts, plan->start[i + 1] - plan->start[i]);
        rank[i] = plan->rank[plan->start[i]];
    }
    for (uint32_t l = 0; l < p->layers; l++) {
        uint32_t size[PLAN_MAX_RANKS] = {0};

        for (uint32_t e = 0; e < p->experts; e++) {
            uint32_t g = rank[(size_t)l * p->experts + e];

            if (++size[g] > p->cluster.slots[g])
                return mt_error(reterr, MT_EINVAL,
                                "flow: layer %u, rank %u: expected at most %u experts", l, g,
                                p->cluster.slots[g]);
        }
    }
    return 0;
}

/* --- the whole
 * ------------------------------------------------------------------------------------- */

static int search(struct annealing *a, uint16_t *rank, struct flow_found *found,
                  struct mt_err *reterr)
{
    bool done = false;
    int rc = restart(a, rank, reterr);
    double start = a->best_cost;

    if (!rc)
        rc = offer_moetuner(a, reterr);
    if (!rc)
        rc = restart(a, a->best, reterr);
    /* For few placements a short search is enough: the chain does the rest, or says that it cannot.
     */
    if (!rc && a->t->p->experts <= 12) {
        uint64_t limit = a->limit, moves = 200 * plan_cells(a->t);

        rc = pass(a, limit && limit < moves ? limit : moves, reterr);
        if (!rc)
            rc = flow_exact(a->t, a->run, a->best, &a->best_cost, &done, reterr);
        if (!rc)
            rc = restart(a, a->best, reterr);
    }
    if (!rc && !done)
        rc = run_passes(a, reterr);
    if (rc)
        return rc;
    if (a->best_cost < start)
        memcpy(rank, a->best, plan_cells(a->t) * sizeof *rank);
    *found = (struct flow_found){a->best_cost, done, a->moves};
    return 0;
}

int flow_search(const struct place_problem *p, const struct place_run *run, struct plan *io_plan,
                struct flow_found *ret, struct mt_err *reterr)
{
    size_t cells = (size_t)p->layers * p->experts;
    struct annealing a = {
        .run = run, .random = {run->seed}, .best_cost = INFINITY, .limit = run->iterations};
    uint16_t *rank = calloc(cells + 1, sizeof *rank);
    struct flow_tables *t = NULL;
    int rc;

    a.best = calloc(cells + 1, sizeof *a.best);
    rc = rank && a.best ? check_start(p, io_plan, rank, reterr)
                        : mt_error(reterr, MT_ENOMEM, "flow: no memory for a plan");
    if (!rc)
        rc = flow_tables_new(p, &t, reterr);
    a.t = t;
    if (!rc)
        rc = search(&a, rank, ret, reterr);
    if (!rc)
        for (size_t i = 0; i < cells; i++)
            io_plan->rank[io_plan->start[i]] = rank[i];
    flow_state_free(a.state);
    flow_tables_free(t);
    free(a.best);
    free(rank);
    return rc;
}
