/* Sizes of intersections of sets of tokens. Pure; any thread. Variants for different instruction
 * sets give the same answers. */
#ifndef MT_PLACEMENT_OVERLAP_H
#define MT_PLACEMENT_OVERLAP_H

#include <stddef.h>
#include <stdint.h>

/* ret[k]: bits of a & the row of expert[k]; rows are `stride` words apart; n words each. */
void overlap_count(const uint64_t *a, const uint64_t *rows, size_t stride, const uint16_t *expert,
                   uint32_t experts, size_t n, uint32_t *ret);

#endif
