/* moetuner eval: golden prompts through the real step path, in a worker job of its own, without a
 * daemon. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "api/log.h"
#include "api/option.h"
#include "cli/command.h"
#include "cli/drive.h"
#include "cli/golden.h"

#define MAX_DIFFERENCE 1e-3 /* of a logit; rounding in another order gives about 1e-5 */
#define START_MS 600000
#define SILENCE_MS 60000

static const char *const numerics_names[] = {"exact", "fast", NULL};

struct config {
    char *model, *golden, *placement, *backend, *isa, *worker, *mpirun;
    int64_t ranks, threads, chunk;
    int numerics;
    bool help;
};

#define AT(field) offsetof(struct config, field)

static const struct option OPTIONS[] = {
    {"model", OPTION_TEXT, AT(model), NULL, 0, 0, NULL, "DIR", "What",
     "Hugging Face directory of the model."},
    {"golden", OPTION_TEXT, AT(golden), NULL, 0, 0, NULL, "FILE", "What",
     "Safetensors file with prompt_i, logits_i and greedy_i."},
    {"chunk", OPTION_INT, AT(chunk), "512", 1, WIRE_MAX_STEP_TOKENS, NULL, "N", "What",
     "Most tokens of a prompt in one step."},
    {"ranks", OPTION_INT, AT(ranks), "1", 1, WIRE_MAX_RANKS, NULL, "N", "How",
     "Ranks of the job; more than one run under mpirun."},
    {"placement", OPTION_TEXT, AT(placement), NULL, 0, 0, NULL, "FILE", "How",
     "Placement map; the default spreads experts contiguously."},
    {"backend", OPTION_TEXT, AT(backend), "cpu", 0, 0, NULL, "NAME", "How", "Kernels: cpu."},
    {"isa", OPTION_TEXT, AT(isa), NULL, 0, 0, NULL, "NAME", "How",
     "Instruction set; the default is the best that the machine has."},
    {"numerics", OPTION_CHOICE, AT(numerics), "exact", 0, 0, numerics_names, "MODE", "How",
     "exact or fast."},
    {"threads", OPTION_INT, AT(threads), "0", 0, 1024, NULL, "T", "How",
     "Threads of a rank; 0: cores divided by ranks."},
    {"worker", OPTION_TEXT, AT(worker), NULL, 0, 0, NULL, "PATH", "How",
     "moetuner-worker; the default is the one beside this program."},
    {"mpirun", OPTION_TEXT, AT(mpirun), NULL, 0, 0, NULL, "PATH", "How",
     "mpirun; the default is the first in PATH."},
    {"help", OPTION_FLAG, AT(help), "false", 0, 0, NULL, NULL, "How", "Prints this list."},
    {0},
};

struct verdict {
    double difference; /* largest of a logit */
    uint32_t greedy, matches;
};

static void print_log(void *user, int level, const char *text)
{
    (void)user;
    if (level <= LOG_LEVEL_WARN)
        fprintf(stderr, "moetuner: worker: %s\n", text);
}

/* NaN differs from everything. */
static void compare_rows(const float *found, const float *expected, size_t n, struct verdict *v)
{
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)found[i] - (double)expected[i]);

        if (!(d <= v->difference))
            v->difference = isnan(d) ? INFINITY : d;
    }
}

/* Sends the step and takes the sequence's part of the answer; NULL: *reterr says why. */
static const struct wire_sample *exchange(struct drive *d, const struct drive_seq *s,
                                          const struct wire_result **ret, struct mt_err *reterr)
{
    const struct wire_sample *sample;

    if (drive_send(d, reterr) || drive_wait(d, ret, reterr))
        return NULL;
    sample = drive_find(*ret, s);
    if (!sample)
        mt_error(reterr, MT_EPROTO, "step %llu: no answer for sequence %u",
                 (unsigned long long)(*ret)->step, s->seq);
    return sample;
}

/* One chunk of the prompt; the last one samples the first greedy token. */
static int run_chunk(struct drive *d, struct drive_seq *s, const struct golden_prompt *p,
                     uint32_t n, uint32_t vocab, struct verdict *v, struct mt_err *reterr)
{
    uint32_t at = s->pos, flags = WIRE_RUN_LOGITS | (at + n == p->n ? WIRE_RUN_SAMPLE : 0);
    const struct wire_result *r;
    const struct wire_sample *sample;
    int rc = drive_run(d, s, p->tokens + at, n, flags, reterr);

    if (rc)
        return rc;
    sample = exchange(d, s, &r, reterr);
    if (!sample)
        return reterr->status;
    if (sample->logit_rows != n || sample->logit_at + (uint64_t)n * vocab > r->n_logits)
        return mt_error(reterr, MT_EPROTO, "logits: expected %u rows, found %u", n,
                        sample->logit_rows);
    compare_rows(r->logits + sample->logit_at, p->logits + (size_t)at * vocab, (size_t)n * vocab,
                 v);
    v->matches += (flags & WIRE_RUN_SAMPLE) && sample->token == p->greedy[0];
    return drive_begin(d, reterr);
}

/* The token after the one sampled last, as the model would have it on its own. */
static int run_greedy(struct drive *d, struct drive_seq *s, int32_t expected, struct verdict *v,
                      struct mt_err *reterr)
{
    const struct wire_result *r;
    const struct wire_sample *sample;
    int rc = drive_run(d, s, NULL, 1, WIRE_RUN_SAMPLE, reterr);

    if (rc)
        return rc;
    sample = exchange(d, s, &r, reterr);
    if (!sample)
        return reterr->status;
    v->matches += sample->token == expected;
    return drive_begin(d, reterr);
}

static int run_prompt(struct drive *d, const struct golden *g, uint32_t which, uint32_t chunk,
                      struct verdict *v, struct mt_err *reterr)
{
    static const struct wire_admit GREEDY = {.top_p = 1};
    const struct golden_prompt *p = &g->prompt[which];
    const struct wire_result *r;
    struct drive_seq *s = NULL;
    int rc = drive_begin(d, reterr);

    v->greedy = p->n_greedy;
    if (!rc)
        rc = drive_admit(d, which % job_ranks(drive_job(d)), &GREEDY, &s, reterr);
    while (!rc && s->pos < p->n)
        rc = run_chunk(d, s, p, p->n - s->pos < chunk ? p->n - s->pos : chunk, g->vocab, v, reterr);
    for (uint32_t i = 1; !rc && i < p->n_greedy; i++)
        rc = run_greedy(d, s, p->greedy[i], v, reterr);
    if (!rc)
        rc = drive_end(d, s, reterr);
    if (!rc)
        rc = drive_send(d, reterr);
    return rc ? rc : drive_wait(d, &r, reterr);
}

static int check_lengths(const struct golden *g, uint32_t max_positions, struct mt_err *reterr)
{
    for (uint32_t i = 0; i < g->n; i++)
        if ((uint64_t)g->prompt[i].n + g->prompt[i].n_greedy > max_positions)
            return mt_error(reterr, MT_EINVAL,
                            "prompt %u: expected at most %u tokens with its answer, found %u + %u",
                            i, max_positions, g->prompt[i].n, g->prompt[i].n_greedy);
    return 0;
}

static void print_verdict(const char *what, const struct verdict *v)
{
    printf("%s largest logit difference %.2e, %u of %u greedy tokens match\n", what, v->difference,
           v->matches, v->greedy);
}

/* *ret_good: all tokens match and the logits are close. */
static int eval_all(struct drive *d, const struct config *c, const struct golden *g, bool *ret_good,
                    struct mt_err *reterr)
{
    const struct wire_ready *ready = job_ready(drive_job(d), 0);
    struct verdict all = {0};
    char what[128];

    for (uint32_t i = 0; i < g->n; i++) {
        struct verdict v = {0};
        int rc = run_prompt(d, g, i, (uint32_t)c->chunk, &v, reterr);

        if (rc)
            return rc;
        snprintf(what, sizeof what, "prompt %u (%u tokens):", i, g->prompt[i].n);
        print_verdict(what, &v);
        if (v.difference > all.difference)
            all.difference = v.difference;
        all.greedy += v.greedy;
        all.matches += v.matches;
    }
    *ret_good = all.matches == all.greedy && all.difference < MAX_DIFFERENCE;
    snprintf(what, sizeof what,
             "%s: %u rank%s, %u thread%s each, %s, %s:", *ret_good ? "equal" : "DIFFERENT",
             job_ranks(drive_job(d)), job_ranks(drive_job(d)) > 1 ? "s" : "", ready->threads,
             ready->threads > 1 ? "s" : "", ready->isa, ready->numerics);
    print_verdict(what, &all);
    return 0;
}

static int eval(const struct config *c, const struct plan *plan, int stop_fd, bool *ret_good,
                struct mt_err *reterr)
{
    const struct drive_options options = {
        .job = {.worker = c->worker,
                .mpirun = c->mpirun,
                .model = c->model,
                .backend = c->backend,
                .isa = c->isa,
                .numerics = numerics_names[c->numerics],
                .ranks = (uint32_t)c->ranks,
                .threads = (uint32_t)c->threads,
                .step_tokens = (uint32_t)c->chunk,
                .max_seqs = 1,
                .start_ms = START_MS,
                .silence_ms = SILENCE_MS,
                .plan = plan},
        .stop_fd = stop_fd,
        .log = print_log,
    };
    struct golden g = {0};
    struct drive *d = NULL;
    int rc = drive_open(&options, &d, reterr);

    if (!rc)
        rc = golden_read(c->golden, job_facts(drive_job(d))->vocab, &g, reterr);
    if (!rc)
        rc = check_lengths(&g, job_facts(drive_job(d))->max_positions, reterr);
    if (!rc)
        rc = eval_all(d, c, &g, ret_good, reterr);
    golden_done(&g);
    drive_close(d);
    return rc;
}

static int read_config(int argc, char **argv, struct config *c, struct mt_err *reterr)
{
    int next, rc = option_parse_args(OPTIONS, c, argc, argv, &next, reterr);

    if (rc || c->help)
        return rc;
    if (next < argc)
        return mt_error(reterr, MT_EINVAL, "expected options only, found %s", argv[next]);
    if (!c->model || !c->golden)
        return mt_error(reterr, MT_EINVAL, "expected --model DIR and --golden FILE");
    return 0;
}

int command_eval(int argc, char **argv, int stop_fd)
{
    struct config c;
    struct plan plan = {0};
    struct mt_err err;
    bool good = false;
    int rc = option_defaults(OPTIONS, &c, &err);

    if (!rc) {
        rc = read_config(argc, argv, &c, &err);
        if (!rc && c.help) {
            printf("Usage: moetuner eval --model DIR --golden FILE [OPTION...]\n\n");
            option_help(OPTIONS, stdout);
            good = true;
        } else {
            if (!rc && c.placement)
                rc = plan_read(c.placement, &plan, &err);
            if (!rc)
                rc = eval(&c, c.placement ? &plan : NULL, stop_fd, &good, &err);
        }
        option_done(OPTIONS, &c);
    }
    plan_done(&plan);
    if (rc)
        fprintf(stderr, "moetuner eval: %s\n", err.text);
    return rc ? 2 : good ? 0 : 1;
}
