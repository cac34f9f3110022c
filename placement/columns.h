/* Ranks' shares of one layer (sets of experts) from many plans, and the best plan that can be put
 * together from them: the restricted master ILP of the set partition, on lp_solve. One copy of each
 * expert. Pure; one thread of a process at a time (lp_solve).
 *
 * A plan that gives the ranks the columns c costs
 *     sum over columns sum_c + sum over terms t of the largest term_ct
 * which is the fluid objective of one node with homes by load: a term for the compute of each
 * scenario and for the vectors of each trace; a term's maximum is held up by a row for each expert,
 * since exactly one column of a plan contains it. */
#ifndef MT_PLACEMENT_COLUMNS_H
#define MT_PLACEMENT_COLUMNS_H

#include "placement/placement.h"

#define COLUMNS_MAX 20000
#define COLUMNS_MAX_TERMS 64

struct columns;

/* slots[ranks]: of each rank. Columns that fit no rank are refused by columns_add. */
int columns_new(uint32_t experts, uint32_t ranks, const uint32_t *slots, uint32_t terms,
                struct columns **ret, struct mt_err *reterr);
void columns_free(struct columns *c);
uint32_t columns_count(const struct columns *c);
/* expert[n], any order, n > 0. One that is in the pool already, or beyond COLUMNS_MAX, is ignored.
 */
int columns_add(struct columns *c, const uint16_t *expert, uint32_t n, double sum,
                const double *term, struct mt_err *reterr);
/* The cheapest plan below `cutoff` made of columns: *ret_found says whether there is one; then
 * ret_rank[experts] has each expert's rank (larger columns on ranks with more slots) and *ret_cost
 * its cost, computed from the columns. ticks: lp.h. */
int columns_recombine(struct columns *c, double cutoff, const struct place_run *run, uint64_t ticks,
                      uint16_t *ret_rank, double *ret_cost, bool *ret_found, struct mt_err *reterr);

/* The same for plans of one layer under the fluid objective (homes by load): rank[plans][experts],
 * each with one copy. *ret_seconds: sum_s w_s T_sl / n_s of the best of the plans and of what was
 * put together, which ret_rank has; *ret_better: it is none of them. Columns are priced by two
 * terms, all scenarios' compute and all traces' vectors together; what comes of it is priced anew
 * by the formula of score_plan. With several nodes whole ranks are exchanged between nodes until
 * none helps. */
int columns_recombine_plans(const struct place_problem *p, uint32_t layer, uint32_t plans,
                            const uint16_t *rank, const struct place_run *run, uint64_t ticks,
                            uint16_t *ret_rank, double *ret_seconds, bool *ret_better,
                            struct mt_err *reterr);

#endif
