/* EPLB: the published example, and what holds for every answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "placement/eplb.h"
#include "placement/methods.h"
#include "placement/random.h"

static struct cluster machine(uint32_t ranks, uint32_t nodes, uint32_t slots)
{
    struct cluster c = {.ranks = ranks, .nodes = nodes};

    for (uint32_t r = 0; r < ranks; r++) {
        c.node[r] = (uint16_t)(r * nodes / ranks);
        c.slots[r] = slots;
    }
    return c;
}

/* The example in the README of deepseek-ai/EPLB: 4 groups, 2 nodes, 8 ranks, 16 replicas. */
static void test_published_example(void **unused)
{
    static const float weight[2][12] = {
        {90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
        {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27},
    };
    static const uint16_t published[2][16] = {
        {5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1},
        {7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1},
    };
    struct cluster c = machine(8, 2, 2);
    uint16_t got[2][16];

    (void)unused;
    assert_int_equal(eplb_rebalance(&c, 2, 12, weight[0], 4, got[0], NULL), 0);
    assert_memory_equal(got, published, sizeof got);
}

/* Every slot filled, every expert there, groups whole on one node, and copies by the greedy rule:
 * taking a copy from an expert and giving it to another never lowers the load per copy. */
static void check_layer(const struct cluster *c, uint32_t experts, uint32_t groups,
                        const float *weight, const uint16_t *slot)
{
    uint32_t copies[64] = {0}, node_of[64];

    for (uint32_t r = 0, i = 0; r < c->ranks; r++)
        for (uint32_t k = 0; k < c->slots[r]; k++, i++) {
            assert_true(slot[i] < experts);
            if (groups) {
                uint32_t g = slot[i] / (experts / groups);

                for (uint32_t j = 0; j < i; j++)
                    if (slot[j] / (experts / groups) == g)
                        assert_int_equal(node_of[j], c->node[r]);
            }
            node_of[i] = c->node[r];
            copies[slot[i]]++;
        }
    for (uint32_t e = 0; e < experts; e++) {
        assert_true(copies[e] >= 1);
        for (uint32_t f = 0; f < experts && !groups; f++)
            if (copies[f] > 1)
                assert_true(weight[e] / (float)copies[e] <= weight[f] / (float)(copies[f] - 1));
    }
}

static void test_random_problems(void **unused)
{
    struct random random = {7};

    (void)unused;
    for (int round = 0; round < 3000; round++) {
        uint32_t nodes = 1 + random_below(&random, 3);
        uint32_t ranks = nodes * (1 + random_below(&random, 3));
        uint32_t group_size = 1 + random_below(&random, 3);
        uint32_t groups = nodes * (1 + random_below(&random, 3)), experts = groups * group_size;
        uint32_t slots = (experts + ranks - 1) / ranks + random_below(&random, 3);
        struct cluster c = machine(ranks, nodes, slots);
        float weight[64];
        uint16_t slot[64];

        if (ranks * slots > 64)
            continue;
        for (uint32_t e = 0; e < experts; e++)
            weight[e] = (float)random_below(&random, round % 3 ? 1000 : 4);
        assert_int_equal(eplb_rebalance(&c, 1, experts, weight, groups, slot, NULL), 0);
        check_layer(&c, experts, groups, weight, slot);
        assert_int_equal(eplb_rebalance(&c, 1, experts, weight, 0, slot, NULL), 0);
        check_layer(&c, experts, 0, weight, slot);
    }
}

static void test_refusals(void **unused)
{
    struct cluster c = machine(4, 2, 1);
    float weight[12] = {0};
    uint16_t slot[12];
    struct mt_err err;

    (void)unused;
    assert_int_equal(eplb_rebalance(&c, 1, 6, weight, 0, slot, &err), MT_EINVAL);
    assert_non_null(strstr(err.text, "expected slots for 6 experts, found 4"));
    assert_int_equal(eplb_rebalance(&c, 1, 4, weight, 3, slot, &err), MT_EINVAL);
    assert_non_null(strstr(err.text, "found 3"));
    c.node[2] = 0; /* three ranks and one: the second node cannot take half of the experts */
    assert_int_equal(eplb_rebalance(&c, 1, 4, weight, 4, slot, &err), MT_EINVAL);
    assert_non_null(strstr(err.text, "node 1"));
}

/* An expert twice on a rank: one copy is kept and has the share of both. */
static void test_twice_on_a_rank(void **unused)
{
    static const double load[4] = {97, 1, 1, 1};
    struct place_problem p = {.layers = 1, .experts = 4, .topk = 1, .scenarios = 1};
    struct place_run run = {.seed = 1};
    struct place_result r;
    float all = 0;

    (void)unused;
    p.cluster = machine(2, 1, 4);
    p.scenario[0] = (struct place_scenario){.share = 1, .tokens = 1, .load = load};
    assert_int_equal(eplb_global_solve(&p, &run, &r, NULL), 0);
    assert_int_equal(r.plan.start[1], 2); /* expert 0: five copies on two ranks */
    assert_non_null(r.plan.share);
    for (uint32_t i = 0; i < 2; i++)
        all += r.plan.share[i];
    assert_true(all > 0.999F && all < 1.001F);
    assert_true(r.plan.share[0] == 0.4F || r.plan.share[0] == 0.6F);
    assert_non_null(strstr(r.note, "3 slots empty"));
    plan_done(&r.plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_example),
        cmocka_unit_test(test_random_problems),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_twice_on_a_rank),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
