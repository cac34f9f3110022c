/* The vocabulary: tokens as bytes, and a hash from bytes to ids. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/tokenizer_private.h"
#include "daemon/utf8.h"

/* GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and up, in
 * order. */
static void alphabet_init(int16_t byte_of[TOKENIZER_ALPHABET])
{
    unsigned byte, other = 0x100;

    for (byte = 0; byte < TOKENIZER_ALPHABET; byte++)
        byte_of[byte] = -1;
    for (byte = 0; byte < 256; byte++) {
        bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);

        byte_of[printable ? byte : other++] = (int16_t)byte;
    }
}

/* The arena is as large as the file, which holds every token at least once. */
int vocab_store(struct tokenizer *t, const char *text, size_t n, struct token *token)
{
    const uint8_t *p = (const uint8_t *)text;
    uint8_t *out = t->bytes + t->bytes_len;
    size_t i = 0, len = 0;
    uint32_t cp;
    int step;

    if (n > t->bytes_alloc - t->bytes_len)
        return MT_EINTERNAL;
    token->at = (uint32_t)t->bytes_len;
    token->flags |= TOKEN_EXISTS | TOKEN_BYTE_LEVEL;
    for (; i < n; i += (size_t)step) {
        step = utf8_next(p + i, n - i, &cp);
        if (step <= 0)
            return MT_EINVAL;
        if (cp >= TOKENIZER_ALPHABET || t->byte_of[cp] < 0) {
            token->flags &= (uint8_t)~TOKEN_BYTE_LEVEL;
            memcpy(out, text, n);
            len = n;
            break;
        }
        out[len++] = (uint8_t)t->byte_of[cp];
    }
    token->len = (uint32_t)len;
    t->bytes_len += len;
    return 0;
}

size_t vocab_slots(size_t n)
{
    size_t slots = 16;

    while (slots < 2 * n)
        slots *= 2;
    return slots;
}

static size_t bytes_slot(const struct tokenizer *t, const uint8_t *bytes, size_t n)
{
    size_t slot = XXH3_64bits(bytes, n) & t->by_bytes_mask;

    while (t->by_bytes[slot]) {
        const struct token *token = &t->tokens[t->by_bytes[slot] - 1];

        if (token->len == n && !memcmp(t->bytes + token->at, bytes, n))
            break;
        slot = (slot + 1) & t->by_bytes_mask;
    }
    return slot;
}

int32_t vocab_find(const struct tokenizer *t, const uint8_t *bytes, size_t n)
{
    return (int32_t)t->by_bytes[bytes_slot(t, bytes, n)] - 1;
}

/* The largest id of the vocabulary and the added tokens, so that the table can be made at once. */
static int vocab_extent(const json_t *object, int64_t *ret_max, struct mt_err *reterr)
{
    const char *key;
    json_t *value;
    json_int_t id;

    json_object_foreach((json_t *)object, key, value) {
        id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= (json_int_t)TOKENIZER_MAX_VOCAB)
            return mt_error(reterr, MT_EINVAL,
                            "model.vocab: id of \"%.64s\": expected an integer 0 .. %u", key,
                            TOKENIZER_MAX_VOCAB - 1);
        if (id > *ret_max)
            *ret_max = id;
    }
    return 0;
}

static int vocab_index(struct tokenizer *t, size_t n, struct mt_err *reterr)
{
    size_t slots = vocab_slots(n);
    uint32_t id;

    t->by_bytes = calloc(slots, sizeof(*t->by_bytes));
    if (!t->by_bytes)
        return mt_error(reterr, MT_ENOMEM, "out of memory for the hash of %zu tokens", n);
    t->by_bytes_mask = slots - 1;
    for (id = 0; id < t->vocab; id++) {
        const struct token *token = &t->tokens[id];

        if (!(token->flags & TOKEN_BYTE_LEVEL))
            continue;
        t->by_bytes[bytes_slot(t, t->bytes + token->at, token->len)] = id + 1;
        if (token->len > t->longest)
            t->longest = token->len;
    }
    return 0;
}

/* Every byte that valid UTF-8 can hold must be a token, so that nothing is ever unknown. */
static int vocab_index_single(struct tokenizer *t, struct mt_err *reterr)
{
    unsigned i;

    for (i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;

        t->byte_id[i] = vocab_find(t, &byte, 1);
        if (t->byte_id[i] < 0 && i != 0xc0 && i != 0xc1 && i < 0xf5)
            return mt_error(reterr, MT_EUNSUPPORTED,
                            "model.vocab: no token for the byte 0x%02x: not a byte-level BPE", i);
    }
    return 0;
}

static int vocab_fill(struct tokenizer *t, const json_t *vocab, struct mt_err *reterr)
{
    struct token *token;
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)vocab, key, value) {
        token = &t->tokens[json_integer_value(value)];
        if (token->flags)
            return mt_error(reterr, MT_EINVAL,
                            "model.vocab: id %d is given twice, the second time to \"%.64s\"",
                            (int)json_integer_value(value), key);
        if (vocab_store(t, key, strlen(key), token))
            return mt_error(reterr, MT_EINVAL, "model.vocab: \"%.64s\" is not text", key);
    }
    return 0;
}

int vocab_load(struct tokenizer *t, const json_t *model, size_t file_len, struct mt_err *reterr)
{
    const json_t *vocab = json_object_get(model, "vocab");
    int64_t max = -1;

    if (!json_is_object(vocab))
        return mt_error(reterr, MT_EINVAL, "model.vocab: expected an object of token to id");
    if (vocab_extent(vocab, &max, reterr))
        return MT_EINVAL;
    if (max < 0)
        return mt_error(reterr, MT_EINVAL, "model.vocab: expected tokens, found none");
    /* Added tokens follow the vocabulary; added_load() checks that they do, and makes room. */
    t->vocab = (uint32_t)max + 1;
    t->tokens = calloc(t->vocab, sizeof(*t->tokens));
    t->bytes = malloc(file_len + 1);
    if (!t->tokens || !t->bytes)
        return mt_error(reterr, MT_ENOMEM, "out of memory for %u tokens", t->vocab);
    t->bytes_alloc = file_len + 1;
    alphabet_init(t->byte_of);
    if (vocab_fill(t, vocab, reterr))
        return MT_EINVAL;
    if (vocab_index(t, json_object_size(vocab), reterr))
        return MT_ENOMEM;
    return vocab_index_single(t, reterr);
}
