/* I6: what a request gives depends on model, prompt, parameters and seed alone.
 *
 *   invariance [COMBINATIONS [SEED]]
 *
 * The reference is one rank, one thread, portable C, each sequence alone, its prompt in one piece.
 * Then come launches with a random number of ranks and threads, a random instruction set and a
 * random placement map with replicas. In each, several probes run side by side with random others
 * in the same steps, on random homes, in random chunks, some with part of their own answer fed
 * again as after a restart. Every row of logits must equal the reference to the bit, and every
 * token sampled at temperature 0.8. The reference itself is held against golden logits, so that it
 * cannot be equal and wrong. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/drive.h"
#include "cli/golden.h"

#define MODEL "tests/golden/mixtral"
#define VOCAB 384
#define SAMPLED 16   /* tokens of an answer */
#define LONGEST 100  /* tokens of a prompt */
#define MAX_PROBES 8 /* kinds of probes, and probes side by side */
#define MAX_MATES 6
#define MAX_RUNS (MAX_PROBES + MAX_MATES)
#define EPISODES 2 /* in each launch */

struct probe {
    struct wire_admit how;
    uint32_t n;
    int32_t tokens[LONGEST + SAMPLED];      /* the prompt, then what the reference sampled */
    float logits[LONGEST + SAMPLED][VOCAB]; /* row p: after tokens 0..p */
};

/* A sequence on its way: a probe, or a mate that only keeps the others company. */
struct runner {
    const struct probe *probe; /* NULL: a mate */
    struct drive_seq *seq;     /* NULL: not there yet, or gone */
    struct wire_admit how;
    uint32_t home, starts; /* with which step it may come */
    uint32_t n_feed;       /* known tokens, then n_total - n_feed are sampled */
    uint32_t n_total;      /* positions to run */
    int32_t feed[LONGEST + SAMPLED];
    bool differs, done;
};

/* What a step that is on its way will answer. */
struct sent {
    uint32_t n;
    struct sent_run {
        struct runner *runner;
        struct drive_seq seq; /* a copy: the sequence may be gone by then */
        uint32_t pos, rows;
        bool sampled;
    } run[MAX_RUNS];
};

struct test {
    char worker[512];
    uint64_t random;
    struct golden golden;
    struct probe *probes; /* [n_probes] */
    uint32_t n_probes;
    const char *isas[4];
    uint32_t n_isas;
    uint32_t combinations, differ, launches;
    uint64_t steps, probe_runs, shared_runs; /* shared: in a step with others */
    char launch[256];                        /* describes the one that runs */
};

/* splitmix64 */
static uint64_t draw(struct test *t)
{
    uint64_t z = (t->random += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint32_t below(struct test *t, uint32_t n)
{
    return (uint32_t)(draw(t) % n);
}

static void die(const struct test *t, const struct mt_err *err)
{
    fprintf(stderr, "invariance: %s: %s\n", t->launch, err->text);
    exit(1);
}

static void print_log(void *user, int level, const char *text)
{
    (void)user;
    if (level <= 1)
        fprintf(stderr, "invariance: worker: %s\n", text);
}

static struct drive *launch(struct test *t, uint32_t ranks, uint32_t threads, const char *isa,
                            uint32_t step_tokens, const struct plan *plan)
{
    const struct drive_options options = {
        .job = {.worker = t->worker,
                .model = MODEL,
                .backend = "cpu",
                .isa = isa,
                .numerics = "exact",
                .ranks = ranks,
                .threads = threads,
                .step_tokens = step_tokens,
                .max_seqs = MAX_RUNS,
                .start_ms = 120000,
                .silence_ms = 60000,
                .step_ms = 60000,
                .plan = plan},
        .stop_fd = -1,
        .log = print_log,
    };
    struct drive *d;
    struct mt_err err;

    snprintf(t->launch, sizeof t->launch, "launch %u: %u ranks, %u threads, %s, %u tokens a step",
             t->launches, ranks, threads, isa, step_tokens);
    t->launches++;
    if (drive_open(&options, &d, &err))
        die(t, &err);
    return d;
}

/* --- the reference --- */

static void make_probes(struct test *t)
{
    t->n_probes = t->golden.n + 3;
    t->probes = calloc(MAX_PROBES, sizeof *t->probes);
    if (!t->probes || t->n_probes > MAX_PROBES)
        exit(1);
    for (uint32_t i = 0; i < t->n_probes; i++) {
        struct probe *p = &t->probes[i];

        p->how = (struct wire_admit){
            .temperature = 0.8f, .top_p = i % 2 ? 0.9f : 1, .seed = 1000 + i, .choice = i % 3};
        if (i < t->golden.n) {
            p->n = t->golden.prompt[i].n;
            memcpy(p->tokens, t->golden.prompt[i].tokens, p->n * sizeof *p->tokens);
            continue;
        }
        p->n = i == t->golden.n ? LONGEST : 1 + below(t, LONGEST);
        for (uint32_t k = 0; k < p->n; k++)
            p->tokens[k] = (int32_t)below(t, VOCAB);
    }
}

static void check_reference(struct test *t)
{
    for (uint32_t i = 0; i < t->golden.n; i++)
        for (uint32_t k = 0; k < t->probes[i].n * VOCAB; k++)
            if (!(fabsf(t->probes[i].logits[k / VOCAB][k % VOCAB] - t->golden.prompt[i].logits[k]) <
                  1e-3f)) {
                fprintf(stderr, "invariance: the reference is not the golden model\n");
                exit(1);
            }
}

static void run_reference(struct test *t)
{
    struct drive *d = launch(t, 1, 1, "portable", LONGEST, NULL);
    const struct wire_result *r;
    const struct wire_sample *s;
    struct mt_err err;

    for (uint32_t i = 0; i < t->n_probes; i++) {
        struct probe *p = &t->probes[i];
        struct drive_seq *seq = NULL;

        for (uint32_t k = 0; k < SAMPLED; k++) {
            uint32_t n = k ? 1 : p->n, pos = k ? p->n + k - 1 : 0;

            if (drive_begin(d, &err) || (!k && drive_admit(d, 0, &p->how, &seq, &err)) ||
                drive_run(d, seq, k ? NULL : p->tokens, n, WIRE_RUN_SAMPLE | WIRE_RUN_LOGITS,
                          &err) ||
                drive_send(d, &err) || drive_wait(d, &r, &err))
                die(t, &err);
            s = drive_find(r, seq);
            if (!s || s->logit_rows != n || s->token < 0) {
                mt_error(&err, MT_EPROTO, "no answer");
                die(t, &err);
            }
            memcpy(p->logits[pos], r->logits + s->logit_at, n * sizeof p->logits[0]);
            p->tokens[p->n + k] = s->token;
        }
        if (drive_begin(d, &err) || drive_end(d, seq, &err) || drive_send(d, &err) ||
            drive_wait(d, &r, &err))
            die(t, &err);
    }
    drive_close(d);
    check_reference(t);
}

/* --- one launch --- */

/* Each expert on a random rank, and on each other one with a probability that is the launch's. */
static void random_plan(struct test *t, uint32_t ranks, const struct wire_facts *f,
                        struct plan *ret)
{
    size_t pairs = (size_t)f->moe_layers * f->experts;
    uint32_t percent = (uint32_t[]){0, 10, 40, 100}[below(t, 4)];
    struct plan p = {.layers = f->moe_layers,
                     .experts = f->experts,
                     .ranks = ranks,
                     .start = calloc(pairs + 1, sizeof *p.start),
                     .rank = calloc(pairs * ranks, sizeof *p.rank)};
    uint32_t n = 0;

    if (!p.start || !p.rank)
        exit(1);
    for (size_t i = 0; i < pairs; i++) {
        uint32_t primary = below(t, ranks);

        p.rank[n++] = (uint16_t)primary;
        for (uint32_t r = 0; r < ranks; r++)
            if (r != primary && below(t, 100) < percent)
                p.rank[n++] = (uint16_t)r;
        p.start[i + 1] = n;
    }
    *ret = p;
}

static void make_probe(struct test *t, struct runner *r, uint32_t ranks)
{
    const struct probe *p = &t->probes[below(t, t->n_probes)];
    uint32_t again = below(t, 4) ? 0 : below(t, SAMPLED); /* sampled before, fed as known now */

    *r = (struct runner){.probe = p, .how = p->how, .home = below(t, ranks), .starts = below(t, 6)};
    r->n_feed = p->n + again;
    r->n_total = p->n + SAMPLED - 1;
    memcpy(r->feed, p->tokens, r->n_feed * sizeof *r->feed);
}

static void make_mate(struct test *t, struct runner *r, uint32_t ranks)
{
    *r = (struct runner){.home = below(t, ranks),
                         .starts = below(t, 12),
                         .how = {.temperature = (float)below(t, 3), .top_p = 1, .seed = draw(t)}};
    r->n_feed = 1 + below(t, LONGEST);
    r->n_total = r->n_feed + below(t, SAMPLED);
    for (uint32_t i = 0; i < r->n_feed; i++)
        r->feed[i] = (int32_t)below(t, VOCAB);
}

/* Puts r into the step that is being built, or not, as chance will have it. */
static int add_run(struct test *t, struct drive *d, struct runner *r, uint32_t *left,
                   struct sent *sent, struct mt_err *reterr)
{
    uint32_t flags = r->probe ? WIRE_RUN_LOGITS : 0, n, known;
    struct sent_run *run = &sent->run[sent->n];
    int rc;

    if (!left[r->home] || below(t, 4) == 0)
        return 0;
    if (!r->seq) {
        rc = drive_admit(d, r->home, &r->how, &r->seq, reterr);
        if (rc)
            return rc;
    }
    known = r->seq->pos < r->n_feed ? r->n_feed - r->seq->pos : 0;
    n = known ? 1 + below(t, known) : 1;
    if (below(t, 3) == 0 && known)
        n = known;
    if (n > left[r->home])
        n = left[r->home];
    *run = (struct sent_run){.runner = r, .pos = r->seq->pos, .rows = n};
    run->sampled = n >= known;
    if (run->sampled)
        flags |= WIRE_RUN_SAMPLE;
    rc = drive_run(d, r->seq, known ? r->feed + r->seq->pos : NULL, n, flags, reterr);
    if (rc)
        return rc;
    left[r->home] -= n;
    run->seq = *r->seq;
    sent->n++;
    return 0;
}

/* The first value that is not the reference's, or -1. */
static long first_difference(const float *found, const float *expected, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (memcmp(&found[i], &expected[i], sizeof *found))
            return i;
    return -1;
}

static void check_run(struct test *t, const struct sent_run *run, const struct wire_result *r)
{
    const struct wire_sample *s = drive_find(r, &run->seq);
    const struct probe *p = run->runner->probe;
    uint32_t after = run->pos + run->rows;
    const char *what = NULL;
    long at = -1;

    if (!p)
        return;
    if (!s || s->logit_rows != run->rows)
        what = "logits are missing";
    else if ((at = first_difference(r->logits + s->logit_at, p->logits[run->pos],
                                    run->rows * VOCAB)) >= 0)
        what = "logits differ";
    else if (run->sampled && s->token != p->tokens[after])
        what = "the token differs";
    if (what && !run->runner->differs)
        printf("%s: probe %u on rank %u, positions %u to %u: %s (row %ld, column %ld)\n", t->launch,
               (unsigned)(p - t->probes), run->runner->home, run->pos, after - 1, what,
               at < 0 ? at : at / VOCAB, at < 0 ? at : at % VOCAB);
    if (what)
        run->runner->differs = true;
}

/* Ends sequences that are through, and adds runs of the others. *ret_live: some are left. */
static int build_step(struct test *t, struct drive *d, struct runner *runners, uint32_t n,
                      uint32_t step, uint32_t step_tokens, struct sent *sent, bool *ret_live,
                      struct mt_err *reterr)
{
    uint32_t left[WIRE_MAX_RANKS];
    int rc = drive_begin(d, reterr);

    for (uint32_t i = 0; i < WIRE_MAX_RANKS; i++)
        left[i] = step_tokens;
    sent->n = 0;
    *ret_live = false;
    for (uint32_t i = 0; !rc && i < n; i++) {
        struct runner *r = &runners[(i + step) % n];

        if (r->done)
            continue;
        *ret_live = true;
        if (r->seq && r->seq->pos >= r->n_total) {
            rc = drive_end(d, r->seq, reterr);
            r->done = true;
        } else if (step >= r->starts) {
            rc = add_run(t, d, r, left, sent, reterr);
        }
    }
    return rc;
}

static void count_runs(struct test *t, const struct sent *sent)
{
    t->steps++;
    for (uint32_t i = 0; i < sent->n; i++) {
        t->probe_runs += sent->run[i].runner->probe != NULL;
        t->shared_runs += sent->run[i].runner->probe && sent->n > 1;
    }
}

/* Runs all of them to their ends, one or two steps ahead. */
static int run_episode(struct test *t, struct drive *d, struct runner *runners, uint32_t n,
                       uint32_t step_tokens, struct mt_err *reterr)
{
    struct sent sent[WIRE_MAX_AHEAD];
    const struct wire_result *r;
    uint32_t out = 0, in = 0;
    bool live = true;
    int rc = 0;

    while (!rc && (live || in < out)) {
        if (live && out - in < WIRE_MAX_AHEAD) {
            struct sent *next = &sent[out % WIRE_MAX_AHEAD];

            rc = build_step(t, d, runners, n, out, step_tokens, next, &live, reterr);
            if (!rc)
                rc = drive_send(d, reterr);
            count_runs(t, next);
            out++;
            if (rc || below(t, 2))
                continue;
        }
        rc = drive_wait(d, &r, reterr);
        for (uint32_t i = 0; !rc && i < sent[in % WIRE_MAX_AHEAD].n; i++)
            check_run(t, &sent[in % WIRE_MAX_AHEAD].run[i], r);
        in++;
    }
    return rc;
}

static void run_launch(struct test *t, const struct wire_facts *facts, uint32_t want)
{
    uint32_t ranks = 1 + below(t, 8), threads = 1 + below(t, 3), step_tokens = 8 + below(t, 120);
    struct runner runners[MAX_RUNS];
    struct plan plan;
    struct drive *d;
    struct mt_err err;

    random_plan(t, ranks, facts, &plan);
    d = launch(t, ranks, threads, t->isas[below(t, t->n_isas)], step_tokens, &plan);
    for (uint32_t e = 0; e < EPISODES && t->combinations < want; e++) {
        uint32_t probes = 1 + below(t, MAX_PROBES), mates = below(t, MAX_MATES + 1);

        if (probes > want - t->combinations)
            probes = want - t->combinations;
        for (uint32_t i = 0; i < probes; i++)
            make_probe(t, &runners[i], ranks);
        for (uint32_t i = 0; i < mates; i++)
            make_mate(t, &runners[probes + i], ranks);
        if (run_episode(t, d, runners, probes + mates, step_tokens, &err))
            die(t, &err);
        for (uint32_t i = 0; i < probes; i++)
            t->differ += runners[i].differs;
        t->combinations += probes;
    }
    drive_close(d);
    plan_done(&plan);
}

/* --- all --- */

static void find_worker(struct test *t)
{
    char self[400];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    if (n <= 0)
        exit(1);
    self[n] = 0;
    *strrchr(self, '/') = 0; /* build/tests/property */
    snprintf(t->worker, sizeof t->worker, "%s/../../moetuner-worker", self);
}

static void find_isas(struct test *t)
{
    t->isas[t->n_isas++] = "portable";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        t->isas[t->n_isas++] = "avx2";
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        t->isas[t->n_isas++] = "avx512";
}

int main(int argc, char **argv)
{
    uint32_t want = argc > 1 ? (uint32_t)atol(argv[1]) : 60;
    const struct wire_facts facts = {.moe_layers = 4, .experts = 8}; /* of MODEL */
    struct test t = {.random = argc > 2 ? strtoull(argv[2], NULL, 10) : 1};
    struct mt_err err;

    setvbuf(stdout, NULL, _IOLBF, 0);
    find_worker(&t);
    find_isas(&t);
    if (golden_read(MODEL "/golden.safetensors", VOCAB, &t.golden, &err))
        die(&t, &err);
    make_probes(&t);
    run_reference(&t);
    while (t.combinations < want)
        run_launch(&t, &facts, want);
    printf("%u combinations, %u differ (%u launches, %llu steps, %llu of %llu runs in company;",
           want, t.differ, t.launches, (unsigned long long)t.steps,
           (unsigned long long)t.shared_runs, (unsigned long long)t.probe_runs);
    for (uint32_t i = 0; i < t.n_isas; i++)
        printf("%s%s", i ? ", " : " ", t.isas[i]);
    puts(")");
    free(t.probes);
    golden_done(&t.golden);
    return t.differ || !want ? 1 : 0;
}
