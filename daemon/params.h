/* From the JSON of a completions or chat call to plain structs, with OpenAI's error messages.
 *
 * One table says what each parameter is; what we do not do is refused by name, never ignored; null
 * is the same as absent; parameters that nobody knows are ignored, as by other servers. Pure: no
 * engine, no tokenizer, any thread. */
#ifndef MT_DAEMON_PARAMS_H
#define MT_DAEMON_PARAMS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/chat.h"
#include "daemon/problem.h"
#include "daemon/request.h"

/* What a client may ask for at most. */
struct limits {
    int64_t prompts;     /* in one call */
    int64_t choices;     /* n; at most REQUEST_MAX_CHOICES */
    int64_t sequences;   /* prompts * n */
    int64_t stops;       /* stop strings; at most REQUEST_MAX_STOPS - REQUEST_TEMPLATE_STOPS */
    int64_t stop_bytes;  /* in each; at most REQUEST_MAX_STOP_BYTES */
    int64_t stop_tokens; /* at most REQUEST_MAX_STOP_TOKENS, less those that a chat ends with */
    int64_t logprobs;    /* best tokens; at most WIRE_MAX_TOP_LOGPROBS */
    int64_t messages;    /* of a chat */
    int64_t json_depth;
};

struct prompt {
    const char *text; /* borrowed from the call's JSON; NULL: ids are given */
    size_t len;
    int32_t *ids; /* [n_ids], owned */
    size_t n_ids;
};

/* A call as it was made. Zeroed before, call_done after. */
struct call {
    json_t *root; /* owned; texts below are borrowed from it */
    bool chat;
    const char *model;      /* NULL: not given */
    struct prompt *prompts; /* completions: [n_prompts], owned */
    size_t n_prompts;
    struct chat_message *messages; /* chat: [n_messages], owned */
    size_t n_messages;
    char **joined; /* contents made of parts: [n_joined], owned */
    size_t n_joined;

    struct request_params params; /* without stops; max_tokens is valid with has_max_tokens */
    bool has_max_tokens;
    const char *max_tokens_name; /* the parameter by which it was given */
    struct {
        const char *text;
        size_t len;
    } stops[REQUEST_MAX_STOPS];
    size_t n_stops;
    bool echo, stream, include_usage, return_token_ids;
    bool add_special;          /* completions: let the tokenizer put its bos before a text */
    bool no_generation_prompt; /* chat */
};

/* False, with *ret_problem filled, if the call cannot be taken. *call needs call_done in any case.
 */
bool call_parse(const uint8_t *body, size_t len, bool chat, const struct limits *limits,
                struct call *call, struct problem *ret_problem);
void call_done(struct call *call);

/* Shared with /tokenize and /detokenize: the body as an object, and typed members of it (absent and
 * null: untouched). */
json_t *params_object(const uint8_t *body, size_t len, unsigned max_depth,
                      struct problem *ret_problem);
bool params_bool(const json_t *object, const char *name, bool *ret, struct problem *ret_problem);
/* An array of token ids, each from 0 to INT32_MAX; *ret_ids is the caller's to free. */
bool params_ids(const json_t *array, const char *name, int32_t **ret_ids, size_t *ret_n,
                struct problem *ret_problem);
bool params_model(const json_t *object, const char **ret, struct problem *ret_problem);

#endif
