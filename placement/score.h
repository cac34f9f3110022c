/* The oracle: what a placement is worth, computed without a solver.
 *
 * Two evaluations. Fluid: expected values over the trace, for every home alike (homes by load) or
 * for the homes that the policy gives; smooth; what bounds are about. Sampled: the mean over
 * deterministic steps built from the trace; what is reported. In these each rank has a stream of
 * tokens: with homes by load the rank-th contiguous part of the trace, with homes by affinity the
 * documents that live there. Prefill takes tokens / ranks consecutive ones of each stream a step;
 * decode has tokens / ranks sequences a rank, spread over its stream, one token each. Streams are
 * rings, so that every step is full; there are as many steps as cover the longest stream once. */
#ifndef MT_PLACEMENT_SCORE_H
#define MT_PLACEMENT_SCORE_H

#include "placement/placement.h"
#include "placement/step.h"

enum score_evaluation { SCORE_FLUID, SCORE_SAMPLED };

struct score_scenario {
    struct step_terms terms; /* seconds of a mean step */
    double step;             /* their sum: T_s (flow semantics: load and flow terms) */
    double load, load_worst; /* max/mean of the ranks' loads over all steps: mean over layers, and
                                the worst layer */
    double straggler;        /* max/mean within a step, mean over steps and layers */
    double active;           /* busiest rank's active experts, mean over layers */
    double ranks, remote;    /* per token and layer: |S|, |S minus home| */
    double local;            /* share of token-expert pairs that stay at home */
    double tokens;           /* of a mean step: n_s, less where a home has no tokens */
    uint32_t steps;          /* sampled: how many; fluid: 0 */
    bool traffic;            /* false: no token paths, so traffic was not priced */
};

struct score {
    enum score_evaluation evaluation;
    double tokens_seconds; /* sum_s w_s T_s / n_s */
    double migration;      /* T_mig, seconds; 0 without an incumbent */
    double kv_moves;       /* seconds per token, homes by affinity */
    double j;              /* J */
    double load, load_worst, straggler, ranks, remote, local; /* means by the scenarios' shares */
    struct step_terms terms; /* seconds per token, by their shares */
    uint32_t scenarios;
    struct score_scenario scenario[PLACE_MAX_SCENARIOS];
};

/* plan must fit the problem. SCORE_SAMPLED of a scenario without token paths is MT_EUNSUPPORTED. */
int score_plan(const struct place_problem *p, const struct plan *plan, enum score_evaluation how,
               struct score *ret, struct mt_err *reterr);
/* T_mig: seconds of the busiest port while `to` is made from `from` (each new copy is read from the
 * nearest old one, lowest rank first). */
double score_migration(const struct cluster *c, const struct plan *from, const struct plan *to);

/* Where a new copy on `rank` is read from: an old copy on its node, else any; lowest rank. */
uint32_t score_source(const struct cluster *c, const struct plan *from, size_t pair, uint32_t rank);

#endif
