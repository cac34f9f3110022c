#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

struct rounding {
    struct cpu_kernels *k;
    const float *x;
    const uint32_t *index;
    uint32_t cols;
    bool bf16;
};

void ISA(cpu_round_row)(void *to, const float *from, uint32_t n, bool bf16)
{
    uint16_t *narrow = to;
    float *wide = to;
    uint16_t half[V16_LANES];

    for (uint32_t j = 0; j < n; j += V16_LANES) {
        v16 v = v16_load_part(from, j, DTYPE_F32, n - j);

        v16_store_bf16(bf16 ? narrow + j : half, v);
        if (!bf16)
            v16_store(wide + j, v16_load_as(half, 0, DTYPE_BF16));
    }
    if (bf16 && (n - 1) / V16_LANES % 2 == 0) /* bf16 rows are padded to 32 */
        memset(narrow + ((n - 1) / V16_LANES + 1) * V16_LANES, 0, V16_LANES * sizeof *narrow);
}

static void round_rows(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct rounding *r = context;

    (void)thread;
    for (uint32_t i = begin; i < end; i++)
        ISA(cpu_round_row)
    (r->k->rounded + (size_t)i * r->k->limits.width,
     r->x + (size_t)(r->index ? r->index[i] : i) * r->cols, r->cols, r->bf16);
}

void ISA(cpu_round_rows)(struct cpu_kernels *k, const float *x, const uint32_t *index, uint32_t n,
                         uint32_t cols, bool bf16)
{
    struct rounding r = {k, x, index, cols, bf16};

    cpu_run(k, n, cols, round_rows, &r);
}
