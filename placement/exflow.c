/* ExFlow-like (arXiv 2401.08383): affinity alone. Experts of equal numbers on ranks so that as much
 * flow between consecutive layers as possible stays: first on a node, then on a rank within it.
 * Theirs is one integer programme over all layers; here each layer in turn is a transport problem
 * with the layers beside it fixed, whose linear programme lp_solve solves and which is integral;
 * annealed exchanges finish. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/baseline.h"
#include "placement/flow_tables.h"
#include "placement/lp.h"
#include "placement/methods.h"
#include "placement/random.h"

#define SWEEPS 3
#define MOVES 400 /* of the annealing, per expert and layer */
#define MAX_MOVES 2000000
#define HOT 0.3 /* of an expert's mean flow */
#define COLD 0.003
#define PASSES 30
#define LP_CELLS 4096 /* experts times places beyond which programmes take too long */

/* Experts of each layer on places (nodes, or the ranks of a node). */
struct affine {
    const struct flow_tables *t;
    const struct place_run *run;
    uint32_t layers, experts, places;
    uint32_t room[PLAN_MAX_RANKS]; /* experts of each place */
    uint16_t *place;               /* [layers][experts], or NOT_HERE */
    double *worth;                 /* [experts][places] of one layer */
};

#define NOT_HERE UINT16_MAX

static bool is_stopped(const struct affine *a)
{
    return a->run->stop && a->run->stop(a->run->user);
}

static double pair_share(const struct flow_tables *t, uint32_t trace)
{
    double sum = 0;

    for (uint32_t s = 0; s < t->p->scenarios; s++)
        if (t->of[s] == trace)
            sum += t->p->scenario[s].share / ((double)t->p->topk * t->trace[trace]->tokens);
    return sum;
}

/* worth[e][place]: flow between e of the layer and the experts that the layers beside it have on
 * the place; `after` too, if they are placed. */
static void fill_worth(struct affine *a, uint32_t layer, bool after)
{
    uint32_t n = a->experts;

    memset(a->worth, 0, (size_t)n * a->places * sizeof *a->worth);
    for (uint32_t i = 0; i < a->t->traces; i++) {
        double by = pair_share(a->t, i);

        for (uint32_t e = 0; e < n; e++)
            for (uint32_t f = 0; f < n; f++) {
                double *worth = a->worth + (size_t)e * a->places;
                uint16_t before = layer > 0 ? a->place[(size_t)(layer - 1) * n + f] : NOT_HERE;
                uint16_t next = after && layer + 1 < a->layers
                                    ? a->place[(size_t)(layer + 1) * n + f]
                                    : NOT_HERE;

                if (before != NOT_HERE)
                    worth[before] += by * flow_pairs(a->t, i, layer - 1)[(size_t)f * n + e];
                if (next != NOT_HERE)
                    worth[next] += by * flow_pairs(a->t, i, layer)[(size_t)e * n + f];
            }
    }
}

/* --- one layer: a transport problem
 * ---------------------------------------------------------------- */

static int fill_programme(const struct affine *a, const uint16_t *expert, uint32_t n, struct lp *lp,
                          struct mt_err *reterr)
{
    int rc = 0;

    for (uint32_t i = 0; i < n; i++) {
        const double *worth = a->worth + (size_t)expert[i] * a->places;
        double most = 0;

        for (uint32_t k = 0; k < a->places; k++)
            most = worth[k] > most ? worth[k] : most;
        for (uint32_t k = 0; !rc && k < a->places; k++)
            rc = lp_add_column(lp, most - worth[k], 2, (uint32_t[]){i, n + k}, (double[]){1, 1}, 0,
                               LP_INFINITY, false, reterr);
    }
    return rc;
}

static int solve_programme(struct affine *a, uint32_t layer, const uint16_t *expert, uint32_t n,
                           struct lp *lp, struct mt_err *reterr)
{
    double *x = calloc((size_t)n * a->places + 1, sizeof *x);
    struct lp_result result;
    int rc = x ? fill_programme(a, expert, n, lp, reterr)
               : mt_error(reterr, MT_ENOMEM, "exflow: no memory for a programme");

    if (!rc)
        rc = lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &result, reterr);
    if (!rc && result.outcome != LP_OPTIMAL)
        rc = mt_error(reterr, MT_EINTERNAL, "exflow: lp_solve found no transport");
    if (!rc) {
        lp_primal(lp, x);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t k = 0; k < a->places; k++)
                if (x[(size_t)i * a->places + k] > 0.5)
                    a->place[(size_t)layer * a->experts + expert[i]] = (uint16_t)k;
    }
    free(x);
    return rc;
}

/* The layer's experts onto places of most worth. */
static int transport(struct affine *a, uint32_t layer, struct mt_err *reterr)
{
    uint16_t expert[PLACE_MAX_EXPERTS];
    enum lp_row type[PLACE_MAX_EXPERTS + PLAN_MAX_RANKS];
    double rhs[PLACE_MAX_EXPERTS + PLAN_MAX_RANKS];
    uint32_t n = 0;
    struct lp *lp = NULL;
    int rc;

    for (uint32_t e = 0; e < a->experts; e++)
        if (a->place[(size_t)layer * a->experts + e] != NOT_HERE) {
            type[n] = LP_EQUAL;
            rhs[n] = 1;
            expert[n++] = (uint16_t)e;
        }
    if (n == 0)
        return 0;
    for (uint32_t k = 0; k < a->places; k++) {
        type[n + k] = LP_AT_MOST;
        rhs[n + k] = a->room[k];
    }
    rc = lp_new(n + a->places, type, rhs, &lp, reterr);
    if (!rc)
        rc = solve_programme(a, layer, expert, n, lp, reterr);
    lp_free(lp);
    return rc;
}

/* --- exchanges
 * --------------------------------------------------------------------------------------- */

/* Exchanges in the layer that keep more flow; worth does not change with its own layer's places. */
static bool exchange(struct affine *a, uint32_t layer)
{
    uint16_t *place = a->place + (size_t)layer * a->experts;
    bool better = false;

    fill_worth(a, layer, true);
    for (uint32_t e = 0; e < a->experts; e++)
        for (uint32_t f = 0; place[e] != NOT_HERE && f < e; f++) {
            const double *x = a->worth + (size_t)e * a->places;
            const double *y = a->worth + (size_t)f * a->places;
            uint16_t p = place[e], q = place[f];

            if (q == NOT_HERE || p == q || x[q] + y[p] <= (x[p] + y[q]) * (1 + 1e-12))
                continue;
            place[e] = q;
            place[f] = p;
            better = true;
        }
    return better;
}

static int keep_most(struct affine *a, struct mt_err *reterr)
{
    bool programmes = (size_t)a->experts * a->places <= LP_CELLS, better = true;
    int rc = 0;

    for (uint32_t i = 0; !rc && programmes && i < SWEEPS; i++)
        for (uint32_t k = i == 0 ? 1 : 0; !rc && k < a->layers && !is_stopped(a); k++) {
            uint32_t layer = i % 2 ? a->layers - 1 - k : k;

            fill_worth(a, layer, i > 0);
            rc = transport(a, layer, reterr);
        }
    for (uint32_t i = 0; !rc && better && i < PASSES; i++) {
        better = false;
        for (uint32_t l = 0; l < a->layers && !is_stopped(a); l++)
            better |= exchange(a, l);
    }
    return rc;
}

/* --- levels
 * -------------------------------------------------------------------------------------------- */

/* The experts that have[layers][experts] gives to a node (or all, if NULL) onto its ranks first ..
 * first + places - 1, in order to begin with. */
static int spread(struct affine *a, const uint32_t *size, uint32_t first, const uint16_t *have,
                  uint16_t node, uint16_t *rank, struct mt_err *reterr)
{
    int rc;

    memcpy(a->room, size + first, a->places * sizeof *a->room);
    for (uint32_t l = 0; l < a->layers; l++) {
        uint32_t k = 0, held = 0;

        for (uint32_t e = 0; e < a->experts; e++) {
            size_t at = (size_t)l * a->experts + e;

            a->place[at] = NOT_HERE;
            if (have && have[at] != node)
                continue;
            while (held == a->room[k]) {
                held = 0;
                k++;
            }
            a->place[at] = (uint16_t)k;
            held++;
        }
    }
    rc = keep_most(a, reterr);
    for (size_t i = 0; !rc && i < (size_t)a->layers * a->experts; i++)
        if (a->place[i] != NOT_HERE)
            rank[i] = (uint16_t)(first + a->place[i]);
    return rc;
}

/* Nodes first, then ranks within each. size[ranks]: experts that each is to have. */
static int place_levels(struct affine *a, const uint32_t *size, uint16_t *rank,
                        struct mt_err *reterr)
{
    const struct cluster *c = &a->t->p->cluster;
    size_t cells = (size_t)a->layers * a->experts;
    uint32_t node_size[PLAN_MAX_RANKS] = {0}, first = 0;
    uint16_t *node = NULL;
    int rc;

    a->places = c->ranks;
    if (c->nodes == 1 || c->nodes == c->ranks)
        return spread(a, size, 0, NULL, 0, rank, reterr);
    node = calloc(cells + 1, sizeof *node);
    if (!node)
        return mt_error(reterr, MT_ENOMEM, "exflow: no memory for nodes");
    for (uint32_t g = 0; g < c->ranks; g++)
        node_size[c->node[g]] += size[g];
    a->places = c->nodes;
    rc = spread(a, node_size, 0, NULL, 0, node, reterr);
    for (uint32_t k = 0; !rc && k < c->nodes; k++, first += a->places) {
        a->places = 0;
        while (first + a->places < c->ranks && c->node[first + a->places] == k)
            a->places++;
        rc = spread(a, size, first, node, (uint16_t)k, rank, reterr);
    }
    free(node);
    return rc;
}

/* --- exchanges over all layers
 * ----------------------------------------------------------------------- */

/* Flow that stays on ranks, or on nodes. */
static double kept_flow(const struct flow_tables *t, const uint16_t *rank, bool nodes)
{
    const uint16_t *node = t->p->cluster.node;
    size_t n = t->p->experts;
    double sum = 0;

    for (uint32_t i = 0; i < t->traces; i++)
        for (uint32_t l = 0; l + 1 < t->p->layers; l++) {
            const uint16_t *a = rank + l * n, *b = a + n;
            uint64_t units = 0;

            for (size_t e = 0; e < n; e++)
                for (size_t f = 0; f < n; f++)
                    if (nodes ? node[a[e]] == node[b[f]] : a[e] == b[f])
                        units += flow_pairs(t, i, l)[e * n + f];
            sum += pair_share(t, i) * (double)units;
        }
    return sum;
}

/* Nodes first. */
static bool keeps_more(const struct flow_tables *t, const uint16_t *a, const uint16_t *b)
{
    double x = kept_flow(t, a, true), y = kept_flow(t, b, true), noise = 1e-12 * (x + y);

    if (x > y + noise || x < y - noise)
        return x > y;
    return kept_flow(t, a, false) > kept_flow(t, b, false);
}

/* Flow of expert e with a rank, or with that rank's node. */
static double worth_at(const struct flow_tables *t, const struct flow_state *s, uint32_t layer,
                       uint32_t e, uint32_t rank, bool nodes)
{
    const struct cluster *c = &t->p->cluster;
    double sum = 0;

    if (!nodes)
        return flow_state_affinity(s, layer, e, rank);
    for (uint32_t g = 0; g < c->ranks; g++)
        if (c->node[g] == c->node[rank])
            sum += flow_state_affinity(s, layer, e, g);
    return sum;
}

/* Exchanges between nodes for what stays on nodes, or within them for what stays on ranks. */
static void anneal_level(const struct flow_tables *t, const struct place_run *run,
                         struct random *random, struct flow_state *s, bool nodes)
{
    const struct place_problem *p = t->p;
    uint64_t moves = (uint64_t)MOVES * p->layers * p->experts;
    double flow = 2.0 * p->topk / p->experts, heat = 0, part = 0;
    bool timed = run->spent && !run->iterations; /* with those a plan follows from the seed */
    double begin = timed ? run->spent(run->user) : 0;
    double until = begin + (0.95 - begin) * (nodes ? 0.5 : 1);

    moves = moves < MAX_MOVES ? moves : MAX_MOVES;

    for (uint64_t i = 0; i < moves && part < 1; i++) {
        uint32_t l = random_below(random, p->layers);
        struct flow_move m = {l, random_below(random, p->experts), random_below(random, p->experts),
                              0};
        const uint16_t *rank = flow_state_ranks(s) + (size_t)l * p->experts;
        uint32_t a = rank[m.e], b = rank[m.f];
        double gain;

        if (i % 256 == 0) {
            if (run->stop && run->stop(run->user))
                return;
            part = (double)i / (double)moves;
            if (timed) /* cold in time, whatever comes first */
                part = fmax(part, (run->spent(run->user) - begin) / (until - begin));
            heat = flow * HOT * pow(COLD / HOT, fmin(1, part));
        }
        if (a == b || (p->cluster.node[a] != p->cluster.node[b]) != nodes)
            continue;
        gain = worth_at(t, s, l, m.e, b, nodes) + worth_at(t, s, l, m.f, a, nodes) -
               worth_at(t, s, l, m.e, a, nodes) - worth_at(t, s, l, m.f, b, nodes);
        if (gain >= 0 || random_unit(random) < exp(gain / heat)) {
            flow_state_try(s, &m);
            flow_state_keep(s, &m);
        }
    }
}

static int anneal(const struct flow_tables *t, const struct place_run *run, uint16_t *rank,
                  struct mt_err *reterr)
{
    const struct cluster *c = &t->p->cluster;
    struct random random = {run->seed};
    struct flow_state *s;
    int rc = flow_state_new(t, rank, &s, reterr);

    if (rc)
        return rc;
    if (c->nodes > 1)
        anneal_level(t, run, &random, s, true);
    if (c->nodes < c->ranks)
        anneal_level(t, run, &random, s, false);
    memcpy(rank, flow_state_ranks(s), (size_t)t->p->layers * t->p->experts * sizeof *rank);
    flow_state_free(s);
    return 0;
}

/* best: a plan; taken over by what the programmes or the annealing find, if that keeps more. */
static int improve(struct affine *a, const uint32_t *size, uint16_t *best, struct mt_err *reterr)
{
    size_t bytes = (size_t)a->layers * a->experts * sizeof *best;
    uint16_t *rank = calloc(1, bytes + 1);
    int rc = rank ? place_levels(a, size, rank, reterr)
                  : mt_error(reterr, MT_ENOMEM, "exflow: no memory for a plan");

    if (!rc && keeps_more(a->t, rank, best))
        memcpy(best, rank, bytes);
    if (!rc) {
        memcpy(rank, best, bytes);
        rc = anneal(a->t, a->run, rank, reterr);
    }
    if (!rc && keeps_more(a->t, rank, best))
        memcpy(best, rank, bytes);
    free(rank);
    return rc;
}

static void put_in_order(const struct place_problem *p, const uint32_t *size, uint16_t *rank)
{
    for (uint32_t l = 0; l < p->layers; l++)
        for (uint32_t g = 0, e = 0; g < p->cluster.ranks; g++)
            for (uint32_t i = 0; i < size[g]; i++)
                rank[(size_t)l * p->experts + e++] = (uint16_t)g;
}

static int make_plan(const struct place_problem *p, const struct place_run *run,
                     const struct flow_tables *t, struct plan *ret, struct mt_err *reterr)
{
    struct affine a = {.t = t, .run = run, .layers = p->layers, .experts = p->experts};
    uint32_t size[PLAN_MAX_RANKS];
    struct plan plan;
    int rc = baseline_sizes(p, size, reterr);

    if (!rc)
        rc = plan_contiguous(p->layers, p->experts, p->cluster.ranks, &plan, reterr);
    if (rc)
        return rc;
    a.place = calloc((size_t)p->layers * p->experts + 1, sizeof *a.place);
    a.worth = calloc((size_t)p->experts * p->cluster.ranks + 1, sizeof *a.worth);
    put_in_order(p, size, plan.rank);
    rc = a.place && a.worth ? improve(&a, size, plan.rank, reterr)
                            : mt_error(reterr, MT_ENOMEM, "exflow: no memory for places");
    free(a.place);
    free(a.worth);
    if (rc)
        plan_done(&plan);
    else
        *ret = plan;
    return rc;
}

int exflow_solve(const struct place_problem *p, const struct place_run *run,
                 struct place_result *ret, struct mt_err *reterr)
{
    struct flow_tables *t;
    struct plan plan;
    int rc = flow_tables_new(p, &t, reterr);

    if (rc)
        return rc;
    if (t->traces == 0)
        rc = mt_error(reterr, MT_EUNSUPPORTED,
                      "exflow: affinity needs token paths, and only loads are known");
    else
        rc = make_plan(p, run, t, &plan, reterr);
    flow_tables_free(t);
    return rc ? rc
              : baseline_result(
                    p, &plan, "exflow",
                    "ExFlow-like: nodes before ranks, search from layers' programmes; no load", ret,
                    reterr);
}
