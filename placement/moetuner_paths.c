/* What ILP 2 needs beside assignments: least-cost paths, and exchanges where nothing exact fits. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/lp.h"
#include "placement/moetuner.h"

#define PASSES 8

uint32_t moetuner_size(const struct moetuner *m, uint32_t l, uint32_t cluster)
{
    uint32_t n = 0;

    for (uint32_t e = 0; e < m->experts; e++)
        n += m->cluster[(size_t)l * m->experts + e] == cluster;
    return n;
}

/* --- least-cost paths ------------------------------------------------------------------------- */

/* Row 0: one state in the first layer; then what goes into a state of an inner layer comes out. */
static int path_rows(uint32_t layers, uint32_t states, struct lp **ret, struct mt_err *reterr)
{
    uint32_t rows = 1 + (layers - 2) * states;
    enum lp_row *type = calloc(rows, sizeof *type);
    double *rhs = calloc(rows, sizeof *rhs);
    int rc = type && rhs ? 0 : mt_error(reterr, MT_ENOMEM, "moetuner: no memory for a path");

    if (!rc) {
        for (uint32_t i = 0; i < rows; i++)
            type[i] = LP_EQUAL;
        rhs[0] = 1;
        rc = lp_new(rows, type, rhs, ret, reterr);
    }
    free(type);
    free(rhs);
    return rc;
}

static int path_columns(uint32_t layers, uint32_t states, const double *cost, double scale,
                        struct lp *lp, struct mt_err *reterr)
{
    int rc = 0;

    for (uint32_t l = 0; l + 1 < layers; l++)
        for (uint32_t i = 0; !rc && i < states * states; i++) {
            uint32_t row[2], n = 0;
            double value[2];

            row[n] = l == 0 ? 0 : 1 + (l - 1) * states + i / states;
            value[n++] = l == 0 ? 1 : -1;
            if (l + 2 < layers) {
                row[n] = 1 + l * states + i % states;
                value[n++] = 1;
            }
            rc = lp_add_column(lp, cost[(size_t)l * states * states + i] / scale, n, row, value, 0,
                               LP_INFINITY, false, reterr);
        }
    return rc;
}

int moetuner_path(struct moetuner *m, uint32_t states, const double *cost, uint16_t *ret,
                  struct mt_err *reterr)
{
    size_t cells = (size_t)states * states, columns = (m->layers - 1) * cells;
    struct lp_result result = {LP_NOTHING, 0};
    struct lp *lp = NULL;
    double *x, scale = 0;
    int rc;

    memset(ret, 0, m->layers * sizeof *ret);
    if (m->layers < 2 || states < 2)
        return 0;
    for (size_t i = 0; i < columns; i++)
        scale = fmax(scale, cost[i]);
    scale = scale > 0 ? scale : 1;
    x = calloc(columns + 1, sizeof *x);
    rc = x ? path_rows(m->layers, states, &lp, reterr)
           : mt_error(reterr, MT_ENOMEM, "moetuner: no memory for a path");
    if (!rc)
        rc = path_columns(m->layers, states, cost, scale, lp, reterr);
    if (!rc)
        rc = lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &result, reterr);
    m->solves++;
    if (!rc && result.outcome != LP_OPTIMAL)
        rc = mt_error(reterr, MT_EINTERNAL, "moetuner: lp_solve found no path");
    if (!rc) {
        lp_primal(lp, x);
        for (size_t i = 0; i < columns; i++)
            if (x[i] > 0.5) {
                ret[i / cells] = (uint16_t)(i % cells / states);
                ret[i / cells + 1] = (uint16_t)(i % states);
            }
    }
    lp_free(lp);
    free(x);
    return rc;
}

/* --- exchanges -------------------------------------------------------------------------------- */

struct descent {
    struct moetuner *m;
    bool totals;
    double *term;   /* [layers - 1] */
    uint32_t *size; /* [layers][clusters] */
    double total[PLAN_MAX_RANKS];
    double off;
};

static double distance(const struct moetuner *m, const double *total)
{
    double mean = (double)m->experts * m->layers / m->ranks, off = 0;

    for (uint32_t g = 0; g < m->ranks; g++)
        off += fabs(total[g] - mean);
    return off;
}

double moetuner_off(const struct moetuner *m)
{
    double total[PLAN_MAX_RANKS] = {0};

    for (uint32_t l = 0; l < m->layers; l++)
        for (uint32_t e = 0; e < m->experts; e++)
            total[m->label[(size_t)l * m->ranks + m->cluster[(size_t)l * m->experts + e]]]++;
    return distance(m, total);
}

static double term(const struct moetuner *m, uint32_t l)
{
    return moetuner_pair_cost(m, l, m->label + (size_t)l * m->ranks,
                              m->label + (size_t)(l + 1) * m->ranks);
}

static void exchange_labels(struct moetuner *m, uint32_t l, uint32_t g, uint32_t h)
{
    uint16_t *label = m->label + (size_t)l * m->ranks;

    for (uint32_t c = 0; c < m->ranks; c++)
        label[c] = (uint16_t)(label[c] == g ? h : label[c] == h ? g : label[c]);
}

/* Ranks g and h exchanged in layers first .. last - 1; kept if that is better. Only terms at the
 * ends change: those between have both their layers exchanged, and g and h alike links. */
static bool try_exchange(struct descent *d, uint32_t first, uint32_t last, uint32_t g, uint32_t h)
{
    struct moetuner *m = d->m;
    double moved = 0, before = 0, after = 0, in = 0, out = 0, off = d->off;

    for (uint32_t l = first; d->totals && l < last; l++)
        for (uint32_t c = 0; c < m->ranks; c++) {
            size_t at = (size_t)l * m->ranks + c;

            if (m->label[at] == g)
                moved += d->size[at];
            else if (m->label[at] == h)
                moved -= d->size[at];
        }
    d->total[g] -= moved;
    d->total[h] += moved;
    if (d->totals)
        off = distance(m, d->total);
    for (uint32_t l = first; l < last; l++)
        exchange_labels(m, l, g, h);
    if (first > 0) {
        before += d->term[first - 1];
        after += in = term(m, first - 1);
    }
    if (last < m->layers) {
        before += d->term[last - 1];
        after += out = term(m, last - 1);
    }
    if (off < d->off - 1e-9 || (off <= d->off + 1e-9 && after < before - 1e-12 * (1 + before))) {
        d->off = off;
        if (first > 0)
            d->term[first - 1] = in;
        if (last < m->layers)
            d->term[last - 1] = out;
        return true;
    }
    for (uint32_t l = first; l < last; l++)
        exchange_labels(m, l, g, h);
    d->total[g] += moved;
    d->total[h] -= moved;
    return false;
}

static bool descend_once(struct descent *d)
{
    struct moetuner *m = d->m;
    bool better = false;

    for (uint32_t l = 0; l < m->layers && !moetuner_stopped(m); l++)
        for (uint32_t g = 0; g < m->ranks; g++)
            for (uint32_t h = 0; h < g; h++) {
                better |= try_exchange(d, l, l + 1, g, h);
                if (d->totals && m->node[g] == m->node[h])
                    better |= try_exchange(d, l, m->layers, g, h);
            }
    return better;
}

void moetuner_descend(struct moetuner *m, bool totals)
{
    struct descent d = {.m = m, .totals = totals};

    d.term = calloc(m->layers, sizeof *d.term);
    d.size = calloc((size_t)m->layers * m->ranks, sizeof *d.size);
    if (d.term && d.size) { /* without memory the labels stay as they are */
        for (uint32_t l = 0; l < m->layers; l++) {
            if (l + 1 < m->layers)
                d.term[l] = term(m, l);
            for (uint32_t c = 0; c < m->ranks; c++) {
                size_t at = (size_t)l * m->ranks + c;

                d.size[at] = moetuner_size(m, l, c);
                d.total[m->label[at]] += d.size[at];
            }
        }
        d.off = totals ? distance(m, d.total) : 0;
        for (uint32_t pass = 0; pass < PASSES && descend_once(&d); pass++)
            ;
    }
    free(d.term);
    free(d.size);
}
