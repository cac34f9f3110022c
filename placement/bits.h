/* Sets of tokens as bits and rows of sampled costs, and what search asks of them most often. n:
 * words. Pure; any thread. The variants for different instruction sets give the same answers. */
#ifndef MT_PLACEMENT_BITS_H
#define MT_PLACEMENT_BITS_H

#include <stddef.h>
#include <stdint.h>

#define BITS_LANES 16
#define BITS_MAX_ROWS 256

struct bits {
    uint32_t (*count)(const uint64_t *a, size_t n);
    /* Tokens that still touch a rank when expert `out` leaves it and `in` comes: once: touched by
     * an expert of the rank, twice: by two of them at least. */
    uint32_t (*count_exchange)(const uint64_t *once, const uint64_t *twice, const uint64_t *out,
                               const uint64_t *in, size_t n);
    /* once, twice |= x. */
    void (*add)(uint64_t *once, uint64_t *twice, const uint64_t *x, size_t n);
    /* to |= rest & mask; rest &= ~mask. Returns how many bits went. */
    uint32_t (*take)(uint64_t *to, uint64_t *rest, const uint64_t *mask, size_t n);
    /* As take, for the tokens whose random byte (8 planes, `stride` words apart, most significant
     * first, flipped where `flip` has a bit) is below `limit`, at most 255. */
    uint32_t (*take_below)(uint64_t *to, uint64_t *rest, const uint64_t *planes, size_t stride,
                           uint32_t flip, uint32_t limit, size_t n);
    /* As take, for all of them. */
    uint32_t (*take_all)(uint64_t *to, uint64_t *rest, size_t n);
    void (*unite)(uint64_t *to, const uint64_t *x, size_t n); /* to |= x */
    /* Rows of `lanes` costs, lanes a multiple of BITS_LANES: from += in - out, to += out - in. */
    void (*exchange)(int32_t *from, int32_t *to, const int32_t *out, const int32_t *in,
                     size_t lanes);
    void (*add_row)(int32_t *to, const int32_t *x, size_t lanes);
    /* The sum over lanes of the largest of n rows. */
    int64_t (*sum_of_max)(const int32_t *rows, size_t n, size_t lanes);
    /* The same of rows scaled so that row i sums to total[i]; a row of zeros stays one. n is at
     * most BITS_MAX_ROWS. */
    double (*scaled_sum_of_max)(const int32_t *rows, const double *total, size_t n, size_t lanes);
};

/* The fastest variant that this machine has. */
const struct bits *bits_get(void);

extern const struct bits bits_portable, bits_avx2, bits_avx512;

#endif
