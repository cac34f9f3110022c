/* Problems and plans that fit them: each rule is broken once, and named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "example.h"

/* Small random problems are sound, as are their plans: what example.c makes is checked by it. */
static void test_examples(void **unused)
{
    struct random r = {11};
    struct mt_err err;

    (void)unused;
    for (int round = 0; round < 300; round++) {
        struct example s;

        example_make(&r, (enum example_copies)(round % 3), &s);
        if (place_check(&s.p, &err) || place_fits(&s.p, &s.plan, &err))
            fail_msg("round %d: %s", round, err.text);
        example_done(&s);
    }
}

static double load[2 * 4] = {0.5, 0.5, 1, 0, 1, 1, 0, 0};
static struct trace trace = {.layers = 2, .experts = 4, .topk = 2, .tokens = 5, .documents = 1};

static struct place_problem problem(void)
{
    struct place_problem p = {.layers = 2,
                              .experts = 4,
                              .topk = 2,
                              .scenarios = 2,
                              .prompt_fraction = 0.5,
                              .home_slack = 0.1};
    struct random r = {1};

    p.cluster = example_cluster(&r, 2, 1);
    p.cluster.slots[0] = 3;
    p.cluster.slots[1] = 2;
    p.scenario[0] = (struct place_scenario){"a", PLACE_PREFILL, 0.75, 100, &trace, load};
    p.scenario[1] = (struct place_scenario){"b", PLACE_DECODE, 0.25, 4, NULL, load};
    return p;
}

#define REFUSED(change, want) \
    do { \
        struct place_problem p = problem(); \
        change; \
        assert_int_equal(place_check(&p, &err), MT_EINVAL); \
        assert_string_equal(err.text, want); \
    } while (0)

static void test_check(void **unused)
{
    static double bad_sum[8] = {0.5, 0.5, 1, 0, 1, 1, 0.1, 0}, negative[8] = {-0.5, 1.5, 1, 0};
    static struct trace other = {.layers = 2, .experts = 5, .topk = 2, .tokens = 5};
    struct place_problem good = problem();
    struct mt_err err;

    (void)unused;
    if (place_check(&good, &err))
        fail_msg("%s", err.text);
    REFUSED(p.layers = 97, "problem: layers: expected 1 to 96, found 97");
    REFUSED(p.experts = 513, "problem: experts: expected 1 to 512, found 513");
    REFUSED(p.topk = 5, "problem: topk: expected 1 to 4, found 5");
    REFUSED(p.scenarios = 0, "problem: scenarios: expected 1 to 64, found 0");
    REFUSED(p.semantics = (enum place_semantics)2, "problem: semantics: expected 0 to 1, found 2");
    REFUSED(p.homes = (enum place_homes)7, "problem: homes: expected 0 to 1, found 7");
    REFUSED(p.horizon = -1, "problem: horizon: expected tokens, 0 or more, found -1");
    REFUSED(p.horizon = (double)INFINITY,
            "problem: horizon: expected tokens, 0 or more, found inf");
    REFUSED(p.prompt_fraction = 0,
            "problem: prompt_fraction: expected more than 0, at most 1, found 0");
    REFUSED(p.home_slack = -0.5, "problem: home_slack: expected 0 or more, found -0.5");
    REFUSED(p.cluster.ranks = 0, "cluster: ranks: expected 1 to 256, found 0");
    REFUSED(p.cluster.slots[0] = 1, "cluster: slots: expected at least 4 over all ranks, one for "
                                    "each expert of a layer, found 3");
    REFUSED(p.scenario[1].share = 0.2, "scenarios: share: expected a sum of 1, found 0.95");
    REFUSED(p.scenario[1].share = -1, "scenario b: share: expected 0 to 1, found -1");
    REFUSED(p.scenario[0].tokens = 0,
            "scenario a: tokens: expected 1 to 67108864 in a step, found 0");
    REFUSED(p.scenario[0].phase = (enum place_phase)2,
            "scenario a: phase: expected 0 or 1, found 2");
    REFUSED(p.scenario[0].trace = &other, "scenario a: trace: expected 2 layers, 4 experts, top-2; "
                                          "found 2 layers, 5 experts, top-2");
    REFUSED(p.scenario[1].load = NULL, "scenario b: load: expected an array, found none");
    REFUSED(p.scenario[1].load = bad_sum, "scenario b: load: layer 1: expected a sum of 2 choices "
                                          "per token, found 2.1");
    REFUSED(p.scenario[1].load = negative,
            "scenario b: load: layer 0, expert 0: expected 0 or more, found -0.5");
}

static void test_fits(void **unused)
{
    struct place_problem p = problem();
    struct mt_err err;
    struct plan plan, small;

    (void)unused;
    assert_int_equal(plan_contiguous(2, 4, 2, &plan, &err), 0);
    assert_int_equal(place_fits(&p, &plan, &err), 0);
    p.from = &plan;
    assert_int_equal(place_check(&p, &err), 0);
    plan.rank[4] = 1; /* layer 1: one on rank 0, three on rank 1 */
    assert_int_equal(place_fits(&p, &plan, &err), MT_EINVAL);
    assert_string_equal(err.text, "placement: layer 1, rank 1: expected at most 2 copies, its "
                                  "slots; found 3");
    assert_int_equal(place_check(&p, &err), MT_EINVAL);
    assert_string_equal(err.text, "from: placement: layer 1, rank 1: expected at most 2 copies, "
                                  "its slots; found 3");
    plan.rank[4] = 2;
    assert_int_equal(place_fits(&p, &plan, &err), MT_EINVAL);
    assert_string_equal(err.text, "placement: layer 1, expert 0: expected a rank below 2, found 2");
    plan.rank[4] = 0;
    plan.start[3] = 2; /* expert 2 of layer 0 has none, expert 3 has two */
    assert_int_equal(place_fits(&p, &plan, &err), MT_EINVAL);
    assert_string_equal(err.text, "placement: layer 0, expert 2: expected a copy, found none");
    plan.start[3] = 3;
    plan.start[1] = 2;
    plan.start[2] = 3;
    plan.start[3] = 4;
    plan.start[4] = 5;
    assert_int_equal(place_fits(&p, &plan, &err), MT_EINVAL);
    assert_string_equal(err.text, "placement: layer 0, expert 0: expected distinct ranks, found "
                                  "rank 0 twice");
    plan_done(&plan);
    assert_int_equal(plan_contiguous(2, 4, 2, &plan, &err), 0);
    plan.share = calloc(8, sizeof *plan.share);
    for (int i = 0; i < 8; i++)
        plan.share[i] = 1;
    assert_int_equal(place_fits(&p, &plan, &err), 0);
    plan.share[7] = 0.5f;
    assert_int_equal(place_fits(&p, &plan, &err), MT_EINVAL);
    assert_string_equal(err.text,
                        "placement: layer 1, expert 3: split: expected a sum of 1, found 0.5");
    plan_done(&plan);
    assert_int_equal(plan_contiguous(2, 4, 1, &small, &err), 0);
    assert_int_equal(place_fits(&p, &small, &err), MT_EINVAL);
    plan_done(&small);
}

static void test_done(void **unused)
{
    struct place_result result = {.method = "m"};
    struct mt_err err;

    (void)unused;
    assert_int_equal(plan_contiguous(2, 4, 2, &result.plan, &err), 0);
    place_result_done(&result);
    assert_null(result.plan.start);
    place_result_done(&result);
    place_result_done(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examples),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_fits),
        cmocka_unit_test(test_done),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
