/* moetuner place compare: every method fitted on a part of the text, and scored on the rest. */
#include "cli/place_compare.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_MS "5000"
#define TIE 1e-9 /* of J: rounding */

struct config {
    struct place_input in;
    char *methods, *spares, *svg;
    double fit_fraction, gap;
    int64_t time_ms, seed, iterations, jobs, first_tokens;
    bool resample, json, help;
};

#define AT(field) offsetof(struct config, field)

static const struct option OPTIONS[] = {
    PLACE_ROW_TRACE(struct config),
    {"test", OPTION_TEXT, AT(in.test), NULL, 0, 0, NULL, "T...", "Problem",
     "Score on these traces, and fit on all of --trace; default: a part of each trace."},
    {"fit-fraction", OPTION_REAL, AT(fit_fraction), "0.5", 0, 1, NULL, "X", "Problem",
     "The part of each trace's documents, from the first on, that methods see; they are scored on "
     "the others."},
    {"fit-first-tokens", OPTION_INT, AT(first_tokens), "0", 0, 1 << 26, NULL, "N", "Problem",
     "Of that part, only the first N tokens of each trace; 0: all."},
    PLACE_ROWS_PROBLEM(struct config),
    {"spares", OPTION_TEXT, AT(spares), "0", 0, 0, NULL, "R,...", "Problem",
     "Spare slots of each rank in each layer: a table for each number."},

    {"methods", OPTION_TEXT, AT(methods), NULL, 0, 0, NULL, "M,...", "Search",
     "Default: all that there are; `moetuner place --help` lists them."},
    {"time-ms", OPTION_INT, AT(time_ms), DEFAULT_MS, 0, 7 * 86400e3, NULL, "MS", "Search",
     "For each method; 0: no limit."},
    {"resample", OPTION_FLAG, AT(resample), "true", 0, 0, NULL, NULL, "Search",
     "Prefers plans that hold on resampled documents, as far as cross-validation says that this "
     "pays; off: fits the traces as they are, which is what a proven gap is about."},
    {"gap", OPTION_REAL, AT(gap), "0", 0, 1, NULL, "G", "Search",
     "Ends a search once the plan is proven to be within this part of the optimum."},
    {"iterations", OPTION_INT, AT(iterations), "0", 0, 1e15, NULL, "N", "Search",
     "Moves of a search."},
    {"seed", OPTION_INT, AT(seed), "0", 0, 1e15, NULL, "S", "Search", "Of what is random."},
    {"jobs", OPTION_INT, AT(jobs), "0", 0, PLACE_MAX_JOBS, NULL, "N", "Search",
     "Processes of a search, as `solve` has them."},

    {"json", OPTION_FLAG, AT(json), "false", 0, 0, NULL, NULL, "Output",
     "One JSON object instead of tables."},
    {"svg", OPTION_TEXT, AT(svg), NULL, 0, 0, NULL, "FILE", "Output",
     "A chart of the times by term."},
    PLACE_ROW_HELP(struct config),
    {0},
};

struct comparison {
    const struct config *config;
    int stop_fd;
    bool interrupted;
    struct place_set *all, *fit, *rest; /* fit and rest: of all, or all and the tests */
    const struct place_method *method[COMPARE_MAX_METHODS];
    uint32_t methods, tables;
    uint32_t spare[COMPARE_MAX_TABLES];
    struct compare_table *table; /* [tables] */
};

/* ---- the command line ---- */

static int add_method(struct comparison *x, const char *name, struct mt_err *reterr)
{
    const struct place_method *m = place_method_find(name, reterr);

    if (!m)
        return reterr->status;
    if (x->methods == COMPARE_MAX_METHODS)
        return mt_error(reterr, MT_ELIMIT, "option methods: expected at most %d, found more",
                        COMPARE_MAX_METHODS);
    x->method[x->methods++] = m;
    return 0;
}

static int parse_methods(struct comparison *x, struct mt_err *reterr)
{
    char *list, *at, *name;
    int rc = 0;

    if (!x->config->methods) {
        for (const struct place_method *m = PLACE_METHODS; !rc && m->name; m++)
            rc = add_method(x, m->name, reterr);
        return rc;
    }
    at = list = strdup(x->config->methods);
    if (!list)
        return mt_error(reterr, MT_ENOMEM, "out of memory");
    while (!rc && (name = strsep(&at, ",")))
        rc = add_method(x, name, reterr);
    free(list);
    return rc;
}

static int parse_spares(struct comparison *x, struct mt_err *reterr)
{
    const char *at = x->config->spares;

    for (;;) {
        char *end;
        unsigned long n;

        errno = 0;
        n = strtoul(at, &end, 10);
        if (*at < '0' || *at > '9' || errno || n > PLACE_MAX_EXPERTS || (*end && *end != ','))
            return mt_error(reterr, MT_EINVAL,
                            "option spares: expected numbers of 0 to %d with commas between, found "
                            "%.60s",
                            PLACE_MAX_EXPERTS, x->config->spares);
        if (x->tables == COMPARE_MAX_TABLES)
            return mt_error(reterr, MT_ELIMIT, "option spares: expected at most %d, found more",
                            COMPARE_MAX_TABLES);
        x->spare[x->tables++] = (uint32_t)n;
        if (!*end)
            return 0;
        at = end + 1;
    }
}

/* ---- a row ---- */

double compare_phase(const struct compare_table *t, const struct compare_row *r,
                     enum place_phase phase)
{
    const struct score *s = compare_score(t, r);
    double sum = 0, shares = 0;

    for (uint32_t i = 0; i < s->scenarios; i++) {
        const struct place_scenario *c = &t->problem.scenario[i];

        if (c->phase != phase)
            continue;
        sum += c->share * s->scenario[i].step / c->tokens;
        shares += c->share;
    }
    return shares > 0 ? sum / shares : 0;
}

uint32_t compare_best(const struct compare_table *t)
{
    uint32_t best = t->rows;

    for (uint32_t i = 0; i < t->rows; i++)
        if (t->row[i].good && (best == t->rows || compare_score(t, &t->row[i])->j <
                                                      compare_score(t, &t->row[best])->j))
            best = i;
    return best;
}

bool compare_leads(const struct compare_table *t, uint32_t row)
{
    uint32_t best = compare_best(t);

    return best < t->rows && t->row[row].good &&
           compare_score(t, &t->row[row])->j <= (1 + TIE) * compare_score(t, &t->row[best])->j;
}

static int score_row(const struct compare_table *t, const struct plan *plan, struct compare_row *r,
                     struct mt_err *reterr)
{
    int rc = score_plan(&t->problem, plan, SCORE_FLUID, &r->score[SCORE_FLUID], reterr);

    if (!rc && t->by == SCORE_SAMPLED)
        rc = score_plan(&t->problem, plan, SCORE_SAMPLED, &r->score[SCORE_SAMPLED], reterr);
    r->good = !rc;
    return rc;
}

/* Also finds out whether steps can be sampled. */
static int score_base(struct compare_table *t, const struct plan *even, struct mt_err *reterr)
{
    int rc;

    t->by = SCORE_SAMPLED;
    rc = score_row(t, even, &t->base, reterr);
    if (rc != MT_EUNSUPPORTED)
        return rc;
    t->by = SCORE_FLUID;
    return score_row(t, even, &t->base, reterr);
}

static int run_base(struct compare_table *t, struct mt_err *reterr)
{
    struct plan even;
    int rc = plan_contiguous(t->problem.layers, t->problem.experts, t->problem.cluster.ranks, &even,
                             reterr);

    if (rc)
        return rc;
    rc = place_fits(&t->problem, &even, reterr);
    if (!rc)
        rc = score_base(t, &even, reterr);
    plan_done(&even);
    return rc;
}

/* A method that does not apply or fails is a row with its reason, not the end. */
static void run_method(struct comparison *x, const struct place_method *m,
                       const struct place_problem *fit, struct compare_table *t)
{
    const struct config *c = x->config;
    struct compare_row *r = &t->row[t->rows++];
    struct place_search search = {.method = m,
                                  .seed = (uint64_t)c->seed,
                                  .iterations = (uint64_t)c->iterations,
                                  .plain = !c->resample,
                                  .gap = c->gap,
                                  .time_ms = c->time_ms,
                                  .stop_fd = x->stop_fd,
                                  .progress = isatty(2)};
    struct place_outcome o = {0};
    struct mt_err err;

    r->method = m->name;
    search.jobs = c->jobs ? (uint32_t)c->jobs : place_jobs_default(m, search.iterations);
    if (place_jobs_run(fit, &search, &o, &err) || score_row(t, &o.plan, r, &err)) {
        snprintf(r->reason, sizeof r->reason, "%s", err.text);
    } else {
        r->objective = o.objective;
        r->bound = o.bound;
        r->optimal = o.optimal;
        r->seconds = o.seconds;
        r->seeds = o.seeds;
        memcpy(r->no_bound, o.no_bound, sizeof r->no_bound);
        memcpy(r->note, o.note, sizeof r->note);
    }
    x->interrupted = o.interrupted;
    plan_done(&o.plan);
}

static int run_table(struct comparison *x, uint32_t which, struct mt_err *reterr)
{
    struct compare_table *t = &x->table[which];
    struct place_problem *fit = calloc(1, sizeof *fit);
    const struct place_input *in = &x->config->in;
    int rc = fit ? place_problem_make(in, x->fit, x->spare[which], NULL, fit, reterr)
                 : mt_error(reterr, MT_ENOMEM, "out of memory");

    if (!rc)
        rc = place_problem_make(in, x->rest, x->spare[which], NULL, &t->problem, reterr);
    t->spare = x->spare[which];
    if (!rc)
        rc = run_base(t, reterr);
    for (uint32_t i = 0; !rc && i < x->methods && !x->interrupted; i++)
        run_method(x, x->method[i], fit, t);
    free(fit);
    return !rc && x->interrupted ? mt_error(reterr, MT_ECLOSED, "interrupted") : rc;
}

/* ---- as text ---- */

static double relative(double x, double base)
{
    return base > 0 ? x / base : 1;
}

static void print_row(const struct compare_table *t, const struct compare_row *r, bool best)
{
    const struct score *s = compare_score(t, r), *base = compare_score(t, &t->base);
    char gap[32];

    if (!r->good) {
        printf("  %-16s %s\n", r->method, r->reason);
        return;
    }
    place_gap_print(r->objective, r->bound, r->optimal, gap, sizeof gap);
    printf("%c %-16s %7.4f %8.4f %8.4f %7.3f %7.3f", best ? '*' : ' ', r->method,
           relative(s->j, base->j),
           relative(compare_phase(t, r, PLACE_PREFILL), compare_phase(t, &t->base, PLACE_PREFILL)),
           relative(compare_phase(t, r, PLACE_DECODE), compare_phase(t, &t->base, PLACE_DECODE)),
           s->load, s->load_worst);
    if (s->scenario[0].traffic)
        printf(" %6.3f %7.3f", s->ranks, s->remote);
    else
        printf("      -       -");
    printf(" %10s %8.2f %6u\n", gap, r->seconds, r->seeds);
}

static void print_best(const struct compare_table *t)
{
    uint32_t best = compare_best(t), next = t->rows;

    if (best == t->rows)
        return;
    for (uint32_t i = 0; i < t->rows; i++)
        if (!compare_leads(t, i) && t->row[i].good &&
            (next == t->rows ||
             compare_score(t, &t->row[i])->j < compare_score(t, &t->row[next])->j))
            next = i;
    printf("  best: %s", t->row[best].method);
    if (next < t->rows)
        printf(", %.2f %% less than %s",
               100 * (1 - relative(compare_score(t, &t->row[best])->j,
                                   compare_score(t, &t->row[next])->j)),
               t->row[next].method);
    printf("\n");
}

static void print_table(const struct compare_table *t)
{
    char j[32];

    place_seconds_print(compare_score(t, &t->base)->j, j, sizeof j);
    printf("\n%u spare slot%s a rank and layer; contiguous, the 1 of the first three columns: %s a "
           "token (%s)\n",
           t->spare, t->spare == 1 ? "" : "s", j, t->by == SCORE_SAMPLED ? "sampled" : "fluid");
    printf(
        "  method                 J  prefill   decode    load   worst    |S|  remote        gap  "
        "seconds  seeds\n");
    for (uint32_t i = 0; i < t->rows; i++)
        print_row(t, &t->row[i], compare_leads(t, i));
    print_best(t);
}

static const char *what_is_scored(const struct comparison *x)
{
    if (x->all != x->fit)
        return x->all->paths ? "fitted on the first part of the documents, scored on the rest"
                             : "fitted and scored on the same loads, where there are no documents";
    return "fitted on --trace, scored on --test";
}

static void print_text(const struct comparison *x)
{
    place_problem_print(&x->config->in, x->all, &x->table[0].problem, stdout);
    printf("%s", what_is_scored(x));
    if (x->all != x->fit && x->all->paths)
        printf(" (--fit-fraction %g)", x->config->fit_fraction);
    printf("\n");
    for (uint32_t i = 0; i < x->tables; i++)
        print_table(&x->table[i]);
    printf("\n* least J. gap: proven, of the fluid J on what was fitted; own: the optimum of what "
           "the method\nminimises, which is not J.%s\n",
           x->rest->paths ? "" : " Loads alone: only compute time is priced.");
}

/* ---- as JSON ---- */

static json_t *row_json(const struct compare_table *t, const struct compare_row *r)
{
    const struct score *base = compare_score(t, &t->base);
    json_t *o = json_object();

    json_object_set_new(o, "method", json_string(r->method));
    if (!r->good) {
        json_object_set_new(o, "reason", json_string(r->reason));
        return o;
    }
    json_object_set_new(o, "relative", json_real(relative(compare_score(t, r)->j, base->j)));
    json_object_set_new(o, "relative_prefill",
                        json_real(relative(compare_phase(t, r, PLACE_PREFILL),
                                           compare_phase(t, &t->base, PLACE_PREFILL))));
    json_object_set_new(o, "relative_decode",
                        json_real(relative(compare_phase(t, r, PLACE_DECODE),
                                           compare_phase(t, &t->base, PLACE_DECODE))));
    json_object_set_new(o, "seconds", json_real(r->seconds));
    json_object_set_new(o, "seeds", json_integer(r->seeds));
    json_object_set_new(o, "objective", json_real(r->objective));
    json_object_set_new(o, "method_optimal", json_boolean(r->optimal));
    json_object_set_new(o, r->bound > 0 ? "bound" : "no_bound",
                        r->bound > 0 ? json_real(r->bound) : json_string(r->no_bound));
    if (*r->note)
        json_object_set_new(o, "note", json_string(r->note));
    json_object_set_new(o, "fluid", place_score_json(&t->problem, &r->score[SCORE_FLUID]));
    if (t->by == SCORE_SAMPLED)
        json_object_set_new(o, "sampled", place_score_json(&t->problem, &r->score[SCORE_SAMPLED]));
    return o;
}

static json_t *table_json(const struct compare_table *t)
{
    json_t *rows = json_array();
    uint32_t best = compare_best(t);

    for (uint32_t i = 0; i < t->rows; i++)
        json_array_append_new(rows, row_json(t, &t->row[i]));
    return json_pack("{s:i, s:s, s:f, s:s?, s:o}", "spare", (int)t->spare, "evaluation",
                     t->by == SCORE_SAMPLED ? "sampled" : "fluid", "contiguous",
                     compare_score(t, &t->base)->j, "best",
                     best < t->rows ? t->row[best].method : NULL, "rows", rows);
}

static int print_json(const struct comparison *x, struct mt_err *reterr)
{
    json_t *tables = json_array();

    for (uint32_t i = 0; i < x->tables; i++)
        json_array_append_new(tables, table_json(&x->table[i]));
    return place_json_print(
        json_pack("{s:o, s:s, s:f, s:I, s:o}", "problem",
                  place_problem_json(&x->config->in, x->all, &x->table[0].problem), "scored",
                  what_is_scored(x), "fit_fraction", x->config->fit_fraction, "seed",
                  (json_int_t)x->config->seed, "tables", tables),
        stdout, reterr);
}

/* ---- all of it ---- */

static int read_sets(struct comparison *x, const struct place_args *args, struct mt_err *reterr)
{
    const struct config *c = x->config;
    uint32_t first = (uint32_t)c->first_tokens;
    int rc =
        place_set_read(&c->in, args->trace, args->traces, args->tests ? first : 0, x->all, reterr);

    if (rc)
        return rc;
    if (!args->tests)
        return place_set_split(x->all, c->fit_fraction, first, x->fit, x->rest, reterr);
    rc = place_set_read(&c->in, args->test, args->tests, 0, x->rest, reterr);
    if (!rc && (x->rest->layers != x->all->layers || x->rest->experts != x->all->experts ||
                x->rest->topk != x->all->topk))
        rc = mt_error(reterr, MT_EINVAL,
                      "option test: expected %u layers, %u experts, top-%u as in --trace, found "
                      "%u, %u, top-%u",
                      x->all->layers, x->all->experts, x->all->topk, x->rest->layers,
                      x->rest->experts, x->rest->topk);
    free(x->fit);
    x->fit = x->all;
    return rc;
}

static int report(const struct comparison *x, struct place_output *svg, struct mt_err *reterr)
{
    char title[256];
    int rc;

    if (x->config->json)
        rc = print_json(x, reterr);
    else
        rc = (print_text(x), 0);
    if (rc || !x->config->svg)
        return rc;
    snprintf(title, sizeof title, "%u layers of %u experts, top-%u, on %s (%u ranks)",
             x->all->layers, x->all->experts, x->all->topk, x->table[0].problem.cluster.name,
             x->table[0].problem.cluster.ranks);
    compare_chart(x->table, x->tables, title, svg->file);
    return place_output_commit(svg, reterr);
}

static int run(struct comparison *x, const struct place_args *args, struct mt_err *reterr)
{
    struct place_output svg = {0};
    int rc = parse_methods(x, reterr);

    if (!rc)
        rc = parse_spares(x, reterr);
    if (!rc)
        rc = read_sets(x, args, reterr);
    if (!rc && x->config->svg)
        rc = place_output_open(x->config->svg, &svg, reterr);
    if (!rc) {
        x->table = calloc(COMPARE_MAX_TABLES, sizeof *x->table);
        rc = x->table ? 0 : mt_error(reterr, MT_ENOMEM, "out of memory");
    }
    for (uint32_t i = 0; !rc && i < x->tables; i++)
        rc = run_table(x, i, reterr);
    if (!rc)
        rc = report(x, &svg, reterr);
    free(x->table);
    place_output_drop(&svg);
    return rc;
}

static void set_free(struct place_set *s)
{
    if (s)
        place_set_done(s);
    free(s);
}

static int compare(const void *config, const struct place_args *args, int stop_fd,
                   struct mt_err *reterr)
{
    const struct config *c = config;
    struct comparison x = {.config = c, .stop_fd = stop_fd};
    int rc;

    x.all = calloc(1, sizeof *x.all);
    x.fit = calloc(1, sizeof *x.fit);
    x.rest = calloc(1, sizeof *x.rest);
    rc = x.all && x.fit && x.rest ? run(&x, args, reterr)
                                  : mt_error(reterr, MT_ENOMEM, "out of memory");
    if (x.fit != x.all)
        set_free(x.fit);
    set_free(x.all);
    set_free(x.rest);
    return rc;
}

const struct place_command PLACE_COMPARE = {
    .usage = "--trace T... --cluster C [OPTION...]",
    .about = "Fits every method to a part of the text, and scores its plan on the rest.",
    .options = OPTIONS,
    .config_size = sizeof(struct config),
    .help_offset = offsetof(struct config, help),
    .terms = true,
    .run = compare,
};
