#include "placement/fluid.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/link.h"
#include "placement/route.h"

/* What a token does from a home, or from any of several homes that are alike to it; sparse. A
 * probability p of each: draws of different experts are independent. */
struct visit {
    uint32_t pairs, ranks, nodes, homes; /* homes: for how many it was counted */
    struct {
        uint32_t at; /* expert * ranks + rank */
        double p;
    } pair[TRACE_MAX_TOPK * PLAN_MAX_RANKS];
    uint16_t rank[PLAN_MAX_RANKS], node[PLAN_MAX_RANKS];    /* where something may be served */
    double none[PLAN_MAX_RANKS], node_none[PLAN_MAX_RANKS]; /* of each rank: nothing is */
    double served[PLAN_MAX_RANKS];                          /* of each rank: experts */
    double node_served[PLAN_MAX_RANKS];
};

struct fluid {
    const struct place_problem *p;
    double *served;  /* [experts][ranks] tokens of an expert that a rank serves */
    double *vectors; /* [home][rank] */
    double *combine; /* [home][rank] */
    double *network; /* [home's node][node] */
    double *back;    /* [max(ranks, nodes)^2] scratch: transposed */
    double load[PLAN_MAX_RANKS];
    double homes[PLAN_MAX_RANKS];                          /* tokens that live there */
    double touched[PLAN_MAX_RANKS], pairs[PLAN_MAX_RANKS]; /* of tokens to whom homes are alike */
    double node_touched[PLAN_MAX_RANKS];
    double anywhere; /* how many those are */
    double weight;   /* of what was counted, in tokens */
    double ranks, remote, local;
    struct visit some, own;
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
    f->weight = f->anywhere = f->ranks = f->remote = f->local = 0;
}

static void visit_add(struct visit *v, const struct cluster *c, uint32_t expert, uint32_t rank,
                      double p)
{
    uint32_t node = c->node[rank];

    if (p <= 0)
        return;
    v->pair[v->pairs].at = expert * c->ranks + rank;
    v->pair[v->pairs++].p = p;
    if (v->served[rank] <= 0) {
        v->none[rank] = 1;
        v->rank[v->ranks++] = (uint16_t)rank;
    }
    if (v->node_served[node] <= 0) {
        v->node_none[node] = 1;
        v->node[v->nodes++] = (uint16_t)node;
    }
    v->served[rank] += p;
    v->none[rank] *= 1 - p;
    v->node_served[node] += p;
}

/* A draw goes to one of several copies on a node: their probabilities add up. */
static void visit_draw(struct visit *v, const struct cluster *c, const struct plan *plan,
                       size_t pair, uint32_t home)
{
    uint32_t first = plan->start[pair], n = plan->start[pair + 1] - first;
    double node[PLAN_MAX_RANKS];

    memset(node, 0, c->nodes * sizeof *node);
    for (uint32_t k = 0; k < n; k++) {
        double p = route_share(plan, c, pair, home, k);

        visit_add(v, c, (uint32_t)(pair % plan->experts), plan->rank[first + k], p);
        node[c->node[plan->rank[first + k]]] += p;
    }
    for (uint32_t m = 0; m < c->nodes; m++)
        if (node[m] > 0)
            v->node_none[m] *= fmax(0, 1 - node[m]);
}

/* at: as route_settle says for the home. */
static void visit_fill(struct visit *v, const struct cluster *c, const struct plan *plan,
                       uint32_t layer, const uint16_t *chosen, const uint16_t *at, uint32_t topk,
                       uint32_t home)
{
    for (uint32_t i = 0; i < topk; i++) {
        if (at[i] == ROUTE_DRAWN) {
            visit_draw(v, c, plan, (size_t)layer * plan->experts + chosen[i], home);
        } else {
            visit_add(v, c, chosen[i], at[i], 1);
            v->node_none[c->node[at[i]]] = 0;
        }
    }
}

/* For one more home. */
static void visit_count(struct fluid *f, struct visit *v, uint32_t home)
{
    const struct cluster *c = &f->p->cluster;
    double *row = f->vectors + (size_t)home * c->ranks,
           *back = f->combine + (size_t)home * c->ranks,
           *network = f->network + (size_t)c->node[home] * c->nodes;

    for (uint32_t i = 0; i < v->ranks; i++) {
        uint32_t g = v->rank[i];
        double some = 1 - v->none[g];

        f->ranks += some;
        if (g == home) {
            f->local += v->served[g];
            continue;
        }
        f->remote += some;
        row[g] += some;
        back[g] += c->exact_combine ? v->served[g] : some;
    }
    for (uint32_t i = 0; i < v->nodes; i++)
        if (v->node[i] != c->node[home])
            network[v->node[i]] += 1 - v->node_none[v->node[i]];
    f->homes[home]++;
    f->weight++;
    v->homes++;
}

/* For every home: see spread. */
static void visit_count_anywhere(struct fluid *f, struct visit *v)
{
    for (uint32_t i = 0; i < v->ranks; i++) {
        f->touched[v->rank[i]] += 1 - v->none[v->rank[i]];
        f->pairs[v->rank[i]] += v->served[v->rank[i]];
    }
    for (uint32_t i = 0; i < v->nodes; i++)
        f->node_touched[v->node[i]] += 1 - v->node_none[v->node[i]];
    f->anywhere++;
    v->homes = f->p->cluster.ranks;
}

/* Counts the pairs of all its homes, and empties it. */
static void visit_end(struct fluid *f, struct visit *v)
{
    for (uint32_t i = 0; i < v->pairs; i++)
        f->served[v->pair[i].at] += v->homes * v->pair[i].p;
    for (uint32_t i = 0; i < v->ranks; i++)
        v->served[v->rank[i]] = 0;
    for (uint32_t i = 0; i < v->nodes; i++)
        v->node_served[v->node[i]] = 0;
    v->pairs = v->ranks = v->nodes = v->homes = 0;
}

/* What visit_count_anywhere counted, for each home in turn. */
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
        f->homes[h] += f->anywhere;
        f->weight += f->anywhere;
    }
}

/* A token that lives on `home`. */
static void add_at(struct fluid *f, const struct plan *plan, uint32_t layer, const uint16_t *chosen,
                   uint32_t home)
{
    uint16_t at[TRACE_MAX_TOPK];

    route_settle(plan, layer, chosen, f->p->topk, home, at);
    visit_fill(&f->own, &f->p->cluster, plan, layer, chosen, at, f->p->topk, home);
    visit_count(f, &f->own, home);
    visit_end(f, &f->own);
}

/* held[ranks]: has a copy of a chosen expert that has several; returns how many of these there are.
 * Homes that have none differ by their nodes alone. */
static uint32_t find_copies(const struct plan *plan, uint32_t layer, const uint16_t *chosen,
                            uint32_t topk, bool *held)
{
    const uint32_t *start = plan->start + (size_t)layer * plan->experts;
    uint32_t several = 0;

    for (uint32_t i = 0; i < topk; i++) {
        uint32_t first = start[chosen[i]], end = start[chosen[i] + 1];

        if (end - first < 2)
            continue;
        if (!several++)
            memset(held, 0, plan->ranks * sizeof *held);
        for (uint32_t k = first; k < end; k++)
            held[plan->rank[k]] = true;
    }
    return several;
}

/* A token of which a part lives on each rank. */
static void add_everywhere(struct fluid *f, const struct plan *plan, uint32_t layer,
                           const uint16_t *chosen)
{
    const struct cluster *c = &f->p->cluster;
    uint32_t drawn = 0, node = c->nodes;
    bool held[PLAN_MAX_RANKS];
    uint16_t at[TRACE_MAX_TOPK];

    if (!find_copies(plan, layer, chosen, f->p->topk, held)) {
        route_settle(plan, layer, chosen, f->p->topk, 0, at);
        visit_fill(&f->some, c, plan, layer, chosen, at, f->p->topk, 0);
        visit_count_anywhere(f, &f->some);
        visit_end(f, &f->some);
        return;
    }
    for (uint32_t h = 0; h < c->ranks; h++) {
        if (held[h]) {
            add_at(f, plan, layer, chosen, h);
            continue;
        }
        if (node == c->nodes || (drawn && node != c->node[h])) {
            visit_end(f, &f->some);
            drawn = route_settle(plan, layer, chosen, f->p->topk, h, at);
            visit_fill(&f->some, c, plan, layer, chosen, at, f->p->topk, h);
            node = c->node[h];
        }
        visit_count(f, &f->some, h);
    }
    visit_end(f, &f->some);
}

static void count_tokens(struct fluid *f, const struct plan *plan, const struct trace *t,
                         const struct fluid_tokens *tokens, uint32_t layer)
{
    for (uint32_t i = 0; i < tokens->n; i++) {
        const uint16_t *chosen = trace_at(t, tokens->token ? tokens->token[i] : i, layer);

        if (tokens->home)
            add_at(f, plan, layer, chosen, tokens->home[i]);
        else
            add_everywhere(f, plan, layer, chosen);
    }
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
