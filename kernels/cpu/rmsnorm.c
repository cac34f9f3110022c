#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

struct norm {
    float *out;
    const float *x;
    const void *w;
    enum dtype w_dtype;
    float eps;
    uint32_t d;
};

static void norm_row(const struct norm *a, float *out, const float *x)
{
    v16 sum = v16_zero(), inv;

    for (uint32_t j = 0; j < a->d; j += V16_LANES) {
        v16 v = v16_load_part(x, j, DTYPE_F32, a->d - j);

        sum = v16_fma(v, v, sum);
    }
    inv = v16_set1(1.0f / sqrtf(v16_sum(sum) / (float)a->d + a->eps));
    for (uint32_t j = 0; j < a->d; j += V16_LANES) {
        v16 v = v16_load_part(x, j, DTYPE_F32, a->d - j);
        v16 w = v16_load_part(a->w, j, a->w_dtype, a->d - j);

        v16_store_part(out + j, v16_mul(v16_mul(v, inv), w), a->d - j);
    }
}

static void norm_rows(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct norm *a = context;

    (void)thread;
    for (uint32_t i = begin; i < end; i++)
        norm_row(a, a->out + (size_t)i * a->d, a->x + (size_t)i * a->d);
}

void ISA(cpu_rmsnorm)(struct kernels *k, float *out, const float *x, const void *w,
                      enum dtype w_dtype, float eps, uint32_t n, uint32_t d)
{
    struct norm a = {out, x, w, w_dtype, eps, d};

    cpu_run(cpu_of(k), n, (uint64_t)d * 2, norm_rows, &a);
}
