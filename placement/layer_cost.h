/* What one layer costs in the fluid evaluation with homes by load and one copy of each expert, from
 * what its ranks are touched by. There every rank is the home of an equal part of the tokens, so a
 * rank's traffic does not depend on who sends it. Pure; any thread. */
#ifndef MT_PLACEMENT_LAYER_COST_H
#define MT_PLACEMENT_LAYER_COST_H

#include "placement/placement.h"

/* X(M) of dispatch, and, since every port's ends change places, of combine. vectors[ranks]: per
 * token of the step, to each rank. network[nodes]: to each node, or NULL for the sum over its
 * ranks. */
double layer_cost_exchange(const struct cluster *c, double tokens, const double *vectors,
                           const double *network, double bytes);
/* Mean choices of each expert per token: counted on the scenario's trace, or the load that is
 * given. ret[experts]. */
void layer_cost_loads(const struct place_problem *p, const struct place_scenario *s, uint32_t layer,
                      double *ret);
/* alpha n p + beta (1 - (1 - p)^n) of an expert with p choices per token. What a rank computes is
 * the sum over its experts. */
double layer_cost_compute(const struct cluster *c, double tokens, double load);
/* max_g dense(n / ranks), seconds per layer */
double layer_cost_dense(const struct cluster *c, double tokens);
/* sum_s w_s T_sl / n_s of one layer by score_plan's own formula; rank[experts]: one copy each. */
int layer_cost_plan(const struct place_problem *p, uint32_t layer, const uint16_t *rank,
                    double *ret, struct mt_err *reterr);
/* Does the formula hold for the problem? NULL, or why not (static). */
const char *layer_cost_refuses(const struct place_problem *p);

#endif
