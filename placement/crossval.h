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

struct crossval {
    uint32_t rule; /* of CROSSVAL_RULES */
    enum {
        CROSSVAL_ANY,    /* nothing could be compared */
        CROSSVAL_SINGLE, /* one copy of each expert: copies fit what was seen, not what came */
        CROSSVAL_COPIES,
        CROSSVAL_EPLB, /* its plans do better than any of search */
    } kind;
};

/* What had the least sampled J on the folds that were not fitted. When run->stop says so, the best
 * of what was tried on both folds, or the first rule. */
int crossval_choose(const struct place_problem *p, const struct place_run *run,
                    struct crossval *ret, struct mt_err *reterr);

#endif
