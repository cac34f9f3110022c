/* moetuner-worker: one rank of a worker job. Started by the daemon (or `moetuner eval`) through
 * mpirun, never by hand.
 *
 * Dials the daemon, tells the model's facts, receives the placement map, loads what this rank
 * holds, then runs steps until it is told to stop. Rank 0 receives the frames and passes them on by
 * the transport. */
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "api/option.h"
#include "worker/link.h"
#include "worker/step.h"

#define SPIN_US 200         /* after a step the next one is usually there at once, */
#define SPIN_MOST_US 4000   /* or when rank 0 has sampled: within the time that a step takes */
#define NAP_MS 1            /* then look now and then */
#define DOZE_AFTER_US 20000 /* then only a WAKE matters; */
#define DOZE_MS 20          /* but losing one must cost no more than this */

static const char *const numerics_names[] = {"exact", "fast", NULL};

struct config {
    char *connect, *model, *config, *weights, *backend, *isa;
    int64_t incarnation, ranks, threads, spare_slots, step_tokens, max_seqs, kv_bytes;
    int numerics;
};

#define AT(field) offsetof(struct config, field)

static const struct option OPTIONS[] = {
    {"connect", OPTION_TEXT, AT(connect), NULL, 0, 0, NULL, "unix:PATH|tcp:HOST:PORT", "Job",
     "The daemon's socket."},
    {"incarnation", OPTION_INT, AT(incarnation), "1", 0, 0, NULL, "N", "Job",
     "Which launch of the job this is."},
    {"ranks", OPTION_INT, AT(ranks), "1", 1, WIRE_MAX_RANKS, NULL, "N", "Job",
     "Ranks of the job; 1 needs no MPI."},
    {"model", OPTION_TEXT, AT(model), NULL, 0, 0, NULL, "DIR", "Model", "Hugging Face directory."},
    {"config", OPTION_TEXT, AT(config), NULL, 0, 0, NULL, "FILE", "Model",
     "config.json for dummy weights."},
    {"weights", OPTION_TEXT, AT(weights), NULL, 0, 0, NULL, "dummy:SEED", "Model",
     "Random weights instead of a model's."},
    {"backend", OPTION_TEXT, AT(backend), "cpu", 0, 0, NULL, "NAME", "Compute", "Kernels: cpu."},
    {"isa", OPTION_TEXT, AT(isa), NULL, 0, 0, NULL, "NAME", "Compute",
     "Instruction set; the default is the best."},
    {"numerics", OPTION_CHOICE, AT(numerics), "exact", 0, 0, numerics_names, "MODE", "Compute",
     "exact or fast."},
    {"threads", OPTION_INT, AT(threads), "1", 1, 1024, NULL, "N", "Compute",
     "Threads of this rank."},
    {"spare-slots", OPTION_INT, AT(spare_slots), "0", 0, WIRE_MAX_EXPERTS, NULL, "N", "Memory",
     "Expert slots per layer beyond what the map needs."},
    {"step-tokens", OPTION_INT, AT(step_tokens), "512", 1, WIRE_MAX_STEP_TOKENS, NULL, "N",
     "Memory", "Most tokens of this rank in one step."},
    {"max-seqs", OPTION_INT, AT(max_seqs), "256", 1, WIRE_MAX_SEQS, NULL, "N", "Memory",
     "Most sequences of this rank."},
    {"kv-bytes", OPTION_SIZE, AT(kv_bytes), "0", 0, 0, NULL, "BYTES", "Memory",
     "KV cache; 0: by the model and the memory."},
    {0},
};

struct worker {
    struct config config;
    struct ep *ep;
    struct link *link;
    struct model_source source;
    struct model_config model_config;
    struct expert_map map;
    struct kernels *kernels;
    struct model *model;
    struct kvcache kv;
    struct sequences sequences;
    struct forward *forward;
    struct step_runner *runner;
    struct wire_step step;
    uint64_t posted_us; /* when the last frame came from rank 0 */
    uint64_t spin_us;   /* how long the next one is waited for without a nap */
    struct buf out;
    struct buf
        post; /* rank 0: what it passes on; others: what they got: a type byte and a frame's body */
};

static uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000;
}

/* Without the daemon there is nobody to work for, and the main thread may be stuck: leave at once.
 */
static void daemon_lost(const struct mt_err *why)
{
    (void)why;
    _exit(3);
}

/* --- start ------------------------------------------------------------------------------------ */

static int token_read(uint8_t token[WIRE_TOKEN_BYTES], struct mt_err *reterr)
{
    const char *hex = getenv("MOETUNER_TOKEN");

    if (!hex || strlen(hex) != 2 * WIRE_TOKEN_BYTES ||
        strspn(hex, "0123456789abcdef") != 2 * WIRE_TOKEN_BYTES)
        return mt_error(
            reterr, MT_EINVAL,
            "MOETUNER_TOKEN: expected %d hexadecimal digits; this program is started by "
            "moetunerd",
            2 * WIRE_TOKEN_BYTES);
    for (unsigned i = 0; i < WIRE_TOKEN_BYTES; i++) {
        char pair[3] = {hex[2 * i], hex[2 * i + 1], 0};
        token[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return 0;
}

static int source_read(const struct config *c, struct model_source *ret, struct mt_err *reterr)
{
    char *end;

    *ret = (struct model_source){.dir = c->model, .config = c->config};
    if (!c->weights) {
        if (!c->model)
            return mt_error(reterr, MT_EINVAL, "--model DIR is missing");
        return 0;
    }
    if (strncmp(c->weights, "dummy:", 6) || !c->weights[6])
        return mt_error(reterr, MT_EINVAL, "--weights: expected dummy:SEED, found %s", c->weights);
    ret->dummy = true;
    ret->seed = strtoull(c->weights + 6, &end, 10);
    if (*end)
        return mt_error(reterr, MT_EINVAL, "--weights: expected a number after dummy:, found %s",
                        c->weights + 6);
    if (!c->config && !c->model)
        return mt_error(
            reterr, MT_EINVAL,
            "--weights dummy needs --config FILE (or a --model whose config.json to use)");
    return 0;
}

static int worker_dial(struct worker *w, struct mt_err *reterr)
{
    struct wire_hello hello = {.rank = w->ep->rank, .ranks = w->ep->ranks, .pid = getpid()};
    int rc = token_read(hello.token, reterr);

    if (!rc && !w->config.connect)
        rc = mt_error(reterr, MT_EINVAL,
                      "--connect is missing; this program is started by moetunerd");
    if (rc)
        return rc;
    /* A config that does not load is reported over the link, so that the operator reads it where
     * the job was started. */
    rc = model_configure(&w->source, &w->model_config, reterr);
    if (!rc)
        model_facts(&w->model_config, &hello.facts);
    if (link_open(w->config.connect, (uint64_t)w->config.incarnation, &hello, &w->link,
                  rc ? NULL : reterr))
        return rc ? rc : MT_EIO;
    return rc ? rc : link_start(w->link, daemon_lost, reterr);
}

/* --- frames ----------------------------------------------------------------------------------- */

/* Nothing to do: sleeps until the control link has something, or for so long. */
static bool idle_wait(struct worker *w, int timeout_ms)
{
    if (kvcache_populate(&w->kv))
        timeout_ms = 0;
    return link_wait(w->link, timeout_ms);
}

/* Rank 0: the next frame from the daemon, passed on to the others. */
static int frame_pass_on(struct worker *w, struct mt_err *reterr)
{
    struct wire_header header;
    uint8_t *body, type;

    while (!link_take(w->link, &header, &body))
        idle_wait(w, -1);
    type = (uint8_t)header.type;
    buf_reset(&w->post);
    buf_append(&w->post, &type, 1);
    buf_append(&w->post, body, header.body);
    free(body);
    if (w->post.status)
        return mt_error(reterr, w->post.status, "no memory for a frame of %u bytes", header.body);
    return w->ep->op->post(w->ep, w->post.data, w->post.len, reterr);
}

/* A nap between two steps would cost more than a step of a small model. */
static void frame_arrived(struct worker *w, uint64_t now)
{
    uint64_t twice = 2 * (now - w->posted_us);

    w->posted_us = now;
    w->spin_us = twice < SPIN_US ? SPIN_US : twice < SPIN_MOST_US ? twice : SPIN_MOST_US;
}

/* Other ranks: the next frame from rank 0. Spins a little, then sleeps on the control link. */
static int frame_await(struct worker *w, struct mt_err *reterr)
{
    uint64_t start = now_us();

    for (;;) {
        bool got;
        uint64_t idle;
        int rc = w->ep->op->poll(w->ep, &w->post, &got, reterr);

        if (!rc && got)
            frame_arrived(w, now_us());
        if (rc || got)
            return rc;
        idle = now_us() - start;
        if (idle < w->spin_us)
            sched_yield();
        else if (idle_wait(w, idle < DOZE_AFTER_US ? NAP_MS : DOZE_MS))
            start = now_us();
    }
}

static int frame_next(struct worker *w, struct mt_err *reterr)
{
    return w->ep->rank ? frame_await(w, reterr) : frame_pass_on(w, reterr);
}

/* --- loading ---------------------------------------------------------------------------------- */

static int map_receive(struct worker *w, struct mt_err *reterr)
{
    struct wire_map map = {0};
    struct wire_facts facts;
    int rc = frame_next(w, reterr);

    if (rc)
        return rc;
    if (w->post.data[0] != WIRE_MAP)
        return mt_error(reterr, MT_EPROTO, "expected a map frame, found type %u", w->post.data[0]);
    rc = wire_get_map(w->post.data + 1, w->post.len - 1, &map, reterr);
    if (rc)
        return rc;
    model_facts(&w->model_config, &facts);
    if (map.layers != facts.moe_layers || map.experts != facts.experts || map.ranks != w->ep->ranks)
        rc = mt_error(reterr, MT_EINVAL,
                      "placement is for %u layers x %u experts on %u ranks, expected %u x %u on %u",
                      map.layers, map.experts, map.ranks, facts.moe_layers, facts.experts,
                      w->ep->ranks);
    else
        rc = expert_map_build(&map, &w->map, reterr);
    wire_map_done(&map);
    return rc;
}

static uint32_t ranks_on_this_host(const struct ep *ep)
{
    uint32_t n = 0;

    for (uint32_t r = 0; r < ep->ranks; r++)
        n += ep->node[r] == ep->node[ep->rank];
    return n;
}

static int weights_load(struct worker *w, struct mt_err *reterr)
{
    int32_t *held;
    uint32_t slots;
    int rc = expert_map_held(&w->map, w->ep->rank, (uint32_t)w->config.spare_slots, &held, &slots,
                             reterr);

    if (rc)
        return rc;
    rc = model_load(&w->source, &w->model_config, w->kernels, held, slots, &w->model, reterr);
    free(held);
    return rc;
}

static void layer_done(void *link)
{
    link_progress(link);
}

static int worker_load(struct worker *w, struct mt_err *reterr)
{
    const struct config *c = &w->config;
    const struct model_config *m = &w->model_config;
    uint32_t heads = m->heads * m->head_dim;
    struct kernels_options options = {
        .backend = c->backend,
        .isa = c->isa,
        .numerics = c->numerics ? NUMERICS_FAST : NUMERICS_EXACT,
        .threads = (unsigned)c->threads,
        .limits = {.width = heads > m->hidden ? heads : m->hidden,
                   .inter = m->inter,
                   .positions = m->max_positions,
                   .vocab = m->vocab},
    };
    struct ep_shape shape = {m->hidden, m->router.topk, (uint32_t)c->step_tokens, options.numerics};
    uint32_t blocks;
    int rc = kernels_open(&options, &w->kernels, reterr);

    if (!rc)
        rc = weights_load(w, reterr);
    if (!rc)
        rc = kvcache_blocks(m, options.numerics, c->kv_bytes, ranks_on_this_host(w->ep), &blocks,
                            reterr);
    if (!rc)
        rc = kvcache_open(m, w->kernels, blocks, &w->kv, reterr);
    if (!rc)
        rc = ep_reserve(w->ep, &shape, reterr);
    if (!rc)
        rc = sequences_open(&w->sequences, w->ep->rank, (uint32_t)c->max_seqs, blocks,
                            m->max_positions, m->vocab, reterr);
    if (!rc)
        rc = forward_open(w->kernels, w->ep, w->model, &w->kv, &w->forward, reterr);
    if (!rc) {
        struct step_parts parts = {w->kernels,    w->ep,      w->model, &w->map,
                                   &w->sequences, w->forward, blocks};

        forward_watch(w->forward, layer_done, w->link);
        rc = step_open(&parts, &w->runner, reterr);
    }
    return rc;
}

static int ready_send(struct worker *w, uint64_t load_us, struct mt_err *reterr)
{
    struct wire_ready ready = {
        .rank = w->ep->rank,
        .kv_blocks = w->kv.blocks,
        .block_tokens = KV_BLOCK_TOKENS,
        .max_tokens = (uint32_t)w->config.step_tokens,
        .max_seqs = (uint32_t)w->config.max_seqs,
        .threads = w->kernels->threads,
        .load_ms = (uint32_t)(load_us / 1000),
        .weight_bytes = w->model->held_bytes,
    };

    snprintf(ready.isa, sizeof ready.isa, "%s", w->kernels->isa);
    snprintf(ready.numerics, sizeof ready.numerics, "%s", numerics_names[w->config.numerics]);
    buf_reset(&w->out);
    if (wire_put_ready(&w->out, (uint64_t)w->config.incarnation, &ready))
        return mt_error(reterr, w->out.status, "cannot encode the ready frame");
    return link_send(w->link, &w->out, reterr);
}

/* --- running ---------------------------------------------------------------------------------- */

static int step_serve(struct worker *w, struct mt_err *reterr)
{
    const struct wire_result *result;
    int rc = wire_get_step(w->post.data + 1, w->post.len - 1, &w->step, reterr);

    if (!rc)
        rc = step_run(w->runner, &w->step, &result, reterr);
    if (rc)
        return rc;
    link_step(w->link, w->step.step);
    if (!result)
        return 0;
    buf_reset(&w->out);
    if (wire_put_result(&w->out, (uint64_t)w->config.incarnation, result))
        return mt_error(reterr, w->out.status, "the result of step %llu does not fit a frame",
                        (unsigned long long)w->step.step);
    return link_send(w->link, &w->out, reterr);
}

static int worker_serve(struct worker *w, struct mt_err *reterr)
{
    for (;;) {
        int rc = frame_next(w, reterr);

        if (rc)
            return rc;
        switch (w->post.data[0]) {
        case WIRE_STEP: rc = step_serve(w, reterr); break;
        case WIRE_SHUTDOWN: return 0;
        default: rc = mt_error(reterr, MT_EPROTO, "unexpected frame of type %u", w->post.data[0]);
        }
        if (rc)
            return rc;
    }
}

static int worker_run(struct worker *w, int *argc, char ***argv, struct mt_err *reterr)
{
    uint64_t start = now_us();
    int rc = source_read(&w->config, &w->source, reterr);

    if (!rc)
        rc = w->config.ranks > 1 ? ep_open_mpi(argc, argv, &w->ep, reterr)
                                 : ep_open_self(&w->ep, reterr);
    if (!rc && w->ep->ranks != (uint32_t)w->config.ranks)
        rc = mt_error(reterr, MT_EINVAL, "--ranks says %d, MPI has %u", (int)w->config.ranks,
                      w->ep->ranks);
    if (!rc)
        rc = worker_dial(w, reterr);
    if (!rc)
        rc = map_receive(w, reterr);
    if (!rc)
        rc = worker_load(w, reterr);
    if (!rc)
        rc = ready_send(w, now_us() - start, reterr);
    return rc ? rc : worker_serve(w, reterr);
}

static void worker_close(struct worker *w)
{
    step_close(w->runner);
    forward_close(w->forward);
    sequences_close(&w->sequences);
    kvcache_close(&w->kv, w->kernels);
    model_free(w->model, w->kernels);
    kernels_close(w->kernels);
    expert_map_done(&w->map);
    wire_step_done(&w->step);
    buf_done(&w->out);
    buf_done(&w->post);
    ep_close(w->ep);
    link_close(w->link);
    option_done(OPTIONS, &w->config);
}

int main(int argc, char **argv)
{
    struct worker w = {0};
    struct mt_err err = {0};
    int next, rc;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    buf_init(&w.out, WIRE_MAX_BODY + WIRE_HEADER_BYTES);
    buf_init(&w.post, WIRE_MAX_BODY + 1);
    rc = option_defaults(OPTIONS, &w.config, &err);
    if (!rc)
        rc = option_parse_args(OPTIONS, &w.config, argc, argv, &next, &err);
    if (!rc)
        rc = worker_run(&w, &argc, &argv, &err);
    if (rc) {
        if (w.link)
            link_say(w.link, WIRE_FAIL, rc, err.text);
        fprintf(stderr, "moetuner-worker: %s\n", err.text);
        _exit(1); /* no MPI_Finalize: the others may be waiting for us, and mpirun ends them */
    }
    worker_close(&w);
    return 0;
}
