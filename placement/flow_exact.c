/* The exact chain: layers' placements as states, the cost of one in its load, of two in their
 * exchange, whatever form the exchange has. Ranks that are alike can be renamed, so that one
 * placement of each kind is kept for a layer (canonical) and the next layer's are tried under all
 * names. What a state costs and at least will cost is held against the best plan known: with
 * little between, few states remain. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/flow_tables.h"

#define MAX_EXPERTS 12
#define MAX_CANONICAL 20000
#define MAX_NAMES 50000
#define MAX_WORK 500000000ull /* units of an exchange's cells */
#define TIME_PART 0.5         /* of a search's time; the rest is for what does not prove */
#define ROUNDING 1e-12

struct chain {
    const struct flow_tables *t;
    const struct place_run *run;
    uint32_t ranks, experts, layers, nodes;
    uint16_t *state; /* [states][experts]: canonical placements */
    uint32_t states;
    uint16_t *name; /* [names][ranks]: ways to rename ranks that are alike */
    uint32_t names;
    double *load;   /* [layers][states] */
    double *rest;   /* [layers]: what follows the layer costs at least */
    double *cost;   /* [layers][states]: INFINITY where it cannot be in a better plan */
    uint32_t *back; /* [layers][states]: state of the layer before */
    uint32_t *back_name;
    double limit;
    uint64_t work;
    /* scratch */
    uint64_t *row; /* [traces][ranks][experts] */
    uint64_t *m, *renamed, *between;
    struct flow_port *port;
};

/* Ranks that can be renamed into each other: of nodes of one size, if all have the same slots. */
static bool may_rename(const struct cluster *c, const uint16_t *name)
{
    for (uint32_t g = 0; g < c->ranks; g++)
        for (uint32_t h = 0; h < g; h++)
            if ((c->node[g] == c->node[h]) != (c->node[name[g]] == c->node[name[h]]))
                return false;
    for (uint32_t g = 0; g < c->ranks; g++)
        if (c->slots[g] != c->slots[name[g]])
            return false;
    return true;
}

/* All ways to rename; false if there are too many to list. Nodes map to nodes as a whole, which is
 * checked along the way so that few orders are tried. */
static bool list_names(struct chain *k, uint32_t at, uint16_t *name, bool *used)
{
    const struct cluster *c = &k->t->p->cluster;

    if (at == k->ranks) {
        if (!may_rename(c, name))
            return true;
        if (k->names == MAX_NAMES)
            return false;
        memcpy(k->name + (size_t)k->names++ * k->ranks, name, k->ranks * sizeof *name);
        return true;
    }
    for (uint32_t g = 0; g < k->ranks; g++) {
        bool fits = !used[g] && c->slots[g] == c->slots[at];

        if (at > 0)
            fits =
                fits && (c->node[at] == c->node[at - 1]) == (c->node[g] == c->node[name[at - 1]]);
        if (!fits)
            continue;
        used[g] = true;
        name[at] = (uint16_t)g;
        if (!list_names(k, at + 1, name, used))
            return false;
        used[g] = false;
    }
    return true;
}

/* Whether no other name of the placement comes first: an expert goes to the first of the ranks that
 * are alike and empty so far. */
static bool is_canonical(struct chain *k, const uint16_t *rank, uint32_t n)
{
    k->work += k->names;
    for (uint32_t i = 0; i < k->names; i++) {
        const uint16_t *name = k->name + (size_t)i * k->ranks;
        uint32_t e = 0;

        while (e < n && name[rank[e]] == rank[e])
            e++;
        if (e < n && name[rank[e]] < rank[e])
            return false;
    }
    return true;
}

static bool list_states(struct chain *k, uint32_t e, uint16_t *rank, uint32_t *left)
{
    if (e > 0 && !is_canonical(k, rank, e))
        return true;
    if (e == k->experts) {
        if (k->states == MAX_CANONICAL || k->work > MAX_WORK)
            return false;
        memcpy(k->state + (size_t)k->states++ * k->experts, rank, k->experts * sizeof *rank);
        return true;
    }
    for (uint32_t g = 0; g < k->ranks; g++) {
        if (!left[g])
            continue;
        left[g]--;
        rank[e] = (uint16_t)g;
        if (!list_states(k, e + 1, rank, left))
            return false;
        left[g]++;
    }
    return true;
}

static double load_cost(const struct chain *k, uint32_t layer, const uint16_t *rank)
{
    int64_t sum = 0;

    for (uint32_t s = 0; s < k->t->p->scenarios; s++) {
        const int64_t *w = flow_weight(k->t, s, layer);
        int64_t load[PLAN_MAX_RANKS] = {0}, worst = 0;

        for (uint32_t e = 0; e < k->experts; e++)
            load[rank[e]] += w[e];
        for (uint32_t g = 0; g < k->ranks; g++)
            worst = load[g] > worst ? load[g] : worst;
        sum += worst;
    }
    return (double)sum * k->t->unit;
}

static int fill_bounds(struct chain *k, struct mt_err *reterr)
{
    for (uint32_t l = k->layers; l-- > 0;) {
        double least = INFINITY, exchange = 0;
        int rc = 0;

        for (uint32_t s = 0; s < k->states; s++) {
            double x = load_cost(k, l, k->state + (size_t)s * k->experts);

            k->load[(size_t)l * k->states + s] = x;
            least = fmin(least, x);
        }
        if (l == 0)
            break;
        rc = flow_exchange_bound(k->t, l - 1, &exchange, reterr);
        if (rc)
            return rc;
        k->rest[l - 1] = k->rest[l] + least + exchange;
    }
    return 0;
}

/* --- steps
 * ----------------------------------------------------------------------------------------- */

/* row[trace][rank][expert of the next layer]: pairs from the experts that a state puts on a rank.
 */
static void fill_rows(struct chain *k, uint32_t layer, const uint16_t *rank)
{
    memset(k->row, 0, (size_t)k->t->traces * k->ranks * k->experts * sizeof *k->row);
    for (uint32_t i = 0; i < k->t->traces; i++) {
        const uint32_t *pairs = flow_pairs(k->t, i, layer);

        for (uint32_t e = 0; e < k->experts; e++)
            for (uint32_t f = 0; f < k->experts; f++)
                k->row[((size_t)i * k->ranks + rank[e]) * k->experts + f] +=
                    pairs[(size_t)e * k->experts + f];
    }
}

/* m[trace][from][to] for a canonical state of the next layer. */
static void fill_flows(struct chain *k, const uint16_t *rank)
{
    size_t cells = (size_t)k->ranks * k->ranks;

    memset(k->m, 0, k->t->traces * cells * sizeof *k->m);
    for (uint32_t i = 0; i < k->t->traces; i++)
        for (uint32_t g = 0; g < k->ranks; g++)
            for (uint32_t f = 0; f < k->experts; f++)
                k->m[i * cells + (size_t)g * k->ranks + rank[f]] +=
                    k->row[((size_t)i * k->ranks + g) * k->experts + f];
}

static double exchange_cost(struct chain *k, const uint16_t *name, double enough)
{
    size_t cells = (size_t)k->ranks * k->ranks;
    double sum = 0;

    for (uint32_t i = 0; i < k->t->traces && sum < enough; i++) {
        for (uint32_t g = 0; g < k->ranks; g++)
            for (uint32_t h = 0; h < k->ranks; h++)
                k->renamed[(size_t)g * k->ranks + name[h]] =
                    k->m[i * cells + (size_t)g * k->ranks + h];
        flow_fill_ports(&k->t->p->cluster, k->renamed, k->between, k->port);
        sum += flow_ports_cost(k->t, i, k->port);
    }
    k->work += k->t->traces * cells;
    return sum;
}

/* No names keep more on ranks than the best rank for each rank's flow. */
static bool is_hopeless(const struct chain *k, double room)
{
    size_t cells = (size_t)k->ranks * k->ranks;
    double sum = 0;

    for (uint32_t i = 0; i < k->t->traces; i++) {
        uint64_t cross = 0;

        for (uint32_t g = 0; g < k->ranks; g++) {
            uint64_t most = 0;

            for (uint32_t h = 0; h < k->ranks; h++) {
                uint64_t units = k->m[i * cells + (size_t)g * k->ranks + h];

                cross += units;
                most = units > most ? units : most;
            }
            cross -= most;
        }
        sum += flow_cross_bound(k->t, i, (double)cross, 0);
    }
    return sum * (1 - ROUNDING) > room;
}

static bool must_end(const struct chain *k)
{
    const struct place_run *run = k->run;

    return k->work > MAX_WORK || (run->stop && run->stop(run->user)) ||
           (!run->iterations && run->spent && run->spent(run->user) > TIME_PART);
}

/* From state a of the layer to all of the next; false: stopped, or too much work. */
static bool step_from(struct chain *k, uint32_t layer, uint32_t a, double exchange_bound)
{
    double base = k->cost[(size_t)layer * k->states + a];
    bool rows = false;

    for (uint32_t b = 0; b < k->states; b++) {
        size_t at = (size_t)(layer + 1) * k->states + b;
        double room = fmin(k->limit - k->rest[layer + 1], k->cost[at]) - base - k->load[at];

        if (exchange_bound > room)
            continue;
        if (!rows)
            fill_rows(k, layer, k->state + (size_t)a * k->experts);
        rows = true;
        fill_flows(k, k->state + (size_t)b * k->experts);
        k->work += k->t->traces * k->ranks * k->experts;
        for (uint32_t n = is_hopeless(k, room) ? k->names : 0; n < k->names; n++) {
            double x = exchange_cost(k, k->name + (size_t)n * k->ranks, room);

            if (x < room) {
                room = x;
                k->cost[at] = base + k->load[at] + x;
                k->back[at] = a;
                k->back_name[at] = n;
            }
        }
        if (must_end(k))
            return false;
    }
    return true;
}

static bool step_all(struct chain *k, struct mt_err *reterr, int *ret_rc)
{
    for (uint32_t l = 0; l + 1 < k->layers; l++) {
        double exchange = 0;

        *ret_rc = flow_exchange_bound(k->t, l, &exchange, reterr);
        if (*ret_rc)
            return false;
        for (uint32_t a = 0; a < k->states; a++) {
            if (isinf(k->cost[(size_t)l * k->states + a]))
                continue;
            if (!step_from(k, l, a, exchange * (1 - ROUNDING)))
                return false;
        }
    }
    return true;
}

/* The best state of the last layer, and names composed on the way back. */
static bool trace_back(const struct chain *k, uint16_t *io_rank, double *io_cost)
{
    size_t last = (size_t)(k->layers - 1) * k->states;
    uint32_t at = 0;
    uint16_t name[PLAN_MAX_RANKS] = {0};

    for (uint32_t s = 1; s < k->states; s++)
        if (k->cost[last + s] < k->cost[last + at])
            at = s;
    if (isinf(k->cost[last + at]) || k->cost[last + at] >= *io_cost)
        return false;
    *io_cost = k->cost[last + at];
    /* Layer l is its canonical state under the names of the layers before it, which come out from
     * behind: first the chain of states and names, then the ranks from the front. */
    for (uint32_t l = k->layers; l-- > 0;) {
        io_rank[(size_t)l * k->experts] = (uint16_t)at; /* remembered here for a moment */
        at = l > 0 ? k->back[(size_t)l * k->states + at] : 0;
    }
    for (uint32_t g = 0; g < k->ranks; g++)
        name[g] = (uint16_t)g;
    for (uint32_t l = 0; l < k->layers; l++) {
        uint32_t s = io_rank[(size_t)l * k->experts];
        const uint16_t *rank = k->state + (size_t)s * k->experts;
        uint16_t before[PLAN_MAX_RANKS];

        memcpy(before, name, sizeof before);
        if (l > 0) {
            const uint16_t *own =
                k->name + (size_t)k->back_name[(size_t)l * k->states + s] * k->ranks;

            for (uint32_t g = 0; g < k->ranks; g++)
                name[g] = before[own[g]];
        }
        for (uint32_t e = 0; e < k->experts; e++)
            io_rank[(size_t)l * k->experts + e] = name[rank[e]];
    }
    return true;
}

/* --- the whole
 * ------------------------------------------------------------------------------------- */

static void chain_done(struct chain *k)
{
    free(k->state);
    free(k->name);
    free(k->load);
    free(k->rest);
    free(k->cost);
    free(k->back);
    free(k->back_name);
    free(k->row);
    free(k->m);
    free(k->renamed);
    free(k->between);
    free(k->port);
}

static bool allocate_lists(struct chain *k)
{
    k->state = calloc((size_t)MAX_CANONICAL * k->experts, sizeof *k->state);
    k->name = calloc((size_t)MAX_NAMES * k->ranks + 1, sizeof *k->name);
    return k->state && k->name;
}

static bool allocate_tables(struct chain *k)
{
    size_t cells = (size_t)k->ranks * k->ranks, traces = k->t->traces;
    size_t table = (size_t)k->layers * k->states;

    k->load = calloc(table + 1, sizeof *k->load);
    k->rest = calloc(k->layers + 1u, sizeof *k->rest);
    k->cost = calloc(table + 1, sizeof *k->cost);
    k->back = calloc(table + 1, sizeof *k->back);
    k->back_name = calloc(table + 1, sizeof *k->back_name);
    k->row = calloc(traces * k->ranks * k->experts + 1, sizeof *k->row);
    k->m = calloc(traces * cells + 1, sizeof *k->m);
    k->renamed = calloc(cells + 1, sizeof *k->renamed);
    k->between = calloc((size_t)k->nodes * k->nodes + 1, sizeof *k->between);
    k->port = calloc(2 * ((size_t)k->ranks + k->nodes) + 1, sizeof *k->port);
    return k->load && k->rest && k->cost && k->back && k->back_name && k->row && k->m &&
           k->renamed && k->between && k->port;
}

static int run_chain(struct chain *k, uint16_t *io_rank, double *io_cost, bool *ret_done,
                     struct mt_err *reterr)
{
    int rc = fill_bounds(k, reterr);

    if (rc)
        return rc;
    k->limit = *io_cost * (1 + ROUNDING);
    for (size_t i = 0; i < (size_t)k->layers * k->states; i++)
        k->cost[i] = INFINITY;
    for (uint32_t s = 0; s < k->states; s++)
        if (k->load[s] + k->rest[0] <= k->limit)
            k->cost[s] = k->load[s];
    *ret_done = step_all(k, reterr, &rc);
    if (!rc && *ret_done)
        trace_back(k, io_rank, io_cost);
    return rc;
}

int flow_exact(const struct flow_tables *t, const struct place_run *run, uint16_t *io_rank,
               double *io_cost, bool *ret_done, struct mt_err *reterr)
{
    const struct cluster *c = &t->p->cluster;
    struct chain k = {.t = t,
                      .run = run,
                      .ranks = c->ranks,
                      .experts = t->p->experts,
                      .layers = t->p->layers,
                      .nodes = c->nodes};
    uint16_t name[PLAN_MAX_RANKS], rank[MAX_EXPERTS];
    uint32_t left[PLAN_MAX_RANKS];
    bool used[PLAN_MAX_RANKS] = {false};
    int rc = 0;

    *ret_done = false;
    if (k.experts > MAX_EXPERTS || k.ranks > MAX_EXPERTS)
        return 0;
    memcpy(left, c->slots, sizeof left);
    if (!allocate_lists(&k))
        rc = mt_error(reterr, MT_ENOMEM, "flow: no memory for placements");
    else if (list_names(&k, 0, name, used) && list_states(&k, 0, rank, left))
        rc = allocate_tables(&k) ? run_chain(&k, io_rank, io_cost, ret_done, reterr)
                                 : mt_error(reterr, MT_ENOMEM, "flow: no memory for placements");
    chain_done(&k);
    return rc;
}
