/* Flow semantics (paper, equations 8 to 15): a token hops from its expert's rank in one layer to
 * its expert's rank in the next, and does not return home.
 *
 * M[g][g'] of layers l, l + 1: sum over a token's expert pairs, each weighted 1 / topk, directed,
 * g != g'; X(M) takes the place of dispatch and combine. A step costs
 *     sum over layers of max_g(alpha load_g + beta active_g) + sum over pairs of layers of X(M)
 * One copy per expert: which copy serves would depend on where the token comes from, and the
 * published method does not say how. Homes play no part, so there is no dense term. Pure. */
#ifndef MT_PLACEMENT_FLOW_H
#define MT_PLACEMENT_FLOW_H

#include "placement/score.h"

/* score_plan for PLACE_FLOW; a plan with replicas is MT_EUNSUPPORTED. X(M) is terms.dispatch; of
 * the figures, local is the share of expert pairs whose hop stays on its rank, remote the weighted
 * pairs per token and pair of layers that do not, ranks the distinct ranks per token and layer.
 * Sampled: steps as score.h has them for homes by load. */
int flow_score(const struct place_problem *p, const struct plan *plan, enum score_evaluation how,
               struct score *ret, struct mt_err *reterr);

struct flow_found {
    double objective; /* tokens_seconds of the plan, fluid: J without migration */
    bool optimal;     /* proven for that */
    uint64_t moves;
};

/* Replaces *io_plan by one of less fluid objective, if it finds one; never by a worse one, and
 * never by one that does not fit the slots. Annealing by exchanges and moves from *io_plan and from
 * MoETuner's plan, then, where layers have few placements, the exact chain over all of them. Until
 * run->stop, or run->iterations moves (both 0: one pass). *io_plan has one copy of each expert
 * (otherwise MT_EUNSUPPORTED). Migration is not priced: the caller weighs the plan found against
 * the one in force. */
int flow_search(const struct place_problem *p, const struct place_run *run, struct plan *io_plan,
                struct flow_found *ret, struct mt_err *reterr);

/* A lower bound on tokens_seconds (hence on J) of every plan with one copy of each expert, fluid.
 * *ret_exact: it is the optimum. */
int flow_bound(const struct place_problem *p, const struct place_run *run, double *ret_bound,
               bool *ret_exact, struct mt_err *reterr);

#endif
