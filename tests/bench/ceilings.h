/* What the machine can do, measured in the run that is to be held against it. */
#ifndef MT_TESTS_BENCH_CEILINGS_H
#define MT_TESTS_BENCH_CEILINGS_H

#include <stddef.h>
#include <time.h>

struct ceilings {
    double read;  /* GB/s: a plain loop over memory beyond all caches */
    double flops; /* GFLOP/s: multiply-adds out of registers; 0: not known for this isa */
};

/* With that many threads at once; the best of several runs by the clock `id`. cold: [bytes] of
 * memory that has been written. */
struct ceilings ceilings_measure(const char *isa, unsigned threads, const char *cold, size_t bytes,
                                 clockid_t id);

/* GB/s, the best of three passes: to be taken between other things where a machine's speed changes
 * by the minute. */
double ceilings_read(unsigned threads, const char *cold, size_t bytes);

#endif
