/* The methods behind PLACE_METHODS; each is a place_method.solve. Their contracts are in
 * placement.h. */
#ifndef MT_PLACEMENT_METHODS_H
#define MT_PLACEMENT_METHODS_H

#include "placement/placement.h"

#define PLACE_METHOD(name) \
    int name(const struct place_problem *p, const struct place_run *run, struct place_result *ret, \
             struct mt_err *reterr)

PLACE_METHOD(joint_solve);         /* ours: the whole objective at once */
PLACE_METHOD(moetuner_solve);      /* the paper's two ILPs, equal cluster sizes, sum form */
PLACE_METHOD(moetuner_max_solve);  /* ... ILP 2 in max form */
PLACE_METHOD(moetuner_free_solve); /* ... free cluster sizes, equal totals (eq 13) */
PLACE_METHOD(contiguous_solve);
PLACE_METHOD(random_solve);
PLACE_METHOD(eplb_solve);        /* DeepSeek's, hierarchical where groups allow it */
PLACE_METHOD(eplb_global_solve); /* ... its global policy */
PLACE_METHOD(exflow_solve);      /* affinity only: flow between consecutive layers */
PLACE_METHOD(grace_solve);       /* co-activation groups, then replicas */

#endif
