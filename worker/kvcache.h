/* The paged KV cache of a rank: one pool of blocks for each layer, all made at start. The daemon
 * decides which sequence owns which block; here they only have addresses. */
#ifndef MT_WORKER_KVCACHE_H
#define MT_WORKER_KVCACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "api/status.h"
#include "kernels/kernels.h"
#include "worker/model.h"

struct kvcache {
    struct kv_layer *layer; /* [layers] */
    uint32_t layers, blocks;
    void *memory;
    size_t bytes;
    size_t populated; /* of them, by kvcache_populate */
};

/* Bytes of one block over all layers. */
size_t kvcache_block_bytes(const struct model_config *c, enum numerics numerics);

/* Blocks that a budget buys; 0 bytes means the default: what 16 of the model's longest sequences
 * need, but at most a quarter of the memory that is available now divided by `sharers` (ranks on
 * this host), and at most 1 GiB. MT_ELIMIT if the budget is less than one block, or more than the
 * memory available. */
int kvcache_blocks(const struct model_config *c, enum numerics numerics, int64_t budget,
                   uint32_t sharers, uint32_t *ret_blocks, struct mt_err *reterr);

/* The system gives the pages when they are first touched: a job that starts again in the middle of
 * things must not wait for them. */
int kvcache_open(const struct model_config *c, struct kernels *k, uint32_t blocks,
                 struct kvcache *ret, struct mt_err *reterr);
/* For idle moments: has the system give the next huge page of the pool, so that all of it is soon
 * had and later steps need not wait. Less than a millisecond. False: nothing is left to do. */
bool kvcache_populate(struct kvcache *kv);
void kvcache_close(struct kvcache *kv, struct kernels *k);

#endif
