/* Continuous batching: which sequence runs how many tokens on which rank in the next step.
 *
 * Pure: no I/O, no threads, no clocks; one owner. It keeps the sequences that may run (one for each
 * choice of a request) with their prompt and every token emitted, the KV pools of all ranks, and
 * what the unanswered steps contain.
 *
 * A sequence waits until a rank has a seat and KV blocks for all tokens known so far; waiting ones
 * are seated in order, and none overtakes another. Its home is the rank where the least is to be
 * done: full blocks of a known prefix are found in the pool and not computed again
 * (daemon/kvpool.h), and seats count. The choices of a request share a home
 * as far as it has room for them.
 *
 * Blocks are taken as a sequence grows. When a pool has none left, the sequence latest in order
 * gives its blocks back and waits again (preemption); when it is seated next, prompt and emitted
 * tokens are fed anew and it goes on where it was. The same happens to all of them when the job
 * dies. The first in order is never preempted, so something always moves.
 *
 * Each rank has a token budget per step: decoding sequences first, in turn; what is left goes to
 * prefills, oldest first, in chunks.
 *
 * One step may be built while the one before is unanswered: a sequence whose next token is still in
 * flight then runs with WIRE_RUN_LAST, unless that token is known to be its last. A stop found late
 * costs one overrun token, which is dropped. Blocks and seats of an ended sequence are free for the
 * next step built, since ranks execute steps in order. */
#ifndef MT_DAEMON_BATCHER_H
#define MT_DAEMON_BATCHER_H

#include <stdbool.h>
#include <stdint.h>

#include "api/status.h"
#include "api/wire.h"

struct batcher_rank {
    uint32_t kv_blocks;
    uint32_t max_tokens; /* budget per step */
    uint32_t max_seqs;
};

/* What one incarnation of the job offers. */
struct batcher_shape {
    uint32_t ranks;
    uint32_t block_tokens;
    uint32_t max_positions; /* longest sequence */
    uint64_t epoch;
    struct batcher_rank rank[WIRE_MAX_RANKS];
};

/* A sequence to be. */
struct batcher_spec {
    const int32_t *prompt; /* [n_prompt]; borrowed until batcher_end */
    uint32_t n_prompt;
    uint32_t new_tokens;        /* from batcher_check */
    uint64_t order;             /* lower is seated first and preempted last */
    int32_t n_logprobs;         /* -1: none (0 with prompt_logprobs) */
    bool prompt_logprobs;       /* of each prompt token but the first */
    struct wire_admit sampling; /* seq and home are filled in here */
    void *user;                 /* handed back in events */
};

struct sequence; /* a handle, valid until batcher_end */

/* What one step gave one sequence. Arrays are borrowed from the result. */
struct batcher_event {
    struct sequence *seq;
    void *user;
    int32_t token;          /* -1: none was sampled */
    bool last;              /* the sequence has all it asked for; nothing follows */
    uint32_t cached_tokens; /* of the prompt, found in the pool when it first ran */
    uint32_t n_top; /* best tokens in each entry; an entry is the token itself, then these */
    const struct wire_logprob *logprob; /* one entry for token; NULL without logprobs */
    uint32_t prompt_at;                 /* index in the prompt of the first target below */
    uint32_t n_prompt;                  /* prompt targets reported */
    const struct wire_logprob *prompt;  /* n_prompt entries */
};

/* May end any sequence with batcher_end; must not call the batcher otherwise. */
typedef void batcher_event_fn(void *user, const struct batcher_event *event);

struct batcher_counts {
    uint32_t sequences; /* with a seat */
    uint32_t waiting;   /* added or preempted, and without one */
    uint64_t blocks_held, blocks_cached, blocks_total;
    /* ever: */
    uint64_t overrun_tokens;
    uint64_t preemptions;
    uint64_t prefix_queries, prefix_hits; /* tokens looked up, and found, in the pools */
};

struct batcher;

/* How many new tokens a request gets: max_tokens, cut to the model's longest sequence and to the
 * largest KV pool. MT_EINVAL: the prompt leaves no room for what is asked (at least one token where
 * max_tokens is not 0). */
int batcher_check(const struct batcher_shape *shape, uint32_t n_prompt, uint32_t max_tokens,
                  uint32_t *ret_new_tokens, struct mt_err *reterr);

int batcher_new(struct batcher **ret,
                struct mt_err *reterr); /* no ranks: nothing fits before batcher_start */
void batcher_free(struct batcher *b);   /* NULL allowed */
/* A new incarnation: empty pools, no step in flight, steps count from 1. Stops the old one first.
 */
int batcher_start(struct batcher *b, const struct batcher_shape *shape, struct mt_err *reterr);
/* The incarnation is gone, with all that was in flight: until batcher_start, every sequence waits.
 */
void batcher_stop(struct batcher *b);

/* Whether the first choice of a request like this would be seated at once. */
bool batcher_room(const struct batcher *b, const struct batcher_spec *spec);
/* Adds a choice; `sibling` is another choice of the same request that has not ended, NULL: none.
 * One without room waits. */
int batcher_add(struct batcher *b, const struct batcher_spec *spec, const struct sequence *sibling,
                struct sequence **ret, struct mt_err *reterr);
/* Whether it has a seat: ranks work on it. */
bool batcher_seated(const struct sequence *s);
/* Whether the present incarnation can bring it to its end; false: it would wait for ever. */
bool batcher_fits(const struct batcher *b, const struct sequence *s);
/* Finished or cancelled: frees its blocks. What is in flight for it will be dropped. */
void batcher_end(struct batcher *b, struct sequence *s);
/* All tokens the sequence has emitted, borrowed. */
const int32_t *batcher_emitted(const struct sequence *s, uint32_t *ret_n);

/* Builds the next step, which the caller must send: *ret_built false means that there is nothing to
 * run, or that WIRE_MAX_AHEAD steps are unanswered. After a failure only batcher_start helps. */
int batcher_build(struct batcher *b, struct wire_step *step, bool *ret_built,
                  struct mt_err *reterr);
/* The answer to the oldest unanswered step. MT_EPROTO: it is not an answer to that; then only
 * batcher_start helps. */
int batcher_take(struct batcher *b, const struct wire_result *result, batcher_event_fn *event,
                 void *user, struct mt_err *reterr);
uint32_t batcher_unanswered(const struct batcher *b);
void batcher_count(const struct batcher *b, struct batcher_counts *ret);

#endif
