/* Lower bounds on J: no plan of the problem costs less. Fluid objective, homes by load, one copy of
 * each expert (every slot is taken, so that no plan can have replicas), or loads alone; other
 * options have no bound here and say so.
 *
 * Up to 16 experts: the optimum (exact.h). Beyond: a layer is a set partition of the experts into
 * ranks' shares. With C(S) the compute of a share S over all scenarios and X(S) what its vectors
 * cost,
 *     J_l >= constant + max_g C(S_g) + mean_g X(S_g)
 *     J_l >= constant + max_g C(S_g) + max_g X(S_g)
 * (one node; cover.h has the factors of several). In a plan cheaper than a target with its largest
 * C in [low, high] no share has C above high, C below what that leaves to it, or X above target -
 * constant - low. The linear programme over such shares as columns bounds mean_g X, or has no
 * answer; either way the window is closed if no plan in it is cheaper than the target. A walk goes
 * from the highest C to the least possible, and the target gives way where the programme does not
 * reach it. Columns are generated as they are needed: any duals pi give the valid bound
 *     sum pi + ranks * min over S of (X(S) - pi(S)),
 * whose minimum is bounded by branch and bound (pricing.h). Charges for migration are bounded by 0.
 * Pure; one thread of a process at a time (lp_solve). */
#ifndef MT_PLACEMENT_BOUND_H
#define MT_PLACEMENT_BOUND_H

#include "placement/placement.h"

struct bound {
    double value;        /* seconds per token; 0 if missing */
    bool exact;          /* value is attained by a plan */
    const char *missing; /* why there is no bound; static; NULL if there is one */
};

/* best: a plan of the problem, whose layers' costs say where intervals end and when there is
 * nothing left to prove; NULL: one is made. Ends when run says stop, when the gap to best is at
 * most run->gap, or when nothing more can be gained; valid whenever it ends. run may be NULL. */
int bound_solve(const struct place_problem *p, const struct plan *best, const struct place_run *run,
                struct bound *ret, struct mt_err *reterr);
/* One layer's part: the sum over layers is the whole. For tools that run layers in processes. */
int bound_layer(const struct place_problem *p, uint32_t layer, const struct plan *best,
                const struct place_run *run, struct bound *ret, struct mt_err *reterr);
/* As bound_layer, by the programme alone, also where the exact solver would do (tests). */
int bound_programme(const struct place_problem *p, uint32_t layer, const struct plan *best,
                    const struct place_run *run, struct bound *ret, struct mt_err *reterr);
/* Why the problem has no bound here (static), or NULL. */
const char *bound_missing(const struct place_problem *p);

#endif
