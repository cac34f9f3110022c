/* One layer of one scenario in expectation: served tokens, vectors on links, seconds. The fluid
 * half of score.h: draws between copies count by route_share, so that nothing depends on a token's
 * index. Pure; an object belongs to one thread. */
#ifndef MT_PLACEMENT_FLUID_H
#define MT_PLACEMENT_FLUID_H

#include "placement/placement.h"
#include "placement/step.h"

/* The tokens of a scenario: which of the trace, and where they live. */
struct fluid_tokens {
    const uint32_t *token; /* [n] indexes into the trace, or NULL: all, in order */
    uint32_t n;
    const uint16_t *home; /* [n] of each; NULL: every home alike */
};

struct fluid; /* scratch for a plan's layers */

int fluid_new(const struct place_problem *p, struct fluid **ret, struct mt_err *reterr);
void fluid_free(struct fluid *f);
/* Seconds and figures of one layer, added to *ret and *ret_figures. tokens is ignored for a
 * scenario that knows loads only. */
void fluid_layer(struct fluid *f, const struct plan *plan, const struct place_scenario *s,
                 const struct fluid_tokens *tokens, uint32_t layer, struct step_terms *ret,
                 struct step_figures *ret_figures);
/* Of the last layer, borrowed: token-expert pairs per rank [ranks] and vectors [from][to], of a
 * step. */
const double *fluid_loads(const struct fluid *f);
const double *fluid_traffic(const struct fluid *f);

#endif
