/* The inner loops of exact matrix products: PANEL_ROWS rows of W times up to PANEL_X rows of x.
 *
 * Every output has its own 16 partial sums, and a tile of R x C outputs keeps them in registers, so
 * that one load of W serves C products and one of x serves R. With few rows of x the weights stream
 * from memory once and are widened on the way (panel_direct). With more, a panel is widened to
 * float32 once, PANEL_DEPTH columns at a time so that it stays in the first cache, and all rows of
 * x pass by (panel_wide); partial sums wait in memory between depths. The order of operations of
 * one output is the canonical one in both. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

/* Accumulators of a tile must fit in the registers (32 or 16) and hide the latency of an fma. Up to
 * DIRECT_MOST rows of x, in tiles of DIRECT_X, widening the weights again for each tile is cheaper
 * than doing it once by way of memory. */
#if defined KERNELS_ISA_avx512
#define TILE_ROWS 4
#define TILE_X 6
#define DIRECT_ROWS 8
#define DIRECT_X 3
#define DIRECT_MOST 6
#elif defined KERNELS_ISA_avx2
#define TILE_ROWS 2
#define TILE_X 3
#define DIRECT_ROWS 4
#define DIRECT_X 3
#define DIRECT_MOST 6
#else
#define TILE_ROWS 1
#define TILE_X 1
#define DIRECT_ROWS 1
#define DIRECT_X 1
#define DIRECT_MOST 1
#endif

struct tile {
    vpart sum[DIRECT_ROWS][TILE_X][V16_PARTS];
};

struct operands {
    const void *w[DIRECT_ROWS];
    const float *x[TILE_X];
};

/* How many of n rows of x the next of so many tiles takes: as equal as possible, since narrow tiles
 * wait for their own sums. */
INLINE uint32_t tile_width(uint32_t n, uint32_t tiles)
{
    return (n + tiles - 1) / tiles;
}

/* R, C and dtype are constants wherever this is inlined; `ahead` is how many bytes before their use
 * weights are asked for (0: not). depth: a multiple of 16. */
INLINE void tile_steps(struct tile *t, const struct operands *o, enum dtype dtype, uint32_t depth,
                       uint32_t R, uint32_t C, size_t ahead)
{
    for (uint32_t k = 0; k < depth; k += V16_LANES) {
        UNROLL
        for (uint32_t part = 0; part < V16_PARTS; part++) {
            vpart x[TILE_X];

            UNROLL
            for (uint32_t c = 0; c < C; c++)
                x[c] = part_load(o->x[c] + k + part * PART_LANES);
            UNROLL
            for (uint32_t r = 0; r < R; r++) {
                vpart w = part_load_as(o->w[r], k + part * PART_LANES, dtype);

                if (ahead && part == 0)
                    __builtin_prefetch((const char *)o->w[r] + k * dtype_size(dtype) + ahead);
                UNROLL
                for (uint32_t c = 0; c < C; c++)
                    t->sum[r][c][part] = part_fma(w, x[c], t->sum[r][c][part]);
            }
        }
    }
}

/* The last `n` < 16 columns, from column `at`, padded with zeros. */
INLINE void tile_tail(struct tile *t, const struct operands *o, enum dtype dtype, uint32_t at,
                      uint32_t n, uint32_t R, uint32_t C)
{
    _Alignas(64) float w[DIRECT_ROWS][V16_LANES], x[TILE_X][V16_LANES];
    struct operands tail;

    for (uint32_t r = 0; r < R; r++) {
        v16_store(w[r], v16_load_part(o->w[r], at, dtype, n));
        tail.w[r] = w[r];
    }
    for (uint32_t c = 0; c < C; c++) {
        v16_store(x[c], v16_load_part(o->x[c], at, DTYPE_F32, n));
        tail.x[c] = x[c];
    }
    tile_steps(t, &tail, DTYPE_F32, V16_LANES, R, C, 0);
}

INLINE v16 tile_get(const struct tile *t, uint32_t r, uint32_t c)
{
    v16 v;

    UNROLL
    for (uint32_t part = 0; part < V16_PARTS; part++)
        v.part[part] = t->sum[r][c][part];
    return v;
}

/* Folds the partial sums into the output tile, whose element of this tile is `out`. */
INLINE void tile_fold(const struct tile *t, float *out, uint32_t R, uint32_t C)
{
    UNROLL
    for (uint32_t c = 0; c < C; c++) {
        uint32_t r = 0;

        UNROLL
        for (; r + 4 <= R; r += 4)
            v16_sum4(out + c * PANEL_ROWS + r, tile_get(t, r, c), tile_get(t, r + 1, c),
                     tile_get(t, r + 2, c), tile_get(t, r + 3, c));
        UNROLL
        for (; r < R; r++)
            out[c * PANEL_ROWS + r] = v16_sum(tile_get(t, r, c));
    }
}

INLINE void tile_zero(struct tile *t, uint32_t R, uint32_t C)
{
    UNROLL
    for (uint32_t r = 0; r < R; r++) {
        UNROLL
        for (uint32_t c = 0; c < C; c++) {
            UNROLL
            for (uint32_t part = 0; part < V16_PARTS; part++)
                t->sum[r][c][part] = part_zero();
        }
    }
}

/* Partial sums wait as [x row][PANEL_ROWS][16]. */
INLINE void tile_store(const struct tile *t, float *sums, uint32_t R, uint32_t C)
{
    UNROLL
    for (uint32_t r = 0; r < R; r++) {
        UNROLL
        for (uint32_t c = 0; c < C; c++)
            v16_store(sums + (c * PANEL_ROWS + r) * V16_LANES, tile_get(t, r, c));
    }
}

INLINE void tile_load(struct tile *t, const float *sums, uint32_t R, uint32_t C)
{
    UNROLL
    for (uint32_t r = 0; r < R; r++) {
        UNROLL
        for (uint32_t c = 0; c < C; c++) {
            const float *from = sums + (c * PANEL_ROWS + r) * V16_LANES;

            UNROLL
            for (uint32_t part = 0; part < V16_PARTS; part++)
                t->sum[r][c][part] = part_load(from + part * PART_LANES);
        }
    }
}

/* --- few rows of x ---------------------------------------------------------------------------- */

INLINE void direct_tile(float *out, const struct panel *p, enum dtype dtype, uint32_t row,
                        uint32_t i, uint32_t R, uint32_t C)
{
    const size_t stride = (size_t)p->cols * dtype_size(dtype);
    const uint32_t whole = p->cols & ~(V16_LANES - 1u);
    struct operands o;
    struct tile t;

    UNROLL
    for (uint32_t r = 0; r < R; r++)
        o.w[r] = (const char *)p->w + (row + r) * stride;
    UNROLL
    for (uint32_t c = 0; c < C; c++)
        o.x[c] = p->x[i + c];
    tile_zero(&t, R, C);
    tile_steps(&t, &o, dtype, whole, R, C, R * stride);
    if (whole < p->cols)
        tile_tail(&t, &o, dtype, whole, p->cols - whole, R, C);
    tile_fold(&t, out + i * PANEL_ROWS + row, R, C);
}

INLINE void direct_rows(float *out, const struct panel *p, enum dtype dtype, uint32_t i, uint32_t R,
                        uint32_t C)
{
    uint32_t r = 0;

    for (; r + R <= p->rows; r += R)
        direct_tile(out, p, dtype, r, i, R, C);
    for (; r < p->rows; r++)
        direct_tile(out, p, dtype, r, i, 1, C);
}

INLINE void panel_direct(float *out, const struct panel *p, enum dtype dtype)
{
    uint32_t tiles = (p->n + DIRECT_X - 1) / DIRECT_X;

    for (uint32_t i = 0, c; i < p->n; i += c, tiles--) {
        c = tile_width(p->n - i, tiles);
        if (c == 1)
            direct_rows(out, p, dtype, i, DIRECT_ROWS, 1);
#if DIRECT_X > 1
        else if (c == 2)
            direct_rows(out, p, dtype, i, TILE_ROWS, 2);
        else
            direct_rows(out, p, dtype, i, TILE_ROWS, 3);
#endif
    }
}

/* --- many rows of x --------------------------------------------------------------------------- */

/* Columns from .. from + n - 1 of a panel, at most PANEL_DEPTH: a multiple of 16, or what is left
 * after it, then padded. */
struct depth {
    uint32_t from, n;
    bool first, last;
    const float *x[PANEL_X]; /* at column `from` */
};

/* wide[r][0 .. n) = W[r][from ..], zeros up to a multiple of 16; asks for what comes next. */
INLINE void widen(float *wide, const struct panel *p, enum dtype dtype, const struct depth *d)
{
    for (uint32_t r = 0; r < p->rows; r++) {
        const char *w = (const char *)p->w + ((size_t)r * p->cols + d->from) * dtype_size(dtype);
        float *to = wide + r * PANEL_DEPTH;

        if (d->n < V16_LANES)
            v16_store(to, v16_load_part(w, 0, dtype, d->n));
        for (uint32_t k = 0; k + V16_LANES <= d->n; k += V16_LANES) {
            __builtin_prefetch(w + (k + PANEL_DEPTH) * dtype_size(dtype));
            v16_store(to + k, v16_load_as(w, k, dtype));
        }
    }
}

INLINE void wide_tile(struct cpu_thread *th, float *out, const struct depth *d, uint32_t row,
                      uint32_t i, uint32_t R, uint32_t C)
{
    float *sums = th->sums + ((size_t)i * PANEL_ROWS + row) * V16_LANES;
    struct operands o;
    struct tile t;

    UNROLL
    for (uint32_t r = 0; r < R; r++)
        o.w[r] = th->wide + (row + r) * PANEL_DEPTH;
    UNROLL
    for (uint32_t c = 0; c < C; c++)
        o.x[c] = d->x[i + c];
    if (d->first)
        tile_zero(&t, R, C);
    else
        tile_load(&t, sums, R, C);
    tile_steps(&t, &o, DTYPE_F32, (d->n + V16_LANES - 1) & ~(V16_LANES - 1u), R, C, 0);
    if (d->last)
        tile_fold(&t, out + i * PANEL_ROWS + row, R, C);
    else
        tile_store(&t, sums, R, C);
}

INLINE void wide_rows(struct cpu_thread *th, float *out, const struct panel *p,
                      const struct depth *d, uint32_t i, uint32_t C)
{
    uint32_t r = 0;

    for (; r + TILE_ROWS <= p->rows; r += TILE_ROWS)
        wide_tile(th, out, d, r, i, TILE_ROWS, C);
    for (; r < p->rows; r++)
        wide_tile(th, out, d, r, i, 1, C);
}

static void wide_depth(struct cpu_thread *th, float *out, const struct panel *p,
                       const struct depth *d)
{
    uint32_t tiles = (p->n + TILE_X - 1) / TILE_X;

    for (uint32_t i = 0, c; i < p->n; i += c, tiles--) {
        c = tile_width(p->n - i, tiles);
        switch (c) {
        case 1: wide_rows(th, out, p, d, i, 1); break;
#if TILE_X > 1
        case 2: wide_rows(th, out, p, d, i, 2); break;
        case 3: wide_rows(th, out, p, d, i, 3); break;
#endif
#if TILE_X > 3
        case 4: wide_rows(th, out, p, d, i, 4); break;
        case 5: wide_rows(th, out, p, d, i, 5); break;
        default: wide_rows(th, out, p, d, i, 6); break;
#endif
        }
    }
}

static void panel_wide(struct cpu_thread *th, float *out, const struct panel *p)
{
    _Alignas(64) float tail[PANEL_X][V16_LANES];
    struct depth d;

    for (d.from = 0; d.from < p->cols; d.from += d.n) {
        uint32_t left = p->cols - d.from;

        d.n = left < V16_LANES ? left : left & ~(V16_LANES - 1u);
        d.n = d.n < PANEL_DEPTH ? d.n : PANEL_DEPTH;
        d.first = d.from == 0;
        d.last = d.n == left;
        for (uint32_t i = 0; i < p->n; i++) {
            d.x[i] = (const float *)p->x[i] + d.from;
            if (d.n < V16_LANES) {
                v16_store(tail[i], v16_load_part(d.x[i], 0, DTYPE_F32, d.n));
                d.x[i] = tail[i];
            }
        }
        if (p->dtype == DTYPE_F32)
            widen(th->wide, p, DTYPE_F32, &d);
        else if (p->dtype == DTYPE_BF16)
            widen(th->wide, p, DTYPE_BF16, &d);
        else
            widen(th->wide, p, DTYPE_F16, &d);
        wide_depth(th, out, p, &d);
    }
}

void ISA(cpu_panel)(struct cpu_thread *t, float *tile, const struct panel *p)
{
    if (p->bf16)
        ISA(cpu_panel_bf16)(tile, p);
    else if (p->n > DIRECT_MOST)
        panel_wide(t, tile, p);
    else if (p->dtype == DTYPE_F32)
        panel_direct(tile, p, DTYPE_F32);
    else if (p->dtype == DTYPE_BF16)
        panel_direct(tile, p, DTYPE_BF16);
    else
        panel_direct(tile, p, DTYPE_F16);
}
