/* Samples of steps: what each expert costs in each of them, so that the mean over samples of the
 * busiest rank can be minimised (stragglers, and documents that were not seen: place-study).
 *
 * A sample belongs to one scenario. In it an expert with w tokens on a rank costs
 *     a w + b (1 - [w = 0])        seconds of J
 * with a = (share / n_s) alpha / samples of the scenario, b likewise of beta. Pure; read-only once
 * made. */
#ifndef MT_PLACEMENT_SAMPLE_H
#define MT_PLACEMENT_SAMPLE_H

#include "placement/placement.h"

#define SAMPLE_LANES 16 /* the number of samples is a multiple of this */

struct sample_rule {
    double documents; /* of them in one sample, drawn with replacement; 0: means (prefill) and the
                         trace's own steps (decode) */
    double cap;       /* tokens that one document counts for at most; 0: all */
    uint32_t samples; /* about how many, over all scenarios */
};

struct sample_set; /* opaque: the draws, for all layers alike */

int sample_new(const struct place_problem *p, const struct sample_rule *rule, uint64_t seed,
               struct sample_set **ret, struct mt_err *reterr);
void sample_free(struct sample_set *s);
uint32_t sample_count(const struct sample_set *s);
/* a[count], b[count]; zero beyond the real samples. */
const double *sample_token_cost(const struct sample_set *s);
const double *sample_active_cost(const struct sample_set *s);
/* share / n_s / samples of the scenario: [count]. */
const double *sample_weight(const struct sample_set *s);
/* tokens[experts + 1][count]: w of each expert in each sample of a layer; active alike, the
 * probability that it has a token (0 or 1 where a sample is a step). The last row is zero. */
void sample_layer(const struct sample_set *s, uint32_t layer, float *tokens, float *active);

#endif
