/* The merges: a hash from a pair of ids to its rank and what it becomes. */
#include <stdlib.h>
#include <string.h>

#include "daemon/tokenizer_private.h"

static size_t pair_slot(const struct tokenizer *t, uint64_t pair)
{
    uint64_t h = pair * 0x9e3779b97f4a7c15u;
    size_t slot = (h ^ h >> 32) & t->merges_mask;

    while (t->merges[slot].id >= 0 && t->merges[slot].pair != pair)
        slot = (slot + 1) & t->merges_mask;
    return slot;
}

const struct merge *merges_find(const struct tokenizer *t, int32_t left, int32_t right)
{
    const struct merge *m =
        &t->merges[pair_slot(t, (uint64_t)(uint32_t)left << 32 | (uint32_t)right)];

    return m->id < 0 ? NULL : m;
}

struct side {
    const char *text;
    size_t len;
};

/* "a b" (one space, in neither side) or ["a", "b"]. */
static int merge_sides(const json_t *entry, size_t rank, struct side *left, struct side *right,
                       struct mt_err *reterr)
{
    const json_t *a = json_array_get(entry, 0), *b = json_array_get(entry, 1);
    const char *text, *space;
    size_t len;

    if (json_array_size(entry) == 2 && json_is_string(a) && json_is_string(b)) {
        *left = (struct side){json_string_value(a), json_string_length(a)};
        *right = (struct side){json_string_value(b), json_string_length(b)};
        return 0;
    }
    if (json_is_string(entry)) {
        text = json_string_value(entry);
        len = json_string_length(entry);
        space = memchr(text, ' ', len);
        if (space && !memchr(space + 1, ' ', len - (size_t)(space + 1 - text))) {
            *left = (struct side){text, (size_t)(space - text)};
            *right = (struct side){space + 1, len - (size_t)(space + 1 - text)};
            return 0;
        }
    }
    return mt_error(reterr, MT_EINVAL, "model.merges[%zu]: expected \"a b\" or [\"a\", \"b\"]",
                    rank);
}

/* The id of a side as a vocabulary key; only byte-level tokens can ever be merged. */
static int side_id(const struct tokenizer *t, const json_t *vocab, const char *text, size_t len,
                   int32_t *ret)
{
    const json_t *id = json_object_getn(vocab, text, len);

    if (!id)
        return MT_ENOTFOUND;
    *ret = (int32_t)json_integer_value(id);
    return t->tokens[*ret].flags & TOKEN_BYTE_LEVEL ? 0 : MT_EUNSUPPORTED;
}

static int merge_add(struct tokenizer *t, const json_t *vocab, const json_t *entry, size_t rank,
                     struct buf *joined, struct mt_err *reterr)
{
    struct side left = {0}, right = {0};
    int32_t a = -1, b = -1, id = -1;
    struct merge *slot;
    uint64_t pair;
    int status;

    if (merge_sides(entry, rank, &left, &right, reterr))
        return MT_EINVAL;
    buf_reset(joined);
    buf_append(joined, left.text, left.len);
    if (buf_append(joined, right.text, right.len))
        return mt_error(reterr, joined->status, "model.merges[%zu]: out of memory", rank);
    status = side_id(t, vocab, left.text, left.len, &a);
    if (!status)
        status = side_id(t, vocab, right.text, right.len, &b);
    if (!status)
        status = side_id(t, vocab, (const char *)joined->data, joined->len, &id);
    if (status == MT_ENOTFOUND)
        return mt_error(
            reterr, MT_EINVAL,
            "model.merges[%zu]: \"%.32s\" + \"%.32s\": a side or the result is not in the "
            "vocabulary",
            rank, left.text, right.text);
    if (status)
        return mt_error(reterr, MT_EUNSUPPORTED,
                        "model.merges[%zu]: \"%.32s\" + \"%.32s\" is not byte-level", rank,
                        left.text, right.text);
    pair = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
    slot = &t->merges[pair_slot(t, pair)]; /* of two merges of one pair the last counts */
    *slot = (struct merge){.pair = pair, .rank = (uint32_t)rank, .id = id};
    t->merged[rank] = id;
    return 0;
}

int merges_load(struct tokenizer *t, const json_t *model, struct mt_err *reterr)
{
    const json_t *vocab = json_object_get(model, "vocab"),
                 *merges = json_object_get(model, "merges");
    size_t i, skipped = 0, n = json_array_size(merges), slots = vocab_slots(n);
    const char *text;
    struct buf joined;
    int status = 0;

    if (!json_is_array(merges) || n > TOKENIZER_MAX_VOCAB)
        return mt_error(reterr, MT_EINVAL, "model.merges: expected a list of at most %u",
                        TOKENIZER_MAX_VOCAB);
    t->merges = malloc(slots * sizeof(*t->merges));
    t->merged = malloc((n + 1) * sizeof(*t->merged));
    if (!t->merges || !t->merged)
        return mt_error(reterr, MT_ENOMEM, "out of memory for %zu merges", n);
    for (i = 0; i < slots; i++)
        t->merges[i] = (struct merge){.id = -1};
    t->merges_mask = slots - 1;
    buf_init(&joined, TOKENIZER_MAX_FILE);
    for (i = 0; i < n && !status; i++) {
        text = json_string_value(json_array_get(merges, i));
        if (text && !strncmp(text, "#version", 8)) {
            skipped++;
            continue;
        }
        status = merge_add(t, vocab, json_array_get(merges, i), i - skipped, &joined, reterr);
    }
    t->n_merges = n - skipped;
    buf_done(&joined);
    return status;
}
