/* Dummy weights: a value depends on seed, name and index; the distribution is the one declared. */
#include "worker/dummy.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N 100003

static float value(uint16_t bf16)
{
    uint32_t bits = (uint32_t)bf16 << 16;
    float f;

    memcpy(&f, &bits, sizeof f);
    return f;
}

/* A shorter tensor is the head of a longer one, at every remainder of the generator's block. */
static void test_a_value_depends_on_its_index_alone(void **state)
{
    uint16_t longer[64], shorter[64];

    (void)state;
    dummy_fill(longer, 64, 2, "t", 1);
    for (uint64_t n = 0; n < 64; n++) {
        memset(shorter, 0, sizeof shorter);
        dummy_fill(shorter, n, 2, "t", 1);
        assert_memory_equal(shorter, longer, n * sizeof *shorter);
        assert_int_equal(shorter[n], 0);
    }
}

/* Bounds are six standard deviations. */
static void test_values_are_as_declared(void **state)
{
    uint16_t *bits = malloc(N * sizeof *bits);
    unsigned bins[2][16] = {0};
    double sum = 0, squares = 0, neighbours = 0;

    (void)state;
    assert_non_null(bits);
    dummy_fill(bits, N, 2, "model.layers.0.self_attn.q_proj.weight", 42);
    for (unsigned i = 0; i < N; i++) {
        double v = value(bits[i]), size = fabs(v);

        assert_true(size >= 0x1p-9 && size < 0x1p-5);
        sum += v;
        squares += v * v;
        neighbours += i ? v * value(bits[i - 1]) : 0;
        /* four powers of two, four parts of each */
        bins[v < 0][(unsigned)((logb(size) + 9) * 4 + (size / exp2(logb(size)) - 1) * 4)]++;
    }
    assert_true(fabs(sum / N) < 2.6e-4);
    assert_true(fabs(sqrt(squares / N) - 0.01372) < 3e-4);
    assert_true(fabs(neighbours / N) < 3.6e-6);
    for (unsigned i = 0; i < 32; i++)
        assert_in_range(bins[i / 16][i % 16], N / 32 - 335, N / 32 + 335);
    free(bits);
}

static void test_names_and_seeds_differ(void **state)
{
    static const char *const NAMES[] = {"a", "b", "ab", "ba", "a.1.w1", "a.1.w2", "a.2.w1", "a.11"};
    enum { COUNT = 2 * sizeof NAMES / sizeof *NAMES };
    uint16_t v[COUNT][32];

    (void)state;
    for (unsigned i = 0; i < COUNT; i++)
        dummy_fill(v[i], 32, 2, NAMES[i / 2], i % 2);
    for (unsigned i = 0; i < COUNT; i++)
        for (unsigned j = 0; j < i; j++) {
            unsigned same = 0;

            for (unsigned k = 0; k < 32; k++)
                same += v[i][k] == v[j][k];
            assert_in_range(same, 0, 4);
        }
}

static void test_vectors_are_ones(void **state)
{
    uint16_t v[7];

    (void)state;
    dummy_fill(v, 7, 1, "norm", 3);
    for (unsigned i = 0; i < 7; i++)
        assert_true(value(v[i]) == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_value_depends_on_its_index_alone),
        cmocka_unit_test(test_values_are_as_declared),
        cmocka_unit_test(test_names_and_seeds_differ),
        cmocka_unit_test(test_vectors_are_ones),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
