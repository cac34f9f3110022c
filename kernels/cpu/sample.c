/* Sampling. Candidates are weights exp((logit - max) / temperature), in descending order. That
 * order is made lazily: ids are counted into buckets by the upper bits of their weight, and a
 * bucket is sorted only when the walk reaches it. At first only the likely ids are collected: the
 * tail of a large vocabulary is seldom looked at, and then collected too. None of this changes the
 * order. Sums over candidates are in double, in a fixed order. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/philox.h"
#include "kernels/cpu/vec.h"

#define BUCKET_SHIFT 20 /* of a float's bits: 8 buckets an octave */
#define BUCKETS ((0x3f800000u >> BUCKET_SHIFT) + 1)
#define LIKELY_BUCKETS 96u /* down to 2^-12 of the best */

struct candidates {
    const float *weight; /* [vocab] in [0, 1] */
    uint32_t *order;     /* [vocab], buckets descending; sorted up to `sorted` */
    uint32_t vocab, sorted;
    uint32_t buckets;         /* that are collected */
    uint32_t bucket;          /* the next one to sort, counted from the best */
    uint32_t at[BUCKETS + 1]; /* where buckets start in order */
};

/* The greatest logit; -infinity if there is none above. */
static float greatest(const float *logits, uint32_t n)
{
    v16 most = v16_set1(-INFINITY);
    uint32_t i = 0;
    float max;

    for (; i + V16_LANES <= n; i += V16_LANES)
        most = v16_max(v16_load(logits + i), most);
    max = v16_greatest(most);
    for (; i < n; i++)
        max = logits[i] > max ? logits[i] : max;
    return max;
}

static int32_t first_equal(const float *logits, uint32_t n, float x)
{
    for (uint32_t i = 0; i < n; i++) {
        if (logits[i] == x)
            return (int32_t)i;
    }
    return 0;
}

/* weight[i] = exp((logits[i] - max) / temperature), 0 for NaN; returns the sum. An infinite max
 * leaves weight to itself alone. */
static double make_weights(float *weight, const float *logits, uint32_t n, float max,
                           float temperature)
{
    const v16 most = v16_set1(max), heat = v16_set1(temperature);
    double sum[8] = {0};

    for (uint32_t i = 0; i < n; i += V16_LANES) {
        uint32_t lanes = n - i < V16_LANES ? n - i : V16_LANES;
        v16 x = v16_load_part(logits, i, DTYPE_F32, lanes);

        x = v16_exp(v16_div(v16_sub(x, most), heat));
        v16_store_part(weight + i, v16_max(x, v16_zero()), lanes);
        for (uint32_t j = 0; isinf(max) && j < lanes; j++)
            weight[i + j] = logits[i + j] == max;
        for (uint32_t j = 0; j < lanes; j++)
            sum[j % 8] += weight[i + j];
    }
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

static uint32_t bucket_of(float weight)
{
    uint32_t bits;

    memcpy(&bits, &weight, sizeof bits);
    return BUCKETS - 1 - (bits >> BUCKET_SHIFT);
}

/* Counting sort of the best `buckets` buckets; within a bucket ids ascend. Nothing is sorted yet.
 */
static void collect(struct candidates *c, uint32_t buckets)
{
    uint32_t next[BUCKETS], bits = (BUCKETS - buckets) << BUCKET_SHIFT;
    float least;

    memcpy(&least, &bits, sizeof least);
    memset(c->at, 0, sizeof c->at);
    c->buckets = buckets;
    c->sorted = c->bucket = 0;
    for (uint32_t i = 0; i < c->vocab; i++) {
        if (c->weight[i] >= least)
            c->at[bucket_of(c->weight[i]) + 1]++;
    }
    for (uint32_t b = 0; b < buckets; b++) {
        next[b] = c->at[b];
        c->at[b + 1] += c->at[b];
    }
    for (uint32_t i = 0; i < c->vocab; i++) {
        if (c->weight[i] >= least)
            c->order[next[bucket_of(c->weight[i])]++] = i;
    }
}

static bool comes_before(const float *weight, uint32_t a, uint32_t b)
{
    return weight[a] > weight[b] || (weight[a] == weight[b] && a < b);
}

/* Moves ids[at] down the heap whose root comes last. */
static void sift(const float *weight, uint32_t *ids, uint32_t n, uint32_t at)
{
    uint32_t id = ids[at];

    for (uint32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && comes_before(weight, ids[child], ids[child + 1]))
            child++;
        if (!comes_before(weight, id, ids[child]))
            break;
        ids[at] = ids[child];
    }
    ids[at] = id;
}

static void heap_sort(const float *weight, uint32_t *ids, uint32_t n)
{
    for (uint32_t i = n / 2; i-- > 0;)
        sift(weight, ids, n, i);
    for (uint32_t i = n; i-- > 1;) {
        uint32_t last = ids[i];

        ids[i] = ids[0];
        ids[0] = last;
        sift(weight, ids, i, 0);
    }
}

/* The i-th best candidate, i < vocab. */
static uint32_t candidate(struct candidates *c, uint32_t i)
{
    if (i >= c->at[c->buckets])
        collect(c, BUCKETS);
    while (c->sorted <= i) {
        uint32_t from = c->at[c->bucket], to = c->at[c->bucket + 1];

        heap_sort(c->weight, c->order + from, to - from);
        c->sorted = to;
        c->bucket++;
    }
    return c->order[i];
}

/* Cuts *n candidates with sum *total to the best ones. */
static void truncate_candidates(struct candidates *c, const struct sample_params *p, uint32_t *n,
                                double *total)
{
    if (p->top_k > 0 && (uint32_t)p->top_k < *n) {
        *n = (uint32_t)p->top_k;
        *total = 0.0;
        for (uint32_t i = 0; i < *n; i++)
            *total += c->weight[candidate(c, i)];
    }
    if (p->top_p < 1.0f) {
        double reach = (double)p->top_p * *total, sum = 0.0;
        uint32_t i = 0;

        do
            sum += c->weight[candidate(c, i++)];
        while (i < *n && sum < reach);
        *n = i;
        *total = sum;
    }
    if (p->min_p > 0.0f) {
        float least = p->min_p * c->weight[candidate(c, 0)];
        double sum = c->weight[candidate(c, 0)];
        uint32_t i = 1;

        for (; i < *n && c->weight[candidate(c, i)] >= least; i++)
            sum += c->weight[candidate(c, i)];
        *n = i;
        *total = sum;
    }
}

/* Uniform in [0, 1), 53 bits. */
static double uniform(const struct sample_params *p)
{
    uint32_t key[2] = {(uint32_t)p->seed, (uint32_t)(p->seed >> 32)};
    uint32_t word[4] = {p->position, p->choice, 0, 0};

    philox4x32(word, key);
    return (double)((uint64_t)word[0] << 21 | word[1] >> 11) * 0x1p-53;
}

static int32_t draw(struct cpu_thread *t, const float *logits, const struct sample_params *p,
                    uint32_t vocab, float max)
{
    struct candidates c = {.weight = t->weights, .order = t->order, .vocab = vocab};
    double total = make_weights(t->weights, logits, vocab, max, p->temperature), reach, sum = 0.0;
    uint32_t n = vocab, chosen;

    collect(&c, LIKELY_BUCKETS);
    truncate_candidates(&c, p, &n, &total);
    reach = uniform(p) * total;
    chosen = candidate(&c, 0);
    for (uint32_t i = 0; i < n && sum <= reach; i++) {
        uint32_t id = candidate(&c, i);

        if (c.weight[id] == 0.0f) /* rounding must not choose the impossible */
            break;
        sum += c.weight[id];
        chosen = id;
    }
    return (int32_t)chosen;
}

/* The n best logits other than `token`, ties by id; NaN counts as -infinity. */
static void best_others(struct sample_result *r, const float *logits, uint32_t vocab, uint32_t n)
{
    float least = -INFINITY; /* the value to beat once the list is full */

    r->n_top = 0;
    for (uint32_t i = 0; i < vocab && n; i++) {
        float x = logits[i] > -INFINITY ? logits[i] : -INFINITY;
        uint32_t at;

        if ((int32_t)i == r->token || (r->n_top == n && !(x > least)))
            continue;
        at = r->n_top < n ? r->n_top++ : n - 1;
        for (; at > 0 && x > r->top_logprob[at - 1]; at--) {
            r->top_logprob[at] = r->top_logprob[at - 1];
            r->top_token[at] = r->top_token[at - 1];
        }
        r->top_logprob[at] = x;
        r->top_token[at] = (int32_t)i;
        least = r->top_logprob[r->n_top - 1];
    }
}

static float log_softmax(float logit, float max, double log_sum)
{
    if (isinf(max))
        return logit == max ? (float)-log_sum : -INFINITY;
    return logit > -INFINITY ? (float)((double)logit - max - log_sum) : -INFINITY;
}

static void sample_row(struct cpu_thread *t, struct sample_result *r, const float *logits,
                       const struct sample_params *p, uint32_t vocab)
{
    float max = greatest(logits, vocab);
    double log_sum;

    r->n_top = 0;
    r->logprob = 0.0f;
    if (p->forced >= 0)
        r->token = p->forced;
    else if (!(p->temperature > 0.0f) || isinf(max) || p->top_k == 1)
        r->token = first_equal(logits, vocab, max);
    else
        r->token = draw(t, logits, p, vocab, max);
    if (p->n_logprobs < 0)
        return;
    log_sum = log(make_weights(t->weights, logits, vocab, max, 1.0f));
    best_others(r, logits, vocab, (uint32_t)p->n_logprobs);
    r->logprob = log_softmax(logits[r->token], max, log_sum);
    for (uint32_t i = 0; i < r->n_top; i++)
        r->top_logprob[i] = log_softmax(r->top_logprob[i], max, log_sum);
}

struct sampling {
    struct cpu_kernels *k;
    struct sample_result *out;
    const float *logits;
    const struct sample_params *params;
    uint32_t vocab;
};

static void sample_rows(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct sampling *s = context;

    for (uint32_t i = begin; i < end; i++)
        sample_row(&s->k->thread[thread], &s->out[i], s->logits + (size_t)i * s->vocab,
                   &s->params[i], s->vocab);
}

void ISA(cpu_sample)(struct kernels *k, struct sample_result *out, const float *logits,
                     const struct sample_params *params, uint32_t n, uint32_t vocab)
{
    struct sampling s = {cpu_of(k), out, logits, params, vocab};

    cpu_run(s.k, n, (uint64_t)vocab * 8, sample_rows, &s);
}
