/* moetuner place explain: a placement's loads and traffic, drawn. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/place.h"

#define WIDTH 40     /* cells of a bar */
#define MAX_CELLS 16 /* ranks of a matrix; beyond, nodes, if there are several */
#define MAX_ROWS 64  /* of a matrix that is drawn */
#define EIGHTHS 8    /* of a cell that a bar can end on */
#define HIGH 1.15    /* of the mean: coloured */

struct config {
    struct place_input in;
    char *placement;
    int64_t layer;
    bool help;
};

#define AT(field) offsetof(struct config, field)

static const struct option OPTIONS[] = {
    PLACE_ROW_TRACE(struct config),
    PLACE_ROWS_PROBLEM(struct config),
    {"placement", OPTION_TEXT, AT(placement), NULL, 0, 0, NULL, "P", "Problem",
     "The placement to draw."},
    {"layer", OPTION_INT, AT(layer), "-1", -1, PLACE_MAX_LAYERS - 1, NULL, "N", "Output",
     "Only this layer; -1: a line for each, and the picture of all together."},
    PLACE_ROW_HELP(struct config),
    {0},
};

struct drawing {
    const struct place_problem *problem;
    const struct plan *plan;
    const struct place_picture *picture;
    bool colour;
};

/* Without --cluster: one node, and only counts are looked at. */
static int bare_problem(const struct place_set *s, const struct plan *plan,
                        struct place_problem *ret, struct mt_err *reterr)
{
    struct cluster *c = &ret->cluster;
    int rc = plan_check(plan, s->layers, s->experts, plan->ranks, reterr);

    if (rc)
        return rc;
    memset(ret, 0, sizeof *ret);
    ret->layers = s->layers;
    ret->experts = s->experts;
    ret->topk = s->topk;
    ret->scenarios = 1;
    ret->scenario[0].tokens = 1;
    snprintf(c->name, sizeof c->name, "one node");
    c->ranks = plan->ranks;
    c->nodes = 1;
    c->rank_link = c->node_link = (struct link){.bandwidth = 1};
    c->dispatch_bytes = c->combine_bytes = 1;
    return 0;
}

static void paint(const struct drawing *d, const char *code)
{
    if (d->colour)
        fputs(code, stdout);
}

/* A bar of `part` of the width, with a mark where the mean is. */
static void draw_bar(const struct drawing *d, double part, double mean)
{
    static const char *const ENDS[EIGHTHS] = {" ",      "\u258f", "\u258e", "\u258d",
                                              "\u258c", "\u258b", "\u258a", "\u2589"};
    int eighths = (int)lround(part * WIDTH * EIGHTHS), mark = (int)lround(mean * WIDTH);

    paint(d, part > HIGH * mean ? "\033[33m" : "\033[36m");
    for (int i = 0; i < WIDTH; i++) {
        int filled = eighths - i * EIGHTHS;

        if (i == mark)
            fputs(filled > 0 ? "\u256a" : "\u2502", stdout);
        else if (filled >= EIGHTHS)
            fputs("\u2588", stdout);
        else
            fputs(ENDS[filled > 0 ? filled : 0], stdout);
    }
    paint(d, "\033[0m");
}

static uint32_t copies_on(const struct plan *p, uint32_t layer, uint32_t rank)
{
    uint32_t n = 0;

    for (uint32_t i = p->start[(size_t)layer * p->experts];
         i < p->start[(size_t)(layer + 1) * p->experts]; i++)
        n += p->rank[i] == rank;
    return n;
}

static uint32_t replicas_of(const struct plan *p, uint32_t layer)
{
    return p->start[(size_t)(layer + 1) * p->experts] - p->start[(size_t)layer * p->experts] -
           p->experts;
}

/* layer, or all of them together: PLACE_MAX_LAYERS. */
static void sum_loads(const struct drawing *d, uint32_t layer, double *ret)
{
    const struct place_picture *p = d->picture;

    memset(ret, 0, p->ranks * sizeof *ret);
    for (uint32_t l = 0; l < p->layers; l++)
        for (uint32_t g = 0; (layer == PLACE_MAX_LAYERS || l == layer) && g < p->ranks; g++)
            ret[g] += p->load[(size_t)l * p->ranks + g];
}

static void draw_loads(const struct drawing *d, uint32_t layer)
{
    double load[PLAN_MAX_RANKS], most = 0, all = 0;
    uint32_t ranks = d->picture->ranks, held = 0;

    sum_loads(d, layer, load);
    for (uint32_t g = 0; g < ranks; g++) {
        most = load[g] > most ? load[g] : most;
        all += load[g];
    }
    if (!(most > 0))
        most = 1;
    for (uint32_t g = 0; g < ranks; g++) {
        printf("  rank %3u ", g);
        draw_bar(d, load[g] / most, all / ranks / most);
        if (layer == PLACE_MAX_LAYERS)
            for (uint32_t l = held = 0; l < d->picture->layers; l++)
                held += copies_on(d->plan, l, g);
        else
            held = copies_on(d->plan, layer, g);
        printf(" %6.3f of the mean, %u copies\n", all > 0 ? load[g] * ranks / all : 1, held);
    }
}

static bool by_node(const struct drawing *d)
{
    return d->picture->ranks > MAX_CELLS && d->problem->cluster.nodes > 1;
}

/* from, to: ranks, or nodes where there are many ranks; *ret_n of them. */
static double *sum_vectors(const struct drawing *d, uint32_t layer, uint32_t *ret_n)
{
    const struct place_picture *p = d->picture;
    const struct cluster *c = &d->problem->cluster;
    bool nodes = by_node(d);
    uint32_t n = nodes ? c->nodes : p->ranks;
    double *sum = calloc((size_t)n * n, sizeof *sum);

    *ret_n = n;
    for (uint32_t l = 0; sum && l < p->layers; l++)
        for (uint32_t g = 0; (layer == PLACE_MAX_LAYERS || l == layer) && g < p->ranks; g++)
            for (uint32_t r = 0; r < p->ranks; r++)
                sum[(size_t)(nodes ? c->node[g] : g) * n + (nodes ? c->node[r] : r)] +=
                    p->vectors[((size_t)l * p->ranks + g) * p->ranks + r];
    return sum;
}

/* 1 to 4, between the least and the most; little difference looks like little. */
static int shade(double v, double least, double most)
{
    double range = fmax(most - least, most / 4);

    return 4 - (int)fmin(4 * (most - v) / range, 3);
}

static void draw_matrix(const struct drawing *d, uint32_t layer)
{
    static const char *const SHADES[] = {"\u00b7\u00b7", "\u2591\u2591", "\u2592\u2592",
                                         "\u2593\u2593", "\u2588\u2588"};
    uint32_t n;
    double *sum = d->picture->vectors ? sum_vectors(d, layer, &n) : NULL;
    double most = 0, least = INFINITY, all = 0;
    double layers = layer == PLACE_MAX_LAYERS ? d->picture->layers : 1;
    const char *unit = by_node(d) ? "nodes" : "ranks";

    if (!sum)
        return;
    for (size_t k = 0; k < (size_t)n * n; k++) {
        most = fmax(most, sum[k]);
        least = sum[k] > 0 ? fmin(least, sum[k]) : least;
        all += sum[k];
    }
    least = fmin(least, most);
    printf("  vectors from %s (rows) to %s (columns), a token and layer: %.4f (light) to %.4f\n",
           unit, unit, least / layers, most / layers);
    for (uint32_t g = 0; n <= MAX_ROWS && g < n; g++) {
        double out = 0;

        printf("  %8u ", g);
        paint(d, "\033[36m");
        for (uint32_t r = 0; r < n; r++) {
            double v = sum[(size_t)g * n + r];

            out += v;
            fputs(SHADES[v > 0 ? shade(v, least, most) : 0], stdout);
        }
        paint(d, "\033[0m");
        printf(" %6.2f %%\n", all > 0 ? 100 * out / all : 0);
    }
    free(sum);
}

static void draw_layer(const struct drawing *d, uint32_t layer)
{
    printf("\nlayer %u: max/mean %.3f", layer, place_picture_balance(d->picture, layer));
    if (d->picture->vectors)
        printf(", |S| %.3f", d->picture->distinct[layer]);
    printf(", %u replica%s\n", replicas_of(d->plan, layer),
           replicas_of(d->plan, layer) == 1 ? "" : "s");
    draw_loads(d, layer);
    draw_matrix(d, layer);
}

static void draw_all(const struct drawing *d)
{
    const struct place_picture *p = d->picture;
    double balance = 0, distinct = 0, worst = 1;

    for (uint32_t l = 0; l < p->layers; l++)
        worst = fmax(worst, place_picture_balance(p, l));
    printf("\nlayer  max/mean    |S|  replicas  busiest rank, as part of the worst layer's\n");
    for (uint32_t l = 0; l < p->layers; l++) {
        double b = place_picture_balance(p, l);

        balance += b / p->layers;
        distinct += p->distinct[l] / p->layers;
        printf("  %3u %9.3f", l, b);
        if (p->vectors)
            printf(" %6.3f %9u  ", p->distinct[l], replicas_of(d->plan, l));
        else
            printf("      - %9u  ", replicas_of(d->plan, l));
        draw_bar(d, b / worst, 1 / worst);
        printf("\n");
    }
    printf("  all %9.3f", balance);
    if (p->vectors)
        printf(" %6.3f", distinct);
    printf("\n\nall layers together:\n");
    draw_loads(d, PLACE_MAX_LAYERS);
    draw_matrix(d, PLACE_MAX_LAYERS);
}

static int draw(const struct config *c, const struct place_set *s, const struct plan *plan,
                struct mt_err *reterr)
{
    struct place_problem p;
    struct place_picture pic;
    struct drawing d = {.problem = &p, .plan = plan, .picture = &pic, .colour = isatty(1)};
    int rc = c->in.cluster ? place_problem_make(&c->in, s, 0, plan, &p, reterr)
                           : bare_problem(s, plan, &p, reterr);

    if (!rc && c->layer >= (int64_t)s->layers)
        rc = mt_error(reterr, MT_EINVAL, "option layer: expected -1 to %u, found %lld",
                      s->layers - 1, (long long)c->layer);
    if (!rc)
        rc = place_picture_make(&p, s, plan, &pic, reterr);
    if (rc)
        return rc;
    printf("%s on %u ranks (%s): %u layers of %u experts, top-%u\n", c->placement, plan->ranks,
           p.cluster.name, s->layers, s->experts, s->topk);
    if (!s->paths)
        printf("loads alone: traffic is not known\n");
    if (c->layer >= 0)
        draw_layer(&d, (uint32_t)c->layer);
    else
        draw_all(&d);
    place_picture_done(&pic);
    return 0;
}

static int explain(const void *config, const struct place_args *args, int stop_fd,
                   struct mt_err *reterr)
{
    const struct config *c = config;
    struct place_set *set = calloc(1, sizeof *set);
    struct plan plan = {0};
    int rc = set ? place_need(c->placement, "placement", reterr)
                 : mt_error(reterr, MT_ENOMEM, "out of memory");

    (void)stop_fd;
    if (!rc)
        rc = plan_read(c->placement, &plan, reterr);
    if (!rc)
        rc = place_set_read(&c->in, args->trace, args->traces, 0, set, reterr);
    if (!rc)
        rc = draw(c, set, &plan, reterr);
    plan_done(&plan);
    if (set)
        place_set_done(set);
    free(set);
    return rc;
}

const struct place_command PLACE_EXPLAIN = {
    .usage = "--placement P.json --trace T... [OPTION...]",
    .about = "Draws a placement: load of each rank (the mark is the mean), and which vectors "
             "go where.\nWithout --cluster, ranks are on one node.",
    .options = OPTIONS,
    .config_size = sizeof(struct config),
    .help_offset = offsetof(struct config, help),
    .run = explain,
};
