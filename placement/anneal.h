/* Simulated annealing of one layer over exchanges of two slots, and descent. Pure. */
#ifndef MT_PLACEMENT_ANNEAL_H
#define MT_PLACEMENT_ANNEAL_H

#include "placement/layer.h"
#include "placement/random.h"

struct anneal {
    uint64_t moves;   /* tried */
    double hot, cold; /* temperatures at the start and the end, seconds of J */
};

/* A temperature at which a typical exchange of the layer as it stands is accepted now and then. */
double anneal_heat(const struct layer *l);
/* From the items that stand to the best that were seen, which stand afterwards. Ends early when
 * run->stop says so. Returns how many moves were tried. One copy per expert. */
uint64_t anneal_exchange(struct layer *l, const struct anneal *how, struct random *r,
                         const struct place_run *run);
/* Exchanges until no pair of slots helps, `most` pairs were tried, or run->stop. */
uint64_t anneal_descend(struct layer *l, uint64_t most, const struct place_run *run);

#endif
