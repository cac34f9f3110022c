/* Text to ids. An encode call owns a struct encode; the tokenizer is only read. */
#include <stdlib.h>
#include <string.h>

#include "daemon/tokenizer_private.h"
#include "daemon/utf8.h"

struct encode {
    const struct tokenizer *t;
    bool parse_special;
    struct bpe bpe;
    struct ids ids;
    struct split_scratch scratch;
    struct mt_err *err;
};

/* Text, and the same with stand-ins, which patterns see that look at kinds of characters. */
struct stretch {
    const uint8_t *text, *shown;
    size_t n;
};

int ids_too_many(const struct ids *ids, struct mt_err *reterr)
{
    return mt_error(reterr, MT_ELIMIT, "the text has more than %zu tokens", ids->max);
}

int ids_push(struct ids *ids, int32_t id, struct mt_err *reterr)
{
    size_t alloc = ids->alloc ? 2 * ids->alloc : 64;
    int32_t *data;

    if (ids->n == ids->max)
        return ids_too_many(ids, reterr);
    if (ids->n == ids->alloc) {
        data = realloc(ids->data, alloc * sizeof(*data));
        if (!data)
            return mt_error(reterr, MT_ENOMEM, "out of memory for %zu tokens", alloc);
        ids->data = data;
        ids->alloc = alloc;
    }
    ids->data[ids->n++] = id;
    return 0;
}

static int encode_level(struct encode *e, unsigned level, struct stretch s);

static int encode_part(struct encode *e, unsigned level, struct stretch s, size_t from, size_t to)
{
    return encode_level(e, level, (struct stretch){s.text + from, s.shown + from, to - from});
}

/* Splits by pattern `level` and hands every part, matched or between matches, to the next one. */
static int encode_level(struct encode *e, unsigned level, struct stretch s)
{
    const struct split *split;
    const uint8_t *subject;
    size_t at = 0, done = 0, end = 0;
    int rc;

    if (level == e->t->n_splits)
        return bpe_encode(e->t, &e->bpe, s.text, s.n, &e->ids, e->err);
    split = e->t->splits[level];
    subject = split_sees_classes(split) ? s.shown : s.text;
    while (at < s.n) {
        rc = split_match(split, &e->scratch, subject, s.n, at, &end, e->err);
        if (rc < 0)
            return rc;
        if (rc == 0) {
            at += utf8_len(s.text[at]);
            continue;
        }
        rc = done < at ? encode_part(e, level + 1, s, done, at) : 0;
        if (!rc)
            rc = encode_part(e, level + 1, s, at, end);
        if (rc)
            return rc;
        at = done = end;
    }
    return done < s.n ? encode_part(e, level + 1, s, done, s.n) : 0;
}

/* Text without added tokens, normalised. */
static int encode_plain(struct encode *e, const uint8_t *text, size_t n)
{
    uint8_t *prefixed = NULL, *shown = NULL;
    int status;

    if (e->t->prefix_space && text[0] != ' ') {
        prefixed = malloc(n + 1);
        if (!prefixed)
            return mt_error(e->err, MT_ENOMEM, "out of memory for %zu bytes of text", n);
        prefixed[0] = ' ';
        memcpy(prefixed + 1, text, n++);
        text = prefixed;
    }
    status = split_stand_ins(text, n, &shown, e->err);
    if (!status)
        status = encode_level(e, 0, (struct stretch){text, shown ? shown : text, n});
    free(shown);
    free(prefixed);
    return status;
}

/* Takes the tokens of a trie out of the text, leftmost first and of those the longest, and gives
 * what is between to `plain`. A special token that is not to be parsed stays text, but hides what
 * it overlaps, as in the `tokenizers` package. */
static int encode_added(struct encode *e, const struct trie *trie, const uint8_t *text, size_t n,
                        int (*plain)(struct encode *, const uint8_t *, size_t))
{
    size_t at = 0, done = 0, start, end, len = 0;
    const struct token *token;
    int32_t id;
    int status;

    while (at < n) {
        id = trie_match(trie, text + at, n - at, &len);
        if (id < 0) {
            at++;
            continue;
        }
        token = &e->t->tokens[id];
        start = at;
        end = at += len;
        if (token->flags & TOKEN_SPECIAL && !e->parse_special)
            continue;
        if (token->flags & TOKEN_LSTRIP)
            start -= space_suffix(text + done, start - done);
        if (token->flags & TOKEN_RSTRIP)
            end += space_prefix(text + end, n - end);
        status = done < start ? plain(e, text + done, start - done) : 0;
        if (!status)
            status = ids_push(&e->ids, id, e->err);
        if (status)
            return status;
        at = done = end;
    }
    return done < n ? plain(e, text + done, n - done) : 0;
}

static int encode_normal(struct encode *e, const uint8_t *text, size_t n)
{
    return encode_added(e, &e->t->normalized, text, n, encode_plain);
}

static int encode_raw(struct encode *e, const uint8_t *text, size_t n)
{
    struct buf normal;
    int status;

    if (!e->t->nfc || !nfc_needed(text, n))
        return encode_normal(e, text, n);
    buf_init(&normal, (size_t)TOKENIZER_MAX_NORMAL);
    status = nfc_normalise(text, n, &normal, e->err);
    if (!status)
        status = encode_normal(e, normal.data, normal.len);
    buf_done(&normal);
    return status;
}

static int push_all(struct encode *e, const int32_t *ids, unsigned n)
{
    int status = 0;
    unsigned i;

    for (i = 0; i < n && !status; i++)
        status = ids_push(&e->ids, ids[i], e->err);
    return status;
}

static int encode_all(struct encode *e, const uint8_t *text, size_t n, bool add_special)
{
    int status = add_special ? push_all(e, e->t->prefix, e->t->n_prefix) : 0;

    if (!status && n)
        status = encode_added(e, &e->t->raw, text, n, encode_raw);
    if (!status && add_special)
        status = push_all(e, e->t->suffix, e->t->n_suffix);
    return status;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                     size_t max_ids, int32_t **ret_ids, size_t *ret_n, struct mt_err *reterr)
{
    struct encode e = {.t = t,
                       .parse_special = flags & TOKENIZER_PARSE_SPECIAL,
                       .ids.max = max_ids,
                       .err = reterr};
    const uint8_t *bytes = (const uint8_t *)text;
    size_t bad;
    int status;

    if (len > TOKENIZER_MAX_INPUT)
        return mt_error(reterr, MT_ELIMIT, "%zu bytes of text; expected at most %u", len,
                        TOKENIZER_MAX_INPUT);
    bad = utf8_check(bytes, len);
    if (bad < len)
        return mt_error(reterr, MT_EINVAL, "the text is not UTF-8: byte 0x%02x at offset %zu",
                        bytes[bad], bad);
    status = split_scratch_init(&e.scratch, len, reterr);
    if (status)
        return status;
    status = encode_all(&e, bytes, len, flags & TOKENIZER_ADD_SPECIAL);
    split_scratch_done(&e.scratch);
    bpe_done(&e.bpe);
    if (!status && !e.ids.data) {
        e.ids.data = malloc(
            sizeof(*e.ids.data)); /* so that the caller has something to free even for no token */
        if (!e.ids.data)
            status = mt_error(reterr, MT_ENOMEM, "out of memory");
    }
    if (status) {
        free(e.ids.data);
        return status;
    }
    *ret_ids = e.ids.data;
    *ret_n = e.ids.n;
    return 0;
}
