/* Attention over a paged cache, by batches of up to ATTENTION_QUERIES queries that read the same
 * kv head of the same sequence: the heads of a group, and in a prefill neighbouring rows. A batch
 * computes all its scores (a block of 16 positions is one vector), then each query's softmax, then
 * the weighted sums. What a query computes does not depend on its batch: positions that are not its
 * own are scored for its neighbours' sake, and dropped. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

/* Vectors in flight: eight registers' worth hide the latency of an fma. */
#if defined KERNELS_ISA_avx512
#define ACCUMULATORS 8
#elif defined KERNELS_ISA_avx2
#define ACCUMULATORS 4
#else
#define ACCUMULATORS 1
#endif

#define STAY_POSITIONS 128 /* keys or values of so many positions are gone through together */

struct attention {
    struct cpu_kernels *k;
    float *out;
    const float *q;
    size_t stride;
    const struct kv_layer *kv;
    const struct kernel_rows *rows;
    uint32_t heads, group; /* query heads, of one kv head */
    float scale;
    uint32_t window;
    uint32_t batch_rows; /* rows of an item */
};

struct query {
    const float *q; /* [head_dim], in fast mode rounded */
    float *out, *scores, *mix;
    uint32_t first, last; /* positions it attends to */
};

struct batch {
    const struct kv_layer *kv;
    const uint32_t *table;
    uint32_t head;  /* kv head */
    uint32_t begin; /* the block where scores start */
    uint32_t end;   /* one past the last block */
    uint32_t n;
    struct query query[ATTENTION_QUERIES];
};

/* Element index of (block, this kv head), in k as in v. */
INLINE size_t block_at(const struct batch *b, uint32_t block)
{
    return ((size_t)b->table[block] * b->kv->kv_heads + b->head) * b->kv->head_dim *
           KV_BLOCK_TOKENS;
}

/* --- scores ----------------------------------------------------------------------------------- */

/* Q queries against B blocks from `block`. A head's share of a block is short and the next one lies
 * elsewhere, which the processor does not guess: the next B are asked for on the way, unless they
 * are so many that they are long in coming anyway (one query). */
INLINE void score_tile(const struct batch *b, uint32_t query, uint32_t block, float scale,
                       enum dtype dtype, uint32_t Q, uint32_t B)
{
    size_t at[ACCUMULATORS], next[ACCUMULATORS];
    v16 sum[ACCUMULATORS][ACCUMULATORS];

    UNROLL
    for (uint32_t j = 0; j < B; j++) {
        at[j] = block_at(b, block + j);
        next[j] = block + B + j < b->end ? block_at(b, block + B + j) : at[j];
        UNROLL
        for (uint32_t i = 0; i < Q; i++)
            sum[i][j] = v16_zero();
    }
    for (uint32_t d = 0; d < b->kv->head_dim; d++) {
        UNROLL
        for (uint32_t j = 0; j < B; j++) {
            v16 key = v16_load_as(b->kv->k, at[j] + (size_t)d * KV_BLOCK_TOKENS, dtype);

            if (Q > 1 && (dtype == DTYPE_F32 || d % 2 == 0))
                __builtin_prefetch((const char *)b->kv->k +
                                   (next[j] + (size_t)d * KV_BLOCK_TOKENS) * dtype_size(dtype));

            UNROLL
            for (uint32_t i = 0; i < Q; i++)
                sum[i][j] = v16_fma(v16_set1(b->query[query + i].q[d]), key, sum[i][j]);
        }
    }
    UNROLL
    for (uint32_t i = 0; i < Q; i++) {
        float *scores = b->query[query + i].scores + (size_t)(block - b->begin) * V16_LANES;

        UNROLL
        for (uint32_t j = 0; j < B; j++)
            v16_store(scores + j * V16_LANES, v16_mul(sum[i][j], v16_set1(scale)));
    }
}

/* Q queries against blocks block .. end - 1, B at a time. */
INLINE void score_queries(const struct batch *b, uint32_t query, uint32_t block, uint32_t end,
                          float scale, enum dtype dtype, uint32_t Q, uint32_t B)
{
    for (; B > 1 && block + B <= end; block += B)
        score_tile(b, query, block, scale, dtype, Q, B);
    for (; block < end; block++)
        score_tile(b, query, block, scale, dtype, Q, 1);
}

/* All queries against blocks block .. end - 1. */
INLINE void score_blocks(const struct batch *b, uint32_t block, uint32_t end, float scale,
                         enum dtype dtype)
{
    uint32_t i = 0;

#if ACCUMULATORS >= 8
    for (; i + 8 <= b->n; i += 8)
        score_queries(b, i, block, end, scale, dtype, 8, ACCUMULATORS / 8);
#endif
#if ACCUMULATORS >= 4
    for (; i + 4 <= b->n; i += 4)
        score_queries(b, i, block, end, scale, dtype, 4, ACCUMULATORS / 4);
    for (; i + 2 <= b->n; i += 2)
        score_queries(b, i, block, end, scale, dtype, 2, ACCUMULATORS / 2);
#endif
    for (; i < b->n; i++)
        score_queries(b, i, block, end, scale, dtype, 1, ACCUMULATORS);
}

/* A few blocks at a time, which stay in the first cache while all queries meet them. */
INLINE void batch_scores(const struct batch *b, float scale, enum dtype dtype)
{
    const uint32_t step = STAY_POSITIONS / KV_BLOCK_TOKENS;

    for (uint32_t block = b->begin; block < b->end; block += step)
        score_blocks(b, block, b->end - block < step ? b->end : block + step, scale, dtype);
}

/* --- softmax ---------------------------------------------------------------------------------- */

/* Turns the scores of a query's own positions into exp(score - max); returns their sum. */
static float query_softmax(const struct batch *b, const struct query *q)
{
    const uint32_t origin = b->begin * KV_BLOCK_TOKENS;
    const uint32_t first = q->first / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS;
    v16 most = v16_set1(-INFINITY), sum = v16_zero();

    for (uint32_t p = first; p < q->first; p++)
        q->scores[p - origin] = -INFINITY;
    for (uint32_t p = q->last + 1; p % KV_BLOCK_TOKENS; p++)
        q->scores[p - origin] = -INFINITY;
    for (uint32_t p = first; p <= q->last; p += V16_LANES)
        most = v16_max(v16_load(q->scores + (p - origin)), most);
    most = v16_set1(v16_greatest(most));
    for (uint32_t p = first; p <= q->last; p += V16_LANES) {
        float *scores = q->scores + (p - origin);
        v16 w = v16_exp(v16_sub(v16_load(scores), most));

        v16_store(scores, w);
        sum = v16_add(sum, w);
    }
    return v16_sum(sum);
}

/* --- weighted sum of values ------------------------------------------------------------------- */

/* mix[d ..] += weight * V for positions from .. to - 1, Q queries, C vectors of the head, or the
 * `part` < 16 last elements of it. */
INLINE void mix_tile(const struct batch *b, uint32_t query, uint32_t d, uint32_t from, uint32_t to,
                     enum dtype dtype, uint32_t Q, uint32_t C, uint32_t part)
{
    const uint32_t dim = b->kv->head_dim, origin = b->begin * KV_BLOCK_TOKENS;
    v16 sum[ACCUMULATORS][ACCUMULATORS];

    UNROLL
    for (uint32_t i = 0; i < Q; i++) {
        UNROLL
        for (uint32_t c = 0; c < C; c++)
            sum[i][c] = v16_load(b->query[query + i].mix + d + c * V16_LANES);
    }
    for (uint32_t p = from; p < to;) {
        size_t at = block_at(b, p / KV_BLOCK_TOKENS) + (size_t)(p % KV_BLOCK_TOKENS) * dim + d;
        uint32_t block = p / KV_BLOCK_TOKENS, stop = (block + 1) * KV_BLOCK_TOKENS;
        size_t next = block + 1 < b->end ? block_at(b, block + 1) + d : at;

        for (stop = stop < to ? stop : to; p < stop; p++, at += dim, next += dim) {
            for (uint32_t c = 0; Q > 1 && c < C * V16_LANES * dtype_size(dtype); c += 64)
                __builtin_prefetch((const char *)b->kv->v + next * dtype_size(dtype) + c);
            UNROLL
            for (uint32_t c = 0; c < C; c++) {
                v16 value = part ? v16_load_part(b->kv->v, at, dtype, part)
                                 : v16_load_as(b->kv->v, at + c * V16_LANES, dtype);

                UNROLL
                for (uint32_t i = 0; i < Q; i++)
                    sum[i][c] =
                        v16_fma(v16_set1(b->query[query + i].scores[p - origin]), value, sum[i][c]);
            }
        }
    }
    UNROLL
    for (uint32_t i = 0; i < Q; i++) {
        UNROLL
        for (uint32_t c = 0; c < C; c++)
            v16_store(b->query[query + i].mix + d + c * V16_LANES, sum[i][c]);
    }
}

/* Q queries over positions from .. to - 1, all dims, C vectors at a time. */
INLINE void mix_dims(const struct batch *b, uint32_t query, uint32_t from, uint32_t to,
                     enum dtype dtype, uint32_t Q, uint32_t C)
{
    const uint32_t dim = b->kv->head_dim;
    uint32_t d = 0;

    for (; C > 1 && d + C * V16_LANES <= dim; d += C * V16_LANES)
        mix_tile(b, query, d, from, to, dtype, Q, C, 0);
    for (; C > 2 && d + 2 * V16_LANES <= dim; d += 2 * V16_LANES)
        mix_tile(b, query, d, from, to, dtype, Q, 2, 0);
    for (; d + V16_LANES <= dim; d += V16_LANES)
        mix_tile(b, query, d, from, to, dtype, Q, 1, 0);
    if (d < dim)
        mix_tile(b, query, d, from, to, dtype, Q, 1, dim - d);
}

INLINE void mix_range(const struct batch *b, uint32_t query, uint32_t from, uint32_t to,
                      enum dtype dtype, uint32_t Q, uint32_t C)
{
    for (uint32_t next; from < to; from = next) {
        next = from / STAY_POSITIONS * STAY_POSITIONS + STAY_POSITIONS;
        next = next < to ? next : to;
        mix_dims(b, query, from, next, dtype, Q, C);
    }
}

/* One query; out of line, since it is used around every group of queries. */
static __attribute__((noinline)) void mix_one(const struct batch *b, uint32_t query, uint32_t from,
                                              uint32_t to)
{
    if (b->kv->dtype == DTYPE_F32)
        mix_range(b, query, from, to, DTYPE_F32, 1, ACCUMULATORS);
    else
        mix_range(b, query, from, to, DTYPE_BF16, 1, ACCUMULATORS);
}

/* Q queries: alone over the positions that not all of them share, before and after; else together.
 * Each goes through its positions in ascending order. */
INLINE void mix_queries(const struct batch *b, uint32_t query, enum dtype dtype, uint32_t Q,
                        uint32_t C)
{
    const struct query *q = &b->query[query];
    uint32_t first = q->first, end = q->last + 1;

    for (uint32_t i = 1; i < Q; i++) {
        first = q[i].first > first ? q[i].first : first;
        end = q[i].last + 1 < end ? q[i].last + 1 : end;
    }
    if (end < first)
        end = first;
    for (uint32_t i = 0; i < Q; i++)
        mix_one(b, query + i, q[i].first, first < q[i].last + 1 ? first : q[i].last + 1);
    mix_range(b, query, first, end, dtype, Q, C);
    for (uint32_t i = 0; i < Q; i++)
        mix_one(b, query + i, end, q[i].last + 1);
}

INLINE void batch_mix(const struct batch *b, enum dtype dtype)
{
    uint32_t i = 0;

    (void)dtype; /* where every query is on its own */
#if ACCUMULATORS >= 4
    for (; i + 4 <= b->n; i += 4)
        mix_queries(b, i, dtype, 4, ACCUMULATORS / 4);
    for (; i + 2 <= b->n; i += 2)
        mix_queries(b, i, dtype, 2, ACCUMULATORS / 2);
#endif
    for (; i < b->n; i++)
        mix_one(b, i, b->query[i].first, b->query[i].last + 1);
}

/* --- batches ---------------------------------------------------------------------------------- */

static void batch_run(struct batch *b, float scale)
{
    const uint32_t dim = b->kv->head_dim;
    float inverse[ATTENTION_QUERIES];

    if (b->kv->dtype == DTYPE_F32)
        batch_scores(b, scale, DTYPE_F32);
    else
        batch_scores(b, scale, DTYPE_BF16);
    for (uint32_t i = 0; i < b->n; i++) {
        inverse[i] = 1.0f / query_softmax(b, &b->query[i]);
        for (uint32_t d = 0; d < dim; d += V16_LANES)
            v16_store(b->query[i].mix + d, v16_zero());
    }
    if (b->kv->dtype == DTYPE_F32)
        batch_mix(b, DTYPE_F32);
    else
        batch_mix(b, DTYPE_BF16);
    for (uint32_t i = 0; i < b->n; i++) {
        for (uint32_t d = 0; d < dim; d += V16_LANES)
            v16_store_part(b->query[i].out + d,
                           v16_mul(v16_load(b->query[i].mix + d), v16_set1(inverse[i])), dim - d);
    }
}

/* Adds (row, query head) to the batch. */
static void batch_add(struct batch *b, const struct attention *a, struct cpu_thread *t,
                      uint32_t row, uint32_t head)
{
    const uint32_t dim = a->kv->head_dim, pos = a->rows->pos[row];
    const struct kernels_limits *limits = &a->k->limits;
    struct query *q = &b->query[b->n];
    uint32_t block;

    q->q = a->q + row * a->stride + (size_t)head * dim;
    if (a->k->base.numerics == NUMERICS_FAST) {
        float *rounded = t->query + (size_t)b->n * limits->width;

        ISA(cpu_round_row)(rounded, q->q, dim, INPUT_WIDE);
        q->q = rounded;
    }
    q->out = a->out + ((size_t)row * a->heads + head) * dim;
    q->scores = t->scores + (size_t)b->n * (limits->positions + V16_LANES);
    q->mix = t->mix + (size_t)b->n * limits->width;
    q->last = pos;
    q->first = a->window && pos >= a->window ? pos - a->window + 1 : 0;
    block = q->first / KV_BLOCK_TOKENS;
    b->begin = b->n == 0 || block < b->begin ? block : b->begin;
    b->end = pos / KV_BLOCK_TOKENS + 1; /* rows ascend */
    b->n++;
}

/* Rows from .. to - 1, which belong to one sequence. */
static void attend(const struct attention *a, struct cpu_thread *t, uint32_t kv_head, uint32_t from,
                   uint32_t to)
{
    struct batch b = {
        .kv = a->kv, .table = a->rows->tables + a->rows->table_at[from], .head = kv_head};

    for (uint32_t row = from; row < to; row++) {
        for (uint32_t h = 0; h < a->group; h++) {
            batch_add(&b, a, t, row, kv_head * a->group + h);
            if (b.n == ATTENTION_QUERIES) {
                batch_run(&b, a->scale);
                b.n = 0;
            }
        }
    }
    if (b.n)
        batch_run(&b, a->scale);
}

/* Items are (batch_rows rows, kv head). */
static void attention_items(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct attention *a = context;
    const struct kernel_rows *rows = a->rows;

    for (uint32_t item = begin; item < end; item++) {
        uint32_t row = item / a->kv->kv_heads * a->batch_rows;
        uint32_t stop = rows->n - row < a->batch_rows ? rows->n : row + a->batch_rows;

        while (row < stop) {
            uint32_t next = row + 1;

            while (next < stop && rows->table_at[next] == rows->table_at[row])
                next++;
            attend(a, &a->k->thread[thread], item % a->kv->kv_heads, row, next);
            row = next;
        }
    }
}

void ISA(cpu_attention)(struct kernels *k, float *out, const float *q, size_t stride,
                        const struct kv_layer *kv, const struct kernel_rows *rows, uint32_t heads,
                        float scale, uint32_t window)
{
    struct attention a = {.k = cpu_of(k),
                          .out = out,
                          .q = q,
                          .stride = stride,
                          .kv = kv,
                          .rows = rows,
                          .heads = heads,
                          .group = heads / kv->kv_heads,
                          .scale = scale,
                          .window = window};
    uint64_t positions = 0;
    uint32_t items;

    a.batch_rows = a.group < ATTENTION_QUERIES ? ATTENTION_QUERIES / a.group : 1;
    for (uint32_t i = 0; i < rows->n; i++)
        positions += window && rows->pos[i] > window ? window : rows->pos[i] + 1;
    items = (rows->n + a.batch_rows - 1) / a.batch_rows * kv->kv_heads;
    if (items)
        cpu_run(a.k, items, positions * heads / items * kv->head_dim * 2 + 1, attention_items, &a);
}
