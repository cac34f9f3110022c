/* AVX2, FMA and F16C: a v16 is two registers of eight lanes. See vec.h. */
#ifndef MT_KERNELS_CPU_VEC_AVX2_H
#define MT_KERNELS_CPU_VEC_AVX2_H

#include "kernels/cpu/vec_x86.h"

#define PART_LANES 8
#define V16_PARTS 2

typedef __m256 vpart;
typedef struct {
    vpart part[V16_PARTS];
} v16;

INLINE vpart part_zero(void)
{
    return _mm256_setzero_ps();
}

INLINE vpart part_set1(float x)
{
    return _mm256_set1_ps(x);
}

INLINE vpart part_load(const float *from)
{
    return _mm256_loadu_ps(from);
}

INLINE void part_store(float *to, vpart v)
{
    _mm256_storeu_ps(to, v);
}

INLINE vpart part_load_bf16(const uint16_t *from)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)from));

    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

INLINE vpart part_load_f16(const uint16_t *from)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)from));
}

INLINE vpart part_even_bf16(const uint16_t *from)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)(const void *)from), 16));
}

INLINE vpart part_odd_bf16(const uint16_t *from)
{
    return _mm256_castsi256_ps(_mm256_and_si256(
        _mm256_loadu_si256((const __m256i *)(const void *)from), _mm256_set1_epi32(-0x10000)));
}

/* bf16 in the upper halves, and something below. */
INLINE __m256i avx2_round_bf16(vpart v)
{
    const __m256i bits = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i near = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));

    return _mm256_blendv_epi8(near, quiet, nan);
}

INLINE void part_store_bf16(uint16_t *to, vpart v)
{
    __m256i high = _mm256_srli_epi32(avx2_round_bf16(v), 16);

    _mm_storeu_si128((__m128i *)(void *)to, _mm_packus_epi32(_mm256_castsi256_si128(high),
                                                             _mm256_extracti128_si256(high, 1)));
}

INLINE vpart part_round_bf16(vpart v)
{
    return _mm256_castsi256_ps(_mm256_and_si256(avx2_round_bf16(v), _mm256_set1_epi32(-0x10000)));
}

INLINE vpart part_add(vpart a, vpart b)
{
    return _mm256_add_ps(a, b);
}

INLINE vpart part_sub(vpart a, vpart b)
{
    return _mm256_sub_ps(a, b);
}

INLINE vpart part_mul(vpart a, vpart b)
{
    return _mm256_mul_ps(a, b);
}

INLINE vpart part_div(vpart a, vpart b)
{
    return _mm256_div_ps(a, b);
}

INLINE vpart part_max(vpart a, vpart b)
{
    return _mm256_max_ps(a, b);
}

INLINE vpart part_fma(vpart a, vpart b, vpart c)
{
    return _mm256_fmadd_ps(a, b, c);
}

INLINE vpart part_below(vpart x, vpart limit, vpart yes, vpart no)
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, limit, _CMP_LT_OQ));
}

INLINE vpart part_pow2(vpart t)
{
    __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(t), 23);

    return _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(127 << 23)));
}

INLINE __m128 v16_quad(v16 v)
{
    return x86_quad(_mm256_add_ps(v.part[0], v.part[1]));
}

INLINE float v16_sum(v16 v)
{
    return x86_quad_sum(v16_quad(v));
}

INLINE void v16_sum4(float *to, v16 a, v16 b, v16 c, v16 d)
{
    x86_quad_sum4(to, v16_quad(a), v16_quad(b), v16_quad(c), v16_quad(d));
}

INLINE void v16_split(float *to, v16 a, v16 b)
{
    const v16 from[2] = {a, b};

    for (int i = 0; i < 2; i++) {
        __m256 even = _mm256_shuffle_ps(from[i].part[0], from[i].part[1], 0x88);
        __m256 odd = _mm256_shuffle_ps(from[i].part[0], from[i].part[1], 0xdd);

        even = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(even), 0xd8));
        odd = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(odd), 0xd8));
        _mm256_storeu_ps(to + i * PART_LANES, even);
        _mm256_storeu_ps(to + V16_LANES + i * PART_LANES, odd);
    }
}

#endif
