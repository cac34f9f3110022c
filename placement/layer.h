/* One layer as a search sees it: experts in slots, what that costs, and what a move would change.
 *
 * The price of a layer, in seconds per token (its part of J, less what no move changes):
 *     mean over samples of the busiest rank's compute time           (sample.h)
 *   + half the busiest and half the mean port of X(D) + X(C)         (objective: "Link time")
 *   + for each copy that the plan in force does not have, its share of T_mig / H
 * The busiest port is the larger of two: the sum over groups of tokens (bag.h) of the busiest port
 * over all of a group's tokens; and the mean over samples of the busiest rank, where a rank's
 * vectors vary from sample to sample as its token-expert pairs do (small steps have stragglers on
 * links as in compute).
 * To either come the messages of a step: a home whose tokens do not touch a rank sends it none.
 * Counters are integers: moves and their reversal leave no trace of rounding, so that the price
 * after a million moves is the price computed anew.
 *
 * An item is an expert, or `experts` for an empty slot (a row of zeros). Pure; an object belongs to
 * one thread. */
#ifndef MT_PLACEMENT_LAYER_H
#define MT_PLACEMENT_LAYER_H

#include "placement/bag.h"
#include "placement/bits.h"
#include "placement/sample.h"

/* Seconds of J that a port is busy per counted vector, for one group of tokens. */
struct layer_ports {
    double rank, node;           /* what travels once per rank (or node) */
    double rank_back, node_back; /* exact combine only: what travels once per expert */
};

#define LAYER_TABLE 256

struct layer {
    const struct place_problem *p;
    const struct bag *bag;
    const struct sample_set *set;
    const struct bits *bits;
    uint32_t ranks, nodes, experts, slots, samples, layer;
    uint32_t first[PLAN_MAX_RANKS + 1]; /* slot ranges */
    uint32_t node_first[PLAN_MAX_RANKS + 1];
    uint16_t *slot_rank;
    struct layer_ports ports[BAG_MAX_GROUPS];
    float *message; /* [groups][LAYER_TABLE + 1] seconds of J per peer in a node, by the part of
                       tokens that touch a rank */
    double mix;     /* part of the busiest port; the rest is the mean's */
    double traffic; /* factor on all traffic: 1, but for a portfolio's other members */
    /* Of the layer: */
    uint64_t *x;            /* [experts + 1][words] */
    float *tokens, *active; /* [experts + 1][samples] */
    int32_t *cost;          /* [experts + 1][samples] in units */
    int32_t *flow;          /* [experts + 1][samples] token-expert pairs, weighted, in units */
    double unit, flow_unit;
    int32_t *class_pairs; /* [experts + 1][classes] tokens; exact combine only */
    uint8_t *move;        /* [experts + 1][ranks] MOVE_... */
    double move_price[3];
    /* Where things are, and what follows from it: */
    uint16_t *item;         /* [slots] */
    uint16_t *best;         /* [slots] the best items of a search */
    uint64_t *once, *twice; /* [ranks + nodes][words]; nodes only with two_level */
    int32_t *touched;       /* [ranks + nodes][classes] tokens */
    int32_t *pairs;         /* [ranks][classes]; exact combine only */
    int32_t *old;           /* [4][classes] scratch */
    int32_t *load;          /* [ranks][samples] of cost */
    int32_t *flows;         /* [ranks][samples] of flow */
    int32_t *node_flows;    /* [nodes][samples] scratch */
    uint32_t moves[3];
    double price;
};

enum { MOVE_NONE, MOVE_NEAR, MOVE_FAR };

int layer_new(const struct bag *bag, const struct sample_set *set, struct layer **ret,
              struct mt_err *reterr);
void layer_free(struct layer *l);
/* Takes up a layer of the problem; nothing is placed afterwards. */
void layer_load(struct layer *l, uint32_t layer);
/* Places items[slots], every expert at most once, and prices it. */
void layer_set(struct layer *l, const uint16_t *items);
/* Exchanges the items of two slots of different ranks if the price rises by at most `most`; tells
 * whether it did. Every expert has one copy. */
bool layer_exchange(struct layer *l, uint32_t slot_a, uint32_t slot_b, double most);
/* The price from load, touched, pairs and moves as they stand. */
double layer_price(const struct layer *l);
/* The same if it is at most `limit`; otherwise something between that and the price, sooner. */
double layer_price_within(const struct layer *l, double limit);
/* The compute part of it, and one group's ports. */
double layer_compute(const struct layer *l);

#endif
