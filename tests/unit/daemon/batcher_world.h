/* The oracle's side of the batcher's tests: requests, what each of their choices must get, and a
 * loop that runs them to their end on simulated ranks (fake_ranks.c), which check every step. */
#ifndef MT_TESTS_BATCHER_WORLD_H
#define MT_TESTS_BATCHER_WORLD_H

#include "daemon/batcher.h"
#include "fake_ranks.h"

#define MAX_REQUESTS 24
#define MAX_CHOICES 4
#define MAX_NEW 40
#define MAX_PROMPT 70

struct flow; /* one choice as the test sees it */

struct flow {
    struct world *world;
    struct load *load;
    struct sequence *seq;
    uint32_t choice;
    int32_t expect[MAX_NEW];
    uint32_t n_expect, n_got, n_prompt_got;
    bool done;
};

struct load { /* one request */
    int32_t prompt[MAX_PROMPT];
    uint32_t n_prompt, new_tokens, n_choices, n_done;
    uint64_t order;
    int32_t n_logprobs;
    bool prompt_logprobs, cancelled, added;
    uint64_t seed;
    struct flow flows[MAX_CHOICES];
};

struct world {
    struct batcher_shape shape;
    struct batcher *batcher;
    struct fake_ranks *ranks;
    struct wire_step step;
    struct load loads[MAX_REQUESTS];
    uint32_t n_loads, next, n_done;
    uint64_t steps, deaths;
};

extern uint64_t world_rng;

uint32_t world_rnd(uint32_t n); /* 0 .. n-1 */
bool world_is_stop(int32_t token);
void world_finish(struct flow *f);                     /* ends its sequence */
void world_foretell(struct world *w, struct load *l);  /* what its choices will get */
void world_make_load(struct world *w, struct load *l); /* a random one that fits the shape */
bool world_room(const struct world *w, const struct load *l);
void world_add(struct world *w, struct load *l);
/* Runs all loads to their end, with random cancellations and deaths of the job. */
void world_run(struct world *w, bool cancels, bool deaths);

#endif
