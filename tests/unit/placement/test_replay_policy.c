/* Policies of a replay: when they are asked, and what their answers do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "placement/replay.h"
#include "tests/unit/placement/example.h"

static struct random rng = {11};

/* Slots for every expert on every rank. */
static struct place_problem make_problem(const struct trace *t, uint32_t ranks)
{
    struct place_problem p = {.layers = t->layers,
                              .experts = t->experts,
                              .topk = t->topk,
                              .cluster = example_cluster(&rng, ranks, 1),
                              .prompt_fraction = 0.5};

    return p;
}

static struct plan random_plan(const struct place_problem *p)
{
    return example_plan(&rng, p->layers, p->experts, p->cluster.ranks, EXAMPLE_REPLICAS);
}

static int at_change(void *user, const struct replay_view *now, struct replay_answer *ret,
                     struct mt_err *reterr)
{
    uint32_t *asked = user;

    (void)ret;
    (void)reterr;
    assert_true(now->changed);
    assert_int_equal(now->segment, *asked);
    assert_int_equal(now->domain, *asked % 2);
    (*asked)++;
    return 0;
}

static void test_asked_at_changes(void **unused)
{
    struct trace a = example_trace(&rng, 1, 4, 1, 7, 20), b = example_trace(&rng, 1, 4, 1, 3, 20);
    const struct trace *domain[] = {&a, &b};
    struct replay_segment day[] = {{0, 90, 0}, {1, 50, 0}, {0, 0, 1e-3}};
    struct place_problem p = make_problem(&a, 2);
    struct plan plan = random_plan(&p);
    uint32_t asked = 0;
    struct replay r = {.domains = 2,
                       .domain = domain,
                       .segments = 3,
                       .segment = day,
                       .sequences = 4,
                       .step_tokens = 8,
                       .at_changes = true,
                       .resolve = at_change,
                       .user = &asked};
    struct replay_totals got;

    (void)unused;
    assert_int_equal(replay_run(&p, &r, &plan, &got, NULL), 0);
    assert_int_equal(asked, 3);
    assert_int_equal(got.resolves, 3);
    plan_done(&plan);
    trace_done(&a);
    trace_done(&b);
}

/* A method that wants the plan mirrored, once. */
static int mirror(const struct place_problem *p, const struct place_run *run,
                  struct place_result *ret, struct mt_err *reterr)
{
    uint32_t *calls = run->user;
    uint32_t copies = p->from->start[p->layers * p->experts];
    int rc;

    assert_int_equal(p->scenarios, 1);
    assert_true(p->scenario[0].tokens >= 1 && p->scenario[0].tokens <= 8);
    assert_true(p->horizon == 123 && p->scenario[0].trace->tokens <= 50);
    rc = plan_copy(p->from, &ret->plan, reterr);
    if (!rc && !(*calls)++)
        for (uint32_t i = 0; i < copies; i++)
            ret->plan.rank[i] = (uint16_t)(p->cluster.ranks - 1 - ret->plan.rank[i]);
    return rc;
}

static void test_method(void **unused)
{
    struct trace t = example_trace(&rng, 2, 8, 2, 20, 40);
    const struct trace *domain[] = {&t};
    struct place_problem p = make_problem(&t, 4);
    struct place_method method = {"mirror", "", mirror};
    uint32_t calls = 0;
    struct replay_policy policy = {
        .problem = &p, .method = &method, .run = {.user = &calls}, .horizon = 123};
    struct replay r = {.domains = 1,
                       .domain = domain,
                       .sequences = 8,
                       .step_tokens = 2,
                       .every_tokens = 50,
                       .window = 50,
                       .resolve = replay_solve,
                       .user = &policy};
    struct plan plan;
    struct replay_totals got;

    (void)unused;
    p.cluster.expert_bytes = 1000;
    assert_int_equal(plan_contiguous(2, 8, 4, &plan, NULL), 0);
    assert_int_equal(replay_run(&p, &r, &plan, &got, NULL), 0);
    assert_true(calls > 2);
    assert_int_equal(got.migrations, 1);
    assert_true(got.moved_bytes == 16 * 1000);
    plan_done(&plan);
    trace_done(&t);
}

/* The clairvoyant has a domain's plan from its first step on, for nothing. */
static void test_clairvoyant(void **unused)
{
    struct trace a = example_trace(&rng, 2, 8, 2, 20, 40), b = example_trace(&rng, 2, 8, 2, 20, 40);
    const struct trace *domain[] = {&a, &b};
    struct replay_segment day[] = {{1, 400, 0}, {0, 400, 0}};
    struct place_problem p = make_problem(&a, 4);
    struct plan start = random_plan(&p), known[] = {random_plan(&p), random_plan(&p)};
    struct replay_policy policy = {.problem = &p, .known = known};
    struct replay r = {.domains = 2,
                       .domain = domain,
                       .segments = 1,
                       .segment = day,
                       .sequences = 8,
                       .step_tokens = 8,
                       .at_changes = true,
                       .resolve = replay_known,
                       .user = &policy};
    struct replay_totals got, plain, both;

    (void)unused;
    assert_int_equal(replay_run(&p, &r, &start, &got, NULL), 0);
    assert_true(got.resolves == 1 && got.migrations == 0 && got.slowed == 0);
    r.segments = 2;
    assert_int_equal(replay_run(&p, &r, &start, &both, NULL), 0);
    assert_true(both.resolves == 2 && both.migrations == 0 && both.slowed == 0);
    r.segments = 1;
    r.resolve = NULL;
    assert_int_equal(replay_run(&p, &r, &known[1], &plain, NULL), 0);
    got.resolves = 0;
    assert_memory_equal(&got, &plain, sizeof got);
    plan_done(&start);
    plan_done(&known[0]);
    plan_done(&known[1]);
    trace_done(&a);
    trace_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_asked_at_changes),
        cmocka_unit_test(test_method),
        cmocka_unit_test(test_clairvoyant),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
