/* Generated traces are sound, the same for a seed, and have what they were asked to have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/gen.h"
#include "placement/random.h"

static struct trace make(const struct gen_options *o)
{
    struct trace t;
    struct mt_err err;

    if (gen_trace(o, &t, &err))
        fail_msg("%s", err.text);
    assert_int_equal(trace_check(&t, &err), 0);
    return t;
}

/* Any shape's defaults do, and so do options at their limits. */
static void test_shapes(void **unused)
{
    struct random r = {5};

    (void)unused;
    for (int round = 0; round < 200; round++) {
        uint32_t experts = 1 + random_below(&r, round % 2 ? 12 : 300);
        struct gen_options o;
        struct trace t;

        gen_defaults(1 + random_below(&r, 5), experts,
                     1 + random_below(&r, experts < 16 ? experts : 16), &o);
        o.documents = 1 + random_below(&r, 40);
        o.tokens = o.documents + random_below(&r, 100);
        o.kinds = 1 + random_below(&r, 50);
        o.stay = random_below(&r, 2);
        o.linger = random_below(&r, 2);
        o.own = random_unit(&r);
        o.topical = random_below(&r, 2) ? 1 - o.own : 0;
        o.popularity = random_below(&r, 3) ? 1 : 4;
        o.together = random_below(&r, 3) ? 1 : 8;
        o.alone = random_below(&r, 3) ? 1 : 8;
        o.skew = random_unit(&r);
        o.seed = random_next(&r);
        t = make(&o);
        assert_int_equal(t.layers, o.layers);
        assert_int_equal(t.experts, o.experts);
        assert_int_equal(t.topk, o.topk);
        assert_int_equal(t.tokens, o.tokens);
        assert_int_equal(t.documents, o.documents);
        trace_done(&t);
    }
}

static void test_seeds(void **unused)
{
    struct gen_options o;
    struct trace a, b, c;
    size_t bytes;

    (void)unused;
    gen_defaults(3, 32, 4, &o);
    o.tokens = 500;
    o.documents = 9;
    a = make(&o);
    b = make(&o);
    o.seed++;
    c = make(&o);
    bytes = (size_t)a.tokens * a.layers * a.topk * sizeof *a.choice;
    assert_memory_equal(a.choice, b.choice, bytes);
    assert_memory_equal(a.doc, b.doc, 10 * sizeof *a.doc);
    assert_memory_not_equal(a.choice, c.choice, bytes);
    trace_done(&a);
    trace_done(&b);
    trace_done(&c);
}

static double hottest(const struct trace *t)
{
    double *load = calloc((size_t)t->layers * t->experts, sizeof *load), sum = 0;

    trace_loads(t, load);
    for (uint32_t l = 0; l < t->layers; l++) {
        double most = 0;

        for (uint32_t e = 0; e < t->experts; e++)
            if (load[l * t->experts + e] > most)
                most = load[l * t->experts + e];
        sum += most * t->experts / t->topk / t->layers;
    }
    free(load);
    return sum;
}

/* Of the pairs of experts in consecutive layers, the part that the commonest successor of each
 * expert makes up. */
static double following(const struct trace *t)
{
    double *pairs = calloc((size_t)t->experts * t->experts, sizeof *pairs), sum = 0;

    trace_pairs(t, 0, pairs);
    for (uint32_t a = 0; a < t->experts; a++) {
        double most = 0;

        for (uint32_t b = 0; b < t->experts; b++)
            if (pairs[a * t->experts + b] > most)
                most = pairs[a * t->experts + b];
        sum += most;
    }
    free(pairs);
    return sum / t->tokens / t->topk;
}

/* Each option does what its name says. */
static void test_options(void **unused)
{
    struct gen_options o, p;
    struct trace a, b;

    (void)unused;
    gen_defaults(4, 32, 4, &o);
    o.tokens = 4000;
    o.documents = 50;
    p = o;
    p.popularity = 1.5;
    a = make(&o);
    b = make(&p);
    assert_true(hottest(&b) > 1.3 * hottest(&a));
    trace_done(&b);
    p = o;
    p.stay = 0;
    b = make(&p);
    assert_true(following(&a) > 1.2 * following(&b));
    trace_done(&b);
    p = o;
    p.groups = 4;
    p.groups_chosen = 1;
    b = make(&p);
    for (uint32_t i = 0; i < b.tokens; i++)
        for (uint32_t k = 1; k < 4; k++)
            assert_int_equal(trace_at(&b, i, 2)[k] / 8, trace_at(&b, i, 2)[0] / 8);
    trace_done(&a);
    trace_done(&b);
}

static void test_refused(void **unused)
{
    struct gen_options good, o;
    struct trace t = {.layers = 77};
    struct mt_err err;

    (void)unused;
    gen_defaults(2, 16, 2, &good);
#define REFUSED(change, want) \
    do { \
        o = good; \
        change; \
        assert_true(gen_trace(&o, &t, &err) < 0); \
        assert_string_equal(err.text, "generated trace: " want); \
        assert_int_equal(t.layers, 77); \
    } while (0)
    REFUSED(o.layers = 0, "layers: expected 1 to 256, found 0");
    REFUSED(o.topk = 17, "topk: expected 1 to 16, found 17");
    REFUSED(o.documents = o.tokens + 1, "documents: expected 1 to 16384, found 16385");
    REFUSED(o.kinds = 5000, "kinds: expected 1 to 4096, found 5000");
    REFUSED(o.groups = 3, "groups: expected a divisor of 16 experts, found 3");
    REFUSED(o.groups = 16, "groups_chosen: expected enough for top-2, found 1 of 1 experts");
    REFUSED(o.own = (double)NAN, "own: expected 0 to 1, found nan");
    REFUSED(o.topical = 0.9; o.own = 0.5, "topical: expected 0 to 0.5, found 0.9");
    REFUSED(o.stay = 1.5, "stay: expected 0 to 1, found 1.5");
    REFUSED(o.popularity = -1, "popularity: expected 0 to 4, found -1");
    REFUSED(memset(o.name, 'x', sizeof o.name), "name: expected at most 63 bytes");
    REFUSED(o.tokens = TRACE_MAX_TOKENS;
            o.layers = 256,
            "tokens: expected at most 2147483648 choices in all, found 34359738368");
#undef REFUSED
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
