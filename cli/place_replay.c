/* moetuner place replay: what a server would have done with a trace under a placement. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "cli/place.h"
#include "placement/replay.h"

#define ROWS 20 /* of the table, unless --interval or a schedule says otherwise */

struct config {
    struct place_input in;
    char *placement, *method, *schedule;
    int64_t replicas, resolve_every, resolve_tokens, window, iterations, seed, interval;
    double horizon, solve_seconds;
    bool clairvoyant, json, help;
};

#define AT(field) offsetof(struct config, field)

static const struct option OPTIONS[] = {
    PLACE_ROW_TRACE(struct config),
    PLACE_ROWS_PROBLEM(struct config),
    {"placement", OPTION_TEXT, AT(placement), NULL, 0, 0, NULL, "P", "Replay",
     "The placement in force at the start."},
    {"schedule", OPTION_TEXT, AT(schedule), NULL, 0, 0, NULL, "D:N,...", "Replay",
     "Domains in turn: a trace's name, or all for each trace in turn, and how many tokens (20000) "
     "or seconds (300s) of the day its documents arrive, in order and over again. Tokens count "
     "prefilled and decoded ones. A row is named by the domain that arrives: with segments shorter "
     "than what --decode-batch sequences hold, it is the one before that is processed. Default: "
     "each document of each trace once."},
    {"interval", OPTION_INT, AT(interval), "0", 0, 1e15, NULL, "N", "Replay",
     "Tokens of a row of the table. 0: a segment of the schedule, or a twentieth of all."},

    {"resolve-every", OPTION_INT, AT(resolve_every), "0", 0, 1e15, NULL, "N", "Solving again",
     "Steps between two times that the method is asked for a placement for what was last seen; "
     "its migration is paid for. 0: never."},
    {"resolve-tokens", OPTION_INT, AT(resolve_tokens), "0", 0, 1e15, NULL, "N", "Solving again",
     "The same in tokens."},
    {"window", OPTION_INT, AT(window), "4096", 1, REPLAY_MAX_WINDOW, NULL, "N", "Solving again",
     "Tokens that it is fitted on: the last ones."},
    {"solve-seconds", OPTION_REAL, AT(solve_seconds), "0", 0, 1e9, NULL, "X", "Solving again",
     "Modelled time until it has answered; the migration begins then."},
    {"method", OPTION_TEXT, AT(method), "joint", 0, 0, NULL, "M", "Solving again",
     "`moetuner place --help` lists them."},
    {"horizon", OPTION_REAL, AT(horizon), "0", 0, 1e18, NULL, "TOKENS", "Solving again",
     "Tokens over which a migration must pay; 0: its cost is not looked at."},
    {"replicas", OPTION_INT, AT(replicas), "0", 0, PLACE_MAX_EXPERTS, NULL, "R", "Solving again",
     "Spare slots of each rank in each layer."},
    {"iterations", OPTION_INT, AT(iterations), "20000", 1, 1e15, NULL, "N", "Solving again",
     "Moves of a search."},
    {"seed", OPTION_INT, AT(seed), "0", 0, 1e15, NULL, "S", "Solving again", "Of what is random."},
    {"clairvoyant", OPTION_FLAG, AT(clairvoyant), "false", 0, 0, NULL, NULL, "Solving again",
     "With --schedule: as a domain begins, the method's placement for its whole trace, at no "
     "cost."},

    {"json", OPTION_FLAG, AT(json), "false", 0, 0, NULL, NULL, "Output",
     "A line of JSON for each step, and one of totals."},
    PLACE_ROW_HELP(struct config),
    {0},
};

/* What is summed up for a row of the table. */
struct row {
    uint64_t steps, tokens;
    uint32_t segment, domain, migrated;
    double seconds, kv, slowed;
    struct step_terms terms;
    struct step_figures figures; /* sums over tokens */
};

struct session {
    struct replay_policy policy; /* first: the policies' user */
    const struct config *c;
    const struct place_set *set;
    struct place_problem problem;
    struct replay replay;
    struct replay_segment *segment; /* owned */
    const struct trace **domain;    /* owned */
    struct plan plan, *known;       /* owned; known [domains] or NULL */
    uint64_t interval;              /* tokens */
    struct row row;
    uint64_t tokens;
    double clock;
    int stop_fd;
    bool interrupted;
};

/* ---- the schedule -----------------------------------------------------------------------------*/

static int parse_amount(const char *text, struct replay_segment *ret, struct mt_err *reterr)
{
    char *end;
    double n;

    errno = 0;
    n = strtod(text, &end);
    if (end != text && !errno && n >= 1 && n <= 1e15 && !*end) {
        ret->tokens = (uint64_t)n;
        return 0;
    }
    if (end != text && !errno && n > 0 && n <= 1e9 && !strcmp(end, "s")) {
        ret->seconds = n;
        return 0;
    }
    return mt_error(reterr, MT_EINVAL,
                    "option schedule: expected tokens (20000) or seconds (300s), found %.40s",
                    text);
}

static int find_domain(const struct place_set *set, const char *name, uint32_t *ret,
                       struct mt_err *reterr)
{
    for (uint32_t d = 0; d < set->sources; d++)
        if (!strcmp(set->source[d].name, name)) {
            *ret = d;
            return 0;
        }
    return mt_error(reterr, MT_EINVAL, "option schedule: expected a trace's name, found %.64s",
                    name);
}

/* One word of the schedule, "name:amount"; cuts it. */
static int add_segments(struct session *s, char *word, struct mt_err *reterr)
{
    char *colon = strrchr(word, ':');
    struct replay_segment g = {0};
    uint32_t n = 1;
    int rc;

    if (!colon)
        return mt_error(reterr, MT_EINVAL, "option schedule: expected DOMAIN:AMOUNT, found %.64s",
                        word);
    *colon = 0;
    rc = parse_amount(colon + 1, &g, reterr);
    if (!rc && !strcmp(word, "all"))
        n = s->set->sources;
    else if (!rc)
        rc = find_domain(s->set, word, &g.domain, reterr);
    if (!rc && s->replay.segments + n > REPLAY_MAX_SEGMENTS)
        rc = mt_error(reterr, MT_ELIMIT, "option schedule: expected at most %u segments",
                      REPLAY_MAX_SEGMENTS);
    for (uint32_t i = 0; !rc && i < n; i++, g.domain++)
        s->segment[s->replay.segments++] = g;
    return rc;
}

static int read_schedule(struct session *s, struct mt_err *reterr)
{
    char *text, *rest = NULL;
    int rc = 0;

    if (!s->c->schedule)
        return 0;
    text = strdup(s->c->schedule);
    s->segment = calloc(REPLAY_MAX_SEGMENTS, sizeof *s->segment);
    s->replay.segment = s->segment;
    if (!text || !s->segment)
        rc = mt_error(reterr, MT_ENOMEM, "out of memory");
    for (char *word = rc ? NULL : strtok_r(text, ",", &rest); !rc && word;
         word = strtok_r(NULL, ",", &rest))
        rc = add_segments(s, word, reterr);
    if (!rc && !s->replay.segments)
        rc = mt_error(reterr, MT_EINVAL, "option schedule: expected DOMAIN:AMOUNT,..., found none");
    free(text);
    return rc;
}

/* ---- what is shown ----------------------------------------------------------------------------*/

static json_t *terms_json(const struct step_terms *t)
{
    return json_pack("{s:f, s:f, s:f, s:f}", "dense", t->dense, "dispatch", t->dispatch, "compute",
                     t->compute, "combine", t->combine);
}

static json_t *figures_json(const struct step_figures *f)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "load", f->load, "active", f->active, "ranks",
                     f->ranks, "remote", f->remote, "local", f->local);
}

static void print_json(json_t *line)
{
    json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(line);
}

static void print_step(const struct session *s, const struct replay_step *now)
{
    print_json(json_pack("{s:I, s:s, s:f, s:f, s:I, s:I, s:o, s:f, s:f, s:o, s:b}", "step",
                         (json_int_t)now->number, "domain", s->set->source[now->domain].name,
                         "clock", now->clock, "seconds", now->seconds, "prefill",
                         (json_int_t)now->prefill, "decode", (json_int_t)now->decode, "terms",
                         terms_json(&now->terms), "kv", now->kv, "slowed", now->slowed, "figures",
                         figures_json(&now->figures), "migrated", now->migrated));
}

static void print_head(void)
{
    puts("                                               us a token");
    puts("      tokens     clock s  domain      tokens/s  all      dense    dispatch compute  "
         "combine  kv       slowed     load    |S| remote  plans");
}

static void print_row(struct session *s)
{
    struct row *r = &s->row;
    double n = r->tokens ? (double)r->tokens : 1, us = 1e6 / n;

    if (!r->tokens)
        return;
    printf("%12" PRIu64 "  %10.4f  %-10.10s %9.0f  %-8.4g %-8.4g %-8.4g %-8.4g %-8.4g %-8.4g %-8.4g"
           " %6.3f %6.3f %6.3f  %5u\n",
           s->tokens, s->clock, s->set->source[r->domain].name, n / r->seconds, r->seconds * us,
           r->terms.dense * us, r->terms.dispatch * us, r->terms.compute * us,
           r->terms.combine * us, r->kv * us, r->slowed * us, r->figures.load / n,
           r->figures.ranks / n, r->figures.remote / n, r->migrated);
    *r = (struct row){0};
}

static void add_row(struct session *s, const struct replay_step *now)
{
    struct row *r = &s->row;
    double n = (double)now->prefill + now->decode;

    r->segment = now->segment;
    r->domain = now->domain;
    r->steps++;
    r->tokens += now->prefill + now->decode;
    r->seconds += now->seconds;
    r->kv += now->kv;
    r->slowed += now->slowed;
    r->migrated += now->migrated;
    r->terms.dense += now->terms.dense;
    r->terms.dispatch += now->terms.dispatch;
    r->terms.compute += now->terms.compute;
    r->terms.combine += now->terms.combine;
    r->figures.load += n * now->figures.load;
    r->figures.ranks += n * now->figures.ranks;
    r->figures.remote += n * now->figures.remote;
}

static bool stopping(void *user)
{
    struct session *s = user;
    struct pollfd fd = {.fd = s->stop_fd, .events = POLLIN};

    if (!s->interrupted && s->stop_fd >= 0 && poll(&fd, 1, 0) > 0)
        s->interrupted = true;
    return s->interrupted;
}

static bool show_step(void *user, const struct replay_step *now)
{
    struct session *s = user;

    if (s->c->json) {
        print_step(s, now);
    } else {
        if (s->row.tokens && s->row.segment != now->segment)
            print_row(s);
        add_row(s, now);
    }
    s->tokens += now->prefill + now->decode;
    s->clock = now->clock;
    if (!s->c->json && s->interval && s->row.tokens >= s->interval)
        print_row(s);
    return !stopping(s);
}

static void print_totals_json(const struct session *s, const struct replay_totals *t)
{
    uint64_t tokens = t->prefill + t->decode;

    print_json(json_pack(
        "{s:{s:I, s:I, s:I, s:I, s:f, s:f, s:o, s:f, s:f, s:o, s:f, s:f, s:I, s:I, s:I, s:f, s:f,"
        " s:b}}",
        "totals", "steps", (json_int_t)t->steps, "requests", (json_int_t)t->requests, "prefill",
        (json_int_t)t->prefill, "decode", (json_int_t)t->decode, "seconds", t->seconds,
        "tokens_per_second", t->seconds > 0 ? (double)tokens / t->seconds : 0, "terms",
        terms_json(&t->terms), "kv", t->kv, "slowed", t->slowed, "figures",
        figures_json(&t->figures), "first_seconds", t->first_seconds, "first_steps", t->first_steps,
        "kv_moves", (json_int_t)t->kv_moves, "resolves", (json_int_t)t->resolves, "migrations",
        (json_int_t)t->migrations, "moved_bytes", t->moved_bytes, "copying_seconds", t->copying,
        "interrupted", s->interrupted));
}

static void print_totals(const struct session *s, const struct replay_totals *t)
{
    double tokens = (double)(t->prefill + t->decode), all = t->seconds > 0 ? t->seconds / 100 : 1;
    char step[32], first[32];

    place_seconds_print(t->steps ? t->seconds / (double)t->steps : 0, step, sizeof step);
    place_seconds_print(t->first_seconds, first, sizeof first);
    printf("\n%.0f tokens (%" PRIu64 " prefilled, %" PRIu64 " decoded) of %" PRIu64
           " requests in %.6g s: %.6g tokens/s%s\n"
           "%" PRIu64 " steps of %s; a prompt takes %s (%.1f steps)\n"
           "time: %.1f %% dense, %.1f %% dispatch, %.1f %% compute, %.1f %% combine, %.1f %% KV "
           "moves, %.1f %% slowed by migrations\n"
           "load %.3f (max/mean within a step), %.3f ranks a token and layer, %.3f of them remote; "
           "%" PRIu64 " KV moves\n",
           tokens, t->prefill, t->decode, t->requests, t->seconds,
           t->seconds > 0 ? tokens / t->seconds : 0, s->interrupted ? " (interrupted)" : "",
           t->steps, step, first, t->first_steps, t->terms.dense / all, t->terms.dispatch / all,
           t->terms.compute / all, t->terms.combine / all, t->kv / all, t->slowed / all,
           t->figures.load, t->figures.ranks, t->figures.remote, t->kv_moves);
    if (t->resolves)
        printf(
            "asked for a placement %u times: %u migrations of %.4g MB in all, %.4g s of copying, "
            "%.4g s lost to it\n",
            t->resolves, t->migrations, t->moved_bytes / 1e6, t->copying, t->slowed);
}

/* ---- the replay -------------------------------------------------------------------------------*/

/* The method's plan for each domain that the schedule has. */
static int solve_known(struct session *s, struct mt_err *reterr)
{
    int rc = 0;

    s->known = calloc(s->set->sources, sizeof *s->known);
    if (!s->known)
        return mt_error(reterr, MT_ENOMEM, "out of memory");
    for (uint32_t i = 0; !rc && i < s->replay.segments; i++) {
        uint32_t d = s->segment[i].domain;

        if (!s->known[d].layers)
            rc = replay_fit(&s->policy, s->domain[d], s->replay.sequences, NULL, &s->known[d],
                            reterr);
    }
    s->policy.known = s->known;
    s->replay.at_changes = true;
    s->replay.resolve = replay_known;
    return rc;
}

static int set_policy(struct session *s, struct mt_err *reterr)
{
    const struct config *c = s->c;
    bool again = c->resolve_every || c->resolve_tokens;

    if (c->clairvoyant && !s->replay.segments)
        return mt_error(reterr, MT_EINVAL,
                        "option clairvoyant: expected --schedule with it, found none");
    if (c->clairvoyant && again)
        return mt_error(reterr, MT_EINVAL,
                        "option clairvoyant: expected neither --resolve-every nor "
                        "--resolve-tokens with it, found one");
    s->policy.method = place_method_find(c->method, reterr);
    if (!s->policy.method)
        return reterr->status;
    s->policy.problem = &s->problem;
    s->policy.horizon = c->horizon;
    s->policy.run = (struct place_run){.seed = (uint64_t)c->seed,
                                       .iterations = (uint64_t)c->iterations,
                                       .stop = stopping,
                                       .user = s};
    if (c->clairvoyant)
        return solve_known(s, reterr);
    s->replay.resolve = replay_solve;
    s->replay.window = (uint32_t)c->window;
    s->replay.solve_seconds = c->solve_seconds;
    s->replay.every_steps = (uint64_t)c->resolve_every;
    s->replay.every_tokens = (uint64_t)c->resolve_tokens;
    return 0;
}

static int set_replay(struct session *s, struct mt_err *reterr)
{
    const struct config *c = s->c;
    uint32_t ranks = s->problem.cluster.ranks;
    uint64_t tokens = 0;

    s->domain = calloc(s->set->sources, sizeof *s->domain);
    if (!s->domain)
        return mt_error(reterr, MT_ENOMEM, "out of memory");
    for (uint32_t d = 0; d < s->set->sources; d++) {
        s->domain[d] = &s->set->source[d].trace;
        tokens += s->domain[d]->tokens;
        if (!s->set->source[d].paths)
            return mt_error(reterr, MT_EINVAL, "%s: expected a trace, found loads alone",
                            s->set->source[d].name);
    }
    if (c->in.decode_batch > REPLAY_MAX_SEQUENCES)
        return mt_error(reterr, MT_EINVAL, "option decode-batch: expected at most %u, found %lld",
                        REPLAY_MAX_SEQUENCES, (long long)c->in.decode_batch);
    s->replay.domains = s->set->sources;
    s->replay.domain = s->domain;
    s->replay.sequences = (uint32_t)c->in.decode_batch;
    s->replay.step_tokens = ((uint32_t)c->in.prefill_tokens + ranks - 1) / ranks;
    s->replay.step = show_step;
    s->replay.user = s;
    s->interval = (uint64_t)c->interval;
    if (!s->interval && !s->replay.segments)
        s->interval = tokens / ROWS + 1;
    return c->clairvoyant || c->resolve_every || c->resolve_tokens ? set_policy(s, reterr) : 0;
}

static int run(struct session *s, struct mt_err *reterr)
{
    struct replay_totals totals;
    int rc;

    if (!s->c->json) {
        place_problem_print(&s->c->in, s->set, &s->problem, stdout);
        print_head();
    }
    rc = replay_run(&s->problem, &s->replay, &s->plan, &totals, reterr);
    if (rc)
        return rc;
    if (s->c->json) {
        print_totals_json(s, &totals);
    } else {
        print_row(s);
        print_totals(s, &totals);
    }
    return 0;
}

static void session_done(struct session *s, uint32_t domains)
{
    for (uint32_t d = 0; s->known && d < domains; d++)
        plan_done(&s->known[d]);
    free(s->known);
    free(s->domain);
    free(s->segment);
    plan_done(&s->plan);
}

static int replay(const void *config, const struct place_args *args, int stop_fd,
                  struct mt_err *reterr)
{
    const struct config *c = config;
    struct place_set *set = calloc(1, sizeof *set);
    struct session *s = calloc(1, sizeof *s);
    int rc = set && s ? 0 : mt_error(reterr, MT_ENOMEM, "out of memory");

    if (!rc)
        rc = place_need(c->placement, "placement", reterr);
    if (!rc)
        rc = place_set_read(&c->in, args->trace, args->traces, 0, set, reterr);
    if (!rc) {
        s->c = c;
        s->set = set;
        s->stop_fd = stop_fd;
        rc = plan_read(c->placement, &s->plan, reterr);
    }
    if (!rc)
        rc = place_problem_make(&c->in, set, (uint32_t)c->replicas, &s->plan, &s->problem, reterr);
    if (!rc)
        rc = read_schedule(s, reterr);
    if (!rc)
        rc = set_replay(s, reterr);
    if (!rc)
        rc = run(s, reterr);
    if (s)
        session_done(s, set ? set->sources : 0);
    if (set)
        place_set_done(set);
    free(s);
    free(set);
    return rc;
}

const struct place_command PLACE_REPLAY = {
    .usage = "--trace T... --cluster C --placement P.json [OPTION...]",
    .about = "Documents arrive as requests, are prefilled in chunks and decoded in batches; every "
             "step is\ntimed by the model. --decode-batch is how many are in flight, "
             "--prefill-tokens what a step\ntakes at most (decoding sequences first), each "
             "rank its part. A migration has its share of\nthe links while the old placement "
             "serves.",
    .options = OPTIONS,
    .config_size = sizeof(struct config),
    .help_offset = offsetof(struct config, help),
    .terms = true,
    .run = replay,
};
