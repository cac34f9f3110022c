/* What has been generated, as OpenAI's JSON. A whole answer is one piece that begins at nothing; a
 * chunk of a stream is the piece since the last one. Pieces of a stream are bounded, so that a
 * client that was slow for a long time does not hold a request's lock for long. */
#include <string.h>

#include "daemon/generation.h"
#include "daemon/json.h"

#define PIECE_TOKENS 64

/* One piece: tokens [at.tokens, tokens) and bytes [at.text, text). */
struct piece {
    uint32_t tokens;
    size_t text;
    bool starts; /* the first of its choice */
    bool ends;   /* with a finish reason */
};

/* Where a piece's text ends if its tokens end before the last: where the next token's text begins.
 */
static size_t text_before(const struct choice *c, uint32_t token, size_t from)
{
    size_t at = c->text.len;

    if (token < c->n_tokens && c->tokens[token].text_at < at)
        at = c->tokens[token].text_at;
    while (at > from && at < c->text.len && (c->text.data[at] & 0xc0) == 0x80)
        at--;
    return at > from ? at : from;
}

static bool finished_well(const struct choice *c)
{
    return c->finish == FINISH_STOP || c->finish == FINISH_LENGTH;
}

/* False: nothing is new. */
static bool piece_cut(const struct generation *g, const struct request *r, const struct choice *c,
                      const struct cursor *at, struct piece *ret)
{
    bool tokens_count = g->return_token_ids || r->params.n_logprobs >= 0;

    *ret = (struct piece){.tokens = c->n_tokens, .starts = !at->begun};
    if (g->stream && c->n_tokens - at->tokens > PIECE_TOKENS)
        ret->tokens = at->tokens + PIECE_TOKENS;
    ret->text = text_before(c, ret->tokens, at->text);
    ret->ends = ret->tokens == c->n_tokens && finished_well(c) && !at->finished;
    return ret->ends || ret->text > at->text || (tokens_count && ret->tokens > at->tokens);
}

static json_t *ids_json(const int32_t *ids, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(ids[i]));
    return json_whole(list, n);
}

static json_t *tokens_json(const struct choice *c, uint32_t from, uint32_t to)
{
    json_t *list = json_array();

    for (uint32_t i = from; i < to; i++)
        json_array_append_new(list, json_integer(c->tokens[i].token));
    return json_whole(list, to - from);
}

/* The piece's text, after the echo where it starts. */
static json_t *piece_text(const struct generation_request *q, const struct choice *c,
                          const struct cursor *at, const struct piece *p)
{
    const char *text = (const char *)c->text.data;
    struct buf whole;
    json_t *value;

    if (!p->starts || !q->echo.len)
        return json_text(text ? text + at->text : "", p->text - at->text);
    buf_init(&whole, q->echo.len + c->text.len);
    buf_append(&whole, q->echo.data, q->echo.len);
    buf_append(&whole, c->text.data, p->text - at->text);
    value = whole.status ? NULL : json_text((const char *)whole.data, whole.len);
    buf_done(&whole);
    return value;
}

static json_t *piece_json(const struct generation *g, const struct generation_request *q,
                          uint32_t index, const struct choice *c, struct cursor *at,
                          const struct piece *p)
{
    json_t *text = piece_text(q, c, at, p);
    const char *finish = p->ends ? finish_reason_name(c->finish) : NULL;
    json_t *logprobs = q->request->params.n_logprobs < 0
                           ? json_null()
                           : reply_logprobs(g, q, c, at, p->tokens, p->starts && g->echo);
    json_t *choice;

    if (!g->chat)
        choice = json_pack("{s:I, s:o, s:o, s:s?}", "index", (json_int_t)index, "text", text,
                           "logprobs", logprobs, "finish_reason", finish);
    else if (g->stream)
        choice = json_pack("{s:I, s:{s:o}, s:o, s:s?}", "index", (json_int_t)index, "delta",
                           "content", text, "logprobs", logprobs, "finish_reason", finish);
    else
        choice = json_pack("{s:I, s:{s:s, s:o}, s:o, s:s?}", "index", (json_int_t)index, "message",
                           "role", "assistant", "content", text, "logprobs", logprobs,
                           "finish_reason", finish);
    if (choice && g->return_token_ids) {
        if (!g->chat && p->starts)
            json_object_set_new(choice, "prompt_token_ids",
                                ids_json(q->request->prompt, q->request->n_prompt));
        json_object_set_new(choice, "token_ids", tokens_json(c, at->tokens, p->tokens));
    }
    return choice;
}

/* A streamed chat begins, before anything is generated, with who speaks. */
static json_t *role_json(uint32_t index)
{
    return json_pack("{s:I, s:{s:s, s:s}, s:n, s:n}", "index", (json_int_t)index, "delta", "role",
                     "assistant", "content", "", "logprobs", "finish_reason");
}

enum reply_more reply_choice(struct generation *g, size_t request, uint32_t choice, json_t **ret)
{
    const struct generation_request *q = &g->requests[request];
    struct cursor *at = &g->cursors[request * g->n_choices + choice];
    uint32_t index = (uint32_t)request * g->n_choices + choice;
    const struct choice *c = &q->request->choices[choice];
    json_t *json = NULL;
    struct piece p;
    bool some;

    if (g->chat && g->stream && !at->begun) {
        at->begun = true;
        *ret = role_json(index);
        return *ret ? REPLY_SOME : REPLY_FAILED;
    }
    pthread_mutex_lock(&q->request->lock);
    some = piece_cut(g, q->request, c, at, &p);
    if (some)
        json = piece_json(g, q, index, c, at, &p);
    at->tokens = p.tokens;
    pthread_mutex_unlock(&q->request->lock);
    at->text = p.text;
    at->finished |= p.ends;
    if (!some)
        return REPLY_NOTHING;
    at->begun = true;
    *ret = json;
    return json ? REPLY_SOME : REPLY_FAILED;
}

json_t *reply_usage(const struct generation *g)
{
    json_int_t prompt = 0, cached = 0, generated = 0;

    for (size_t i = 0; i < g->n_requests; i++) {
        struct request *r = g->requests[i].request;

        pthread_mutex_lock(&r->lock);
        prompt += r->n_prompt;
        cached += r->cached_tokens;
        for (uint32_t k = 0; k < r->params.n; k++)
            generated += r->choices[k].n_tokens;
        pthread_mutex_unlock(&r->lock);
    }
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", prompt, "completion_tokens",
                     generated, "total_tokens", prompt + generated, "prompt_tokens_details",
                     "cached_tokens", cached);
}

json_t *reply_envelope(struct generation *g, json_t *choices, json_t *usage)
{
    const char *object = !g->chat    ? "text_completion"
                         : g->stream ? "chat.completion.chunk"
                                     : "chat.completion";
    json_t *root =
        json_pack("{s:s, s:s, s:I, s:o, s:o}", "id", g->id, "object", object, "created",
                  (json_int_t)g->created_s, "model",
                  json_text(g->routes->model, strlen(g->routes->model)), "choices", choices);

    if (root && g->chat && g->return_token_ids && !g->told_prompt) {
        const struct request *r = g->requests[0].request;

        g->told_prompt =
            !json_object_set_new(root, "prompt_token_ids", ids_json(r->prompt, r->n_prompt));
    }
    if (root && usage)
        json_object_set_new(root, "usage", usage);
    else
        json_decref(usage);
    return root;
}
