#include "placement/lp.h"

#include <float.h>
#include <lpsolve/lp_lib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ROWS (1u << 20)
#define MAX_COLUMNS (1u << 22)
#define MAX_ENTRIES (1u << 27)
#define MAX_VALUE 1e15
#define MAX_ASSIGN 1024

struct column {
    double cost, lower, upper;
    uint32_t entries;
    bool integer;
};

/* The model twice: lp_solve's, and our own by columns, against which its answers are checked. */
struct lp {
    lprec *lprec;
    uint32_t rows, columns, room;
    size_t entries, entry_room;
    uint32_t integers;
    enum lp_row *type;
    double *rhs;
    struct column *column;
    uint32_t *row;
    double *value;
    double *primal, *dual; /* of the last solve */
    bool warm;             /* the last solve left a basis to start from */
    bool stale;            /* lprec is not the model any more */
    /* while it is solving */
    bool (*stop)(void *user);
    void *user;
    uint64_t ticks, asked;
};

static bool in_range(double value)
{
    return value > -MAX_VALUE && value < MAX_VALUE;
}

/* lp_solve asks now and then; non-zero ends the search. */
static int ask_stop(lprec *unused, void *handle)
{
    struct lp *lp = handle;

    (void)unused;
    lp->asked++;
    return (lp->ticks > 0 && lp->asked > lp->ticks) || (lp->stop && lp->stop(lp->user));
}

/* Everything explicitly: this build's defaults are not those of the manual. Presolve stays off (it
 * renumbers what is read back), and no basis is ever guessed (that has made feasible problems
 * infeasible). */
static void configure(lprec *lprec)
{
    set_verbose(lprec, 0);
    set_minim(lprec);
    set_presolve(lprec, PRESOLVE_NONE, 0);
    set_scaling(lprec, SCALE_GEOMETRIC + SCALE_EQUILIBRATE + SCALE_INTEGERS);
    set_simplextype(lprec, SIMPLEX_DUAL_PRIMAL);
    set_pivoting(lprec, PRICER_DEVEX + PRICE_ADAPTIVE);
    set_improve(lprec, IMPROVE_DUALFEAS + IMPROVE_THETAGAP);
    set_bb_rule(lprec,
                NODE_PSEUDONONINTSELECT + NODE_GREEDYMODE + NODE_DYNAMICMODE + NODE_RCOSTFIXING);
    set_bb_floorfirst(lprec, BRANCH_AUTOMATIC);
    set_bb_depthlimit(lprec, 0);
    set_mip_gap(lprec, TRUE, 1e-11);
    set_mip_gap(lprec, FALSE, 1e-11);
    set_epsint(lprec, 1e-7);
}

/* Whether lp_solve took all of it; lp->lprec is NULL or whole afterwards. */
static bool make_rows(struct lp *lp)
{
    static const int kind[] = {[LP_EQUAL] = EQ, [LP_AT_MOST] = LE, [LP_AT_LEAST] = GE};
    bool set = true;

    if (lp->lprec)
        delete_lp(lp->lprec);
    lp->lprec = make_lp((int)lp->rows, 0);
    if (!lp->lprec)
        return false;
    configure(lp->lprec);
    for (uint32_t i = 0; i < lp->rows; i++)
        set = set && set_constr_type(lp->lprec, (int)i + 1, kind[lp->type[i]]) &&
              set_rh(lp->lprec, (int)i + 1, lp->rhs[i]);
    return set;
}

int lp_new(uint32_t rows, const enum lp_row *type, const double *rhs, struct lp **ret,
           struct mt_err *reterr)
{
    struct lp *lp;

    if (rows < 1 || rows > MAX_ROWS)
        return mt_error(reterr, MT_EINVAL, "lp: rows: expected 1 to %u, found %u", MAX_ROWS, rows);
    for (uint32_t i = 0; i < rows; i++) {
        if (type[i] > LP_AT_LEAST)
            return mt_error(reterr, MT_EINVAL, "lp: row %u: unknown type %d", i, (int)type[i]);
        if (!in_range(rhs[i]))
            return mt_error(reterr, MT_EINVAL,
                            "lp: row %u: right side: expected a number within %g, found %g", i,
                            MAX_VALUE, rhs[i]);
    }
    lp = calloc(1, sizeof *lp);
    if (!lp)
        return mt_error(reterr, MT_ENOMEM, "lp: no memory for %u rows", rows);
    lp->rows = rows;
    lp->type = malloc(rows * sizeof *lp->type);
    lp->rhs = malloc(rows * sizeof *lp->rhs);
    lp->dual = calloc(rows, sizeof *lp->dual);
    if (lp->type && lp->rhs && lp->dual) {
        memcpy(lp->type, type, rows * sizeof *type);
        memcpy(lp->rhs, rhs, rows * sizeof *rhs);
        if (make_rows(lp)) {
            *ret = lp;
            return 0;
        }
    }
    lp_free(lp);
    return mt_error(reterr, MT_ENOMEM, "lp: no memory for %u rows", rows);
}

void lp_free(struct lp *lp)
{
    if (!lp)
        return;
    if (lp->lprec)
        delete_lp(lp->lprec);
    free(lp->type);
    free(lp->rhs);
    free(lp->column);
    free(lp->row);
    free(lp->value);
    free(lp->primal);
    free(lp->dual);
    free(lp);
}

uint32_t lp_columns(const struct lp *lp)
{
    return lp->columns;
}

/* Room for one more column of n entries. */
static int make_room(struct lp *lp, uint32_t n, struct mt_err *reterr)
{
    if (lp->columns >= MAX_COLUMNS || lp->entries + n > MAX_ENTRIES)
        return mt_error(reterr, MT_ELIMIT, "lp: more than %u columns or %u entries", MAX_COLUMNS,
                        MAX_ENTRIES);
    if (lp->columns == lp->room) {
        size_t room = lp->room ? 2 * (size_t)lp->room : 64;
        struct column *column = realloc(lp->column, room * sizeof *column);
        double *primal = realloc(lp->primal, room * sizeof *primal);

        if (column)
            lp->column = column;
        if (primal)
            lp->primal = primal;
        if (!column || !primal)
            return mt_error(reterr, MT_ENOMEM, "lp: no memory for %zu columns", room);
        lp->room = (uint32_t)room;
    }
    if (lp->entries + n > lp->entry_room) {
        size_t room = 2 * lp->entry_room + n + 64;
        uint32_t *row = realloc(lp->row, room * sizeof *row);
        double *value = realloc(lp->value, room * sizeof *value);

        if (row)
            lp->row = row;
        if (value)
            lp->value = value;
        if (!row || !value)
            return mt_error(reterr, MT_ENOMEM, "lp: no memory for %zu entries", room);
        lp->entry_room = room;
    }
    return 0;
}

static int check_bounds(double lower, double upper, bool integer, struct mt_err *reterr)
{
    if (!in_range(lower) || isnan(upper) || (upper < LP_INFINITY && !in_range(upper)))
        return mt_error(reterr, MT_EINVAL,
                        "lp: bounds: expected numbers within %g, found %g and %g", MAX_VALUE, lower,
                        upper);
    if (lower > upper || (integer && ceil(lower) > floor(upper)))
        return mt_error(reterr, MT_EINVAL, "lp: bounds: nothing between %g and %g", lower, upper);
    return 0;
}

/* Ascending rows are distinct at a glance; others are looked for. */
static int check_entries(const struct lp *lp, uint32_t n, const uint32_t *row, const double *value,
                         struct mt_err *reterr)
{
    for (uint32_t i = 0; i < n; i++) {
        if (row[i] >= lp->rows)
            return mt_error(reterr, MT_EINVAL, "lp: entry %u: expected a row below %u, found %u", i,
                            lp->rows, row[i]);
        if (!in_range(value[i]))
            return mt_error(reterr, MT_EINVAL, "lp: row %u: expected a number within %g, found %g",
                            row[i], MAX_VALUE, value[i]);
        if (i > 0 && row[i] > row[i - 1])
            continue;
        for (uint32_t k = 0; k < i; k++)
            if (row[k] == row[i])
                return mt_error(reterr, MT_EINVAL, "lp: row %u occurs twice in a column", row[i]);
    }
    return 0;
}

/* Column `at`, whose entries start at `first`, to lp_solve. add_columnex may sort what it is given:
 * it gets a copy. */
static bool hand_over(struct lp *lp, uint32_t at, size_t first)
{
    const struct column *c = &lp->column[at];
    int *number = malloc((c->entries + 1u) * sizeof *number);
    double *value = malloc((c->entries + 1u) * sizeof *value);
    bool done = number && value;

    if (done) {
        number[0] = 0;
        value[0] = c->cost;
        for (uint32_t i = 0; i < c->entries; i++) {
            number[i + 1] = (int)lp->row[first + i] + 1;
            value[i + 1] = lp->value[first + i];
        }
        done = add_columnex(lp->lprec, (int)c->entries + 1, value, number);
    }
    free(number);
    free(value);
    return done && set_bounds(lp->lprec, (int)at + 1, c->lower, fmin(c->upper, LP_INFINITY)) &&
           set_int(lp->lprec, (int)at + 1, c->integer ? TRUE : FALSE);
}

/* A new model of the same rows and columns. lp_solve's own does not survive a stopped solve: the
 * next one has crashed. */
static bool rebuild(struct lp *lp)
{
    size_t first = 0;

    if (!make_rows(lp) || !resize_lp(lp->lprec, (int)lp->rows, (int)lp->columns))
        return false;
    for (uint32_t j = 0; j < lp->columns; first += lp->column[j++].entries)
        if (!hand_over(lp, j, first))
            return false;
    return true;
}

int lp_add_column(struct lp *lp, double cost, uint32_t n, const uint32_t *row, const double *value,
                  double lower, double upper, bool integer, struct mt_err *reterr)
{
    struct column c = {cost, lower, upper, n, integer};
    int rc;

    if (!in_range(cost))
        return mt_error(reterr, MT_EINVAL, "lp: cost: expected a number within %g, found %g",
                        MAX_VALUE, cost);
    if (n > lp->rows)
        return mt_error(reterr, MT_EINVAL, "lp: column: expected at most %u entries, found %u",
                        lp->rows, n);
    rc = check_bounds(lower, upper, integer, reterr);
    if (!rc)
        rc = check_entries(lp, n, row, value, reterr);
    if (!rc)
        rc = make_room(lp, n, reterr);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < n; i++) {
        lp->row[lp->entries + i] = row[i];
        lp->value[lp->entries + i] = value[i];
    }
    lp->column[lp->columns] = c;
    if (!lp->stale && !hand_over(lp, lp->columns, lp->entries)) {
        lp->stale = true; /* what lp_solve has of it is not known */
        return mt_error(reterr, MT_ENOMEM, "lp: no memory for column %u", lp->columns);
    }
    lp->columns++;
    lp->entries += n;
    lp->integers += integer;
    return 0;
}

static int check_column(const struct lp *lp, uint32_t column, struct mt_err *reterr)
{
    if (column >= lp->columns)
        return mt_error(reterr, MT_EINVAL, "lp: expected a column below %u, found %u", lp->columns,
                        column);
    return 0;
}

int lp_set_cost(struct lp *lp, uint32_t column, double cost, struct mt_err *reterr)
{
    int rc = check_column(lp, column, reterr);

    if (rc)
        return rc;
    if (!in_range(cost))
        return mt_error(reterr, MT_EINVAL, "lp: cost: expected a number within %g, found %g",
                        MAX_VALUE, cost);
    if (!lp->stale && !set_obj(lp->lprec, (int)column + 1, cost))
        return mt_error(reterr, MT_ENOMEM, "lp: no memory for a cost");
    lp->column[column].cost = cost;
    return 0;
}

int lp_set_upper(struct lp *lp, uint32_t column, double upper, struct mt_err *reterr)
{
    int rc = check_column(lp, column, reterr);

    if (!rc)
        rc = check_bounds(lp->column[column].lower, upper, lp->column[column].integer, reterr);
    if (rc)
        return rc;
    if (!lp->stale && !set_upbo(lp->lprec, (int)column + 1, fmin(upper, LP_INFINITY)))
        return mt_error(reterr, MT_EINTERNAL, "lp: lp_solve refused a bound");
    lp->column[column].upper = upper;
    return 0;
}

/* --- checks ----------------------------------------------------------------------------------- */

/* primal is within bounds, rows and integrality, each relative to the size of its terms. */
static bool keeps_rows(const struct lp *lp, double *activity, double *size)
{
    size_t at = 0;

    for (uint32_t i = 0; i < lp->rows; i++) {
        activity[i] = 0;
        size[i] = 1 + fabs(lp->rhs[i]);
    }
    for (uint32_t j = 0; j < lp->columns; j++) {
        const struct column *c = &lp->column[j];
        double x = lp->primal[j], slack = LP_TOLERANCE * (1 + fabs(x));

        if (!(x >= c->lower - slack && x <= c->upper + slack) ||
            (c->integer && fabs(x - nearbyint(x)) > LP_TOLERANCE))
            return false;
        for (uint32_t k = 0; k < c->entries; k++, at++) {
            double term = lp->value[at] * x;

            activity[lp->row[at]] += term;
            size[lp->row[at]] = fmax(size[lp->row[at]], fabs(term));
        }
    }
    for (uint32_t i = 0; i < lp->rows; i++) {
        double over = activity[i] - lp->rhs[i], slack = LP_TOLERANCE * size[i];

        if ((lp->type[i] != LP_AT_LEAST && over > slack) ||
            (lp->type[i] != LP_AT_MOST && over < -slack))
            return false;
    }
    return true;
}

/* Rounds the integer columns' noise away in what is handed out. */
static double take_objective(struct lp *lp)
{
    double sum = 0;

    for (uint32_t j = 0; j < lp->columns; j++) {
        if (lp->column[j].integer)
            lp->primal[j] = nearbyint(lp->primal[j]);
        sum += lp->column[j].cost * lp->primal[j];
    }
    return sum;
}

/* Weak duality: the dual is a bound that equals the objective, so the answer is optimal whoever
 * found it. Signs within the tolerance of the costs are set to 0. */
static bool is_optimal(struct lp *lp, double objective)
{
    double bound = 0, size = 1 + fabs(objective);
    size_t at = 0;

    for (uint32_t i = 0; i < lp->rows; i++) {
        if ((lp->type[i] == LP_AT_MOST && lp->dual[i] > 0) ||
            (lp->type[i] == LP_AT_LEAST && lp->dual[i] < 0))
            lp->dual[i] = 0;
        bound += lp->dual[i] * lp->rhs[i];
        size = fmax(size, fabs(lp->dual[i] * lp->rhs[i]));
    }
    for (uint32_t j = 0; j < lp->columns; j++) {
        const struct column *c = &lp->column[j];
        double reduced = c->cost, noise = 1 + fabs(c->cost);

        for (uint32_t k = 0; k < c->entries; k++, at++) {
            double term = lp->dual[lp->row[at]] * lp->value[at];

            reduced -= term;
            noise = fmax(noise, fabs(term));
        }
        if (reduced >= 0)
            bound += reduced * c->lower;
        else if (c->upper < LP_INFINITY)
            bound += reduced * c->upper;
        else if (reduced < -LP_TOLERANCE * noise)
            return false;
        size = fmax(size, fabs(c->cost * lp->primal[j]));
    }
    return fabs(objective - bound) <= LP_TOLERANCE * size;
}

/* --- solving ---------------------------------------------------------------------------------- */

/* Without columns only the right sides decide. */
static enum lp_outcome solve_empty(struct lp *lp)
{
    for (uint32_t i = 0; i < lp->rows; i++) {
        lp->dual[i] = 0;
        if ((lp->type[i] != LP_AT_LEAST && lp->rhs[i] < -LP_TOLERANCE) ||
            (lp->type[i] != LP_AT_MOST && lp->rhs[i] > LP_TOLERANCE))
            return LP_INFEASIBLE;
    }
    return LP_OPTIMAL;
}

enum verdict { ANSWER, STOPPED, NONE_BETTER, NO_ANSWER, NO_BOUND, BROKEN };

/* What lp_solve says; an answer is there only after ANSWER, or STOPPED with *found set. */
static enum verdict run_solver(struct lp *lp, double cutoff, bool *found)
{
    int status;

    set_obj_bound(lp->lprec, lp->integers && cutoff < LP_INFINITY ? cutoff : LP_INFINITY);
    put_abortfunc(lp->lprec, ask_stop, lp);
    status = solve(lp->lprec);
    put_abortfunc(lp->lprec, NULL, NULL);
    *found = status == OPTIMAL || (status == SUBOPTIMAL && lp->integers);
    if (*found)
        for (uint32_t j = 0; j < lp->columns; j++)
            lp->primal[j] = get_var_primalresult(lp->lprec, (int)(lp->rows + j) + 1);
    switch (status) {
    case OPTIMAL: return ANSWER;
    case SUBOPTIMAL:
    case USERABORT:
    case TIMEOUT: return STOPPED;
    case INFEASIBLE:
    case NOFEASFOUND: return cutoff < LP_INFINITY && lp->integers ? NONE_BETTER : NO_ANSWER;
    case UNBOUNDED: return NO_BOUND;
    case FATHOMED:
    case ACCURACYERROR: return cutoff < LP_INFINITY && lp->integers ? NONE_BETTER : BROKEN;
    default: return BROKEN;
    }
}

/* A column that costs less the more there is of it and is in no row: lp_solve leaves it at 0 and
 * calls that optimal. */
static bool has_free_gain(const struct lp *lp)
{
    size_t at = 0;

    for (uint32_t j = 0; j < lp->columns; j++) {
        const struct column *c = &lp->column[j];
        bool empty = true;

        for (uint32_t k = 0; k < c->entries; k++)
            empty = empty && lp->value[at++] == 0;
        if (empty && c->cost < 0 && c->upper >= LP_INFINITY)
            return true;
    }
    return false;
}

/* The answer stands up to our own arithmetic. */
static bool verify(struct lp *lp, enum verdict verdict, struct lp_result *ret, double *scratch)
{
    double *duals = NULL;

    if (!keeps_rows(lp, scratch, scratch + lp->rows))
        return false;
    if (has_free_gain(lp)) {
        ret->outcome = LP_UNBOUNDED;
        return true;
    }
    ret->objective = take_objective(lp);
    if (lp->integers > 0)
        return true;
    if (verdict != ANSWER || !get_ptr_sensitivity_rhs(lp->lprec, &duals, NULL, NULL) || !duals)
        return false;
    memcpy(lp->dual, duals, lp->rows * sizeof *duals);
    return is_optimal(lp, ret->objective);
}

/* One attempt; true if its outcome can be believed. */
static bool attempt(struct lp *lp, double cutoff, struct lp_result *ret, double *scratch)
{
    bool found = false;
    enum verdict verdict = run_solver(lp, cutoff, &found);

    switch (verdict) {
    case ANSWER: ret->outcome = LP_OPTIMAL; break;
    case STOPPED: ret->outcome = found ? LP_FEASIBLE : LP_NOTHING; break;
    case NONE_BETTER: ret->outcome = LP_NOTHING; break;
    case NO_ANSWER: ret->outcome = LP_INFEASIBLE; break;
    case NO_BOUND: ret->outcome = LP_UNBOUNDED; break;
    case BROKEN: return false;
    }
    if (found && !verify(lp, verdict, ret, scratch)) {
        if (verdict == ANSWER)
            return false;
        ret->outcome = LP_NOTHING;
    }
    if ((ret->outcome == LP_OPTIMAL || ret->outcome == LP_FEASIBLE) && ret->objective >= cutoff)
        ret->outcome = LP_NOTHING;
    return true;
}

int lp_solve(struct lp *lp, double cutoff, bool (*stop)(void *user), void *user, uint64_t ticks,
             struct lp_result *ret, struct mt_err *reterr)
{
    static const int simplex[] = {SIMPLEX_DUAL_PRIMAL, SIMPLEX_DUAL_PRIMAL, SIMPLEX_PRIMAL_PRIMAL};
    struct lp_result result = {LP_NOTHING, 0};
    double *scratch;
    bool believed = false;

    if (isnan(cutoff))
        return mt_error(reterr, MT_EINVAL, "lp: cutoff: expected a number, found NaN");
    if (lp->columns == 0) {
        ret->outcome = solve_empty(lp);
        ret->objective = 0;
        if (ret->outcome == LP_OPTIMAL && cutoff <= 0)
            ret->outcome = LP_NOTHING;
        return 0;
    }
    scratch = malloc(2 * (size_t)lp->rows * sizeof *scratch);
    if (!scratch)
        return mt_error(reterr, MT_ENOMEM, "lp: no memory to check %u rows", lp->rows);
    lp->stop = stop;
    lp->user = user;
    lp->ticks = ticks;
    lp->asked = 0;
    /* From the last basis, if there is one; what that gives is believed if it is an answer.
     * Otherwise from the start, then in another way. */
    for (int i = lp->warm ? 0 : 1; i < 3 && !believed; i++) {
        if ((lp->stale || i > (lp->warm ? 0 : 1)) && !rebuild(lp)) {
            lp->stale = true;
            lp->warm = false;
            free(scratch);
            return mt_error(reterr, MT_ENOMEM, "lp: no memory for %u columns", lp->columns);
        }
        lp->stale = false;
        set_simplextype(lp->lprec, simplex[i]);
        believed = attempt(lp, cutoff, &result, scratch) &&
                   (i > 0 || (result.outcome != LP_INFEASIBLE && result.outcome != LP_UNBOUNDED));
    }
    free(scratch);
    lp->warm = believed && result.outcome == LP_OPTIMAL;
    lp->stale = !lp->warm;
    if (!believed)
        return mt_error(reterr, MT_EINTERNAL,
                        "lp: lp_solve gave no answer that checks (%u rows, %u columns)", lp->rows,
                        lp->columns);
    *ret = result;
    return 0;
}

void lp_primal(const struct lp *lp, double *ret)
{
    if (lp->columns > 0)
        memcpy(ret, lp->primal, lp->columns * sizeof *ret);
}

void lp_dual(const struct lp *lp, double *ret)
{
    memcpy(ret, lp->dual, lp->rows * sizeof *ret);
}

/* --- assignment ------------------------------------------------------------------------------- */

static int add_pairs(struct lp *lp, uint32_t n, const double *cost, struct mt_err *reterr)
{
    double least = DBL_MAX, most = -DBL_MAX;
    int rc = 0;

    for (size_t i = 0; i < (size_t)n * n; i++) {
        least = fmin(least, cost[i]);
        most = fmax(most, cost[i]);
    }
    /* Costs of 0 to 1, each row from 0: lp_solve's tolerances are absolute. */
    for (uint32_t r = 0; r < n && !rc; r++) {
        double low = cost[(size_t)r * n];

        for (uint32_t c = 1; c < n; c++)
            low = fmin(low, cost[(size_t)r * n + c]);
        for (uint32_t c = 0; c < n && !rc; c++) {
            double scaled = most > least ? (cost[(size_t)r * n + c] - low) / (most - least) : 0;

            rc = lp_add_column(lp, scaled, 2, (uint32_t[]){r, n + c}, (double[]){1, 1}, 0,
                               LP_INFINITY, false, reterr);
        }
    }
    return rc;
}

/* Vertices of the assignment polytope are permutations. */
static bool read_permutation(uint32_t n, const double *x, uint32_t *ret, bool *seen)
{
    uint32_t set = 0;

    for (size_t i = 0; i < (size_t)n * n; i++) {
        if (fabs(x[i] - nearbyint(x[i])) > LP_TOLERANCE)
            return false;
        if (x[i] < 0.5)
            continue;
        if (set != i / n || seen[i % n])
            return false;
        seen[i % n] = true;
        ret[set++] = (uint32_t)(i % n);
    }
    return set == n;
}

/* Rows 0 .. n-1 are the assignment's rows, n .. 2n-1 its columns. */
static int assign(uint32_t n, const double *cost, struct lp *lp, double *x, uint32_t *found,
                  struct mt_err *reterr)
{
    struct lp_result result = {LP_NOTHING, 0};
    bool seen[MAX_ASSIGN] = {false};
    int rc = add_pairs(lp, n, cost, reterr);

    if (!rc)
        rc = lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &result, reterr);
    if (rc)
        return rc;
    lp_primal(lp, x);
    if (result.outcome != LP_OPTIMAL || !read_permutation(n, x, found, seen))
        return mt_error(reterr, MT_EINTERNAL, "lp: lp_solve's assignment is not a permutation");
    return 0;
}

int lp_assign(uint32_t n, const double *cost, uint32_t *ret, struct mt_err *reterr)
{
    enum lp_row type[2 * MAX_ASSIGN];
    double rhs[2 * MAX_ASSIGN], *x;
    uint32_t found[MAX_ASSIGN];
    struct lp *lp = NULL;
    int rc;

    if (n < 1 || n > MAX_ASSIGN)
        return mt_error(reterr, MT_EINVAL, "lp: assignment: expected 1 to %u rows, found %u",
                        MAX_ASSIGN, n);
    for (size_t i = 0; i < (size_t)n * n; i++)
        if (!in_range(cost[i]))
            return mt_error(reterr, MT_EINVAL, "lp: assignment: expected costs within %g, found %g",
                            MAX_VALUE, cost[i]);
    for (uint32_t i = 0; i < 2 * n; i++) {
        type[i] = LP_EQUAL;
        rhs[i] = 1;
    }
    x = malloc((size_t)n * n * sizeof *x + 1);
    if (!x)
        return mt_error(reterr, MT_ENOMEM, "lp: no memory to assign %u rows", n);
    rc = lp_new(2 * n, type, rhs, &lp, reterr);
    if (!rc)
        rc = assign(n, cost, lp, x, found, reterr);
    if (!rc)
        memcpy(ret, found, n * sizeof *ret);
    lp_free(lp);
    free(x);
    return rc;
}
