/* Which search_rule generalises: two-fold cross-validation over the documents of the problem's own
 * traces, on a few of its layers. Nothing outside them is looked at. Pure. */
#ifndef MT_PLACEMENT_CROSSVAL_H
#define MT_PLACEMENT_CROSSVAL_H

#include "placement/search.h"

/* The rules that are compared; the first is used where nothing can be compared (one document, loads
 * alone, or no time). */
extern const struct search_rule CROSSVAL_RULES[];
extern const uint32_t CROSSVAL_N;
extern const struct search_rule CROSSVAL_PLAIN; /* the traces as they are */

/* *ret_rule: of the least sampled J on the folds that were not fitted. When run->stop says so, the
 * best of the rules that were tried on both folds, or the first. *ret_eplb: EPLB does better than
 * any of them (where traffic does not matter and the load repeats). */
int crossval_choose(const struct place_problem *p, const struct place_run *run, uint32_t *ret_rule,
                    bool *ret_eplb, struct mt_err *reterr);

#endif
