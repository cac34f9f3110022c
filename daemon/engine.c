/* What other threads see of the engine. They share the queue, the lists of tickets and the state
 * with the engine's thread (engine_loop.c), all under one lock, and wake it by an eventfd. */
#include "daemon/engine.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/engine_impl.h"

void engine_wake(struct engine *e)
{
    uint64_t one = 1;
    ssize_t n;

    do /* EAGAIN: the counter is full, so the thread is being woken already */
        n = write(e->wake_fd, &one, sizeof(one));
    while (n < 0 && errno == EINTR);
}

static const uint8_t *shown_bytes(const void *user, int32_t token, size_t *ret_len)
{
    return tokenizer_special(user, token) ? NULL : tokenizer_bytes(user, token, ret_len);
}

static int check_options(const struct engine_options *o, struct mt_err *reterr)
{
    if (!o->metrics)
        return mt_error(reterr, MT_EINVAL, "the engine needs metrics");
    if (o->recovery_ms < 0 || !o->max_deaths || o->priority_ms < 0)
        return mt_error(reterr, MT_EINVAL,
                        "recovery after %" PRId64 " ms, %" PRIu32 " deaths, %" PRId64
                        " ms a level of priority: expected 0, 1, 0 or more",
                        o->recovery_ms, o->max_deaths, o->priority_ms);
    if (o->relaunch_min_ms < 0 || o->relaunch_max_ms < o->relaunch_min_ms)
        return mt_error(reterr, MT_EINVAL,
                        "the relaunch back-off is %" PRId64 "..%" PRId64
                        " ms, expected 0 or more, rising",
                        o->relaunch_min_ms, o->relaunch_max_ms);
    return 0;
}

static int init_sync(struct engine *e)
{
    pthread_condattr_t attr;
    int rc = pthread_condattr_init(&attr);

    if (rc)
        return rc;
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    rc = pthread_cond_init(&e->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (!rc)
        rc = pthread_mutex_init(&e->lock, NULL);
    return rc;
}

/* Without the thread, which has ended or never began. */
static void engine_destroy(struct engine *e)
{
    job_free(e->job);
    batcher_free(e->batcher);
    wire_step_done(&e->step);
    if (e->wake_fd >= 0)
        close(e->wake_fd);
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

/* Signals are for the program's main thread. */
static int start_thread(struct engine *e, struct mt_err *reterr)
{
    sigset_t all, old;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&e->thread, NULL, engine_main, e);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc ? mt_error(reterr, MT_EIO, "engine thread: %s", strerror(rc)) : 0;
}

int engine_start(const struct engine_options *options, struct engine **ret, struct mt_err *reterr)
{
    struct engine *e;
    int rc = check_options(options, reterr);

    if (rc)
        return rc;
    e = calloc(1, sizeof(*e));
    if (!e || init_sync(e)) {
        free(e);
        return mt_error(reterr, MT_ENOMEM, "no memory for the engine");
    }
    e->options = *options;
    e->vocab = (struct textout_vocab){options->tokenizer, shown_bytes};
    e->next_deadline_us = UINT64_MAX;
    e->backoff_ms = options->relaunch_min_ms;
    queue_init(&e->queue, options->max_queued_requests, options->max_queued_tokens);
    TAILQ_INIT(&e->all);
    TAILQ_INIT(&e->doomed);
    TAILQ_INIT(&e->dirty);
    e->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (e->wake_fd < 0)
        rc = mt_error(reterr, MT_EIO, "eventfd: %s", strerror(errno));
    if (!rc)
        rc = batcher_new(&e->batcher, reterr);
    if (!rc)
        rc = job_new(&options->job, &e->job, reterr);
    if (!rc)
        rc = start_thread(e, reterr);
    if (rc) {
        engine_destroy(e);
        return rc;
    }
    *ret = e;
    return 0;
}

int engine_check(const struct batcher_shape *shape, const struct wire_facts *facts,
                 const struct request *r, uint32_t *ret_new_tokens, struct mt_err *reterr)
{
    uint32_t i;

    for (i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] < 0 || (uint32_t)r->prompt[i] >= facts->vocab)
            return mt_error(reterr, MT_EINVAL,
                            "prompt token %" PRIu32 " is %" PRId32 ", the model's are 0..%" PRIu32,
                            i, r->prompt[i], facts->vocab - 1);
    return batcher_check(shape, r->n_prompt, r->params.max_tokens, ret_new_tokens, reterr);
}

/* With the lock held. */
static int enqueue(struct engine *e, struct ticket *t, struct mt_err *reterr)
{
    struct request *r = t->request;
    uint32_t new_tokens;
    int rc;

    if (e->state == ENGINE_LOST)
        return mt_error(reterr, MT_ECLOSED, "the worker job cannot be restarted: %s", e->text);
    if (e->state == ENGINE_DRAINING || e->state == ENGINE_STOPPED)
        return mt_error(reterr, MT_ECLOSED, "the server is shutting down");
    if (e->have_shape) {
        rc = engine_check(&e->shape, &e->facts, r, &new_tokens, reterr);
        if (rc)
            return rc;
    }
    rc = queue_push(&e->queue, &t->item, r->n_prompt, t->order, reterr);
    if (rc)
        return rc;
    metrics_move(e->options.metrics, METRIC_WAITING, 1);
    r->ticket = t;
    TAILQ_INSERT_TAIL(&e->all, t, all);
    if (t->deadline_us && t->deadline_us < e->next_deadline_us)
        e->next_deadline_us = t->deadline_us;
    return 0;
}

int engine_submit(struct engine *e, struct request *r, struct mt_err *reterr)
{
    struct ticket *t;
    int rc = ticket_new(r, e->options.metrics, engine_now_us(), &t, reterr);

    if (rc)
        return rc;
    t->order =
        queue_order(r->submitted_us, r->params.priority, (uint64_t)e->options.priority_ms * 1000);
    pthread_mutex_lock(&e->lock);
    rc = enqueue(e, t, reterr);
    pthread_mutex_unlock(&e->lock);
    if (rc) {
        if (rc == MT_ELIMIT)
            metrics_add(e->options.metrics, METRIC_REJECTED_QUEUE, 1);
        ticket_free(t);
        return rc;
    }
    engine_wake(e);
    return 0;
}

void engine_cancel(struct engine *e, struct request *r)
{
    struct ticket *t;

    pthread_mutex_lock(&e->lock);
    t = r->ticket;
    if (t && !t->doom) {
        t->doom = DOOM_CANCELLED;
        TAILQ_INSERT_TAIL(&e->doomed, t, doomed);
    }
    pthread_mutex_unlock(&e->lock);
    if (t)
        engine_wake(e);
}

void engine_status(struct engine *e, struct engine_status *ret)
{
    pthread_mutex_lock(&e->lock);
    *ret = (struct engine_status){
        .state = e->state,
        .incarnation = e->incarnation,
        .restarts = e->restarts,
        .running = e->running,
        .waiting = e->queue.n_items,
        .have_facts = e->have_shape,
        .facts = e->facts,
        .ranks = e->options.job.ranks,
        .rank0 = e->rank0,
    };
    memcpy(ret->text, e->text, sizeof(ret->text));
    pthread_mutex_unlock(&e->lock);
}

enum engine_state engine_wait_ready(struct engine *e, int timeout_ms)
{
    uint64_t until = engine_now_us() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * 1000;
    struct timespec ts = {(time_t)(until / 1000000), (long)(until % 1000000) * 1000};
    enum engine_state state;

    pthread_mutex_lock(&e->lock);
    while (e->state == ENGINE_STARTING)
        if (pthread_cond_timedwait(&e->changed, &e->lock, &ts))
            break;
    state = e->state;
    pthread_mutex_unlock(&e->lock);
    return state;
}

void engine_drain(struct engine *e, int64_t deadline_ms)
{
    uint64_t until = engine_now_us() + (uint64_t)(deadline_ms > 0 ? deadline_ms : 0) * 1000;

    pthread_mutex_lock(&e->lock);
    if (!e->draining || until < e->drain_us)
        e->drain_us = until;
    e->draining = true;
    if (e->state != ENGINE_STOPPED)
        e->state = ENGINE_DRAINING;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
    engine_wake(e);
}

void engine_free(struct engine *e)
{
    bool draining;

    if (!e)
        return;
    pthread_mutex_lock(&e->lock);
    draining = e->draining;
    pthread_mutex_unlock(&e->lock);
    if (!draining)
        engine_drain(e, 0);
    pthread_join(e->thread, NULL);
    engine_destroy(e);
}
