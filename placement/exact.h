/* The best placement with one copy of each expert, for up to 16 experts: branch and bound over the
 * partitions of each layer's experts into ranks, all scenarios at once, under the fluid objective
 * with homes by load (layers decouple there). What a set of experts costs is looked up in a table
 * over all 2^experts sets. Pure; any thread. */
#ifndef MT_PLACEMENT_EXACT_H
#define MT_PLACEMENT_EXACT_H

#include "placement/placement.h"

#define EXACT_MAX_EXPERTS 16

struct exact_layer {
    uint8_t rank[EXACT_MAX_EXPERTS]; /* of each expert */
    double seconds;                  /* per token: sum_s w_s T_sl / n_s of this plan */
    double bound;                    /* no plan with single copies is below; = seconds if proven */
    bool optimal;
};

struct exact_result {
    struct plan plan; /* owned */
    double objective; /* sum_s w_s T_s / n_s, without migration */
    double bound;     /* of the same */
    bool optimal;     /* of J too, where nothing is charged for migration */
    uint64_t nodes;   /* of the search tree */
};

/* NULL, or why exact_solve is not defined for the problem (static). */
const char *exact_refuses(const struct place_problem *p);
/* One layer. run may be NULL: then, and in any case, the search ends after EXACT_MAX_NODES nodes
 * with the best plan so far. */
int exact_layer(const struct place_problem *p, uint32_t layer, const struct place_run *run,
                struct exact_layer *ret, uint64_t *ret_nodes, struct mt_err *reterr);
/* All layers. */
int exact_solve(const struct place_problem *p, const struct place_run *run,
                struct exact_result *ret, struct mt_err *reterr);
void exact_done(struct exact_result *r);

#define EXACT_MAX_NODES (1u << 26)

#endif
