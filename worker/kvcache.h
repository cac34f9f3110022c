/* The paged KV cache of a rank: one pool of blocks for each layer, all made at start. The daemon
 * decides which sequence owns which block; here they only have addresses. */
#ifndef MT_WORKER_KVCACHE_H
#define MT_WORKER_KVCACHE_H

#include <stdint.h>

#include "api/status.h"
#include "kernels/kernels.h"
#include "worker/model.h"

struct kvcache {
    struct kv_layer *layer; /* [layers] */
    uint32_t layers, blocks;
    void *memory;
    size_t bytes;
};

/* Bytes of one block over all layers. */
size_t kvcache_block_bytes(const struct model_config *c, enum numerics numerics);

/* Blocks that a budget buys; 0 bytes means the default: what 16 of the model's longest sequences
 * need, but at most a quarter of the memory that is available now divided by `sharers` (ranks on
 * this host), and at most 1 GiB. MT_ELIMIT if the budget is less than one block, or more than the
 * memory available. */
int kvcache_blocks(const struct model_config *c, enum numerics numerics, int64_t budget,
                   uint32_t sharers, uint32_t *ret_blocks, struct mt_err *reterr);

/* Memory is taken and touched here, so that it cannot be found missing later. */
int kvcache_open(const struct model_config *c, struct kernels *k, uint32_t blocks,
                 struct kvcache *ret, struct mt_err *reterr);
void kvcache_close(struct kvcache *kv, struct kernels *k);

#endif
