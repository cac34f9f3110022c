/* Exchanges of ranks, or of whole nodes, from one layer on: they change one exchange only, and
 * cross what single experts' moves do not get over. */
#include <stdlib.h>
#include <string.h>

#include "placement/flow_tables.h"

struct relabel {
    const struct flow_tables *t;
    uint64_t *m, *renamed, *between; /* [traces][ranks][ranks]; one; one */
    struct flow_port *port;
};

static void fill_flows(struct relabel *r, uint32_t layer, const uint16_t *a, const uint16_t *b)
{
    size_t ranks = r->t->p->cluster.ranks, experts = r->t->p->experts;

    memset(r->m, 0, r->t->traces * ranks * ranks * sizeof *r->m);
    for (uint32_t i = 0; i < r->t->traces; i++)
        for (size_t e = 0; e < experts; e++)
            for (size_t f = 0; f < experts; f++)
                r->m[(i * ranks + a[e]) * ranks + b[f]] +=
                    flow_pairs(r->t, i, layer)[e * experts + f];
}

static double cost_of(struct relabel *r, const uint16_t *name)
{
    size_t ranks = r->t->p->cluster.ranks;
    double sum = 0;

    for (uint32_t i = 0; i < r->t->traces; i++) {
        for (size_t g = 0; g < ranks; g++)
            for (size_t h = 0; h < ranks; h++)
                r->renamed[g * ranks + name[h]] = r->m[(i * ranks + g) * ranks + h];
        flow_fill_ports(&r->t->p->cluster, r->renamed, r->between, r->port);
        sum += flow_ports_cost(r->t, i, r->port);
    }
    return sum;
}

static void exchange(uint16_t *name, uint32_t ranks, uint32_t g, uint32_t h)
{
    for (uint32_t i = 0; i < ranks; i++)
        name[i] = (uint16_t)(name[i] == g ? h : name[i] == h ? g : name[i]);
}

/* The first ranks of two nodes that are alike: *ret_n ranks each with the same slots. */
static bool are_alike(const struct cluster *c, uint32_t g, uint32_t h, uint32_t *ret_n)
{
    uint32_t n = 0;

    if ((g > 0 && c->node[g - 1] == c->node[g]) || (h > 0 && c->node[h - 1] == c->node[h]))
        return false;
    while (g + n < c->ranks && c->node[g + n] == c->node[g]) {
        if (h + n >= c->ranks || c->node[h + n] != c->node[h] || c->slots[g + n] != c->slots[h + n])
            return false;
        n++;
    }
    *ret_n = n;
    return h + n >= c->ranks || c->node[h + n] != c->node[h];
}

/* Exchanges g and h (of one node), or their nodes; kept if the exchange costs less. */
static bool try_exchange(struct relabel *r, uint16_t *name, uint32_t g, uint32_t h, double *io_cost)
{
    const struct cluster *c = &r->t->p->cluster;
    uint32_t n = 1;
    double cost;

    if (c->node[g] != c->node[h] ? !are_alike(c, g, h, &n) : c->slots[g] != c->slots[h])
        return false;
    for (uint32_t i = 0; i < n; i++)
        exchange(name, c->ranks, g + i, h + i);
    cost = cost_of(r, name);
    if (cost < *io_cost * (1 - 1e-12)) {
        *io_cost = cost;
        return true;
    }
    for (uint32_t i = 0; i < n; i++)
        exchange(name, c->ranks, g + i, h + i);
    return false;
}

static bool relabel_from(struct relabel *r, uint32_t layer, uint16_t *rank)
{
    const struct place_problem *p = r->t->p;
    size_t experts = p->experts;
    uint16_t name[PLAN_MAX_RANKS] = {0};
    bool better = true, any = false;
    double cost;

    for (uint32_t g = 0; g < p->cluster.ranks; g++)
        name[g] = (uint16_t)g;
    fill_flows(r, layer - 1, rank + (layer - 1) * experts, rank + layer * experts);
    cost = cost_of(r, name);
    while (better) {
        better = false;
        for (uint32_t g = 0; g < p->cluster.ranks; g++)
            for (uint32_t h = 0; h < g; h++)
                better |= try_exchange(r, name, g, h, &cost);
        any = any || better;
    }
    for (size_t i = layer * experts; any && i < p->layers * experts; i++)
        rank[i] = name[rank[i]];
    return any;
}

int flow_relabel(const struct flow_tables *t, uint16_t *rank, bool *ret_better,
                 struct mt_err *reterr)
{
    size_t ranks = t->p->cluster.ranks, nodes = t->p->cluster.nodes;
    struct relabel r = {.t = t};
    int rc = 0;

    r.m = calloc(t->traces * ranks * ranks + 1, sizeof *r.m);
    r.renamed = calloc(ranks * ranks + 1, sizeof *r.renamed);
    r.between = calloc(nodes * nodes + 1, sizeof *r.between);
    r.port = calloc(2 * (ranks + nodes) + 1, sizeof *r.port);
    *ret_better = false;
    if (!r.m || !r.renamed || !r.between || !r.port)
        rc = mt_error(reterr, MT_ENOMEM, "flow: no memory to relabel ranks");
    for (uint32_t l = 1; !rc && l < t->p->layers; l++)
        *ret_better |= relabel_from(&r, l, rank);
    free(r.m);
    free(r.renamed);
    free(r.between);
    free(r.port);
    return rc;
}
