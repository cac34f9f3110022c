#include "placement/step.h"

#include <stdlib.h>
#include <string.h>

#include "placement/link.h"
#include "placement/route.h"

struct step {
    const struct place_problem *p;
    const struct plan *plan;
    uint32_t tokens;
    uint32_t home[PLAN_MAX_RANKS]; /* n_g */
    uint32_t *load;                /* [layers][ranks] token-expert pairs */
    uint32_t *active;              /* [layers][ranks] experts with a token */
    uint64_t *served;              /* bits of [layers][experts][ranks]: counted in active */
    uint32_t *dispatch;            /* [layers][home][rank] vectors */
    uint32_t *combine;             /* [layers][home][rank] vectors that come back */
    uint32_t *network;             /* [layers][home's node][node] vectors, one a node */
    uint64_t *sums;                /* [layers][SUMS] */
    double *scratch;               /* [ranks][ranks] + [nodes][nodes] */
};

enum { SUM_RANKS, SUM_REMOTE, SUM_LOCAL, SUMS };

static size_t served_words(const struct place_problem *p)
{
    return ((size_t)p->layers * p->experts * p->cluster.ranks + 63) / 64;
}

int step_new(const struct place_problem *p, struct step **ret, struct mt_err *reterr)
{
    size_t ranks = p->cluster.ranks, nodes = p->cluster.nodes, layers = p->layers;
    struct step *s = calloc(1, sizeof *s);

    if (!s)
        goto no_memory;
    s->p = p;
    s->load = calloc(layers * ranks, sizeof *s->load);
    s->active = calloc(layers * ranks, sizeof *s->active);
    s->served = calloc(served_words(p), sizeof *s->served);
    s->dispatch = calloc(layers * ranks * ranks, sizeof *s->dispatch);
    s->combine = calloc(layers * ranks * ranks, sizeof *s->combine);
    s->network = calloc(layers * nodes * nodes, sizeof *s->network);
    s->sums = calloc(layers * SUMS, sizeof *s->sums);
    s->scratch = calloc(ranks * ranks + nodes * nodes, sizeof *s->scratch);
    if (!s->load || !s->active || !s->served || !s->dispatch || !s->combine || !s->network ||
        !s->sums || !s->scratch)
        goto no_memory;
    *ret = s;
    return 0;
no_memory:
    step_free(s);
    return mt_error(reterr, MT_ENOMEM, "step: no memory for %zu layers of %zu ranks", layers,
                    ranks);
}

void step_free(struct step *s)
{
    if (!s)
        return;
    free(s->load);
    free(s->active);
    free(s->served);
    free(s->dispatch);
    free(s->combine);
    free(s->network);
    free(s->sums);
    free(s->scratch);
    free(s);
}

void step_begin(struct step *s, const struct plan *plan)
{
    size_t ranks = s->p->cluster.ranks, nodes = s->p->cluster.nodes, layers = s->p->layers;

    s->plan = plan;
    s->tokens = 0;
    memset(s->home, 0, sizeof s->home);
    memset(s->load, 0, layers * ranks * sizeof *s->load);
    memset(s->active, 0, layers * ranks * sizeof *s->active);
    memset(s->served, 0, served_words(s->p) * sizeof *s->served);
    memset(s->dispatch, 0, layers * ranks * ranks * sizeof *s->dispatch);
    memset(s->combine, 0, layers * ranks * ranks * sizeof *s->combine);
    memset(s->network, 0, layers * nodes * nodes * sizeof *s->network);
    memset(s->sums, 0, layers * SUMS * sizeof *s->sums);
}

/* One token in one layer: where its experts are served, and what travels for it. */
static void add_layer(struct step *s, uint32_t layer, const uint16_t *chosen, uint32_t home,
                      uint32_t position)
{
    const struct cluster *c = &s->p->cluster;
    size_t row = ((size_t)layer * c->ranks + home) * c->ranks;
    uint16_t at[TRACE_MAX_TOPK];
    uint64_t *sums = s->sums + (size_t)layer * SUMS;

    route_choose(s->plan, c, layer, chosen, s->p->topk, home, position, at);
    for (uint32_t i = 0; i < s->p->topk; i++) {
        size_t bit = ((size_t)layer * s->p->experts + chosen[i]) * c->ranks + at[i];
        bool rank_is_new = true, node_is_new = c->node[at[i]] != c->node[home];

        s->load[(size_t)layer * c->ranks + at[i]]++;
        if (!(s->served[bit / 64] >> (bit % 64) & 1)) {
            s->served[bit / 64] |= 1ull << (bit % 64);
            s->active[(size_t)layer * c->ranks + at[i]]++;
        }
        for (uint32_t k = 0; k < i; k++) {
            rank_is_new &= at[k] != at[i];
            node_is_new &= c->node[at[k]] != c->node[at[i]];
        }
        sums[SUM_RANKS] += rank_is_new;
        sums[SUM_LOCAL] += at[i] == home;
        if (at[i] == home)
            continue;
        sums[SUM_REMOTE] += rank_is_new;
        s->dispatch[row + at[i]] += rank_is_new;
        s->combine[row + at[i]] += rank_is_new || c->exact_combine;
        s->network[((size_t)layer * c->nodes + c->node[home]) * c->nodes + c->node[at[i]]] +=
            node_is_new;
    }
}

void step_add(struct step *s, const struct trace *t, uint32_t token, uint32_t home)
{
    for (uint32_t l = 0; l < s->p->layers; l++)
        add_layer(s, l, trace_at(t, token, l), home, token);
    s->home[home]++;
    s->tokens++;
}

uint32_t step_tokens(const struct step *s)
{
    return s->tokens;
}

/* Counts [home][rank] to a matrix [from][to]; back: from the rank to the home. */
static void fill(double *to, const uint32_t *from, uint32_t n, bool back)
{
    for (uint32_t h = 0; h < n; h++)
        for (uint32_t g = 0; g < n; g++)
            to[back ? (size_t)g * n + h : (size_t)h * n + g] = from[(size_t)h * n + g];
}

static double exchange_seconds(const struct step *s, uint32_t layer, const uint32_t *count,
                               bool back, double bytes)
{
    const struct cluster *c = &s->p->cluster;
    double *vectors = s->scratch, *network = s->scratch + (size_t)c->ranks * c->ranks;
    bool once = c->two_level && !(back && c->exact_combine);

    fill(vectors, count + (size_t)layer * c->ranks * c->ranks, c->ranks, back);
    fill(network, s->network + (size_t)layer * c->nodes * c->nodes, c->nodes, back);
    return link_seconds(c, vectors, once ? network : NULL, bytes, NULL);
}

static double compute_seconds(const struct step *s, uint32_t layer, struct step_figures *f)
{
    const struct cluster *c = &s->p->cluster;
    const uint32_t *load = step_loads(s, layer), *active = s->active + (size_t)layer * c->ranks;
    double worst = 0, total = 0;
    uint32_t most = 0, busiest = 0;

    for (uint32_t g = 0; g < c->ranks; g++) {
        double t = c->token_expert * load[g] + c->active_expert * active[g];

        worst = t > worst ? t : worst;
        most = load[g] > most ? load[g] : most;
        busiest = active[g] > busiest ? active[g] : busiest;
        total += load[g];
    }
    f->load += total > 0 ? most * c->ranks / total : 1;
    f->active += busiest;
    return worst;
}

void step_time(const struct step *s, struct step_terms *ret, struct step_figures *ret_figures,
               double *layer_seconds)
{
    const struct cluster *c = &s->p->cluster;
    struct step_terms t = {0};
    struct step_figures f = {0};
    double dense = 0, tokens = s->tokens > 0 ? s->tokens : 1;

    for (uint32_t g = 0; g < c->ranks; g++) {
        double d = s->home[g] ? c->dense_step + s->home[g] * c->dense_token : 0;

        dense = d > dense ? d : dense;
    }
    for (uint32_t l = 0; l < s->p->layers; l++) {
        const uint64_t *sums = s->sums + (size_t)l * SUMS;
        double out = exchange_seconds(s, l, s->dispatch, false, c->dispatch_bytes);
        double compute = compute_seconds(s, l, &f);
        double back = exchange_seconds(s, l, s->combine, true, c->combine_bytes);

        f.ranks += (double)sums[SUM_RANKS] / tokens;
        f.remote += (double)sums[SUM_REMOTE] / tokens;
        f.local += (double)sums[SUM_LOCAL] / (tokens * s->p->topk);
        t.dense += dense;
        t.dispatch += out;
        t.compute += compute;
        t.combine += back;
        if (layer_seconds)
            layer_seconds[l] = dense + out + compute + back;
    }
    if (ret)
        *ret = t;
    if (ret_figures)
        *ret_figures = f;
}

const uint32_t *step_loads(const struct step *s, uint32_t layer)
{
    return s->load + (size_t)layer * s->p->cluster.ranks;
}

const uint32_t *step_traffic(const struct step *s, uint32_t layer)
{
    return s->dispatch + (size_t)layer * s->p->cluster.ranks * s->p->cluster.ranks;
}
