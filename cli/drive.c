#include "cli/drive.h"

#include <stdlib.h>

#define STOP_GRACE_MS 3000

/* Free blocks of a rank, as a stack. */
struct pool {
    uint32_t *free; /* [n] valid */
    uint32_t n;
};

struct drive {
    struct drive_options options;
    struct job *job;
    struct wire_step step;
    uint64_t sent;
    uint32_t next_seq;
    struct pool *pools;                    /* [ranks] */
    struct drive_seq *seqs[WIRE_MAX_SEQS]; /* by id; NULL: free */
};

/* Waits for an event of that type; anything else but a log line is an error. */
static int await(struct drive *d, enum job_event_type type, struct mt_err *reterr)
{
    struct job_event e;

    for (;;) {
        job_next(d->job, -1, d->options.stop_fd, &e);
        if (e.type == type)
            return 0;
        if (e.type == JOB_LOG && d->options.log)
            d->options.log(d->options.user, e.err.status, e.err.text);
        if (e.type == JOB_NONE)
            return mt_error(reterr, MT_ECLOSED, "interrupted");
        if (e.type == JOB_DIED)
            return mt_error(reterr, e.err.status, "worker job: %s", e.err.text);
        if (e.type == JOB_READY || e.type == JOB_RESULT)
            return mt_error(reterr, MT_EPROTO, "worker job: an event out of turn");
    }
}

static int make_pools(struct drive *d, struct mt_err *reterr)
{
    uint32_t ranks = job_ranks(d->job);

    d->pools = calloc(ranks, sizeof *d->pools);
    for (uint32_t r = 0; d->pools && r < ranks; r++) {
        struct pool *p = &d->pools[r];
        uint32_t n = job_ready(d->job, r)->kv_blocks;

        p->free = malloc(((size_t)n + 1) * sizeof *p->free);
        if (!p->free)
            return mt_error(reterr, MT_ENOMEM, "no memory for %u block numbers", n);
        while (p->n < n) {
            p->free[p->n] = n - 1 - p->n;
            p->n++;
        }
    }
    return d->pools ? 0 : mt_error(reterr, MT_ENOMEM, "no memory for %u ranks", ranks);
}

int drive_open(const struct drive_options *options, struct drive **ret, struct mt_err *reterr)
{
    struct drive *d = calloc(1, sizeof *d);
    int rc;

    if (!d)
        return mt_error(reterr, MT_ENOMEM, "no memory for a job");
    d->options = *options;
    rc = job_new(&options->job, &d->job, reterr);
    if (!rc)
        rc = job_launch(d->job, reterr);
    if (!rc)
        rc = await(d, JOB_READY, reterr);
    if (!rc)
        rc = make_pools(d, reterr);
    if (rc)
        drive_close(d);
    else
        *ret = d;
    return rc;
}

void drive_close(struct drive *d)
{
    if (!d)
        return;
    for (uint32_t r = 0; d->pools && r < job_ranks(d->job); r++)
        free(d->pools[r].free);
    for (uint32_t i = 0; i < WIRE_MAX_SEQS; i++) {
        if (d->seqs[i])
            free(d->seqs[i]->blocks);
        free(d->seqs[i]);
    }
    free(d->pools);
    if (d->job)
        job_stop(d->job, STOP_GRACE_MS);
    job_free(d->job);
    wire_step_done(&d->step);
    free(d);
}

const struct job *drive_job(const struct drive *d)
{
    return d->job;
}

static int built(const struct drive *d, int rc, struct mt_err *reterr)
{
    if (!rc)
        return 0;
    return mt_error(reterr, rc, "step %llu: %s", (unsigned long long)d->sent + 1,
                    mt_status_name(rc));
}

int drive_begin(struct drive *d, struct mt_err *reterr)
{
    return built(d, wire_step_begin(&d->step, d->sent + 1, job_epoch(d->job), job_ranks(d->job)),
                 reterr);
}

int drive_admit(struct drive *d, uint32_t home, const struct wire_admit *how,
                struct drive_seq **ret, struct mt_err *reterr)
{
    struct wire_admit admit = *how;
    struct drive_seq *s;
    int rc;

    for (uint32_t tries = 0; d->seqs[d->next_seq]; d->next_seq = (d->next_seq + 1) % WIRE_MAX_SEQS)
        if (++tries >= WIRE_MAX_SEQS)
            return mt_error(reterr, MT_ELIMIT, "expected at most %d sequences", WIRE_MAX_SEQS);
    s = calloc(1, sizeof *s);
    if (!s)
        return mt_error(reterr, MT_ENOMEM, "no memory for a sequence");
    s->seq = admit.seq = d->next_seq;
    s->home = admit.home = home;
    rc = wire_step_admit(&d->step, &admit);
    if (rc) {
        free(s);
        return built(d, rc, reterr);
    }
    d->seqs[s->seq] = s;
    d->next_seq = (d->next_seq + 1) % WIRE_MAX_SEQS;
    *ret = s;
    return 0;
}

/* Gives s blocks for `tokens` tokens in all. */
static int take_blocks(struct drive *d, struct drive_seq *s, uint32_t tokens, struct mt_err *reterr)
{
    uint32_t each = job_ready(d->job, s->home)->block_tokens;
    uint32_t want = (tokens + each - 1) / each;
    struct pool *p = &d->pools[s->home];
    uint32_t *blocks;

    if (want <= s->n_blocks)
        return 0;
    if (want - s->n_blocks > p->n)
        return mt_error(reterr, MT_ELIMIT, "rank %u: expected %u free KV blocks, found %u", s->home,
                        want - s->n_blocks, p->n);
    blocks = realloc(s->blocks, want * sizeof *blocks);
    if (!blocks)
        return mt_error(reterr, MT_ENOMEM, "no memory for %u block numbers", want);
    s->blocks = blocks;
    while (s->n_blocks < want)
        s->blocks[s->n_blocks++] = p->free[--p->n];
    return 0;
}

int drive_run(struct drive *d, struct drive_seq *s, const int32_t *tokens, uint32_t n,
              uint32_t flags, struct mt_err *reterr)
{
    uint32_t had = s->n_blocks;
    struct wire_run run = {
        .seq = s->seq, .pos = s->pos, .n_tokens = n, .flags = flags, .n_logprobs = -1};
    int rc;

    if (!tokens) {
        run.flags |= WIRE_RUN_LAST;
        run.n_tokens = 1;
    }
    rc = take_blocks(d, s, s->pos + run.n_tokens, reterr);
    if (rc)
        return rc;
    run.n_blocks = s->n_blocks - had;
    rc = wire_step_run(&d->step, s->home, &run, tokens, s->blocks + had);
    if (!rc)
        s->pos += run.n_tokens;
    return built(d, rc, reterr);
}

int drive_end(struct drive *d, struct drive_seq *s, struct mt_err *reterr)
{
    struct pool *p = &d->pools[s->home];
    int rc = wire_step_free_seq(&d->step, s->seq);

    if (rc)
        return built(d, rc, reterr);
    while (s->n_blocks) /* whoever takes them does so in this step or later, after the free */
        p->free[p->n++] = s->blocks[--s->n_blocks];
    d->seqs[s->seq] = NULL;
    free(s->blocks);
    free(s);
    return 0;
}

int drive_send(struct drive *d, struct mt_err *reterr)
{
    int rc = job_send_step(d->job, &d->step, reterr);

    if (!rc)
        d->sent++;
    if (rc == MT_ECLOSED && job_running(d->job)) /* it is dying: why comes after its last answers */
        do
            rc = await(d, JOB_RESULT, reterr);
        while (!rc);
    return rc;
}

int drive_wait(struct drive *d, const struct wire_result **ret, struct mt_err *reterr)
{
    int rc = await(d, JOB_RESULT, reterr);

    if (!rc)
        *ret = job_result(d->job);
    return rc;
}

const struct wire_sample *drive_find(const struct wire_result *r, const struct drive_seq *s)
{
    for (uint32_t i = 0; i < r->n_samples; i++)
        if (r->samples[i].seq == s->seq)
            return &r->samples[i];
    return NULL;
}
