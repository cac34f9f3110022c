#include "daemon/params.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/json.h"
#include "daemon/params_impl.h"

/* --- numbers and switches: one table --- */

enum field_type { FIELD_BOOL, FIELD_INTEGER, FIELD_NUMBER };
enum field_of { OF_COMPLETION = 1, OF_CHAT = 2, OF_BOTH = 3 };

enum field_name {
    MAX_TOKENS,
    MAX_COMPLETION_TOKENS,
    TEMPERATURE,
    TOP_P,
    TOP_K,
    MIN_P,
    SEED,
    PRIORITY,
    N,
    BEST_OF,
    LOGPROBS,
    CHAT_LOGPROBS,
    TOP_LOGPROBS,
    ECHO,
    STREAM,
    IGNORE_EOS,
    RETURN_TOKEN_IDS,
    INCLUDE_STOP,
    ADD_SPECIAL,
    ADD_GENERATION_PROMPT,
    FIELDS,
};

struct field {
    const char *name;
    enum field_type type;
    enum field_of of;
    double min, max; /* of numbers and integers; both 0: any that fits */
};

static const struct field TABLE[FIELDS] = {
    [MAX_TOKENS] = {"max_tokens", FIELD_INTEGER, OF_BOTH, 0, INT32_MAX},
    [MAX_COMPLETION_TOKENS] = {"max_completion_tokens", FIELD_INTEGER, OF_BOTH, 0, INT32_MAX},
    [TEMPERATURE] = {"temperature", FIELD_NUMBER, OF_BOTH, 0, 2},
    [TOP_P] = {"top_p", FIELD_NUMBER, OF_BOTH, 0, 1},
    [TOP_K] = {"top_k", FIELD_INTEGER, OF_BOTH, -1, INT32_MAX},
    [MIN_P] = {"min_p", FIELD_NUMBER, OF_BOTH, 0, 1},
    [SEED] = {"seed", FIELD_INTEGER, OF_BOTH, 0, 0},
    [PRIORITY] = {"priority", FIELD_INTEGER, OF_BOTH, -REQUEST_MAX_PRIORITY, REQUEST_MAX_PRIORITY},
    [N] = {"n", FIELD_INTEGER, OF_BOTH, 1, REQUEST_MAX_CHOICES},
    [BEST_OF] = {"best_of", FIELD_INTEGER, OF_COMPLETION, 1, REQUEST_MAX_CHOICES},
    [LOGPROBS] = {"logprobs", FIELD_INTEGER, OF_COMPLETION, 0, WIRE_MAX_TOP_LOGPROBS},
    [CHAT_LOGPROBS] = {"logprobs", FIELD_BOOL, OF_CHAT, 0, 0},
    [TOP_LOGPROBS] = {"top_logprobs", FIELD_INTEGER, OF_CHAT, 0, WIRE_MAX_TOP_LOGPROBS},
    [ECHO] = {"echo", FIELD_BOOL, OF_COMPLETION, 0, 0},
    [STREAM] = {"stream", FIELD_BOOL, OF_BOTH, 0, 0},
    [IGNORE_EOS] = {"ignore_eos", FIELD_BOOL, OF_BOTH, 0, 0},
    [RETURN_TOKEN_IDS] = {"return_token_ids", FIELD_BOOL, OF_BOTH, 0, 0},
    [INCLUDE_STOP] = {"include_stop_str_in_output", FIELD_BOOL, OF_BOTH, 0, 0},
    [ADD_SPECIAL] = {"add_special_tokens", FIELD_BOOL, OF_COMPLETION, 0, 0},
    [ADD_GENERATION_PROMPT] = {"add_generation_prompt", FIELD_BOOL, OF_CHAT, 0, 0},
};

struct value {
    bool given;
    bool flag;
    int64_t integer;
    double number;
};

bool params_wrong_type(struct problem *p, const char *name, const char *expected,
                       const json_t *found)
{
    return problem_param(p, name, "Invalid type for '%s': expected %s, but got %s instead.", name,
                         expected, json_kind(found));
}

static bool wrong_value(struct problem *p, const struct field *f, const json_t *found)
{
    char text[32];

    if (json_is_integer(found))
        snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(found));
    else
        snprintf(text, sizeof text, "%.15g", json_real_value(found));
    return problem_param(
        p, f->name, "Invalid value for '%s': expected %s from %.15g to %.15g, but got %s instead.",
        f->name, f->type == FIELD_INTEGER ? "an integer" : "a number", f->min, f->max, text);
}

static bool read_field(const json_t *root, const struct field *f, struct value *v,
                       struct problem *p)
{
    const json_t *given = json_object_get(root, f->name);

    if (!given || json_is_null(given))
        return true;
    v->given = true;
    if (f->type == FIELD_BOOL) {
        if (!json_is_boolean(given))
            return params_wrong_type(p, f->name, "a boolean", given);
        v->flag = json_is_true(given);
        return true;
    }
    if (f->type == FIELD_INTEGER ? !json_is_integer(given) : !json_is_number(given))
        return params_wrong_type(p, f->name, f->type == FIELD_INTEGER ? "an integer" : "a number",
                                 given);
    v->integer = json_is_integer(given) ? json_integer_value(given) : 0;
    v->number = json_number_value(given);
    if ((f->min != 0 || f->max != 0) && !(v->number >= f->min && v->number <= f->max))
        return wrong_value(p, f, given);
    return true;
}

static bool read_fields(const json_t *root, bool chat, struct value v[FIELDS], struct problem *p)
{
    for (int i = 0; i < FIELDS; i++)
        if ((TABLE[i].of & (chat ? OF_CHAT : OF_COMPLETION)) &&
            !read_field(root, &TABLE[i], &v[i], p))
            return false;
    return true;
}

/* --- what we do not do --- */

/* A parameter that would change the answer, and a value of it (besides null, false, 0, and what is
 * empty) that changes nothing. */
static const struct unsupported {
    const char *name;
    const char *harmless; /* a string or, from its first letter on, JSON's true or 1; NULL: none */
} UNSUPPORTED[] = {
    {"suffix", NULL},
    {"logit_bias", NULL},
    {"tools", NULL},
    {"tool_choice", "none"},
    {"functions", NULL},
    {"function_call", "none"},
    {"response_format", "text"},
    {"presence_penalty", NULL},
    {"frequency_penalty", NULL},
    {"repetition_penalty", "1"},
    {"length_penalty", "1"},
    {"use_beam_search", NULL},
    {"min_tokens", NULL},
    {"bad_words", NULL},
    {"allowed_token_ids", NULL},
    {"prompt_logprobs", NULL},
    {"truncate_prompt_tokens", NULL},
    {"skip_special_tokens", "true"},
    {"spaces_between_special_tokens", "true"},
    {"structured_outputs", NULL},
    {"guided_json", NULL},
    {"guided_regex", NULL},
    {"guided_choice", NULL},
    {"guided_grammar", NULL},
    {"prompt_embeds", NULL},
    {"modalities", "text"},
    {"audio", NULL},
    {"prediction", NULL},
    {"web_search_options", NULL},
    {"chat_template", NULL},
    {"chat_template_kwargs", NULL},
    {"continue_final_message", NULL},
    {"documents", NULL},
    {NULL, NULL},
};

static bool is_text(const json_t *value, const char *text)
{
    return json_is_string(value) && !strcmp(json_string_value(value), text);
}

static bool changes_nothing(const json_t *value, const char *harmless)
{
    switch (json_typeof(value)) {
    case JSON_NULL: return true;
    case JSON_TRUE: return harmless && !strcmp(harmless, "true");
    case JSON_FALSE: /* a switch that is on by default is changed by false */
        return !harmless || strcmp(harmless, "true") != 0;
    case JSON_INTEGER:
    case JSON_REAL: return json_number_value(value) == (harmless && !strcmp(harmless, "1") ? 1 : 0);
    case JSON_STRING: return !json_string_length(value) || (harmless && is_text(value, harmless));
    case JSON_ARRAY: /* ["text"] */
        return !json_array_size(value) || (harmless && json_array_size(value) == 1 &&
                                           is_text(json_array_get(value, 0), harmless));
    default: /* {"type": "text"} */
        return !json_object_size(value) ||
               (harmless && is_text(json_object_get(value, "type"), harmless));
    }
}

static bool refuse_unsupported(const json_t *root, struct problem *p)
{
    for (const struct unsupported *u = UNSUPPORTED; u->name; u++) {
        const json_t *value = json_object_get(root, u->name);

        if (value && !changes_nothing(value, u->harmless)) {
            problem_param(p, u->name,
                          "Unsupported parameter: '%s' is not supported by this server.", u->name);
            p->code = "unsupported_parameter";
            return false;
        }
    }
    return true;
}

/* --- parameters that depend on each other --- */

static bool set_max_tokens(const struct value v[FIELDS], struct call *c, struct problem *p)
{
    enum field_name f = v[MAX_COMPLETION_TOKENS].given ? MAX_COMPLETION_TOKENS : MAX_TOKENS;

    c->max_tokens_name = TABLE[f].name;
    if (!v[f].given)
        return true;
    if (v[f].integer == 0 && !c->echo)
        return problem_param(
            p, TABLE[f].name,
            "Invalid value for '%s': expected at least 1 (0 only with 'echo'), but got 0 "
            "instead.",
            TABLE[f].name);
    c->has_max_tokens = true;
    c->params.max_tokens = (uint32_t)v[f].integer;
    return true;
}

static bool set_choices(const struct value v[FIELDS], const struct limits *limits, struct call *c,
                        struct problem *p)
{
    c->params.n = v[N].given ? (uint32_t)v[N].integer : 1;
    if (c->params.n > limits->choices)
        return problem_param(p, "n",
                             "Invalid value for 'n': expected at most %" PRId64 ", but got %" PRIu32
                             " instead.",
                             limits->choices, c->params.n);
    if (v[BEST_OF].given && v[BEST_OF].integer != c->params.n)
        return problem_param(p, "best_of",
                             "Unsupported value for 'best_of': expected the same as 'n' (%" PRIu32
                             "), but got "
                             "%" PRId64 " instead.",
                             c->params.n, v[BEST_OF].integer);
    if ((c->n_prompts ? c->n_prompts : 1) * c->params.n > (uint64_t)limits->sequences)
        return problem_param(p, "n",
                             "%zu prompts with 'n' of %" PRIu32 " are more than the %" PRId64
                             " sequences that one call may ask for.",
                             c->n_prompts, c->params.n, limits->sequences);
    return true;
}

static bool set_logprobs(const struct value v[FIELDS], const struct limits *limits, struct call *c,
                         struct problem *p)
{
    const char *name = c->chat ? "top_logprobs" : "logprobs";
    int64_t asked = -1;

    if (c->chat && v[TOP_LOGPROBS].given && v[TOP_LOGPROBS].integer && !v[CHAT_LOGPROBS].flag)
        return problem_param(p, "top_logprobs",
                             "Invalid value for 'top_logprobs': it needs 'logprobs' to be true.");
    if (c->chat && v[CHAT_LOGPROBS].flag)
        asked = v[TOP_LOGPROBS].given ? v[TOP_LOGPROBS].integer : 0;
    else if (!c->chat && v[LOGPROBS].given)
        asked = v[LOGPROBS].integer;
    if (asked > limits->logprobs)
        return problem_param(p, name,
                             "Invalid value for '%s': expected at most %" PRId64
                             ", but got %" PRId64 " instead.",
                             name, limits->logprobs, asked);
    c->params.n_logprobs = (int32_t)asked;
    c->params.prompt_logprobs = c->echo && asked >= 0;
    return true;
}

static void set_sampling(const struct value v[FIELDS], struct request_params *r)
{
    r->temperature = v[TEMPERATURE].given ? (float)v[TEMPERATURE].number : 1;
    r->top_p = v[TOP_P].given ? (float)v[TOP_P].number : 1;
    r->top_k = v[TOP_K].given && v[TOP_K].integer > 0 ? (int32_t)v[TOP_K].integer : 0;
    r->min_p = v[MIN_P].given ? (float)v[MIN_P].number : 0;
    r->priority = (int32_t)v[PRIORITY].integer;
    r->has_seed = v[SEED].given;
    r->seed = (uint64_t)v[SEED].integer;
    r->ignore_eos = v[IGNORE_EOS].flag;
    r->include_stop = v[INCLUDE_STOP].flag;
}

static bool set_fields(const struct value v[FIELDS], const struct limits *limits, struct call *c,
                       struct problem *p)
{
    c->echo = v[ECHO].flag;
    c->stream = v[STREAM].flag;
    c->return_token_ids = v[RETURN_TOKEN_IDS].flag;
    c->add_special = !v[ADD_SPECIAL].given || v[ADD_SPECIAL].flag;
    c->no_generation_prompt = v[ADD_GENERATION_PROMPT].given && !v[ADD_GENERATION_PROMPT].flag;
    if (v[TOP_P].given && (float)v[TOP_P].number <= 0)
        return problem_param(p, "top_p",
                             "Invalid value for 'top_p': expected a number above 0, but got %.15g "
                             "instead.",
                             v[TOP_P].number);
    set_sampling(v, &c->params);
    return set_max_tokens(v, c, p) && set_choices(v, limits, c, p) && set_logprobs(v, limits, c, p);
}

/* --- stop strings, stream options, model --- */

static bool add_stop(const json_t *stop, const struct limits *limits, struct call *c,
                     struct problem *p)
{
    if (!json_is_string(stop))
        return params_wrong_type(p, "stop", "a string or an array of strings", stop);
    if (!json_string_length(stop))
        return problem_param(
            p, "stop",
            "Invalid value for 'stop': expected non-empty strings, but got an empty one.");
    if ((int64_t)json_string_length(stop) > limits->stop_bytes)
        return problem_param(p, "stop",
                             "Invalid value for 'stop': expected at most %" PRId64
                             " bytes in a string, but got %zu.",
                             limits->stop_bytes, json_string_length(stop));
    c->stops[c->n_stops].text = json_string_value(stop);
    c->stops[c->n_stops++].len = json_string_length(stop);
    return true;
}

static bool read_stops(const json_t *root, const struct limits *limits, struct call *c,
                       struct problem *p)
{
    const json_t *stop = json_object_get(root, "stop");
    size_t n;

    if (!stop || json_is_null(stop))
        return true;
    if (!json_is_array(stop))
        return add_stop(stop, limits, c, p);
    n = json_array_size(stop);
    if ((int64_t)n > limits->stops)
        return problem_param(p, "stop",
                             "Invalid value for 'stop': expected at most %" PRId64
                             " strings, but got %zu.",
                             limits->stops, n);
    for (size_t i = 0; i < n; i++)
        if (!add_stop(json_array_get(stop, i), limits, c, p))
            return false;
    return true;
}

static bool read_stop_tokens(const json_t *root, struct call *c, struct problem *p)
{
    const json_t *list = json_object_get(root, "stop_token_ids");
    int32_t *ids;
    size_t n;

    if (!list || json_is_null(list))
        return true;
    if (!json_is_array(list))
        return params_wrong_type(p, "stop_token_ids", "an array of token ids", list);
    if (json_array_size(list) > REQUEST_MAX_STOP_TOKENS)
        return problem_param(
            p, "stop_token_ids",
            "Invalid value for 'stop_token_ids': expected at most %d, but got %zu.",
            REQUEST_MAX_STOP_TOKENS, json_array_size(list));
    if (!params_ids(list, "stop_token_ids", &ids, &n, p))
        return false;
    memcpy(c->params.stop_tokens, ids, n * sizeof *ids);
    c->params.n_stop_tokens = (uint32_t)n;
    free(ids);
    return true;
}

static bool read_stream_options(const json_t *root, struct call *c, struct problem *p)
{
    const json_t *options = json_object_get(root, "stream_options");

    if (!options || json_is_null(options))
        return true;
    if (!json_is_object(options))
        return params_wrong_type(p, "stream_options", "an object", options);
    if (!c->stream)
        return problem_param(p, "stream_options",
                             "Invalid value for 'stream_options': it needs 'stream' to be true.");
    return params_bool(options, "include_usage", &c->include_usage, p);
}

bool params_bool(const json_t *object, const char *name, bool *ret, struct problem *ret_problem)
{
    const json_t *value = json_object_get(object, name);

    if (!value || json_is_null(value))
        return true;
    if (!json_is_boolean(value))
        return params_wrong_type(ret_problem, name, "a boolean", value);
    *ret = json_is_true(value);
    return true;
}

bool params_model(const json_t *object, const char **ret, struct problem *ret_problem)
{
    const json_t *value = json_object_get(object, "model");

    if (!value || json_is_null(value))
        return true;
    if (!json_is_string(value))
        return params_wrong_type(ret_problem, "model", "a string", value);
    *ret = json_string_value(value);
    return true;
}

json_t *params_object(const uint8_t *body, size_t len, unsigned max_depth,
                      struct problem *ret_problem)
{
    struct mt_err err;
    json_t *root = NULL;

    if (json_read(body, len, max_depth, &root, &err)) {
        problem_set(ret_problem, 400, NULL, "We could not parse the JSON body of your request: %s.",
                    err.text);
        return NULL;
    }
    if (json_is_object(root))
        return root;
    problem_set(ret_problem, 400, NULL, "Invalid request body: expected a JSON object, but got %s.",
                json_kind(root));
    json_decref(root);
    return NULL;
}

/* --- the whole --- */

bool call_parse(const uint8_t *body, size_t len, bool chat, const struct limits *limits,
                struct call *call, struct problem *ret_problem)
{
    struct value values[FIELDS] = {0};
    const json_t *root = call->root =
        params_object(body, len, (unsigned)limits->json_depth, ret_problem);

    call->chat = chat;
    if (!root || !params_model(root, &call->model, ret_problem))
        return false;
    if (!(chat ? params_messages : params_prompts)(root, limits, call, ret_problem))
        return false;
    return refuse_unsupported(root, ret_problem) && read_fields(root, chat, values, ret_problem) &&
           set_fields(values, limits, call, ret_problem) &&
           read_stops(root, limits, call, ret_problem) &&
           read_stop_tokens(root, call, ret_problem) &&
           read_stream_options(root, call, ret_problem);
}

void call_done(struct call *call)
{
    for (size_t i = 0; i < call->n_prompts; i++)
        free(call->prompts[i].ids);
    free(call->prompts);
    for (size_t i = 0; i < call->n_joined; i++)
        free(call->joined[i]);
    free(call->joined);
    free(call->messages);
    json_decref(call->root);
    *call = (struct call){0};
}
