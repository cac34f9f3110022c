/* The way from one placement to another: copies and drops, to be done one after the other.
 *
 * At every point each expert has a copy (I1) and no rank holds more than its slots in a layer.
 * Moves are ordered by layer, and layers do not depend on each other. A copy is read from where
 * score_migration reads it (score_source) as long as that copy is still there, otherwise from the
 * nearest one that is: same node first, then lowest rank. Old copies stay until their slot is
 * needed; what is left of them is dropped at the end of the layer.
 *
 * A cycle of full ranks is broken by a copy that the new placement does not have, in a free slot of
 * another rank, dropped again once the cycle is through. With `staging` each rank has one more slot
 * while moves are under way (an engine that copies beside the old weights and then flips has it):
 * cycles go through that, and nothing is copied twice. Pure. */
#ifndef MT_PLACEMENT_DIFF_H
#define MT_PLACEMENT_DIFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "placement/cluster.h"
#include "placement/plan.h"

struct diff_move {
    uint32_t layer, expert;
    uint16_t from, to; /* a copy is read at `from` and made at `to`; a drop is at `from` == `to` */
    bool drop;
    bool detour; /* a copy, and its drop, that only breaks a cycle */
};

struct diff {
    struct diff_move *move; /* [moves], owned */
    size_t moves;
    uint32_t copies, drops, detours; /* moves = copies + drops; detours are copies too */
    uint32_t staged;                 /* copies beyond a rank's slots, in its staging slot */
    uint32_t elsewhere;              /* copies read from elsewhere than score_source says */
    double rank_in[PLAN_MAX_RANKS], rank_out[PLAN_MAX_RANKS]; /* bytes within nodes, by rank */
    double node_in[PLAN_MAX_RANKS], node_out[PLAN_MAX_RANKS]; /* bytes between nodes, by node */
    double transfer; /* seconds: max over ports of bytes / (share * bandwidth); score_migration's,
                        if detours and elsewhere are 0 */
    double seconds;  /* the same with one latency for each copy through the port */
};

/* MT_EINVAL: shapes differ, or a placement does not fit c's slots (from's too). MT_ELIMIT: a cycle
 * in a layer with no free slot on any rank; the text says what would do. */
int diff_plans(const struct cluster *c, const struct plan *from, const struct plan *to,
               bool staging, struct diff *ret, struct mt_err *reterr);
void diff_done(struct diff *d);

#endif
