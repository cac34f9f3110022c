#include "example.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static uint32_t from_to(struct random *r, uint32_t a, uint32_t b)
{
    return a + random_below(r, b - a + 1);
}

struct trace example_trace(struct random *r, uint32_t layers, uint32_t experts, uint32_t topk,
                           uint32_t documents, uint32_t longest)
{
    struct trace t = {.name = "example",
                      .layers = layers,
                      .experts = experts,
                      .topk = topk,
                      .documents = documents};

    t.doc = calloc(documents + 1, sizeof *t.doc);
    assert_non_null(t.doc);
    for (uint32_t d = 0; d < documents; d++)
        t.doc[d + 1] = t.doc[d] + from_to(r, 1, longest);
    t.tokens = t.doc[documents];
    t.choice = calloc((size_t)t.tokens * layers * topk, sizeof *t.choice);
    assert_non_null(t.choice);
    for (size_t i = 0; i < (size_t)t.tokens * layers; i++)
        for (uint32_t k = 0; k < topk; k++) {
            bool again = true;

            while (again) { /* skewed to the low experts, in no order, without repeats */
                uint32_t e = random_below(r, 1 + random_below(r, experts));

                again = false;
                for (uint32_t j = 0; j < k; j++)
                    again |= t.choice[i * topk + j] == e;
                t.choice[i * topk + k] = (uint16_t)e;
            }
        }
    return t;
}

static void random_shares(struct random *r, float *share, uint32_t n)
{
    double sum = 0;
    double part[PLAN_MAX_RANKS];

    for (uint32_t i = 0; i < n; i++) { /* some get nothing, not all */
        part[i] = random_below(r, 4) || i == 0 ? 0.05 + random_unit(r) : 0;
        sum += part[i];
    }
    for (uint32_t i = 0; i < n; i++)
        share[i] = (float)(part[i] / sum);
}

struct plan example_plan(struct random *r, uint32_t layers, uint32_t experts, uint32_t ranks,
                         enum example_copies copies)
{
    struct plan p = {.layers = layers, .experts = experts, .ranks = ranks};
    size_t pairs = (size_t)layers * experts;
    uint32_t n = 0;

    p.start = calloc(pairs + 1, sizeof *p.start);
    p.rank = calloc(pairs * ranks + 1, sizeof *p.rank);
    p.share = copies == EXAMPLE_SHARES ? calloc(pairs * ranks + 1, sizeof *p.share) : NULL;
    assert_true(p.start && p.rank);
    for (size_t i = 0; i < pairs; i++) {
        uint32_t of = copies == EXAMPLE_ONE_COPY || random_below(r, 2) ? 1 : from_to(r, 1, ranks);

        if (p.share)
            random_shares(r, p.share + n, of);
        for (uint32_t k = 0; k < of;) {
            uint16_t at = (uint16_t)random_below(r, ranks);
            bool again = false;

            for (uint32_t j = 0; j < k; j++)
                again |= p.rank[n + j] == at;
            if (!again)
                p.rank[n + k++] = at;
        }
        n += of;
        p.start[i + 1] = n;
    }
    return p;
}

struct cluster example_cluster(struct random *r, uint32_t ranks, uint32_t nodes)
{
    struct cluster c = {.name = "example", .ranks = ranks, .nodes = nodes};
    double magnitude = random_below(r, 2) ? 0.1 : 3;

    for (uint32_t g = 0; g < ranks; g++) {
        c.node[g] = (uint16_t)(g * nodes / ranks);
        c.slots[g] = PLACE_MAX_EXPERTS;
    }
    c.two_level = random_below(r, 2);
    c.exact_combine = random_below(r, 2);
    c.rank_link = (struct link){1e9 * (1 + random_unit(r)), random_unit(r) * 1e-6};
    c.node_link = (struct link){2e8 * (1 + random_unit(r)), random_unit(r) * 1e-5};
    c.token_expert = 1e-6 * random_unit(r) * magnitude;
    c.active_expert = 1e-6 * random_unit(r);
    c.dense_step = 1e-6 * random_unit(r);
    c.dense_token = 1e-6 * random_unit(r) * magnitude;
    c.dispatch_bytes = 100 + 2000 * random_unit(r);
    c.combine_bytes = 100 + 2000 * random_unit(r);
    c.kv_bytes = 1000 * random_unit(r);
    c.expert_bytes = 1e6 * (1 + random_unit(r));
    c.migration_share = 0.1 + 0.9 * random_unit(r);
    return c;
}

void example_make(struct random *r, enum example_copies copies, struct example *ret)
{
    struct place_problem *p = &ret->p;
    uint32_t ranks = from_to(r, 1, 8);

    memset(ret, 0, sizeof *ret);
    p->layers = from_to(r, 1, 3);
    p->experts = from_to(r, 1, 12);
    p->topk = from_to(r, 1, p->experts < 4 ? p->experts : 4);
    p->cluster = example_cluster(r, ranks, from_to(r, 1, ranks < 3 ? ranks : 3));
    p->scenarios = from_to(r, 1, EXAMPLE_SCENARIOS);
    for (uint32_t i = 0; i < p->scenarios; i++) {
        struct place_scenario *s = &p->scenario[i];

        ret->trace[i] =
            example_trace(r, p->layers, p->experts, p->topk, from_to(r, 1, 12), from_to(r, 2, 12));
        ret->load[i] = calloc((size_t)p->layers * p->experts, sizeof *ret->load[i]);
        assert_non_null(ret->load[i]);
        trace_loads(&ret->trace[i], ret->load[i]);
        *s = (struct place_scenario){
            "example",          random_below(r, 2) ? PLACE_PREFILL : PLACE_DECODE,
            1.0 / p->scenarios, from_to(r, 1, 40),
            &ret->trace[i],     ret->load[i]};
    }
    p->horizon = random_below(r, 2) ? 0 : 1e5;
    p->prompt_fraction = 0.5;
    p->prompt_tokens = random_below(r, 2) ? 0 : from_to(r, 1, 4);
    p->home_slack = 0.3 * random_unit(r);
    ret->plan = example_plan(r, p->layers, p->experts, ranks, copies);
    ret->from = example_plan(r, p->layers, p->experts, ranks, copies);
    if (random_below(r, 2))
        p->from = &ret->from;
}

void example_done(struct example *s)
{
    for (uint32_t i = 0; i < s->p.scenarios; i++) {
        trace_done(&s->trace[i]);
        free(s->load[i]);
    }
    plan_done(&s->plan);
    plan_done(&s->from);
}

struct trace example_fixed(uint32_t experts, uint32_t topk, uint32_t tokens, const uint16_t *choice)
{
    struct trace t = {.name = "fixed",
                      .layers = 1,
                      .experts = experts,
                      .topk = topk,
                      .tokens = tokens,
                      .documents = 1};

    t.doc = calloc(2, sizeof *t.doc);
    t.choice = calloc((size_t)tokens * topk, sizeof *t.choice);
    assert_true(t.doc && t.choice);
    t.doc[1] = tokens;
    memcpy(t.choice, choice, (size_t)tokens * topk * sizeof *choice);
    return t;
}

struct plan example_held(uint32_t experts, uint32_t ranks, const uint8_t *held)
{
    struct plan p;
    struct mt_err err;

    assert_int_equal(plan_from_held(1, experts, ranks, held, &p, &err), 0);
    return p;
}
