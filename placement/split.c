#include "placement/split.h"

#include <stdlib.h>
#include <string.h>

#include "placement/lp.h"
#include "placement/route.h"

/* One layer: what is decided already, per token of each scenario, and what can be shared out. */
struct split {
    const struct place_problem *p;
    const struct plan *plan;
    uint32_t layer, kinds;              /* kinds: scenarios with loads of their own */
    uint32_t kind[PLACE_MAX_SCENARIOS]; /* a scenario of each */
    double weight[PLACE_MAX_SCENARIOS]; /* shares of all scenarios with the same loads */
    double *fixed;                      /* [kinds][ranks] */
    double *drawn;                      /* [kinds][experts] */
    uint32_t *row, *column;             /* [experts] of the programme; UINT32_MAX: even */
};

static size_t pair_of(const struct split *s, uint32_t e)
{
    return (size_t)s->layer * s->p->experts + e;
}

/* The part of homes whose token of e is drawn among all copies, where no expert forces a rank. */
static double drawn_part(const struct split *s, uint32_t e)
{
    const struct cluster *c = &s->p->cluster;
    uint32_t first = s->plan->start[pair_of(s, e)], end = s->plan->start[pair_of(s, e) + 1];
    uint32_t homes = 0;

    if (c->nodes == 1)
        return 1 - (double)(end - first) / c->ranks;
    for (uint32_t h = 0; h < c->ranks; h++) {
        bool near = false;

        for (uint32_t i = first; i < end; i++)
            near |= c->node[s->plan->rank[i]] == c->node[h];
        homes += !near;
    }
    return (double)homes / c->ranks;
}

static bool can_share(const struct split *s, uint32_t e)
{
    const struct cluster *c = &s->p->cluster;
    uint32_t first = s->plan->start[pair_of(s, e)], end = s->plan->start[pair_of(s, e) + 1];

    if (end - first < 2)
        return false;
    for (uint32_t i = first; c->nodes > 1 && i < end; i++)
        for (uint32_t k = first; k < i; k++)
            if (c->node[s->plan->rank[i]] == c->node[s->plan->rank[k]])
                return false;
    return drawn_part(s, e) > 0;
}

/* `mass` tokens of e that nothing forces: homes' copies take theirs, the rest is drawn. */
static void add_free(struct split *s, uint32_t kind, uint32_t e, double mass)
{
    const struct cluster *c = &s->p->cluster;
    uint32_t first = s->plan->start[pair_of(s, e)], n = s->plan->start[pair_of(s, e) + 1] - first;
    bool shares = s->column[e] != UINT32_MAX;
    double drawn = shares ? drawn_part(s, e) : 0;

    s->drawn[(size_t)kind * s->p->experts + e] += mass * drawn;
    for (uint32_t k = 0; k < n; k++) {
        double part = 0;

        for (uint32_t h = 0; h < c->ranks; h++)
            part += route_share(s->plan, c, pair_of(s, e), h, k) / c->ranks;
        s->fixed[(size_t)kind * c->ranks + s->plan->rank[first + k]] +=
            mass * (part - drawn / n); /* the plan's shares are even here */
    }
}

/* `mass` tokens of e that another expert forces to `rank`, unless they live with a copy. */
static void add_forced(struct split *s, uint32_t kind, uint32_t e, uint32_t rank, double mass)
{
    const struct cluster *c = &s->p->cluster;
    uint32_t first = s->plan->start[pair_of(s, e)], n = s->plan->start[pair_of(s, e) + 1] - first;
    double *fixed = s->fixed + (size_t)kind * c->ranks;

    for (uint32_t k = 0; k < n; k++)
        fixed[s->plan->rank[first + k]] += mass / c->ranks;
    fixed[rank] += mass * (1 - (double)n / c->ranks);
}

/* The lowest rank of e's copies that another choice has its only copy on; ranks: none. */
static uint32_t forced_rank(const struct split *s, const uint16_t *chosen, uint32_t e)
{
    const struct plan *plan = s->plan;
    uint32_t lowest = s->p->cluster.ranks;

    for (uint32_t i = plan->start[pair_of(s, e)]; i < plan->start[pair_of(s, e) + 1]; i++)
        for (uint32_t k = 0; k < s->p->topk; k++) {
            size_t other = pair_of(s, chosen[k]);

            if (plan->start[other + 1] - plan->start[other] == 1 &&
                plan->rank[plan->start[other]] == plan->rank[i] && plan->rank[i] < lowest)
                lowest = plan->rank[i];
        }
    return lowest;
}

static void count_trace(struct split *s, uint32_t kind, const struct trace *t)
{
    for (uint32_t i = 0; i < t->tokens; i++) {
        const uint16_t *chosen = trace_at(t, i, s->layer);

        for (uint32_t k = 0; k < t->topk; k++) {
            uint32_t e = chosen[k], rank = s->p->cluster.ranks;

            if (s->plan->start[pair_of(s, e) + 1] - s->plan->start[pair_of(s, e)] > 1)
                rank = forced_rank(s, chosen, e);
            if (rank < s->p->cluster.ranks)
                add_forced(s, kind, e, rank, 1.0 / t->tokens);
            else
                add_free(s, kind, e, 1.0 / t->tokens);
        }
    }
}

static void count(struct split *s)
{
    const struct place_problem *p = s->p;

    memset(s->fixed, 0, (size_t)s->kinds * p->cluster.ranks * sizeof *s->fixed);
    memset(s->drawn, 0, (size_t)s->kinds * p->experts * sizeof *s->drawn);
    for (uint32_t k = 0; k < s->kinds; k++) {
        const struct place_scenario *sc = &p->scenario[s->kind[k]];

        if (sc->trace)
            count_trace(s, k, sc->trace);
        for (uint32_t e = 0; !sc->trace && e < p->experts; e++)
            add_free(s, k, e, sc->load[pair_of(s, e)]);
    }
}

/* Rows: one for each kind and rank, then one for each expert that shares. */
static int make_rows(struct split *s, uint32_t sharing, struct lp **ret, struct mt_err *reterr)
{
    uint32_t busy = s->kinds * s->p->cluster.ranks, rows = busy + sharing;
    enum lp_row *type = calloc(rows, sizeof *type);
    double *rhs = calloc(rows, sizeof *rhs);
    int rc = MT_ENOMEM;

    for (uint32_t i = 0; type && rhs && i < rows; i++) {
        type[i] = i < busy ? LP_AT_MOST : LP_EQUAL;
        rhs[i] = i < busy ? -s->fixed[i] : 1;
    }
    if (type && rhs)
        rc = lp_new(rows, type, rhs, ret, reterr);
    else
        mt_error(reterr, rc, "split: no memory for %u rows", rows);
    free(type);
    free(rhs);
    return rc;
}

/* A column for each kind's busiest rank, then one for each copy that shares. */
static int make_columns(struct split *s, struct lp *lp, struct mt_err *reterr)
{
    const struct place_problem *p = s->p;
    uint32_t ranks = p->cluster.ranks, row[PLAN_MAX_RANKS];
    double value[PLAN_MAX_RANKS];
    int rc = 0;

    for (uint32_t k = 0; !rc && k < s->kinds; k++) {
        for (uint32_t g = 0; g < ranks; g++) {
            row[g] = k * ranks + g;
            value[g] = -1;
        }
        rc = lp_add_column(lp, s->weight[k], ranks, row, value, 0, LP_INFINITY, false, reterr);
    }
    for (uint32_t e = 0; !rc && e < p->experts; e++) {
        if (s->column[e] == UINT32_MAX)
            continue;
        s->column[e] = lp_columns(lp);
        for (uint32_t i = s->plan->start[pair_of(s, e)];
             !rc && i < s->plan->start[pair_of(s, e) + 1]; i++) {
            uint32_t n = 0;

            for (uint32_t k = 0; k < s->kinds; k++)
                if (s->drawn[(size_t)k * p->experts + e] > 0) {
                    row[n] = k * ranks + s->plan->rank[i];
                    value[n++] = s->drawn[(size_t)k * p->experts + e];
                }
            row[n] = s->row[e];
            value[n++] = 1;
            rc = lp_add_column(lp, 0, n, row, value, 0, 1, false, reterr);
        }
    }
    return rc;
}

/* Shares from the programme's answer, of experts that share. */
static int take_shares(const struct split *s, struct lp *lp, struct plan *to, struct mt_err *reterr)
{
    double *x = calloc(lp_columns(lp), sizeof *x);

    if (!x)
        return mt_error(reterr, MT_ENOMEM, "split: no memory for %u columns", lp_columns(lp));
    lp_primal(lp, x);
    for (uint32_t e = 0; e < s->p->experts; e++) {
        uint32_t first = to->start[pair_of(s, e)], n = to->start[pair_of(s, e) + 1] - first;
        double sum = 0;

        if (s->column[e] == UINT32_MAX)
            continue;
        for (uint32_t k = 0; k < n; k++)
            sum += x[s->column[e] + k] > 0 ? x[s->column[e] + k] : 0;
        for (uint32_t k = 0; sum > 0 && k < n; k++)
            to->share[first + k] = (float)(x[s->column[e] + k] > 0 ? x[s->column[e] + k] / sum : 0);
    }
    free(x);
    return 0;
}

static int solve_layer(struct split *s, struct plan *to, struct mt_err *reterr)
{
    struct lp_result result;
    struct lp *lp = NULL;
    uint32_t sharing = 0;
    int rc;

    for (uint32_t e = 0; e < s->p->experts; e++) {
        s->column[e] = can_share(s, e) ? 0 : UINT32_MAX;
        if (s->column[e] != UINT32_MAX)
            s->row[e] = s->kinds * s->p->cluster.ranks + sharing++;
    }
    if (!sharing)
        return 0;
    count(s);
    rc = make_rows(s, sharing, &lp, reterr);
    if (!rc)
        rc = make_columns(s, lp, reterr);
    if (!rc)
        rc = lp_solve(lp, LP_INFINITY, NULL, NULL, 0, &result, reterr);
    if (!rc && result.outcome == LP_OPTIMAL)
        rc = take_shares(s, lp, to, reterr);
    lp_free(lp);
    return rc;
}

static void find_kinds(struct split *s)
{
    for (uint32_t i = 0; i < s->p->scenarios; i++) {
        const struct place_scenario *sc = &s->p->scenario[i];
        uint32_t k = 0;

        while (k < s->kinds && s->p->scenario[s->kind[k]].load != sc->load)
            k++;
        if (k == s->kinds)
            s->kind[s->kinds++] = i;
        s->weight[k] += sc->share;
    }
}

int split_solve(const struct place_problem *p, const struct plan *plan, struct plan *ret,
                struct mt_err *reterr)
{
    struct split s = {.p = p};
    struct plan even, to = {0};
    size_t copies = plan->start[(size_t)p->layers * p->experts];
    int rc = plan_copy(plan, &even, reterr);

    if (rc)
        return rc;
    free(even.share);
    even.share = NULL;
    s.plan = &even;
    find_kinds(&s);
    s.fixed = calloc((size_t)s.kinds * p->cluster.ranks + 1, sizeof *s.fixed);
    s.drawn = calloc((size_t)s.kinds * p->experts + 1, sizeof *s.drawn);
    s.row = calloc(p->experts, sizeof *s.row);
    s.column = calloc(p->experts, sizeof *s.column);
    rc = plan_copy(&even, &to, reterr);
    if (!rc)
        to.share = calloc(copies + 1, sizeof *to.share);
    if (!rc && (!s.fixed || !s.drawn || !s.row || !s.column || !to.share))
        rc = mt_error(reterr, MT_ENOMEM, "split: no memory for %zu copies", copies);
    for (size_t i = 0; !rc && i < (size_t)p->layers * p->experts; i++)
        for (uint32_t k = to.start[i]; k < to.start[i + 1]; k++)
            to.share[k] = 1.0f / (float)(to.start[i + 1] - to.start[i]);
    for (; !rc && p->homes == PLACE_HOMES_LOAD && s.layer < p->layers; s.layer++)
        rc = solve_layer(&s, &to, reterr);
    free(s.fixed);
    free(s.drawn);
    free(s.row);
    free(s.column);
    plan_done(&even);
    if (rc)
        plan_done(&to);
    else
        *ret = to;
    return rc;
}
