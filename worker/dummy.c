#include "worker/dummy.h"

#include <string.h>

#define BF16_ONE 0x3f80
#define LANES 4                  /* elements out of one hash */
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

/* Elements 4i .. 4i+3, made side by side: of each one's 16 random bits one is the sign, 7 are the
 * mantissa and two count up from the exponent of 2^-9. Without arithmetic on floats it is memory
 * that limits the speed. */
static uint64_t block(uint64_t key, uint64_t i)
{
    return (mix(key + i * STEP) & 0x81ff81ff81ff81ffu) + 0x3b003b003b003b00u;
}

void dummy_fill(uint16_t *out, uint64_t n, uint32_t dims, const char *name, uint64_t seed)
{
    uint64_t key = key_of(seed, name), whole = n / LANES, last = block(key, whole);

    if (dims == 1) {
        for (uint64_t i = 0; i < n; i++)
            out[i] = BF16_ONE;
        return;
    }
    for (uint64_t i = 0; i < whole; i++) {
        uint64_t values = block(key, i);

        memcpy(out + LANES * i, &values, sizeof values);
    }
    memcpy(out + LANES * whole, &last, n % LANES * sizeof *out);
}
