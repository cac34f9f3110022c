/* /tokenize and /detokenize, in vLLM's shape. */
#include <stdlib.h>

#include "daemon/json.h"
#include "daemon/routes.h"

#define MAX_TEXT ((size_t)256 << 20)

/* A server thread is held for about as long as the text: there is no need for more than a prompt
 * can have, generously. */
#define LEAST_TEXT ((size_t)1 << 20)
#define TOKEN_BYTES 16

static size_t longest_text(const struct engine_status *status)
{
    size_t most = status->have_facts ? (size_t)status->facts.max_positions * TOKEN_BYTES : 0;

    return most > LEAST_TEXT ? most : LEAST_TEXT;
}

static bool need_tokenizer(const struct routes *routes, struct problem *p)
{
    if (routes->tokenizer)
        return true;
    return problem_set(p, 501, NULL, "this model has no tokenizer");
}

static bool tokenize(const json_t *root, const struct routes *routes, json_t **ret,
                     struct problem *p)
{
    const json_t *prompt = json_object_get(root, "prompt");
    struct engine_status status;
    bool special = true;
    struct mt_err err;
    int32_t *ids;
    size_t n;
    json_t *list;

    if (!json_is_string(prompt))
        return problem_param(p, "prompt",
                             "Invalid type for 'prompt': expected a string, but got %s instead.",
                             json_kind(prompt));
    routes->backend.status(routes->backend.engine, &status);
    if (json_string_length(prompt) > longest_text(&status))
        return problem_param(p, "prompt", "'prompt' has %zu bytes; at most %zu are tokenized here.",
                             json_string_length(prompt), longest_text(&status));
    if (!params_bool(root, "add_special_tokens", &special, p) || !need_tokenizer(routes, p))
        return false;
    if (tokenizer_encode(routes->tokenizer, json_string_value(prompt), json_string_length(prompt),
                         TOKENIZER_PARSE_SPECIAL | (special ? TOKENIZER_ADD_SPECIAL : 0),
                         SIZE_MAX / 8, &ids, &n, &err))
        return problem_param(p, "prompt", "%s", err.text);
    list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(ids[i]));
    free(ids);
    *ret = json_pack("{s:I, s:o, s:o}", "count", (json_int_t)n, "max_model_len",
                     status.have_facts ? json_integer(status.facts.max_positions) : json_null(),
                     "tokens", json_whole(list, n));
    return true;
}

void routes_tokenize(struct exchange *x, void *user)
{
    json_t *root = routes_object(x, user), *reply = NULL;
    struct problem p;

    if (!root)
        return;
    if (tokenize(root, user, &reply, &p))
        routes_json(x, 200, reply);
    else
        problem_reply(&p, x);
    json_decref(root);
}

static bool detokenize(const json_t *root, const struct routes *routes, json_t **ret,
                       struct problem *p)
{
    const json_t *tokens = json_object_get(root, "tokens");
    struct mt_err err;
    struct buf text;
    int32_t *ids;
    size_t n;
    int status;

    if (!json_is_array(tokens))
        return problem_param(
            p, "tokens",
            "Invalid type for 'tokens': expected an array of token ids, but got %s instead.",
            json_kind(tokens));
    if (!params_ids(tokens, "tokens", &ids, &n, p))
        return false;
    if (!need_tokenizer(routes, p)) {
        free(ids);
        return false;
    }
    buf_init(&text, MAX_TEXT);
    status = tokenizer_decode(routes->tokenizer, ids, n, false, &text, &err);
    free(ids);
    if (!status)
        *ret = json_pack("{s:o}", "prompt",
                         json_text(text.data ? (const char *)text.data : "", text.len));
    buf_done(&text);
    return status ? problem_param(p, "tokens", "%s", err.text) : true;
}

void routes_detokenize(struct exchange *x, void *user)
{
    json_t *root = routes_object(x, user), *reply = NULL;
    struct problem p;

    if (!root)
        return;
    if (detokenize(root, user, &reply, &p))
        routes_json(x, 200, reply);
    else
        problem_reply(&p, x);
    json_decref(root);
}
