/* What a bag of tokens and a set of samples hold, counted by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/bag.h"
#include "placement/homes.h"
#include "placement/sample.h"
#include "searched.h"

static bool has_token(const struct place_problem *p, const struct place_scenario *s, uint32_t doc,
                      uint32_t token)
{
    uint32_t first = s->trace->doc[doc], prompt = homes_prompt(p, s->trace->doc[doc + 1] - first);

    return p->homes == PLACE_HOMES_LOAD || (token - first < prompt) == (s->phase == PLACE_PREFILL);
}

static uint32_t count_tokens(const struct place_problem *p, const struct place_scenario *s)
{
    uint32_t n = 0;

    for (uint32_t d = 0; d < s->trace->documents; d++)
        for (uint32_t i = s->trace->doc[d]; i < s->trace->doc[d + 1]; i++)
            n += has_token(p, s, d, i);
    return n;
}

/* The class of a bit, and that classes are runs of words. */
static uint32_t class_of(const struct bag *b, uint32_t bit)
{
    uint32_t c = 0;

    while (b->class_word[c + 1] * 64 <= bit)
        c++;
    return c;
}

static uint32_t doc_of(const struct trace *t, uint32_t token)
{
    uint32_t d = 0;

    while (t->doc[d + 1] <= token)
        d++;
    return d;
}

static void check_token(const struct bag *b, const uint16_t *const *homes, enum bag_homes kind,
                        uint32_t i)
{
    const struct place_problem *p = b->p;
    const struct bag_group *g = &b->group[b->token_group[i]];
    uint32_t class = class_of(b, b->bit[i]), n = g->homes ? p->cluster.ranks : 1, s = 0;
    bool known;

    assert_true(class >= g->first && class < g->first + n);
    assert_int_equal(b->class_home[class], g->homes ? class - g->first : p->cluster.ranks);
    while (p->scenario[s].trace != g->trace ||
           !has_token(p, &p->scenario[s], doc_of(g->trace, b->token[i]), b->token[i]))
        s++; /* runs off the end if the token belongs to no scenario */
    known = p->homes == PLACE_HOMES_AFFINITY && p->scenario[s].phase == PLACE_DECODE;
    assert_int_equal(g->homes, known || kind == BAG_ASSIGNED);
    if (known)
        assert_int_equal(b->class_home[class], homes[s][doc_of(g->trace, b->token[i])]);
}

/* Each bit is one token, and the layer's rows say what each chose. */
static void check_rows(const struct bag *b, uint32_t layer)
{
    const struct place_problem *p = b->p;
    size_t words = b->words;
    uint64_t *x = calloc((p->experts + 1) * words + 1, sizeof *x);
    uint64_t *seen = calloc(words + 1, sizeof *seen);
    uint32_t all = 0;

    assert_true(x && seen);
    memset(x, 255, (p->experts + 1) * words * sizeof *x);
    bag_layer(b, layer, x);
    for (uint32_t i = 0; i < b->tokens; i++) {
        const uint16_t *chosen = trace_at(b->group[b->token_group[i]].trace, b->token[i], layer);
        uint64_t mask = 1ull << (b->bit[i] % 64);

        assert_true(b->bit[i] / 64 < words);
        assert_false(seen[b->bit[i] / 64] & mask);
        seen[b->bit[i] / 64] |= mask;
        for (uint32_t k = 0; k < p->topk; k++)
            assert_true(x[chosen[k] * words + b->bit[i] / 64] & mask);
    }
    for (size_t i = 0; i < (p->experts + 1) * words; i++)
        all += (uint32_t)__builtin_popcountll(x[i]);
    assert_int_equal(all, b->tokens * p->topk);
    for (size_t i = 0; i < words; i++)
        assert_int_equal(x[p->experts * words + i], 0);
    free(x);
    free(seen);
}

static void check_groups(const struct bag *b, uint32_t max_tokens)
{
    double weight = 0;
    uint32_t tokens = 0;

    for (uint32_t g = 0; g < b->groups; g++) {
        const struct bag_group *group = &b->group[g];
        uint32_t n = 0, whole = 0;

        for (uint32_t i = 0; i < b->tokens; i++)
            n += b->token_group[i] == g;
        for (uint32_t s = 0; s < b->p->scenarios; s++) /* the same trace: the same tokens */
            if (b->p->scenario[s].trace == group->trace) {
                uint32_t c = count_tokens(b->p, &b->p->scenario[s]);

                whole = c == n || c > whole ? c : whole;
            }
        assert_int_equal(n, group->tokens);
        assert_true(n > 0);
        assert_true(n <= max_tokens / b->groups + 1);
        if (max_tokens > 1u << 15)
            assert_true(n <= whole);
        weight += group->weight * n;
        tokens += n;
    }
    assert_int_equal(tokens, b->tokens);
    assert_float_equal(weight, 1, 1e-9);
}

static void check_same(const struct bag *a, const struct bag *b)
{
    assert_int_equal(a->tokens, b->tokens);
    assert_int_equal(a->words, b->words);
    assert_memory_equal(a->token, b->token, a->tokens * sizeof *a->token);
    assert_memory_equal(a->bit, b->bit, a->tokens * sizeof *a->bit);
    assert_memory_equal(a->planes, b->planes, (size_t)BAG_PLANES * a->words * sizeof *a->planes);
}

static void a_bag_holds_every_token_once(void **state)
{
    struct random r = {1};

    (void)state;
    for (uint32_t i = 0; i < 300; i++) {
        struct searched how = searched_random(&r);
        enum bag_homes kind = random_below(&r, 2) ? BAG_ASSIGNED : BAG_ALIKE;
        uint32_t most = i % 3 ? 1u << 16 : 30 + random_below(&r, 100), all = 0;
        uint16_t *homes[EXAMPLE_SCENARIOS] = {0};
        struct example e;
        struct bag a, b;
        struct mt_err err;

        searched_make(&r, &how, &e);
        for (uint32_t s = 0; s < how.scenarios; s++) {
            const struct trace *t = e.p.scenario[s].trace;

            homes[s] = calloc(t->documents, sizeof **homes);
            assert_non_null(homes[s]);
            for (uint32_t d = 0; d < t->documents; d++) /* one trace has the same homes always */
                homes[s][d] = (uint16_t)((d * 7 + how.tokens) % how.ranks);
            all += how.shared && s ? 0 : count_tokens(&e.p, &e.p.scenario[s]);
        }
        assert_int_equal(bag_new(&e.p, (const uint16_t *const *)homes, kind, most, 5, &a, &err), 0);
        assert_int_equal(bag_new(&e.p, (const uint16_t *const *)homes, kind, most, 5, &b, &err), 0);
        check_same(&a, &b);
        check_groups(&a, most);
        if (most > 1u << 15 && (!how.shared || !how.affinity))
            assert_int_equal(a.tokens, all);
        for (uint32_t k = 0; k < a.tokens; k++)
            check_token(&a, (const uint16_t *const *)homes, kind, k);
        check_rows(&a, 0);
        bag_done(&a);
        bag_done(&b);
        for (uint32_t s = 0; s < EXAMPLE_SCENARIOS; s++)
            free(homes[s]);
        example_done(&e);
    }
}

/* What each expert has in a sample, summed: top k of the scenario's tokens, in each. */
static void check_sums(const struct place_problem *p, const struct sample_rule *rule,
                       const struct sample_set *set)
{
    uint32_t n = sample_count(set), used = 0;
    float *tokens = calloc((size_t)(p->experts + 1) * n, sizeof *tokens);
    float *active = calloc((size_t)(p->experts + 1) * n, sizeof *active);
    const double *a = sample_token_cost(set);
    double cost = 0;

    assert_true(tokens && active);
    assert_int_equal(n % SAMPLE_LANES, 0);
    sample_layer(set, 0, tokens, active);
    for (uint32_t k = 0; k < n; k++) {
        double sum = 0;

        for (uint32_t e = 0; e < p->experts; e++) {
            float w = tokens[(size_t)e * n + k], x = active[(size_t)e * n + k];

            sum += (double)w;
            assert_true(w >= 0 && x >= 0 && x <= 1);
            assert_true((w > 0) == (x > 0));
            assert_true((double)x <= (double)w * (1 + 1e-5)); /* 1 - (1 - p)^n is below p n */
        }
        assert_true(tokens[(size_t)p->experts * n + k] == 0);
        assert_true(active[(size_t)p->experts * n + k] == 0);
        if (sum > 0) /* all scenarios have as many tokens a step */
            assert_float_equal(sum, p->scenario[0].tokens * p->topk, 1e-4 * sum);
        else
            assert_true(a[k] == 0 && sample_active_cost(set)[k] == 0);
        used += sum > 0;
        cost += a[k];
    }
    assert_true(used >= p->scenarios);
    assert_true(used <= 4 * p->scenarios + rule->samples);
    assert_float_equal(cost * p->scenario[0].tokens, p->cluster.token_expert, 1e-9);
    free(tokens);
    free(active);
}

static void check_repeats(const struct place_problem *p, const struct sample_rule *rule,
                          const struct sample_set *set)
{
    size_t size = (size_t)(p->experts + 1) * sample_count(set);
    float *x = calloc(size * 4, sizeof *x);
    struct sample_set *again;
    struct mt_err err;

    assert_non_null(x);
    assert_int_equal(sample_new(p, rule, 7, &again, &err), 0);
    assert_int_equal(sample_count(again), sample_count(set));
    sample_layer(set, 0, x, x + size);
    sample_layer(again, 0, x + 2 * size, x + 3 * size);
    assert_memory_equal(x, x + 2 * size, 2 * size * sizeof *x);
    sample_free(again);
    free(x);
}

static void samples_hold_whole_steps(void **state)
{
    struct random r = {2};

    (void)state;
    for (uint32_t i = 0; i < 300; i++) {
        struct searched how = searched_random(&r);
        struct sample_rule rule = {random_below(&r, 3) ? 0.1 + random_unit(&r) : 0,
                                   random_below(&r, 2) ? 1 + random_below(&r, 30) : 0,
                                   1 + random_below(&r, 70)};
        struct sample_set *set;
        struct example e;
        struct mt_err err;

        searched_make(&r, &how, &e);
        assert_int_equal(sample_new(&e.p, &rule, 7, &set, &err), 0);
        check_sums(&e.p, &rule, set);
        check_repeats(&e.p, &rule, set);
        sample_free(set);
        example_done(&e);
    }
}

/* One expert a document: what samples say of it is how often the document was drawn. */
static void document_problem(uint32_t documents, const uint32_t *length, struct place_problem *p,
                             struct trace *t, double *load)
{
    *t = (struct trace){.layers = 1, .experts = documents, .topk = 1, .documents = documents};
    t->doc = calloc(documents + 1, sizeof *t->doc);
    assert_non_null(t->doc);
    for (uint32_t d = 0; d < documents; d++)
        t->doc[d + 1] = t->doc[d] + length[d];
    t->tokens = t->doc[documents];
    t->choice = calloc(t->tokens, sizeof *t->choice);
    assert_non_null(t->choice);
    for (uint32_t d = 0; d < documents; d++)
        for (uint32_t i = t->doc[d]; i < t->doc[d + 1]; i++)
            t->choice[i] = (uint16_t)d;
    trace_loads(t, load);
    *p = (struct place_problem){.layers = 1, .experts = documents, .topk = 1, .scenarios = 1};
    p->cluster = (struct cluster){.ranks = 2, .nodes = 1, .slots = {32, 32}, .token_expert = 1};
    p->scenario[0] = (struct place_scenario){
        .phase = PLACE_PREFILL, .share = 1, .tokens = 1000, .trace = t, .load = load};
}

/* The expert's tokens in each sample are multiples of one weight, capped ones of `cap` tokens. */
static void long_documents_count_up_to_the_cap(void **state)
{
    uint32_t length[20];
    struct sample_rule rule = {1, 8, 64};
    double load[20], mean[20] = {0};
    float tokens[21 * 64], active[21 * 64];
    struct place_problem p;
    struct sample_set *set;
    struct trace t;
    struct mt_err err;

    (void)state;
    for (uint32_t d = 0; d < 20; d++)
        length[d] = d % 2 ? 4 : 800; /* capped: 8 */
    document_problem(20, length, &p, &t, load);
    assert_int_equal(sample_new(&p, &rule, 3, &set, &err), 0);
    assert_int_equal(sample_count(set), 64);
    sample_layer(set, 0, tokens, active);
    for (uint32_t k = 0; k < 64; k++) {
        uint32_t drawn[20] = {0};
        double unit = INFINITY, sum = 0;

        for (uint32_t d = 0; d < 20; d++) { /* a unit: what four tokens are */
            double w = (double)tokens[d * 64 + k];

            mean[d] += w / 64;
            if (w > 0)
                unit = fmin(unit, w);
        }
        for (uint32_t d = 0; d < 20; d++) {
            double times = (double)tokens[d * 64 + k] / unit;

            drawn[d] = (uint32_t)lround(times);
            assert_float_equal(times, drawn[d], 1e-3);
            sum += drawn[d];
        }
        assert_true(sum >= 20 && sum <= 40); /* 20 documents of 4 or 8 tokens each */
    }
    for (uint32_t d = 0; d < 20; d += 2)
        assert_true(mean[d] > mean[d + 1]);
    for (uint32_t d = 0; d < 20; d++) /* 1000 tokens by 8 to 4 */
        assert_float_equal(mean[d], (d % 2 ? 33 : 67), 20);
    sample_free(set);
    trace_done(&t);
}

/* Of one document pieces are drawn, so that samples differ; of as many as that counts as many,
 * documents. */
static void a_single_document_is_resampled_in_pieces(void **state)
{
    uint32_t length = 640;
    struct sample_rule rule = {0.5, 0, 32};
    struct place_problem p;
    struct sample_set *set;
    struct trace t;
    float tokens[21 * 32], active[21 * 32];
    double load[20];
    struct mt_err err;
    uint32_t differ = 0;

    (void)state;
    document_problem(1, &length, &p, &t, load);
    t.experts = p.experts = 20; /* each a piece's */
    for (uint32_t i = 0; i < t.tokens; i++)
        t.choice[i] = (uint16_t)(i / 32);
    trace_loads(&t, load);
    assert_int_equal(sample_new(&p, &rule, 3, &set, &err), 0);
    sample_layer(set, 0, tokens, active);
    for (uint32_t k = 0; k < 32; k++) {
        uint32_t some = 0;

        for (uint32_t e = 0; e < 20; e++) {
            double w = (double)tokens[e * 32 + k];

            some += w > 0;
            assert_float_equal(fmod(w + 50, 100), 50, 0.01); /* ten draws of a tenth each */
        }
        assert_true(some >= 1 && some <= 10);
        differ += k && tokens[k] != tokens[k - 1];
    }
    assert_true(differ > 0);
    sample_free(set);
    trace_done(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bag_holds_every_token_once),
        cmocka_unit_test(samples_hold_whole_steps),
        cmocka_unit_test(long_documents_count_up_to_the_cap),
        cmocka_unit_test(a_single_document_is_resampled_in_pieces),
    };

    return cmocka_run_group_tests_name("bag", tests, NULL, NULL);
}
