/* Frames between the daemon (or `moetuner eval`) and the ranks of a worker job.
 *
 * Pure encoding: bytes in, structs out, no I/O, no threads. Every integer is little-endian and
 * fixed-width. A decoder accepts any bytes: it returns MT_EPROTO with the field's name, never reads
 * outside the body, and bounds each allocation by the caps below.
 *
 * Order of a job's life:
 *
 *   rank   -> daemon  HELLO      each rank dials, proves the token, tells the model's facts
 *   daemon -> rank 0  MAP        the placement map in force (rank 0 broadcasts it)
 *   rank   -> daemon  READY      weights loaded, KV pool sized
 *   daemon -> rank 0  STEP       one forward pass; at most WIRE_MAX_AHEAD unanswered
 *   daemon -> rank    WAKE       a step follows; losing this hint costs latency, nothing else
 *   rank 0 -> daemon  RESULT     one for each STEP, in order
 *   rank   -> daemon  HEARTBEAT  every WIRE_HEARTBEAT_MS, also while the rank is stuck in MPI
 *   rank   -> daemon  LOG, FAIL  FAIL is a rank's last word
 *   daemon -> rank 0  SHUTDOWN
 *
 * A frame whose incarnation is not the receiver's is dropped. */
#ifndef MT_API_WIRE_H
#define MT_API_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/buf.h"
#include "api/status.h"

#define WIRE_MAGIC 0x3154574du /* "MTW1" */
#define WIRE_VERSION 1
#define WIRE_HEADER_BYTES 24
#define WIRE_MAX_BODY (256u << 20)
#define WIRE_MAX_AHEAD 2 /* steps sent and not answered */
#define WIRE_HEARTBEAT_MS 200
#define WIRE_TOKEN_BYTES 32

#define WIRE_MAX_RANKS 256
#define WIRE_MAX_LAYERS 256
#define WIRE_MAX_EXPERTS 1024
#define WIRE_MAX_SEQS 65536 /* live sequences, and runs in one step */
#define WIRE_MAX_STEP_TOKENS (1u << 20)
#define WIRE_MAX_STEP_BLOCKS (1u << 22)
#define WIRE_MAX_TOP_LOGPROBS 20
#define WIRE_MAX_EOS 16

enum wire_type {
    WIRE_HELLO = 1,
    WIRE_MAP,
    WIRE_READY,
    WIRE_STEP,
    WIRE_WAKE, /* empty body */
    WIRE_RESULT,
    WIRE_HEARTBEAT,
    WIRE_LOG,
    WIRE_FAIL,
    WIRE_SHUTDOWN, /* empty body */
};

struct wire_header {
    uint16_t type; /* enum wire_type */
    uint32_t body; /* bytes that follow the header, <= WIRE_MAX_BODY */
    uint64_t incarnation;
};

/* What config.json says, so that it is parsed in one place (the worker). */
struct wire_facts {
    char family[32];     /* "mixtral" */
    uint32_t layers;     /* decoder layers */
    uint32_t moe_layers; /* layers that the map speaks of */
    uint32_t experts;    /* routed experts in a MoE layer */
    uint32_t topk;
    uint32_t hidden;
    uint32_t vocab;
    uint32_t max_positions; /* longest sequence, tokens */
    int32_t bos;            /* -1: none */
    uint32_t n_eos;
    int32_t eos[WIRE_MAX_EOS];
    uint64_t dense_bytes;        /* weights that each rank holds */
    uint64_t expert_bytes;       /* one expert, packed */
    uint64_t kv_bytes_per_token; /* all layers */
};

struct wire_hello {
    uint32_t rank, ranks;
    int64_t pid;
    uint8_t token[WIRE_TOKEN_BYTES];
    struct wire_facts facts;
};

/* The placement map: copies in CSR form over (layer, expert), layer-major. ranks of a pair ascend,
 * the first listed one is the primary copy (so "ascend" holds from the second on). Slots are the
 * ranks' own affair for now. */
struct wire_map {
    uint64_t epoch;
    uint32_t layers, experts, ranks;
    uint32_t *start; /* [layers*experts + 1]; owned */
    uint16_t *rank;  /* [start[layers*experts]]; owned */
};

struct wire_ready {
    uint32_t rank;
    uint32_t kv_blocks;    /* blocks in this rank's pool, ids 0 .. kv_blocks-1 */
    uint32_t block_tokens; /* tokens in a block */
    uint32_t max_tokens;   /* most tokens that this rank takes in one step */
    uint32_t max_seqs;     /* most sequences it holds */
    uint32_t threads;
    uint32_t load_ms;
    uint64_t weight_bytes; /* dense and expert bytes held */
    char isa[16];          /* "avx512", "avx2", "portable", "sm_90" */
    char numerics[8];      /* "exact", "fast" */
};

/* A sequence appears on its home. temperature 0 is greedy; top_k 0 and top_p 1 are off. */
struct wire_admit {
    uint32_t seq; /* the daemon's id, < WIRE_MAX_SEQS, unused now */
    uint32_t home;
    float temperature, top_p, min_p;
    int32_t top_k;
    uint64_t seed;   /* Philox key; the daemon draws it where the request has none */
    uint32_t choice; /* which of the request's n */
};

enum wire_run_flags {
    WIRE_RUN_LAST = 1,   /* the one input token is the one this sequence sampled last; n_tokens is 1
                            and no token   is carried */
    WIRE_RUN_SAMPLE = 2, /* sample from the last token's logits */
    WIRE_RUN_PROMPT_LOGPROBS =
        4, /* logprob of each following prompt token (echo): tokens[i+1] given tokens[..i]; the
              chunk carries n_tokens+1 tokens where a next one is known (WIRE_RUN_NEXT) */
    WIRE_RUN_NEXT = 8, /* one more token follows the chunk's, only as a target of PROMPT_LOGPROBS */
    WIRE_RUN_LOGITS = 16, /* return every row of logits (eval and tests; never set by the daemon) */
};

/* n_tokens of one sequence, at positions pos .. pos+n_tokens-1. A sequence occurs at most once in a
 * step. Its block table must cover its last position after the delta is appended. */
struct wire_run {
    uint32_t seq;
    uint32_t pos;
    uint32_t n_tokens;
    uint32_t flags;     /* enum wire_run_flags */
    int32_t n_logprobs; /* -1 none; else logprob of the token and this many best (<=
                           WIRE_MAX_TOP_LOGPROBS) */
    uint32_t token_at;  /* first token in step.tokens */
    uint32_t block_at;  /* block-table delta: first in step.blocks */
    uint32_t n_blocks;
};

/* One step. Order of effects: frees, admits, runs. Arrays are owned and reused from step to step.
 * Reserved in the encoding and refused when present: expert copies, epoch flip, grammar masks,
 * statistics (later versions). */
struct wire_step {
    uint64_t step;  /* counts from 1 in an incarnation */
    uint64_t epoch; /* of the map under which it runs (I2) */
    uint32_t ranks;
    uint32_t
        *rank_tokens; /* [ranks] tokens homed there in this step: sizes every rank's exchange */
    uint32_t n_frees, n_admits, n_runs, n_tokens, n_blocks;
    uint32_t *frees;
    struct wire_admit *admits;
    struct wire_run *runs;
    int32_t *tokens;
    uint32_t *blocks;
    uint32_t cap_ranks, cap_frees, cap_admits, cap_runs, cap_tokens, cap_blocks; /* allocated */
};

struct wire_logprob {
    int32_t token;
    float logprob;
};

/* What one run gave. Logprob entries: first for each prompt target (PROMPT_LOGPROBS), then for the
 * sampled token; each is the token itself followed by n_top best tokens, best first, ties to the
 * lowest id. */
struct wire_sample {
    uint32_t seq;
    int32_t token;       /* sampled, or -1 */
    uint32_t n_prompt;   /* prompt targets reported */
    uint32_t n_entries;  /* n_prompt + (sampled and asked ? 1 : 0) */
    uint32_t n_top;      /* best tokens in each entry */
    uint32_t logprob_at; /* in result.logprobs; n_entries * (1 + n_top) of them */
    uint32_t logit_rows; /* rows of [vocab] */
    uint64_t logit_at;   /* in result.logits, floats */
};

struct wire_rank_times {
    uint32_t step_us; /* whole step on that rank */
    uint32_t wait_us; /* of it, waiting for other ranks */
    uint32_t gap_us;  /* between the step before and this one */
};

struct wire_result {
    uint64_t step;
    uint32_t ranks, n_samples, n_logprobs;
    uint64_t n_logits;
    struct wire_rank_times *times; /* [ranks] */
    struct wire_sample *samples; /* one for each run that samples or returns something, any order */
    struct wire_logprob *logprobs;
    float *logits;
    uint32_t cap_ranks, cap_samples, cap_logprobs;
    uint64_t cap_logits;
};

struct wire_heartbeat {
    uint32_t rank;
    uint64_t step;     /* last step finished */
    uint64_t progress; /* changes whenever the rank's main thread moves */
    uint64_t rss_bytes;
};

/* LOG and FAIL */
struct wire_text {
    uint32_t rank;
    int32_t level; /* LOG: enum log_level; FAIL: enum mt_status */
    char text[MT_ERR_TEXT];
};

/* Reads a header from WIRE_HEADER_BYTES bytes; refuses a wrong magic, version or length. */
int wire_get_header(const uint8_t bytes[WIRE_HEADER_BYTES], struct wire_header *ret,
                    struct mt_err *reterr);

/* Each put appends one whole frame to *out and returns 0 or out's error; values over the caps above
 * are MT_ELIMIT. */
int wire_put_empty(struct buf *out, uint64_t incarnation, enum wire_type type); /* WAKE, SHUTDOWN */
int wire_put_hello(struct buf *out, uint64_t incarnation, const struct wire_hello *v);
int wire_put_map(struct buf *out, uint64_t incarnation, const struct wire_map *v);
int wire_put_ready(struct buf *out, uint64_t incarnation, const struct wire_ready *v);
int wire_put_step(struct buf *out, uint64_t incarnation, const struct wire_step *v);
int wire_put_result(struct buf *out, uint64_t incarnation, const struct wire_result *v);
int wire_put_heartbeat(struct buf *out, uint64_t incarnation, const struct wire_heartbeat *v);
int wire_put_text(struct buf *out, uint64_t incarnation, enum wire_type type,
                  const struct wire_text *v);

/* Each get decodes a body of exactly len bytes. Structs with owned arrays must be zeroed before
 * their first use, are reused after, and end with their done function. */
int wire_get_hello(const uint8_t *body, size_t len, struct wire_hello *ret, struct mt_err *reterr);
int wire_get_map(const uint8_t *body, size_t len, struct wire_map *ret, struct mt_err *reterr);
int wire_get_ready(const uint8_t *body, size_t len, struct wire_ready *ret, struct mt_err *reterr);
int wire_get_step(const uint8_t *body, size_t len, struct wire_step *ret, struct mt_err *reterr);
int wire_get_result(const uint8_t *body, size_t len, struct wire_result *ret,
                    struct mt_err *reterr);
int wire_get_heartbeat(const uint8_t *body, size_t len, struct wire_heartbeat *ret,
                       struct mt_err *reterr);
int wire_get_text(const uint8_t *body, size_t len, struct wire_text *ret, struct mt_err *reterr);

/* Builders for a step: append to the arrays, growing them. All return 0, MT_ENOMEM or MT_ELIMIT.
 * wire_step_begin empties a step and zeroes rank_tokens; it keeps memory. */
int wire_step_begin(struct wire_step *s, uint64_t step, uint64_t epoch, uint32_t ranks);
int wire_step_free_seq(struct wire_step *s, uint32_t seq);
int wire_step_admit(struct wire_step *s, const struct wire_admit *admit);
/* Copies the run, its tokens (n_tokens, +1 with WIRE_RUN_NEXT, 0 with WIRE_RUN_LAST) and its block
 * delta; fills token_at and block_at; adds n_tokens to rank_tokens[home]. */
int wire_step_run(struct wire_step *s, uint32_t home, const struct wire_run *run,
                  const int32_t *tokens, const uint32_t *blocks);

/* Builders for a result, as for a step. top: [n_top] or NULL. */
int wire_result_begin(struct wire_result *r, uint64_t step, uint32_t ranks);
int wire_result_sample(struct wire_result *r, const struct wire_sample *sample,
                       const struct wire_logprob *logprobs, const float *logits, uint64_t n_logits);

void wire_map_done(struct wire_map *m);
void wire_step_done(struct wire_step *s);
void wire_result_done(struct wire_result *r);

#endif
