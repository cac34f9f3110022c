/* Weights without a file, for benchmarks of real shapes: random, but the same for every rank.
 *
 * A value depends on the seed, the tensor's name and the element's index alone. Those of matrices
 * have either sign and a magnitude from 2^-9 to 2^-5, each power of two equally often: a standard
 * deviation of 0.014, much like a fresh model's. Vectors (norms) are 1. */
#ifndef MT_WORKER_DUMMY_H
#define MT_WORKER_DUMMY_H

#include <stdint.h>

/* Writes elements 0 .. n-1 of a tensor, as bf16. */
void dummy_fill(uint16_t *out, uint64_t n, uint32_t dims, const char *name, uint64_t seed);

#endif
