/* The exact solver against every placement there is, and its own plan against the oracle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "placement/exact.h"
#include "placement/score.h"
#include "problems.h"

static void assert_close(double a, double b)
{
    if (fabs(a - b) > 1e-9 * fabs(b))
        fail_msg("%.17g is not %.17g", a, b);
}

static void assert_fits(const struct place_problem *p, const struct plan *plan)
{
    for (uint32_t g = 0; g < p->cluster.ranks; g++)
        assert_true(plan_slots(plan, g) <= p->cluster.slots[g]);
}

/* Placements of a layer are few enough for score_plan to see all. */
static struct problem_shape small_shape(struct random *r)
{
    static const uint32_t MOST[] = {0, 8, 8, 6, 5, 4, 4};
    struct problem_shape s = {.ranks = 1 + random_below(r, 6)};

    s.experts = 1 + random_below(r, MOST[s.ranks]);
    s.nodes = 1 + random_below(r, s.ranks);
    s.layers = 1 + random_below(r, 2);
    s.spare = random_below(r, 3);
    s.tokens = 30;
    s.loads_only = random_below(r, 8) == 0;
    return s;
}

static void test_exact_is_the_best_of_all(void **unused)
{
    struct random r = {1};

    (void)unused;
    for (int round = 0; round < 500; round++) {
        struct problem_shape shape = small_shape(&r);
        struct problem *p = problem_new(&r, &shape);
        struct exact_result e;
        struct mt_err err;

        if (exact_solve(&p->p, NULL, &e, &err))
            fail_msg("%s", err.text);
        assert_true(e.optimal);
        assert_close(e.objective, problem_score(&p->p, &e.plan));
        assert_close(e.objective, problem_best(&p->p));
        assert_true(e.bound <= e.objective);
        exact_done(&e);
        problem_free(p);
    }
}

/* Larger ones: the plan fits and is worth what it says, and no exchange makes it better. */
static void test_exact_of_sixteen_cannot_be_improved(void **unused)
{
    struct random r = {2};

    (void)unused;
    for (int round = 0; round < 12; round++) {
        struct problem_shape shape = {.experts = 16, .layers = 1, .tokens = 400};
        struct problem *p;
        struct exact_result e;
        struct mt_err err;

        shape.ranks = round % 2 ? 8 : 4;
        shape.nodes = 1 + (uint32_t)round / 2 % 2;
        p = problem_new(&r, &shape);
        if (exact_solve(&p->p, NULL, &e, &err))
            fail_msg("%s", err.text);
        assert_fits(&p->p, &e.plan);
        assert_close(e.objective, problem_score(&p->p, &e.plan));
        for (uint32_t a = 0; a < 16; a++)
            for (uint32_t b = 0; b < a; b++) {
                uint16_t keep = e.plan.rank[a];

                e.plan.rank[a] = e.plan.rank[b];
                e.plan.rank[b] = keep;
                assert_true(problem_score(&p->p, &e.plan) >= e.objective * (1 - 1e-12));
                e.plan.rank[b] = e.plan.rank[a];
                e.plan.rank[a] = keep;
            }
        exact_done(&e);
        problem_free(p);
    }
}

static bool at_once(void *asked)
{
    ++*(int *)asked;
    return true;
}

static void test_stopped_search_keeps_a_valid_bound(void **unused)
{
    struct random r = {3};
    struct problem_shape shape = {.experts = 16, .ranks = 4, .nodes = 1, .layers = 2};
    struct problem *p;
    struct exact_result whole, part;
    struct mt_err err;
    int asked = 0;
    struct place_run run = {.stop = at_once, .user = &asked};

    (void)unused;
    shape.tokens = 2000;
    p = problem_new(&r, &shape);
    assert_int_equal(exact_solve(&p->p, NULL, &whole, &err), 0);
    assert_int_equal(exact_solve(&p->p, &run, &part, &err), 0);
    assert_true(asked > 0);
    assert_false(part.optimal);
    assert_true(part.bound <= whole.objective);
    assert_true(part.objective >= whole.objective * (1 - 1e-12));
    assert_fits(&p->p, &part.plan);
    exact_done(&whole);
    exact_done(&part);
    problem_free(p);
}

static void test_refuses_by_name(void **unused)
{
    struct random r = {4};
    struct problem_shape shape = {.experts = 17, .ranks = 4, .nodes = 1, .layers = 1, .tokens = 9};
    struct problem *p = problem_new(&r, &shape);
    struct exact_result e;
    struct mt_err err;

    (void)unused;
    assert_int_equal(exact_solve(&p->p, NULL, &e, &err), MT_EUNSUPPORTED);
    assert_string_equal(err.text, "exact: more than 16 experts");
    problem_free(p);
    shape.experts = 4;
    p = problem_new(&r, &shape);
    p->p.homes = PLACE_HOMES_AFFINITY;
    assert_int_equal(exact_solve(&p->p, NULL, &e, &err), MT_EUNSUPPORTED);
    p->p.homes = PLACE_HOMES_LOAD;
    p->p.semantics = PLACE_FLOW;
    assert_int_equal(exact_solve(&p->p, NULL, &e, &err), MT_EUNSUPPORTED);
    problem_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_is_the_best_of_all),
        cmocka_unit_test(test_exact_of_sixteen_cannot_be_improved),
        cmocka_unit_test(test_stopped_search_keeps_a_valid_bound),
        cmocka_unit_test(test_refuses_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
