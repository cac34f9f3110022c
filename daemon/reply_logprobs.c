/* Log-probabilities, in the two shapes of OpenAI's API: the legacy one of completions (parallel
 * arrays, offsets in characters) and the one of chats (an object for each token). */
#include <stdio.h>
#include <string.h>

#include "daemon/generation.h"
#include "daemon/json.h"
#include "daemon/utf8.h"

#define LEAST_LOGPROB (-9999.0) /* JSON has no infinity */

static json_t *logprob_json(float logprob)
{
    return json_real(logprob >= (float)LEAST_LOGPROB ? (double)logprob : LEAST_LOGPROB);
}

static const uint8_t *token_bytes(const struct generation *g, int32_t token, size_t *ret_len)
{
    const struct tokenizer *t = g->routes->tokenizer;
    const uint8_t *bytes = t ? tokenizer_bytes(t, token, ret_len) : NULL;

    if (!bytes)
        *ret_len = 0;
    return bytes;
}

/* A token as a name: its text; "bytes:\xe2\x80" if that is no text by itself (a key must tell
 * tokens apart); its number if there is no tokenizer. */
static void token_name(const struct generation *g, int32_t token, struct buf *out)
{
    size_t len;
    const uint8_t *bytes = token_bytes(g, token, &len);

    buf_reset(out);
    if (!bytes) {
        buf_printf(out, "token_id:%d", token);
    } else if (utf8_check(bytes, len) == len) {
        buf_append(out, bytes, len);
    } else {
        buf_puts(out, "bytes:");
        for (size_t i = 0; i < len; i++)
            buf_printf(out, "\\x%02x", bytes[i]);
    }
}

static size_t count_chars(const uint8_t *bytes, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++)
        n += (bytes[i] & 0xc0) != 0x80;
    return n;
}

/* --- legacy --- */

struct legacy {
    const struct generation *g;
    json_t *tokens, *logprobs, *tops, *offsets;
    struct buf name; /* of the token at hand */
    size_t n;        /* tokens added */
    bool failed;     /* out of memory */
};

static const char *legacy_name(struct legacy *l, int32_t token)
{
    token_name(l->g, token, &l->name);
    l->failed |= l->name.status != 0;
    return l->name.data ? (const char *)l->name.data : "";
}

static json_t *legacy_top(struct legacy *l, const struct output_token *t,
                          const struct wire_logprob *tops)
{
    json_t *object = json_object();
    const char *name;

    for (uint32_t i = 0; i < t->n_top; i++) {
        const struct wire_logprob *top = &tops[t->top_at + i];

        name = legacy_name(l, top->token);
        if (json_object_setn_new(object, name, l->name.len, logprob_json(top->logprob)))
            l->failed = true;
    }
    name = legacy_name(l, t->token); /* the token itself is always there */
    if (!json_object_getn(object, name, l->name.len) &&
        json_object_setn_new(object, name, l->name.len, logprob_json(t->logprob)))
        l->failed = true;
    return object;
}

/* known: it has a probability, as all but the first of a prompt have. */
static void legacy_add(struct legacy *l, const struct output_token *t,
                       const struct wire_logprob *tops, bool known, size_t offset)
{
    const char *name = legacy_name(l, t->token);

    json_array_append_new(l->tokens, json_text(name, l->name.len));
    json_array_append_new(l->offsets, json_integer((json_int_t)offset));
    json_array_append_new(l->logprobs, known ? logprob_json(t->logprob) : json_null());
    json_array_append_new(l->tops, known && t->n_top ? legacy_top(l, t, tops) : json_null());
    l->n++;
}

static void legacy_prompt(struct legacy *l, const struct request *r)
{
    size_t chars = 0;

    for (uint32_t i = 0; i < r->n_prompt; i++) {
        struct output_token none = {.token = r->prompt[i]};
        bool known = i && i < r->n_prompt_tokens;
        size_t len;
        const uint8_t *bytes = token_bytes(l->g, r->prompt[i], &len);

        legacy_add(l, known ? &r->prompt_tokens[i] : &none, r->prompt_tops, known, chars);
        chars += count_chars(bytes, len);
    }
}

static json_t *legacy_json(const struct generation *g, const struct generation_request *q,
                           const struct choice *c, struct cursor *at, uint32_t to, bool prompt)
{
    struct legacy l = {g, json_array(), json_array(), json_array(), json_array(), {0}, 0, false};
    json_t *root;

    buf_init(&l.name, TOKENIZER_MAX_INPUT);
    if (!at->begun)
        at->chars = count_chars(q->echo.data, q->echo.len);
    if (prompt)
        legacy_prompt(&l, q->request);
    for (uint32_t i = at->tokens; i < to; i++) {
        size_t text_at = c->tokens[i].text_at < c->text.len ? c->tokens[i].text_at : c->text.len;

        if (text_at > at->chars_at) {
            at->chars += count_chars(c->text.data + at->chars_at, text_at - at->chars_at);
            at->chars_at = text_at;
        }
        legacy_add(&l, &c->tokens[i], c->tops, true, at->chars);
    }
    buf_done(&l.name);
    root = json_pack("{s:o, s:o, s:o, s:o}", "tokens", json_whole(l.tokens, l.n), "token_logprobs",
                     json_whole(l.logprobs, l.n), "top_logprobs", json_whole(l.tops, l.n),
                     "text_offset", json_whole(l.offsets, l.n));
    if (root && !q->request->params.n_logprobs) /* none were asked for */
        json_object_set_new(root, "top_logprobs", json_null());
    if (!l.failed)
        return root;
    json_decref(root);
    return NULL;
}

/* --- chat --- */

static json_t *chat_token(const struct generation *g, int32_t token, float logprob)
{
    size_t len;
    const uint8_t *bytes = token_bytes(g, token, &len);
    json_t *list = json_array(), *text;
    char name[32];

    for (size_t i = 0; i < len; i++)
        json_array_append_new(list, json_integer(bytes[i]));
    snprintf(name, sizeof name, "token_id:%d", token);
    text = bytes ? json_text((const char *)bytes, len) : json_string(name);
    return json_pack("{s:o, s:o, s:o}", "token", text, "logprob", logprob_json(logprob), "bytes",
                     json_whole(list, len));
}

static json_t *chat_entry(const struct generation *g, const struct output_token *t,
                          const struct wire_logprob *tops)
{
    json_t *entry = chat_token(g, t->token, t->logprob), *list = json_array();

    for (uint32_t i = 0; i < t->n_top; i++)
        json_array_append_new(
            list, chat_token(g, tops[t->top_at + i].token, tops[t->top_at + i].logprob));
    if (!json_object_set_new(entry, "top_logprobs", json_whole(list, t->n_top)))
        return entry;
    json_decref(entry);
    return NULL;
}

static json_t *chat_json(const struct generation *g, const struct choice *c, uint32_t from,
                         uint32_t to)
{
    json_t *content = json_array();

    for (uint32_t i = from; i < to; i++)
        json_array_append_new(content, chat_entry(g, &c->tokens[i], c->tops));
    return json_pack("{s:o}", "content", json_whole(content, to - from));
}

json_t *reply_logprobs(const struct generation *g, const struct generation_request *q,
                       const struct choice *c, struct cursor *at, uint32_t to, bool prompt)
{
    return g->chat ? chat_json(g, c, at->tokens, to) : legacy_json(g, q, c, at, to, prompt);
}
