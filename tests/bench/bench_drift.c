/* What drift costs, and what solving again recovers: bench_drift [OPTION]...
 *
 * Table 1, for each domain: the time of a step of its second half (sampled) under plans that were
 * fitted on other text, in per cent above the plan of its own first half. Table 2: a day that
 * changes domain every few minutes, replayed on the second halves, under policies that solve again
 * and pay for the migration, and under those that do not. The day's documents come over again where
 * a segment is longer than they are, so that a window has seen part of what follows: compare with
 * the clairvoyants, one of which knows just that text, the other the domain's other half.
 *
 * A cluster is what `moetuner place --cluster` takes, or rho:R:G for G ranks where a vector there
 * and back takes R times as long as a token at an expert, and nothing else costs: the units of the
 * tables that placements are compared in elsewhere. */
#include <dirent.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/option.h"
#include "placement/replay.h"
#include "placement/score.h"

#define MAX_DOMAINS 32
#define MAX_ROWS 16

struct config {
    char *traces, *cluster, *method, *only;
    int64_t iterations, seed, prefill, batch, spare, sequences, segment, every, window, solve_ms;
    double horizon, minutes;
    int homes; /* enum place_homes */
    bool help;
};

#define AT(field) offsetof(struct config, field)
#define INT(name, field, value, min, max, section, help) \
    { \
        name, OPTION_INT, AT(field), value, min, max, NULL, "N", section, help \
    }

static const char *const HOMES[] = {"load", "affinity", NULL};

static const struct option OPTIONS[] = {
    {"traces", OPTION_TEXT, AT(traces), "tests/data/traces", 0, 0, NULL, "DIR", "Problem",
     "Traces of one shape, one a domain."},
    {"cluster", OPTION_TEXT, AT(cluster),
     "cpu:4,cpu:8,rho:0.63:4,rho:2:4,rho:4:4,rho:0.63:8,rho:2:8,rho:4:8", 0, 0, NULL, "C,...",
     "Problem", "Clusters."},
    INT("spare", spare, "0", 0, 512, "Problem", "Spare slots of a rank and layer."),
    INT("prefill-tokens", prefill, "4096", 1, 1 << 24, "Problem",
        "Tokens of a prefill step, over all ranks."),
    INT("decode-batch", batch, "256", 1, REPLAY_MAX_SEQUENCES, "Problem",
        "Sequences of a decode step, over all ranks."),
    {"homes", OPTION_CHOICE, AT(homes), "load", 0, 0, HOMES, NULL, "Problem",
     "By load or by affinity."},
    {"method", OPTION_TEXT, AT(method), "joint", 0, 0, NULL, "M", "Search", "Ours."},
    INT("iterations", iterations, "20000", 1, 1e15, "Search", "Moves of a search."),
    INT("seed", seed, "0", 0, 1e15, "Search", "Of the search."),
    {"only", OPTION_TEXT, AT(only), "", 0, 0, NULL, "TABLE", "Output", "fits or day; both."},
    INT("sequences", sequences, "64", 1, REPLAY_MAX_SEQUENCES, "Day",
        "In flight: what the last domain leaves behind, some hundred tokens each."),
    INT("segment", segment, "1048576", 1, 1e12, "Day", "Tokens of a domain before the next."),
    {"minutes", OPTION_REAL, AT(minutes), "0", 0, 1e6, NULL, "X", "Day",
     "Modelled minutes of a domain instead."},
    INT("every", every, "32768", 1, 1e12, "Day", "Tokens between re-solves."),
    INT("window", window, "4096", 1, REPLAY_MAX_WINDOW, "Day", "Tokens that they look at."),
    INT("solve-ms", solve_ms, "250", 0, 1e9, "Day",
        "Modelled time of a solution, whatever it takes here."),
    {"horizon", OPTION_REAL, AT(horizon), "0", 0, 1e18, NULL, "TOKENS", "Day",
     "Over which a migration must pay; 0: half a segment."},
    {"help", OPTION_FLAG, AT(help), "false", 0, 0, NULL, NULL, "Output", "Prints this list."},
    {0},
};

struct part {
    struct trace trace;
    double *load;
};

struct bench {
    const struct config *c;
    uint32_t domains;
    struct part fit[MAX_DOMAINS], test[MAX_DOMAINS];
    struct place_problem shape; /* without scenarios */
    const struct place_method *method, *eplb, *even;
    uint64_t solves;
    double solving; /* seconds */
};

/* Any failure ends a benchmark. */
static void need(int rc, const struct mt_err *err)
{
    if (!rc)
        return;
    fprintf(stderr, "bench_drift: %s\n", err->text);
    exit(2);
}

static double now_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* others use the machine, too */
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- traces and clusters ----------------------------------------------------------------------*/

static void set_loads(struct part *p)
{
    struct mt_err err;

    p->load = calloc((size_t)p->trace.layers * p->trace.experts, sizeof *p->load);
    if (!p->load)
        need(mt_error(&err, MT_ENOMEM, "no memory"), &err);
    trace_loads(&p->trace, p->load);
}

static int is_trace_file(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);

    return n > 5 && !strcmp(entry->d_name + n - 5, ".json") &&
           strcmp(entry->d_name, "prompts.json") != 0;
}

static void read_traces(struct bench *b)
{
    struct dirent **entry;
    int n = scandir(b->c->traces, &entry, is_trace_file, alphasort);
    struct mt_err err;

    for (int i = 0; i < n && b->domains < MAX_DOMAINS; i++) {
        struct trace whole;
        char path[4096];
        uint32_t half;

        snprintf(path, sizeof path, "%s/%s", b->c->traces, entry[i]->d_name);
        need(trace_read(path, &whole, &err), &err);
        half = trace_split(&whole, 0.5);
        need(trace_slice(&whole, 0, half, 0, &b->fit[b->domains].trace, &err), &err);
        need(trace_slice(&whole, half, whole.documents - half, 0, &b->test[b->domains].trace, &err),
             &err);
        set_loads(&b->fit[b->domains]);
        set_loads(&b->test[b->domains++]);
        trace_done(&whole);
        free(entry[i]);
    }
    if (n >= 0)
        free(entry);
    if (!b->domains) {
        printf("bench_drift: skipped: no traces in %s\n", b->c->traces);
        exit(0);
    }
}

/* rho:R:G. A token at an expert takes 1 us; a vector of 512 bytes as long as R has it. */
static bool read_rho(const char *spec, const struct model_dims *dims, uint32_t experts,
                     uint32_t spare, struct cluster *ret)
{
    struct cluster c = {.nodes = 1,
                        .token_expert = 1e-6,
                        .dispatch_bytes = 512,
                        .combine_bytes = 512,
                        .expert_bytes = 196608,
                        .migration_share = 0.25};
    double rho;
    unsigned ranks;

    if (sscanf(spec, "rho:%lf:%u", &rho, &ranks) != 2 || !(rho > 0) || !ranks ||
        ranks > PLAN_MAX_RANKS)
        return false;
    if (dims)
        c.expert_bytes = 3.0 * dims->hidden * dims->intermediate * dims->weight_bytes;
    snprintf(c.name, sizeof c.name, "%s", spec);
    c.ranks = ranks;
    c.rank_link.bandwidth = c.node_link.bandwidth = 512 / (rho / 2 * c.token_expert);
    for (uint32_t g = 0; g < ranks; g++)
        c.slots[g] = (experts + ranks - 1) / ranks + spare;
    *ret = c;
    return true;
}

static void set_cluster(struct bench *b, const char *spec)
{
    const struct trace *t = &b->fit[0].trace;
    const struct model_dims *dims = cluster_known_model(t->layers, t->experts, t->topk);
    struct mt_err err;

    b->shape = (struct place_problem){.layers = t->layers,
                                      .experts = t->experts,
                                      .topk = t->topk,
                                      .homes = (enum place_homes)b->c->homes,
                                      .prompt_fraction = 0.5,
                                      .home_slack = 0.1};
    if (!read_rho(spec, dims, t->experts, (uint32_t)b->c->spare, &b->shape.cluster))
        need(cluster_read(spec, dims, t->experts, (uint32_t)b->c->spare, &b->shape.cluster, &err),
             &err);
}

/* ---- plans ------------------------------------------------------------------------------------*/

static void add_domain(struct place_problem *p, const struct config *c, const struct part *part,
                       double share)
{
    for (int phase = 0; phase < 2; phase++) {
        struct place_scenario *s = &p->scenario[p->scenarios++];

        *s = (struct place_scenario){.phase = phase ? PLACE_DECODE : PLACE_PREFILL,
                                     .share = share / 2,
                                     .tokens = (uint32_t)(phase ? c->batch : c->prefill),
                                     .trace = &part->trace,
                                     .load = part->load};
        snprintf(s->name, sizeof s->name, "%.50s %s", part->trace.name,
                 phase ? "decode" : "prefill");
    }
}

static struct place_run run_of(const struct bench *b)
{
    return (struct place_run){.seed = (uint64_t)b->c->seed,
                              .iterations = (uint64_t)b->c->iterations};
}

static struct plan solve(struct bench *b, const struct place_problem *p,
                         const struct place_method *m)
{
    struct place_result result = {0};
    struct place_run run = run_of(b);
    double start = now_seconds();
    struct mt_err err;
    struct plan ret;

    need(m->solve(p, &run, &result, &err), &err);
    if (m == b->method) {
        b->solving += now_seconds() - start;
        b->solves++;
    }
    ret = result.plan;
    result.plan = (struct plan){0};
    place_result_done(&result);
    return ret;
}

/* Fitted on the first halves of all domains but one (domains: on all). */
static struct plan fit_others(struct bench *b, const struct place_method *m, uint32_t but)
{
    struct place_problem p = b->shape;
    uint32_t n = but < b->domains ? b->domains - 1 : b->domains;

    for (uint32_t d = 0; d < b->domains; d++)
        if (d != but)
            add_domain(&p, b->c, &b->fit[d], 1.0 / n);
    return solve(b, &p, m);
}

/* On one text, starting at a plan (or NULL), whose migration is free. */
static struct plan fit_one(struct bench *b, const struct place_method *m, const struct part *part,
                           const struct plan *from)
{
    struct place_problem p = b->shape;

    add_domain(&p, b->c, part, 1);
    p.from = from;
    return solve(b, &p, m);
}

static struct plan fit_first(struct bench *b, uint32_t d, uint32_t tokens, const struct plan *from)
{
    struct part part = {0};
    struct mt_err err;
    struct plan ret;

    need(trace_slice(&b->fit[d].trace, 0, b->fit[d].trace.documents, tokens, &part.trace, &err),
         &err);
    set_loads(&part);
    ret = fit_one(b, b->method, &part, from);
    trace_done(&part.trace);
    free(part.load);
    return ret;
}

/* Seconds a token of the domain's second half. */
static double worth(const struct bench *b, uint32_t d, const struct plan *plan)
{
    struct place_problem p = b->shape;
    struct score score;
    struct mt_err err;

    add_domain(&p, b->c, &b->test[d], 1);
    need(score_plan(&p, plan, SCORE_SAMPLED, &score, &err), &err);
    return score.tokens_seconds;
}

/* ---- table 1 ----------------------------------------------------------------------------------*/

enum { CONTIGUOUS, EPLB_ALL, EPLB_OWN, ALL, OTHERS, FIRST, COLUMNS = FIRST + 4 };
static const char *const COLUMN_NAMES[COLUMNS] = {
    "contiguous", "EPLB, all", "EPLB, own", "all", "other ten", "128", "256", "512", "1,024"};
static const uint32_t FIRST_TOKENS[] = {128, 256, 512, 1024};

static double worth_done(const struct bench *b, uint32_t d, struct plan plan)
{
    double t = worth(b, d, &plan);

    plan_done(&plan);
    return t;
}

/* ret: per cent above the domain's own plan. Returns the own plan's seconds a token. */
static double drift_row(struct bench *b, uint32_t d, const struct plan *fixed[3], double *ret)
{
    double own = worth_done(b, d, fit_one(b, b->method, &b->fit[d], NULL));
    struct plan others = fit_others(b, b->method, d);
    double t[COLUMNS];

    t[CONTIGUOUS] = worth(b, d, fixed[0]);
    t[EPLB_ALL] = worth(b, d, fixed[1]);
    t[EPLB_OWN] = worth_done(b, d, fit_one(b, b->eplb, &b->fit[d], NULL));
    t[ALL] = worth(b, d, fixed[2]);
    t[OTHERS] = worth(b, d, &others);
    for (uint32_t i = 0; i < 4; i++)
        t[FIRST + i] = worth_done(b, d, fit_first(b, d, FIRST_TOKENS[i], &others));
    plan_done(&others);
    for (uint32_t i = 0; i < COLUMNS; i++)
        ret[i] = 100 * (t[i] / own - 1);
    return own;
}

static void print_cells(const char *name, const double *cell)
{
    printf("| %s |", name);
    for (uint32_t i = 0; i < COLUMNS; i++)
        printf(" %.1f |", cell[i]);
}

static void table_of_fits(struct bench *b)
{
    struct plan even = solve(b, &b->shape, b->even), eplb = fit_others(b, b->eplb, MAX_DOMAINS),
                all = fit_others(b, b->method, MAX_DOMAINS);
    const struct plan *fixed[] = {&even, &eplb, &all};
    double mean[COLUMNS] = {0}, worst[COLUMNS] = {0};

    printf("\n%s, %u ranks, %s: %% above the domain's own plan, on unseen text\n\n| domain |",
           b->shape.cluster.name, b->shape.cluster.ranks, b->method->name);
    for (uint32_t i = 0; i < COLUMNS; i++)
        printf(" %s |", COLUMN_NAMES[i]);
    printf(" own, us a token |\n|---|");
    for (uint32_t i = 0; i <= COLUMNS; i++)
        printf("---|");
    putchar('\n');
    for (uint32_t d = 0; d < b->domains; d++) {
        double cell[COLUMNS], own = drift_row(b, d, fixed, cell);

        print_cells(b->fit[d].trace.name, cell);
        printf(" %.4g |\n", own * 1e6);
        for (uint32_t i = 0; i < COLUMNS; i++) {
            mean[i] += cell[i] / b->domains;
            worst[i] = d ? fmax(worst[i], cell[i]) : cell[i];
        }
        fflush(stdout);
    }
    print_cells("**mean**", mean);
    puts(" |");
    print_cells("**worst**", worst);
    puts(" |");
    plan_done(&even);
    plan_done(&eplb);
    plan_done(&all);
}

/* ---- table 2 ----------------------------------------------------------------------------------*/

struct day {
    struct bench *b;
    struct place_problem problem;
    const struct trace *domain[MAX_DOMAINS];
    struct replay_segment segment[2 * MAX_DOMAINS];
    double best; /* tokens/s of the clairvoyant */
};

/* A method with a watch: how long it takes here. */
struct timed {
    struct replay_policy policy;
    double seconds;
    uint64_t calls;
};

static int timed_solve(void *user, const struct replay_view *now, struct replay_answer *ret,
                       struct mt_err *reterr)
{
    struct timed *t = user;
    double start = now_seconds();
    int rc = replay_solve(&t->policy, now, ret, reterr);

    t->seconds += now_seconds() - start;
    t->calls++;
    return rc;
}

static void day_row(struct day *day, const char *name, const struct plan *start,
                    const struct place_method *m, const struct plan *known)
{
    const struct config *c = day->b->c;
    struct timed timed = {
        .policy = {.problem = &day->problem, .method = m, .run = run_of(day->b), .known = known}};
    struct replay r = {.domains = day->b->domains,
                       .domain = day->domain,
                       .segments = 2 * day->b->domains,
                       .segment = day->segment,
                       .sequences = (uint32_t)c->sequences,
                       .user = &timed};
    struct replay_totals t;
    struct mt_err err;
    double rate;

    timed.policy.horizon = c->horizon;
    if (!(c->horizon > 0)) /* half a segment; by the first row's speed where it is in minutes */
        timed.policy.horizon =
            c->minutes > 0 ? 30 * c->minutes * day->best : (double)c->segment / 2;
    r.step_tokens = ((uint32_t)c->prefill - 1) / day->problem.cluster.ranks + 1;
    if (m) {
        r.resolve = timed_solve;
        r.every_tokens = (uint64_t)c->every;
        r.window = (uint32_t)c->window;
        r.solve_seconds = m == day->b->method ? (double)c->solve_ms / 1e3 : 0;
    } else if (known) {
        r.resolve = replay_known;
        r.at_changes = true;
    }
    need(replay_run(&day->problem, &r, start, &t, &err), &err);
    rate = (double)(t.prefill + t.decode) / t.seconds;
    if (day->best <= 0)
        day->best = rate;
    printf("| %s | %.4g | %.1f | %.3f | %.3f | %u | %.4g | %.2f | %.2f | %.1f |\n", name, rate,
           100 * (day->best / rate - 1), t.figures.load, t.figures.remote, t.migrations,
           t.moved_bytes / 1e6, 100 * t.copying / t.seconds, 100 * t.slowed / t.seconds,
           timed.calls ? 1e3 * timed.seconds / (double)timed.calls : 0);
    fflush(stdout);
}

/* Every domain twice, in an order that the second time is another. */
static void make_day(struct day *day, struct bench *b)
{
    const struct config *c = b->c;

    day->b = b;
    day->problem = b->shape;
    for (uint32_t d = 0; d < b->domains; d++) {
        day->domain[d] = &b->test[d].trace;
        day->segment[d] = (struct replay_segment){.domain = d, .seconds = 60 * c->minutes};
        if (!(c->minutes > 0))
            day->segment[d].tokens = (uint64_t)c->segment;
        day->segment[b->domains + d] = day->segment[d];
        day->segment[b->domains + d].domain = (d * 3 + 1) % b->domains;
    }
}

static void print_day(const struct bench *b)
{
    const struct config *c = b->c;

    printf("\n%s, %u ranks, %s: a day of %u segments of ", b->shape.cluster.name,
           b->shape.cluster.ranks, b->method->name, 2 * b->domains);
    if (c->minutes > 0)
        printf("%g minutes", c->minutes);
    else
        printf("%lld tokens", (long long)c->segment);
    printf(
        ", solved again every %lld tokens on the last %lld\n\n"
        "| policy | tokens/s | %% above the clairvoyant | load | remote | migrations | MB moved | "
        "%% of time copying | %% lost to it | CPU ms to solve |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n",
        (long long)c->every, (long long)c->window);
}

static void table_of_day(struct bench *b)
{
    struct day day = {0};
    struct plan own[MAX_DOMAINS], same[MAX_DOMAINS];
    struct plan even = solve(b, &b->shape, b->even), eplb = fit_others(b, b->eplb, MAX_DOMAINS),
                all = fit_others(b, b->method, MAX_DOMAINS);

    make_day(&day, b);
    for (uint32_t d = 0; d < b->domains; d++) {
        own[d] = fit_one(b, b->method, &b->fit[d], NULL);
        same[d] = fit_one(b, b->method, &b->test[d], NULL);
    }
    print_day(b);
    day_row(&day, "clairvoyant, this text", &all, NULL, same);
    day_row(&day, "clairvoyant, the domain's other half", &all, NULL, own);
    day_row(&day, "solved again", &all, b->method, NULL);
    day_row(&day, "EPLB again", &eplb, b->eplb, NULL);
    day_row(&day, "of all domains, never", &all, NULL, NULL);
    day_row(&day, "EPLB of all domains, never", &eplb, NULL, NULL);
    day_row(&day, "of the first domain, never", &own[0], NULL, NULL);
    day_row(&day, "contiguous, never", &even, NULL, NULL);
    for (uint32_t d = 0; d < b->domains; d++) {
        plan_done(&own[d]);
        plan_done(&same[d]);
    }
    plan_done(&even);
    plan_done(&eplb);
    plan_done(&all);
}

/* ---- both -------------------------------------------------------------------------------------*/

static const struct place_method *find_method(const char *name)
{
    for (const struct place_method *m = PLACE_METHODS; m->name; m++)
        if (!strcmp(m->name, name))
            return m;
    fprintf(stderr, "bench_drift: no method \"%s\"\n", name);
    exit(2);
}

static void run(const struct config *c)
{
    struct bench *b = calloc(1, sizeof *b);
    char *specs = strdup(c->cluster), *rest = NULL;

    if (!b || !specs)
        exit(2);
    b->c = c;
    b->method = find_method(c->method);
    b->eplb = find_method("eplb");
    b->even = find_method("contiguous");
    read_traces(b);
    for (char *spec = strtok_r(specs, ",", &rest); spec; spec = strtok_r(NULL, ",", &rest)) {
        set_cluster(b, spec);
        if (strcmp(c->only, "day") != 0)
            table_of_fits(b);
        if (strcmp(c->only, "fits") != 0)
            table_of_day(b);
    }
    printf("\n%s: %llu plans outside of replays, %.3g ms of CPU each\n", c->method,
           (unsigned long long)b->solves, b->solves ? 1e3 * b->solving / (double)b->solves : 0);
    for (uint32_t d = 0; d < b->domains; d++) {
        trace_done(&b->fit[d].trace);
        trace_done(&b->test[d].trace);
        free(b->fit[d].load);
        free(b->test[d].load);
    }
    free(specs);
    free(b);
}

int main(int argc, char **argv)
{
    struct config c;
    struct mt_err err;
    int next, rc = option_defaults(OPTIONS, &c, &err);

    if (!rc)
        rc = option_parse_args(OPTIONS, &c, argc, argv, &next, &err);
    need(rc, &err);
    if (c.help)
        option_help(OPTIONS, stdout);
    else
        run(&c);
    option_done(OPTIONS, &c);
    return 0;
}
