#include "placement/cover.h"

#include <stdlib.h>

#include "placement/layer_cost.h"
#include "placement/overlap.h"

/* Scenarios of one trace share its tokens: trace_of[scenarios], or traces where there is none. */
struct traces {
    const struct trace *trace[PLACE_MAX_SCENARIOS];
    double share[PLACE_MAX_SCENARIOS], steps[PLACE_MAX_SCENARIOS];
    uint32_t n, of[PLACE_MAX_SCENARIOS];
};

static void find_traces(const struct place_problem *p, struct traces *ret)
{
    *ret = (struct traces){.n = 0};
    for (uint32_t s = 0; s < p->scenarios; s++) {
        const struct place_scenario *of = &p->scenario[s];
        uint32_t i = 0;

        ret->of[s] = UINT32_MAX;
        if (!of->trace)
            continue;
        while (i < ret->n && ret->trace[i] != of->trace)
            i++;
        ret->trace[i] = of->trace;
        ret->n += i == ret->n;
        ret->of[s] = i;
        ret->share[i] += of->share;
        ret->steps[i] += of->share / of->tokens;
    }
}

/* Seconds per vector, with `bytes`, of what one token sends to one rank, as the busiest port has it
 * at least: mean for the mean over ranks, most for any single rank; messages: of one exchange. */
struct port_price {
    double mean, most, messages;
};

/* Ports of ranks, or, if they are busier even with vectors spread evenly, of nodes. Where the
 * network carries a vector once per node, at least the busiest of its ranks' vectors go there. */
static struct port_price price_ports(const struct cluster *c, double bytes)
{
    uint32_t size[PLAN_MAX_RANKS] = {0}, few = c->ranks, many = 0;
    struct port_price rank, node;
    double one, out;

    for (uint32_t g = 0; g < c->ranks; g++)
        size[c->node[g]]++;
    for (uint32_t a = 0; a < c->nodes; a++) {
        few = size[a] < few ? size[a] : few;
        many = size[a] > many ? size[a] : many;
    }
    rank.most = rank.mean = (few - 1.0) / c->ranks * bytes / c->rank_link.bandwidth;
    rank.messages = (few - 1.0) * c->rank_link.latency;
    if (c->nodes < 2)
        return rank;
    out = c->ranks - many;
    one = out / c->ranks * bytes / c->node_link.bandwidth;
    node.mean = c->two_level ? one : one * c->ranks / c->nodes;
    node.messages = (c->nodes - 1) * c->node_link.latency;
    node.most = rank.messages >= node.messages && rank.most > one ? rank.most : one;
    return node.mean > rank.mean ? node : rank;
}

static void fill_rows(struct cover *c, const struct traces *t, uint32_t layer)
{
    for (uint32_t i = 0; i < t->n; i++)
        for (uint32_t token = 0; token < t->trace[i]->tokens; token++) {
            const uint16_t *chosen = trace_at(t->trace[i], token, layer);
            uint32_t at = c->word[i] + token / 64;
            uint64_t bit = 1ull << (token % 64);

            c->all[at] |= bit;
            for (uint32_t k = 0; k < t->trace[i]->topk; k++)
                c->row[(size_t)chosen[k] * c->words + at] |= bit;
        }
}

/* C of each expert: all scenarios' compute and, with exact combine, the vectors that come back for
 * each expert (a sum too; their mean is a constant where nodes' ports bound it). */
static void fill_compute(struct cover *c, const struct place_problem *p, const struct traces *t,
                         uint32_t layer, double *load)
{
    const struct cluster *k = &p->cluster;
    struct port_price back = price_ports(k, k->combine_bytes);

    for (uint32_t s = 0; s < p->scenarios; s++) {
        const struct place_scenario *of = &p->scenario[s];

        layer_cost_loads(p, of, layer, load);
        for (uint32_t e = 0; e < p->experts; e++) {
            c->compute[e] += layer_cost_compute(k, of->tokens, load[e]) * of->share / of->tokens;
            if (!k->exact_combine || t->of[s] == UINT32_MAX)
                continue;
            if (k->nodes < 2)
                c->compute[e] += of->share * back.most * load[e];
            else
                c->constant += of->share * back.mean * load[e] / k->ranks;
        }
    }
}

static void fill_prices(struct cover *c, const struct place_problem *p, const struct traces *t)
{
    const struct cluster *k = &p->cluster;
    struct port_price port =
        price_ports(k, k->dispatch_bytes + (k->exact_combine ? 0 : k->combine_bytes));
    struct port_price back = price_ports(k, k->combine_bytes);

    for (uint32_t s = 0; s < p->scenarios; s++)
        c->constant += p->scenario[s].share / p->scenario[s].tokens *
                       layer_cost_dense(k, p->scenario[s].tokens);
    for (uint32_t i = 0; i < t->n; i++) {
        c->constant += t->steps[i] * (port.messages + (k->exact_combine ? back : port).messages);
        c->scale += t->share[i] * port.mean;
        c->cap_scale += t->share[i] * port.most;
    }
    for (uint32_t i = 0; i < t->n; i++)
        c->weight[i] = c->scale > 0 ? t->share[i] * port.mean / c->scale / t->trace[i]->tokens
                                    : 1.0 / t->n / t->trace[i]->tokens;
}

int cover_new(const struct place_problem *p, uint32_t layer, struct cover *ret,
              struct mt_err *reterr)
{
    struct cover c = {.experts = p->experts};
    double *load = calloc(p->experts, sizeof *load);
    struct traces t;

    find_traces(p, &t);
    c.traces = t.n;
    for (uint32_t i = 0; i < t.n; i++)
        c.word[i + 1] = c.word[i] + (t.trace[i]->tokens + 63) / 64;
    c.words = c.word[t.n];
    c.row = calloc((size_t)c.experts * c.words + 1, sizeof *c.row);
    c.all = calloc((size_t)c.words + 1, sizeof *c.all);
    c.compute = calloc(c.experts, sizeof *c.compute);
    if (!load || !c.row || !c.all || !c.compute) {
        free(load);
        cover_done(&c);
        return mt_error(reterr, MT_ENOMEM, "bound: no memory for %u experts and %u words of tokens",
                        c.experts, c.words);
    }
    fill_rows(&c, &t, layer);
    fill_compute(&c, p, &t, layer, load);
    fill_prices(&c, p, &t);
    free(load);
    *ret = c;
    return 0;
}

void cover_done(struct cover *c)
{
    free(c->row);
    free(c->all);
    free(c->compute);
    *c = (struct cover){.row = NULL};
}

double cover_part(const struct cover *c, const uint64_t *bits)
{
    double sum = 0;

    for (uint32_t i = 0; i < c->traces; i++) {
        uint32_t count = 0;

        for (uint32_t w = c->word[i]; w < c->word[i + 1]; w++)
            count += (uint32_t)__builtin_popcountll(bits[w]);
        sum += c->weight[i] * count;
    }
    return sum;
}

double cover_of(const struct cover *c, const uint16_t *expert, uint32_t n, uint64_t *scratch)
{
    for (uint32_t w = 0; w < c->words; w++) {
        uint64_t bits = 0;

        for (uint32_t k = 0; k < n; k++)
            bits |= c->row[(size_t)expert[k] * c->words + w];
        scratch[w] = bits;
    }
    return cover_part(c, scratch);
}

void cover_overlaps(const struct cover *c, const uint64_t *bits, const uint16_t *expert, uint32_t n,
                    double *ret)
{
    uint32_t count[PLACE_MAX_EXPERTS];

    for (uint32_t i = 0; i < c->traces; i++) {
        uint32_t first = c->word[i];

        overlap_count(bits + first, c->row + first, c->words, expert, n, c->word[i + 1] - first,
                      count);
        for (uint32_t k = 0; k < n; k++)
            ret[k] = (i ? ret[k] : 0) + c->weight[i] * count[k];
    }
    for (uint32_t k = 0; k < n && !c->traces; k++)
        ret[k] = 0;
}
