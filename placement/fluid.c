#include "placement/fluid.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/link.h"
#include "placement/route.h"

struct fluid {
    const struct place_problem *p;
    double *served;  /* [experts][ranks] tokens of an expert that a rank serves */
    double *vectors; /* [home][rank] */
    double *combine; /* [home][rank] */
    double *network; /* [home's node][node] */
    double *back;    /* [max(ranks, nodes)^2] scratch: transposed */
    double load[PLAN_MAX_RANKS];
    double homes[PLAN_MAX_RANKS];                          /* tokens that live there */
    double touched[PLAN_MAX_RANKS], pairs[PLAN_MAX_RANKS]; /* one copy each: for every home alike */
    double node_touched[PLAN_MAX_RANKS];
    double weight; /* of what was counted, in tokens */
    double ranks, remote, local;
};

int fluid_new(const struct place_problem *p, struct fluid **ret, struct mt_err *reterr)
{
    size_t ranks = p->cluster.ranks, nodes = p->cluster.nodes;
    struct fluid *f = calloc(1, sizeof *f);

    if (!f)
        goto no_memory;
    f->p = p;
    f->served = calloc(p->experts * ranks, sizeof *f->served);
    f->vectors = calloc(ranks * ranks, sizeof *f->vectors);
    f->combine = calloc(ranks * ranks, sizeof *f->combine);
    f->network = calloc(nodes * nodes, sizeof *f->network);
    f->back = calloc(ranks * ranks + nodes * nodes, sizeof *f->back);
    if (!f->served || !f->vectors || !f->combine || !f->network || !f->back)
        goto no_memory;
    *ret = f;
    return 0;
no_memory:
    fluid_free(f);
    return mt_error(reterr, MT_ENOMEM, "score: no memory for %zu ranks", ranks);
}

void fluid_free(struct fluid *f)
{
    if (!f)
        return;
    free(f->served);
    free(f->vectors);
    free(f->combine);
    free(f->network);
    free(f->back);
    free(f);
}

static void clear(struct fluid *f)
{
    size_t ranks = f->p->cluster.ranks, nodes = f->p->cluster.nodes;

    memset(f->served, 0, f->p->experts * ranks * sizeof *f->served);
    memset(f->vectors, 0, ranks * ranks * sizeof *f->vectors);
    memset(f->combine, 0, ranks * ranks * sizeof *f->combine);
    memset(f->network, 0, nodes * nodes * sizeof *f->network);
    memset(f->homes, 0, sizeof f->homes);
    memset(f->touched, 0, sizeof f->touched);
    memset(f->pairs, 0, sizeof f->pairs);
    memset(f->node_touched, 0, sizeof f->node_touched);
    f->weight = f->ranks = f->remote = f->local = 0;
}

static bool one_copy_each(const struct plan *plan, uint32_t layer)
{
    const uint32_t *start = plan->start + (size_t)layer * plan->experts;

    return start[plan->experts] - start[0] == plan->experts;
}

/* Bits of what a token's earlier experts have touched. */
struct seen {
    bool rank, node;
};

static struct seen seen_before(const struct cluster *c, const uint16_t *at, uint32_t i)
{
    struct seen s = {false, false};

    for (uint32_t k = 0; k < i; k++) {
        s.rank |= at[k] == at[i];
        s.node |= c->node[at[k]] == c->node[at[i]];
    }
    return s;
}

/* A token that lives on `home`. */
static void add_at(struct fluid *f, const uint16_t *chosen, const uint16_t *at, uint32_t home)
{
    const struct cluster *c = &f->p->cluster;
    double *row = f->vectors + (size_t)home * c->ranks,
           *back = f->combine + (size_t)home * c->ranks;

    for (uint32_t i = 0; i < f->p->topk; i++) {
        struct seen s = seen_before(c, at, i);

        f->served[(size_t)chosen[i] * c->ranks + at[i]]++;
        f->ranks += !s.rank;
        f->local += at[i] == home;
        if (at[i] == home)
            continue;
        f->remote += !s.rank;
        row[at[i]] += !s.rank;
        back[at[i]] += !s.rank || c->exact_combine;
        if (!s.node && c->node[at[i]] != c->node[home])
            f->network[(size_t)c->node[home] * c->nodes + c->node[at[i]]]++;
    }
    f->homes[home]++;
    f->weight++;
}

/* Probabilities that a token with draws goes to ranks and nodes. */
struct chances {
    double none[PLAN_MAX_RANKS], node_none[PLAN_MAX_RANKS]; /* no expert is served there */
    double pairs[PLAN_MAX_RANKS];                           /* experts served there */
};

/* An expert of a token of `home`: at a rank, or drawn (ROUTE_DRAWN). */
static void add_chance(struct fluid *f, const struct plan *plan, size_t pair, uint16_t at,
                       uint32_t home, struct chances *ch)
{
    const struct cluster *c = &f->p->cluster;
    uint32_t first = plan->start[pair], n = plan->start[pair + 1] - first;
    double *served = f->served + pair % plan->experts * c->ranks;
    double node[PLAN_MAX_RANKS] = {0};

    for (uint32_t k = 0; k < n; k++) {
        uint32_t g = plan->rank[first + k];
        double p = at == ROUTE_DRAWN ? route_share(plan, c, pair, home, k) : at == g;

        served[g] += p;
        ch->pairs[g] += p;
        ch->none[g] *= 1 - p;
        node[c->node[g]] += p;
    }
    for (uint32_t m = 0; m < c->nodes; m++)
        ch->node_none[m] *= 1 - fmin(1, node[m]);
}

/* A token that lives on `home` and has draws: its expectation; draws of different experts are
 * independent. */
static void add_drawn(struct fluid *f, const struct plan *plan, uint32_t layer,
                      const uint16_t *chosen, const uint16_t *at, uint32_t home)
{
    const struct cluster *c = &f->p->cluster;
    double *row = f->vectors + (size_t)home * c->ranks,
           *back = f->combine + (size_t)home * c->ranks,
           *network = f->network + (size_t)c->node[home] * c->nodes;
    struct chances ch = {.pairs = {0}};

    for (uint32_t g = 0; g < c->ranks; g++)
        ch.none[g] = ch.node_none[g] = 1;
    for (uint32_t i = 0; i < f->p->topk; i++)
        add_chance(f, plan, (size_t)layer * plan->experts + chosen[i], at[i], home, &ch);
    f->local += ch.pairs[home];
    for (uint32_t g = 0; g < c->ranks; g++) {
        double some = 1 - ch.none[g];

        f->ranks += some;
        if (g == home)
            continue;
        f->remote += some;
        row[g] += some;
        back[g] += c->exact_combine ? ch.pairs[g] : some;
    }
    for (uint32_t m = 0; m < c->nodes; m++)
        if (m != c->node[home])
            network[m] += 1 - ch.node_none[m];
    f->homes[home]++;
    f->weight++;
}

/* A token whose copies do not depend on its home. */
static void add_anywhere(struct fluid *f, const uint16_t *chosen, const uint16_t *at)
{
    const struct cluster *c = &f->p->cluster;

    for (uint32_t i = 0; i < f->p->topk; i++) {
        struct seen s = seen_before(c, at, i);

        f->served[(size_t)chosen[i] * c->ranks + at[i]] += c->ranks;
        f->touched[at[i]] += !s.rank;
        f->pairs[at[i]]++;
        f->node_touched[c->node[at[i]]] += !s.node;
    }
    f->weight += c->ranks;
}

/* What add_anywhere counted, for each home in turn. */
static void spread(struct fluid *f)
{
    const struct cluster *c = &f->p->cluster;

    for (uint32_t h = 0; h < c->ranks; h++) {
        for (uint32_t g = 0; g < c->ranks; g++) {
            f->ranks += f->touched[g];
            if (g == h) {
                f->local += f->pairs[g];
                continue;
            }
            f->remote += f->touched[g];
            f->vectors[(size_t)h * c->ranks + g] += f->touched[g];
            f->combine[(size_t)h * c->ranks + g] += c->exact_combine ? f->pairs[g] : f->touched[g];
        }
        for (uint32_t m = 0; m < c->nodes; m++)
            if (m != c->node[h])
                f->network[(size_t)c->node[h] * c->nodes + m] += f->node_touched[m];
        f->homes[h] += f->weight / c->ranks;
    }
}

static void count_tokens(struct fluid *f, const struct plan *plan, const struct trace *t,
                         const struct fluid_tokens *tokens, uint32_t layer)
{
    const struct cluster *c = &f->p->cluster;
    bool fixed = one_copy_each(plan, layer);
    uint16_t at[TRACE_MAX_TOPK];

    for (uint32_t i = 0; i < tokens->n; i++) {
        uint32_t token = tokens->token ? tokens->token[i] : i;
        const uint16_t *chosen = trace_at(t, token, layer);
        uint32_t first = tokens->home ? tokens->home[i] : 0;
        uint32_t last = tokens->home || fixed ? first : c->ranks - 1;

        for (uint32_t h = first; h <= last; h++) {
            if (route_settle(plan, layer, chosen, t->topk, h, at))
                add_drawn(f, plan, layer, chosen, at, h);
            else if (tokens->home || !fixed)
                add_at(f, chosen, at, h);
            else
                add_anywhere(f, chosen, at);
        }
    }
    if (fixed && !tokens->home)
        spread(f);
}

/* Loads alone: every home alike; what other experts force is not known. */
static void count_loads(struct fluid *f, const struct plan *plan, const double *load,
                        uint32_t layer)
{
    const struct cluster *c = &f->p->cluster;

    for (uint32_t e = 0; e < f->p->experts; e++) {
        size_t pair = (size_t)layer * f->p->experts + e;
        uint32_t first = plan->start[pair], n = plan->start[pair + 1] - first;

        for (uint32_t h = 0; h < c->ranks; h++)
            for (uint32_t k = 0; k < n; k++)
                f->served[(size_t)e * c->ranks + plan->rank[first + k]] +=
                    load[pair] * route_share(plan, c, pair, h, k);
    }
    for (uint32_t h = 0; h < c->ranks; h++)
        f->homes[h] = 1;
    f->weight = c->ranks;
}

/* 1 - (1 - p)^n: the expert has a token among n. */
static double active(double p, double n)
{
    return p >= 1 ? 1 : -expm1(n * log1p(-p));
}

static double compute_seconds(struct fluid *f, double n, struct step_figures *figures)
{
    const struct cluster *c = &f->p->cluster;
    double worst = 0, most = 0, total = 0, busiest = 0;

    for (uint32_t g = 0; g < c->ranks; g++) {
        double experts = 0, t;

        f->load[g] = 0;
        for (uint32_t e = 0; e < f->p->experts; e++) {
            double p = f->served[(size_t)e * c->ranks + g] / f->weight;

            if (p <= 0)
                continue;
            f->load[g] += n * p;
            experts += active(p, n);
        }
        t = c->token_expert * f->load[g] + c->active_expert * experts;
        worst = fmax(worst, t);
        most = fmax(most, f->load[g]);
        busiest = fmax(busiest, experts);
        total += f->load[g];
    }
    figures->load += total > 0 ? most * c->ranks / total : 1;
    figures->active += busiest;
    return worst;
}

static void scale(double *x, size_t n, double by)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= by;
}

static void transpose(double *to, const double *from, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n; k++)
            to[(size_t)k * n + i] = from[(size_t)i * n + k];
}

static void exchange_seconds(struct fluid *f, double n, struct step_terms *t)
{
    const struct cluster *c = &f->p->cluster;
    size_t ranks = c->ranks, nodes = c->nodes;
    double by = n / f->weight, *back = f->back, *network_back = back + ranks * ranks;

    scale(f->vectors, ranks * ranks, by);
    scale(f->combine, ranks * ranks, by);
    scale(f->network, nodes * nodes, by);
    transpose(back, f->combine, c->ranks);
    transpose(network_back, f->network, c->nodes);
    t->dispatch +=
        link_seconds(c, f->vectors, c->two_level ? f->network : NULL, c->dispatch_bytes, NULL);
    t->combine += link_seconds(c, back, c->two_level && !c->exact_combine ? network_back : NULL,
                               c->combine_bytes, NULL);
}

static double dense_seconds(const struct fluid *f, double n)
{
    const struct cluster *c = &f->p->cluster;
    double worst = 0;

    for (uint32_t h = 0; h < c->ranks; h++)
        if (f->homes[h] > 0)
            worst = fmax(worst, c->dense_step + c->dense_token * n * f->homes[h] / f->weight);
    return worst;
}

void fluid_layer(struct fluid *f, const struct plan *plan, const struct place_scenario *s,
                 const struct fluid_tokens *tokens, uint32_t layer, struct step_terms *ret,
                 struct step_figures *ret_figures)
{
    clear(f);
    if (s->trace)
        count_tokens(f, plan, s->trace, tokens, layer);
    else
        count_loads(f, plan, s->load, layer);
    if (f->weight <= 0)
        return;
    ret_figures->ranks += f->ranks / f->weight;
    ret_figures->remote += f->remote / f->weight;
    ret_figures->local += f->local / (f->weight * f->p->topk);
    ret->dense += dense_seconds(f, s->tokens);
    ret->compute += compute_seconds(f, s->tokens, ret_figures);
    if (s->trace)
        exchange_seconds(f, s->tokens, ret);
}

const double *fluid_loads(const struct fluid *f)
{
    return f->load;
}

const double *fluid_traffic(const struct fluid *f)
{
    return f->vectors;
}
