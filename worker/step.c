#include "worker/step.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A row whose logits are wanted. */
struct want {
    uint32_t row; /* of this step */
    uint32_t run; /* of the step frame */
    bool sample;  /* its token becomes the sequence's last */
    bool logits;
};

struct step_runner {
    struct step_parts p;
    /* the rows of this rank, [max_tokens] each */
    int32_t *ids;
    uint32_t *pos, *table_at;
    uint32_t n_rows;
    uint32_t *tables; /* [cap_tables] block tables of this step's sequences */
    uint32_t n_tables, cap_tables;
    struct want *want;             /* [max_tokens] */
    struct sample_params *params;  /* [max_tokens] */
    struct sample_result *sampled; /* [max_tokens] */
    uint32_t n_want;
    struct wire_logprob *logprobs; /* of one run */
    struct wire_result mine, all, part;
    float *logits; /* [n][vocab] of the rows that are sent back raw */
    uint64_t n_logits, cap_logits;
    struct buf frame, gathered;
    uint64_t ended_us; /* of the step before */
};

static uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000;
}

int step_open(const struct step_parts *parts, struct step_runner **ret, struct mt_err *reterr)
{
    struct step_runner *s = calloc(1, sizeof *s);
    size_t n = parts->ep->shape.max_tokens;

    if (!s)
        return mt_error(reterr, MT_ENOMEM, "no memory for a step");
    s->p = *parts;
    buf_init(&s->frame, WIRE_MAX_BODY + WIRE_HEADER_BYTES);
    buf_init(&s->gathered, (size_t)parts->ep->ranks * WIRE_MAX_BODY);
    s->ids = malloc(n * sizeof *s->ids);
    s->pos = malloc(n * sizeof *s->pos);
    s->table_at = malloc(n * sizeof *s->table_at);
    s->want = malloc(n * sizeof *s->want);
    s->params = malloc(n * sizeof *s->params);
    s->sampled = malloc(n * sizeof *s->sampled);
    s->logprobs = malloc((n + 1) * (1 + WIRE_MAX_TOP_LOGPROBS) * sizeof *s->logprobs);
    if (!s->ids || !s->pos || !s->table_at || !s->want || !s->params || !s->sampled ||
        !s->logprobs) {
        step_close(s);
        return mt_error(reterr, MT_ENOMEM, "no memory for steps of %zu tokens", n);
    }
    *ret = s;
    return 0;
}

void step_close(struct step_runner *s)
{
    if (!s)
        return;
    free(s->ids);
    free(s->pos);
    free(s->table_at);
    free(s->tables);
    free(s->want);
    free(s->params);
    free(s->sampled);
    free(s->logprobs);
    free(s->logits);
    wire_result_done(&s->mine);
    wire_result_done(&s->all);
    wire_result_done(&s->part);
    buf_done(&s->frame);
    buf_done(&s->gathered);
    free(s);
}

/* --- rows ------------------------------------------------------------------------------------- */

static int tables_append(struct step_runner *s, const struct sequence *q, struct mt_err *reterr)
{
    uint32_t want = s->cap_tables ? s->cap_tables : 1024, *grown;

    if (s->n_tables + q->n_blocks > s->cap_tables) {
        while (want < s->n_tables + q->n_blocks)
            want *= 2;
        grown = realloc(s->tables, want * sizeof *grown);
        if (!grown)
            return mt_error(reterr, MT_ENOMEM, "no memory for %u block numbers", want);
        s->tables = grown;
        s->cap_tables = want;
    }
    memcpy(s->tables + s->n_tables, q->blocks, q->n_blocks * sizeof *q->blocks);
    s->n_tables += q->n_blocks;
    return 0;
}

static void want_add(struct step_runner *s, const struct wire_run *run, uint32_t run_at,
                     const struct sequence *q, uint32_t i, const int32_t *tokens)
{
    bool last = i + 1 == run->n_tokens;
    bool sample = last && (run->flags & WIRE_RUN_SAMPLE);
    bool target =
        (run->flags & WIRE_RUN_PROMPT_LOGPROBS) && (!last || (run->flags & WIRE_RUN_NEXT));
    bool logits = run->flags & WIRE_RUN_LOGITS;

    if (!sample && !target && !logits)
        return;
    s->want[s->n_want] = (struct want){
        .row = s->n_rows - run->n_tokens + i, .run = run_at, .sample = sample, .logits = logits};
    s->params[s->n_want++] = (struct sample_params){
        .temperature = q->admit.temperature,
        .top_p = q->admit.top_p,
        .min_p = q->admit.min_p,
        .top_k = q->admit.top_k,
        .seed = q->admit.seed,
        .choice = q->admit.choice,
        .position = run->pos + run->n_tokens,
        .forced = sample   ? -1
                  : target ? tokens[i + 1]
                           : 0,
        .n_logprobs = sample || target ? run->n_logprobs : -1,
    };
}

static int rows_add(struct step_runner *s, const struct wire_step *step, uint32_t run_at,
                    const struct sequence *q, struct mt_err *reterr)
{
    const struct wire_run *run = step->runs + run_at;
    const int32_t *tokens = step->tokens + run->token_at;

    if (run->n_tokens > s->p.ep->shape.max_tokens - s->n_rows)
        return mt_error(reterr, MT_EPROTO, "step %llu: over %u tokens on rank %u",
                        (unsigned long long)step->step, s->p.ep->shape.max_tokens, s->p.ep->rank);
    if ((run->flags & WIRE_RUN_SAMPLE) && (run->flags & WIRE_RUN_NEXT))
        return mt_error(reterr, MT_EPROTO, "run: sequence %u samples where its next token is given",
                        run->seq);
    for (uint32_t i = 0; i < run->n_tokens; i++) {
        s->ids[s->n_rows] = run->flags & WIRE_RUN_LAST ? q->last : tokens[i];
        s->pos[s->n_rows] = run->pos + i;
        s->table_at[s->n_rows++] = s->n_tables;
    }
    for (uint32_t i = 0; i < run->n_tokens; i++)
        want_add(s, run, run_at, q, i, tokens);
    return tables_append(s, q, reterr);
}

static int rows_build(struct step_runner *s, const struct wire_step *step, struct mt_err *reterr)
{
    s->n_rows = s->n_tables = s->n_want = 0;
    for (uint32_t i = 0; i < step->n_runs; i++) {
        const struct sequence *q = sequences_find(s->p.sequences, step->runs[i].seq);
        int rc = q ? rows_add(s, step, i, q, reterr) : 0;
        if (rc)
            return rc;
    }
    if (step->ranks != s->p.ep->ranks || step->rank_tokens[s->p.ep->rank] != s->n_rows)
        return mt_error(reterr, MT_EPROTO,
                        "step %llu: says %u tokens for rank %u of %u, its runs have %u",
                        (unsigned long long)step->step, step->rank_tokens[s->p.ep->rank],
                        s->p.ep->rank, step->ranks, s->n_rows);
    return 0;
}

/* --- samples ---------------------------------------------------------------------------------- */

static int logits_keep(struct step_runner *s, const float *row, struct mt_err *reterr)
{
    uint32_t vocab = s->p.model->config.vocab;

    if (s->n_logits + vocab > s->cap_logits) {
        uint64_t want = s->cap_logits ? 2 * s->cap_logits : 4 * (uint64_t)vocab;
        float *grown = want > WIRE_MAX_BODY ? NULL : realloc(s->logits, want * sizeof *grown);
        if (!grown)
            return mt_error(reterr, MT_ENOMEM,
                            "no room for another row of logits: ask for smaller chunks");
        s->logits = grown;
        s->cap_logits = want;
    }
    memcpy(s->logits + s->n_logits, row, vocab * sizeof *row);
    s->n_logits += vocab;
    return 0;
}

/* Logits and samples of all wanted rows. */
static int sample_all(struct step_runner *s, struct mt_err *reterr)
{
    uint32_t vocab = s->p.model->config.vocab, row[FORWARD_LOGIT_ROWS];

    s->n_logits = 0;
    for (uint32_t at = 0; at < s->n_want; at += FORWARD_LOGIT_ROWS) {
        uint32_t n = s->n_want - at < FORWARD_LOGIT_ROWS ? s->n_want - at : FORWARD_LOGIT_ROWS;
        const float *logits;

        for (uint32_t i = 0; i < n; i++)
            row[i] = s->want[at + i].row;
        logits = forward_logits(s->p.forward, row, n);
        s->p.k->op->sample(s->p.k, s->sampled + at, logits, s->params + at, n, vocab);
        for (uint32_t i = 0; i < n; i++) {
            int rc =
                s->want[at + i].logits ? logits_keep(s, logits + (size_t)i * vocab, reterr) : 0;
            if (rc)
                return rc;
        }
    }
    return 0;
}

/* One entry: the token, then the n_top best, among which it may be; the kernel gives the best
 * others. Ties go to the lowest id. */
static void entry_put(struct wire_logprob *out, const struct sample_result *r, uint32_t n_top)
{
    bool placed = false;
    uint32_t next = 0; /* of the others */

    out[0] = (struct wire_logprob){r->token, r->logprob};
    for (uint32_t i = 1; i <= n_top; i++) {
        if (!placed && (next == r->n_top || r->logprob > r->top_logprob[next] ||
                        (r->logprob == r->top_logprob[next] && r->token < r->top_token[next]))) {
            out[i] = out[0];
            placed = true;
        } else {
            out[i] = (struct wire_logprob){r->top_token[next], r->top_logprob[next]};
            next++;
        }
    }
}

/* Turns the wants of one run, want[at..end), into its sample. */
static int sample_report(struct step_runner *s, const struct wire_run *run, uint32_t at,
                         uint32_t end, uint64_t *logit_at, struct mt_err *reterr)
{
    uint32_t vocab = s->p.model->config.vocab;
    uint32_t most = run->n_logprobs > (int32_t)vocab
                        ? vocab
                        : (uint32_t)(run->n_logprobs < 0 ? 0 : run->n_logprobs);
    struct wire_sample sample = {.seq = run->seq, .token = -1, .n_top = most};
    uint64_t from = *logit_at;

    for (uint32_t i = at; i < end; i++) {
        const struct want *w = s->want + i;
        if (w->logits) {
            sample.logit_rows++;
            *logit_at += vocab;
        }
        if (s->params[i].n_logprobs >= 0) {
            entry_put(s->logprobs + (size_t)sample.n_entries * (1 + most), s->sampled + i, most);
            sample.n_entries++;
            sample.n_prompt += !w->sample;
        }
        if (w->sample) {
            sample.token = s->sampled[i].token;
            sequences_find(s->p.sequences, run->seq)->last = sample.token;
        }
    }
    if (wire_result_sample(&s->mine, &sample, s->logprobs, s->logits ? s->logits + from : NULL,
                           *logit_at - from))
        return mt_error(reterr, MT_ENOMEM, "no memory for the result of sequence %u", run->seq);
    return 0;
}

static int samples_report(struct step_runner *s, const struct wire_step *step,
                          struct mt_err *reterr)
{
    uint64_t logit_at = 0;

    for (uint32_t at = 0, end; at < s->n_want; at = end) {
        int rc;
        for (end = at + 1; end < s->n_want && s->want[end].run == s->want[at].run;)
            end++;
        rc = sample_report(s, step->runs + s->want[at].run, at, end, &logit_at, reterr);
        if (rc)
            return rc;
    }
    return 0;
}

/* --- gather ----------------------------------------------------------------------------------- */

static int result_merge(struct wire_result *all, const struct wire_result *part, uint32_t rank,
                        uint32_t vocab)
{
    all->times[rank] = part->times[rank];
    for (uint32_t i = 0; i < part->n_samples; i++) {
        const struct wire_sample *v = part->samples + i;
        int rc = wire_result_sample(all, v, part->logprobs + v->logprob_at,
                                    part->logits + v->logit_at, (uint64_t)v->logit_rows * vocab);
        if (rc)
            return rc;
    }
    return 0;
}

/* Rank 0: takes the gathered frames apart, in rank order. */
static int results_merge(struct step_runner *s, struct mt_err *reterr)
{
    uint32_t vocab = s->p.model->config.vocab;
    size_t at = 0;
    int rc = wire_result_begin(&s->all, s->mine.step, s->p.ep->ranks);

    if (!rc)
        rc = result_merge(&s->all, &s->mine, 0, vocab);
    for (uint32_t r = 1; r < s->p.ep->ranks && !rc; r++) {
        uint32_t len;
        memcpy(&len, s->gathered.data + at, sizeof len);
        at += sizeof len;
        rc = wire_get_result(s->gathered.data + at + WIRE_HEADER_BYTES, len - WIRE_HEADER_BYTES,
                             &s->part, reterr);
        if (rc)
            return rc;
        at += len;
        if (s->part.step != s->mine.step)
            return mt_error(reterr, MT_EPROTO, "rank %u answers step %llu, expected %llu", r,
                            (unsigned long long)s->part.step, (unsigned long long)s->mine.step);
        rc = result_merge(&s->all, &s->part, r, vocab);
    }
    return rc ? mt_error(reterr, rc, "no memory for the result of a step") : 0;
}

static int results_gather(struct step_runner *s, const struct wire_result **ret_result,
                          struct mt_err *reterr)
{
    int rc;

    *ret_result = NULL;
    buf_reset(&s->frame);
    buf_reset(&s->gathered);
    if (s->p.ep->rank && wire_put_result(&s->frame, 0, &s->mine))
        return mt_error(reterr, s->frame.status, "the result of a step does not fit a frame");
    rc = s->p.ep->op->gather(s->p.ep, &s->frame, &s->gathered, reterr);
    if (rc || s->p.ep->rank)
        return rc;
    rc = results_merge(s, reterr);
    if (!rc)
        *ret_result = &s->all;
    return rc;
}

int step_run(struct step_runner *s, const struct wire_step *step,
             const struct wire_result **ret_result, struct mt_err *reterr)
{
    struct kernel_rows rows = {.pos = s->pos, .table_at = s->table_at};
    uint64_t start = now_us(), wait_ns = 0;
    int rc;

    if (step->epoch != s->p.map->epoch) /* I2 */
        return mt_error(reterr, MT_EPROTO, "step %llu is of epoch %llu, the map in force of %llu",
                        (unsigned long long)step->step, (unsigned long long)step->epoch,
                        (unsigned long long)s->p.map->epoch);
    rc = sequences_apply(s->p.sequences, step, reterr);
    if (!rc)
        rc = rows_build(s, step, reterr);
    if (!rc)
        rc = s->p.ep->op->begin(s->p.ep, step->rank_tokens, reterr);
    if (rc)
        return rc;
    rows.n = s->n_rows;
    rows.tables = s->tables;
    rc = forward_run(s->p.forward, s->p.map, s->ids, &rows, &wait_ns, reterr);
    if (!rc)
        rc = sample_all(s, reterr);
    if (!rc && wire_result_begin(&s->mine, step->step, s->p.ep->ranks))
        rc = mt_error(reterr, MT_ENOMEM, "no memory for the result of a step");
    if (!rc)
        rc = samples_report(s, step, reterr);
    if (rc)
        return rc;
    s->mine.times[s->p.ep->rank] = (struct wire_rank_times){
        .step_us = (uint32_t)(now_us() - start),
        .wait_us = (uint32_t)(wait_ns / 1000),
        .gap_us = s->ended_us ? (uint32_t)(start - s->ended_us) : 0,
    };
    rc = results_gather(s, ret_result, reterr);
    s->ended_us = now_us();
    return rc;
}
