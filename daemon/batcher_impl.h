/* Private to batcher*.c. */
#ifndef MT_DAEMON_BATCHER_IMPL_H
#define MT_DAEMON_BATCHER_IMPL_H

#include <sys/queue.h>

#include "daemon/batcher.h"
#include "daemon/kvpool.h"

/*   WAITING --reserved--> PREFILL --all known tokens sent--> DECODE
 *      |                     |                                 |
 *      +----- ended ---------+---------------------------------+--> ENDED --freed and answered-->
 * gone WAITING has neither blocks nor a seat; PREFILL and DECODE have both; ENDED has only its id.
 */
enum sequence_state { SEQ_WAITING, SEQ_PREFILL, SEQ_DECODE, SEQ_ENDED };

TAILQ_HEAD(sequence_list, sequence);

struct sequence {
    TAILQ_ENTRY(sequence)
    link; /* in its rank's list of that state; ENDED: in batcher.frees while `admitted` */
    enum sequence_state state;
    uint32_t id; /* on the wire */
    struct batcher_spec spec;
    int32_t *emitted; /* [n_emitted], owned */
    uint32_t n_emitted, cap_emitted;
    uint32_t fed;       /* positions sent to the home */
    uint32_t sampling;  /* tokens in flight: sampled by steps not yet answered */
    uint32_t in_flight; /* runs in steps not yet answered */
    bool admitted;      /* the home knows it, and has not been told to free it */
    uint32_t reserved;  /* KV blocks */
    uint32_t *blocks;   /* [reserved], owned; n_blocks of them taken */
    uint32_t n_blocks;
    uint64_t step;                   /* built last with a run of it */
    uint32_t run_at[WIRE_MAX_AHEAD]; /* its run in flights[step % WIRE_MAX_AHEAD], if that one names
                                        it */
};

struct batcher_home {
    struct kvpool pool;
    uint32_t max_tokens, max_seqs;
    uint32_t seats; /* sequences in PREFILL and DECODE */
    uint32_t n_waiting;
    struct sequence_list waiting, prefill, decode;
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
    struct batcher_shape shape;
    struct batcher_home *homes; /* [shape.ranks] */
    struct sequence **by_id;    /* [cap_ids]; NULL: unused */
    uint32_t *free_ids;         /* [n_free_ids] a stack */
    uint32_t n_free_ids, cap_ids;
    struct sequence_list frees; /* ended, and the home is not told yet */
    uint64_t step;              /* built last */
    uint32_t unanswered;
    struct flight flights[WIRE_MAX_AHEAD];
    int32_t *scratch; /* [scratch_cap] tokens of one chunk */
    uint32_t scratch_cap;
    uint64_t overrun_tokens;
};

/* Gives the id back and frees s, once it is ENDED, freed at its home and in no unanswered step. */
void batcher_retire(struct batcher *b, struct sequence *s);

#endif
