/* Flow semantics: the score against a recount from the definition, the state that moves against one
 * counted afresh, the exact chain against a Viterbi over all placements, bounds below it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/flow_tables.h"
#include "placement/methods.h"
#include "tests/unit/placement/worlds.h"

#define MAX_E 6
#define MAX_G 4
#define MAX_N 4
#define MAX_STATES 300

/* --- the definition
 * --------------------------------------------------------------------------------- */

/* Seconds of J of a layer's loads: experts on rank[]. */
static double load_cost(const struct place_problem *p, uint32_t layer, const uint16_t *rank)
{
    double total = 0;

    for (uint32_t s = 0; s < p->scenarios; s++) {
        const struct place_scenario *k = &p->scenario[s];
        double t[MAX_G] = {0}, worst = 0;

        for (uint32_t e = 0; e < p->experts; e++) {
            double chosen = 0, n = k->tokens;

            for (uint32_t i = 0; i < k->trace->tokens; i++)
                for (uint32_t j = 0; j < p->topk; j++)
                    chosen += trace_at(k->trace, i, layer)[j] == e;
            chosen /= k->trace->tokens;
            t[rank[e]] += p->cluster.token_expert * n * chosen +
                          p->cluster.active_expert * (1 - pow(1 - chosen, n));
        }
        for (uint32_t g = 0; g < p->cluster.ranks; g++)
            worst = fmax(worst, t[g]);
        total += k->share * worst / k->tokens;
    }
    return total;
}

static double port(const struct link *l, const double *bytes, uint32_t n)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        if (bytes[i] > 0)
            sum += bytes[i] / l->bandwidth + l->latency;
    return sum;
}

/* X of bytes b[from][to]. */
static double link_time(const struct cluster *c, double b[MAX_G][MAX_G])
{
    double worst = 0;

    for (uint32_t g = 0; g < c->ranks; g++) {
        double in[MAX_G] = {0}, out[MAX_G] = {0};

        for (uint32_t h = 0; h < c->ranks; h++)
            if (h != g && c->node[h] == c->node[g]) {
                in[h] = b[h][g];
                out[h] = b[g][h];
            }
        worst = fmax(worst, fmax(port(&c->rank_link, in, MAX_G), port(&c->rank_link, out, MAX_G)));
    }
    for (uint32_t n = 0; n < c->nodes; n++) {
        double in[MAX_N] = {0}, out[MAX_N] = {0};

        for (uint32_t g = 0; g < c->ranks; g++)
            for (uint32_t h = 0; h < c->ranks; h++)
                if (c->node[g] == n && c->node[h] != n) {
                    out[c->node[h]] += b[g][h];
                    in[c->node[h]] += b[h][g];
                }
        worst = fmax(worst, fmax(port(&c->node_link, in, MAX_N), port(&c->node_link, out, MAX_N)));
    }
    return worst;
}

static double exchange_cost(const struct place_problem *p, uint32_t layer, const uint16_t *a,
                            const uint16_t *b, const double *pairs)
{
    double total = 0;

    for (uint32_t s = 0; s < p->scenarios; s++) {
        const struct place_scenario *k = &p->scenario[s];
        const double *n = pairs + ((size_t)s * p->layers + layer) * MAX_E * MAX_E;
        double m[MAX_G][MAX_G] = {{0}};

        for (uint32_t e = 0; e < p->experts; e++)
            for (uint32_t f = 0; f < p->experts; f++)
                m[a[e]][b[f]] += n[e * MAX_E + f] * k->tokens * p->cluster.dispatch_bytes;
        total += k->share * link_time(&p->cluster, m) / k->tokens;
    }
    return total;
}

/* pairs[scenario][layer][MAX_E][MAX_E] per token, each 1 / topk. */
static double *count_pairs(const struct place_problem *p)
{
    double *n = calloc((size_t)p->scenarios * p->layers * MAX_E * MAX_E, sizeof *n);

    assert_non_null(n);
    for (uint32_t s = 0; s < p->scenarios; s++) {
        const struct trace *t = p->scenario[s].trace;

        for (uint32_t l = 0; l + 1 < p->layers; l++)
            for (uint32_t i = 0; i < t->tokens * t->topk * t->topk; i++) {
                uint32_t token = i / (t->topk * t->topk), j = i / t->topk % t->topk;

                n[(((size_t)s * p->layers + l) * MAX_E + trace_at(t, token, l)[j]) * MAX_E +
                  trace_at(t, token, l + 1)[i % t->topk]] += 1.0 / t->topk / t->tokens;
            }
    }
    return n;
}

static double plan_cost(const struct place_problem *p, const uint16_t *rank, const double *pairs)
{
    double sum = 0;

    for (uint32_t l = 0; l < p->layers; l++) {
        sum += load_cost(p, l, rank + (size_t)l * p->experts);
        if (l + 1 < p->layers)
            sum += exchange_cost(p, l, rank + (size_t)l * p->experts,
                                 rank + (size_t)(l + 1) * p->experts, pairs);
    }
    return sum;
}

/* --- worlds
 * ----------------------------------------------------------------------------------------- */

static void random_ranks(struct random *r, const struct place_problem *p, struct plan *ret)
{
    assert_int_equal(plan_contiguous(p->layers, p->experts, p->cluster.ranks, ret, NULL), 0);
    for (uint32_t l = 0; l < p->layers; l++) {
        uint16_t *rank = ret->rank + (size_t)l * p->experts;
        uint32_t size[PLAN_MAX_RANKS] = {0};

        for (uint32_t e = 0; e < p->experts; e++) {
            do
                rank[e] = (uint16_t)random_below(r, p->cluster.ranks);
            while (size[rank[e]] == p->cluster.slots[rank[e]]);
            size[rank[e]]++;
        }
    }
}

static void flow_world(struct random *r, uint32_t layers, uint32_t experts, uint32_t ranks,
                       struct world *w)
{
    worlds_make(r, layers, experts, ranks, w);
    w->p.semantics = PLACE_FLOW;
    w->p.cluster.rank_link.bandwidth = 1e8 * pow(10, random_below(r, 3));
    w->p.cluster.node_link.bandwidth = w->p.cluster.rank_link.bandwidth / (1 + random_below(r, 6));
    w->p.scenario[0].tokens = 1 + random_below(r, 100);
    if (w->p.scenarios > 1 && random_below(r, 3) == 0) { /* both of one trace */
        w->p.scenario[1].trace = w->p.scenario[0].trace;
        w->p.scenario[1].load = w->p.scenario[0].load;
    }
}

static bool near(double a, double b)
{
    return fabs(a - b) <= 1e-9 * (fabs(a) + fabs(b)) + 1e-300;
}

/* --- tests
 * ------------------------------------------------------------------------------------------ */

static void test_score(void **unused)
{
    struct random r = {11};

    (void)unused;
    for (int round = 0; round < 300; round++) {
        uint32_t ranks = 1 + random_below(&r, MAX_G);
        struct world w;
        struct plan plan;
        struct score *s = calloc(1, sizeof *s);
        struct mt_err err = {0};
        double *pairs;

        flow_world(&r, 1 + random_below(&r, 4), 1 + random_below(&r, MAX_E), ranks, &w);
        random_ranks(&r, &w.p, &plan);
        pairs = count_pairs(&w.p);
        assert_int_equal(score_plan(&w.p, &plan, SCORE_FLUID, s, &err), 0);
        assert_true(near(s->tokens_seconds, plan_cost(&w.p, plan.rank, pairs)));
        assert_true(near(s->j, s->tokens_seconds));
        assert_true(s->local >= 0 && s->local <= 1 + 1e-12);
        assert_int_equal(score_plan(&w.p, &plan, SCORE_SAMPLED, s, &err), 0);
        assert_true(s->j > 0 && isfinite(s->j) && s->scenario[0].steps > 0);
        free(pairs);
        free(s);
        plan_done(&plan);
        worlds_done(&w);
    }
}

/* A step that takes the whole trace once is what fluid expects of it, but for active experts. */
static void test_sampled(void **unused)
{
    struct random r = {12};
    struct score *a = calloc(1, sizeof *a), *b = calloc(1, sizeof *b);

    (void)unused;
    assert_true(a && b);
    for (int round = 0; round < 100; round++) {
        struct world w;
        struct plan plan;

        flow_world(&r, 3, 6, 3, &w);
        w.p.cluster.active_expert = 0;
        w.p.scenarios = 1;
        w.p.scenario[0].share = 1;
        w.p.scenario[0].tokens = w.trace[0].tokens;
        random_ranks(&r, &w.p, &plan);
        assert_int_equal(score_plan(&w.p, &plan, SCORE_FLUID, a, NULL), 0);
        assert_int_equal(score_plan(&w.p, &plan, SCORE_SAMPLED, b, NULL), 0);
        assert_int_equal(b->scenario[0].steps, 1);
        assert_true(near(a->j, b->j));
        assert_true(near(a->local, b->local) && near(a->ranks, b->ranks));
        plan_done(&plan);
        worlds_done(&w);
    }
    free(a);
    free(b);
}

/* Cost and affinities are those of a state counted afresh. */
static void compare_states(const struct place_problem *p, const struct flow_tables *t,
                           const struct flow_state *s, double cost)
{
    struct flow_state *fresh;

    assert_int_equal(flow_state_new(t, flow_state_ranks(s), &fresh, NULL), 0);
    assert_true(flow_state_cost(s) == flow_state_cost(fresh)); /* integers: to the last bit */
    assert_true(near(cost, flow_state_cost(s)));
    for (uint32_t l = 0; l < p->layers; l++)
        for (uint32_t e = 0; e < p->experts; e++)
            for (uint32_t g = 0; g < p->cluster.ranks; g++)
                assert_true(flow_state_affinity(s, l, e, g) == flow_state_affinity(fresh, l, e, g));
    flow_state_free(fresh);
}

static void move_about(struct random *r, const struct place_problem *p, uint32_t moves)
{
    struct flow_tables *t;
    struct flow_state *s;
    struct plan plan;
    struct score *score = calloc(1, sizeof *score);
    double cost;

    random_ranks(r, p, &plan);
    assert_int_equal(flow_tables_new(p, &t, NULL), 0);
    assert_int_equal(flow_state_new(t, plan.rank, &s, NULL), 0);
    cost = flow_state_cost(s);
    for (uint32_t i = 0; i < moves; i++) {
        struct flow_move m = {random_below(r, p->layers), random_below(r, p->experts),
                              random_below(r, p->experts), random_below(r, p->cluster.ranks)};
        const uint16_t *rank = flow_state_ranks(s) + (size_t)m.layer * p->experts;
        double delta;

        if (random_below(r, 3) == 0)
            m.f = FLOW_NO_EXPERT;
        if (m.f == FLOW_NO_EXPERT ? rank[m.e] == m.rank : rank[m.e] == rank[m.f])
            continue;
        delta = flow_state_try(s, &m);
        if (random_below(r, 2)) {
            flow_state_keep(s, &m);
            cost += delta;
        } else {
            flow_state_undo(s, &m);
        }
        compare_states(p, t, s, cost);
        cost = flow_state_cost(s);
        if (i % 64 == 0) { /* and what the oracle says */
            memcpy(plan.rank, flow_state_ranks(s),
                   (size_t)p->layers * p->experts * sizeof *plan.rank);
            assert_int_equal(score_plan(p, &plan, SCORE_FLUID, score, NULL), 0);
            assert_true(near(score->tokens_seconds, cost));
        }
    }
    flow_state_free(s);
    flow_tables_free(t);
    plan_done(&plan);
    free(score);
}

static void test_moves(void **unused)
{
    struct random r = {13};

    (void)unused;
    for (int round = 0; round < 60; round++) {
        struct world w;

        flow_world(&r, 1 + random_below(&r, 4), 1 + random_below(&r, 10), 1 + random_below(&r, 6),
                   &w);
        move_about(&r, &w.p, 2500);
        worlds_done(&w);
    }
}

/* Least cost by dynamic programming over all placements of every layer. */
static double viterbi(const struct place_problem *p, const double *pairs)
{
    static uint16_t state[MAX_STATES][MAX_E];
    static double cost[MAX_STATES], next[MAX_STATES];
    uint32_t n = 0, all = 1;
    double best = INFINITY;

    for (uint32_t e = 0; e < p->experts; e++)
        all *= p->cluster.ranks;
    for (uint32_t i = 0; i < all; i++) {
        uint32_t size[MAX_G] = {0}, x = i;
        bool fits = true;

        for (uint32_t e = 0; e < p->experts; e++, x /= p->cluster.ranks) {
            state[n][e] = (uint16_t)(x % p->cluster.ranks);
            fits = fits && ++size[state[n][e]] <= p->cluster.slots[state[n][e]];
        }
        n += fits;
        assert_true(n < MAX_STATES);
    }
    for (uint32_t i = 0; i < n; i++)
        cost[i] = load_cost(p, 0, state[i]);
    for (uint32_t l = 1; l < p->layers; l++) {
        for (uint32_t k = 0; k < n; k++) {
            next[k] = INFINITY;
            for (uint32_t i = 0; i < n; i++)
                next[k] =
                    fmin(next[k], cost[i] + exchange_cost(p, l - 1, state[i], state[k], pairs));
            next[k] += load_cost(p, l, state[k]);
        }
        memcpy(cost, next, sizeof cost);
    }
    for (uint32_t i = 0; i < n; i++)
        best = fmin(best, cost[i]);
    return best;
}

static double sum_of_bounds(const struct place_problem *p)
{
    struct flow_tables *t;
    double sum = 0;

    assert_int_equal(flow_tables_new(p, &t, NULL), 0);
    for (uint32_t l = 0; l < p->layers; l++) {
        double x = 0;

        if (l + 1 < p->layers)
            assert_int_equal(flow_exchange_bound(t, l, &x, NULL), 0);
        sum += x + flow_load_bound(t, l);
    }
    flow_tables_free(t);
    return sum;
}

static void test_exact(void **unused)
{
    static const uint32_t shape[][2] = {{5, 2}, {4, 3}, {3, 4}, {3, 3},
                                        {5, 3}, {4, 4}, {2, 4}, {1, 2}};
    struct random r = {14};

    (void)unused;
    for (int round = 0; round < 96; round++) {
        const uint32_t *k = shape[round % 8];
        struct place_run run = {.seed = 3, .iterations = 500};
        struct flow_found found;
        struct mt_err err = {0};
        struct world w;
        struct plan plan;
        double *pairs, want, bound;
        bool exact;

        flow_world(&r, 1 + random_below(&r, k[0] == 5 && k[1] == 3 ? 2 : 4), k[0], k[1], &w);
        if (round % 4 == 3) /* ranks that are not alike */
            w.p.cluster.slots[random_below(&r, k[1])]++;
        pairs = count_pairs(&w.p);
        want = viterbi(&w.p, pairs);
        random_ranks(&r, &w.p, &plan);
        assert_int_equal(flow_search(&w.p, &run, &plan, &found, &err), 0);
        assert_true(found.optimal);
        assert_true(near(found.objective, want));
        assert_true(near(plan_cost(&w.p, plan.rank, pairs), want));
        assert_true(sum_of_bounds(&w.p) <= want * (1 + 1e-12));
        assert_int_equal(flow_bound(&w.p, &run, &bound, &exact, &err), 0);
        assert_true(exact && bound <= want * (1 + 1e-12) && near(bound, want));
        free(pairs);
        plan_done(&plan);
        worlds_done(&w);
    }
}

static bool at_once(void *unused)
{
    (void)unused;
    return true;
}

static void test_search(void **unused)
{
    static const uint32_t shape[][3] = {{3, 16, 4}, {2, 13, 5}, {4, 8, 8}, {1, 20, 3}, {2, 3, 5}};
    struct random r = {15};
    struct score *score = calloc(1, sizeof *score);

    (void)unused;
    for (int round = 0; round < 10; round++) {
        const uint32_t *k = shape[round % 5];
        struct place_run run = {.seed = 3, .iterations = 3000}, stopped = {.stop = at_once};
        struct flow_found a, b;
        struct mt_err err = {0};
        struct world w;
        struct plan plan, again;
        double start, bound;
        bool exact;

        flow_world(&r, k[0], k[1], k[2], &w);
        random_ranks(&r, &w.p, &plan);
        assert_int_equal(plan_copy(&plan, &again, NULL), 0);
        assert_int_equal(score_plan(&w.p, &plan, SCORE_FLUID, score, NULL), 0);
        start = score->tokens_seconds;
        assert_int_equal(flow_search(&w.p, &run, &plan, &a, &err), 0);
        assert_int_equal(flow_search(&w.p, &run, &again, &b, &err), 0);
        assert_true(a.objective == b.objective && a.moves == b.moves);
        assert_memory_equal(plan.rank, again.rank, (size_t)k[0] * k[1] * sizeof *plan.rank);
        assert_int_equal(score_plan(&w.p, &plan, SCORE_FLUID, score, NULL), 0);
        assert_true(near(score->tokens_seconds, a.objective));
        assert_true(a.objective <= start * (1 + 1e-12));
        for (uint32_t g = 0; g < k[2]; g++)
            assert_true(plan_slots(&plan, g) <= w.p.cluster.slots[g]);
        assert_int_equal(flow_bound(&w.p, &run, &bound, &exact, &err), 0);
        assert_true(bound <= a.objective * (1 + 1e-12) && bound >= 0);
        plan_done(&again);
        random_ranks(&r, &w.p, &again);
        assert_int_equal(flow_search(&w.p, &stopped, &again, &b, &err), 0);
        plan_done(&plan);
        plan_done(&again);
        worlds_done(&w);
    }
    free(score);
}

static void test_refused(void **unused)
{
    struct random r = {16};
    struct place_run run = {.iterations = 10};
    struct flow_found found;
    struct mt_err err = {0};
    struct score *score = calloc(1, sizeof *score);
    struct world w;
    struct plan plan;
    uint8_t held[2 * 4 * 2];

    (void)unused;
    flow_world(&r, 2, 4, 2, &w);
    memset(held, 1, sizeof held);
    assert_int_equal(plan_from_held(2, 4, 2, held, &plan, &err), 0);
    assert_int_equal(score_plan(&w.p, &plan, SCORE_FLUID, score, &err), MT_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "expected one copy, found 2"));
    assert_int_equal(flow_search(&w.p, &run, &plan, &found, &err), MT_EUNSUPPORTED);
    plan_done(&plan);
    random_ranks(&r, &w.p, &plan);
    w.p.cluster.slots[0] = w.p.cluster.slots[1] = 1;
    assert_int_equal(flow_search(&w.p, &run, &plan, &found, &err), MT_EINVAL);
    plan_done(&plan);
    free(score);
    worlds_done(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_score),  cmocka_unit_test(test_sampled),
        cmocka_unit_test(test_moves),  cmocka_unit_test(test_exact),
        cmocka_unit_test(test_search), cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
