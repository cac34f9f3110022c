/* The ExFlow-like baseline: plans that fit, never less flow kept than contiguous, never more than
 * the best of all, and planted communities found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "placement/methods.h"
#include "tests/unit/placement/worlds.h"

/* Flow that stays between places of[rank], by the scenarios' shares. */
static double kept(const struct place_problem *p, const uint16_t *rank, const uint16_t *of)
{
    double sum = 0;

    for (uint32_t s = 0; s < p->scenarios; s++) {
        const struct trace *t = p->scenario[s].trace;

        for (uint32_t i = 0; i < t->tokens; i++)
            for (uint32_t l = 0; l + 1 < p->layers; l++)
                for (uint32_t k = 0; k < t->topk * t->topk; k++) {
                    uint32_t e = trace_at(t, i, l)[k / t->topk];
                    uint32_t f = trace_at(t, i, l + 1)[k % t->topk];

                    sum += of[rank[(size_t)l * p->experts + e]] ==
                                   of[rank[(size_t)(l + 1) * p->experts + f]]
                               ? p->scenario[s].share / t->topk / t->tokens
                               : 0;
                }
    }
    return sum;
}

static void test_keeps(void **unused)
{
    static const uint32_t shape[][3] = {{3, 8, 4}, {4, 12, 4}, {1, 6, 3},
                                        {3, 7, 3}, {2, 3, 5},  {5, 4, 1}};
    struct random r = {21};

    (void)unused;
    for (int round = 0; round < 120; round++) {
        const uint32_t *k = shape[round % 6];
        struct place_run run = {0};
        struct place_result a, b;
        struct mt_err err = {0};
        struct world w;
        uint16_t self[8] = {0, 1, 2, 3, 4, 5, 6, 7};
        const uint16_t *level;

        worlds_make(&r, k[0], k[1], k[2], &w);
        assert_int_equal(exflow_solve(&w.p, &run, &a, &err), 0);
        assert_int_equal(contiguous_solve(&w.p, &run, &b, &err), 0);
        assert_non_null(strstr(a.note, "-like"));
        for (uint32_t g = 0; g < k[2]; g++)
            assert_true(plan_slots(&a.plan, g) <= w.p.cluster.slots[g]);
        /* what comes first is never worse: nodes where there are some */
        level = w.p.cluster.nodes > 1 && w.p.cluster.nodes < k[2] ? w.p.cluster.node : self;
        assert_true(kept(&w.p, a.plan.rank, level) >= kept(&w.p, b.plan.rank, level) - 1e-9);
        plan_done(&a.plan);
        plan_done(&b.plan);
        worlds_done(&w);
    }
}

/* Tokens that stay within a community of experts, whose numbers are shuffled in each layer: all
 * flow can be kept. */
static void test_communities(void **unused)
{
    enum { L = 4, E = 12, G = 3 };
    struct random r = {22};
    uint16_t self[G] = {0, 1, 2};

    (void)unused;
    for (int round = 0; round < 20; round++) {
        struct place_run run = {0};
        struct place_result a;
        struct world w;
        struct trace *t;
        uint16_t name[L][E];

        worlds_make(&r, L, E, G, &w);
        w.p.scenarios = 1;
        w.p.scenario[0].share = 1;
        w.p.cluster.nodes = 1;
        memset(w.p.cluster.node, 0, sizeof w.p.cluster.node);
        t = &w.trace[0];
        t->tokens = 20;
        t->doc[1] = 20;
        for (uint32_t l = 0; l < L; l++)
            for (uint32_t e = 0; e < E; e++) {
                uint32_t at = random_below(&r, e + 1);

                name[l][e] = name[l][at];
                name[l][at] = (uint16_t)e;
            }
        for (uint32_t i = 0; i < 20; i++)
            for (uint32_t l = 0; l < L; l++)
                for (uint32_t k = 0; k < t->topk; k++)
                    t->choice[((size_t)i * L + l) * t->topk + k] =
                        name[l][i % G * (E / G) + (i / G + k) % (E / G)];
        trace_loads(t, w.load[0]);
        assert_int_equal(exflow_solve(&w.p, &run, &a, NULL), 0);
        assert_true(kept(&w.p, a.plan.rank, self) >= 0.75 * (L - 1) * t->topk);
        plan_done(&a.plan);
        worlds_done(&w);
    }
}

static void test_loads_only(void **unused)
{
    struct random r = {23};
    struct place_run run = {0};
    struct place_result a;
    struct mt_err err = {0};
    struct world w;

    (void)unused;
    worlds_make(&r, 2, 4, 2, &w);
    for (uint32_t s = 0; s < w.p.scenarios; s++)
        w.p.scenario[s].trace = NULL;
    assert_int_equal(exflow_solve(&w.p, &run, &a, &err), MT_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "token paths"));
    worlds_done(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keeps),
        cmocka_unit_test(test_communities),
        cmocka_unit_test(test_loads_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
