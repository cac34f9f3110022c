/* Random small problems for the tests of the objective. */
#ifndef MT_TESTS_SAMPLE_H
#define MT_TESTS_SAMPLE_H

#include "placement/placement.h"
#include "placement/random.h"

#define SAMPLE_SCENARIOS 3

enum sample_copies { SAMPLE_ONE_COPY, SAMPLE_REPLICAS, SAMPLE_SHARES };

struct sample {
    struct place_problem p; /* p.from is &from or NULL; traces and loads are below */
    struct plan plan, from;
    struct trace trace[SAMPLE_SCENARIOS];
    double *load[SAMPLE_SCENARIOS];
};

/* layers 1-3, experts 1-12, top 1-4, ranks 1-8 on 1-3 nodes, 1-3 scenarios; homes by load. */
void sample_make(struct random *r, enum sample_copies copies, struct sample *ret);
void sample_done(struct sample *s);
struct trace sample_trace(struct random *r, uint32_t layers, uint32_t experts, uint32_t topk,
                          uint32_t documents, uint32_t longest);
struct plan sample_plan(struct random *r, uint32_t layers, uint32_t experts, uint32_t ranks,
                        enum sample_copies copies);
/* Nodes as even as they can be, slots as many as experts, times of the same magnitude. */
struct cluster sample_cluster(struct random *r, uint32_t ranks, uint32_t nodes);
/* A trace of one layer and one document: choice[tokens][topk], copied. */
struct trace sample_fixed(uint32_t experts, uint32_t topk, uint32_t tokens, const uint16_t *choice);
/* One layer; held[experts][ranks]. */
struct plan sample_held(uint32_t experts, uint32_t ranks, const uint8_t *held);

#endif
