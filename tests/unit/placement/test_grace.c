/* The GRACE-like grouping: planted communities are found, small cases are near the best grouping,
 * and copies go where the rule says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "placement/methods.h"
#include "placement/random.h"

static struct trace new_trace(uint32_t experts, uint32_t topk, uint32_t tokens)
{
    struct trace t = {
        .layers = 1, .experts = experts, .topk = topk, .tokens = tokens, .documents = 1};

    t.doc = calloc(2, sizeof *t.doc);
    t.doc[1] = tokens;
    t.choice = calloc((size_t)tokens * topk, sizeof *t.choice);
    return t;
}

/* One scenario of one trace; load[experts] is filled. */
static struct place_problem problem_of(const struct trace *t, uint32_t ranks, uint32_t nodes,
                                       uint32_t slots, double *load)
{
    struct place_problem p = {.layers = 1, .experts = t->experts, .topk = t->topk, .scenarios = 1};

    p.cluster = (struct cluster){.ranks = ranks,
                                 .nodes = nodes,
                                 .rank_link = {1e9, 1e-6},
                                 .node_link = {1e9, 1e-6},
                                 .token_expert = 1e-6,
                                 .dispatch_bytes = 1,
                                 .combine_bytes = 1,
                                 .expert_bytes = 1,
                                 .migration_share = 1};
    for (uint32_t r = 0; r < ranks; r++) {
        p.cluster.node[r] = (uint16_t)(r * nodes / ranks);
        p.cluster.slots[r] = slots;
    }
    trace_loads(t, load);
    p.scenario[0] = (struct place_scenario){.share = 1, .tokens = 16, .trace = t, .load = load};
    return p;
}

static void test_communities(void **unused)
{
    struct random r = {5};

    (void)unused;
    for (int round = 0; round < 200; round++) {
        uint32_t ranks = 2 + random_below(&r, 3) * 2, nodes = 1 + random_below(&r, 2);
        uint32_t size = 2 + random_below(&r, 4), experts = ranks * size;
        uint16_t who[64];
        double load[64];
        struct trace t = new_trace(experts, 2, 2000);
        struct place_problem p = problem_of(&t, ranks, nodes, size, load);
        struct place_run run = {.seed = 1};
        struct place_result got;

        for (uint32_t e = 0; e < experts; e++) { /* a random order of experts */
            uint32_t at = random_below(&r, e + 1);

            who[e] = who[at];
            who[at] = (uint16_t)e;
        }
        for (uint32_t i = 0; i < t.tokens; i++) { /* two of one community */
            uint32_t c = random_below(&r, ranks), a = random_below(&r, size);
            uint32_t b = (a + 1 + random_below(&r, size - 1)) % size;

            t.choice[2 * i] = who[c * size + a];
            t.choice[2 * i + 1] = who[c * size + b];
        }
        trace_loads(&t, load);
        assert_int_equal(grace_solve(&p, &run, &got, NULL), 0);
        assert_non_null(strstr(got.note, "-like"));
        for (uint32_t c = 0; c < ranks; c++)
            for (uint32_t i = 1; i < size; i++)
                assert_int_equal(got.plan.rank[got.plan.start[who[c * size + i]]],
                                 got.plan.rank[got.plan.start[who[c * size]]]);
        plan_done(&got.plan);
        trace_done(&t);
    }
}

/* Tokens whose two experts share a rank. */
static uint32_t together(const struct trace *t, const uint16_t *rank)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < t->tokens; i++)
        n += rank[t->choice[2 * i]] == rank[t->choice[2 * i + 1]];
    return n;
}

static void test_near_the_best(void **unused)
{
    struct random r = {6};
    uint64_t got_sum = 0, best_sum = 0;

    (void)unused;
    for (int round = 0; round < 300; round++) {
        struct trace t = new_trace(8, 2, 60);
        double load[8];
        struct place_problem p = problem_of(&t, 2, 1, 4, load);
        struct place_run run = {.seed = 1};
        struct place_result got;
        uint32_t best = 0, n;

        for (uint32_t i = 0; i < t.tokens; i++) {
            uint32_t a = random_below(&r, 8);

            t.choice[2 * i] = (uint16_t)a;
            t.choice[2 * i + 1] = (uint16_t)((a + 1 + random_below(&r, 7)) % 8);
        }
        trace_loads(&t, load);
        for (uint32_t mask = 0; mask < 256; mask++) {
            uint16_t rank[8];

            if (__builtin_popcount(mask) != 4)
                continue;
            for (uint32_t e = 0; e < 8; e++)
                rank[e] = mask >> e & 1;
            n = together(&t, rank);
            best = n > best ? n : best;
        }
        assert_int_equal(grace_solve(&p, &run, &got, NULL), 0);
        n = together(&t, got.plan.rank); /* no spare slots: one copy each */
        assert_true(n <= best);
        got_sum += n;
        best_sum += best;
        plan_done(&got.plan);
        trace_done(&t);
    }
    assert_true(got_sum * 100 >= best_sum * 97);
}

/* Pairs 0-1 (nine tokens of ten), 2-3 and 4-5: three ranks of three slots. */
static void test_copies(void **unused)
{
    struct trace t = new_trace(6, 2, 100);
    double load[6];
    struct place_problem p;
    struct place_run run = {.seed = 1};
    struct place_result got;

    (void)unused;
    for (uint32_t i = 0; i < t.tokens; i++) {
        uint32_t pair = i % 10 ? 0 : 1 + i / 10 % 2;

        t.choice[2 * i] = (uint16_t)(2 * pair);
        t.choice[2 * i + 1] = (uint16_t)(2 * pair + 1);
    }
    p = problem_of(&t, 3, 1, 3, load);
    assert_int_equal(grace_solve(&p, &run, &got, NULL), 0);
    /* W_max / W_mean = 2.7: two copies of the hottest expert, which fills the spare slots */
    assert_int_equal(got.plan.start[1], 3);
    assert_int_equal(got.plan.start[6], 8);
    plan_done(&got.plan);
    p.scenario[0].trace = NULL;
    assert_int_equal(grace_solve(&p, &run, &got, NULL), MT_EUNSUPPORTED);
    trace_done(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_communities),
        cmocka_unit_test(test_near_the_best),
        cmocka_unit_test(test_copies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
