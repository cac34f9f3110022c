#include "daemon/ticket.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int ticket_new(struct request *r, struct metrics *metrics, uint64_t now_us, struct ticket **ret,
               struct mt_err *reterr)
{
    struct ticket *t = calloc(1, sizeof(*t) + r->params.n * sizeof(t->choices[0]));
    uint32_t i;

    if (!t)
        return mt_error(reterr, MT_ENOMEM, "no memory for a request of %" PRIu32 " choices",
                        r->params.n);
    t->item.owner = t;
    t->request = request_ref(r);
    t->metrics = metrics;
    t->rules.params = &r->params;
    for (i = 0; i < r->params.n; i++) {
        t->choices[i].ticket = t;
        textout_init(&t->choices[i].text, &t->rules);
    }
    r->submitted_us = now_us;
    if (r->params.deadline_ms)
        t->deadline_us = now_us + (uint64_t)r->params.deadline_ms * 1000;
    *ret = t;
    return 0;
}

void ticket_free(struct ticket *t)
{
    uint32_t i;

    if (!t)
        return;
    for (i = 0; i < t->request->params.n; i++)
        textout_done(&t->choices[i].text);
    request_unref(t->request);
    free(t);
}

void ticket_start(struct ticket *t, const struct textout_vocab *vocab, const int32_t *eos,
                  uint32_t n_eos, uint64_t now_us)
{
    struct request *r = t->request;

    t->rules.vocab = vocab;
    t->rules.eos = eos;
    t->rules.n_eos = n_eos;
    t->started_us = now_us;
    metrics_observe(t->metrics, METRIC_QUEUE_US, now_us - r->submitted_us);
    metrics_observe(t->metrics, METRIC_PROMPT_LENGTH, r->n_prompt);
    metrics_add(t->metrics, METRIC_PROMPT_TOKENS, r->n_prompt);
    pthread_mutex_lock(&r->lock);
    if (r->params.prompt_logprobs) {
        r->prompt_tokens[0] = (struct output_token){.token = r->prompt[0]};
        r->n_prompt_tokens = 1;
    }
    pthread_mutex_unlock(&r->lock);
}

static void count_finish(struct ticket *t, enum finish_reason reason)
{
    if (reason == FINISH_STOP)
        metrics_add(t->metrics, METRIC_SUCCESS_STOP, 1);
    else if (reason == FINISH_LENGTH)
        metrics_add(t->metrics, METRIC_SUCCESS_LENGTH, 1);
    else if (reason == FINISH_ABORT)
        metrics_add(t->metrics, METRIC_SUCCESS_ABORT, 1);
}

/* With the request's lock held. */
static void finish_choice(struct ticket_choice *tc, enum finish_reason reason, uint64_t now_us)
{
    struct ticket *t = tc->ticket;
    struct request *r = t->request;
    struct choice *c = &r->choices[tc - t->choices];
    uint32_t i;

    /* Text that was held back for these tokens turned out to be (part of) a stop string. */
    for (i = c->n_tokens; i > 0 && c->tokens[i - 1].text_at > c->text.len; i--)
        c->tokens[i - 1].text_at = (uint32_t)c->text.len;
    tc->finished = true;
    c->finish = reason;
    r->n_finished++;
    t->n_finished++;
    count_finish(t, reason);
    if (t->n_finished < r->params.n)
        return;
    t->done = true;
    r->done_us = now_us;
    r->done = true;
}

bool ticket_spec(struct ticket *t, uint32_t i, uint32_t new_tokens, uint64_t now_us,
                 struct batcher_spec *ret)
{
    struct request *r = t->request;
    const struct request_params *p = &r->params;
    bool prompt_logprobs = p->prompt_logprobs && i == 0;

    if (!new_tokens && (!prompt_logprobs || r->n_prompt < 2)) {
        pthread_mutex_lock(&r->lock);
        finish_choice(&t->choices[i], FINISH_LENGTH, now_us);
        pthread_mutex_unlock(&r->lock);
        return false;
    }
    *ret = (struct batcher_spec){
        .prompt = r->prompt,
        .n_prompt = r->n_prompt,
        .new_tokens = new_tokens,
        .order = t->order,
        .n_logprobs = p->n_logprobs,
        .prompt_logprobs = prompt_logprobs,
        .sampling = {.temperature = p->temperature,
                     .top_p = p->top_p,
                     .min_p = p->min_p,
                     .top_k = p->top_k,
                     .seed = p->seed,
                     .choice = i},
        .user = &t->choices[i],
    };
    return true;
}

/* Makes room for n more elements in an array that never holds more than max. */
static int reserve(void *array, uint32_t *cap, uint32_t used, uint32_t n, size_t size, uint64_t max)
{
    void **at = array, *grown;
    uint64_t want = *cap ? *cap : 16;

    if ((uint64_t)used + n > max)
        return MT_ELIMIT;
    while (want < (uint64_t)used + n)
        want *= 2;
    want = want < max ? want : max;
    if (want <= *cap)
        return 0;
    grown = realloc(*at, want * size);
    if (!grown)
        return MT_ENOMEM;
    *at = grown;
    *cap = (uint32_t)want;
    return 0;
}

static void set_logprobs(struct output_token *token, const struct wire_logprob *entry,
                         uint32_t n_top, struct wire_logprob *tops, uint32_t *n_tops)
{
    token->logprob = entry->logprob;
    token->n_top = n_top;
    token->top_at = *n_tops;
    memcpy(tops + *n_tops, entry + 1, n_top * sizeof(*tops));
    *n_tops += n_top;
}

static int put_prompt_logprobs(struct request *r, const struct batcher_event *e)
{
    uint64_t max = (uint64_t)r->n_prompt * WIRE_MAX_TOP_LOGPROBS;
    uint32_t i;
    int rc;

    if (!e->n_prompt)
        return 0;
    rc = reserve(&r->prompt_tops, &r->cap_prompt_tops, r->n_prompt_tops, e->n_prompt * e->n_top,
                 sizeof(*r->prompt_tops), max);
    if (rc)
        return rc;
    for (i = 0; i < e->n_prompt; i++) {
        struct output_token *token = &r->prompt_tokens[e->prompt_at + i];

        *token = (struct output_token){.token = r->prompt[e->prompt_at + i]};
        set_logprobs(token, e->prompt + (size_t)i * (1 + e->n_top), e->n_top, r->prompt_tops,
                     &r->n_prompt_tops);
    }
    r->n_prompt_tokens = e->prompt_at + e->n_prompt;
    return 0;
}

static int put_token(struct choice *c, const struct request_params *p,
                     const struct batcher_event *e, size_t text_at)
{
    struct output_token token = {.token = e->token, .text_at = (uint32_t)text_at};
    uint64_t max = p->max_tokens;
    int rc = reserve(&c->tokens, &c->cap_tokens, c->n_tokens, 1, sizeof(*c->tokens), max);

    if (!rc && p->n_logprobs >= 0) {
        rc = reserve(&c->tops, &c->cap_tops, c->n_tops, e->n_top, sizeof(*c->tops),
                     max * WIRE_MAX_TOP_LOGPROBS);
        if (!rc)
            set_logprobs(&token, e->logprob, e->n_top, c->tops, &c->n_tops);
    }
    if (!rc)
        c->tokens[c->n_tokens++] = token;
    return rc;
}

static void count_token(struct ticket_choice *tc, uint64_t now_us)
{
    struct ticket *t = tc->ticket;
    struct request *r = t->request;

    if (tc->last_us)
        metrics_observe(t->metrics, METRIC_INTER_TOKEN_US, now_us - tc->last_us);
    tc->last_us = now_us;
    if (r->first_token_us)
        return;
    r->first_token_us = now_us;
    metrics_observe(t->metrics, METRIC_TTFT_US, now_us - r->submitted_us);
    metrics_observe(t->metrics, METRIC_PREFILL_US, now_us - t->started_us);
}

/* With the request's lock held. */
static int write_event(struct ticket_choice *tc, const struct batcher_event *e, uint64_t now_us)
{
    struct ticket *t = tc->ticket;
    struct choice *c = &t->request->choices[tc - t->choices];
    enum textout_verdict verdict = TEXTOUT_GO;
    size_t text_at;
    int rc = put_prompt_logprobs(t->request, e);

    if (tc == t->choices)
        t->request->cached_tokens = e->cached_tokens;
    t->deaths = 0;
    if (!rc && e->token >= 0) {
        count_token(tc, now_us);
        rc = textout_push(&tc->text, e->token, &c->text, &text_at, &verdict);
        if (!rc && verdict != TEXTOUT_STOP_EOS) {
            rc = put_token(c, &t->request->params, e, text_at);
            t->n_output++;
            metrics_add(t->metrics, METRIC_GENERATION_TOKENS, 1);
        }
    }
    if (!rc && verdict == TEXTOUT_GO && e->last)
        rc = textout_flush(&tc->text, &c->text);
    if (!rc && (verdict != TEXTOUT_GO || e->last))
        finish_choice(tc, verdict != TEXTOUT_GO ? FINISH_STOP : FINISH_LENGTH, now_us);
    return rc;
}

int ticket_event(const struct batcher_event *e, uint64_t now_us)
{
    struct ticket_choice *tc = e->user;
    struct request *r = tc->ticket->request;
    int rc;

    pthread_mutex_lock(&r->lock);
    rc = write_event(tc, e, now_us);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

void ticket_end(struct ticket *t, enum finish_reason reason, const struct mt_err *err,
                uint64_t now_us)
{
    struct request *r = t->request;
    uint32_t i;

    pthread_mutex_lock(&r->lock);
    if (err && !t->done) /* an answer that is whole stays so, told or not */
        r->err = *err;
    for (i = 0; i < r->params.n; i++)
        if (!t->choices[i].finished)
            finish_choice(&t->choices[i], reason, now_us);
    pthread_mutex_unlock(&r->lock);
}
