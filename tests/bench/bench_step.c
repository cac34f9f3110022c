/* How near whole steps come to what the machine can do: bench_step --model DIR [OPTION]...
 *
 * Measures the ceilings (reading memory, multiply-adds out of registers), launches a worker job as
 * the daemon does, runs prompts, then decodes with two steps on their way, reading memory again
 * between every few steps, since a shared machine changes by the minute. Holds the median step
 * against the bytes of weights and keys that they must read and the multiply-adds they must do.
 * With more ranks than one, tells what each rank computes and how long it waits for the others.
 * bench_step --help lists the options. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/option.h"
#include "cli/drive.h"
#include "tests/bench/ceiling.h"
#include "worker/model.h"

#define COLD_BYTES ((size_t)1 << 30)
#define CEILING_RUNS 64
#define WARM_STEPS 4 /* not measured: the caches hold something else before */
#define ROUND_STEPS 16
#define SETTLE_S 2 /* idle ranks have the pages of their KV pool given */

struct config {
    char *model, *config, *weights, *isa;
    int64_t ranks, threads, concurrency, prompt, steps;
    int numerics;
};

#define AT(field) offsetof(struct config, field)

static const char *const numerics_names[] = {"exact", "fast", NULL};

static const struct option OPTIONS[] = {
    {"model", OPTION_TEXT, AT(model), NULL, 0, 0, NULL, "DIR", "Model", "Hugging Face directory."},
    {"config", OPTION_TEXT, AT(config), NULL, 0, 0, NULL, "FILE", "Model",
     "config.json for dummy weights."},
    {"weights", OPTION_TEXT, AT(weights), NULL, 0, 0, NULL, "dummy:SEED", "Model",
     "Random weights."},
    {"isa", OPTION_TEXT, AT(isa), NULL, 0, 0, NULL, "NAME", "Job", "Instruction set."},
    {"numerics", OPTION_CHOICE, AT(numerics), "exact", 0, 0, numerics_names, "MODE", "Job",
     "exact or fast."},
    {"ranks", OPTION_INT, AT(ranks), "1", 1, WIRE_MAX_RANKS, NULL, "N", "Job", "Ranks."},
    {"threads", OPTION_INT, AT(threads), "2", 1, 256, NULL, "N", "Job", "Threads of each rank."},
    {"concurrency", OPTION_INT, AT(concurrency), "1", 1, 1024, NULL, "N", "Load",
     "Sequences, spread over the ranks."},
    {"prompt", OPTION_INT, AT(prompt), "32", 1, 1 << 20, NULL, "N", "Load",
     "Tokens of each prompt."},
    {"steps", OPTION_INT, AT(steps), "100", 1, 1 << 20, NULL, "N", "Load",
     "Decode steps that are measured."},
    {0},
};

/* Of the measured steps. */
struct times {
    uint32_t n;
    double *wall, *step, *gap; /* [steps] us; step and gap of the slowest rank */
    uint32_t n_reads;
    double *reads;       /* [steps] GB/s, between steps */
    double *busy, *wait; /* [ranks][steps] us */
};

struct ceilings {
    double read;  /* GB/s */
    double flops; /* GFLOP/s */
};

struct bench {
    struct config c;
    struct model_config m;
    struct ceilings top;
    char *cold; /* [COLD_BYTES] */
    struct drive *d;
    struct drive_seq **seq; /* [concurrency] */
    struct times t;
};

static double now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

/* --- what a step must do ---------------------------------------------------------------------- */

static double dense_weights(const struct model_config *m) /* of a layer, router included */
{
    return (2.0 * m->heads + 2.0 * m->kv_heads) * m->head_dim * m->hidden +
           (double)m->router.experts * m->hidden;
}

static double expert_weights(const struct model_config *m)
{
    return 3.0 * m->hidden * m->inter;
}

/* A decode step of n sequences: each rank with sequences reads the dense part, and each expert that
 * some sequence chose is read once (as many as there are if choices are even). */
static double step_bytes(const struct bench *b, double n, double context)
{
    const struct model_config *m = &b->m;
    double homes = n < (double)b->c.ranks ? n : (double)b->c.ranks, e = m->router.experts;
    double chosen = e * (1 - pow(1 - m->router.topk / e, n));
    double kv = 2.0 * m->kv_heads * m->head_dim * (b->c.numerics ? 2 : 4) * m->layers;

    return dtype_size(m->dtype) *
               (homes * (m->layers * dense_weights(m) + (double)m->vocab * m->hidden) +
                m->layers * chosen * expert_weights(m)) +
           n * context * kv;
}

static double token_flops(const struct bench *b, bool logits)
{
    const struct model_config *m = &b->m;

    return 2.0 * (m->layers * (dense_weights(m) + m->router.topk * expert_weights(m)) +
                  (logits ? (double)m->vocab * m->hidden : 0));
}

/* --- running ---------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *v, uint32_t n)
{
    qsort(v, n, sizeof *v, compare);
    return n ? v[n / 2] : 0.0;
}

static void times_add(struct bench *b, const struct wire_result *r, double wall)
{
    struct times *t = &b->t;
    double step = 0, gap = 0;

    for (uint32_t i = 0; i < r->ranks; i++) {
        const struct wire_rank_times *rank = r->times + i;

        step = rank->step_us > step ? rank->step_us : step;
        gap = rank->gap_us > gap ? rank->gap_us : gap;
        t->busy[i * (size_t)b->c.steps + t->n] = rank->step_us - rank->wait_us;
        t->wait[i * (size_t)b->c.steps + t->n] = rank->wait_us;
    }
    t->wall[t->n] = wall;
    t->step[t->n] = step;
    t->gap[t->n++] = gap;
}

/* All prompts, one after the other, each in chunks of what a step takes. */
static int run_prompts(struct bench *b, struct mt_err *reterr)
{
    const struct wire_admit how = {.top_p = 1};
    uint32_t most = job_ready(drive_job(b->d), 0)->max_tokens, n_prompt = (uint32_t)b->c.prompt;
    int32_t *tokens = calloc(n_prompt, sizeof *tokens);
    const struct wire_result *r;
    double start = now_us(), us;
    int rc = tokens ? 0 : mt_error(reterr, MT_ENOMEM, "no memory for a prompt");

    for (uint32_t i = 0; i < n_prompt && !rc; i++)
        tokens[i] = (int32_t)((i * 2654435761u >> 8) % b->m.vocab);
    for (uint32_t s = 0; s < (uint32_t)b->c.concurrency && !rc; s++) {
        for (uint32_t at = 0, n; at < n_prompt && !rc; at += n) {
            n = n_prompt - at < most ? n_prompt - at : most;
            rc = drive_begin(b->d, reterr);
            if (!rc && !at)
                rc = drive_admit(b->d, s % (uint32_t)b->c.ranks, &how, &b->seq[s], reterr);
            if (!rc)
                rc = drive_run(b->d, b->seq[s], tokens + at, n,
                               at + n == n_prompt ? WIRE_RUN_SAMPLE : 0, reterr);
            if (!rc)
                rc = drive_send(b->d, reterr);
            if (!rc)
                rc = drive_wait(b->d, &r, reterr);
        }
    }
    us = (now_us() - start) / (double)b->c.concurrency;
    free(tokens);
    if (!rc)
        printf("prefill of %u tokens: %.1f ms, %.0f tokens/s, %.1f GFLOP/s (%.0f %%)\n", n_prompt,
               us * 1e-3, n_prompt / us * 1e6, token_flops(b, false) * n_prompt / us * 1e-3,
               100 * token_flops(b, false) * n_prompt / us * 1e-3 / b->top.flops);
    return rc;
}

static int send_decode(struct bench *b, struct mt_err *reterr)
{
    int rc = drive_begin(b->d, reterr);

    for (int64_t s = 0; s < b->c.concurrency && !rc; s++)
        rc = drive_run(b->d, b->seq[s], NULL, 1, WIRE_RUN_SAMPLE, reterr);
    return rc ? rc : drive_send(b->d, reterr);
}

static int run_round(struct bench *b, uint32_t steps, struct mt_err *reterr)
{
    const struct wire_result *r;
    double last = 0;
    int rc = send_decode(b, reterr);

    for (uint32_t i = 0; i < steps && !rc; i++) {
        if (i + 1 < steps)
            rc = send_decode(b, reterr);
        if (!rc)
            rc = drive_wait(b->d, &r, reterr);
        if (!rc && i >= WARM_STEPS)
            times_add(b, r, now_us() - last);
        last = now_us();
    }
    return rc;
}

static int run_decode(struct bench *b, struct mt_err *reterr)
{
    unsigned threads = (unsigned)(b->c.ranks * b->c.threads);
    int rc = 0;

    sleep(SETTLE_S);
    while (b->t.n < b->c.steps && !rc) {
        uint32_t left = (uint32_t)b->c.steps - b->t.n;

        b->t.reads[b->t.n_reads++] =
            ceiling_read(b->cold, COLD_BYTES, threads, CEILING_RUNS, CLOCK_MONOTONIC);
        rc = run_round(b, WARM_STEPS + (left < ROUND_STEPS ? left : ROUND_STEPS), reterr);
    }
    return rc;
}

/* Waiting is imbalance and exchange; messages of some KB take some us each. */
static void report_ranks(const struct bench *b, double wall)
{
    const struct times *t = &b->t;
    double all = 0;

    for (int64_t r = 0; r < b->c.ranks; r++) {
        double busy = median(t->busy + r * b->c.steps, t->n);

        printf("rank %d: computes %.0f us of a step, waits %.0f us for other ranks\n", (int)r, busy,
               median(t->wait + r * b->c.steps, t->n));
        all += busy / (double)b->c.ranks;
    }
    printf("evenly shared, a step would take %.0f us: %.0f %% of the ranks' time is lost\n", all,
           100 * (1 - all / wall));
}

static void report(struct bench *b)
{
    struct times *t = &b->t;
    double n = (double)b->c.concurrency, context = (double)b->c.prompt + (double)b->c.steps / 2;
    double wall = median(t->wall, t->n), step = median(t->step, t->n), gap = median(t->gap, t->n);
    double rate = step_bytes(b, n, context) / wall * 1e-3;
    double flops = n * token_flops(b, true) / wall * 1e-3;
    double read = median(t->reads, t->n_reads);

    printf("decode of %.0f sequences: %.0f tokens/s; a step takes %.0f us of %.0f, the gap between "
           "steps is %.0f us\n",
           n, n / wall * 1e6, step, wall, gap);
    printf("a step reads %.2f MB: %.1f GB/s, %.0f %% of the %.1f read between steps; %.1f GFLOP/s "
           "(%.0f %%)\n",
           step_bytes(b, n, context) * 1e-6, rate, 100 * rate / read, read, flops,
           100 * flops / b->top.flops);
    if (b->c.ranks > 1)
        report_ranks(b, wall);
}

static int run(struct bench *b, struct mt_err *reterr)
{
    int rc = run_prompts(b, reterr);

    if (!rc)
        rc = run_decode(b, reterr);
    if (!rc)
        report(b);
    return rc;
}

/* --- start ------------------------------------------------------------------------------------ */

static int measure_top(struct bench *b, struct mt_err *reterr)
{
    unsigned threads = (unsigned)(b->c.ranks * b->c.threads);
    const char *isa = b->c.isa ? b->c.isa : kernels_isas()[0];

    b->cold = aligned_alloc(64, COLD_BYTES);
    if (!b->cold)
        return mt_error(reterr, MT_ENOMEM, "no memory to measure");
    memset(b->cold, 1, COLD_BYTES);
    b->top.read = ceiling_read(b->cold, COLD_BYTES, threads, CEILING_RUNS, CLOCK_MONOTONIC);
    b->top.flops = ceiling_flops(isa, threads, CEILING_RUNS, CLOCK_MONOTONIC);
    printf("%s %s, %d ranks x %d threads: reads %.1f GB/s, multiply-adds %.0f GFLOP/s\n", isa,
           numerics_names[b->c.numerics], (int)b->c.ranks, (int)b->c.threads, b->top.read,
           b->top.flops);
    return 0;
}

static void print_log(void *user, int level, const char *text)
{
    (void)user;
    if (level <= 1)
        fprintf(stderr, "bench_step: worker: %s\n", text);
}

static int launch(struct bench *b, struct mt_err *reterr)
{
    static char worker[4096];
    ssize_t n = readlink("/proc/self/exe", worker, sizeof worker - 1);
    struct drive_options options = {
        .job = {.worker = worker,
                .model = b->c.model,
                .config = b->c.config,
                .weights = b->c.weights,
                .backend = "cpu",
                .isa = b->c.isa,
                .numerics = numerics_names[b->c.numerics],
                .ranks = (uint32_t)b->c.ranks,
                .threads = (uint32_t)b->c.threads,
                .step_tokens = 512,
                .max_seqs = (uint32_t)b->c.concurrency,
                .start_ms = 600000,
                .silence_ms = 60000,
                .step_ms = 60000},
        .stop_fd = -1,
        .log = print_log,
    };
    char *at;

    for (int up = 0; up < 3 && n > 0; up++) { /* build/tests/bench/bench_step */
        worker[n] = 0;
        at = strrchr(worker, '/');
        n = at ? at - worker : 0;
    }
    if (n <= 0)
        return mt_error(reterr, MT_EIO, "cannot find the build folder");
    snprintf(worker + n, sizeof worker - (size_t)n, "/moetuner-worker");
    return drive_open(&options, &b->d, reterr);
}

static int open_all(struct bench *b, struct mt_err *reterr)
{
    struct model_source source = {
        .dir = b->c.model, .config = b->c.config, .dummy = b->c.weights != NULL};
    int rc = model_configure(&source, &b->m, reterr);

    b->seq = calloc((size_t)b->c.concurrency, sizeof *b->seq);
    b->t.wall = calloc((size_t)b->c.steps, 4 * sizeof *b->t.wall);
    b->t.busy = calloc((size_t)(b->c.ranks * b->c.steps), 2 * sizeof *b->t.busy);
    if (!rc && (!b->seq || !b->t.wall || !b->t.busy))
        rc = mt_error(reterr, MT_ENOMEM, "no memory");
    if (!rc) {
        b->t.step = b->t.wall + b->c.steps;
        b->t.gap = b->t.step + b->c.steps;
        b->t.reads = b->t.gap + b->c.steps;
        b->t.wait = b->t.busy + b->c.ranks * b->c.steps;
        rc = measure_top(b, reterr);
    }
    return rc ? rc : launch(b, reterr);
}

int main(int argc, char **argv)
{
    struct bench b = {0};
    struct mt_err err = {0};
    int next, rc;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 2 && !strcmp(argv[1], "--help")) {
        option_help(OPTIONS, stdout);
        return 0;
    }
    rc = option_defaults(OPTIONS, &b.c, &err);
    if (!rc)
        rc = option_parse_args(OPTIONS, &b.c, argc, argv, &next, &err);
    if (!rc)
        rc = open_all(&b, &err);
    if (!rc)
        rc = run(&b, &err);
    if (rc)
        fprintf(stderr, "bench_step: %s\n", err.text);
    drive_close(b.d);
    free(b.seq);
    free(b.cold);
    free(b.t.wall);
    free(b.t.busy);
    option_done(OPTIONS, &b.c);
    return rc ? 1 : 0;
}
