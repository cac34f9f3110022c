/* A grouping like GRACE-MoE's (arXiv 2509.25041): experts that tokens choose together share a rank,
 * first by node, then by rank within the node, in groups of uneven size; then the experts of the
 * heaviest rank get copies in spare slots.
 *
 * Unlike there: groups come from a greedy start and exchanges that raise co-activation within
 * groups, not from spectral clustering; how uneven sizes may be (r) is chosen from a few values by
 * the objective, not at the knee of a curve; and copies share tokens as our copy choice has it. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement/baseline.h"
#include "placement/methods.h"

/* r: a group has (1 - r) to (1 + r) of its even part. */
static const double SLACKS[] = {0, 0.125, 0.25, 0.5};

#define MAX_ROUNDS 64 /* of exchanges; they end by themselves long before */

/* Experts of a set being divided into groups. */
struct split {
    uint32_t experts;   /* of the model: row length of pair */
    const double *pair; /* [experts][experts] co-activation */
    uint32_t n, groups;
    double slack;
    const uint16_t *expert; /* [n] the set */
    uint32_t least[PLAN_MAX_RANKS], most[PLAN_MAX_RANKS], size[PLAN_MAX_RANKS];
    uint16_t *group; /* [experts], of those in the set */
    double *pull;    /* [experts][groups] co-activation with a group's experts */
};

/* Sizes: even where `room` allows, and the bounds of what exchanges may make of them. */
static void set_sizes(struct split *s, const uint32_t *room)
{
    double even = (double)s->n / s->groups;
    uint64_t all = 0;

    for (uint32_t k = 0; k < s->groups; k++) {
        uint32_t most = (uint32_t)ceil(even * (1 + s->slack));

        s->most[k] = most < room[k] ? most : room[k];
        s->size[k] = 0;
        all += s->most[k];
    }
    for (uint32_t k = 0; k < s->groups; k++) {
        uint32_t least = (uint32_t)(even * (1 - s->slack));

        if (all < s->n)
            s->most[k] = room[k];
        s->least[k] = least < s->most[k] ? least : s->most[k];
    }
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t best = UINT32_MAX;

        for (uint32_t k = 0; k < s->groups; k++)
            if (s->size[k] < s->most[k] && (best == UINT32_MAX || s->size[k] < s->size[best]))
                best = k;
        s->size[best]++;
    }
}

/* expert joins (sign 1) or leaves (-1) group k: what it adds to everybody's pull. */
static void pull(struct split *s, uint32_t expert, uint32_t k, double sign)
{
    const double *with = s->pair + (size_t)expert * s->experts;

    for (uint32_t i = 0; i < s->n; i++)
        s->pull[(size_t)s->expert[i] * s->groups + k] += sign * with[s->expert[i]];
}

static void move(struct split *s, uint32_t expert, uint32_t to)
{
    pull(s, expert, s->group[expert], -1);
    pull(s, expert, to, 1);
    s->group[expert] = (uint16_t)to;
}

/* One group after the other: the free expert of most co-activation with other free ones, then
 * whichever is pulled most. */
static void start(struct split *s)
{
    const uint16_t none = UINT16_MAX;

    for (uint32_t i = 0; i < s->n; i++) {
        s->group[s->expert[i]] = none;
        for (uint32_t k = 0; k < s->groups; k++)
            s->pull[(size_t)s->expert[i] * s->groups + k] = 0;
    }
    for (uint32_t k = 0; k < s->groups; k++)
        for (uint32_t placed = 0; placed < s->size[k]; placed++) {
            uint32_t best = UINT32_MAX;
            double most = -1;

            for (uint32_t i = 0; i < s->n; i++) {
                uint32_t e = s->expert[i];
                double value = s->pull[(size_t)e * s->groups + k];

                if (s->group[e] != none)
                    continue;
                for (uint32_t j = 0; !placed && j < s->n; j++)
                    if (s->group[s->expert[j]] == none)
                        value += s->pair[(size_t)e * s->experts + s->expert[j]];
                if (value > most) {
                    most = value;
                    best = e;
                }
            }
            s->group[best] = (uint16_t)k;
            pull(s, best, k, 1);
        }
}

/* The best move of expert e, or exchange with another, that raises co-activation within groups. */
static bool improve(struct split *s, uint32_t e, double at_least)
{
    uint32_t from = s->group[e], best_to = 0, best_with = UINT32_MAX;
    const double *pull_e = s->pull + (size_t)e * s->groups;
    double best = at_least;

    for (uint32_t k = 0; k < s->groups && s->size[from] > s->least[from]; k++)
        if (k != from && s->size[k] < s->most[k] && pull_e[k] - pull_e[from] > best) {
            best = pull_e[k] - pull_e[from];
            best_to = k;
            best_with = e;
        }
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t f = s->expert[i], k = s->group[f];
        const double *pull_f = s->pull + (size_t)f * s->groups;
        double gain = pull_e[k] - pull_e[from] + pull_f[from] - pull_f[k] -
                      2 * s->pair[(size_t)e * s->experts + f];

        if (k != from && gain > best) {
            best = gain;
            best_to = k;
            best_with = f;
        }
    }
    if (best_with == UINT32_MAX)
        return false;
    move(s, e, best_to);
    if (best_with == e) {
        s->size[from]--;
        s->size[best_to]++;
    } else
        move(s, best_with, from);
    return true;
}

static void divide(struct split *s, const uint32_t *room)
{
    bool moved = true;
    double all = 0;

    set_sizes(s, room);
    start(s);
    for (uint32_t i = 0; i < s->n; i++)
        for (uint32_t j = 0; j < s->n; j++)
            all += s->pair[(size_t)s->expert[i] * s->experts + s->expert[j]];
    for (uint32_t round = 0; moved && round < MAX_ROUNDS; round++) {
        moved = false;
        for (uint32_t i = 0; i < s->n; i++) /* more than rounding can give */
            moved = improve(s, s->expert[i], 1e-12 * all) || moved;
    }
}

struct grace {
    const struct place_problem *p;
    double slack;
    double *pair;                /* [experts][experts] */
    double *load;                /* [layers][experts] */
    double *pull;                /* [experts][ranks] */
    uint16_t *set, *node, *rank; /* [experts] */
    uint8_t *held;               /* [layers][experts][ranks] */
};

/* How often two experts are chosen by the same token, over the scenarios that have tokens. */
static void count_pairs(struct grace *g, uint32_t layer)
{
    const struct place_problem *p = g->p;

    memset(g->pair, 0, (size_t)p->experts * p->experts * sizeof *g->pair);
    for (uint32_t i = 0; i < p->scenarios; i++) {
        const struct trace *t = p->scenario[i].trace;
        double weight = t ? p->scenario[i].share / t->tokens : 0;

        for (uint32_t token = 0; t && token < t->tokens; token++) {
            const uint16_t *chosen = trace_at(t, token, layer);

            for (uint32_t a = 0; a < t->topk; a++)
                for (uint32_t b = 0; b < t->topk; b++)
                    if (a != b)
                        g->pair[(size_t)chosen[a] * p->experts + chosen[b]] += weight;
        }
    }
}

/* Experts of the set into the ranks first .. end - 1. */
static void divide_ranks(struct grace *g, struct split *s, uint32_t first, uint32_t end)
{
    s->groups = end - first;
    s->group = g->rank;
    divide(s, g->p->cluster.slots + first);
    for (uint32_t i = 0; i < s->n; i++)
        g->rank[s->expert[i]] = (uint16_t)(g->rank[s->expert[i]] + first);
}

static void group_layer(struct grace *g)
{
    const struct cluster *c = &g->p->cluster;
    struct split s = {.experts = g->p->experts, .pair = g->pair, .expert = g->set, .pull = g->pull};
    uint32_t room[PLAN_MAX_RANKS] = {0};

    for (uint32_t e = 0; e < s.experts; e++)
        g->set[e] = (uint16_t)e;
    s.n = s.experts;
    if (c->nodes == 1) {
        divide_ranks(g, &s, 0, c->ranks);
        return;
    }
    for (uint32_t r = 0; r < c->ranks; r++)
        room[c->node[r]] += c->slots[r];
    s.groups = c->nodes;
    s.group = g->node;
    divide(&s, room);
    for (uint32_t m = 0, first = 0, end; m < c->nodes; m++, first = end) {
        for (end = first; end < c->ranks && c->node[end] == m;)
            end++;
        s.n = 0;
        for (uint32_t e = 0; e < s.experts; e++)
            if (g->node[e] == m)
                g->set[s.n++] = (uint16_t)e;
        if (s.n)
            divide_ranks(g, &s, first, end);
    }
}

/* One layer's ranks while copies are made. */
struct copying {
    double sum[PLAN_MAX_RANKS]; /* load */
    uint32_t used[PLAN_MAX_RANKS];
};

/* Up to n copies of an expert, on the least loaded ranks with a free slot; how many. */
static uint32_t copy_expert(const struct cluster *c, struct copying *k, uint8_t *held, uint32_t n,
                            uint32_t *to)
{
    for (uint32_t made = 0; made < n; made++) {
        uint32_t best = UINT32_MAX;

        for (uint32_t r = 0; r < c->ranks; r++)
            if (k->used[r] < c->slots[r] && !held[r] &&
                (best == UINT32_MAX || k->sum[r] < k->sum[best]))
                best = r;
        if (best == UINT32_MAX)
            return made;
        held[best] = 1;
        k->used[best]++;
        to[made] = best;
    }
    return n;
}

/* The heaviest rank's experts, heaviest first, to as many other ranks as its load is times the
 * mean; until it has no more than the mean. */
static void replicate(const struct grace *g, const double *load, uint8_t *held)
{
    const struct cluster *c = &g->p->cluster;
    struct copying k = {0};
    double mean = 0;
    uint32_t worst = 0, copies, experts = g->p->experts, to[PLAN_MAX_RANKS];
    bool done[PLACE_MAX_EXPERTS] = {false};

    for (uint32_t e = 0; e < experts; e++) {
        k.sum[g->rank[e]] += load[e];
        k.used[g->rank[e]]++;
        mean += load[e] / c->ranks;
    }
    for (uint32_t r = 1; r < c->ranks; r++)
        worst = k.sum[r] > k.sum[worst] ? r : worst;
    copies = k.sum[worst] >= 2 * mean && mean > 0 ? (uint32_t)(k.sum[worst] / mean) : 1;
    copies = copies < c->ranks - 1 ? copies : c->ranks - 1;
    while (k.sum[worst] > mean) {
        uint32_t n, hot = UINT32_MAX;

        for (uint32_t e = 0; e < experts; e++)
            if (g->rank[e] == worst && !done[e] && (hot == UINT32_MAX || load[e] > load[hot]))
                hot = e;
        if (hot == UINT32_MAX)
            return;
        done[hot] = true;
        n = copy_expert(c, &k, held + (size_t)hot * c->ranks, copies, to);
        for (uint32_t i = 0; i < n; i++)
            k.sum[to[i]] += load[hot] / (n + 1);
        k.sum[worst] -= load[hot] * n / (n + 1);
    }
}

static void grace_done(struct grace *g)
{
    free(g->pair);
    free(g->load);
    free(g->pull);
    free(g->set);
    free(g->node);
    free(g->rank);
    free(g->held);
}

static int grace_init(struct grace *g, struct mt_err *reterr)
{
    size_t experts = g->p->experts, ranks = g->p->cluster.ranks;
    int rc = baseline_loads(g->p, &g->load, reterr);

    g->pair = calloc(experts * experts, sizeof *g->pair);
    g->pull = calloc(experts * ranks, sizeof *g->pull);
    g->set = calloc(experts, sizeof *g->set);
    g->node = calloc(experts, sizeof *g->node);
    g->rank = calloc(experts, sizeof *g->rank);
    g->held = calloc(g->p->layers * experts * ranks, 1);
    if (!rc && (!g->pair || !g->pull || !g->set || !g->node || !g->rank || !g->held))
        rc = mt_error(reterr, MT_ENOMEM, "grace: no memory for %zu experts", experts);
    if (rc)
        grace_done(g);
    return rc;
}

/* The plan of one r, and what it is worth. */
static int solve(struct grace *g, struct place_result *ret, struct mt_err *reterr)
{
    const struct place_problem *p = g->p;
    struct plan plan;
    char note[256];
    int rc;

    memset(g->held, 0, (size_t)p->layers * p->experts * p->cluster.ranks);
    for (uint32_t l = 0; l < p->layers; l++) {
        uint8_t *held = g->held + (size_t)l * p->experts * p->cluster.ranks;

        count_pairs(g, l);
        group_layer(g);
        for (uint32_t e = 0; e < p->experts; e++)
            held[(size_t)e * p->cluster.ranks + g->rank[e]] = 1;
        replicate(g, g->load + (size_t)l * p->experts, held);
    }
    rc = plan_from_held(p->layers, p->experts, p->cluster.ranks, g->held, &plan, reterr);
    if (rc)
        return rc;
    snprintf(note, sizeof note,
             "GRACE-like: exchanges instead of spectral clustering; group sizes within %g %% of "
             "even, the best of four; copies of the heaviest rank's experts",
             100 * g->slack);
    return baseline_result(p, &plan, "grace", note, ret, reterr);
}

int grace_solve(const struct place_problem *p, const struct place_run *run,
                struct place_result *ret, struct mt_err *reterr)
{
    struct grace g = {.p = p};
    struct place_result best = {0}, r;
    uint32_t sizes[PLAN_MAX_RANKS];
    bool tokens = false;
    int rc = baseline_sizes(p, sizes, reterr); /* the slots suffice */

    for (uint32_t i = 0; i < p->scenarios; i++)
        tokens = tokens || p->scenario[i].trace;
    if (!rc && !tokens)
        rc = mt_error(reterr, MT_EUNSUPPORTED,
                      "grace: co-activation needs token paths, and only loads are known");
    if (!rc)
        rc = grace_init(&g, reterr);
    if (rc)
        return rc;
    for (size_t i = 0; !rc && i < sizeof SLACKS / sizeof *SLACKS; i++) {
        if (i && run->stop && run->stop(run->user))
            break;
        g.slack = SLACKS[i];
        rc = solve(&g, &r, reterr);
        if (rc || (i && r.objective >= best.objective)) {
            if (!rc)
                plan_done(&r.plan);
            continue;
        }
        plan_done(&best.plan);
        best = r;
    }
    grace_done(&g);
    if (rc) {
        plan_done(&best.plan);
        return rc;
    }
    *ret = best;
    return 0;
}
