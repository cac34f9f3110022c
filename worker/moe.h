/* The MoE part of a layer on one rank: route, choose copies, dispatch, experts, combine. */
#ifndef MT_WORKER_MOE_H
#define MT_WORKER_MOE_H

#include <stdint.h>

#include "api/status.h"
#include "kernels/kernels.h"
#include "worker/ep.h"
#include "worker/experts.h"
#include "worker/model.h"

struct moe;

/* Buffers for ep's shape, taken once. The pointers are borrowed for the life of the object. */
int moe_open(struct kernels *k, struct ep *ep, const struct model *model, struct moe **ret,
             struct mt_err *reterr);
void moe_close(struct moe *m); /* NULL allowed */

/* The rows that moe_run takes: [ep_max_rows][hidden], of which the caller fills the first n. */
float *moe_input(struct moe *m);

/* Collective. h[n][hidden] += the experts' weighted results for moe_input()[n][hidden], under `map`
 * (one epoch for all ranks, I2). positions: [n]. Adds the time spent waiting for other ranks to
 * *wait_ns. */
int moe_run(struct moe *m, uint32_t layer, const struct expert_map *map, float *h, uint32_t n,
            const uint32_t *positions, uint64_t *wait_ns, struct mt_err *reterr);

#endif
