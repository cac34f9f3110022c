/* DeepSeek's expert-parallelism load balancer (EPLB), as an algorithm on arrays.
 *
 * Greedy: the expert of most load per copy gets the next copy until every slot is filled; copies,
 * heaviest first, go to the least loaded rank with a free slot. Hierarchical: first whole groups of
 * consecutive experts to nodes, as many on each, then the same within each node. Global: one node.
 * Ties go to the lower index. Arithmetic is single precision, as published. Pure. */
#ifndef MT_PLACEMENT_EPLB_H
#define MT_PLACEMENT_EPLB_H

#include <stdint.h>

#include "placement/cluster.h"

/* weight[layers][experts] -> ret[layers][sum of c's slots]: the expert of each slot, rank by rank;
 * one expert may take several slots of a rank. The policy is hierarchical if groups > 0, which must
 * divide experts and be a multiple of c's nodes, and global if groups is 0. Of c only ranks, nodes,
 * node and slots are looked at; the published algorithm has as many slots on each rank, here the
 * ranks are filled to what they have. MT_EINVAL if groups or slots do not fit. */
int eplb_rebalance(const struct cluster *c, uint32_t layers, uint32_t experts, const float *weight,
                   uint32_t groups, uint16_t *ret, struct mt_err *reterr);

#endif
