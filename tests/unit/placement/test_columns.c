/* Recombining columns against every combination there is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/columns.h"
#include "placement/layer_cost.h"
#include "problems.h"

enum { COLUMNS = 14, EXPERTS = 7, TERMS = 3 };

struct pool {
    uint32_t set[COLUMNS], n;
    double sum[COLUMNS], term[COLUMNS][TERMS];
};

/* The cheapest combination of columns, by trying all. */
static double try_all(const struct pool *p, const uint32_t *slots, uint32_t ranks)
{
    double best = 1e300;

    for (uint32_t pick = 0; pick < 1u << p->n; pick++) {
        uint32_t all = 0, count = 0, over[EXPERTS + 1] = {0};
        double cost = 0, most[TERMS] = {0};
        bool fits = true;

        for (uint32_t i = 0; i < p->n; i++) {
            if (!(pick >> i & 1))
                continue;
            fits &= !(all & p->set[i]);
            all |= p->set[i];
            cost += p->sum[i];
            for (uint32_t t = 0; t < TERMS; t++)
                most[t] = fmax(most[t], p->term[i][t]);
            for (int k = 0; k < __builtin_popcount(p->set[i]); k++)
                over[k]++; /* columns of more than k */
            count++;
        }
        for (uint32_t k = 0; k < EXPERTS; k++) {
            uint32_t room = 0;

            for (uint32_t g = 0; g < ranks; g++)
                room += slots[g] > k;
            fits &= over[k] <= room;
        }
        for (uint32_t t = 0; t < TERMS; t++)
            cost += most[t];
        if (fits && all == (1u << EXPERTS) - 1 && count <= ranks)
            best = fmin(best, cost);
    }
    return best;
}

static void fill(struct random *r, struct pool *p, struct columns *c, uint32_t most)
{
    struct mt_err err;

    p->n = 0;
    for (uint32_t i = 0; i < COLUMNS; i++) {
        uint16_t expert[EXPERTS];
        uint32_t set = 0, n = 0;
        bool known = false;

        while (!set || (uint32_t)__builtin_popcount(set) > most) {
            set = random_below(r, 1 << EXPERTS);
            set &= random_below(r, 1 << EXPERTS);
        }
        for (uint32_t k = 0; k < p->n; k++)
            known |= p->set[k] == set;
        if (known)
            continue;
        for (uint32_t e = 0; e < EXPERTS; e++)
            if (set >> e & 1)
                expert[n++] = (uint16_t)e;
        p->set[p->n] = set;
        p->sum[p->n] = random_unit(r);
        for (uint32_t t = 0; t < TERMS; t++)
            p->term[p->n][t] = 3 * random_unit(r);
        assert_int_equal(columns_add(c, expert, n, p->sum[p->n], p->term[p->n], &err), 0);
        p->n++;
        assert_int_equal(columns_count(c), p->n);
    }
}

static void test_recombine_is_the_best_combination(void **unused)
{
    struct random r = {21};
    uint32_t found_some = 0;

    (void)unused;
    for (int round = 0; round < 150; round++) {
        uint32_t slots[4], ranks = 3 + random_below(&r, 2), most = 0;
        struct columns *c;
        struct pool pool;
        struct mt_err err;
        uint16_t rank[EXPERTS];
        double cost, best;
        bool found;

        for (uint32_t g = 0; g < ranks; g++) {
            slots[g] = 2 + random_below(&r, 3);
            most = slots[g] > most ? slots[g] : most;
        }
        assert_int_equal(columns_new(EXPERTS, ranks, slots, TERMS, &c, &err), 0);
        fill(&r, &pool, c, most);
        best = try_all(&pool, slots, ranks);
        if (columns_recombine(c, 1e30, NULL, 0, rank, &cost, &found, &err))
            fail_msg("%s", err.text);
        assert_int_equal(found, best < 1e200);
        if (found) {
            uint32_t held[4] = {0};

            found_some++;
            assert_true(fabs(cost - best) < 1e-6);
            for (uint32_t e = 0; e < EXPERTS; e++)
                assert_true(++held[rank[e]] <= slots[rank[e]]);
            assert_int_equal(columns_recombine(c, best, NULL, 0, rank, &cost, &found, &err), 0);
            assert_false(found);
        }
        columns_free(c);
    }
    assert_true(found_some > 10);
}

static void test_plans_are_never_made_worse(void **unused)
{
    struct random r = {22};
    uint32_t better_some = 0;

    (void)unused;
    for (int round = 0; round < 40; round++) {
        enum { PLANS = 6, MANY = 12 };
        struct problem_shape shape = {.experts = MANY, .ranks = 4, .layers = 2, .tokens = 100};
        uint16_t rank[PLANS * MANY], best_rank[MANY];
        double best = 1e300, seconds, check;
        struct problem *p;
        struct mt_err err;
        bool better;

        shape.nodes = 1 + (uint32_t)round % 2;
        p = problem_new(&r, &shape);
        for (uint32_t i = 0; i < PLANS; i++) { /* pairs of ranks keep their experts together */
            uint16_t *of = rank + i * MANY;

            for (uint32_t e = 0; e < MANY; e++)
                of[e] = (uint16_t)(e / 3);
            for (uint32_t k = 0; k < 12; k++) {
                uint32_t half = i % 2 ? 6 : 0, a = half + random_below(&r, 6),
                         b = half + random_below(&r, 6);
                uint16_t keep = of[a];

                of[a] = of[b];
                of[b] = keep;
            }
            assert_int_equal(layer_cost_plan(&p->p, 1, of, &check, &err), 0);
            best = fmin(best, check);
        }
        if (columns_recombine_plans(&p->p, 1, PLANS, rank, NULL, 0, best_rank, &seconds, &better,
                                    &err))
            fail_msg("%s", err.text);
        assert_true(seconds <= best);
        assert_int_equal(better, seconds < best);
        assert_int_equal(layer_cost_plan(&p->p, 1, best_rank, &check, &err), 0);
        assert_true(fabs(check - seconds) <= 1e-12 * seconds);
        better_some += better;
        problem_free(p);
    }
    assert_true(better_some > 3);
}

static void test_refuses_bad_columns(void **unused)
{
    uint32_t slots[2] = {2, 1};
    struct columns *c;
    struct mt_err err;
    uint16_t twice[2] = {1, 1}, beyond[1] = {3}, three[3] = {0, 1, 2};

    (void)unused;
    assert_int_equal(columns_new(3, 2, slots, 0, &c, &err), 0);
    assert_int_equal(columns_add(c, twice, 2, 1, NULL, &err), MT_EINVAL);
    assert_int_equal(columns_add(c, beyond, 1, 1, NULL, &err), MT_EINVAL);
    assert_int_equal(columns_add(c, three, 3, 1, NULL, &err), MT_EINVAL);
    assert_int_equal(columns_add(c, three, 0, 1, NULL, &err), MT_EINVAL);
    assert_int_equal(columns_count(c), 0);
    columns_free(c);
    assert_int_equal(columns_new(PLACE_MAX_EXPERTS + 1, 2, slots, 0, &c, &err), MT_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recombine_is_the_best_combination),
        cmocka_unit_test(test_plans_are_never_made_worse),
        cmocka_unit_test(test_refuses_bad_columns),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
