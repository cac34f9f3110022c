/* v16: sixteen float32 lanes, the unit in which the CPU backend computes, and what is built on it.
 *
 * A v16 is V16_PARTS registers ("parts") of PART_LANES lanes; lane j is lane j % PART_LANES of part
 * j / PART_LANES. The header of an instruction set supplies the part_* operations, every one of
 * them exact or correctly rounded and equal on all instruction sets to the last bit; everything
 * else is written once, here. So results do not depend on the instruction set. NaN payloads may
 * differ.
 *
 * part_* operations: zero, set1, load, store, load_bf16, load_f16 (any alignment), even_bf16 and
 * odd_bf16 (every other one of 2 * PART_LANES elements), store_bf16 and round_bf16 (round to
 * nearest even, NaN stays NaN; in memory, or as float32), add, sub, mul, div, fma(a, b, c) = a*b +
 * c rounded once, max(a, b) = a > b ? a : b (so b if either is NaN), below(x, limit, yes, no) = x <
 * limit ? yes : no, pow2(t) = 2^n for t = EXP_SHIFTER + n, -126 <= n <= 127, by moving bits. Of a
 * whole v16: v16_sum(v), the sum of the lanes by the canonical tree, v16_sum4, of four, and
 * v16_split, which stores the even, then the odd elements of two. */
#ifndef MT_KERNELS_CPU_VEC_H
#define MT_KERNELS_CPU_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

/* Plain C is left to the compiler: forced into one function, its arrays of lanes take minutes to
 * compile with a sanitizer. */
#if defined KERNELS_ISA_portable
#define INLINE static __attribute__((unused))
#else
#define INLINE static inline __attribute__((always_inline, unused))
#endif
/* Before loops over registers, which must become straight code (but not under sanitizers, which
 * watch every element of it). */
#if defined KERNELS_ISA_portable || defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#define UNROLL
#elif defined __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define V16_LANES 16
#define EXP_SHIFTER 0x1.8p23f /* adding it rounds to an integer, kept in the low mantissa bits */

#if defined KERNELS_ISA_avx512
#include "kernels/cpu/vec_avx512.h"
#elif defined KERNELS_ISA_avx2
#include "kernels/cpu/vec_avx2.h"
#elif defined KERNELS_ISA_portable
#include "kernels/cpu/vec_portable.h"
#else
#error "compile with -DKERNELS_ISA_<name>"
#endif

INLINE v16 v16_set1(float x)
{
    v16 v;

    UNROLL
    for (int i = 0; i < V16_PARTS; i++)
        v.part[i] = part_set1(x);
    return v;
}

INLINE v16 v16_zero(void)
{
    return v16_set1(0.0f);
}

INLINE v16 v16_load(const float *from)
{
    v16 v;

    UNROLL
    for (int i = 0; i < V16_PARTS; i++)
        v.part[i] = part_load(from + i * PART_LANES);
    return v;
}

INLINE void v16_store(float *to, v16 v)
{
    UNROLL
    for (int i = 0; i < V16_PARTS; i++)
        part_store(to + i * PART_LANES, v.part[i]);
}

#define V16_BINARY(op) \
    INLINE v16 v16_##op(v16 a, v16 b) \
    { \
        UNROLL \
        for (int i = 0; i < V16_PARTS; i++) \
            a.part[i] = part_##op(a.part[i], b.part[i]); \
        return a; \
    }
V16_BINARY(add)
V16_BINARY(sub)
V16_BINARY(mul)
V16_BINARY(div)
V16_BINARY(max)
#undef V16_BINARY

INLINE v16 v16_fma(v16 a, v16 b, v16 c)
{
    UNROLL
    for (int i = 0; i < V16_PARTS; i++)
        c.part[i] = part_fma(a.part[i], b.part[i], c.part[i]);
    return c;
}

INLINE v16 v16_below(v16 x, v16 limit, v16 yes, v16 no)
{
    UNROLL
    for (int i = 0; i < V16_PARTS; i++)
        x.part[i] = part_below(x.part[i], limit.part[i], yes.part[i], no.part[i]);
    return x;
}

INLINE v16 v16_pow2(v16 t)
{
    UNROLL
    for (int i = 0; i < V16_PARTS; i++)
        t.part[i] = part_pow2(t.part[i]);
    return t;
}

/* One part of values stored as `dtype`, at element `at`. */
INLINE vpart part_load_as(const void *from, size_t at, enum dtype dtype)
{
    if (dtype == DTYPE_F32)
        return part_load((const float *)from + at);
    if (dtype == DTYPE_BF16)
        return part_load_bf16((const uint16_t *)from + at);
    return part_load_f16((const uint16_t *)from + at);
}

INLINE v16 v16_load_as(const void *from, size_t at, enum dtype dtype)
{
    v16 v;

    UNROLL
    for (int i = 0; i < V16_PARTS; i++)
        v.part[i] = part_load_as(from, at + i * PART_LANES, dtype);
    return v;
}

INLINE void v16_store_bf16(uint16_t *to, v16 v)
{
    UNROLL
    for (int i = 0; i < V16_PARTS; i++)
        part_store_bf16(to + i * PART_LANES, v.part[i]);
}

INLINE v16 v16_round_bf16(v16 v)
{
    UNROLL
    for (int i = 0; i < V16_PARTS; i++)
        v.part[i] = part_round_bf16(v.part[i]);
    return v;
}

/* The first n <= 16 lanes; the others are zero, and memory beyond them is not read. */
INLINE v16 v16_load_part(const void *from, size_t at, enum dtype dtype, uint32_t n)
{
    _Alignas(64) float whole[V16_LANES] = {0};

    if (n >= V16_LANES)
        return v16_load_as(from, at, dtype);
    memcpy(whole, (const char *)from + at * dtype_size(dtype), n * dtype_size(dtype));
    return v16_load_as(whole, 0, dtype);
}

INLINE void v16_store_part(float *to, v16 v, uint32_t n)
{
    _Alignas(64) float whole[V16_LANES];

    if (n >= V16_LANES) {
        v16_store(to, v);
        return;
    }
    v16_store(whole, v);
    memcpy(to, whole, n * sizeof *to);
}

/* The greatest lane; NaN lanes are passed over, unless it is lane 0. */
INLINE float v16_greatest(v16 v)
{
    _Alignas(64) float lane[V16_LANES];
    float m;

    v16_store(lane, v);
    m = lane[0];
    for (int j = 1; j < V16_LANES; j++)
        m = lane[j] > m ? lane[j] : m;
    return m;
}

/* exp(x) within 2 units in the last place; 0 below -86.6 (2.5e-38), infinity above 88.73, NaN of
 * NaN. x = n ln 2 + r; exp(r) = 1 + r + r^2 q(r) with q minimax of degree 4 for |r| <= ln 2 / 2
 * (relative error 3.1e-9); times 2^(n-1) times 2, so that n = 128 overflows as it should. */
INLINE v16 v16_exp(v16 x)
{
    const v16 low = v16_set1(-86.6f), high = v16_set1(89.0f), shifter = v16_set1(EXP_SHIFTER);
    v16 bounded, t, n, r, p;

    /* min and max spelled so that NaN passes through */
    bounded = v16_below(x, low, low, x);
    bounded = v16_below(high, bounded, high, bounded);
    t = v16_fma(bounded, v16_set1(0x1.715476p+0f), shifter);
    n = v16_sub(t, shifter);
    r = v16_fma(n, v16_set1(-0x1.62e400p-1f), bounded);
    r = v16_fma(n, v16_set1(-0x1.7f7d1cp-20f), r);
    p = v16_set1(0x1.6a23cep-10f);
    p = v16_fma(p, r, v16_set1(0x1.123a2p-7f));
    p = v16_fma(p, r, v16_set1(0x1.5558f2p-5f));
    p = v16_fma(p, r, v16_set1(0x1.555492p-3f));
    p = v16_fma(p, r, v16_set1(0x1.fffffcp-2f));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_mul(p, v16_pow2(v16_sub(t, v16_set1(1.0f))));
    p = v16_add(p, p);
    return v16_below(x, low, v16_zero(), p);
}

INLINE v16 v16_silu(v16 x)
{
    v16 one = v16_set1(1.0f);

    return v16_div(x, v16_add(one, v16_exp(v16_sub(v16_zero(), x))));
}

#endif
