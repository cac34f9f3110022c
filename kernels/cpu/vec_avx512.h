/* AVX-512 F, BW, DQ, VL: a v16 is one register. See vec.h. */
#ifndef MT_KERNELS_CPU_VEC_AVX512_H
#define MT_KERNELS_CPU_VEC_AVX512_H

#include "kernels/cpu/vec_x86.h"

#define PART_LANES 16
#define V16_PARTS 1

typedef __m512 vpart;
typedef struct {
    vpart part[V16_PARTS];
} v16;

INLINE vpart part_zero(void)
{
    return _mm512_setzero_ps();
}

INLINE vpart part_set1(float x)
{
    return _mm512_set1_ps(x);
}

INLINE vpart part_load(const float *from)
{
    return _mm512_loadu_ps(from);
}

INLINE void part_store(float *to, vpart v)
{
    _mm512_storeu_ps(to, v);
}

INLINE vpart part_load_bf16(const uint16_t *from)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)from));

    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE vpart part_load_f16(const uint16_t *from)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)from));
}

INLINE vpart part_even_bf16(const uint16_t *from)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(from), 16));
}

INLINE vpart part_odd_bf16(const uint16_t *from)
{
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_loadu_si512(from), _mm512_set1_epi32(-0x10000)));
}

/* bf16 in the upper halves, and something below. Not by vcvtneps2bf16, which takes denormals for
 * zero. */
INLINE __m512i avx512_round_bf16(vpart v)
{
    const __m512i bits = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i near = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);

    return _mm512_mask_blend_epi32(nan, near, quiet);
}

INLINE void part_store_bf16(uint16_t *to, vpart v)
{
    __m512i high = _mm512_srli_epi32(avx512_round_bf16(v), 16);

    _mm256_storeu_si256((__m256i *)(void *)to, _mm512_cvtepi32_epi16(high));
}

INLINE vpart part_round_bf16(vpart v)
{
    return _mm512_castsi512_ps(_mm512_and_si512(avx512_round_bf16(v), _mm512_set1_epi32(-0x10000)));
}

INLINE vpart part_add(vpart a, vpart b)
{
    return _mm512_add_ps(a, b);
}

INLINE vpart part_sub(vpart a, vpart b)
{
    return _mm512_sub_ps(a, b);
}

INLINE vpart part_mul(vpart a, vpart b)
{
    return _mm512_mul_ps(a, b);
}

INLINE vpart part_div(vpart a, vpart b)
{
    return _mm512_div_ps(a, b);
}

INLINE vpart part_max(vpart a, vpart b)
{
    return _mm512_max_ps(a, b);
}

INLINE vpart part_fma(vpart a, vpart b, vpart c)
{
    return _mm512_fmadd_ps(a, b, c);
}

INLINE vpart part_below(vpart x, vpart limit, vpart yes, vpart no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), no, yes);
}

INLINE vpart part_pow2(vpart t)
{
    __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(t), 23);

    return _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(127 << 23)));
}

INLINE __m128 v16_quad(v16 v)
{
    return x86_quad(
        _mm256_add_ps(_mm512_castps512_ps256(v.part[0]), _mm512_extractf32x8_ps(v.part[0], 1)));
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
    const __m512i even =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));

    _mm512_storeu_ps(to, _mm512_permutex2var_ps(a.part[0], even, b.part[0]));
    _mm512_storeu_ps(to + V16_LANES, _mm512_permutex2var_ps(a.part[0], odd, b.part[0]));
}

#endif
