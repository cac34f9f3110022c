/* Random problems for the tests of the search, larger than example.h's and with slots that bind,
 * and random placements for them. */
#ifndef MT_TESTS_SEARCHED_H
#define MT_TESTS_SEARCHED_H

#include "example.h"
#include "placement/layer.h"

struct searched {
    uint32_t layers, experts, topk, ranks, nodes;
    uint32_t slots; /* of each rank; 0: as few as hold every expert once */
    uint32_t documents, longest, tokens, scenarios;
    enum { SEARCHED_PREFILL, SEARCHED_DECODE, SEARCHED_BOTH } phases;
    bool two_level, exact, affinity, from;
    bool uneven;        /* slots; each rank keeps what holds its part of the experts, or less */
    bool shared;        /* all scenarios have one trace */
    bool free_messages; /* no latency */
};

struct searched searched_random(struct random *r);
/* Only p, traces, loads and `from` are made. example_done ends it. */
void searched_make(struct random *r, const struct searched *how, struct example *ret);
uint32_t searched_slots(const struct place_problem *p);
/* items[slots] that hold every expert once, or (replicas) up to all slots, no two on a rank. */
void searched_items(struct random *r, const struct place_problem *p, bool replicas,
                    uint16_t *items);
struct plan searched_plan(struct random *r, const struct place_problem *p, bool replicas);
/* `layer` becomes what the items say; the rest of the plan stays. held[layers][experts][ranks] */
void searched_hold(const struct place_problem *p, uint32_t layer, const uint16_t *items,
                   uint8_t *held);

#endif
