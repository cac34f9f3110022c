/* Plain C: the specification of the other two. See vec.h. */
#ifndef MT_KERNELS_CPU_VEC_PORTABLE_H
#define MT_KERNELS_CPU_VEC_PORTABLE_H

#define PART_LANES 16
#define V16_PARTS 1

typedef struct {
    float lane[PART_LANES];
} vpart;
typedef struct {
    vpart part[V16_PARTS];
} v16;

#define EACH_LANE for (int j = 0; j < PART_LANES; j++)

INLINE uint32_t float_bits(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE float bits_float(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE float half_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = h >> 10 & 31, mantissa = h & 0x3ff;

    if (exponent == 31) /* infinity; NaN, made quiet */
        return bits_float(sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0));
    if (exponent)
        return bits_float(sign | (exponent + 112) << 23 | mantissa << 13);
    return bits_float(sign | float_bits((float)mantissa * 0x1p-24f));
}

INLINE uint16_t float_bf16(float x)
{
    uint32_t bits = float_bits(x);

    if (x != x)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

INLINE vpart part_set1(float x)
{
    vpart v;

    EACH_LANE v.lane[j] = x;
    return v;
}

INLINE vpart part_zero(void)
{
    return part_set1(0.0f);
}

INLINE vpart part_load(const float *from)
{
    vpart v;

    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void part_store(float *to, vpart v)
{
    memcpy(to, &v, sizeof v);
}

/* bf16 number i; the memory may have another type. */
INLINE float half_word(const uint16_t *from, int i)
{
    uint16_t bits;

    memcpy(&bits, from + i, sizeof bits);
    return bits_float((uint32_t)bits << 16);
}

INLINE vpart part_load_bf16(const uint16_t *from)
{
    vpart v;

    EACH_LANE v.lane[j] = half_word(from, j);
    return v;
}

INLINE vpart part_load_f16(const uint16_t *from)
{
    uint16_t bits[PART_LANES];
    vpart v;

    memcpy(bits, from, sizeof bits);
    EACH_LANE v.lane[j] = half_float(bits[j]);
    return v;
}

INLINE vpart part_even_bf16(const uint16_t *from)
{
    vpart v;

    EACH_LANE v.lane[j] = half_word(from, 2 * j);
    return v;
}

INLINE vpart part_odd_bf16(const uint16_t *from)
{
    vpart v;

    EACH_LANE v.lane[j] = half_word(from, 2 * j + 1);
    return v;
}

INLINE void part_store_bf16(uint16_t *to, vpart v)
{
    uint16_t bits[PART_LANES];

    EACH_LANE bits[j] = float_bf16(v.lane[j]);
    memcpy(to, bits, sizeof bits);
}

INLINE vpart part_round_bf16(vpart v)
{
    EACH_LANE v.lane[j] = bits_float((uint32_t)float_bf16(v.lane[j]) << 16);
    return v;
}

INLINE vpart part_add(vpart a, vpart b)
{
    EACH_LANE a.lane[j] += b.lane[j];
    return a;
}

INLINE vpart part_sub(vpart a, vpart b)
{
    EACH_LANE a.lane[j] -= b.lane[j];
    return a;
}

INLINE vpart part_mul(vpart a, vpart b)
{
    EACH_LANE a.lane[j] *= b.lane[j];
    return a;
}

INLINE vpart part_div(vpart a, vpart b)
{
    EACH_LANE a.lane[j] /= b.lane[j];
    return a;
}

INLINE vpart part_max(vpart a, vpart b)
{
    EACH_LANE a.lane[j] = a.lane[j] > b.lane[j] ? a.lane[j] : b.lane[j];
    return a;
}

INLINE vpart part_fma(vpart a, vpart b, vpart c)
{
    EACH_LANE c.lane[j] = fmaf(a.lane[j], b.lane[j], c.lane[j]);
    return c;
}

INLINE vpart part_below(vpart x, vpart limit, vpart yes, vpart no)
{
    EACH_LANE x.lane[j] = x.lane[j] < limit.lane[j] ? yes.lane[j] : no.lane[j];
    return x;
}

INLINE vpart part_pow2(vpart t)
{
    EACH_LANE t.lane[j] = bits_float((float_bits(t.lane[j]) << 23) + (127u << 23));
    return t;
}

INLINE float v16_sum(v16 v)
{
    float *s = v.part[0].lane;

    for (int half = 8; half; half /= 2) {
        for (int j = 0; j < half; j++)
            s[j] += s[j + half];
    }
    return s[0];
}

INLINE void v16_sum4(float *to, v16 a, v16 b, v16 c, v16 d)
{
    to[0] = v16_sum(a);
    to[1] = v16_sum(b);
    to[2] = v16_sum(c);
    to[3] = v16_sum(d);
}

INLINE void v16_split(float *to, v16 a, v16 b)
{
    float both[2 * V16_LANES];

    memcpy(both, &a, sizeof a);
    memcpy(both + V16_LANES, &b, sizeof b);
    EACH_LANE to[j] = both[2 * j];
    EACH_LANE to[V16_LANES + j] = both[2 * j + 1];
}

#undef EACH_LANE

#endif
