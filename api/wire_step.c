/* STEP and RESULT frames: their arrays, builders and encoding. */
#include <stdlib.h>

#include "api/wire.h"
#include "api/wire_codec.h"

int wire_reserve(void *array, uint32_t *cap, uint64_t n, size_t size, uint32_t max)
{
    void **at = array, *grown;
    uint64_t want = *cap ? *cap : 16;

    if (n > max)
        return MT_ELIMIT;
    if (n <= *cap)
        return 0;
    while (want < n)
        want *= 2;
    if (want > max)
        want = max;
    grown = realloc(*at, (size_t)want * size);
    if (!grown)
        return MT_ENOMEM;
    *at = grown;
    *cap = (uint32_t)want;
    return 0;
}

#define RESERVE(s, field, count, max) \
    wire_reserve(&(s)->field, &(s)->cap_##field, (count), sizeof *(s)->field, (max))

/* --- step ------------------------------------------------------------------------------------- */

static int step_reserve_ranks(struct wire_step *s, uint32_t ranks)
{
    return wire_reserve(&s->rank_tokens, &s->cap_ranks, ranks, sizeof *s->rank_tokens,
                        WIRE_MAX_RANKS);
}

int wire_step_begin(struct wire_step *s, uint64_t step, uint64_t epoch, uint32_t ranks)
{
    int rc = step_reserve_ranks(s, ranks);

    if (rc)
        return rc;
    s->step = step;
    s->epoch = epoch;
    s->ranks = ranks;
    memset(s->rank_tokens, 0, ranks * sizeof *s->rank_tokens);
    s->n_frees = s->n_admits = s->n_runs = s->n_tokens = s->n_blocks = 0;
    return 0;
}

int wire_step_free_seq(struct wire_step *s, uint32_t seq)
{
    int rc = RESERVE(s, frees, (uint64_t)s->n_frees + 1, WIRE_MAX_SEQS);

    if (!rc)
        s->frees[s->n_frees++] = seq;
    return rc;
}

int wire_step_admit(struct wire_step *s, const struct wire_admit *admit)
{
    int rc = RESERVE(s, admits, (uint64_t)s->n_admits + 1, WIRE_MAX_SEQS);

    if (!rc)
        s->admits[s->n_admits++] = *admit;
    return rc;
}

/* Tokens that a run carries in the frame. */
static uint32_t run_tokens(const struct wire_run *run)
{
    if (run->flags & WIRE_RUN_LAST)
        return 0;
    return run->n_tokens + (run->flags & WIRE_RUN_NEXT ? 1 : 0);
}

int wire_step_run(struct wire_step *s, uint32_t home, const struct wire_run *run,
                  const int32_t *tokens, const uint32_t *blocks)
{
    uint32_t n = run_tokens(run);
    int rc = RESERVE(s, runs, (uint64_t)s->n_runs + 1, WIRE_MAX_SEQS);

    if (!rc)
        rc = RESERVE(s, tokens, (uint64_t)s->n_tokens + n, WIRE_MAX_STEP_TOKENS);
    if (!rc)
        rc = RESERVE(s, blocks, (uint64_t)s->n_blocks + run->n_blocks, WIRE_MAX_STEP_BLOCKS);
    if (rc)
        return rc;
    s->runs[s->n_runs] = *run;
    s->runs[s->n_runs].token_at = s->n_tokens;
    s->runs[s->n_runs].block_at = s->n_blocks;
    if (n)
        memcpy(s->tokens + s->n_tokens, tokens, n * sizeof *tokens);
    if (run->n_blocks)
        memcpy(s->blocks + s->n_blocks, blocks, run->n_blocks * sizeof *blocks);
    s->n_runs++;
    s->n_tokens += n;
    s->n_blocks += run->n_blocks;
    s->rank_tokens[home] += run->n_tokens;
    return 0;
}

void wire_step_done(struct wire_step *s)
{
    if (!s)
        return;
    free(s->rank_tokens);
    free(s->frees);
    free(s->admits);
    free(s->runs);
    free(s->tokens);
    free(s->blocks);
    *s = (struct wire_step){0};
}

int wire_put_step(struct buf *out, uint64_t incarnation, const struct wire_step *v)
{
    size_t start = wire_begin(out, incarnation, WIRE_STEP);

    wire_w64(out, v->step);
    wire_w64(out, v->epoch);
    wire_w32(out, v->ranks);
    buf_append(out, v->rank_tokens, v->ranks * sizeof *v->rank_tokens);
    wire_w32(out, 0); /* reserved: copies, flip, masks, statistics */
    wire_w32(out, v->n_frees);
    buf_append(out, v->frees, v->n_frees * sizeof *v->frees);
    wire_w32(out, v->n_admits);
    for (uint32_t i = 0; i < v->n_admits; i++) {
        const struct wire_admit *a = v->admits + i;
        wire_w32(out, a->seq);
        wire_w32(out, a->home);
        wire_wf32(out, a->temperature);
        wire_wf32(out, a->top_p);
        wire_wf32(out, a->min_p);
        wire_w32(out, (uint32_t)a->top_k);
        wire_w64(out, a->seed);
        wire_w32(out, a->choice);
    }
    wire_w32(out, v->n_runs);
    for (uint32_t i = 0; i < v->n_runs; i++) {
        const struct wire_run *r = v->runs + i;
        wire_w32(out, r->seq);
        wire_w32(out, r->pos);
        wire_w32(out, r->n_tokens);
        wire_w32(out, r->flags);
        wire_w32(out, (uint32_t)r->n_logprobs);
        wire_w32(out, r->n_blocks);
    }
    wire_w32(out, v->n_tokens);
    buf_append(out, v->tokens, v->n_tokens * sizeof *v->tokens);
    wire_w32(out, v->n_blocks);
    buf_append(out, v->blocks, v->n_blocks * sizeof *v->blocks);
    return wire_end(out, start);
}

static void get_admit(struct wire_reader *r, struct wire_admit *a, uint32_t ranks)
{
    a->seq = wire_u32(r, WIRE_MAX_SEQS - 1, "admit.seq");
    a->home = wire_u32(r, ranks - 1, "admit.home");
    a->temperature = wire_f32(r, "admit.temperature");
    a->top_p = wire_f32(r, "admit.top_p");
    a->min_p = wire_f32(r, "admit.min_p");
    a->top_k = wire_i32(r, "admit.top_k");
    a->seed = wire_u64(r, "admit.seed");
    a->choice = wire_u32(r, UINT32_MAX, "admit.choice");
}

static void get_run(struct wire_reader *r, struct wire_run *v)
{
    const uint32_t known = WIRE_RUN_LAST | WIRE_RUN_SAMPLE | WIRE_RUN_PROMPT_LOGPROBS |
                           WIRE_RUN_NEXT | WIRE_RUN_LOGITS;

    v->seq = wire_u32(r, WIRE_MAX_SEQS - 1, "run.seq");
    v->pos = wire_u32(r, 1u << 24, "run.pos");
    v->n_tokens = wire_u32(r, WIRE_MAX_STEP_TOKENS, "run.n_tokens");
    v->flags = wire_u32(r, known, "run.flags");
    v->n_logprobs = wire_i32(r, "run.n_logprobs");
    v->n_blocks = wire_u32(r, WIRE_MAX_STEP_BLOCKS, "run.n_blocks");
    if (!r->bad && (v->flags & ~known))
        r->bad = "run.flags";
    if (!r->bad && (v->n_tokens < 1 || ((v->flags & WIRE_RUN_LAST) && v->n_tokens != 1)))
        r->bad = "run.n_tokens";
    if (!r->bad && (v->n_logprobs < -1 || v->n_logprobs > WIRE_MAX_TOP_LOGPROBS))
        r->bad = "run.n_logprobs";
}

/* Gives each run its place in tokens and blocks; the totals must agree. */
static void place_runs(struct wire_reader *r, struct wire_step *s)
{
    uint64_t tokens = 0, blocks = 0;

    for (uint32_t i = 0; i < s->n_runs; i++) {
        s->runs[i].token_at = (uint32_t)tokens;
        s->runs[i].block_at = (uint32_t)blocks;
        tokens += run_tokens(s->runs + i);
        blocks += s->runs[i].n_blocks;
        if (tokens > WIRE_MAX_STEP_TOKENS || blocks > WIRE_MAX_STEP_BLOCKS)
            break;
    }
    if (!r->bad && tokens != s->n_tokens)
        r->bad = "tokens";
    if (!r->bad && blocks != s->n_blocks)
        r->bad = "blocks";
}

/* Reads a count, makes room for that many elements, each at least `bytes` long in the frame. */
static int get_count(struct wire_reader *r, uint32_t *ret_n, void *array, uint32_t *cap,
                     size_t size, uint32_t max, size_t bytes, const char *field)
{
    uint32_t n = wire_u32(r, max, field);
    int rc;

    *ret_n = 0;
    if (!wire_fits(r, n, bytes, field))
        return 0;
    rc = wire_reserve(array, cap, n, size, max);
    if (!rc)
        *ret_n = n;
    return rc;
}

#define COUNT(r, s, n, field, max, bytes) \
    get_count(r, &(s)->n, &(s)->field, &(s)->cap_##field, sizeof *(s)->field, max, bytes, #field)

static int get_step_arrays(struct wire_reader *r, struct wire_step *s)
{
    int rc = COUNT(r, s, n_frees, frees, WIRE_MAX_SEQS, 4);

    if (rc)
        return rc;
    wire_take(r, s->frees, s->n_frees * sizeof *s->frees, "frees");
    for (uint32_t i = 0; i < s->n_frees && !r->bad; i++)
        if (s->frees[i] >= WIRE_MAX_SEQS)
            r->bad = "frees";
    rc = COUNT(r, s, n_admits, admits, WIRE_MAX_SEQS, 36);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < s->n_admits && !r->bad; i++)
        get_admit(r, s->admits + i, s->ranks);
    rc = COUNT(r, s, n_runs, runs, WIRE_MAX_SEQS, 24);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < s->n_runs && !r->bad; i++)
        get_run(r, s->runs + i);
    rc = COUNT(r, s, n_tokens, tokens, WIRE_MAX_STEP_TOKENS, 4);
    if (rc)
        return rc;
    wire_take(r, s->tokens, s->n_tokens * sizeof *s->tokens, "tokens");
    rc = COUNT(r, s, n_blocks, blocks, WIRE_MAX_STEP_BLOCKS, 4);
    if (rc)
        return rc;
    wire_take(r, s->blocks, s->n_blocks * sizeof *s->blocks, "blocks");
    if (!r->bad)
        place_runs(r, s);
    return 0;
}

int wire_get_step(const uint8_t *body, size_t len, struct wire_step *ret, struct mt_err *reterr)
{
    struct wire_reader r = {body, len, NULL};
    uint64_t step = wire_u64(&r, "step");
    uint64_t epoch = wire_u64(&r, "epoch");
    uint32_t ranks = wire_u32(&r, WIRE_MAX_RANKS, "ranks");
    int rc;

    if (!r.bad && !ranks)
        r.bad = "ranks";
    rc = r.bad ? 0 : wire_step_begin(ret, step, epoch, ranks);
    if (!rc && !r.bad) {
        wire_take(&r, ret->rank_tokens, ranks * sizeof *ret->rank_tokens, "rank_tokens");
        for (uint32_t i = 0; i < ranks && !r.bad; i++)
            if (ret->rank_tokens[i] > WIRE_MAX_STEP_TOKENS)
                r.bad = "rank_tokens";
        wire_u32(&r, 0, "reserved (expert copies, flip, masks, statistics)");
        if (!r.bad)
            rc = get_step_arrays(&r, ret);
    }
    if (rc)
        return mt_error(reterr, rc, "step frame: no memory for its %zu bytes", len);
    return wire_finish(&r, "step", reterr);
}

/* --- result ----------------------------------------------------------------------------------- */

static int result_reserve_logits(struct wire_result *r, uint64_t n)
{
    uint64_t want = r->cap_logits ? r->cap_logits : 1024;
    float *grown;

    if (n > WIRE_MAX_BODY / sizeof *r->logits)
        return MT_ELIMIT;
    if (n <= r->cap_logits)
        return 0;
    while (want < n)
        want *= 2;
    grown = realloc(r->logits, want * sizeof *grown);
    if (!grown)
        return MT_ENOMEM;
    r->logits = grown;
    r->cap_logits = want;
    return 0;
}

int wire_result_begin(struct wire_result *r, uint64_t step, uint32_t ranks)
{
    int rc = wire_reserve(&r->times, &r->cap_ranks, ranks, sizeof *r->times, WIRE_MAX_RANKS);

    if (rc)
        return rc;
    r->step = step;
    r->ranks = ranks;
    memset(r->times, 0, ranks * sizeof *r->times);
    r->n_samples = r->n_logprobs = 0;
    r->n_logits = 0;
    return 0;
}

int wire_result_sample(struct wire_result *r, const struct wire_sample *sample,
                       const struct wire_logprob *logprobs, const float *logits, uint64_t n_logits)
{
    uint64_t n = (uint64_t)sample->n_entries * (1 + sample->n_top);
    int rc = RESERVE(r, samples, (uint64_t)r->n_samples + 1, WIRE_MAX_SEQS);

    if (!rc)
        rc = RESERVE(r, logprobs, r->n_logprobs + n, WIRE_MAX_BODY / 8);
    if (!rc)
        rc = result_reserve_logits(r, r->n_logits + n_logits);
    if (rc)
        return rc;
    r->samples[r->n_samples] = *sample;
    r->samples[r->n_samples].logprob_at = r->n_logprobs;
    r->samples[r->n_samples].logit_at = r->n_logits;
    if (n)
        memcpy(r->logprobs + r->n_logprobs, logprobs, n * sizeof *logprobs);
    if (n_logits)
        memcpy(r->logits + r->n_logits, logits, n_logits * sizeof *logits);
    r->n_samples++;
    r->n_logprobs += (uint32_t)n;
    r->n_logits += n_logits;
    return 0;
}

void wire_result_done(struct wire_result *r)
{
    if (!r)
        return;
    free(r->times);
    free(r->samples);
    free(r->logprobs);
    free(r->logits);
    *r = (struct wire_result){0};
}

int wire_put_result(struct buf *out, uint64_t incarnation, const struct wire_result *v)
{
    size_t start = wire_begin(out, incarnation, WIRE_RESULT);

    wire_w64(out, v->step);
    wire_w32(out, v->ranks);
    buf_append(out, v->times, v->ranks * sizeof *v->times);
    wire_w32(out, v->n_samples);
    for (uint32_t i = 0; i < v->n_samples; i++) {
        const struct wire_sample *s = v->samples + i;
        wire_w32(out, s->seq);
        wire_w32(out, (uint32_t)s->token);
        wire_w32(out, s->n_prompt);
        wire_w32(out, s->n_entries);
        wire_w32(out, s->n_top);
        wire_w32(out, s->logprob_at);
        wire_w32(out, s->logit_rows);
        wire_w64(out, s->logit_at);
    }
    wire_w32(out, v->n_logprobs);
    buf_append(out, v->logprobs, v->n_logprobs * sizeof *v->logprobs);
    wire_w64(out, v->n_logits);
    buf_append(out, v->logits, v->n_logits * sizeof *v->logits);
    return wire_end(out, start);
}

static void get_sample(struct wire_reader *r, struct wire_sample *s)
{
    s->seq = wire_u32(r, WIRE_MAX_SEQS - 1, "sample.seq");
    s->token = wire_i32(r, "sample.token");
    s->n_prompt = wire_u32(r, WIRE_MAX_STEP_TOKENS, "sample.n_prompt");
    s->n_entries = wire_u32(r, s->n_prompt + 1, "sample.n_entries");
    s->n_top = wire_u32(r, WIRE_MAX_TOP_LOGPROBS, "sample.n_top");
    s->logprob_at = wire_u32(r, UINT32_MAX, "sample.logprob_at");
    s->logit_rows = wire_u32(r, WIRE_MAX_STEP_TOKENS, "sample.logit_rows");
    s->logit_at = wire_u64(r, "sample.logit_at");
}

static int get_result_arrays(struct wire_reader *r, struct wire_result *v)
{
    int rc = COUNT(r, v, n_samples, samples, WIRE_MAX_SEQS, 36);

    if (rc)
        return rc;
    for (uint32_t i = 0; i < v->n_samples && !r->bad; i++)
        get_sample(r, v->samples + i);
    rc = COUNT(r, v, n_logprobs, logprobs, WIRE_MAX_BODY / 8, 8);
    if (rc)
        return rc;
    wire_take(r, v->logprobs, v->n_logprobs * sizeof *v->logprobs, "logprobs");
    v->n_logits = wire_u64(r, "n_logits");
    if (!wire_fits(r, v->n_logits, sizeof *v->logits, "logits"))
        return 0;
    rc = result_reserve_logits(v, v->n_logits);
    if (rc)
        return rc;
    wire_take(r, v->logits, v->n_logits * sizeof *v->logits, "logits");
    for (uint32_t i = 0; i < v->n_samples && !r->bad; i++) {
        const struct wire_sample *s = v->samples + i;
        uint64_t end = s->logprob_at + (uint64_t)s->n_entries * (1 + s->n_top);
        if (end > v->n_logprobs || s->logit_at > v->n_logits ||
            (s->logit_rows && s->logit_at == v->n_logits))
            r->bad = "sample (outside its arrays)";
    }
    return 0;
}

int wire_get_result(const uint8_t *body, size_t len, struct wire_result *ret, struct mt_err *reterr)
{
    struct wire_reader r = {body, len, NULL};
    uint64_t step = wire_u64(&r, "step");
    uint32_t ranks = wire_u32(&r, WIRE_MAX_RANKS, "ranks");
    int rc;

    if (!r.bad && !ranks)
        r.bad = "ranks";
    rc = r.bad ? 0 : wire_result_begin(ret, step, ranks);
    if (!rc && !r.bad) {
        wire_take(&r, ret->times, ranks * sizeof *ret->times, "times");
        if (!r.bad)
            rc = get_result_arrays(&r, ret);
    }
    if (rc)
        return mt_error(reterr, rc, "result frame: no memory for its %zu bytes", len);
    return wire_finish(&r, "result", reterr);
}
