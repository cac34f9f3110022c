#include "tests/unit/kernels/rig.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void *must_alloc(size_t bytes)
{
    void *memory = calloc(1, bytes ? bytes : 1);

    assert_non_null(memory);
    return memory;
}

static struct kernels *open_one(const char *isa, enum numerics numerics, unsigned threads)
{
    struct kernels_options o = {
        .backend = "cpu",
        .isa = isa,
        .numerics = numerics,
        .threads = threads,
        .limits = {RIG_WIDTH, RIG_INTER, RIG_POSITIONS, RIG_VOCAB},
    };
    struct kernels *k = NULL;
    struct mt_err err;

    if (kernels_open(&o, &k, &err))
        fail_msg("kernels_open: %s", err.text);
    return k;
}

void rig_open(struct rig *r, enum numerics numerics)
{
    static const char *const all[] = {"portable", "avx2", "avx512"};
    const char *const *have = kernels_isas();

    r->n = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        bool found = false;

        for (size_t j = 0; have[j]; j++)
            found |= strcmp(have[j], all[i]) == 0;
        if (!found)
            print_message("skipped: this processor has no %s\n", all[i]);
        for (unsigned threads = 1; found && threads <= 4; threads++)
            r->k[r->n++] = open_one(all[i], numerics, threads);
    }
}

void rig_close(struct rig *r)
{
    for (unsigned i = 0; i < r->n; i++)
        kernels_close(r->k[i]);
    r->n = 0;
}

const char *rig_name(const struct kernels *k)
{
    static char name[64];

    snprintf(name, sizeof name, "%s, %u threads", k->isa, k->threads);
    return name;
}

void rig_equal(const char *what, const struct kernels *k, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], sizeof *a))
            fail_msg("%s (%s): element %zu of %zu is %a, expected %a", what, rig_name(k), i, n,
                     (double)a[i], (double)b[i]);
    }
}

void rig_near(const char *what, const struct kernels *k, const float *a, const double *b, size_t n,
              double tolerance)
{
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)a[i] - b[i]) <= tolerance * (1.0 + fabs(b[i]))))
            fail_msg("%s (%s): element %zu of %zu is %.9g, expected %.9g", what, rig_name(k), i, n,
                     (double)a[i], b[i]);
    }
}

uint64_t random_bits(struct random *r)
{
    r->state ^= r->state >> 12;
    r->state ^= r->state << 25;
    r->state ^= r->state >> 27;
    return r->state * 0x2545F4914F6CDD1Du;
}

uint32_t random_below(struct random *r, uint32_t n)
{
    return (uint32_t)((random_bits(r) >> 32) * n >> 32);
}

float random_normal(struct random *r)
{
    float sum = 0.0f;

    for (int i = 0; i < 12; i++)
        sum += (float)(random_bits(r) >> 40) * 0x1p-24f;
    return sum - 6.0f;
}

float *random_floats(struct random *r, size_t n, float scale)
{
    float *x = must_alloc(n * sizeof *x);

    for (size_t i = 0; i < n; i++)
        x[i] = random_normal(r) * scale;
    return x;
}

uint16_t oracle_bf16(float x)
{
    float best = 0.0f;
    uint32_t bits;
    uint16_t low, high;

    if (x != x)
        return 0x7fc0;
    memcpy(&bits, &x, sizeof bits);
    low = (uint16_t)(bits >> 16);
    high = (uint16_t)(low + 1); /* away from zero, perhaps to infinity */
    best = fabsf(x - oracle_from_bf16(low)) - fabsf(oracle_from_bf16(high) - x);
    if ((high & 0x7f80) == 0x7f80) /* halfway to where the next value would be */
        return (bits & 0xffff) > 0x8000 || ((bits & 0xffff) == 0x8000 && (low & 1)) ? high : low;
    if (best == 0.0f)
        return low & 1 ? high : low;
    return best < 0.0f ? low : high;
}

float oracle_from_bf16(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float f;

    memcpy(&f, &bits, sizeof f);
    return f;
}

float oracle_from_f16(uint16_t x)
{
    double sign = x & 0x8000 ? -1.0 : 1.0;
    int exponent = x >> 10 & 31;
    double mantissa = (x & 0x3ff) / 1024.0;

    if (exponent == 31)
        return x & 0x3ff ? NAN : (float)sign * INFINITY;
    if (exponent == 0)
        return (float)(sign * ldexp(mantissa, -14));
    return (float)(sign * ldexp(1.0 + mantissa, exponent - 15));
}

void *random_stored(struct random *r, size_t n, float scale, enum dtype dtype, float **ret_values)
{
    float *values = random_floats(r, n, scale);
    uint16_t *stored;

    *ret_values = values;
    if (dtype == DTYPE_F32) {
        float *copy = must_alloc(n * sizeof *copy);

        memcpy(copy, values, n * sizeof *copy);
        return copy;
    }
    stored = must_alloc(n * sizeof *stored);
    for (size_t i = 0; i < n; i++) {
        if (dtype == DTYPE_BF16) {
            stored[i] = oracle_bf16(values[i]);
            values[i] = oracle_from_bf16(stored[i]);
        } else {
            /* any finite bit pattern up to 4 in size will do */
            stored[i] = (uint16_t)(random_bits(r) % 0x4400 | (random_bits(r) & 0x8000));
            values[i] = oracle_from_f16(stored[i]);
        }
    }
    return stored;
}

float oracle_dot(const float *a, const float *b, uint32_t n)
{
    float s[16] = {0};

    for (uint32_t i = 0; i < (n + 15) / 16 * 16; i++)
        s[i % 16] = fmaf(i < n ? a[i] : 0.0f, i < n ? b[i] : 0.0f, s[i % 16]);
    for (int half = 8; half > 1; half /= 2) {
        for (int j = 0; j < half; j++)
            s[j] += s[j + half];
    }
    return s[0] + s[1];
}

double oracle_silu(double x)
{
    return x / (1.0 + exp(-x));
}
