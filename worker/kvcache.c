#include "worker/kvcache.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define DEFAULT_SEQUENCES 16
#define DEFAULT_MOST ((uint64_t)1 << 30)
#define POPULATE_BYTES ((size_t)2 << 20)

static enum dtype kv_dtype(enum numerics numerics)
{
    return numerics == NUMERICS_FAST ? DTYPE_BF16 : DTYPE_F32;
}

/* Bytes of one block's keys (or values) in one layer. */
static size_t half_bytes(const struct model_config *c, enum numerics numerics)
{
    return (size_t)KV_BLOCK_TOKENS * c->kv_heads * c->head_dim * dtype_size(kv_dtype(numerics));
}

size_t kvcache_block_bytes(const struct model_config *c, enum numerics numerics)
{
    return 2 * c->layers * half_bytes(c, numerics);
}

/* MemAvailable of /proc/meminfo in bytes; 0 if it cannot be read. */
static uint64_t memory_available(void)
{
    FILE *f = fopen("/proc/meminfo", "re");
    char line[128];
    uint64_t kib = 0;

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %" SCNu64 " kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib * 1024;
}

int kvcache_blocks(const struct model_config *c, enum numerics numerics, int64_t budget,
                   uint32_t sharers, uint32_t *ret_blocks, struct mt_err *reterr)
{
    uint64_t block = kvcache_block_bytes(c, numerics), bytes = (uint64_t)budget,
             available = memory_available();
    uint64_t blocks;

    if (!budget) {
        uint64_t longest = (c->max_positions + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS * block;
        bytes =
            longest > DEFAULT_MOST / DEFAULT_SEQUENCES ? DEFAULT_MOST : longest * DEFAULT_SEQUENCES;
        if (available && bytes > available / 4 / sharers)
            bytes = available / 4 / sharers;
    }
    if (available && bytes > available)
        return mt_error(reterr, MT_ELIMIT,
                        "KV memory of %" PRIu64 " MiB: only %" PRIu64 " MiB are available",
                        bytes >> 20, available >> 20);
    blocks = bytes / block;
    if (!blocks)
        return mt_error(reterr, MT_ELIMIT,
                        "KV memory of %" PRIu64 " bytes holds no block of %" PRIu64 " bytes", bytes,
                        block);
    *ret_blocks = blocks > WIRE_MAX_STEP_BLOCKS ? WIRE_MAX_STEP_BLOCKS : (uint32_t)blocks;
    return 0;
}

int kvcache_open(const struct model_config *c, struct kernels *k, uint32_t blocks,
                 struct kvcache *ret, struct mt_err *reterr)
{
    size_t half = half_bytes(c, k->numerics) * blocks;
    struct kvcache kv = {.layers = c->layers, .blocks = blocks, .bytes = 2 * c->layers * half};

    kv.layer = calloc(c->layers, sizeof *kv.layer);
    kv.memory = kv.layer ? k->op->alloc(k, kv.bytes) : NULL;
    if (!kv.memory) {
        free(kv.layer);
        return mt_error(reterr, MT_ENOMEM, "no memory for a KV cache of %zu MiB", kv.bytes >> 20);
    }
    for (uint32_t l = 0; l < c->layers; l++)
        kv.layer[l] = (struct kv_layer){
            .k = (char *)kv.memory + 2 * l * half,
            .v = (char *)kv.memory + (2 * l + 1) * half,
            .dtype = kv_dtype(k->numerics),
            .kv_heads = c->kv_heads,
            .head_dim = c->head_dim,
        };
    *ret = kv;
    return 0;
}

/* Pages are asked for and not written to: steps own what is in them. Where the kernel does not know
 * the advice (before Linux 5.14), pages come with the first step that uses them. */
bool kvcache_populate(struct kvcache *kv)
{
    size_t left = kv->bytes - kv->populated;

    if (left < POPULATE_BYTES ||
        madvise((char *)kv->memory + kv->populated, POPULATE_BYTES, MADV_POPULATE_WRITE))
        kv->populated = kv->bytes;
    else
        kv->populated += POPULATE_BYTES;
    return kv->populated < kv->bytes;
}

void kvcache_close(struct kvcache *kv, struct kernels *k)
{
    if (!kv)
        return;
    if (kv->memory)
        k->op->free(k, kv->memory, kv->bytes);
    free(kv->layer);
    *kv = (struct kvcache){0};
}
