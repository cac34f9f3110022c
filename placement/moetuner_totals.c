/* Equation 13: every rank holds E L / G experts over all layers. It couples the layers. lp_solve's
 * branch and bound does not get through six layers of 24 permutations with it, so this is a chain
 * whose states count: the layer's permutation and the ranks' totals so far. What a state costs and
 * at least will cost (by the chain without totals) bounds it. Where (13) cannot hold, it is missed
 * by as little as can be. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/moetuner.h"

#define MAX_RANKS 4 /* 24 permutations a layer; totals in 16 bits each */
#define MAX_ORDERS 24
#define MAX_STATES 400000 /* totals, over all layers */
#define SLOTS (2 * MAX_STATES + 1)

/* Sets of totals, one after another for the layers. */
struct level {
    uint32_t first, n;
};

struct count {
    struct moetuner *m;
    uint32_t orders;
    uint16_t order[MAX_ORDERS][MAX_RANKS];
    uint64_t *adds;   /* [layers][orders]: sizes by rank, 16 bits each */
    double *step;     /* [layers - 1][orders][orders] */
    double *rest;     /* [layers][orders]: the least cost of what follows */
    double *low;      /* [layers]: the least and the most that following layers give to a rank */
    double *high;     /* [layers] */
    struct level *at; /* [layers] */
    uint64_t *code;   /* [MAX_STATES] */
    double *cost;     /* [MAX_STATES][orders] */
    uint32_t *back;   /* [MAX_STATES][orders]: state * MAX_ORDERS + order of the layer before */
    uint32_t used;
    uint64_t *slot; /* hash table of the level that grows: its stamp, state in 32 bits each */
    uint32_t stamp;
    double mean, off;
};

static uint32_t total_of(uint64_t code, uint32_t rank)
{
    return (uint32_t)(code >> (16 * rank)) & 0xffff;
}

static double distance(const struct count *c, uint64_t code)
{
    double off = 0;

    for (uint32_t g = 0; g < c->m->ranks; g++)
        off += fabs(total_of(code, g) - c->mean);
    return off;
}

/* The state of these totals in the level that grows, UINT32_MAX if there is no room. */
static uint32_t find(struct count *c, struct level *level, uint64_t code)
{
    uint32_t at = (uint32_t)((code * 0x9e3779b97f4a7c15u) >> 40) % SLOTS;

    while (c->slot[at] >> 32 == c->stamp && c->code[(uint32_t)c->slot[at]] != code)
        at = (at + 1) % SLOTS;
    if (c->slot[at] >> 32 == c->stamp)
        return (uint32_t)c->slot[at];
    if (c->used == MAX_STATES)
        return UINT32_MAX;
    c->code[c->used] = code;
    for (uint32_t i = 0; i < c->orders; i++)
        c->cost[(size_t)c->used * c->orders + i] = INFINITY;
    c->slot[at] = (uint64_t)c->stamp << 32 | c->used;
    level->n++;
    return c->used++;
}

static struct level begin_level(struct count *c)
{
    c->stamp++;
    return (struct level){c->used, 0};
}

/* --- how near totals can come --------------------------------------------------------------------
 */

/* Ranks are alike as far as totals go: codes with the larger totals first. */
static uint64_t sorted(uint64_t code, uint32_t ranks)
{
    uint32_t t[MAX_RANKS] = {0};
    uint64_t ret = 0;

    for (uint32_t g = 0; g < ranks; g++) {
        uint32_t x = total_of(code, g), at = g;

        for (; at > 0 && t[at - 1] < x; at--)
            t[at] = t[at - 1];
        t[at] = x;
    }
    for (uint32_t g = 0; g < ranks; g++)
        ret |= (uint64_t)t[g] << (16 * g);
    return ret;
}

/* The least distance that any labels reach; false if there are too many totals to tell. */
static bool find_least_off(struct count *c)
{
    struct level level = begin_level(c);

    c->used = 0;
    level.first = 0;
    find(c, &level, 0);
    for (uint32_t l = 0; l < c->m->layers; l++) {
        struct level next = begin_level(c);

        for (uint32_t s = level.first; s < level.first + level.n; s++)
            for (uint32_t i = 0; i < c->orders; i++)
                if (find(c, &next,
                         sorted(c->code[s] + c->adds[(size_t)l * c->orders + i], c->m->ranks)) ==
                    UINT32_MAX)
                    return false;
        level = next;
    }
    c->off = INFINITY;
    for (uint32_t s = level.first; s < level.first + level.n; s++)
        c->off = fmin(c->off, distance(c, c->code[s]));
    return true;
}

/* --- the chain -----------------------------------------------------------------------------------
 */

/* Each total can still come to within half of the distance (what is too much on some ranks is what
 * others lack). */
static bool can_be_near(const struct count *c, uint32_t l, uint64_t code)
{
    for (uint32_t g = 0; g < c->m->ranks; g++) {
        double t = total_of(code, g), half = c->off / 2 + 1e-9;

        if (t + c->low[l] > c->mean + half || t + c->high[l] < c->mean - half)
            return false;
    }
    return true;
}

/* State s of layer l - 1 followed by order k; false if there is no room for what follows. */
static bool follow(struct count *c, uint32_t l, uint32_t s, uint32_t k, double limit)
{
    uint64_t code = c->code[s] + c->adds[(size_t)l * c->orders + k];
    const double *from = c->cost + (size_t)s * c->orders;
    double best = INFINITY;
    uint32_t order = 0, to;

    for (uint32_t i = 0; i < c->orders; i++) {
        double x = from[i] + c->step[((size_t)(l - 1) * c->orders + i) * c->orders + k];

        if (x < best) {
            best = x;
            order = i;
        }
    }
    if (isinf(best) || best + c->rest[(size_t)l * c->orders + k] > limit ||
        !can_be_near(c, l, code))
        return true;
    to = find(c, &c->at[l], code);
    if (to == UINT32_MAX)
        return false;
    if (best < c->cost[(size_t)to * c->orders + k]) {
        c->cost[(size_t)to * c->orders + k] = best;
        c->back[(size_t)to * c->orders + k] = s * MAX_ORDERS + order;
    }
    return true;
}

static bool extend(struct count *c, uint32_t l, double limit)
{
    c->at[l] = begin_level(c);
    for (uint32_t k = 0; l == 0 && k < c->orders; k++) {
        uint32_t to = find(c, &c->at[0], c->adds[k]);

        if (to == UINT32_MAX)
            return false;
        c->cost[(size_t)to * c->orders + k] = 0;
    }
    for (uint32_t k = 0; l > 0 && k < c->orders; k++)
        for (uint32_t s = c->at[l - 1].first; s < c->at[l - 1].first + c->at[l - 1].n; s++)
            if (!follow(c, l, s, k, limit))
                return false;
    return true;
}

/* Labels from the least cost of the last layer's states at the least distance; false: there is none
 * within the limit. */
static bool trace_back(struct count *c)
{
    uint32_t layers = c->m->layers, ranks = c->m->ranks, at = 0, order = 0;
    double best = INFINITY;

    for (uint32_t s = c->at[layers - 1].first; s < c->used; s++)
        for (uint32_t i = 0; distance(c, c->code[s]) <= c->off + 1e-9 && i < c->orders; i++)
            if (c->cost[(size_t)s * c->orders + i] < best) {
                best = c->cost[(size_t)s * c->orders + i];
                at = s;
                order = i;
            }
    if (isinf(best))
        return false;
    for (uint32_t l = layers; l-- > 0;) {
        uint32_t back = l ? c->back[(size_t)at * c->orders + order] : 0;

        memcpy(c->m->label + (size_t)l * ranks, c->order[order], ranks * sizeof *c->m->label);
        at = back / MAX_ORDERS;
        order = back % MAX_ORDERS;
    }
    return true;
}

/* --- tables --------------------------------------------------------------------------------------
 */

static void list_orders(struct count *c, uint32_t at, uint16_t *order, uint32_t used)
{
    if (at == c->m->ranks)
        memcpy(c->order[c->orders++], order, at * sizeof *order);
    for (uint32_t r = 0; at < c->m->ranks && r < c->m->ranks; r++)
        if (!(used >> r & 1)) {
            order[at] = (uint16_t)r;
            list_orders(c, at + 1, order, used | 1u << r);
        }
}

static void fill_sizes(struct count *c, uint32_t l)
{
    uint32_t least = UINT32_MAX, most = 0, ranks = c->m->ranks;

    for (uint32_t k = 0; k < ranks; k++) {
        uint32_t size = moetuner_size(c->m, l, k);

        least = size < least ? size : least;
        most = size > most ? size : most;
        for (uint32_t i = 0; i < c->orders; i++)
            c->adds[(size_t)l * c->orders + i] += (uint64_t)size << (16 * c->order[i][k]);
    }
    for (uint32_t before = 0; before < l; before++) {
        c->low[before] += least;
        c->high[before] += most;
    }
}

static void fill_costs(struct count *c)
{
    uint32_t n = c->orders;

    for (uint32_t l = c->m->layers - 1; l-- > 0;)
        for (uint32_t i = 0; i < n; i++) {
            double *rest = &c->rest[(size_t)l * n + i];

            *rest = INFINITY;
            for (uint32_t k = 0; k < n; k++) {
                double x = moetuner_pair_cost(c->m, l, c->order[i], c->order[k]);

                c->step[((size_t)l * n + i) * n + k] = x;
                *rest = fmin(*rest, x + c->rest[(size_t)(l + 1) * n + k]);
            }
        }
}

static void count_done(struct count *c)
{
    free(c->adds);
    free(c->step);
    free(c->rest);
    free(c->low);
    free(c->high);
    free(c->at);
    free(c->code);
    free(c->cost);
    free(c->back);
    free(c->slot);
}

static int count_make(struct moetuner *m, struct count *ret, struct mt_err *reterr)
{
    struct count c = {.m = m, .mean = (double)m->experts * m->layers / m->ranks};
    uint16_t order[MAX_RANKS];
    size_t layers = m->layers;

    list_orders(&c, 0, order, 0);
    c.adds = calloc(layers * c.orders, sizeof *c.adds);
    c.step = calloc(layers * c.orders * c.orders, sizeof *c.step);
    c.rest = calloc(layers * c.orders, sizeof *c.rest);
    c.low = calloc(layers, sizeof *c.low);
    c.high = calloc(layers, sizeof *c.high);
    c.at = calloc(layers, sizeof *c.at);
    c.code = malloc(MAX_STATES * sizeof *c.code);
    c.cost = malloc((size_t)MAX_STATES * c.orders * sizeof *c.cost);
    c.back = malloc((size_t)MAX_STATES * c.orders * sizeof *c.back);
    c.slot = calloc(SLOTS, sizeof *c.slot);
    if (!c.adds || !c.step || !c.rest || !c.low || !c.high || !c.at || !c.code || !c.cost ||
        !c.back || !c.slot) {
        count_done(&c);
        return mt_error(reterr, MT_ENOMEM, "moetuner: no memory to count totals");
    }
    for (uint32_t l = 0; l < m->layers; l++)
        fill_sizes(&c, l);
    fill_costs(&c);
    *ret = c;
    return 0;
}

/* Limits from just above the cost without (13), so that few states remain; an answer within its
 * limit is optimal. */
static bool solve_chain(struct count *c)
{
    static const double beyond[] = {1e-9, 1e-3, 1e-2, 1e-1, INFINITY};
    double least = INFINITY;

    for (uint32_t i = 0; i < c->orders; i++)
        least = fmin(least, c->rest[i]);
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++) {
        double limit = isinf(beyond[i]) ? INFINITY : least * (1 + beyond[i]);

        c->used = 0;
        for (uint32_t l = 0; l < c->m->layers; l++)
            if (!extend(c, l, limit) || moetuner_stopped(c->m))
                return false;
        if (trace_back(c))
            return true;
    }
    return false;
}

int moetuner_even_totals(struct moetuner *m, double *ret_off, bool *ret_proven,
                         struct mt_err *reterr)
{
    struct count c = {0};
    int rc = 0;

    /* Labels that are optimal without (13) and keep it are optimal with it. */
    if (moetuner_off(m) > 1e-9) {
        *ret_proven = false;
        if (m->ranks <= MAX_RANKS) {
            rc = count_make(m, &c, reterr);
            if (!rc) {
                *ret_proven = find_least_off(&c) && solve_chain(&c);
                count_done(&c);
            }
        }
        if (!rc && !*ret_proven)
            moetuner_descend(m, true);
    }
    if (!rc)
        *ret_off = moetuner_off(m);
    return rc;
}
