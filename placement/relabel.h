/* The same clusters on other ranks: where ranks are alike, the labels are chosen so that as little
 * as possible has to move from the plan in force. Pure; one thread of a process at a time. */
#ifndef MT_PLACEMENT_RELABEL_H
#define MT_PLACEMENT_RELABEL_H

#include "placement/placement.h"

/* A plan that exchanges, in each layer, the contents of ranks of one node with equal slots: the
 * least number of copies that `from` does not have, by assignment (lp_assign), exact. Load, traffic
 * and their times are the same with homes by load. */
int relabel_plan(const struct cluster *c, const struct plan *from, const struct plan *plan,
                 struct plan *ret, struct mt_err *reterr);

#endif
