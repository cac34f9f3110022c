/* What the model is to read: the prompts of a completions call, the messages of a chat call. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/json.h"
#include "daemon/params_impl.h"

static const char PROMPT_FORMS[] =
    "a string, an array of strings, an array of token ids, or an array of arrays of token ids";

static bool out_of_memory(struct problem *p)
{
    return problem_memory(p);
}

bool params_ids(const json_t *array, const char *name, int32_t **ret_ids, size_t *ret_n,
                struct problem *ret_problem)
{
    size_t n = json_array_size(array);
    int32_t *ids = malloc((n ? n : 1) * sizeof *ids);

    if (!ids)
        return out_of_memory(ret_problem);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(array, i);
        json_int_t value = json_integer_value(id);

        if (json_is_integer(id) && value >= 0 && value <= INT32_MAX) {
            ids[i] = (int32_t)value;
            continue;
        }
        free(ids);
        if (!json_is_integer(id))
            return params_wrong_type(ret_problem, name, "token ids (integers)", id);
        return problem_param(
            ret_problem, name,
            "Invalid value for '%s': expected token ids, but got %" JSON_INTEGER_FORMAT ".", name,
            value);
    }
    *ret_ids = ids;
    *ret_n = n;
    return true;
}

static bool add_prompt(const json_t *value, struct call *c, struct problem *p)
{
    struct prompt *prompt = &c->prompts[c->n_prompts];

    if (json_is_string(value)) {
        prompt->text = json_string_value(value);
        prompt->len = json_string_length(value);
    } else if (!json_is_array(value)) {
        return params_wrong_type(p, "prompt", PROMPT_FORMS, value);
    } else if (!params_ids(value, "prompt", &prompt->ids, &prompt->n_ids, p)) {
        return false;
    }
    c->n_prompts++;
    return true;
}

bool params_prompts(const json_t *root, const struct limits *limits, struct call *c,
                    struct problem *p)
{
    const json_t *value = json_object_get(root, "prompt");
    bool one = json_is_string(value) || json_is_integer(json_array_get(value, 0));
    size_t n = one ? 1 : json_array_size(value);
    json_type kind;

    if (!value || json_is_null(value))
        return problem_param(p, "prompt", "Missing required parameter: 'prompt'.");
    if (!json_is_string(value) && !json_is_array(value))
        return params_wrong_type(p, "prompt", PROMPT_FORMS, value);
    if (!n)
        return problem_param(
            p, "prompt",
            "Invalid value for 'prompt': expected at least one, but got an empty array.");
    if ((int64_t)n > limits->prompts)
        return problem_param(p, "prompt",
                             "Invalid value for 'prompt': expected at most %" PRId64
                             " prompts, but got %zu.",
                             limits->prompts, n);
    c->prompts = calloc(n, sizeof *c->prompts);
    if (!c->prompts)
        return out_of_memory(p);
    if (one)
        return add_prompt(value, c, p);
    kind = json_typeof(json_array_get(value, 0));
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(value, i);

        if (json_typeof(item) != kind)
            return problem_param(
                p, "prompt",
                "Invalid type for 'prompt': expected elements of one type, but got %s "
                "first and %s at index %zu.",
                json_kind(json_array_get(value, 0)), json_kind(item), i);
        if (!add_prompt(item, c, p))
            return false;
    }
    return true;
}

/* Text parts make one text, a line each, as other servers join them. */
static bool join_parts(const json_t *parts, struct call *c, const char **ret, struct problem *p)
{
    struct buf text;
    char *joined;

    buf_init(&text, SIZE_MAX / 4);
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *piece = json_object_get(part, "text");

        if (!json_is_string(piece) || (type && strcmp(type, "text") != 0)) {
            buf_done(&text);
            return problem_param(
                p, "messages",
                "Invalid value for 'messages': only content parts of type 'text', with a string "
                "'text', are supported by this server.");
        }
        if (i)
            buf_puts(&text, "\n");
        buf_puts(&text, json_string_value(piece));
    }
    joined = buf_steal(&text);
    if (!joined)
        return out_of_memory(p);
    c->joined[c->n_joined++] = joined;
    *ret = joined;
    return true;
}

static bool add_message(const json_t *message, struct call *c, struct problem *p)
{
    struct chat_message *m = &c->messages[c->n_messages];
    const json_t *role = json_object_get(message, "role");
    const json_t *content = json_object_get(message, "content");
    const json_t *tools = json_object_get(message, "tool_calls");

    if (!json_is_object(message))
        return params_wrong_type(p, "messages", "an array of objects", message);
    if (!json_is_string(role))
        return params_wrong_type(p, "messages", "a string as the 'role' of each message", role);
    if (json_array_size(tools))
        return problem_param(p, "messages", "Unsupported: 'tool_calls' in a message.");
    m->role = json_string_value(role);
    if (json_is_string(content))
        m->content = json_string_value(content);
    else if (json_is_null(content) && !strcmp(m->role, "assistant"))
        m->content = "";
    else if (!json_is_array(content))
        return params_wrong_type(p, "messages",
                                 "a string or an array of parts as the 'content' of each message",
                                 content);
    else if (!join_parts(content, c, &m->content, p))
        return false;
    c->n_messages++;
    return true;
}

bool params_messages(const json_t *root, const struct limits *limits, struct call *c,
                     struct problem *p)
{
    const json_t *value = json_object_get(root, "messages");
    size_t n = json_array_size(value);

    if (!value || json_is_null(value))
        return problem_param(p, "messages", "Missing required parameter: 'messages'.");
    if (!json_is_array(value))
        return params_wrong_type(p, "messages", "an array of objects", value);
    if (!n)
        return problem_param(p, "messages",
                             "Invalid value for 'messages': expected at least one, but got none.");
    if ((int64_t)n > limits->messages)
        return problem_param(p, "messages",
                             "Invalid value for 'messages': expected at most %" PRId64
                             ", but got %zu.",
                             limits->messages, n);
    c->messages = calloc(n, sizeof *c->messages);
    c->joined = calloc(n, sizeof *c->joined);
    if (!c->messages || !c->joined)
        return out_of_memory(p);
    c->n_prompts = 0;
    for (size_t i = 0; i < n; i++)
        if (!add_message(json_array_get(value, i), c, p))
            return false;
    return true;
}
