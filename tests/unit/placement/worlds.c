#include "tests/unit/placement/worlds.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

static void make_trace(struct random *r, const struct place_problem *p, struct trace *ret)
{
    struct trace t = {.layers = p->layers,
                      .experts = p->experts,
                      .topk = p->topk,
                      .tokens = 20 + random_below(r, 120),
                      .documents = 1};
    uint32_t skew = random_below(r, 3);

    t.doc = calloc(2, sizeof *t.doc);
    t.choice = calloc((size_t)t.tokens * t.layers * t.topk, sizeof *t.choice);
    assert_true(t.doc && t.choice);
    t.doc[1] = t.tokens;
    for (uint32_t i = 0; i < t.tokens * t.layers; i++) {
        uint16_t *c = t.choice + (size_t)i * t.topk;
        bool used[512] = {false};

        for (uint32_t k = 0; k < t.topk; k++) {
            uint32_t e = random_below(r, t.experts), again = random_below(r, t.experts);

            if (skew)
                e = e < again ? e : again;
            if (skew > 1 && i % t.layers && random_below(r, 2)) /* affinity between layers */
                e = *(c - t.topk) / 2;
            while (used[e])
                e = (e + 1) % t.experts;
            used[e] = true;
            c[k] = (uint16_t)e;
        }
    }
    *ret = t;
}

static void make_cluster(struct random *r, uint32_t ranks, uint32_t experts, struct cluster *c)
{
    uint32_t cut = ranks > 1 ? 1 + random_below(r, ranks - 1) : 0;

    if (ranks % 2 == 0 && random_below(r, 2))
        cut = ranks / 2;
    *c = (struct cluster){.name = "test",
                          .ranks = ranks,
                          .nodes = 1,
                          .rank_link = {2e11, 1e-6},
                          .node_link = {random_below(r, 5) ? 4e10 : 2e11, 5e-6},
                          .token_expert = 1e-6,
                          .active_expert = 1e-5,
                          .dense_token = 1e-7,
                          .dispatch_bytes = 8192,
                          .combine_bytes = 8192,
                          .kv_bytes = 1000,
                          .expert_bytes = 1e6,
                          .migration_share = 0.5};
    if (ranks > 1 && random_below(r, 2)) {
        c->nodes = 2;
        for (uint32_t g = 0; g < ranks; g++)
            c->node[g] = g >= cut;
    }
    for (uint32_t g = 0; g < ranks; g++)
        c->slots[g] = (experts + ranks - 1) / ranks + random_below(r, 2) * 2;
    for (uint32_t g = 1; g < ranks; g++)
        c->slots[g] = c->slots[0];
}

void worlds_make(struct random *r, uint32_t layers, uint32_t experts, uint32_t ranks,
                 struct world *w)
{
    *w = (struct world){.p = {.layers = layers,
                              .experts = experts,
                              .topk = 1 + random_below(r, experts < 3 ? experts : 3),
                              .scenarios = 1 + random_below(r, 2),
                              .prompt_fraction = 0.5,
                              .home_slack = 0.1}};
    make_cluster(r, ranks, experts, &w->p.cluster);
    for (uint32_t s = 0; s < w->p.scenarios; s++) {
        make_trace(r, &w->p, &w->trace[s]);
        w->load[s] = calloc((size_t)layers * experts, sizeof(double));
        assert_non_null(w->load[s]);
        trace_loads(&w->trace[s], w->load[s]);
        w->p.scenario[s] =
            (struct place_scenario){.name = "s",
                                    .phase = s ? PLACE_DECODE : PLACE_PREFILL,
                                    .share = w->p.scenarios == 1 ? 1 : 0.25 + s * 0.5,
                                    .tokens = 64,
                                    .trace = &w->trace[s],
                                    .load = w->load[s]};
    }
}

void worlds_done(struct world *w)
{
    for (uint32_t s = 0; s < 2; s++) {
        trace_done(&w->trace[s]);
        free(w->load[s]);
    }
}
