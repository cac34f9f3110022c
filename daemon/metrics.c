/* Metrics as three tables, whose rows say how each is called and explained. Values are relaxed
 * atomics: a scrape sees each number whole, not all numbers of one moment. */
#include "daemon/metrics.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "api/status.h"

#define MAX_BUCKETS 32

struct row {
    const char *name;   /* after moetuner: */
    const char *labels; /* further labels, with a leading comma, or "" */
    const char *help;
    double scale; /* stored value to exported one */
};

#define MICRO 1e-6

/* Rows of one name stand together: the type line is written for the first. */
static const struct row counters[METRIC_COUNTERS] = {
    [METRIC_PROMPT_TOKENS] = {"prompt_tokens_total", "", "Prompt tokens processed.", 1},
    [METRIC_GENERATION_TOKENS] = {"generation_tokens_total", "", "Tokens generated.", 1},
    [METRIC_OVERRUN_TOKENS] = {"overrun_tokens_total", "",
                               "Tokens sampled after a stop was found, dropped.", 1},
    [METRIC_SUCCESS_STOP] = {"request_success_total", ",finished_reason=\"stop\"",
                             "Choices that ended well or by their client.", 1},
    [METRIC_SUCCESS_LENGTH] = {"request_success_total", ",finished_reason=\"length\"", "", 1},
    [METRIC_SUCCESS_ABORT] = {"request_success_total", ",finished_reason=\"abort\"", "", 1},
    [METRIC_FAILURES] = {"request_failures_total", "", "Requests that ended with an error.", 1},
    [METRIC_REJECTED_QUEUE] = {"request_rejections_total", "",
                               "Requests refused because the queue was full.", 1},
    [METRIC_PREEMPTIONS] = {"num_preemptions_total", "",
                            "Sequences that gave up their KV blocks and waited again.", 1},
    [METRIC_PREFIX_QUERIES] = {"prefix_cache_queries_total", "",
                               "Prompt tokens looked up in the prefix cache.", 1},
    [METRIC_PREFIX_HITS] = {"prefix_cache_hits_total", "", "Prompt tokens found there.", 1},
    [METRIC_STEPS] = {"steps_total", "", "Forward passes of all ranks.", 1},
    [METRIC_RESTARTS] = {"job_restarts_total", "", "Relaunches of the worker job.", 1},
    [METRIC_HTTP_REQUESTS] = {"http_requests_total", "", "HTTP requests received.", 1},
    [METRIC_HTTP_REFUSED] = {"http_connections_refused_total", "",
                             "Connections over the limit of their client.", 1},
    [METRIC_LOG_DROPPED] = {"log_lines_dropped_total", "",
                            "Log lines that standard error did not take.", 1},
};

static const struct row gauges[METRIC_GAUGES] = {
    [METRIC_RUNNING] = {"num_requests_running", "", "Requests that run on the ranks.", 1},
    [METRIC_WAITING] = {"num_requests_waiting", "", "Requests that wait to run.", 1},
    [METRIC_KV_USAGE_PPM] = {"kv_cache_usage_perc", "",
                             "KV cache held by sequences; 1 is all of it.", 1e-6},
    [METRIC_CONNECTIONS] = {"http_connections", "", "Open HTTP connections.", 1},
};

/* Upper bounds as vLLM's, with finer ones below where a small model needs them; 0 ends a list. */
static const double ttft_s[MAX_BUCKETS] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                           0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                           20,    40,    80,   160,  640,  2560};
static const double token_s[MAX_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1,
                                            0.15,  0.2,    0.3,   0.4,  0.5,   0.75, 1,     2.5,
                                            5,     7.5,    10,    20,   40,    80};
static const double request_s[MAX_BUCKETS] = {0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 1,    1.5,
                                              2,    2.5,  5,   10,  15,  20,  30,   40,
                                              50,   60,   120, 240, 480, 960, 1920, 7680};
static const double step_s[MAX_BUCKETS] = {1e-5,   2.5e-5, 5e-5, 1e-4,  2.5e-4, 5e-4, 1e-3,
                                           2.5e-3, 5e-3,   0.01, 0.025, 0.05,   0.1,  0.25,
                                           0.5,    1,      2.5,  5,     10};
static const double lengths[MAX_BUCKETS] = {
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
static const double batch[MAX_BUCKETS] = {1,   8,    16,   32,   64,   128,  256,
                                          512, 1024, 2048, 4096, 8192, 16384};

static const struct histogram_row {
    struct row row;
    const double *bounds;
} histograms[METRIC_HISTOGRAMS] = {
    [METRIC_TTFT_US] = {{"time_to_first_token_seconds", "", "Arrival to first token.", MICRO},
                        ttft_s},
    [METRIC_INTER_TOKEN_US] = {{"inter_token_latency_seconds", "",
                                "Time between tokens of a choice.", MICRO},
                               token_s},
    [METRIC_E2E_US] = {{"e2e_request_latency_seconds", "", "Arrival to end.", MICRO}, request_s},
    [METRIC_QUEUE_US] = {{"request_queue_time_seconds", "", "Arrival to being run.", MICRO},
                         request_s},
    [METRIC_PREFILL_US] = {{"request_prefill_time_seconds", "", "Being run to first token.", MICRO},
                           request_s},
    [METRIC_DECODE_US] = {{"request_decode_time_seconds", "", "First token to end.", MICRO},
                          request_s},
    [METRIC_PROMPT_LENGTH] = {{"request_prompt_tokens", "", "Prompt tokens of a request.", 1},
                              lengths},
    [METRIC_GENERATION_LENGTH] = {{"request_generation_tokens", "",
                                   "Tokens generated for a request.", 1},
                                  lengths},
    [METRIC_STEP_US] = {{"step_seconds", "", "Forward pass, slowest rank.", MICRO}, step_s},
    [METRIC_STEP_GAP_US] = {{"step_gap_seconds", "",
                             "Between two forward passes, longest on any rank.", MICRO},
                            step_s},
    [METRIC_BATCH_TOKENS] = {{"iteration_tokens", "", "Tokens in a forward pass.", 1}, batch},
};

struct histogram {
    uint64_t sum;
    uint64_t counts[MAX_BUCKETS + 1]; /* not cumulative; the last is beyond all bounds */
};

struct metrics {
    uint64_t counters[METRIC_COUNTERS];
    int64_t gauges[METRIC_GAUGES];
    struct histogram histograms[METRIC_HISTOGRAMS];
};

struct metrics *metrics_new(void)
{
    return calloc(1, sizeof(struct metrics));
}

void metrics_free(struct metrics *m)
{
    free(m);
}

void metrics_add(struct metrics *m, enum metric_counter c, uint64_t n)
{
    __atomic_fetch_add(&m->counters[c], n, __ATOMIC_RELAXED);
}

void metrics_total(struct metrics *m, enum metric_counter c, uint64_t total)
{
    __atomic_store_n(&m->counters[c], total, __ATOMIC_RELAXED);
}

void metrics_set(struct metrics *m, enum metric_gauge g, int64_t value)
{
    __atomic_store_n(&m->gauges[g], value, __ATOMIC_RELAXED);
}

void metrics_move(struct metrics *m, enum metric_gauge g, int64_t delta)
{
    __atomic_fetch_add(&m->gauges[g], delta, __ATOMIC_RELAXED);
}

void metrics_observe(struct metrics *m, enum metric_histogram h, uint64_t value)
{
    const struct histogram_row *row = &histograms[h];
    double v = (double)value * row->row.scale;
    uint32_t i = 0;

    while (i < MAX_BUCKETS && row->bounds[i] > 0 && v > row->bounds[i])
        i++;
    __atomic_fetch_add(&m->histograms[h].sum, value, __ATOMIC_RELAXED);
    __atomic_fetch_add(&m->histograms[h].counts[i], 1, __ATOMIC_RELAXED);
}

static void head(struct buf *out, const struct row *row, const char *type)
{
    buf_printf(out, "# HELP moetuner:%s %s\n# TYPE moetuner:%s %s\n", row->name, row->help,
               row->name, type);
}

static void render_histogram(const struct histogram *h, const struct histogram_row *row,
                             const char *label, struct buf *out)
{
    uint64_t n = 0;
    uint32_t i;

    head(out, &row->row, "histogram");
    for (i = 0; i < MAX_BUCKETS && row->bounds[i] > 0; i++) {
        n += __atomic_load_n(&h->counts[i], __ATOMIC_RELAXED);
        buf_printf(out, "moetuner:%s_bucket{%s,le=\"%.9g\"} %" PRIu64 "\n", row->row.name, label,
                   row->bounds[i], n);
    }
    n += __atomic_load_n(&h->counts[i], __ATOMIC_RELAXED);
    buf_printf(out, "moetuner:%s_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n", row->row.name, label, n);
    buf_printf(out, "moetuner:%s_sum{%s} %.9g\n", row->row.name, label,
               (double)__atomic_load_n(&h->sum, __ATOMIC_RELAXED) * row->row.scale);
    buf_printf(out, "moetuner:%s_count{%s} %" PRIu64 "\n", row->row.name, label, n);
}

/* model_name="..." with the escapes of the text format. */
static int model_label(struct buf *label, const char *model)
{
    buf_puts(label, "model_name=\"");
    for (; *model; model++) {
        if (*model == '\n')
            buf_puts(label, "\\n");
        else if (*model == '\\' || *model == '"')
            buf_printf(label, "\\%c", *model);
        else
            buf_append(label, model, 1);
    }
    buf_puts(label, "\"");
    return label->status;
}

int metrics_render(const struct metrics *m, const char *model, struct buf *out)
{
    struct buf label_buf;
    uint32_t i;
    char *label;

    buf_init(&label_buf, 4096);
    model_label(&label_buf, model);
    label = buf_steal(&label_buf);
    buf_done(&label_buf);
    if (!label)
        return MT_ENOMEM;
    for (i = 0; i < METRIC_COUNTERS; i++) {
        if (!i || strcmp(counters[i].name, counters[i - 1].name))
            head(out, &counters[i], "counter");
        buf_printf(out, "moetuner:%s{%s%s} %" PRIu64 "\n", counters[i].name, label,
                   counters[i].labels, __atomic_load_n(&m->counters[i], __ATOMIC_RELAXED));
    }
    for (i = 0; i < METRIC_GAUGES; i++) {
        head(out, &gauges[i], "gauge");
        buf_printf(out, "moetuner:%s{%s} %.9g\n", gauges[i].name, label,
                   (double)__atomic_load_n(&m->gauges[i], __ATOMIC_RELAXED) * gauges[i].scale);
    }
    for (i = 0; i < METRIC_HISTOGRAMS; i++)
        render_histogram(&m->histograms[i], &histograms[i], label, out);
    free(label);
    return out->status;
}
