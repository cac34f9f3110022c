/* Replays: every token once, the same each time, and what a migration costs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement/diff.h"
#include "placement/homes.h"
#include "placement/random.h"
#include "placement/replay.h"
#include "placement/score.h"
#include "tests/unit/placement/example.h"

#define CLOSE(a, b) assert_true(fabs((a) - (b)) <= 1e-9 * (fabs(a) + fabs(b)) + 1e-15)

static struct random rng = {7};

static uint32_t between(uint32_t low, uint32_t high)
{
    return low + random_below(&rng, high - low + 1);
}

static struct trace make_trace(uint32_t layers, uint32_t experts, uint32_t topk, uint32_t documents,
                               uint32_t longest)
{
    struct trace t = {.layers = layers, .experts = experts, .topk = topk, .documents = documents};
    uint32_t ids = layers * topk;

    snprintf(t.name, sizeof t.name, "made");
    t.doc = calloc(documents + 1, sizeof *t.doc);
    for (uint32_t d = 0; d < documents; d++)
        t.doc[d + 1] = t.doc[d] + between(1, longest);
    t.tokens = t.doc[documents];
    t.choice = calloc((size_t)t.tokens * ids, sizeof *t.choice);
    for (uint32_t d = 0; d < documents; d++) {
        uint32_t liked = between(0, experts - 1); /* documents differ */

        for (uint32_t i = t.doc[d] * layers; i < t.doc[d + 1] * layers; i++)
            for (uint32_t k = 0; k < topk; k++) {
                uint16_t *at = t.choice + (size_t)i * topk, e = 0;
                bool again = true;

                while (again) {
                    e = (uint16_t)(between(0, 2) ? (liked + between(0, topk)) % experts
                                                 : between(0, experts - 1));
                    again = false;
                    for (uint32_t m = 0; m < k; m++)
                        again |= at[m] == e;
                }
                at[k] = e;
            }
    }
    return t;
}

static struct cluster make_cluster(uint32_t ranks, uint32_t nodes, uint32_t slots)
{
    struct cluster c = {.ranks = ranks,
                        .nodes = nodes,
                        .rank_link = {1e9, 1e-6},
                        .node_link = {1e8, 5e-6},
                        .token_expert = 2e-6,
                        .active_expert = 1e-6,
                        .dense_step = 3e-6,
                        .dense_token = 1e-6,
                        .dispatch_bytes = 520,
                        .combine_bytes = 512,
                        .kv_bytes = 2048,
                        .expert_bytes = 1e5,
                        .migration_share = 0.25};

    snprintf(c.name, sizeof c.name, "made");
    for (uint32_t g = 0; g < ranks; g++) {
        c.node[g] = (uint16_t)(g * nodes / ranks);
        c.slots[g] = slots;
    }
    return c;
}

/* A problem as large as fits its trace; slots for every expert on every rank. */
static struct place_problem make_problem(const struct trace *t, uint32_t ranks, uint32_t nodes)
{
    struct place_problem p = {.layers = t->layers,
                              .experts = t->experts,
                              .topk = t->topk,
                              .cluster = make_cluster(ranks, nodes, t->experts),
                              .semantics = PLACE_HOME,
                              .prompt_fraction = 0.5,
                              .home_slack = 0.2};

    return p;
}

static struct plan random_plan(const struct place_problem *p)
{
    return example_plan(&rng, p->layers, p->experts, p->cluster.ranks, EXAMPLE_REPLICAS);
}

/* What the callbacks of a test see. */
struct watch {
    const struct place_problem *p;
    const struct trace *const *domain;
    struct replay_totals sum; /* of the steps */
    double tokens;
    uint32_t largest; /* tokens of a step */
    uint64_t asked, changes;
    double moved, copying; /* as the test counts */
    double copied, last;   /* seconds of the steps of the last migration; of its last step */
    double solve, solving; /* seconds of a solution; until copying begins */
    bool wait, free;       /* a migration goes on; answers are free */
    uint32_t stop_after;   /* steps; 0: never */
    uint32_t segment[16];  /* tokens of each */
};

static bool watch_step(void *user, const struct replay_step *s)
{
    struct watch *w = user;

    assert_int_equal(s->number, w->sum.steps);
    w->sum.steps++;
    w->sum.prefill += s->prefill;
    w->sum.decode += s->decode;
    w->sum.terms.dense += s->terms.dense;
    w->sum.terms.dispatch += s->terms.dispatch;
    w->sum.terms.compute += s->terms.compute;
    w->sum.terms.combine += s->terms.combine;
    w->sum.kv += s->kv;
    w->sum.slowed += s->slowed;
    w->sum.seconds += s->seconds;
    CLOSE(s->seconds, step_seconds(&s->terms) + s->kv + s->slowed);
    CLOSE(s->clock, w->sum.seconds);
    assert_true(s->prefill + s->decode > 0);
    if (s->prefill + s->decode > w->largest)
        w->largest = s->prefill + s->decode;
    if (s->segment < 16)
        w->segment[s->segment] += s->prefill + s->decode;
    if (w->solving > 0) {
        assert_true(s->slowed == 0 && !s->migrated);
        w->solving -= s->seconds;
    } else if (w->wait) {
        w->copied += s->seconds;
        w->last = s->seconds;
        if (s->migrated)
            w->wait = false;
    } else {
        assert_true(s->slowed == 0);
        assert_false(s->migrated);
    }
    return !w->stop_after || w->sum.steps < w->stop_after;
}

static void assert_equal_sums(const struct watch *w, const struct replay_totals *t)
{
    assert_int_equal(w->sum.steps, t->steps);
    assert_int_equal(w->sum.prefill, t->prefill);
    assert_int_equal(w->sum.decode, t->decode);
    CLOSE(w->sum.seconds, t->seconds);
    CLOSE(w->sum.kv, t->kv);
    CLOSE(w->sum.slowed, t->slowed);
    CLOSE(step_seconds(&w->sum.terms), step_seconds(&t->terms));
    CLOSE(w->sum.terms.compute, t->terms.compute);
    CLOSE(w->sum.terms.dispatch, t->terms.dispatch);
}

/* Document i of a window begins document k of the trace. */
static bool begins(const struct trace *seen, uint32_t i, const struct trace *t, uint32_t k)
{
    uint32_t n = seen->doc[i + 1] - seen->doc[i];

    return k < t->documents && n <= t->doc[k + 1] - t->doc[k] &&
           !memcmp(trace_at(seen, seen->doc[i], 0), trace_at(t, t->doc[k], 0),
                   (size_t)n * t->layers * t->topk * sizeof *t->choice);
}

/* The window holds, for each request in order, the tokens that it has had: none twice, none left
 * out. */
static int watch_window(void *user, const struct replay_view *now, struct replay_answer *ret,
                        struct mt_err *reterr)
{
    struct watch *w = user;
    const struct trace *seen = now->window;
    uint32_t d = 0, k = 0;

    (void)ret;
    w->asked++;
    assert_non_null(seen);
    assert_int_equal(trace_check(seen, reterr), 0);
    assert_int_equal(seen->tokens, now->tokens);
    for (uint32_t i = 0; i < seen->documents; i++, k++)
        while (!begins(seen, i, w->domain[d], k)) /* has not had its first token yet */
            if (++k >= w->domain[d]->documents) {
                k = 0;
                assert_true(++d < 2);
            }
    return 0;
}

/* Tokens of prompts of all documents. */
static uint64_t prompt_tokens(const struct place_problem *p, const struct trace *t)
{
    uint64_t n = 0;

    for (uint32_t d = 0; d < t->documents; d++)
        n += homes_prompt(p, t->doc[d + 1] - t->doc[d]);
    return n;
}

static void test_each_token_once(void **unused)
{
    (void)unused;
    for (int round = 0; round < 150; round++) {
        uint32_t layers = between(1, 4), experts = between(2, 12), topk = between(1, 2);
        struct trace a = make_trace(layers, experts, topk, between(1, 12), 30),
                     b = make_trace(layers, experts, topk, between(1, 3), 9);
        const struct trace *domain[] = {&a, &b};
        struct place_problem p = make_problem(&a, between(1, 6), 1);
        struct plan plan = random_plan(&p);
        struct watch w = {.p = &p, .domain = domain}, again = w;
        struct replay r = {.domains = 2,
                           .domain = domain,
                           .sequences = between(1, 20),
                           .step_tokens = between(1, 16),
                           .every_steps = 1,
                           .window = 1000,
                           .resolve = watch_window,
                           .step = watch_step,
                           .user = &w};
        struct replay_totals t, u;
        struct mt_err err;

        p.homes = round % 2 ? PLACE_HOMES_AFFINITY : PLACE_HOMES_LOAD;
        p.prompt_tokens = round % 3 ? 0 : between(1, 12);
        if (replay_run(&p, &r, &plan, &t, &err))
            fail_msg("%s", err.text);
        assert_int_equal(t.prefill, prompt_tokens(&p, &a) + prompt_tokens(&p, &b));
        assert_int_equal(t.prefill + t.decode, a.tokens + b.tokens);
        assert_int_equal(t.requests, a.documents + b.documents);
        assert_equal_sums(&w, &t);
        assert_true(w.largest <= p.cluster.ranks * r.step_tokens);
        assert_true(t.resolves == w.asked && t.resolves < t.steps);
        assert_true(t.slowed == 0 && t.migrations == 0);
        if (p.homes == PLACE_HOMES_LOAD || p.cluster.ranks == 1)
            assert_true(t.kv == 0 && t.kv_moves == 0);
        else
            assert_true((t.kv > 0) == (t.kv_moves > 0));
        assert_true(t.figures.load >= 1 - 1e-9 && t.figures.ranks >= 1 - 1e-9);
        assert_true(t.figures.remote <= t.figures.ranks && t.figures.local <= 1 + 1e-9);
        r.user = &again;
        assert_int_equal(replay_run(&p, &r, &plan, &u, &err), 0);
        assert_memory_equal(&t, &u, sizeof t);
        plan_done(&plan);
        trace_done(&a);
        trace_done(&b);
    }
}

/* One rank, one sequence: a step takes a budget of prompt or one token, and time is a sum by hand.
 */
static void test_one_rank(void **unused)
{
    (void)unused;
    for (int round = 0; round < 50; round++) {
        struct trace t = make_trace(between(1, 3), between(2, 6), 1, between(1, 5), 40);
        const struct trace *domain[] = {&t};
        struct place_problem p = make_problem(&t, 1, 1);
        struct cluster *c = &p.cluster;
        struct plan plan = random_plan(&p);
        struct replay r = {
            .domains = 1, .domain = domain, .sequences = 1, .step_tokens = between(1, 9)};
        struct replay_totals got;
        uint64_t steps = 0, first = 0;
        double work = t.tokens * (c->dense_token + c->token_expert);

        assert_int_equal(replay_run(&p, &r, &plan, &got, NULL), 0);
        for (uint32_t d = 0; d < t.documents; d++) {
            uint32_t length = t.doc[d + 1] - t.doc[d], prompt = homes_prompt(&p, length);
            uint32_t chunks = (prompt + r.step_tokens - 1) / r.step_tokens;

            steps += chunks + length - prompt;
            first += chunks;
        }
        assert_int_equal(got.steps, steps);
        CLOSE(got.first_steps, (double)first / t.documents);
        CLOSE(got.terms.dense + t.tokens * t.layers * c->token_expert,
              t.layers * (work + steps * c->dense_step));
        assert_true(got.terms.dispatch == 0 && got.terms.combine == 0);
        /* Alike where a single document is all prompt. */
        assert_true(got.first_seconds > 0 && got.first_seconds <= got.seconds * (1 + 1e-12));
        plan_done(&plan);
        trace_done(&t);
    }
}

/* More places than documents: all begin at once, and the longest decides. */
static void test_more_places_than_documents(void **unused)
{
    struct trace t = make_trace(2, 6, 2, 5, 50);
    const struct trace *domain[] = {&t};
    struct place_problem p = make_problem(&t, 3, 1);
    struct plan plan = random_plan(&p);
    struct replay r = {.domains = 1, .domain = domain, .sequences = 64, .step_tokens = 1000};
    struct replay_totals got;
    uint64_t most = 0;

    (void)unused;
    assert_int_equal(replay_run(&p, &r, &plan, &got, NULL), 0);
    for (uint32_t d = 0; d < t.documents; d++) {
        uint32_t length = t.doc[d + 1] - t.doc[d], steps = 1 + length - homes_prompt(&p, length);

        most = steps > most ? steps : most;
    }
    assert_int_equal(got.steps, most);
    assert_true(got.first_steps == 1);
    plan_done(&plan);
    trace_done(&t);
}

/* A new plan each time, and what its way there costs: by score_migration, by the list of
 * moves and by counting copies. */
static int watch_migration(void *user, const struct replay_view *now, struct replay_answer *ret,
                           struct mt_err *reterr)
{
    struct watch *w = user;
    const struct cluster *c = &w->p->cluster;
    uint32_t ranks = c->ranks, pairs = w->p->layers * w->p->experts, copies = 0;
    uint8_t *held = calloc((size_t)pairs * ranks, 1);
    struct diff d;

    assert_false(w->wait);
    if (w->changes)
        assert_true(w->copied >= w->copying * 0.999999 && w->copied - w->last < w->copying);
    ret->plan = random_plan(w->p);
    ret->change = true;
    ret->free = w->free;
    w->asked++;
    for (uint32_t i = 0; i < pairs; i++)
        for (uint32_t k = now->plan->start[i]; k < now->plan->start[i + 1]; k++)
            held[i * ranks + now->plan->rank[k]] = 1;
    for (uint32_t i = 0; i < pairs; i++)
        for (uint32_t k = ret->plan.start[i]; k < ret->plan.start[i + 1]; k++)
            copies += !held[i * ranks + ret->plan.rank[k]];
    free(held);
    if (!copies || w->free)
        return 0;
    w->changes++;
    w->moved += copies * c->expert_bytes;
    w->copying = score_migration(c, now->plan, &ret->plan);
    assert_int_equal(diff_plans(c, now->plan, &ret->plan, true, &d, reterr), 0);
    assert_int_equal(d.copies, copies); /* there is room: no detours */
    CLOSE(d.transfer, w->copying);
    diff_done(&d);
    w->sum.copying += w->copying;
    w->copied = 0;
    w->solving = w->solve;
    w->wait = true;
    return 0;
}

static void test_migration(void **unused)
{
    (void)unused;
    for (int round = 0; round < 60; round++) {
        struct trace t = make_trace(between(1, 4), between(2, 10), 2, between(5, 20), 60);
        const struct trace *domain[] = {&t};
        struct place_problem p = make_problem(&t, between(2, 6), between(1, 2));
        struct plan plan = random_plan(&p);
        struct watch w = {.p = &p,
                          .domain = domain,
                          .free = round % 5 == 4,
                          .solve = round % 2 ? 1e-3 * random_unit(&rng) : 0};
        struct replay r = {.domains = 1,
                           .domain = domain,
                           .sequences = between(1, 12),
                           .step_tokens = 16,
                           .every_tokens = between(1, 100),
                           .resolve = watch_migration,
                           .solve_seconds = w.solve,
                           .step = watch_step,
                           .user = &w};
        struct replay_totals got;

        p.cluster.migration_share = round % 3 ? 0.05 + 0.3 * random_unit(&rng) : 1;
        assert_int_equal(replay_run(&p, &r, &plan, &got, NULL), 0);
        assert_equal_sums(&w, &got);
        assert_int_equal(got.resolves, w.asked);
        assert_int_equal(got.migrations, w.changes);
        CLOSE(got.moved_bytes, w.moved);
        CLOSE(got.copying, w.sum.copying);
        /* Steps lose at most the share of the copying time, all of it if it has all the link. */
        assert_true(got.slowed <= got.copying * p.cluster.migration_share * (1 + 1e-9));
        if (p.cluster.migration_share >= 1 && !w.wait)
            CLOSE(got.slowed, got.copying);
        if (w.free)
            assert_true(got.slowed == 0 && got.migrations == 0);
        plan_done(&plan);
        trace_done(&t);
    }
}

/* Segments end after their tokens or seconds, and their documents go on where they were. */
static void test_schedule(void **unused)
{
    struct trace a = make_trace(2, 8, 2, 7, 40), b = make_trace(2, 8, 2, 3, 40);
    const struct trace *domain[] = {&a, &b};
    struct replay_segment day[] = {{0, 900, 0}, {1, 500, 0}, {0, 700, 0}, {1, 0, 0.02}};
    struct place_problem p = make_problem(&a, 4, 2);
    struct plan plan = random_plan(&p);
    struct watch w = {.p = &p, .domain = domain};
    struct replay r = {.domains = 2,
                       .domain = domain,
                       .segments = 4,
                       .segment = day,
                       .sequences = 8,
                       .step_tokens = 8,
                       .step = watch_step,
                       .user = &w};
    struct replay_totals got;

    (void)unused;
    assert_int_equal(replay_run(&p, &r, &plan, &got, NULL), 0);
    assert_equal_sums(&w, &got);
    for (uint32_t i = 0; i < 3; i++)
        assert_true(w.segment[i] >= day[i].tokens && w.segment[i] < day[i].tokens + w.largest);
    assert_true(got.seconds > 0.02 && got.requests > 20);
    w = (struct watch){.p = &p, .domain = domain, .stop_after = 11};
    assert_int_equal(replay_run(&p, &r, &plan, &got, NULL), 0);
    assert_int_equal(got.steps, 11);
    plan_done(&plan);
    trace_done(&a);
    trace_done(&b);
}

static int refuse_policy(void *user, const struct replay_view *now, struct replay_answer *ret,
                         struct mt_err *reterr)
{
    uint32_t *how = user;

    if (*how)
        return mt_error(reterr, MT_ELIMIT, "the policy's own");
    ret->change = true; /* of another shape */
    return plan_contiguous(now->plan->layers, now->plan->experts + 1, now->plan->ranks, &ret->plan,
                           reterr);
}

#define REFUSED(what, want) \
    do { \
        struct replay r = good; \
        struct place_problem q = p; \
        struct replay_segment day[] = {{0, 10, 0}}; \
\
        r.segment = day; \
        what; \
        assert_int_not_equal(replay_run(&q, &r, &plan, &got, &err), 0); \
        if (!strstr(err.text, want)) \
            fail_msg("expected \"%s\" in: %s", want, err.text); \
    } while (0)

static void test_refused(void **unused)
{
    struct trace t = make_trace(1, 4, 1, 7, 20), other = make_trace(2, 4, 1, 7, 20);
    const struct trace *domain[] = {&t}, *two[] = {&t, &other};
    struct place_problem p = make_problem(&t, 2, 1);
    struct plan plan = random_plan(&p);
    struct replay good = {.domains = 1, .domain = domain, .sequences = 4, .step_tokens = 8};
    struct replay_totals got;
    struct mt_err err;
    uint32_t how = 0;

    (void)unused;
    assert_int_equal(replay_run(&p, &good, &plan, &got, &err), 0);
    REFUSED(r.domains = 0, "domains: expected 1");
    REFUSED(r.domains = 2; r.domain = two, "expected 1 layers, 4 experts, top-1; found 2 layers");
    REFUSED(r.sequences = 0, "sequences: expected 1");
    REFUSED(r.sequences = 1u << 30, "sequences: expected 1");
    REFUSED(r.step_tokens = 0, "step: expected 1");
    REFUSED(r.window = UINT32_MAX, "window: expected 0");
    REFUSED(r.segments = 1; day[0].domain = 1, "segment 0: expected a domain below 1, found 1");
    REFUSED(r.segments = 1; day[0].tokens = 0, "segment 0: expected tokens or seconds");
    REFUSED(r.segments = 1; day[0].seconds = -1, "segment 0: expected tokens or seconds");
    REFUSED(r.segments = 1; day[0].seconds = (double)INFINITY, "segment 0: expected tokens");
    REFUSED(r.solve_seconds = -1, "seconds to solve: expected 0 or more, found -1");
    REFUSED(q.semantics = PLACE_FLOW, "home semantics");
    REFUSED(q.experts = 5, "experts");
    REFUSED(r.every_steps = 1; r.resolve = refuse_policy; r.user = &how, "experts");
    how = 1;
    REFUSED(r.every_steps = 1; r.resolve = refuse_policy; r.user = &how, "the policy's own");
    plan_done(&plan);
    trace_done(&t);
    trace_done(&other);
}

/* Without drift, decoding and homes by load, a long replay costs what the oracle says. */
static void test_agrees_with_the_oracle(void **unused)
{
    struct trace t = make_trace(3, 8, 2, 400, 200);
    const struct trace *domain[] = {&t};
    double *load = calloc((size_t)t.layers * t.experts, sizeof *load);

    (void)unused;
    assert_non_null(load);
    trace_loads(&t, load);
    for (uint32_t ranks = 1; ranks <= 8; ranks *= 2) {
        struct place_problem p = make_problem(&t, ranks, ranks > 4 ? 2 : 1);
        struct plan plan = random_plan(&p);
        struct replay r = {.domains = 1, .domain = domain, .sequences = 64, .step_tokens = 64};
        struct replay_totals got;
        struct score score;
        double mine, oracle;

        p.prompt_tokens = 1;
        p.scenarios = 1;
        p.scenario[0] = (struct place_scenario){.name = "all",
                                                .phase = PLACE_DECODE,
                                                .share = 1,
                                                .tokens = 64,
                                                .trace = &t,
                                                .load = load};
        assert_int_equal(replay_run(&p, &r, &plan, &got, NULL), 0);
        assert_int_equal(score_plan(&p, &plan, SCORE_SAMPLED, &score, NULL), 0);
        mine = got.seconds / (double)(got.prefill + got.decode);
        oracle = score.tokens_seconds;
        print_message("%u ranks: %.4g against %.4g: %+.2f %%\n", ranks, mine, oracle,
                      100 * (mine / oracle - 1));
        assert_true(fabs(mine / oracle - 1) < 0.03);
        plan_done(&plan);
    }
    free(load);
    trace_done(&t);
}

/* Homes by affinity visit fewer ranks and pay for the KV that moves; they stay where it costs more
 * than it saves. */
static void test_affinity(void **unused)
{
    struct trace t = make_trace(2, 8, 2, 200, 80);
    const struct trace *domain[] = {&t};
    struct place_problem p = make_problem(&t, 4, 1);
    struct plan plan;
    struct replay r = {.domains = 1, .domain = domain, .sequences = 32, .step_tokens = 64};
    struct replay_totals load, near, costly;

    (void)unused;
    assert_int_equal(plan_contiguous(2, 8, 4, &plan, NULL), 0);
    p.cluster.kv_bytes = 16;
    assert_int_equal(replay_run(&p, &r, &plan, &load, NULL), 0);
    p.homes = PLACE_HOMES_AFFINITY;
    assert_int_equal(replay_run(&p, &r, &plan, &near, NULL), 0);
    print_message("remote ranks: %.3f by load, %.3f by affinity\n", load.figures.remote,
                  near.figures.remote);
    assert_true(near.figures.remote < 0.95 * load.figures.remote);
    assert_true(near.kv_moves > 50 && near.kv > 0 && load.kv == 0);
    p.cluster.kv_bytes = 1e6;
    assert_int_equal(replay_run(&p, &r, &plan, &costly, NULL), 0);
    assert_memory_equal(&costly, &load, sizeof load);
    plan_done(&plan);
    trace_done(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_token_once),
        cmocka_unit_test(test_one_rank),
        cmocka_unit_test(test_more_places_than_documents),
        cmocka_unit_test(test_migration),
        cmocka_unit_test(test_schedule),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_agrees_with_the_oracle),
        cmocka_unit_test(test_affinity),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
