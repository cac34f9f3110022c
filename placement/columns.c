#include "placement/columns.h"

#include <stdlib.h>
#include <string.h>

#include "placement/cover.h"
#include "placement/layer_cost.h"
#include "placement/lp.h"

struct columns {
    uint32_t experts, ranks, terms, words, n, room;
    uint32_t slots[PLAN_MAX_RANKS]; /* descending */
    uint16_t rank[PLAN_MAX_RANKS];  /* whose slots these are */
    uint64_t *set;                  /* [n][words] */
    uint32_t *size;
    double *sum, *term; /* [n], [n][terms] */
};

int columns_new(uint32_t experts, uint32_t ranks, const uint32_t *slots, uint32_t terms,
                struct columns **ret, struct mt_err *reterr)
{
    struct columns *c;

    if (ranks > PLAN_MAX_RANKS || experts > PLACE_MAX_EXPERTS || terms > COLUMNS_MAX_TERMS)
        return mt_error(reterr, MT_EINVAL,
                        "columns: expected at most %u experts, %u ranks and %u terms, found %u, "
                        "%u and %u",
                        PLACE_MAX_EXPERTS, PLAN_MAX_RANKS, COLUMNS_MAX_TERMS, experts, ranks,
                        terms);
    c = calloc(1, sizeof *c);
    if (!c)
        return mt_error(reterr, MT_ENOMEM, "columns: no memory");
    c->experts = experts;
    c->ranks = ranks;
    c->terms = terms;
    c->words = (experts + 63) / 64;
    for (uint32_t g = 0; g < ranks; g++) {
        uint32_t k = g;

        for (; k > 0 && c->slots[k - 1] < slots[g]; k--) {
            c->slots[k] = c->slots[k - 1];
            c->rank[k] = c->rank[k - 1];
        }
        c->slots[k] = slots[g];
        c->rank[k] = (uint16_t)g;
    }
    *ret = c;
    return 0;
}

void columns_free(struct columns *c)
{
    if (!c)
        return;
    free(c->set);
    free(c->size);
    free(c->sum);
    free(c->term);
    free(c);
}

uint32_t columns_count(const struct columns *c)
{
    return c->n;
}

static bool grow(void **array, size_t bytes)
{
    void *more = realloc(*array, bytes);

    if (more)
        *array = more;
    return more != NULL;
}

static int make_room(struct columns *c, struct mt_err *reterr)
{
    size_t room = c->room ? 2 * (size_t)c->room : 64;

    if (c->n < c->room)
        return 0;
    if (!grow((void **)&c->set, room * c->words * sizeof *c->set) ||
        !grow((void **)&c->size, room * sizeof *c->size) ||
        !grow((void **)&c->sum, room * sizeof *c->sum) ||
        !grow((void **)&c->term, (room * c->terms + 1) * sizeof *c->term))
        return mt_error(reterr, MT_ENOMEM, "columns: no memory for %zu columns", room);
    c->room = (uint32_t)room;
    return 0;
}

int columns_add(struct columns *c, const uint16_t *expert, uint32_t n, double sum,
                const double *term, struct mt_err *reterr)
{
    uint64_t set[PLACE_MAX_EXPERTS / 64] = {0};
    size_t bytes = c->words * sizeof *set;
    int rc;

    if (!n || n > c->slots[0])
        return mt_error(reterr, MT_EINVAL, "columns: expected 1 to %u experts, found %u",
                        c->slots[0], n);
    for (uint32_t k = 0; k < n; k++) {
        if (expert[k] >= c->experts || (set[expert[k] / 64] >> expert[k] % 64 & 1))
            return mt_error(reterr, MT_EINVAL,
                            "columns: expected distinct experts below %u, found %u", c->experts,
                            expert[k]);
        set[expert[k] / 64] |= 1ull << expert[k] % 64;
    }
    for (uint32_t i = 0; i < c->n; i++)
        if (!memcmp(c->set + (size_t)i * c->words, set, bytes))
            return 0;
    if (c->n == COLUMNS_MAX)
        return 0;
    rc = make_room(c, reterr);
    if (rc)
        return rc;
    memcpy(c->set + (size_t)c->n * c->words, set, bytes);
    c->size[c->n] = n;
    c->sum[c->n] = sum;
    if (c->terms)
        memcpy(c->term + (size_t)c->n * c->terms, term, c->terms * sizeof *term);
    c->n++;
    return 0;
}

/* --- the programme ---------------------------------------------------------------------------- */

/* Rows: each expert once; for k from 0, columns of more than slots[k] experts at most k (so that
 * the columns fit the ranks; k = ranks: at most as many columns as ranks); then for each term and
 * expert, that the term's maximum is at least its column's. */
static int make_rows(const struct columns *c, struct lp **ret, struct mt_err *reterr)
{
    uint32_t sizes = c->ranks + 1, rows = c->experts + sizes + c->terms * c->experts;
    enum lp_row *type = calloc(rows, sizeof *type);
    double *rhs = calloc(rows, sizeof *rhs);
    int rc;

    if (!type || !rhs) {
        rc = mt_error(reterr, MT_ENOMEM, "columns: no memory for %u rows", rows);
    } else {
        for (uint32_t i = 0; i < rows; i++) {
            type[i] = i < c->experts ? LP_EQUAL : i < c->experts + sizes ? LP_AT_MOST : LP_AT_LEAST;
            rhs[i] = i < c->experts ? 1 : i < c->experts + sizes ? i - c->experts : 0;
        }
        rc = lp_new(rows, type, rhs, ret, reterr);
    }
    free(type);
    free(rhs);
    return rc;
}

/* A term's maximum: column t of the programme. */
static int add_maximum(const struct columns *c, struct lp *lp, uint32_t t, struct mt_err *reterr)
{
    uint32_t row[PLACE_MAX_EXPERTS];
    double one[PLACE_MAX_EXPERTS];

    for (uint32_t e = 0; e < c->experts; e++) {
        row[e] = c->experts + c->ranks + 1 + t * c->experts + e;
        one[e] = 1;
    }
    return lp_add_column(lp, 1, c->experts, row, one, 0, LP_INFINITY, false, reterr);
}

static int add_column(const struct columns *c, struct lp *lp, uint32_t i, double scale,
                      uint32_t *row, double *value, struct mt_err *reterr)
{
    const uint64_t *set = c->set + (size_t)i * c->words;
    uint32_t n = 0, first = c->experts + c->ranks + 1;

    for (uint32_t e = 0; e < c->experts; e++)
        if (set[e / 64] >> e % 64 & 1) {
            row[n] = e;
            value[n++] = 1;
        }
    for (uint32_t k = 0; k <= c->ranks; k++)
        if (k == c->ranks || c->size[i] > c->slots[k]) {
            row[n] = c->experts + k;
            value[n++] = 1;
        }
    for (uint32_t t = 0; t < c->terms; t++)
        for (uint32_t e = 0; e < c->experts; e++)
            if (set[e / 64] >> e % 64 & 1) {
                row[n] = first + t * c->experts + e;
                value[n++] = -c->term[(size_t)i * c->terms + t] * scale;
            }
    return lp_add_column(lp, c->sum[i] * scale, n, row, value, 0, 1, true, reterr);
}

static double cost_of(const struct columns *c, const uint32_t *column, uint32_t n)
{
    double cost = 0;

    for (uint32_t k = 0; k < n; k++)
        cost += c->sum[column[k]];
    for (uint32_t t = 0; t < c->terms; t++) {
        double most = 0;

        for (uint32_t k = 0; k < n; k++) {
            double v = c->term[(size_t)column[k] * c->terms + t];

            most = v > most ? v : most;
        }
        cost += most;
    }
    return cost;
}

/* Columns to ranks, the largest to the most slots; false if they do not divide the experts. */
static bool place(const struct columns *c, uint32_t *column, uint32_t n, uint16_t *ret_rank)
{
    uint32_t placed = 0;

    for (uint32_t i = 1; i < n; i++) {
        uint32_t v = column[i], k = i;

        for (; k > 0 && c->size[column[k - 1]] < c->size[v]; k--)
            column[k] = column[k - 1];
        column[k] = v;
    }
    for (uint32_t k = 0; k < n; k++) {
        const uint64_t *set = c->set + (size_t)column[k] * c->words;

        if (k >= c->ranks || c->size[column[k]] > c->slots[k])
            return false;
        for (uint32_t e = 0; e < c->experts; e++)
            if (set[e / 64] >> e % 64 & 1) {
                ret_rank[e] = c->rank[k];
                placed++;
            }
    }
    return placed == c->experts;
}

static int read_answer(const struct columns *c, const struct lp *lp, uint16_t *ret_rank,
                       double *ret_cost, bool *ret_found, struct mt_err *reterr)
{
    double *x = calloc(lp_columns(lp), sizeof *x);
    uint32_t column[PLAN_MAX_RANKS], n = 0;

    if (!x)
        return mt_error(reterr, MT_ENOMEM, "columns: no memory for %u columns", lp_columns(lp));
    lp_primal(lp, x);
    for (uint32_t i = 0; i < c->n && n < PLAN_MAX_RANKS; i++)
        if (x[c->terms + i] > 0.5)
            column[n++] = i;
    free(x);
    if (!place(c, column, n, ret_rank))
        return mt_error(reterr, MT_EINTERNAL, "columns: lp_solve's answer is not a partition");
    *ret_cost = cost_of(c, column, n);
    *ret_found = true;
    return 0;
}

int columns_recombine(struct columns *c, double cutoff, const struct place_run *run, uint64_t ticks,
                      uint16_t *ret_rank, double *ret_cost, bool *ret_found, struct mt_err *reterr)
{
    size_t entries = c->experts + c->ranks + 1 + (size_t)c->terms * c->experts;
    uint32_t *row = calloc(entries, sizeof *row);
    double *value = calloc(entries, sizeof *value);
    double scale = cutoff > 0 && cutoff < LP_INFINITY ? 1 / cutoff : 1;
    struct lp *lp = NULL;
    struct lp_result r = {.outcome = LP_NOTHING};
    uint16_t rank[PLACE_MAX_EXPERTS];
    double cost = 0;
    bool found = false;
    int rc = row && value ? make_rows(c, &lp, reterr)
                          : mt_error(reterr, MT_ENOMEM, "columns: no memory for a programme");

    for (uint32_t t = 0; t < c->terms && !rc; t++)
        rc = add_maximum(c, lp, t, reterr);
    for (uint32_t i = 0; i < c->n && !rc; i++)
        rc = add_column(c, lp, i, scale, row, value, reterr);
    if (!rc)
        rc = lp_solve(lp, cutoff < LP_INFINITY ? cutoff * scale : LP_INFINITY,
                      run ? run->stop : NULL, run ? run->user : NULL, ticks, &r, reterr);
    if (!rc && (r.outcome == LP_OPTIMAL || r.outcome == LP_FEASIBLE))
        rc = read_answer(c, lp, rank, &cost, &found, reterr);
    if (!rc)
        *ret_found = found && cost < cutoff;
    if (!rc && *ret_found) {
        memcpy(ret_rank, rank, c->experts * sizeof *rank);
        *ret_cost = cost;
    }
    lp_free(lp);
    free(row);
    free(value);
    return rc;
}

/* --- plans ------------------------------------------------------------------------------------ */

/* Ranks' shares of one plan as columns of two terms: compute of all scenarios, vectors of all
 * traces. */
static int add_plan(struct columns *c, const struct cover *cover, const uint16_t *rank,
                    uint64_t *scratch, struct mt_err *reterr)
{
    int rc = 0;

    for (uint32_t g = 0; g < c->ranks && !rc; g++) {
        uint16_t set[PLACE_MAX_EXPERTS];
        double term[2] = {0};
        uint32_t n = 0;

        for (uint32_t e = 0; e < c->experts; e++)
            if (rank[e] == g) {
                set[n++] = (uint16_t)e;
                term[0] += cover->compute[e];
            }
        if (!n)
            continue;
        term[1] = cover->cap_scale * cover_of(cover, set, n, scratch);
        rc = columns_add(c, set, n, 0, term, reterr);
    }
    return rc;
}

static bool may_exchange(const struct place_problem *p, const uint16_t *rank, uint32_t a,
                         uint32_t b)
{
    uint32_t on_a = 0, on_b = 0;

    for (uint32_t e = 0; e < p->experts; e++) {
        on_a += rank[e] == a;
        on_b += rank[e] == b;
    }
    return p->cluster.node[a] != p->cluster.node[b] && on_a <= p->cluster.slots[b] &&
           on_b <= p->cluster.slots[a];
}

static void exchange(uint32_t experts, uint16_t *rank, uint16_t a, uint16_t b)
{
    for (uint32_t e = 0; e < experts; e++)
        rank[e] = rank[e] == a ? b : rank[e] == b ? a : rank[e];
}

/* Whole ranks between nodes, until none helps. */
static int settle(const struct place_problem *p, uint32_t layer, uint16_t *rank,
                  double *inout_seconds, struct mt_err *reterr)
{
    bool better = p->cluster.nodes > 1;
    int rc = 0;

    while (better && !rc) {
        better = false;
        for (uint16_t a = 0; a < p->cluster.ranks && !rc; a++)
            for (uint16_t b = 0; b < a && !rc; b++) {
                double seconds;

                if (!may_exchange(p, rank, a, b))
                    continue;
                exchange(p->experts, rank, a, b);
                rc = layer_cost_plan(p, layer, rank, &seconds, reterr);
                if (!rc && seconds < *inout_seconds * (1 - 1e-9)) {
                    *inout_seconds = seconds;
                    better = true;
                } else {
                    exchange(p->experts, rank, a, b);
                }
            }
    }
    return rc;
}

struct recombination {
    struct cover cover;
    struct columns *pool;
    uint64_t *scratch;
    uint16_t rank[PLACE_MAX_EXPERTS]; /* the best of the plans */
    double seconds;                   /* of it */
};

/* The plans' columns, and which plan is the best. */
static int gather(struct recombination *r, const struct place_problem *p, uint32_t layer,
                  uint32_t plans, const uint16_t *rank, struct mt_err *reterr)
{
    int rc = cover_new(p, layer, &r->cover, reterr);

    if (!rc)
        rc = columns_new(p->experts, p->cluster.ranks, p->cluster.slots, 2, &r->pool, reterr);
    if (!rc) {
        r->scratch = calloc(r->cover.words + 1, sizeof *r->scratch);
        if (!r->scratch)
            rc = mt_error(reterr, MT_ENOMEM, "columns: no memory for %u words", r->cover.words);
    }
    r->seconds = 1e300;
    for (uint32_t i = 0; i < plans && !rc; i++) {
        const uint16_t *of = rank + (size_t)i * p->experts;
        double seconds;

        rc = add_plan(r->pool, &r->cover, of, r->scratch, reterr);
        if (!rc)
            rc = layer_cost_plan(p, layer, of, &seconds, reterr);
        if (!rc && seconds < r->seconds) {
            r->seconds = seconds;
            memcpy(r->rank, of, p->experts * sizeof *of);
        }
    }
    return rc;
}

/* The columns' price of the best plan: what another combination must beat. */
static double price(const struct recombination *r, uint32_t ranks)
{
    double most[2] = {0};

    for (uint32_t g = 0; g < ranks; g++) {
        uint16_t set[PLACE_MAX_EXPERTS];
        double compute = 0, f;
        uint32_t n = 0;

        for (uint32_t e = 0; e < r->cover.experts; e++)
            if (r->rank[e] == g) {
                set[n++] = (uint16_t)e;
                compute += r->cover.compute[e];
            }
        f = r->cover.cap_scale * cover_of(&r->cover, set, n, r->scratch);
        most[0] = compute > most[0] ? compute : most[0];
        most[1] = f > most[1] ? f : most[1];
    }
    return most[0] + most[1];
}

int columns_recombine_plans(const struct place_problem *p, uint32_t layer, uint32_t plans,
                            const uint16_t *rank, const struct place_run *run, uint64_t ticks,
                            uint16_t *ret_rank, double *ret_seconds, bool *ret_better,
                            struct mt_err *reterr)
{
    struct recombination r = {.seconds = 0};
    uint16_t found[PLACE_MAX_EXPERTS];
    double cost, seconds = 0;
    bool any = false;
    int rc;

    if (layer_cost_refuses(p) || !plans)
        return mt_error(reterr, MT_EUNSUPPORTED, "columns: %s",
                        plans ? layer_cost_refuses(p) : "no plans");
    rc = gather(&r, p, layer, plans, rank, reterr);
    if (!rc)
        rc = columns_recombine(r.pool, price(&r, p->cluster.ranks) * (1 - 1e-9), run, ticks, found,
                               &cost, &any, reterr);
    if (!rc && any)
        rc = layer_cost_plan(p, layer, found, &seconds, reterr);
    if (!rc && any)
        rc = settle(p, layer, found, &seconds, reterr);
    if (!rc) {
        *ret_better = any && seconds < r.seconds * (1 - 1e-12);
        memcpy(ret_rank, *ret_better ? found : r.rank, p->experts * sizeof *found);
        *ret_seconds = *ret_better ? seconds : r.seconds;
    }
    columns_free(r.pool);
    free(r.scratch);
    cover_done(&r.cover);
    return rc;
}
