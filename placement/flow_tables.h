/* What flow semantics needs of a problem, counted once; and the state of a plan whose cost follows
 * from move to move. Counts are integers and weights fixed-point, so that a state that was moved
 * a million times is the one that would be counted afresh. Private to placement/. */
#ifndef MT_PLACEMENT_FLOW_TABLES_H
#define MT_PLACEMENT_FLOW_TABLES_H

#include "placement/flow.h"

#define FLOW_NO_TRACE UINT32_MAX

/* Seconds of J of one unit on a port, and of one peer. */
struct flow_price {
    double rank_unit, rank_peer, node_unit, node_peer;
};

struct flow_tables {
    const struct place_problem *p;
    uint32_t traces; /* distinct ones among the scenarios */
    const struct trace *trace[PLACE_MAX_SCENARIOS];
    uint32_t of[PLACE_MAX_SCENARIOS]; /* the scenario's trace, or FLOW_NO_TRACE */
    struct flow_price price[PLACE_MAX_SCENARIOS];
    uint32_t *pairs; /* [traces][layers - 1][experts][experts]: tokens that chose both */
    int64_t *weight; /* [scenarios][layers][experts]: load term of an expert, in `unit` */
    double unit;     /* seconds of J */
};

int flow_tables_new(const struct place_problem *p, struct flow_tables **ret, struct mt_err *reterr);
void flow_tables_free(struct flow_tables *t);

static inline const uint32_t *flow_pairs(const struct flow_tables *t, uint32_t trace,
                                         uint32_t layer)
{
    size_t e = t->p->experts;

    return t->pairs + ((size_t)trace * (t->p->layers - 1) + layer) * e * e;
}

static inline const int64_t *flow_weight(const struct flow_tables *t, uint32_t scenario,
                                         uint32_t layer)
{
    return t->weight + ((size_t)scenario * t->p->layers + layer) * t->p->experts;
}

/* Ports of an exchange: each rank's out and in within its node, each node's out and in. */
struct flow_port {
    uint64_t units;
    uint32_t peers;
};

/* Ports of M[ranks][ranks] into port[2 * (ranks + nodes)]; between[nodes][nodes] is scratch. */
void flow_fill_ports(const struct cluster *c, const uint64_t *m, uint64_t *between,
                     struct flow_port *port);
/* Seconds of J: over the trace's scenarios. */
double flow_ports_cost(const struct flow_tables *t, uint32_t trace, const struct flow_port *port);

/* --- a plan's state -----------------------------------------------------------------------------
 */

struct flow_state; /* opaque */

/* rank[layers][experts]; taken as it is. */
int flow_state_new(const struct flow_tables *t, const uint16_t *rank, struct flow_state **ret,
                   struct mt_err *reterr);
void flow_state_free(struct flow_state *s);
double flow_state_cost(const struct flow_state *s); /* seconds of J */
const uint16_t *flow_state_ranks(const struct flow_state *s);
uint32_t flow_state_size(const struct flow_state *s, uint32_t layer, uint32_t rank);
/* Expert e of the layer exchanges ranks with f, or goes to `rank` where f is FLOW_NO_EXPERT. try:
 * what it adds to the cost, leaving it half done: next comes keep or undo, of the same move. */
#define FLOW_NO_EXPERT UINT32_MAX
struct flow_move {
    uint32_t layer, e, f, rank;
};
double flow_state_try(struct flow_state *s, const struct flow_move *m);
void flow_state_keep(struct flow_state *s, const struct flow_move *m);
void flow_state_undo(struct flow_state *s, const struct flow_move *m);
/* Flow between expert e of the layer and the experts on `rank` in the layers beside it, in pairs
 * per token, each 1 / topk, by the scenarios' shares. */
double flow_state_affinity(const struct flow_state *s, uint32_t layer, uint32_t e, uint32_t rank);

/* Renames ranks and nodes that are alike, from one layer on, while that costs less. */
int flow_relabel(const struct flow_tables *t, uint16_t *rank, bool *ret_better,
                 struct mt_err *reterr);

/* --- exact ---------------------------------------------------------------------------------------
 */

/* The least cost over all plans that fit, if layers have few enough placements and the work stays
 * within bounds (*ret_done). io_rank: a plan, whose cost is what has to be beaten; replaced if it
 * is. */
int flow_exact(const struct flow_tables *t, const struct place_run *run, uint16_t *io_rank,
               double *io_cost, bool *ret_done, struct mt_err *reterr);
/* Lower bounds in seconds of J: of a layer's load terms, and of the exchange after a layer. */
double flow_load_bound(const struct flow_tables *t, uint32_t layer);
/* ... of an exchange where `cross` units of a trace leave their rank, `far` of them their node. */
double flow_cross_bound(const struct flow_tables *t, uint32_t trace, double cross, double far);
int flow_exchange_bound(const struct flow_tables *t, uint32_t layer, double *ret,
                        struct mt_err *reterr);

#endif
