/* ILP 2: a rank for each cluster.
 *
 * Only relative labels count between ranks whose links are alike, so on one node the chain of
 * layers falls apart into one assignment for each pair of layers. With nodes the state of a layer
 * is which clusters each node has; ranks within a node are again an assignment, and the states'
 * chain is a shortest path, whose linear programme is integral. Where there are too many states:
 * sweeps of assignments with the neighbours fixed, then exchanges. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/lp.h"
#include "placement/moetuner.h"

#define MAX_STATES 128
#define MAX_TRIED 6 /* clusters of a node whose orders are all tried: 720 */
#define SWEEPS 4
#define QUICK_STATES 10 /* a path over more takes up to a second */

static double flow_between(const struct moetuner *m, uint32_t l, uint32_t c, uint32_t d)
{
    return m->between[((size_t)l * m->ranks + c) * m->ranks + d];
}

double moetuner_pair_cost(const struct moetuner *m, uint32_t l, const uint16_t *a,
                          const uint16_t *b)
{
    double sum = 0, most = 0;

    for (uint32_t c = 0; c < m->ranks; c++) {
        const double *wire = m->wire + (size_t)a[c] * m->ranks;

        for (uint32_t d = 0; d < m->ranks; d++) {
            double x = flow_between(m, l, c, d) * wire[b[d]];

            sum += x;
            most = fmax(most, x);
        }
    }
    return m->max_form ? most : sum;
}

double moetuner_cost(const struct moetuner *m)
{
    double sum = 0;

    for (uint32_t l = 0; l + 1 < m->layers; l++)
        sum += moetuner_pair_cost(m, l, m->label + (size_t)l * m->ranks,
                                  m->label + (size_t)(l + 1) * m->ranks);
    return sum;
}

/* --- one node, one pair of layers ------------------------------------------------------------- */

/* Clusters a[] of layer l on n ranks of one node, b[] of layer l + 1 for the same ranks. */
struct node_pair {
    const struct moetuner *m;
    uint32_t l, n;
    const uint16_t *a, *b;
    double wire; /* between two ranks of the node */
};

/* Cost if b[to[i]] joins a[i]; *ret_kept: the flow that stays on ranks. */
static double joined_cost(const struct node_pair *p, const uint32_t *to, double *ret_kept)
{
    double sum = 0, most = 0, kept = 0;

    for (uint32_t i = 0; i < p->n; i++)
        for (uint32_t k = 0; k < p->n; k++) {
            double x = flow_between(p->m, p->l, p->a[i], p->b[k]);

            if (to[i] == k) {
                kept += x;
            } else {
                sum += x;
                most = fmax(most, x);
            }
        }
    *ret_kept = kept;
    return p->wire * (p->m->max_form ? most : sum);
}

static bool next_order(uint32_t n, uint32_t *order)
{
    uint32_t i = n - 1, k = n - 1, tmp;

    while (i > 0 && order[i - 1] >= order[i])
        i--;
    if (i == 0)
        return false;
    while (order[k] <= order[i - 1])
        k--;
    tmp = order[i - 1];
    order[i - 1] = order[k];
    order[k] = tmp;
    for (k = n - 1; i < k; i++, k--) {
        tmp = order[i];
        order[i] = order[k];
        order[k] = tmp;
    }
    return true;
}

/* All orders; of equal costs the one that keeps most. */
static double join_by_trying(const struct node_pair *p, uint32_t *ret)
{
    uint32_t order[MAX_TRIED] = {0};
    double best = INFINITY, best_kept = 0;

    for (uint32_t i = 0; i < p->n; i++)
        order[i] = i;
    do {
        double kept, cost = joined_cost(p, order, &kept);

        if (cost < best || (cost <= best && kept > best_kept)) {
            best = cost;
            best_kept = kept;
            memcpy(ret, order, p->n * sizeof *ret);
        }
    } while (next_order(p->n, order));
    return best;
}

struct entry {
    double flow;
    uint32_t i, k;
};

static int by_falling_flow(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;

    if (a->flow > b->flow || a->flow < b->flow)
        return a->flow > b->flow ? -1 : 1;
    return (a->i * PLAN_MAX_RANKS + a->k > b->i * PLAN_MAX_RANKS + b->k) ? 1 : -1;
}

/* Max form: the largest flow that has to leave its rank. Flows, largest first, can all be kept
 * until one shares a cluster with one before it; any partial matching can be completed. What must
 * be kept is marked in keep[n][n]. */
static int mark_kept(const struct node_pair *p, bool *keep, struct mt_err *reterr)
{
    size_t cells = (size_t)p->n * p->n;
    struct entry *e = calloc(cells + 1, sizeof *e);
    bool a[PLAN_MAX_RANKS] = {false}, b[PLAN_MAX_RANKS] = {false};

    if (!e)
        return mt_error(reterr, MT_ENOMEM, "moetuner: no memory for ILP 2");
    for (size_t i = 0; i < cells; i++) {
        uint32_t row = (uint32_t)(i / p->n), column = (uint32_t)(i % p->n);

        e[i] = (struct entry){flow_between(p->m, p->l, p->a[row], p->b[column]), row, column};
    }
    qsort(e, cells, sizeof *e, by_falling_flow);
    for (size_t i = 0; i < cells && !a[e[i].i] && !b[e[i].k]; i++)
        a[e[i].i] = b[e[i].k] = keep[(size_t)e[i].i * p->n + e[i].k] = true;
    free(e);
    return 0;
}

/* ret[i]: which of b joins a[i]. */
static int join(struct moetuner *m, const struct node_pair *p, uint32_t *ret, struct mt_err *reterr)
{
    size_t cells = (size_t)p->n * p->n;
    double *cost = calloc(cells + 1, sizeof *cost), total = 0;
    bool *keep = calloc(cells + 1, sizeof *keep);
    int rc = cost && keep ? 0 : mt_error(reterr, MT_ENOMEM, "moetuner: no memory for ILP 2");

    if (!rc && m->max_form)
        rc = mark_kept(p, keep, reterr);
    for (size_t i = 0; !rc && i < cells; i++) {
        cost[i] = -flow_between(m, p->l, p->a[i / p->n], p->b[i % p->n]);
        total -= cost[i];
    }
    for (size_t i = 0; !rc && i < cells; i++)
        if (keep[i])
            cost[i] -= total;
    if (!rc)
        rc = lp_assign(p->n, cost, ret, reterr);
    m->solves++;
    free(cost);
    free(keep);
    return rc;
}

/* --- states: which node has which cluster ----------------------------------------------------- */

struct states {
    uint32_t n, ranks, nodes;
    uint32_t size[PLAN_MAX_RANKS]; /* ranks of each node */
    uint16_t *node;                /* [n][ranks]: the node of each cluster */
    uint16_t *canonical; /* [n]: the state that it is with nodes of one size renamed, by number */
    uint16_t *number;    /* [n]: of a canonical state among these */
    uint32_t canonicals;
};

/* All ways to give clusters to nodes; false if there are more than MAX_STATES. */
static bool list_states(struct states *s, uint32_t at, uint16_t *node, uint32_t *left)
{
    if (at == s->ranks) {
        if (s->n == MAX_STATES)
            return false;
        memcpy(s->node + (size_t)s->n++ * s->ranks, node, s->ranks * sizeof *node);
        return true;
    }
    for (uint32_t k = 0; k < s->nodes; k++) {
        if (!left[k])
            continue;
        left[k]--;
        node[at] = (uint16_t)k;
        if (!list_states(s, at + 1, node, left))
            return false;
        left[k]++;
    }
    return true;
}

/* Nodes renamed within those of their size, in the order in which clusters name them. */
static void rename_nodes(const struct states *s, const uint16_t *node, uint16_t *ret)
{
    uint16_t name[PLAN_MAX_RANKS];
    bool named[PLAN_MAX_RANKS] = {false}, used[PLAN_MAX_RANKS] = {false};

    for (uint32_t c = 0; c < s->ranks; c++) {
        for (uint32_t k = 0; !named[node[c]] && k < s->nodes; k++)
            if (!used[k] && s->size[k] == s->size[node[c]]) {
                name[node[c]] = (uint16_t)k;
                named[node[c]] = used[k] = true;
            }
        ret[c] = name[node[c]];
    }
}

static void find_canonical(struct states *s)
{
    uint16_t renamed[PLAN_MAX_RANKS];

    for (uint32_t i = 0; i < s->n; i++) {
        rename_nodes(s, s->node + (size_t)i * s->ranks, renamed);
        for (uint32_t k = 0; k < s->n; k++)
            if (!memcmp(renamed, s->node + (size_t)k * s->ranks, s->ranks * sizeof *renamed))
                s->canonical[i] = (uint16_t)k;
    }
    for (uint32_t i = 0; i < s->n; i++)
        if (s->canonical[i] == i)
            s->number[i] = (uint16_t)s->canonicals++;
}

static void states_done(struct states *s)
{
    free(s->node);
    free(s->canonical);
    free(s->number);
}

/* *ret_few: they were few enough to be listed. */
static int states_make(const struct moetuner *m, struct states *ret, bool *ret_few,
                       struct mt_err *reterr)
{
    struct states s = {.ranks = m->ranks, .nodes = m->nodes};
    uint16_t node[PLAN_MAX_RANKS];
    uint32_t left[PLAN_MAX_RANKS];

    for (uint32_t g = 0; g < m->ranks; g++)
        s.size[m->node[g]]++;
    memcpy(left, s.size, sizeof left);
    s.node = calloc((size_t)MAX_STATES * s.ranks + 1, sizeof *s.node);
    s.canonical = calloc(MAX_STATES, sizeof *s.canonical);
    s.number = calloc(MAX_STATES, sizeof *s.number);
    if (!s.node || !s.canonical || !s.number) {
        states_done(&s);
        return mt_error(reterr, MT_ENOMEM, "moetuner: no memory for ILP 2");
    }
    *ret_few = list_states(&s, 0, node, left);
    for (uint32_t k = 0; k < s.nodes && s.nodes > 1; k++)
        *ret_few = *ret_few && s.size[k] <= MAX_TRIED;
    if (*ret_few)
        find_canonical(&s);
    *ret = s;
    return 0;
}

/* The clusters on a node, ascending; their number. */
static uint32_t clusters_on(const struct states *s, uint32_t state, uint32_t node, uint16_t *ret)
{
    uint32_t n = 0;

    for (uint32_t c = 0; c < s->ranks; c++)
        if (s->node[(size_t)state * s->ranks + c] == node)
            ret[n++] = (uint16_t)c;
    return n;
}

/* The least cost of layers l, l + 1 in states a and b. */
static double step_cost(const struct moetuner *m, const struct states *s, uint32_t l, uint32_t a,
                        uint32_t b)
{
    const uint16_t *from = s->node + (size_t)a * s->ranks, *to = s->node + (size_t)b * s->ranks;
    double sum = 0, most = 0, far = m->wire[m->ranks - 1], near = 0;

    for (uint32_t c = 0; c < m->ranks; c++)
        for (uint32_t d = 0; d < m->ranks; d++)
            if (from[c] != to[d]) {
                double x = far * flow_between(m, l, c, d);

                sum += x;
                most = fmax(most, x);
            }
    for (uint32_t g = 1; g < m->ranks; g++)
        if (m->node[g] == m->node[g - 1])
            near = m->wire[(size_t)g * m->ranks + g - 1];
    for (uint32_t k = 0; k < s->nodes; k++) {
        uint16_t on_a[PLAN_MAX_RANKS] = {0}, on_b[PLAN_MAX_RANKS] = {0};
        uint32_t order[MAX_TRIED] = {0};
        struct node_pair p = {m, l, clusters_on(s, a, k, on_a), on_a, on_b, near};
        double x;

        clusters_on(s, b, k, on_b);
        x = join_by_trying(&p, order);
        sum += x;
        most = fmax(most, x);
    }
    return m->max_form ? most : sum;
}

/* cost[l][a][b] over canonical states, the least over the names of b; which[]: that name. */
static void step_costs(const struct moetuner *m, const struct states *s, double *cost,
                       uint16_t *which)
{
    uint32_t n = s->canonicals;

    for (size_t i = 0; i < (size_t)(m->layers - 1) * n * n; i++)
        cost[i] = INFINITY;
    for (uint32_t l = 0; l + 1 < m->layers; l++)
        for (uint32_t a = 0; a < s->n; a++)
            for (uint32_t b = 0; s->canonical[a] == a && b < s->n; b++) {
                size_t at = ((size_t)l * n + s->number[a]) * n + s->number[s->canonical[b]];
                double x = step_cost(m, s, l, a, b);

                if (x < cost[at]) {
                    cost[at] = x;
                    which[at] = (uint16_t)b;
                }
            }
}

/* --- labels ----------------------------------------------------------------------------------- */

/* Ranks for layer l + 1 whose clusters are on nodes on[]; layer l has its ranks. */
static int label_next(struct moetuner *m, uint32_t l, const uint16_t *on, struct mt_err *reterr)
{
    const uint16_t *label = m->label + (size_t)l * m->ranks;
    uint16_t *next = m->label + (size_t)(l + 1) * m->ranks;
    int rc = 0;

    for (uint32_t k = 0; !rc && k < m->nodes; k++) {
        uint16_t a[PLAN_MAX_RANKS] = {0}, b[PLAN_MAX_RANKS] = {0};
        uint32_t to[PLAN_MAX_RANKS] = {0}, n = 0;
        struct node_pair p = {m, l, 0, a, b, 1};

        for (uint32_t c = 0; c < m->ranks; c++) {
            if (m->node[label[c]] == k)
                a[n++] = (uint16_t)c;
            if (on[c] == k)
                b[p.n++] = (uint16_t)c;
        }
        rc = join(m, &p, to, reterr);
        for (uint32_t i = 0; !rc && i < p.n; i++)
            next[b[to[i]]] = label[a[i]];
    }
    return rc;
}

/* path[l]: canonical states by number; names of nodes are composed from layer to layer. */
static int label_path(struct moetuner *m, const struct states *s, const uint16_t *path,
                      const uint16_t *which, struct mt_err *reterr)
{
    uint16_t name[PLAN_MAX_RANKS] = {0}, on[PLAN_MAX_RANKS] = {0};
    uint32_t state = 0, next_rank[PLAN_MAX_RANKS] = {0}, n = s->canonicals;
    int rc = 0;

    while (s->canonical[state] != state || s->number[state] != path[0])
        state++;
    for (uint32_t g = m->ranks; g-- > 0;)
        next_rank[m->node[g]] = g;
    for (uint32_t k = 0; k < m->nodes; k++)
        name[k] = (uint16_t)k;
    for (uint32_t c = 0; c < m->ranks; c++)
        m->label[c] = (uint16_t)next_rank[s->node[(size_t)state * m->ranks + c]]++;
    for (uint32_t l = 0; !rc && l + 1 < m->layers; l++) {
        uint32_t b = which[((size_t)l * n + path[l]) * n + path[l + 1]];
        uint32_t canonical = s->canonical[b];

        for (uint32_t c = 0; c < m->ranks; c++)
            on[c] = name[s->node[(size_t)b * m->ranks + c]];
        for (uint32_t c = 0; c < m->ranks; c++)
            name[s->node[(size_t)canonical * m->ranks + c]] = on[c];
        rc = label_next(m, l, on, reterr);
    }
    return rc;
}

static int assign_exactly(struct moetuner *m, const struct states *s, struct mt_err *reterr)
{
    size_t cells = (size_t)(m->layers - 1) * s->canonicals * s->canonicals;
    double *cost = calloc(cells + 1, sizeof *cost);
    uint16_t *which = calloc(cells + 1, sizeof *which),
             *path = calloc(m->layers + 1u, sizeof *path);
    int rc = cost && which && path
                 ? 0
                 : mt_error(reterr, MT_ENOMEM, "moetuner: no memory for %zu arcs", cells);

    if (!rc && m->nodes > 1) {
        step_costs(m, s, cost, which);
        rc = moetuner_path(m, s->canonicals, cost, path, reterr);
    }
    if (!rc)
        rc = label_path(m, s, path, which, reterr);
    free(cost);
    free(which);
    free(path);
    return rc;
}

/* --- sweeps ----------------------------------------------------------------------------------- */

/* cost[c][g]: of cluster c of layer l on rank g, sum form, with one or both neighbours. */
static void neighbour_costs(const struct moetuner *m, uint32_t l, bool before, bool after,
                            double *cost)
{
    uint32_t n = m->ranks;
    const uint16_t *label = m->label + (size_t)l * n;

    memset(cost, 0, (size_t)n * n * sizeof *cost);
    for (uint32_t c = 0; c < n; c++)
        for (uint32_t d = 0; d < n; d++) {
            double in = before ? flow_between(m, l - 1, d, c) : 0;
            double out = after ? flow_between(m, l, c, d) : 0;

            for (uint32_t g = 0; g < n; g++) {
                if (before)
                    cost[(size_t)c * n + g] += in * m->wire[(size_t)(label - n)[d] * n + g];
                if (after)
                    cost[(size_t)c * n + g] += out * m->wire[(size_t)g * n + (label + n)[d]];
            }
        }
}

static int sweep(struct moetuner *m, bool first, bool forward, double *cost, struct mt_err *reterr)
{
    uint32_t to[PLAN_MAX_RANKS];

    for (uint32_t i = first ? 1 : 0; i < m->layers && !moetuner_stopped(m); i++) {
        uint32_t l = forward ? i : m->layers - 1 - i;
        int rc;

        neighbour_costs(m, l, l > 0, !first && l + 1 < m->layers, cost);
        rc = lp_assign(m->ranks, cost, to, reterr);
        m->solves++;
        if (rc)
            return rc;
        for (uint32_t c = 0; c < m->ranks; c++)
            m->label[(size_t)l * m->ranks + c] = (uint16_t)to[c];
    }
    return 0;
}

static int assign_by_sweeps(struct moetuner *m, struct mt_err *reterr)
{
    double *cost = calloc((size_t)m->ranks * m->ranks, sizeof *cost);
    int rc = cost ? 0 : mt_error(reterr, MT_ENOMEM, "moetuner: no memory for ILP 2");

    if (!rc)
        rc = sweep(m, true, true, cost, reterr);
    for (uint32_t i = 0; !rc && i < SWEEPS; i++)
        rc = sweep(m, false, i % 2 == 1, cost, reterr);
    free(cost);
    if (!rc)
        moetuner_descend(m, false);
    return rc;
}

int moetuner_assign(struct moetuner *m, bool *ret_proven, struct mt_err *reterr)
{
    struct states s = {0};
    bool few = false;
    int rc = states_make(m, &s, &few, reterr);

    if (rc)
        return rc;
    for (uint32_t l = 0; l < m->layers; l++)
        for (uint32_t c = 0; c < m->ranks; c++)
            m->label[(size_t)l * m->ranks + c] = (uint16_t)c;
    if (m->quick && s.canonicals > QUICK_STATES)
        few = false;
    if (moetuner_stopped(m))
        few = false;
    else
        rc = few ? assign_exactly(m, &s, reterr) : assign_by_sweeps(m, reterr);
    states_done(&s);
    *ret_proven = few;
    return rc;
}
