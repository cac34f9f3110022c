/* A layer whose experts may have several copies: which copy serves each token of the bag, and what
 * that costs.
 *
 * The copy is chosen as in route.h: at home, else on a forced rank, else drawn (evenly), with one
 * random byte per token in place of the oracle's hash, and homes drawn for each token where every
 * home is alike. So the price is an estimate of the fluid one, not equal to it; whoever searches
 * with it has the oracle judge the result. Pure; an object belongs to one thread. */
#ifndef MT_PLACEMENT_REPLICA_H
#define MT_PLACEMENT_REPLICA_H

#include "placement/anneal.h"

struct replica; /* opaque; works on a layer whose bag has homes (BAG_ASSIGNED or affinity) */

int replica_new(struct layer *l, struct replica **ret, struct mt_err *reterr);
void replica_free(struct replica *r);
/* Places items[slots] (of the layer that is loaded); every expert at least once, at most once a
 * rank. */
void replica_set(struct replica *r, const uint16_t *items);
const uint16_t *replica_items(const struct replica *r);
double replica_price(const struct replica *r);
/* A random move that keeps every expert and puts no two copies of one on a rank: an exchange of two
 * slots, or another item for a slot that can spare its own. Kept if the price rises by at most
 * `most`; tells whether it was. */
bool replica_move(struct replica *r, struct random *random, double most);
/* Fills empty slots one by one with the best of `tries` random experts, where one helps. */
void replica_fill(struct replica *r, struct random *random, uint32_t tries,
                  const struct place_run *run);
/* As anneal_exchange. */
uint64_t replica_anneal(struct replica *r, const struct anneal *how, struct random *random,
                        const struct place_run *run);

#endif
