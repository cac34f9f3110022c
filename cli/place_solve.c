/* moetuner place solve: a placement for what was routed. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/place.h"
#include "placement/diff.h"

#define DEFAULT_MS 10000

struct config {
    struct place_input in;
    char *method, *from, *output, *curve;
    double horizon, gap;
    int64_t replicas, time_ms, seed, iterations, jobs, first_tokens;
    bool resample, json, help;
};

#define IN_FORCE "in force"
#define AT(field) offsetof(struct config, field)

static const struct option OPTIONS[] = {
    PLACE_ROW_TRACE(struct config),
    PLACE_ROWS_PROBLEM(struct config),
    {"fit-first-tokens", OPTION_INT, AT(first_tokens), "0", 0, 1 << 26, NULL, "N", "Problem",
     "Only the first N tokens of each trace; 0: all."},
    {"replicas", OPTION_INT, AT(replicas), "0", 0, PLACE_MAX_EXPERTS, NULL, "R", "Problem",
     "Spare slots of each rank in each layer, for copies."},
    {"from", OPTION_TEXT, AT(from), NULL, 0, 0, NULL, "P", "Problem",
     "The placement in force; leaving it costs a migration."},
    {"horizon", OPTION_REAL, AT(horizon), "0", 0, 1e18, NULL, "TOKENS", "Problem",
     "Tokens over which a migration must pay; 0: it costs nothing."},

    {"method", OPTION_TEXT, AT(method), "joint", 0, 0, NULL, "M", "Search",
     "`moetuner place --help` lists them."},
    {"time-ms", OPTION_INT, AT(time_ms), "0", 0, 7 * 86400e3, NULL, "MS", "Search",
     "Ends the search. 0: 10 s, or no limit with --iterations."},
    {"resample", OPTION_FLAG, AT(resample), "true", 0, 0, NULL, NULL, "Search",
     "Prefers plans that hold on resampled documents, as far as cross-validation says that this "
     "pays; off: fits the traces as they are, which is what a proven gap is about."},
    {"gap", OPTION_REAL, AT(gap), "0", 0, 1, NULL, "G", "Search",
     "Ends the search once the plan is proven to be within this part of the optimum."},
    {"iterations", OPTION_INT, AT(iterations), "0", 0, 1e15, NULL, "N", "Search",
     "Moves of a search; with it, and without --time-ms and --gap, the plan depends on the seed "
     "alone."},
    {"seed", OPTION_INT, AT(seed), "0", 0, 1e15, NULL, "S", "Search", "Of what is random."},
    {"jobs", OPTION_INT, AT(jobs), "0", 0, PLACE_MAX_JOBS, NULL, "N", "Search",
     "Processes, with seeds S, S + 1, ...; the best plan wins. 0: as many as processors, or 1 with "
     "--iterations or a method that is not random."},

    {"output", OPTION_TEXT, AT(output), NULL, 0, 0, NULL, "P.json", "Output",
     "The placement's file (also: -o P.json); it appears whole or not at all."},
    {"curve", OPTION_TEXT, AT(curve), NULL, 0, 0, NULL, "FILE", "Output",
     "CSV: seconds, best objective and bound so far (as the search sees them; the last line is of "
     "the plan), iterations."},
    {"json", OPTION_FLAG, AT(json), "false", 0, 0, NULL, NULL, "Output",
     "The report as JSON instead of a table."},
    PLACE_ROW_HELP(struct config),
    {0},
};

/* What is written; each stays empty if it was not asked for. */
struct files {
    struct place_output plan, curve;
};

/* A plan beside the one that was found. */
struct row {
    const char *name, *why_not; /* why_not: static, or NULL if it has a score */
    struct score score;
};

struct solved {
    struct place_problem problem;
    struct plan from; /* layers 0: none */
    struct place_outcome outcome;
    struct row row[3];
    uint32_t rows;
};

static int read_from(const struct config *c, struct plan *ret, struct mt_err *reterr)
{
    return c->from ? plan_read(c->from, ret, reterr) : 0;
}

/* curve: NULL, or where it goes. */
static int search(const struct config *c, int stop_fd, const struct place_problem *p, FILE *curve,
                  struct place_outcome *ret, struct mt_err *reterr)
{
    struct place_search s = {
        .method = place_method_find(c->method, reterr),
        .seed = (uint64_t)c->seed,
        .iterations = (uint64_t)c->iterations,
        .plain = !c->resample,
        .gap = c->gap,
        .time_ms = c->time_ms || c->iterations ? c->time_ms : DEFAULT_MS,
        .stop_fd = stop_fd,
        .progress = isatty(2),
        .curve = curve,
    };

    if (!s.method)
        return reterr->status;
    s.jobs = c->jobs ? (uint32_t)c->jobs : place_jobs_default(s.method, s.iterations);
    return place_jobs_run(p, &s, ret, reterr);
}

static int score_row(struct solved *s, const char *name, const struct plan *plan,
                     struct mt_err *reterr)
{
    struct row *r = &s->row[s->rows];
    struct mt_err why;

    r->name = name;
    if (place_fits(&s->problem, plan, &why))
        r->why_not = "does not fit the slots";
    else if (score_plan(&s->problem, plan, SCORE_FLUID, &r->score, reterr))
        return reterr->status;
    s->rows++;
    return 0;
}

static int score_rows(struct solved *s, struct mt_err *reterr)
{
    struct plan even;
    int rc = plan_contiguous(s->problem.layers, s->problem.experts, s->problem.cluster.ranks, &even,
                             reterr);

    if (rc)
        return rc;
    rc = score_row(s, "contiguous", &even, reterr);
    plan_done(&even);
    if (!rc && s->problem.from)
        rc = score_row(s, IN_FORCE, s->problem.from, reterr);
    if (!rc)
        rc = score_row(s, "this plan", &s->outcome.plan, reterr);
    return rc;
}

/* ---- report ---- */

static json_t *rows_json(const struct solved *s)
{
    json_t *rows = json_object();

    for (uint32_t i = 0; i < s->rows; i++) {
        const struct row *r = &s->row[i];

        json_object_set_new(rows, r->name,
                            r->why_not ? json_pack("{s:s}", "reason", r->why_not)
                                       : place_score_json(&s->problem, &r->score));
    }
    return rows;
}

static void set(json_t *object, const char *key, json_t *value)
{
    json_object_set_new(object, key, value);
}

/* Where the slots leave no room for a cycle, with a slot for staging. */
static int add_migration(json_t *root, const struct solved *s, struct mt_err *reterr)
{
    const struct cluster *c = &s->problem.cluster;
    bool staging = false;
    struct diff d;
    int rc = diff_plans(c, s->problem.from, &s->outcome.plan, staging, &d, reterr);

    if (rc == MT_ELIMIT) {
        staging = true;
        rc = diff_plans(c, s->problem.from, &s->outcome.plan, staging, &d, reterr);
    }
    if (rc)
        return rc;
    set(root, "copies", json_integer(d.copies));
    set(root, "drops", json_integer(d.drops));
    set(root, "staging", json_boolean(staging));
    set(root, "migration_seconds", json_real(d.seconds));
    diff_done(&d);
    return 0;
}

/* What the file says of its plan; *ret is the caller's. seconds are left out of what must be the
 * same each time. */
static int make_report(const struct config *c, const struct place_set *set_of,
                       const struct solved *s, json_t **ret, struct mt_err *reterr)
{
    const struct place_outcome *o = &s->outcome;
    json_t *root = json_object();
    int rc = 0;

    set(root, "method", json_string(c->method));
    set(root, "seed", json_integer((json_int_t)o->seed));
    set(root, "seeds", json_integer(o->seeds));
    set(root, "iterations", json_integer((json_int_t)o->iterations));
    if (!c->iterations)
        set(root, "seconds", json_real(o->seconds));
    set(root, "interrupted", json_boolean(o->interrupted));
    set(root, "objective", json_real(o->objective));
    set(root, "method_optimal", json_boolean(o->optimal));
    if (o->bound > 0) {
        set(root, "bound", json_real(o->bound));
        set(root, "gap", json_real((o->objective - o->bound) / o->bound));
    } else {
        set(root, "no_bound", json_string(o->no_bound));
    }
    if (*o->note)
        set(root, "note", json_string(o->note));
    if (o->lost)
        set(root, "lost", json_pack("{s:i, s:s}", "processes", (int)o->lost, "last", o->lost_text));
    set(root, "replicas", json_integer(c->replicas));
    set(root, "horizon", json_real(c->horizon));
    set(root, "problem", place_problem_json(&c->in, set_of, &s->problem));
    set(root, "scores", rows_json(s));
    if (s->problem.from)
        rc = add_migration(root, s, reterr);
    if (rc)
        json_decref(root);
    else
        *ret = root;
    return rc;
}

static void print_row(const struct row *r, double base)
{
    const struct score *s = &r->score;

    if (r->why_not) {
        printf("  %-11s %s\n", r->name, r->why_not);
        return;
    }
    printf("  %-11s %9.4f %7.3f %8.4f ", r->name, s->j * 1e6, base > 0 ? s->j / base : 1,
           s->terms.dense * 1e6);
    if (s->scenario[0].traffic)
        printf("%9.4f %8.4f %8.4f %7.3f %7.3f %7.3f %7.3f\n", s->terms.dispatch * 1e6,
               s->terms.compute * 1e6, s->terms.combine * 1e6, s->load, s->load_worst, s->ranks,
               s->remote);
    else
        printf("        - %8.4f        - %7.3f %7.3f       -       -\n", s->terms.compute * 1e6,
               s->load, s->load_worst);
}

static void print_outcome(const struct config *c, const struct place_outcome *o)
{
    char gap[32];

    place_gap_print(o->objective, o->bound, o->optimal, gap, sizeof gap);
    printf("%s, seed %llu of %u: %.2f s, %llu iterations%s; proven gap: %s%s%s\n", c->method,
           (unsigned long long)o->seed, o->seeds, o->seconds, (unsigned long long)o->iterations,
           o->interrupted ? " (interrupted)" : "", gap, *o->no_bound ? ", " : "", o->no_bound);
    if (o->optimal)
        printf("proven to be the optimum of what the method minimises\n");
    if (*o->note)
        printf("note: %s\n", o->note);
}

/* Copies beyond one of each expert, and room for them. */
static void print_copies(const struct place_problem *p, const struct plan *plan)
{
    size_t pairs = (size_t)p->layers * p->experts;
    uint64_t slots = 0;

    for (uint32_t g = 0; g < p->cluster.ranks; g++)
        slots += p->cluster.slots[g];
    if (slots > p->experts)
        printf("copies beyond the first: %zu, of %llu spare slots\n", plan->start[pairs] - pairs,
               (unsigned long long)(slots - p->experts) * p->layers);
}

/* The plan in force, if there is one, else the first row: what the others are compared with. */
static double base_of(const struct solved *s)
{
    for (uint32_t i = 0; s->problem.from && i < s->rows; i++)
        if (!s->row[i].why_not && !strcmp(s->row[i].name, IN_FORCE))
            return s->row[i].score.j;
    return s->row[0].why_not ? s->row[s->rows - 1].score.j : s->row[0].score.j;
}

static void print_table(const struct config *c, const struct place_set *set_of,
                        const struct solved *s, const json_t *report)
{
    double base = base_of(s);
    char time[32];

    place_problem_print(&c->in, set_of, &s->problem, stdout);
    print_outcome(c, &s->outcome);
    print_copies(&s->problem, &s->outcome.plan);
    if (!s->problem.scenario[0].trace)
        puts("loads alone: traffic is not priced");
    if (!c->output)
        puts("not saved: there is no -o");
    printf(
        "\n  us a token (fluid)  J   relative    dense  dispatch  compute  combine    load   worst"
        "     |S|  remote\n");
    for (uint32_t i = 0; i < s->rows; i++)
        print_row(&s->row[i], base);
    if (s->problem.from) {
        place_seconds_print(json_real_value(json_object_get(report, "migration_seconds")), time,
                            sizeof time);
        printf("\nmigration: %lld copies, %s of the busiest port%s\n",
               (long long)json_integer_value(json_object_get(report, "copies")), time,
               json_is_true(json_object_get(report, "staging"))
                   ? "; it takes a slot for staging on each rank"
                   : "");
    }
}

static int finish(const struct config *c, const struct place_set *set_of, const struct solved *s,
                  struct files *f, struct mt_err *reterr)
{
    json_t *report;
    char *text;
    int rc = make_report(c, set_of, s, &report, reterr);

    if (rc)
        return rc;
    text = json_dumps(report, JSON_REAL_PRECISION(9));
    if (!text)
        rc = mt_error(reterr, MT_ENOMEM, "out of memory");
    if (!rc && c->output)
        rc = plan_write(f->plan.file, &s->outcome.plan, text, reterr);
    if (!rc && c->output)
        rc = place_output_commit(&f->plan, reterr);
    if (!rc && c->curve)
        rc = place_output_commit(&f->curve, reterr);
    free(text);
    if (!rc && s->outcome.lost)
        fprintf(stderr, "moetuner place solve: %u of the processes ended without a plan: %s\n",
                s->outcome.lost, s->outcome.lost_text);
    if (!rc && !c->json)
        print_table(c, set_of, s, report);
    if (!rc && c->json)
        rc = place_json_print(json_incref(report), stdout, reterr);
    json_decref(report);
    return rc;
}

static int solve_set(const struct config *c, const struct place_set *set_of, int stop_fd,
                     struct files *f, struct mt_err *reterr)
{
    struct solved s = {0};
    int rc = read_from(c, &s.from, reterr);

    if (!rc)
        rc = place_problem_make(&c->in, set_of, (uint32_t)c->replicas, NULL, &s.problem, reterr);
    if (!rc && c->from) {
        s.problem.from = &s.from;
        s.problem.horizon = c->horizon;
        rc = place_check(&s.problem, reterr);
    }
    if (!rc)
        rc = search(c, stop_fd, &s.problem, f->curve.file, &s.outcome, reterr);
    if (!rc)
        rc = score_rows(&s, reterr);
    if (!rc)
        rc = finish(c, set_of, &s, f, reterr);
    plan_done(&s.outcome.plan);
    plan_done(&s.from);
    return rc;
}

static int solve(const void *config, const struct place_args *args, int stop_fd,
                 struct mt_err *reterr)
{
    const struct config *c = config;
    struct files f = {0};
    struct place_set *set_of = calloc(1, sizeof *set_of);
    int rc = set_of ? 0 : mt_error(reterr, MT_ENOMEM, "out of memory");

    if (!rc && !place_method_find(c->method, reterr))
        rc = reterr->status;
    if (!rc)
        rc = place_set_read(&c->in, args->trace, args->traces, (uint32_t)c->first_tokens, set_of,
                            reterr);
    if (!rc && c->output) /* before the search: paths that cannot be written are told at once */
        rc = place_output_open(c->output, &f.plan, reterr);
    if (!rc && c->curve)
        rc = place_output_open(c->curve, &f.curve, reterr);
    if (!rc)
        rc = solve_set(c, set_of, stop_fd, &f, reterr);
    place_output_drop(&f.plan);
    place_output_drop(&f.curve);
    if (set_of)
        place_set_done(set_of);
    free(set_of);
    return rc;
}

const struct place_command PLACE_SOLVE = {
    .usage = "--trace T... --cluster C -o P.json [OPTION...]",
    .about = "Finds a placement of experts, and says how far from the optimum it can be at "
             "most.\nOn SIGINT or SIGTERM it writes the best one so far.",
    .options = OPTIONS,
    .config_size = sizeof(struct config),
    .help_offset = offsetof(struct config, help),
    .terms = true,
    .run = solve,
};
