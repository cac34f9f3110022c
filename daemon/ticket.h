/* The engine's side of one request: its sequences, its text, its times. Turns the batcher's events
 * into the request's output.
 *
 * Made by whoever submits; from then on the engine's thread's alone, but for what is marked: that
 * is under the engine's lock. The request's own lock is taken here, for each write, and never held
 * when a function returns. */
#ifndef MT_DAEMON_TICKET_H
#define MT_DAEMON_TICKET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "daemon/batcher.h"
#include "daemon/metrics.h"
#include "daemon/queue.h"
#include "daemon/request.h"
#include "daemon/textout.h"

struct ticket_choice {
    struct ticket *ticket;
    struct sequence *seq; /* NULL: not running */
    struct textout text;
    uint64_t last_us; /* its last token */
    bool finished;
};

enum ticket_doom { DOOM_NONE, DOOM_CANCELLED, DOOM_EXPIRED };

struct ticket {
    struct queue_item item;     /* engine's lock; item.queued: it waits */
    TAILQ_ENTRY(ticket) all;    /* engine's lock */
    TAILQ_ENTRY(ticket) doomed; /* engine's lock; listed while doom is set */
    enum ticket_doom doom;      /* engine's lock */
    TAILQ_ENTRY(ticket) dirty;  /* listed while is_dirty */
    bool is_dirty;              /* has output that its owner was not told of */
    struct request *request;    /* a reference */
    struct metrics *metrics;
    struct textout_rules rules;
    uint64_t deadline_us; /* 0: none */
    uint64_t order;       /* among those that wait and run: see queue_order */
    uint64_t started_us;  /* left the queue */
    uint32_t deaths;      /* of jobs that worked on it since it last got something */
    uint32_t n_output;    /* tokens, all choices */
    uint32_t n_finished;
    bool done;
    struct ticket_choice choices[]; /* [request->params.n] */
};

TAILQ_HEAD(ticket_list, ticket);

int ticket_new(struct request *r, struct metrics *metrics, uint64_t now_us, struct ticket **ret,
               struct mt_err *reterr);
void ticket_free(struct ticket *t); /* the sequences must have ended; NULL allowed */
/* Leaves the queue. vocab and eos as in textout_rules. */
void ticket_start(struct ticket *t, const struct textout_vocab *vocab, const int32_t *eos,
                  uint32_t n_eos, uint64_t now_us);
/* What to add to the batcher for choice i; false: it has nothing to run and has been finished. */
bool ticket_spec(struct ticket *t, uint32_t i, uint32_t new_tokens, uint64_t now_us,
                 struct batcher_spec *ret);
/* Writes an event, whose user is the choice, into the request. Afterwards the choice may be
 * finished, and the ticket done with its last choice. On failure the request is as it was before
 * the event, more or less: it must be failed. */
int ticket_event(const struct batcher_event *e, uint64_t now_us);
/* Ends all that is not finished yet with reason; err NULL: no error. */
void ticket_end(struct ticket *t, enum finish_reason reason, const struct mt_err *err,
                uint64_t now_us);

#endif
