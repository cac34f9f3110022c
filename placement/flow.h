/* Flow semantics (paper, equations 8 to 15): a token hops from its expert's rank in one layer to
 * its expert's rank in the next, and does not return home.
 *
 * M[g][g'] of layers l, l + 1: sum over a token's expert pairs, each weighted 1 / topk, directed,
 * g != g'; X(M) takes the place of dispatch and combine. One copy per expert. Pure. */
#ifndef MT_PLACEMENT_FLOW_H
#define MT_PLACEMENT_FLOW_H

#include "placement/score.h"

/* score_plan for PLACE_FLOW; a plan with replicas is MT_EUNSUPPORTED. */
int flow_score(const struct place_problem *p, const struct plan *plan, enum score_evaluation how,
               struct score *ret, struct mt_err *reterr);

#endif
