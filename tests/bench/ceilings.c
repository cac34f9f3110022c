#include "tests/bench/ceilings.h"

#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPEATS 12

struct share {
    pthread_t id;
    const char *from;
    size_t bytes;
    pthread_barrier_t *start;
    float sink;
};

/* Eight independent sums: arrays of them would live in memory. */
static void *read_share(void *argument)
{
    struct share *s = argument;
    const uint64_t *v = (const uint64_t *)(const void *)s->from, *end = v + s->bytes / 8;
    uint64_t a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;

    pthread_barrier_wait(s->start);
    for (; v < end; v += 8) {
        a += v[0];
        b += v[1];
        c += v[2];
        d += v[3];
        e += v[4];
        f += v[5];
        g += v[6];
        h += v[7];
    }
    s->sink = (float)(a + b + c + d + e + f + g + h);
    return NULL;
}

#if defined __x86_64__
#include <immintrin.h>
#define FMA_LOOPS 60000000u /* multiply-adds of a thread */
#define TWELVE(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11)

/* x += x * x in twelve registers, kept apart by assembly that the compiler cannot see through. */
__attribute__((target("avx2,fma"))) static void *fma_avx2(void *argument)
{
    struct share *s = argument;
#define DECLARE(n) __m256 x##n = _mm256_set1_ps(1e-9f * (n));
#define STEP(n) __asm__ volatile("vfmadd231ps %0, %0, %0" : "+x"(x##n));
#define SUM(n) s->sink += _mm256_cvtss_f32(x##n);
    TWELVE(DECLARE)

    pthread_barrier_wait(s->start);
    for (uint32_t i = 0; i < FMA_LOOPS / 12; i++) {
        TWELVE(STEP)
    }
    TWELVE(SUM)
    return NULL;
#undef DECLARE
}

__attribute__((target("avx512f"))) static void *fma_avx512(void *argument)
{
    struct share *s = argument;
#define DECLARE(n) __m512 x##n = _mm512_set1_ps(1e-9f * (n));
#undef STEP
#define STEP(n) __asm__ volatile("vfmadd231ps %0, %0, %0" : "+v"(x##n));
#undef SUM
#define SUM(n) s->sink += _mm512_cvtss_f32(x##n);
    TWELVE(DECLARE)

    pthread_barrier_wait(s->start);
    for (uint32_t i = 0; i < FMA_LOOPS / 12; i++) {
        TWELVE(STEP)
    }
    TWELVE(SUM)
    return NULL;
}
#endif

static double now(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Best time of fn on n threads at once; infinity if there is no memory. */
static double timed_threads(unsigned repeats, unsigned n, void *(*fn)(void *), const char *cold,
                            size_t bytes, clockid_t id)
{
    struct share *share = calloc(n, sizeof *share);
    double best = INFINITY;

    if (!share)
        return best;
    for (unsigned repeat = 0; repeat < repeats; repeat++) {
        pthread_barrier_t start;
        double from;

        pthread_barrier_init(&start, NULL, n + 1);
        for (unsigned i = 0; i < n; i++) {
            share[i].from = cold + bytes / n / 64 * 64 * i;
            share[i].bytes = bytes / n / 64 * 64;
            share[i].start = &start;
            if (pthread_create(&share[i].id, NULL, fn, &share[i])) {
                fprintf(stderr, "bench: cannot start a thread\n");
                exit(1);
            }
        }
        from = now(id); /* not after: on a busy machine they may be done before this thread runs */
        pthread_barrier_wait(&start);
        for (unsigned i = 0; i < n; i++)
            pthread_join(share[i].id, NULL);
        from = now(id) - from;
        best = from < best ? from : best;
        pthread_barrier_destroy(&start);
    }
    free(share);
    return best;
}

struct ceilings ceilings_measure(const char *isa, unsigned threads, const char *cold, size_t bytes,
                                 clockid_t id)
{
    struct ceilings top = {.read = (double)bytes * 1e-9 /
                                   timed_threads(REPEATS, threads, read_share, cold, bytes, id)};

#if defined __x86_64__
    if (strcmp(isa, "avx512") == 0)
        top.flops = 2e-9 * 16 * FMA_LOOPS * threads /
                    timed_threads(REPEATS, threads, fma_avx512, cold, bytes, id);
    else if (strcmp(isa, "avx2") == 0)
        top.flops = 2e-9 * 8 * FMA_LOOPS * threads /
                    timed_threads(REPEATS, threads, fma_avx2, cold, bytes, id);
#endif
    return top;
}

double ceilings_read(unsigned threads, const char *cold, size_t bytes)
{
    return (double)bytes * 1e-9 /
           timed_threads(3, threads, read_share, cold, bytes, CLOCK_MONOTONIC);
}
