/* Pricing of columns: among the sets S of `size` experts within a window of C and below a cap of f,
 * the least reduced cost f(S) - sum of pi over S. Inside placement/bound. Pure. */
#ifndef MT_PLACEMENT_PRICING_H
#define MT_PLACEMENT_PRICING_H

#include "placement/cover.h"

#define PRICING_MAX_SIZE 64 /* experts per rank */
#define PRICING_KEEP 256    /* columns that one search hands back at most */

struct pricing_window {
    double least, most; /* of C(S) */
    double cap;         /* of f(S) */
};

struct pricing_found {
    double cost; /* reduced */
    uint16_t expert[PRICING_MAX_SIZE];
};

struct pricing {
    const struct cover *cover;
    uint32_t size;
    struct pricing_window window;
    const double *pi; /* [experts]; borrowed */
    double limit;     /* only sets of reduced cost below it are wanted */
    uint64_t nodes;   /* of the tree so far */
    uint64_t max_nodes;
    uint32_t enough; /* ends when it has found as many; 0: never */
    bool (*stop)(void *user);
    void *user;
    bool aborted;                /* max_nodes, enough or stop */
    double frontier;             /* then: no set that was not looked at costs less */
    uint32_t found;              /* the best of those below `limit` as it was, best first */
    struct pricing_found *best;  /* [PRICING_KEEP] */
    struct pricing_level *level; /* [size + 1] */
    uint64_t *bits;
};

int pricing_new(const struct cover *cover, uint32_t size, struct pricing *ret,
                struct mt_err *reterr);
void pricing_done(struct pricing *p);
/* By branch and bound. No set in the window costs less than the value returned, which is at most
 * `limit`, and far below what is true if p->aborted. */
double pricing_exact(struct pricing *p, const double *pi, double limit);
/* From expert[size], by exchanges of one expert: leaves the set in *expert, returns its reduced
 * cost. A set outside the window moves towards it. *ret_inside: it is in the window. */
double pricing_descend(struct pricing *p, const double *pi, uint16_t *expert, bool *ret_inside);

#endif
