#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

struct routing {
    int32_t *ids;
    float *weights;
    const float *logits;
    const struct router *router;
};

/* score[e] = softmax over all experts */
static void softmax(float *score, const float *logits, uint32_t n)
{
    v16 sum = v16_zero(), most;
    float max = logits[0];

    for (uint32_t e = 1; e < n; e++)
        max = logits[e] > max ? logits[e] : max;
    most = v16_set1(max);
    for (uint32_t e = 0; e < n; e += V16_LANES) {
        v16 p = v16_exp(v16_sub(v16_load_part(logits, e, DTYPE_F32, n - e), most));

        v16_store_part(score + e, p, n - e);
        sum = v16_add(sum, v16_load_part(score, e, DTYPE_F32, n - e)); /* padded with zeros */
    }
    sum = v16_set1(v16_sum(sum));
    for (uint32_t e = 0; e < n; e += V16_LANES)
        v16_store_part(score + e, v16_div(v16_load_part(score, e, DTYPE_F32, n - e), sum), n - e);
}

static void sigmoid(float *score, const float *logits, uint32_t n)
{
    v16 one = v16_set1(1.0f);

    for (uint32_t e = 0; e < n; e += V16_LANES) {
        v16 x = v16_sub(v16_zero(), v16_load_part(logits, e, DTYPE_F32, n - e));

        v16_store_part(score + e, v16_div(one, v16_add(one, v16_exp(x))), n - e);
    }
}

/* The best of n that is not taken, the lowest on ties; always some index while one is free. */
static uint32_t best_free(const float *score, const bool *taken, uint32_t n)
{
    uint32_t best = n;

    for (uint32_t e = 0; e < n; e++) {
        if (!taken[e] && (best == n || score[e] > score[best]))
            best = e;
    }
    return best;
}

/* Takes the experts of all but the best groups out of the choice. */
static void drop_groups(const float *choice, bool *taken, const struct router *r)
{
    const uint32_t size = r->experts / r->groups;
    float score[KERNELS_MAX_EXPERTS] = {0};
    bool kept[KERNELS_MAX_EXPERTS] = {false};

    for (uint32_t g = 0; g < r->groups; g++) {
        const float *c = choice + g * size;
        bool seen[KERNELS_MAX_EXPERTS] = {false};
        uint32_t first = best_free(c, seen, size), second;

        seen[first] = true;
        second = best_free(c, seen, size);
        score[g] = second < size ? c[first] + c[second] : c[first];
    }
    for (uint32_t i = 0; i < r->topk_groups; i++)
        kept[best_free(score, kept, r->groups)] = true;
    for (uint32_t g = 0; g < r->groups; g++)
        memset(taken + g * size, !kept[g], size * sizeof *taken);
}

static void route_row(const struct router *r, int32_t *ids, float *weights, const float *logits)
{
    float score[KERNELS_MAX_EXPERTS] = {0}, biased[KERNELS_MAX_EXPERTS] = {0};
    bool taken[KERNELS_MAX_EXPERTS] = {false};
    const float *choice = score;
    float sum = 0.0f;

    if (r->score == ROUTER_SOFTMAX)
        softmax(score, logits, r->experts);
    else
        sigmoid(score, logits, r->experts);
    if (r->bias) {
        for (uint32_t e = 0; e < r->experts; e++)
            biased[e] = score[e] + r->bias[e];
        choice = biased;
    }
    if (r->groups > 1)
        drop_groups(choice, taken, r);
    for (uint32_t j = 0; j < r->topk; j++) {
        uint32_t e = best_free(choice, taken, r->experts);

        taken[e] = true;
        ids[j] = (int32_t)e;
        weights[j] = score[e];
        sum += score[e];
    }
    if (r->renormalize && r->score == ROUTER_SIGMOID)
        sum += 1e-20f; /* all sigmoids may be zero */
    for (uint32_t j = 0; j < r->topk; j++)
        weights[j] = (r->renormalize ? weights[j] / sum : weights[j]) * r->scale;
}

static void route_rows(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct routing *a = context;
    const struct router *r = a->router;

    (void)thread;
    for (uint32_t i = begin; i < end; i++)
        route_row(r, a->ids + (size_t)i * r->topk, a->weights + (size_t)i * r->topk,
                  a->logits + (size_t)i * r->experts);
}

void ISA(cpu_route)(struct kernels *k, int32_t *ids, float *weights, const float *logits,
                    const struct router *router, uint32_t n)
{
    struct routing a = {ids, weights, logits, router};

    cpu_run(cpu_of(k), n, (uint64_t)router->experts * (router->topk + 8), route_rows, &a);
}
