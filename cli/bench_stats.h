/* Distributions of latencies in bounded memory: buckets whose width is 1/256 of their value. A
 * quantile is off by at most 0.2 %; count, mean and maximum are exact. Pure. */
#ifndef MT_CLI_BENCH_STATS_H
#define MT_CLI_BENCH_STATS_H

#include <stdint.h>

#define BENCH_HIST_BITS 8
#define BENCH_HIST_BUCKETS ((64 - BENCH_HIST_BITS + 1) << BENCH_HIST_BITS)

struct bench_hist { /* zeroed: empty */
    uint64_t n, max;
    double sum;
    uint64_t counts[BENCH_HIST_BUCKETS];
};

/* `times` samples of one value. */
void bench_hist_add(struct bench_hist *h, uint64_t value, uint64_t times);
/* The smallest value that at least q of all samples do not exceed (nearest rank); 0 if empty. */
double bench_hist_quantile(const struct bench_hist *h, double q);
double bench_hist_mean(const struct bench_hist *h); /* 0 if empty */

#endif
