#include "tests/bench/ceiling.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SLICE ((size_t)32 << 20)

struct share {
    pthread_t id;
    const char *from; /* [bytes], read `passes` times */
    size_t bytes;
    unsigned passes;
    pthread_barrier_t *start;
    clockid_t clock;
    double began, ended;
    float sink;
};

static double seconds(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void begin(struct share *s)
{
    pthread_barrier_wait(s->start);
    s->began = seconds(s->clock);
}

static void *end(struct share *s, float sink)
{
    s->ended = seconds(s->clock);
    s->sink = sink;
    return NULL;
}

/* --- reading ---------------------------------------------------------------------------------- */

/* Eight independent sums: arrays of them would live in memory. */
static uint64_t read_plain(const char *from, size_t bytes)
{
    const uint64_t *v = (const uint64_t *)(const void *)from, *end = v + bytes / 8;
    uint64_t a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;

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
    return a + b + c + d + e + f + g + h;
}

static void *read_share_plain(void *argument)
{
    struct share *s = argument;
    uint64_t sum = 0;

    begin(s);
    for (unsigned i = 0; i < s->passes; i++)
        sum += read_plain(s->from, s->bytes);
    return end(s, (float)sum);
}

#if defined __x86_64__
#include <immintrin.h>
#define FMA_LOOPS 6000000u /* multiply-adds of a thread */
#define TWELVE(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11)

/* Whole cache lines by AVX-512 loads, which caches deliver faster; eight in flight. */
__attribute__((target("avx512f"))) static void *read_share_avx512(void *argument)
{
    struct share *s = argument;
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;

    begin(s);
    for (unsigned i = 0; i < s->passes; i++) {
        for (const char *v = s->from; v < s->from + s->bytes; v += 512) {
            a = _mm512_or_si512(a, _mm512_load_si512(v));
            b = _mm512_or_si512(b, _mm512_load_si512(v + 64));
            c = _mm512_or_si512(c, _mm512_load_si512(v + 128));
            d = _mm512_or_si512(d, _mm512_load_si512(v + 192));
            a = _mm512_or_si512(a, _mm512_load_si512(v + 256));
            b = _mm512_or_si512(b, _mm512_load_si512(v + 320));
            c = _mm512_or_si512(c, _mm512_load_si512(v + 384));
            d = _mm512_or_si512(d, _mm512_load_si512(v + 448));
        }
        /* or the compiler reads once for all passes */
        __asm__ volatile("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d) : : "memory");
    }
    a = _mm512_or_si512(_mm512_or_si512(a, b), _mm512_or_si512(c, d));
    return end(s, (float)_mm_cvtsi128_si32(_mm512_castsi512_si128(a)));
}

/* --- multiply-adds ---------------------------------------------------------------------------- */

/* x += x * x in twelve registers, kept apart by assembly that the compiler cannot see through. */
__attribute__((target("avx2,fma"))) static void *fma_avx2(void *argument)
{
    struct share *s = argument;
#define DECLARE(n) __m256 x##n = _mm256_set1_ps(1e-9f * (n));
#define STEP(n) __asm__ volatile("vfmadd231ps %0, %0, %0" : "+x"(x##n));
#define SUM(n) s->sink += _mm256_cvtss_f32(x##n);
    TWELVE(DECLARE)

    begin(s);
    for (uint32_t i = 0; i < FMA_LOOPS / 12; i++) {
        TWELVE(STEP)
    }
    end(s, 0);
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

    begin(s);
    for (uint32_t i = 0; i < FMA_LOOPS / 12; i++) {
        TWELVE(STEP)
    }
    end(s, 0);
    TWELVE(SUM)
    return NULL;
}
#endif

/* --- runs ------------------------------------------------------------------------------------- */

/* Of fn on all shares at once; 0 if a thread cannot be had. */
static double time_once(struct share *share, unsigned n, void *(*fn)(void *))
{
    pthread_barrier_t start;
    double began, ended;

    if (pthread_barrier_init(&start, NULL, n))
        return 0;
    for (unsigned i = 0; i < n; i++) {
        share[i].start = &start;
        if (pthread_create(&share[i].id, NULL, fn, &share[i]))
            return 0; /* those that were made wait for ever: the program is about to give up */
    }
    for (unsigned i = 0; i < n; i++)
        pthread_join(share[i].id, NULL);
    pthread_barrier_destroy(&start);
    began = share[0].began;
    ended = share[0].ended;
    for (unsigned i = 1; i < n; i++) {
        began = share[i].began < began ? share[i].began : began;
        ended = share[i].ended > ended ? share[i].ended : ended;
    }
    return ended - began;
}

static double rate(double amount, double took)
{
    return took > 0 ? amount / took * 1e-9 : 0;
}

/* each: bytes of a share, all next to each other. */
static double read_by(void *(*fn)(void *), struct share *share, unsigned n, const char *from,
                      size_t each, unsigned runs)
{
    size_t slice = each < SLICE ? each : SLICE, slices = each / slice;
    double best = 0;

    for (unsigned run = 0; run < runs; run++) {
        double found;

        for (unsigned i = 0; i < n; i++) {
            share[i].from = from + each * i + run % slices * slice;
            share[i].bytes = slice;
            share[i].passes = (unsigned)(SLICE / slice);
        }
        found = rate((double)slice * share[0].passes * n, time_once(share, n, fn));
        best = found > best ? found : best;
    }
    return best;
}

static struct share *new_shares(unsigned n, clockid_t clock)
{
    struct share *share = calloc(n, sizeof *share);

    for (unsigned i = 0; share && i < n; i++)
        share[i].clock = clock;
    return share;
}

double ceiling_read(const char *from, size_t bytes, unsigned threads, unsigned runs,
                    clockid_t clock)
{
    struct share *share = new_shares(threads, clock);
    size_t each = bytes / threads / 512 * 512;
    double best = 0, wide = 0;

    if (share && each) {
        best = read_by(read_share_plain, share, threads, from, each, runs);
#if defined __x86_64__
        if (__builtin_cpu_supports("avx512f"))
            wide = read_by(read_share_avx512, share, threads, from, each, runs);
#endif
    }
    free(share);
    return wide > best ? wide : best;
}

double ceiling_flops(const char *isa, unsigned threads, unsigned runs, clockid_t clock)
{
    double best = 0;
#if defined __x86_64__
    struct share *share = new_shares(threads, clock);
    bool wide = !strcmp(isa, "avx512");

    for (unsigned i = 0; share && i < runs && (wide || !strcmp(isa, "avx2")); i++) {
        double took = time_once(share, threads, wide ? fma_avx512 : fma_avx2);
        double found = rate(2.0 * (wide ? 16 : 8) * FMA_LOOPS * threads, took);

        best = found > best ? found : best;
    }
    free(share);
#else
    (void)isa, (void)threads, (void)runs, (void)clock;
#endif
    return best;
}
