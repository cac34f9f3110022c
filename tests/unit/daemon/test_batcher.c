/* What the batcher puts into its steps, case by case. Random worlds are in test_batcher_random.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "batcher_world.h"

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
    assert_true(world_room(w, l));
    world_add(w, l);
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
    assert_false(world_room(w, next));
    world_finish(&w->loads[0].flows[0]);
    assert_true(world_room(w, next));
    world_add(w, next);
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
        world_add(w, l);
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
    assert_false(world_room(w, l));
    assert_true(world_room(w, little));
    world_add(w, l);
    batcher_count(w->batcher, &counts);
    assert_int_equal(counts.sequences, 1);
    assert_int_equal(counts.waiting, 1);
    assert_false(world_room(w, little));
    little->order = 4;
    assert_true(world_room(w, little));
    world_finish(&w->loads[0].flows[0]);
    batcher_count(w->batcher, &counts);
    assert_int_equal(counts.sequences, 1);
    assert_int_equal(counts.waiting, 0);
    little->order = 5;
    assert_true(world_room(w, little));
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
        assert_true(world_room(w, l));
        world_add(w, l);
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
    world_add(w, other); /* on the other rank */
    assert_true(build(w));
    assert_int_equal(w->step.rank_tokens[0], 18);
    assert_int_equal(w->step.rank_tokens[1], 18);
    l->n_choices = 3;
    for (uint32_t c = 0; c < 3; c++)
        l->flows[c] = (struct flow){.world = w, .load = l, .choice = c};
    world_add(w, l); /* while the first is unanswered */
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

/* Choices that their home has no seat for go elsewhere, and nobody waits behind them. */
static void test_more_choices_than_seats(void **state)
{
    struct batcher_shape shape = {
        .ranks = 2, .block_tokens = 4, .max_positions = 64, .rank = {{16, 32, 2}, {16, 32, 2}}};
    struct world *w = one(&shape, 4, 2);
    struct load *l = another(w, 1);
    struct batcher_counts counts;

    (void)state;
    world_finish(&w->loads[0].flows[0]);
    l->n_choices = 3;
    for (uint32_t c = 0; c < 3; c++)
        l->flows[c] = (struct flow){.world = w, .load = l, .choice = c};
    world_add(w, l);
    batcher_count(w->batcher, &counts);
    assert_int_equal(counts.sequences, 3);
    assert_int_equal(counts.waiting, 0);
    assert_true(build(w));
    assert_int_equal(w->step.admits[0].home, w->step.admits[1].home);
    assert_true(w->step.admits[0].home != w->step.admits[2].home);
    assert_true(world_room(w, another(w, 2)));
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
    world_finish(&w->loads[0].flows[0]);
    w->n_done = 0;
    for (uint32_t i = 1; i < 3; i++) {
        l = another(w, i);
        l->prompt[0] += (int32_t)i;
        l->order = i;
        l->prompt_logprobs = i == 2;
        l->n_done = 0;
        do { /* no stop on the way */
            l->seed++;
            world_foretell(w, l);
        } while (l->flows[0].n_expect < l->new_tokens);
    }
    w->loads[0].n_choices = 0;
    w->n_loads = 3;
    w->next = 1;
    world_rng = 12345;
    world_run(w, false, false);
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
    world_finish(&w->loads[0].flows[0]);
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
        cmocka_unit_test(test_ahead),         cmocka_unit_test(test_overrun),
        cmocka_unit_test(test_turns),         cmocka_unit_test(test_homes),
        cmocka_unit_test(test_no_overtaking), cmocka_unit_test(test_check),
        cmocka_unit_test(test_bad_answers),   cmocka_unit_test(test_restart),
        cmocka_unit_test(test_start_refused), cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_preemption),    cmocka_unit_test(test_more_choices_than_seats),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
