/* MoETuner's two integer programmes (arXiv 2502.06643), as published. Private to placement/.
 *
 * ILP 1 (equations 1 to 7), layer by layer: clusters c of experts e, one for each rank,
 *     min sum_c |T_c - Tbar|,  T_c = sum_e P_e x_ce,  sum_c x_ce = 1,  least <= sum_e x_ce <= most
 * ILP 2 (8 to 15), with those clusters: ranks for clusters, y_cg in each layer a permutation,
 *     C[c1][c2] = sum of pairs e1 in c1, e2 in c2 of layers l, l + 1
 *     sum form: min sum_l sum_{g1,g2} C[c1][c2] / B[g1][g2]
 *     max form: min sum_l max_{g1,g2} C[c1][c2] / B[g1][g2]
 *     sum_l (size of the cluster on g) = E L / G for all g  (13; holds by itself with equal sizes)
 * The printed text leaves out sum_c x_ce = 1 and what the max is over; B of a rank to itself is
 * infinite. P and the pairs are means per token over the scenarios' traces by the scenarios'
 * shares; of a token's pairs of experts all count, each 1 / topk. */
#ifndef MT_PLACEMENT_MOETUNER_H
#define MT_PLACEMENT_MOETUNER_H

#include "placement/placement.h"

struct moetuner {
    const struct place_run *run;
    uint32_t layers, experts, ranks;
    bool max_form;
    bool quick;           /* a start for others: no proofs */
    uint32_t least, most; /* sizes of a cluster */
    double *load;         /* P: [layers][experts] */
    double *pairs;        /* [layers - 1][experts][experts]; NULL: unknown */
    double *wire;         /* 1 / B, the least of two ranks 1: [ranks][ranks], 0 on the diagonal */
    uint16_t *node;       /* of each rank, as far as links differ: all 0 where they do not */
    uint32_t nodes;
    uint16_t *cluster; /* of each expert: [layers][experts] */
    uint16_t *label;   /* the rank of each cluster: [layers][ranks] */
    double *between;   /* C: [layers - 1][ranks][ranks] */
    uint64_t solves;   /* by lp_solve */
};

#define MOETUNER_QUICK_PART 0.15 /* of the time that a start may take */

static inline bool moetuner_stopped(const struct moetuner *m)
{
    const struct place_run *run = m->run;

    return (run->stop && run->stop(run->user)) || (m->quick && !run->iterations && run->spent &&
                                                   run->spent(run->user) > MOETUNER_QUICK_PART);
}

/* Ranks of a plan by the sum form, [layers][experts], without the proof of ILP 1: a start for
 * others. MT_EUNSUPPORTED where the method is not defined. */
int moetuner_start(const struct place_problem *p, const struct place_run *run, uint16_t *ret,
                   struct mt_err *reterr);

/* Fills cluster[layer]; *ret_proven: it is an optimum. */
int moetuner_cluster(struct moetuner *m, uint32_t layer, bool *ret_proven, struct mt_err *reterr);
/* Fills label[][] from between, without equation 13. */
int moetuner_assign(struct moetuner *m, bool *ret_proven, struct mt_err *reterr);
/* Changes label[][] so that totals of ranks are equal (13), or as nearly equal as they can be.
 * *ret_off: the sum of what is left, in experts. Proven: of both the distance and the cost. */
int moetuner_even_totals(struct moetuner *m, double *ret_off, bool *ret_proven,
                         struct mt_err *reterr);
/* One term of ILP 2's objective: clusters of layer l on ranks a[], of layer l + 1 on ranks b[]. */
double moetuner_pair_cost(const struct moetuner *m, uint32_t l, const uint16_t *a,
                          const uint16_t *b);
double moetuner_cost(const struct moetuner *m);
/* Experts in a cluster. */
uint32_t moetuner_size(const struct moetuner *m, uint32_t l, uint32_t cluster);
/* Exchanges of two clusters' ranks, in one layer or from one on, while they make the totals more
 * even (if totals), then the cost less. */
void moetuner_descend(struct moetuner *m, bool totals);
/* Distance of the ranks' totals from equal ones, in experts. */
double moetuner_off(const struct moetuner *m);
/* Least-cost path: one state per layer, cost[layers - 1][states][states]; ret[layers]. Exact. */
int moetuner_path(struct moetuner *m, uint32_t states, const double *cost, uint16_t *ret,
                  struct mt_err *reterr);

#endif
