#include "placement/master.h"

#include <stdlib.h>
#include <string.h>

#include "placement/lp.h"
#include "placement/random.h"

#define MAX_SOLVES 400 /* of one window */
#define LACK 4.0       /* cost of an expert in no column: f is at most 1 */
#define GAIN 1e-7      /* a column must be better by this */

void master_pool_done(struct master_pool *p)
{
    free(p->expert);
    free(p->f);
    free(p->compute);
    *p = (struct master_pool){.n = 0};
}

static int make_room(struct master_pool *p, struct mt_err *reterr)
{
    size_t room = p->room ? 2 * (size_t)p->room : 256;
    uint16_t *expert;
    double *f, *compute;

    if (p->n < p->room)
        return 0;
    expert = realloc(p->expert, (room * p->size + 1) * sizeof *expert);
    if (expert)
        p->expert = expert;
    f = realloc(p->f, room * sizeof *f);
    if (f)
        p->f = f;
    compute = realloc(p->compute, room * sizeof *compute);
    if (compute)
        p->compute = compute;
    if (!expert || !f || !compute)
        return mt_error(reterr, MT_ENOMEM, "bound: no memory for %zu columns", room);
    p->room = (uint32_t)room;
    return 0;
}

static void sort(uint16_t *e, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++) {
        uint16_t v = e[i];
        uint32_t k = i;

        for (; k > 0 && e[k - 1] > v; k--)
            e[k] = e[k - 1];
        e[k] = v;
    }
}

int master_add(struct master *m, const uint16_t *expert, struct mt_err *reterr)
{
    struct master_pool *p = m->pool;
    uint64_t *scratch;
    uint16_t sorted[PRICING_MAX_SIZE];
    int rc;

    p->size = m->size;
    memcpy(sorted, expert, m->size * sizeof *sorted);
    sort(sorted, m->size);
    for (uint32_t i = 0; i < p->n; i++)
        if (!memcmp(p->expert + (size_t)i * p->size, sorted, p->size * sizeof *sorted))
            return 0;
    if (p->n == MASTER_MAX_COLUMNS)
        return 0;
    rc = make_room(p, reterr);
    if (rc)
        return rc;
    scratch = calloc(m->cover->words + 1, sizeof *scratch);
    if (!scratch)
        return mt_error(reterr, MT_ENOMEM, "bound: no memory for a column");
    memcpy(p->expert + (size_t)p->n * p->size, sorted, p->size * sizeof *sorted);
    p->f[p->n] = cover_of(m->cover, sorted, p->size, scratch);
    p->compute[p->n] = 0;
    for (uint32_t k = 0; k < p->size; k++)
        p->compute[p->n] += m->cover->compute[sorted[k]];
    p->n++;
    free(scratch);
    return 0;
}

static bool stopped(const struct master *m)
{
    return m->run && m->run->stop && m->run->stop(m->run->user);
}

/* One window's programme. Rows: each expert once; as many sets as ranks. */
struct work {
    struct master *m;
    const struct pricing_window *w;
    struct lp *lp;
    struct pricing pricing;
    uint32_t taken;   /* of the pool: those before are in the programme, if the window has them */
    uint32_t *column; /* [pool's room] of the programme's columns after the artificial ones */
    uint32_t columns, column_room;
    double *dual; /* [experts + 1] */
    double *primal;
    uint32_t primal_room;
    double objective;
    double precision, enough; /* of master_bound */
};

static bool in_window(const struct work *k, uint32_t i)
{
    const struct master_pool *p = k->m->pool;

    return p->f[i] <= k->w->cap && p->compute[i] <= k->w->most && p->compute[i] >= k->w->least;
}

/* New columns of the pool into the programme. */
static int take_columns(struct work *k, struct mt_err *reterr)
{
    const struct master_pool *p = k->m->pool;
    uint32_t row[PRICING_MAX_SIZE + 1];
    double one[PRICING_MAX_SIZE + 1];
    int rc = 0;

    for (; k->taken < p->n && !rc; k->taken++) {
        if (!in_window(k, k->taken))
            continue;
        if (k->columns == k->column_room) {
            size_t room = 2 * (size_t)k->column_room + 256;
            uint32_t *column = realloc(k->column, room * sizeof *column);

            if (!column)
                return mt_error(reterr, MT_ENOMEM, "bound: no memory for %zu columns", room);
            k->column = column;
            k->column_room = (uint32_t)room;
        }
        for (uint32_t i = 0; i < p->size; i++) {
            row[i] = p->expert[(size_t)k->taken * p->size + i];
            one[i] = 1;
        }
        row[p->size] = k->m->cover->experts;
        one[p->size] = 1;
        k->column[k->columns++] = k->taken;
        rc = lp_add_column(k->lp, p->f[k->taken], p->size + 1, row, one, 0, LP_INFINITY, false,
                           reterr);
    }
    return rc;
}

static int work_new(struct work *k, struct mt_err *reterr)
{
    uint32_t experts = k->m->cover->experts;
    enum lp_row *type = calloc(experts + 1, sizeof *type);
    double *rhs = calloc(experts + 1, sizeof *rhs);
    const double one = 1;
    int rc;

    k->dual = calloc(experts + 1, sizeof *k->dual);
    if (!type || !rhs || !k->dual) {
        free(type);
        free(rhs);
        return mt_error(reterr, MT_ENOMEM, "bound: no memory for %u rows", experts + 1);
    }
    for (uint32_t e = 0; e <= experts; e++) {
        type[e] = LP_EQUAL;
        rhs[e] = e < experts ? 1 : k->m->ranks;
    }
    rc = lp_new(experts + 1, type, rhs, &k->lp, reterr);
    free(type);
    free(rhs);
    /* An expert in no column, and a rank without one, so that there always is an answer. */
    for (uint32_t e = 0; e <= experts && !rc; e++)
        rc = lp_add_column(k->lp, e < experts ? LACK : 0, 1, &e, &one, 0, LP_INFINITY, false,
                           reterr);
    if (!rc)
        rc = pricing_new(k->m->cover, k->m->size, &k->pricing, reterr);
    return rc;
}

static void work_done(struct work *k)
{
    lp_free(k->lp);
    pricing_done(&k->pricing);
    free(k->column);
    free(k->dual);
    free(k->primal);
}

/* *ret_solved: false if it was stopped. */
static int solve(struct work *k, bool *ret_solved, struct mt_err *reterr)
{
    struct lp_result r;
    const struct place_run *run = k->m->run;
    int rc = take_columns(k, reterr);

    *ret_solved = false;
    if (rc)
        return rc;
    if (k->primal_room < lp_columns(k->lp)) {
        free(k->primal);
        k->primal_room = 2 * lp_columns(k->lp);
        k->primal = calloc(k->primal_room, sizeof *k->primal);
        if (!k->primal)
            return mt_error(reterr, MT_ENOMEM, "bound: no memory for %u columns", k->primal_room);
    }
    rc =
        lp_solve(k->lp, LP_INFINITY, run ? run->stop : NULL, run ? run->user : NULL, 0, &r, reterr);
    if (rc || r.outcome != LP_OPTIMAL)
        return rc;
    k->m->solves++;
    k->objective = r.objective;
    lp_dual(k->lp, k->dual);
    lp_primal(k->lp, k->primal);
    *ret_solved = true;
    return 0;
}

/* Descents from the columns in use and from a few at random. */
static int price_near(struct work *k, struct random *random, bool *ret_found, struct mt_err *reterr)
{
    struct master *m = k->m;
    uint32_t experts = m->cover->experts, before = m->pool->n, in_use = k->columns, tries = 8;
    uint16_t set[PRICING_MAX_SIZE] = {0}, order[PLACE_MAX_EXPERTS] = {0};

    for (uint32_t e = 0; e < experts; e++)
        order[e] = (uint16_t)e;
    for (uint32_t i = 0; i < in_use + tries; i++) {
        bool inside;
        double cost;
        int rc = 0;

        if (i < in_use && k->primal[experts + 1 + i] < 1e-9)
            continue;
        for (uint32_t e = 0; e < m->size && i >= in_use; e++) {
            uint32_t at = e + random_below(random, experts - e);
            uint16_t keep = order[at];

            order[at] = order[e];
            set[e] = order[e] = keep;
        }
        if (i < in_use)
            memcpy(set, m->pool->expert + (size_t)k->column[i] * m->size, m->size * sizeof *set);
        cost = pricing_descend(&k->pricing, k->dual, set, &inside);
        if (inside && cost < k->dual[experts] - GAIN)
            rc = master_add(m, set, reterr);
        if (rc)
            return rc;
    }
    *ret_found = m->pool->n > before;
    return 0;
}

/* *inout_bound rises to what the duals and the least reduced cost prove. */
static int price_exactly(struct work *k, bool *ret_found, double *inout_bound,
                         struct mt_err *reterr)
{
    struct master *m = k->m;
    uint32_t experts = m->cover->experts, before = m->pool->n;
    double spare = k->enough > 0 ? k->objective - k->enough : 0, bound = 0, least, limit;
    int rc = 0;

    /* Sets that cost little too little do no harm: the bound falls by as much for each rank. */
    limit = k->dual[experts] - (spare > k->precision ? spare : k->precision) / m->ranks;
    k->pricing.max_nodes = m->max_nodes;
    k->pricing.enough = 6;
    k->pricing.stop = m->run ? m->run->stop : NULL;
    k->pricing.user = m->run ? m->run->user : NULL;
    least = pricing_exact(&k->pricing, k->dual, limit);
    m->pricings++;
    m->nodes += k->pricing.nodes;
    m->aborted += k->pricing.aborted && !k->pricing.found;
    for (uint32_t e = 0; e < experts; e++)
        bound += k->dual[e];
    bound += m->ranks * least;
    if (bound > *inout_bound)
        *inout_bound = bound;
    for (uint32_t i = 0; i < k->pricing.found && !rc; i++)
        rc = master_add(m, k->pricing.best[i].expert, reterr);
    *ret_found = m->pool->n > before;
    return rc;
}

static int generate(struct work *k, double *inout_bound, struct mt_err *reterr)
{
    struct random random = {k->m->seed};
    uint32_t slow = 0;
    double last = 1e300;

    for (uint32_t i = 0; i < MAX_SOLVES && !stopped(k->m); i++) {
        bool solved, found = false;
        int rc = solve(k, &solved, reterr);

        if (rc || !solved || k->objective < k->enough)
            return rc;
        slow = k->objective > last - k->precision / 16 ? slow + 1 : 0;
        last = k->objective;
        if (slow < 4)
            rc = price_near(k, &random, &found, reterr);
        if (!rc && !found) {
            rc = price_exactly(k, &found, inout_bound, reterr);
            slow = 0;
            if (!found)
                return rc;
        }
        if (rc)
            return rc;
        if (*inout_bound >= (k->enough > 0 ? k->enough : k->objective - 2 * k->precision))
            return 0;
    }
    return 0;
}

int master_bound(struct master *m, const struct pricing_window *w, double precision, double enough,
                 double *ret_bound, struct mt_err *reterr)
{
    struct work k = {.m = m, .w = w, .precision = precision, .enough = enough};
    double bound = 0;
    int rc = work_new(&k, reterr);

    if (!rc) {
        k.pricing.window = *w;
        rc = generate(&k, &bound, reterr);
    }
    work_done(&k);
    if (!rc)
        *ret_bound = bound;
    return rc;
}
