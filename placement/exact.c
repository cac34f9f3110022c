#include "placement/exact.h"

#include <stdlib.h>
#include <string.h>

#include "placement/exact_table.h"
#include "placement/layer_cost.h"
#include "placement/random.h"

#define STARTS 12
#define ASK_EVERY 4096 /* nodes between two questions whether to stop */

/* Branch and bound: the lowest expert that is left begins the next set, which one of the free ranks
 * takes. Bounded by the terms of the sets so far and the means of what is left over the ranks that
 * are left. */
struct search {
    const struct exact_table *t;
    const struct place_run *run;
    uint32_t ranks, nodes_of_cluster;
    uint32_t set[PLAN_MAX_RANKS], best_set[PLAN_MAX_RANKS];
    bool used[PLAN_MAX_RANKS];
    uint32_t first[PLAN_MAX_RANKS + 1]; /* of each node */
    uint32_t used_of[PLAN_MAX_RANKS];   /* ranks in use of each node */
    uint32_t twin[PLAN_MAX_RANKS];      /* an earlier node just like it, or itself */
    double best, root;
    double *most; /* [experts + 1][terms]: over the sets so far */
    double *rest; /* [experts + 1][sums]: over the experts left */
    uint64_t visited;
    bool stopped;
};

static bool over(struct search *x)
{
    if (++x->visited % ASK_EVERY == 0 && !x->stopped)
        x->stopped = x->visited >= EXACT_MAX_NODES ||
                     (x->run && x->run->stop && x->run->stop(x->run->user));
    return x->stopped;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* With set placed at depth: the terms at depth + 1, and the bound without several nodes' traffic.
 */
static double place_terms(struct search *x, uint32_t depth, uint32_t set, uint32_t rest,
                          uint32_t left)
{
    const struct exact_table *t = x->t;
    const double *v = exact_value(t, set), *most = x->most + (size_t)depth * t->terms;
    const double *sum = x->rest + (size_t)depth * t->sums;
    const uint32_t *touch = t->touch + (size_t)rest * t->traces;
    double *to = x->most + (size_t)(depth + 1) * t->terms;
    double *to_sum = x->rest + (size_t)(depth + 1) * t->sums;
    double share = rest ? 1.0 / left : 0, bound = t->constant;
    uint32_t i;

    for (i = 0; i < t->sums; i++) {
        to_sum[i] = sum[i] - v[i];
        to[i] = larger(most[i], v[i]);
        bound += larger(to[i], to_sum[i] * share);
    }
    for (; i < t->terms; i++) {
        to[i] = larger(most[i], v[i]);
        bound += larger(to[i], t->factor[i - t->sums] * touch[i - t->sums] * share);
    }
    return bound;
}

/* Of a node's free ranks the one with the fewest slots that suffice: whatever else the others must
 * take, they can take as well. ranks: none. */
static uint32_t candidate(const struct search *x, uint32_t node, uint32_t size)
{
    const uint32_t *slots = x->t->p->cluster.slots;
    uint32_t found = x->ranks;

    if (x->used_of[node] == 0)
        for (uint32_t a = x->twin[node]; a < node; a++)
            if (x->twin[a] == x->twin[node] && x->used_of[a] == 0)
                return x->ranks;
    for (uint32_t g = x->first[node]; g < x->first[node + 1]; g++)
        if (!x->used[g] && slots[g] >= size && (found == x->ranks || slots[g] < slots[found]))
            found = g;
    return found;
}

static void record(struct search *x, double cost)
{
    if (cost >= x->best)
        return;
    x->best = cost;
    memcpy(x->best_set, x->set, sizeof x->best_set);
}

static void descend(struct search *x, uint32_t depth, uint32_t rest, uint32_t left, uint32_t room);

/* The set on rank g. */
static void try_rank(struct search *x, uint32_t depth, uint32_t set, uint32_t rest, uint32_t left,
                     uint32_t room, uint32_t g)
{
    const struct exact_table *t = x->t;
    uint32_t node = t->p->cluster.node[g];
    double bound;

    if ((uint32_t)__builtin_popcount(rest) > room - t->p->cluster.slots[g])
        return;
    bound = place_terms(x, depth, set, rest, left - 1);
    if (bound >= x->best)
        return;
    x->set[g] = set;
    if (!t->one_node && bound + exact_traffic_bound(t, x->set) >= x->best) {
        x->set[g] = 0;
        return;
    }
    x->used[g] = true;
    x->used_of[node]++;
    if (!rest)
        record(x, t->one_node ? bound : exact_cost(t, x->set));
    else
        descend(x, depth + 1, rest, left - 1, room - t->p->cluster.slots[g]);
    x->used[g] = false;
    x->used_of[node]--;
    x->set[g] = 0;
}

/* rest: experts without a rank; left: ranks without a set; room: their slots. */
static void descend(struct search *x, uint32_t depth, uint32_t rest, uint32_t left, uint32_t room)
{
    uint32_t low = rest & -rest, others = rest ^ low, more = others;

    for (;; more = (more - 1) & others) {
        uint32_t set = more | low;

        if (x->t->index[set] != EXACT_NONE) {
            if (over(x))
                return;
            for (uint32_t node = 0; node < x->nodes_of_cluster; node++) {
                uint32_t g = candidate(x, node, (uint32_t)__builtin_popcount(set));

                if (g < x->ranks)
                    try_rank(x, depth, set, rest ^ set, left, room, g);
            }
        }
        if (!more)
            return;
    }
}

/* Exchanges and moves of single experts until none helps. */
static double improve(struct search *x, uint32_t *set)
{
    const uint32_t *slots = x->t->p->cluster.slots;
    double cost = exact_cost(x->t, set);
    bool better = true;

    while (better) {
        better = false;
        for (uint32_t a = 0; a < x->ranks; a++)
            for (uint32_t b = 0; b < x->ranks; b++) {
                uint32_t was_a = set[a], was_b = set[b];

                for (uint32_t i = was_a; a != b && i; i &= i - 1)
                    for (uint32_t j = was_b, done = 0; !done; j &= j - 1) {
                        uint32_t out = i & -i, in = j & -j;
                        double now;

                        done = !j; /* the last round moves without an exchange */
                        if ((!in && (uint32_t)__builtin_popcount(set[b]) >= slots[b]) ||
                            !(set[a] & out) || (set[b] & in) != in)
                            continue;
                        set[a] ^= out | in;
                        set[b] ^= out | in;
                        now = exact_cost(x->t, set);
                        if (now < cost * (1 - 1e-12)) {
                            cost = now;
                            better = true;
                            continue;
                        }
                        set[a] ^= out | in;
                        set[b] ^= out | in;
                    }
            }
    }
    return cost;
}

/* A good plan to begin with lets the search drop most of the tree. */
static void start(struct search *x, uint32_t round)
{
    const struct cluster *c = &x->t->p->cluster;
    struct random r = {round};
    uint32_t set[PLAN_MAX_RANKS] = {0};
    double cost;

    for (uint32_t e = 0; e < x->t->p->experts; e++) {
        uint32_t g = random_below(&r, c->ranks);

        while ((uint32_t)__builtin_popcount(set[g]) >= c->slots[g])
            g = (g + 1) % c->ranks;
        set[g] |= 1u << e;
    }
    cost = improve(x, set);
    if (cost < x->best) {
        x->best = cost;
        memcpy(x->best_set, set, sizeof set);
    }
}

static bool twins(const struct cluster *c, const uint32_t *first, uint32_t a, uint32_t b)
{
    if (first[a + 1] - first[a] != first[b + 1] - first[b])
        return false;
    for (uint32_t i = 0; i < first[a + 1] - first[a]; i++)
        if (c->slots[first[a] + i] != c->slots[first[b] + i])
            return false;
    return true;
}

static void prepare(struct search *x)
{
    const struct cluster *c = &x->t->p->cluster;
    const struct exact_table *t = x->t;
    uint32_t all = (1u << t->p->experts) - 1;

    x->ranks = c->ranks;
    x->nodes_of_cluster = c->nodes;
    for (uint32_t g = c->ranks; g-- > 0;)
        x->first[c->node[g]] = g;
    x->first[c->nodes] = c->ranks;
    for (uint32_t a = 0; a < c->nodes; a++) {
        x->twin[a] = a;
        for (uint32_t b = a; b-- > 0;)
            if (twins(c, x->first, a, b))
                x->twin[a] = b;
    }
    x->root = t->constant;
    for (uint32_t e = 0; e < t->p->experts; e++)
        for (uint32_t i = 0; i < t->sums; i++)
            x->rest[i] += exact_value(t, 1u << e)[i];
    for (uint32_t i = 0; i < t->sums; i++)
        x->root += x->rest[i] / c->ranks;
    for (uint32_t i = t->sums; i < t->terms; i++)
        x->root += t->factor[i - t->sums] * t->touch[(size_t)all * t->traces + i - t->sums] /
                   c->ranks;
}

/* The lower the first expert's index, the sooner it is placed. */
static void search_layer(struct search *x)
{
    const struct place_problem *p = x->t->p;
    uint32_t room = 0;

    prepare(x);
    x->best = 1e300;
    for (uint32_t i = 0; i < STARTS; i++)
        start(x, i);
    for (uint32_t g = 0; g < x->ranks; g++)
        room += p->cluster.slots[g];
    descend(x, 0, (1u << p->experts) - 1, x->ranks, room);
}

const char *exact_refuses(const struct place_problem *p)
{
    if (p->experts > EXACT_MAX_EXPERTS)
        return "more than 16 experts";
    return layer_cost_refuses(p);
}

static int refused(const struct place_problem *p, struct mt_err *reterr)
{
    return mt_error(reterr, MT_EUNSUPPORTED, "exact: %s", exact_refuses(p));
}

int exact_layer(const struct place_problem *p, uint32_t layer, const struct place_run *run,
                struct exact_layer *ret, uint64_t *ret_nodes, struct mt_err *reterr)
{
    struct exact_table t;
    struct search x = {.t = &t, .run = run};
    int rc;

    if (exact_refuses(p))
        return refused(p, reterr);
    rc = exact_table_new(p, layer, &t, reterr);
    if (rc)
        return rc;
    x.most = calloc((size_t)(p->experts + 1) * t.terms, sizeof *x.most);
    x.rest = calloc((size_t)(p->experts + 1) * t.sums, sizeof *x.rest);
    if (x.most && x.rest) {
        search_layer(&x);
        ret->seconds = exact_cost(&t, x.best_set);
        ret->optimal = !x.stopped;
        ret->bound = x.stopped ? x.root : ret->seconds;
        for (uint32_t g = 0; g < x.ranks; g++)
            for (uint32_t set = x.best_set[g]; set; set &= set - 1)
                ret->rank[__builtin_ctz(set)] = (uint8_t)g;
        if (ret_nodes)
            *ret_nodes += x.visited;
    } else
        rc = mt_error(reterr, MT_ENOMEM, "exact: no memory for a search over %u experts",
                      p->experts);
    free(x.most);
    free(x.rest);
    exact_table_done(&t);
    return rc;
}

int exact_solve(const struct place_problem *p, const struct place_run *run,
                struct exact_result *ret, struct mt_err *reterr)
{
    struct exact_result r = {.optimal = true};
    uint8_t *held;
    size_t row = p->cluster.ranks;
    int rc = 0;

    if (exact_refuses(p))
        return refused(p, reterr);
    held = calloc((size_t)p->layers * p->experts * row, 1);
    if (!held)
        return mt_error(reterr, MT_ENOMEM, "exact: no memory for a plan of %u layers", p->layers);
    for (uint32_t l = 0; l < p->layers && !rc; l++) {
        struct exact_layer layer;

        rc = exact_layer(p, l, run, &layer, &r.nodes, reterr);
        if (rc)
            break;
        r.objective += layer.seconds;
        r.bound += layer.bound;
        r.optimal &= layer.optimal;
        for (uint32_t e = 0; e < p->experts; e++)
            held[((size_t)l * p->experts + e) * row + layer.rank[e]] = 1;
    }
    if (!rc)
        rc = plan_from_held(p->layers, p->experts, p->cluster.ranks, held, &r.plan, reterr);
    free(held);
    if (!rc)
        *ret = r;
    return rc;
}

void exact_done(struct exact_result *r)
{
    plan_done(&r->plan);
}
