/* Of one layer with few experts: what every set of experts costs as a rank's share. Inside
 * placement/exact. */
#ifndef MT_PLACEMENT_EXACT_TABLE_H
#define MT_PLACEMENT_EXACT_TABLE_H

#include "placement/exact.h"

#define EXACT_NONE UINT32_MAX

/* Scenarios of one trace share the vectors that are sent, and so a term. */
struct exact_trace {
    const struct trace *trace;
    double share; /* sum_s w_s */
    double steps; /* sum_s w_s / n_s */
};

/* Terms of a set, all in seconds per token of the objective, in this order:
 *     compute of each scenario                          a sum over the set's experts
 *     exact combine: vectors of each trace's combine    a sum
 *     vectors of each trace's dispatch (and fast combine, which is the same again)    touches
 * An exchange's term is the port into the rank from one other rank; a rank has as many others as
 * its node, and a node's port from the network costs `network` times its vectors for each rank that
 * is elsewhere. Where nodes are alike, ports that go in are the busiest, since one that goes out
 * carries a mean of what goes in elsewhere. */
struct exact_table {
    const struct place_problem *p;
    uint32_t layer, traces, sums, terms; /* the first `sums` terms are sums */
    uint32_t trace_of[PLACE_MAX_SCENARIOS];
    struct exact_trace trace[PLACE_MAX_SCENARIOS];
    bool one_node;
    double constant;
    double network;  /* rank's bandwidth over node's */
    uint32_t *touch; /* [sets][traces] tokens that choose an expert of the set */
    uint32_t *split; /* [sets][traces] at most the sum of touches over the ranks among which the set
                        is divided; touch itself with one node */
    double *pairs;   /* [traces][experts] choices per token */
    double *expert;  /* [experts][sums] those terms of each expert */
    uint32_t *index; /* [sets] row in value, EXACT_NONE for sets larger than any rank's slots */
    double *value;   /* [rows][terms] */
    double factor[PLACE_MAX_SCENARIOS]; /* [traces] of touches */
    /* [terms - scenarios] of one message between ranks, in each value; of all to a node. */
    double latency[2 * PLACE_MAX_SCENARIOS], node_latency[2 * PLACE_MAX_SCENARIOS];
};

int exact_table_new(const struct place_problem *p, uint32_t layer, struct exact_table *ret,
                    struct mt_err *reterr);
void exact_table_done(struct exact_table *t);
static inline const double *exact_value(const struct exact_table *t, uint32_t set)
{
    return t->value + (size_t)t->index[set] * t->terms;
}
/* The layer's cost, exactly: set[ranks]. */
double exact_cost(const struct exact_table *t, const uint32_t *set);

#endif
