/* Prices of a layer: after any exchange what they are computed anew, exactly; what they mean, by
 * loops over single tokens and by the oracle. And what a bag and a sample hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/anneal.h"
#include "placement/homes.h"
#include "placement/score.h"
#include "searched.h"

#define WORLDS 150
#define MOVES 400 /* in each; MT_LONG: 20 times as many */

/* A problem, homes by affinity for a random plan, and a layer with what it needs. */
struct world {
    struct example e;
    struct plan homes_of;
    uint16_t *homes[EXAMPLE_SCENARIOS];
    struct bag bag;
    struct sample_set *set;
    struct layer *layer, *other;
};

static const struct sample_rule MEANS = {.samples = 16};

static void open_world(struct random *r, const struct searched *how, const struct sample_rule *rule,
                       struct world *w)
{
    struct place_problem *p = &w->e.p;
    struct mt_err err;

    *w = (struct world){0};
    searched_make(r, how, &w->e);
    w->homes_of = searched_plan(r, p, false);
    for (uint32_t i = 0; how->affinity && i < p->scenarios; i++) {
        w->homes[i] = calloc(p->scenario[i].trace->documents, sizeof **w->homes);
        assert_non_null(w->homes[i]);
        assert_int_equal(homes_affinity(p, p->scenario[i].trace, &w->homes_of, w->homes[i], &err),
                         0);
    }
    assert_int_equal(bag_new(p, how->affinity ? (const uint16_t *const *)w->homes : NULL, BAG_ALIKE,
                             1u << 16, 1, &w->bag, &err),
                     0);
    assert_int_equal(sample_new(p, rule, 2, &w->set, &err), 0);
    assert_int_equal(layer_new(&w->bag, w->set, &w->layer, &err), 0);
    assert_int_equal(layer_new(&w->bag, w->set, &w->other, &err), 0);
    layer_load(w->layer, 0);
    layer_load(w->other, 0);
}

static void close_world(struct world *w)
{
    layer_free(w->layer);
    layer_free(w->other);
    sample_free(w->set);
    bag_done(&w->bag);
    plan_done(&w->homes_of);
    for (uint32_t i = 0; i < EXAMPLE_SCENARIOS; i++)
        free(w->homes[i]);
    example_done(&w->e);
}

static void check_same(const struct layer *a, const struct layer *b)
{
    size_t rows = a->ranks + (a->p->cluster.two_level ? a->nodes : 0), words = a->bag->words;
    size_t classes = a->bag->classes, size = (size_t)a->ranks * a->samples * sizeof *a->load;

    assert_memory_equal(a->item, b->item, a->slots * sizeof *a->item);
    assert_memory_equal(&a->price, &b->price, sizeof a->price);
    assert_memory_equal(a->load, b->load, size);
    assert_memory_equal(a->moves, b->moves, sizeof a->moves);
    if (classes)
        assert_memory_equal(a->touched, b->touched, rows * classes * sizeof *a->touched);
    if (a->p->cluster.exact_combine && classes)
        assert_memory_equal(a->pairs, b->pairs, a->ranks * classes * sizeof *a->pairs);
    if (words) {
        assert_memory_equal(a->once, b->once, rows * words * sizeof *a->once);
        assert_memory_equal(a->twice, b->twice, rows * words * sizeof *a->twice);
    }
}

static struct sample_rule random_rule(struct random *r)
{
    return (struct sample_rule){random_below(r, 2) ? 0.25 * (1 + random_below(r, 4)) : 0,
                                random_below(r, 2) ? 8 : 0, 1 + random_below(r, 40)};
}

/* A third of the moves must not raise the price, a third may a little, a third are all kept. */
static void walk(struct random *r, struct world *w, uint32_t moves)
{
    struct layer *l = w->layer;
    uint16_t *items = calloc(l->slots, sizeof *items);

    assert_non_null(items);
    searched_items(r, &w->e.p, false, items);
    layer_set(l, items);
    for (uint32_t i = 0; i < moves && l->ranks > 1; i++) {
        uint32_t a = random_below(r, l->slots), b = random_below(r, l->slots), kind = i % 3;
        double most = kind == 0 ? 0 : kind == 1 ? 0.01 * l->price : INFINITY, before = l->price;
        bool kept;

        if (l->slot_rank[a] == l->slot_rank[b])
            continue;
        memcpy(items, l->item, l->slots * sizeof *items);
        kept = layer_exchange(l, a, b, most);
        if (kept) {
            uint16_t item = items[a];

            items[a] = items[b];
            items[b] = item;
            assert_true(l->price - before <= most);
        } else {
            assert_memory_equal(&l->price, &before, sizeof before);
        }
        layer_set(w->other, items);
        check_same(l, w->other);
    }
    free(items);
}

static void walk_freely(struct random *r, struct world *w)
{
    w->other->mix = w->layer->mix;
    walk(r, w, 5);
}

static void exchanges_leave_no_trace(void **state)
{
    struct random r = {1};

    (void)state;
    for (uint32_t i = 0; i < WORLDS; i++) {
        struct searched how = searched_random(&r);
        struct sample_rule rule = random_rule(&r);
        struct world w;

        open_world(&r, &how, &rule, &w);
        walk(&r, &w, getenv("MT_LONG") ? 20 * MOVES : MOVES);
        close_world(&w);
    }
}

/* Expected vectors [home][rank] and [home's node][node] of a group in one layer, by single tokens
 * of the trace. */
struct flows {
    double v[8][8], pairs[8][8], net[8][8], tokens;
};

static void add_token(const struct place_problem *p, const uint16_t *chosen, const uint8_t *rank_of,
                      uint32_t home, double by, struct flows *f)
{
    const struct cluster *c = &p->cluster;
    uint32_t on[8] = {0}, on_node[8] = {0};

    for (uint32_t k = 0; k < p->topk; k++) {
        on[rank_of[chosen[k]]]++;
        on_node[c->node[rank_of[chosen[k]]]]++;
    }
    for (uint32_t g = 0; g < c->ranks; g++) {
        f->v[home][g] += g != home && on[g] ? by : 0;
        f->pairs[home][g] += g != home ? by * on[g] : 0;
    }
    for (uint32_t m = 0; m < c->nodes; m++)
        f->net[c->node[home]][m] += m != c->node[home] && on_node[m] ? by : 0;
}

static void find_flows(const struct world *w, uint32_t scenario, const uint8_t *rank_of,
                       struct flows *f)
{
    const struct place_problem *p = &w->e.p;
    const struct place_scenario *s = &p->scenario[scenario];
    const struct trace *t = s->trace;

    *f = (struct flows){0};
    for (uint32_t d = 0; d < t->documents; d++) {
        uint32_t prompt = homes_prompt(p, t->doc[d + 1] - t->doc[d]);

        for (uint32_t i = t->doc[d]; i < t->doc[d + 1]; i++) {
            bool rest = i - t->doc[d] >= prompt;

            if (p->homes == PLACE_HOMES_AFFINITY && rest != (s->phase == PLACE_DECODE))
                continue;
            f->tokens++;
            if (p->homes == PLACE_HOMES_AFFINITY && rest)
                add_token(p, trace_at(t, i, 0), rank_of, w->homes[scenario][d], 1, f);
            else
                for (uint32_t h = 0; h < p->cluster.ranks; h++)
                    add_token(p, trace_at(t, i, 0), rank_of, h, 1.0 / p->cluster.ranks, f);
        }
    }
}

/* The busiest and the mean port, by the definition of X, weighted. m: [home][rank] */
static double ports_seconds(const struct cluster *c, double mix, const double m[8][8],
                            const double net[8][8])
{
    double rank = 0, rank_mean = 0, node = 0, node_mean = 0, between[8][8] = {{0}};

    for (uint32_t a = 0; a < c->ranks; a++) {
        double in = 0, out = 0;

        for (uint32_t b = 0; b < c->ranks; b++) {
            if (c->node[a] != c->node[b]) {
                between[c->node[a]][c->node[b]] += m[a][b];
                continue;
            }
            out += m[a][b];
            in += m[b][a];
        }
        rank = fmax(rank, fmax(in, out));
        rank_mean += in / c->ranks;
    }
    for (uint32_t a = 0; a < c->nodes; a++) {
        double in = 0, out = 0;

        for (uint32_t b = 0; b < c->nodes; b++) {
            out += net ? net[a][b] : between[a][b];
            in += net ? net[b][a] : between[b][a];
        }
        node = fmax(node, fmax(in, out));
        node_mean += in / c->nodes;
    }
    return mix * fmax(rank / c->rank_link.bandwidth, node / c->node_link.bandwidth) +
           (1 - mix) * fmax(rank_mean / c->rank_link.bandwidth, node_mean / c->node_link.bandwidth);
}

static double traffic_by_hand(const struct world *w, const uint8_t *rank_of)
{
    const struct place_problem *p = &w->e.p;
    const struct cluster *c = &p->cluster;
    double sum = 0;

    for (uint32_t i = 0; i < p->scenarios; i++) {
        struct flows f;

        find_flows(w, i, rank_of, &f);
        sum +=
            p->scenario[i].share / f.tokens *
            (c->dispatch_bytes * ports_seconds(c, w->layer->mix, f.v, c->two_level ? f.net : NULL) +
             c->combine_bytes * (c->exact_combine ? ports_seconds(c, w->layer->mix, f.pairs, NULL)
                                                  : ports_seconds(c, w->layer->mix, f.v,
                                                                  c->two_level ? f.net : NULL)));
    }
    return sum;
}

/* The mean over samples of the busiest rank, from what the samples say. */
static double compute_by_hand(const struct world *w, const uint8_t *rank_of)
{
    const struct layer *l = w->layer;
    const double *a = sample_token_cost(w->set), *b = sample_active_cost(w->set);
    double sum = 0;

    for (uint32_t k = 0; k < l->samples; k++) {
        double cost[8] = {0}, most = 0;

        for (uint32_t e = 0; e < l->experts; e++) {
            size_t i = (size_t)e * l->samples + k;

            cost[rank_of[e]] += a[k] * (double)l->tokens[i] + b[k] * (double)l->active[i];
        }
        for (uint32_t g = 0; g < l->ranks; g++)
            most = fmax(most, cost[g]);
        sum += most;
    }
    return sum;
}

static void ranks_of(const struct layer *l, uint8_t *ret)
{
    for (uint32_t s = 0; s < l->slots; s++)
        if (l->item[s] < l->experts)
            ret[l->item[s]] = (uint8_t)l->slot_rank[s];
}

static double moves_by_hand(const struct world *w, const uint8_t *rank_of)
{
    const struct place_problem *p = &w->e.p;
    const struct cluster *c = &p->cluster;
    double near = 0, far = 0;

    for (uint32_t e = 0; p->from && e < p->experts; e++) {
        uint32_t old = p->from->rank[p->from->start[e]];

        near += old != rank_of[e] && c->node[old] == c->node[rank_of[e]];
        far += c->node[old] != c->node[rank_of[e]];
    }
    return p->from ? (near / c->rank_link.bandwidth / c->ranks +
                      far / c->node_link.bandwidth / c->nodes) *
                         c->expert_bytes / c->migration_share / p->horizon
                   : 0;
}

/* The mean port exactly; the busiest too where nothing varies, otherwise it is a lower bound. */
static void a_price_is_what_its_header_says(void **state)
{
    struct random r = {2};

    (void)state;
    for (uint32_t i = 0; i < 3 * WORLDS; i++) {
        struct searched how = searched_random(&r);
        struct sample_rule rule = i % 3 ? random_rule(&r) : MEANS;
        uint8_t rank_of[20] = {0};
        struct world w;
        double want;

        how.free_messages = true;
        if (i % 3 == 0) {
            how.phases = SEARCHED_PREFILL;
            how.scenarios = 1;
        }
        open_world(&r, &how, &rule, &w);
        w.layer->mix = i % 3 == 1 ? 0 : 0.5;
        walk_freely(&r, &w);
        ranks_of(w.layer, rank_of);
        want = compute_by_hand(&w, rank_of) + traffic_by_hand(&w, rank_of) +
               moves_by_hand(&w, rank_of);
        assert_float_equal(layer_compute(w.layer), compute_by_hand(&w, rank_of), 1e-6 * want);
        assert_true(w.layer->price >= want * (1 - 1e-6));
        if (i % 3 < 2)
            assert_float_equal(w.layer->price, want, 1e-6 * want);
        close_world(&w);
    }
}

/* The oracle's objective of a placement, one layer. */
static double oracle(struct world *w, enum score_evaluation how, struct score *s)
{
    const struct place_problem *p = &w->e.p;
    uint8_t *held = calloc((size_t)p->layers * p->experts, p->cluster.ranks);
    struct plan plan;
    struct mt_err err;

    assert_non_null(held);
    searched_hold(p, 0, w->layer->item, held);
    assert_int_equal(plan_from_held(1, p->experts, p->cluster.ranks, held, &plan, &err), 0);
    assert_int_equal(score_plan(p, &plan, how, s, &err), 0);
    plan_done(&plan);
    free(held);
    return s->tokens_seconds;
}

/* With means of one scenario, the whole weight on the busiest port, and neither latency nor dense
 * layers, a price is the fluid objective; of several or of steps it is no less. By affinity the
 * homes must be those of the plan, and decode's compute time is of whole steps, so that only its
 * traffic compares. */
static void a_price_of_means_is_the_fluid_objective(void **state)
{
    struct random r = {3};

    (void)state;
    for (uint32_t i = 0; i < 2 * WORLDS; i++) {
        struct searched how = searched_random(&r);
        uint16_t *items;
        struct world w;
        struct score s;
        double want;

        how.phases = how.affinity && i % 2 ? SEARCHED_DECODE : SEARCHED_PREFILL;
        how.from = false;
        how.free_messages = true;
        how.scenarios = i % 4 < 2 ? 1 : how.scenarios;
        open_world(&r, &how, &MEANS, &w);
        w.e.p.cluster.dense_step = w.e.p.cluster.dense_token = 0;
        items = calloc(w.layer->slots, sizeof *items);
        assert_non_null(items);
        for (uint32_t e = 0, n = 0; e < how.experts; e++) { /* the plan whose homes these are */
            n = w.layer->first[w.homes_of.rank[e]];
            while (items[n])
                n++;
            items[n] = (uint16_t)(e + 1);
        }
        for (uint32_t k = 0; k < w.layer->slots; k++)
            items[k] = (uint16_t)(items[k] ? items[k] - 1u : how.experts);
        w.layer->mix = 1;
        layer_set(w.layer, items);
        want = oracle(&w, SCORE_FLUID, &s);
        if (how.phases == SEARCHED_PREFILL && how.scenarios == 1)
            assert_float_equal(w.layer->price, want, 1e-5 * want);
        else if (how.phases == SEARCHED_PREFILL)
            assert_true(w.layer->price >= want * (1 - 1e-5));
        else
            assert_true(w.layer->price - layer_compute(w.layer) >=
                        s.terms.dispatch + s.terms.combine - 1e-5 * want);
        free(items);
        close_world(&w);
    }
}

/* With as many samples as the trace has steps, decode's are the oracle's own. */
static void samples_of_decode_are_the_steps_of_the_oracle(void **state)
{
    struct random r = {4};

    (void)state;
    for (uint32_t i = 0; i < 40; i++) {
        struct searched how = searched_random(&r);
        struct trace *t;
        struct sample_rule rule = {0};
        struct mt_err err;
        struct world w;
        struct score s;
        uint32_t steps;

        how.phases = SEARCHED_DECODE;
        how.affinity = how.from = false;
        how.scenarios = 1;
        open_world(&r, &how, &MEANS, &w);
        t = &w.e.trace[0];
        steps = (t->tokens + how.tokens - 1) / how.tokens;
        layer_free(w.layer);
        sample_free(w.set);
        rule.samples = steps;
        assert_int_equal(sample_new(&w.e.p, &rule, 2, &w.set, &err), 0);
        assert_int_equal(layer_new(&w.bag, w.set, &w.layer, &err), 0);
        layer_load(w.layer, 0);
        walk(&r, &w, 0);
        oracle(&w, SCORE_SAMPLED, &s);
        assert_float_equal(layer_compute(w.layer), s.terms.compute,
                           (t->tokens % how.tokens ? 0.25 : 1e-5) * s.terms.compute);
        close_world(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exchanges_leave_no_trace),
        cmocka_unit_test(a_price_is_what_its_header_says),
        cmocka_unit_test(a_price_of_means_is_the_fluid_objective),
        cmocka_unit_test(samples_of_decode_are_the_steps_of_the_oracle),
    };

    return cmocka_run_group_tests_name("layer", tests, NULL, NULL);
}
