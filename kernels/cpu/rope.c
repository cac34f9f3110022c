#include "kernels/cpu/cpu.h"

struct rotation {
    float *x;
    size_t stride;
    const struct rope *rope;
    const uint32_t *pos;
    uint32_t heads, head_dim;
};

/* Plain loops: without contraction, vectors of any width give the same bits. */
static void rotate(float *x, const float *cos, const float *sin, uint32_t half, bool interleaved)
{
    uint32_t step = interleaved ? 2 : 1, other = interleaved ? 1 : half;

    for (uint32_t i = 0; i < half; i++) {
        float a = x[i * step], b = x[i * step + other];

        x[i * step] = a * cos[i] - b * sin[i];
        x[i * step + other] = b * cos[i] + a * sin[i];
    }
}

static void rope_rows(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct rotation *r = context;
    const uint32_t half = r->rope->dims / 2;

    (void)thread;
    for (uint32_t i = begin; i < end; i++) {
        size_t at = (size_t)r->pos[i] * half;

        for (uint32_t h = 0; h < r->heads; h++)
            rotate(r->x + i * r->stride + (size_t)h * r->head_dim, r->rope->cos + at,
                   r->rope->sin + at, half, r->rope->interleaved);
    }
}

void ISA(cpu_rope)(struct kernels *k, float *x, size_t stride, const struct rope *rope,
                   const uint32_t *pos, uint32_t n, uint32_t heads, uint32_t head_dim)
{
    struct rotation r = {x, stride, rope, pos, heads, head_dim};

    cpu_run(cpu_of(k), n, (uint64_t)heads * rope->dims * 2, rope_rows, &r);
}
