#include "problems.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "placement/score.h"

static void make_trace(struct random *r, const struct problem_shape *s, uint32_t topk,
                       struct trace *ret)
{
    struct trace t = {.layers = s->layers, .experts = s->experts, .topk = topk};
    double taste[64];
    struct mt_err err;

    t.tokens = 1 + random_below(r, s->tokens);
    t.documents = 1 + random_below(r, t.tokens);
    t.doc = calloc(t.documents + 1, sizeof *t.doc);
    t.choice = calloc((size_t)t.tokens * t.layers * topk, sizeof *t.choice);
    for (uint32_t d = 0; d < t.documents; d++)
        t.doc[d + 1] = d + 1 < t.documents ? t.doc[d] + 1 : t.tokens;
    for (uint32_t e = 0; e < s->experts; e++)
        taste[e] = random_unit(r) * random_unit(r);
    for (size_t i = 0; i < (size_t)t.tokens * t.layers; i++) {
        bool chosen[64] = {0};

        for (uint32_t k = 0; k < topk; k++) {
            uint32_t e = random_below(r, s->experts);

            while (chosen[e] || random_unit(r) > taste[e] + 0.05)
                e = (e + 1) % s->experts;
            chosen[e] = true;
            t.choice[i * topk + k] = (uint16_t)e;
        }
    }
    if (trace_check(&t, &err))
        fail_msg("%s", err.text);
    *ret = t;
}

static void make_cluster(struct random *r, const struct problem_shape *s, struct cluster *c)
{
    uint32_t room = 0;

    c->ranks = s->ranks;
    c->nodes = s->nodes;
    for (uint32_t g = 0; g < s->ranks; g++) {
        c->node[g] = (uint16_t)(g * s->nodes / s->ranks);
        c->slots[g] = s->experts / s->ranks;
        if (s->spare)
            c->slots[g] += random_below(r, s->spare + 1);
        room += c->slots[g];
    }
    if (s->nodes > 1 && s->ranks > s->nodes && random_below(r, 2)) /* nodes of other sizes */
        for (uint32_t g = 0; g < s->ranks; g++)
            c->node[g] = (uint16_t)(g < s->nodes ? g : s->nodes - 1);
    while (room < s->experts) {
        c->slots[random_below(r, s->ranks)]++;
        room++;
    }
    c->two_level = random_below(r, 3) == 0;
    c->exact_combine = random_below(r, 3) == 0;
    c->rank_link = (struct link){1e9 * (0.1 + random_unit(r)), random_below(r, 2) * 1e-6};
    c->node_link = (struct link){3e8 * (0.1 + random_unit(r)), random_below(r, 2) * 1e-5};
    c->token_expert = 3e-6 * random_unit(r);
    c->active_expert = 3e-6 * random_unit(r) * random_below(r, 2);
    c->dense_step = 1e-6;
    c->dense_token = 1e-7;
    c->dispatch_bytes = 1000 + random_below(r, 1000);
    c->combine_bytes = 1000;
    c->kv_bytes = 100;
    c->expert_bytes = 1e5;
    c->migration_share = 0.5;
}

struct problem *problem_new(struct random *r, const struct problem_shape *shape)
{
    struct problem *p = calloc(1, sizeof *p);
    uint32_t most = shape->experts < 4 ? shape->experts : 4;

    assert_non_null(p);
    p->p.layers = shape->layers;
    p->p.experts = shape->experts;
    p->p.topk = 1 + random_below(r, most);
    p->p.scenarios = 1 + random_below(r, 4);
    make_cluster(r, shape, &p->p.cluster);
    for (uint32_t i = 0; i < PROBLEM_TRACES; i++) {
        make_trace(r, shape, p->p.topk, &p->trace[i]);
        p->load[i] = calloc((size_t)shape->layers * shape->experts, sizeof *p->load[i]);
        assert_non_null(p->load[i]);
        trace_loads(&p->trace[i], p->load[i]);
    }
    for (uint32_t s = 0; s < p->p.scenarios; s++) {
        struct place_scenario *to = &p->p.scenario[s];
        uint32_t i = random_below(r, PROBLEM_TRACES);

        to->phase = random_below(r, 2) ? PLACE_DECODE : PLACE_PREFILL;
        to->share = 1.0 / p->p.scenarios;
        to->tokens = 1 + random_below(r, random_below(r, 2) ? 8 : 1000);
        to->load = p->load[i];
        to->trace = shape->loads_only || random_below(r, 8) == 0 ? NULL : &p->trace[i];
    }
    return p;
}

void problem_free(struct problem *p)
{
    for (uint32_t i = 0; i < PROBLEM_TRACES; i++) {
        trace_done(&p->trace[i]);
        free(p->load[i]);
    }
    free(p);
}

double problem_score(const struct place_problem *p, const struct plan *plan)
{
    struct score *s = calloc(1, sizeof *s);
    struct mt_err err;
    double j;

    if (score_plan(p, plan, SCORE_FLUID, s, &err))
        fail_msg("%s", err.text);
    j = s->j;
    free(s);
    return j;
}

/* Layers alike: their costs add up, and the best of each is found with the others left alone. */
double problem_best(const struct place_problem *p)
{
    struct plan plan = {.layers = p->layers, .experts = p->experts, .ranks = p->cluster.ranks};
    size_t pairs = (size_t)p->layers * p->experts;
    double best = 1e300;

    plan.start = calloc(pairs + 1, sizeof *plan.start);
    plan.rank = calloc(pairs, sizeof *plan.rank);
    assert_non_null(plan.start);
    assert_non_null(plan.rank);
    for (uint32_t i = 0; i <= pairs; i++)
        plan.start[i] = i;
    for (uint32_t l = 0; l < p->layers; l++) {
        uint16_t *rank = plan.rank + (size_t)l * p->experts, keep[64] = {0};

        best = 1e300;
        for (bool more = true; more;) {
            uint32_t held[PLAN_MAX_RANKS] = {0}, e = 0;
            bool fits = true;

            for (uint32_t i = 0; i < p->experts; i++)
                fits &= ++held[rank[i]] <= p->cluster.slots[rank[i]];
            if (fits) {
                double j = problem_score(p, &plan);

                if (j < best) {
                    best = j;
                    memcpy(keep, rank, p->experts * sizeof *rank);
                }
            }
            while (e < p->experts && ++rank[e] == p->cluster.ranks)
                rank[e++] = 0;
            more = e < p->experts;
        }
        memcpy(rank, keep, p->experts * sizeof *rank);
    }
    free(plan.start);
    free(plan.rank);
    return best;
}
