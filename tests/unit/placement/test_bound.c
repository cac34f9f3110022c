/* Bounds against every placement there is, and against plans that a search finds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "placement/bound.h"
#include "placement/cover.h"
#include "placement/exact.h"
#include "placement/layer_cost.h"
#include "placement/overlap.h"
#include "placement/pricing.h"
#include "problems.h"

static struct bound solve(const struct place_problem *p, const struct plan *best,
                          const struct place_run *run)
{
    struct bound b;
    struct mt_err err;

    if (bound_solve(p, best, run, &b, &err))
        fail_msg("%s", err.text);
    return b;
}

static void assert_below(double bound, double cost)
{
    if (!(bound <= cost * (1 + 1e-9)))
        fail_msg("bound %.17g is above %.17g", bound, cost);
}

/* Experts of a rank that are spread at random, then exchanged while that helps. */
static struct plan local_optimum(struct random *r, const struct place_problem *p)
{
    struct plan plan = {.layers = p->layers, .experts = p->experts, .ranks = p->cluster.ranks};
    size_t pairs = (size_t)p->layers * p->experts;

    plan.start = calloc(pairs + 1, sizeof *plan.start);
    plan.rank = calloc(pairs, sizeof *plan.rank);
    assert_non_null(plan.start);
    assert_non_null(plan.rank);
    for (uint32_t i = 0; i <= pairs; i++)
        plan.start[i] = i;
    for (uint32_t l = 0; l < p->layers; l++) {
        uint16_t *rank = plan.rank + (size_t)l * p->experts;
        double cost, now;
        struct mt_err err;

        for (uint32_t e = 0, g = 0, held = 0; e < p->experts; e++, held++) {
            while (held == p->cluster.slots[g]) {
                g++;
                held = 0;
            }
            rank[e] = (uint16_t)g;
        }
        assert_int_equal(layer_cost_plan(p, l, rank, &cost, &err), 0);
        for (int i = 0; i < 400; i++) {
            uint32_t a = random_below(r, p->experts), b = random_below(r, p->experts);
            uint16_t keep = rank[a];

            rank[a] = rank[b];
            rank[b] = keep;
            assert_int_equal(layer_cost_plan(p, l, rank, &now, &err), 0);
            if (now <= cost) {
                cost = now;
                continue;
            }
            rank[b] = rank[a];
            rank[a] = keep;
        }
    }
    return plan;
}

static void test_bound_of_few_experts_is_the_optimum(void **unused)
{
    struct random r = {11};

    (void)unused;
    for (int round = 0; round < 60; round++) {
        struct problem_shape shape = {.ranks = 1 + random_below(&r, 3), .tokens = 30};
        struct problem *p;
        struct bound b;
        double best;

        shape.experts = shape.ranks * (1 + random_below(&r, 2));
        shape.nodes = 1 + random_below(&r, shape.ranks);
        shape.layers = 1 + random_below(&r, 2);
        p = problem_new(&r, &shape);
        b = solve(&p->p, NULL, NULL);
        assert_null(b.missing);
        assert_true(b.exact);
        best = problem_best(&p->p);
        assert_below(b.value, best);
        assert_below(best, b.value);
        problem_free(p);
    }
}

static bool few_times(void *left)
{
    return (*(int *)left)-- <= 0;
}

/* More experts than are solved exactly: the programme, all shapes, stopped at any time. */
static void test_bound_is_below_the_best_known(void **unused)
{
    struct random r = {12};

    (void)unused;
    for (int round = 0; round < 40; round++) {
        static const uint32_t RANKS[] = {2, 3, 4, 6, 9, 18};
        struct problem_shape shape = {.experts = 18, .layers = 1, .tokens = 60};
        struct problem *p;
        struct plan plan;
        struct bound whole, part;
        int left = (int)random_below(&r, 60), more = 1500;
        struct place_run run = {.stop = few_times, .user = &left, .gap = 0.005};
        double cost;

        shape.ranks = RANKS[random_below(&r, 6)];
        shape.nodes = 1 + random_below(&r, 3);
        shape.nodes = shape.nodes < shape.ranks ? shape.nodes : shape.ranks;
        p = problem_new(&r, &shape);
        plan = local_optimum(&r, &p->p);
        cost = problem_score(&p->p, &plan);
        part = solve(&p->p, &plan, &run);
        run.user = &more;
        whole = solve(&p->p, round % 4 ? &plan : NULL, &run);
        assert_null(whole.missing);
        assert_true(whole.value > 0);
        assert_below(whole.value, cost);
        assert_below(part.value, cost);
        plan_done(&plan);
        problem_free(p);
    }
}

/* The programme on problems that are small enough for the exact solver, by 17 experts of which one
 * is never chosen: it may go anywhere that has room. */
static void test_bound_is_below_the_optimum(void **unused)
{
    struct random r = {13};

    (void)unused;
    for (int round = 0; round < 24; round++) {
        struct problem_shape shape = {.experts = 16, .ranks = 4, .nodes = 1, .layers = 1};
        struct problem *p;
        struct exact_result e;
        struct bound b;
        struct mt_err err;
        struct cover c;
        double sum = 0;
        int left = 1500;
        struct place_run run = {.stop = few_times, .user = &left};

        shape.ranks = round % 3 ? 4 : 8;
        shape.nodes = 1 + (uint32_t)round % 2;
        shape.tokens = 200;
        p = problem_new(&r, &shape);
        assert_int_equal(exact_solve(&p->p, NULL, &e, &err), 0);
        assert_int_equal(bound_programme(&p->p, 0, &e.plan, &run, &b, &err), 0);
        assert_below(b.value, e.objective);
        assert_int_equal(cover_new(&p->p, 0, &c, &err), 0);
        for (uint32_t i = 0; i < 16; i++)
            sum += c.compute[i];
        assert_true(b.value * (1 + 1e-9) >= c.constant + sum / shape.ranks + c.scale / shape.ranks);
        cover_done(&c);
        exact_done(&e);
        problem_free(p);
    }
}

/* Least reduced cost and its set, by trying all. */
static double price_all(const struct cover *c, const struct pricing *p, const double *pi)
{
    uint64_t *scratch = calloc(c->words + 1, sizeof *scratch);
    double least = 1e300;

    assert_non_null(scratch);
    for (uint32_t set = 0; set < 1u << c->experts; set++) {
        uint16_t expert[32];
        double f, cost, compute = 0;
        uint32_t n = 0;

        if ((uint32_t)__builtin_popcount(set) != p->size)
            continue;
        for (uint32_t e = 0; e < c->experts; e++)
            if (set >> e & 1)
                expert[n++] = (uint16_t)e;
        cost = f = cover_of(c, expert, n, scratch);
        for (uint32_t k = 0; k < n; k++) {
            cost -= pi[expert[k]];
            compute += c->compute[expert[k]];
        }
        if (compute <= p->window.most && compute >= p->window.least && f <= p->window.cap &&
            cost < least)
            least = cost;
    }
    free(scratch);
    return least;
}

static void test_exact_pricing_finds_the_least(void **unused)
{
    struct random r = {14};

    (void)unused;
    for (int round = 0; round < 300; round++) {
        struct problem_shape shape = {.experts = 8 + random_below(&r, 5), .ranks = 2, .nodes = 1};
        double pi[32], sum = 0, most = 0, least, found;
        struct problem *p;
        struct cover c;
        struct pricing x;
        struct mt_err err;

        shape.layers = 1;
        shape.tokens = 300;
        p = problem_new(&r, &shape);
        assert_int_equal(cover_new(&p->p, 0, &c, &err), 0);
        assert_int_equal(pricing_new(&c, 1 + random_below(&r, 6), &x, &err), 0);
        for (uint32_t e = 0; e < shape.experts; e++) {
            pi[e] = random_unit(&r) * (round % 5 ? 0.4 : 4);
            sum += c.compute[e];
            most = c.compute[e] > most ? c.compute[e] : most;
        }
        x.window = (struct pricing_window){-1e300, 1e300, 1e300};
        x.max_nodes = UINT64_MAX;
        if (round % 2) {
            double mean = sum / shape.experts * x.size;

            x.window =
                (struct pricing_window){mean * (1 - 0.5 * random_unit(&r)),
                                        mean * (1 + 0.5 * random_unit(&r)), 0.3 + random_unit(&r)};
        }
        least = price_all(&c, &x, pi);
        found = pricing_exact(&x, pi, 1e6);
        if (least > 1e200) {
            assert_int_equal(x.found, 0);
        } else {
            assert_true(found <= least + 1e-12 && found >= least - 1e-8);
            assert_true(x.found > 0);
        }
        /* Cut short, it still is a bound. */
        x.max_nodes = 1024;
        assert_true(pricing_exact(&x, pi, 1e6) <= least + 1e-12);
        pricing_done(&x);
        cover_done(&c);
        problem_free(p);
    }
}

/* Loads alone: with replicas too, and attained where all experts are alike. */
static void test_loads_only(void **unused)
{
    struct random r = {15};

    (void)unused;
    for (int round = 0; round < 100; round++) {
        struct problem_shape shape = {.experts = 20, .ranks = 5, .nodes = 1, .layers = 2};
        struct problem *p;
        struct plan plan;
        struct bound b;

        shape.tokens = 50;
        shape.spare = random_below(&r, 3);
        shape.loads_only = true;
        p = problem_new(&r, &shape);
        plan = local_optimum(&r, &p->p);
        b = solve(&p->p, &plan, NULL);
        assert_null(b.missing);
        assert_true(b.value > 0);
        assert_below(b.value, problem_score(&p->p, &plan));
        plan_done(&plan);
        problem_free(p);
    }
}

static void test_says_what_is_missing(void **unused)
{
    struct random r = {16};
    struct problem_shape shape = {.experts = 6, .ranks = 3, .nodes = 1, .layers = 1, .tokens = 9};
    struct problem *p = problem_new(&r, &shape);

    (void)unused;
    p->p.scenario[0].trace = &p->trace[0];
    p->p.cluster.slots[0]++;
    assert_non_null(solve(&p->p, NULL, NULL).missing);
    p->p.cluster.slots[0]--;
    assert_null(solve(&p->p, NULL, NULL).missing);
    p->p.homes = PLACE_HOMES_AFFINITY;
    assert_non_null(solve(&p->p, NULL, NULL).missing);
    p->p.homes = PLACE_HOMES_LOAD;
    p->p.semantics = PLACE_FLOW;
    assert_non_null(solve(&p->p, NULL, NULL).missing);
    problem_free(p);
}

static void test_overlap_counts_bits(void **unused)
{
    struct random r = {17};
    uint64_t a[40], rows[8 * 40];
    uint16_t expert[8] = {3, 1, 0, 7, 2, 6, 5, 4};
    uint32_t count[8];

    (void)unused;
    for (size_t i = 0; i < 40; i++)
        a[i] = random_next(&r);
    for (size_t i = 0; i < 8 * 40; i++)
        rows[i] = random_next(&r);
    for (size_t n = 0; n <= 40; n++) {
        overlap_count(a, rows, 40, expert, 8, n, count);
        for (uint32_t k = 0; k < 8; k++) {
            uint32_t sum = 0;

            for (size_t i = 0; i < 64 * n; i++)
                sum += a[i / 64] >> i % 64 & rows[expert[k] * 40 + i / 64] >> i % 64 & 1;
            assert_int_equal(count[k], sum);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bound_of_few_experts_is_the_optimum),
        cmocka_unit_test(test_bound_is_below_the_best_known),
        cmocka_unit_test(test_bound_is_below_the_optimum),
        cmocka_unit_test(test_exact_pricing_finds_the_least),
        cmocka_unit_test(test_loads_only),
        cmocka_unit_test(test_says_what_is_missing),
        cmocka_unit_test(test_overlap_counts_bits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
