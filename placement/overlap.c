#include "placement/overlap.h"

#if defined __x86_64__
#include <immintrin.h>
#endif

static inline __attribute__((always_inline)) void count_words(const uint64_t *a,
                                                              const uint64_t *rows, size_t stride,
                                                              const uint16_t *expert,
                                                              uint32_t experts, size_t n,
                                                              uint32_t *ret)
{
    for (uint32_t k = 0; k < experts; k++) {
        const uint64_t *row = rows + expert[k] * stride;
        uint32_t sum = 0;

        for (size_t w = 0; w < n; w++)
            sum += (uint32_t)__builtin_popcountll(a[w] & row[w]);
        ret[k] = sum;
    }
}

#if defined __x86_64__
__attribute__((target("popcnt"))) static void count_popcnt(const uint64_t *a, const uint64_t *rows,
                                                           size_t stride, const uint16_t *expert,
                                                           uint32_t experts, size_t n,
                                                           uint32_t *ret)
{
    count_words(a, rows, stride, expert, experts, n, ret);
}

__attribute__((target("avx512f,avx512vpopcntdq"))) static void count_avx512(
    const uint64_t *a, const uint64_t *rows, size_t stride, const uint16_t *expert,
    uint32_t experts, size_t n, uint32_t *ret)
{
    __mmask8 tail = (__mmask8)((1u << (n % 8)) - 1);
    size_t whole = n / 8 * 8;

    for (uint32_t k = 0; k < experts; k++) {
        const uint64_t *row = rows + expert[k] * stride;
        __m512i sum = _mm512_setzero_si512(), both;

        for (size_t w = 0; w < whole; w += 8) {
            both = _mm512_and_si512(_mm512_loadu_si512(a + w), _mm512_loadu_si512(row + w));
            sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(both));
        }
        both = _mm512_and_si512(_mm512_maskz_loadu_epi64(tail, a + whole),
                                _mm512_maskz_loadu_epi64(tail, row + whole));
        sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(both));
        ret[k] = (uint32_t)_mm512_reduce_add_epi64(sum);
    }
}
#endif

void overlap_count(const uint64_t *a, const uint64_t *rows, size_t stride, const uint16_t *expert,
                   uint32_t experts, size_t n, uint32_t *ret)
{
#if defined __x86_64__
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vpopcntdq")) {
        count_avx512(a, rows, stride, expert, experts, n, ret);
        return;
    }
    if (__builtin_cpu_supports("popcnt")) {
        count_popcnt(a, rows, stride, expert, experts, n, ret);
        return;
    }
#endif
    count_words(a, rows, stride, expert, experts, n, ret);
}
