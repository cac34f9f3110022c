/* The operations of a forward pass, one table for every backend. The CPU backend is the
 * specification; a GPU backend supplies the same table with the same meaning, and is compared
 * with it.
 *
 * Contract for every operation:
 *  - Stream-ordered: operations of one `struct kernels` take effect in call order. On the CPU they
 *    are finished on return.
 *  - Called by one thread, the rank's main thread; they use the kernels' own threads inside.
 *    Not collective.
 *  - Arrays are row-major, in the backend's memory (op->alloc), and do not alias unless stated.
 *  - Activations are float32 on the CPU in both modes; fast mode rounds the inputs of dot products
 *    to bf16.
 *  - Sizes are the caller's responsibility (checked once at load, within struct kernels_limits);
 *    operations return nothing and cannot fail, except alloc. A backend with asynchronous errors
 *    reports them through op->sync.
 *  - NaN and infinity are data: they spread as IEEE says, and never crash an operation.
 *
 * Exact numerics (invariant I6). Weights as stored, everything else float32, rounded after every
 * operation, fused multiply-add where written fma.
 *  - dot(a, b, K): 16 partial sums, s[j] = fma(a[16i+j], b[16i+j], s[j]) for i ascending, starting
 *    at +0, K padded with zeros to a multiple of 16; then the tree  s[j] += s[j+8], j<8;
 *    s[j] += s[j+4], j<4;  s[j] += s[j+2], j<2;  s[0]+s[1].
 *  - sum(a, K): the same with s[j] += a[16i+j].
 *  - exp: one polynomial, the same on every instruction set (kernels/cpu/vec.h).
 *  - silu(x) = x / (1 + exp(-x)).
 *  - attention scores are sequential in the head dimension, the weighted sum of values sequential
 *    in the position.
 * No result depends on the number of rows in a call, on the threads, or on the instruction set. */
#ifndef MT_KERNELS_KERNELS_H
#define MT_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/status.h"

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16 };
enum numerics { NUMERICS_EXACT, NUMERICS_FAST };

#define KV_BLOCK_TOKENS 16
#define KERNELS_MAX_TOP_LOGPROBS 20
#define KERNELS_MAX_TOPK 32 /* experts of one token */
#define KERNELS_MAX_EXPERTS 1024
#define KERNELS_MAX_THREADS 256

static inline size_t dtype_size(enum dtype t)
{
    return t == DTYPE_F32 ? 4 : 2;
}

/* A weight matrix as stored: y = x W^T. */
struct weight {
    const void *data; /* [rows][cols], at least 2-byte aligned (mapped files) */
    enum dtype dtype;
    uint32_t rows; /* outputs */
    uint32_t cols; /* inputs */
};

/* Rotary embedding. cos/sin: [positions][dims/2] float32, made by the loader. */
struct rope {
    const float *cos, *sin;
    uint32_t dims;    /* rotated leading dims of a head, even, <= head_dim */
    bool interleaved; /* pairs (2i, 2i+1) instead of (i, i + dims/2) */
};

/* One layer's paged cache. Blocks of KV_BLOCK_TOKENS positions:
 *   k: [blocks][kv_heads][head_dim][KV_BLOCK_TOKENS]   (positions innermost: the scores of a block
 *                                                       are one vector)
 *   v: [blocks][kv_heads][KV_BLOCK_TOKENS][head_dim]
 * float32 in exact mode, bf16 in fast mode. */
struct kv_layer {
    void *k, *v;
    enum dtype dtype;
    uint32_t kv_heads, head_dim;
};

/* The rows of a step: row i is a token of sequence `seq[i]` at position `pos[i]`, whose KV blocks
 * are tables[table_at[i] + pos/KV_BLOCK_TOKENS]. Rows of one sequence are consecutive and ascend in
 * position; rows with equal table_at are of one sequence. */
struct kernel_rows {
    uint32_t n;
    const uint32_t *pos;      /* [n] */
    const uint32_t *table_at; /* [n] */
    const uint32_t *tables;
};

enum router_score { ROUTER_SOFTMAX, ROUTER_SIGMOID };

/* Top-k choice of experts; ties go to the lowest expert id; chosen experts in descending score
 * ("router order"). SOFTMAX: weights are softmax over all experts, then divided by the sum of the
 * chosen if renormalize. SIGMOID with bias and groups is DeepSeek-V3's: chosen by sigmoid + bias
 * inside the best groups (a group's score is the sum of its best two), weighted by sigmoid alone.
 * experts is a multiple of groups; topk <= experts / groups * topk_groups. */
struct router {
    enum router_score score;
    bool renormalize;
    uint32_t experts, topk;
    uint32_t groups, topk_groups; /* 1, 1: no groups */
    float scale;                  /* multiplies the weights */
    const float *bias;            /* [experts] or NULL */
};

/* A rank's expert slots: fixed stride, each slot packs gate [inter][hidden], up [inter][hidden],
 * down [hidden][inter], all of one dtype, in that order without gaps.
 * y = down( silu(gate x) * (up x) ). */
struct expert_pool {
    const void *base;
    size_t stride; /* bytes */
    enum dtype dtype;
    uint32_t slots, hidden, inter;
};

/* Sampling of one row at its home. Position is the sampled token's position in its sequence. */
struct sample_params {
    float temperature;  /* 0: greedy (argmax, lowest id) */
    float top_p, min_p; /* top_p >= 1 and min_p <= 0: off */
    int32_t top_k;      /* <= 0: off */
    uint64_t seed;
    uint32_t choice, position;
    int32_t forced;     /* >= 0: do not sample, report this token's logprobs (echoed prompts) */
    int32_t n_logprobs; /* -1: none; else this many best besides the token's own,
                         * <= KERNELS_MAX_TOP_LOGPROBS */
};

struct sample_result {
    int32_t token;
    float logprob; /* log softmax of the raw logits; 0 if n_logprobs is -1 */
    uint32_t n_top;
    int32_t top_token[KERNELS_MAX_TOP_LOGPROBS];
    float top_logprob[KERNELS_MAX_TOP_LOGPROBS];
};

struct kernels;

struct kernels_ops {
    /* 64-byte aligned memory of the backend, zero; NULL: out of memory. On the CPU the system gives
     * the pages of large blocks when they are first touched. free takes NULL. */
    void *(*alloc)(struct kernels *k, size_t bytes);
    void (*free)(struct kernels *k, void *memory, size_t bytes);

    /* out[n][cols] = table[ids[i]] */
    void (*embed)(struct kernels *k, float *out, const struct weight *table, const int32_t *ids,
                  uint32_t n);
    /* out[n][d] = (x * inv) * w, inv = 1 / sqrt(dot(x, x, d) / d + eps), all IEEE operations.
     * w: [d] of dtype `w_dtype`; out may be x. */
    void (*rmsnorm)(struct kernels *k, float *out, const float *x, const void *w,
                    enum dtype w_dtype, float eps, uint32_t n, uint32_t d);
    /* y[n][w.rows] = x[n][w.cols] W^T, each element dot(W row, x row); with add: y = y + dot. */
    void (*matmul)(struct kernels *k, float *y, const float *x, const struct weight *w, uint32_t n,
                   bool add);
    /* The same, without add, for m weights with equal cols: y[i][n][w[i]->rows], i < m. One go over
     * all of them costs less than m. */
    void (*matmuls)(struct kernels *k, float *const *y, const float *x,
                    const struct weight *const *w, uint32_t m, uint32_t n);
    /* Rotates in place x[n][heads][head_dim] (row stride `stride` floats) at positions pos[n]:
     * (a, b) becomes (a*cos - b*sin, b*cos + a*sin), each product rounded. */
    void (*rope)(struct kernels *k, float *x, size_t stride, const struct rope *rope,
                 const uint32_t *pos, uint32_t n, uint32_t heads, uint32_t head_dim);
    /* Writes keys and values [n][kv_heads][head_dim] (row stride in floats) into the cache at the
     * rows' positions. */
    void (*kv_write)(struct kernels *k, const struct kv_layer *kv, const float *key,
                     const float *value, size_t stride, const struct kernel_rows *rows);
    /* out[n][heads][head_dim] = softmax(q K^T * scale) V over positions 0 .. pos (or the last
     * `window` ones; 0: all). q: [n][heads][head_dim], row stride in floats. Query head h reads kv
     * head h / (heads / kv_heads).
     * s[p] = (q . K[p]) * scale, one fma per dim ascending from +0; w[p] = exp(s[p] - max s);
     * out[d] = (one fma per position ascending from +0: w[p] * V[p][d]) * (1 / sum(w)), where lane
     * j of the sum holds the positions p with p % 16 == j. */
    void (*attention)(struct kernels *k, float *out, const float *q, size_t stride,
                      const struct kv_layer *kv, const struct kernel_rows *rows, uint32_t heads,
                      float scale, uint32_t window);
    /* ids[n][topk], weights[n][topk] from logits[n][experts], in router order. */
    void (*route)(struct kernels *k, int32_t *ids, float *weights, const float *logits,
                  const struct router *router, uint32_t n);
    /* The experts of this rank. Pair p applies slot s (offsets[s] <= p < offsets[s+1]) to row
     * pair_row[p] of x[rows][hidden] and writes y[pair_out[p]][hidden]. offsets: [slots + 1].
     * pair_out values are distinct. */
    void (*experts)(struct kernels *k, float *y, const float *x, const struct expert_pool *pool,
                    const uint32_t *offsets, const uint32_t *pair_row, const uint32_t *pair_out);
    /* out[n][d] += sum over j ascending of weights[i][j] * y[i][j][d]: acc = 0;
     * acc = fma(w, y, acc); out = out + acc. */
    void (*combine)(struct kernels *k, float *out, const float *y, const float *weights, uint32_t n,
                    uint32_t topk, uint32_t d);
    /* out[n] from logits[n][vocab]. Candidates: temperature, then top-k, then top-p (the fewest
     * best whose probability reaches it), then min-p (relative to the best); ties at a border go to
     * the lowest ids. Drawn by inverse CDF in descending probability with Philox4x32-10 keyed by
     * (seed), counter (position, choice). A NaN logit counts as -infinity; if no logit is above
     * -infinity the token is the first -infinity, or 0. */
    void (*sample)(struct kernels *k, struct sample_result *out, const float *logits,
                   const struct sample_params *params, uint32_t n, uint32_t vocab);
    /* out[n][inter] = silu(gate) * up, gate_up: [n][gate inter, up inter]. (Dense and shared-expert
     * layers.) */
    void (*swiglu)(struct kernels *k, float *out, const float *gate_up, uint32_t n, uint32_t inter);
    /* Waits for all work; reports asynchronous errors. */
    int (*sync)(struct kernels *k, struct mt_err *reterr);
};

struct kernels {
    const struct kernels_ops *op;
    const char *backend; /* "cpu" */
    const char *isa;     /* "avx512", "avx2", "portable" */
    enum numerics numerics;
    unsigned threads;
};

/* Caps from which working memory is allocated at open, so that operations cannot fail; all > 0.
 * A call beyond them is the caller's bug. The rows, pairs and slots of a call have no cap (long
 * calls are done in passes). */
struct kernels_limits {
    uint32_t width;     /* most cols of a matmul, d of rmsnorm, hidden of experts, head_dim */
    uint32_t inter;     /* most inter of experts */
    uint32_t positions; /* most pos + 1 of attention */
    uint32_t vocab;     /* most vocab of sample */
};

struct kernels_options {
    const char *backend; /* "cpu" */
    const char *isa;     /* NULL: the best this processor has; else that one, or MT_EUNSUPPORTED
                          * with the list it has */
    enum numerics numerics;
    unsigned threads; /* 1 .. KERNELS_MAX_THREADS, this thread included */
    struct kernels_limits limits;
};

int kernels_open(const struct kernels_options *options, struct kernels **ret,
                 struct mt_err *reterr);
void kernels_close(struct kernels *k); /* NULL allowed */

/* The instruction sets that this processor can run, best first; NULL-terminated, static. */
const char *const *kernels_isas(void);

#endif
