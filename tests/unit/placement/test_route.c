/* Which copy serves a token's expert: the rule by hand, and against a recount. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "example.h"
#include "placement/route.h"
#include "recount.h"

/* Four ranks on two nodes (0 1 | 2 3). Expert: copies on ranks
 *     0: 3      1: 0      2: 1 3      3: 0 1      4: 0 2 3      5: 2 3 */
static const uint8_t HELD[6 * 4] = {0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 1,
                                    1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 1};

static struct cluster two_nodes(void)
{
    return (struct cluster){.ranks = 4, .nodes = 2, .node = {0, 0, 1, 1}};
}

static void test_rule_by_hand(void **unused)
{
    static const struct {
        uint16_t chosen[3], home, settled[3];
        const char *why;
    } CASES[] = {
        {{0, 1, 2}, 1, {3, 0, 1}, "2 is at home, though 3 is forced"},
        {{0, 1, 2}, 0, {3, 0, 3}, "2: expert 0 forces rank 3, before the copy on the node"},
        {{2, 1, 0}, 0, {3, 0, 3}, "in any order"},
        {{0, 1, 4}, 1, {3, 0, 0}, "4: ranks 0 and 3 are forced, the lowest is taken"},
        {{0, 1, 4}, 2, {3, 0, 2}, "4 is at home"},
        {{2, 3, 5}, 1, {1, 1, ROUTE_DRAWN}, "nothing is forced by what others have at home"},
        {{2, 3, 4}, 2, {ROUTE_DRAWN, ROUTE_DRAWN, 2}, "nor by draws"},
    };
    struct plan p = example_held(6, 4, HELD);
    struct cluster c = two_nodes();

    (void)unused;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        uint16_t at[3], settled[3];
        uint32_t drawn = 0, n = route_settle(&p, 0, CASES[i].chosen, 3, CASES[i].home, settled);

        route_choose(&p, &c, 0, CASES[i].chosen, 3, CASES[i].home, 17, at);
        for (int k = 0; k < 3; k++) {
            if (settled[k] != CASES[i].settled[k])
                fail_msg("%s: expected %u, found %u", CASES[i].why, CASES[i].settled[k],
                         settled[k]);
            if (settled[k] != ROUTE_DRAWN)
                assert_int_equal(at[k], settled[k]);
            drawn += settled[k] == ROUTE_DRAWN;
        }
        assert_int_equal(n, drawn);
    }
    plan_done(&p);
}

static void assert_shares(const struct plan *p, uint32_t expert, uint32_t home, double a, double b,
                          double c)
{
    struct cluster k = two_nodes();
    double expected[3] = {a, b, c};

    for (uint32_t i = 0; i < p->start[expert + 1] - p->start[expert]; i++) {
        double found = route_share(p, &k, expert, home, i);

        if (fabs(found - expected[i]) > 1e-7) /* shares are floats */
            fail_msg("expert %u, home %u, copy %u: expected %g, found %g", expert, home, i,
                     expected[i], found);
    }
}

static void test_shares_by_hand(void **unused)
{
    /* Of experts 0 to 5, in the order of HELD. */
    static const float SHARE[11] = {1, 1, 0.9F, 0.1F, 0, 1, 0.5F, 0.2F, 0.3F, 1, 0};
    struct plan p = example_held(6, 4, HELD);

    (void)unused;
    assert_shares(&p, 4, 1, 1, 0, 0);     /* the node's only copy */
    assert_shares(&p, 4, 3, 0, 0, 1);     /* at home */
    assert_shares(&p, 5, 0, 0.5, 0.5, 0); /* none on the node: all, evenly */
    assert_shares(&p, 3, 3, 0.5, 0.5, 0);
    assert_int_equal(p.start[6], 11);
    p.share = calloc(11, sizeof *p.share);
    assert_non_null(p.share);
    for (int i = 0; i < 11; i++)
        p.share[i] = SHARE[i];
    assert_shares(&p, 2, 0, 1, 0, 0); /* the node's only copy, whatever its part */
    assert_shares(&p, 2, 2, 0, 1, 0);
    assert_shares(&p, 3, 0, 1, 0, 0); /* at home, though it has no part */
    assert_shares(&p, 3, 2, 0, 1, 0); /* none on the node: the table */
    assert_shares(&p, 5, 1, 1, 0, 0);
    assert_shares(&p, 5, 3, 0, 1, 0);
    p.share[7] = p.share[8] = 0; /* expert 4: all to rank 0 */
    assert_shares(&p, 4, 1, 1, 0, 0);
    p.share[6] = 0;
    p.share[7] = 0.25F;
    p.share[8] = 0.75F;
    assert_shares(&p, 4, 1, 1, 0, 0); /* the node's only copy has no part */
    plan_done(&p);
}

/* Draws go by the fractions, whatever was chosen with the expert, and differ between layers. */
static void test_frequencies(void **unused)
{
    struct random r = {11};
    enum { DRAWS = 40000 };

    (void)unused;
    for (int round = 0; round < 12; round++) {
        uint32_t ranks = 2 + random_below(&r, 7), home = random_below(&r, ranks);
        struct cluster c = example_cluster(&r, ranks, 1 + random_below(&r, 2));
        struct plan p = example_plan(&r, 2, 6, ranks, EXAMPLE_SHARES);

        for (uint32_t layer = 0; layer < 2; layer++)
            for (uint16_t e = 0; e < 6; e++) {
                uint32_t count[RECOUNT_RANKS] = {0}, pair = layer * 6 + e;
                double sum = 0;

                for (uint64_t i = 0; i < DRAWS; i++) {
                    uint16_t at;

                    route_choose(&p, &c, layer, &e, 1, home, i, &at);
                    count[at]++;
                }
                for (uint32_t k = 0; k < p.start[pair + 1] - p.start[pair]; k++) {
                    double share = route_share(&p, &c, pair, home, k), deviation;
                    uint16_t rank = p.rank[p.start[pair] + k];

                    deviation = sqrt(share * (1 - share) / DRAWS);
                    sum += share;
                    assert_true(fabs((double)count[rank] / DRAWS - share) <= 5 * deviation + 1e-12);
                    count[rank] = 0;
                }
                assert_true(fabs(sum - 1) < 1e-12);
                for (uint32_t g = 0; g < ranks; g++)
                    assert_int_equal(count[g], 0);
            }
        plan_done(&p);
    }
}

/* Two experts of one token, and one expert in two layers or at two positions, draw independently:
 * each of the four outcomes of two even draws comes up a quarter of the time. */
static void test_draws_are_independent(void **unused)
{
    enum { DRAWS = 100000 };
    uint32_t count[3][4] = {{0}};

    (void)unused;
    for (uint32_t i = 0; i < DRAWS; i++) {
        unsigned a = route_draw(i, 3, 5) < 0.5;

        count[0][a * 2 + (route_draw(i, 3, 6) < 0.5)]++;
        count[1][a * 2 + (route_draw(i, 4, 5) < 0.5)]++;
        count[2][a * 2 + (route_draw(i + 1, 3, 5) < 0.5)]++;
    }
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < 4; i++) /* 5 deviations of sqrt(3 / 16 / DRAWS) */
            assert_true(fabs(count[k][i] / (double)DRAWS - 0.25) < 5 * sqrt(3 / 16.0 / DRAWS));
}

static void test_recount(void **unused)
{
    struct random r = {12};

    (void)unused;
    for (int round = 0; round < 300; round++) {
        struct example s;

        example_make(&r, round % 3, &s);
        for (uint32_t i = 0; i < s.trace[0].tokens; i++)
            for (uint32_t l = 0; l < s.p.layers; l++) {
                const uint16_t *chosen = trace_at(&s.trace[0], i, l);
                uint32_t home = random_below(&r, s.p.cluster.ranks);
                uint64_t position = random_next(&r);
                double prob[TRACE_MAX_TOPK][RECOUNT_RANKS];
                uint16_t at[TRACE_MAX_TOPK];

                route_choose(&s.plan, &s.p.cluster, l, chosen, s.p.topk, home, position, at);
                recount_serve(&s.plan, &s.p.cluster, l, chosen, s.p.topk, home, &position, prob);
                for (uint32_t k = 0; k < s.p.topk; k++)
                    assert_true(prob[k][at[k]] == 1);
            }
        example_done(&s);
    }
}

/* The widest of everything: the last ids of layer, expert and rank, and a draw among all ranks. */
static void test_limits(void **unused)
{
    struct plan p = {
        .layers = PLAN_MAX_LAYERS, .experts = PLAN_MAX_EXPERTS, .ranks = PLAN_MAX_RANKS};
    struct cluster c = {.ranks = PLAN_MAX_RANKS, .nodes = 2};
    uint32_t pairs = p.layers * p.experts, copies = PLAN_MAX_RANKS - 1;
    uint16_t chosen[TRACE_MAX_TOPK], at[TRACE_MAX_TOPK];

    (void)unused;
    c.node[PLAN_MAX_RANKS - 1] = 1;
    p.start = calloc(pairs + 1, sizeof *p.start);
    p.rank = calloc(pairs + copies, sizeof *p.rank);
    assert_true(p.start && p.rank);
    for (uint32_t i = 0; i < pairs; i++)
        p.start[i + 1] = i + 1;
    p.start[pairs] = pairs - 1 + copies; /* the last pair: all ranks but the last */
    for (uint32_t g = 0; g < copies; g++)
        p.rank[pairs - 1 + g] = (uint16_t)g;
    for (uint16_t k = 0; k < TRACE_MAX_TOPK; k++) {
        chosen[k] = (uint16_t)(p.experts - 1 - k);
        p.rank[pairs - 1 - k] = k ? PLAN_MAX_RANKS - 1 : 0;
    }
    route_choose(&p, &c, p.layers - 1, chosen, TRACE_MAX_TOPK, copies, UINT64_MAX, at);
    assert_true(at[0] < copies);
    for (uint16_t k = 1; k < TRACE_MAX_TOPK; k++)
        assert_int_equal(at[k], PLAN_MAX_RANKS - 1);
    assert_true(route_share(&p, &c, pairs - 1, copies, 0) == 1.0 / copies);
    assert_true(route_draw(UINT64_MAX, UINT32_MAX, UINT32_MAX) < 1);
    plan_done(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rule_by_hand), cmocka_unit_test(test_shares_by_hand),
        cmocka_unit_test(test_frequencies),  cmocka_unit_test(test_draws_are_independent),
        cmocka_unit_test(test_recount),      cmocka_unit_test(test_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
