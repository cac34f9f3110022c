/* matmul, experts, combine, swiglu: all variants against each other and against naive loops. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/kernels/rig.h"

static struct rig exact, fast;

static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

struct shape {
    uint32_t n, rows, cols;
};

/* Odd ones, ones around every tile, panel and depth, then random ones. */
static struct shape pick_shape(struct random *r, uint32_t i)
{
    static const struct shape edge[] = {
        {1, 1, 1},     {1, 8, 16},    {2, 9, 17},   {3, 7, 15},    {4, 16, 512},  {5, 17, 513},
        {6, 8, 1024},  {7, 24, 1040}, {31, 3, 500}, {32, 10, 33},  {33, 11, 530}, {65, 12, 64},
        {1, 40, 1537}, {13, 8, 96},   {9, 40, 8},   {100, 1, 257},
    };

    if (i < sizeof edge / sizeof *edge)
        return edge[i];
    return (struct shape){1 + random_below(r, 20), 1 + random_below(r, 60),
                          1 + random_below(r, RIG_WIDTH)};
}

static void matmul_case(const struct shape *s, enum dtype dtype, struct random *r)
{
    size_t outputs = (size_t)s->n * s->rows;
    float *values, *x = random_floats(r, (size_t)s->n * s->cols, 1.0f);
    void *stored = random_stored(r, (size_t)s->rows * s->cols, 0.3f, dtype, &values);
    struct weight w = {stored, dtype, s->rows, s->cols};
    float *want = must_alloc(outputs * sizeof *want), *got = random_floats(r, outputs, 1.0f);
    float *sum = must_alloc(outputs * sizeof *sum), *old = must_alloc(outputs * sizeof *old);

    memcpy(old, got, outputs * sizeof *old);
    for (size_t i = 0; i < outputs; i++) {
        want[i] = oracle_dot(values + i % s->rows * s->cols, x + i / s->rows * s->cols, s->cols);
        sum[i] = old[i] + want[i];
    }
    for (unsigned v = 0; v < exact.n; v++) {
        struct kernels *k = exact.k[v];

        memcpy(got, old, outputs * sizeof *got);
        k->op->matmul(k, got, x, &w, s->n, true);
        rig_equal("matmul, added", k, got, sum, outputs);
        memset(got, 0xff, outputs * sizeof *got);
        k->op->matmul(k, got, x, &w, s->n, false);
        rig_equal("matmul", k, got, want, outputs);
        memset(got, 0xff, outputs * sizeof *got);
        for (uint32_t i = 0; i < s->n; i++)
            k->op->matmul(k, got + (size_t)i * s->rows, x + (size_t)i * s->cols, &w, 1, false);
        rig_equal("matmul, row by row", k, got, want, outputs);
    }
    free(x);
    free(values);
    free(stored);
    free(want);
    free(got);
    free(sum);
    free(old);
}

static void matmul_is_the_canonical_dot(void **state)
{
    struct random r = {11};

    (void)state;
    for (uint32_t i = 0; i < 30; i++) {
        struct shape s = pick_shape(&r, i);

        matmul_case(&s, dtypes[i % 3], &r);
    }
}

/* A mapped tensor may start at any even address. */
static void matmul_takes_unaligned_weights(void **state)
{
    struct random r = {12};
    float *values, *x = random_floats(&r, 3 * 50, 1.0f), want[5], got[15];
    void *stored = random_stored(&r, 5 * 50, 1.0f, DTYPE_F32, &values);
    char *shifted = must_alloc(5 * 50 * 4 + 2);
    struct weight w = {shifted + 2, DTYPE_F32, 5, 50};

    (void)state;
    memcpy(shifted + 2, stored, 5 * 50 * 4);
    for (uint32_t i = 0; i < 5; i++)
        want[i] = oracle_dot(values + i * 50, x, 50);
    for (unsigned v = 0; v < exact.n; v++) {
        for (uint32_t n = 1; n <= 3; n++) {
            exact.k[v]->op->matmul(exact.k[v], got, x, &w, n, false);
            rig_equal("matmul, unaligned", exact.k[v], got, want, 5);
        }
    }
    free(values);
    free(x);
    free(stored);
    free(shifted);
}

/* Several weights in one go, of one type or not: to the bit what each gives by itself. */
static void matmuls_are_matmuls(void **state)
{
    enum { N = 3, COLS = 70, WEIGHTS = 4 };
    static const uint32_t rows[WEIGHTS] = {40, 9, 17, 3};
    static const enum dtype stored_as[WEIGHTS] = {DTYPE_BF16, DTYPE_BF16, DTYPE_F32, DTYPE_BF16};
    struct random r = {13};
    float *x = random_floats(&r, (size_t)N * COLS, 1.0f), *got[WEIGHTS], want[N * 40];
    struct weight w[WEIGHTS];
    const struct weight *at[WEIGHTS];
    void *stored[WEIGHTS];

    (void)state;
    for (uint32_t i = 0; i < WEIGHTS; i++) {
        float *values;

        stored[i] = random_stored(&r, (size_t)rows[i] * COLS, 0.3f, stored_as[i], &values);
        free(values);
        w[i] = (struct weight){stored[i], stored_as[i], rows[i], COLS};
        at[i] = &w[i];
        got[i] = must_alloc((size_t)N * rows[i] * sizeof *got[i]);
    }
    for (unsigned v = 0; v < exact.n + fast.n; v++) {
        struct kernels *k = v < exact.n ? exact.k[v] : fast.k[v - exact.n];

        k->op->matmuls(k, got, x, at, WEIGHTS, N);
        for (uint32_t i = 0; i < WEIGHTS; i++) {
            k->op->matmul(k, want, x, &w[i], N, false);
            rig_equal("matmuls", k, got[i], want, (size_t)N * rows[i]);
        }
    }
    for (uint32_t i = 0; i < WEIGHTS; i++) {
        free(stored[i]);
        free(got[i]);
    }
    free(x);
}

/* Fast mode: the error is that of rounding x, and weights that are not bf16, to 8 bits. */
static void fast_matmul_is_near(void **state)
{
    struct random r = {13};

    (void)state;
    for (uint32_t i = 0; i < 60; i++) {
        struct shape s = pick_shape(&r, i / 3);
        size_t outputs = (size_t)s.n * s.rows;
        float *values, *x = random_floats(&r, (size_t)s.n * s.cols, 1.0f);
        void *stored = random_stored(&r, (size_t)s.rows * s.cols, 0.1f, dtypes[i % 3], &values);
        struct weight w = {stored, dtypes[i % 3], s.rows, s.cols};
        float *got = must_alloc(outputs * sizeof *got);

        for (unsigned v = 0; v < fast.n; v++) {
            fast.k[v]->op->matmul(fast.k[v], got, x, &w, s.n, false);
            for (size_t o = 0; o < outputs; o++) {
                double want = 0.0, size = 0.0;

                for (uint32_t c = 0; c < s.cols; c++) {
                    double p = (double)values[o % s.rows * s.cols + c] *
                               oracle_from_bf16(oracle_bf16(x[o / s.rows * s.cols + c]));

                    want += p;
                    size += fabs(p);
                }
                assert_true(fabs(got[o] - want) <= size * 1e-5 + 1e-30);
            }
        }
        free(x);
        free(values);
        free(stored);
        free(got);
    }
}

/* --- experts ---------------------------------------------------------------------------------- */

struct expert_case {
    struct expert_pool pool;
    char *base;
    float **values; /* [slots] gate, up, down as float32 */
    uint32_t *offsets, *pair_row, *pair_out;
    uint32_t pairs, rows;
    float *x;
};

static void expert_case_init(struct expert_case *c, struct random *r, enum dtype dtype,
                             uint32_t most_pairs)
{
    uint32_t slots = 1 + random_below(r, 6), hidden = 1 + random_below(r, 90);
    uint32_t inter = 1 + random_below(r, 70);
    size_t size = (size_t)3 * hidden * inter;

    memset(c, 0, sizeof *c);
    c->pool = (struct expert_pool){
        .stride = size * dtype_size(dtype) + 64, .dtype = dtype, .slots = slots};
    c->pool.hidden = hidden;
    c->pool.inter = inter;
    c->base = must_alloc(slots * c->pool.stride);
    c->pool.base = c->base;
    c->values = must_alloc(slots * sizeof *c->values);
    c->offsets = must_alloc((slots + 1) * sizeof *c->offsets);
    for (uint32_t s = 0; s < slots; s++) {
        void *stored = random_stored(r, size, 0.2f, dtype, &c->values[s]);

        memcpy(c->base + s * c->pool.stride, stored, size * dtype_size(dtype));
        free(stored);
        c->offsets[s + 1] =
            c->offsets[s] + (random_below(r, 3) ? random_below(r, most_pairs + 1) : 0);
    }
    c->pairs = c->offsets[slots];
    c->rows = 1 + random_below(r, 9);
    c->x = random_floats(r, (size_t)c->rows * hidden, 1.0f);
    c->pair_row = must_alloc(c->pairs * sizeof *c->pair_row);
    c->pair_out = must_alloc(c->pairs * sizeof *c->pair_out);
    for (uint32_t p = 0; p < c->pairs; p++) {
        uint32_t other = random_below(r, p + 1);

        c->pair_row[p] = random_below(r, c->rows);
        c->pair_out[p] = c->pair_out[other]; /* a shuffle of 0 .. pairs - 1 */
        c->pair_out[other] = p;
    }
}

static void expert_case_done(struct expert_case *c)
{
    for (uint32_t s = 0; s < c->pool.slots; s++)
        free(c->values[s]);
    free(c->values);
    free(c->base);
    free(c->offsets);
    free(c->pair_row);
    free(c->pair_out);
    free(c->x);
}

/* In double, but for nothing. */
static void oracle_experts(const struct expert_case *c, double *y)
{
    uint32_t hidden = c->pool.hidden, inter = c->pool.inter;
    double *h = must_alloc(inter * sizeof *h);

    for (uint32_t s = 0; s < c->pool.slots; s++) {
        const float *gate = c->values[s], *up = gate + (size_t)inter * hidden;
        const float *down = up + (size_t)inter * hidden;

        for (uint32_t p = c->offsets[s]; p < c->offsets[s + 1]; p++) {
            const float *x = c->x + (size_t)c->pair_row[p] * hidden;

            for (uint32_t i = 0; i < inter; i++) {
                double g = 0.0, u = 0.0;

                for (uint32_t j = 0; j < hidden; j++) {
                    g += (double)gate[i * hidden + j] * x[j];
                    u += (double)up[i * hidden + j] * x[j];
                }
                h[i] = oracle_silu(g) * u;
            }
            for (uint32_t j = 0; j < hidden; j++) {
                double sum = 0.0;

                for (uint32_t i = 0; i < inter; i++)
                    sum += down[j * inter + i] * h[i];
                y[(size_t)c->pair_out[p] * hidden + j] = sum;
            }
        }
    }
    free(h);
}

/* The same by matmul and swiglu of one row at a time, which must agree to the bit. */
static void by_parts(const struct expert_case *c, struct kernels *k, float *y)
{
    uint32_t hidden = c->pool.hidden, inter = c->pool.inter;
    float *gate_up = must_alloc(2 * inter * sizeof(float)), *h = must_alloc(inter * sizeof(float));

    for (uint32_t s = 0; s < c->pool.slots; s++) {
        const char *base = c->base + s * c->pool.stride;
        struct weight gate = {base, c->pool.dtype, 2 * inter, hidden}; /* gate and up */
        struct weight down = {base + (size_t)2 * inter * hidden * dtype_size(c->pool.dtype),
                              c->pool.dtype, hidden, inter};

        for (uint32_t p = c->offsets[s]; p < c->offsets[s + 1]; p++) {
            k->op->matmul(k, gate_up, c->x + (size_t)c->pair_row[p] * hidden, &gate, 1, false);
            k->op->swiglu(k, h, gate_up, 1, inter);
            k->op->matmul(k, y + (size_t)c->pair_out[p] * hidden, h, &down, 1, false);
        }
    }
    free(gate_up);
    free(h);
}

static void experts_are_right(void **state)
{
    struct random r = {14};

    (void)state;
    for (uint32_t round = 0; round < 24; round++) {
        struct expert_case c;
        size_t n;
        double *want;
        float *reference, *got;

        expert_case_init(&c, &r, dtypes[round % 3], round % 4 ? 6 : 80);
        n = (size_t)c.pairs * c.pool.hidden;
        want = must_alloc(n * sizeof *want);
        reference = must_alloc(n * sizeof *reference);
        got = must_alloc(n * sizeof *got);
        oracle_experts(&c, want);
        by_parts(&c, exact.k[0], reference);
        rig_near("experts by parts", exact.k[0], reference, want, n, 1e-4);
        for (unsigned v = 0; v < exact.n; v++) {
            struct kernels *k = exact.k[v];

            memset(got, 0xff, n * sizeof *got);
            k->op->experts(k, got, c.x, &c.pool, c.offsets, c.pair_row, c.pair_out);
            rig_equal("experts", k, got, reference, n);
        }
        for (unsigned v = 0; v < fast.n; v++) {
            struct kernels *k = fast.k[v];

            memset(got, 0xff, n * sizeof *got);
            k->op->experts(k, got, c.x, &c.pool, c.offsets, c.pair_row, c.pair_out);
            by_parts(&c, k, reference); /* fast_matmul_is_near speaks for its parts */
            rig_equal("fast experts", k, got, reference, n);
        }
        free(want);
        free(reference);
        free(got);
        expert_case_done(&c);
    }
}

/* More pairs than one pass holds, in one slot and across slots. */
static void experts_run_in_passes(void **state)
{
    enum { PAIRS = 2500, HIDDEN = 24, INTER = 16 };
    struct random r = {15};
    float *values, *x = random_floats(&r, PAIRS * HIDDEN, 1.0f);
    uint32_t offsets[] = {0, 10, 1500, 1500, PAIRS}, *id = must_alloc(PAIRS * sizeof *id);
    void *stored = random_stored(&r, 4 * 3 * HIDDEN * INTER, 0.2f, DTYPE_BF16, &values);
    struct expert_pool pool = {stored, 3 * HIDDEN * INTER * 2, DTYPE_BF16, 4, HIDDEN, INTER};
    float *all = must_alloc(PAIRS * HIDDEN * sizeof *all), one[HIDDEN];

    (void)state;
    for (uint32_t p = 0; p < PAIRS; p++)
        id[p] = p;
    for (unsigned v = 0; v < exact.n; v++) {
        struct kernels *k = exact.k[v];

        memset(all, 0xff, PAIRS * HIDDEN * sizeof *all);
        k->op->experts(k, all, x, &pool, offsets, id, id);
        for (uint32_t p = v; p < PAIRS; p += 83) {
            uint32_t single[5], row = p, out = 0;

            for (uint32_t s = 0; s < 5; s++)
                single[s] = offsets[s] > p;
            k->op->experts(k, one, x, &pool, single, &row, &out);
            rig_equal("one pair of many", k, all + (size_t)p * HIDDEN, one, HIDDEN);
        }
    }
    free(values);
    free(x);
    free(id);
    free(stored);
    free(all);
}

static void combine_and_swiglu_are_right(void **state)
{
    struct random r = {16};

    (void)state;
    for (uint32_t round = 0; round < 20; round++) {
        uint32_t n = 1 + random_below(&r, 9), topk = 1 + random_below(&r, 8);
        uint32_t d = 1 + random_below(&r, 200);
        size_t size = (size_t)n * d;
        float *y = random_floats(&r, size * topk, 1.0f), *w = random_floats(&r, n * topk, 1.0f);
        float *old = random_floats(&r, size, 1.0f), *gate_up = random_floats(&r, size * 2, 5.0f);
        float *want = must_alloc(size * sizeof *want), *got = must_alloc(size * sizeof *got);
        float *activated = must_alloc(size * sizeof *activated);
        double *silu = must_alloc(size * sizeof *silu);

        for (size_t i = 0; i < size; i++) {
            const float *gate = gate_up + i / d * 2 * d;
            float acc = 0.0f;

            for (uint32_t j = 0; j < topk; j++)
                acc = fmaf(w[i / d * topk + j], y[(i / d * topk + j) * d + i % d], acc);
            want[i] = old[i] + acc;
            silu[i] = oracle_silu(gate[i % d]) * gate[d + i % d];
        }
        for (unsigned v = 0; v < exact.n; v++) {
            struct kernels *k = exact.k[v];

            memcpy(got, old, size * sizeof *got);
            k->op->combine(k, got, y, w, n, topk, d);
            rig_equal("combine", k, got, want, size);
            k->op->swiglu(k, got, gate_up, n, d);
            rig_near("swiglu", k, got, silu, size, 1e-6);
            if (v == 0)
                memcpy(activated, got, size * sizeof *got);
            rig_equal("swiglu", k, got, activated, size);
        }
        free(y);
        free(w);
        free(old);
        free(gate_up);
        free(want);
        free(got);
        free(activated);
        free(silu);
    }
}

/* NaN and infinity reach their own row only. */
static void not_a_number_stays_in_its_row(void **state)
{
    enum { N = 7, K = 40, ROWS = 11 };
    struct random r = {17};
    float *values, *x = random_floats(&r, N * K, 1.0f), clean[N * ROWS], got[N * ROWS];
    void *stored = random_stored(&r, ROWS * K, 1.0f, DTYPE_BF16, &values);
    struct weight w = {stored, DTYPE_BF16, ROWS, K};

    (void)state;
    exact.k[0]->op->matmul(exact.k[0], clean, x, &w, N, false);
    x[2 * K + 39] = NAN;
    x[5 * K] = INFINITY;
    for (unsigned v = 0; v < exact.n; v++) {
        exact.k[v]->op->matmul(exact.k[v], got, x, &w, N, false);
        for (uint32_t i = 0; i < N * ROWS; i++) {
            if (i / ROWS == 2 || i / ROWS == 5)
                assert_false(isfinite(got[i]));
            else
                assert_memory_equal(&got[i], &clean[i], sizeof *got);
        }
    }
    free(values);
    free(x);
    free(stored);
}

static int open_rigs(void **state)
{
    (void)state;
    rig_open(&exact, NUMERICS_EXACT);
    rig_open(&fast, NUMERICS_FAST);
    return 0;
}

static int close_rigs(void **state)
{
    (void)state;
    rig_close(&exact);
    rig_close(&fast);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matmul_is_the_canonical_dot),
        cmocka_unit_test(matmul_takes_unaligned_weights),
        cmocka_unit_test(matmuls_are_matmuls),
        cmocka_unit_test(fast_matmul_is_near),
        cmocka_unit_test(experts_are_right),
        cmocka_unit_test(experts_run_in_passes),
        cmocka_unit_test(combine_and_swiglu_are_right),
        cmocka_unit_test(not_a_number_stays_in_its_row),
    };

    return cmocka_run_group_tests(tests, open_rigs, close_rigs);
}
