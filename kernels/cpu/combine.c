#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

struct combine {
    float *out;
    const float *y, *weights;
    uint32_t topk, d;
};

static void combine_rows(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct combine *c = context;
    const uint32_t d = c->d;

    (void)thread;
    for (uint32_t i = begin; i < end; i++) {
        float *out = c->out + (size_t)i * d;
        const float *weights = c->weights + (size_t)i * c->topk;
        size_t row = (size_t)i * c->topk * d;

        for (uint32_t at = 0; at < d; at += V16_LANES) {
            v16 acc = v16_zero();

            for (uint32_t j = 0; j < c->topk; j++)
                acc =
                    v16_fma(v16_set1(weights[j]),
                            v16_load_part(c->y, row + (size_t)j * d + at, DTYPE_F32, d - at), acc);
            acc = v16_add(v16_load_part(out, at, DTYPE_F32, d - at), acc);
            v16_store_part(out + at, acc, d - at);
        }
    }
}

void ISA(cpu_combine)(struct kernels *k, float *out, const float *y, const float *weights,
                      uint32_t n, uint32_t topk, uint32_t d)
{
    struct combine c = {out, y, weights, topk, d};

    cpu_run(cpu_of(k), n, (uint64_t)d * (topk + 1), combine_rows, &c);
}
