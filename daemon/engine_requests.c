/* What the engine's thread does with requests: from the queue into the batcher, events into
 * outputs, and their end. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "daemon/engine_impl.h"

static void end_sequences(struct engine *e, struct ticket *t)
{
    uint32_t i;

    for (i = 0; i < t->request->params.n; i++) {
        if (t->choices[i].seq)
            batcher_end(e->batcher, t->choices[i].seq);
        t->choices[i].seq = NULL;
    }
}

static void log_done(struct engine *e, const struct ticket *t)
{
    const struct request *r = t->request;
    enum finish_reason finish = r->choices[0].finish;
    char ttft[48] = "", error[2 * MT_ERR_TEXT] = "", quoted[MT_ERR_TEXT];

    if (r->first_token_us)
        snprintf(ttft, sizeof(ttft), " ttft_ms=%.1f",
                 (double)(r->first_token_us - r->submitted_us) / 1000);
    if (r->err.status)
        snprintf(error, sizeof(error), " error=%s", log_quote(quoted, sizeof(quoted), r->err.text));
    engine_log(e, r->err.status ? LOG_LEVEL_WARN : LOG_LEVEL_INFO, "request_done",
               "id=%s prompt_tokens=%" PRIu32 " output_tokens=%" PRIu32
               " finish=%s%s total_ms=%.1f%s",
               r->id, r->n_prompt, t->n_output, finish_reason_name(finish), ttft,
               (double)(r->done_us - r->submitted_us) / 1000, error);
}

static void count_done(struct engine *e, const struct ticket *t)
{
    const struct request *r = t->request;
    struct metrics *m = e->options.metrics;

    if (r->err.status) {
        metrics_add(m, METRIC_FAILURES, 1);
        return;
    }
    metrics_observe(m, METRIC_E2E_US, r->done_us - r->submitted_us);
    metrics_observe(m, METRIC_GENERATION_LENGTH, t->n_output);
    if (r->first_token_us)
        metrics_observe(m, METRIC_DECODE_US, r->done_us - r->first_token_us);
}

/* A ticket that is done leaves: nobody can find it any more, its owner is told, it is freed. */
static void retire(struct engine *e, struct ticket *t)
{
    struct request *r = t->request;
    bool waited;

    end_sequences(e, t);
    pthread_mutex_lock(&e->lock);
    waited = t->item.queued;
    if (t->item.queued)
        queue_remove(&e->queue, &t->item);
    else
        e->running--;
    metrics_move(e->options.metrics, waited ? METRIC_WAITING : METRIC_RUNNING, -1);
    TAILQ_REMOVE(&e->all, t, all);
    if (t->doom)
        TAILQ_REMOVE(&e->doomed, t, doomed);
    r->ticket = NULL;
    pthread_mutex_unlock(&e->lock);
    if (t->is_dirty)
        TAILQ_REMOVE(&e->dirty, t, dirty);
    count_done(e, t);
    log_done(e, t);
    if (r->notify)
        r->notify(r, r->user);
    ticket_free(t);
}

static void end_ticket(struct engine *e, struct ticket *t, enum finish_reason reason,
                       const struct mt_err *err)
{
    ticket_end(t, reason, err, e->now_us);
    retire(e, t);
}

static struct ticket *first_doomed(struct engine *e, enum ticket_doom *ret_doom)
{
    struct ticket *t;

    pthread_mutex_lock(&e->lock);
    t = TAILQ_FIRST(&e->doomed);
    if (t)
        *ret_doom = t->doom;
    pthread_mutex_unlock(&e->lock);
    return t;
}

/* Dooms what is late. Looks at all tickets only when the earliest deadline has passed. */
static void expire(struct engine *e)
{
    struct ticket *t;

    pthread_mutex_lock(&e->lock);
    if (e->now_us >= e->next_deadline_us) {
        e->next_deadline_us = UINT64_MAX;
        TAILQ_FOREACH(t, &e->all, all) {
            if (!t->deadline_us || t->doom)
                continue;
            if (t->deadline_us <= e->now_us) {
                t->doom = DOOM_EXPIRED;
                TAILQ_INSERT_TAIL(&e->doomed, t, doomed);
            } else if (t->deadline_us < e->next_deadline_us) {
                e->next_deadline_us = t->deadline_us;
            }
        }
    }
    pthread_mutex_unlock(&e->lock);
}

void engine_reap_doomed(struct engine *e)
{
    enum ticket_doom doom;
    struct mt_err err;
    struct ticket *t;

    expire(e);
    while ((t = first_doomed(e, &doom))) {
        if (doom == DOOM_CANCELLED) {
            end_ticket(e, t, FINISH_ABORT, NULL);
            continue;
        }
        mt_error(&err, MT_ETIMEOUT, "the request's deadline of %" PRId64 " ms has passed",
                 t->request->params.deadline_ms);
        end_ticket(e, t, FINISH_ERROR, &err);
    }
}

static struct ticket *first_ticket(struct engine *e)
{
    struct ticket *t;

    pthread_mutex_lock(&e->lock);
    t = TAILQ_FIRST(&e->all);
    pthread_mutex_unlock(&e->lock);
    return t;
}

void engine_fail(struct engine *e, int status, const char *format, ...)
{
    struct mt_err err = {.status = status};
    struct ticket *t;
    va_list ap;

    va_start(ap, format);
    vsnprintf(err.text, sizeof(err.text), format, ap);
    va_end(ap);
    while ((t = first_ticket(e)))
        end_ticket(e, t, FINISH_ERROR, &err);
}

/* --- jobs that end and begin --- */

/* Ends the tickets that `why` gives an error for. Others may only be added meanwhile, at the end.
 */
static void end_those(struct engine *e,
                      int (*why)(struct engine *e, struct ticket *t, struct mt_err *reterr))
{
    struct ticket *t, *next;
    struct mt_err err;

    for (t = first_ticket(e); t; t = next) {
        pthread_mutex_lock(&e->lock);
        next = TAILQ_NEXT(t, all);
        pthread_mutex_unlock(&e->lock);
        if (why(e, t, &err))
            end_ticket(e, t, FINISH_ERROR, &err);
    }
}

static int count_death(struct engine *e, struct ticket *t, struct mt_err *reterr)
{
    bool seated = false;
    uint32_t i;

    for (i = 0; i < t->request->params.n; i++)
        seated |= t->choices[i].seq && batcher_seated(t->choices[i].seq);
    if (!seated || ++t->deaths < e->options.max_deaths)
        return 0;
    return mt_error(reterr, MT_ECLOSED,
                    "%" PRIu32 " worker jobs have died while they worked on this request",
                    t->deaths);
}

static int does_not_fit(struct engine *e, struct ticket *t, struct mt_err *reterr)
{
    uint32_t i;

    for (i = 0; i < t->request->params.n; i++)
        if (t->choices[i].seq && !batcher_fits(e->batcher, t->choices[i].seq))
            return mt_error(reterr, MT_ECLOSED,
                            "the restarted worker job has less KV memory than this request needs");
    return 0;
}

void engine_suspend(struct engine *e)
{
    end_those(e, count_death);
    batcher_stop(e->batcher);
}

void engine_resume(struct engine *e)
{
    end_those(e, does_not_fit);
}

/* --- requests that begin and go on --- */

/* Gives a request's choices to the batcher; those with nothing to run finish here. */
static void start_ticket(struct engine *e, struct ticket *t, uint32_t new_tokens)
{
    struct sequence *sibling = NULL;
    struct batcher_spec spec;
    struct mt_err err;
    uint32_t i;

    pthread_mutex_lock(&e->lock);
    queue_remove(&e->queue, &t->item);
    e->running++;
    pthread_mutex_unlock(&e->lock);
    metrics_move(e->options.metrics, METRIC_WAITING, -1);
    metrics_move(e->options.metrics, METRIC_RUNNING, 1);
    ticket_start(t, e->options.tokenizer ? &e->vocab : NULL, e->facts.eos, e->facts.n_eos,
                 e->now_us);
    for (i = 0; i < t->request->params.n; i++) {
        if (!ticket_spec(t, i, new_tokens, e->now_us, &spec))
            continue;
        if (batcher_add(e->batcher, &spec, sibling, &t->choices[i].seq, &err)) {
            end_ticket(e, t, FINISH_ERROR, &err);
            return;
        }
        sibling = t->choices[i].seq;
    }
    if (t->done)
        retire(e, t);
}

void engine_admit(struct engine *e)
{
    struct batcher_spec spec = {0};
    struct queue_item *item;
    struct request *r;
    struct ticket *t;
    struct mt_err err;

    while (e->ready) {
        pthread_mutex_lock(&e->lock);
        item = queue_head(&e->queue);
        pthread_mutex_unlock(&e->lock);
        if (!item)
            return;
        t = item->owner;
        r = t->request;
        if (engine_check(&e->shape, &e->facts, r, &spec.new_tokens, &err)) {
            end_ticket(e, t, FINISH_ERROR, &err); /* it came before the shape was known */
            continue;
        }
        spec.prompt = r->prompt;
        spec.n_prompt = r->n_prompt;
        spec.order = t->order;
        spec.prompt_logprobs = r->params.prompt_logprobs;
        if (!batcher_room(e->batcher, &spec))
            return;
        start_ticket(e, t, spec.new_tokens);
    }
}

static void on_event(void *user, const struct batcher_event *event)
{
    struct engine *e = user;
    struct ticket_choice *tc = event->user;
    struct ticket *t = tc->ticket;
    struct mt_err err;
    int rc = ticket_event(event, e->now_us);

    if (rc) {
        mt_error(&err, rc, "the output could not be kept: %s", mt_status_name(rc));
        ticket_end(t, FINISH_ERROR, &err, e->now_us);
        end_sequences(e, t);
    } else if (tc->finished) {
        batcher_end(e->batcher, tc->seq);
        tc->seq = NULL;
    }
    if (!t->is_dirty)
        TAILQ_INSERT_TAIL(&e->dirty, t, dirty);
    t->is_dirty = true;
}

static void observe_step(struct engine *e, const struct wire_result *result)
{
    struct metrics *m = e->options.metrics;
    uint32_t r, step_us = 0, gap_us = 0;

    for (r = 0; r < result->ranks; r++) {
        const struct wire_rank_times *t = &result->times[r];

        step_us = t->step_us > step_us ? t->step_us : step_us;
        gap_us = t->gap_us > gap_us ? t->gap_us : gap_us;
    }
    metrics_add(m, METRIC_STEPS, 1);
    metrics_observe(m, METRIC_STEP_US, step_us);
    metrics_observe(m, METRIC_STEP_GAP_US, gap_us);
}

int engine_take_result(struct engine *e, const struct wire_result *result, struct mt_err *reterr)
{
    observe_step(e, result);
    return batcher_take(e->batcher, result, on_event, e, reterr);
}

void engine_tell(struct engine *e)
{
    struct ticket *t;

    while ((t = TAILQ_FIRST(&e->dirty))) {
        if (t->done) {
            retire(e, t);
            continue;
        }
        TAILQ_REMOVE(&e->dirty, t, dirty);
        t->is_dirty = false;
        if (t->request->notify)
            t->request->notify(t->request, t->request->user);
    }
}
