/* The copy that serves a token's expert, by the home alone (no global state).
 *
 * For each chosen expert in ascending id: the copy on the home, if any; else a rank that another
 * chosen expert forces (it has its only copy there; lowest such rank); else, of the copies on the
 * home's node if there are any, otherwise of all: one drawn by the plan's split fractions, scaled
 * to the copies it is drawn from (even if these all have 0), with a hash of (position, layer,
 * expert). A rank that a draw has chosen forces nothing. Pure; any thread. */
#ifndef MT_PLACEMENT_ROUTE_H
#define MT_PLACEMENT_ROUTE_H

#include <stddef.h>
#include <stdint.h>

#include "placement/cluster.h"
#include "placement/plan.h"
#include "placement/trace.h"

#define ROUTE_DRAWN UINT16_MAX /* no rank: the draw decides */

/* chosen[topk] -> ret[topk], ret[i] the rank that serves chosen[i]. position: of the token, in its
 * sequence or in a trace. */
void route_choose(const struct plan *plan, const struct cluster *c, uint32_t layer,
                  const uint16_t *chosen, uint32_t topk, uint32_t home, uint64_t position,
                  uint16_t *ret);
/* The same without the draw: ROUTE_DRAWN where it decides; how many there are. */
uint32_t route_settle(const struct plan *plan, uint32_t layer, const uint16_t *chosen,
                      uint32_t topk, uint32_t home, uint16_t *ret);
/* The probability that the draw takes the copy-th copy of pair = layer * experts + expert for a
 * token of `home`; where the home has a copy, 1 for that and 0 for others. */
double route_share(const struct plan *plan, const struct cluster *c, size_t pair, uint32_t home,
                   uint32_t copy);
/* In [0, 1): the draw of route_choose. */
double route_draw(uint64_t position, uint32_t layer, uint32_t expert);

#endif
