/* Machines by name, and models by shape. Private to placement/: cluster_read uses it. */
#ifndef MT_PLACEMENT_PRESET_H
#define MT_PLACEMENT_PRESET_H

#include "placement/cluster.h"

/* Of one rank. */
struct preset_rates {
    double flops;            /* operations per second */
    double memory_bandwidth; /* bytes per second */
};

/* Ranks, nodes and links of "h200x8x2", "cpu:4", ...; the rest of *ret is 0. MT_ENOTFOUND if no
 * preset is called so, MT_EINVAL if its numbers are wrong. */
int preset_read(const char *spec, struct cluster *ret, struct preset_rates *ret_rates,
                struct mt_err *reterr);
/* The forms, for a line of text: "h200xN, ...". */
extern const char PRESET_FORMS[];

#endif
