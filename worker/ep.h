/* Expert-parallel transport: how ranks exchange tokens in a MoE layer, and the few control messages
 * of a step.
 *
 * One table for every transport: `self` (one rank), `mpi` (host memory). A transport between GPUs
 * (CUDA IPC within a host, NCCL between hosts) gives the same table over device memory: all arrays
 * below are then device arrays, all capacities are fixed at open, and dispatch and combine are
 * stream-ordered without the host seeing a count.
 *
 * Called by the rank's main thread only. "Collective" functions are called by all ranks, in the
 * same order.
 *
 * `home` semantics: a token's hidden vector goes once to each distinct remote rank that serves one
 * of its experts, and comes back as results. In exact mode each (token, expert) result comes back
 * by itself, so that the home sums them in router order; in fast mode one partial sum per remote
 * rank does. */
#ifndef MT_WORKER_EP_H
#define MT_WORKER_EP_H

#include <stdbool.h>
#include <stdint.h>

#include "api/buf.h"
#include "api/status.h"
#include "kernels/kernels.h"

struct ep_shape {
    uint32_t hidden, topk;
    uint32_t max_tokens; /* of one rank in one step */
    enum numerics numerics;
};

/* One MoE layer's exchange. Buffers belong to the caller and are sized by ep_max_rows. */
struct ep_exchange {
    /* [IN] this rank's tokens */
    uint32_t n;
    float *x; /* [max_rows][hidden]; rows 0..n-1 are this rank's tokens, dispatch appends the
                 others' */
    const uint16_t *rank; /* [n][topk] serving rank of each pair */
    const int32_t *slot;  /* [n][topk] slot on that rank */
    const float *weight;  /* [n][topk] */
    /* [OUT] of dispatch: all rows that this rank serves, its own first, then by source rank */
    uint32_t rows;
    int32_t *row_slot; /* [max_rows][topk] local slots; -1 where the pair is served elsewhere */
    float *row_weight; /* [max_rows][topk], valid in fast mode */
    /* [IN/OUT] of combine, exact mode: y[i*topk + j] for own pairs (those served elsewhere are
     * filled by combine); received rows' pairs follow from y[n*topk] on, without gaps, in row
     * order, then in router order. */
    float *y;
    /* [IN] of combine, fast mode: [rows - n][hidden] partial sums of the received rows. */
    float *partial;
    /* [IN/OUT] fast mode: [n][hidden], to which the partial sums that come back are added in
     * ascending rank. */
    float *sum;
    uint64_t wait_ns; /* grows by the time spent waiting for others */
};

struct ep;

struct ep_ops {
    const char *name;
    void (*close)(struct ep *ep);
    int (*reserve)(struct ep *ep, struct mt_err *reterr); /* ep_reserve, after ep->shape is set */
    /* Rank 0 sends bytes to all other ranks; len > 0. The bytes may be reused on return. */
    int (*post)(struct ep *ep, const uint8_t *bytes, size_t len, struct mt_err *reterr);
    /* Other ranks: receives the next post if it has arrived, replacing *out; never waits. */
    int (*poll)(struct ep *ep, struct buf *out, bool *ret_got, struct mt_err *reterr);
    /* Collective: every rank gives `mine`; on rank 0 the others' bytes are appended to *all, rank
     * by rank, each after its length as uint32_t. May wait for the others. */
    int (*gather)(struct ep *ep, const struct buf *mine, struct buf *all, struct mt_err *reterr);
    /* Collective, once before the layers of a step: how many tokens each rank has. */
    int (*begin)(struct ep *ep, const uint32_t *rank_tokens, struct mt_err *reterr);
    /* Collective. See struct ep_exchange. A rank without tokens still takes part. */
    int (*dispatch)(struct ep *ep, struct ep_exchange *x, struct mt_err *reterr);
    int (*combine)(struct ep *ep, struct ep_exchange *x, struct mt_err *reterr);
};

struct ep {
    const struct ep_ops *op;
    uint32_t rank, ranks;
    const uint32_t *node; /* [ranks] which host each rank is on, numbered from 0 */
    struct ep_shape shape;
};

/* Most rows that a rank serves in a layer: its own and everybody else's. */
static inline size_t ep_max_rows(const struct ep *ep)
{
    return (size_t)ep->ranks * ep->shape.max_tokens;
}

int ep_open_self(struct ep **ret, struct mt_err *reterr);
/* Calls MPI_Init_thread; argc and argv as main got them. Close calls MPI_Finalize. */
int ep_open_mpi(int *argc, char ***argv, struct ep **ret, struct mt_err *reterr);
/* Collective: fixes the shape and makes the buffers for it, in place of earlier ones. */
int ep_reserve(struct ep *ep, const struct ep_shape *shape, struct mt_err *reterr);
void ep_close(struct ep *ep); /* NULL allowed */

#endif
