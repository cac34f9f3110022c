/* The lower half of the canonical tree, for both x86 instruction sets. Additions may swap their
 * operands, which changes no bit. */
#ifndef MT_KERNELS_CPU_VEC_X86_H
#define MT_KERNELS_CPU_VEC_X86_H

#include <immintrin.h>

/* s[j] += s[j+4], j < 4 */
INLINE __m128 x86_quad(__m256 v)
{
    return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}

/* s[j] += s[j+2], j < 2; s[0] + s[1] */
INLINE float x86_quad_sum(__m128 v)
{
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}

/* The same for four vectors at once: their transpose, added in the same pairs. */
INLINE void x86_quad_sum4(float *to, __m128 a, __m128 b, __m128 c, __m128 d)
{
    __m128 ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b)); /* a02 b02 a13 b13 */
    __m128 cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));

    _mm_storeu_ps(to, _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab)));
}

#endif
