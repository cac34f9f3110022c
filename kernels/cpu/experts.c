/* The experts of a rank, in passes of at most PASS_ROWS pairs. Each pass has two loops, whose items
 * are (expert, panel of rows): first inter = silu(gate x) * (up x) for all pairs, then down. So
 * with few tokens all threads share one expert's weights, and with many the panels balance the
 * load. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

struct expert_pass {
    struct cpu_kernels *k;
    const struct expert_pool *pool;
    const float *x;
    float *y;
    const uint32_t *pair_row, *pair_out; /* of the pass's first pair */
    uint32_t runs, pairs;
    uint32_t panels; /* of one expert, in the loop that runs */
    bool fast;
    enum input input;
};

static const char *slot_matrix(const struct expert_pool *pool, uint32_t slot, uint32_t which)
{
    return (const char *)pool->base + slot * pool->stride +
           (size_t)which * pool->hidden * pool->inter * dtype_size(pool->dtype);
}

static float *inter_row(const struct expert_pass *e, uint32_t pair)
{
    return e->k->inter + (size_t)pair * e->k->limits.inter;
}

/* The rows of W that an item stands for. */
static void set_rows(const struct expert_pass *e, struct panel *p, const char *matrix, uint32_t row,
                     uint32_t rows)
{
    p->rows = rows - row < PANEL_ROWS ? rows - row : PANEL_ROWS;
    p->w = matrix + (size_t)row * p->cols * dtype_size(e->pool->dtype);
}

/* inter[pair][row ..] from tiles of gate and up. */
static void store_inter(const struct expert_pass *e, const float *gate, const float *up,
                        const struct panel *p, uint32_t pair, uint32_t row)
{
    for (uint32_t c = 0; c < p->n; c += 2) { /* two rows of a tile are one vector */
        _Alignas(64) float h[2 * PANEL_ROWS];
        v16 g = v16_load(gate + c * PANEL_ROWS), u = v16_load(up + c * PANEL_ROWS);

        v16_store(h, v16_mul(v16_silu(g), u));
        memcpy(inter_row(e, pair + c) + row, h, p->rows * sizeof *h);
        if (c + 1 < p->n)
            memcpy(inter_row(e, pair + c + 1) + row, h + PANEL_ROWS, p->rows * sizeof *h);
    }
}

static void gate_up_panel(const struct expert_pass *e, struct cpu_thread *t,
                          const struct expert_run *run, uint32_t row)
{
    const struct expert_pool *pool = e->pool;
    struct panel p = {.dtype = pool->dtype, .input = e->input, .cols = pool->hidden};
    float *gate = t->tile, *up = t->tile + PANEL_X * PANEL_ROWS;

    for (uint32_t i = 0; i < run->n; i += PANEL_X) {
        uint32_t pair = run->first + i;

        p.n = run->n - i < PANEL_X ? run->n - i : PANEL_X;
        for (uint32_t c = 0; c < p.n; c++)
            p.x[c] = e->fast ? e->k->rounded + (size_t)(pair + c) * e->k->limits.width
                             : e->x + (size_t)e->pair_row[pair + c] * pool->hidden;
        set_rows(e, &p, slot_matrix(pool, run->slot, 0), row, pool->inter);
        ISA(cpu_panel)(t, gate, &p);
        set_rows(e, &p, slot_matrix(pool, run->slot, 1), row, pool->inter);
        ISA(cpu_panel)(t, up, &p);
        store_inter(e, gate, up, &p, pair, row);
    }
}

static void down_panel(const struct expert_pass *e, struct cpu_thread *t,
                       const struct expert_run *run, uint32_t row)
{
    const struct expert_pool *pool = e->pool;
    struct panel p = {.dtype = pool->dtype, .input = e->input, .cols = pool->inter};

    set_rows(e, &p, slot_matrix(pool, run->slot, 2), row, pool->hidden);
    for (uint32_t i = 0; i < run->n; i += PANEL_X) {
        uint32_t pair = run->first + i;

        p.n = run->n - i < PANEL_X ? run->n - i : PANEL_X;
        for (uint32_t c = 0; c < p.n; c++)
            p.x[c] = inter_row(e, pair + c);
        ISA(cpu_panel)(t, t->tile, &p);
        for (uint32_t c = 0; c < p.n; c++)
            memcpy(e->y + (size_t)e->pair_out[pair + c] * pool->hidden + row,
                   t->tile + c * PANEL_ROWS, p.rows * sizeof *e->y);
    }
}

static void gate_up_items(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct expert_pass *e = context;

    for (uint32_t i = begin; i < end; i++)
        gate_up_panel(e, &e->k->thread[thread], &e->k->runs[i / e->panels],
                      i % e->panels * PANEL_ROWS);
}

static void down_items(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct expert_pass *e = context;

    for (uint32_t i = begin; i < end; i++)
        down_panel(e, &e->k->thread[thread], &e->k->runs[i / e->panels],
                   i % e->panels * PANEL_ROWS);
}

static void round_inter(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct expert_pass *e = context;

    (void)thread;
    for (uint32_t i = begin; i < end; i++)
        ISA(cpu_round_row)(inter_row(e, i), inter_row(e, i), e->pool->inter, e->input);
}

static void run_pass(struct expert_pass *e)
{
    const struct expert_pool *pool = e->pool;
    uint64_t each = (e->pairs + e->runs - 1) / e->runs + 1; /* a run's pairs, on average */

    if (e->fast)
        ISA(cpu_round_rows)(e->k, e->x, e->pair_row, e->pairs, pool->hidden, e->input);
    e->panels = (pool->inter + PANEL_ROWS - 1) / PANEL_ROWS;
    cpu_run(e->k, e->runs * e->panels, each * pool->hidden * PANEL_ROWS, gate_up_items, e);
    if (e->fast)
        cpu_run(e->k, e->pairs, pool->inter, round_inter, e);
    e->panels = (pool->hidden + PANEL_ROWS - 1) / PANEL_ROWS;
    cpu_run(e->k, e->runs * e->panels, each * pool->inter * (PANEL_ROWS / 2), down_items, e);
}

void ISA(cpu_experts)(struct kernels *kernels, float *y, const float *x,
                      const struct expert_pool *pool, const uint32_t *offsets,
                      const uint32_t *pair_row, const uint32_t *pair_out)
{
    struct cpu_kernels *k = cpu_of(kernels);
    const uint32_t last = offsets[pool->slots];
    struct expert_pass e = {.k = k, .pool = pool, .x = x, .y = y};
    uint32_t slot = 0;

    e.fast = kernels->numerics == NUMERICS_FAST;
    e.input = cpu_input(k, pool->dtype);
    for (uint32_t pair = offsets[0]; pair < last; pair += e.pairs) {
        e.pair_row = pair_row + pair;
        e.pair_out = pair_out + pair;
        e.runs = e.pairs = 0;
        while (pair + e.pairs < last && e.pairs < PASS_ROWS) {
            uint32_t from = pair + e.pairs, n;

            while (offsets[slot + 1] <= from)
                slot++;
            n = offsets[slot + 1] - from;
            if (n > PASS_ROWS - e.pairs)
                n = PASS_ROWS - e.pairs;
            k->runs[e.runs++] = (struct expert_run){slot, e.pairs, n};
            e.pairs += n;
        }
        run_pass(&e);
    }
}
