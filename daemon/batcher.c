/* The lives of sequences and incarnations. Who sits where is in batcher_home.c, steps are built and
 * answered in batcher_step.c. */
#include "daemon/batcher.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/batcher_impl.h"

static uint64_t largest_pool(const struct batcher_shape *shape)
{
    uint64_t pool = 0, tokens;
    uint32_t r;

    for (r = 0; r < shape->ranks; r++) {
        tokens = (uint64_t)shape->rank[r].kv_blocks * shape->block_tokens;
        pool = tokens > pool ? tokens : pool;
    }
    return pool;
}

int batcher_check(const struct batcher_shape *shape, uint32_t n_prompt, uint32_t max_tokens,
                  uint32_t *ret_new_tokens, struct mt_err *reterr)
{
    uint32_t least = max_tokens ? 1 : 0, most;
    uint64_t pool = largest_pool(shape);

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

/* --- incarnations --- */

int batcher_new(struct batcher **ret, struct mt_err *reterr)
{
    struct batcher *b = calloc(1, sizeof(*b));

    if (!b)
        return mt_error(reterr, MT_ENOMEM, "no memory for the batcher");
    TAILQ_INIT(&b->waiting);
    *ret = b;
    return 0;
}

static void sequence_free(struct sequence *s)
{
    if (!s)
        return;
    if (s->group && !--s->group->members)
        free(s->group);
    free(s->emitted);
    free(s->blocks);
    free(s);
}

static void homes_free(struct batcher_home *homes, uint32_t n)
{
    uint32_t i;

    for (i = 0; homes && i < n; i++)
        kvpool_done(&homes[i].pool);
    free(homes);
}

void batcher_stop(struct batcher *b)
{
    struct sequence *s;
    uint32_t i;

    for (i = 0; i < b->cap_ids; i++) {
        s = b->by_id[i];
        if (!s)
            continue;
        s->in_flight = s->sampling = 0;
        s->step = 0;
        if (s->state == SEQ_ENDED) {
            sequence_retire(b, s);
        } else if (s->state != SEQ_WAITING) {
            home_unseat(b, s);
            home_wait(b, s);
        }
    }
    homes_free(b->homes, b->shape.ranks);
    b->homes = NULL;
    b->shape.ranks = 0;
    b->step = 0;
    b->unanswered = b->n_frees = 0;
}

void batcher_free(struct batcher *b)
{
    uint32_t i;

    if (!b)
        return;
    for (i = 0; i < b->cap_ids; i++)
        sequence_free(b->by_id[i]);
    homes_free(b->homes, b->shape.ranks);
    for (i = 0; i < WIRE_MAX_AHEAD; i++)
        free(b->flights[i].runs);
    free(b->by_id);
    free(b->free_ids);
    free(b->frees);
    free(b->scratch);
    free(b);
}

static int shape_check(const struct batcher_shape *shape, struct mt_err *reterr)
{
    uint32_t r;

    if (!shape->ranks || shape->ranks > WIRE_MAX_RANKS)
        return mt_error(reterr, MT_EINVAL, "ranks is %" PRIu32 ", expected 1..%d", shape->ranks,
                        WIRE_MAX_RANKS);
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

static int homes_new(const struct batcher_shape *shape, struct batcher_home **ret,
                     struct mt_err *reterr)
{
    struct batcher_home *homes = calloc(shape->ranks, sizeof(*homes));
    /* A chunk carries up to one token more than it runs (WIRE_RUN_NEXT): half the frame's cap is
     * safe for all. */
    uint32_t r, cap = WIRE_MAX_STEP_TOKENS / 2 / shape->ranks;
    int rc = 0;

    if (!homes)
        return mt_error(reterr, MT_ENOMEM, "no memory for %" PRIu32 " ranks", shape->ranks);
    for (r = 0; r < shape->ranks && !rc; r++) {
        const struct batcher_rank *k = &shape->rank[r];

        TAILQ_INIT(&homes[r].prefill);
        TAILQ_INIT(&homes[r].decode);
        homes[r].max_tokens = k->max_tokens < cap ? k->max_tokens : cap;
        homes[r].max_seqs = k->max_seqs;
        rc = kvpool_init(&homes[r].pool, k->kv_blocks, shape->block_tokens, reterr);
    }
    if (rc)
        homes_free(homes, shape->ranks);
    else
        *ret = homes;
    return rc;
}

/* Room for the longest chunk with the token that may follow it, or for a block. */
static int scratch_reserve(struct batcher *b, const struct batcher_shape *shape,
                           const struct batcher_home *homes, struct mt_err *reterr)
{
    uint32_t cap = shape->block_tokens, r;
    int32_t *scratch;

    for (r = 0; r < shape->ranks; r++)
        cap = homes[r].max_tokens >= cap ? homes[r].max_tokens + 1 : cap;
    if (cap <= b->scratch_cap)
        return 0;
    scratch = realloc(b->scratch, cap * sizeof(*scratch));
    if (!scratch)
        return mt_error(reterr, MT_ENOMEM, "no memory for a step's tokens");
    b->scratch = scratch;
    b->scratch_cap = cap;
    return 0;
}

int batcher_start(struct batcher *b, const struct batcher_shape *shape, struct mt_err *reterr)
{
    struct batcher_home *homes = NULL;
    int rc = shape_check(shape, reterr);

    if (!rc && b->shape.block_tokens && shape->block_tokens != b->shape.block_tokens)
        rc = mt_error(reterr, MT_EUNSUPPORTED,
                      "KV blocks have %" PRIu32 " tokens, in the incarnation before %" PRIu32,
                      shape->block_tokens, b->shape.block_tokens);
    if (!rc)
        rc = homes_new(shape, &homes, reterr);
    if (rc)
        return rc;
    rc = scratch_reserve(b, shape, homes, reterr);
    if (rc) {
        homes_free(homes, shape->ranks);
        return rc;
    }
    batcher_stop(b);
    b->shape = *shape;
    b->homes = homes;
    home_seat(b);
    return 0;
}

/* --- sequences --- */

static int ids_grow(struct batcher *b)
{
    uint32_t cap = b->cap_ids ? b->cap_ids * 2 : 64, i;
    struct sequence **by_id;
    uint32_t *free_ids, *frees;

    if (b->cap_ids >= WIRE_MAX_SEQS)
        return MT_ELIMIT;
    cap = cap < WIRE_MAX_SEQS ? cap : WIRE_MAX_SEQS;
    free_ids = realloc(b->free_ids, cap * sizeof(*free_ids));
    if (!free_ids)
        return MT_ENOMEM;
    b->free_ids = free_ids;
    frees = realloc(b->frees, cap * sizeof(*frees));
    if (!frees)
        return MT_ENOMEM;
    b->frees = frees;
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

static struct sequence *sequence_new(const struct batcher_spec *spec,
                                     const struct sequence *sibling, uint32_t blocks)
{
    struct sequence *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->blocks = malloc(blocks * sizeof(*s->blocks));
    s->group = sibling ? sibling->group : calloc(1, sizeof(*s->group));
    if (s->group)
        s->group->members++;
    if (!s->blocks || !s->group) {
        sequence_free(s);
        return NULL;
    }
    s->spec = *spec;
    s->told = 1;
    if (spec->prompt_logprobs && spec->n_logprobs < 0)
        s->spec.n_logprobs = 0;
    return s;
}

int batcher_add(struct batcher *b, const struct batcher_spec *spec, const struct sequence *sibling,
                struct sequence **ret, struct mt_err *reterr)
{
    uint64_t tokens = (uint64_t)spec->n_prompt + spec->new_tokens;
    struct sequence *s;
    int rc;

    if (!spec->n_prompt || tokens > largest_pool(&b->shape))
        return mt_error(reterr, MT_EINVAL,
                        "a sequence of %" PRIu32 " prompt tokens and %" PRIu32
                        " new ones; the largest KV pool holds %" PRIu64,
                        spec->n_prompt, spec->new_tokens, largest_pool(&b->shape));
    if (!spec->new_tokens && (!spec->prompt_logprobs || spec->n_prompt < 2))
        return mt_error(reterr, MT_EINVAL,
                        "a sequence without new tokens or prompt logprobs has "
                        "nothing to run");
    rc = b->n_free_ids ? 0 : ids_grow(b);
    if (rc)
        return mt_error(reterr, rc, "no id for one more sequence than %" PRIu32, b->cap_ids);
    s = sequence_new(spec, sibling, batcher_blocks(b, tokens));
    if (!s)
        return mt_error(reterr, MT_ENOMEM, "no memory for a sequence");
    s->id = b->free_ids[--b->n_free_ids];
    b->by_id[s->id] = s;
    s->number = ++b->numbers;
    s->spec.sampling.seq = s->id;
    home_wait(b, s);
    home_seat(b);
    *ret = s;
    return 0;
}

void sequence_retire(struct batcher *b, struct sequence *s)
{
    if (s->state != SEQ_ENDED || s->in_flight)
        return;
    b->by_id[s->id] = NULL;
    b->free_ids[b->n_free_ids++] = s->id;
    sequence_free(s);
}

void batcher_end(struct batcher *b, struct sequence *s)
{
    if (s->state == SEQ_WAITING) {
        TAILQ_REMOVE(&b->waiting, s, link);
        b->n_waiting--;
    } else {
        home_unseat(b, s);
    }
    s->state = SEQ_ENDED;
    s->spec.prompt = NULL; /* was lent until now */
    home_seat(b);
    sequence_retire(b, s);
}

bool batcher_seated(const struct sequence *s)
{
    return s->state == SEQ_PREFILL || s->state == SEQ_DECODE;
}

bool batcher_fits(const struct batcher *b, const struct sequence *s)
{
    uint64_t tokens = (uint64_t)s->spec.n_prompt + s->spec.new_tokens;

    return tokens <= largest_pool(&b->shape) && tokens <= b->shape.max_positions;
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
    struct batcher_counts c = {.waiting = b->n_waiting,
                               .overrun_tokens = b->overrun_tokens,
                               .preemptions = b->preemptions,
                               .prefix_queries = b->prefix_queries,
                               .prefix_hits = b->prefix_hits};
    uint32_t r;

    for (r = 0; r < b->shape.ranks; r++) {
        const struct batcher_home *h = &b->homes[r];

        c.sequences += h->seats;
        c.blocks_held += h->pool.n_blocks - kvpool_available(&h->pool);
        c.blocks_cached += h->pool.n_cached;
        c.blocks_total += h->pool.n_blocks;
    }
    *ret = c;
}
