#include "cli/bench_stats.h"

#include <math.h>

/* Values below 2^(BITS+1) have a bucket each; above, each octave has 2^BITS. */
static uint32_t bucket_of(uint64_t value)
{
    uint32_t top = 63u - (uint32_t)__builtin_clzll(value | 1);
    uint32_t shift = top > BENCH_HIST_BITS ? top - BENCH_HIST_BITS : 0;

    return (shift << BENCH_HIST_BITS) + (uint32_t)(value >> shift);
}

/* The middle of a bucket. */
static double value_of(uint32_t bucket)
{
    uint32_t octave = bucket >> BENCH_HIST_BITS, shift = octave > 1 ? octave - 1 : 0;
    double low = ldexp((double)(bucket - (shift << BENCH_HIST_BITS)), (int)shift);

    return low + (ldexp(1, (int)shift) - 1) / 2;
}

void bench_hist_add(struct bench_hist *h, uint64_t value, uint64_t times)
{
    h->n += times;
    h->sum += (double)value * (double)times;
    if (times && value > h->max)
        h->max = value;
    h->counts[bucket_of(value)] += times;
}

double bench_hist_quantile(const struct bench_hist *h, double q)
{
    double rank = ceil(q * (double)h->n);
    uint64_t seen = 0;

    for (uint32_t i = 0; i < BENCH_HIST_BUCKETS && h->n; i++) {
        seen += h->counts[i];
        if (seen && (double)seen >= rank)
            return fmin(value_of(i), (double)h->max);
    }
    return (double)h->max;
}

double bench_hist_mean(const struct bench_hist *h)
{
    return h->n ? h->sum / (double)h->n : 0;
}
