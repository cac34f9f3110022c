/* Random small problems for the tests of the objective. */
#ifndef MT_TESTS_EXAMPLE_H
#define MT_TESTS_EXAMPLE_H

#include "placement/placement.h"
#include "placement/random.h"

#define EXAMPLE_SCENARIOS 3

enum example_copies { EXAMPLE_ONE_COPY, EXAMPLE_REPLICAS, EXAMPLE_SHARES };

struct example {
    struct place_problem p; /* p.from is &from or NULL; traces and loads are below */
    struct plan plan, from;
    struct trace trace[EXAMPLE_SCENARIOS];
    double *load[EXAMPLE_SCENARIOS];
};

/* layers 1-3, experts 1-12, top 1-4, ranks 1-8 on 1-3 nodes, 1-3 scenarios; homes by load. */
void example_make(struct random *r, enum example_copies copies, struct example *ret);
void example_done(struct example *s);
struct trace example_trace(struct random *r, uint32_t layers, uint32_t experts, uint32_t topk,
                           uint32_t documents, uint32_t longest);
struct plan example_plan(struct random *r, uint32_t layers, uint32_t experts, uint32_t ranks,
                         enum example_copies copies);
/* Nodes as even as they can be, slots as many as experts, times of the same magnitude. */
struct cluster example_cluster(struct random *r, uint32_t ranks, uint32_t nodes);
/* A trace of one layer and one document: choice[tokens][topk], copied. */
struct trace example_fixed(uint32_t experts, uint32_t topk, uint32_t tokens,
                           const uint16_t *choice);
/* One layer; held[experts][ranks]. */
struct plan example_held(uint32_t experts, uint32_t ranks, const uint8_t *held);

#endif
