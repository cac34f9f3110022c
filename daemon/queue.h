/* The waiting line in front of the batcher: bounded by requests and by prompt tokens (I5), the
 * lowest order first, and of one order first in first out.
 *
 * An order is a time of arrival, moved by the request's priority: see queue_order. So however many
 * urgent requests come, none is overtaken by one that comes later than its priority is worth, and
 * no request waits for ever.
 *
 * Pure: no clock (the time is passed in), no lock (the owner's), no allocation (items are embedded
 * in what waits). Pop and removal take constant time; a push takes as long as those it overtakes.
 */
#ifndef MT_DAEMON_QUEUE_H
#define MT_DAEMON_QUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "api/status.h"

struct queue_item {
    TAILQ_ENTRY(queue_item) link;
    void *owner; /* what waits; set by its owner */
    uint32_t tokens;
    uint64_t order;
    bool queued;
};

struct queue {
    TAILQ_HEAD(queue_items, queue_item) items;
    uint32_t n_items, max_items;
    int64_t n_tokens, max_tokens;
};

void queue_init(struct queue *q, uint32_t max_items, int64_t max_tokens);
/* Arrival at now_us with a priority (lower goes first, 0 is ordinary), each level of which is worth
 * level_us of waiting. Clocks may start at 0: orders start at QUEUE_EPOCH. */
#define QUEUE_EPOCH (UINT64_C(1) << 62)
uint64_t queue_order(uint64_t now_us, int32_t priority, uint64_t level_us);
/* MT_ELIMIT names the limit and the load. An empty queue takes any item, so that nothing is refused
 * for ever. */
int queue_push(struct queue *q, struct queue_item *item, uint32_t tokens, uint64_t order,
               struct mt_err *reterr);
struct queue_item *queue_head(const struct queue *q); /* the next to leave; NULL: empty */
struct queue_item *queue_pop(struct queue *q);        /* NULL: empty */
void queue_remove(struct queue *q,
                  struct queue_item *item); /* one that is not queued is left alone */

#endif
