/* What the CPU backend's operations share. Every file of this directory is compiled once for each
 * instruction set; ISA(name) gives a function its suffix. Public ones are in the table of table.c.
 */
#ifndef MT_KERNELS_CPU_CPU_H
#define MT_KERNELS_CPU_CPU_H

#include "kernels/cpu/layout.h"
#include "kernels/kernels.h"

#if defined KERNELS_ISA_avx512
#define ISA(name) name##_avx512
#elif defined KERNELS_ISA_avx2
#define ISA(name) name##_avx2
#else
#define ISA(name) name##_portable
#endif

/* --- the operations, see kernels.h ------------------------------------------------------------ */
void ISA(cpu_embed)(struct kernels *k, float *out, const struct weight *table, const int32_t *ids,
                    uint32_t n);
void ISA(cpu_rmsnorm)(struct kernels *k, float *out, const float *x, const void *w,
                      enum dtype w_dtype, float eps, uint32_t n, uint32_t d);
void ISA(cpu_matmul)(struct kernels *k, float *y, const float *x, const struct weight *w,
                     uint32_t n, bool add);
void ISA(cpu_matmuls)(struct kernels *k, float *const *y, const float *x,
                      const struct weight *const *w, uint32_t m, uint32_t n);
void ISA(cpu_rope)(struct kernels *k, float *x, size_t stride, const struct rope *rope,
                   const uint32_t *pos, uint32_t n, uint32_t heads, uint32_t head_dim);
void ISA(cpu_kv_write)(struct kernels *k, const struct kv_layer *kv, const float *key,
                       const float *value, size_t stride, const struct kernel_rows *rows);
void ISA(cpu_attention)(struct kernels *k, float *out, const float *q, size_t stride,
                        const struct kv_layer *kv, const struct kernel_rows *rows, uint32_t heads,
                        float scale, uint32_t window);
void ISA(cpu_route)(struct kernels *k, int32_t *ids, float *weights, const float *logits,
                    const struct router *router, uint32_t n);
void ISA(cpu_experts)(struct kernels *k, float *y, const float *x, const struct expert_pool *pool,
                      const uint32_t *offsets, const uint32_t *pair_row, const uint32_t *pair_out);
void ISA(cpu_combine)(struct kernels *k, float *out, const float *y, const float *weights,
                      uint32_t n, uint32_t topk, uint32_t d);
void ISA(cpu_sample)(struct kernels *k, struct sample_result *out, const float *logits,
                     const struct sample_params *params, uint32_t n, uint32_t vocab);
void ISA(cpu_swiglu)(struct kernels *k, float *out, const float *gate_up, uint32_t n,
                     uint32_t inter);

/* --- inside ----------------------------------------------------------------------------------- */

/* How the inputs of dot products lie. In exact mode as they are; in fast mode rounded to bf16:
 * WIDE   float32 again, for weights of other types;
 * SPLIT  float32 again, of 32 elements the 16 even ones before the odd ones: bf16 weights are taken
 *        apart with one operation a vector instead of two;
 * PAIRS  bf16, for bf16 weights on processors with bf16 dot products.
 * SPLIT and PAIRS are padded with zeros to a multiple of 32. */
enum input { INPUT_WIDE, INPUT_SPLIT, INPUT_PAIRS };

static inline enum input cpu_input(const struct cpu_kernels *k, enum dtype weights)
{
    if (k->base.numerics == NUMERICS_EXACT || weights != DTYPE_BF16)
        return INPUT_WIDE;
    return k->bf16_dot ? INPUT_PAIRS : INPUT_SPLIT;
}

/* tile[i * PANEL_ROWS + r] = dot(W row r, x row i) for r < rows <= PANEL_ROWS, i < n <= PANEL_X.
 * w: [rows][cols], contiguous. x[i]: cols elements, as `input` says. */
struct panel {
    const void *w;
    enum dtype dtype;
    enum input input;
    uint32_t rows, cols, n;
    const void *x[PANEL_X];
};
void ISA(cpu_panel)(struct cpu_thread *t, float *tile, const struct panel *p);
void ISA(cpu_panel_bf16)(float *tile, const struct panel *p);

/* Fast mode's copy of rows for dot products: row (index ? index[i] : i) of x, rounded to bf16, goes
 * to k->rounded + i * limits.width. n <= PASS_ROWS. */
void ISA(cpu_round_rows)(struct cpu_kernels *k, const float *x, const uint32_t *index, uint32_t n,
                         uint32_t cols, enum input input);
/* The same of one row of n elements; to may be from. */
void ISA(cpu_round_row)(void *to, const float *from, uint32_t n, enum input input);

#endif
