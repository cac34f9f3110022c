/* embed, rmsnorm, rope, exp (through swiglu), alloc, and the errors of kernels_open. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/kernels/rig.h"

static struct rig exact;

static void embed_copies_rows(void **state)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    struct random r = {31};

    (void)state;
    for (uint32_t round = 0; round < 15; round++) {
        uint32_t rows = 1 + random_below(&r, 30), d = 1 + random_below(&r, 300), n = 1 + round * 3;
        float *values, *got = must_alloc((size_t)n * d * sizeof *got);
        void *stored = random_stored(&r, (size_t)rows * d, 1.0f, dtypes[round % 3], &values);
        struct weight table = {stored, dtypes[round % 3], rows, d};
        int32_t ids[64];

        for (uint32_t i = 0; i < n; i++)
            ids[i] = (int32_t)random_below(&r, rows);
        for (unsigned v = 0; v < exact.n; v++) {
            memset(got, 0xff, (size_t)n * d * sizeof *got);
            exact.k[v]->op->embed(exact.k[v], got, &table, ids, n);
            for (uint32_t i = 0; i < n; i++)
                rig_equal("embed", exact.k[v], got + (size_t)i * d, values + (size_t)ids[i] * d, d);
        }
        free(values);
        free(got);
        free(stored);
    }
}

/* All 65536 half-precision values. */
static void every_f16_is_read_exactly(void **state)
{
    enum { N = 1024 };
    static uint16_t stored[65536];
    static float got[65536];
    int32_t ids[65536 / N];
    struct weight table = {stored, DTYPE_F16, 65536 / N, N};

    (void)state;
    for (uint32_t i = 0; i < 65536; i++)
        stored[i] = (uint16_t)i;
    for (int32_t i = 0; i < 65536 / N; i++)
        ids[i] = i;
    for (unsigned v = 0; v < exact.n; v++) {
        exact.k[v]->op->embed(exact.k[v], got, &table, ids, 65536 / N);
        for (uint32_t i = 0; i < 65536; i++) {
            float want = oracle_from_f16((uint16_t)i);

            if (isnan(want))
                assert_true(isnan(got[i]));
            else
                rig_equal("f16", exact.k[v], &got[i], &want, 1);
        }
    }
}

static void rmsnorm_is_right(void **state)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    struct random r = {32};

    (void)state;
    for (uint32_t round = 0; round < 20; round++) {
        uint32_t d = 1 + random_below(&r, 500), n = 1 + random_below(&r, 12);
        float *values, *x = random_floats(&r, (size_t)n * d, 3.0f);
        float *want = must_alloc((size_t)n * d * sizeof *want),
              *got = must_alloc((size_t)n * d * 4);
        void *w = random_stored(&r, d, 1.0f, dtypes[round % 3], &values);

        for (uint32_t i = 0; i < n * d; i++) {
            const float *row = x + (size_t)(i / d) * d;
            float inverse = 1.0f / sqrtf(oracle_dot(row, row, d) / (float)d + 1e-5f);

            want[i] = x[i] * inverse * values[i % d];
        }
        for (unsigned v = 0; v < exact.n; v++) {
            struct kernels *k = exact.k[v];

            k->op->rmsnorm(k, got, x, w, dtypes[round % 3], 1e-5f, n, d);
            rig_equal("rmsnorm", k, got, want, (size_t)n * d);
            memcpy(got, x, (size_t)n * d * sizeof *got);
            k->op->rmsnorm(k, got, got, w, dtypes[round % 3], 1e-5f, n, d);
            rig_equal("rmsnorm in place", k, got, want, (size_t)n * d);
        }
        free(values);
        free(x);
        free(want);
        free(got);
        free(w);
    }
}

/* Rotation as a product of complex numbers, in double. */
static void rope_is_right(void **state)
{
    enum { POSITIONS = 50 };
    struct random r = {33};

    (void)state;
    for (uint32_t round = 0; round < 20; round++) {
        uint32_t half = 1 + random_below(&r, 32), dim = 2 * half + random_below(&r, 9);
        uint32_t heads = 1 + random_below(&r, 4), n = 1 + random_below(&r, 10), pos[10];
        size_t stride = (size_t)heads * dim + 3, size = n * stride;
        float *cos_table = must_alloc(POSITIONS * half * sizeof(float));
        float *sin_table = must_alloc(POSITIONS * half * sizeof(float));
        struct rope rope = {cos_table, sin_table, 2 * half, round % 2};
        float *x = random_floats(&r, size, 1.0f), *got = must_alloc(size * sizeof *got);
        float *reference = must_alloc(size * sizeof *reference);
        double *want = must_alloc(size * sizeof *want);

        for (uint32_t i = 0; i < POSITIONS * half; i++) {
            uint32_t position = i / half, pair = i % half;

            cos_table[i] = cosf((float)position / (float)(pair + 1));
            sin_table[i] = sinf((float)position / (float)(pair + 1));
        }
        for (size_t i = 0; i < size; i++)
            want[i] = x[i];
        for (uint32_t i = 0; i < n; i++) {
            pos[i] = random_below(&r, POSITIONS);
            for (uint32_t h = 0; h < heads * half; h++) {
                uint32_t j = h % half;
                size_t head = i * stride + (size_t)(h / half) * dim;
                size_t a = head + (round % 2 ? 2 * j : j), b = round % 2 ? a + 1 : a + half;
                double c = cos_table[pos[i] * half + j], s = sin_table[pos[i] * half + j];

                want[a] = c * x[a] - s * x[b];
                want[b] = s * x[a] + c * x[b];
            }
        }
        for (unsigned v = 0; v < exact.n; v++) {
            memcpy(got, x, size * sizeof *got);
            exact.k[v]->op->rope(exact.k[v], got, stride, &rope, pos, n, heads, dim);
            rig_near("rope", exact.k[v], got, want, size, 2e-7);
            if (v == 0)
                memcpy(reference, got, size * sizeof *got);
            rig_equal("rope", exact.k[v], got, reference, size);
        }
        free(cos_table);
        free(sin_table);
        free(x);
        free(got);
        free(reference);
        free(want);
    }
}

/* silu over the whole range shows exp: relative error, the ends, and equal bits. */
static void exp_is_accurate(void **state)
{
    enum { N = 20000 };
    static float gate_up[2 * N], got[N], reference[N];

    (void)state;
    for (uint32_t i = 0; i < N; i++) {
        gate_up[i] = (float)i * (200.0f / N) - 99.999f;
        gate_up[N + i] = 1.0f;
    }
    for (unsigned v = 0; v < exact.n; v++) {
        exact.k[v]->op->swiglu(exact.k[v], got, gate_up, 1, N);
        if (v == 0)
            memcpy(reference, got, sizeof got);
        rig_equal("silu", exact.k[v], got, reference, N);
        for (uint32_t i = 0; i < N; i++) {
            double want = oracle_silu(gate_up[i]);

            assert_true(fabs(got[i] - want) <= 3e-7 * fabs(want) + 1e-36);
        }
    }
}

static void silu_of_the_extremes(void **state)
{
    static const float x[] = {INFINITY, -1e30f, 1e30f, 0.0f, NAN, -INFINITY};
    float gate_up[12], got[6];

    (void)state;
    for (int i = 0; i < 6; i++) {
        gate_up[i] = x[i];
        gate_up[6 + i] = 1.0f;
    }
    for (unsigned v = 0; v < exact.n; v++) {
        exact.k[v]->op->swiglu(exact.k[v], got, gate_up, 1, 6);
        assert_true(isinf(got[0]) && got[0] > 0);
        assert_true(got[1] == 0.0f);
        assert_true(got[2] == 1e30f);
        assert_true(got[3] == 0.0f);
        assert_true(isnan(got[4]));
        assert_true(isnan(got[5])); /* -inf / inf, as IEEE says */
    }
}

static void memory_is_aligned_and_zero(void **state)
{
    static const size_t sizes[] = {0, 1, 64, 1000, 5u << 20};
    struct kernels *k = exact.k[0];
    struct mt_err err;

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *memory = k->op->alloc(k, sizes[i]);

        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % 64, 0);
        for (size_t at = 0; at < sizes[i]; at++)
            assert_int_equal(memory[at], 0);
        k->op->free(k, memory, sizes[i]);
    }
    k->op->free(k, NULL, 0);
    assert_null(k->op->alloc(k, SIZE_MAX));
    assert_int_equal(k->op->sync(k, &err), 0);
}

static void open_refuses_by_name(void **state)
{
    const struct kernels_options good = {
        .backend = "cpu", .threads = 1, .limits = {64, 64, 64, 64}};
    struct kernels_options o = good;
    struct kernels *k = NULL;
    struct mt_err err;

    (void)state;
    assert_int_equal(kernels_open(&o, &k, &err), 0);
    assert_string_equal(k->isa, kernels_isas()[0]);
    assert_string_equal(k->backend, "cpu");
    kernels_close(k);
    k = NULL;
    o.isa = "mmx";
    assert_int_equal(kernels_open(&o, &k, &err), MT_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "mmx"));
    assert_non_null(strstr(err.text, "portable"));
    o = good;
    o.backend = "abacus";
    assert_int_equal(kernels_open(&o, &k, &err), MT_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "abacus"));
    o = good;
    o.threads = 0;
    assert_int_equal(kernels_open(&o, &k, &err), MT_EINVAL);
    o.threads = KERNELS_MAX_THREADS + 1;
    assert_int_equal(kernels_open(&o, &k, &err), MT_EINVAL);
    o = good;
    o.limits.positions = 0;
    assert_int_equal(kernels_open(&o, &k, &err), MT_EINVAL);
    o.limits.positions = UINT32_MAX;
    assert_int_equal(kernels_open(&o, &k, &err), MT_ELIMIT);
    assert_null(k); /* untouched */
    kernels_close(NULL);
}

static int open_rig(void **state)
{
    (void)state;
    rig_open(&exact, NUMERICS_EXACT);
    return 0;
}

static int close_rig(void **state)
{
    (void)state;
    rig_close(&exact);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embed_copies_rows),
        cmocka_unit_test(every_f16_is_read_exactly),
        cmocka_unit_test(rmsnorm_is_right),
        cmocka_unit_test(rope_is_right),
        cmocka_unit_test(exp_is_accurate),
        cmocka_unit_test(silu_of_the_extremes),
        cmocka_unit_test(memory_is_aligned_and_zero),
        cmocka_unit_test(open_refuses_by_name),
    };

    return cmocka_run_group_tests(tests, open_rig, close_rig);
}
