/* How the copies of an expert share the tokens that are drawn (route.h): a linear programme per
 * layer on lp_solve, exact. Pure; one thread of a process at a time. */
#ifndef MT_PLACEMENT_SPLIT_H
#define MT_PLACEMENT_SPLIT_H

#include "placement/placement.h"

/* A copy of the plan with shares that minimise, layer by layer, the mean over scenarios of the
 * busiest rank's expected load; the copies stay where they are. Shares can only move what neither
 * the home nor another expert decides: experts with two copies on one of several nodes, and all
 * with homes by affinity, keep even ones. */
int split_solve(const struct place_problem *p, const struct plan *plan, struct plan *ret,
                struct mt_err *reterr);

#endif
