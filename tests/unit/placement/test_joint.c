/* The joint method as a whole: a result depends on the seed alone, not on the machine; it fits, and
 * is no worse than the incumbent; it ends when it is told to; odd shapes, and no memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/methods.h"
#include "placement/score.h"
#include "placement/search.h"
#include "searched.h"

#define FEW 400 /* moves */

static const struct bits *forced_bits;

/* In place of the library's: the same plan whatever the machine has. */
const struct bits *bits_get(void)
{
    return forced_bits ? forced_bits : &bits_portable;
}

/* The linker puts these before malloc and the rest (Makefile), by its names.
 * NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */
static struct {
    size_t now, peak;
    uint64_t calls, fail_at; /* 0: never */
    bool all_after;
} heap;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);

static bool refused(void)
{
    heap.calls++;
    return heap.fail_at &&
           (heap.calls == heap.fail_at || (heap.all_after && heap.calls > heap.fail_at));
}

static void *counted(void *p)
{
    heap.now += malloc_usable_size(p);
    heap.peak = heap.now > heap.peak ? heap.now : heap.peak;
    return p;
}

void *__wrap_malloc(size_t n)
{
    return refused() ? NULL : counted(__real_malloc(n));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return refused() ? NULL : counted(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t n)
{
    size_t was = p ? malloc_usable_size(p) : 0;
    void *q = refused() ? NULL : __real_realloc(p, n);

    if (q) {
        heap.now -= was;
        counted(q);
    }
    return q;
}

void __wrap_free(void *p)
{
    heap.now -= p ? malloc_usable_size(p) : 0;
    __real_free(p);
}
/* NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */

static void check_same(const struct plan *a, const struct plan *b)
{
    size_t pairs = (size_t)a->layers * a->experts;

    assert_memory_equal(a->start, b->start, (pairs + 1) * sizeof *a->start);
    assert_memory_equal(a->rank, b->rank, a->start[pairs] * sizeof *a->rank);
    assert_int_equal(!a->share, !b->share);
    if (a->share)
        assert_memory_equal(a->share, b->share, a->start[pairs] * sizeof *a->share);
}

static double score(const struct place_problem *p, const struct plan *plan,
                    enum score_evaluation how)
{
    struct score *s = calloc(1, sizeof *s);
    struct mt_err err;
    double j;

    assert_non_null(s);
    assert_int_equal(score_plan(p, plan, how, s, &err), 0);
    j = s->j;
    free(s);
    return j;
}

static struct place_result solve(const struct place_problem *p, const struct place_run *run)
{
    struct place_result r = {0};
    struct mt_err err = {0};

    if (place_check(p, &err) || joint_solve(p, run, &r, &err))
        fail_msg("%s", err.text);
    if (place_fits(p, &r.plan, &err))
        fail_msg("%s", err.text);
    assert_float_equal(r.objective, score(p, &r.plan, SCORE_FLUID), 1e-12);
    assert_true(isfinite(r.objective) && r.objective >= 0);
    return r;
}

static bool variant(uint32_t i)
{
    forced_bits = i == 0 ? &bits_portable : NULL;
#if defined __x86_64__
    if (i == 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt"))
        forced_bits = &bits_avx2;
    if (i == 2 && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vpopcntdq"))
        forced_bits = &bits_avx512;
#endif
    return forced_bits != NULL;
}

static void a_plan_depends_on_the_seed_alone(void **state)
{
    struct random r = {1};

    (void)state;
    for (uint32_t i = 0; i < 40; i++) {
        struct searched how = searched_random(&r);
        struct place_run run = {.seed = i, .iterations = i % 4 ? FEW : 20 * FEW, .plain = i % 3};
        struct place_result first;
        struct example e;

        how.layers = 1 + random_below(&r, 2);
        searched_make(&r, &how, &e);
        assert_true(variant(0));
        first = solve(&e.p, &run);
        for (uint32_t k = 0; k < 3; k++) {
            struct place_result again;

            if (!variant(k))
                continue;
            again = solve(&e.p, &run);
            check_same(&first.plan, &again.plan);
            assert_true(first.objective == again.objective);
            assert_int_equal(first.iterations, again.iterations);
            place_result_done(&again);
        }
        place_result_done(&first);
        example_done(&e);
    }
    variant(0);
}

static void nothing_replaces_a_better_incumbent(void **state)
{
    struct random r = {2};
    uint32_t kept = 0, fluid_worse = 0;

    (void)state;
    for (uint32_t i = 0; i < 80; i++) {
        struct searched how = searched_random(&r);
        struct place_run run = {.seed = i, .iterations = FEW, .plain = i % 2};
        struct place_result first, second;
        struct example e;
        double before;

        how.from = true;
        searched_make(&r, &how, &e);
        e.p.horizon = i % 3 ? pow(10, i % 9) : 0;
        before = score(&e.p, &e.from, SCORE_SAMPLED);
        first = solve(&e.p, &run);
        assert_true(score(&e.p, &first.plan, SCORE_SAMPLED) <= before);
        fluid_worse += first.objective > score(&e.p, &e.from, SCORE_FLUID) * (1 + 1e-9);
        e.p.from = &first.plan; /* and what was found is an incumbent itself */
        e.p.horizon = 1e-3;
        second = solve(&e.p, &run);
        assert_true(score_migration(&e.p.cluster, &first.plan, &second.plan) <= 0);
        kept++;
        place_result_done(&first);
        place_result_done(&second);
        example_done(&e);
    }
    print_message("worse than the incumbent by the fluid evaluation: %u of %u\n", fluid_worse,
                  kept);
}

/* With a horizon without end the incumbent is a start and no more: the same J, but for what a short
 * search misses from one start or the other. */
static void a_long_horizon_makes_moves_free(void **state)
{
    struct random r = {3};
    uint32_t near = 0;

    (void)state;
    for (uint32_t i = 0; i < 40; i++) {
        struct searched how = searched_random(&r);
        struct place_run run = {.seed = i, .iterations = 20 * FEW, .plain = true};
        struct place_result a, b;
        struct example e;

        how.from = true;
        how.affinity = false;
        searched_make(&r, &how, &e);
        e.p.horizon = 1e18;
        a = solve(&e.p, &run);
        e.p.from = NULL;
        b = solve(&e.p, &run);
        near += score(&e.p, &a.plan, SCORE_SAMPLED) < 1.1 * score(&e.p, &b.plan, SCORE_SAMPLED);
        place_result_done(&a);
        place_result_done(&b);
        example_done(&e);
    }
    assert_true(near >= 37);
}

struct patience {
    uint64_t asked, enough;
};

static bool out_of_patience(void *user)
{
    struct patience *p = user;

    return ++p->asked > p->enough;
}

static void it_ends_when_told_to(void **state)
{
    struct random r = {4};

    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        struct searched how = searched_random(&r);
        struct patience p = {0, UINT64_MAX};
        struct place_run run = {
            .seed = i, .stop = out_of_patience, .user = &p, .plain = i % 3 == 0};
        struct example e;

        how.layers = 2;
        searched_make(&r, &how, &e);
        for (uint64_t k = 0; k < 2000; k += 1 + k * (4 + i) / 6) {
            struct place_result got;

            p = (struct patience){0, k};
            got = solve(&e.p, &run);
            assert_true(p.asked < k + 400); /* it does not go on for long */
            place_result_done(&got);
        }
        example_done(&e);
    }
}

static void check_shape(struct random *r, const struct searched *how)
{
    struct place_run run = {.seed = 1, .iterations = FEW};
    struct place_result got;
    struct example e;

    searched_make(r, how, &e);
    got = solve(&e.p, &run);
    place_result_done(&got);
    example_done(&e);
}

static void odd_shapes_are_solved(void **state)
{
    static const struct searched SHAPES[] = {
        /* layers, experts, top k, ranks, nodes, slots, documents, longest, tokens, scenarios */
        {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, .phases = SEARCHED_BOTH},      /* one of everything */
        {1, 1, 1, 8, 2, 1, 1, 4, 8, 1, .phases = SEARCHED_BOTH},      /* one expert, everywhere */
        {1, 7, 2, 3, 1, 0, 5, 20, 9, 2, .phases = SEARCHED_BOTH},     /* no division without rest */
        {2, 3, 1, 8, 2, 0, 5, 20, 16, 2, .phases = SEARCHED_BOTH},    /* fewer experts than ranks */
        {2, 6, 2, 1, 1, 0, 5, 20, 8, 2, .phases = SEARCHED_BOTH},     /* one rank */
        {2, 6, 2, 1, 1, 6, 5, 20, 8, 1, .phases = SEARCHED_DECODE},   /* ... */
        {1, 12, 4, 4, 2, 0, 1, 200, 1, 1, .phases = SEARCHED_BOTH},   /* one document, one token */
        {1, 12, 4, 4, 2, 12, 30, 20, 16, 3, .phases = SEARCHED_BOTH}, /* replicas everywhere */
        {1, 12, 12, 4, 1, 4, 9, 20, 16, 2, .phases = SEARCHED_BOTH},  /* every expert is chosen */
        {1, 9, 3, 6, 3, 3, 9, 20, 16, 2, SEARCHED_BOTH, true, true, .affinity = true},
        {1, 20, 3, 6, 3, 4, 9, 20, 16, 3, SEARCHED_BOTH, true, .from = true, .uneven = true},
        {1, 20, 3, 6, 3, 6, 9, 20, 16, 3, SEARCHED_BOTH, .shared = true, .uneven = true},
        {1, 16, 2, 5, 2, 5, 3, 30, 4096, 2, .phases = SEARCHED_BOTH}, /* more than the trace has */
    };
    struct random r = {5};

    (void)state;
    for (uint32_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
        for (uint32_t k = 0; k < 3; k++)
            check_shape(&r, &SHAPES[i]);
}

/* Loads without paths; in some layer, all on one expert, or none at all. */
static void loads_alone_are_enough(void **state)
{
    struct random r = {6};

    (void)state;
    for (uint32_t i = 0; i < 60; i++) {
        struct searched how = searched_random(&r);
        struct place_run run = {.seed = i, .iterations = FEW};
        struct place_result got = {0};
        struct example e;
        struct mt_err err;

        how.affinity = false;
        searched_make(&r, &how, &e);
        for (uint32_t s = 0; s < e.p.scenarios; s++)
            if (i % 4 || s)
                e.p.scenario[s].trace = NULL;
        if (i % 5 == 0) /* place_check would refuse it; it must do no harm */
            memset(e.load[0], 0, how.experts * sizeof *e.load[0]);
        assert_int_equal(joint_solve(&e.p, &run, &got, &err), 0);
        assert_int_equal(place_fits(&e.p, &got.plan, &err), 0);
        place_result_done(&got);
        example_done(&e);
    }
}

static void many_ranks_need_bounded_memory(void **state)
{
    static const struct searched HOW = {.layers = 1,
                                        .experts = 250,
                                        .topk = 2,
                                        .ranks = 256,
                                        .nodes = 32,
                                        .slots = 1,
                                        .documents = 10,
                                        .longest = 40,
                                        .tokens = 512,
                                        .scenarios = 2,
                                        .phases = SEARCHED_BOTH,
                                        .two_level = true};
    struct place_run run = {.seed = 1, .iterations = 1, .plain = true};
    struct random r = {7};
    struct place_result got;
    struct example e;
    size_t before;

    (void)state;
    searched_make(&r, &HOW, &e);
    before = heap.now;
    heap.peak = heap.now;
    got = solve(&e.p, &run);
    print_message("256 ranks, 256 slots: %zu MiB\n", (heap.peak - before) >> 20);
    assert_true(heap.peak - before < 256u << 20);
    place_result_done(&got);
    example_done(&e);
}

/* What a test of no memory runs: 0, or an error. */
typedef int attempt(const struct example *e, struct mt_err *reterr);

static int joint_attempt(const struct example *e, struct mt_err *reterr)
{
    struct place_run run = {.seed = 1, .iterations = 40, .plain = e->p.layers == 1};
    struct place_result got = {0};
    int rc = joint_solve(&e->p, &run, &got, reterr);

    assert_true(!rc || !got.plan.start);
    place_result_done(&got);
    return rc;
}

static int search_attempt(const struct example *e, struct mt_err *reterr)
{
    struct search_rule rule = {{0.25, 8, 16}, 1, false};
    struct place_run run = {0};
    uint64_t left = 100, tried = 0;
    struct plan plan = {0};
    struct search *s;
    int rc = search_new(&e->p, &rule, NULL, &e->from, 1, &s, reterr);

    if (rc)
        return rc;
    search_round(s, 20, &run, &left, &tried);
    rc = search_plan(s, &plan, reterr);
    search_free(s);
    plan_done(&plan);
    return rc;
}

/* Every allocation fails alone, or with all that follow. */
static void starve(const struct searched *how, attempt *run)
{
    struct random r = {8};
    struct mt_err err;
    struct example e;
    uint64_t calls;

    searched_make(&r, how, &e);
    heap.calls = 0;
    assert_int_equal(run(&e, &err), 0);
    calls = heap.calls;
    for (uint64_t k = 1; k <= calls; k += 1 + k / 200) {
        size_t before = heap.now;
        int rc;

        heap.calls = 0;
        heap.all_after = k % 2;
        heap.fail_at = k;
        err.text[0] = 0;
        rc = run(&e, &err);
        heap.fail_at = 0;
        if (rc != MT_ENOMEM || strlen(err.text) < 5)
            fail_msg("allocation %llu: %d, %s", (unsigned long long)k, rc, err.text);
        assert_int_equal(heap.now, before);
    }
    example_done(&e);
}

/* Not where lp_solve is called, which does not look at what malloc returns. */
static void no_memory_is_an_error_and_no_leak(void **state)
{
    static const struct searched HOMES = {
        2, 6, 2, 3, 2, 2, 3, 12, 6, 2, SEARCHED_BOTH, true, true, .from = true, .affinity = true};
    static const struct searched LOAD = {1, 6, 2, 3, 1, 2, 3, 12, 6, 2, .phases = SEARCHED_BOTH};
    static const struct searched FOLDS = {2, 6, 2, 3, 1, 2, 3, 12, 6, 2, .phases = SEARCHED_BOTH};
    static const struct searched SPARE = {2,           6, 2, 3, 2, 3, 3, 12, 6, 2, SEARCHED_BOTH,
                                          .from = true};

    (void)state;
    starve(&HOMES, joint_attempt);
    starve(&LOAD, joint_attempt);
    starve(&FOLDS, joint_attempt);
    starve(&SPARE, search_attempt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_depends_on_the_seed_alone),
        cmocka_unit_test(nothing_replaces_a_better_incumbent),
        cmocka_unit_test(a_long_horizon_makes_moves_free),
        cmocka_unit_test(it_ends_when_told_to),
        cmocka_unit_test(odd_shapes_are_solved),
        cmocka_unit_test(loads_alone_are_enough),
        cmocka_unit_test(many_ranks_need_bounded_memory),
        cmocka_unit_test(no_memory_is_an_error_and_no_leak),
    };

    return cmocka_run_group_tests_name("joint", tests, NULL, NULL);
}
