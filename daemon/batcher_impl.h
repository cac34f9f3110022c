/* Private to batcher*.c: batcher.c has the lives of sequences and incarnations, batcher_home.c who
 * is seated where and what is in the pools, batcher_step.c the steps. */
#ifndef MT_DAEMON_BATCHER_IMPL_H
#define MT_DAEMON_BATCHER_IMPL_H

#include <sys/queue.h>

#include "daemon/batcher.h"
#include "daemon/kvpool.h"

/*   WAITING --seated--> PREFILL --all known tokens sent--> DECODE
 *      ^                   |                                 |
 *      +--- preempted, or the job died ----------------------+
 *      |                   |                                 |
 *      +------ ended ------+---------------------------------+--> ENDED --all answered--> gone
 *
 * WAITING has neither blocks nor a seat; PREFILL and DECODE have both; ENDED keeps its id
 * until all its runs are answered. */
enum sequence_state { SEQ_WAITING, SEQ_PREFILL, SEQ_DECODE, SEQ_ENDED };

TAILQ_HEAD(sequence_list, sequence);

/* What the choices of a request share. */
struct sequence_group {
    uint32_t members; /* sequences that refer to it */
    uint32_t seats;
    uint32_t home; /* where one was seated last */
};

struct sequence {
    TAILQ_ENTRY(sequence) link; /* in batcher.waiting, or its home's prefill or decode */
    enum sequence_state state;
    uint32_t id;     /* on the wire */
    uint64_t number; /* counts sequences: among those of one order, the lower goes first */
    struct batcher_spec spec;
    struct sequence_group *group;
    int32_t *emitted; /* [n_emitted], owned */
    uint32_t n_emitted, cap_emitted;
    uint32_t told;                   /* the next prompt target to report */
    uint32_t sampling;               /* tokens in flight: sampled by steps not yet answered */
    uint32_t in_flight;              /* runs in steps not yet answered */
    bool admitted;                   /* the home knows it, and has not been told to free it */
    uint64_t step;                   /* built last with a run of it */
    uint32_t run_at[WIRE_MAX_AHEAD]; /* its run in flights[step % WIRE_MAX_AHEAD], if named there */

    /* while it has a seat */
    uint32_t home;
    uint32_t fed;     /* positions that the home has, or will have by the steps sent */
    uint32_t *blocks; /* [blocks_for all tokens it may ever have], owned; n_blocks held */
    uint32_t n_blocks;
    uint32_t promised;    /* blocks that its prefill has still to take */
    uint32_t n_published; /* of its blocks, whose content the pool knows */
    uint64_t serial;      /* of the last of those */

    bool cached_known; /* since it first ran */
    uint32_t cached_tokens;
};

struct batcher_home {
    struct kvpool pool;
    uint32_t max_tokens, max_seqs;
    uint32_t seats;    /* sequences in PREFILL and DECODE */
    uint32_t promised; /* theirs */
    uint32_t n_decode;
    struct sequence_list prefill, decode;
};

struct flight_run {
    struct sequence *seq;
    uint32_t n_prompt; /* prompt targets expected */
    uint32_t prompt_at;
    bool sample;
    bool answered; /* or no answer expected */
};

struct flight {
    struct flight_run *runs;
    uint32_t n_runs, cap_runs;
};

struct batcher {
    struct batcher_shape shape;   /* ranks 0: there is no incarnation */
    struct batcher_home *homes;   /* [shape.ranks] */
    struct sequence_list waiting; /* by order */
    uint32_t n_waiting;
    uint64_t numbers;
    struct sequence **by_id; /* [cap_ids]; NULL: unused */
    uint32_t *free_ids;      /* [n_free_ids] a stack */
    uint32_t *frees;         /* [n_frees] ids whose homes are not told yet that they are freed */
    uint32_t n_free_ids, cap_ids, n_frees;
    uint64_t step; /* built last */
    uint32_t unanswered;
    struct flight flights[WIRE_MAX_AHEAD];
    int32_t *scratch; /* [scratch_cap] tokens of one chunk */
    uint32_t scratch_cap;
    uint64_t overrun_tokens, preemptions, prefix_queries, prefix_hits;
};

static inline uint32_t batcher_blocks(const struct batcher *b, uint64_t tokens)
{
    return (uint32_t)((tokens + b->shape.block_tokens - 1) / b->shape.block_tokens);
}

static inline int32_t sequence_token(const struct sequence *s, uint32_t pos)
{
    return pos < s->spec.n_prompt ? s->spec.prompt[pos] : s->emitted[pos - s->spec.n_prompt];
}

/* Tokens that may be fed now without waiting for an answer. The last token of a prompt is fed only
 * to sample from it. */
static inline uint32_t sequence_known(const struct sequence *s)
{
    return s->spec.new_tokens ? s->spec.n_prompt + s->n_emitted : s->spec.n_prompt - 1;
}

/* Gives the id back and frees s, once it is ENDED and in no unanswered step. */
void sequence_retire(struct batcher *b, struct sequence *s);

/* --- batcher_home.c --- */

void home_wait(struct batcher *b, struct sequence *s); /* puts s into the waiting line */
void home_seat(struct batcher *b); /* seats those that wait, in order, as far as there is room */
/* Takes the seat and the blocks; the caller sets the state. The home will be told. */
void home_unseat(struct batcher *b, struct sequence *s);
/* Before a seated sequence is admitted at its home: what of its tokens the pool has already. */
void home_begin(struct batcher *b, struct sequence *s);
/* Gives s blocks for its first n positions, as far as there are any, also from later sequences,
 * which it preempts unless they are in the step being built. */
void home_grow(struct batcher *b, struct sequence *s, uint32_t n);
/* Tells the pool what is in the blocks of s that are full and whose tokens are all known. */
void home_publish(struct batcher *b, struct sequence *s);

#endif
