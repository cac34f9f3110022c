#include "placement/layer_cost.h"

#include <math.h>
#include <stdlib.h>

#include "placement/fluid.h"

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* A port that carries `vectors` per token of a home from or to `peers`. */
static double port(const struct link *l, double vectors, double bytes, uint32_t peers)
{
    return vectors > 0 ? vectors * bytes / l->bandwidth + peers * l->latency : 0;
}

/* Ports of ranks first .. last - 1, which are a node. */
static double rank_ports(const struct cluster *c, double home, const double *vectors,
                         uint32_t first, uint32_t last, double bytes)
{
    double sum = 0, worst = 0;
    uint32_t served = 0;

    for (uint32_t g = first; g < last; g++) {
        sum += vectors[g];
        served += vectors[g] > 0;
    }
    for (uint32_t g = first; g < last; g++) {
        uint32_t others = last - first - 1;
        double rest = 0;

        worst = larger(worst, port(&c->rank_link, home * others * vectors[g], bytes, others));
        /* A rank sends to each other what the rank's own experts do not serve. Summed anew where
         * rounding could leave traffic to nobody. */
        if (sum > vectors[g])
            rest = sum - vectors[g];
        others = served - (vectors[g] > 0);
        worst = larger(worst, others ? port(&c->rank_link, home * rest, bytes, others) : 0);
    }
    return worst;
}

double layer_cost_exchange(const struct cluster *c, double tokens, const double *vectors,
                           const double *network, double bytes)
{
    double home = tokens / c->ranks, total = 0, worst = 0;
    double node[PLAN_MAX_RANKS] = {0};
    uint32_t size[PLAN_MAX_RANKS], served = 0;

    for (uint32_t a = 0, g = 0; a < c->nodes; a++) {
        uint32_t first = g;

        while (g < c->ranks && c->node[g] == a)
            node[a] += vectors[g++];
        size[a] = g - first;
        worst = larger(worst, rank_ports(c, home, vectors, first, g, bytes));
        if (network)
            node[a] = network[a];
        total += node[a];
        served += node[a] > 0;
    }
    if (c->nodes < 2)
        return worst;
    for (uint32_t a = 0; a < c->nodes; a++) {
        uint32_t others = served - (node[a] > 0);
        double in = home * (c->ranks - size[a]) * node[a];
        double out = others ? home * size[a] * (total - node[a]) : 0;

        worst = larger(worst, port(&c->node_link, in, bytes, c->nodes - 1));
        worst = larger(worst, port(&c->node_link, out, bytes, others));
    }
    return worst;
}

void layer_cost_loads(const struct place_problem *p, const struct place_scenario *s, uint32_t layer,
                      double *ret)
{
    for (uint32_t e = 0; e < p->experts; e++)
        ret[e] = s->trace ? 0 : s->load[(size_t)layer * p->experts + e];
    for (uint32_t i = 0; s->trace && i < s->trace->tokens; i++)
        for (uint32_t k = 0; k < s->trace->topk; k++)
            ret[trace_at(s->trace, i, layer)[k]]++;
    for (uint32_t e = 0; s->trace && e < p->experts; e++)
        ret[e] /= s->trace->tokens;
}

double layer_cost_compute(const struct cluster *c, double tokens, double load)
{
    double active = load >= 1 ? 1 : -expm1(tokens * log1p(-load));

    return load > 0 ? c->token_expert * tokens * load + c->active_expert * active : 0;
}

double layer_cost_dense(const struct cluster *c, double tokens)
{
    return c->dense_step + tokens / c->ranks * c->dense_token;
}

int layer_cost_plan(const struct place_problem *p, uint32_t layer, const uint16_t *rank,
                    double *ret, struct mt_err *reterr)
{
    size_t pairs = (size_t)(layer + 1) * p->experts;
    struct plan plan = {.layers = layer + 1, .experts = p->experts, .ranks = p->cluster.ranks};
    struct fluid *f = NULL;
    double sum = 0;
    int rc = 0;

    plan.start = calloc(pairs + 1, sizeof *plan.start);
    plan.rank = calloc(pairs, sizeof *plan.rank);
    if (!plan.start || !plan.rank)
        rc = mt_error(reterr, MT_ENOMEM, "bound: no memory for a plan of %u layers", layer + 1);
    else
        rc = fluid_new(p, &f, reterr);
    for (uint32_t i = 0; i <= pairs && !rc; i++)
        plan.start[i] = i;
    for (uint32_t e = 0; e < p->experts && !rc; e++)
        plan.rank[pairs - p->experts + e] = rank[e];
    for (uint32_t s = 0; s < p->scenarios && !rc; s++) {
        const struct place_scenario *of = &p->scenario[s];
        struct fluid_tokens tokens = {NULL, of->trace ? of->trace->tokens : 0, NULL};
        struct step_figures figures = {0};
        struct step_terms terms = {0};

        fluid_layer(f, &plan, of, &tokens, layer, &terms, &figures);
        sum += step_seconds(&terms) * of->share / of->tokens;
    }
    fluid_free(f);
    free(plan.start);
    free(plan.rank);
    if (!rc)
        *ret = sum;
    return rc;
}

const char *layer_cost_refuses(const struct place_problem *p)
{
    if (p->semantics != PLACE_HOME)
        return "flow semantics couples consecutive layers";
    if (p->homes != PLACE_HOMES_LOAD)
        return "homes by affinity depend on the whole plan";
    return NULL;
}
