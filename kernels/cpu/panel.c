/* The inner loops of matrix products without bf16 instructions: PANEL_ROWS rows of W times up to
 * PANEL_X rows of x.
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

/* How a tile's weights are read: as stored, or bf16 for inputs that are split. */
enum form { FORM_F32 = DTYPE_F32, FORM_BF16 = DTYPE_BF16, FORM_F16 = DTYPE_F16, FORM_SPLIT };

INLINE size_t form_size(enum form form)
{
    return form == FORM_F32 ? sizeof(float) : sizeof(uint16_t);
}

/* One part of the 16 weights from k + 16 * half on; split: of the even (half 0) or odd ones of the
 * 32 from k on. */
INLINE vpart form_load(const void *w, uint32_t k, uint32_t half, uint32_t part, enum form form)
{
    const uint16_t *pairs = (const uint16_t *)w + k + (size_t)2 * part * PART_LANES;

    if (form != FORM_SPLIT)
        return part_load_as(w, k + half * V16_LANES + part * PART_LANES, (enum dtype)form);
    return half ? part_odd_bf16(pairs) : part_even_bf16(pairs);
}

/* Columns from .. to - 1, `halves` times 16 in a step. R, C, form and halves are constants wherever
 * this is inlined; `ahead` is how many bytes before their use weights are asked for, a cache line
 * at a time (0: not). */
INLINE void tile_steps(struct tile *t, const struct operands *o, enum form form, uint32_t from,
                       uint32_t to, uint32_t halves, uint32_t R, uint32_t C, size_t ahead)
{
    for (uint32_t k = from; k < to; k += halves * V16_LANES) {
        UNROLL
        for (uint32_t step = 0; step < halves * V16_PARTS; step++) {
            const uint32_t half = step / V16_PARTS, part = step % V16_PARTS;
            const bool line = part == 0 && half * V16_LANES * form_size(form) % 64 == 0;
            vpart x[TILE_X];

            UNROLL
            for (uint32_t c = 0; c < C; c++)
                x[c] = part_load(o->x[c] + k + half * V16_LANES + part * PART_LANES);
            UNROLL
            for (uint32_t r = 0; r < R; r++) {
                vpart w = form_load(o->w[r], k, half, part, form);

                if (ahead && line)
                    __builtin_prefetch((const char *)o->w[r] +
                                       (k + half * V16_LANES) * form_size(form) + ahead);
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
    tile_steps(t, &tail, FORM_F32, 0, V16_LANES, 1, R, C, 0);
}

/* The last `n` < 32 columns of weights for split inputs, which are padded themselves. */
INLINE void tile_tail_split(struct tile *t, const struct operands *o, uint32_t at, uint32_t n,
                            uint32_t R, uint32_t C)
{
    uint16_t w[DIRECT_ROWS][2 * V16_LANES] = {{0}};
    struct operands tail;

    for (uint32_t r = 0; r < R; r++) {
        memcpy(w[r], (const uint16_t *)o->w[r] + at, n * sizeof **w);
        tail.w[r] = w[r];
    }
    for (uint32_t c = 0; c < C; c++)
        tail.x[c] = o->x[c] + at;
    tile_steps(t, &tail, FORM_SPLIT, 0, 2 * V16_LANES, 2, R, C, 0);
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

INLINE void direct_tile(float *out, const struct panel *p, enum form form, uint32_t row, uint32_t i,
                        uint32_t R, uint32_t C)
{
    const size_t stride = (size_t)p->cols * form_size(form);
    const uint32_t pairs = p->cols & ~(2 * V16_LANES - 1u), whole = p->cols & ~(V16_LANES - 1u);
    struct operands o;
    struct tile t;

    UNROLL
    for (uint32_t r = 0; r < R; r++)
        o.w[r] = (const char *)p->w + (row + r) * stride;
    UNROLL
    for (uint32_t c = 0; c < C; c++)
        o.x[c] = p->x[i + c];
    tile_zero(&t, R, C);
    tile_steps(&t, &o, form, 0, pairs, 2, R, C, R * stride);
    if (form == FORM_SPLIT && pairs < p->cols)
        tile_tail_split(&t, &o, pairs, p->cols - pairs, R, C);
    if (form != FORM_SPLIT && pairs < whole)
        tile_steps(&t, &o, form, pairs, whole, 1, R, C, 0);
    if (form != FORM_SPLIT && whole < p->cols)
        tile_tail(&t, &o, (enum dtype)form, whole, p->cols - whole, R, C);
    tile_fold(&t, out + i * PANEL_ROWS + row, R, C);
}

INLINE void direct_rows(float *out, const struct panel *p, enum form form, uint32_t i, uint32_t R,
                        uint32_t C)
{
    uint32_t r = 0;

    for (; r + R <= p->rows; r += R)
        direct_tile(out, p, form, r, i, R, C);
    for (; r < p->rows; r++)
        direct_tile(out, p, form, r, i, 1, C);
}

INLINE void panel_direct(float *out, const struct panel *p, enum form form)
{
    uint32_t tiles = (p->n + DIRECT_X - 1) / DIRECT_X;

    for (uint32_t i = 0, c; i < p->n; i += c, tiles--) {
        c = tile_width(p->n - i, tiles);
        if (c == 1)
            direct_rows(out, p, form, i, DIRECT_ROWS, 1);
#if DIRECT_X > 1
        else if (c == 2)
            direct_rows(out, p, form, i, TILE_ROWS, 2);
        else
            direct_rows(out, p, form, i, TILE_ROWS, 3);
#endif
    }
}

/* --- many rows of x --------------------------------------------------------------------------- */

/* Columns from .. from + n - 1 of a panel, at most PANEL_DEPTH: a multiple of 16 (of 32 where the
 * inputs are split), or what is left after it, then padded. */
struct depth {
    uint32_t from, n, padded;
    bool first, last;
    const float *x[PANEL_X]; /* at column `from` */
};

/* wide[r][0 .. n) = W[r][from ..], zeros up to a multiple of 16, or split of 32; asks for what
 * comes next. */
INLINE void widen(float *wide, const struct panel *p, enum form form, const struct depth *d)
{
    const uint32_t step = form == FORM_SPLIT ? 2 * V16_LANES : V16_LANES;

    for (uint32_t r = 0; r < p->rows; r++) {
        const char *w = (const char *)p->w + ((size_t)r * p->cols + d->from) * form_size(form);
        float *to = wide + r * PANEL_DEPTH;

        if (d->n < step) {
            v16 first =
                v16_load_part(w, 0, form == FORM_SPLIT ? DTYPE_BF16 : (enum dtype)form, d->n);

            if (form == FORM_SPLIT)
                v16_split(to, first,
                          d->n > V16_LANES
                              ? v16_load_part(w, V16_LANES, DTYPE_BF16, d->n - V16_LANES)
                              : v16_zero());
            else
                v16_store(to, first);
        }
        for (uint32_t k = 0; k + step <= d->n; k += step) {
            __builtin_prefetch(w + (k + PANEL_DEPTH) * form_size(form));
            UNROLL
            for (uint32_t i = 0; i < step / PART_LANES; i++)
                part_store(to + k + i * PART_LANES,
                           form_load(w, k, i / V16_PARTS, i % V16_PARTS, form));
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
    tile_steps(&t, &o, FORM_F32, 0, d->padded, 1, R, C, 0);
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
    const bool split = p->input == INPUT_SPLIT;
    const uint32_t step = split ? 2 * V16_LANES : V16_LANES;
    struct depth d;

    for (d.from = 0; d.from < p->cols; d.from += d.n) {
        uint32_t left = p->cols - d.from;

        d.n = left < step ? left : left & ~(step - 1);
        d.n = d.n < PANEL_DEPTH ? d.n : PANEL_DEPTH;
        d.padded = d.n < step ? step : d.n;
        d.first = d.from == 0;
        d.last = d.n == left;
        for (uint32_t i = 0; i < p->n; i++) {
            d.x[i] = (const float *)p->x[i] + d.from;
            if (d.n < step && !split) {
                v16_store(tail[i], v16_load_part(d.x[i], 0, DTYPE_F32, d.n));
                d.x[i] = tail[i];
            }
        }
        if (split)
            widen(th->wide, p, FORM_SPLIT, &d);
        else if (p->dtype == DTYPE_F32)
            widen(th->wide, p, FORM_F32, &d);
        else if (p->dtype == DTYPE_BF16)
            widen(th->wide, p, FORM_BF16, &d);
        else
            widen(th->wide, p, FORM_F16, &d);
        wide_depth(th, out, p, &d);
    }
}

void ISA(cpu_panel)(struct cpu_thread *t, float *tile, const struct panel *p)
{
    if (p->input == INPUT_PAIRS)
        ISA(cpu_panel_bf16)(tile, p);
    else if (p->n > DIRECT_MOST)
        panel_wide(t, tile, p);
    else if (p->input == INPUT_SPLIT)
        panel_direct(tile, p, FORM_SPLIT);
    else if (p->dtype == DTYPE_F32)
        panel_direct(tile, p, FORM_F32);
    else if (p->dtype == DTYPE_BF16)
        panel_direct(tile, p, FORM_BF16);
    else
        panel_direct(tile, p, FORM_F16);
}
