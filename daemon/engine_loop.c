/* The engine's thread. It owns the job and the batcher:
 *
 *   LAUNCHING --JOB_READY--> READY --JOB_DIED--> WAITING (back-off) --time--> LAUNCHING
 *       |                                          ^
 *       +----------------- JOB_DIED ---------------+
 *
 * e->ready is true in READY; in WAITING there is no job and relaunch_us says when the next begins.
 * Requests stay where they are through all of this, and go on in the next READY; only when the job
 * has been down for recovery_ms are they failed, and new ones refused (ENGINE_LOST), until the next
 * READY.
 * Every turn of the loop ends what is to be ended, fills the ranks' queue of steps, and sleeps in
 * job_next until a frame, a wake-up or the nearest deadline; without deadlines it sleeps for ever.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/engine_impl.h"

void engine_log(struct engine *e, enum log_level level, const char *event, const char *format, ...)
{
    char fields[3 * MT_ERR_TEXT];
    va_list ap;

    if (!e->options.log)
        return;
    va_start(ap, format);
    vsnprintf(fields, sizeof(fields), format, ap);
    va_end(ap);
    e->options.log(e->options.log_user, level, event, fields);
}

/* A drain, once begun, hides what the job does. */
static void set_state(struct engine *e, enum engine_state state, const char *text)
{
    pthread_mutex_lock(&e->lock);
    if (!e->draining || state == ENGINE_STOPPED)
        e->state = state;
    snprintf(e->text, sizeof(e->text), "%s", text);
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

/* How long to wait before the next launch: not at all at first, then longer each time. A job that
 * did some work, or could have for long, has died of something new, and the count begins anew. */
static int64_t next_pause_ms(struct engine *e)
{
    int64_t wait_ms;

    if (e->answered ||
        (e->ready_us && e->now_us - e->ready_us > (uint64_t)e->options.relaunch_max_ms * 1000))
        e->backoff_ms = 0;
    wait_ms = e->backoff_ms;
    e->backoff_ms =
        wait_ms > e->options.relaunch_max_ms / 2 ? e->options.relaunch_max_ms : wait_ms * 2;
    if (e->backoff_ms < e->options.relaunch_min_ms)
        e->backoff_ms = e->options.relaunch_min_ms;
    return wait_ms;
}

/* The job has ended or never began: its requests wait for the next. */
static void job_gone(struct engine *e, const struct mt_err *why)
{
    int64_t wait_ms = next_pause_ms(e);
    char quoted[MT_ERR_TEXT];

    e->ready = e->answered = false;
    e->ready_us = 0;
    if (!e->down_us)
        e->down_us = e->now_us;
    e->relaunch_us = e->now_us + (uint64_t)wait_ms * 1000;
    set_state(e, e->lost ? ENGINE_LOST : ENGINE_DOWN, why->text);
    engine_log(e, LOG_LEVEL_ERROR, "job_died",
               "incarnation=%" PRIu64 " retry_ms=%" PRId64 " error=%s", job_incarnation(e->job),
               wait_ms, log_quote(quoted, sizeof(quoted), why->text));
    engine_suspend(e);
}

/* Gives up those who wait for a job that has been down for too long; goes on trying. */
static void give_up(struct engine *e)
{
    char why[MT_ERR_TEXT];

    if (!e->down_us || e->lost || e->now_us - e->down_us < (uint64_t)e->options.recovery_ms * 1000)
        return;
    e->lost = true;
    pthread_mutex_lock(&e->lock);
    memcpy(why, e->text, sizeof(why));
    pthread_mutex_unlock(&e->lock);
    set_state(e, ENGINE_LOST, why);
    engine_log(e, LOG_LEVEL_ERROR, "job_lost", "down_ms=%" PRIu64, (e->now_us - e->down_us) / 1000);
    engine_fail(e, MT_ECLOSED, "the worker job cannot be restarted: %s", why);
}

/* Something is wrong that only a new incarnation can mend. */
static void abandon(struct engine *e, const struct mt_err *why)
{
    job_stop(e->job, 0);
    e->now_us = engine_now_us();
    job_gone(e, why);
}

static void launch(struct engine *e)
{
    struct mt_err err;
    int rc = job_launch(e->job, &err);

    pthread_mutex_lock(&e->lock);
    e->incarnation = job_incarnation(e->job);
    e->restarts += e->launched ? 1 : 0;
    pthread_mutex_unlock(&e->lock);
    metrics_add(e->options.metrics, METRIC_RESTARTS, e->launched ? 1 : 0);
    e->launched = true;
    if (rc) {
        job_gone(e, &err);
        return;
    }
    engine_log(e, LOG_LEVEL_INFO, "job_launched", "incarnation=%" PRIu64 " ranks=%" PRIu32,
               job_incarnation(e->job), job_ranks(e->job));
}

/* Learns what the new incarnation offers. */
static int read_shape(struct engine *e, struct mt_err *reterr)
{
    struct batcher_shape shape = {.ranks = job_ranks(e->job),
                                  .block_tokens = job_ready(e->job, 0)->block_tokens,
                                  .max_positions = job_facts(e->job)->max_positions,
                                  .epoch = job_epoch(e->job)};
    uint32_t r;
    int rc;

    for (r = 0; r < shape.ranks; r++) {
        const struct wire_ready *k = job_ready(e->job, r);

        if (k->block_tokens != shape.block_tokens)
            return mt_error(reterr, MT_EPROTO,
                            "rank %" PRIu32 " has KV blocks of %" PRIu32
                            " tokens, rank 0 of %" PRIu32,
                            r, k->block_tokens, shape.block_tokens);
        shape.rank[r] = (struct batcher_rank){k->kv_blocks, k->max_tokens, k->max_seqs};
    }
    rc = batcher_start(e->batcher, &shape, reterr);
    if (rc)
        return rc;
    pthread_mutex_lock(&e->lock);
    e->shape = shape;
    e->facts = *job_facts(e->job);
    e->rank0 = *job_ready(e->job, 0);
    e->have_shape = true;
    pthread_mutex_unlock(&e->lock);
    return 0;
}

static void job_is_ready(struct engine *e)
{
    struct mt_err err;
    uint64_t down_ms;

    if (!e->have_shape) /* it can be started: what comes now is another matter */
        e->backoff_ms = 0;
    if (read_shape(e, &err)) {
        abandon(e, &err);
        return;
    }
    down_ms = e->down_us ? (e->now_us - e->down_us) / 1000 : 0;
    e->ready = true;
    e->ready_us = e->now_us;
    e->lost = false;
    e->down_us = 0;
    engine_resume(e);
    engine_log(e, LOG_LEVEL_INFO, "job_ready",
               "incarnation=%" PRIu64 " down_ms=%" PRIu64
               " family=%.32s isa=%.16s numerics=%.8s kv_blocks=%" PRIu32 " block_tokens=%" PRIu32
               " load_ms=%" PRIu32,
               job_incarnation(e->job), down_ms, e->facts.family, e->rank0.isa, e->rank0.numerics,
               e->rank0.kv_blocks, e->rank0.block_tokens, e->rank0.load_ms);
    set_state(e, ENGINE_READY, "");
}

static void log_rank(struct engine *e, const struct job_event *event)
{
    char quoted[2 * MT_ERR_TEXT], rank[16] = "-";

    if (event->rank != UINT32_MAX)
        snprintf(rank, sizeof(rank), "%" PRIu32, event->rank);
    engine_log(e, (enum log_level)event->err.status, "rank_log", "rank=%s text=%s", rank,
               log_quote(quoted, sizeof(quoted), event->err.text));
}

static void on_job_event(struct engine *e, const struct job_event *event)
{
    struct mt_err err;

    switch (event->type) {
    case JOB_NONE: break;
    case JOB_READY: job_is_ready(e); break;
    case JOB_RESULT:
        if (!e->ready)
            break;
        e->answered = true;
        if (engine_take_result(e, job_result(e->job), &err))
            abandon(e, &err);
        break;
    case JOB_LOG: log_rank(e, event); break;
    case JOB_DIED: job_gone(e, &event->err); break;
    }
}

/* Sends steps until enough are ahead or nothing is left to run. */
static void send_steps(struct engine *e)
{
    struct mt_err err;
    uint64_t tokens;
    uint32_t r;
    bool built;
    int rc;

    while (e->ready) {
        rc = batcher_build(e->batcher, &e->step, &built, &err);
        if (!rc && !built)
            return;
        if (!rc)
            rc = job_send_step(e->job, &e->step, &err);
        if (rc == MT_ECLOSED) { /* it is dying; JOB_DIED says why */
            e->ready = false;
            return;
        }
        if (rc) {
            abandon(e, &err);
            return;
        }
        for (tokens = 0, r = 0; r < e->step.ranks; r++)
            tokens += e->step.rank_tokens[r];
        metrics_observe(e->options.metrics, METRIC_BATCH_TOKENS, tokens);
    }
}

static void publish(struct engine *e)
{
    struct metrics *m = e->options.metrics;
    struct batcher_counts counts;

    batcher_count(e->batcher, &counts);
    metrics_set(m, METRIC_KV_USAGE_PPM,
                counts.blocks_total ? (int64_t)(counts.blocks_held * 1000000 / counts.blocks_total)
                                    : 0);
    metrics_add(m, METRIC_OVERRUN_TOKENS, counts.overrun_tokens - e->counted.overrun_tokens);
    metrics_add(m, METRIC_PREEMPTIONS, counts.preemptions - e->counted.preemptions);
    metrics_add(m, METRIC_PREFIX_QUERIES, counts.prefix_queries - e->counted.prefix_queries);
    metrics_add(m, METRIC_PREFIX_HITS, counts.prefix_hits - e->counted.prefix_hits);
    e->counted = counts;
}

static void drain_wakes(struct engine *e)
{
    uint64_t n;

    while (read(e->wake_fd, &n, sizeof(n)) < 0 && errno == EINTR)
        ;
}

/* Milliseconds until something has to be done without being told; -1: nothing. */
static int timeout_ms(struct engine *e)
{
    uint64_t at = UINT64_MAX;

    pthread_mutex_lock(&e->lock);
    at = e->next_deadline_us;
    if (e->draining && e->drain_us < at)
        at = e->drain_us;
    pthread_mutex_unlock(&e->lock);
    if (!job_running(e->job) && e->relaunch_us < at)
        at = e->relaunch_us;
    if (e->down_us && !e->lost && e->down_us + (uint64_t)e->options.recovery_ms * 1000 < at)
        at = e->down_us + (uint64_t)e->options.recovery_ms * 1000;
    if (at == UINT64_MAX)
        return -1;
    if (at <= e->now_us)
        return 0;
    at = (at - e->now_us + 999) / 1000;
    return at < 1000000 ? (int)at : 1000000;
}

/* True: the drain is over. */
static bool drained(struct engine *e)
{
    bool draining, late, empty;

    pthread_mutex_lock(&e->lock);
    draining = e->draining;
    late = draining && e->now_us >= e->drain_us;
    empty = TAILQ_EMPTY(&e->all);
    pthread_mutex_unlock(&e->lock);
    if (late && !empty) {
        engine_fail(e, MT_ECLOSED, "the server is shutting down");
        empty = true;
    }
    return draining && empty;
}

void *engine_main(void *engine)
{
    struct engine *e = engine;
    struct job_event event;

    for (;;) {
        e->now_us = engine_now_us();
        engine_reap_doomed(e);
        if (!job_running(e->job) && e->now_us >= e->relaunch_us)
            launch(e);
        give_up(e);
        engine_admit(e);
        send_steps(e);
        publish(e);
        engine_tell(e); /* after the next step has gone: the ranks wait for nobody here */
        if (drained(e))
            break;
        job_next(e->job, timeout_ms(e), e->wake_fd, &event);
        if (event.type == JOB_NONE)
            drain_wakes(e);
        e->now_us = engine_now_us();
        on_job_event(e, &event);
    }
    e->ready = false;
    engine_tell(e);
    job_stop(e->job, ENGINE_STOP_MS);
    publish(e);
    set_state(e, ENGINE_STOPPED, "");
    return NULL;
}
