/* Linear and integer programmes on lp_solve, one wrapper: minimise c x, rows (=, <=, >=), columns
 * with bounds, some of them integer. Columns can be added after a solve (column generation); the
 * next solve starts from the last basis. One thread of a process at a time.
 *
 * lp_solve's answer is checked here: rows, bounds and integrality within LP_TOLERANCE, and the
 * objective recomputed; an answer that fails is MT_EINTERNAL, not a result. */
#ifndef MT_PLACEMENT_LP_H
#define MT_PLACEMENT_LP_H

#include <stdbool.h>
#include <stdint.h>

#include "api/status.h"

#define LP_TOLERANCE 1e-6
#define LP_INFINITY 1e30

enum lp_row { LP_EQUAL, LP_AT_MOST, LP_AT_LEAST };
enum lp_outcome {
    LP_OPTIMAL,    /* proven */
    LP_FEASIBLE,   /* stopped with an answer */
    LP_NOTHING,    /* stopped without one, or nothing better than the cutoff */
    LP_INFEASIBLE, /* proven */
    LP_UNBOUNDED,
};

struct lp_result {
    enum lp_outcome outcome;
    double objective; /* if optimal or feasible */
};

struct lp;

int lp_new(uint32_t rows, const enum lp_row *type, const double *rhs, struct lp **ret,
           struct mt_err *reterr);
void lp_free(struct lp *lp);
/* n entries row[] (0-based, distinct) and value[]; upper may be LP_INFINITY. */
int lp_add_column(struct lp *lp, double cost, uint32_t n, const uint32_t *row, const double *value,
                  double lower, double upper, bool integer, struct mt_err *reterr);
uint32_t lp_columns(const struct lp *lp);
int lp_set_cost(struct lp *lp, uint32_t column, double cost, struct mt_err *reterr);
int lp_set_upper(struct lp *lp, uint32_t column, double upper, struct mt_err *reterr);
/* Only answers below `cutoff` are wanted (LP_INFINITY: any). stop(user) is asked now and then
 * (NULL: never); ticks bounds the number of times it is asked before the search ends (0: no bound),
 * which makes an early end the same on every machine. */
int lp_solve(struct lp *lp, double cutoff, bool (*stop)(void *user), void *user, uint64_t ticks,
             struct lp_result *ret, struct mt_err *reterr);
/* Of the last solve that was optimal or feasible: ret[columns]; ret[rows] (no integer columns). */
void lp_primal(const struct lp *lp, double *ret);
void lp_dual(const struct lp *lp, double *ret);
/* Least-cost assignment: cost[n][n] -> ret[row] = column; exact. */
int lp_assign(uint32_t n, const double *cost, uint32_t *ret, struct mt_err *reterr);

#endif
