/* A search over all layers of a problem under one rule: rounds of annealing, each layer's best
 * kept. The layers do not know of each other: what couples them (homes, the busiest port of a
 * migration) is what joint.c alternates with. Pure; an object belongs to one thread. */
#ifndef MT_PLACEMENT_SEARCH_H
#define MT_PLACEMENT_SEARCH_H

#include "placement/placement.h"
#include "placement/sample.h"

#define SEARCH_PAST 8

struct search_rule {
    struct sample_rule sample;
    double traffic; /* factor on traffic in the price */
    bool single;    /* one copy of each expert, whatever the slots */
};

struct search; /* opaque */

/* homes as for bag_new. start: a plan that fits; borrowed until the end of the call. */
int search_new(const struct place_problem *p, const struct search_rule *rule,
               const uint16_t *const *homes, const struct plan *start, uint64_t seed,
               struct search **ret, struct mt_err *reterr);
void search_free(struct search *s);
/* One pass over the layers, `moves` exchanges in each (and a twentieth of that of replica moves),
 * until run->stop or *io_left moves are spent. Adds what was tried to *io_tried. */
void search_round(struct search *s, uint64_t moves, const struct place_run *run, uint64_t *io_left,
                  uint64_t *io_tried);
/* Offers another plan: in each layer it is kept where it is better. */
void search_offer(struct search *s, const struct plan *plan);
/* Of one layer: placements of single copies that rounds ended with, at most SEARCH_PAST of them,
 * the latest first; ret[n][experts] ranks. Returns n. */
uint32_t search_past(const struct search *s, uint32_t layer, uint16_t *ret);
double search_price(const struct search *s); /* sum over layers, seconds per token */
int search_plan(const struct search *s, struct plan *ret, struct mt_err *reterr);
/* The best with one copy of each expert, whatever the slots. */
int search_single_plan(const struct search *s, struct plan *ret, struct mt_err *reterr);

#endif
