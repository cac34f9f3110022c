#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

struct rounding {
    struct cpu_kernels *k;
    const float *x;
    const uint32_t *index;
    uint32_t cols;
    enum input input;
};

INLINE v16 rounded(const float *from, uint32_t j, uint32_t n)
{
    return v16_round_bf16(j < n ? v16_load_part(from, j, DTYPE_F32, n - j) : v16_zero());
}

void ISA(cpu_round_row)(void *to, const float *from, uint32_t n, enum input input)
{
    float *wide = to;

    if (input == INPUT_WIDE) {
        for (uint32_t j = 0; j < n; j += V16_LANES)
            v16_store(wide + j, rounded(from, j, n));
        return;
    }
    for (uint32_t j = 0; j < n; j += 2 * V16_LANES) {
        v16 a = rounded(from, j, n), b = rounded(from, j + V16_LANES, n);

        if (input == INPUT_PAIRS) {
            v16_store_bf16((uint16_t *)to + j, a);
            v16_store_bf16((uint16_t *)to + j + V16_LANES, b);
        } else {
            v16_split(wide + j, a, b);
        }
    }
}

static void round_rows(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct rounding *r = context;

    (void)thread;
    for (uint32_t i = begin; i < end; i++)
        ISA(cpu_round_row)
    (r->k->rounded + (size_t)i * r->k->limits.width,
     r->x + (size_t)(r->index ? r->index[i] : i) * r->cols, r->cols, r->input);
}

void ISA(cpu_round_rows)(struct cpu_kernels *k, const float *x, const uint32_t *index, uint32_t n,
                         uint32_t cols, enum input input)
{
    struct rounding r = {k, x, index, cols, input};

    cpu_run(k, n, cols, round_rows, &r);
}
