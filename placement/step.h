/* The time of one step: tokens with their homes go in, seconds by term come out.
 *
 * Per layer (three phases without overlap):
 *     max_g dense(n_g) + X(D) + max_g(alpha load_g + beta active_g) + X(C)
 *     X(M) = max over ports of bytes / bw + messages * lat
 * with ports: each rank's in and out within its node, each node's in and out to the network (the
 * way between a rank and its node's port is not priced). The network carries what goes from rank to
 * rank; with two_level a vector crosses it once per node, but in exact combine, which may not add
 * up different experts' vectors on the way. A rank without tokens of its own has no dense part.
 * Pure; an object belongs to one thread. */
#ifndef MT_PLACEMENT_STEP_H
#define MT_PLACEMENT_STEP_H

#include "placement/placement.h"

struct step_terms {
    double dense, dispatch, compute, combine; /* seconds, summed over layers */
};

struct step_figures { /* sums over the layers, for averages over steps */
    double load;      /* max/mean of token-expert pairs over ranks */
    double active;    /* experts with a token on the busiest rank */
    double ranks;     /* |S| per token */
    double remote;    /* |S minus home| per token */
    double local;     /* token-expert pairs served at home, share */
};

struct step; /* opaque: [layers][ranks] counters */

int step_new(const struct place_problem *p, struct step **ret, struct mt_err *reterr);
void step_free(struct step *s);
/* Of another plan of the same shape; clears. plan is borrowed until the next call. */
void step_begin(struct step *s, const struct plan *plan);
/* One token of `t` that lives on `home`, served by the plan; its index is the position of draws. */
void step_add(struct step *s, const struct trace *t, uint32_t token, uint32_t home);
uint32_t step_tokens(const struct step *s);
/* Of what was added since step_begin; each may be NULL. layer_seconds: [layers]. */
void step_time(const struct step *s, struct step_terms *ret, struct step_figures *ret_figures,
               double *layer_seconds);
static inline double step_seconds(const struct step_terms *t)
{
    return t->dense + t->dispatch + t->compute + t->combine;
}
/* Counters of one layer, borrowed until the next step_begin: token-expert pairs per rank, and
 * vectors [from][to] of dispatch. */
const uint32_t *step_loads(const struct step *s, uint32_t layer);
const uint32_t *step_traffic(const struct step *s, uint32_t layer);

#endif
