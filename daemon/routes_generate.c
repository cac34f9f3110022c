/* /v1/completions and /v1/chat/completions: from a call to requests, and from those to one answer.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/generation.h"
#include "daemon/json.h"

#define COMPLETION_DEFAULT_TOKENS 16 /* OpenAI's */
#define MAX_CHAT_TEXT TOKENIZER_MAX_INPUT
#define MAX_HEAD ((size_t)64 << 10) /* the model's name is in it */

bool generation_done(const struct generation *g)
{
    bool done = true;

    for (size_t i = 0; i < g->n_requests && done; i++) {
        struct request *r = g->requests[i].request;

        pthread_mutex_lock(&r->lock);
        done = r->done;
        pthread_mutex_unlock(&r->lock);
    }
    return done;
}

bool generation_failed(const struct generation *g, struct mt_err *ret)
{
    bool failed = false;

    for (size_t i = 0; i < g->n_requests && !failed; i++) {
        struct request *r = g->requests[i].request;

        pthread_mutex_lock(&r->lock);
        failed = r->done && r->err.status;
        if (failed)
            *ret = r->err;
        pthread_mutex_unlock(&r->lock);
    }
    return failed;
}

static void generation_free(struct generation *g)
{
    if (!g)
        return;
    for (size_t i = 0; g->requests && i < g->n_requests; i++) {
        request_unref(g->requests[i].request);
        buf_done(&g->requests[i].echo);
    }
    free(g->requests);
    free(g->cursors);
    buf_done(&g->head);
    free(g);
}

static void generation_cancel(struct generation *g)
{
    const struct backend *b = &g->routes->backend;

    for (size_t i = 0; i < g->n_requests; i++)
        if (g->requests[i].request)
            b->cancel(b->engine, g->requests[i].request);
}

static struct generation *generation_new(const struct routes *routes, const struct call *call)
{
    struct generation *g = calloc(1, sizeof *g);

    if (!g)
        return NULL;
    g->routes = routes;
    g->chat = call->chat;
    g->stream = call->stream;
    g->echo = call->echo;
    g->include_usage = call->include_usage;
    g->return_token_ids = call->return_token_ids;
    g->created_s = time(NULL);
    buf_init(&g->head, MAX_HEAD);
    g->n_choices = call->params.n;
    g->n_requests = call->chat ? 1 : call->n_prompts;
    g->requests = calloc(g->n_requests, sizeof *g->requests);
    g->cursors = calloc(g->n_requests * g->n_choices, sizeof *g->cursors);
    if (g->requests && g->cursors)
        return g;
    generation_free(g);
    return NULL;
}

/* --- the answer --- */

static void put_answer(struct generation *g, struct buf *out)
{
    reply_begin(g, out);
    for (size_t i = 0; i < g->n_requests; i++)
        for (uint32_t k = 0; k < g->n_choices; k++) {
            if (i || k)
                buf_puts(out, ",");
            if (!reply_choice(g, i, k, out))
                out->status = MT_ECLOSED; /* it was cancelled: nobody is there to read it */
        }
    reply_end(g, USAGE_FULL, out);
}

static enum answer_step whole_pull(void *state, struct exchange *x, struct buf *out, int *status)
{
    struct generation *g = state;
    struct problem p;
    struct mt_err err;

    if (!generation_done(g))
        return ANSWER_WAIT;
    if (generation_failed(g, &err)) {
        problem_from(&p, &err);
        *status = p.status;
        problem_print(&p, out);
        if (p.retry_after_s)
            exchange_set_header(x, "Retry-After", "2");
    } else {
        put_answer(g, out);
    }
    buf_puts(out, "\n");
    return ANSWER_END;
}

static void generation_end(void *state, bool cut)
{
    if (cut)
        generation_cancel(state);
    generation_free(state);
}

static const struct answer_ops WHOLE = {whole_pull, generation_end, NULL};
/* A line that begins with a colon is a comment: clients skip it, proxies see that the stream lives.
 */
static const struct answer_ops STREAM = {sse_pull, generation_end, ": ping\n\n"};

/* A stream is told of everything, a whole answer of its end alone. */
static void notify_stream(struct request *r, void *waker)
{
    http_wake(waker, r);
}

static void notify_whole(struct request *r, void *waker)
{
    bool done;

    pthread_mutex_lock(&r->lock);
    done = r->done;
    pthread_mutex_unlock(&r->lock);
    if (done)
        http_wake(waker, r);
}

/* --- the requests --- */

struct tokens {
    int32_t *ids; /* owned */
    size_t n;
};

/* No more than `longest` ids are made, so that a hopeless text does not hold up its thread. */
static bool encode(const struct routes *routes, const char *text, size_t len, unsigned flags,
                   uint32_t longest, const char *param, struct tokens *ret, struct problem *p)
{
    struct mt_err err;
    int status;

    if (!routes->tokenizer)
        return problem_param(p, param, "This model has no tokenizer; send token ids as 'prompt'.");
    status =
        tokenizer_encode(routes->tokenizer, text, len, flags, longest, &ret->ids, &ret->n, &err);
    if (status == MT_ENOMEM)
        return problem_from(p, &err);
    if (status && status != MT_ELIMIT)
        return problem_param(p, param, "%s", err.text);
    if (status) {
        problem_param(p, param,
                      "This model's maximum context length is %" PRIu32 " tokens. However, your %s "
                      "longer: %s. Please reduce the length of the %s.",
                      longest, strcmp(param, "prompt") ? "messages are" : "prompt is", err.text,
                      param);
        p->code = "context_length_exceeded";
    }
    return !status;
}

static bool prompt_tokens(const struct routes *routes, const struct call *call,
                          struct prompt *prompt, const struct engine_status *status,
                          struct tokens *ret, struct problem *p)
{
    uint32_t vocab = status->facts.vocab;

    if (prompt->text)
        return encode(routes, prompt->text, prompt->len,
                      TOKENIZER_PARSE_SPECIAL | (call->add_special ? TOKENIZER_ADD_SPECIAL : 0),
                      status->facts.max_positions, "prompt", ret, p);
    for (size_t i = 0; i < prompt->n_ids; i++)
        if ((uint32_t)prompt->ids[i] >= vocab)
            return problem_param(p, "prompt",
                                 "Invalid value for 'prompt': expected token ids from 0 to %" PRIu32
                                 ", but got %" PRId32 ".",
                                 vocab - 1, prompt->ids[i]);
    ret->ids = prompt->ids;
    ret->n = prompt->n_ids;
    prompt->ids = NULL;
    return true;
}

static bool chat_tokens(const struct routes *routes, const struct call *call, uint32_t longest,
                        struct tokens *ret, struct problem *p)
{
    struct buf text;
    struct mt_err err = {.status = MT_EUNSUPPORTED, .text = "this model has no chat template"};
    bool ok;

    buf_init(&text, MAX_CHAT_TEXT);
    ok = routes->chat && !chat_render(routes->chat, call->messages, call->n_messages,
                                      !call->no_generation_prompt, &text, &err);
    if (!ok && err.status == MT_ENOMEM)
        problem_from(p, &err);
    else if (!ok)
        problem_param(p, "messages", "%s", err.text);
    else
        ok = encode(routes, text.data ? (const char *)text.data : "", text.len,
                    TOKENIZER_PARSE_SPECIAL, longest, "messages", ret, p);
    buf_done(&text);
    return ok;
}

/* How many tokens may be generated after a prompt of n. */
static bool fit_tokens(const struct call *call, size_t n, uint32_t longest,
                       struct request_params *params, struct problem *p)
{
    uint32_t asked = call->has_max_tokens ? call->params.max_tokens
                     : call->chat         ? UINT32_MAX
                                          : COMPLETION_DEFAULT_TOKENS;

    if (n > longest || (n == longest && asked)) {
        problem_param(p, call->chat ? "messages" : "prompt",
                      "This model's maximum context length is %" PRIu32 " tokens. However, your %s "
                      "%zu tokens%s. Please reduce the length of the %s.",
                      longest, call->chat ? "messages have" : "prompt has", n,
                      n == longest ? ", which leaves no room for an answer" : "",
                      call->chat ? "messages" : "prompt");
        p->code = "context_length_exceeded";
        return false;
    }
    params->max_tokens = asked < longest - n ? asked : longest - (uint32_t)n;
    return true;
}

static bool add_stop(struct request_params *params, const char *text, size_t len)
{
    char *copy;

    if (params->n_stops == REQUEST_MAX_STOPS || !(copy = malloc(len + 1)))
        return false;
    memcpy(copy, text, len);
    copy[len] = 0;
    params->stops[params->n_stops].text = copy;
    params->stops[params->n_stops++].len = len;
    return true;
}

static void free_stops(struct request_params *params)
{
    while (params->n_stops)
        free(params->stops[--params->n_stops].text);
}

/* The client's stop strings, and the end of a turn in a chat: as a token where it is one. */
static bool set_stops(const struct routes *routes, const struct call *call,
                      struct request_params *params)
{
    const char *const *turn = call->chat && routes->chat ? chat_stops(routes->chat) : NULL;

    for (size_t i = 0; i < call->n_stops; i++)
        if (!add_stop(params, call->stops[i].text, call->stops[i].len))
            return false;
    for (; turn && *turn; turn++) {
        int32_t id = tokenizer_id(routes->tokenizer, *turn);

        if (id < 0 && !add_stop(params, *turn, strlen(*turn)))
            return false;
        if (id >= 0) /* at most REQUEST_TEMPLATE_STOPS of them: there is room */
            params->stop_tokens[params->n_stop_tokens++] = id;
    }
    return true;
}

static bool make_echo(const struct routes *routes, const struct prompt *prompt,
                      const struct request *r, struct buf *echo, struct problem *p)
{
    struct mt_err err;

    buf_init(echo, TOKENIZER_MAX_INPUT);
    if (prompt->text)
        buf_append(echo, prompt->text, prompt->len);
    else if (routes->tokenizer &&
             tokenizer_decode(routes->tokenizer, r->prompt, r->n_prompt, false, echo, &err))
        return problem_from(p, &err);
    return echo->status ? problem_memory(p) : true;
}

/* One prompt to a request. */
static bool make_request(const struct engine_status *status, const struct call *call,
                         struct generation *g, size_t i, struct problem *p)
{
    const struct routes *routes = g->routes;
    struct prompt *prompt = call->chat ? NULL : &call->prompts[i];
    struct request_params params = call->params;
    struct tokens tokens = {0};
    struct mt_err err;
    bool ok = call->chat ? chat_tokens(routes, call, status->facts.max_positions, &tokens, p)
                         : prompt_tokens(routes, call, prompt, status, &tokens, p);

    ok = ok && fit_tokens(call, tokens.n, status->facts.max_positions, &params, p);
    params.deadline_ms = routes->deadline_ms;
    if (ok && !set_stops(routes, call, &params))
        ok = problem_memory(p);
    if (ok && request_new(call->chat ? "chatcmpl" : "cmpl", &params, tokens.ids, (uint32_t)tokens.n,
                          &g->requests[i].request, &err)) {
        ok = problem_from(p, &err);
        p->param = p->status == 400 ? (call->chat ? "messages" : "prompt") : NULL;
    }
    if (!ok) {
        free(tokens.ids);
        free_stops(&params);
        return false;
    }
    return !prompt || !call->echo ||
           make_echo(routes, prompt, g->requests[i].request, &g->requests[i].echo, p);
}

static bool make_requests(struct exchange *x, const struct engine_status *status,
                          const struct call *call, struct generation *g, struct problem *p)
{
    for (size_t i = 0; i < g->n_requests; i++) {
        struct generation_request *q = &g->requests[i];

        if (!make_request(status, call, g, i, p))
            return false;
        q->waker = exchange_waker(x, q->request);
        if (!q->waker)
            return problem_memory(p);
        q->request->notify = g->stream ? notify_stream : notify_whole;
        q->request->user = q->waker;
    }
    memcpy(g->id, g->requests[0].request->id, sizeof g->id);
    return true;
}

/* All or none. */
static bool submit(struct generation *g, struct problem *p)
{
    const struct backend *b = &g->routes->backend;
    struct mt_err err;

    for (size_t i = 0; i < g->n_requests; i++)
        if (b->submit(b->engine, g->requests[i].request, &err)) {
            while (i--)
                b->cancel(b->engine, g->requests[i].request);
            return problem_from(p, &err);
        }
    return true;
}

static void note(struct exchange *x, const struct generation *g)
{
    uint64_t tokens = 0;

    for (size_t i = 0; i < g->n_requests; i++)
        tokens += g->requests[i].request->n_prompt;
    exchange_note(x,
                  "request=%s prompts=%zu choices=%" PRIu32 " prompt_tokens=%" PRIu64 " stream=%s",
                  g->id, g->n_requests, g->n_choices, tokens, g->stream ? "yes" : "no");
}

static bool generate(struct exchange *x, const struct routes *routes, struct call *call,
                     struct problem *p)
{
    struct engine_status status;
    struct generation *g;

    routes->backend.status(routes->backend.engine, &status);
    if (!status.have_facts)
        return problem_set(p, 503, "unavailable", "The model is not loaded yet%s%s",
                           *status.text ? ": " : ".", status.text);
    g = generation_new(routes, call);
    if (!g)
        return problem_memory(p);
    if (!make_requests(x, &status, call, g, p)) {
        generation_free(g);
        return false;
    }
    note(x, g);
    if (!submit(g, p)) {
        generation_free(g);
        return false;
    }
    exchange_answer(x, g->stream ? &STREAM : &WHOLE, g,
                    g->stream ? "text/event-stream; charset=utf-8" : "application/json", g->stream);
    return true;
}

static void answer_call(struct exchange *x, const struct routes *routes, bool chat)
{
    struct call call = {0};
    struct problem p = {0};
    size_t len;
    const uint8_t *body = exchange_body(x, &len);
    bool ok = call_parse(body, len, chat, &routes->limits, &call, &p);

    if (!ok)
        routes_refine(x, &p);
    ok = ok && routes_check_model(routes, call.model, &p) && generate(x, routes, &call, &p);
    if (!ok)
        problem_reply(&p, x);
    call_done(&call);
}

void routes_completions(struct exchange *x, void *user)
{
    answer_call(x, user, false);
}

void routes_chat(struct exchange *x, void *user)
{
    answer_call(x, user, true);
}
