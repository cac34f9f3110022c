#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

struct swiglu {
    float *out;
    const float *gate_up;
    uint32_t inter;
};

static void swiglu_rows(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct swiglu *s = context;
    const uint32_t d = s->inter;

    (void)thread;
    for (uint32_t i = begin; i < end; i++) {
        const float *gate = s->gate_up + (size_t)i * 2 * d, *up = gate + d;
        float *out = s->out + (size_t)i * d;

        for (uint32_t j = 0; j < d; j += V16_LANES) {
            v16 g = v16_load_part(gate, j, DTYPE_F32, d - j);
            v16 u = v16_load_part(up, j, DTYPE_F32, d - j);

            v16_store_part(out + j, v16_mul(v16_silu(g), u), d - j);
        }
    }
}

void ISA(cpu_swiglu)(struct kernels *k, float *out, const float *gate_up, uint32_t n,
                     uint32_t inter)
{
    struct swiglu s = {out, gate_up, inter};

    cpu_run(cpu_of(k), n, (uint64_t)inter * 16, swiglu_rows, &s);
}
