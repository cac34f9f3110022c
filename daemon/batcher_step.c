/* The batcher's steps: what to run next, and what came back. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/batcher.h"
#include "daemon/batcher_impl.h"

/* The token after all known ones is in flight, and something may follow it: its home can go on with
 * it by itself. */
static bool sequence_may_run_last(const struct sequence *s)
{
    uint32_t known = s->spec.n_prompt + s->n_emitted;

    return s->sampling && s->fed == known + s->sampling - 1 &&
           s->n_emitted + s->sampling < s->spec.new_tokens;
}

static int flight_add(struct flight *f, const struct flight_run *run)
{
    struct flight_run *runs;
    uint32_t cap;

    if (f->n_runs == f->cap_runs) {
        cap = f->cap_runs ? f->cap_runs * 2 : 64;
        runs = realloc(f->runs, cap * sizeof(*runs));
        if (!runs)
            return MT_ENOMEM;
        f->runs = runs;
        f->cap_runs = cap;
    }
    f->runs[f->n_runs++] = *run;
    return 0;
}

/* How many tokens of s, which has something to run, fit a budget, its blocks, and the targets of
 * its prompt's logprobs: those that have been told already are not told again. */
static uint32_t chunk_tokens(struct batcher *b, struct sequence *s, uint32_t budget)
{
    uint32_t known = sequence_known(s), n = s->fed < known ? known - s->fed : 1, room;

    n = n < budget ? n : budget;
    if (s->told < s->spec.n_prompt && s->fed + 1 < s->told && n > s->told - 1 - s->fed)
        n = s->told - 1 - s->fed;
    home_grow(b, s, s->fed + n);
    room = s->n_blocks * b->shape.block_tokens - s->fed;
    return n < room ? n : room;
}

/* Fills the tokens and flags of a run of n tokens of s; notes what will be answered. */
static void plan_run(struct batcher *b, struct sequence *s, uint32_t n, struct wire_run *run,
                     struct flight_run *expect)
{
    uint32_t known = sequence_known(s), i, carried;

    *run = (struct wire_run){
        .seq = s->id, .pos = s->fed, .n_tokens = n, .n_logprobs = s->spec.n_logprobs};
    *expect = (struct flight_run){.seq = s};
    if (s->fed >= known) {
        run->flags = WIRE_RUN_LAST | WIRE_RUN_SAMPLE;
        expect->sample = true;
        return;
    }
    if (s->spec.new_tokens && s->fed + n == known)
        run->flags |= WIRE_RUN_SAMPLE;
    /* Prompt tokens whose logprob is asked for follow the chunk's own by one. */
    if (s->spec.prompt_logprobs && s->fed + 1 < s->spec.n_prompt && s->fed + 1 >= s->told) {
        run->flags |= WIRE_RUN_PROMPT_LOGPROBS;
        if (s->fed + n < s->spec.n_prompt)
            run->flags |= WIRE_RUN_NEXT;
        expect->prompt_at = s->fed + 1;
        expect->n_prompt = s->fed + n < s->spec.n_prompt ? n : s->spec.n_prompt - s->fed - 1;
    }
    carried = n + (run->flags & WIRE_RUN_NEXT ? 1 : 0);
    for (i = 0; i < carried; i++)
        b->scratch[i] = sequence_token(s, s->fed + i);
    expect->sample = run->flags & WIRE_RUN_SAMPLE;
    expect->answered = !expect->sample && !expect->n_prompt;
}

/* Puts one run of s into the step and moves s forward; no block for it, or no room: neither. */
static int run_sequence(struct batcher *b, struct sequence *s, uint32_t *budget,
                        struct wire_step *step)
{
    struct flight *f = &b->flights[b->step % WIRE_MAX_AHEAD];
    uint32_t first = s->admitted ? s->n_blocks : 0, n;
    struct flight_run expect;
    struct wire_run run;
    int rc = 0;

    if (step->n_blocks + batcher_blocks(b, s->spec.n_prompt + s->spec.new_tokens) >
        WIRE_MAX_STEP_BLOCKS)
        return 0; /* its table might not fit this frame */
    if (!s->admitted)
        home_begin(b, s);
    n = chunk_tokens(b, s, *budget);
    if (!n)
        return 0;
    plan_run(b, s, n, &run, &expect);
    run.n_blocks = s->n_blocks - first;
    if (!s->admitted)
        rc = wire_step_admit(step, &s->spec.sampling);
    if (!rc)
        rc = flight_add(f, &expect);
    if (!rc)
        rc = wire_step_run(step, s->home, &run, b->scratch, s->blocks + first);
    if (rc)
        return rc;
    s->admitted = true;
    s->step = b->step;
    s->run_at[b->step % WIRE_MAX_AHEAD] = f->n_runs - 1;
    s->fed += n;
    s->sampling += expect.sample ? 1 : 0;
    s->in_flight++;
    home_publish(b, s);
    *budget -= n;
    return 0;
}

/* Decoding sequences in turn: who has run goes to the end of the line, so that a budget smaller
 * than their number is shared by all of them. */
static int build_decodes(struct batcher *b, struct batcher_home *h, uint32_t *budget,
                         struct wire_step *step)
{
    uint32_t n = h->n_decode;
    struct sequence *s;
    int rc = 0;

    while (n-- && *budget && !rc && (s = TAILQ_FIRST(&h->decode))) {
        TAILQ_REMOVE(&h->decode, s, link);
        TAILQ_INSERT_TAIL(&h->decode, s, link);
        if (s->step != b->step && (s->fed < sequence_known(s) || sequence_may_run_last(s)))
            rc = run_sequence(b, s, budget, step);
    }
    return rc;
}

static void set_decoding(struct batcher_home *h, struct sequence *s)
{
    TAILQ_REMOVE(&h->prefill, s, link);
    TAILQ_INSERT_TAIL(&h->decode, s, link);
    s->state = SEQ_DECODE;
    h->n_decode++;
}

static int build_prefills(struct batcher *b, struct batcher_home *h, uint32_t *budget,
                          struct wire_step *step)
{
    struct sequence *s;
    int rc = 0;

    while ((s = TAILQ_FIRST(&h->prefill)) && *budget && !rc) {
        rc = run_sequence(b, s, budget, step);
        if (rc || s->fed < sequence_known(s))
            break; /* the budget is spent, or there is no block */
        set_decoding(h, s);
    }
    return rc;
}

/* Tells the homes which sequences have given up their seats since the last step. */
static int build_frees(struct batcher *b, struct wire_step *step)
{
    int rc = 0;

    while (b->n_frees && !rc)
        rc = wire_step_free_seq(step, b->frees[--b->n_frees]);
    return rc;
}

/* Part of a home's budget that decoding leaves to prefills: without it, a budget smaller than the
 * number of decoding sequences would keep those that are seated behind them waiting for ever. */
static uint32_t prefill_share(const struct batcher *b, const struct batcher_home *h)
{
    if (TAILQ_EMPTY(&h->prefill))
        return 0;
    if (h->max_tokens == 1)
        return b->step % 2;
    return h->max_tokens < 8 ? 1 : h->max_tokens / 8;
}

static int build_home(struct batcher *b, struct batcher_home *h, struct wire_step *step)
{
    uint32_t share = prefill_share(b, h), budget = h->max_tokens - share;
    int rc = build_decodes(b, h, &budget, step);

    budget += share;
    if (!rc)
        rc = build_prefills(b, h, &budget, step);
    if (!rc && share) /* what prefills have left over */
        rc = build_decodes(b, h, &budget, step);
    return rc;
}

int batcher_build(struct batcher *b, struct wire_step *step, bool *ret_built, struct mt_err *reterr)
{
    uint32_t r;
    int rc;

    if (!b->shape.ranks || b->unanswered == WIRE_MAX_AHEAD) {
        *ret_built = false;
        return 0;
    }
    home_seat(b);
    b->step++;
    b->flights[b->step % WIRE_MAX_AHEAD].n_runs = 0;
    rc = wire_step_begin(step, b->step, b->shape.epoch, b->shape.ranks);
    for (r = 0; r < b->shape.ranks && !rc; r++)
        rc = build_home(b, &b->homes[r], step);
    if (!rc && !step->n_runs) { /* frees alone can wait */
        b->step--;
        *ret_built = false;
        return 0;
    }
    if (!rc)
        rc = build_frees(b, step);
    if (rc)
        return mt_error(reterr, rc, "step %" PRIu64 " could not be built: %s", b->step,
                        mt_status_name(rc));
    b->unanswered++;
    *ret_built = true;
    return 0;
}

/* The run of the flight that this sample answers with what was asked for; NULL: none. */
static struct flight_run *match_sample(struct batcher *b, struct flight *f,
                                       const struct wire_result *result,
                                       const struct wire_sample *sample, struct mt_err *reterr)
{
    uint64_t step = result->step;
    struct sequence *s = sample->seq < b->cap_ids ? b->by_id[sample->seq] : NULL;
    uint32_t at = s ? s->run_at[step % WIRE_MAX_AHEAD] : 0, entries;
    struct flight_run *run;

    if (!s || at >= f->n_runs || f->runs[at].seq != s || f->runs[at].answered)
        goto unasked;
    run = &f->runs[at];
    if (sample->n_prompt != run->n_prompt || (sample->token >= 0) != run->sample)
        goto not_as_asked;
    entries = run->n_prompt + (run->sample && s->spec.n_logprobs >= 0 ? 1 : 0);
    if (sample->n_entries != entries || (entries && (int64_t)sample->n_top > s->spec.n_logprobs) ||
        (uint64_t)sample->logprob_at + (uint64_t)entries * (1 + (uint64_t)sample->n_top) >
            result->n_logprobs)
        goto not_as_asked;
    return run;
unasked:
    mt_error(reterr, MT_EPROTO,
             "result of step %" PRIu64 ": sequence %" PRIu32 " was not asked for an answer", step,
             sample->seq);
    return NULL;
not_as_asked:
    mt_error(reterr, MT_EPROTO,
             "result of step %" PRIu64 ", sequence %" PRIu32 ": expected %" PRIu32
             " prompt targets, %s token and logprobs of up to %" PRId32 " tokens, found %" PRIu32
             " targets, token %" PRId32 " and %" PRIu32 " logprob entries of %" PRIu32,
             step, sample->seq, run->n_prompt, run->sample ? "a" : "no", s->spec.n_logprobs,
             sample->n_prompt, sample->token, sample->n_entries, sample->n_top);
    return NULL;
}

static int sequence_emit(struct sequence *s, int32_t token)
{
    uint32_t cap;
    int32_t *emitted;

    if (s->n_emitted == s->cap_emitted) {
        cap = s->cap_emitted ? s->cap_emitted * 2 : 32;
        cap = cap < s->spec.new_tokens ? cap : s->spec.new_tokens;
        emitted = realloc(s->emitted, cap * sizeof(*emitted));
        if (!emitted)
            return MT_ENOMEM;
        s->emitted = emitted;
        s->cap_emitted = cap;
    }
    s->emitted[s->n_emitted++] = token;
    return 0;
}

static int take_sample(struct batcher *b, const struct flight_run *run,
                       const struct wire_result *result, const struct wire_sample *sample,
                       batcher_event_fn *event, void *user)
{
    const struct wire_logprob *entries =
        sample->n_entries ? result->logprobs + sample->logprob_at : NULL;
    struct sequence *s = run->seq;
    struct batcher_event e = {.seq = s,
                              .user = s->spec.user,
                              .token = -1,
                              .n_top = sample->n_top,
                              .cached_tokens = s->cached_tokens};
    int rc;

    if (s->state == SEQ_ENDED) {
        b->overrun_tokens += run->sample ? 1 : 0;
        return 0;
    }
    if (run->n_prompt) {
        e.prompt_at = run->prompt_at;
        e.n_prompt = run->n_prompt;
        e.prompt = entries;
    }
    if (run->sample) {
        s->sampling--;
        rc = sequence_emit(s, sample->token);
        if (rc)
            return rc;
        e.token = sample->token;
        if (s->spec.n_logprobs >= 0)
            e.logprob = entries + (size_t)run->n_prompt * (1 + (size_t)sample->n_top);
    }
    if (run->n_prompt)
        s->told = run->prompt_at + run->n_prompt;
    e.last = s->spec.new_tokens ? s->n_emitted == s->spec.new_tokens : s->told == s->spec.n_prompt;
    if (batcher_seated(s))
        home_publish(b, s);
    event(user, &e);
    return 0;
}

int batcher_take(struct batcher *b, const struct wire_result *result, batcher_event_fn *event,
                 void *user, struct mt_err *reterr)
{
    uint64_t step = b->step - b->unanswered + 1;
    struct flight *f = &b->flights[step % WIRE_MAX_AHEAD];
    struct flight_run *run;
    uint32_t i;
    int rc;

    if (!b->unanswered || result->step != step)
        return mt_error(reterr, MT_EPROTO, "a result of step %" PRIu64 ", expected step %" PRIu64,
                        result->step, b->unanswered ? step : 0);
    for (i = 0; i < result->n_samples; i++) {
        run = match_sample(b, f, result, &result->samples[i], reterr);
        if (!run)
            return MT_EPROTO;
        run->answered = true;
        rc = take_sample(b, run, result, &result->samples[i], event, user);
        if (rc)
            return mt_error(reterr, rc, "no memory for a sampled token");
    }
    for (i = 0; i < f->n_runs; i++) {
        if (!f->runs[i].answered)
            return mt_error(reterr, MT_EPROTO,
                            "result of step %" PRIu64 ": no answer for sequence %" PRIu32, step,
                            f->runs[i].seq->id);
    }
    b->unanswered--;
    for (i = 0; i < f->n_runs; i++) {
        f->runs[i].seq->in_flight--;
        sequence_retire(b, f->runs[i].seq);
    }
    return 0;
}
