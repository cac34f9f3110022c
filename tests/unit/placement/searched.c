#include "searched.h"

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

struct searched searched_random(struct random *r)
{
    struct searched s = {.layers = 1};

    s.experts = from_to(r, 1, 20);
    s.topk = from_to(r, 1, s.experts < 4 ? s.experts : 4);
    s.ranks = from_to(r, 1, 8);
    s.nodes = from_to(r, 1, s.ranks < 3 ? s.ranks : 3);
    s.slots = (s.experts + s.ranks - 1) / s.ranks + random_below(r, 3);
    s.documents = from_to(r, 1, 30);
    s.longest = from_to(r, 4, 40);
    s.tokens = s.ranks * from_to(r, 1, 8);
    s.scenarios = from_to(r, 1, EXAMPLE_SCENARIOS);
    s.phases = SEARCHED_BOTH;
    s.two_level = random_below(r, 2);
    s.exact = random_below(r, 2);
    s.affinity = random_below(r, 2);
    s.from = random_below(r, 2);
    s.uneven = random_below(r, 3) == 0;
    s.shared = random_below(r, 3) == 0;
    return s;
}

uint32_t searched_slots(const struct place_problem *p)
{
    uint32_t n = 0;

    for (uint32_t g = 0; g < p->cluster.ranks; g++)
        n += p->cluster.slots[g];
    return n;
}

static void give_slots(struct random *r, const struct searched *how, struct place_problem *p)
{
    struct cluster *c = &p->cluster;
    uint32_t few = (p->experts + c->ranks - 1) / c->ranks, total;

    for (uint32_t g = 0; g < c->ranks; g++) {
        c->slots[g] = how->slots ? how->slots : few;
        if (how->uneven)
            c->slots[g] = random_below(r, 2 * c->slots[g] + 1);
        if (c->slots[g] > p->experts)
            c->slots[g] = p->experts;
    }
    for (total = searched_slots(p); total < p->experts; total = searched_slots(p)) {
        uint32_t g = random_below(r, c->ranks);

        c->slots[g] += c->slots[g] < p->experts;
    }
}

static struct trace make_trace(struct random *r, const struct searched *how)
{
    struct trace t =
        example_trace(r, how->layers, how->experts, how->topk, how->documents, how->longest);

    while (how->affinity && t.tokens == t.documents) { /* prompts alone */
        trace_done(&t);
        t = example_trace(r, how->layers, how->experts, how->topk, how->documents, how->longest);
    }
    return t;
}

void searched_make(struct random *r, const struct searched *how, struct example *ret)
{
    struct place_problem *p = &ret->p;

    memset(ret, 0, sizeof *ret);
    p->layers = how->layers;
    p->experts = how->experts;
    p->topk = how->topk;
    p->cluster = example_cluster(r, how->ranks, how->nodes);
    p->cluster.two_level = how->two_level;
    p->cluster.exact_combine = how->exact;
    if (how->free_messages)
        p->cluster.rank_link.latency = p->cluster.node_link.latency = 0;
    give_slots(r, how, p);
    p->homes = how->affinity ? PLACE_HOMES_AFFINITY : PLACE_HOMES_LOAD;
    p->prompt_fraction = 0.5;
    p->home_slack = 0.2;
    p->scenarios = how->scenarios;
    for (uint32_t i = 0; i < p->scenarios; i++) {
        struct place_scenario *s = &p->scenario[i];

        ret->load[i] = calloc((size_t)p->layers * p->experts, sizeof *ret->load[i]);
        assert_non_null(ret->load[i]);
        if (!how->shared || !i)
            ret->trace[i] = make_trace(r, how);
        trace_loads(&ret->trace[how->shared ? 0 : i], ret->load[i]);
        *s = (struct place_scenario){.name = "example",
                                     .phase =
                                         how->phases == SEARCHED_BOTH
                                             ? (i + how->tokens) % 2 ? PLACE_PREFILL : PLACE_DECODE
                                         : how->phases == SEARCHED_DECODE ? PLACE_DECODE
                                                                          : PLACE_PREFILL,
                                     .share = 1.0 / p->scenarios,
                                     .tokens = how->tokens,
                                     .trace = &ret->trace[how->shared ? 0 : i],
                                     .load = ret->load[i]};
    }
    if (how->from) {
        ret->from = searched_plan(r, p, false);
        p->from = &ret->from;
        p->horizon = 1e5;
    }
}

void searched_items(struct random *r, const struct place_problem *p, bool replicas, uint16_t *items)
{
    uint32_t slots = searched_slots(p), at = 0;
    uint16_t *order = calloc(slots, sizeof *order);

    assert_non_null(order);
    for (uint32_t s = 0; s < slots; s++) {
        uint32_t k = random_below(r, s + 1);

        items[s] = (uint16_t)p->experts;
        order[s] = order[k];
        order[k] = (uint16_t)s;
    }
    for (uint32_t e = 0; e < p->experts; e++)
        items[order[e]] = (uint16_t)e;
    free(order);
    for (uint32_t g = 0; replicas && g < p->cluster.ranks; at += p->cluster.slots[g++])
        for (uint32_t s = at; s < at + p->cluster.slots[g]; s++) {
            uint16_t e = (uint16_t)random_below(r, p->experts + 1);
            bool again = items[s] < p->experts;

            for (uint32_t k = at; k < at + p->cluster.slots[g]; k++)
                again |= items[k] == e;
            items[s] = again ? items[s] : e;
        }
}

void searched_hold(const struct place_problem *p, uint32_t layer, const uint16_t *items,
                   uint8_t *held)
{
    uint32_t s = 0, ranks = p->cluster.ranks;

    memset(held + (size_t)layer * p->experts * ranks, 0, (size_t)p->experts * ranks);
    for (uint32_t g = 0; g < ranks; g++)
        for (uint32_t k = 0; k < p->cluster.slots[g]; k++, s++)
            if (items[s] < p->experts)
                held[((size_t)layer * p->experts + items[s]) * ranks + g] = 1;
}

struct plan searched_plan(struct random *r, const struct place_problem *p, bool replicas)
{
    uint16_t *items = calloc(searched_slots(p) + 1, sizeof *items);
    uint8_t *held = calloc((size_t)p->layers * p->experts, p->cluster.ranks);
    struct plan plan;
    struct mt_err err;

    assert_true(items && held);
    for (uint32_t l = 0; l < p->layers; l++) {
        searched_items(r, p, replicas, items);
        searched_hold(p, l, items, held);
    }
    assert_int_equal(plan_from_held(p->layers, p->experts, p->cluster.ranks, held, &plan, &err), 0);
    free(items);
    free(held);
    return plan;
}
