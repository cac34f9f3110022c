/* MoETuner's method on real traces: seconds, what is proven, and for 4 ranks the chain's optimum by
 * enumeration beside it; then the search for the flow objective, with its bound. TRACES names a
 * folder with traces (../shared/traces); absent ones are skipped. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "placement/flow.h"
#include "placement/methods.h"

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void make_problem(const struct trace *t, uint32_t ranks, uint32_t nodes, double *load,
                         struct place_problem *p)
{
    *p = (struct place_problem){.layers = t->layers,
                                .experts = t->experts,
                                .topk = t->topk,
                                .scenarios = 1,
                                .prompt_fraction = 0.5,
                                .home_slack = 0.1};
    p->cluster = (struct cluster){.name = "bench",
                                  .ranks = ranks,
                                  .nodes = nodes,
                                  .rank_link = {2e11, 2e-6},
                                  .node_link = {4e10, 5e-6},
                                  .token_expert = 1e-7,
                                  .active_expert = 1e-5,
                                  .dense_token = 1e-8,
                                  .dispatch_bytes = 8192,
                                  .combine_bytes = 8192,
                                  .kv_bytes = 100000,
                                  .expert_bytes = 1e7,
                                  .migration_share = 0.5};
    for (uint32_t g = 0; g < ranks; g++) {
        p->cluster.node[g] = (uint16_t)(g * nodes / ranks);
        p->cluster.slots[g] = (t->experts + ranks - 1) / ranks + 2;
    }
    trace_loads(t, load);
    p->scenario[0] = (struct place_scenario){.name = "all",
                                             .phase = PLACE_PREFILL,
                                             .share = 1,
                                             .tokens = 4096,
                                             .trace = t,
                                             .load = load};
}

/* A term of ILP 2, experts on ranks a[] and b[]. */
static double term(const struct place_problem *p, bool max_form, const double *pairs,
                   const uint16_t *a, const uint16_t *b)
{
    const struct cluster *c = &p->cluster;
    double m[64][64] = {{0}}, sum = 0, most = 0;

    for (uint32_t e = 0; e < p->experts; e++)
        for (uint32_t f = 0; f < p->experts; f++)
            m[a[e]][b[f]] += pairs[(size_t)e * p->experts + f];
    for (uint32_t g = 0; g < c->ranks; g++)
        for (uint32_t h = 0; h < c->ranks; h++) {
            double x = g == h ? 0
                              : m[g][h] / (c->node[g] == c->node[h] ? c->rank_link.bandwidth
                                                                    : c->node_link.bandwidth);

            sum += x;
            most = fmax(most, x);
        }
    return max_form ? most : sum;
}

/* The plan's cost, and the least over all permutations of its clusters (4 ranks). */
static void chain(const struct place_problem *p, const struct plan *plan, bool max_form,
                  double *ret_cost, double *ret_best)
{
    double *pairs = malloc(sizeof(double) * p->experts * p->experts), best[256], next[256];
    uint16_t a[512], b[512];

    *ret_cost = *ret_best = 0;
    memset(best, 0, sizeof best);
    for (uint32_t l = 0; pairs && l + 1 < p->layers; l++) {
        const uint16_t *rank = plan->rank + (size_t)l * p->experts;

        trace_pairs(p->scenario[0].trace, l, pairs);
        *ret_cost += term(p, max_form, pairs, rank, rank + p->experts);
        for (int k = 0; k < 256; k++) { /* base 4 digits: only permutations count */
            int used = 1 << (k & 3) | 1 << (k >> 2 & 3) | 1 << (k >> 4 & 3) | 1 << (k >> 6 & 3);

            next[k] = INFINITY;
            for (int i = 0; used == 15 && i < 256; i++) {
                int from = 1 << (i & 3) | 1 << (i >> 2 & 3) | 1 << (i >> 4 & 3) | 1 << (i >> 6 & 3);

                if (from != 15)
                    continue;
                for (uint32_t e = 0; e < p->experts; e++) {
                    a[e] = i >> (2 * rank[e]) & 3;
                    b[e] = k >> (2 * rank[p->experts + e]) & 3;
                }
                next[k] = fmin(next[k], best[i] + term(p, max_form, pairs, a, b));
            }
        }
        memcpy(best, next, sizeof best);
    }
    *ret_best = INFINITY;
    for (int k = 0; k < 256; k++)
        *ret_best = fmin(*ret_best, best[k]);
    free(pairs);
}

static double stop_at, start_at;

static double time_spent(void *unused)
{
    (void)unused;
    return (seconds() - start_at) / (stop_at - start_at);
}

static bool is_late(void *unused)
{
    (void)unused;
    return seconds() > stop_at;
}

static void bench_flow(const char *name, struct place_problem *p, double limit)
{
    struct place_run run = {.seed = 1, .stop = is_late, .spent = time_spent};
    struct flow_found found;
    struct place_result start;
    struct mt_err err;
    double bound, begin = seconds(), searched;
    bool exact;

    p->semantics = PLACE_FLOW;
    start_at = begin;
    stop_at = begin + limit;
    if (contiguous_solve(p, &run, &start, &err) ||
        flow_search(p, &run, &start.plan, &found, &err)) {
        printf("%s: %s\n", name, err.text);
        return;
    }
    searched = seconds();
    start_at = searched;
    stop_at = searched + 10;
    if (flow_bound(p, &run, &bound, &exact, &err)) {
        printf("%s: %s\n", name, err.text);
        return;
    }
    printf(
        "%-28s G=%-2u nodes=%u flow %7.3f s  %s  contiguous %.6g, found %.6g, bound %.6g (%.2f %%)"
        ", %llu moves, bound in %.3f s\n",
        name, p->cluster.ranks, p->cluster.nodes, searched - begin, found.optimal ? "OPTIMAL" : "-",
        start.objective, found.objective, bound, 100 * (1 - bound / found.objective),
        (unsigned long long)found.moves, seconds() - searched);
    plan_done(&start.plan);
}

static void bench(const char *folder, const char *name, uint32_t ranks, uint32_t nodes)
{
    static const struct {
        const char *name;
        int (*solve)(const struct place_problem *, const struct place_run *, struct place_result *,
                     struct mt_err *);
    } form[] = {
        {"sum", moetuner_solve}, {"max", moetuner_max_solve}, {"free", moetuner_free_solve}};
    char path[4096];
    struct trace t;
    struct mt_err err;
    struct place_problem p;
    double *load;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (trace_read(path, &t, &err)) {
        printf("%s: skipped\n", path);
        return;
    }
    load = calloc((size_t)t.layers * t.experts, sizeof *load);
    if (!load)
        return;
    make_problem(&t, ranks, nodes, load, &p);
    for (size_t i = 0; i < sizeof form / sizeof *form; i++) {
        struct place_run run = {.seed = 1};
        struct place_result got;
        double start = seconds();

        if (form[i].solve(&p, &run, &got, &err)) {
            printf("%s: %s\n", name, err.text);
            continue;
        }
        printf("%-28s G=%-2u nodes=%u %-4s %7.3f s  %s  %s\n", name, ranks, nodes, form[i].name,
               seconds() - start, got.optimal ? "OPTIMAL" : "-", got.note);
        if (ranks == 4 && i < 2) {
            double cost, best;

            chain(&p, &got.plan, i == 1, &cost, &best);
            printf("    cost %.9g, by enumeration %.9g: %s\n", cost, best,
                   cost <= best * (1 + 1e-9) ? "equal" : "DIFFERENT");
        }
        plan_done(&got.plan);
    }
    bench_flow(name, &p, 2);
    for (uint32_t g = 0; g < ranks; g++) /* without spare slots */
        p.cluster.slots[g] -= 2;
    bench_flow(name, &p, 2);
    free(load);
    trace_done(&t);
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "../shared/traces";
    static const uint32_t shape[][2] = {{4, 1}, {4, 2}, {8, 1}, {8, 2}};

    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        bench(folder, "mixtral-8x7b/gsm8k-humaneval.json", shape[i][0], shape[i][1]);
        bench(folder, "tiny/python.json", shape[i][0], shape[i][1]);
        bench(folder, "deepseek-v2-lite/puffin.json", shape[i][0], shape[i][1]);
    }
    return 0;
}
