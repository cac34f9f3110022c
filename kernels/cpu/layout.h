/* The CPU backend's state, equal for all instruction sets. */
#ifndef MT_KERNELS_CPU_LAYOUT_H
#define MT_KERNELS_CPU_LAYOUT_H

#include "kernels/kernels.h"
#include "kernels/pool.h"

#define PANEL_ROWS 8    /* rows of W that are computed together */
#define PANEL_X 32      /* rows of x that pass by a panel while it is in the first cache */
#define PANEL_DEPTH 512 /* columns of W that are widened at a time */
#define PASS_ROWS 1024  /* rows, or expert pairs, of one pass */
#define ATTENTION_QUERIES 8

/* One thread's working memory, all 64-byte aligned. */
struct cpu_thread {
    float *wide;     /* [PANEL_ROWS][PANEL_DEPTH] a panel in float32 */
    float *sums;     /* [PANEL_ROWS][PANEL_X][16] partial sums between depths */
    float *tile;     /* [2][PANEL_X][PANEL_ROWS] */
    float *query;    /* [ATTENTION_QUERIES][width] */
    float *mix;      /* [ATTENTION_QUERIES][width] weighted sums of values */
    float *scores;   /* [ATTENTION_QUERIES][positions + 16] */
    float *weights;  /* [vocab] of sampling */
    uint32_t *order; /* [vocab] ids in descending buckets */
};

/* Pairs of one expert slot in a pass. */
struct expert_run {
    uint32_t slot, first, n; /* pairs first .. first + n - 1 of the pass */
};

struct cpu_kernels {
    struct kernels base; /* first: the public pointer is this one */
    struct pool *pool;
    struct kernels_limits limits; /* width and inter rounded up to 32, the others to 16 */
    bool bf16_dot;                /* fast mode on a processor with bf16 dot products */
    float *rounded;               /* [PASS_ROWS][width], fast mode only */
    float *inter;                 /* [PASS_ROWS][inter] of the experts */
    struct expert_run *runs;      /* [PASS_ROWS] */
    void *memory;                 /* holds all of the above */
    struct cpu_thread thread[];
};

static inline struct cpu_kernels *cpu_of(struct kernels *k)
{
    return (struct cpu_kernels *)(void *)k;
}

/* Runs fn over [0, items) on all threads. cost: of one item, roughly in multiply-adds; ranges are
 * made long enough to be worth handing out, and short loops stay on this thread. */
static inline void cpu_run(struct cpu_kernels *k, uint32_t items, uint64_t cost,
                           void (*fn)(void *context, uint32_t begin, uint32_t end, unsigned thread),
                           void *context)
{
    const uint64_t worthwhile = 32768;
    uint64_t chunk = worthwhile / (cost ? cost : 1) + 1;
    uint64_t even = items / (k->base.threads * 8);

    if (chunk < even)
        chunk = even;
    pool_run(k->pool, items, chunk > items ? items + 1 : (uint32_t)chunk, fn, context);
}

#endif
