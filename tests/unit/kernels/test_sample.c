/* Sampling: against a full sort in double, and as a distribution. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cpu/philox.h"
#include "tests/unit/kernels/rig.h"

static struct rig exact;

static const struct sample_params plain = {
    .temperature = 1.0f, .top_p = 1.0f, .forced = -1, .n_logprobs = -1};

static struct sample_result sample_one(struct kernels *k, const float *logits, uint32_t vocab,
                                       const struct sample_params *p)
{
    struct sample_result result;

    memset(&result, 0xff, sizeof result);
    k->op->sample(k, &result, logits, p, 1, vocab);
    assert_in_range(result.token, 0, vocab - 1);
    return result;
}

/* The known answers of the Random123 distribution. */
static void philox_known_answers(void **state)
{
    static const uint32_t vectors[][10] = {
        /* counter, key, result */
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d,
         0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
         0x94fdcceb, 0x5001e420, 0x24126ea1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        uint32_t counter[4];

        memcpy(counter, vectors[i], sizeof counter);
        philox4x32(counter, vectors[i] + 4);
        assert_memory_equal(counter, vectors[i] + 6, sizeof counter);
    }
}

static void greedy_takes_the_first_maximum(void **state)
{
    struct random r = {51};
    struct sample_params p = plain;

    (void)state;
    p.temperature = 0.0f;
    for (int round = 0; round < 50; round++) {
        uint32_t vocab = 1 + random_below(&r, RIG_VOCAB), best = 0;
        float *logits = random_floats(&r, vocab, 1.0f);

        for (uint32_t i = 0; i < vocab && round % 2; i++) /* many ties */
            logits[i] = roundf(logits[i]);
        for (uint32_t i = 1; i < vocab; i++)
            best = logits[i] > logits[best] ? i : best;
        for (unsigned v = 0; v < exact.n; v++)
            assert_int_equal(sample_one(exact.k[v], logits, vocab, &p).token, best);
        free(logits);
    }
}

/* One candidate, by whichever limit, is greedy. */
static void narrow_sampling_is_greedy(void **state)
{
    struct random r = {52};

    (void)state;
    for (uint32_t round = 0; round < 100; round++) {
        uint32_t vocab = 2 + random_below(&r, 1000);
        float *logits = random_floats(&r, vocab, 2.0f);
        struct sample_params greedy = plain, p = plain;
        struct kernels *k = exact.k[round % exact.n];
        int32_t want;

        greedy.temperature = 0.0f;
        want = sample_one(k, logits, vocab, &greedy).token;
        p.position = round;
        p.top_k = 1;
        assert_int_equal(sample_one(k, logits, vocab, &p).token, want);
        p.top_k = 0;
        p.top_p = 1e-9f;
        assert_int_equal(sample_one(k, logits, vocab, &p).token, want);
        p.top_p = 0.0f;
        assert_int_equal(sample_one(k, logits, vocab, &p).token, want);
        p.top_p = 1.0f;
        p.min_p = 1.0f;
        assert_int_equal(sample_one(k, logits, vocab, &p).token, want);
        p.min_p = 0.0f;
        p.temperature = 1e-30f;
        assert_int_equal(sample_one(k, logits, vocab, &p).token, want);
        free(logits);
    }
}

/* --- oracle: sorts everything ------------------------------------------------------------------
 */

struct candidate {
    uint32_t id;
    double p;
};

static int descending(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    if (x->p != y->p)
        return x->p > y->p ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* The candidates left, descending, with probabilities that sum to 1; returns how many. */
static uint32_t oracle_candidates(struct candidate *c, const float *logits, uint32_t vocab,
                                  const struct sample_params *p)
{
    double max = -INFINITY, sum = 0.0, kept = 0.0;
    uint32_t n = vocab, i;

    for (i = 0; i < vocab; i++)
        max = fmax(max, logits[i]);
    for (i = 0; i < vocab; i++)
        c[i] = (struct candidate){i, exp((logits[i] - max) / p->temperature)};
    qsort(c, vocab, sizeof *c, descending);
    if (p->top_k > 0 && (uint32_t)p->top_k < n)
        n = (uint32_t)p->top_k;
    for (i = 0; i < n; i++)
        sum += c[i].p;
    for (i = 0; i < n && (i == 0 || kept < p->top_p * sum || p->top_p >= 1.0f); i++)
        kept += c[i].p;
    n = i;
    while (n > 1 && c[n - 1].p < p->min_p * c[0].p)
        n--;
    for (sum = 0.0, i = 0; i < n; i++)
        sum += c[i].p;
    for (i = 0; i < n; i++)
        c[i].p /= sum;
    return n;
}

static void sampling_is_the_inverse_cdf(void **state)
{
    struct random r = {53};
    struct candidate *c = must_alloc(RIG_VOCAB * sizeof *c);
    uint32_t close = 0;

    (void)state;
    for (uint32_t round = 0; round < 400; round++) {
        uint32_t vocab = 1 + random_below(&r, round % 8 ? 300 : RIG_VOCAB), n, i = 0;
        float *logits = random_floats(&r, vocab, 1.0f + (float)random_below(&r, 3));
        struct sample_params p = {.temperature = 0.2f + 0.1f * (float)random_below(&r, 20),
                                  .top_p = round % 3 ? 1.0f : 0.3f + 0.1f * (float)(round % 7),
                                  .min_p = round % 5 ? 0.0f : 0.05f,
                                  .top_k = round % 4 ? 0 : 1 + (int32_t)random_below(&r, 60),
                                  .seed = random_bits(&r),
                                  .choice = random_below(&r, 4),
                                  .position = round,
                                  .forced = -1,
                                  .n_logprobs = -1};
        uint32_t word[4] = {p.position, p.choice, 0, 0};
        const uint32_t key[2] = {(uint32_t)p.seed, (uint32_t)(p.seed >> 32)};
        double u, sum = 0.0;
        int32_t token = sample_one(exact.k[0], logits, vocab, &p).token;

        for (unsigned v = 1; v < exact.n; v++)
            assert_int_equal(sample_one(exact.k[v], logits, vocab, &p).token, token);
        philox4x32(word, key);
        u = ldexp(word[0] * 0x1p21 + (word[1] >> 11), -53);
        n = oracle_candidates(c, logits, vocab, &p);
        while (i + 1 < n && (sum += c[i].p) <= u)
            i++;
        if ((uint32_t)token != c[i].id) {
            /* only where u falls on a border, to the accuracy of exp */
            double border = (uint32_t)token == c[i ? i - 1 : 0].id ? sum - c[i].p : sum;

            assert_true(fabs(border - u) < 1e-5);
            close++;
        }
        free(logits);
    }
    assert_true(close < 4);
    free(c);
}

/* Chi-square of 20,000 draws over 20 tokens: 19 degrees of freedom, 43.8 is p = 0.001; the seed is
 * fixed, so this either always holds or never. */
static void draws_follow_the_distribution(void **state)
{
    enum { VOCAB = 20, DRAWS = 20000 };
    struct random r = {54};
    float *logits = random_floats(&r, VOCAB, 1.0f);
    uint32_t count[VOCAB] = {0};
    struct candidate c[VOCAB];
    struct sample_params p = plain;
    double chi = 0.0;

    (void)state;
    p.seed = 0x123456789abcdef0;
    for (p.position = 0; p.position < DRAWS; p.position++)
        count[sample_one(exact.k[exact.n - 4], logits, VOCAB, &p).token]++;
    oracle_candidates(c, logits, VOCAB, &p);
    for (uint32_t i = 0; i < VOCAB; i++) {
        double expected = c[i].p * DRAWS, off = count[c[i].id] - expected;

        chi += off * off / expected;
    }
    assert_true(chi < 43.8);
    free(logits);
}

/* Ties at the border of top-k go to the lowest ids. */
static void borders_keep_the_lowest_ids(void **state)
{
    float logits[100];
    bool seen[100] = {false};
    struct sample_params p = plain;

    (void)state;
    for (int i = 0; i < 100; i++)
        logits[i] = i % 10 == 5 ? 2.0f : 1.0f;
    p.top_k = 13; /* the ten, then 0, 1, 2 */
    for (p.position = 0; p.position < 2000; p.position++)
        seen[sample_one(exact.k[p.position % exact.n], logits, 100, &p).token] = true;
    for (int i = 0; i < 100; i++)
        assert_int_equal(seen[i], i % 10 == 5 || i < 3);
}

static void logprobs_are_right(void **state)
{
    struct random r = {55};
    struct candidate *c = must_alloc(RIG_VOCAB * sizeof *c);

    (void)state;
    for (uint32_t round = 0; round < 60; round++) {
        uint32_t vocab = 1 + random_below(&r, round % 2 ? 30 : RIG_VOCAB), top = round % 21, at = 0;
        float *logits = random_floats(&r, vocab, 2.0f);
        struct sample_params p = plain;
        struct sample_result reference;
        double forced = 0.0;

        for (uint32_t i = 0; i < vocab && round % 3 == 0; i++)
            logits[i] = roundf(logits[i]);
        p.forced = round % 4 ? (int32_t)random_below(&r, vocab) : -1;
        p.n_logprobs = (int32_t)top;
        oracle_candidates(c, logits, vocab, &plain);
        reference = sample_one(exact.k[0], logits, vocab, &p);
        if (p.forced >= 0)
            assert_int_equal(reference.token, p.forced);
        for (unsigned v = 1; v < exact.n; v++) {
            struct sample_result other = sample_one(exact.k[v], logits, vocab, &p);

            assert_int_equal(other.token, reference.token);
            assert_true(other.logprob == reference.logprob);
            assert_int_equal(other.n_top, reference.n_top);
            assert_memory_equal(other.top_token, reference.top_token, other.n_top * 4);
            assert_memory_equal(other.top_logprob, reference.top_logprob, other.n_top * 4);
        }
        assert_int_equal(reference.n_top, top < vocab - 1 ? top : vocab - 1);
        for (uint32_t i = 0; i < vocab; i++) {
            if (c[i].id == (uint32_t)reference.token) {
                forced = log(c[i].p);
            } else if (at < reference.n_top) {
                assert_int_equal(reference.top_token[at], c[i].id);
                assert_true(fabs(reference.top_logprob[at++] - log(c[i].p)) < 2e-5);
            }
        }
        assert_true(fabs(reference.logprob - forced) < 2e-5);
        free(logits);
    }
    free(c);
}

/* Any logits give a token that exists, never one of probability zero if there is another. */
static void odd_logits_give_a_valid_token(void **state)
{
    static const float odd[] = {NAN, -INFINITY, INFINITY, 3e38f, -3e38f, 0.0f};
    struct random r = {56};

    (void)state;
    for (uint32_t round = 0; round < 3000; round++) {
        uint32_t vocab = 1 + random_below(&r, 40), kinds = 1 + random_below(&r, 6);
        float logits[40];
        bool finite = false, infinite = false;
        struct sample_params p = {.temperature = (float)random_below(&r, 3),
                                  .top_p = round % 2 ? 0.9f : 1.0f,
                                  .min_p = round % 5 ? 0.0f : 0.1f,
                                  .top_k = (int32_t)random_below(&r, 50),
                                  .position = round,
                                  .forced = -1,
                                  .n_logprobs = 3};
        struct sample_result result;

        for (uint32_t i = 0; i < vocab; i++) {
            logits[i] = odd[random_below(&r, kinds)];
            finite |= isfinite(logits[i]);
            infinite |= isinf(logits[i]) && logits[i] > 0;
        }
        result = sample_one(exact.k[round % exact.n], logits, vocab, &p);
        if (infinite)
            assert_true(isinf(logits[result.token]) && logits[result.token] > 0);
        else if (finite)
            assert_true(isfinite(logits[result.token]));
        for (uint32_t i = 0; i < result.n_top; i++)
            assert_in_range(result.top_token[i], 0, vocab - 1);
    }
}

static void rows_are_independent(void **state)
{
    enum { N = 9, VOCAB = 700 };
    struct random r = {57};
    float *logits = random_floats(&r, N * VOCAB, 2.0f);
    struct sample_params p[N];
    struct sample_result all[N];

    (void)state;
    for (uint32_t i = 0; i < N; i++) {
        p[i] = plain;
        p[i].position = i;
        p[i].top_k = i % 2 ? 20 : 0;
        p[i].n_logprobs = (int32_t)i % 3 - 1;
    }
    for (unsigned v = 0; v < exact.n; v++) {
        exact.k[v]->op->sample(exact.k[v], all, logits, p, N, VOCAB);
        for (uint32_t i = 0; i < N; i++) {
            struct sample_result one = sample_one(exact.k[v], logits + i * VOCAB, VOCAB, &p[i]);

            assert_int_equal(all[i].token, one.token);
            assert_true(all[i].logprob == one.logprob);
        }
    }
    free(logits);
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
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(greedy_takes_the_first_maximum),
        cmocka_unit_test(narrow_sampling_is_greedy),
        cmocka_unit_test(sampling_is_the_inverse_cdf),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(borders_keep_the_lowest_ids),
        cmocka_unit_test(logprobs_are_right),
        cmocka_unit_test(odd_logits_give_a_valid_token),
        cmocka_unit_test(rows_are_independent),
    };

    return cmocka_run_group_tests(tests, open_rig, close_rig);
}
