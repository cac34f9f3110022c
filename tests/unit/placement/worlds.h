/* Small random problems with token paths: shapes, machines and traces of all kinds. */
#ifndef MT_TESTS_UNIT_PLACEMENT_WORLDS_H
#define MT_TESTS_UNIT_PLACEMENT_WORLDS_H

#include "placement/placement.h"
#include "placement/random.h"

struct world {
    struct place_problem p;
    struct trace trace[2];
    double *load[2];
};

/* 1 or 2 scenarios; 1 or 2 nodes; slots alike on all ranks, with up to 2 spare. */
void worlds_make(struct random *r, uint32_t layers, uint32_t experts, uint32_t ranks,
                 struct world *ret);
void worlds_done(struct world *w);

#endif
