#include "placement/anneal.h"

#include <math.h>
#include <string.h>

#define ASK 1024       /* moves between two questions whether to stop */
#define SMALLEST 1e-12 /* of the price: what counts as better */

static bool stopped(const struct place_run *run)
{
    return run && run->stop && run->stop(run->user);
}

double anneal_heat(const struct layer *l)
{
    /* The parts that a move can change: what one rank's share of the tokens costs, and traffic. */
    const double *a = sample_token_cost(l->set), *b = sample_active_cost(l->set);
    double load = 0, traffic = l->price - layer_compute(l);

    for (uint32_t e = 0; e < l->experts; e++)
        for (uint32_t k = 0; k < l->samples; k++) {
            size_t i = (size_t)e * l->samples + k;

            load += a[k] * (double)l->tokens[i] + 0.1 * b[k] * (double)l->active[i];
        }
    return 0.0036 * load / l->ranks + 0.024 * traffic;
}

/* Two slots of different ranks that do not hold the same item. */
static bool draw_pair(const struct layer *l, struct random *r, uint32_t *a, uint32_t *b)
{
    *a = random_below(r, l->slots);
    *b = random_below(r, l->slots);
    return l->slot_rank[*a] != l->slot_rank[*b] && l->item[*a] != l->item[*b];
}

uint64_t anneal_exchange(struct layer *l, const struct anneal *how, struct random *r,
                         const struct place_run *run)
{
    double best_price = l->price, heat = how->hot;
    double cool = how->moves ? pow(how->cold / how->hot, (double)ASK / (double)how->moves) : 1;
    uint64_t i;

    memcpy(l->best, l->item, l->slots * sizeof *l->best);
    for (i = 0; i < how->moves && l->ranks > 1; i++) {
        uint32_t a, b;

        if (i % ASK == ASK - 1) {
            heat *= cool;
            if (stopped(run))
                break;
        }
        if (!draw_pair(l, r, &a, &b) ||
            !layer_exchange(l, a, b, -heat * log(random_unit(r) + 1e-300)))
            continue;
        if (l->price < best_price * (1 - SMALLEST)) {
            best_price = l->price;
            memcpy(l->best, l->item, l->slots * sizeof *l->best);
        }
    }
    if (l->price > best_price)
        layer_set(l, l->best);
    return i;
}

uint64_t anneal_descend(struct layer *l, uint64_t most, const struct place_run *run)
{
    uint64_t moves = 0;
    bool better = l->price > 0; /* of nothing, every exchange is as good as the last */

    while (better && moves < most && !stopped(run)) {
        better = false;
        for (uint32_t a = 0; a < l->slots && moves < most; a++)
            for (uint32_t b = a + 1; b < l->slots; b++) {
                if (l->slot_rank[a] == l->slot_rank[b] || l->item[a] == l->item[b])
                    continue;
                moves++;
                better |= layer_exchange(l, a, b, -SMALLEST * l->price);
            }
    }
    return moves;
}
