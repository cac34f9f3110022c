/* The KV blocks of one rank, as the daemon sees them: a free list, and a reservation count that
 * keeps the pool from ever being overcommitted. Whoever runs reserves its worst case first and then
 * takes blocks one by one as it grows, which cannot fail. Pure; one owner. */
#ifndef MT_DAEMON_KVPOOL_H
#define MT_DAEMON_KVPOOL_H

#include <stdbool.h>
#include <stdint.h>

#include "api/status.h"

struct kvpool {
    uint32_t n_blocks;
    uint32_t n_free;   /* not taken */
    uint32_t reserved; /* taken or promised; <= n_blocks */
    uint32_t *free;    /* [n_blocks] a stack, n_free of them valid; owned */
};

int kvpool_init(struct kvpool *p, uint32_t n_blocks, struct mt_err *reterr);
void kvpool_done(struct kvpool *p);                /* zeroed ones allowed */
bool kvpool_reserve(struct kvpool *p, uint32_t n); /* false: not that many left, nothing changes */
uint32_t kvpool_take(struct kvpool *p);            /* within a reservation */
/* Ends a reservation of `reserved` blocks, n of which had been taken. */
void kvpool_release(struct kvpool *p, uint32_t reserved, const uint32_t *blocks, uint32_t n);

#endif
