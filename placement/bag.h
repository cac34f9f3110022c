/* The tokens that a search looks at, as bit positions shared by all layers.
 *
 * Tokens stand in groups (one trace under one homing rule) and, within a group, in classes: one
 * class if every home is alike, one per rank if homes are known. A class is a run of whole words,
 * so that a count over its words is a count of its tokens. Pure; read-only once made. */
#ifndef MT_PLACEMENT_BAG_H
#define MT_PLACEMENT_BAG_H

#include "placement/placement.h"

#define BAG_MAX_GROUPS (2 * PLACE_MAX_SCENARIOS)
#define BAG_PLANES 64

struct bag_group {
    const struct trace *trace; /* borrowed */
    double weight; /* seconds of J for each second that a port works for one of its tokens */
    uint32_t tokens, first; /* first: its first class */
    bool homes;             /* a class for each rank, known or drawn */
};

struct bag {
    const struct place_problem *p; /* borrowed */
    uint32_t groups, classes, words, tokens;
    struct bag_group group[BAG_MAX_GROUPS];
    uint32_t *class_word; /* [classes + 1] */
    uint16_t *class_home; /* [classes]; ranks where every home is alike */
    uint16_t *token_group;
    uint32_t *token, *bit; /* [tokens] index into the group's trace, position in a set */
    uint64_t *planes; /* [BAG_PLANES][words] random; any eight in a row are a byte of each bit */
};

enum bag_homes {
    BAG_ALIKE,    /* load homes: nothing depends on them */
    BAG_ASSIGNED, /* load homes, drawn for each token: copies depend on them */
};

/* homes: for PLACE_HOMES_AFFINITY, for each scenario the homes [documents] of its trace (NULL with
 * homes by load). At most about max_tokens in all, each group with the same room, spread
 * evenly over its trace. */
int bag_new(const struct place_problem *p, const uint16_t *const *homes, enum bag_homes kind,
            uint32_t max_tokens, uint64_t seed, struct bag *ret, struct mt_err *reterr);
void bag_done(struct bag *b);
/* x[experts + 1][words]: who chose each expert in a layer; the last row is empty. */
void bag_layer(const struct bag *b, uint32_t layer, uint64_t *x);

#endif
