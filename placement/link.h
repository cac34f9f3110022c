/* X(M): the time of an exchange between ranks (objective: "Link time"). Pure; any thread. */
#ifndef MT_PLACEMENT_LINK_H
#define MT_PLACEMENT_LINK_H

#include "placement/cluster.h"

/* vectors[from][to]: vectors (or bytes, with bytes = 1) that each rank sends to each other; the
 * diagonal is ignored. network[from node][to node]: what crosses the network where that is not the
 * sum of vectors (two_level), or NULL. bytes: of one vector. A port with nothing to carry costs
 * nothing; a node's port pays one latency for each peer node. ret_port, if not NULL, names the
 * busiest: rank * 2 + out, or (ranks + node) * 2 + out. */
double link_seconds(const struct cluster *c, const double *vectors, const double *network,
                    double bytes, uint32_t *ret_port);

#endif
