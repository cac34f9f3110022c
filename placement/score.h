/* The oracle: what a placement is worth, computed without a solver.
 *
 * Whose tokens. Homes by load: all tokens of a scenario's trace, in either phase. Homes by
 * affinity: prefill has the prompts, at their load homes; decode has what follows them, where the
 * document lives, and pays for the prompts' KV that moves there (kv_moves).
 *
 * Two evaluations. Fluid: expected values over the trace, for every home alike (homes by load, n_s
 * over ranks tokens each) or for the homes that the policy gives; draws between copies count by
 * their probabilities, independent of each other; an exchange pays the latency of a peer wherever
 * it expects anything. Smooth; what bounds are about. Sampled: the mean over deterministic steps of
 * n_s tokens built from the trace; what is reported. In these each rank has a stream of tokens and
 * a whole number of a step's tokens, in proportion. Homes by load: numbers as even as can be, and
 * the streams are contiguous parts of the trace. Homes by affinity: the streams are the documents
 * that live there, and the numbers follow by largest remainders (a step of few tokens may leave a
 * home out). Prefill takes consecutive tokens of each stream; decode has that many sequences a
 * rank, spread over its stream, one token each. Streams are rings, so that every step is full;
 * there are as many steps as cover each stream that has a part in them once. By load, a trace of
 * fewer than 16,384 tokens on at most 32 ranks is seen from several homes: the steps are repeated
 * with every stream a rank further, until that many tokens were seen or every rank had every
 * stream.
 *
 * Where the steps take every token equally often (the numbers divide the streams), a mean of maxima
 * is at least the maximum of means: sampled load and straggler are at least fluid's, and so is
 * alpha's part of compute, with one copy per expert or homes by affinity and no draws; the
 * exchanges' bytes too with homes by affinity (by load each token has one home in its step and
 * every home in fluid) and dense always. It does not hold for latency and active experts: fluid
 * counts peers and experts that a step of correlated tokens may not touch. */
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
    double tokens;           /* of a step: n_s */
    uint32_t steps;          /* sampled: how many; fluid: 0 */
    bool traffic;            /* false: no token paths, so traffic was not priced, and ranks,
                                remote and local are 0 */
};

struct score {
    enum score_evaluation evaluation;
    double tokens_seconds; /* sum_s w_s T_s / n_s */
    double migration;      /* T_mig, seconds; 0 without an incumbent */
    double kv_moves;       /* seconds per token: the busiest port's for the prompts' KV */
    double j;              /* J */
    /* Means by the scenarios' shares, but load_worst is the worst of all. */
    double load, load_worst, straggler, ranks, remote, local;
    struct step_terms terms; /* seconds per token, by their shares */
    uint32_t scenarios;
    struct score_scenario scenario[PLACE_MAX_SCENARIOS];
};

/* plan must fit the problem. SCORE_SAMPLED of a scenario without token paths is MT_EUNSUPPORTED. */
int score_plan(const struct place_problem *p, const struct plan *plan, enum score_evaluation how,
               struct score *ret, struct mt_err *reterr);
/* T_mig: seconds of the busiest port while `to` is made from `from` (each new copy is read from
 * score_source), without latencies. */
double score_migration(const struct cluster *c, const struct plan *from, const struct plan *to);

/* Where a new copy on `rank` is read from: an old copy on its node, else any; lowest rank. */
uint32_t score_source(const struct cluster *c, const struct plan *from, size_t pair, uint32_t rank);

#endif
