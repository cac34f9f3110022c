#include "fake_ranks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct fake_seq {
    bool live;
    struct wire_admit admit;
    uint32_t *blocks, n_blocks;
    uint32_t fed;
    int32_t sampled; /* -1: nothing yet */
    uint32_t fed_at_sample;
    uint64_t step; /* last run in */
    bool decoding;
};

struct fake_ranks {
    struct batcher_shape shape;
    uint64_t step;
    int32_t **kv;          /* [rank][block * block_tokens] */
    uint32_t **holders;    /* [rank][block] sequences that have it in their table */
    uint32_t *seats;       /* [rank] */
    struct fake_seq *seqs; /* [FAKE_SEQS] */
    struct wire_result results[WIRE_MAX_AHEAD];
    uint64_t answered;
    int32_t *history; /* [max_positions + 1] */
};

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

static uint64_t hash_tokens(uint64_t seed, uint32_t choice, const int32_t *tokens, uint32_t n)
{
    uint64_t h = mix(mix(0x1234567, seed), choice);
    uint32_t i;

    for (i = 0; i < n; i++)
        h = mix(h, (uint64_t)tokens[i]);
    return h;
}

int32_t ranks_next(uint64_t seed, uint32_t choice, const int32_t *tokens, uint32_t n)
{
    return (int32_t)(hash_tokens(seed, choice, tokens, n) % FAKE_VOCAB);
}

float ranks_logprob(uint64_t seed, uint32_t choice, const int32_t *tokens, uint32_t n,
                    int32_t token)
{
    return -(float)(mix(hash_tokens(seed, choice, tokens, n), (uint64_t)token) % 1000) / 100;
}

struct fake_ranks *fake_ranks_new(const struct batcher_shape *shape)
{
    struct fake_ranks *f = calloc(1, sizeof(*f));
    uint32_t r;

    assert_non_null(f);
    f->shape = *shape;
    f->kv = calloc(shape->ranks, sizeof(*f->kv));
    f->holders = calloc(shape->ranks, sizeof(*f->holders));
    f->seats = calloc(shape->ranks, sizeof(*f->seats));
    f->seqs = calloc(FAKE_SEQS, sizeof(*f->seqs));
    f->history = calloc(shape->max_positions + 1, sizeof(*f->history));
    assert_true(f->kv && f->holders && f->seats && f->seqs && f->history);
    for (r = 0; r < shape->ranks; r++) {
        f->kv[r] = calloc((size_t)shape->rank[r].kv_blocks * shape->block_tokens, sizeof(**f->kv));
        f->holders[r] = calloc(shape->rank[r].kv_blocks, sizeof(**f->holders));
        assert_true(f->kv[r] && f->holders[r]);
    }
    return f;
}

void fake_ranks_free(struct fake_ranks *f)
{
    uint32_t r, i;

    for (r = 0; r < f->shape.ranks; r++) {
        free(f->kv[r]);
        free(f->holders[r]);
    }
    for (i = 0; i < FAKE_SEQS; i++)
        free(f->seqs[i].blocks);
    for (i = 0; i < WIRE_MAX_AHEAD; i++)
        wire_result_done(&f->results[i]);
    free(f->kv);
    free(f->holders);
    free(f->seats);
    free(f->seqs);
    free(f->history);
    free(f);
}

static void do_free(struct fake_ranks *f, uint32_t id)
{
    struct fake_seq *s = &f->seqs[id];
    uint32_t i;

    assert_true(s->live);
    for (i = 0; i < s->n_blocks; i++)
        f->holders[s->admit.home][s->blocks[i]]--;
    f->seats[s->admit.home]--;
    free(s->blocks);
    memset(s, 0, sizeof(*s));
}

static void do_admit(struct fake_ranks *f, const struct wire_admit *a)
{
    struct fake_seq *s;

    assert_in_range(a->seq, 0, FAKE_SEQS - 1);
    assert_in_range(a->home, 0, f->shape.ranks - 1);
    s = &f->seqs[a->seq];
    assert_false(s->live);
    *s = (struct fake_seq){.live = true, .admit = *a, .sampled = -1};
    s->blocks = calloc(f->shape.rank[a->home].kv_blocks, sizeof(*s->blocks));
    assert_non_null(s->blocks);
    f->seats[a->home]++;
    assert_in_range(f->seats[a->home], 1, f->shape.rank[a->home].max_seqs);
}

static int32_t *kv_at(struct fake_ranks *f, const struct fake_seq *s, uint32_t pos)
{
    uint32_t bt = f->shape.block_tokens;

    return &f->kv[s->admit.home][(size_t)s->blocks[pos / bt] * bt + pos % bt];
}

/* The chunk's tokens go into the KV memory; gathers the whole history back out of it. */
static void feed(struct fake_ranks *f, struct fake_seq *s, const struct wire_step *step,
                 const struct wire_run *run)
{
    int32_t token;
    uint32_t i;

    for (i = 0; i < run->n_blocks; i++) {
        uint32_t block = step->blocks[run->block_at + i];

        assert_true(block < f->shape.rank[s->admit.home].kv_blocks);
        f->holders[s->admit.home][block]++;
        s->blocks[s->n_blocks++] = block;
    }
    assert_true(run->n_tokens > 0);
    if (!s->fed) /* what comes before has been fed by others */
        s->fed = run->pos;
    assert_int_equal(run->pos, s->fed);
    assert_true(run->pos + run->n_tokens <= f->shape.max_positions);
    assert_true((uint64_t)s->n_blocks * f->shape.block_tokens >= run->pos + run->n_tokens);
    for (i = 0; i < run->n_tokens; i++) {
        token = run->flags & WIRE_RUN_LAST ? s->sampled : step->tokens[run->token_at + i];
        assert_in_range(token, 0, FAKE_VOCAB - 1);
        if (s->sampled >= 0 && i == 0 && s->fed == s->fed_at_sample)
            assert_int_equal(token, s->sampled);
        assert_int_equal(f->holders[s->admit.home][s->blocks[s->fed / f->shape.block_tokens]], 1);
        *kv_at(f, s, s->fed++) = token;
    }
    for (i = 0; i < s->fed; i++)
        f->history[i] = *kv_at(f, s, i);
}

static void put_entry(const struct fake_seq *s, const int32_t *history, uint32_t n, int32_t token,
                      uint32_t n_top, struct wire_logprob *out)
{
    uint32_t i;

    out[0] = (struct wire_logprob){
        token, ranks_logprob(s->admit.seed, s->admit.choice, history, n, token)};
    for (i = 0; i < n_top; i++)
        out[1 + i] = (struct wire_logprob){
            (int32_t)i, ranks_logprob(s->admit.seed, s->admit.choice, history, n, (int32_t)i)};
}

static void do_run(struct fake_ranks *f, const struct wire_step *step, const struct wire_run *run,
                   struct wire_result *result)
{
    struct fake_seq *s = &f->seqs[run->seq];
    struct wire_sample sample = {.seq = run->seq, .token = -1};
    struct wire_logprob *logprobs;
    uint32_t i, width;

    assert_true(s->live);
    assert_true(s->step < step->step); /* once in a step */
    s->step = step->step;
    if (run->flags & WIRE_RUN_LAST) {
        assert_int_equal(run->n_tokens, 1);
        assert_true(s->sampled >= 0);
        assert_int_equal(s->fed, s->fed_at_sample);
    }
    feed(f, s, step, run);
    sample.n_top = run->n_logprobs > 0 ? (uint32_t)run->n_logprobs : 0;
    width = 1 + sample.n_top;
    logprobs = calloc((run->n_tokens + 1) * width, sizeof(*logprobs));
    assert_non_null(logprobs);
    if (run->flags & WIRE_RUN_PROMPT_LOGPROBS) {
        assert_true(run->n_logprobs >= 0);
        sample.n_prompt = run->n_tokens - (run->flags & WIRE_RUN_NEXT ? 0 : 1);
        if (run->flags & WIRE_RUN_NEXT)
            f->history[s->fed] = step->tokens[run->token_at + run->n_tokens];
        for (i = 0; i < sample.n_prompt; i++)
            put_entry(s, f->history, run->pos + i + 1, f->history[run->pos + i + 1], sample.n_top,
                      logprobs + i * width);
    }
    sample.n_entries = sample.n_prompt;
    if (run->flags & WIRE_RUN_SAMPLE) {
        sample.token = ranks_next(s->admit.seed, s->admit.choice, f->history, s->fed);
        s->sampled = sample.token;
        s->fed_at_sample = s->fed;
        if (run->n_logprobs >= 0)
            put_entry(s, f->history, s->fed, sample.token, sample.n_top,
                      logprobs + sample.n_entries++ * width);
    }
    if (sample.token >= 0 || sample.n_prompt)
        assert_int_equal(wire_result_sample(result, &sample, logprobs, NULL, 0), 0);
    free(logprobs);
}

void fake_ranks_step(struct fake_ranks *f, const struct wire_step *step)
{
    struct wire_result *result = &f->results[step->step % WIRE_MAX_AHEAD];
    uint32_t tokens[WIRE_MAX_RANKS] = {0}, i;

    assert_int_equal(step->step, f->step + 1);
    assert_true(step->step - f->answered <= WIRE_MAX_AHEAD);
    assert_int_equal(step->epoch, f->shape.epoch);
    assert_int_equal(step->ranks, f->shape.ranks);
    assert_true(step->n_runs > 0);
    f->step++;
    for (i = 0; i < step->n_frees; i++)
        do_free(f, step->frees[i]);
    for (i = 0; i < step->n_admits; i++)
        do_admit(f, &step->admits[i]);
    assert_int_equal(wire_result_begin(result, step->step, step->ranks), 0);
    for (i = 0; i < step->n_runs; i++) {
        do_run(f, step, &step->runs[i], result);
        tokens[f->seqs[step->runs[i].seq].admit.home] += step->runs[i].n_tokens;
    }
    for (i = 0; i < step->ranks; i++) {
        assert_int_equal(step->rank_tokens[i], tokens[i]);
        assert_true(tokens[i] <= f->shape.rank[i].max_tokens);
    }
}

const struct wire_result *fake_ranks_answer(struct fake_ranks *f)
{
    assert_true(f->answered < f->step);
    f->answered++;
    return &f->results[f->answered % WIRE_MAX_AHEAD];
}
