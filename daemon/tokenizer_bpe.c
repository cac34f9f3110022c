/* Merging one piece of text: symbols in a linked list, candidate pairs in a heap by rank and then
 * by position. A pair that has changed since it was queued is dropped when it comes up. */
#include <stdlib.h>

#include "daemon/tokenizer_private.h"

void bpe_done(struct bpe *b)
{
    free(b->symbols);
    free(b->heap);
    *b = (struct bpe){0};
}

/* A merge takes one candidate and queues at most two, and there are fewer than n: 2n candidates are
 * never exceeded. */
static int bpe_reserve(struct bpe *b, size_t n, struct mt_err *reterr)
{
    size_t alloc = b->alloc ? b->alloc : 64;

    if (n <= b->alloc)
        return 0;
    while (alloc < n)
        alloc *= 2;
    bpe_done(b);
    b->symbols = malloc(alloc * sizeof(*b->symbols));
    b->heap = malloc(2 * alloc * sizeof(*b->heap));
    if (!b->symbols || !b->heap) {
        bpe_done(b);
        mt_error(reterr, MT_ENOMEM, "out of memory to merge %zu bytes", n);
        return MT_ENOMEM;
    }
    b->alloc = alloc;
    return 0;
}

static void heap_push(struct bpe *b, uint64_t key)
{
    size_t i = b->n_heap++, parent;

    for (; i; i = parent) {
        parent = (i - 1) / 2;
        if (b->heap[parent] <= key)
            break;
        b->heap[i] = b->heap[parent];
    }
    b->heap[i] = key;
}

static uint64_t heap_pop(struct bpe *b)
{
    uint64_t top = b->heap[0], key = b->heap[--b->n_heap];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < b->n_heap) {
        if (child + 1 < b->n_heap && b->heap[child + 1] < b->heap[child])
            child++;
        if (b->heap[child] >= key)
            break;
        b->heap[i] = b->heap[child];
        i = child;
    }
    b->heap[i] = key;
    return top;
}

static void bpe_offer(const struct tokenizer *t, struct bpe *b, int32_t left)
{
    const struct bpe_symbol *s = &b->symbols[left];
    const struct merge *m = merges_find(t, s->id, b->symbols[s->next].id);

    if (m)
        heap_push(b, (uint64_t)m->rank << 32 | (uint32_t)left);
}

static void bpe_merge(const struct tokenizer *t, struct bpe *b)
{
    uint64_t top;
    struct bpe_symbol *left, *right;
    const struct merge *m;
    int32_t at, id;

    while (b->n_heap) {
        top = heap_pop(b);
        at = (int32_t)(uint32_t)top;
        id = t->merged[top >> 32];
        left = &b->symbols[at];
        if (left->id < 0 || left->next < 0)
            continue;
        right = &b->symbols[left->next];
        m = merges_find(t, left->id, right->id);
        if (!m || m->id != id)
            continue;
        left->id = id;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0)
            b->symbols[left->next].prev = at;
        if (left->prev >= 0)
            bpe_offer(t, b, left->prev);
        if (left->next >= 0)
            bpe_offer(t, b, at);
    }
}

int bpe_encode(const struct tokenizer *t, struct bpe *b, const uint8_t *text, size_t n,
               struct ids *ids, struct mt_err *reterr)
{
    int32_t i, id;
    int status = 0;

    if (n == 1)
        return ids_push(ids, t->byte_id[text[0]], reterr);
    if (t->ignore_merges && (id = vocab_find(t, text, n)) >= 0)
        return ids_push(ids, id, reterr);
    if (n / t->longest > ids->max - ids->n) /* sure to be too many: do not merge megabytes first */
        return ids_too_many(ids, reterr);
    if (bpe_reserve(b, n, reterr))
        return MT_ENOMEM;
    for (i = 0; i < (int32_t)n; i++)
        b->symbols[i] =
            (struct bpe_symbol){.id = t->byte_id[text[i]], .prev = i - 1, .next = i + 1};
    b->symbols[n - 1].next = -1;
    b->n_heap = 0;
    for (i = 0; i + 1 < (int32_t)n; i++)
        bpe_offer(t, b, i);
    bpe_merge(t, b);
    for (i = 0; i >= 0 && !status; i = b->symbols[i].next)
        status = ids_push(ids, b->symbols[i].id, reterr);
    return status;
}
