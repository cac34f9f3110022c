/* Loading, and what can be asked of a token. The order of work is the `tokenizers` package's: added
 * tokens are taken out of the text, what is between them is normalised, added tokens that match
 * normalised text are taken out, the rest is split into pieces, and each piece is merged
 * (tokenizer_encode.c). */
#include "daemon/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "api/file.h"
#include "daemon/tokenizer_private.h"

static int refuse_set(const json_t *model, const char *name, struct mt_err *reterr)
{
    const json_t *value = json_object_get(model, name);
    bool unset = !value || json_is_null(value) || json_is_false(value) ||
                 (json_is_string(value) && !json_string_length(value)) ||
                 (json_is_number(value) && json_number_value(value) == 0);

    return unset ? 0 : mt_error(reterr, MT_EUNSUPPORTED, "model.%s is not supported", name);
}

/* unk_token and fuse_unk are passed over: vocab_load() makes sure that no byte is unknown. */
static int model_load(struct tokenizer *t, const json_t *model, size_t file_len,
                      struct mt_err *reterr)
{
    static const char *const refused[] = {"byte_fallback", "continuing_subword_prefix",
                                          "end_of_word_suffix", "dropout"};
    const char *type = json_string_value(json_object_get(model, "type"));
    size_t i;
    int status;

    if (!json_is_object(model))
        return mt_error(reterr, MT_EINVAL, "model: expected an object");
    if (type && strcmp(type, "BPE"))
        return mt_error(reterr, MT_EUNSUPPORTED,
                        "model: type \"%.64s\" is not supported; expected BPE", type);
    for (i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
        if (refuse_set(model, refused[i], reterr))
            return MT_EUNSUPPORTED;
    t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    status = vocab_load(t, model, file_len, reterr);
    return status ? status : merges_load(t, model, reterr);
}

static int root_load(struct tokenizer *t, const json_t *root, size_t file_len,
                     struct mt_err *reterr)
{
    const json_t *model = json_object_get(root, "model"),
                 *added = json_object_get(root, "added_tokens");
    int status;

    if (!json_is_object(root))
        return mt_error(reterr, MT_EINVAL, "expected an object");
    status = model_load(t, model, file_len, reterr);
    if (!status)
        status = added_load(t, added, model, reterr);
    if (!status)
        status = pipeline_load(t, root, reterr);
    return status ? status : added_check_normal(t, reterr);
}

int tokenizer_parse(const char *json, size_t len, const char *name, struct tokenizer **ret,
                    struct mt_err *reterr)
{
    struct tokenizer *t;
    json_error_t error;
    json_t *root;
    int status;

    if (len > TOKENIZER_MAX_FILE)
        return mt_error(reterr, MT_ELIMIT, "%s: %zu bytes; expected at most %u", name, len,
                        TOKENIZER_MAX_FILE);
    root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &error);
    if (!root) /* jansson has no words for a failed allocation */
        return mt_error(reterr, *error.text ? MT_EINVAL : MT_ENOMEM, "%s: line %d: %s", name,
                        error.line, *error.text ? error.text : "out of memory");
    t = calloc(1, sizeof(*t));
    if (t)
        status = root_load(t, root, len, reterr);
    else
        status = mt_error(reterr, MT_ENOMEM, "out of memory");
    json_decref(root);
    if (status) {
        tokenizer_free(t);
        mt_error_prefix(reterr, "%s", name);
        return status;
    }
    *ret = t;
    return 0;
}

int tokenizer_load(const char *path, struct tokenizer **ret, struct mt_err *reterr)
{
    char *text;
    size_t len;
    int status = file_read(path, TOKENIZER_MAX_FILE, &text, &len, reterr);

    if (status)
        return status;
    status = tokenizer_parse(text, len, path, ret, reterr);
    free(text);
    return status;
}

void tokenizer_free(struct tokenizer *t)
{
    size_t i;

    if (!t)
        return;
    for (i = 0; i < t->n_added; i++)
        free(t->added[i].content);
    for (i = 0; i < t->n_splits; i++)
        split_free(t->splits[i]);
    free(t->added);
    free(t->raw.nodes);
    free(t->normalized.nodes);
    free(t->merges);
    free(t->merged);
    free(t->by_bytes);
    free(t->tokens);
    free(t->bytes);
    free(t);
}

uint32_t tokenizer_vocab(const struct tokenizer *t)
{
    return t->vocab;
}

const uint8_t *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *ret_len)
{
    if (id < 0 || (uint32_t)id >= t->vocab || !(t->tokens[id].flags & TOKEN_EXISTS))
        return NULL;
    *ret_len = t->tokens[id].len;
    return t->bytes + t->tokens[id].at;
}

bool tokenizer_special(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->vocab && t->tokens[id].flags & TOKEN_SPECIAL;
}

int32_t tokenizer_id(const struct tokenizer *t, const char *token)
{
    size_t i;

    for (i = 0; i < t->n_added; i++)
        if (!strcmp(t->added[i].content, token))
            return t->added[i].id;
    return -1;
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                     struct buf *out, struct mt_err *reterr)
{
    struct detok detok = {0};
    const uint8_t *bytes;
    size_t i, len;

    for (i = 0; i < n; i++) {
        bytes = tokenizer_bytes(t, ids[i], &len);
        if (!bytes)
            return mt_error(reterr, MT_EINVAL, "token %zu: no token has the id %d; ids are 0 .. %u",
                            i, (int)ids[i], t->vocab - 1);
        if (!skip_special || !tokenizer_special(t, ids[i]))
            detok_push(&detok, bytes, len, out);
    }
    if (detok_flush(&detok, out))
        return mt_error(reterr, out->status, "the decoded text is larger than %zu bytes", out->cap);
    return 0;
}
