/* Who sits where: the waiting line, the choice of homes, what the pools know of prefixes, and
 * preemption. */
#include <stdlib.h>

#include "daemon/batcher_impl.h"

/* A seat counts as so many tokens to be computed when homes are compared. A decoding sequence costs
 * one token a step for as long as it lives, so a long cached prefix is worth a few seats more, not
 * all of them. */
#define SEAT_TOKENS 64

static bool goes_before(const struct sequence *a, const struct sequence *b)
{
    return a->spec.order != b->spec.order ? a->spec.order < b->spec.order : a->number < b->number;
}

void home_wait(struct batcher *b, struct sequence *s)
{
    struct sequence *at = TAILQ_LAST(&b->waiting, sequence_list);

    while (at && goes_before(s, at))
        at = TAILQ_PREV(at, sequence_list, link);
    if (at)
        TAILQ_INSERT_AFTER(&b->waiting, at, s, link);
    else
        TAILQ_INSERT_HEAD(&b->waiting, s, link);
    s->state = SEQ_WAITING;
    b->n_waiting++;
}

/* --- prefixes --- */

/* The tokens of block i of s, where they are or, with emitted ones, in b->scratch. */
static const int32_t *block_content(const struct batcher *b, const struct sequence *s, uint32_t i)
{
    uint32_t n = b->shape.block_tokens, k;

    if ((i + 1) * n <= s->spec.n_prompt)
        return s->spec.prompt + (size_t)i * n;
    for (k = 0; k < n; k++)
        b->scratch[k] = sequence_token(s, i * n + k);
    return b->scratch;
}

/* Blocks of s that may be taken from the pool: not the one with the last known token, which has to
 * be fed for the next to be sampled, nor those whose tokens' logprobs have still to be told. */
static uint32_t cacheable(const struct batcher *b, const struct sequence *s)
{
    bool telling = s->spec.prompt_logprobs && s->told < s->spec.n_prompt;
    uint32_t end =
        telling ? s->told : sequence_known(s); /* 0: nothing is fed for one token alone */

    return (end ? end - 1 : 0) / b->shape.block_tokens;
}

/* How many of them the pool has; of those, *ret_held are held by others already. */
static uint32_t cached_blocks(const struct batcher *b, const struct kvpool *p,
                              const struct sequence *s, uint32_t *ret_held)
{
    uint32_t most = cacheable(b, s), i, block;
    uint64_t before = 0;

    *ret_held = 0;
    for (i = 0; i < most && kvpool_find(p, before, block_content(b, s, i), &block); i++) {
        before = p->block[block].serial;
        *ret_held += p->block[block].holders ? 1 : 0;
    }
    return i;
}

/* What its prefill still takes from the pool. */
static void set_promised(struct batcher_home *h, struct sequence *s, uint32_t promised)
{
    h->promised += promised - s->promised;
    s->promised = promised;
}

void home_begin(struct batcher *b, struct sequence *s)
{
    struct batcher_home *h = &b->homes[s->home];
    uint32_t most = cacheable(b, s), need = batcher_blocks(b, sequence_known(s)), block;

    while (s->n_blocks < most &&
           kvpool_find(&h->pool, s->serial, block_content(b, s, s->n_blocks), &block)) {
        kvpool_hold(&h->pool, block);
        s->blocks[s->n_blocks++] = block;
        s->serial = h->pool.block[block].serial;
    }
    s->n_published = s->n_blocks;
    s->fed = s->n_blocks * b->shape.block_tokens;
    set_promised(h, s, need - s->n_blocks);
    if (s->cached_known)
        return;
    s->cached_known = true;
    s->cached_tokens = s->fed;
    b->prefix_queries += s->spec.n_prompt;
    b->prefix_hits += s->fed;
}

void home_publish(struct batcher *b, struct sequence *s)
{
    struct kvpool *p = &b->homes[s->home].pool;
    uint32_t known = s->spec.n_prompt + s->n_emitted, full = s->fed < known ? s->fed : known;

    for (full /= b->shape.block_tokens; s->n_published < full; s->n_published++)
        s->serial = kvpool_publish(p, s->blocks[s->n_published], s->serial,
                                   block_content(b, s, s->n_published));
}

/* --- homes --- */

/* A place for s: how many blocks it will take from the pool, and how much is to be done before its
 * first token, in tokens. */
struct offer {
    struct batcher_home *home; /* NULL: none */
    uint32_t blocks;
    uint64_t cost;
};

/* Whether s can be seated at h. Those that are seated will soon want a block each: room for that is
 * kept, or they would be preempted at once. */
static bool home_offers(const struct batcher *b, struct batcher_home *h, const struct sequence *s,
                        struct offer *ret)
{
    uint32_t need = batcher_blocks(b, (uint64_t)sequence_known(s) + 1), held, cached;
    uint64_t all = (uint64_t)s->spec.n_prompt + s->spec.new_tokens, spoken_for;

    if (h->seats >= h->max_seqs || batcher_blocks(b, all) > h->pool.n_blocks)
        return false;
    spoken_for = h->seats ? (uint64_t)h->promised + h->seats : 0;
    if (spoken_for && spoken_for >= kvpool_available(&h->pool))
        return false; /* whatever the pool has of its prefix */
    cached = cached_blocks(b, &h->pool, s, &held);
    if (spoken_for && need - held + spoken_for > kvpool_available(&h->pool))
        return false;
    *ret = (struct offer){
        .home = h,
        .blocks = need - held,
        .cost = (uint64_t)(need - cached + h->promised) * b->shape.block_tokens +
                (uint64_t)h->seats * SEAT_TOKENS,
    };
    return true;
}

/* Where other choices of its request sit, if there is room: they share the prompt. Else the home
 * with the least to do. */
static struct offer best_offer(const struct batcher *b, const struct sequence *s)
{
    struct offer best = {0}, offer;
    uint32_t r;

    if (s->group && s->group->seats && home_offers(b, &b->homes[s->group->home], s, &best))
        return best;
    for (r = 0; r < b->shape.ranks; r++)
        if (home_offers(b, &b->homes[r], s, &offer) && (!best.home || offer.cost < best.cost))
            best = offer;
    return best;
}

bool batcher_room(const struct batcher *b, const struct batcher_spec *spec)
{
    const struct sequence probe = {.spec = *spec, .told = 1, .number = UINT64_MAX};
    const struct sequence *first = TAILQ_FIRST(&b->waiting);

    if (b->cap_ids - b->n_free_ids >= WIRE_MAX_SEQS || (first && goes_before(first, &probe)))
        return false;
    return best_offer(b, &probe).home;
}

void home_seat(struct batcher *b)
{
    struct batcher_home *h;
    struct sequence *s;
    struct offer offer;

    /* One with tokens in flight does not know yet where it goes on. */
    while ((s = TAILQ_FIRST(&b->waiting)) && !s->in_flight) {
        offer = best_offer(b, s);
        h = offer.home;
        if (!h)
            return;
        TAILQ_REMOVE(&b->waiting, s, link);
        b->n_waiting--;
        s->state = SEQ_PREFILL;
        s->home = s->group->home = s->spec.sampling.home = (uint32_t)(h - b->homes);
        s->group->seats++;
        h->seats++;
        set_promised(h, s, offer.blocks);
        TAILQ_INSERT_TAIL(&h->prefill, s, link);
    }
}

void home_unseat(struct batcher *b, struct sequence *s)
{
    struct batcher_home *h = &b->homes[s->home];

    if (s->state == SEQ_DECODE)
        h->n_decode--;
    TAILQ_REMOVE(s->state == SEQ_PREFILL ? &h->prefill : &h->decode, s, link);
    h->seats--;
    s->group->seats--;
    set_promised(h, s, 0);
    /* The last block first: a prefix is of use without what follows it, not the other way round. */
    while (s->n_blocks)
        kvpool_release(&h->pool, s->blocks[--s->n_blocks]);
    s->fed = s->n_published = 0;
    s->serial = 0;
    if (s->admitted)
        b->frees[b->n_frees++] = s->id;
    s->admitted = false;
}

/* --- blocks --- */

/* The last in order of those that come after s and are not in the step being built; NULL: none. */
static struct sequence *find_victim(const struct batcher *b, const struct batcher_home *h,
                                    const struct sequence *s)
{
    const struct sequence_list *lists[] = {&h->prefill, &h->decode};
    struct sequence *at, *victim = NULL;
    int i;

    for (i = 0; i < 2; i++)
        TAILQ_FOREACH(at, lists[i], link)
            if (at->step != b->step && at->n_blocks && goes_before(s, at) &&
                (!victim || goes_before(victim, at)))
                victim = at;
    return victim;
}

void home_grow(struct batcher *b, struct sequence *s, uint32_t n)
{
    struct batcher_home *h = &b->homes[s->home];
    uint32_t need = batcher_blocks(b, n);
    struct sequence *victim;

    while (s->n_blocks < need) {
        if (kvpool_take(&h->pool, &s->blocks[s->n_blocks])) {
            s->n_blocks++;
            set_promised(h, s, s->promised ? s->promised - 1 : 0);
            continue;
        }
        victim = find_victim(b, h, s);
        if (!victim)
            return;
        home_unseat(b, victim);
        home_wait(b, victim);
        b->preemptions++;
    }
}
