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

/* tile[i * PANEL_ROWS + r] = dot(W row r, x row i) for r < rows <= PANEL_ROWS, i < n <= PANEL_X.
 * w: [rows][cols], contiguous. x[i]: float32 of cols elements; with `bf16` (weights of
 * DTYPE_BF16, k->bf16_dot) bf16, padded with zeros to a multiple of 32. */
struct panel {
    const void *w;
    enum dtype dtype;
    bool bf16;
    uint32_t rows, cols, n;
    const void *x[PANEL_X];
};
void ISA(cpu_panel)(struct cpu_thread *t, float *tile, const struct panel *p);
void ISA(cpu_panel_bf16)(float *tile, const struct panel *p);

/* Fast mode's copy of rows for dot products: row (index ? index[i] : i) of x, rounded to bf16, goes
 * to k->rounded + i * limits.width, as bf16 if `bf16`, else widened to float32 again.
 * n <= PASS_ROWS. */
void ISA(cpu_round_rows)(struct cpu_kernels *k, const float *x, const uint32_t *index, uint32_t n,
                         uint32_t cols, bool bf16);
/* The same of one row of n elements, in place of a plain store. */
void ISA(cpu_round_row)(void *to, const float *from, uint32_t n, bool bf16);

#endif
