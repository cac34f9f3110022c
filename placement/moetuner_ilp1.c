/* ILP 1: clusters of even load. Longest processing time first and exchanges give a start, which is
 * also the cutoff; lp_solve proves it, or finds better, where branch and bound can. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/lp.h"
#include "placement/moetuner.h"

/* Binaries beyond which lp_solve has never found better than the start. */
#define MAX_BINARIES 1024
/* ... up to which it usually gets to its end, given time. */
#define SMALL_BINARIES 64
#define SMALL_TICKS 200000
#define TICKS 4000
#define MARGIN 1e-7

struct packing {
    uint32_t experts, clusters, least, most;
    uint32_t large;     /* clusters that may be larger than `least` when sizes are even; else all */
    const double *load; /* of the layer */
    double mean;
    uint16_t *order; /* experts by falling load */
    uint16_t *of;    /* cluster of each expert */
    double *sum;     /* [clusters] */
    uint32_t *size;
};

static double deviation(const struct packing *k, const double *sum)
{
    double d = 0;

    for (uint32_t c = 0; c < k->clusters; c++)
        d += fabs(sum[c] - k->mean);
    return d;
}

static void sort_experts(struct packing *k)
{
    for (uint32_t i = 0; i < k->experts; i++) { /* insertion: ties stay in the order of ids */
        uint32_t at = i;

        for (; at > 0 && k->load[k->order[at - 1]] < k->load[i]; at--)
            k->order[at] = k->order[at - 1];
        k->order[at] = (uint16_t)i;
    }
}

/* Whether one more expert may go to c while the rest can still fill every cluster to `least`. */
static bool has_room(const struct packing *k, uint32_t c)
{
    uint32_t larger = 0;

    if (k->size[c] < k->least)
        return true;
    if (k->size[c] >= k->most)
        return false;
    for (uint32_t i = 0; i < k->clusters; i++)
        larger += k->size[i] > k->least;
    return k->size[c] > k->least || larger < k->large;
}

static void longest_first(struct packing *k)
{
    uint32_t short_of = k->clusters * k->least; /* experts that clusters still need */

    for (uint32_t i = 0; i < k->experts; i++) {
        uint32_t e = k->order[i], best = UINT32_MAX;
        bool must = k->experts - i <= short_of;

        for (uint32_t c = 0; c < k->clusters; c++) {
            if (!has_room(k, c) || (must && k->size[c] >= k->least))
                continue;
            if (best == UINT32_MAX || k->sum[c] < k->sum[best] ||
                (k->sum[c] <= k->sum[best] && k->size[c] < k->size[best]))
                best = c;
        }
        short_of -= k->size[best] < k->least;
        k->of[e] = (uint16_t)best;
        k->sum[best] += k->load[e];
        k->size[best]++;
    }
}

/* Moves x of load from c to d if that evens them out. */
static bool helps(const struct packing *k, uint32_t c, uint32_t d, double x)
{
    double before = fabs(k->sum[c] - k->mean) + fabs(k->sum[d] - k->mean);
    double after = fabs(k->sum[c] - x - k->mean) + fabs(k->sum[d] + x - k->mean);

    return after < before - 1e-12 * (k->mean + 1e-300);
}

static bool move_one(struct packing *k, uint32_t e)
{
    uint32_t c = k->of[e];

    for (uint32_t d = 0; d < k->clusters; d++) {
        if (d == c || k->size[c] <= k->least || k->size[d] >= k->most ||
            !helps(k, c, d, k->load[e]))
            continue;
        k->sum[c] -= k->load[e];
        k->sum[d] += k->load[e];
        k->size[c]--;
        k->size[d]++;
        k->of[e] = (uint16_t)d;
        return true;
    }
    return false;
}

static bool swap_one(struct packing *k, uint32_t e)
{
    for (uint32_t f = 0; f < e; f++) {
        uint32_t c = k->of[e], d = k->of[f];
        double x = k->load[e] - k->load[f];

        if (c == d || !helps(k, c, d, x))
            continue;
        k->sum[c] -= x;
        k->sum[d] += x;
        k->of[e] = (uint16_t)d;
        k->of[f] = (uint16_t)c;
        return true;
    }
    return false;
}

static void improve(struct packing *k)
{
    bool better = true;

    for (uint32_t pass = 0; better && pass < 100; pass++) {
        better = false;
        for (uint32_t e = 0; e < k->experts; e++)
            better |= move_one(k, e) || swap_one(k, e);
    }
}

/* --- the programme ---------------------------------------------------------------------------- */

/* Rows: each expert once; each cluster at least `least` and at most `most`; and what it has above
 * the mean, of which the sum of deviations is twice. */
static int new_programme(const struct packing *k, struct lp **ret, struct mt_err *reterr)
{
    uint32_t rows = k->experts + 3 * k->clusters;
    enum lp_row *type = calloc(rows, sizeof *type);
    double *rhs = calloc(rows, sizeof *rhs);
    int rc = type && rhs ? 0 : mt_error(reterr, MT_ENOMEM, "moetuner: no memory for ILP 1");

    for (uint32_t i = 0; !rc && i < rows; i++) {
        uint32_t block = i < k->experts ? 0 : 1 + (i - k->experts) / k->clusters;

        type[i] = block == 0 ? LP_EQUAL : block == 1 ? LP_AT_LEAST : LP_AT_MOST;
        rhs[i] = block == 0 ? 1 : block == 1 ? k->least : block == 2 ? k->most : 1;
    }
    if (!rc)
        rc = lp_new(rows, type, rhs, ret, reterr);
    free(type);
    free(rhs);
    return rc;
}

/* Loads in units of the mean; the i-th largest expert goes to one of the first i clusters, since
 * clusters have no names yet. */
static int fill_programme(const struct packing *k, struct lp *lp, struct mt_err *reterr)
{
    uint32_t first = k->experts;
    int rc = 0;

    for (uint32_t i = 0; !rc && i < k->experts; i++)
        for (uint32_t c = 0; !rc && c < k->clusters; c++) {
            uint32_t row[] = {i, first + c, first + k->clusters + c, first + 2 * k->clusters + c};
            double value[] = {1, 1, 1, k->load[k->order[i]] / k->mean};

            rc = lp_add_column(lp, 0, 4, row, value, 0, c <= i ? 1 : 0, true, reterr);
        }
    for (uint32_t c = 0; !rc && c < k->clusters; c++) {
        uint32_t row = first + 2 * k->clusters + c;
        double value = -1;

        rc = lp_add_column(lp, 2, 1, &row, &value, 0, LP_INFINITY, false, reterr);
    }
    return rc;
}

/* Takes lp_solve's clusters if they are better than those that are there. */
static int take_better(struct packing *k, const struct lp *lp, struct mt_err *reterr)
{
    double *x = calloc(lp_columns(lp), sizeof *x), *sum = calloc(k->clusters, sizeof *sum);
    uint16_t *of = calloc(k->experts, sizeof *of);
    int rc = x && sum && of ? 0 : mt_error(reterr, MT_ENOMEM, "moetuner: no memory for ILP 1");

    if (!rc) {
        lp_primal(lp, x);
        for (uint32_t i = 0; i < k->experts; i++)
            for (uint32_t c = 0; c < k->clusters; c++)
                if (x[(size_t)i * k->clusters + c] > 0.5) {
                    of[k->order[i]] = (uint16_t)c;
                    sum[c] += k->load[k->order[i]];
                }
        if (deviation(k, sum) < deviation(k, k->sum))
            memcpy(k->of, of, k->experts * sizeof *of);
    }
    free(x);
    free(sum);
    free(of);
    return rc;
}

static int prove(struct moetuner *m, struct packing *k, bool *ret_proven, struct mt_err *reterr)
{
    size_t binaries = (size_t)k->experts * k->clusters;
    double start = deviation(k, k->sum) / k->mean;
    struct lp_result result = {LP_NOTHING, 0};
    struct lp *lp = NULL;
    int rc;

    *ret_proven = false;
    if (m->quick || binaries > MAX_BINARIES || moetuner_stopped(m))
        return 0;
    rc = new_programme(k, &lp, reterr);
    if (!rc)
        rc = fill_programme(k, lp, reterr);
    if (!rc)
        rc = lp_solve(lp, start + MARGIN, m->run->stop, m->run->user,
                      binaries > SMALL_BINARIES ? TICKS : SMALL_TICKS, &result, reterr);
    m->solves++;
    if (!rc && (result.outcome == LP_OPTIMAL || result.outcome == LP_FEASIBLE)) {
        *ret_proven = result.outcome == LP_OPTIMAL;
        rc = take_better(k, lp, reterr);
    }
    lp_free(lp);
    return rc;
}

int moetuner_cluster(struct moetuner *m, uint32_t layer, bool *ret_proven, struct mt_err *reterr)
{
    size_t at = (size_t)layer * m->experts;
    struct packing k = {.experts = m->experts,
                        .clusters = m->ranks,
                        .least = m->least,
                        .most = m->most,
                        .load = m->load + at,
                        .of = m->cluster + at};
    int rc = 0;

    k.large = m->most - m->least == 1 && m->least == m->experts / m->ranks ? m->experts % m->ranks
                                                                           : m->ranks;
    k.order = calloc(k.experts, sizeof *k.order);
    k.sum = calloc(k.clusters, sizeof *k.sum);
    k.size = calloc(k.clusters, sizeof *k.size);
    if (!k.order || !k.sum || !k.size) {
        rc = mt_error(reterr, MT_ENOMEM, "moetuner: no memory for clusters");
    } else {
        for (uint32_t e = 0; e < k.experts; e++)
            k.mean += k.load[e] / k.clusters;
        sort_experts(&k);
        longest_first(&k);
        improve(&k);
        *ret_proven = k.clusters == 1 || deviation(&k, k.sum) <= 1e-12 * k.mean;
        if (!*ret_proven)
            rc = prove(m, &k, ret_proven, reterr);
    }
    free(k.order);
    free(k.sum);
    free(k.size);
    return rc;
}
