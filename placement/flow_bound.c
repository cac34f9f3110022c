/* Lower bounds of the flow objective, layer by layer and exchange by exchange.
 *
 * Load: the mean over ranks, the largest expert, and experts that must share a rank. Exchange: of
 * the pairs of two layers at most those of a b-matching stay on a rank (each expert has at most as
 * many partners there as the rank has slots), whose dual any potentials u, v bound:
 *     local <= slots sum u + slots sum v + sum max(0, T - u - v)
 * the rest goes through ports, and the busiest has at least the mean. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/flow_tables.h"
#include "placement/methods.h"

#define ROUNDS 6
#define SEARCH_MOVES 20000
#define ROUNDING 1e-12 /* what sums of doubles may be off by */

static int falling(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? 1 : x > y ? -1 : 0;
}

static int rising_slots(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x > y ? 1 : x < y ? -1 : 0;
}

/* Of weights that fall: the most that some rank has at least. */
static int64_t least_busiest(const struct cluster *c, const int64_t *w, uint32_t experts)
{
    int64_t sum = 0, best = w[0];
    uint32_t slots[PLAN_MAX_RANKS], total = 0;

    for (uint32_t e = 0; e < experts; e++)
        sum += w[e];
    best = (sum + c->ranks - 1) / c->ranks > best ? (sum + c->ranks - 1) / c->ranks : best;
    /* of the k ranks + 1 largest, k + 1 share a rank */
    for (uint32_t k = 1; k * c->ranks < experts; k++) {
        int64_t together = 0;

        for (uint32_t i = 0; i <= k; i++)
            together += w[k * c->ranks - i];
        best = together > best ? together : best;
    }
    /* without a slot to spare, the largest has company */
    memcpy(slots, c->slots, c->ranks * sizeof *slots);
    qsort(slots, c->ranks, sizeof *slots, rising_slots);
    for (uint32_t g = 0; g < c->ranks; g++)
        total += slots[g];
    if (total == experts && slots[0] > 0) {
        int64_t together = w[0];

        for (uint32_t i = 1; i < slots[0]; i++)
            together += w[experts - i];
        best = together > best ? together : best;
    }
    return best;
}

double flow_load_bound(const struct flow_tables *t, uint32_t layer)
{
    const struct place_problem *p = t->p;
    int64_t w[PLACE_MAX_EXPERTS], total = 0;

    for (uint32_t s = 0; s < p->scenarios; s++) {
        memcpy(w, flow_weight(t, s, layer), p->experts * sizeof *w);
        qsort(w, p->experts, sizeof *w, falling);
        total += least_busiest(&p->cluster, w, p->experts);
    }
    return (double)total * t->unit;
}

/* --- exchanges ---------------------------------------------------------------------------------
 */

/* The slots-th largest of n values, at least 0; they are reordered. */
static int64_t nth_largest(int64_t *x, uint32_t n, uint32_t slots)
{
    if (slots >= n)
        return 0;
    qsort(x, n, sizeof *x, falling);
    return x[slots - 1] > 0 ? x[slots - 1] : 0;
}

/* The most pairs whose two experts can share a place of so many slots. Coordinate descent: the best
 * u for given v is the slots-th largest of T - v in its row. */
static uint64_t most_local(const uint32_t *pairs, uint32_t n, uint32_t slots, int64_t *u)
{
    int64_t *v = u + n, *x = v + n;
    uint64_t best = 0;

    for (size_t i = 0; i < (size_t)n * n; i++)
        best += pairs[i];
    memset(u, 0, 2 * (size_t)n * sizeof *u);
    for (uint32_t round = 0; slots < n && round < ROUNDS; round++) {
        uint64_t sum = 0;

        for (uint32_t side = 0; side < 2; side++)
            for (uint32_t i = 0; i < n; i++) {
                for (uint32_t k = 0; k < n; k++)
                    x[k] = side ? pairs[(size_t)k * n + i] - u[k] : pairs[(size_t)i * n + k] - v[k];
                (side ? v : u)[i] = nth_largest(x, n, slots);
            }
        for (uint32_t i = 0; i < n; i++) {
            sum += (uint64_t)(slots * (u[i] + v[i]));
            for (uint32_t k = 0; k < n; k++) {
                int64_t over = pairs[(size_t)i * n + k] - u[i] - v[k];

                sum += over > 0 ? (uint64_t)over : 0;
            }
        }
        best = sum < best ? sum : best;
    }
    return best;
}

/* Seconds of J of the busiest port if `cross` units leave their rank and at least `far` of them
 * their node: as many go far as makes the means of both kinds of ports equal, if that is more. */
static double port_bound(const struct cluster *c, const struct flow_price *k, double cross,
                         double far)
{
    double rank = k->rank_unit / c->ranks, node = k->node_unit / c->nodes, even;

    if (c->nodes == 1)
        return cross > 0 ? cross * rank + k->rank_peer : 0;
    even = cross * rank / (rank + node);
    far = fmax(far, fmin(even, cross));
    return fmax((cross - far) * rank, far * node);
}

double flow_cross_bound(const struct flow_tables *t, uint32_t trace, double cross, double far)
{
    double sum = 0;

    for (uint32_t s = 0; s < t->p->scenarios; s++)
        if (t->of[s] == trace)
            sum += port_bound(&t->p->cluster, &t->price[s], cross, far);
    return sum;
}

int flow_exchange_bound(const struct flow_tables *t, uint32_t layer, double *ret,
                        struct mt_err *reterr)
{
    const struct cluster *c = &t->p->cluster;
    uint32_t n = t->p->experts, slots = 0, node_slots[PLAN_MAX_RANKS] = {0}, most = 0;
    int64_t *scratch = malloc(3 * (size_t)n * sizeof *scratch + 1);
    double sum = 0;

    if (!scratch)
        return mt_error(reterr, MT_ENOMEM, "flow: no memory for a bound");
    for (uint32_t g = 0; g < c->ranks; g++) {
        slots = c->slots[g] > slots ? c->slots[g] : slots;
        node_slots[c->node[g]] += c->slots[g];
        most = node_slots[c->node[g]] > most ? node_slots[c->node[g]] : most;
    }
    for (uint32_t i = 0; i < t->traces; i++) {
        const uint32_t *pairs = flow_pairs(t, i, layer);
        uint64_t all = (uint64_t)t->trace[i]->tokens * t->p->topk * t->p->topk;
        double cross = (double)(all - most_local(pairs, n, slots, scratch));
        double far = (double)(all - most_local(pairs, n, most, scratch));

        sum += flow_cross_bound(t, i, cross, far);
    }
    free(scratch);
    *ret = sum;
    return 0;
}

/* --- the whole ---------------------------------------------------------------------------------
 */

/* The optimum, if the chain over all placements gives it; beaten by nothing, from a short search.
 */
static int try_exact(const struct place_problem *p, const struct place_run *run, double *ret,
                     bool *ret_done, struct mt_err *reterr)
{
    struct place_run short_run = *run;
    struct flow_found found;
    struct place_result start;
    int rc = contiguous_solve(p, run, &start, reterr);

    if (rc)
        return rc;
    short_run.iterations = SEARCH_MOVES;
    short_run.progress = NULL;
    *ret_done = false;
    rc = flow_search(p, &short_run, &start.plan, &found, reterr);
    if (!rc && found.optimal) {
        *ret = found.objective;
        *ret_done = true;
    }
    plan_done(&start.plan);
    return rc;
}

int flow_bound(const struct place_problem *p, const struct place_run *run, double *ret_bound,
               bool *ret_exact, struct mt_err *reterr)
{
    struct flow_tables *t;
    double sum = 0, exact = 0;
    bool done = false;
    int rc = flow_tables_new(p, &t, reterr);

    for (uint32_t l = 0; !rc && l < p->layers; l++) {
        double exchange = 0;

        if (l + 1 < p->layers)
            rc = flow_exchange_bound(t, l, &exchange, reterr);
        sum += flow_load_bound(t, l) + exchange;
    }
    if (!rc)
        flow_tables_free(t);
    if (!rc && p->experts <= 12)
        rc = try_exact(p, run, &exact, &done, reterr);
    if (rc)
        return rc;
    *ret_bound = (done ? exact : sum) * (1 - ROUNDING);
    *ret_exact = done;
    return 0;
}
