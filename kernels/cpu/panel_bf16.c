/* Fast mode's panel: dot products of bf16 pairs, summed in float32 by vdpbf16ps. Only for weights
 * and activations in bf16 on processors that have it; asked for by cpuid, so that the rest of the
 * AVX-512 code also runs where it is missing. No order is promised here. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#if defined KERNELS_ISA_avx512
#define BF16 __attribute__((target("avx512bf16")))
#define BF16_INLINE static inline __attribute__((always_inline)) BF16
#define TILE_ROWS 4
#define TILE_X 6
#define STEP 32

struct operands {
    const uint16_t *w[PANEL_ROWS];
    const uint16_t *x[TILE_X];
};

BF16_INLINE __m512bh load_pairs(const uint16_t *from)
{
    return (__m512bh)_mm512_loadu_si512(from);
}

/* out[c][r] for r < R, c < C, constants where inlined; depth a multiple of 32. */
BF16_INLINE void pairs_tile(float *out, const struct operands *o, uint32_t cols, uint32_t R,
                            uint32_t C, size_t ahead)
{
    const uint32_t whole = cols & ~(STEP - 1u);
    uint16_t tail[PANEL_ROWS][STEP] = {{0}};
    __m512 sum[PANEL_ROWS][TILE_X];

    UNROLL
    for (uint32_t r = 0; r < R; r++) {
        UNROLL
        for (uint32_t c = 0; c < C; c++)
            sum[r][c] = _mm512_setzero_ps();
    }
    for (uint32_t k = 0; k < whole; k += STEP) {
        UNROLL
        for (uint32_t r = 0; r < R; r++) {
            __m512bh w = load_pairs(o->w[r] + k);

            if (ahead)
                __builtin_prefetch((const char *)(o->w[r] + k) + ahead);
            UNROLL
            for (uint32_t c = 0; c < C; c++)
                sum[r][c] = _mm512_dpbf16_ps(sum[r][c], w, load_pairs(o->x[c] + k));
        }
    }
    if (whole < cols) {
        UNROLL
        for (uint32_t r = 0; r < R; r++) {
            memcpy(tail[r], o->w[r] + whole, (cols - whole) * sizeof **tail);
            UNROLL
            for (uint32_t c = 0; c < C; c++)
                sum[r][c] =
                    _mm512_dpbf16_ps(sum[r][c], load_pairs(tail[r]), load_pairs(o->x[c] + whole));
        }
    }
    UNROLL
    for (uint32_t c = 0; c < C; c++) {
        UNROLL
        for (uint32_t r = 0; r < R; r++)
            out[c * PANEL_ROWS + r] = _mm512_reduce_add_ps(sum[r][c]);
    }
}

BF16_INLINE void pairs_rows(float *out, const struct panel *p, uint32_t i, uint32_t R, uint32_t C)
{
    struct operands o;

    UNROLL
    for (uint32_t c = 0; c < C; c++)
        o.x[c] = p->x[i + c];
    for (uint32_t row = 0, n; row < p->rows; row += n) {
        n = row + R <= p->rows ? R : 1;
        for (uint32_t r = 0; r < n; r++)
            o.w[r] = (const uint16_t *)p->w + (size_t)(row + r) * p->cols;
        if (n == R)
            pairs_tile(out + i * PANEL_ROWS + row, &o, p->cols, R, C,
                       C < 3 ? (size_t)R * p->cols * sizeof(uint16_t) : 0);
        else
            pairs_tile(out + i * PANEL_ROWS + row, &o, p->cols, 1, C, 0);
    }
}

BF16 void ISA(cpu_panel_bf16)(float *tile, const struct panel *p)
{
    uint32_t tiles = (p->n + TILE_X - 1) / TILE_X;

    for (uint32_t i = 0, c; i < p->n; i += c, tiles--) {
        c = (p->n - i + tiles - 1) / tiles;
        switch (c) {
        case 1: pairs_rows(tile, p, i, PANEL_ROWS, 1); break;
        case 2: pairs_rows(tile, p, i, TILE_ROWS, 2); break;
        case 3: pairs_rows(tile, p, i, TILE_ROWS, 3); break;
        case 4: pairs_rows(tile, p, i, TILE_ROWS, 4); break;
        case 5: pairs_rows(tile, p, i, TILE_ROWS, 5); break;
        default: pairs_rows(tile, p, i, TILE_ROWS, 6); break;
        }
    }
}
#else
/* Never called: bf16_dot is false without AVX-512. */
void ISA(cpu_panel_bf16)(float *tile, const struct panel *p)
{
    (void)tile;
    (void)p;
}
#endif
