#include "daemon/kvpool.h"

#include <inttypes.h>
#include <stdlib.h>

int kvpool_init(struct kvpool *p, uint32_t n_blocks, struct mt_err *reterr)
{
    uint32_t *list = malloc(((size_t)n_blocks + 1) * sizeof(*list));
    uint32_t i;

    if (!list)
        return mt_error(reterr, MT_ENOMEM, "no memory for a pool of %" PRIu32 " KV blocks",
                        n_blocks);
    for (i = 0; i < n_blocks; i++) /* the lowest id is taken first */
        list[i] = n_blocks - 1 - i;
    *p = (struct kvpool){.n_blocks = n_blocks, .n_free = n_blocks, .free = list};
    return 0;
}

void kvpool_done(struct kvpool *p)
{
    free(p->free);
    *p = (struct kvpool){0};
}

bool kvpool_reserve(struct kvpool *p, uint32_t n)
{
    if (n > p->n_blocks - p->reserved)
        return false;
    p->reserved += n;
    return true;
}

uint32_t kvpool_take(struct kvpool *p)
{
    return p->free[--p->n_free];
}

void kvpool_release(struct kvpool *p, uint32_t reserved, const uint32_t *blocks, uint32_t n)
{
    uint32_t i;

    for (i = n; i > 0; i--)
        p->free[p->n_free++] = blocks[i - 1];
    p->reserved -= reserved;
}
