#include "placement/exact.h"

#include <stdlib.h>
#include <string.h>

#include "placement/exact_table.h"
#include "placement/layer_cost.h"
#include "placement/random.h"

#define STARTS 12
#define ASK_EVERY 4096 /* nodes between two questions whether to stop */

/* Branch and bound, node by node: first the experts of a node, then the division among its ranks,
 * where the lowest expert that is left begins the next rank's. Every term is bounded by what is
 * placed, by the mean of what is left in the node over its free ranks, and by the mean of what is
 * left to later nodes. */
struct search {
    const struct exact_table *t;
    const struct place_run *run;
    uint32_t ranks, nodes;
    uint32_t set[PLAN_MAX_RANKS], best_set[PLAN_MAX_RANKS];
    bool used[PLAN_MAX_RANKS];
    uint32_t first[PLAN_MAX_RANKS + 1];   /* rank of each node */
    uint32_t room[PLAN_MAX_RANKS];        /* slots of each node */
    uint32_t room_after[PLAN_MAX_RANKS];  /* slots of the nodes after it */
    uint32_t ranks_after[PLAN_MAX_RANKS]; /* of the nodes after it */
    uint32_t few_after[PLAN_MAX_RANKS];   /* the fewest ranks of any of them */
    uint32_t many_after[PLAN_MAX_RANKS];  /* the most */
    uint32_t twin[PLAN_MAX_RANKS];        /* the last earlier node just like it, or itself */
    uint32_t of_node[PLAN_MAX_RANKS];     /* experts */
    double best, root;
    double *most;  /* [experts + 1][terms]: over the sets so far */
    double *left;  /* [experts + 1][sums]: of the node's experts without a rank */
    double *into;  /* [experts + 1][traces]: touches, over the node's sets so far */
    double *later; /* [nodes + 1][sums]: of experts without a node */
    double *done;  /* [nodes + 1][terms]: ports of the nodes before */
    double *floor; /* [nodes + 1][terms]: whatever the node's ranks get */
    uint64_t visited;
    bool stopped;
};

/* Where the search stands inside a node. */
struct place_in {
    uint32_t node, depth; /* sets placed so far */
    uint32_t pool, later; /* experts of the node without a rank; without a node */
    uint32_t free, room;  /* ranks of the node without a set; their slots */
};

static bool over(struct search *x)
{
    if (++x->visited % ASK_EVERY == 0 && !x->stopped)
        x->stopped =
            x->visited >= EXACT_MAX_NODES || (x->run && x->run->stop && x->run->stop(x->run->user));
    return x->stopped;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static uint32_t size_of(uint32_t set)
{
    return (uint32_t)__builtin_popcount(set);
}

/* Touches of a trace, as an exchange's term: at least this over the ranks that share the set. */
static double split_term(const struct exact_table *t, uint32_t set, uint32_t trace)
{
    return t->factor[trace] * t->split[(size_t)set * t->traces + trace];
}

static uint32_t elsewhere(const struct search *x, uint32_t node)
{
    return x->ranks - (x->first[node + 1] - x->first[node]);
}

/* With `set` placed: the terms at depth + 1, and their bound. */
static double place_terms(struct search *x, const struct place_in *at, uint32_t set)
{
    const struct exact_table *t = x->t;
    uint32_t pool = at->pool ^ set, scenarios = t->p->scenarios, i;
    uint32_t others = x->first[at->node + 1] - x->first[at->node] - 1;
    size_t row = (size_t)at->depth * t->terms, sum_row = (size_t)at->depth * t->sums;
    const double *v = exact_value(t, set), *most = x->most + row, *left = x->left + sum_row;
    const double *floor = x->floor + (size_t)at->node * t->terms;
    double *to = x->most + row + t->terms, *to_left = x->left + sum_row + t->sums;
    double *into = x->into + (size_t)at->depth * t->traces;
    double share = pool ? 1.0 / (at->free - 1) : 0, bound = t->constant;
    double network = t->p->cluster.two_level ? 0 : t->network * elsewhere(x, at->node);

    for (i = 0; i < scenarios; i++) {
        to_left[i] = left[i] - v[i];
        to[i] = larger(most[i], v[i]);
        bound += larger(larger(to[i], floor[i]), to_left[i] * share);
    }
    for (; i < t->sums; i++) {
        to_left[i] = left[i] - (v[i] - t->latency[i - scenarios]);
        to[i] = larger(most[i], others * v[i]);
        bound += larger(larger(to[i], floor[i]), others * to_left[i] * share);
    }
    for (uint32_t d = 0; i < t->terms; i++, d++) {
        double rest = split_term(t, pool, d);

        to[i] = larger(most[i], others * v[i]);
        rest = larger(larger(to[i], floor[i]), others * rest * share);
        if (network > 0) {
            double in = into[t->traces + d] = into[d] + v[i] - t->latency[i - scenarios];

            in += split_term(t, pool, d);
            rest = larger(rest, network * in + t->node_latency[i - scenarios]);
        }
        bound += rest;
    }
    return bound;
}

/* The port into a node, of a term: vectors of its sets; a port that nothing uses costs nothing. */
static double node_port(const struct search *x, uint32_t term, double vectors, uint32_t outside)
{
    const struct exact_table *t = x->t;

    return vectors > 0 ? t->network * outside * vectors + t->node_latency[term - t->p->scenarios]
                       : 0;
}

/* What later nodes cost at least, whichever way they share `set`, with `sum` the term where it is a
 * sum. */
static double later_bound(const struct search *x, uint32_t node, uint32_t term, uint32_t set,
                          double sum)
{
    const struct exact_table *t = x->t;
    uint32_t nodes = x->nodes - node - 1, d = term - t->sums;
    double ranks, ports;

    if (!set)
        return 0;
    if (term < t->p->scenarios)
        return sum / x->ranks_after[node];
    if (term >= t->sums)
        sum = split_term(t, set, d);
    ranks = (x->few_after[node] - 1) * sum / x->ranks_after[node];
    if (term >= t->sums && t->p->cluster.two_level)
        sum = t->factor[d] * t->touch[(size_t)set * t->traces + d];
    ports = node_port(x, term, sum / nodes, x->ranks - x->many_after[node]);
    return larger(ranks, ports);
}

/* The node gets `set`, later ones `rest`: prepares what place_terms needs, and bounds. */
static double node_terms(struct search *x, uint32_t node, uint32_t depth, uint32_t set,
                         uint32_t rest)
{
    const struct exact_table *t = x->t;
    uint32_t scenarios = t->p->scenarios, ranks = x->first[node + 1] - x->first[node];
    double *left = x->left + (size_t)depth * t->sums;
    double *later = x->later + (size_t)node * t->sums;
    double *floor = x->floor + (size_t)node * t->terms;
    const double *done = x->done + (size_t)node * t->terms;
    const double *most = x->most + (size_t)depth * t->terms;
    double bound = t->constant;

    memset(left, 0, t->sums * sizeof *left);
    for (uint32_t more = set; more; more &= more - 1)
        for (uint32_t i = 0; i < t->sums; i++)
            left[i] += t->expert[(uint32_t)__builtin_ctz(more) * t->sums + i];
    memset(x->into + (size_t)depth * t->traces, 0, t->traces * sizeof *x->into);
    for (uint32_t i = 0; i < t->terms; i++) {
        double sum = i < t->sums ? left[i] : split_term(t, set, i - t->sums), port = sum;

        if (i < t->sums)
            later[t->sums + i] = later[i] - left[i];
        if (i >= t->sums && t->p->cluster.two_level)
            port = t->factor[i - t->sums] * t->touch[(size_t)set * t->traces + i - t->sums];
        floor[i] = later_bound(x, node, i, rest, i < t->sums ? later[t->sums + i] : 0);
        floor[i] = larger(floor[i], done[i]);
        if (i >= scenarios && t->network > 0)
            floor[i] = larger(floor[i], node_port(x, i, port, elsewhere(x, node)));
        sum = sum / ranks * (i < scenarios ? 1 : ranks - 1);
        bound += larger(larger(most[i], floor[i]), sum);
    }
    return bound;
}

/* The node's ports, now that its ranks have their sets: into done of the next node. */
static void finish_node(struct search *x, uint32_t node, uint32_t depth)
{
    const struct exact_table *t = x->t;
    uint32_t set = x->of_node[node];
    double *done = x->done + (size_t)node * t->terms, *to = done + t->terms;
    const double *into = x->into + (size_t)depth * t->traces;

    memcpy(to, done, t->terms * sizeof *to);
    for (uint32_t i = t->p->scenarios; t->network > 0 && i < t->terms; i++) {
        double vectors = 0;

        for (uint32_t more = i < t->sums ? set : 0; more; more &= more - 1)
            vectors += t->expert[(uint32_t)__builtin_ctz(more) * t->sums + i];
        if (i >= t->sums)
            vectors = t->p->cluster.two_level
                          ? t->factor[i - t->sums] * t->touch[(size_t)set * t->traces + i - t->sums]
                          : into[i - t->sums];
        to[i] = larger(done[i], node_port(x, i, vectors, elsewhere(x, node)));
    }
}

/* Of a node's free ranks the one with the fewest slots that suffice: whatever else the others must
 * take, they can take as well. ranks: none. */
static uint32_t candidate(const struct search *x, uint32_t node, uint32_t size)
{
    const uint32_t *slots = x->t->p->cluster.slots;
    uint32_t found = x->ranks;

    for (uint32_t g = x->first[node]; g < x->first[node + 1]; g++)
        if (!x->used[g] && slots[g] >= size && (found == x->ranks || slots[g] < slots[found]))
            found = g;
    return found;
}

static void record(struct search *x)
{
    double cost = exact_cost(x->t, x->set);

    if (cost >= x->best)
        return;
    x->best = cost;
    memcpy(x->best_set, x->set, sizeof x->best_set);
}

static void choose_node(struct search *x, uint32_t node, uint32_t depth, uint32_t rest);

/* Divides the node's pool among its ranks. */
static void divide_node(struct search *x, struct place_in at)
{
    uint32_t low = at.pool & -at.pool, others = at.pool ^ low, more = others;
    const uint32_t *slots = x->t->p->cluster.slots;

    if (!at.pool) {
        finish_node(x, at.node, at.depth);
        choose_node(x, at.node + 1, at.depth, at.later);
        return;
    }
    for (;; more = (more - 1) & others) {
        uint32_t set = more | low, g = x->ranks;

        if (x->t->index[set] != EXACT_NONE)
            g = candidate(x, at.node, size_of(set));
        if (g < x->ranks && size_of(at.pool ^ set) <= at.room - slots[g]) {
            if (over(x))
                return;
            if (place_terms(x, &at, set) < x->best) {
                x->set[g] = set;
                x->used[g] = true;
                divide_node(x, (struct place_in){at.node, at.depth + 1, at.pool ^ set, at.later,
                                                 at.free - 1, at.room - slots[g]});
                x->used[g] = false;
                x->set[g] = 0;
            }
        }
        if (!more)
            return;
    }
}

/* Of nodes that are alike the one with the lowest expert comes first. */
static bool ordered(const struct search *x, uint32_t node, uint32_t set)
{
    uint32_t before = x->of_node[x->twin[node]];

    if (x->twin[node] == node || !set)
        return true;
    return before && (set & -set) > (before & -before);
}

static void choose_node(struct search *x, uint32_t node, uint32_t depth, uint32_t rest)
{
    uint32_t set = rest;

    if (node == x->nodes) {
        record(x);
        return;
    }
    for (;; set = (set - 1) & rest) {
        if (size_of(set) <= x->room[node] && size_of(rest ^ set) <= x->room_after[node] &&
            ordered(x, node, set)) {
            if (over(x))
                return;
            x->of_node[node] = set;
            if (node_terms(x, node, depth, set, rest ^ set) < x->best)
                divide_node(x,
                            (struct place_in){node, depth, set, rest ^ set,
                                              x->first[node + 1] - x->first[node], x->room[node]});
        }
        if (!set)
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
    x->nodes = c->nodes;
    for (uint32_t g = c->ranks; g-- > 0;) {
        x->first[c->node[g]] = g;
        x->room[c->node[g]] += c->slots[g];
    }
    x->first[c->nodes] = c->ranks;
    for (uint32_t a = 0; a < c->nodes; a++) {
        x->twin[a] = a;
        for (uint32_t b = 0; b < a; b++)
            if (twins(c, x->first, a, b))
                x->twin[a] = b;
        x->few_after[a] = c->ranks;
        for (uint32_t b = a + 1; b < c->nodes; b++) {
            uint32_t ranks = x->first[b + 1] - x->first[b];

            x->room_after[a] += x->room[b];
            x->ranks_after[a] += ranks;
            x->few_after[a] = ranks < x->few_after[a] ? ranks : x->few_after[a];
            x->many_after[a] = ranks > x->many_after[a] ? ranks : x->many_after[a];
        }
    }
    x->root = t->constant;
    for (uint32_t i = 0; i < t->sums; i++) {
        for (uint32_t e = 0; e < t->p->experts; e++)
            x->later[i] += t->expert[e * t->sums + i];
        x->root += i < t->p->scenarios ? x->later[i] / c->ranks : 0;
    }
    for (uint32_t d = 0; t->one_node && d < t->traces; d++)
        x->root += split_term(t, all, d) / c->ranks * (c->ranks - 1);
}

static void search_layer(struct search *x)
{
    prepare(x);
    x->best = 1e300;
    for (uint32_t i = 0; i < STARTS; i++)
        start(x, i);
    choose_node(x, 0, 0, (1u << x->t->p->experts) - 1);
}

static bool search_new(struct search *x)
{
    const struct exact_table *t = x->t;
    size_t experts = t->p->experts + 1, nodes = t->p->cluster.nodes + 1;

    x->most = calloc(experts * t->terms, sizeof *x->most);
    x->left = calloc(experts * t->sums, sizeof *x->left);
    x->into = calloc(experts * t->traces + 1, sizeof *x->into);
    x->later = calloc(nodes * t->sums, sizeof *x->later);
    x->done = calloc(nodes * t->terms, sizeof *x->done);
    x->floor = calloc(nodes * t->terms, sizeof *x->floor);
    return x->most && x->left && x->into && x->later && x->done && x->floor;
}

static void search_done(struct search *x)
{
    free(x->most);
    free(x->left);
    free(x->into);
    free(x->later);
    free(x->done);
    free(x->floor);
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
    if (search_new(&x)) {
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
    search_done(&x);
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
        struct exact_layer layer = {.optimal = false};

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
