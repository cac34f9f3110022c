#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

struct product {
    struct cpu_kernels *k;
    const struct weight *w;
    const void *x;
    size_t x_stride; /* bytes */
    float *y;
    uint32_t n;
    bool add, bf16;
};

static void store_tile(const struct product *m, const float *tile, uint32_t row, uint32_t rows,
                       uint32_t i, uint32_t n)
{
    for (uint32_t c = 0; c < n; c++) {
        float *y = m->y + (size_t)(i + c) * m->w->rows + row;
        const float *dot = tile + c * PANEL_ROWS;

        for (uint32_t r = 0; r < rows; r++)
            y[r] = m->add ? y[r] + dot[r] : dot[r];
    }
}

/* Items are panels of W; the rows of x that fit the second cache meet all panels of a range. */
static void product_panels(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct product *m = context;
    const struct weight *w = m->w;
    struct cpu_thread *t = &m->k->thread[thread];
    struct panel p = {.dtype = w->dtype, .bf16 = m->bf16, .cols = w->cols};

    for (uint32_t i = 0; i < m->n; i += PANEL_X) {
        p.n = m->n - i < PANEL_X ? m->n - i : PANEL_X;
        for (uint32_t c = 0; c < p.n; c++)
            p.x[c] = (const char *)m->x + (i + c) * m->x_stride;
        for (uint32_t row = begin * PANEL_ROWS; row < end * PANEL_ROWS && row < w->rows;
             row += PANEL_ROWS) {
            p.rows = w->rows - row < PANEL_ROWS ? w->rows - row : PANEL_ROWS;
            p.w = (const char *)w->data + (size_t)row * w->cols * dtype_size(w->dtype);
            ISA(cpu_panel)(t, t->tile, &p);
            store_tile(m, t->tile, row, p.rows, i, p.n);
        }
    }
}

static void product_run(struct product *m)
{
    uint32_t panels = (m->w->rows + PANEL_ROWS - 1) / PANEL_ROWS;

    cpu_run(m->k, panels, (uint64_t)m->w->cols * (m->n + 1) * (PANEL_ROWS / 2), product_panels, m);
}

void ISA(cpu_matmul)(struct kernels *kernels, float *y, const float *x, const struct weight *w,
                     uint32_t n, bool add)
{
    struct cpu_kernels *k = cpu_of(kernels);
    struct product m = {.k = k, .w = w, .add = add};

    if (kernels->numerics == NUMERICS_EXACT) {
        m.x = x;
        m.x_stride = w->cols * sizeof *x;
        m.y = y;
        m.n = n;
        if (n)
            product_run(&m);
        return;
    }
    m.x = k->rounded;
    m.x_stride = k->limits.width * sizeof *k->rounded;
    m.bf16 = k->bf16_dot && w->dtype == DTYPE_BF16;
    for (uint32_t i = 0; i < n; i += PASS_ROWS) {
        m.n = n - i < PASS_ROWS ? n - i : PASS_ROWS;
        m.y = y + (size_t)i * w->rows;
        ISA(cpu_round_rows)(k, x + (size_t)i * w->cols, NULL, m.n, w->cols, m.bf16);
        product_run(&m);
    }
}
