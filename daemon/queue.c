#include "daemon/queue.h"

#include <inttypes.h>
#include <stddef.h>

void queue_init(struct queue *q, uint32_t max_items, int64_t max_tokens)
{
    *q = (struct queue){.max_items = max_items, .max_tokens = max_tokens};
    TAILQ_INIT(&q->items);
}

int queue_push(struct queue *q, struct queue_item *item, uint32_t tokens, uint64_t now_us,
               struct mt_err *reterr)
{
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
    item->queued_us = now_us;
    item->queued = true;
    TAILQ_INSERT_TAIL(&q->items, item, link);
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
