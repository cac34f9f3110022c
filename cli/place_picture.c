/* Where a placement sends tokens, counted over whole traces. */
#include <stdlib.h>
#include <string.h>

#include "cli/place.h"
#include "placement/link.h"
#include "placement/route.h"

static int picture_new(uint32_t layers, uint32_t ranks, bool paths, struct place_picture *ret,
                       struct mt_err *reterr)
{
    struct place_picture p = {.layers = layers, .ranks = ranks};

    p.load = calloc((size_t)layers * ranks, sizeof *p.load);
    p.distinct = calloc(layers, sizeof *p.distinct);
    if (paths)
        p.vectors = calloc((size_t)layers * ranks * ranks, sizeof *p.vectors);
    if (!p.load || !p.distinct || (paths && !p.vectors)) {
        place_picture_done(&p);
        return mt_error(reterr, MT_ENOMEM, "no memory for a picture of %u layers and %u ranks",
                        layers, ranks);
    }
    *ret = p;
    return 0;
}

void place_picture_done(struct place_picture *p)
{
    free(p->load);
    free(p->vectors);
    free(p->distinct);
    memset(p, 0, sizeof *p);
}

/* One token in one layer, counted w times. */
static void add_choice(const struct cluster *c, const struct plan *plan, const struct trace *t,
                       uint32_t token, uint32_t layer, double w, struct place_picture *p)
{
    uint32_t home = (uint32_t)((uint64_t)token * c->ranks / t->tokens);
    double *load = p->load + (size_t)layer * p->ranks;
    double *row = p->vectors + ((size_t)layer * p->ranks + home) * p->ranks;
    uint16_t at[TRACE_MAX_TOPK] = {0};

    route_choose(plan, c, layer, trace_at(t, token, layer), t->topk, home, token, at);
    for (uint32_t i = 0; i < t->topk; i++) {
        bool distinct = true;

        for (uint32_t k = 0; k < i; k++)
            distinct = distinct && at[k] != at[i];
        load[at[i]] += w;
        p->distinct[layer] += distinct ? w : 0;
        row[at[i]] += distinct && at[i] != home ? w : 0;
    }
}

static void add_trace(const struct cluster *c, const struct plan *plan, const struct trace *t,
                      double w, struct place_picture *p)
{
    for (uint32_t i = 0; i < t->tokens; i++)
        for (uint32_t l = 0; l < p->layers; l++)
            add_choice(c, plan, t, i, l, w / t->tokens, p);
}

static void add_loads(const double *load, const struct plan *plan, double w,
                      struct place_picture *p)
{
    for (size_t pair = 0; pair < (size_t)plan->layers * plan->experts; pair++) {
        uint32_t first = plan->start[pair], end = plan->start[pair + 1];
        double *row = p->load + pair / plan->experts * p->ranks;

        for (uint32_t i = first; i < end; i++)
            row[plan->rank[i]] +=
                w * load[pair] * (plan->share ? (double)plan->share[i] : 1.0 / (end - first));
    }
}

int place_picture_make(const struct place_problem *p, const struct place_set *s,
                       const struct plan *plan, struct place_picture *ret, struct mt_err *reterr)
{
    struct place_picture pic = {0};
    int rc = picture_new(s->layers, plan->ranks, s->paths, &pic, reterr);

    if (rc)
        return rc;
    for (uint32_t i = 0; i < s->sources; i++) {
        if (s->paths)
            add_trace(&p->cluster, plan, &s->source[i].trace, 1.0 / s->sources, &pic);
        else
            add_loads(s->source[i].load, plan, 1.0 / s->sources, &pic);
    }
    *ret = pic;
    return 0;
}

double place_picture_balance(const struct place_picture *p, uint32_t layer)
{
    const double *load = p->load + (size_t)layer * p->ranks;
    double most = 0, all = 0;

    for (uint32_t g = 0; g < p->ranks; g++) {
        most = load[g] > most ? load[g] : most;
        all += load[g];
    }
    return all > 0 ? most * p->ranks / all : 1;
}

void place_picture_port(const struct place_problem *p, const struct place_picture *pic, char *ret,
                        size_t n)
{
    size_t cells = (size_t)pic->ranks * pic->ranks;
    double *sum = pic->vectors ? calloc(cells, sizeof *sum) : NULL, seconds;
    uint32_t port = 0, ranks = p->cluster.ranks;

    for (size_t k = 0; sum && k < cells * pic->layers; k++)
        sum[k % cells] += pic->vectors[k] * p->scenario[0].tokens;
    seconds = sum ? link_seconds(&p->cluster, sum, NULL, p->cluster.dispatch_bytes, &port) : 0;
    free(sum);
    if (!(seconds > 0))
        snprintf(ret, n, "none");
    else if (port < 2 * ranks)
        snprintf(ret, n, "rank %u %s", port / 2, port % 2 ? "out" : "in");
    else
        snprintf(ret, n, "node %u %s", port / 2 - ranks, port % 2 ? "out" : "in");
}
