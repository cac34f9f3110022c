/* The parts of moetuner bench that need no server: events out of bytes, quantiles, options. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/bench_prompts.h"
#include "cli/bench_sse.h"
#include "cli/bench_stats.h"

/* --- events ----------------------------------------------------------------------------------- */

/* Events are written one after the other, each in brackets. */
static int note(void *user, const char *data, size_t len, struct mt_err *reterr)
{
    struct buf *out = user;

    if (len == 4 && !memcmp(data, "stop", 4))
        return mt_error(reterr, MT_ECLOSED, "told to stop");
    buf_printf(out, "[%.*s]", (int)len, data);
    return out->status;
}

static const char STREAM[] = "data: {\"a\": 1}\n\n"
                             ": a comment\n\n"
                             "data: one\r\ndata: two\r\n\r\n"
                             "event: x\rid: 7\rdata:tight\r\r"
                             "data:  spaced \n\n"
                             "data\n\n"
                             "nothing: here\n\n"
                             "\n\n\r\n"
                             "data: [DONE]\n\n"
                             "data: unfinished";
static const char EVENTS[] = "[{\"a\": 1}][one\ntwo][tight][ spaced ][][[DONE]]";

static void test_any_cut_gives_the_same_events(void **state)
{
    unsigned short dice[3] = {1, 2, 3};
    struct bench_sse s;
    struct buf out;
    struct mt_err err;

    (void)state;
    bench_sse_init(&s, 1000);
    buf_init(&out, 1000);
    for (int round = 0; round < 2000; round++) {
        long longest = round < 10 ? 1 : 1 + nrand48(dice) % 40;

        for (size_t at = 0, n; at < sizeof STREAM - 1; at += n) {
            n = (size_t)(1 + nrand48(dice) % longest);
            if (n > sizeof STREAM - 1 - at)
                n = sizeof STREAM - 1 - at;
            assert_int_equal(bench_sse_feed(&s, STREAM + at, n, note, &out, &err), 0);
        }
        assert_int_equal(out.len, sizeof EVENTS - 1);
        assert_memory_equal(out.data, EVENTS, out.len);
        buf_reset(&out);
        bench_sse_reset(&s); /* the unfinished one is forgotten */
    }
    bench_sse_done(&s);
    buf_done(&out);
}

static void test_events_are_bounded(void **state)
{
    struct bench_sse s;
    struct buf out;
    struct mt_err err;
    int rc = 0;

    (void)state;
    bench_sse_init(&s, 16);
    buf_init(&out, 1000);
    assert_int_equal(bench_sse_feed(&s, "data: 0123456789\n\n", 18, note, &out, &err), 0);
    for (int i = 0; !rc && i < 17; i++)
        rc = bench_sse_feed(&s, "x", 1, note, &out, &err);
    assert_int_equal(rc, MT_ELIMIT);
    bench_sse_reset(&s);
    for (int i = 0;
         i < 3 && (rc = bench_sse_feed(&s, "data: 123456\n", 13, note, &out, &err)) == 0;)
        i++;
    assert_int_equal(rc, MT_ELIMIT); /* short lines, long event */
    bench_sse_reset(&s);
    assert_int_equal(bench_sse_feed(&s, "data: stop\n\ndata: no\n\n", 22, note, &out, &err),
                     MT_ECLOSED);
    assert_memory_equal(out.data, "[0123456789]", out.len);
    bench_sse_done(&s);
    buf_done(&out);
}

/* --- quantiles -------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Against a sorted array, from one sample to many, over nine orders of magnitude. */
static void test_quantiles(void **state)
{
    static const double Q[] = {0, 0.001, 0.5, 0.9, 0.99, 1};
    static uint64_t values[5000];
    unsigned short dice[3] = {4, 5, 6};

    (void)state;
    for (size_t n = 1; n <= 5000; n = n * 3 / 2 + 1) {
        struct bench_hist *h = calloc(1, sizeof *h);
        double sum = 0;

        assert_non_null(h);
        for (size_t i = 0; i < n; i++) {
            values[i] = (uint64_t)exp(erand48(dice) * 20.7);
            sum += (double)values[i];
            bench_hist_add(h, values[i], 1);
        }
        qsort(values, n, sizeof *values, by_value);
        for (size_t i = 0; i < sizeof Q / sizeof *Q; i++) {
            size_t rank = (size_t)ceil(Q[i] * (double)n);
            double expected = (double)values[rank ? rank - 1 : 0];

            assert_true(fabs(bench_hist_quantile(h, Q[i]) - expected) <= expected * 0.002);
        }
        assert_true(h->n == n && h->max == values[n - 1]);
        assert_true(fabs(bench_hist_mean(h) * (double)n - sum) <= sum * 1e-12);
        free(h);
    }
}

static void test_weights_and_extremes(void **state)
{
    struct bench_hist *h = calloc(1, sizeof *h);

    (void)state;
    assert_non_null(h);
    assert_true(bench_hist_quantile(h, 0.5) == 0 && bench_hist_mean(h) == 0);
    bench_hist_add(h, 1000000, 0); /* no sample, no trace */
    assert_true(h->n == 0 && h->max == 0);
    bench_hist_add(h, 100, 98);
    bench_hist_add(h, 0, 1);
    bench_hist_add(h, UINT64_MAX, 1);
    assert_true(bench_hist_quantile(h, 0.01) == 0);
    assert_true(bench_hist_quantile(h, 0.02) == 100);
    assert_true(bench_hist_quantile(h, 0.99) == 100);
    assert_true(bench_hist_quantile(h, 1) >= 0.998 * 0x1p64);
    free(h);
}

/* --- options ---------------------------------------------------------------------------------- */

static int read_words(struct bench_config *c, struct mt_err *reterr, const char *a, const char *b)
{
    char first[200], second[200];
    char *argv[] = {"bench", first, second, NULL};

    snprintf(first, sizeof first, "%s", a ? a : "");
    snprintf(second, sizeof second, "%s", b ? b : "");
    return bench_config_read(1 + !!a + !!b, argv, c, reterr);
}

static void test_options(void **state)
{
    struct bench_config c;
    struct mt_err err;

    (void)state;
    assert_int_equal(read_words(&c, &err, NULL, NULL), 0);
    assert_int_equal(c.concurrency, 1);
    assert_true(c.stream && !c.json && !c.model && !c.prompts);
    option_done(BENCH_OPTIONS, &c);

    assert_int_equal(read_words(&c, &err, "--rate=2.5", "--url=http://host:1//"), 0);
    assert_int_equal(c.concurrency, BENCH_OPEN_CONCURRENCY);
    assert_string_equal(c.url, "http://host:1");
    option_done(BENCH_OPTIONS, &c);

    assert_int_equal(read_words(&c, &err, "--no-stream", "--concurrency=3"), 0);
    assert_true(!c.stream && c.concurrency == 3);
    option_done(BENCH_OPTIONS, &c);
}

static void test_wrong_options(void **state)
{
    static const struct {
        const char *word, *says;
    } ROWS[] = {
        {"--concurrency=-1", "concurrency"},
        {"--concurrency=20000", "from 0 to 16384"},
        {"--requests=0", "requests"},
        {"--requests=1e3", "an integer"},
        {"--max-tokens=0", "max-tokens"},
        {"--rate=-1", "rate"},
        {"--rate=fast", "a number"},
        {"--arrivals=sometimes", "poisson | constant"},
        {"--temperature=3", "temperature"},
        {"--timeout=0", "timeout"},
        {"--url=127.0.0.1:8000", "expected http://HOST:PORT"},
        {"--tokens=3", "expected an option of this program"},
        {"word", "found the word word"},
    };
    struct bench_config c;
    struct mt_err err;

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        assert_true(read_words(&c, &err, ROWS[i].word, NULL) < 0);
        if (!strstr(err.text, ROWS[i].says))
            fail_msg("%s: expected \"%s\", found \"%s\"", ROWS[i].word, ROWS[i].says, err.text);
        option_done(BENCH_OPTIONS, &c);
    }
}

/* --- prompts and failures --------------------------------------------------------------------- */

static void test_prompts_depend_on_seed_and_number_alone(void **state)
{
    struct bench_config c = {.prompt_tokens = 16, .vocab = 50};
    struct bench_prompts random = {0}, text = {.n = 300};
    int32_t tokens[300], a[16], b[16];

    (void)state;
    for (int32_t i = 0; i < 300; i++)
        tokens[i] = i;
    text.tokens = tokens;
    for (uint64_t number = 0; number < 200; number++) {
        bench_prompts_fill(&random, &c, number, a);
        bench_prompts_fill(&random, &c, number, b);
        assert_memory_equal(a, b, sizeof a);
        for (int i = 0; i < 16; i++)
            assert_in_range(a[i], 0, 49);
        bench_prompts_fill(&random, &c, number + 1, b);
        assert_memory_not_equal(a, b, sizeof a);
        bench_prompts_fill(&text, &c, number, a);
        for (int i = 1; i < 16; i++)
            assert_int_equal(a[i], a[0] + i); /* a window */
        assert_in_range(a[0], 0, 300 - 16);
    }
    bench_prompts_fill(&random, &c, 0, a);
    c.seed = 1;
    bench_prompts_fill(&random, &c, 0, b);
    assert_memory_not_equal(a, b, sizeof a);
}

static void test_failures_are_counted_by_kind(void **state)
{
    struct bench_result *r = calloc(1, sizeof *r);
    char what[16], message[16];
    uint64_t sum = 0;

    (void)state;
    assert_non_null(r);
    for (int i = 0; i < 400; i++) {
        snprintf(what, sizeof what, "HTTP %d", 400 + i % 20);
        snprintf(message, sizeof message, "number %d", i);
        bench_result_fail(r, what, message);
    }
    assert_int_equal(r->failed, 400);
    assert_int_equal(r->n_errors, BENCH_MAX_ERRORS);
    assert_string_equal(r->errors[2].what, "HTTP 402");
    assert_string_equal(r->errors[2].first, "number 2");
    assert_int_equal(r->errors[2].count, 20);
    assert_string_equal(r->errors[BENCH_MAX_ERRORS - 1].what, "other");
    for (uint32_t i = 0; i < r->n_errors; i++)
        sum += r->errors[i].count;
    assert_int_equal(sum, 400);
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_cut_gives_the_same_events),
        cmocka_unit_test(test_events_are_bounded),
        cmocka_unit_test(test_quantiles),
        cmocka_unit_test(test_weights_and_extremes),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_wrong_options),
        cmocka_unit_test(test_prompts_depend_on_seed_and_number_alone),
        cmocka_unit_test(test_failures_are_counted_by_kind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
