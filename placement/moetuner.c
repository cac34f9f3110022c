#include "placement/moetuner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement/baseline.h"
#include "placement/methods.h"

static void moetuner_done(struct moetuner *m)
{
    free(m->load);
    free(m->pairs);
    free(m->wire);
    free(m->node);
    free(m->cluster);
    free(m->label);
    free(m->between);
}

/* What the published method is not defined for. */
static int check_defined(const struct place_problem *p, bool free_sizes, struct moetuner *m,
                         struct mt_err *reterr)
{
    const struct cluster *c = &p->cluster;
    uint32_t slots = UINT32_MAX, need = (p->experts + c->ranks - 1) / c->ranks;

    for (uint32_t g = 0; g < c->ranks; g++)
        slots = c->slots[g] < slots ? c->slots[g] : slots;
    if (c->ranks > p->experts)
        return mt_error(reterr, MT_EUNSUPPORTED,
                        "moetuner: the published method is not defined for more ranks than "
                        "experts: it gives every rank a cluster of at least one, found %u ranks "
                        "and %u experts",
                        c->ranks, p->experts);
    if (slots < need)
        return mt_error(reterr, MT_EUNSUPPORTED,
                        "moetuner: the published method takes ranks to be alike: expected %u "
                        "slots on each, found a rank with %u",
                        need, slots);
    m->least = free_sizes ? 1 : p->experts / c->ranks;
    m->most = free_sizes ? slots : need;
    if (m->most > p->experts - c->ranks + 1)
        m->most = p->experts - c->ranks + 1;
    return 0;
}

/* Links as B takes them; nodes count only where they make a difference. */
static void price_links(const struct cluster *c, struct moetuner *m)
{
    bool alone = c->nodes == c->ranks, flat = c->nodes == 1 || alone;
    double near = 1 / c->rank_link.bandwidth, far = 1 / c->node_link.bandwidth, unit;

    flat = flat || (near <= far && near >= far);
    unit = flat ? (alone ? far : near) : fmin(near, far);
    m->nodes = flat ? 1 : c->nodes;
    for (uint32_t g = 0; g < c->ranks; g++) {
        m->node[g] = flat ? 0 : c->node[g];
        for (uint32_t h = 0; h < c->ranks; h++)
            m->wire[(size_t)g * c->ranks + h] = g == h ? 0
                                                       : (flat                       ? unit
                                                          : c->node[g] == c->node[h] ? near
                                                                                     : far) /
                                                             unit;
    }
}

/* R: over the scenarios that have token paths. */
static int sum_pairs(const struct place_problem *p, struct moetuner *m, struct mt_err *reterr)
{
    size_t cells = (size_t)p->experts * p->experts;
    double *one;
    bool any = false;

    for (uint32_t s = 0; s < p->scenarios; s++)
        any = any || p->scenario[s].trace;
    if (!any)
        return 0;
    one = malloc(cells * sizeof *one);
    m->pairs = calloc((p->layers - 1) * cells + 1, sizeof *m->pairs);
    if (!one || !m->pairs) {
        free(one);
        return mt_error(reterr, MT_ENOMEM, "moetuner: no memory for pairs of %u experts",
                        p->experts);
    }
    for (uint32_t s = 0; s < p->scenarios; s++)
        for (uint32_t l = 0; p->scenario[s].trace && l + 1 < p->layers; l++) {
            double by = p->scenario[s].share / p->scenario[s].trace->tokens;

            trace_pairs(p->scenario[s].trace, l, one);
            for (size_t i = 0; i < cells; i++)
                m->pairs[l * cells + i] += by * one[i];
        }
    free(one);
    return 0;
}

static int moetuner_make(const struct place_problem *p, const struct place_run *run, bool max_form,
                         bool free_sizes, struct moetuner *ret, struct mt_err *reterr)
{
    size_t ranks = p->cluster.ranks;
    struct moetuner m = {.run = run,
                         .layers = p->layers,
                         .experts = p->experts,
                         .ranks = p->cluster.ranks,
                         .max_form = max_form};
    int rc = check_defined(p, free_sizes, &m, reterr);

    if (rc)
        return rc;
    m.wire = calloc(ranks * ranks, sizeof *m.wire);
    m.node = calloc(ranks, sizeof *m.node);
    m.cluster = calloc((size_t)p->layers * p->experts, sizeof *m.cluster);
    m.label = calloc(p->layers * ranks, sizeof *m.label);
    m.between = calloc((p->layers - 1) * ranks * ranks + 1, sizeof *m.between);
    if (!m.wire || !m.node || !m.cluster || !m.label || !m.between)
        rc = mt_error(reterr, MT_ENOMEM, "moetuner: no memory for %u layers", p->layers);
    if (!rc)
        rc = baseline_loads(p, &m.load, reterr);
    if (!rc)
        rc = sum_pairs(p, &m, reterr);
    if (rc) {
        moetuner_done(&m);
        return rc;
    }
    price_links(&p->cluster, &m);
    *ret = m;
    return 0;
}

static void report(const struct moetuner *m, const char *stage, uint32_t done)
{
    struct place_progress now = {.stage = stage, .iterations = done};

    if (m->run->progress)
        m->run->progress(m->run->user, &now);
}

/* C from the clusters. */
static void sum_between(struct moetuner *m)
{
    for (uint32_t l = 0; m->pairs && l + 1 < m->layers; l++) {
        const double *pairs = m->pairs + (size_t)l * m->experts * m->experts;
        const uint16_t *a = m->cluster + (size_t)l * m->experts, *b = a + m->experts;
        double *c = m->between + (size_t)l * m->ranks * m->ranks;

        for (uint32_t e = 0; e < m->experts; e++)
            for (uint32_t f = 0; f < m->experts; f++)
                c[(size_t)a[e] * m->ranks + b[f]] += pairs[(size_t)e * m->experts + f];
    }
}

static int make_plan(const struct moetuner *m, struct plan *ret, struct mt_err *reterr)
{
    int rc = plan_contiguous(m->layers, m->experts, m->ranks, ret, reterr);

    for (size_t i = 0; !rc && i < (size_t)m->layers * m->experts; i++)
        ret->rank[i] = m->label[i / m->experts * m->ranks + m->cluster[i]];
    return rc;
}

struct outcome {
    uint32_t proven_layers;
    bool proven; /* ILP 2 */
    bool totals; /* (13) is in question */
    double off;
};

static int run_programmes(struct moetuner *m, bool free_sizes, struct outcome *o,
                          struct mt_err *reterr)
{
    int rc = 0;

    for (uint32_t l = 0; !rc && l < m->layers; l++) {
        bool proven = false;

        rc = moetuner_cluster(m, l, &proven, reterr);
        o->proven_layers += proven;
        report(m, "ILP 1", l + 1);
    }
    if (rc)
        return rc;
    sum_between(m);
    for (uint32_t l = 0; l < m->layers; l++)
        for (uint32_t c = 0; c < m->ranks; c++)
            m->label[(size_t)l * m->ranks + c] = (uint16_t)c;
    o->proven = true;
    if (m->pairs)
        rc = moetuner_assign(m, &o->proven, reterr);
    o->totals = free_sizes && m->least < m->most;
    if (!rc && o->totals)
        rc = moetuner_even_totals(m, &o->off, &o->proven, reterr);
    report(m, "ILP 2", m->layers);
    return rc;
}

static void write_note(const struct moetuner *m, const struct outcome *o, char *note, size_t size)
{
    int n = snprintf(note, size, "ILP 1 proven in %u of %u layers; ", o->proven_layers, m->layers);

    if (!m->pairs)
        n += snprintf(note + n, size - (size_t)n, "ILP 2 left out: no token paths");
    else
        n += snprintf(note + n, size - (size_t)n, "ILP 2 %sproven, cost %.6g",
                      o->proven ? "" : "not ", moetuner_cost(m));
    if (o->totals && o->off > 1e-9)
        snprintf(note + n, size - (size_t)n, "; equal totals (13) missed by %.3g experts%s", o->off,
                 o->proven ? ", the least possible with these clusters" : "");
    else if (o->totals)
        snprintf(note + n, size - (size_t)n, "; equal totals (13) hold");
    else if (m->experts % m->ranks)
        snprintf(note + n, size - (size_t)n, "; sizes differ by one, (13) is left out");
}

static int solve(const struct place_problem *p, const struct place_run *run, const char *method,
                 bool max_form, bool free_sizes, struct place_result *ret, struct mt_err *reterr)
{
    struct outcome o = {0};
    struct moetuner m;
    struct plan plan;
    char note[sizeof ret->note];
    int rc = moetuner_make(p, run, max_form, free_sizes, &m, reterr);

    if (rc)
        return rc;
    rc = run_programmes(&m, free_sizes, &o, reterr);
    if (!rc)
        rc = make_plan(&m, &plan, reterr);
    if (!rc) {
        write_note(&m, &o, note, sizeof note);
        rc = baseline_result(p, &plan, method, note, ret, reterr);
    }
    if (!rc) {
        ret->optimal = o.proven && o.proven_layers == m.layers;
        ret->iterations = m.solves;
    }
    moetuner_done(&m);
    return rc;
}

int moetuner_start(const struct place_problem *p, const struct place_run *run, uint16_t *ret,
                   struct mt_err *reterr)
{
    struct place_run quiet = *run;
    struct outcome o = {0};
    struct moetuner m;
    int rc;

    quiet.progress = NULL;
    rc = moetuner_make(p, &quiet, false, false, &m, reterr);
    if (rc)
        return rc;
    m.quick = true;
    rc = run_programmes(&m, false, &o, reterr);
    for (size_t i = 0; !rc && i < (size_t)m.layers * m.experts; i++)
        ret[i] = m.label[i / m.experts * m.ranks + m.cluster[i]];
    moetuner_done(&m);
    return rc;
}

int moetuner_solve(const struct place_problem *p, const struct place_run *run,
                   struct place_result *ret, struct mt_err *reterr)
{
    return solve(p, run, "moetuner", false, false, ret, reterr);
}

int moetuner_max_solve(const struct place_problem *p, const struct place_run *run,
                       struct place_result *ret, struct mt_err *reterr)
{
    return solve(p, run, "moetuner-max", true, false, ret, reterr);
}

int moetuner_free_solve(const struct place_problem *p, const struct place_run *run,
                        struct place_result *ret, struct mt_err *reterr)
{
    return solve(p, run, "moetuner-free", false, true, ret, reterr);
}
