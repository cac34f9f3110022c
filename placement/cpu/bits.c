/* Written once, compiled for each instruction set (Makefile, ISAS). */
#include "placement/bits.h"

static uint32_t count(const uint64_t *a, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (uint64_t)__builtin_popcountll(a[i]);
    return (uint32_t)sum;
}

static uint32_t count_exchange(const uint64_t *once, const uint64_t *twice, const uint64_t *out,
                               const uint64_t *in, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (uint64_t)__builtin_popcountll((~out[i] & once[i]) | (out[i] & twice[i]) | in[i]);
    return (uint32_t)sum;
}

static void add(uint64_t *restrict once, uint64_t *restrict twice, const uint64_t *restrict x,
                size_t n)
{
    for (size_t i = 0; i < n; i++) {
        twice[i] |= once[i] & x[i];
        once[i] |= x[i];
    }
}

static uint32_t take(uint64_t *restrict to, uint64_t *restrict rest, const uint64_t *restrict mask,
                     size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        uint64_t some = rest[i] & mask[i];

        sum += (uint64_t)__builtin_popcountll(some);
        to[i] |= some;
        rest[i] ^= some;
    }
    return (uint32_t)sum;
}

#define BLOCK 8

/* Words of tokens whose byte is below the limit; n <= BLOCK. */
static void below(uint64_t *restrict ret, const uint64_t *restrict planes, size_t stride,
                  uint32_t flip, uint32_t limit, size_t n)
{
    uint32_t used = 8 - (uint32_t)__builtin_ctz(limit | 256); /* planes below hold no bit of it */
    uint64_t equal[BLOCK];

    for (size_t i = 0; i < BLOCK; i++) {
        ret[i] = 0;
        equal[i] = ~0ull;
    }
    for (uint32_t b = 0; b < used; b++) {
        uint64_t flips = flip >> (7 - b) & 1 ? ~0ull : 0, want = limit >> (7 - b) & 1 ? ~0ull : 0;
        const uint64_t *plane = planes + b * stride;

        for (size_t i = 0; i < n; i++) {
            uint64_t bit = plane[i] ^ flips;

            ret[i] |= equal[i] & ~bit & want;
            equal[i] &= ~(bit ^ want);
        }
    }
}

static uint32_t take_below(uint64_t *restrict to, uint64_t *restrict rest,
                           const uint64_t *restrict planes, size_t stride, uint32_t flip,
                           uint32_t limit, size_t n)
{
    uint32_t sum = 0;

    for (size_t at = 0; at < n; at += BLOCK) {
        size_t some = n - at < BLOCK ? n - at : BLOCK;
        uint64_t mask[BLOCK];

        if (some == BLOCK) /* a constant: whole vectors */
            below(mask, planes + at, stride, flip, limit, BLOCK);
        else
            below(mask, planes + at, stride, flip, limit, some);
        sum += take(to + at, rest + at, mask, some);
    }
    return sum;
}

/* Everything that is left. */
static uint32_t take_all(uint64_t *restrict to, uint64_t *restrict rest, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        sum += (uint64_t)__builtin_popcountll(rest[i]);
        to[i] |= rest[i];
        rest[i] = 0;
    }
    return (uint32_t)sum;
}

static void unite(uint64_t *restrict to, const uint64_t *restrict x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] |= x[i];
}

static void add_row(int32_t *restrict to, const int32_t *restrict x, size_t lanes)
{
    for (size_t i = 0; i < lanes; i++)
        to[i] += x[i];
}

static void exchange(int32_t *restrict from, int32_t *restrict to, const int32_t *restrict out,
                     const int32_t *restrict in, size_t lanes)
{
    for (size_t i = 0; i < lanes; i++) {
        int32_t shift = in[i] - out[i];

        from[i] += shift;
        to[i] -= shift;
    }
}

static int64_t sum_of_max(const int32_t *rows, size_t n, size_t lanes)
{
    int64_t sum[BITS_LANES] = {0}, total = 0;

    for (size_t at = 0; at < lanes; at += BITS_LANES) {
        int32_t most[BITS_LANES];

        for (size_t i = 0; i < BITS_LANES; i++)
            most[i] = rows[at + i];
        for (size_t row = 1; row < n; row++)
            for (size_t i = 0; i < BITS_LANES; i++)
                most[i] =
                    rows[row * lanes + at + i] > most[i] ? rows[row * lanes + at + i] : most[i];
        for (size_t i = 0; i < BITS_LANES; i++)
            sum[i] += most[i];
    }
    for (size_t i = 0; i < BITS_LANES; i++)
        total += sum[i];
    return total;
}

static double scaled_sum_of_max(const int32_t *rows, const double *total, size_t n, size_t lanes)
{
    float scale[BITS_MAX_ROWS];
    double sum = 0;

    for (size_t row = 0; row < n; row++) {
        int64_t of_row = 0;

        for (size_t i = 0; i < lanes; i++)
            of_row += rows[row * lanes + i];
        scale[row] = of_row ? (float)(total[row] / (double)of_row) : 0;
    }
    for (size_t at = 0; at < lanes; at += BITS_LANES) {
        float most[BITS_LANES] = {0};

        for (size_t row = 0; row < n; row++)
            for (size_t i = 0; i < BITS_LANES; i++) {
                float x = (float)rows[row * lanes + at + i] * scale[row];

                most[i] = x > most[i] ? x : most[i];
            }
        for (size_t i = 0; i < BITS_LANES; i++)
            sum += (double)most[i];
    }
    return sum;
}

#define NAME_(isa) bits_##isa
#define NAME(isa) NAME_(isa)
#if defined KERNELS_ISA_avx512
#define ISA avx512
#elif defined KERNELS_ISA_avx2
#define ISA avx2
#else
#define ISA portable
#endif

const struct bits NAME(ISA) = {
    count, count_exchange, add,     take,       take_below,       take_all,
    unite, exchange,       add_row, sum_of_max, scaled_sum_of_max};
