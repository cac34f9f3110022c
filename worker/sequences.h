/* The sequences whose home is this rank: sampling parameters, block tables, the token sampled last.
 * Obeys the daemon, but checks what it says: a step that would reach outside a block table or a
 * pool is MT_EPROTO. */
#ifndef MT_WORKER_SEQUENCES_H
#define MT_WORKER_SEQUENCES_H

#include <stdbool.h>
#include <stdint.h>

#include "api/status.h"
#include "api/wire.h"

struct sequence {
    struct wire_admit admit;
    uint32_t *blocks; /* [n_blocks] owned */
    uint32_t n_blocks, cap_blocks;
    int32_t last; /* sampled last, -1: none yet */
};

struct sequences {
    struct sequence **at; /* [WIRE_MAX_SEQS], NULL where none lives here */
    uint32_t n, max;      /* live now, and at most */
    uint32_t rank;        /* this one */
    uint32_t pool_blocks; /* block ids are below it */
    uint32_t max_positions;
    uint32_t vocab;
};

int sequences_open(struct sequences *s, uint32_t rank, uint32_t max, uint32_t pool_blocks,
                   uint32_t max_positions, uint32_t vocab, struct mt_err *reterr);
void sequences_close(struct sequences *s);

/* Applies a step's frees and admits, and appends its runs' block deltas. Runs of other homes are
 * skipped. */
int sequences_apply(struct sequences *s, const struct wire_step *step, struct mt_err *reterr);
/* The sequence of a run if its home is here, else NULL. */
struct sequence *sequences_find(const struct sequences *s, uint32_t seq);

#endif
