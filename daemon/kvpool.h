/* The KV blocks of one rank, as the daemon sees them, and what is in them.
 *
 * A block is held by the sequences that read it. With no holder left it is free, or, when its
 * content has been published, cached: found again by its content until it is needed for something
 * else, least recently used first. A full block's content is the tokens of its positions and all
 * tokens before them; these are named by the serial number of the block before it (0: none), which
 * is never given twice. So a hit is exact, and no hash decides what an answer is made of.
 *
 * Pure; one owner. All functions but init take constant time, give or take a hash chain. */
#ifndef MT_DAEMON_KVPOOL_H
#define MT_DAEMON_KVPOOL_H

#include <stdbool.h>
#include <stdint.h>

#include "api/status.h"

#define KVPOOL_NONE UINT32_MAX

struct kvpool_block {
    uint32_t holders;
    uint32_t older, newer; /* cached: neighbours in order of use; KVPOOL_NONE at the ends */
    uint32_t chain;        /* published: the next of its bucket */
    uint64_t serial;       /* 0: not published */
    uint64_t before;       /* published: serial of the block before it; 0: the first */
};

struct kvpool {
    uint32_t n_blocks, block_tokens;
    uint32_t n_free;
    uint32_t n_cached;          /* published, without a holder */
    struct kvpool_block *block; /* [n_blocks] owned */
    int32_t *tokens;            /* [n_blocks][block_tokens] of published blocks; owned */
    uint32_t *free;             /* [n_blocks] a stack, n_free of them valid; owned */
    uint32_t *bucket;           /* [mask + 1] heads of hash chains; owned */
    uint32_t mask;
    uint32_t oldest, newest; /* cached */
    uint64_t serial;         /* given last */
};

int kvpool_init(struct kvpool *p, uint32_t n_blocks, uint32_t block_tokens, struct mt_err *reterr);
void kvpool_done(struct kvpool *p);                 /* zeroed ones allowed */
uint32_t kvpool_available(const struct kvpool *p);  /* free or cached: kvpool_take can give them */
bool kvpool_take(struct kvpool *p, uint32_t *ret);  /* an unpublished block with one holder */
void kvpool_hold(struct kvpool *p, uint32_t block); /* one holder more, of a published block */
void kvpool_release(struct kvpool *p, uint32_t block); /* one less */

/* The published block with these tokens after `before`; false: none. Holds nothing. */
bool kvpool_find(const struct kvpool *p, uint64_t before, const int32_t *tokens, uint32_t *ret);
/* A held block is full. Returns the serial of this content. Where another block has it already,
 * this one takes its place if nobody holds it, else stays unpublished beside it. */
uint64_t kvpool_publish(struct kvpool *p, uint32_t block, uint64_t before, const int32_t *tokens);

#endif
