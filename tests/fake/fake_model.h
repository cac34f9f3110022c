/* The arithmetic of the fake worker's "model", so that a test can say what must come out.
 * next token = f(token, its position); sampling (temperature > 0) adds the seed and the choice. */
#ifndef MT_TESTS_FAKE_MODEL_H
#define MT_TESTS_FAKE_MODEL_H

#include <stdint.h>

#include "api/wire.h"

static inline int32_t fake_next(int32_t token, uint32_t position, const struct wire_admit *a,
                                uint32_t vocab)
{
    uint64_t x = (uint64_t)(uint32_t)token * 31 + (uint64_t)position * 7 + 11;

    if (a->temperature > 0)
        x += a->seed % vocab + (uint64_t)a->choice * 13;
    return (int32_t)(x % vocab);
}

#endif
