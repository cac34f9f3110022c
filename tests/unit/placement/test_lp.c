/* lp_solve behind its wrapper, against brute force, an own assignment and weak duality. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/lp.h"
#include "placement/random.h"

#define MAX_N 8
#define MAX_M 6

/* A small random programme, dense. */
struct model {
    uint32_t rows, columns;
    enum lp_row type[MAX_M];
    double rhs[MAX_M], a[MAX_M][MAX_N], cost[MAX_N];
    uint32_t upper[MAX_N];
};

static struct model random_model(struct random *r)
{
    struct model m = {.rows = 1 + random_below(r, MAX_M - 1),
                      .columns = 1 + random_below(r, MAX_N - 2)};

    for (uint32_t j = 0; j < m.columns; j++) {
        m.cost[j] = (double)random_below(r, 41) - 20;
        m.upper[j] = 1 + random_below(r, 3);
    }
    for (uint32_t i = 0; i < m.rows; i++) {
        m.type[i] =
            random_below(r, 4) == 0 ? LP_EQUAL : (random_below(r, 2) ? LP_AT_MOST : LP_AT_LEAST);
        m.rhs[i] = (double)random_below(r, 15) - 3;
        for (uint32_t j = 0; j < m.columns; j++)
            m.a[i][j] = random_below(r, 3) ? (double)random_below(r, 9) - 3 : 0;
    }
    return m;
}

static struct lp *build(const struct model *m, bool integer)
{
    struct lp *lp = NULL;
    struct mt_err err = {0};

    assert_int_equal(lp_new(m->rows, m->type, m->rhs, &lp, &err), 0);
    for (uint32_t j = 0; j < m->columns; j++) {
        uint32_t row[MAX_M], n = 0;
        double value[MAX_M];

        for (uint32_t i = m->rows; i-- > 0;) /* descending: the order must not matter */
            if (m->a[i][j] != 0) {
                row[n] = i;
                value[n++] = m->a[i][j];
            }
        assert_int_equal(
            lp_add_column(lp, m->cost[j], n, row, value, 0, m->upper[j], integer, &err), 0);
    }
    assert_int_equal(lp_columns(lp), m->columns);
    return lp;
}

static bool keeps(const struct model *m, const double *x)
{
    for (uint32_t i = 0; i < m->rows; i++) {
        double sum = 0;

        for (uint32_t j = 0; j < m->columns; j++)
            sum += m->a[i][j] * x[j];
        if ((m->type[i] != LP_AT_LEAST && sum > m->rhs[i] + 1e-6) ||
            (m->type[i] != LP_AT_MOST && sum < m->rhs[i] - 1e-6))
            return false;
    }
    return true;
}

static double value_of(const struct model *m, const double *x)
{
    double sum = 0;

    for (uint32_t j = 0; j < m->columns; j++)
        sum += m->cost[j] * x[j];
    return sum;
}

/* Over all integer points; INFINITY if there is none. */
static double brute_force(const struct model *m)
{
    double best = INFINITY, x[MAX_N] = {0};

    for (;;) {
        uint32_t j = 0;

        if (keeps(m, x))
            best = fmin(best, value_of(m, x));
        while (j < m->columns && ++x[j] > m->upper[j])
            x[j++] = 0;
        if (j == m->columns)
            return best;
    }
}

static void test_integer(void **unused)
{
    struct random r = {1};
    uint32_t feasible = 0;

    (void)unused;
    for (int round = 0; round < 1500; round++) {
        struct model m = random_model(&r);
        struct lp *lp = build(&m, true);
        struct lp_result got;
        struct mt_err err = {0};
        double want = brute_force(&m), x[MAX_N];

        assert_int_equal(lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &got, &err), 0);
        if (isinf(want)) {
            assert_int_equal(got.outcome, LP_INFEASIBLE);
        } else {
            feasible++;
            assert_int_equal(got.outcome, LP_OPTIMAL);
            assert_true(fabs(got.objective - want) < 1e-6);
            lp_primal(lp, x);
            assert_true(keeps(&m, x));
            assert_true(fabs(value_of(&m, x) - want) < 1e-6);
            /* nothing below the optimum; the optimum below a cutoff above it */
            assert_int_equal(lp_solve(lp, want, NULL, NULL, 0, &got, &err), 0);
            assert_int_equal(got.outcome, LP_NOTHING);
            assert_int_equal(lp_solve(lp, want + 0.5, NULL, NULL, 0, &got, &err), 0);
            assert_int_equal(got.outcome, LP_OPTIMAL);
            assert_true(fabs(got.objective - want) < 1e-6);
        }
        lp_free(lp);
    }
    assert_true(feasible > 300);
}

/* Primal and dual feasible with equal objectives: proof without trust in either. */
static void check_duality(const struct model *m, struct lp *lp, double objective)
{
    double x[MAX_N], y[MAX_M], bound = 0;

    lp_primal(lp, x);
    lp_dual(lp, y);
    assert_true(keeps(m, x));
    for (uint32_t j = 0; j < m->columns; j++)
        assert_true(x[j] >= -1e-6 && x[j] <= m->upper[j] + 1e-6);
    assert_true(fabs(value_of(m, x) - objective) < 1e-6 * (1 + fabs(objective)));
    for (uint32_t i = 0; i < m->rows; i++) {
        assert_true(m->type[i] != LP_AT_MOST || y[i] <= 0);
        assert_true(m->type[i] != LP_AT_LEAST || y[i] >= 0);
        bound += y[i] * m->rhs[i];
    }
    for (uint32_t j = 0; j < m->columns; j++) {
        double reduced = m->cost[j];

        for (uint32_t i = 0; i < m->rows; i++)
            reduced -= y[i] * m->a[i][j];
        bound += fmin(0, reduced * m->upper[j]);
    }
    assert_true(fabs(bound - objective) < 1e-5 * (1 + fabs(objective)));
}

static void test_linear(void **unused)
{
    struct random r = {2};

    (void)unused;
    for (int round = 0; round < 2000; round++) {
        struct model m = random_model(&r);
        struct lp *lp = build(&m, false);
        struct lp_result got;
        struct mt_err err = {0};

        assert_int_equal(lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &got, &err), 0);
        if (got.outcome == LP_OPTIMAL) {
            check_duality(&m, lp, got.objective);
            assert_true(got.objective <= brute_force(&m) + 1e-6);
        } else {
            assert_int_equal(got.outcome, LP_INFEASIBLE);
            assert_true(isinf(brute_force(&m)));
        }
        lp_free(lp);
    }
}

/* Columns, costs and bounds that change between solves give what a fresh model gives. */
static void test_growing(void **unused)
{
    struct random r = {3};

    (void)unused;
    for (int round = 0; round < 600; round++) {
        struct model m = random_model(&r), start = m;
        bool integer = round % 3 == 0;
        struct lp *lp, *fresh;
        struct lp_result got, want;
        struct mt_err err = {0};

        start.columns = 1 + random_below(&r, m.columns);
        lp = build(&start, integer);
        assert_int_equal(lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &got, &err), 0);
        for (uint32_t j = start.columns; j < m.columns; j++) {
            uint32_t row[MAX_M];
            double value[MAX_M];

            for (uint32_t i = 0; i < m.rows; i++) {
                row[i] = i;
                value[i] = m.a[i][j];
            }
            assert_int_equal(
                lp_add_column(lp, m.cost[j], m.rows, row, value, 0, m.upper[j], integer, &err), 0);
            assert_int_equal(lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &got, &err), 0);
        }
        m.cost[0] -= 7;
        m.upper[0] += 1;
        assert_int_equal(lp_set_cost(lp, 0, m.cost[0], &err), 0);
        assert_int_equal(lp_set_upper(lp, 0, m.upper[0], &err), 0);
        assert_int_equal(lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &got, &err), 0);
        fresh = build(&m, integer);
        assert_int_equal(lp_solve(fresh, LP_INFINITY, NULL, NULL, 0, &want, &err), 0);
        assert_int_equal(got.outcome, want.outcome);
        if (got.outcome == LP_OPTIMAL) {
            assert_true(fabs(got.objective - want.objective) < 1e-6);
            if (!integer)
                check_duality(&m, lp, got.objective);
        }
        lp_free(lp);
        lp_free(fresh);
    }
}

/* Column generation as it is used: cutting stock, whose answer is known from all patterns. */
static void test_generation(void **unused)
{
    static const double width[3] = {3, 5, 7}, demand[3] = {40, 25, 13};
    enum lp_row type[3] = {LP_AT_LEAST, LP_AT_LEAST, LP_AT_LEAST};
    struct lp *lp, *all;
    struct lp_result got, want;
    struct mt_err err = {0};
    const uint32_t row[3] = {0, 1, 2};
    double y[3];

    (void)unused;
    assert_int_equal(lp_new(3, type, demand, &lp, &err), 0);
    assert_int_equal(lp_new(3, type, demand, &all, &err), 0);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(lp_add_column(lp, 1, 1, &i, (double[]){1}, 0, LP_INFINITY, false, &err),
                         0);
    for (int rounds = 0;; rounds++) {
        double best = 1 + 1e-9, pattern[3] = {0};

        assert_true(rounds < 50);
        assert_int_equal(lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &got, &err), 0);
        assert_int_equal(got.outcome, LP_OPTIMAL);
        lp_dual(lp, y);
        for (int i = 0; i < 1000; i++) {
            int digit[3] = {i % 10, i / 10 % 10, i / 100};
            double p[3] = {digit[0], digit[1], digit[2]}, worth = 0, used = 0;

            for (int k = 0; k < 3; k++) {
                worth += p[k] * y[k];
                used += p[k] * width[k];
            }
            if (used > 16)
                continue;
            if (rounds == 0)
                assert_int_equal(lp_add_column(all, 1, 3, row, p, 0, LP_INFINITY, false, &err), 0);
            if (worth > best) {
                best = worth;
                memcpy(pattern, p, sizeof p);
            }
        }
        if (best <= 1 + 1e-9)
            break;
        assert_int_equal(lp_add_column(lp, 1, 3, row, pattern, 0, LP_INFINITY, false, &err), 0);
    }
    assert_int_equal(lp_solve(all, LP_INFINITY, NULL, NULL, 0, &want, &err), 0);
    assert_true(fabs(want.objective - got.objective) < 1e-6);
    lp_free(lp);
    lp_free(all);
}

/* Least cost over all permutations, by recursion. */
static double permute(uint32_t n, const double *cost, uint32_t row, uint32_t used)
{
    double best = INFINITY;

    if (row == n)
        return 0;
    for (uint32_t c = 0; c < n; c++)
        if (!(used >> c & 1))
            best = fmin(best, cost[row * n + c] + permute(n, cost, row + 1, used | 1u << c));
    return best;
}

/* The Hungarian method with potentials, O(n^3). */
static double hungarian(uint32_t n, const double *cost)
{
    double *u = calloc(n + 1, sizeof *u), *v = calloc(n + 1, sizeof *v),
           *least = calloc(n + 1, sizeof *least), sum = 0;
    uint32_t *p = calloc(n + 1, sizeof *p), *way = calloc(n + 1, sizeof *way);
    bool *used = calloc(n + 1, sizeof *used);

    for (uint32_t i = 1; i <= n; i++) {
        uint32_t j0 = 0;

        p[0] = i;
        for (uint32_t j = 0; j <= n; j++) {
            least[j] = INFINITY;
            used[j] = false;
        }
        do {
            uint32_t i0 = p[j0], j1 = 0;
            double delta = INFINITY;

            used[j0] = true;
            for (uint32_t j = 1; j <= n; j++) {
                double d = cost[(i0 - 1) * n + j - 1] - u[i0] - v[j];

                if (used[j])
                    continue;
                if (d < least[j]) {
                    least[j] = d;
                    way[j] = j0;
                }
                if (least[j] < delta) {
                    delta = least[j];
                    j1 = j;
                }
            }
            for (uint32_t j = 0; j <= n; j++)
                if (used[j]) {
                    u[p[j]] += delta;
                    v[j] -= delta;
                } else {
                    least[j] -= delta;
                }
            j0 = j1;
        } while (p[j0] != 0);
        for (; j0; j0 = way[j0])
            p[j0] = p[way[j0]];
    }
    for (uint32_t j = 1; j <= n; j++)
        sum += cost[(p[j] - 1) * n + j - 1];
    free(u);
    free(v);
    free(least);
    free(p);
    free(way);
    free(used);
    return sum;
}

static void test_assign(void **unused)
{
    struct random r = {4};

    (void)unused;
    for (int round = 0; round < 500; round++) {
        uint32_t n = 1 + random_below(&r, round % 50 ? 8 : 40), to[40];
        double cost[1600], size = pow(10, (double)random_below(&r, 13) - 6), sum = 0, want;
        bool seen[40] = {false};
        struct mt_err err = {0};

        for (uint32_t i = 0; i < n * n; i++) /* many ties in every third */
            cost[i] = size * (round % 3 ? random_unit(&r) - 0.3 : random_below(&r, 3));
        assert_int_equal(lp_assign(n, cost, to, &err), 0);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(to[i] < n && !seen[to[i]]);
            seen[to[i]] = true;
            sum += cost[i * n + to[i]];
        }
        want = hungarian(n, cost);
        assert_true(fabs(sum - want) <= 1e-8 * size * n);
        if (n <= 6)
            assert_true(fabs(permute(n, cost, 0, 0) - want) <= 1e-9 * size * n);
    }
}

static bool at_once(void *user)
{
    (*(int *)user)++;
    return true;
}

static bool count_only(void *user)
{
    (*(int *)user)++;
    return false;
}

/* Items onto 5 ranks, the largest load least: branch and bound has something to do. */
static struct lp *balance(uint32_t items, const double *weight)
{
    enum { RANKS = 5 };
    enum lp_row type[32 + RANKS];
    double rhs[32 + RANKS];
    uint32_t row[RANKS];
    double value[RANKS];
    struct lp *lp;
    struct mt_err err = {0};

    for (uint32_t i = 0; i < items + RANKS; i++) {
        type[i] = i < items ? LP_EQUAL : LP_AT_MOST;
        rhs[i] = i < items;
    }
    assert_int_equal(lp_new(items + RANKS, type, rhs, &lp, &err), 0);
    for (uint32_t i = 0; i < items * RANKS; i++) {
        row[0] = i / RANKS;
        row[1] = items + i % RANKS;
        value[0] = 1;
        value[1] = weight[i / RANKS];
        assert_int_equal(lp_add_column(lp, 0, 2, row, value, 0, 1, true, &err), 0);
    }
    for (uint32_t g = 0; g < RANKS; g++) {
        row[g] = items + g;
        value[g] = -1;
    }
    assert_int_equal(lp_add_column(lp, 1, RANKS, row, value, 0, LP_INFINITY, false, &err), 0);
    return lp;
}

static void test_stop(void **unused)
{
    struct random r = {5};
    double weight[24], total = 0;
    struct lp_result got, again;
    struct mt_err err = {0};
    struct lp *lp;
    int asked = 0;

    (void)unused;
    for (int i = 0; i < 24; i++)
        total += weight[i] = 1 + random_unit(&r);
    lp = balance(24, weight);
    assert_int_equal(lp_solve(lp, LP_INFINITY, at_once, &asked, 0, &got, &err), 0);
    assert_true(asked > 0);
    assert_true(got.outcome == LP_NOTHING || got.outcome == LP_FEASIBLE);
    lp_free(lp);

    /* the same number of ticks is the same answer */
    lp = balance(24, weight);
    assert_int_equal(lp_solve(lp, LP_INFINITY, NULL, NULL, 3000, &got, &err), 0);
    lp_free(lp);
    lp = balance(24, weight);
    assert_int_equal(lp_solve(lp, LP_INFINITY, NULL, NULL, 3000, &again, &err), 0);
    assert_int_equal(got.outcome, again.outcome);
    assert_true(got.outcome == LP_NOTHING || got.outcome == LP_FEASIBLE);
    if (got.outcome == LP_FEASIBLE) {
        assert_true(got.objective == again.objective);
        assert_true(got.objective >= total / 5 - 1e-6);
    }
    lp_free(lp);

    /* a stopped model can be solved to its end */
    lp = balance(8, weight);
    assert_int_equal(lp_solve(lp, LP_INFINITY, at_once, &asked, 0, &got, &err), 0);
    asked = 0;
    assert_int_equal(lp_solve(lp, LP_INFINITY, count_only, &asked, 0, &got, &err), 0);
    assert_int_equal(got.outcome, LP_OPTIMAL);
    assert_true(asked > 0);
    lp_free(lp);
    lp = balance(8, weight);
    assert_int_equal(lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &again, &err), 0);
    assert_true(fabs(got.objective - again.objective) < 1e-6);
    lp_free(lp);
}

static void test_no_answer(void **unused)
{
    struct lp *lp;
    struct lp_result got;
    struct mt_err err = {0};
    const uint32_t zero = 0;

    (void)unused;
    for (int integer = 0; integer < 2; integer++) {
        assert_int_equal(lp_new(1, (enum lp_row[]){LP_AT_LEAST}, (double[]){1}, &lp, &err), 0);
        /* no columns: 0 >= 1 */
        assert_int_equal(lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &got, &err), 0);
        assert_int_equal(got.outcome, LP_INFEASIBLE);
        assert_int_equal(lp_add_column(lp, 1, 1, &zero, (double[]){1}, 0, 0.25, integer, &err), 0);
        assert_int_equal(lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &got, &err), 0);
        assert_int_equal(got.outcome, LP_INFEASIBLE);
        assert_int_equal(lp_set_upper(lp, 0, 5, &err), 0);
        assert_int_equal(lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &got, &err), 0);
        assert_int_equal(got.outcome, LP_OPTIMAL);
        assert_int_equal(lp_add_column(lp, -1, 0, NULL, NULL, 0, LP_INFINITY, integer, &err), 0);
        assert_int_equal(lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &got, &err), 0);
        assert_int_equal(got.outcome, LP_UNBOUNDED);
        lp_free(lp);
    }
    assert_int_equal(lp_new(1, (enum lp_row[]){LP_AT_MOST}, (double[]){1}, &lp, &err), 0);
    assert_int_equal(lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &got, &err), 0);
    assert_int_equal(got.outcome, LP_OPTIMAL);
    assert_true(got.objective == 0);
    lp_free(lp);
}

static void test_refused(void **unused)
{
    struct lp *lp = NULL;
    struct lp_result got;
    struct mt_err err = {0};
    const uint32_t rows[2] = {0, 0}, far = 7;
    const double ones[2] = {1, 1}, nan = NAN;
    uint32_t to;

    (void)unused;
    assert_int_equal(lp_new(0, NULL, NULL, &lp, &err), MT_EINVAL);
    assert_int_equal(lp_new(1, (enum lp_row[]){LP_EQUAL}, &nan, &lp, &err), MT_EINVAL);
    assert_int_equal(lp_new(1, (enum lp_row[]){LP_EQUAL}, (double[]){1e20}, &lp, &err), MT_EINVAL);
    assert_int_equal(lp_new(1, (enum lp_row[]){(enum lp_row)9}, ones, &lp, &err), MT_EINVAL);
    assert_null(lp);
    assert_int_equal(lp_new(1, (enum lp_row[]){LP_EQUAL}, ones, &lp, &err), 0);
    assert_int_equal(lp_add_column(lp, NAN, 1, rows, ones, 0, 1, false, &err), MT_EINVAL);
    assert_int_equal(lp_add_column(lp, 1, 1, rows, &nan, 0, 1, false, &err), MT_EINVAL);
    assert_int_equal(lp_add_column(lp, 1, 1, rows, ones, 0, NAN, false, &err), MT_EINVAL);
    assert_int_equal(lp_add_column(lp, 1, 1, rows, ones, NAN, 1, false, &err), MT_EINVAL);
    assert_int_equal(lp_add_column(lp, 1, 1, rows, ones, 2, 1, false, &err), MT_EINVAL);
    assert_int_equal(lp_add_column(lp, 1, 1, rows, ones, 0.2, 0.8, true, &err), MT_EINVAL);
    assert_int_equal(lp_add_column(lp, 1, 1, &far, ones, 0, 1, false, &err), MT_EINVAL);
    assert_int_equal(lp_add_column(lp, 1, 2, rows, ones, 0, 1, false, &err), MT_EINVAL);
    assert_int_equal(lp_add_column(lp, INFINITY, 1, rows, ones, 0, 1, false, &err), MT_EINVAL);
    assert_int_equal(lp_columns(lp), 0);
    assert_int_equal(lp_set_cost(lp, 0, 1, &err), MT_EINVAL);
    assert_int_equal(lp_set_upper(lp, 0, 1, &err), MT_EINVAL);
    assert_int_equal(lp_solve(lp, NAN, NULL, NULL, 0, &got, &err), MT_EINVAL);
    assert_int_equal(lp_add_column(lp, 1, 1, rows, ones, 0, INFINITY, false, &err), 0);
    assert_int_equal(lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &got, &err), 0);
    assert_int_equal(got.outcome, LP_OPTIMAL);
    lp_free(lp);
    lp_free(NULL);
    assert_int_equal(lp_assign(0, NULL, &to, &err), MT_EINVAL);
    assert_int_equal(lp_assign(1, &nan, &to, &err), MT_EINVAL);
}

/* Sizes far apart: whatever comes back is checked, or refused as an internal error. */
static void test_huge(void **unused)
{
    struct random r = {6};

    (void)unused;
    for (int round = 0; round < 400; round++) {
        struct model m = random_model(&r);
        struct lp *lp;
        struct lp_result got;
        struct mt_err err = {0};
        double scale[MAX_N];
        int rc;

        for (uint32_t j = 0; j < m.columns; j++) {
            scale[j] = pow(10, (double)random_below(&r, 14));
            m.cost[j] *= scale[j];
            for (uint32_t i = 0; i < m.rows; i++)
                m.a[i][j] *= scale[j];
        }
        lp = build(&m, round % 2);
        rc = lp_solve(lp, LP_INFINITY, NULL, NULL, 20000, &got, &err);
        assert_true(rc == 0 || rc == MT_EINTERNAL);
        lp_free(lp);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integer),   cmocka_unit_test(test_linear),
        cmocka_unit_test(test_growing),   cmocka_unit_test(test_generation),
        cmocka_unit_test(test_assign),    cmocka_unit_test(test_stop),
        cmocka_unit_test(test_no_answer), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_huge),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
