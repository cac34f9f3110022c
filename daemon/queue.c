#include "daemon/queue.h"

#include <inttypes.h>
#include <stddef.h>

void queue_init(struct queue *q, uint32_t max_items, int64_t max_tokens)
{
    *q = (struct queue){.max_items = max_items, .max_tokens = max_tokens};
    TAILQ_INIT(&q->items);
}

uint64_t queue_order(uint64_t now_us, int32_t priority, uint64_t level_us)
{
    const uint64_t at = QUEUE_EPOCH + now_us;
    uint64_t levels = (uint64_t)(priority < 0 ? -(int64_t)priority : priority);
    uint64_t moved =
        levels && level_us > UINT64_MAX / 2 / levels ? UINT64_MAX / 2 : levels * level_us;

    if (priority < 0)
        return at > moved ? at - moved : 0;
    return at < UINT64_MAX - moved ? at + moved : UINT64_MAX;
}

int queue_push(struct queue *q, struct queue_item *item, uint32_t tokens, uint64_t order,
               struct mt_err *reterr)
{
    struct queue_item *at;

    if (q->n_items && q->n_items >= q->max_items)
        return mt_error(reterr, MT_ELIMIT,
                        "%" PRIu32 " requests are waiting, the limit is %" PRIu32, q->n_items,
                        q->max_items);
    if (q->n_items && (int64_t)tokens > q->max_tokens - q->n_tokens)
        return mt_error(reterr, MT_ELIMIT,
                        "%" PRId64 " prompt tokens are waiting and %" PRIu32
                        " more would pass the limit of %" PRId64,
                        q->n_tokens, tokens, q->max_tokens);
    item->tokens = tokens;
    item->order = order;
    item->queued = true;
    at = TAILQ_LAST(&q->items, queue_items);
    while (at && order < at->order)
        at = TAILQ_PREV(at, queue_items, link);
    if (at)
        TAILQ_INSERT_AFTER(&q->items, at, item, link);
    else
        TAILQ_INSERT_HEAD(&q->items, item, link);
    q->n_items++;
    q->n_tokens += tokens;
    return 0;
}

struct queue_item *queue_head(const struct queue *q)
{
    return TAILQ_FIRST(&q->items);
}

void queue_remove(struct queue *q, struct queue_item *item)
{
    if (!item->queued)
        return;
    TAILQ_REMOVE(&q->items, item, link);
    item->queued = false;
    q->n_items--;
    q->n_tokens -= item->tokens;
}

struct queue_item *queue_pop(struct queue *q)
{
    struct queue_item *item = TAILQ_FIRST(&q->items);

    if (item)
        queue_remove(q, item);
    return item;
}
