/* A worker without MPI, weights or arithmetic, for tests of whatever drives workers. It speaks
 * api/wire.h, takes the arguments of moetuner-worker, and runs alone or under mpirun (its rank is
 * OMPI_COMM_WORLD_RANK, 0 without it).
 *
 * Rank 0 checks every step as strictly as it can (sequence ids, positions, block tables, shared
 * blocks that are written or not full, budgets) and answers it by the rule in fake_model.h; a
 * broken rule ends in FAIL with MT_EPROTO. A row of logits is 1 at the next token and 0 elsewhere.
 * Logprobs: the token itself gets -0.5, the i-th best is token i with -1 - i.
 *
 * Environment, all optional. What it tells of itself:
 *
 *   FAKE_LAYERS=4  FAKE_EXPERTS=8  FAKE_VOCAB=384  FAKE_MAX_POSITIONS=256  FAKE_EOS=-1
 *   FAKE_KV_BLOCKS=64  FAKE_BLOCK_TOKENS=16    its pool, per rank
 *
 * What it does:
 *
 *   FAKE_LOAD_MS=0    time between MAP and READY
 *   FAKE_STEP_MS=0    time that a step takes; heartbeats go on
 *   FAKE_SAY=text     a line that each rank writes to stderr before it dials
 *   FAKE_PIDS=DIR     each rank writes its pid and OpenMPI's segment directory to DIR/RANK
 *   FAKE_ONLY=N       faults happen in incarnation N only
 *   FAKE_FAULT=WHAT@STEP[:RANK]
 *
 * RANK (default 0) does WHAT when it gets step STEP, before it answers. Ranks above 0 see no steps:
 * for them STEP counts WAKEs. STEP 0 is before dialling. WHAT is one of
 *
 *   kill      SIGKILL to itself
 *   stop      SIGSTOP to itself
 *   exit      prints a line to stderr, exits with 1
 *   fail      FAIL frame (MT_EINTERNAL), exits with 1
 *   hang      never answers; heartbeats go on without progress
 *   garbage   sends bytes that are no frame
 *   wrong     answers with a step number one too high
 *   stale     sends an answer of the incarnation before, then the right one
 *   flood     writes 1 MiB to stdout, then answers
 *   token     (step 0) dials with a wrong token, and again with the right one
 *   mute      (step 0) dials, says nothing, and dials again to speak
 *   faint     (step 0) SIGSTOP to itself between MAP and READY
 *   unread    (step 0) dials without facts, as if the model could not be read, and fails
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "api/buf.h"
#include "api/log.h"
#include "api/wire.h"
#include "tests/fake/fake_model.h"

struct sequence {
    bool live;
    struct wire_admit admit;
    uint32_t *blocks; /* [n_blocks] */
    uint32_t n_blocks;
    uint32_t pos; /* tokens seen */
    int32_t last; /* sampled last, -1: none */
};

struct worker {
    const char *path; /* of the daemon's socket */
    uint64_t incarnation;
    uint32_t rank, ranks, step_tokens, max_seqs;
    uint32_t vocab, kv_blocks, block_tokens, max_positions;
    int fd;
    bool hung;
    uint64_t steps, wakes, progress;
    struct buf out;
    struct wire_map map;
    struct wire_step step;
    struct wire_result result;
    struct block {
        uint32_t holders;          /* sequences that have it in their tables */
        uint32_t filled;           /* positions written */
    } * block;                     /* [ranks][kv_blocks] */
    uint32_t live[WIRE_MAX_RANKS]; /* sequences by home */
    struct sequence seq[WIRE_MAX_SEQS];
};

static struct worker w; /* one per process; large */

static long number(const char *name, long otherwise)
{
    const char *value = getenv(name);

    return value ? atol(value) : otherwise;
}

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void send_all(const void *bytes, size_t n)
{
    const char *at = bytes;

    while (n) {
        ssize_t got = send(w.fd, at, n, MSG_NOSIGNAL);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            exit(0); /* the daemon is gone */
        at += got;
        n -= (size_t)got;
    }
}

static void flush_frames(void)
{
    if (w.out.status)
        exit(3);
    send_all(w.out.data, w.out.len);
    buf_reset(&w.out);
}

static void send_text(enum wire_type type, int level, const char *text)
{
    struct wire_text t = {.rank = w.rank, .level = level};

    snprintf(t.text, sizeof t.text, "%s", text);
    wire_put_text(&w.out, w.incarnation, type, &t);
    flush_frames();
}

static void fail(const char *text)
{
    send_text(WIRE_FAIL, MT_EPROTO, text);
    exit(1);
}

static void send_heartbeat(void)
{
    struct wire_heartbeat h = {.rank = w.rank, .step = w.steps, .progress = w.progress};

    wire_put_heartbeat(&w.out, w.incarnation, &h);
    flush_frames();
}

/* How rank 0 tells the others that the job ends: a file in the job's directory, for want of a
 * broadcast. */
static const char *end_file(void)
{
    static char path[512];

    snprintf(path, sizeof path, "%s/end", getenv("TMPDIR"));
    return path;
}

static void end_job(void)
{
    FILE *f = fopen(end_file(), "w");

    if (f)
        fclose(f);
    exit(0);
}

/* Waits, with heartbeats, until the socket is readable or ms have passed (-1: for ever, and without
 * progress). */
static void idle(int64_t ms, bool readable)
{
    int64_t end = now_ms() + ms;
    struct pollfd p = {.fd = w.fd, .events = POLLIN};

    for (;;) {
        int64_t left = ms < 0 ? WIRE_HEARTBEAT_MS : end - now_ms();

        if (left < 0)
            return;
        if (left > WIRE_HEARTBEAT_MS)
            left = WIRE_HEARTBEAT_MS;
        if (poll(&p, readable ? 1 : 0, (int)left) > 0)
            return;
        if (ms >= 0 && !w.hung)
            w.progress++;
        if (w.rank && !access(end_file(), F_OK))
            exit(0);
        send_heartbeat();
    }
}

/* --- faults --- */

static bool fault_is(const char *what, uint64_t step)
{
    char text[64];

    if (getenv("FAKE_ONLY") && (uint64_t)number("FAKE_ONLY", 0) != w.incarnation)
        return false;
    if (!getenv("FAKE_FAULT"))
        return false;
    snprintf(text, sizeof text, "%s@%llu:%u", what, (unsigned long long)step, w.rank);
    if (!strcmp(getenv("FAKE_FAULT"), text))
        return true;
    *strchr(text, ':') = 0;
    return w.rank == 0 && !strcmp(getenv("FAKE_FAULT"), text);
}

static void flood(void)
{
    char line[128];

    memset(line, 'x', sizeof line);
    line[sizeof line - 1] = '\n';
    for (int i = 0; i < (1 << 20) / (int)sizeof line; i++)
        fwrite(line, 1, sizeof line, stdout);
    fflush(stdout);
}

static void fault(uint64_t step)
{
    if (fault_is("kill", step))
        raise(SIGKILL);
    if (fault_is("stop", step))
        raise(SIGSTOP);
    if (fault_is("exit", step)) {
        fprintf(stderr, "fake_worker: cannot go on: told so\n");
        exit(1);
    }
    if (fault_is("fail", step)) {
        send_text(WIRE_FAIL, MT_EINTERNAL, "layer 3: told to fail");
        exit(1);
    }
    if (fault_is("garbage", step))
        send_all("this is no frame, this is no frame", 34);
    if (fault_is("flood", step))
        flood();
    if (fault_is("hang", step)) {
        w.hung = true;
        for (;;)
            idle(1000, false);
    }
}

/* --- steps --- */

static void admit(const struct wire_admit *a)
{
    if (a->seq >= WIRE_MAX_SEQS || w.seq[a->seq].live)
        fail("admit: the sequence exists");
    if (a->home >= w.ranks)
        fail("admit: no such home");
    w.seq[a->seq] = (struct sequence){.live = true, .admit = *a, .last = -1};
    if (++w.live[a->home] > w.max_seqs)
        fail("admit: more sequences than the rank holds");
}

static struct block *block_of(const struct sequence *s, uint32_t pos)
{
    return &w.block[s->admit.home * w.kv_blocks + s->blocks[pos / w.block_tokens]];
}

static void release(uint32_t seq)
{
    struct sequence *s = &w.seq[seq % WIRE_MAX_SEQS];

    if (seq >= WIRE_MAX_SEQS || !s->live)
        fail("free: no such sequence");
    w.live[s->admit.home]--;
    for (uint32_t i = 0; i < s->n_blocks; i++)
        block_of(s, i * w.block_tokens)->holders--;
    free(s->blocks);
    *s = (struct sequence){0};
}

static void take_blocks(struct sequence *s, const uint32_t *blocks, uint32_t n)
{
    s->blocks = realloc(s->blocks, (s->n_blocks + n + 1) * sizeof *s->blocks);
    for (uint32_t i = 0; i < n; i++) {
        if (blocks[i] >= w.kv_blocks)
            fail("run: block outside the pool");
        s->blocks[s->n_blocks++] = blocks[i];
        block_of(s, (s->n_blocks - 1) * w.block_tokens)->holders++;
    }
}

/* A sequence may begin behind full blocks that others have written. */
static void skip_prefix(struct sequence *s, uint32_t pos)
{
    if (pos % w.block_tokens)
        fail("run: begins within a block");
    for (; s->pos < pos; s->pos += w.block_tokens)
        if (block_of(s, s->pos)->filled != w.block_tokens)
            fail("run: begins behind a block that is not full");
}

static void write_positions(struct sequence *s, uint32_t n)
{
    for (; n; n--, s->pos++) {
        struct block *b = block_of(s, s->pos);

        if (b->holders != 1)
            fail("run: writes into a shared block");
        b->filled = s->pos % w.block_tokens + 1;
    }
}

/* The inputs of a run: its tokens, or the one sampled last. Returns the first. */
static const int32_t *check_run(const struct wire_run *r, struct sequence *s, uint32_t *tokens)
{
    if (r->seq >= WIRE_MAX_SEQS || !w.seq[r->seq].live)
        fail("run: no such sequence");
    take_blocks(s, w.step.blocks + r->block_at, r->n_blocks);
    if (r->pos + r->n_tokens > w.max_positions)
        fail("run: longer than the model allows");
    if ((uint64_t)s->n_blocks * w.block_tokens < r->pos + r->n_tokens)
        fail("run: the block table is too short");
    if (!s->pos)
        skip_prefix(s, r->pos);
    if (r->pos != s->pos)
        fail("run: a position is skipped or repeated");
    if ((r->flags & WIRE_RUN_LAST) && (r->n_tokens != 1 || s->last < 0))
        fail("run: nothing was sampled last");
    tokens[s->admit.home] += r->n_tokens;
    if (tokens[s->admit.home] > w.step_tokens)
        fail("run: over the rank's token budget");
    write_positions(s, r->n_tokens);
    return r->flags & WIRE_RUN_LAST ? &s->last : w.step.tokens + r->token_at;
}

static void add_entry(struct wire_logprob *at, int32_t token, uint32_t n_top)
{
    *at = (struct wire_logprob){token, -0.5f};
    for (uint32_t i = 0; i < n_top; i++)
        at[1 + i] = (struct wire_logprob){(int32_t)i, -1.0f - (float)i};
}

static void answer_run(const struct wire_run *r, struct sequence *s, const int32_t *in)
{
    struct wire_sample out = {.seq = r->seq, .token = -1};
    uint32_t targets = r->n_tokens - 1 + (r->flags & WIRE_RUN_NEXT ? 1 : 0);
    struct wire_logprob *logprobs;
    float *logits;

    out.n_top = r->n_logprobs > 0 ? (uint32_t)r->n_logprobs : 0;
    logprobs = calloc((size_t)(r->n_tokens + 2) * (1 + out.n_top), sizeof *logprobs);
    logits = calloc((size_t)r->n_tokens * w.vocab + 1, sizeof *logits);
    if (r->flags & WIRE_RUN_PROMPT_LOGPROBS)
        for (; out.n_prompt < targets; out.n_prompt++)
            add_entry(logprobs + out.n_prompt * (1 + out.n_top), in[out.n_prompt + 1], out.n_top);
    out.n_entries = out.n_prompt;
    if (r->flags & WIRE_RUN_LOGITS)
        for (; out.logit_rows < r->n_tokens; out.logit_rows++)
            logits[out.logit_rows * w.vocab + (uint32_t)fake_next(in[out.logit_rows],
                                                                  r->pos + out.logit_rows,
                                                                  &s->admit, w.vocab)] = 1;
    if (r->flags & WIRE_RUN_SAMPLE) {
        out.token = fake_next(in[r->n_tokens - 1], r->pos + r->n_tokens - 1, &s->admit, w.vocab);
        if (r->n_logprobs >= 0)
            add_entry(logprobs + out.n_entries++ * (1 + out.n_top), out.token, out.n_top);
        s->last = out.token;
    }
    if (out.token >= 0 || out.n_entries || out.logit_rows)
        wire_result_sample(&w.result, &out, logprobs, logits, (uint64_t)out.logit_rows * w.vocab);
    free(logprobs);
    free(logits);
}

static void run_step(void)
{
    uint32_t tokens[WIRE_MAX_RANKS] = {0};

    if (w.step.step != w.steps + 1)
        fail("step: out of order");
    if (w.step.ranks != w.ranks || w.step.epoch != w.map.epoch)
        fail("step: ranks or epoch are not the job's");
    fault(w.step.step);
    idle(number("FAKE_STEP_MS", 0), false);
    wire_result_begin(&w.result, w.step.step + (fault_is("wrong", w.step.step) ? 1 : 0), w.ranks);
    for (uint32_t i = 0; i < w.step.n_frees; i++)
        release(w.step.frees[i]);
    for (uint32_t i = 0; i < w.step.n_admits; i++)
        admit(&w.step.admits[i]);
    for (uint32_t i = 0; i < w.step.n_runs; i++) {
        const struct wire_run *r = &w.step.runs[i];
        struct sequence *s = &w.seq[r->seq % WIRE_MAX_SEQS];

        answer_run(r, s, check_run(r, s, tokens));
    }
    if (memcmp(tokens, w.step.rank_tokens, w.ranks * sizeof *tokens))
        fail("step: rank_tokens is not the sum of the runs");
    w.steps++;
    w.progress++;
    if (fault_is("stale", w.step.step))
        wire_put_result(&w.out, w.incarnation - 1, &w.result);
    wire_put_result(&w.out, w.incarnation, &w.result);
    flush_frames();
}

/* --- life --- */

static int dial(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(a.sun_path, sizeof a.sun_path, "%s", w.path);
    if (connect(fd, (struct sockaddr *)&a, sizeof a)) {
        fprintf(stderr, "fake_worker: cannot dial %s: %s\n", w.path, strerror(errno));
        exit(1);
    }
    return fd;
}

static void send_hello(bool good)
{
    struct wire_hello h = {.rank = w.rank, .ranks = w.ranks, .pid = getpid()};
    const char *hex = getenv("MOETUNER_TOKEN");

    for (size_t i = 0; hex && i < sizeof h.token; i++) {
        unsigned byte = 0;

        sscanf(hex + 2 * i, "%2x", &byte);
        h.token[i] = (uint8_t)(good ? byte : byte ^ 1);
    }
    snprintf(h.facts.family, sizeof h.facts.family, "fake");
    h.facts.layers = h.facts.moe_layers = (uint32_t)number("FAKE_LAYERS", 4);
    h.facts.experts = (uint32_t)number("FAKE_EXPERTS", 8);
    h.facts.topk = 2;
    h.facts.hidden = 64;
    h.facts.vocab = w.vocab;
    h.facts.max_positions = w.max_positions;
    h.facts.bos = -1;
    h.facts.eos[0] = (int32_t)number("FAKE_EOS", -1);
    h.facts.n_eos = h.facts.eos[0] >= 0;
    if (fault_is("unread", 0))
        h.facts = (struct wire_facts){0};
    wire_put_hello(&w.out, w.incarnation, &h);
    flush_frames();
    if (fault_is("unread", 0))
        fail("config.json: told to be unreadable");
}

static void send_ready(void)
{
    struct wire_ready r = {.rank = w.rank,
                           .kv_blocks = w.kv_blocks,
                           .block_tokens = w.block_tokens,
                           .max_tokens = w.step_tokens,
                           .max_seqs = w.max_seqs,
                           .threads = 1,
                           .isa = "portable",
                           .numerics = "exact"};

    if (fault_is("faint", 0))
        raise(SIGSTOP);
    idle(number("FAKE_LOAD_MS", 0), false);
    wire_put_ready(&w.out, w.incarnation, &r);
    flush_frames();
    send_text(WIRE_LOG, LOG_LEVEL_INFO, "fake worker is ready");
}

static void receive(void *out, size_t n)
{
    char *at = out;

    while (n) {
        ssize_t got = recv(w.fd, at, n, 0);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            exit(0);
        at += got;
        n -= (size_t)got;
    }
}

static void serve_frame(void)
{
    uint8_t head[WIRE_HEADER_BYTES];
    struct wire_header h;
    struct mt_err err = {0};
    uint8_t *body;
    int rc = 0;

    receive(head, sizeof head);
    if (wire_get_header(head, &h, &err))
        fail(err.text);
    body = malloc(h.body + 1);
    receive(body, h.body);
    if (h.incarnation != w.incarnation)
        fail("a frame of another incarnation");
    if (h.type == WIRE_MAP)
        rc = wire_get_map(body, h.body, &w.map, &err);
    else if (h.type == WIRE_STEP)
        rc = wire_get_step(body, h.body, &w.step, &err);
    free(body);
    if (rc)
        fail(err.text);
    if (h.type == WIRE_MAP)
        send_ready();
    else if (h.type == WIRE_STEP)
        run_step();
    else if (h.type == WIRE_WAKE)
        fault(++w.wakes);
    else if (h.type == WIRE_SHUTDOWN)
        end_job();
}

static void read_args(int argc, char **argv)
{
    static const char *const NAMES[] = {
        "connect",  "incarnation", "model",       "config",      "weights",  "backend",  "isa",
        "numerics", "threads",     "spare-slots", "step-tokens", "max-seqs", "kv-bytes", "ranks"};
    struct option table[sizeof NAMES / sizeof *NAMES + 1] = {{0}};
    int which;

    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        table[i] = (struct option){NAMES[i], required_argument, NULL, (int)i};
    while ((which = getopt_long(argc, argv, "", table, NULL)) >= 0) {
        if (which == '?')
            exit(2);
        if (which == 0 && !strncmp(optarg, "unix:", 5))
            w.path = optarg + 5;
        if (which == 1)
            w.incarnation = strtoull(optarg, NULL, 10);
        if (which == 10)
            w.step_tokens = (uint32_t)atol(optarg);
        if (which == 11)
            w.max_seqs = (uint32_t)atol(optarg);
        if (which == 13)
            w.ranks = (uint32_t)atol(optarg);
    }
    if (optind < argc || !w.path || !w.ranks || !w.step_tokens || !w.max_seqs) {
        fprintf(stderr, "fake_worker: arguments are missing or unknown\n");
        exit(2);
    }
}

static void begin(void)
{
    char path[512];
    FILE *f;

    if (getenv("FAKE_SAY"))
        fprintf(stderr, "%s\n", getenv("FAKE_SAY"));
    if (getenv("FAKE_PIDS")) {
        snprintf(path, sizeof path, "%s/%u", getenv("FAKE_PIDS"), w.rank);
        f = fopen(path, "w");
        if (f) {
            const char *segments = getenv("OMPI_MCA_btl_vader_backing_directory");

            fprintf(f, "%ld\n%s\n", (long)getpid(), segments ? segments : "-");
            fclose(f);
        }
    }
    fault(0);
    w.fd = dial();
    if (fault_is("token", 0)) {
        send_hello(false);
        w.fd = dial();
    }
    if (fault_is("mute", 0))
        w.fd = dial();
    send_hello(true);
}

int main(int argc, char **argv)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    read_args(argc, argv);
    w.rank = (uint32_t)number("OMPI_COMM_WORLD_RANK", 0);
    w.vocab = (uint32_t)number("FAKE_VOCAB", 384);
    w.kv_blocks = (uint32_t)number("FAKE_KV_BLOCKS", 64);
    w.block_tokens = (uint32_t)number("FAKE_BLOCK_TOKENS", 16);
    w.max_positions = (uint32_t)number("FAKE_MAX_POSITIONS", 256);
    w.block = calloc((size_t)w.ranks * w.kv_blocks, sizeof *w.block);
    buf_init(&w.out, (size_t)WIRE_MAX_BODY * 2);
    begin();
    if (w.rank)
        send_ready();
    for (;;) {
        idle(-1, true);
        serve_frame();
    }
}
