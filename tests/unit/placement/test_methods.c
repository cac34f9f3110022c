/* Every method on hundreds of random problems (MT_LONG: thousands): a plan that fits, or a refusal
 * that says why; the same plan for the same seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "placement/methods.h"
#include "placement/random.h"

#define MAX_SCENARIOS 3

struct world {
    struct place_problem p;
    struct trace trace[MAX_SCENARIOS];
    double *load[MAX_SCENARIOS];
    struct plan from;
    bool has_from;
};

static double between(struct random *r, double low, double high)
{
    return low + random_unit(r) * (high - low);
}

static void make_cluster(struct random *r, struct place_problem *p)
{
    struct cluster *c = &p->cluster;
    uint32_t kind = random_below(r, 4), spare = random_below(r, 3), total = 0;

    c->nodes = 1 + random_below(r, 3);
    c->ranks = c->nodes * (1 + random_below(r, 4));
    for (uint32_t g = 0; g < c->ranks; g++) {
        c->node[g] = (uint16_t)(g * c->nodes / c->ranks);
        c->slots[g] = (p->experts + c->ranks - 1) / c->ranks + spare;
        if (kind == 0) /* replicas everywhere */
            c->slots[g] = p->experts;
        else if (kind == 1) /* uneven, some without any */
            c->slots[g] = random_below(r, 2 * c->slots[g] + 1);
        total += c->slots[g];
    }
    for (; total < p->experts; total++)
        c->slots[random_below(r, c->ranks)]++;
    c->two_level = random_below(r, 2);
    c->exact_combine = random_below(r, 2);
    c->rank_link = (struct link){between(r, 1e9, 1e11), between(r, 0, 1e-5)};
    c->node_link = (struct link){between(r, 1e8, 1e10), between(r, 0, 1e-5)};
    c->token_expert = between(r, 1e-8, 1e-6);
    c->active_expert = between(r, 0, 1e-5);
    c->dense_step = between(r, 0, 1e-5);
    c->dense_token = between(r, 0, 1e-7);
    c->dispatch_bytes = between(r, 10, 1e4);
    c->combine_bytes = between(r, 10, 1e4);
    c->kv_bytes = between(r, 10, 1e4);
    c->expert_bytes = between(r, 1e3, 1e7);
    c->migration_share = between(r, 0.05, 1);
}

/* kind 0: uniform; 1: the same experts always; 2: skewed. */
static struct trace make_trace(struct random *r, const struct place_problem *p, uint32_t kind)
{
    struct trace t = {.layers = p->layers,
                      .experts = p->experts,
                      .topk = p->topk,
                      .documents = 1 + random_below(r, 3)};
    uint32_t each = 1 + random_below(r, 20);

    t.tokens = t.documents * each;
    t.doc = calloc(t.documents + 1, sizeof *t.doc);
    t.choice = calloc((size_t)t.tokens * t.layers * t.topk, sizeof *t.choice);
    for (uint32_t d = 0; d <= t.documents; d++)
        t.doc[d] = d * each;
    for (uint32_t i = 0; i < t.tokens * t.layers; i++) {
        uint32_t first = kind == 1 ? 0 : random_below(r, p->experts);

        if (kind == 2 && random_below(r, 3))
            first /= 4;
        for (uint32_t k = 0; k < t.topk; k++)
            t.choice[i * t.topk + k] = (uint16_t)((first + k) % p->experts);
    }
    return t;
}

static void make_scenario(struct random *r, struct world *w, uint32_t s, bool paths)
{
    struct place_problem *p = &w->p;
    size_t pairs = (size_t)p->layers * p->experts;
    uint32_t kind = random_below(r, 4);

    w->load[s] = calloc(pairs, sizeof *w->load[s]);
    if (paths) {
        w->trace[s] = make_trace(r, p, kind);
        trace_loads(&w->trace[s], w->load[s]);
    } else /* kind 3: no load at all */
        for (size_t i = 0; i < pairs; i++)
            w->load[s][i] = kind == 3   ? 0
                            : kind == 1 ? i % p->experts < p->topk
                                        : random_unit(r) * p->topk / p->experts;
    p->scenario[s] =
        (struct place_scenario){.name = "x",
                                .phase = random_below(r, 2) ? PLACE_PREFILL : PLACE_DECODE,
                                .share = 1.0 / p->scenarios,
                                .tokens = p->cluster.ranks * (1 + random_below(r, 8)),
                                .trace = paths ? &w->trace[s] : NULL,
                                .load = w->load[s]};
}

static void make_world(struct random *r, struct world *w)
{
    struct place_problem *p = &w->p;
    bool paths = random_below(r, 3) > 0;

    *w = (struct world){0};
    p->layers = 1 + random_below(r, 3);
    p->experts = 1 + random_below(r, random_below(r, 4) ? 9 : 24);
    p->topk = 1 + random_below(r, p->experts < 4 ? p->experts : 4);
    p->prompt_fraction = 0.5;
    p->home_slack = 0.2;
    p->homes = paths && random_below(r, 4) == 0 ? PLACE_HOMES_AFFINITY : PLACE_HOMES_LOAD;
    p->scenarios = 1 + random_below(r, MAX_SCENARIOS);
    make_cluster(r, p);
    for (uint32_t s = 0; s < p->scenarios; s++)
        make_scenario(r, w, s, paths);
    if (p->homes == PLACE_HOMES_AFFINITY) /* documents of one token have no other than prompts */
        for (uint32_t s = 0; s < p->scenarios; s++)
            if (w->trace[s].doc[1] < 2)
                p->homes = PLACE_HOMES_LOAD;
}

static void end_world(struct world *w)
{
    for (uint32_t s = 0; s < w->p.scenarios; s++) {
        trace_done(&w->trace[s]);
        free(w->load[s]);
    }
    plan_done(&w->from);
}

/* The same by hand. */
static void check_fits(const struct place_problem *p, const struct plan *plan)
{
    uint32_t used[3][PLAN_MAX_RANKS] = {{0}};

    assert_int_equal(plan->layers, p->layers);
    assert_int_equal(plan->experts, p->experts);
    assert_int_equal(plan->ranks, p->cluster.ranks);
    assert_int_equal(plan->start[0], 0);
    for (uint32_t i = 0; i < p->layers * p->experts; i++) {
        double share = 0;

        assert_true(plan->start[i] < plan->start[i + 1]);
        for (uint32_t k = plan->start[i]; k < plan->start[i + 1]; k++) {
            assert_true(plan->rank[k] < p->cluster.ranks);
            used[i / p->experts][plan->rank[k]]++;
            for (uint32_t j = plan->start[i]; j < k; j++)
                assert_true(plan->rank[j] != plan->rank[k]);
            if (plan->share)
                assert_true(plan->share[k] >= 0);
            share += plan->share ? plan->share[k] : 0;
        }
        if (plan->share)
            assert_float_equal(share, 1, 1e-4);
    }
    for (uint32_t l = 0; l < p->layers; l++)
        for (uint32_t g = 0; g < p->cluster.ranks; g++)
            assert_true(used[l][g] <= p->cluster.slots[g]);
}

static void check_same(const struct plan *a, const struct plan *b)
{
    size_t pairs = (size_t)a->layers * a->experts;

    assert_memory_equal(a->start, b->start, (pairs + 1) * sizeof *a->start);
    assert_memory_equal(a->rank, b->rank, a->start[pairs] * sizeof *a->rank);
    assert_int_equal(!a->share, !b->share);
    if (a->share)
        assert_memory_equal(a->share, b->share, a->start[pairs] * sizeof *a->share);
}

/* Stops after so many questions: the same each time. */
static bool out_of_patience(void *user)
{
    uint32_t *left = user;

    if (*left)
        --*left;
    return !*left;
}

static int solve(const struct place_method *m, const struct place_problem *p, uint64_t seed,
                 struct place_result *ret, struct mt_err *err)
{
    uint32_t left = 1 + (uint32_t)(seed % 40);
    struct place_run run = {.seed = seed, .iterations = 60, .stop = out_of_patience, .user = &left};

    return m->solve(p, &run, ret, err);
}

/* Whether the method had an answer. */
static bool check_method(const struct place_method *m, const struct place_problem *p, uint64_t seed)
{
    struct place_result got = {0}, again = {0};
    struct mt_err err = {0};
    int rc = solve(m, p, seed, &got, &err);

    if (rc) {
        if (rc != MT_EUNSUPPORTED)
            fail_msg("%s: %s", m->name, err.text);
        assert_true(strlen(err.text) > 10);
        return false;
    }
    assert_int_equal(place_fits(p, &got.plan, NULL), 0);
    check_fits(p, &got.plan);
    assert_string_equal(got.method, m->name);
    assert_true(isfinite(got.objective) && got.objective >= 0);
    if (got.no_bound)
        assert_true(got.bound == 0);
    else
        assert_true(got.bound <= got.objective * (1 + 1e-9));
    assert_non_null(memchr(got.note, 0, sizeof got.note));
    if (seed % 4 == 0) {
        assert_int_equal(solve(m, p, seed, &again, NULL), 0);
        check_same(&got.plan, &again.plan);
        assert_true(got.objective == again.objective);
        plan_done(&again.plan);
    }
    plan_done(&got.plan);
    return true;
}

static void test_random_problems(void **unused)
{
    uint32_t answers[32] = {0}, rounds = getenv("MT_LONG") ? 2000 : 500;

    (void)unused;
    for (uint32_t round = 0; round < rounds; round++) {
        struct random r = {round};
        struct world w;

        make_world(&r, &w);
        if (round % 5 == 0) { /* an incumbent, and migration that costs */
            struct place_run run = {.seed = round};
            struct place_result old = {0};

            assert_int_equal(random_solve(&w.p, &run, &old, NULL), 0);
            w.from = old.plan;
            w.p.from = &w.from;
            w.p.horizon = 1e6;
        }
        w.p.semantics = round % 6 ? PLACE_HOME : PLACE_FLOW;
        for (uint32_t m = 0; PLACE_METHODS[m].name && m < 32; m++)
            answers[m] += check_method(&PLACE_METHODS[m], &w.p, round);
        end_world(&w);
    }
    for (uint32_t m = 0; PLACE_METHODS[m].name && m < 32; m++)
        if (answers[m] < rounds * 3 / 20)
            fail_msg("%s: refused nearly everything", PLACE_METHODS[m].name);
}

static void test_table(void **unused)
{
    (void)unused;
    for (uint32_t m = 0; PLACE_METHODS[m].name; m++) {
        assert_true(strlen(PLACE_METHODS[m].help) > 10);
        for (uint32_t k = 0; k < m; k++)
            assert_string_not_equal(PLACE_METHODS[m].name, PLACE_METHODS[k].name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_random_problems),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
