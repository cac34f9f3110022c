#include "worker/dummy.h"

#include <string.h>

#define BF16_ONE 0x3f80
#define LANES 4 /* values out of one hash */
#define STEP 0x9e3779b97f4a7c15u /* 2^64 over the golden ratio: SplitMix64's increment */

/* The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): each bit of the result depends on
 * every bit of x. */
static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t key_of(uint64_t seed, const char *name)
{
    uint64_t key = mix(seed + STEP);

    for (; *name; name++)
        key = mix((key ^ (unsigned char)*name) * STEP);
    return key;
}

/* 16 random bits to a value in [-1/32, 1/32), rounded to the nearest bf16. */
static uint16_t value_of(uint16_t random)
{
    float value = (float)(int16_t)random * 0x1p-20f;
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void dummy_fill(uint16_t *out, uint64_t n, uint32_t dims, const char *name, uint64_t seed)
{
    uint64_t key = key_of(seed, name), whole = n / LANES;

    if (dims == 1) {
        for (uint64_t i = 0; i < n; i++)
            out[i] = BF16_ONE;
        return;
    }
    for (uint64_t i = 0; i < whole; i++) {
        uint64_t h = mix(key + i * STEP);

        for (unsigned j = 0; j < LANES; j++)
            out[LANES * i + j] = value_of((uint16_t)(h >> (16 * j)));
    }
    for (uint64_t i = LANES * whole; i < n; i++)
        out[i] = value_of((uint16_t)(mix(key + whole * STEP) >> (16 * (i % LANES))));
}
