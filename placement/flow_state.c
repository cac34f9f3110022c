#include <stdlib.h>
#include <string.h>

#include "placement/flow_tables.h"

struct flow_state {
    const struct flow_tables *t;
    uint32_t layers, experts, ranks, nodes, traces, scenarios;
    uint16_t *rank;    /* [layers][experts] */
    uint32_t *size;    /* [layers][ranks] */
    int64_t *load;     /* [layers][scenarios][ranks] */
    uint32_t *out;     /* [traces][layers][experts][ranks]: to experts on the rank, next layer */
    uint32_t *in;      /* the same: from the layer before */
    uint64_t *m;       /* [traces][layers - 1][ranks][ranks] */
    uint64_t *between; /* [traces][layers - 1][nodes][nodes] */
    struct flow_port *port; /* [traces][layers - 1][2 (ranks + nodes)] */
    double *load_cost;      /* [layers] */
    double *exchange;       /* [layers]: after each but the last, over the traces */
    double tried_load, tried_before, tried_after;
    uint32_t tried_from, tried_to;     /* ranks of the move's expert e */
    double share[PLACE_MAX_SCENARIOS]; /* of each trace, per unit */
};

static uint32_t *row(const struct flow_state *s, uint32_t *table, uint32_t trace, uint32_t layer,
                     uint32_t e)
{
    return table + (((size_t)trace * s->layers + layer) * s->experts + e) * s->ranks;
}

static size_t exchange_at(const struct flow_state *s, uint32_t trace, uint32_t layer)
{
    return (size_t)trace * (s->layers - 1) + layer;
}

static struct flow_port *ports(const struct flow_state *s, uint32_t trace, uint32_t layer)
{
    return s->port + exchange_at(s, trace, layer) * 2 * (s->ranks + s->nodes);
}

static double cost_of_load(const struct flow_state *s, uint32_t layer)
{
    const int64_t *load = s->load + (size_t)layer * s->scenarios * s->ranks;
    double sum = 0;

    for (uint32_t k = 0; k < s->scenarios; k++, load += s->ranks) {
        int64_t worst = 0;

        for (uint32_t g = 0; g < s->ranks; g++)
            worst = load[g] > worst ? load[g] : worst;
        sum += (double)worst;
    }
    return sum * s->t->unit;
}

static double cost_of_exchange(const struct flow_state *s, uint32_t layer)
{
    double sum = 0;

    for (uint32_t i = 0; i < s->traces; i++)
        sum += flow_ports_cost(s->t, i, ports(s, i, layer));
    return sum;
}

/* --- from scratch --------------------------------------------------------------------------------
 */

static void fill_pair(struct flow_state *s, uint32_t trace, uint32_t layer)
{
    const uint32_t *pairs = flow_pairs(s->t, trace, layer);
    const uint16_t *a = s->rank + (size_t)layer * s->experts, *b = a + s->experts;
    size_t at = exchange_at(s, trace, layer);
    uint64_t *m = s->m + at * s->ranks * s->ranks;

    for (uint32_t e = 0; e < s->experts; e++)
        for (uint32_t f = 0; f < s->experts; f++) {
            uint32_t n = pairs[(size_t)e * s->experts + f];

            row(s, s->out, trace, layer, e)[b[f]] += n;
            row(s, s->in, trace, layer + 1, f)[a[e]] += n;
            m[(size_t)a[e] * s->ranks + b[f]] += n;
        }
    flow_fill_ports(&s->t->p->cluster, m, s->between + at * s->nodes * s->nodes,
                    ports(s, trace, layer));
}

static void fill(struct flow_state *s)
{
    for (uint32_t l = 0; l < s->layers; l++) {
        for (uint32_t e = 0; e < s->experts; e++) {
            uint32_t g = s->rank[(size_t)l * s->experts + e];

            s->size[(size_t)l * s->ranks + g]++;
            for (uint32_t k = 0; k < s->scenarios; k++)
                s->load[((size_t)l * s->scenarios + k) * s->ranks + g] +=
                    flow_weight(s->t, k, l)[e];
        }
        s->load_cost[l] = cost_of_load(s, l);
        for (uint32_t i = 0; l + 1 < s->layers && i < s->traces; i++)
            fill_pair(s, i, l);
        if (l + 1 < s->layers)
            s->exchange[l] = cost_of_exchange(s, l);
    }
}

void flow_state_free(struct flow_state *s)
{
    if (!s)
        return;
    free(s->rank);
    free(s->size);
    free(s->load);
    free(s->out);
    free(s->in);
    free(s->m);
    free(s->between);
    free(s->port);
    free(s->load_cost);
    free(s->exchange);
    free(s);
}

static bool allocate(struct flow_state *s)
{
    size_t layers = s->layers, rows = layers * s->experts;
    size_t exchanges = s->traces * (layers - 1);

    s->rank = calloc(rows + 1, sizeof *s->rank);
    s->size = calloc(layers * s->ranks + 1, sizeof *s->size);
    s->load = calloc(layers * s->scenarios * s->ranks + 1, sizeof *s->load);
    s->out = calloc(s->traces * rows * s->ranks + 1, sizeof *s->out);
    s->in = calloc(s->traces * rows * s->ranks + 1, sizeof *s->in);
    s->m = calloc(exchanges * s->ranks * s->ranks + 1, sizeof *s->m);
    s->between = calloc(exchanges * s->nodes * s->nodes + 1, sizeof *s->between);
    s->port = calloc(exchanges * 2 * (s->ranks + s->nodes) + 1, sizeof *s->port);
    s->load_cost = calloc(layers + 1, sizeof *s->load_cost);
    s->exchange = calloc(layers + 1, sizeof *s->exchange);
    return s->rank && s->size && s->load && s->out && s->in && s->m && s->between && s->port &&
           s->load_cost && s->exchange;
}

int flow_state_new(const struct flow_tables *t, const uint16_t *rank, struct flow_state **ret,
                   struct mt_err *reterr)
{
    const struct place_problem *p = t->p;
    struct flow_state *s = calloc(1, sizeof *s);

    if (s)
        *s = (struct flow_state){.t = t,
                                 .layers = p->layers,
                                 .experts = p->experts,
                                 .ranks = p->cluster.ranks,
                                 .nodes = p->cluster.nodes,
                                 .traces = t->traces,
                                 .scenarios = p->scenarios};
    if (!s || !allocate(s)) {
        flow_state_free(s);
        return mt_error(reterr, MT_ENOMEM, "flow: no memory for the flows of %u layers", p->layers);
    }
    for (uint32_t i = 0; i < p->scenarios; i++)
        if (t->of[i] != FLOW_NO_TRACE)
            s->share[t->of[i]] +=
                p->scenario[i].share / ((double)p->topk * p->scenario[i].trace->tokens);
    memcpy(s->rank, rank, (size_t)p->layers * p->experts * sizeof *rank);
    fill(s);
    *ret = s;
    return 0;
}

double flow_state_cost(const struct flow_state *s)
{
    double sum = 0;

    for (uint32_t l = 0; l < s->layers; l++)
        sum += s->load_cost[l] + s->exchange[l];
    return sum;
}

const uint16_t *flow_state_ranks(const struct flow_state *s)
{
    return s->rank;
}

uint32_t flow_state_size(const struct flow_state *s, uint32_t layer, uint32_t rank)
{
    return s->size[(size_t)layer * s->ranks + rank];
}

double flow_state_affinity(const struct flow_state *s, uint32_t layer, uint32_t e, uint32_t rank)
{
    double sum = 0;

    for (uint32_t i = 0; i < s->traces; i++)
        sum += s->share[i] * ((double)row(s, s->out, i, layer, e)[rank] +
                              (double)row(s, s->in, i, layer, e)[rank]);
    return sum;
}

/* --- moves ---------------------------------------------------------------------------------------
 */

static void shift(struct flow_port *out, struct flow_port *in, uint64_t *cell, uint64_t less,
                  uint64_t more)
{
    uint64_t before = *cell, after = before - less + more;
    uint32_t peer_before = before > 0, peer_after = after > 0;

    *cell = after;
    out->units += more - less;
    in->units += more - less;
    out->peers += peer_after - peer_before;
    in->peers += peer_after - peer_before;
}

/* M[g][h] of the exchange after a layer loses and gains units. */
static void change(struct flow_state *s, uint32_t trace, uint32_t layer, uint32_t g, uint32_t h,
                   uint64_t less, uint64_t more)
{
    const uint16_t *node = s->t->p->cluster.node;
    size_t at = exchange_at(s, trace, layer);
    uint64_t *cell = s->m + (at * s->ranks + g) * s->ranks + h;
    struct flow_port *port = ports(s, trace, layer);

    if (node[g] != node[h]) {
        *cell += more - less;
        port += 2 * s->ranks;
        shift(&port[2 * node[g]], &port[2 * node[h] + 1],
              s->between + (at * s->nodes + node[g]) * s->nodes + node[h], less, more);
    } else if (g != h) {
        shift(&port[2 * g], &port[2 * h + 1], cell, less, more);
    } else {
        *cell += more - less;
    }
}

/* Expert e from rank a to b, but for the sums of its neighbours. */
static void move(struct flow_state *s, uint32_t layer, uint32_t e, uint32_t a, uint32_t b)
{
    s->rank[(size_t)layer * s->experts + e] = (uint16_t)b;
    s->size[(size_t)layer * s->ranks + a]--;
    s->size[(size_t)layer * s->ranks + b]++;
    for (uint32_t k = 0; k < s->scenarios; k++) {
        int64_t *load = s->load + ((size_t)layer * s->scenarios + k) * s->ranks;
        int64_t w = flow_weight(s->t, k, layer)[e];

        load[a] -= w;
        load[b] += w;
    }
    for (uint32_t i = 0; i < s->traces; i++) {
        const uint32_t *out = row(s, s->out, i, layer, e), *in = row(s, s->in, i, layer, e);

        for (uint32_t g = 0; layer + 1 < s->layers && g < s->ranks; g++)
            if (out[g]) {
                change(s, i, layer, a, g, out[g], 0);
                change(s, i, layer, b, g, 0, out[g]);
            }
        for (uint32_t g = 0; layer > 0 && g < s->ranks; g++)
            if (in[g]) {
                change(s, i, layer - 1, g, a, in[g], 0);
                change(s, i, layer - 1, g, b, 0, in[g]);
            }
    }
}

/* The sums of the neighbours of e, which went from a to b. */
static void tell_neighbours(struct flow_state *s, uint32_t layer, uint32_t e, uint32_t a,
                            uint32_t b)
{
    for (uint32_t i = 0; i < s->traces; i++) {
        for (uint32_t f = 0; layer + 1 < s->layers && f < s->experts; f++) {
            uint32_t n = flow_pairs(s->t, i, layer)[(size_t)e * s->experts + f];

            row(s, s->in, i, layer + 1, f)[a] -= n;
            row(s, s->in, i, layer + 1, f)[b] += n;
        }
        for (uint32_t f = 0; layer > 0 && f < s->experts; f++) {
            uint32_t n = flow_pairs(s->t, i, layer - 1)[(size_t)f * s->experts + e];

            row(s, s->out, i, layer - 1, f)[a] -= n;
            row(s, s->out, i, layer - 1, f)[b] += n;
        }
    }
}

static uint32_t rank_of(const struct flow_state *s, uint32_t layer, uint32_t e)
{
    return s->rank[(size_t)layer * s->experts + e];
}

double flow_state_try(struct flow_state *s, const struct flow_move *m)
{
    uint32_t a = rank_of(s, m->layer, m->e);
    uint32_t b = m->f == FLOW_NO_EXPERT ? m->rank : rank_of(s, m->layer, m->f);
    double before = s->load_cost[m->layer] + s->exchange[m->layer];

    move(s, m->layer, m->e, a, b);
    if (m->f != FLOW_NO_EXPERT)
        move(s, m->layer, m->f, b, a);
    s->tried_from = a;
    s->tried_to = b;
    s->tried_before = s->tried_after = 0;
    s->tried_load = cost_of_load(s, m->layer);
    if (m->layer > 0) {
        before += s->exchange[m->layer - 1];
        s->tried_before = cost_of_exchange(s, m->layer - 1);
    }
    if (m->layer + 1 < s->layers)
        s->tried_after = cost_of_exchange(s, m->layer);
    return s->tried_load + s->tried_before + s->tried_after - before;
}

void flow_state_keep(struct flow_state *s, const struct flow_move *m)
{
    tell_neighbours(s, m->layer, m->e, s->tried_from, s->tried_to);
    if (m->f != FLOW_NO_EXPERT)
        tell_neighbours(s, m->layer, m->f, s->tried_to, s->tried_from);
    s->load_cost[m->layer] = s->tried_load;
    s->exchange[m->layer] = s->tried_after;
    if (m->layer > 0)
        s->exchange[m->layer - 1] = s->tried_before;
}

void flow_state_undo(struct flow_state *s, const struct flow_move *m)
{
    move(s, m->layer, m->e, s->tried_to, s->tried_from);
    if (m->f != FLOW_NO_EXPERT)
        move(s, m->layer, m->f, s->tried_from, s->tried_to);
}
