/* The router's choice: order, ties, groups, weights. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/kernels/rig.h"

static struct rig exact;

/* DeepSeek-V3's and Mixtral's rules, straight from their words, in double. Chooses by sorting all
 * experts of the allowed groups. */
struct choice {
    double score, weight;
    uint32_t id;
    bool allowed;
};

static int by_score(const void *a, const void *b)
{
    const struct choice *x = a, *y = b;

    if (x->allowed != y->allowed)
        return x->allowed ? -1 : 1;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static void allow_groups(struct choice *c, const struct router *r)
{
    uint32_t size = r->experts / r->groups;
    struct choice group[64], sorted[64];

    for (uint32_t g = 0; g < r->groups; g++) {
        for (uint32_t i = 0; i < size; i++) {
            sorted[i] = c[g * size + i];
            sorted[i].allowed = true;
        }
        qsort(sorted, size, sizeof *sorted, by_score);
        group[g] = (struct choice){.id = g, .allowed = true};
        group[g].score = (double)(float)(sorted[0].score + (size > 1 ? sorted[1].score : 0.0));
    }
    qsort(group, r->groups, sizeof *group, by_score);
    for (uint32_t e = 0; e < r->experts; e++) {
        c[e].allowed = false;
        for (uint32_t g = 0; g < r->topk_groups; g++)
            c[e].allowed |= group[g].id == e / size;
    }
}

static void oracle_route(const struct router *r, const float *logits, int32_t *ids, double *weights)
{
    struct choice c[KERNELS_MAX_EXPERTS];
    double sum = 0.0, max = -INFINITY;

    for (uint32_t e = 0; e < r->experts; e++)
        max = fmax(max, logits[e]);
    for (uint32_t e = 0; e < r->experts; e++) {
        c[e] = (struct choice){.id = e, .allowed = true};
        c[e].weight = r->score == ROUTER_SOFTMAX ? exp(logits[e] - max) : 1 / (1 + exp(-logits[e]));
        sum += c[e].weight;
    }
    for (uint32_t e = 0; e < r->experts; e++) {
        if (r->score == ROUTER_SOFTMAX)
            c[e].weight /= sum;
        c[e].score = c[e].weight + (r->bias ? r->bias[e] : 0.0);
    }
    if (r->groups > 1)
        allow_groups(c, r);
    qsort(c, r->experts, sizeof *c, by_score);
    sum = 0.0;
    for (uint32_t j = 0; j < r->topk; j++)
        sum += c[j].weight;
    for (uint32_t j = 0; j < r->topk; j++) {
        ids[j] = (int32_t)c[j].id;
        weights[j] = c[j].weight * r->scale / (r->renormalize ? sum : 1.0);
    }
}

static void check(const struct router *r, const float *logits, uint32_t n, const int32_t *want_ids,
                  const double *want)
{
    size_t size = (size_t)n * r->topk;
    int32_t *ids = must_alloc(size * sizeof *ids);
    float *weights = must_alloc(size * sizeof *weights);
    float *reference = must_alloc(size * sizeof *reference);

    for (unsigned v = 0; v < exact.n; v++) {
        struct kernels *k = exact.k[v];

        memset(ids, 0xff, size * sizeof *ids);
        k->op->route(k, ids, weights, logits, r, n);
        assert_memory_equal(ids, want_ids, size * sizeof *ids);
        rig_near("route", k, weights, want, size, 1e-6);
        if (v == 0)
            memcpy(reference, weights, size * sizeof *weights);
        rig_equal("route", k, weights, reference, size);
    }
    free(ids);
    free(weights);
    free(reference);
}

static void routing_is_right(void **state)
{
    struct random r = {41};

    (void)state;
    for (uint32_t round = 0; round < 60; round++) {
        uint32_t groups = round % 3 == 2 ? 1 + random_below(&r, 8) : 1;
        uint32_t size = 1 + random_below(&r, 40), experts = groups * size, n = 1 + round % 7 * 20;
        struct router router = {.score = round % 2 ? ROUTER_SIGMOID : ROUTER_SOFTMAX,
                                .renormalize = random_below(&r, 2),
                                .experts = experts,
                                .groups = groups,
                                .topk_groups = 1 + random_below(&r, groups),
                                .scale = round % 5 ? 1.0f : 2.5f};
        float *bias = random_floats(&r, experts, 0.1f);
        float *logits = random_floats(&r, (size_t)n * experts, 2.0f);
        int32_t *ids;
        double *want;

        router.topk = 1 + random_below(&r, size * router.topk_groups);
        router.topk = router.topk < KERNELS_MAX_TOPK ? router.topk : KERNELS_MAX_TOPK;
        router.bias = round % 2 ? bias : NULL;
        ids = must_alloc((size_t)n * router.topk * sizeof *ids);
        want = must_alloc((size_t)n * router.topk * sizeof *want);
        for (uint32_t i = 0; i < n; i++)
            oracle_route(&router, logits + (size_t)i * experts, ids + (size_t)i * router.topk,
                         want + (size_t)i * router.topk);
        check(&router, logits, n, ids, want);
        free(bias);
        free(logits);
        free(ids);
        free(want);
    }
}

static void ties_go_to_the_lowest_id(void **state)
{
    const float logits[] = {1, 3, 3, 0, 3, 1, 3, 1, 1};
    const int32_t want[] = {1, 2, 4, 6, 0, 5};
    struct router r = {.experts = 9, .topk = 6, .groups = 1, .topk_groups = 1, .scale = 1.0f};

    (void)state;
    for (unsigned v = 0; v < exact.n; v++) {
        int32_t ids[6];
        float weights[6];

        for (int sigmoid = 0; sigmoid < 2; sigmoid++) {
            r.score = sigmoid ? ROUTER_SIGMOID : ROUTER_SOFTMAX;
            exact.k[v]->op->route(exact.k[v], ids, weights, logits, &r, 1);
            assert_memory_equal(ids, want, sizeof want);
        }
    }
}

/* Whatever the logits, the ids are distinct and in range: they become addresses. */
static void not_a_number_gives_valid_ids(void **state)
{
    enum { EXPERTS = 12, TOPK = 4 };
    struct random r = {42};
    const float odd[] = {NAN, INFINITY, -INFINITY, 0.0f, 1e38f};
    struct router router = {.experts = EXPERTS, .topk = TOPK, .scale = 1.0f, .renormalize = true};

    (void)state;
    for (int round = 0; round < 200; round++) {
        float logits[EXPERTS], weights[TOPK];
        int32_t ids[TOPK];

        router.score = round % 2 ? ROUTER_SIGMOID : ROUTER_SOFTMAX;
        router.groups = round % 3 ? 1 : 3;
        router.topk_groups = round % 3 ? 1 : 2;
        for (int e = 0; e < EXPERTS; e++)
            logits[e] = round == 0 ? NAN : odd[random_below(&r, 5)];
        for (unsigned v = 0; v < exact.n; v++) {
            bool seen[EXPERTS] = {false};

            exact.k[v]->op->route(exact.k[v], ids, weights, logits, &router, 1);
            for (int j = 0; j < TOPK; j++) {
                assert_in_range(ids[j], 0, EXPERTS - 1);
                assert_false(seen[ids[j]]);
                seen[ids[j]] = true;
            }
        }
    }
}

static int open_rig(void **state)
{
    (void)state;
    rig_open(&exact, NUMERICS_EXACT);
    return 0;
}

static int close_rig(void **state)
{
    (void)state;
    rig_close(&exact);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routing_is_right),
        cmocka_unit_test(ties_go_to_the_lowest_id),
        cmocka_unit_test(not_a_number_gives_valid_ids),
    };

    return cmocka_run_group_tests(tests, open_rig, close_rig);
}
