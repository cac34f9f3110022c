/* The search against all placements there are, on problems that allow it; rounds never lose what
 * was found; plans say what the search holds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/exact.h"
#include "placement/replica.h"
#include "placement/score.h"
#include "placement/search.h"
#include "searched.h"

#define NEAR 1e-9

static const struct sample_rule STEPS = {.samples = 16};
static const struct place_run FOREVER = {0};

struct world {
    struct example e;
    struct bag bag;
    struct sample_set *set;
    struct layer *layer;
};

static void open_world(struct random *r, const struct searched *how, enum bag_homes kind,
                       struct world *w)
{
    struct mt_err err;

    searched_make(r, how, &w->e);
    assert_int_equal(bag_new(&w->e.p, NULL, kind, 1u << 14, 1, &w->bag, &err), 0);
    assert_int_equal(sample_new(&w->e.p, &STEPS, 2, &w->set, &err), 0);
    assert_int_equal(layer_new(&w->bag, w->set, &w->layer, &err), 0);
    layer_load(w->layer, 0);
}

static void close_world(struct world *w)
{
    layer_free(w->layer);
    sample_free(w->set);
    bag_done(&w->bag);
    example_done(&w->e);
}

static struct searched small(struct random *r)
{
    return (struct searched){.layers = 1,
                             .experts = 2 + random_below(r, 5),
                             .topk = 1 + random_below(r, 2),
                             .ranks = 2 + random_below(r, 2),
                             .nodes = 1 + random_below(r, 2),
                             .documents = 20,
                             .longest = 20,
                             .tokens = 12,
                             .scenarios = 1 + random_below(r, 2),
                             .phases = SEARCHED_BOTH,
                             .two_level = random_below(r, 2),
                             .exact = random_below(r, 2),
                             .from = random_below(r, 2)};
}

/* Every placement of one copy each, slot by slot. */
static double least_single(struct layer *l, uint16_t *items, uint32_t slot, uint32_t used)
{
    double least = INFINITY;

    if (slot == l->slots) {
        if ((uint32_t)__builtin_popcount(used) < l->experts)
            return INFINITY;
        layer_set(l, items);
        return l->price;
    }
    for (uint32_t e = 0; e <= l->experts; e++) {
        double price;

        if (e < l->experts && used >> e & 1)
            continue;
        items[slot] = (uint16_t)e;
        price = least_single(l, items, slot + 1, e < l->experts ? used | 1u << e : used);
        least = price < least ? price : least;
    }
    return least;
}

static void annealing_finds_the_best_of_all(void **state)
{
    struct random r = {1};
    uint32_t missed = 0;

    (void)state;
    for (uint32_t i = 0; i < 60; i++) {
        struct searched how = small(&r);
        uint16_t items[16];
        struct world w;
        double least, found;

        how.uneven = i % 3 == 0;
        open_world(&r, &how, BAG_ALIKE, &w);
        if (w.layer->slots > 8) {
            close_world(&w);
            continue;
        }
        least = least_single(w.layer, items, 0, 0);
        searched_items(&r, &w.e.p, false, items);
        layer_set(w.layer, items);
        found = anneal_heat(w.layer);
        anneal_exchange(w.layer, &(struct anneal){2000, found, found / 100}, &r, &FOREVER);
        anneal_descend(w.layer, UINT64_MAX, &FOREVER);
        found = w.layer->price;
        assert_true(found >= least * (1 - NEAR));
        missed += found > least * (1 + NEAR);
        close_world(&w);
    }
    assert_true(missed <= 1);
}

static bool feasible(const struct layer *l, const uint16_t *items)
{
    uint32_t seen = 0;

    for (uint32_t s = 0; s < l->slots; s++) {
        if (items[s] == l->experts)
            continue;
        seen |= 1u << items[s];
        for (uint32_t k = l->first[l->slot_rank[s]]; k < s; k++)
            if (items[k] == items[s])
                return false;
    }
    return seen == (1u << l->experts) - 1;
}

static double least_replicated(struct layer *l, struct replica *r)
{
    uint32_t all = 1;
    double least = INFINITY;

    for (uint32_t s = 0; s < l->slots; s++)
        all *= l->experts + 1;
    for (uint32_t i = 0; i < all; i++) {
        uint16_t items[8];
        uint32_t rest = i;

        for (uint32_t s = 0; s < l->slots; s++, rest /= l->experts + 1)
            items[s] = (uint16_t)(rest % (l->experts + 1));
        if (!feasible(l, items))
            continue;
        replica_set(r, items);
        least = replica_price(r) < least ? replica_price(r) : least;
    }
    return least;
}

static void replicas_are_the_best_of_all(void **state)
{
    struct random r = {2};
    uint32_t missed = 0;

    (void)state;
    for (uint32_t i = 0; i < 40; i++) {
        struct searched how = small(&r);
        struct replica *rep;
        uint16_t items[8];
        struct world w;
        struct mt_err err;
        double least, found, heat;

        how.experts = 2 + random_below(&r, 3);
        how.slots = how.ranks == 2 ? 3 : 2;
        how.topk = how.topk < how.experts ? how.topk : 1;
        open_world(&r, &how, BAG_ASSIGNED, &w);
        assert_int_equal(replica_new(w.layer, &rep, &err), 0);
        least = least_replicated(w.layer, rep);
        found = INFINITY;
        for (uint32_t k = 0; k < 4; k++) { /* as the search does: from several starts */
            searched_items(&r, &w.e.p, false, items);
            replica_set(rep, items);
            replica_fill(rep, &r, 8, &FOREVER);
            w.layer->price = replica_price(rep);
            heat = anneal_heat(w.layer) * (k % 2 ? 8 : 1);
            replica_anneal(rep, &(struct anneal){800, heat, heat / 100}, &r, &FOREVER);
            assert_true(replica_price(rep) >= least * (1 - NEAR));
            found = fmin(found, replica_price(rep));
        }
        missed += found > least * (1 + NEAR);
        replica_free(rep);
        close_world(&w);
    }
    assert_true(missed <= 1);
}

static double fluid(const struct place_problem *p, const struct plan *plan)
{
    struct score s;
    struct mt_err err;

    assert_int_equal(place_fits(p, plan, &err), 0);
    assert_int_equal(score_plan(p, plan, SCORE_FLUID, &s, &err), 0);
    return s.tokens_seconds;
}

/* The search weighs the mean port too, so that its best need not be the fluid optimum; it is near,
 * and where traffic costs nothing, it is. */
static void search_is_near_the_proven_optimum(void **state)
{
    struct search_rule rule = {STEPS, 1, false};
    struct random r = {3};
    double sum[2] = {0}, worst[2] = {0}, starts = 0;

    (void)state;
    for (uint32_t i = 0; i < 60; i++) {
        struct searched how = {.layers = 2,
                               .ranks = 2 + random_below(&r, 3),
                               .topk = 2,
                               .nodes = 1 + random_below(&r, 2),
                               .documents = 30,
                               .longest = 20,
                               .tokens = 64,
                               .scenarios = 2,
                               .phases = SEARCHED_PREFILL,
                               .free_messages = true};
        uint64_t left = UINT64_MAX, tried = 0;
        struct exact_result best;
        struct example e;
        struct search *s;
        struct plan start, plan;
        struct mt_err err;
        double off;

        how.experts = how.ranks * (2 + random_below(&r, 2)) + (how.ranks == 2) * 4;
        searched_make(&r, &how, &e);
        if (i % 2)
            e.p.cluster.dispatch_bytes = e.p.cluster.combine_bytes = 1e-6;
        start = searched_plan(&r, &e.p, false);
        assert_int_equal(exact_solve(&e.p, NULL, &best, &err), 0);
        assert_true(best.optimal);
        assert_int_equal(search_new(&e.p, &rule, NULL, &start, 4, &s, &err), 0);
        for (int k = 0; k < 4; k++)
            search_round(s, 3000, &FOREVER, &left, &tried);
        assert_int_equal(search_plan(s, &plan, &err), 0);
        off = fluid(&e.p, &plan) / best.objective - 1;
        assert_true(off > -1e-6);
        sum[i % 2] += off / 30;
        worst[i % 2] = fmax(worst[i % 2], off);
        starts += (fluid(&e.p, &start) / best.objective - 1) / 60;
        exact_done(&best);
        search_free(s);
        plan_done(&plan);
        plan_done(&start);
        example_done(&e);
    }
    print_message("search above the optimum: mean %.6f, worst %.6f; without traffic %.6f, %.6f "
                  "(random placements: %.3f)\n",
                  sum[0], worst[0], sum[1], worst[1], starts);
    assert_true(sum[0] < 0.01 && worst[0] < 0.05);
    assert_true(sum[1] < 1e-4 && worst[1] < 1e-3);
}

static void rounds_never_lose_what_was_found(void **state)
{
    struct random r = {5};

    (void)state;
    for (uint32_t i = 0; i < 60; i++) {
        struct searched how = searched_random(&r);
        struct search_rule rule = {STEPS, 1 + (i % 2) * 0.6, false};
        uint64_t left = 20000, tried = 0;
        struct plan start, other, plan;
        struct example e;
        struct search *s;
        struct mt_err err;
        double price;

        how.affinity = false;
        how.layers = 1 + random_below(&r, 3);
        searched_make(&r, &how, &e);
        start = searched_plan(&r, &e.p, random_below(&r, 2));
        other = searched_plan(&r, &e.p, random_below(&r, 2));
        assert_int_equal(search_new(&e.p, &rule, NULL, &start, i, &s, &err), 0);
        price = search_price(s);
        assert_int_equal(search_plan(s, &plan, &err), 0); /* as it was, but for shares */
        assert_memory_equal(plan.start, start.start,
                            ((size_t)how.layers * how.experts + 1) * sizeof *plan.start);
        plan_done(&plan);
        for (int k = 0; k < 4; k++) {
            if (k == 2)
                search_offer(s, &other);
            else
                search_round(s, 400, &FOREVER, &left, &tried);
            assert_true(search_price(s) <= price);
            price = search_price(s);
            assert_int_equal(search_plan(s, &plan, &err), 0);
            assert_int_equal(place_fits(&e.p, &plan, &err), 0);
            plan_done(&plan);
        }
        assert_true(tried > 0 || how.ranks == 1 || how.experts == 1);
        assert_int_equal(left, tried < 20000 ? 20000 - tried : 0);
        search_free(s);
        plan_done(&start);
        plan_done(&other);
        example_done(&e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(annealing_finds_the_best_of_all),
        cmocka_unit_test(replicas_are_the_best_of_all),
        cmocka_unit_test(search_is_near_the_proven_optimum),
        cmocka_unit_test(rounds_never_lose_what_was_found),
    };

    return cmocka_run_group_tests_name("search", tests, NULL, NULL);
}
