#include "daemon/kvpool.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

int kvpool_init(struct kvpool *p, uint32_t n_blocks, uint32_t block_tokens, struct mt_err *reterr)
{
    struct kvpool pool = {.n_blocks = n_blocks,
                          .block_tokens = block_tokens,
                          .n_free = n_blocks,
                          .oldest = KVPOOL_NONE,
                          .newest = KVPOOL_NONE};
    uint32_t i;

    while (pool.mask < n_blocks && pool.mask < UINT32_MAX / 2)
        pool.mask = pool.mask * 2 + 1;
    pool.block = calloc((size_t)n_blocks + 1, sizeof(*pool.block));
    pool.tokens = malloc(((size_t)n_blocks * block_tokens + 1) * sizeof(*pool.tokens));
    pool.free = malloc(((size_t)n_blocks + 1) * sizeof(*pool.free));
    pool.bucket = malloc(((size_t)pool.mask + 1) * sizeof(*pool.bucket));
    if (!pool.block || !pool.tokens || !pool.free || !pool.bucket) {
        kvpool_done(&pool);
        return mt_error(reterr, MT_ENOMEM,
                        "no memory for a pool of %" PRIu32 " KV blocks of %" PRIu32 " tokens",
                        n_blocks, block_tokens);
    }
    for (i = 0; i < n_blocks; i++) /* the lowest id is taken first */
        pool.free[i] = n_blocks - 1 - i;
    memset(pool.bucket, 0xff, ((size_t)pool.mask + 1) * sizeof(*pool.bucket));
    *p = pool;
    return 0;
}

void kvpool_done(struct kvpool *p)
{
    free(p->block);
    free(p->tokens);
    free(p->free);
    free(p->bucket);
    *p = (struct kvpool){0};
}

uint32_t kvpool_available(const struct kvpool *p)
{
    return p->n_free + p->n_cached;
}

static int32_t *block_tokens(const struct kvpool *p, uint32_t block)
{
    return p->tokens + (size_t)block * p->block_tokens;
}

static uint32_t *bucket_of(const struct kvpool *p, uint64_t before, const int32_t *tokens)
{
    uint64_t hash = XXH3_64bits_withSeed(tokens, p->block_tokens * sizeof(*tokens), before);

    return p->bucket + (hash & p->mask);
}

static void unpublish(struct kvpool *p, uint32_t block)
{
    struct kvpool_block *k = &p->block[block];
    uint32_t *at = bucket_of(p, k->before, block_tokens(p, block));

    while (*at != block)
        at = &p->block[*at].chain;
    *at = k->chain;
    k->serial = 0;
}

static void cache_remove(struct kvpool *p, uint32_t block)
{
    struct kvpool_block *k = &p->block[block];

    *(k->older == KVPOOL_NONE ? &p->oldest : &p->block[k->older].newer) = k->newer;
    *(k->newer == KVPOOL_NONE ? &p->newest : &p->block[k->newer].older) = k->older;
    p->n_cached--;
}

static void cache_add(struct kvpool *p, uint32_t block)
{
    struct kvpool_block *k = &p->block[block];

    k->older = p->newest;
    k->newer = KVPOOL_NONE;
    *(k->older == KVPOOL_NONE ? &p->oldest : &p->block[k->older].newer) = block;
    p->newest = block;
    p->n_cached++;
}

bool kvpool_take(struct kvpool *p, uint32_t *ret)
{
    if (p->n_free) {
        *ret = p->free[--p->n_free];
    } else if (p->n_cached) {
        *ret = p->oldest;
        cache_remove(p, *ret);
        unpublish(p, *ret);
    } else {
        return false;
    }
    p->block[*ret].holders = 1;
    return true;
}

void kvpool_hold(struct kvpool *p, uint32_t block)
{
    if (!p->block[block].holders++)
        cache_remove(p, block);
}

void kvpool_release(struct kvpool *p, uint32_t block)
{
    struct kvpool_block *k = &p->block[block];

    if (--k->holders)
        return;
    if (k->serial)
        cache_add(p, block);
    else
        p->free[p->n_free++] = block;
}

bool kvpool_find(const struct kvpool *p, uint64_t before, const int32_t *tokens, uint32_t *ret)
{
    uint32_t at;

    for (at = *bucket_of(p, before, tokens); at != KVPOOL_NONE; at = p->block[at].chain)
        if (p->block[at].before == before &&
            !memcmp(block_tokens(p, at), tokens, p->block_tokens * sizeof(*tokens))) {
            *ret = at;
            return true;
        }
    return false;
}

uint64_t kvpool_publish(struct kvpool *p, uint32_t block, uint64_t before, const int32_t *tokens)
{
    struct kvpool_block *k = &p->block[block];
    uint32_t same, *at;

    if (!kvpool_find(p, before, tokens, &same)) {
        k->serial = ++p->serial;
    } else if (p->block[same].holders) {
        return p->block[same].serial;
    } else { /* nobody's: what follows is chained to a block that is in use, and is found longer */
        k->serial = p->block[same].serial;
        cache_remove(p, same);
        unpublish(p, same);
        p->free[p->n_free++] = same;
    }
    k->before = before;
    memcpy(block_tokens(p, block), tokens, p->block_tokens * sizeof(*tokens));
    at = bucket_of(p, before, tokens);
    k->chain = *at;
    *at = block;
    return k->serial;
}
