#include "worker/sequences.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

int sequences_open(struct sequences *s, uint32_t rank, uint32_t max, uint32_t pool_blocks,
                   uint32_t max_positions, uint32_t vocab, struct mt_err *reterr)
{
    *s = (struct sequences){.rank = rank,
                            .max = max,
                            .pool_blocks = pool_blocks,
                            .max_positions = max_positions,
                            .vocab = vocab};
    s->at = calloc(WIRE_MAX_SEQS, sizeof *s->at);
    if (!s->at)
        return mt_error(reterr, MT_ENOMEM, "no memory for the table of sequences");
    return 0;
}

static void sequence_free(struct sequences *s, uint32_t seq)
{
    struct sequence *q = s->at[seq];

    if (!q)
        return;
    free(q->blocks);
    free(q);
    s->at[seq] = NULL;
    s->n--;
}

void sequences_close(struct sequences *s)
{
    if (!s || !s->at)
        return;
    for (uint32_t i = 0; i < WIRE_MAX_SEQS; i++)
        sequence_free(s, i);
    free(s->at);
    s->at = NULL;
}

struct sequence *sequences_find(const struct sequences *s, uint32_t seq)
{
    return s->at[seq];
}

static int sequence_admit(struct sequences *s, const struct wire_admit *admit,
                          struct mt_err *reterr)
{
    struct sequence *q;

    if (admit->home != s->rank)
        return 0;
    if (s->at[admit->seq])
        return mt_error(reterr, MT_EPROTO, "admit: sequence %u lives already", admit->seq);
    if (s->n == s->max)
        return mt_error(reterr, MT_EPROTO, "admit: rank %u holds its %u sequences already", s->rank,
                        s->max);
    if (!(admit->temperature >= 0) || isinf(admit->temperature) || !(admit->top_p > 0) ||
        !(admit->min_p >= 0))
        return mt_error(reterr, MT_EPROTO,
                        "admit: sequence %u has temperature %g, top_p %g, min_p %g", admit->seq,
                        (double)admit->temperature, (double)admit->top_p, (double)admit->min_p);
    q = calloc(1, sizeof *q);
    if (!q)
        return mt_error(reterr, MT_ENOMEM, "no memory for sequence %u", admit->seq);
    q->admit = *admit;
    q->last = -1;
    s->at[admit->seq] = q;
    s->n++;
    return 0;
}

static int sequence_extend(const struct sequences *s, struct sequence *q, const uint32_t *blocks,
                           uint32_t n, struct mt_err *reterr)
{
    uint32_t want = q->cap_blocks ? q->cap_blocks : 16, *grown;

    for (uint32_t i = 0; i < n; i++)
        if (blocks[i] >= s->pool_blocks)
            return mt_error(reterr, MT_EPROTO, "sequence %u: block %u, the pool has %u",
                            q->admit.seq, blocks[i], s->pool_blocks);
    if (n > s->pool_blocks - q->n_blocks)
        return mt_error(reterr, MT_EPROTO, "sequence %u: more blocks than the pool has",
                        q->admit.seq);
    if (q->n_blocks + n > q->cap_blocks) {
        while (want < q->n_blocks + n)
            want *= 2;
        grown = realloc(q->blocks, want * sizeof *grown);
        if (!grown)
            return mt_error(reterr, MT_ENOMEM, "no memory for %u blocks", want);
        q->blocks = grown;
        q->cap_blocks = want;
    }
    if (n)
        memcpy(q->blocks + q->n_blocks, blocks, n * sizeof *blocks);
    q->n_blocks += n;
    return 0;
}

static int run_check(const struct sequences *s, const struct sequence *q,
                     const struct wire_run *run, const int32_t *tokens, struct mt_err *reterr)
{
    uint64_t end = (uint64_t)run->pos + run->n_tokens;
    uint32_t n = run->n_tokens + (run->flags & WIRE_RUN_NEXT ? 1 : 0);

    if (end > s->max_positions || end > (uint64_t)q->n_blocks * KV_BLOCK_TOKENS)
        return mt_error(reterr, MT_EPROTO,
                        "run: sequence %u ends at position %llu, its %u blocks and the model's %u "
                        "positions do not reach it",
                        run->seq, (unsigned long long)end, q->n_blocks, s->max_positions);
    if (run->flags & WIRE_RUN_LAST)
        return q->last >= 0 ? 0
                            : mt_error(reterr, MT_EPROTO,
                                       "run: sequence %u has sampled nothing yet", run->seq);
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= s->vocab)
            return mt_error(reterr, MT_EPROTO, "run: sequence %u has token %d, the vocabulary %u",
                            run->seq, tokens[i], s->vocab);
    return 0;
}

int sequences_apply(struct sequences *s, const struct wire_step *step, struct mt_err *reterr)
{
    int rc = 0;

    for (uint32_t i = 0; i < step->n_frees; i++)
        sequence_free(s, step->frees[i]);
    for (uint32_t i = 0; i < step->n_admits && !rc; i++)
        rc = sequence_admit(s, step->admits + i, reterr);
    for (uint32_t i = 0; i < step->n_runs && !rc; i++) {
        const struct wire_run *run = step->runs + i;
        struct sequence *q = s->at[run->seq];

        if (!q)
            continue;
        rc = sequence_extend(s, q, step->blocks + run->block_at, run->n_blocks, reterr);
        if (!rc)
            rc = run_check(s, q, run, step->tokens + run->token_at, reterr);
    }
    return rc;
}
