/* Which rank and slot serve an expert: the placement map of one epoch, and the rule by which a home
 * chooses among the copies of an expert. Pure after it is built; any thread may read it. */
#ifndef MT_WORKER_EXPERTS_H
#define MT_WORKER_EXPERTS_H

#include <stdint.h>

#include "api/status.h"
#include "api/wire.h"

struct expert_copy {
    uint16_t rank;
    uint16_t slot; /* of that rank's pool of the layer */
};

struct expert_map {
    uint64_t epoch;
    uint32_t layers, experts, ranks;
    uint32_t *start;          /* [layers*experts + 1] */
    struct expert_copy *copy; /* [start[layers*experts]], primary first */
    uint32_t *used;           /* [layers][ranks] slots that each rank needs */
};

/* Slots are given in ascending expert id on each rank and layer, so that all ranks agree without
 * speaking. */
int expert_map_build(const struct wire_map *wire, struct expert_map *ret, struct mt_err *reterr);
void expert_map_done(struct expert_map *m);

/* The slots that `rank` fills: held[l*slots + s] = expert id or -1; *ret_slots is the most used in
 * any layer plus `spare`. *ret_held is the caller's to free. */
int expert_map_held(const struct expert_map *m, uint32_t rank, uint32_t spare, int32_t **ret_held,
                    uint32_t *ret_slots, struct mt_err *reterr);

/* Chooses the serving copy of each of a token's experts (ids[topk]) in a layer, by the rule of the
 * placement objective: in ascending expert id: the copy on the home, if any; else a rank that
 * serves this token already because another chosen expert has its only copy there (the lowest such
 * rank); else, by a hash of (position, layer, expert), one of the copies on the home's node, or of
 * all copies where the node has none. */
void expert_choose(const struct expert_map *m, const uint32_t *node, uint32_t home, uint32_t layer,
                   uint32_t position, const int32_t *ids, uint32_t topk, uint16_t *ret_rank,
                   int32_t *ret_slot);

#endif
