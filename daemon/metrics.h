/* Counters, gauges and histograms, and their Prometheus text.
 *
 * Updates are atomic and lock-free: any thread. */
#ifndef MT_DAEMON_METRICS_H
#define MT_DAEMON_METRICS_H

#include <stdint.h>

#include "api/buf.h"

enum metric_counter {
    METRIC_PROMPT_TOKENS,
    METRIC_GENERATION_TOKENS,
    METRIC_OVERRUN_TOKENS, /* sampled after a stop was found, dropped */
    METRIC_SUCCESS_STOP,
    METRIC_SUCCESS_LENGTH,
    METRIC_SUCCESS_ABORT,
    METRIC_FAILURES,
    METRIC_REJECTED_QUEUE, /* 429 */
    METRIC_PREEMPTIONS,
    METRIC_PREFIX_QUERIES, /* tokens */
    METRIC_PREFIX_HITS,
    METRIC_STEPS,
    METRIC_RESTARTS,
    METRIC_HTTP_REQUESTS,
    METRIC_COUNTERS,
};

enum metric_gauge {
    METRIC_RUNNING,
    METRIC_WAITING,
    METRIC_KV_USAGE_PPM, /* exported as a fraction */
    METRIC_CONNECTIONS,
    METRIC_GAUGES,
};

enum metric_histogram {
    METRIC_TTFT_US,
    METRIC_INTER_TOKEN_US,
    METRIC_E2E_US,
    METRIC_QUEUE_US,
    METRIC_PREFILL_US,
    METRIC_DECODE_US,
    METRIC_PROMPT_LENGTH,
    METRIC_GENERATION_LENGTH,
    METRIC_STEP_US,
    METRIC_STEP_GAP_US,
    METRIC_BATCH_TOKENS,
    METRIC_HISTOGRAMS,
};

struct metrics;

struct metrics *metrics_new(void); /* NULL: out of memory */
void metrics_free(struct metrics *m);
void metrics_add(struct metrics *m, enum metric_counter c, uint64_t n);
void metrics_set(struct metrics *m, enum metric_gauge g, int64_t value);
void metrics_move(struct metrics *m, enum metric_gauge g, int64_t delta);
void metrics_observe(struct metrics *m, enum metric_histogram h, uint64_t value);
/* Prometheus text format 0.0.4; names after vLLM's where the meaning is the same. */
int metrics_render(const struct metrics *m, const char *model, struct buf *out);

#endif
