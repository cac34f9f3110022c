#include "placement/bound.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/exact.h"
#include "placement/layer_cost.h"
#include "placement/master.h"
#include "placement/score.h"

#define ROUNDS 5            /* walks, each finer than the last */
#define MAX_WINDOWS 300     /* of one walk */
#define COARSE 6            /* a gap of so many steps is not the step's fault */
#define WIDEST 0.03         /* of the layer's cost: the least step of the first walk */
#define FINER 0.4           /* of the next walk's step */
#define FIRST_NODES 1000000 /* of one exact pricing in the first walk */
#define MORE_NODES 6

/* One layer's walk: what max_g C(S_g) may be, from above. No plan cheaper than `target` has it
 * above `high`; the target gives way where the programme's answer does not reach it. */
struct walk {
    uint32_t layer, size, round;
    bool done, exact;
    bool cut;         /* a search of this walk was cut short */
    uint32_t windows; /* of this walk */
    double best;      /* the layer's cost in the best plan, or of a plan that was made */
    double naive;     /* a bound that needs no programme */
    double proven;    /* by finished walks */
    double floor;     /* of max_g C(S_g) */
    double total;     /* sum of C over experts */
    double constant, scale;
    double target, high, width;
    double drop;       /* of the target, last */
    double high_first; /* how far down it came before the target gave way */
    double vectors;    /* at least this mean of f in any plan cheaper than `best` */
    struct master_pool pool;
};

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static bool stopped(const struct place_run *run)
{
    return run && run->stop && run->stop(run->user);
}

const char *bound_missing(const struct place_problem *p)
{
    if (layer_cost_refuses(p))
        return layer_cost_refuses(p);
    for (uint32_t s = 0; s < p->scenarios; s++)
        if (p->scenario[s].trace && cluster_slots(&p->cluster) > p->experts)
            return "spare slots may hold replicas, whose traffic has no bound yet";
    return NULL;
}

/* Experts of every rank, if all have the same slots and none is spare; otherwise 0. */
static uint32_t equal_size(const struct place_problem *p)
{
    for (uint32_t g = 0; g < p->cluster.ranks; g++)
        if (p->cluster.slots[g] * p->cluster.ranks != p->experts)
            return 0;
    return p->cluster.slots[0];
}

/* --- what needs no programme ------------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x < y) - (x > y);
}

/* The busiest rank's sum of cost[experts], at least; each expert on one rank. Sorts cost. The mean;
 * and of the k ranks + 1 largest some rank has k + 1, at least the smallest of these. */
static double busiest(const struct place_problem *p, double *cost)
{
    uint32_t ranks = p->cluster.ranks;
    double sum = 0, best;

    qsort(cost, p->experts, sizeof *cost, by_value);
    for (uint32_t e = 0; e < p->experts; e++)
        sum += cost[e];
    best = sum / ranks;
    for (uint32_t k = 0; k * ranks < p->experts; k++) {
        sum = 0;
        for (uint32_t i = 0; i <= k; i++)
            sum += cost[k * ranks - i];
        best = larger(best, sum);
    }
    return best;
}

/* The same with replicas, which share an expert's tokens: the mean (parts of an expert together are
 * active at least as often as the whole), and the largest expert over as many copies as fit. */
static double busiest_shared(const struct place_problem *p, const struct place_scenario *s,
                             const double *load)
{
    uint32_t ranks = p->cluster.ranks,
             copies = (uint32_t)cluster_slots(&p->cluster) - p->experts + 1;
    double sum = 0, most = 0;

    copies = copies < ranks ? copies : ranks;
    for (uint32_t e = 0; e < p->experts; e++) {
        sum += layer_cost_compute(&p->cluster, s->tokens, load[e]);
        most = load[e] > most ? load[e] : most;
    }
    return larger(sum / ranks, layer_cost_compute(&p->cluster, s->tokens, most / copies));
}

/* Each scenario by itself: compute of the busiest rank; and every token touches a rank for each
 * `most slots` of its experts. */
static int naive_bound(const struct place_problem *p, const struct cover *c, uint32_t layer,
                       double *ret, struct mt_err *reterr)
{
    double *load = calloc(p->experts + 1u, sizeof *load), sum = c->constant;
    uint32_t slots = 1, ranks = p->cluster.ranks, touched;

    if (!load)
        return mt_error(reterr, MT_ENOMEM, "bound: no memory for %u experts", p->experts);
    for (uint32_t g = 0; g < ranks; g++)
        slots = p->cluster.slots[g] > slots ? p->cluster.slots[g] : slots;
    for (uint32_t s = 0; s < p->scenarios; s++) {
        const struct place_scenario *of = &p->scenario[s];
        double seconds;

        layer_cost_loads(p, of, layer, load);
        if (cluster_slots(&p->cluster) > p->experts) {
            seconds = busiest_shared(p, of, load);
        } else {
            for (uint32_t e = 0; e < p->experts; e++)
                load[e] = layer_cost_compute(&p->cluster, of->tokens, load[e]);
            seconds = busiest(p, load);
        }
        sum += seconds * of->share / of->tokens;
    }
    free(load);
    touched = (p->topk + slots - 1) / slots;
    *ret = sum + c->scale * touched / ranks;
    return 0;
}

/* --- the walk --------------------------------------------------------------------------------- */

/* A plan's layer, by score_plan's formula for one layer: rank_of[experts]. */
static int layer_ranks(const struct place_problem *p, const struct plan *plan, uint32_t layer,
                       uint16_t *rank)
{
    const uint32_t *start = plan->start + (size_t)layer * p->experts;

    for (uint32_t e = 0; e < p->experts; e++) {
        if (start[e + 1] - start[e] != 1)
            return -1;
        rank[e] = plan->rank[start[e]];
    }
    return 0;
}

/* Largest expert first onto the rank with least and room. */
static void spread(const struct place_problem *p, const struct cover *c, uint16_t *rank)
{
    double sum[PLAN_MAX_RANKS] = {0};
    uint32_t held[PLAN_MAX_RANKS] = {0};
    bool placed[PLACE_MAX_EXPERTS] = {false};

    for (uint32_t i = 0; i < p->experts; i++) {
        uint32_t e = 0, g = 0;

        while (placed[e])
            e++;
        for (uint32_t k = e; k < p->experts; k++)
            if (!placed[k] && c->compute[k] > c->compute[e])
                e = k;
        while (held[g] >= p->cluster.slots[g])
            g++;
        for (uint32_t k = g; k < p->cluster.ranks; k++)
            if (held[k] < p->cluster.slots[k] && sum[k] < sum[g])
                g = k;
        placed[e] = true;
        rank[e] = (uint16_t)g;
        held[g]++;
        sum[g] += c->compute[e];
    }
}

static int start_walk(struct walk *w, struct master *m, const struct place_problem *p,
                      const uint16_t *rank, struct mt_err *reterr)
{
    uint16_t set[PRICING_MAX_SIZE];

    for (uint32_t g = 0; g < p->cluster.ranks; g++) {
        uint32_t n = 0;
        int rc;

        for (uint32_t e = 0; e < p->experts && n < w->size; e++)
            if (rank[e] == g)
                set[n++] = (uint16_t)e;
        if (n < w->size)
            continue;
        rc = master_add(m, set, reterr);
        if (rc)
            return rc;
    }
    return 0;
}

/* The least step of the walk: of max_g C, and of the target when it gives way. */
static double least_step(const struct walk *w)
{
    double least = WIDEST * w->best;

    for (uint32_t i = 0; i < w->round; i++)
        least *= FINER;
    return least;
}

/* What is proven when the walk has come down to the floor; then a finer one, unless that would not
 * change much. */
static void next_round(struct walk *w)
{
    double gap;

    w->proven = larger(w->proven, w->target);
    gap = w->best - w->proven;
    w->exact = w->target >= w->best; /* nothing is cheaper */
    w->done = ++w->round >= ROUNDS || gap <= w->best * 1e-9 ||
              (!w->cut && gap > COARSE * least_step(w) / FINER);
    w->target = w->best;
    w->high = w->high_first;
    w->drop = 0;
    w->cut = false;
    w->windows = 0;
    w->width = least_step(w);
}

static double walk_value(const struct walk *w)
{
    double half = w->constant + w->floor + w->scale * w->vectors;

    half = half < w->target ? half : w->target;
    return larger(larger(w->proven, w->naive), half);
}

/* The next window, and what the sum of f must be for it to be closed (0: as much as can be proven).
 */
static struct pricing_window next_window(const struct walk *w, const struct cover *c,
                                         uint32_t ranks, double *ret_low, double *ret_enough)
{
    struct pricing_window win = {.least = -1e300, .most = 1e300, .cap = 1e300};
    double slack = 1e-12 * w->total, low = w->floor;

    *ret_enough = 0;
    if (w->high < 1e200) {
        low = w->high - w->width;
        if (low < w->floor + least_step(w) / 2) /* no sliver is left: those are dear */
            low = w->floor;
        win.most = w->high + slack;
        win.least = w->total - (ranks - 1) * win.most - slack;
        /* A little more than closes the window, for rounding. */
        *ret_enough = larger(w->target - w->constant - low, 0) / c->scale * ranks + 1e-7;
    }
    if (c->cap_scale > 0)
        win.cap = (w->target - w->constant - low) / c->cap_scale * (1 + 1e-12);
    *ret_low = low;
    return win;
}

/* One window. */
static int step(struct walk *w, const struct cover *c, struct master *m, struct mt_err *reterr)
{
    double least = least_step(w), before = w->high, low, enough, reach, sum;
    struct pricing_window win = next_window(w, c, m->ranks, &low, &enough);
    int rc = master_bound(m, &win, least / 4 / c->scale * m->ranks, enough, &sum, reterr);

    if (rc)
        return rc;
    sum /= m->ranks;
    if (low <= w->floor && w->target >= w->best)
        w->vectors = larger(w->vectors, sum);
    if (stopped(m->run))
        return 0;
    w->cut |= m->aborted > 0;
    reach = w->target - w->constant - c->scale * larger(sum, w->vectors);
    if (reach <= low) { /* all of the window is closed */
        w->high = low;
        w->width *= 2;
    } else if (reach <= w->high - least) {
        w->width = larger(least, w->high < 1e200 ? (w->high - reach) : w->width);
        w->high = reach;
    } else if (w->width > least * 1.001) { /* a narrower window has a lower cap */
        w->width = larger(least, w->width / 4);
    } else { /* the target is out of reach here: less, at most until the mean closes the window */
        w->drop = larger(least, 2 * w->drop);
        w->target -= w->drop < reach - low ? w->drop : reach - low;
    }
    if (w->high < before)
        w->drop = 0;
    if (w->target >= w->best)
        w->high_first = w->high;
    if (w->high <= w->floor * (1 + 1e-12)) {
        next_round(w);
        return 0;
    }
    w->done = ++w->windows >= MAX_WINDOWS;
    return 0;
}

static int advance(struct walk *w, const struct place_problem *p, const struct place_run *run,
                   struct mt_err *reterr)
{
    struct master m = {.ranks = p->cluster.ranks, .size = w->size, .pool = &w->pool, .run = run};
    struct cover c;
    int rc = cover_new(p, w->layer, &c, reterr);

    if (rc)
        return rc;
    m.cover = &c;
    m.seed = w->layer;
    m.max_nodes = FIRST_NODES;
    for (uint32_t i = 0; i < w->round; i++)
        m.max_nodes *= MORE_NODES;
    rc = step(w, &c, &m, reterr);
    cover_done(&c);
    return rc;
}

/* --- layers ----------------------------------------------------------------------------------- */

static int begin_exact(struct walk *w, const struct place_problem *p, const struct place_run *run,
                       struct mt_err *reterr)
{
    struct exact_layer e = {.optimal = false};
    int rc = exact_layer(p, w->layer, run, &e, NULL, reterr);

    if (rc)
        return rc;
    w->done = true;
    w->exact = e.optimal;
    w->naive = w->proven = e.bound;
    w->best = e.seconds;
    return 0;
}

/* What the plan (or one made here) costs in the layer. */
static int price_plan(struct walk *w, const struct place_problem *p, const struct cover *c,
                      const struct plan *best, struct mt_err *reterr)
{
    struct master m = {.cover = c, .ranks = p->cluster.ranks, .size = w->size, .pool = &w->pool};
    uint16_t *rank = calloc(p->experts + 1u, sizeof *rank);
    int rc = 0;

    if (!rank)
        return mt_error(reterr, MT_ENOMEM, "bound: no memory for %u experts", p->experts);
    if (!best || layer_ranks(p, best, w->layer, rank))
        spread(p, c, rank);
    rc = layer_cost_plan(p, w->layer, rank, &w->best, reterr);
    if (!rc)
        rc = start_walk(w, &m, p, rank, reterr);
    free(rank);
    return rc;
}

static int begin(struct walk *w, const struct place_problem *p, uint32_t layer, bool exactly,
                 const struct plan *best, const struct place_run *run, struct mt_err *reterr)
{
    struct cover c;
    uint32_t touched;
    double *cost;
    int rc;

    *w = (struct walk){.layer = layer, .size = equal_size(p), .high = 1e300, .high_first = 1e300};
    if (exactly && !exact_refuses(p) && cluster_slots(&p->cluster) == p->experts)
        return begin_exact(w, p, run, reterr);
    rc = cover_new(p, layer, &c, reterr);
    if (rc)
        return rc;
    w->constant = c.constant;
    w->scale = c.scale;
    w->done = c.scale <= 0 || !w->size || w->size > PRICING_MAX_SIZE || p->cluster.ranks < 2;
    rc = naive_bound(p, &c, layer, &w->naive, reterr);
    cost = calloc(p->experts + 1u, sizeof *cost);
    if (!rc && !cost)
        rc = mt_error(reterr, MT_ENOMEM, "bound: no memory for %u experts", p->experts);
    for (uint32_t e = 0; e < p->experts && !rc; e++)
        w->total += cost[e] = c.compute[e];
    if (!rc && !w->done) {
        w->floor = busiest(p, cost);
        rc = price_plan(w, p, &c, best, reterr);
        touched = (p->topk + w->size - 1) / w->size;
        w->vectors = (double)touched / p->cluster.ranks;
        w->target = w->best;
        w->width = WIDEST * w->best;
    }
    free(cost);
    cover_done(&c);
    return rc;
}

static int walk_layer(const struct place_problem *p, uint32_t layer, bool exactly,
                      const struct plan *best, const struct place_run *run, struct bound *ret,
                      struct mt_err *reterr)
{
    struct walk w;
    int rc;

    if (bound_missing(p)) {
        *ret = (struct bound){.missing = bound_missing(p)};
        return 0;
    }
    rc = begin(&w, p, layer, exactly, best, run, reterr);
    while (!rc && !w.done && !stopped(run) &&
           !(run && run->gap > 0 && w.best - walk_value(&w) <= run->gap * w.best))
        rc = advance(&w, p, run, reterr);
    if (!rc)
        *ret = (struct bound){.value = walk_value(&w), .exact = w.exact};
    master_pool_done(&w.pool);
    return rc;
}

int bound_layer(const struct place_problem *p, uint32_t layer, const struct plan *best,
                const struct place_run *run, struct bound *ret, struct mt_err *reterr)
{
    return walk_layer(p, layer, true, best, run, ret, reterr);
}

int bound_programme(const struct place_problem *p, uint32_t layer, const struct plan *best,
                    const struct place_run *run, struct bound *ret, struct mt_err *reterr)
{
    return walk_layer(p, layer, false, best, run, ret, reterr);
}

static double sum_values(const struct walk *w, uint32_t n)
{
    double sum = 0;

    for (uint32_t l = 0; l < n; l++)
        sum += walk_value(&w[l]);
    return sum;
}

/* The layer with the most left to prove; layers: none. */
static uint32_t widest(const struct walk *w, uint32_t layers)
{
    uint32_t best = layers;

    for (uint32_t l = 0; l < layers; l++)
        if (!w[l].done && (best == layers || w[l].round < w[best].round ||
                           (w[l].round == w[best].round &&
                            w[l].best - walk_value(&w[l]) > w[best].best - walk_value(&w[best]))))
            best = l;
    return best;
}

static int solve_layers(struct walk *w, const struct place_problem *p, const struct plan *best,
                        const struct place_run *run, struct bound *ret, struct mt_err *reterr)
{
    bool exact = !(p->from && p->horizon > 0);
    double cost = 0;
    int rc = 0;

    for (uint32_t l = 0; l < p->layers && !rc; l++)
        rc = begin(&w[l], p, l, true, best, run, reterr);
    for (uint32_t l = 0; l < p->layers && !rc; l++) {
        cost += w[l].best;
        exact &= w[l].exact;
    }
    while (!rc && !stopped(run)) {
        uint32_t l = widest(w, p->layers);
        double value = sum_values(w, p->layers);

        if (l == p->layers || (run && run->gap > 0 && cost - value <= run->gap * cost))
            break;
        if (run && run->progress)
            run->progress(run->user, &(struct place_progress){"bound", cost, value, l});
        rc = advance(&w[l], p, run, reterr);
    }
    if (!rc)
        *ret = (struct bound){.value = sum_values(w, p->layers), .exact = exact};
    return rc;
}

int bound_solve(const struct place_problem *p, const struct plan *best, const struct place_run *run,
                struct bound *ret, struct mt_err *reterr)
{
    struct walk *w;
    int rc;

    if (bound_missing(p)) {
        *ret = (struct bound){.missing = bound_missing(p)};
        return 0;
    }
    w = calloc(p->layers, sizeof *w);
    if (!w)
        return mt_error(reterr, MT_ENOMEM, "bound: no memory for %u layers", p->layers);
    rc = solve_layers(w, p, best, run, ret, reterr);
    for (uint32_t l = 0; l < p->layers; l++)
        master_pool_done(&w[l].pool);
    free(w);
    return rc;
}
