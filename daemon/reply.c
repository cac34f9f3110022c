/* What has been generated, as OpenAI's JSON, written straight into the answer: this runs for every
 * token of every stream. A whole answer is one piece that begins at nothing; a
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
    bool echo_waits = g->stream && r->params.prompt_logprobs && r->n_prompt_tokens < r->n_prompt;

    if (echo_waits && !at->begun) { /* the logprobs that go with it are still to come */
        *ret = (struct piece){.tokens = at->tokens, .text = at->text};
        return false;
    }
    *ret = (struct piece){.tokens = c->n_tokens, .starts = !at->begun};
    if (g->stream && c->n_tokens - at->tokens > PIECE_TOKENS)
        ret->tokens = at->tokens + PIECE_TOKENS;
    ret->text = text_before(c, ret->tokens, at->text);
    ret->ends = ret->tokens == c->n_tokens && finished_well(c) && !at->finished;
    return ret->ends || ret->text > at->text || (tokens_count && ret->tokens > at->tokens);
}

static void put_ids(const int32_t *ids, size_t n, struct buf *out)
{
    buf_puts(out, "[");
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_puts(out, ",");
        json_put_int(out, ids[i]);
    }
    buf_puts(out, "]");
}

static void put_tokens(const struct choice *c, uint32_t from, uint32_t to, struct buf *out)
{
    buf_puts(out, "[");
    for (uint32_t i = from; i < to; i++) {
        if (i > from)
            buf_puts(out, ",");
        json_put_int(out, c->tokens[i].token);
    }
    buf_puts(out, "]");
}

/* The piece's text, after the echo where it starts. */
static void put_text(const struct generation_request *q, const struct choice *c,
                     const struct cursor *at, const struct piece *p, struct buf *out)
{
    buf_puts(out, "\"");
    if (p->starts && q->echo.len)
        json_put_chars(out, q->echo.data, q->echo.len);
    if (p->text > at->text)
        json_put_chars(out, c->text.data + at->text, p->text - at->text);
    buf_puts(out, "\"");
}

static void put_piece(const struct generation *g, const struct generation_request *q,
                      uint32_t index, const struct choice *c, struct cursor *at,
                      const struct piece *p, struct buf *out)
{
    buf_puts(out, "{\"index\":");
    json_put_int(out, index);
    buf_puts(out, !g->chat    ? ",\"text\":"
                  : g->stream ? ",\"delta\":{\"content\":"
                              : ",\"message\":{\"role\":\"assistant\",\"content\":");
    put_text(q, c, at, p, out);
    buf_puts(out, g->chat ? "},\"logprobs\":" : ",\"logprobs\":");
    if (q->request->params.n_logprobs < 0)
        buf_puts(out, "null");
    else
        json_print(reply_logprobs(g, q, c, at, p->tokens, p->starts && g->echo), out);
    buf_puts(out, ",\"finish_reason\":");
    if (p->ends)
        json_put_text(out, finish_reason_name(c->finish), strlen(finish_reason_name(c->finish)));
    else
        buf_puts(out, "null");
    if (g->return_token_ids) {
        if (!g->chat && p->starts) {
            buf_puts(out, ",\"prompt_token_ids\":");
            put_ids(q->request->prompt, q->request->n_prompt, out);
        }
        buf_puts(out, ",\"token_ids\":");
        put_tokens(c, at->tokens, p->tokens, out);
    }
    buf_puts(out, "}");
}

/* A streamed chat begins, before anything is generated, with who speaks. */
static void put_role(uint32_t index, struct buf *out)
{
    buf_puts(out, "{\"index\":");
    json_put_int(out, index);
    buf_puts(out, ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                  "\"finish_reason\":null}");
}

bool reply_choice(struct generation *g, size_t request, uint32_t choice, struct buf *out)
{
    const struct generation_request *q = &g->requests[request];
    struct cursor *at = &g->cursors[request * g->n_choices + choice];
    uint32_t index = (uint32_t)request * g->n_choices + choice;
    const struct choice *c = &q->request->choices[choice];
    struct piece p;
    bool some;

    if (g->chat && g->stream && !at->begun) {
        at->begun = true;
        put_role(index, out);
        return true;
    }
    pthread_mutex_lock(&q->request->lock);
    some = piece_cut(g, q->request, c, at, &p);
    if (some)
        put_piece(g, q, index, c, at, &p, out);
    at->tokens = p.tokens;
    pthread_mutex_unlock(&q->request->lock);
    at->text = p.text;
    at->finished |= p.ends;
    at->begun |= some;
    return some;
}

static void reply_usage(const struct generation *g, struct buf *out)
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
    json_print(json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", prompt, "completion_tokens",
                         generated, "total_tokens", prompt + generated, "prompt_tokens_details",
                         "cached_tokens", cached),
               out);
}

/* It is the same for every chunk of a stream, so it is made once. */
void reply_begin(struct generation *g, struct buf *out)
{
    struct buf *head = &g->head;

    if (!head->len) {
        buf_puts(head, "{\"id\":");
        json_put_text(head, g->id, strlen(g->id));
        buf_puts(head, !g->chat    ? ",\"object\":\"text_completion\",\"created\":"
                       : g->stream ? ",\"object\":\"chat.completion.chunk\",\"created\":"
                                   : ",\"object\":\"chat.completion\",\"created\":");
        json_put_int(head, g->created_s);
        buf_puts(head, ",\"model\":");
        json_put_text(head, g->routes->model, strlen(g->routes->model));
        buf_puts(head, ",\"choices\":[");
    }
    if (head->status)
        out->status = head->status;
    else
        buf_append(out, head->data, head->len);
}

void reply_end(struct generation *g, enum reply_usage_kind usage, struct buf *out)
{
    buf_puts(out, "]");
    if (g->chat && g->return_token_ids && !g->told_prompt) {
        buf_puts(out, ",\"prompt_token_ids\":");
        put_ids(g->requests[0].request->prompt, g->requests[0].request->n_prompt, out);
        g->told_prompt = true;
    }
    if (usage != USAGE_NONE)
        buf_puts(out, ",\"usage\":");
    if (usage == USAGE_NULL)
        buf_puts(out, "null");
    else if (usage == USAGE_FULL)
        reply_usage(g, out);
    buf_puts(out, "}");
}
