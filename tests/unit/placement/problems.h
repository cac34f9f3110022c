/* Random placement problems, small enough to try every placement, for tests. */
#ifndef MT_TESTS_PLACEMENT_PROBLEMS_H
#define MT_TESTS_PLACEMENT_PROBLEMS_H

#include "placement/placement.h"
#include "placement/random.h"

#define PROBLEM_TRACES 3

struct problem {
    struct place_problem p;
    struct trace trace[PROBLEM_TRACES];
    double *load[PROBLEM_TRACES];
};

struct problem_shape {
    uint32_t experts, ranks, nodes, layers,
        spare; /* spare: at most so many slots more, each rank */
    uint32_t tokens;
    bool loads_only;
};

/* Asserts on failure. Ranks and slots are dealt unevenly where the shape allows. */
struct problem *problem_new(struct random *r, const struct problem_shape *shape);
void problem_free(struct problem *p);
/* J of the best plan with one copy of each expert, over all of them, by score_plan. */
double problem_best(const struct place_problem *p);
double problem_score(const struct place_problem *p, const struct plan *plan);

#endif
