/* Weights without a file, for benchmarks of real shapes: random, but the same for every rank.
 *
 * A value depends on the seed, the tensor's name and the element's index alone. Matrices are
 * uniform in [-1/32, 1/32), whose deviation of 0.018 is that of a fresh model; vectors (norms)
 * are 1. */
#ifndef MT_WORKER_DUMMY_H
#define MT_WORKER_DUMMY_H

#include <stdint.h>

/* Writes elements 0 .. n-1 of a tensor, as bf16. */
void dummy_fill(uint16_t *out, uint64_t n, uint32_t dims, const char *name, uint64_t seed);

#endif
