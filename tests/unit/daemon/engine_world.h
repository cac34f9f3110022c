/* What the engine's tests share: an engine on the fake worker in a directory of its own, requests
 * that can be waited for, and the oracle of what they must get. */
#ifndef MT_TESTS_ENGINE_WORLD_H
#define MT_TESTS_ENGINE_WORLD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine.h"

#define VOCAB 384
#define MAX_POSITIONS 256
#define PATIENCE_MS 30000

struct world {
    char base[64];
    char worker[512];
    struct metrics *metrics;
    struct engine_options options; /* to be changed before start */
    struct engine *engine;
    pthread_mutex_t lock;
    char log[1 << 16];
};

extern const struct request_params world_plain;

int world_set_up(void **state);
int world_tear_down(void **state); /* frees the engine; nothing may be left in its directory */
void world_start(struct world *w);
void world_start_ready(struct world *w);
void world_await_fewer(struct world *w, uint32_t n); /* requests that run or wait */
void world_await_state(struct world *w, enum engine_state state, uint64_t incarnation);
void world_assert_logged(struct world *w, const char *text);

/* A request with a prompt made of salt. Its notify wakes world_await_tokens. */
struct request *world_make(const struct request_params *p, uint32_t n_prompt, uint32_t salt);
bool world_is_done(struct request *r);
void world_await_tokens(struct request *r, uint32_t n); /* or the end */
void world_await_done(struct request *r);
void world_check(struct request *r); /* all its choices ran to their full length */
void world_drop(struct request *r);

#endif
