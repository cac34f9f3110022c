#include "placement/exact_table.h"

#include <stdlib.h>
#include <string.h>

#include "placement/layer_cost.h"

static uint32_t sets(const struct exact_table *t)
{
    return 1u << t->p->experts;
}

/* Scenarios of one trace are priced together. */
static void find_traces(struct exact_table *t)
{
    const struct place_problem *p = t->p;

    for (uint32_t s = 0; s < p->scenarios; s++) {
        uint32_t d = 0;

        t->trace_of[s] = EXACT_NONE;
        if (!p->scenario[s].trace)
            continue;
        while (d < t->traces && t->traffic[d].trace != p->scenario[s].trace)
            d++;
        if (d == t->traces)
            t->traffic[t->traces++] = (struct exact_traffic){.trace = p->scenario[s].trace};
        t->trace_of[s] = d;
    }
    for (uint32_t d = 0; d < t->traces; d++) {
        struct exact_traffic *x = &t->traffic[d];
        double weight = 0;

        for (uint32_t s = 0; s < p->scenarios; s++)
            if (t->trace_of[s] == d) {
                weight += p->scenario[s].share / p->scenario[s].tokens;
                x->tokens += p->scenario[s].share;
            }
        /* Fast combine is a second exchange of the same vectors. */
        weight *= p->cluster.exact_combine ? 1 : 2;
        x->scaled = p->cluster;
        x->scaled.rank_link.latency *= weight;
        x->scaled.node_link.latency *= weight;
    }
}

/* Tokens that choose an expert of a set: all but those whose choices lie in the complement, which a
 * sum over subsets counts for every set at once. */
static void count_touches(struct exact_table *t)
{
    uint32_t n = sets(t), d = t->traces;
    uint32_t *within = t->touch;

    for (uint32_t i = 0; i < d; i++) {
        const struct trace *trace = t->traffic[i].trace;

        for (uint32_t token = 0; token < trace->tokens; token++) {
            const uint16_t *chosen = trace_at(trace, token, t->layer);
            uint32_t set = 0;

            for (uint32_t k = 0; k < trace->topk; k++)
                set |= 1u << chosen[k];
            within[(size_t)set * d + i]++;
        }
    }
    for (uint32_t bit = 1; bit < n; bit <<= 1)
        for (uint32_t set = 0; set < n; set++)
            if (set & bit)
                for (uint32_t i = 0; i < d; i++)
                    within[(size_t)set * d + i] += within[(size_t)(set ^ bit) * d + i];
    for (uint32_t set = 0; set < n / 2; set++)
        for (uint32_t i = 0; i < d; i++) {
            uint32_t *a = &within[(size_t)set * d + i], *b = &within[(size_t)(n - 1 - set) * d + i];
            uint32_t all = t->traffic[i].trace->tokens, keep = *a;

            *a = all - *b;
            *b = all - keep;
        }
}

static void count_pairs(struct exact_table *t)
{
    for (uint32_t i = 0; i < t->traces; i++) {
        const struct trace *trace = t->traffic[i].trace;
        double *pairs = t->pairs + (size_t)i * t->p->experts;

        for (uint32_t token = 0; token < trace->tokens; token++)
            for (uint32_t k = 0; k < trace->topk; k++)
                pairs[trace_at(trace, token, t->layer)[k]]++;
        for (uint32_t e = 0; e < t->p->experts; e++)
            pairs[e] /= trace->tokens;
    }
}

/* Terms that are sums, of each expert: ret[experts][sums]. */
static void expert_terms(const struct exact_table *t, double *ret)
{
    const struct place_problem *p = t->p;
    const struct cluster *c = &p->cluster;
    double compute[EXACT_MAX_EXPERTS];

    for (uint32_t s = 0; s < p->scenarios; s++) {
        layer_cost_compute(p, &p->scenario[s], t->layer, compute);
        for (uint32_t e = 0; e < p->experts; e++)
            ret[e * t->sums + s] = compute[e] * p->scenario[s].share / p->scenario[s].tokens;
    }
    for (uint32_t i = 0; i < t->sums - p->scenarios; i++) {
        double factor = t->traffic[i].tokens * (c->ranks - 1) / c->ranks * c->combine_bytes /
                        c->rank_link.bandwidth;

        for (uint32_t e = 0; e < p->experts; e++)
            ret[e * t->sums + p->scenarios + i] = factor * t->pairs[i * p->experts + e];
    }
}

static void fill_values(struct exact_table *t, const double *expert)
{
    uint32_t touches = t->terms - t->sums;

    for (uint32_t set = 0; set < sets(t); set++) {
        double *v = t->value + (size_t)t->index[set] * t->terms;

        if (t->index[set] == EXACT_NONE)
            continue;
        if (set) {
            uint32_t low = set & -set;
            const double *of = expert + (size_t)__builtin_ctz(low) * t->sums;
            const double *rest = exact_value(t, set ^ low);

            for (uint32_t i = 0; i < t->sums; i++)
                v[i] = rest[i] + of[i];
        }
        for (uint32_t i = 0; i < touches; i++)
            v[t->sums + i] = t->factor[i] * t->touch[(size_t)set * t->traces + i];
    }
}

static void constants(struct exact_table *t)
{
    const struct place_problem *p = t->p;
    const struct cluster *c = &p->cluster;
    double bytes = c->dispatch_bytes + (c->exact_combine ? 0 : c->combine_bytes);

    for (uint32_t s = 0; s < p->scenarios; s++) {
        double weight = p->scenario[s].share / p->scenario[s].tokens;

        t->constant += weight * layer_cost_dense(c, p->scenario[s].tokens);
        if (t->one_node && t->trace_of[s] != EXACT_NONE)
            t->constant += weight * 2 * (c->ranks - 1) * c->rank_link.latency;
    }
    for (uint32_t i = 0; i < t->traces; i++)
        t->factor[i] = t->traffic[i].tokens * (c->ranks - 1) / c->ranks * bytes /
                       c->rank_link.bandwidth / t->traffic[i].trace->tokens;
}

static int no_memory(struct exact_table *t, double *expert, struct mt_err *reterr)
{
    free(expert);
    exact_table_done(t);
    return mt_error(reterr, MT_ENOMEM, "exact: no memory for a table over %u sets of experts",
                    1u << t->p->experts);
}

int exact_table_new(const struct place_problem *p, uint32_t layer, struct exact_table *ret,
                    struct mt_err *reterr)
{
    const struct cluster *c = &p->cluster;
    struct exact_table t = {.p = p, .layer = layer, .one_node = c->nodes < 2};
    double *expert = NULL;
    uint32_t most = 0, rows = 0;

    find_traces(&t);
    t.sums = p->scenarios + (t.one_node && c->exact_combine ? t.traces : 0);
    t.terms = t.sums + (t.one_node ? t.traces : 0);
    for (uint32_t g = 0; g < c->ranks; g++)
        most = c->slots[g] > most ? c->slots[g] : most;
    t.touch = calloc((size_t)sets(&t) * t.traces + 1, sizeof *t.touch);
    t.pairs = calloc((size_t)p->experts * t.traces + 1, sizeof *t.pairs);
    t.index = calloc(sets(&t), sizeof *t.index);
    expert = calloc((size_t)p->experts * t.sums, sizeof *expert);
    if (!t.touch || !t.pairs || !t.index || !expert)
        return no_memory(&t, expert, reterr);
    for (uint32_t set = 0; set < sets(&t); set++)
        t.index[set] = (uint32_t)__builtin_popcount(set) <= most ? rows++ : EXACT_NONE;
    t.value = calloc((size_t)rows * t.terms, sizeof *t.value);
    if (!t.value)
        return no_memory(&t, expert, reterr);
    count_touches(&t);
    if (c->exact_combine)
        count_pairs(&t);
    constants(&t);
    expert_terms(&t, expert);
    fill_values(&t, expert);
    free(expert);
    *ret = t;
    return 0;
}

void exact_table_done(struct exact_table *t)
{
    free(t->touch);
    free(t->pairs);
    free(t->index);
    free(t->value);
    t->touch = NULL;
    t->pairs = NULL;
    t->index = NULL;
    t->value = NULL;
}

/* Vectors per token of a trace to ranks and to nodes, of dispatch or of exact combine. */
struct vectors {
    double rank[PLAN_MAX_RANKS], node[PLAN_MAX_RANKS];
};

static void vectors_of(const struct exact_table *t, uint32_t i, const uint32_t *set, bool pairs,
                       struct vectors *ret)
{
    const struct cluster *c = &t->p->cluster;
    uint32_t of_node[PLAN_MAX_RANKS] = {0};
    double tokens = t->traffic[i].trace->tokens;

    for (uint32_t g = 0; g < c->ranks; g++) {
        of_node[c->node[g]] |= set[g];
        ret->rank[g] = t->touch[(size_t)set[g] * t->traces + i] / tokens;
        if (!pairs)
            continue;
        ret->rank[g] = 0;
        for (uint32_t rest = set[g]; rest; rest &= rest - 1)
            ret->rank[g] += t->pairs[i * t->p->experts + (uint32_t)__builtin_ctz(rest)];
    }
    for (uint32_t a = 0; a < c->nodes; a++)
        ret->node[a] = t->touch[(size_t)of_node[a] * t->traces + i] / tokens;
}

static double scenario_traffic(const struct exact_table *t, uint32_t s, const struct vectors *out,
                               const struct vectors *back)
{
    const struct cluster *c = &t->p->cluster;
    const double *once = c->two_level ? out->node : NULL;
    double tokens = t->p->scenario[s].tokens;

    return (layer_cost_exchange(c, tokens, out->rank, once, c->dispatch_bytes) +
            layer_cost_exchange(c, tokens, back->rank, c->exact_combine ? NULL : once,
                           c->combine_bytes)) *
           t->p->scenario[s].share / tokens;
}

double exact_cost(const struct exact_table *t, const uint32_t *set)
{
    const struct cluster *c = &t->p->cluster;
    double cost = t->constant;

    for (uint32_t i = 0; i < t->terms; i++) {
        double most = 0;

        for (uint32_t g = 0; g < c->ranks; g++) {
            double v = exact_value(t, set[g])[i];

            most = v > most ? v : most;
        }
        cost += most;
    }
    for (uint32_t i = 0; !t->one_node && i < t->traces; i++) {
        struct vectors out, back;

        vectors_of(t, i, set, false, &out);
        if (c->exact_combine)
            vectors_of(t, i, set, true, &back);
        for (uint32_t s = 0; s < t->p->scenarios; s++)
            if (t->trace_of[s] == i)
                cost += scenario_traffic(t, s, &out, c->exact_combine ? &back : &out);
    }
    return cost;
}

double exact_traffic_bound(const struct exact_table *t, const uint32_t *set)
{
    double sum = 0;

    for (uint32_t i = 0; i < t->traces; i++) {
        const struct cluster *c = &t->traffic[i].scaled;
        struct vectors v;

        vectors_of(t, i, set, false, &v);
        sum += layer_cost_exchange(c, t->traffic[i].tokens, v.rank, c->two_level ? v.node : NULL,
                              c->dispatch_bytes + (c->exact_combine ? 0 : c->combine_bytes));
        if (c->exact_combine) {
            vectors_of(t, i, set, true, &v);
            sum += layer_cost_exchange(c, t->traffic[i].tokens, v.rank, NULL, c->combine_bytes);
        }
    }
    return sum;
}
