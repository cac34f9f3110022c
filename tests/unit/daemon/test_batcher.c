/* The batcher against simulated ranks (fake_ranks.c), which check every step: random shapes,
 * requests, priorities, shared prefixes, cancellations, stops and deaths of the job; each sequence
 * must get exactly the tokens of the oracle. Pools are small, so that many are preempted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/batcher.h"
#include "fake_ranks.h"

#define MAX_REQUESTS 24
#define MAX_CHOICES 4
#define MAX_NEW 40
#define MAX_PROMPT 70

static uint64_t rng;

static uint32_t rnd(uint32_t n) /* 0 .. n-1 */
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)((rng >> 11) % n);
}

struct flow; /* one choice as the test sees it */

struct flow {
    struct world *world;
    struct load *load;
    struct sequence *seq;
    uint32_t choice;
    int32_t expect[MAX_NEW];
    uint32_t n_expect, n_got, n_prompt_got;
    bool done;
};

struct load { /* one request */
    int32_t prompt[MAX_PROMPT];
    uint32_t n_prompt, new_tokens, n_choices, n_done;
    uint64_t order;
    int32_t n_logprobs;
    bool prompt_logprobs, cancelled, added;
    uint64_t seed;
    struct flow flows[MAX_CHOICES];
};

struct world {
    struct batcher_shape shape;
    struct batcher *batcher;
    struct fake_ranks *ranks;
    struct wire_step step;
    struct load loads[MAX_REQUESTS];
    uint32_t n_loads, next, n_done;
    uint64_t steps, deaths;
};

static bool is_stop(int32_t token)
{
    return token % 19 == 3;
}

static void finish(struct flow *f)
{
    assert_false(f->done);
    f->done = true;
    batcher_end(f->world->batcher, f->seq);
    f->load->n_done++;
    f->world->n_done++;
}

static void check_entry(const struct flow *f, uint32_t at, int32_t token, uint32_t n_top,
                        const struct wire_logprob *entry)
{
    const struct load *l = f->load;
    int32_t history[MAX_PROMPT + MAX_NEW];
    uint32_t i;

    memcpy(history, l->prompt, l->n_prompt * sizeof(*history));
    memcpy(history + l->n_prompt, f->expect, f->n_expect * sizeof(*history));
    assert_int_equal(n_top, l->n_logprobs > 0 ? l->n_logprobs : 0);
    assert_int_equal(entry->token, token);
    for (i = 0; i <= n_top; i++)
        assert_true(entry[i].logprob ==
                    ranks_logprob(l->seed, f->choice, history, at, entry[i].token));
}

static void on_event(void *user, const struct batcher_event *e)
{
    struct flow *f = e->user;
    struct load *l = f->load;
    uint32_t i, n;

    assert_ptr_equal(user, f->world);
    assert_false(f->done);
    assert_ptr_equal(e->seq, f->seq);
    for (i = 0; i < e->n_prompt; i++) {
        assert_true(l->prompt_logprobs && f->choice == 0);
        assert_int_equal(e->prompt_at + i, f->n_prompt_got + 1);
        f->n_prompt_got++;
        check_entry(f, e->prompt_at + i, l->prompt[e->prompt_at + i], e->n_top,
                    e->prompt + i * (1 + e->n_top));
    }
    if (e->token >= 0) {
        assert_true(f->n_got < f->n_expect);
        assert_int_equal(e->token, f->expect[f->n_got]);
        if (e->logprob)
            check_entry(f, l->n_prompt + f->n_got, e->token, e->n_top, e->logprob);
        assert_int_equal(!!e->logprob, l->n_logprobs >= 0 || (l->prompt_logprobs && !f->choice));
        f->n_got++;
        batcher_emitted(e->seq, &n);
        assert_int_equal(n, f->n_got);
    }
    assert_int_equal(e->last, f->n_got == l->new_tokens &&
                                  (l->new_tokens || f->n_prompt_got == l->n_prompt - 1));
    if (e->last || (e->token >= 0 && is_stop(e->token))) {
        assert_int_equal(f->n_got, f->n_expect);
        assert_int_equal(f->n_prompt_got,
                         l->prompt_logprobs && f->choice == 0 ? l->n_prompt - 1 : 0);
        finish(f);
    }
}

/* What its choices will get. */
static void foretell(struct world *w, struct load *l)
{
    int32_t history[MAX_PROMPT + MAX_NEW];
    struct flow *f;
    uint32_t c, i;

    memcpy(history, l->prompt, l->n_prompt * sizeof(*history));
    for (c = 0; c < l->n_choices; c++) {
        f = &l->flows[c];
        *f = (struct flow){.world = w, .load = l, .choice = c};
        while (f->n_expect < l->new_tokens) {
            i = l->n_prompt + f->n_expect;
            history[i] = f->expect[f->n_expect] = ranks_next(l->seed, c, history, i);
            if (is_stop(f->expect[f->n_expect++]))
                break;
        }
    }
}

static void make_load(struct world *w, struct load *l)
{
    uint32_t i, max_tokens, same;

    l->n_prompt = 1 + rnd(rnd(2) ? 8 : MAX_PROMPT);
    l->seed = rnd(1000);
    l->n_choices = 1 + (rnd(3) ? 0 : rnd(MAX_CHOICES));
    l->n_logprobs = (int32_t)rnd(4) - 1;
    l->prompt_logprobs = rnd(4) == 0;
    l->order = rnd(3);
    same = rnd(3) ? rnd(l->n_prompt + 1) : 0; /* as far as others have begun, too */
    for (i = 0; i < l->n_prompt; i++)
        l->prompt[i] = i < same ? (int32_t)(i * 7 % FAKE_VOCAB) : (int32_t)rnd(FAKE_VOCAB);
    max_tokens = l->prompt_logprobs && l->n_prompt > 1 && rnd(3) == 0 ? 0 : 1 + rnd(MAX_NEW);
    if (!max_tokens)
        l->n_choices = 1;
    while (batcher_check(&w->shape, l->n_prompt, max_tokens, &l->new_tokens, NULL))
        l->n_prompt--;
    if (!l->new_tokens && l->n_prompt < 2)
        l->new_tokens = 1;
    assert_true(l->new_tokens <= MAX_NEW);
    foretell(w, l);
}

static struct batcher_spec spec_of(const struct load *l)
{
    return (struct batcher_spec){.prompt = l->prompt,
                                 .n_prompt = l->n_prompt,
                                 .new_tokens = l->new_tokens,
                                 .order = l->order,
                                 .n_logprobs = l->n_logprobs,
                                 .prompt_logprobs = l->prompt_logprobs};
}

static bool room_for(const struct world *w, const struct load *l)
{
    const struct batcher_spec spec = spec_of(l);

    return batcher_room(w->batcher, &spec);
}

static void add_load(struct world *w, struct load *l)
{
    struct batcher_spec spec = spec_of(l);
    struct sequence *sibling = NULL;
    uint32_t c;

    for (c = 0; c < l->n_choices; c++) {
        spec.prompt_logprobs = l->prompt_logprobs && c == 0;
        spec.sampling = (struct wire_admit){.seed = l->seed, .choice = c};
        spec.user = &l->flows[c];
        assert_int_equal(batcher_add(w->batcher, &spec, sibling, &l->flows[c].seq, NULL), 0);
        sibling = l->flows[c].seq;
    }
    l->added = true;
}

static void cancel_one(struct world *w)
{
    struct load *l = &w->loads[rnd(w->n_loads)];
    uint32_t c;

    if (!l->added || l->n_done == l->n_choices)
        return;
    for (c = 0; c < l->n_choices; c++)
        if (!l->flows[c].done)
            finish(&l->flows[c]);
}

/* What has been counted holds at any time: nothing overcommitted. */
static void check_counts(const struct world *w)
{
    struct batcher_counts counts;

    batcher_count(w->batcher, &counts);
    assert_true(counts.blocks_held + counts.blocks_cached <= counts.blocks_total);
    assert_int_equal(batcher_unanswered(w->batcher) <= WIRE_MAX_AHEAD, 1);
}

/* The job is gone, at any moment; the next may have other pools, if they are large enough. */
static void die(struct world *w)
{
    uint32_t r;

    fake_ranks_free(w->ranks);
    if (rnd(2))
        batcher_stop(w->batcher);
    for (r = 0; r < w->shape.ranks; r++)
        w->shape.rank[r].kv_blocks += rnd(2);
    assert_int_equal(batcher_start(w->batcher, &w->shape, NULL), 0);
    assert_int_equal(batcher_unanswered(w->batcher), 0);
    w->ranks = fake_ranks_new(&w->shape);
    w->deaths++;
}

/* Every step feeds at least one token, so the bound on steps is a bound on starvation. Whoever is
 * preempted, or dies with the job, is fed anew. */
static uint64_t step_bound(const struct world *w)
{
    struct batcher_counts counts;
    uint64_t bound = 0;
    uint32_t i;

    for (i = 0; i < w->n_loads; i++)
        bound += (w->loads[i].n_prompt + w->loads[i].new_tokens + 2) * w->loads[i].n_choices;
    batcher_count(w->batcher, &counts);
    return bound * (1 + w->deaths) + counts.preemptions * (w->shape.max_positions + 2);
}

/* Runs all loads to their end. */
static void run_world(struct world *w, bool cancels, bool deaths)
{
    struct batcher_counts counts;
    uint32_t flows = 0, i;
    bool built;

    for (i = 0; i < w->n_loads; i++)
        flows += w->loads[i].n_choices;
    while (w->n_done < flows) {
        while (w->next < w->n_loads && rnd(4)) {
            struct load *l = &w->loads[w->next];

            if (!room_for(w, l))
                break;
            add_load(w, l);
            w->next++;
        }
        if (cancels && rnd(20) == 0)
            cancel_one(w);
        if (deaths && rnd(60) == 0)
            die(w);
        if (rnd(3) || !batcher_unanswered(w->batcher)) {
            assert_int_equal(batcher_build(w->batcher, &w->step, &built, NULL), 0);
            if (built) {
                fake_ranks_step(w->ranks, &w->step);
                assert_true(++w->steps <= step_bound(w));
            }
        } else {
            assert_int_equal(
                batcher_take(w->batcher, fake_ranks_answer(w->ranks), on_event, w, NULL), 0);
        }
        check_counts(w);
    }
    while (batcher_unanswered(w->batcher))
        assert_int_equal(batcher_take(w->batcher, fake_ranks_answer(w->ranks), on_event, w, NULL),
                         0);
    batcher_count(w->batcher, &counts);
    assert_int_equal(counts.blocks_held, 0);
    assert_int_equal(counts.sequences, 0);
    assert_int_equal(counts.waiting, 0);
}

static void random_shape(struct batcher_shape *shape)
{
    uint32_t r;

    *shape = (struct batcher_shape){.ranks = 1 + rnd(4),
                                    .block_tokens = 1 + rnd(8),
                                    .max_positions = 8 + rnd(MAX_PROMPT + 20),
                                    .epoch = 7};
    for (r = 0; r < shape->ranks; r++)
        shape->rank[r] = (struct batcher_rank){.kv_blocks = 4 + rnd(rnd(2) ? 60 : 20),
                                               .max_tokens = 1 + rnd(24),
                                               .max_seqs = 1 + rnd(8)};
}

static void test_random_loads(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    uint64_t preemptions = 0, hits = 0, deaths = 0;
    struct batcher_counts counts;
    uint32_t round, i;

    (void)state;
    assert_non_null(w);
    for (round = 0; round < 1000; round++) {
        rng = 88172645463325252u + round * 7919u;
        memset(w, 0, sizeof(*w));
        random_shape(&w->shape);
        assert_int_equal(batcher_new(&w->batcher, NULL), 0);
        assert_int_equal(batcher_start(w->batcher, &w->shape, NULL), 0);
        w->ranks = fake_ranks_new(&w->shape);
        w->n_loads = 1 + rnd(MAX_REQUESTS);
        for (i = 0; i < w->n_loads; i++)
            make_load(w, &w->loads[i]);
        run_world(w, round % 2, round % 4 > 1);
        batcher_count(w->batcher, &counts);
        preemptions += counts.preemptions;
        hits += counts.prefix_hits;
        deaths += w->deaths;
        batcher_free(w->batcher);
        fake_ranks_free(w->ranks);
        wire_step_done(&w->step);
    }
    assert_true(preemptions > 500 && hits > 10000 && deaths > 1000); /* it was about them, too */
    free(w);
}

/* A world with one request added, and its rank. */
static struct world *one(const struct batcher_shape *shape, uint32_t n_prompt, uint32_t new_tokens)
{
    struct world *w = calloc(1, sizeof(*w));
    struct load *l = &w->loads[0];
    int32_t history[MAX_PROMPT + MAX_NEW];
    uint32_t i;

    assert_non_null(w);
    w->shape = *shape;
    assert_int_equal(batcher_new(&w->batcher, NULL), 0);
    assert_int_equal(batcher_start(w->batcher, shape, NULL), 0);
    w->ranks = fake_ranks_new(shape);
    *l = (struct load){.n_prompt = n_prompt,
                       .new_tokens = new_tokens,
                       .n_choices = 1,
                       .n_logprobs = -1,
                       .seed = 5};
    l->flows[0] = (struct flow){.world = w, .load = l};
    for (i = 0; i < n_prompt + new_tokens; i++) {
        if (i < n_prompt)
            history[i] = l->prompt[i] = (int32_t)i;
        else
            history[i] = l->flows[0].expect[i - n_prompt] = ranks_next(5, 0, history, i);
    }
    l->flows[0].n_expect = new_tokens;
    assert_true(room_for(w, l));
    add_load(w, l);
    return w;
}

static void one_done(struct world *w)
{
    batcher_free(w->batcher);
    fake_ranks_free(w->ranks);
    wire_step_done(&w->step);
    free(w);
}

static const struct batcher_shape small = {
    .ranks = 1, .block_tokens = 4, .max_positions = 64, .rank = {{16, 8, 4}}};

static bool build(struct world *w)
{
    bool built = false;

    assert_int_equal(batcher_build(w->batcher, &w->step, &built, NULL), 0);
    if (built)
        fake_ranks_step(w->ranks, &w->step);
    return built;
}

static void count_only(void *user, const struct batcher_event *e)
{
    (void)e;
    ++*(int *)user;
}

static void take(struct world *w, int *events)
{
    assert_int_equal(
        batcher_take(w->batcher, fake_ranks_answer(w->ranks), count_only, events, NULL), 0);
}

/* A prompt in chunks, then tokens one step ahead; not past the last token. */
static void test_ahead(void **state)
{
    struct world *w = one(&small, 10, 3);
    int events = 0;

    (void)state;
    assert_true(build(w)); /* positions 0..7 */
    assert_int_equal(w->step.runs[0].n_tokens, 8);
    assert_int_equal(w->step.runs[0].flags, 0);
    assert_true(build(w)); /* 8, 9 and the first token */
    assert_int_equal(w->step.runs[0].flags, WIRE_RUN_SAMPLE);
    assert_false(build(w)); /* two are unanswered */
    take(w, &events);
    assert_int_equal(events, 0);
    assert_true(build(w)); /* the second token, while the first is in flight */
    assert_int_equal(w->step.runs[0].flags, WIRE_RUN_SAMPLE | WIRE_RUN_LAST);
    take(w, &events);
    assert_int_equal(events, 1);
    assert_true(build(w)); /* the third */
    take(w, &events);
    assert_false(build(w)); /* a fourth is not asked for */
    take(w, &events);
    assert_int_equal(events, 3);
    one_done(w);
}

/* The nth load of a world: as the first, unless it is changed. */
static struct load *another(struct world *w, uint32_t n)
{
    struct load *l = &w->loads[n];

    *l = w->loads[0];
    l->flows[0].load = l;
    l->flows[0].seq = NULL;
    return l;
}

/* A stop found late: one overrun token, dropped and counted; its seat and blocks serve the next
 * step already. */
static void test_overrun(void **state)
{
    struct batcher_shape shape = small;
    struct batcher_counts counts;
    struct world *w;
    struct load *next;
    int events = 0;

    (void)state;
    shape.rank[0].max_seqs = 1;
    w = one(&shape, 4, 40);
    next = another(w, 1);
    assert_true(build(w));
    assert_true(build(w));
    take(w, &events);
    assert_false(room_for(w, next));
    finish(&w->loads[0].flows[0]);
    assert_true(room_for(w, next));
    add_load(w, next);
    assert_true(build(w));
    assert_int_equal(w->step.n_frees, 1);
    assert_int_equal(w->step.n_admits, 1);
    take(w, &events);
    assert_int_equal(events, 1);
    batcher_count(w->batcher, &counts);
    assert_int_equal(counts.overrun_tokens, 1);
    take(w, &events);
    assert_int_equal(events, 2);
    one_done(w);
}

/* A budget smaller than the number of seated sequences is shared by all of them. */
static void take_turns(uint32_t budget)
{
    struct batcher_shape shape = {
        .ranks = 1, .block_tokens = 4, .max_positions = 64, .rank = {{64, budget, 7}}};
    struct world *w = one(&shape, 1, 20);
    uint32_t runs[7] = {0}, i, steps, least;
    int events = 0;
    struct load *l;

    for (i = 1; i < 7; i++) {
        l = &w->loads[i];
        *l = w->loads[0];
        l->flows[0].load = l;
        add_load(w, l);
    }
    for (steps = 0; steps < 30; steps++) {
        assert_true(build(w));
        assert_int_equal(w->step.rank_tokens[0], budget);
        for (i = 0; i < w->step.n_runs; i++)
            runs[w->step.runs[i].seq]++;
        take(w, &events);
    }
    for (least = runs[0], i = 1; i < 7; i++)
        least = runs[i] < least ? runs[i] : least;
    assert_true(least >= 30 * budget / 7 - 1);
    one_done(w);
}

static void test_turns(void **state)
{
    (void)state;
    take_turns(1);
    take_turns(3);
}

/* One that waits for blocks is not overtaken by a later, smaller request; only by an earlier one.
 */
static void test_no_overtaking(void **state)
{
    struct world *w = one(&small, 40, 8); /* 10 of 16 blocks */
    struct load *l = another(w, 1), *little = another(w, 2);
    struct batcher_counts counts;

    (void)state;
    l->order = little->order = 5;
    for (uint32_t i = 0; i < l->n_prompt; i++)
        l->prompt[i]++;
    little->n_prompt = 4;
    assert_false(room_for(w, l));
    assert_true(room_for(w, little));
    add_load(w, l);
    batcher_count(w->batcher, &counts);
    assert_int_equal(counts.sequences, 1);
    assert_int_equal(counts.waiting, 1);
    assert_false(room_for(w, little));
    little->order = 4;
    assert_true(room_for(w, little));
    finish(&w->loads[0].flows[0]);
    batcher_count(w->batcher, &counts);
    assert_int_equal(counts.sequences, 1);
    assert_int_equal(counts.waiting, 0);
    little->order = 5;
    assert_true(room_for(w, little));
    one_done(w);
}

/* Homes: the rank with the least to do; one without a seat is left alone. */
static void test_homes(void **state)
{
    struct batcher_shape shape = {.ranks = 3,
                                  .block_tokens = 4,
                                  .max_positions = 64,
                                  .rank = {{10, 8, 4}, {10, 8, 4}, {10, 8, 1}}};
    struct world *w = one(&shape, 4, 4);
    const uint32_t want[] = {0, 1, 2, 0, 1};
    uint32_t i, at;

    (void)state;
    for (i = 1; i < 5; i++) {
        struct load *l = another(w, i);

        l->prompt[0] += (int32_t)i;
        assert_true(room_for(w, l));
        add_load(w, l);
    }
    assert_true(build(w));
    assert_int_equal(w->step.n_admits, 5);
    for (i = 0; i < w->step.n_admits; i++) {
        at = w->step.admits[i].seq; /* the lowest id is given first */
        assert_int_equal(w->step.admits[i].home, want[at]);
    }
    one_done(w);
}

/* A prompt seen before is not computed again, but for its last block, and draws the request to
 * where it is; its choices share it from the start. */
static void test_prefix(void **state)
{
    struct batcher_shape shape = {
        .ranks = 2, .block_tokens = 4, .max_positions = 64, .rank = {{16, 32, 8}, {16, 32, 8}}};
    struct world *w = one(&shape, 18, 2);
    struct load *other = another(w, 1), *l = another(w, 2);
    struct batcher_counts counts;

    (void)state;
    other->prompt[0]++;
    add_load(w, other); /* on the other rank */
    assert_true(build(w));
    assert_int_equal(w->step.rank_tokens[0], 18);
    assert_int_equal(w->step.rank_tokens[1], 18);
    l->n_choices = 3;
    for (uint32_t c = 0; c < 3; c++)
        l->flows[c] = (struct flow){.world = w, .load = l, .choice = c};
    add_load(w, l); /* while the first is unanswered */
    assert_true(build(w));
    assert_int_equal(w->step.n_admits, 3);
    for (uint32_t i = 0; i < w->step.n_runs; i++) {
        if (w->step.runs[i].seq < 2)
            continue;
        assert_int_equal(w->step.runs[i].pos, 16);
        assert_int_equal(w->step.runs[i].n_tokens, 2);
        assert_int_equal(w->step.runs[i].n_blocks, 5);
    }
    for (uint32_t i = 0; i < w->step.n_admits; i++)
        assert_int_equal(w->step.admits[i].home, 0);
    batcher_count(w->batcher, &counts);
    assert_int_equal(counts.blocks_held, 5 + 5 + 3); /* four are shared by all */
    assert_int_equal(counts.prefix_queries, 5 * 18);
    assert_int_equal(counts.prefix_hits, 3 * 16);
    one_done(w);
}

/* The later of two gives way when the pool is full, and both get their tokens. */
static void test_preemption(void **state)
{
    struct batcher_shape shape = small;
    struct batcher_counts counts;
    struct world *w;
    struct load *l;

    (void)state;
    shape.rank[0].kv_blocks = 8;
    w = one(&shape, 6, 24); /* 8 blocks in the end */
    finish(&w->loads[0].flows[0]);
    w->n_done = 0;
    for (uint32_t i = 1; i < 3; i++) {
        l = another(w, i);
        l->prompt[0] += (int32_t)i;
        l->order = i;
        l->prompt_logprobs = i == 2;
        l->n_done = 0;
        do { /* no stop on the way */
            l->seed++;
            foretell(w, l);
        } while (l->flows[0].n_expect < l->new_tokens);
    }
    w->loads[0].n_choices = 0;
    w->n_loads = 3;
    w->next = 1;
    rng = 12345;
    run_world(w, false, false);
    batcher_count(w->batcher, &counts);
    assert_true(counts.preemptions > 0);
    one_done(w);
}

static void test_check(void **state)
{
    struct batcher_shape shape = {.ranks = 2,
                                  .block_tokens = 4,
                                  .max_positions = 30,
                                  .rank = {{5, 8, 4}, {6, 8, 4}}}; /* the larger holds 24 */
    struct mt_err err;
    uint32_t n = 77;

    (void)state;
    assert_int_equal(batcher_check(&shape, 24, 1, &n, &err), MT_EINVAL);
    assert_non_null(strstr(err.text, "24 tokens"));
    assert_int_equal(batcher_check(&shape, 31, 0, &n, &err), MT_EINVAL);
    assert_int_equal(batcher_check(&shape, 0, 1, &n, &err), MT_EINVAL);
    assert_int_equal(n, 77);
    assert_int_equal(batcher_check(&shape, 24, 0, &n, &err), 0);
    assert_int_equal(n, 0);
    assert_int_equal(batcher_check(&shape, 20, 100, &n, &err), 0);
    assert_int_equal(n, 4);
    assert_int_equal(batcher_check(&shape, 20, 3, &n, &err), 0);
    assert_int_equal(n, 3);
}

/* Answers that do not fit the question are refused, whatever is wrong with them. */
static void test_bad_answers(void **state)
{
    struct wire_logprob logprobs[4] = {{0}};
    struct wire_sample good = {.seq = 0, .token = 1}, bad;
    struct wire_result result = {0};
    struct mt_err err;
    int i, events = 0;

    (void)state;
    for (i = 0; i < 7; i++) {
        struct world *w = one(&small, 4, 4);

        assert_true(build(w));
        assert_int_equal(wire_result_begin(&result, i == 0 ? 2 : 1, 1), 0);
        bad = good;
        bad.seq = i == 1 ? 3 : i == 2 ? 70000 : 0;
        bad.token = i == 3 ? -1 : 1;
        bad.n_prompt = bad.n_entries = i == 4 ? 1 : 0;
        if (i != 5) /* missing */
            wire_result_sample(&result, &bad, logprobs, NULL, 0);
        if (i == 6) /* twice */
            wire_result_sample(&result, &good, logprobs, NULL, 0);
        assert_int_equal(batcher_take(w->batcher, &result, count_only, &events, &err), MT_EPROTO);
        one_done(w);
    }
    wire_result_done(&result);
}

/* The job dies with a token in flight, and again before the next has answered anything. */
static void test_restart(void **state)
{
    struct world *w = one(&small, 10, 30);
    struct batcher_counts counts;
    int events = 0;

    (void)state;
    assert_true(build(w));
    assert_true(build(w));
    take(w, &events);
    take(w, &events);
    assert_int_equal(events, 1);
    assert_true(build(w));
    for (int i = 0; i < 2; i++) {
        fake_ranks_free(w->ranks);
        batcher_stop(w->batcher);
        batcher_count(w->batcher, &counts);
        assert_int_equal(counts.sequences, 0);
        assert_int_equal(counts.waiting, 1);
        assert_int_equal(counts.blocks_held, 0);
        assert_false(batcher_seated(w->loads[0].flows[0].seq));
        assert_false(build(w)); /* nothing can run */
        assert_int_equal(batcher_start(w->batcher, &small, NULL), 0);
        w->ranks = fake_ranks_new(&small);
        assert_true(build(w)); /* the prompt */
        assert_int_equal(w->step.step, 1);
        assert_int_equal(w->step.runs[0].pos, 0);
    }
    assert_true(build(w)); /* its rest, and what had been emitted: then the second token */
    assert_int_equal(w->step.runs[0].n_tokens, 3);
    assert_int_equal(w->step.runs[0].flags, WIRE_RUN_SAMPLE);
    take(w, &events);
    take(w, &events);
    assert_int_equal(events, 2);
    finish(&w->loads[0].flows[0]);
    one_done(w);
}

static void test_start_refused(void **state)
{
    struct batcher_shape shape = small;
    struct world *w = one(&small, 10, 30);
    struct mt_err err;

    (void)state;
    assert_true(batcher_fits(w->batcher, w->loads[0].flows[0].seq));
    shape.block_tokens = 8;
    assert_int_equal(batcher_start(w->batcher, &shape, &err), MT_EUNSUPPORTED);
    assert_true(build(w)); /* nothing has changed */
    shape = small;
    shape.rank[0].kv_blocks = 9; /* ten would be needed */
    assert_int_equal(batcher_start(w->batcher, &shape, &err), 0);
    assert_false(batcher_fits(w->batcher, w->loads[0].flows[0].seq));
    assert_false(batcher_seated(w->loads[0].flows[0].seq));
    one_done(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_loads), cmocka_unit_test(test_ahead),
        cmocka_unit_test(test_overrun),      cmocka_unit_test(test_turns),
        cmocka_unit_test(test_homes),        cmocka_unit_test(test_no_overtaking),
        cmocka_unit_test(test_check),        cmocka_unit_test(test_bad_answers),
        cmocka_unit_test(test_restart),      cmocka_unit_test(test_start_refused),
        cmocka_unit_test(test_prefix),       cmocka_unit_test(test_preemption),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
