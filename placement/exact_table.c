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
        while (d < t->traces && t->trace[d].trace != p->scenario[s].trace)
            d++;
        if (d == t->traces)
            t->trace[t->traces++].trace = p->scenario[s].trace;
        t->trace_of[s] = d;
        t->trace[d].share += p->scenario[s].share;
        t->trace[d].steps += p->scenario[s].share / p->scenario[s].tokens;
    }
}

/* Tokens that choose an expert of a set: all but those whose choices lie in the complement, which a
 * sum over subsets counts for every set at once. */
static void count_touches(struct exact_table *t)
{
    uint32_t n = sets(t), d = t->traces;
    uint32_t *within = t->touch;

    for (uint32_t i = 0; i < d; i++) {
        const struct trace *trace = t->trace[i].trace;

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
            uint32_t all = t->trace[i].trace->tokens, keep = *a;

            *a = all - *b;
            *b = all - keep;
        }
}

/* The least sum of touches over divisions into sets of `size`, by the set of the lowest expert;
 * where ranks are full and alike. Otherwise what touches the whole touches a part. */
static void divide(struct exact_table *t, uint32_t size)
{
    uint32_t d = t->traces;

    memcpy(t->split, t->touch, (size_t)sets(t) * d * sizeof *t->split);
    for (uint32_t set = 1; size && set < sets(t); set++) {
        uint32_t low = set & -set, others = set ^ low, n = (uint32_t)__builtin_popcount(set);
        uint32_t *least = t->split + (size_t)set * d;

        if (n % size || n == size)
            continue;
        memset(least, 0xff, d * sizeof *least);
        for (uint32_t more = others; more; more = (more - 1) & others) {
            const uint32_t *a = t->touch + (size_t)(more | low) * d;
            const uint32_t *b = t->split + (size_t)(set ^ more ^ low) * d;

            if ((uint32_t)__builtin_popcount(more) + 1 != size)
                continue;
            for (uint32_t i = 0; i < d; i++)
                least[i] = a[i] + b[i] < least[i] ? a[i] + b[i] : least[i];
        }
        if (size == 1)
            for (uint32_t i = 0; i < d; i++)
                least[i] = t->touch[(size_t)low * d + i] + t->split[(size_t)others * d + i];
    }
}

/* Experts per rank, if all slots are alike and none is spare; otherwise 0. */
static uint32_t full_size(const struct place_problem *p)
{
    for (uint32_t g = 0; g < p->cluster.ranks; g++)
        if (p->cluster.slots[g] * p->cluster.ranks != p->experts)
            return 0;
    return p->cluster.slots[0];
}

static void fill_experts(struct exact_table *t)
{
    const struct place_problem *p = t->p;
    const struct cluster *c = &p->cluster;

    for (uint32_t s = 0; s < p->scenarios; s++) {
        const struct place_scenario *of = &p->scenario[s];
        const double *load = of->load + (size_t)t->layer * p->experts;

        if (t->trace_of[s] != EXACT_NONE)
            load = t->pairs + (size_t)t->trace_of[s] * p->experts;
        for (uint32_t e = 0; e < p->experts; e++)
            t->expert[e * t->sums + s] =
                layer_cost_compute(c, of->tokens, load[e]) * of->share / of->tokens;
    }
    for (uint32_t i = 0; i < t->sums - p->scenarios; i++)
        for (uint32_t e = 0; e < p->experts; e++)
            t->expert[e * t->sums + p->scenarios + i] = t->trace[i].share / c->ranks *
                                                        c->combine_bytes / c->rank_link.bandwidth *
                                                        t->pairs[i * p->experts + e];
}

static void fill_values(struct exact_table *t)
{
    uint32_t first = t->p->scenarios;

    for (uint32_t set = 1; set < sets(t); set++) {
        uint32_t low = set & -set;
        const double *of = t->expert + (size_t)__builtin_ctz(low) * t->sums, *rest;
        double *v = t->value + (size_t)t->index[set] * t->terms;

        if (t->index[set] == EXACT_NONE)
            continue;
        rest = exact_value(t, set ^ low);
        for (uint32_t i = 0; i < t->sums; i++)
            v[i] = rest[i] + of[i];
        for (uint32_t i = first; i < t->sums && set == low; i++)
            v[i] += t->latency[i - first];
        for (uint32_t i = t->sums; i < t->terms; i++)
            v[i] = t->factor[i - t->sums] * t->touch[(size_t)set * t->traces + i - t->sums] +
                   t->latency[i - first];
    }
}

static void constants(struct exact_table *t)
{
    const struct place_problem *p = t->p;
    const struct cluster *c = &p->cluster;
    double bytes = c->dispatch_bytes + (c->exact_combine ? 0 : c->combine_bytes);

    t->network = c->nodes > 1 ? c->rank_link.bandwidth / c->node_link.bandwidth : 0;
    for (uint32_t s = 0; s < p->scenarios; s++)
        t->constant += p->scenario[s].share / p->scenario[s].tokens *
                       layer_cost_dense(c, p->scenario[s].tokens);
    for (uint32_t i = 0; i < t->traces; i++) {
        double once = t->trace[i].steps * (c->exact_combine ? 1 : 2);

        t->factor[i] = t->trace[i].share / c->ranks * bytes / c->rank_link.bandwidth /
                       t->trace[i].trace->tokens;
        t->latency[i] = t->latency[t->traces + i] = once * c->rank_link.latency;
        t->node_latency[i] = t->node_latency[t->traces + i] =
            once * c->node_link.latency * (c->nodes - 1);
    }
}

static int no_memory(struct exact_table *t, struct mt_err *reterr)
{
    exact_table_done(t);
    return mt_error(reterr, MT_ENOMEM, "exact: no memory for a table over %u sets of experts",
                    1u << t->p->experts);
}

int exact_table_new(const struct place_problem *p, uint32_t layer, struct exact_table *ret,
                    struct mt_err *reterr)
{
    const struct cluster *c = &p->cluster;
    struct exact_table t = {.p = p, .layer = layer, .one_node = c->nodes < 2};
    uint32_t most = 0, rows = 0;

    find_traces(&t);
    t.sums = p->scenarios + (c->exact_combine ? t.traces : 0);
    t.terms = t.sums + t.traces;
    for (uint32_t g = 0; g < c->ranks; g++)
        most = c->slots[g] > most ? c->slots[g] : most;
    t.touch = calloc((size_t)sets(&t) * t.traces + 1, sizeof *t.touch);
    t.split = t.one_node ? t.touch : calloc((size_t)sets(&t) * t.traces + 1, sizeof *t.split);
    t.pairs = calloc((size_t)p->experts * t.traces + 1, sizeof *t.pairs);
    t.expert = calloc((size_t)p->experts * t.sums + 1, sizeof *t.expert);
    t.index = calloc(sets(&t), sizeof *t.index);
    if (!t.touch || !t.split || !t.pairs || !t.index || !t.expert)
        return no_memory(&t, reterr);
    for (uint32_t set = 0; set < sets(&t); set++)
        t.index[set] = (uint32_t)__builtin_popcount(set) <= most ? rows++ : EXACT_NONE;
    t.value = calloc((size_t)rows * t.terms + 1, sizeof *t.value);
    if (!t.value)
        return no_memory(&t, reterr);
    count_touches(&t);
    if (!t.one_node)
        divide(&t, full_size(p));
    for (uint32_t s = 0; s < p->scenarios; s++)
        if (t.trace_of[s] != EXACT_NONE)
            layer_cost_loads(p, &p->scenario[s], layer,
                             t.pairs + (size_t)t.trace_of[s] * p->experts);
    constants(&t);
    fill_experts(&t);
    fill_values(&t);
    *ret = t;
    return 0;
}

void exact_table_done(struct exact_table *t)
{
    if (t->split != t->touch)
        free(t->split);
    free(t->touch);
    free(t->pairs);
    free(t->expert);
    free(t->index);
    free(t->value);
    t->touch = NULL;
    t->split = NULL;
    t->pairs = NULL;
    t->expert = NULL;
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
    double tokens = t->trace[i].trace->tokens;

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

    for (uint32_t i = 0; i < (t->one_node ? t->terms : t->p->scenarios); i++) {
        double most = 0;

        for (uint32_t g = 0; g < c->ranks; g++) {
            double v = exact_value(t, set[g])[i];

            most = v > most ? v : most;
        }
        cost += i < t->p->scenarios ? most : most * (c->ranks - 1);
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
