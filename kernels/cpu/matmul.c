#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

/* Products that share x; their panels are numbered through. */
struct product {
    struct cpu_kernels *k;
    const struct weight *const *w; /* [m] */
    float *const *y;               /* [m] */
    uint32_t m;
    const void *x;
    size_t x_stride; /* bytes */
    uint32_t row, n; /* rows of x, from `row` of y on */
    bool add;
    enum input input;
};

static uint32_t panels_of(const struct weight *w)
{
    return (w->rows + PANEL_ROWS - 1) / PANEL_ROWS;
}

static void store_tile(const struct product *m, float *y, uint32_t stride, const float *tile,
                       uint32_t rows, uint32_t n)
{
    for (uint32_t c = 0; c < n; c++, y += stride, tile += PANEL_ROWS) {
        for (uint32_t r = 0; r < rows; r++)
            y[r] = m->add ? y[r] + tile[r] : tile[r];
    }
}

/* The rows of x that fit the second cache meet all panels begin .. end - 1 of one weight. */
static void weight_panels(const struct product *m, struct cpu_thread *t, uint32_t which,
                          uint32_t begin, uint32_t end)
{
    const struct weight *w = m->w[which];
    struct panel p = {.dtype = w->dtype, .input = m->input, .cols = w->cols};

    for (uint32_t i = 0; i < m->n; i += PANEL_X) {
        float *y = m->y[which] + (size_t)(m->row + i) * w->rows;

        p.n = m->n - i < PANEL_X ? m->n - i : PANEL_X;
        for (uint32_t c = 0; c < p.n; c++)
            p.x[c] = (const char *)m->x + (i + c) * m->x_stride;
        for (uint32_t row = begin * PANEL_ROWS; row < end * PANEL_ROWS && row < w->rows;
             row += PANEL_ROWS) {
            p.rows = w->rows - row < PANEL_ROWS ? w->rows - row : PANEL_ROWS;
            p.w = (const char *)w->data + (size_t)row * w->cols * dtype_size(w->dtype);
            ISA(cpu_panel)(t, t->tile, &p);
            store_tile(m, y + row, w->rows, t->tile, p.rows, p.n);
        }
    }
}

static void product_panels(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct product *m = context;

    for (uint32_t i = 0, first = 0, last; i < m->m; i++, first = last) {
        uint32_t from = begin > first ? begin : first, to;

        last = first + panels_of(m->w[i]);
        to = end < last ? end : last;
        if (from < to)
            weight_panels(m, &m->k->thread[thread], i, from - first, to - first);
    }
}

static void product_run(struct product *m)
{
    uint32_t panels = 0;

    for (uint32_t i = 0; i < m->m; i++)
        panels += panels_of(m->w[i]);
    cpu_run(m->k, panels, (uint64_t)m->w[0]->cols * (m->n + 1) * (PANEL_ROWS / 2), product_panels,
            m);
}

/* Weights of one type, whose inputs lie alike. */
static void products(struct cpu_kernels *k, float *const *y, const float *x,
                     const struct weight *const *w, uint32_t m, uint32_t n, bool add)
{
    const enum dtype dtype = w[0]->dtype;
    const uint32_t cols = w[0]->cols;
    struct product p = {.k = k, .w = w, .y = y, .m = m, .add = add, .input = cpu_input(k, dtype)};

    if (k->base.numerics == NUMERICS_EXACT) {
        p.x = x;
        p.x_stride = cols * sizeof *x;
        p.n = n;
        if (n)
            product_run(&p);
        return;
    }
    p.x = k->rounded;
    p.x_stride = k->limits.width * sizeof *k->rounded;
    for (; p.row < n; p.row += PASS_ROWS) {
        p.n = n - p.row < PASS_ROWS ? n - p.row : PASS_ROWS;
        ISA(cpu_round_rows)(k, x + (size_t)p.row * cols, NULL, p.n, cols, p.input);
        product_run(&p);
    }
}

void ISA(cpu_matmul)(struct kernels *kernels, float *y, const float *x, const struct weight *w,
                     uint32_t n, bool add)
{
    products(cpu_of(kernels), &y, x, &w, 1, n, add);
}

void ISA(cpu_matmuls)(struct kernels *kernels, float *const *y, const float *x,
                      const struct weight *const *w, uint32_t m, uint32_t n)
{
    for (uint32_t i = 0, same; i < m; i += same) {
        for (same = 1; i + same < m && w[i + same]->dtype == w[i]->dtype;)
            same++;
        products(cpu_of(kernels), y + i, x, w + i, same, n, false);
    }
}
