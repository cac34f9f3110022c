/* kv_write and attention over a paged cache. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/kernels/rig.h"

#define BLOCKS 80 /* blocks of the pool, in random order in the tables */
#define MAX_ROWS 40

static struct rig exact, fast;

/* A few sequences whose last rows are computed in one step. */
struct attention_case {
    uint32_t heads, kv_heads, dim, window, rows, total; /* total: positions of all sequences */
    float scale;
    size_t stride;
    float *q;                  /* [rows][heads * dim], row stride */
    float *key, *value;        /* [total][kv_heads * dim]: by sequence, then position */
    uint32_t origin[MAX_ROWS]; /* of a row: its sequence's position 0 in key and value */
    uint32_t pos[MAX_ROWS], table_at[MAX_ROWS], tables[BLOCKS];
    uint32_t *all_pos, *all_at; /* [total] the same of every position */
};

static void add_sequence(struct attention_case *c, struct random *r, uint32_t *blocks)
{
    uint32_t length = 1 + random_below(r, 200), at = *blocks;
    uint32_t rows = random_below(r, 2) ? 1 : 1 + random_below(r, length < 18 ? length : 18);

    for (uint32_t i = 0; i < rows; i++, c->rows++) {
        c->pos[c->rows] = length - rows + i;
        c->table_at[c->rows] = at;
        c->origin[c->rows] = c->total;
    }
    for (uint32_t p = 0; p < length; p++) {
        c->all_pos[c->total] = p;
        c->all_at[c->total++] = at;
    }
    *blocks += (length + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
}

static void case_init(struct attention_case *c, struct random *r)
{
    static const uint32_t dims[] = {8, 16, 20, 32, 64, 100, 128, 5};
    uint32_t group = 1 + random_below(r, random_below(r, 4) ? 4 : 17), blocks = 0, sequences;

    memset(c, 0, sizeof *c);
    c->kv_heads = 1 + random_below(r, 3);
    c->heads = c->kv_heads * group;
    c->dim = dims[random_below(r, 8)];
    c->scale = 1.0f / sqrtf((float)c->dim);
    c->window = random_below(r, 3) ? 0 : 1 + random_below(r, 60);
    c->all_pos = must_alloc(800 * sizeof *c->all_pos);
    c->all_at = must_alloc(800 * sizeof *c->all_at);
    sequences = 1 + random_below(r, 2);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        uint32_t other = random_below(r, i + 1);

        c->tables[i] = c->tables[other];
        c->tables[other] = i;
    }
    for (uint32_t i = 0; i < sequences; i++)
        add_sequence(c, r, &blocks);
    c->stride = (size_t)c->heads * c->dim + random_below(r, 9);
    c->q = random_floats(r, c->rows * c->stride, 1.0f);
    c->key = random_floats(r, (size_t)c->total * c->kv_heads * c->dim, 1.0f);
    c->value = random_floats(r, (size_t)c->total * c->kv_heads * c->dim, 1.0f);
}

static void case_done(struct attention_case *c)
{
    free(c->all_pos);
    free(c->all_at);
    free(c->q);
    free(c->key);
    free(c->value);
}

/* A cache full of NaN, so that a read of a position that is not there shows. */
static struct kv_layer make_cache(const struct attention_case *c, enum dtype dtype)
{
    size_t bytes = (size_t)BLOCKS * c->kv_heads * c->dim * KV_BLOCK_TOKENS * dtype_size(dtype);
    struct kv_layer kv = {must_alloc(bytes), must_alloc(bytes), dtype, c->kv_heads, c->dim};

    memset(kv.k, 0xff, bytes);
    memset(kv.v, 0xff, bytes);
    return kv;
}

static void fill_cache(const struct attention_case *c, struct kernels *k, struct kv_layer *kv)
{
    struct kernel_rows all = {c->total, c->all_pos, c->all_at, c->tables};

    k->op->kv_write(k, kv, c->key, c->value, (size_t)c->kv_heads * c->dim, &all);
}

static double maybe_round(float x, bool bf16)
{
    return bf16 ? oracle_from_bf16(oracle_bf16(x)) : x;
}

/* One row and head in double, from the flat keys and values. */
static void oracle_head(const struct attention_case *c, uint32_t row, uint32_t head, bool bf16,
                        double *out)
{
    uint32_t last = c->pos[row], first = 0, width = c->kv_heads * c->dim;
    size_t kv = (size_t)c->origin[row] * width + head / (c->heads / c->kv_heads) * c->dim;
    const float *q = c->q + row * c->stride + (size_t)head * c->dim;
    double score[RIG_POSITIONS], max = -INFINITY, sum = 0.0;

    if (c->window && last + 1 > c->window)
        first = last + 1 - c->window;
    for (uint32_t p = first; p <= last; p++) {
        score[p] = 0.0;
        for (uint32_t d = 0; d < c->dim; d++)
            score[p] += maybe_round(q[d], bf16) * maybe_round(c->key[kv + p * width + d], bf16);
        score[p] *= c->scale;
        max = fmax(max, score[p]);
    }
    memset(out, 0, c->dim * sizeof *out);
    for (uint32_t p = first; p <= last; p++) {
        double w = exp(score[p] - max);

        sum += w;
        for (uint32_t d = 0; d < c->dim; d++)
            out[d] += w * maybe_round(c->value[kv + p * width + d], bf16);
    }
    for (uint32_t d = 0; d < c->dim; d++)
        out[d] /= sum;
}

/* Row by row on variant 0 of the rig, near to the oracle; then every variant equal to it. */
static void check_case(const struct attention_case *c, const struct rig *rig, bool bf16)
{
    size_t row_size = (size_t)c->heads * c->dim, n = c->rows * row_size;
    double *want = must_alloc(n * sizeof *want);
    float *reference = must_alloc(n * sizeof *reference), *got = must_alloc(n * sizeof *got);
    struct kernel_rows rows = {c->rows, c->pos, c->table_at, c->tables};

    for (uint32_t i = 0; i < c->rows; i++) {
        for (uint32_t h = 0; h < c->heads; h++)
            oracle_head(c, i, h, bf16, want + i * row_size + (size_t)h * c->dim);
    }
    for (unsigned v = 0; v < rig->n; v++) {
        struct kernels *k = rig->k[v];
        struct kv_layer kv = make_cache(c, bf16 ? DTYPE_BF16 : DTYPE_F32);

        fill_cache(c, k, &kv);
        if (v == 0) {
            for (uint32_t i = 0; i < c->rows; i++) {
                struct kernel_rows one = {1, c->pos + i, c->table_at + i, c->tables};

                k->op->attention(k, reference + i * row_size, c->q + i * c->stride, c->stride, &kv,
                                 &one, c->heads, c->scale, c->window);
            }
            rig_near("attention", k, reference, want, n, 2e-6 * (1.0 + c->dim / 16.0));
        }
        memset(got, 0xff, n * sizeof *got);
        k->op->attention(k, got, c->q, c->stride, &kv, &rows, c->heads, c->scale, c->window);
        rig_equal("attention", k, got, reference, n);
        free(kv.k);
        free(kv.v);
    }
    free(want);
    free(reference);
    free(got);
}

static void attention_is_right(void **state)
{
    struct random r = {21};

    (void)state;
    for (int round = 0; round < 40; round++) {
        struct attention_case c;

        case_init(&c, &r);
        check_case(&c, &exact, false);
        if (round % 2)
            check_case(&c, &fast, true);
        case_done(&c);
    }
}

/* The layout is part of the contract: backends and copies between ranks rely on it. */
static void cache_layout(void **state)
{
    enum { HEADS = 2, DIM = 3, STRIDE = 8 };
    const uint32_t pos[] = {17, 18}, table_at[] = {1, 1}, tables[] = {9, 9, 2};
    const struct kernel_rows rows = {2, pos, table_at, tables};
    float key[2 * STRIDE], value[2 * STRIDE], k_cache[3 * HEADS * DIM * 16] = {0};
    float v_cache[3 * HEADS * DIM * 16] = {0};
    struct kv_layer kv = {k_cache, v_cache, DTYPE_F32, HEADS, DIM};
    size_t written = 0;

    (void)state;
    for (uint32_t i = 0; i < 2 * STRIDE; i++) {
        key[i] = (float)(i + 1);
        value[i] = -key[i];
    }
    exact.k[0]->op->kv_write(exact.k[0], &kv, key, value, STRIDE, &rows);
    for (uint32_t i = 0; i < 2; i++) {
        for (uint32_t h = 0; h < HEADS; h++) {
            for (uint32_t d = 0; d < DIM; d++) {
                size_t head = 2 * HEADS + h, slot = pos[i] % 16;

                assert_true(k_cache[(head * DIM + d) * 16 + slot] == key[i * STRIDE + h * DIM + d]);
                assert_true(v_cache[(head * 16 + slot) * DIM + d] ==
                            value[i * STRIDE + h * DIM + d]);
            }
        }
    }
    for (size_t i = 0; i < sizeof k_cache / sizeof *k_cache; i++)
        written += k_cache[i] != 0.0f;
    assert_int_equal(written, 2 * HEADS * DIM);
}

/* bf16: every kind of float, against the oracle's search for the nearest. */
static void rounding_to_bf16(void **state)
{
    enum { N = 4096 };
    struct random r = {22};
    static float x[N], zero[N];
    static uint16_t k_cache[N * 16], v_cache[N * 16];
    const uint32_t pos = 0, table_at = 0, table = 0;
    const struct kernel_rows rows = {1, &pos, &table_at, &table};
    struct kv_layer kv = {k_cache, v_cache, DTYPE_BF16, N, 1};

    (void)state;
    for (uint32_t i = 0; i < N; i++) {
        uint32_t bits = (uint32_t)random_bits(&r);

        if (i % 2) /* halfway, or one off it */
            bits = (bits & 0xffff0000u) + 0x7fff + i % 3;
        memcpy(&x[i], &bits, sizeof bits);
    }
    x[0] = 0.0f;
    x[1] = -0.0f;
    x[2] = INFINITY;
    x[3] = NAN;
    x[4] = 0x1.fffffep127f;
    x[5] = 0x1p-149f;
    for (unsigned v = 0; v < fast.n; v++) {
        fast.k[v]->op->kv_write(fast.k[v], &kv, x, zero, N, &rows);
        for (uint32_t i = 0; i < N; i++) {
            if (isnan(x[i]))
                assert_true(isnan(oracle_from_bf16(k_cache[i * 16])));
            else
                assert_int_equal(k_cache[i * 16], oracle_bf16(x[i]));
        }
    }
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
        cmocka_unit_test(attention_is_right),
        cmocka_unit_test(cache_layout),
        cmocka_unit_test(rounding_to_bf16),
    };

    return cmocka_run_group_tests(tests, open_rigs, close_rigs);
}
