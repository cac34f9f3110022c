/* Metrics: updates from several threads are all counted, and the text obeys the exposition format.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/metrics.h"

static char *render(const struct metrics *m, const char *model)
{
    struct buf out;
    char *text;

    buf_init(&out, 1 << 20);
    assert_int_equal(metrics_render(m, model, &out), 0);
    text = buf_steal(&out);
    assert_non_null(text);
    return text;
}

static void assert_line(const char *text, const char *line)
{
    const char *at = strstr(text, line);

    if (!at)
        print_error("missing: %s\n", line);
    assert_non_null(at);
    assert_true(at == text || at[-1] == '\n');
    assert_int_equal(at[strlen(line)], '\n');
}

static void test_values(void **state)
{
    struct metrics *m = metrics_new();
    char *text;

    (void)state;
    metrics_add(m, METRIC_SUCCESS_LENGTH, 3);
    metrics_set(m, METRIC_KV_USAGE_PPM, 250000);
    metrics_move(m, METRIC_CONNECTIONS, 5);
    metrics_move(m, METRIC_CONNECTIONS, -2);
    metrics_observe(m, METRIC_TTFT_US, 1000);        /* on a bound: inside */
    metrics_observe(m, METRIC_TTFT_US, 1001);        /* just beyond it */
    metrics_observe(m, METRIC_TTFT_US, 3000000000u); /* beyond all */
    text = render(m, "ti\"ny\\\n");
    assert_line(text, "moetuner:request_success_total{model_name=\"ti\\\"ny\\\\\\n\","
                      "finished_reason=\"length\"} 3");
    free(text);
    text = render(m, "m");
    assert_line(text,
                "moetuner:request_success_total{model_name=\"m\",finished_reason=\"stop\"} 0");
    assert_line(text, "moetuner:kv_cache_usage_perc{model_name=\"m\"} 0.25");
    assert_line(text, "moetuner:http_connections{model_name=\"m\"} 3");
    assert_line(text,
                "moetuner:time_to_first_token_seconds_bucket{model_name=\"m\",le=\"0.001\"} 1");
    assert_line(text,
                "moetuner:time_to_first_token_seconds_bucket{model_name=\"m\",le=\"0.005\"} 2");
    assert_line(text,
                "moetuner:time_to_first_token_seconds_bucket{model_name=\"m\",le=\"2560\"} 2");
    assert_line(text,
                "moetuner:time_to_first_token_seconds_bucket{model_name=\"m\",le=\"+Inf\"} 3");
    assert_line(text, "moetuner:time_to_first_token_seconds_count{model_name=\"m\"} 3");
    assert_line(text, "moetuner:time_to_first_token_seconds_sum{model_name=\"m\"} 3000.002");
    free(text);
    metrics_free(m);
}

/* Every name is announced once, before its samples; bounds ascend and counts never fall. */
static void test_format(void **state)
{
    struct metrics *m = metrics_new();
    char *text, *line, *save, announced[64][80], name[80], series[80];
    double le, last_le = 0;
    unsigned long n, last = 0;
    int n_announced = 0, i;

    (void)state;
    for (i = 0; i < 5000; i++)
        metrics_observe(m, (enum metric_histogram)(i % METRIC_HISTOGRAMS), 1ull << (i % 36));
    text = render(m, "m");
    for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (sscanf(line, "# HELP %79s", name) == 1)
            continue;
        if (sscanf(line, "# TYPE %79s", name) == 1) {
            for (i = 0; i < n_announced; i++)
                assert_string_not_equal(announced[i], name);
            snprintf(announced[n_announced++], 80, "%s", name);
            last = 0;
            last_le = 0;
            continue;
        }
        assert_int_equal(sscanf(line, "%79[^{]", series), 1);
        assert_true(n_announced > 0);
        assert_int_equal(strncmp(series, name, strlen(name)), 0);
        if (sscanf(line, "%*[^{]{model_name=\"m\",le=\"%lf\"} %lu", &le, &n) == 2) {
            assert_true(le > last_le);
            assert_true(n >= last);
            last = n;
            last_le = le;
        }
    }
    assert_true(n_announced >= METRIC_HISTOGRAMS + METRIC_GAUGES + METRIC_COUNTERS - 2);
    free(text);
    metrics_free(m);
}

static void *hammer(void *user)
{
    struct metrics *m = user;
    int i;

    for (i = 0; i < 20000; i++) {
        metrics_add(m, METRIC_STEPS, 1);
        metrics_move(m, METRIC_RUNNING, i % 2 ? -1 : 1);
        metrics_observe(m, METRIC_BATCH_TOKENS, (uint64_t)(i % 100));
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct metrics *m = metrics_new();
    pthread_t threads[4];
    char *text;
    int i;

    (void)state;
    for (i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hammer, m), 0);
    free(render(m, "m"));
    for (i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    text = render(m, "m");
    assert_line(text, "moetuner:steps_total{model_name=\"m\"} 80000");
    assert_line(text, "moetuner:num_requests_running{model_name=\"m\"} 0");
    assert_line(text, "moetuner:iteration_tokens_count{model_name=\"m\"} 80000");
    free(text);
    metrics_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_format),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
