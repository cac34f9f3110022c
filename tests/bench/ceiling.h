/* What this machine can do at most, measured: reading memory, multiply-adds out of registers. */
#ifndef MT_TESTS_BENCH_CEILING_H
#define MT_TESTS_BENCH_CEILING_H

#include <stddef.h>
#include <time.h>

/* GB/s of n threads that together read `bytes` at `from` (aligned to 64), each its own share, a
 * slice of 32 MiB in a run. The best of `runs` short runs, since other work disturbs only some of
 * them; several rounds through the whole want as many runs. 0: not measured. */
double ceiling_read(const char *from, size_t bytes, unsigned threads, unsigned runs,
                    clockid_t clock);

/* GFLOP/s of n threads with one instruction set ("avx512", "avx2"); 0: not measured. */
double ceiling_flops(const char *isa, unsigned threads, unsigned runs, clockid_t clock);

#endif
