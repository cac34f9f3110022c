/* Of one layer with few experts: what every set of experts costs as a rank's share. Inside
 * placement/exact. */
#ifndef MT_PLACEMENT_EXACT_TABLE_H
#define MT_PLACEMENT_EXACT_TABLE_H

#include "placement/exact.h"

#define EXACT_NONE UINT32_MAX

/* The exchange of all scenarios that share a trace, in one formula: its value bounds the sum of
 * theirs from below (a maximum of sums is at most the sum of maxima). */
struct exact_traffic {
    const struct trace *trace;
    struct cluster scaled; /* latencies times sum_s w_s / n_s, for both ways if they are alike */
    double tokens;         /* sum_s w_s */
};

/* Terms of a set, in this order, each the most over the ranks of a sum or a touch count:
 *     compute of each scenario                       a sum over the set's experts
 *     one node: vectors of dispatch of each trace    touches times a factor
 *     one node, exact combine: vectors of combine    a sum
 * All in seconds per token of the objective. With one node the ports into ranks are the busiest,
 * and these terms are the whole cost beside `constant`; with several, traffic is added to them. */
struct exact_table {
    const struct place_problem *p;
    uint32_t layer, traces, sums, terms; /* terms: sums first (sums of them), then touches */
    uint32_t trace_of[PLACE_MAX_SCENARIOS];
    struct exact_traffic traffic[PLACE_MAX_SCENARIOS];
    bool one_node;
    double constant;
    uint32_t *touch; /* [sets][traces] tokens that choose an expert of the set */
    double *pairs;   /* [traces][experts] choices per token; with exact_combine */
    uint32_t *index; /* [sets] row in value, EXACT_NONE for sets larger than any rank's slots */
    double *value;   /* [rows][terms] */
    double factor[PLACE_MAX_SCENARIOS]; /* of each trace's touches; one node */
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
/* At most the cost of traffic of any placement that gives ranks at least these sets; several nodes.
 */
double exact_traffic_bound(const struct exact_table *t, const uint32_t *set);

#endif
