/* What a placement is worth: score.h against a recount from the objective's text, examples worked
 * by hand, and what must hold of any problem. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "example.h"
#include "placement/homes.h"
#include "placement/score.h"
#include "recount.h"

static void close_to(const char *what, int round, double found, double expected)
{
    double scale = fmax(fabs(found), fabs(expected));

    if (!(fabs(found - expected) <= 1e-9 * scale + 1e-300))
        fail_msg("round %d: %s: expected %.17g, found %.17g", round, what, expected, found);
}

static void assert_terms(int round, const struct step_terms *a, const struct step_terms *b)
{
    close_to("dense", round, a->dense, b->dense);
    close_to("dispatch", round, a->dispatch, b->dispatch);
    close_to("compute", round, a->compute, b->compute);
    close_to("combine", round, a->combine, b->combine);
}

static void assert_same(int round, const struct score *a, const struct score *b)
{
    for (uint32_t i = 0; i < a->scenarios; i++) {
        const struct score_scenario *x = &a->scenario[i], *y = &b->scenario[i];

        assert_terms(round, &x->terms, &y->terms);
        close_to("step", round, x->step, y->step);
        close_to("load of a scenario", round, x->load, y->load);
        close_to("worst load of a scenario", round, x->load_worst, y->load_worst);
        close_to("straggler of a scenario", round, x->straggler, y->straggler);
        close_to("active", round, x->active, y->active);
        close_to("ranks of a scenario", round, x->ranks, y->ranks);
        close_to("remote of a scenario", round, x->remote, y->remote);
        close_to("local of a scenario", round, x->local, y->local);
        close_to("tokens", round, x->tokens, y->tokens);
        assert_int_equal(x->steps, y->steps);
    }
    close_to("tokens_seconds", round, a->tokens_seconds, b->tokens_seconds);
    close_to("migration", round, a->migration, b->migration);
    close_to("kv_moves", round, a->kv_moves, b->kv_moves);
    close_to("j", round, a->j, b->j);
    close_to("load", round, a->load, b->load);
    close_to("load_worst", round, a->load_worst, b->load_worst);
    close_to("straggler", round, a->straggler, b->straggler);
    close_to("ranks", round, a->ranks, b->ranks);
    close_to("remote", round, a->remote, b->remote);
    close_to("local", round, a->local, b->local);
}

static struct score score(const struct place_problem *p, const struct plan *plan,
                          enum score_evaluation how)
{
    struct score s;
    struct mt_err err;

    if (score_plan(p, plan, how, &s, &err))
        fail_msg("%s", err.text);
    return s;
}

static void compare(int round, struct example *s, enum score_evaluation how)
{
    uint16_t *homes[EXAMPLE_SCENARIOS] = {NULL};
    struct score found = score(&s->p, &s->plan, how), expected;
    struct mt_err err;

    for (uint32_t i = 0; i < s->p.scenarios; i++) {
        homes[i] = calloc(s->trace[i].documents, sizeof *homes[i]);
        assert_non_null(homes[i]);
        assert_int_equal(homes_affinity(&s->p, &s->trace[i], &s->plan, homes[i], &err), 0);
    }
    recount_score(&s->p, &s->plan, how, homes, &expected);
    assert_same(round, &found, &expected);
    for (uint32_t i = 0; i < s->p.scenarios; i++)
        free(homes[i]);
}

/* Documents of one token have nothing after the prompt: then there is nothing to decode. */
static bool has_decode(const struct example *s)
{
    bool all = true;

    for (uint32_t i = 0; i < s->p.scenarios; i++) {
        const struct trace *t = &s->trace[i];
        bool any = s->p.scenario[i].phase == PLACE_PREFILL;

        for (uint32_t d = 0; d < t->documents; d++) {
            uint32_t length = t->doc[d + 1] - t->doc[d];

            any |= homes_prompt(&s->p, length) < length;
        }
        all &= any;
    }
    return all;
}

static void test_recount(void **unused)
{
    struct random r = {1};
    int refused = 0;

    (void)unused;
    for (int round = 0; round < 900; round++) {
        struct example s;

        example_make(&r, round % 3, &s);
        compare(round, &s, SCORE_FLUID);
        compare(round, &s, SCORE_SAMPLED);
        s.p.homes = PLACE_HOMES_AFFINITY;
        if (has_decode(&s)) {
            compare(round, &s, SCORE_FLUID);
            compare(round, &s, SCORE_SAMPLED);
        } else {
            struct score unchanged;
            struct mt_err err;

            assert_int_equal(score_plan(&s.p, &s.plan, SCORE_FLUID, &unchanged, &err), MT_EINVAL);
            refused++;
        }
        example_done(&s);
    }
    assert_in_range(refused, 0, 300);
}

static void test_loads_only(void **unused)
{
    struct random r = {2};

    (void)unused;
    for (int round = 0; round < 300; round++) {
        struct example s;
        struct score x;
        struct mt_err err;

        example_make(&r, round % 3, &s);
        s.p.scenario[random_below(&r, s.p.scenarios)].trace = NULL;
        if (round % 2 && has_decode(&s)) /* homes of tokens that are not known make no difference */
            s.p.homes = PLACE_HOMES_AFFINITY;
        compare(round, &s, SCORE_FLUID);
        assert_int_equal(score_plan(&s.p, &s.plan, SCORE_SAMPLED, &x, &err), MT_EUNSUPPORTED);
        example_done(&s);
    }
}

/* One copy per expert, homes by load: whoever is called what on a node, J is the same. */
static void test_ranks_renamed(void **unused)
{
    struct random r = {3};

    (void)unused;
    for (int round = 0; round < 300; round++) {
        uint16_t name[RECOUNT_RANKS];
        struct example s;
        struct score before, after;

        example_make(&r, EXAMPLE_ONE_COPY, &s);
        s.p.from = NULL;
        before = score(&s.p, &s.plan, SCORE_FLUID);
        for (uint32_t g = 0; g < s.p.cluster.ranks; g++)
            name[g] = (uint16_t)g;
        for (uint32_t g = 0; g < s.p.cluster.ranks; g++) {
            uint32_t h = random_below(&r, s.p.cluster.ranks);
            uint16_t was = name[g];

            if (s.p.cluster.node[g] != s.p.cluster.node[h])
                continue;
            name[g] = name[h];
            name[h] = was;
        }
        for (uint32_t i = 0; i < s.plan.start[s.plan.layers * s.plan.experts]; i++)
            s.plan.rank[i] = name[s.plan.rank[i]];
        after = score(&s.p, &s.plan, SCORE_FLUID);
        assert_same(round, &after, &before);
        example_done(&s);
    }
}

static void fill_plan(struct plan *p, uint32_t ranks, bool everywhere)
{
    size_t pairs = (size_t)p->layers * p->experts;
    uint32_t n = 0;

    free(p->rank);
    free(p->share);
    p->share = NULL;
    p->rank = calloc(pairs * ranks, sizeof *p->rank);
    assert_non_null(p->rank);
    for (size_t i = 0; i < pairs; i++) {
        for (uint32_t g = 0; g < (everywhere ? ranks : 1); g++)
            p->rank[n++] = (uint16_t)g;
        p->start[i + 1] = n;
    }
}

/* All on one rank: it does everything, and whoever lives elsewhere sends everything there. A copy
 * everywhere: nothing travels, and the loads are those of the homes. */
static void test_extremes(void **unused)
{
    struct random r = {4};

    (void)unused;
    for (int round = 0; round < 200; round++) {
        struct example s;
        enum score_evaluation how = round % 2;
        uint32_t ranks;

        example_make(&r, EXAMPLE_SHARES, &s);
        ranks = s.p.cluster.ranks;
        fill_plan(&s.plan, ranks, false);
        for (uint32_t i = 0; i < s.p.scenarios; i++)
            s.p.scenario[i].tokens = ranks * (1 + random_below(&r, 4));
        struct score one = score(&s.p, &s.plan, how);

        for (uint32_t i = 0; i < s.p.scenarios; i++) {
            close_to("load", round, one.scenario[i].load, ranks);
            close_to("straggler", round, one.scenario[i].straggler, ranks);
            close_to("ranks", round, one.scenario[i].ranks, 1);
            close_to("remote", round, one.scenario[i].remote, 1 - 1.0 / ranks);
            close_to("local", round, one.scenario[i].local, 1.0 / ranks);
        }
        fill_plan(&s.plan, ranks, true);
        struct score all = score(&s.p, &s.plan, how);

        for (uint32_t i = 0; i < s.p.scenarios; i++) {
            close_to("load", round, all.scenario[i].load, 1);
            close_to("ranks", round, all.scenario[i].ranks, 1);
            close_to("remote", round, all.scenario[i].remote, 0);
            close_to("local", round, all.scenario[i].local, 1);
            close_to("dispatch", round, all.scenario[i].terms.dispatch, 0);
            close_to("combine", round, all.scenario[i].terms.combine, 0);
        }
        example_done(&s);
    }
}

/* Every step of a trace whose tokens are all alike is the mean one, if no rank gets more tokens
 * than others. (Expected active experts are then certain ones too.) */
static void test_tokens_alike(void **unused)
{
    struct random r = {5};

    (void)unused;
    for (int round = 0; round < 300; round++) {
        struct example s;
        struct score fluid, sampled;

        example_make(&r, EXAMPLE_ONE_COPY, &s);
        for (uint32_t i = 0; i < s.p.scenarios; i++) {
            struct trace *t = &s.trace[i];
            size_t row = (size_t)t->layers * t->topk;

            for (uint32_t k = 1; k < t->tokens; k++)
                memcpy(t->choice + k * row, t->choice, row * sizeof *t->choice);
            s.p.scenario[i].tokens = s.p.cluster.ranks * (1 + random_below(&r, 4));
        }
        fluid = score(&s.p, &s.plan, SCORE_FLUID);
        sampled = score(&s.p, &s.plan, SCORE_SAMPLED);
        close_to("j", round, sampled.j, fluid.j);
        close_to("load", round, sampled.load, fluid.load);
        close_to("straggler", round, sampled.straggler, fluid.load);
        close_to("remote", round, sampled.remote, fluid.remote);
        example_done(&s);
    }
}

/* One scenario, whose trace has documents of one length. */
static void retrace(struct random *r, struct example *s, uint32_t documents, uint32_t length,
                    uint32_t tokens)
{
    struct trace *t = &s->trace[0];

    for (uint32_t i = 1; i < s->p.scenarios; i++) {
        trace_done(&s->trace[i]);
        free(s->load[i]);
    }
    s->p.scenarios = 1;
    s->p.scenario[0].share = 1;
    s->p.scenario[0].tokens = tokens;
    trace_done(t);
    *t = example_trace(r, s->p.layers, s->p.experts, s->p.topk, documents * length, 1);
    t->documents = documents;
    for (uint32_t d = 0; d <= documents; d++)
        t->doc[d] = d * length;
    trace_loads(t, s->load[0]);
}

static void at_least(const char *what, int round, double sampled, double fluid)
{
    if (!(sampled >= fluid * (1 - 1e-12)))
        fail_msg("round %d: %s: sampled %.17g is below fluid's %.17g", round, what, sampled, fluid);
}

/* Jensen's inequality, where score.h says that it holds: homes by load. */
static void test_fluid_is_below(void **unused)
{
    struct random r = {6};

    (void)unused;
    for (int round = 0; round < 300; round++) {
        uint32_t a_step = 1 + random_below(&r, 3), steps = 1 + random_below(&r, 5);
        struct example s;
        struct score fluid, sampled;

        example_make(&r, EXAMPLE_ONE_COPY, &s);
        a_step *= s.p.cluster.ranks;
        s.p.cluster.active_expert = 0;
        retrace(&r, &s, a_step * steps, 1, a_step);
        fluid = score(&s.p, &s.plan, SCORE_FLUID);
        sampled = score(&s.p, &s.plan, SCORE_SAMPLED);
        assert_int_equal(sampled.scenario[0].steps, steps);
        close_to("load", round, sampled.load, fluid.load);
        at_least("straggler", round, sampled.straggler, fluid.load);
        at_least("compute", round, sampled.terms.compute, fluid.terms.compute);
        close_to("dense", round, sampled.terms.dense, fluid.terms.dense);
        example_done(&s);
    }
}

/* With homes by affinity: documents of a prompt token and as many others as there are steps, all in
 * flight. */
static void test_fluid_is_below_by_affinity(void **unused)
{
    struct random r = {7};

    (void)unused;
    for (int round = 0; round < 300; round++) {
        uint32_t documents = 1 + random_below(&r, 20), steps = 1 + random_below(&r, 5);
        struct example s;
        struct score fluid, sampled;

        example_make(&r, EXAMPLE_ONE_COPY, &s);
        s.p.homes = PLACE_HOMES_AFFINITY;
        s.p.prompt_tokens = 1;
        s.p.cluster.active_expert = 0;
        s.p.cluster.rank_link.latency = s.p.cluster.node_link.latency = 0;
        s.p.scenario[0].phase = PLACE_DECODE;
        retrace(&r, &s, documents, steps + 1, documents);
        fluid = score(&s.p, &s.plan, SCORE_FLUID);
        sampled = score(&s.p, &s.plan, SCORE_SAMPLED);
        assert_int_equal(sampled.scenario[0].steps, steps);
        close_to("load", round, sampled.load, fluid.load);
        close_to("remote", round, sampled.remote, fluid.remote);
        close_to("local", round, sampled.local, fluid.local);
        close_to("dense", round, sampled.terms.dense, fluid.terms.dense);
        close_to("kv_moves", round, sampled.kv_moves, fluid.kv_moves);
        at_least("straggler", round, sampled.straggler, fluid.load);
        at_least("compute", round, sampled.terms.compute, fluid.terms.compute);
        at_least("dispatch", round, sampled.terms.dispatch, fluid.terms.dispatch);
        at_least("combine", round, sampled.terms.combine, fluid.terms.combine);
        example_done(&s);
    }
}

/* One scenario; borrows the trace. */
static struct place_problem problem(const struct trace *t, const struct cluster *c,
                                    enum place_phase phase, uint32_t tokens)
{
    static const double NO_LOAD[1];
    struct place_problem p = {.layers = t->layers,
                              .experts = t->experts,
                              .topk = t->topk,
                              .cluster = *c,
                              .scenarios = 1,
                              .prompt_fraction = 0.5};

    p.scenario[0] = (struct place_scenario){"x", phase, 1, tokens, t, NO_LOAD};
    return p;
}

/* Two ranks, experts 0 1 | 2 3, top 2, two tokens a step. By load, rank 0 has tokens 0 and 1, and
 * rank 1 has tokens 2 and 3. dense(n) = 10 + n, alpha 1, beta 100, 2 bytes/s, 5 s a message, b_d 8,
 * b_c 6.
 *
 * Sampled. Step 0, tokens 0 {0 1} and 2 {2 3}: nothing travels; both ranks have 2 pairs and 2
 * experts: 11 + 0 + 202 + 0. Step 1, tokens 1 {0 2} and 3 {2 1}: each sends one vector to the other
 * rank and gets one back; 2 pairs each, experts 0 and 1 | 2: 11 + (8/2 + 5) + 202 + (6/2 + 5).
 * Then the same with the homes exchanged, since the trace is short: every token sends one vector.
 *
 * Fluid. Each rank serves 3 of 4 tokens, so each home sends 1 * 3/4 vectors. p = 1/2 1/2 | 3/4 1/4,
 * active 1 - (1-p)^2 = 3/4 + 3/4 | 15/16 + 7/16, load 2 * 1 each: compute 2 + 150. */
static void test_by_hand(void **unused)
{
    static const uint16_t CHOICE[] = {0, 1, 0, 2, 2, 3, 2, 1};
    struct trace t = example_fixed(4, 2, 4, CHOICE);
    struct cluster c = {.ranks = 2,
                        .nodes = 1,
                        .rank_link = {2, 5},
                        .token_expert = 1,
                        .active_expert = 100,
                        .dense_step = 10,
                        .dense_token = 1,
                        .dispatch_bytes = 8,
                        .combine_bytes = 6};
    struct place_problem p = problem(&t, &c, PLACE_PREFILL, 2);
    struct plan plan;
    struct score s;
    struct mt_err err;

    (void)unused;
    assert_int_equal(plan_contiguous(1, 4, 2, &plan, &err), 0);
    s = score(&p, &plan, SCORE_SAMPLED);
    assert_terms(0, &s.scenario[0].terms, &(struct step_terms){11, 6.75, 202, 6});
    close_to("step", 0, s.scenario[0].step, 225.75);
    close_to("j", 0, s.j, 112.875);
    assert_int_equal(s.scenario[0].steps, 2);
    close_to("straggler", 0, s.straggler, 1);
    close_to("ranks", 0, s.ranks, 1.5);
    close_to("remote", 0, s.remote, 0.75);
    close_to("local", 0, s.local, 0.5);
    s = score(&p, &plan, SCORE_FLUID);
    assert_terms(0, &s.scenario[0].terms, &(struct step_terms){11, 8, 152, 7.25});
    close_to("j", 0, s.j, 89.125);
    close_to("ranks", 0, s.ranks, 1.5);
    close_to("remote", 0, s.remote, 0.75); /* every home alike: half of |S| */
    close_to("local", 0, s.local, 0.5);
    plan_done(&plan);
    trace_done(&t);
}

/* Two copies of the only expert, on ranks 1 and 2 of 3 on one node, split 1 : 3; 12 tokens a step.
 * Homes 1 and 2 serve themselves; home 0 sends 4 tokens, 1 to rank 1 and 3 to rank 2. */
static void test_split_by_hand(void **unused)
{
    static const uint16_t CHOICE[12];
    static const uint8_t HELD[] = {0, 1, 1};
    struct trace t = example_fixed(1, 1, 12, CHOICE);
    struct cluster c = {.ranks = 3,
                        .nodes = 1,
                        .rank_link = {2, 5},
                        .token_expert = 1,
                        .dispatch_bytes = 8,
                        .combine_bytes = 6};
    struct place_problem p = problem(&t, &c, PLACE_DECODE, 12);
    struct plan plan = example_held(1, 3, HELD);
    struct score s;

    (void)unused;
    plan.share = calloc(2, sizeof *plan.share);
    assert_non_null(plan.share);
    plan.share[0] = 0.25F;
    plan.share[1] = 0.75F;
    s = score(&p, &plan, SCORE_FLUID);
    /* Rank 0 sends 4 vectors to 2 peers. Rank 2 serves 4 + 3 pairs. */
    assert_terms(0, &s.scenario[0].terms,
                 &(struct step_terms){0, 4 * 8 / 2.0 + 10, 7, 4 * 6 / 2.0 + 10});
    close_to("load", 0, s.load, 7 / 4.0);
    close_to("remote", 0, s.remote, 1 / 3.0);
    plan_done(&plan);
    trace_done(&t);
}

/* Ranks 0 1 | 2 3 on two nodes; expert 0 moves from {0} to {0 1 3}, expert 1 from {2} to {3}. Rank
 * 1 reads from 0 and rank 3 from 2, within their nodes: 100 / (10 * 0.5) s each. Rank 3 reads
 * expert 0 from the other node: 100 / (4 * 0.5) s. */
static void test_migration_by_hand(void **unused)
{
    static const uint8_t FROM[] = {1, 0, 0, 0, 0, 0, 1, 0}, TO[] = {1, 1, 0, 1, 0, 0, 0, 1};
    struct plan from = example_held(2, 4, FROM), to = example_held(2, 4, TO);
    struct cluster c = {.ranks = 4,
                        .nodes = 2,
                        .node = {0, 0, 1, 1},
                        .rank_link = {10, 7},
                        .node_link = {4, 9},
                        .expert_bytes = 100,
                        .migration_share = 0.5};

    (void)unused;
    close_to("migration", 0, score_migration(&c, &from, &to), 50);
    close_to("nothing moves", 0, score_migration(&c, &from, &from), 0);
    c.node_link.bandwidth = 40;
    close_to("migration", 0, score_migration(&c, &from, &to), 20);
    plan_done(&from);
    plan_done(&to);
}

/* Two documents of one prompt token and one more; expert 0 on rank 0, expert 1 on rank 1; the
 * documents live where their expert is. Prompts begin on either rank, so each rank sends half a
 * prompt's KV: 0.5 * 12 bytes / 2 bytes/s for 2 decoded tokens. Nothing else travels. */
static void test_kv_by_hand(void **unused)
{
    static const uint16_t CHOICE[] = {1, 1, 0, 0};
    static const uint8_t HELD[] = {1, 0, 0, 1};
    struct trace t = example_fixed(2, 1, 4, CHOICE);
    struct cluster c = {.ranks = 2,
                        .nodes = 1,
                        .rank_link = {2, 5},
                        .dense_token = 1,
                        .dispatch_bytes = 8,
                        .combine_bytes = 6,
                        .kv_bytes = 12};
    struct place_problem p = problem(&t, &c, PLACE_DECODE, 2);
    struct plan plan = example_held(2, 2, HELD);

    (void)unused;
    free(t.doc);
    t.doc = calloc(3, sizeof *t.doc);
    assert_non_null(t.doc);
    t.documents = 2;
    t.doc[1] = 2;
    t.doc[2] = 4;
    p.homes = PLACE_HOMES_AFFINITY;
    for (int how = SCORE_FLUID; how <= SCORE_SAMPLED; how++) {
        struct score s = score(&p, &plan, (enum score_evaluation)how);

        close_to("kv_moves", 0, s.kv_moves, 1.5);
        close_to("remote", 0, s.remote, 0);
        close_to("j", 0, s.j, 0.5 + 1.5); /* dense(1) / 2 tokens */
    }
    plan_done(&plan);
    trace_done(&t);
}

/* The widest problem, and steps of one token and of more than the trace has. */
static void test_limits(void **unused)
{
    struct random r = {8};
    struct trace t = example_trace(&r, 2, PLACE_MAX_EXPERTS, TRACE_MAX_TOPK, 1, 2);
    struct cluster c = example_cluster(&r, PLAN_MAX_RANKS, 32);
    struct plan plan = example_plan(&r, 2, PLACE_MAX_EXPERTS, PLAN_MAX_RANKS, EXAMPLE_SHARES);

    (void)unused;
    t.tokens = t.doc[1] = 1;
    for (uint32_t tokens = 1; tokens < 1000; tokens = tokens * 7 + 1)
        for (int how = SCORE_FLUID; how <= SCORE_SAMPLED; how++) {
            struct place_problem p = problem(&t, &c, PLACE_DECODE, tokens);
            struct score s = score(&p, &plan, (enum score_evaluation)how);

            assert_true(s.j > 0 && isfinite(s.j));
            assert_true(s.ranks >= 1 && s.ranks <= TRACE_MAX_TOPK);
            close_to("tokens", 0, s.scenario[0].tokens, tokens);
            assert_int_equal(s.scenario[0].steps, how == SCORE_SAMPLED ? 1 : 0);
        }
    plan_done(&plan);
    trace_done(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recount),
        cmocka_unit_test(test_loads_only),
        cmocka_unit_test(test_ranks_renamed),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_tokens_alike),
        cmocka_unit_test(test_fluid_is_below),
        cmocka_unit_test(test_fluid_is_below_by_affinity),
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_split_by_hand),
        cmocka_unit_test(test_migration_by_hand),
        cmocka_unit_test(test_kv_by_hand),
        cmocka_unit_test(test_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
