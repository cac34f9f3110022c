/* The master linear programme of a layer's set partition, with columns generated: how few vectors
 * can all ranks' shares have together. Inside placement/bound. Pure; lp_solve: one thread. */
#ifndef MT_PLACEMENT_MASTER_H
#define MT_PLACEMENT_MASTER_H

#include "placement/pricing.h"

#define MASTER_MAX_COLUMNS 50000

/* Columns, kept from one window to the next. */
struct master_pool {
    uint32_t size, n, room;
    uint16_t *expert; /* [n][size], ascending */
    double *f, *compute;
};

struct master {
    const struct cover *cover;
    uint32_t ranks, size;
    struct master_pool *pool;
    const struct place_run *run; /* may be NULL */
    uint64_t max_nodes;          /* of one exact pricing */
    uint64_t seed;
    /* What was done, for whoever measures: */
    uint64_t solves, pricings, nodes, aborted;
};

void master_pool_done(struct master_pool *p);
/* Puts a column into the pool; one that is there already is ignored. */
int master_add(struct master *m, const uint16_t *expert, struct mt_err *reterr);
/* A lower bound on the sum of f over the shares of any partition whose sets are all in the window;
 * large where there is none. enough > 0: only whether the bound is at least that much is wanted;
 * *ret_bound is then at least `enough`, or, as soon as the programme's own value is seen to be
 * below it, whatever is known (0). enough = 0: within `precision` of the programme's. Less, if the
 * run stops it or pricing gives up. */
int master_bound(struct master *m, const struct pricing_window *w, double precision, double enough,
                 double *ret_bound, struct mt_err *reterr);

#endif
