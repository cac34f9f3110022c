/* Added tokens: what the file says of them, and finding them in text. */
#include <stdlib.h>
#include <string.h>

#include "daemon/tokenizer_private.h"
#include "daemon/utf8.h"

static int32_t trie_node(struct trie *trie, uint8_t byte)
{
    struct trie_node *nodes;
    uint32_t alloc;

    if (trie->n == trie->alloc) {
        alloc = trie->alloc ? 2 * trie->alloc : 256;
        nodes = realloc(trie->nodes, alloc * sizeof(*nodes));
        if (!nodes)
            return -1;
        trie->nodes = nodes;
        trie->alloc = alloc;
    }
    trie->nodes[trie->n] = (struct trie_node){.byte = byte, .id = -1};
    return (int32_t)trie->n++;
}

static uint32_t trie_child(const struct trie *trie, uint32_t node, uint8_t byte)
{
    uint32_t child = trie->nodes[node].child;

    while (child && trie->nodes[child].byte != byte)
        child = trie->nodes[child].sibling;
    return child;
}

/* At most TOKENIZER_MAX_ADDED tokens of TOKENIZER_MAX_ADDED_LEN bytes: node numbers fit. */
static int trie_add(struct trie *trie, const char *content, int32_t id)
{
    const uint8_t *p = (const uint8_t *)content;
    uint32_t node = 0, child;
    int32_t fresh;

    if (!trie->n && trie_node(trie, 0) < 0)
        return MT_ENOMEM;
    trie->first[*p] = true;
    for (; *p; p++, node = child) {
        child = trie_child(trie, node, *p);
        if (child)
            continue;
        fresh = trie_node(trie, *p);
        if (fresh < 0)
            return MT_ENOMEM;
        child = (uint32_t)fresh;
        trie->nodes[child].sibling = trie->nodes[node].child;
        trie->nodes[node].child = child;
    }
    trie->nodes[node].id = id;
    return 0;
}

int32_t trie_match(const struct trie *trie, const uint8_t *text, size_t n, size_t *ret_len)
{
    uint32_t node = 0;
    int32_t id = -1;
    size_t i = 0;

    if (!n || !trie->first[text[0]])
        return -1;
    while (i < n && (node = trie_child(trie, node, text[i])) != 0) {
        i++;
        if (trie->nodes[node].id >= 0) {
            id = trie->nodes[node].id;
            *ret_len = i;
        }
    }
    return id;
}

struct added_spec {
    const char *content;
    size_t len;
    int64_t id;
    bool special, lstrip, rstrip, normalized;
};

static int added_flag(const json_t *entry, const char *name, bool *ret, const char *content,
                      struct mt_err *reterr)
{
    const json_t *value = json_object_get(entry, name);

    if (value && !json_is_boolean(value))
        return mt_error(reterr, MT_EINVAL, "added_tokens: \"%.64s\": %s: expected true or false",
                        content, name);
    *ret = json_is_true(value);
    return 0;
}

static int added_read(const json_t *entry, struct added_spec *ret, struct mt_err *reterr)
{
    const json_t *content = json_object_get(entry, "content"), *id = json_object_get(entry, "id");
    bool single_word = false;

    if (!json_is_string(content) || !json_is_integer(id))
        return mt_error(
            reterr, MT_EINVAL,
            "added_tokens: expected objects with \"content\" (text) and \"id\" (integer)");
    *ret = (struct added_spec){.content = json_string_value(content),
                               .len = json_string_length(content),
                               .id = json_integer_value(id)};
    if (ret->len == 0 || ret->len > TOKENIZER_MAX_ADDED_LEN)
        return mt_error(reterr, MT_EUNSUPPORTED,
                        "added_tokens: id %lld: content of %zu bytes; expected 1 .. %u",
                        (long long)ret->id, ret->len, TOKENIZER_MAX_ADDED_LEN);
    if (ret->id < 0 || ret->id >= (int64_t)TOKENIZER_MAX_VOCAB)
        return mt_error(reterr, MT_EINVAL, "added_tokens: \"%.64s\": id %lld; expected 0 .. %u",
                        ret->content, (long long)ret->id, TOKENIZER_MAX_VOCAB - 1);
    if (added_flag(entry, "special", &ret->special, ret->content, reterr) ||
        added_flag(entry, "lstrip", &ret->lstrip, ret->content, reterr) ||
        added_flag(entry, "rstrip", &ret->rstrip, ret->content, reterr) ||
        added_flag(entry, "normalized", &ret->normalized, ret->content, reterr) ||
        added_flag(entry, "single_word", &single_word, ret->content, reterr))
        return MT_EINVAL;
    if (single_word)
        return mt_error(reterr, MT_EUNSUPPORTED,
                        "added_tokens: \"%.64s\": single_word is not supported", ret->content);
    return 0;
}

static int added_grow(struct tokenizer *t, uint32_t vocab, struct mt_err *reterr)
{
    struct token *tokens;

    if (vocab <= t->vocab)
        return 0;
    tokens = realloc(t->tokens, vocab * sizeof(*tokens));
    if (!tokens)
        return mt_error(reterr, MT_ENOMEM, "out of memory for %u tokens", vocab);
    memset(tokens + t->vocab, 0, (vocab - t->vocab) * sizeof(*tokens));
    t->tokens = tokens;
    t->vocab = vocab;
    return 0;
}

static bool added_known(const struct tokenizer *t, const struct added_spec *spec)
{
    const uint8_t *text = (const uint8_t *)spec->content;
    size_t len = 0;

    return (trie_match(&t->raw, text, spec->len, &len) >= 0 && len == spec->len) ||
           (trie_match(&t->normalized, text, spec->len, &len) >= 0 && len == spec->len);
}

/* *next is the id that the `tokenizers` package would give to a token that the vocabulary has not.
 * A file that says otherwise would be read differently by it, so it is refused. */
static int added_one(struct tokenizer *t, const struct added_spec *spec, const json_t *vocab,
                     int64_t *next, struct mt_err *reterr)
{
    const json_t *known = json_object_get(vocab, spec->content);
    int64_t id = known ? json_integer_value(known) : (*next)++;
    struct token *token;

    if (added_known(t, spec))
        return mt_error(reterr, MT_EINVAL, "added_tokens: \"%.64s\" is given twice", spec->content);
    if (id != spec->id)
        return mt_error(
            reterr, MT_EUNSUPPORTED, "added_tokens: \"%.64s\": id %lld; expected %lld, %s",
            spec->content, (long long)spec->id, (long long)id,
            known ? "which the vocabulary gives it" : "the next one after the vocabulary");
    if (added_grow(t, (uint32_t)id + 1, reterr))
        return MT_ENOMEM;
    token = &t->tokens[id];
    if (!known && token->flags)
        return mt_error(reterr, MT_EINVAL, "added_tokens: \"%.64s\": id %lld is taken",
                        spec->content, (long long)id);
    if (!known && vocab_store(t, spec->content, spec->len, token))
        return mt_error(reterr, MT_EINVAL, "added_tokens: \"%.64s\" is not text", spec->content);
    token->flags |= (spec->special ? TOKEN_SPECIAL : 0) | (spec->lstrip ? TOKEN_LSTRIP : 0) |
                    (spec->rstrip ? TOKEN_RSTRIP : 0);
    t->added[t->n_added].id = (int32_t)id;
    t->added[t->n_added].content = strdup(spec->content);
    if (!t->added[t->n_added++].content ||
        trie_add(spec->normalized ? &t->normalized : &t->raw, spec->content, (int32_t)id))
        return mt_error(reterr, MT_ENOMEM, "out of memory for the added tokens");
    return 0;
}

int added_load(struct tokenizer *t, const json_t *added, const json_t *model, struct mt_err *reterr)
{
    const json_t *vocab = json_object_get(model, "vocab");
    int64_t next = (int64_t)json_object_size(vocab);
    bool rstrip = false, spaced = false;
    struct added_spec spec = {.content = ""};
    size_t i, n = json_array_size(added);
    int status;

    if (!added || json_is_null(added))
        return 0;
    if (!json_is_array(added) || n > TOKENIZER_MAX_ADDED)
        return mt_error(reterr, MT_EINVAL, "added_tokens: expected a list of at most %u",
                        TOKENIZER_MAX_ADDED);
    t->added = calloc(n + 1, sizeof(*t->added));
    if (!t->added)
        return mt_error(reterr, MT_ENOMEM, "out of memory for %zu added tokens", n);
    for (i = 0; i < n; i++) {
        status = added_read(json_array_get(added, i), &spec, reterr);
        if (!status)
            status = added_one(t, &spec, vocab, &next, reterr);
        if (status)
            return status;
        rstrip |= spec.rstrip;
        spaced |= space_prefix((const uint8_t *)spec.content, spec.len) > 0;
    }
    if (rstrip && spaced)
        return mt_error(
            reterr, MT_EUNSUPPORTED,
            "added_tokens: one with rstrip beside one that begins with a space is not supported");
    return 0;
}

/* Normalised text is searched for these tokens as written, which must therefore be normal. */
int added_check_normal(const struct tokenizer *t, struct mt_err *reterr)
{
    struct buf normal;
    int status = 0;
    size_t i, len;

    buf_init(&normal, 4 * (size_t)TOKENIZER_MAX_ADDED_LEN);
    for (i = 0; t->nfc && i < t->n_added && !status; i++) {
        len = strlen(t->added[i].content);
        buf_reset(&normal);
        status = nfc_normalise((const uint8_t *)t->added[i].content, len, &normal, reterr);
        if (!status && (normal.len != len || memcmp(normal.data, t->added[i].content, len)))
            status =
                mt_error(reterr, MT_EUNSUPPORTED, "added_tokens: \"%.64s\" is not in normal form C",
                         t->added[i].content);
    }
    buf_done(&normal);
    return status;
}

/* White_Space of Unicode. */
static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

size_t space_prefix(const uint8_t *text, size_t n)
{
    size_t i = 0;
    uint32_t cp;
    int len;

    while (i < n && (len = utf8_next(text + i, n - i, &cp)) > 0 && is_space(cp))
        i += (size_t)len;
    return i;
}

size_t space_suffix(const uint8_t *text, size_t n)
{
    size_t end = n, start;
    uint32_t cp;

    while (end) {
        for (start = end - 1; start && (text[start] & 0xc0) == 0x80; start--)
            ;
        if (utf8_next(text + start, end - start, &cp) <= 0 || !is_space(cp))
            break;
        end = start;
    }
    return n - end;
}
