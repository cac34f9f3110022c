/* The batcher's sequences: from batcher_add to batcher_end. Steps are built and answered in
 * batcher_step.c. */
#include "daemon/batcher.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/batcher_impl.h"

static uint32_t blocks_for(uint32_t block_tokens, uint64_t tokens)
{
    return (uint32_t)((tokens + block_tokens - 1) / block_tokens);
}

int batcher_check(const struct batcher_shape *shape, uint32_t n_prompt, uint32_t max_tokens,
                  uint32_t *ret_new_tokens, struct mt_err *reterr)
{
    uint32_t least = max_tokens ? 1 : 0, r, most;
    uint64_t pool = 0, tokens;

    for (r = 0; r < shape->ranks; r++) {
        tokens = (uint64_t)shape->rank[r].kv_blocks * shape->block_tokens;
        pool = tokens > pool ? tokens : pool;
    }
    if (!n_prompt)
        return mt_error(reterr, MT_EINVAL, "the prompt has no tokens, at least 1 is needed");
    if ((uint64_t)n_prompt + least > shape->max_positions)
        return mt_error(reterr, MT_EINVAL,
                        "the prompt has %" PRIu32 " tokens and %" PRIu32
                        " new ones are asked for; the model's longest sequence is %" PRIu32,
                        n_prompt, max_tokens, shape->max_positions);
    if ((uint64_t)n_prompt + least > pool)
        return mt_error(reterr, MT_EINVAL,
                        "the prompt has %" PRIu32 " tokens and %" PRIu32
                        " new ones are asked for; the largest KV pool holds %" PRIu64 " tokens",
                        n_prompt, max_tokens, pool);
    most = (uint32_t)(pool < shape->max_positions ? pool : shape->max_positions) - n_prompt;
    *ret_new_tokens = max_tokens < most ? max_tokens : most;
    return 0;
}

int batcher_new(struct batcher **ret, struct mt_err *reterr)
{
    struct batcher *b = calloc(1, sizeof(*b));

    if (!b)
        return mt_error(reterr, MT_ENOMEM, "no memory for the batcher");
    TAILQ_INIT(&b->frees);
    *ret = b;
    return 0;
}

static void sequence_free(struct sequence *s)
{
    if (!s)
        return;
    free(s->emitted);
    free(s->blocks);
    free(s);
}

/* Back to the state of batcher_new, but for the count of overruns and the flights' memory. */
static void batcher_clear(struct batcher *b)
{
    uint32_t i;

    for (i = 0; i < b->cap_ids; i++)
        sequence_free(b->by_id[i]);
    for (i = 0; i < b->shape.ranks; i++)
        kvpool_done(&b->homes[i].pool);
    free(b->homes);
    free(b->by_id);
    free(b->free_ids);
    free(b->scratch);
    b->shape.ranks = 0;
    b->homes = NULL;
    b->by_id = NULL;
    b->free_ids = NULL;
    b->scratch = NULL;
    b->n_free_ids = b->cap_ids = b->scratch_cap = b->unanswered = 0;
    b->step = 0;
    TAILQ_INIT(&b->frees);
}

void batcher_free(struct batcher *b)
{
    uint32_t i;

    if (!b)
        return;
    batcher_clear(b);
    for (i = 0; i < WIRE_MAX_AHEAD; i++)
        free(b->flights[i].runs);
    free(b);
}

static int shape_check(const struct batcher_shape *shape, struct mt_err *reterr)
{
    uint32_t r;

    if (!shape->block_tokens || !shape->max_positions)
        return mt_error(reterr, MT_EINVAL,
                        "block_tokens is %" PRIu32 " and max_positions %" PRIu32
                        ", expected more than 0",
                        shape->block_tokens, shape->max_positions);
    for (r = 0; r < shape->ranks; r++) {
        const struct batcher_rank *k = &shape->rank[r];

        if (!k->kv_blocks || !k->max_tokens || !k->max_seqs)
            return mt_error(reterr, MT_EINVAL,
                            "rank %" PRIu32 " offers %" PRIu32 " KV blocks, %" PRIu32
                            " tokens a step and %" PRIu32
                            " sequences, expected more than 0 of each",
                            r, k->kv_blocks, k->max_tokens, k->max_seqs);
    }
    return 0;
}

int batcher_start(struct batcher *b, const struct batcher_shape *shape, struct mt_err *reterr)
{
    uint32_t r, cap;
    int rc;

    if (!shape->ranks || shape->ranks > WIRE_MAX_RANKS)
        return mt_error(reterr, MT_EINVAL, "ranks is %" PRIu32 ", expected 1..%d", shape->ranks,
                        WIRE_MAX_RANKS);
    rc = shape_check(shape, reterr);
    if (rc)
        return rc;
    /* A chunk carries up to one token more than it runs (WIRE_RUN_NEXT): half the frame's cap is
     * safe for all. */
    cap = WIRE_MAX_STEP_TOKENS / 2 / shape->ranks;
    batcher_clear(b);
    b->homes = calloc(shape->ranks, sizeof(*b->homes));
    if (!b->homes)
        return mt_error(reterr, MT_ENOMEM, "no memory for %" PRIu32 " ranks", shape->ranks);
    b->shape = *shape;
    for (r = 0; r < shape->ranks; r++) {
        struct batcher_home *h = &b->homes[r];
        const struct batcher_rank *k = &shape->rank[r];

        TAILQ_INIT(&h->waiting);
        TAILQ_INIT(&h->prefill);
        TAILQ_INIT(&h->decode);
        h->max_tokens = k->max_tokens < cap ? k->max_tokens : cap;
        h->max_seqs = k->max_seqs;
        b->scratch_cap = h->max_tokens > b->scratch_cap ? h->max_tokens : b->scratch_cap;
        rc = kvpool_init(&h->pool, k->kv_blocks, reterr);
        if (rc)
            goto out;
    }
    b->scratch_cap++;
    b->scratch = malloc(b->scratch_cap * sizeof(*b->scratch));
    if (!b->scratch)
        rc = mt_error(reterr, MT_ENOMEM, "no memory for a step's tokens");
out:
    if (rc)
        batcher_clear(b);
    return rc;
}

bool batcher_room(const struct batcher *b, uint32_t n_prompt, uint32_t new_tokens,
                  uint32_t n_choices, uint32_t *ret_home)
{
    const struct batcher_home *h, *best = NULL;
    uint32_t r, need;

    if (!b->shape.ranks || n_choices > WIRE_MAX_SEQS - (b->cap_ids - b->n_free_ids))
        return false;
    need = blocks_for(b->shape.block_tokens, (uint64_t)n_prompt + new_tokens);
    for (r = 0; r < b->shape.ranks; r++) {
        h = &b->homes[r];
        if (h->n_waiting || h->seats >= h->max_seqs || need > h->pool.n_blocks - h->pool.reserved)
            continue;
        if (!best || h->pool.reserved < best->pool.reserved ||
            (h->pool.reserved == best->pool.reserved && h->seats < best->seats))
            best = h;
    }
    if (!best)
        return false;
    *ret_home = (uint32_t)(best - b->homes);
    return true;
}

/* Gives those that wait at h a seat and a reservation, oldest first, as far as they go. */
static void home_seat(struct batcher_home *h)
{
    struct sequence *s;

    while ((s = TAILQ_FIRST(&h->waiting)) && h->seats < h->max_seqs &&
           kvpool_reserve(&h->pool, s->reserved)) {
        TAILQ_REMOVE(&h->waiting, s, link);
        h->n_waiting--;
        h->seats++;
        s->state = SEQ_PREFILL;
        TAILQ_INSERT_TAIL(&h->prefill, s, link);
    }
}

static int ids_grow(struct batcher *b)
{
    uint32_t cap = b->cap_ids ? b->cap_ids * 2 : 64, i;
    struct sequence **by_id;
    uint32_t *free_ids;

    if (b->cap_ids >= WIRE_MAX_SEQS)
        return MT_ELIMIT;
    cap = cap < WIRE_MAX_SEQS ? cap : WIRE_MAX_SEQS;
    free_ids = realloc(b->free_ids, cap * sizeof(*free_ids));
    if (!free_ids)
        return MT_ENOMEM;
    b->free_ids = free_ids;
    by_id = realloc(b->by_id, cap * sizeof(*by_id));
    if (!by_id)
        return MT_ENOMEM;
    b->by_id = by_id;
    memset(by_id + b->cap_ids, 0, (cap - b->cap_ids) * sizeof(*by_id));
    for (i = cap; i > b->cap_ids; i--) /* the lowest id is used first */
        free_ids[b->n_free_ids++] = i - 1;
    b->cap_ids = cap;
    return 0;
}

int batcher_add(struct batcher *b, const struct batcher_spec *spec, struct sequence **ret,
                struct mt_err *reterr)
{
    struct batcher_home *h;
    struct sequence *s;
    uint32_t need;

    if (spec->home >= b->shape.ranks)
        return mt_error(reterr, MT_EINVAL, "home is %" PRIu32 ", the job has %" PRIu32 " ranks",
                        spec->home, b->shape.ranks);
    h = &b->homes[spec->home];
    need = blocks_for(b->shape.block_tokens, (uint64_t)spec->n_prompt + spec->new_tokens);
    if (need > h->pool.n_blocks || !spec->n_prompt)
        return mt_error(reterr, MT_EINVAL,
                        "a prompt of %" PRIu32 " tokens needs %" PRIu32 " KV blocks; rank %" PRIu32
                        " has %" PRIu32,
                        spec->n_prompt, need, spec->home, h->pool.n_blocks);
    if (!spec->new_tokens && (!spec->prompt_logprobs || spec->n_prompt < 2))
        return mt_error(reterr, MT_EINVAL,
                        "a sequence without new tokens or prompt logprobs has "
                        "nothing to run");
    if (!b->n_free_ids && ids_grow(b))
        return mt_error(reterr, MT_ELIMIT, "no id for one more sequence than %" PRIu32, b->cap_ids);
    s = calloc(1, sizeof(*s));
    if (!s || !(s->blocks = malloc(need * sizeof(*s->blocks)))) {
        sequence_free(s);
        return mt_error(reterr, MT_ENOMEM, "no memory for a sequence");
    }
    s->id = b->free_ids[--b->n_free_ids];
    b->by_id[s->id] = s;
    s->spec = *spec;
    if (spec->prompt_logprobs && spec->n_logprobs < 0)
        s->spec.n_logprobs = 0;
    s->spec.sampling.seq = s->id;
    s->spec.sampling.home = spec->home;
    s->reserved = need;
    TAILQ_INSERT_TAIL(&h->waiting, s, link);
    h->n_waiting++;
    home_seat(h);
    *ret = s;
    return 0;
}

void batcher_retire(struct batcher *b, struct sequence *s)
{
    if (s->state != SEQ_ENDED || s->admitted || s->in_flight)
        return;
    b->by_id[s->id] = NULL;
    b->free_ids[b->n_free_ids++] = s->id;
    sequence_free(s);
}

void batcher_end(struct batcher *b, struct sequence *s)
{
    struct batcher_home *h = &b->homes[s->spec.home];

    if (s->state == SEQ_WAITING) {
        TAILQ_REMOVE(&h->waiting, s, link);
        h->n_waiting--;
    } else {
        TAILQ_REMOVE(s->state == SEQ_PREFILL ? &h->prefill : &h->decode, s, link);
        h->seats--;
        kvpool_release(&h->pool, s->reserved, s->blocks, s->n_blocks);
    }
    s->state = SEQ_ENDED;
    if (s->admitted)
        TAILQ_INSERT_TAIL(&b->frees, s, link);
    home_seat(h);
    batcher_retire(b, s);
}

const int32_t *batcher_emitted(const struct sequence *s, uint32_t *ret_n)
{
    *ret_n = s->n_emitted;
    return s->emitted;
}

uint32_t batcher_unanswered(const struct batcher *b)
{
    return b->unanswered;
}

void batcher_count(const struct batcher *b, struct batcher_counts *ret)
{
    struct batcher_counts c = {.overrun_tokens = b->overrun_tokens};
    uint32_t r;

    for (r = 0; r < b->shape.ranks; r++) {
        const struct batcher_home *h = &b->homes[r];

        c.sequences += h->seats;
        c.waiting += h->n_waiting;
        c.blocks_taken += h->pool.n_blocks - h->pool.n_free;
        c.blocks_total += h->pool.n_blocks;
    }
    *ret = c;
}
