/* Private to engine*.c: engine.c is what other threads call, engine_loop.c the thread,
 * engine_requests.c what the thread does with requests.
 *
 * Locks: engine.lock and a request's lock are never held together, and neither while calling out
 * (notify, log). */
#ifndef MT_DAEMON_ENGINE_IMPL_H
#define MT_DAEMON_ENGINE_IMPL_H

#include <pthread.h>
#include <time.h>

#include "api/log.h"
#include "daemon/batcher.h"
#include "daemon/engine.h"
#include "daemon/queue.h"
#include "daemon/textout.h"
#include "daemon/ticket.h"

#define ENGINE_STOP_MS 300 /* for the job to end by itself before it is killed */

struct engine {
    struct engine_options options; /* constant */
    struct textout_vocab vocab;    /* constant */
    int wake_fd;                   /* an eventfd: there is news for the thread */
    pthread_t thread;

    pthread_mutex_t lock; /* protects from here ... */
    pthread_cond_t changed;
    enum engine_state state;
    char text[MT_ERR_TEXT];
    uint64_t incarnation, restarts;
    struct queue queue;
    struct ticket_list all;    /* waiting and running */
    struct ticket_list doomed; /* of them, those that a client or the clock has ended */
    uint32_t running;
    uint64_t next_deadline_us; /* no ticket's is earlier; UINT64_MAX: none has one */
    bool draining;
    uint64_t drain_us;          /* when to end what is left */
    bool have_shape;            /* written by the thread only */
    struct batcher_shape shape; /* of the incarnation seen last */
    struct wire_facts facts;
    struct wire_ready rank0;
    /* ... to here. The rest is the thread's alone. */

    struct job *job;
    bool launched; /* once at least */
    bool ready;    /* steps may be sent */
    bool lost;     /* the job has been down for recovery_ms */
    struct batcher *batcher;
    struct wire_step step;
    struct ticket_list dirty;
    struct batcher_counts counted; /* as far as metrics know */
    bool answered;                 /* this incarnation has, a step at least */
    uint64_t ready_us;             /* since when this incarnation has been; 0: not yet */
    uint64_t down_us;              /* since the first death after the last READY; 0: none */
    uint64_t relaunch_us;          /* when to launch next, while there is no job */
    int64_t backoff_ms;            /* before the launch after that, if the next answers nothing */
    uint64_t now_us;               /* at the last look at the clock */
};

static inline uint64_t engine_now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

void engine_wake(struct engine *e);
void *engine_main(void *engine); /* the thread */
void engine_log(struct engine *e, enum log_level level, const char *event, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Whether a request can run on this shape at all; its new tokens. */
int engine_check(const struct batcher_shape *shape, const struct wire_facts *facts,
                 const struct request *r, uint32_t *ret_new_tokens, struct mt_err *reterr);

/* engine_requests.c: the thread only. */
void engine_admit(struct engine *e); /* from the queue to the batcher, as far as there is room */
void engine_reap_doomed(struct engine *e); /* ends what was cancelled or is late */
int engine_take_result(struct engine *e, const struct wire_result *result, struct mt_err *reterr);
/* Wakes the owners of requests that have got something, and lets go of those that are done. */
void engine_tell(struct engine *e);
/* The job has died: what ran on it waits to go on, but for requests that may have killed it. */
void engine_suspend(struct engine *e);
/* A new job is there: those that it cannot bring to their end are ended here. */
void engine_resume(struct engine *e);
/* Ends all requests with an error. */
void engine_fail(struct engine *e, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
