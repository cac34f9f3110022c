/* What the tests of the kernels share: random data, every variant of the CPU backend that this
 * processor can run, and naive oracles. The oracles know the contract of kernels.h and nothing of
 * the implementation; those that return float follow the canonical order and must be met to the
 * bit. */
#ifndef MT_TESTS_KERNELS_RIG_H
#define MT_TESTS_KERNELS_RIG_H

#include "kernels/kernels.h"

#define RIG_MAX 16
#define RIG_WIDTH 1600
#define RIG_INTER 700
#define RIG_POSITIONS 400
#define RIG_VOCAB 5000

/* Variants: every instruction set with 1 to 4 threads; variant 0 is portable with one thread. */
struct rig {
    struct kernels *k[RIG_MAX];
    unsigned n;
};

void rig_open(struct rig *r, enum numerics numerics); /* says which instruction sets are skipped */
void rig_close(struct rig *r);
const char *rig_name(const struct kernels *k); /* "avx2, 3 threads"; static */

/* Fails the test, saying where, unless the n floats are equal to the bit. */
void rig_equal(const char *what, const struct kernels *k, const float *a, const float *b, size_t n);
/* |a - b| <= tolerance * (1 + |b|) */
void rig_near(const char *what, const struct kernels *k, const float *a, const double *b, size_t n,
              double tolerance);

/* xorshift64*; tests seed it with a constant. */
struct random {
    uint64_t state;
};
uint64_t random_bits(struct random *r);
uint32_t random_below(struct random *r, uint32_t n);
float random_normal(struct random *r);                         /* about N(0, 1) */
float *random_floats(struct random *r, size_t n, float scale); /* the caller frees */
/* n elements of `dtype` in the same way; ret_values gets them as float32. */
void *random_stored(struct random *r, size_t n, float scale, enum dtype dtype, float **ret_values);

uint16_t oracle_bf16(float x);
float oracle_from_bf16(uint16_t x);
float oracle_from_f16(uint16_t x);
float oracle_dot(const float *a, const float *b, uint32_t n); /* canonical, by fmaf */
double oracle_silu(double x);

void *must_alloc(size_t bytes); /* zeroed; fails the test */

#endif
