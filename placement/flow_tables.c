#include "placement/flow_tables.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BYTES (1ull << 30)
#define FIXED 0x1p50 /* a layer's weights add up to less than this many units */

static void find_traces(struct flow_tables *t)
{
    for (uint32_t s = 0; s < t->p->scenarios; s++) {
        const struct trace *trace = t->p->scenario[s].trace;
        uint32_t i = 0;

        t->of[s] = FLOW_NO_TRACE;
        if (!trace)
            continue;
        while (i < t->traces && t->trace[i] != trace)
            i++;
        if (i == t->traces)
            t->trace[t->traces++] = trace;
        t->of[s] = i;
    }
}

static void count_pairs(struct flow_tables *t, uint32_t i)
{
    const struct trace *trace = t->trace[i];
    size_t experts = trace->experts;

    for (uint32_t l = 0; l + 1 < trace->layers; l++) {
        uint32_t *pairs = t->pairs + ((size_t)i * (trace->layers - 1) + l) * experts * experts;

        for (uint32_t token = 0; token < trace->tokens; token++) {
            const uint16_t *a = trace_at(trace, token, l), *b = trace_at(trace, token, l + 1);

            for (uint32_t k = 0; k < trace->topk; k++)
                for (uint32_t j = 0; j < trace->topk; j++)
                    pairs[a[k] * experts + b[j]]++;
        }
    }
}

/* Seconds of J that expert e adds to its rank in the layer, for each e. */
static void load_seconds(const struct place_problem *p, const struct place_scenario *s,
                         const double *load, double *ret)
{
    double n = s->tokens;

    for (size_t i = 0; i < (size_t)p->layers * p->experts; i++) {
        double chosen = fmin(1, load[i]);
        double active = chosen >= 1 ? 1 : -expm1(n * log1p(-chosen));

        ret[i] = s->share / n *
                 (p->cluster.token_expert * n * load[i] + p->cluster.active_expert * active);
    }
}

static int weigh(struct flow_tables *t, struct mt_err *reterr)
{
    const struct place_problem *p = t->p;
    size_t pairs = (size_t)p->layers * p->experts;
    double *seconds = calloc(p->scenarios * pairs + 1, sizeof *seconds);
    double *load = calloc(pairs + 1, sizeof *load), most = 0;

    if (!seconds || !load) {
        free(seconds);
        free(load);
        return mt_error(reterr, MT_ENOMEM, "flow: no memory for loads");
    }
    for (uint32_t s = 0; s < p->scenarios; s++) {
        if (p->scenario[s].trace)
            trace_loads(p->scenario[s].trace, load);
        else
            memcpy(load, p->scenario[s].load, pairs * sizeof *load);
        load_seconds(p, &p->scenario[s], load, seconds + s * pairs);
    }
    for (size_t l = 0; l < (size_t)p->scenarios * p->layers; l++) {
        double sum = 0;

        for (uint32_t e = 0; e < p->experts; e++)
            sum += seconds[l * p->experts + e];
        most = fmax(most, sum);
    }
    t->unit = most > 0 ? most / FIXED : 1;
    for (size_t i = 0; i < p->scenarios * pairs; i++)
        t->weight[i] = llround(seconds[i] / t->unit);
    free(seconds);
    free(load);
    return 0;
}

static void set_prices(struct flow_tables *t)
{
    const struct cluster *c = &t->p->cluster;

    for (uint32_t s = 0; s < t->p->scenarios; s++) {
        const struct place_scenario *sc = &t->p->scenario[s];
        double unit;

        if (!sc->trace)
            continue;
        unit = sc->share * c->dispatch_bytes / ((double)t->p->topk * sc->trace->tokens);
        t->price[s] = (struct flow_price){
            unit / c->rank_link.bandwidth, sc->share / sc->tokens * c->rank_link.latency,
            unit / c->node_link.bandwidth, sc->share / sc->tokens * c->node_link.latency};
    }
}

int flow_tables_new(const struct place_problem *p, struct flow_tables **ret, struct mt_err *reterr)
{
    struct flow_tables *t = calloc(1, sizeof *t);
    size_t cells;
    int rc;

    if (!t)
        return mt_error(reterr, MT_ENOMEM, "flow: no memory");
    t->p = p;
    find_traces(t);
    cells = (size_t)t->traces * (p->layers - 1) * p->experts * p->experts;
    if (cells * sizeof *t->pairs > MAX_BYTES) {
        rc = mt_error(reterr, MT_ELIMIT,
                      "flow: pairs of %u experts in %u layers of %u traces take more than %llu "
                      "bytes",
                      p->experts, p->layers, t->traces, (unsigned long long)MAX_BYTES);
        free(t);
        return rc;
    }
    t->pairs = calloc(cells + 1, sizeof *t->pairs);
    t->weight = calloc((size_t)p->scenarios * p->layers * p->experts + 1, sizeof *t->weight);
    if (!t->pairs || !t->weight)
        rc = mt_error(reterr, MT_ENOMEM, "flow: no memory for %zu pairs", cells);
    else
        rc = weigh(t, reterr);
    if (rc) {
        flow_tables_free(t);
        return rc;
    }
    for (uint32_t i = 0; i < t->traces; i++)
        count_pairs(t, i);
    set_prices(t);
    *ret = t;
    return 0;
}

void flow_tables_free(struct flow_tables *t)
{
    if (!t)
        return;
    free(t->pairs);
    free(t->weight);
    free(t);
}

static void carry(struct flow_port *out, struct flow_port *in, uint64_t units)
{
    out->units += units;
    in->units += units;
    out->peers += units > 0;
    in->peers += units > 0;
}

void flow_fill_ports(const struct cluster *c, const uint64_t *m, uint64_t *between,
                     struct flow_port *port)
{
    struct flow_port *node = port + 2 * c->ranks;

    memset(port, 0, 2 * ((size_t)c->ranks + c->nodes) * sizeof *port);
    memset(between, 0, (size_t)c->nodes * c->nodes * sizeof *between);
    for (uint32_t g = 0; g < c->ranks; g++)
        for (uint32_t h = 0; h < c->ranks; h++) {
            uint64_t units = m[(size_t)g * c->ranks + h];

            if (c->node[g] != c->node[h])
                between[(size_t)c->node[g] * c->nodes + c->node[h]] += units;
            else if (g != h)
                carry(&port[2 * g], &port[2 * h + 1], units);
        }
    for (uint32_t a = 0; a < c->nodes; a++)
        for (uint32_t b = 0; b < c->nodes; b++)
            carry(&node[2 * a], &node[2 * b + 1], between[(size_t)a * c->nodes + b]);
}

double flow_ports_cost(const struct flow_tables *t, uint32_t trace, const struct flow_port *port)
{
    const struct cluster *c = &t->p->cluster;
    double sum = 0;

    for (uint32_t s = 0; s < t->p->scenarios; s++) {
        const struct flow_price *k = &t->price[s];
        double worst = 0;

        if (t->of[s] != trace)
            continue;
        for (uint32_t i = 0; i < 2 * c->ranks; i++) {
            double x = (double)port[i].units * k->rank_unit + port[i].peers * k->rank_peer;

            worst = x > worst ? x : worst;
        }
        for (uint32_t i = 2 * c->ranks; c->nodes > 1 && i < 2 * (c->ranks + c->nodes); i++) {
            double x = (double)port[i].units * k->node_unit + port[i].peers * k->node_peer;

            worst = x > worst ? x : worst;
        }
        sum += worst;
    }
    return sum;
}
