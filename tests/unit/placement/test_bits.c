/* Every variant of the bit kernels against loops over single bits, on random words of any length
 * and place. Variants that this machine lacks are skipped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "placement/bits.h"
#include "placement/random.h"

#define MAX_WORDS 70
#define ROUNDS 2000
#define GUARD 0x5a5aa5a5c3c33c3cull /* behind a set: must not change */

static const struct bits *variant(uint32_t i)
{
    if (i == 0)
        return &bits_portable;
#if defined __x86_64__
    if (i == 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt"))
        return &bits_avx2;
    if (i == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vpopcntdq"))
        return &bits_avx512;
#endif
    return NULL;
}

/* Dense, sparse, empty or full. */
static void fill(struct random *r, uint64_t *a, size_t n)
{
    uint32_t kind = random_below(r, 5);

    for (size_t i = 0; i < n; i++) {
        a[i] = random_next(r);
        for (uint32_t k = 0; k < 3 && kind == 1; k++)
            a[i] &= random_next(r);
        if (kind == 2)
            a[i] = 0;
        else if (kind == 3)
            a[i] = ~0ull;
    }
    a[n] = GUARD;
}

static bool bit(const uint64_t *a, size_t i)
{
    return a[i / 64] >> (i % 64) & 1;
}

struct sets {
    uint64_t a[MAX_WORDS + 9], b[MAX_WORDS + 9], c[MAX_WORDS + 9], d[MAX_WORDS + 9];
    size_t n, at; /* at: so that vectors are not aligned */
};

static void draw_sets(struct random *r, struct sets *s)
{
    s->n = random_below(r, 4) ? random_below(r, MAX_WORDS + 1) : random_below(r, 10);
    s->at = random_below(r, 8);
    fill(r, s->a + s->at, s->n);
    fill(r, s->b + s->at, s->n);
    fill(r, s->c + s->at, s->n);
    fill(r, s->d + s->at, s->n);
}

static void check_counts(const struct bits *v, const struct sets *s)
{
    const uint64_t *a = s->a + s->at, *b = s->b + s->at, *c = s->c + s->at, *d = s->d + s->at;
    uint32_t count = 0, exchanged = 0;

    for (size_t i = 0; i < s->n * 64; i++) {
        count += bit(a, i);
        /* once in `a`, of which twice in `b`; c leaves and d comes */
        exchanged += bit(d, i) || (bit(c, i) ? bit(b, i) : bit(a, i));
    }
    assert_int_equal(v->count(a, s->n), count);
    assert_int_equal(v->count_exchange(a, b, c, d, s->n), exchanged);
}

static void check_unions(const struct bits *v, struct sets *s)
{
    struct sets was = *s;
    uint64_t *a = s->a + s->at, *b = s->b + s->at, *c = s->c + s->at;

    v->add(a, b, c, s->n);
    v->unite(s->d + s->at, c, s->n);
    for (size_t i = s->at * 64; i < (s->at + s->n) * 64; i++) {
        assert_int_equal(bit(s->a, i), bit(was.a, i) || bit(was.c, i));
        assert_int_equal(bit(s->b, i), bit(was.b, i) || (bit(was.a, i) && bit(was.c, i)));
        assert_int_equal(bit(s->d, i), bit(was.d, i) || bit(was.c, i));
    }
    assert_memory_equal(s->c, was.c, sizeof was.c);
}

static void check_take(const struct bits *v, struct sets *s, bool all)
{
    struct sets was = *s;
    uint32_t n = 0, took = all ? v->take_all(s->a + s->at, s->b + s->at, s->n)
                               : v->take(s->a + s->at, s->b + s->at, s->c + s->at, s->n);

    for (size_t i = s->at * 64; i < (s->at + s->n) * 64; i++) {
        bool some = bit(was.b, i) && (all || bit(was.c, i));

        n += some;
        assert_int_equal(bit(s->a, i), bit(was.a, i) || some);
        assert_int_equal(bit(s->b, i), bit(was.b, i) && !some);
    }
    assert_int_equal(took, n);
    assert_memory_equal(s->c, was.c, sizeof was.c);
}

static void check_guards(const struct sets *s)
{
    assert_true(s->a[s->at + s->n] == GUARD && s->b[s->at + s->n] == GUARD);
    assert_true(s->c[s->at + s->n] == GUARD && s->d[s->at + s->n] == GUARD);
}

static void check_below(const struct bits *v, struct random *r, struct sets *s, uint32_t flip,
                        uint32_t limit)
{
    static uint64_t planes[8 * (MAX_WORDS + 3) + 1];
    size_t stride = s->n + random_below(r, 4);
    struct sets was = *s;
    uint32_t n = 0, took;

    for (size_t i = 0; i < 8 * stride; i++)
        planes[i] = random_next(r);
    took = v->take_below(s->a + s->at, s->b + s->at, planes, stride, flip, limit, s->n);
    for (size_t i = 0; i < s->n * 64; i++) {
        size_t k = s->at * 64 + i;
        uint32_t byte = 0;
        bool some;

        for (uint32_t p = 0; p < 8; p++)
            byte = byte * 2 + bit(planes + p * stride, i);
        some = bit(was.b, k) && (byte ^ flip) < limit;
        n += some;
        assert_int_equal(bit(s->a, k), bit(was.a, k) || some);
        assert_int_equal(bit(s->b, k), bit(was.b, k) && !some);
    }
    assert_int_equal(took, n);
    check_guards(s);
}

static void sets_match_single_bits(void **state)
{
    struct random r = {1};
    struct sets s;

    (void)state;
    for (uint32_t i = 0; i < 3; i++)
        for (uint32_t k = 0; variant(i) && k < ROUNDS; k++) {
            draw_sets(&r, &s);
            check_counts(variant(i), &s);
            check_unions(variant(i), &s);
            check_guards(&s);
            check_take(variant(i), &s, k % 3 == 0);
            check_guards(&s);
        }
}

static void below_is_a_comparison_of_bytes(void **state)
{
    struct random r = {2};
    struct sets s;

    (void)state;
    for (uint32_t i = 0; i < 3; i++)
        for (uint32_t limit = 0; variant(i) && limit < 256; limit++)
            for (uint32_t k = 0; k < 4; k++) {
                draw_sets(&r, &s);
                check_below(variant(i), &r, &s, k ? random_below(&r, 256) : 0, limit);
            }
}

/* Costs of any sign up to the largest that a sample may have. */
static void draw_rows(struct random *r, int32_t *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        rows[i] = (int32_t)random_below(r, 1u << 30) - (random_below(r, 8) ? 0 : 1 << 29);
}

static void check_rows(const struct bits *v, struct random *r, int32_t *rows, size_t n,
                       size_t lanes)
{
    static int32_t was[9 * 80];
    int64_t sum = 0;

    draw_rows(r, rows, n * lanes);
    memcpy(was, rows, n * lanes * sizeof *rows);
    for (size_t k = 0; k < lanes; k++) {
        int32_t most = INT32_MIN;

        for (size_t i = 0; i < n; i++)
            most = rows[i * lanes + k] > most ? rows[i * lanes + k] : most;
        sum += most;
    }
    assert_true(v->sum_of_max(rows, n, lanes) == sum);
    assert_memory_equal(rows, was, n * lanes * sizeof *rows);
    if (n < 4)
        return;
    for (size_t k = 0; k < n * lanes; k++) /* sums of four stay in range */
        rows[k] = was[k] /= 4;
    v->exchange(rows, rows + lanes, rows + 2 * lanes, rows + 3 * lanes, lanes);
    for (size_t k = 0; k < lanes; k++) {
        int32_t shift = was[3 * lanes + k] - was[2 * lanes + k];

        assert_int_equal(rows[k], was[k] + shift);
        assert_int_equal(rows[lanes + k], was[lanes + k] - shift);
        was[k] += shift + was[2 * lanes + k];
        was[lanes + k] -= shift;
    }
    v->add_row(rows, rows + 2 * lanes, lanes);
    assert_memory_equal(rows, was, n * lanes * sizeof *rows);
}

static void rows_match_single_lanes(void **state)
{
    static int32_t rows[9 * 80 + 1];
    struct random r = {3};

    (void)state;
    for (uint32_t i = 0; i < 3; i++)
        for (uint32_t k = 0; variant(i) && k < ROUNDS; k++)
            check_rows(variant(i), &r, rows + k % 2, 1 + random_below(&r, 9),
                       (size_t)BITS_LANES * (1 + random_below(&r, 5)));
}

/* The same bits of the answer from every variant, near what doubles say. */
static void scaled_rows_match_single_lanes(void **state)
{
    static int32_t rows[9 * 80];
    struct random r = {5};

    (void)state;
    for (uint32_t k = 0; k < ROUNDS; k++) {
        size_t n = 1 + random_below(&r, 9), lanes = (size_t)BITS_LANES * (1 + random_below(&r, 5));
        double total[9], scale[9], want = 0, first;

        for (size_t i = 0; i < n; i++) {
            double sum = 0;

            for (size_t j = 0; j < lanes; j++) {
                rows[i * lanes + j] = i % 4 == 3 ? 0 : (int32_t)random_below(&r, 1u << 30);
                sum += rows[i * lanes + j];
            }
            total[i] = random_unit(&r);
            scale[i] = sum > 0 ? total[i] / sum : 0;
        }
        for (size_t j = 0; j < lanes; j++) {
            double most = 0;

            for (size_t i = 0; i < n; i++)
                most =
                    rows[i * lanes + j] * scale[i] > most ? rows[i * lanes + j] * scale[i] : most;
            want += most;
        }
        first = bits_portable.scaled_sum_of_max(rows, total, n, lanes);
        assert_float_equal(first, want, 1e-5 * want);
        for (uint32_t i = 1; i < 3; i++)
            if (variant(i))
                assert_true(variant(i)->scaled_sum_of_max(rows, total, n, lanes) == first);
    }
}

/* Rows of counts are as long as there are classes, which is no multiple of anything. */
static void rows_of_any_length_add_up(void **state)
{
    int32_t to[41], x[41], want[41];
    struct random r = {4};

    (void)state;
    for (uint32_t i = 0; i < 3; i++)
        for (uint32_t n = 0; variant(i) && n <= 40; n++) {
            draw_rows(&r, to, 41);
            draw_rows(&r, x, 41);
            for (uint32_t k = 0; k < 41; k++)
                want[k] = k < n ? to[k] / 2 + x[k] / 2 : to[k] / 2;
            for (uint32_t k = 0; k < 41; k++) {
                to[k] /= 2;
                x[k] /= 2;
            }
            variant(i)->add_row(to, x, n);
            assert_memory_equal(to, want, sizeof to);
        }
}

static void the_fastest_is_one_that_this_machine_has(void **state)
{
    const struct bits *best = variant(2) ? variant(2) : variant(1) ? variant(1) : variant(0);

    (void)state;
    assert_ptr_equal(bits_get(), best);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets_match_single_bits),
        cmocka_unit_test(below_is_a_comparison_of_bytes),
        cmocka_unit_test(rows_match_single_lanes),
        cmocka_unit_test(scaled_rows_match_single_lanes),
        cmocka_unit_test(rows_of_any_length_add_up),
        cmocka_unit_test(the_fastest_is_one_that_this_machine_has),
    };

    return cmocka_run_group_tests_name("bits", tests, NULL, NULL);
}
