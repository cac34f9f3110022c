/* What a set of experts costs as a rank's share, for any number of experts: compute C(S), a sum,
 * and vectors X(S), which tokens of every trace touch S, as bits. One layer, homes by load, one
 * copy of each expert:
 *     J_l >= constant + max_g C(S_g) + scale * mean_g f(S_g)
 *     J_l >= constant + max_g C(S_g) + cap_scale * max_g f(S_g)
 * f in [0, 1] is the part of the tokens that touch the set, each trace with its weight. Both are
 * equal to J_l with one scenario on one node for shares that touch equally many tokens. Pure;
 * read-only once made. */
#ifndef MT_PLACEMENT_COVER_H
#define MT_PLACEMENT_COVER_H

#include "placement/placement.h"

struct cover {
    uint32_t experts, traces, words;
    uint32_t word[PLACE_MAX_SCENARIOS + 1]; /* of each trace: its first */
    double weight[PLACE_MAX_SCENARIOS];     /* of one of its tokens; the sum over all is 1 */
    uint64_t *row;                          /* [experts][words] tokens that choose the expert */
    uint64_t *all;                          /* [words] every token */
    double *compute;                        /* [experts] C of each */
    double constant, scale, cap_scale;
};

int cover_new(const struct place_problem *p, uint32_t layer, struct cover *ret,
              struct mt_err *reterr);
void cover_done(struct cover *c);
/* f of the tokens in bits, [words] */
double cover_part(const struct cover *c, const uint64_t *bits);
/* f of a set; scratch [words] */
double cover_of(const struct cover *c, const uint16_t *expert, uint32_t n, uint64_t *scratch);
/* ret[k] = f of the tokens in `bits` that choose expert[k] */
void cover_overlaps(const struct cover *c, const uint64_t *bits, const uint16_t *expert, uint32_t n,
                    double *ret);

#endif
