#include "daemon/chat.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/file.h"
#include "daemon/chat_known.h"

#define CHAT_MAX_FILE (16u << 20)

struct chat_template {
    bool present;                   /* there is a template */
    const struct chat_known *known; /* NULL if we do not know it */
    char *bos, *eos;                /* owned; NULL if not given */
};

/* *ret is borrowed from the JSON, or NULL. */
static int find_template(const json_t *root, const char **ret, struct mt_err *reterr)
{
    const json_t *value = json_object_get(root, "chat_template"), *entry;
    const char *name;
    size_t i;

    *ret = json_string_value(value);
    if (!value || json_is_null(value) || *ret)
        return 0;
    if (!json_is_array(value))
        return mt_error(reterr, MT_EINVAL, "chat_template: expected text or a list");
    for (i = 0; i < json_array_size(value); i++) {
        entry = json_array_get(value, i);
        name = json_string_value(json_object_get(entry, "name"));
        if (!name || !json_is_string(json_object_get(entry, "template")))
            return mt_error(reterr, MT_EINVAL,
                            "chat_template[%zu]: expected \"name\" and \"template\", both text", i);
        if (!strcmp(name, "default"))
            *ret = json_string_value(json_object_get(entry, "template"));
    }
    return 0;
}

/* A special token is text, or an object with the text as "content". */
static int copy_token(const json_t *root, const char *name, char **ret, struct mt_err *reterr)
{
    const json_t *value = json_object_get(root, name);

    if (!value || json_is_null(value))
        return 0;
    if (json_is_object(value))
        value = json_object_get(value, "content");
    if (!json_is_string(value))
        return mt_error(reterr, MT_EINVAL, "%s: expected text or an object with \"content\"", name);
    *ret = strdup(json_string_value(value));
    return *ret ? 0 : mt_error(reterr, MT_ENOMEM, "out of memory");
}

/* jinja: the template if it has a file of its own, else NULL. */
static int fill(struct chat_template *c, const json_t *root, const char *jinja,
                struct mt_err *reterr)
{
    const char *text = NULL;
    int status;

    if (!json_is_object(root))
        return mt_error(reterr, MT_EINVAL, "expected an object");
    status = find_template(root, &text, reterr);
    if (!status)
        status = copy_token(root, "bos_token", &c->bos, reterr);
    if (!status)
        status = copy_token(root, "eos_token", &c->eos, reterr);
    if (status)
        return status;
    if (jinja)
        text = jinja;
    c->present = text || json_array_size(json_object_get(root, "chat_template"));
    if (text && chat_known_find(text, &c->known))
        return mt_error(reterr, MT_ENOMEM, "chat_template: out of memory");
    return 0;
}

static int parse(const char *json, size_t len, const char *name, const char *jinja,
                 struct chat_template **ret, struct mt_err *reterr)
{
    struct chat_template *c;
    json_error_t error;
    json_t *root;
    int status;

    if (len > CHAT_MAX_FILE)
        return mt_error(reterr, MT_ELIMIT, "%s: %zu bytes; expected at most %u", name, len,
                        CHAT_MAX_FILE);
    root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &error);
    if (!root) /* jansson has no words for a failed allocation */
        return mt_error(reterr, *error.text ? MT_EINVAL : MT_ENOMEM, "%s: line %d: %s", name,
                        error.line, *error.text ? error.text : "out of memory");
    c = calloc(1, sizeof(*c));
    status = c ? fill(c, root, jinja, reterr) : mt_error(reterr, MT_ENOMEM, "out of memory");
    json_decref(root);
    if (status) {
        chat_free(c);
        mt_error_prefix(reterr, "%s", name);
        return status;
    }
    *ret = c;
    return 0;
}

int chat_parse(const char *json, size_t len, const char *name, struct chat_template **ret,
               struct mt_err *reterr)
{
    return parse(json, len, name, NULL, ret, reterr);
}

/* A file that may be missing: then *ret is untouched. */
static int read_optional(const char *path, char **ret, size_t *ret_len, struct mt_err *reterr)
{
    int status = file_read(path, CHAT_MAX_FILE, ret, ret_len, reterr);

    return status == MT_ENOTFOUND ? 0 : status;
}

int chat_load(const char *path, struct chat_template **ret, struct mt_err *reterr)
{
    const char *slash = strrchr(path, '/');
    char *json = NULL, *jinja = NULL, beside[4096];
    size_t len = 0, jinja_len = 0;
    int status, n;

    n = snprintf(beside, sizeof(beside), "%.*schat_template.jinja",
                 slash ? (int)(slash - path) + 1 : 0, path);
    if (n < 0 || (size_t)n >= sizeof(beside))
        return mt_error(reterr, MT_EINVAL, "%.128s...: the path is too long", path);
    status = read_optional(path, &json, &len, reterr);
    if (!status)
        status = read_optional(beside, &jinja, &jinja_len, reterr);
    if (!status)
        status = parse(json ? json : "{}", json ? len : 2, path, jinja, ret, reterr);
    free(json);
    free(jinja);
    return status;
}

void chat_free(struct chat_template *c)
{
    if (!c)
        return;
    free(c->bos);
    free(c->eos);
    free(c);
}

const char *chat_name(const struct chat_template *c)
{
    return c->known ? c->known->name : c->present ? "unknown" : "none";
}

const char *const *chat_stops(const struct chat_template *c)
{
    static const char *const none[] = {NULL};

    return c->known ? c->known->stops : none;
}

static int check(const struct chat_template *c, size_t n, struct mt_err *reterr)
{
    if (!c->present)
        return mt_error(reterr, MT_EUNSUPPORTED, "this model has no chat template");
    if (!c->known)
        return mt_error(reterr, MT_EUNSUPPORTED,
                        "this model's chat template is not one of those that are supported");
    if ((c->known->needs_bos && !c->bos) || (c->known->needs_eos && !c->eos))
        return mt_error(reterr, MT_EUNSUPPORTED,
                        "this model's chat template uses %s, which tokenizer_config.json lacks",
                        c->known->needs_bos && !c->bos ? "bos_token" : "eos_token");
    return n ? 0 : mt_error(reterr, MT_EINVAL, "no messages; expected at least one");
}

int chat_render(const struct chat_template *c, const struct chat_message *messages, size_t n,
                bool add_generation_prompt, struct buf *out, struct mt_err *reterr)
{
    struct chat_tokens tokens = {c->bos ? c->bos : "", c->eos ? c->eos : ""};
    int status = check(c, n, reterr);

    if (!status)
        status =
            c->known->write(c->known, &tokens, messages, n, add_generation_prompt, out, reterr);
    if (out->status)
        return mt_error(reterr, out->status, "the rendered chat: %s; at most %zu bytes",
                        mt_status_name(out->status), out->cap);
    return status;
}
