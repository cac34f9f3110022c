/* The time of an exchange and of a step: by hand, and against a recount. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "example.h"
#include "placement/link.h"
#include "placement/route.h"
#include "placement/step.h"
#include "recount.h"

static void close_to(const char *what, int round, double found, double expected)
{
    if (!(fabs(found - expected) <= 1e-9 * fmax(fabs(found), fabs(expected)) + 1e-300))
        fail_msg("round %d: %s: expected %.17g, found %.17g", round, what, expected, found);
}

/* Ranks 0 1 | 2 3 on two nodes. Within a node 10 bytes/s and 1 s a message, between them 20 bytes/s
 * and 3 s a message; 5 bytes a vector. Ports are rank * 2 + out and (4 + node) * 2 + out. */
static void test_link_by_hand(void **unused)
{
    static const struct {
        double vectors[16], seconds;
        uint32_t port;
        const char *why;
    } CASES[] = {
        {{9, 0, 0, 0, 0, 9}, 0, 0, "what stays costs nothing"},
        {{0, 4}, 3, 1, "out of rank 0: 4 * 5 / 10 + 1"},
        {{0, 4, 0, 0, 6}, 4, 0, "into rank 0: 6 * 5 / 10 + 1, while it sends"},
        {{0, 0, 4}, 4, 9, "out of node 0: 4 * 5 / 20 + 3; ranks' ports are not used"},
        {{0, 0, 4, 0, 0, 0, 4, 8}, 7, 9, "one peer node: 16 * 5 / 20 + 3"},
        {{0, 14, 4, 0, 0, 0, 4, 8}, 8, 1, "the slower of the two: 14 * 5 / 10 + 1"},
    };
    struct cluster c = {
        .ranks = 4, .nodes = 2, .node = {0, 0, 1, 1}, .rank_link = {10, 1}, .node_link = {20, 3}};
    static const double THREE[9] = {0, 2, 2, 0, 0, 0, 0, 0, 0},
                        ONE[9] = {0, 4, 0, 0, 0, 0, 0, 0, 0};
    static const double NETWORK[4] = {0, 2, 0, 0};
    uint32_t port;

    (void)unused;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        port = 0;
        close_to(CASES[i].why, 0, link_seconds(&c, CASES[i].vectors, NULL, 5, &port),
                 CASES[i].seconds);
        assert_int_equal(port, CASES[i].port);
    }
    /* The network's own count replaces the sum of vectors: 2 * 5 / 20 + 3. */
    close_to("network", 0, link_seconds(&c, CASES[4].vectors, NETWORK, 5, NULL), 3.5);
    /* One node of three ranks: two peers are two messages, 4 * 5 / 10 + 2; one peer is one. */
    c = (struct cluster){.ranks = 3, .nodes = 1, .rank_link = {10, 1}};
    close_to("two peers", 0, link_seconds(&c, THREE, NULL, 5, NULL), 4);
    close_to("one peer", 0, link_seconds(&c, ONE, NULL, 5, NULL), 3);
    /* Three nodes of a rank each: the same by the network, 4 * 5 / 20 + 2 * 3. */
    c = (struct cluster){
        .ranks = 3, .nodes = 3, .node = {0, 1, 2}, .rank_link = {10, 1}, .node_link = {20, 3}};
    close_to("two nodes", 0, link_seconds(&c, THREE, NULL, 5, &port), 7);
    assert_int_equal(port, (3 + 0) * 2 + 1);
}

static struct step *start(const struct place_problem *p, const struct plan *plan)
{
    struct step *s;
    struct mt_err err;

    assert_int_equal(step_new(p, &s, &err), 0);
    step_begin(s, plan);
    return s;
}

/* Ranks 0 1 | 2 3, expert e on rank e, top 3. Token 0 lives on rank 0 and chooses 0 2 3; token 1
 * lives on rank 0 and chooses 1 2 3. Links as above; b_d 4, b_c 8; alpha 1, beta 10, dense(n) = 5 +
 * n.
 *
 * Dense: both on rank 0: 7. Compute: ranks 2 and 3 have 2 pairs and an active expert each: 12.
 * Dispatch: rank 0 sends one vector to rank 1 (4 / 10 + 1 = 1.4) and four, two to each of ranks 2
 * and 3, through the network: 16 / 20 + 3 = 3.8; with two levels two, one for each token: 3.4.
 * Combine: the same back: 8 / 10 + 1 and 32 / 20 + 3 = 4.6; with two levels two partial sums:
 * 16 / 20 + 3 = 3.8; exact: vectors of different experts are not summed, so 4.6 again. */
static void test_by_hand(void **unused)
{
    static const uint16_t CHOICE[] = {0, 2, 3, 1, 2, 3};
    struct trace t = example_fixed(4, 3, 2, CHOICE);
    struct place_problem p = {.layers = 1, .experts = 4, .topk = 3};
    struct plan plan;
    struct mt_err err;

    (void)unused;
    assert_int_equal(plan_contiguous(1, 4, 4, &plan, &err), 0);
    p.cluster = (struct cluster){.ranks = 4,
                                 .nodes = 2,
                                 .node = {0, 0, 1, 1},
                                 .rank_link = {10, 1},
                                 .node_link = {20, 3},
                                 .token_expert = 1,
                                 .active_expert = 10,
                                 .dense_step = 5,
                                 .dense_token = 1,
                                 .dispatch_bytes = 4,
                                 .combine_bytes = 8};
    for (int way = 0; way < 4; way++) {
        struct step *s;
        struct step_terms terms;
        struct step_figures figures;
        double layer;

        p.cluster.two_level = way & 1;
        p.cluster.exact_combine = way & 2;
        s = start(&p, &plan);
        step_add(s, &t, 0, 0);
        step_add(s, &t, 1, 0);
        step_time(s, &terms, &figures, &layer);
        close_to("dense", way, terms.dense, 7);
        close_to("dispatch", way, terms.dispatch, way & 1 ? 3.4 : 3.8);
        close_to("compute", way, terms.compute, 12);
        close_to("combine", way, terms.combine, way == 1 ? 3.8 : 4.6);
        close_to("layer", way, layer, step_seconds(&terms));
        close_to("load", way, figures.load, 2 / 1.5);
        close_to("active", way, figures.active, 1);
        close_to("ranks", way, figures.ranks, 3);
        close_to("remote", way, figures.remote, 2.5);
        close_to("local", way, figures.local, 1 / 6.0);
        step_free(s);
    }
    plan_done(&plan);
    trace_done(&t);
}

/* Two experts of one rank come back as one vector in fast mode and as two in exact mode. */
static void test_exact_by_hand(void **unused)
{
    static const uint16_t CHOICE[] = {2, 3};
    struct trace t = example_fixed(4, 2, 1, CHOICE);
    struct place_problem p = {.layers = 1, .experts = 4, .topk = 2};
    struct plan plan;
    struct mt_err err;

    (void)unused;
    assert_int_equal(plan_contiguous(1, 4, 2, &plan, &err), 0);
    p.cluster = (struct cluster){
        .ranks = 2, .nodes = 1, .rank_link = {10, 0}, .dispatch_bytes = 4, .combine_bytes = 8};
    for (int exact = 0; exact < 2; exact++) {
        struct step *s;
        struct step_terms terms;

        p.cluster.exact_combine = exact;
        s = start(&p, &plan);
        step_add(s, &t, 0, 0);
        step_time(s, &terms, NULL, NULL);
        close_to("dispatch", exact, terms.dispatch, 0.4);
        close_to("combine", exact, terms.combine, exact ? 1.6 : 0.8);
        step_free(s);
    }
    plan_done(&plan);
    trace_done(&t);
}

static void shuffle(struct random *r, struct recount_token *token, uint32_t n)
{
    for (uint32_t i = n; i > 1; i--) {
        uint32_t k = random_below(r, i);
        struct recount_token was = token[i - 1];

        token[i - 1] = token[k];
        token[k] = was;
    }
}

static void compare(int round, struct example *x, struct step *s, const struct recount_token *token,
                    uint32_t n)
{
    double loads[PLACE_MAX_LAYERS][RECOUNT_RANKS] = {{0}}, layer[PLACE_MAX_LAYERS], sum = 0;
    double layers = x->p.layers;
    struct score_scenario want = {0};
    struct step_terms terms;
    struct step_figures figures;

    recount_step(&x->p, &x->plan, &x->trace[0], token, n, &want, loads);
    for (uint32_t i = 0; i < n; i++)
        step_add(s, &x->trace[0], token[i].token, token[i].home);
    assert_int_equal(step_tokens(s), n);
    step_time(s, &terms, &figures, layer);
    close_to("dense", round, terms.dense, want.terms.dense);
    close_to("dispatch", round, terms.dispatch, want.terms.dispatch);
    close_to("compute", round, terms.compute, want.terms.compute);
    close_to("combine", round, terms.combine, want.terms.combine);
    close_to("load", round, figures.load, want.straggler * layers);
    close_to("active", round, figures.active, want.active * layers);
    close_to("ranks", round, figures.ranks, want.ranks * layers);
    close_to("remote", round, figures.remote, want.remote * layers);
    close_to("local", round, figures.local, want.local * layers);
    for (uint32_t l = 0; l < x->p.layers; l++) {
        for (uint32_t g = 0; g < x->p.cluster.ranks; g++)
            close_to("pairs", round, step_loads(s, l)[g], loads[l][g]);
        sum += layer[l];
    }
    close_to("layers", round, sum, step_seconds(&terms));
}

/* Vectors of dispatch, counted here by what route_choose says. */
static void compare_traffic(struct example *x, const struct step *s,
                            const struct recount_token *token, uint32_t n)
{
    uint32_t ranks = x->p.cluster.ranks;

    for (uint32_t l = 0; l < x->p.layers; l++) {
        uint32_t count[RECOUNT_RANKS * RECOUNT_RANKS] = {0};

        for (uint32_t i = 0; i < n; i++) {
            bool to[RECOUNT_RANKS] = {false};
            uint16_t at[TRACE_MAX_TOPK];

            route_choose(&x->plan, &x->p.cluster, l, trace_at(&x->trace[0], token[i].token, l),
                         x->p.topk, token[i].home, token[i].token, at);
            for (uint32_t k = 0; k < x->p.topk; k++)
                to[at[k]] = at[k] != token[i].home;
            for (uint32_t g = 0; g < ranks; g++)
                count[token[i].home * ranks + g] += to[g];
        }
        assert_memory_equal(step_traffic(s, l), count, sizeof *count * ranks * ranks);
    }
}

static void test_recount(void **unused)
{
    struct random r = {21};

    (void)unused;
    for (int round = 0; round < 600; round++) {
        struct example x;
        struct recount_token token[40];
        uint32_t n = 1 + random_below(&r, 40);
        struct step *s;

        example_make(&r, round % 3, &x);
        for (uint32_t i = 0; i < n; i++)
            token[i] = (struct recount_token){random_below(&r, x.trace[0].tokens),
                                              random_below(&r, x.p.cluster.ranks)};
        s = start(&x.p, &x.from);
        step_add(s, &x.trace[0], 0, 0);
        step_begin(s, &x.plan); /* forgets the other plan and its token */
        compare(round, &x, s, token, n);
        compare_traffic(&x, s, token, n);
        shuffle(&r, token, n); /* in another order, another half of them: the same object */
        step_begin(s, &x.plan);
        compare(round, &x, s, token, (n + 1) / 2);
        step_free(s);
        example_done(&x);
    }
}

static void test_empty(void **unused)
{
    struct random r = {22};
    struct example x;
    struct step *s;
    struct step_terms terms;
    struct step_figures figures;

    (void)unused;
    example_make(&r, EXAMPLE_REPLICAS, &x);
    s = start(&x.p, &x.plan);
    step_time(s, &terms, &figures, NULL);
    assert_true(step_seconds(&terms) == 0);
    close_to("load", 0, figures.load, x.p.layers); /* nothing is balanced */
    assert_true(figures.active == 0 && figures.ranks == 0 && figures.remote == 0);
    step_free(s);
    step_free(NULL);
    example_done(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_link_by_hand),  cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_exact_by_hand), cmocka_unit_test(test_recount),
        cmocka_unit_test(test_empty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
