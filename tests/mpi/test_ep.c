/* The MPI transport under mpirun, with random batches: every rank can compute what every other rank
 * has (all is drawn from one seed), so each checks what it received and what came back against a
 * recount. Both numeric modes; ranks without tokens, tokens without remote experts, and tokens all
 * of whose experts sit on one remote rank all occur.
 *
 *   mpirun -n 4 --oversubscribe build/mpi/test_ep [rounds]          prints "ep: N exchanges, 0
 * wrong" on rank 0 */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/ep.h"

#define HIDDEN 24
#define TOPK 3
#define MAX_TOKENS 17
#define MAX_RANKS 16
#define SLOTS 4

static uint64_t state;

static uint32_t random_below(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % n);
}

/* What one rank has in a round: values are small integers, exact in bf16 too. */
struct batch {
    uint32_t n;
    float x[MAX_TOKENS][HIDDEN];
    uint16_t rank[MAX_TOKENS][TOPK];
    int32_t slot[MAX_TOKENS][TOPK];
    float weight[MAX_TOKENS][TOPK];
};

static struct batch all[MAX_RANKS];

static void batches_draw(uint64_t seed, uint32_t ranks)
{
    state = seed;
    for (uint32_t r = 0; r < ranks; r++) {
        struct batch *b = all + r;
        uint32_t style = random_below(4);

        b->n = random_below(4) ? random_below(MAX_TOKENS + 1) : 0;
        for (uint32_t i = 0; i < b->n; i++) {
            for (uint32_t d = 0; d < HIDDEN; d++)
                b->x[i][d] = (float)random_below(200) - 100;
            for (uint32_t j = 0; j < TOPK; j++) {
                b->rank[i][j] = (uint16_t)(style == 0   ? r
                                           : style == 1 ? (r + 1) % ranks
                                                        : random_below(ranks));
                b->slot[i][j] = (int32_t)random_below(SLOTS);
                b->weight[i][j] = (float)(1 + random_below(4));
            }
        }
    }
}

/* The "expert": a small integer function of slot and input. */
static float expert(int32_t slot, float x)
{
    return x + (float)(slot * 3);
}

static bool serves(const struct batch *b, uint32_t token, uint32_t rank)
{
    for (uint32_t j = 0; j < TOPK; j++)
        if (b->rank[token][j] == rank)
            return true;
    return false;
}

/* Rows of one source in what `me` received; returns how many are wrong. */
static int check_source(const struct ep_exchange *x, uint32_t me, uint32_t source, uint32_t *row,
                        bool fast)
{
    const struct batch *b = all + source;
    int wrong = 0;

    for (uint32_t i = 0; i < b->n; i++) {
        if (source != me && !serves(b, i, me))
            continue;
        wrong += *row >= x->rows || memcmp(x->x + (size_t)*row * HIDDEN, b->x[i], sizeof b->x[i]);
        for (uint32_t j = 0; j < TOPK && *row < x->rows; j++) {
            bool here = b->rank[i][j] == me;
            wrong += x->row_slot[*row * TOPK + j] != (here ? b->slot[i][j] : -1);
            wrong += fast && here && x->row_weight[*row * TOPK + j] != b->weight[i][j];
        }
        ++*row;
    }
    return wrong;
}

static int check_dispatch(const struct ep_exchange *x, uint32_t me, uint32_t ranks, bool fast)
{
    uint32_t row = 0;
    int wrong = check_source(x, me, me, &row, fast);

    for (uint32_t r = 0; r < ranks; r++)
        if (r != me)
            wrong += check_source(x, me, r, &row, fast);
    return wrong + (row != x->rows);
}

/* Plays the experts: fills y (exact) or partial and sum (fast) from the rows received. */
static void compute(struct ep_exchange *x, bool fast)
{
    size_t next = (size_t)x->n * TOPK;

    memset(x->sum, 0, (size_t)x->n * HIDDEN * sizeof *x->sum);
    memset(x->partial, 0, (size_t)MAX_RANKS * MAX_TOKENS * HIDDEN * sizeof *x->partial);
    for (uint32_t row = 0; row < x->rows; row++)
        for (uint32_t j = 0; j < TOPK; j++) {
            int32_t slot = x->row_slot[row * TOPK + j];
            float *out = fast ? (row < x->n ? x->sum + (size_t)row * HIDDEN
                                            : x->partial + (size_t)(row - x->n) * HIDDEN)
                              : x->y + (row < x->n ? (size_t)row * TOPK + j : next) * HIDDEN;
            if (slot < 0)
                continue;
            next += row >= x->n;
            for (uint32_t d = 0; d < HIDDEN; d++) {
                float value = expert(slot, x->x[(size_t)row * HIDDEN + d]);
                out[d] = fast ? out[d] + value * x->row_weight[row * TOPK + j] : value;
            }
        }
}

static int check_combine(const struct ep_exchange *x, uint32_t me, bool fast)
{
    const struct batch *b = all + me;
    int wrong = 0;

    for (uint32_t i = 0; i < b->n; i++)
        for (uint32_t d = 0; d < HIDDEN; d++) {
            float sum = 0;
            for (uint32_t j = 0; j < TOPK; j++) {
                float value = expert(b->slot[i][j], b->x[i][d]);
                sum += value * b->weight[i][j];
                wrong += !fast && x->y[((size_t)i * TOPK + j) * HIDDEN + d] != value;
            }
            /* A partial sum is rounded to bf16 on its way: 8 bits of each, at most TOPK of them. */
            wrong += fast && !(fabsf(x->sum[(size_t)i * HIDDEN + d] - sum) <= 16);
        }
    return wrong;
}

static int round_run(struct ep *ep, struct ep_exchange *x, uint64_t seed, struct mt_err *err)
{
    bool fast = ep->shape.numerics == NUMERICS_FAST;
    uint32_t tokens[MAX_RANKS];
    const struct batch *b = all + ep->rank;
    int wrong;

    batches_draw(seed, ep->ranks);
    for (uint32_t r = 0; r < ep->ranks; r++)
        tokens[r] = all[r].n;
    x->n = b->n;
    x->rank = b->rank[0];
    x->slot = b->slot[0];
    x->weight = b->weight[0];
    memcpy(x->x, b->x, sizeof b->x);
    if (ep->op->begin(ep, tokens, err) || ep->op->dispatch(ep, x, err))
        return -1;
    wrong = check_dispatch(x, ep->rank, ep->ranks, fast);
    compute(x, fast);
    if (ep->op->combine(ep, x, err))
        return -1;
    return wrong + check_combine(x, ep->rank, fast);
}

static int mode_run(struct ep *ep, enum numerics numerics, int rounds, int *ret_wrong,
                    struct mt_err *err)
{
    static float x_rows[MAX_RANKS * MAX_TOKENS * HIDDEN], y[MAX_RANKS * MAX_TOKENS * TOPK * HIDDEN];
    static float partial[MAX_RANKS * MAX_TOKENS * HIDDEN], sum[MAX_TOKENS * HIDDEN];
    static int32_t row_slot[MAX_RANKS * MAX_TOKENS * TOPK];
    static float row_weight[MAX_RANKS * MAX_TOKENS * TOPK];
    struct ep_shape shape = {HIDDEN, TOPK, MAX_TOKENS, numerics};
    struct ep_exchange x = {.x = x_rows,
                            .y = y,
                            .partial = partial,
                            .sum = sum,
                            .row_slot = row_slot,
                            .row_weight = row_weight};

    if (ep_reserve(ep, &shape, err))
        return -1;
    for (int i = 0; i < rounds; i++) {
        int wrong = round_run(ep, &x, (uint64_t)i * 2 + (numerics == NUMERICS_FAST), err);
        if (wrong < 0)
            return -1;
        *ret_wrong += wrong;
    }
    return 0;
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 300, wrong = 0, total = 0, rc;
    struct mt_err err = {0};
    struct ep *ep = NULL;

    rc = ep_open_mpi(&argc, &argv, &ep, &err);
    if (!rc)
        rc = mode_run(ep, NUMERICS_EXACT, rounds, &wrong, &err);
    if (!rc)
        rc = mode_run(ep, NUMERICS_FAST, rounds, &wrong, &err);
    if (rc) {
        fprintf(stderr, "ep: %s\n", err.text);
        return 1;
    }
    MPI_Allreduce(&wrong, &total, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (!ep->rank)
        printf("ep: %d exchanges over %u ranks, %d wrong\n", 2 * rounds, ep->ranks, total);
    ep_close(ep);
    return total ? 1 : 0;
}
