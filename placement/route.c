#include "placement/route.h"

#include <stdbool.h>

double route_draw(uint64_t position, uint32_t layer, uint32_t expert)
{
    /* The mixing of splitmix64, over a word that differs for each of the three. */
    uint64_t z = position * 0x9e3779b97f4a7c15u + ((uint64_t)layer << 32 | expert);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

struct copies {
    const uint16_t *rank;
    const float *share; /* NULL: even */
    uint32_t n;
};

static struct copies copies_of(const struct plan *p, uint32_t layer, uint32_t expert)
{
    uint32_t *start = p->start + (size_t)layer * p->experts + expert;

    return (struct copies){p->rank + start[0], p->share ? p->share + start[0] : NULL,
                           start[1] - start[0]};
}

double route_share(const struct plan *plan, const struct cluster *c, size_t pair, uint32_t home,
                   uint32_t copy)
{
    struct copies k =
        copies_of(plan, (uint32_t)(pair / plan->experts), (uint32_t)(pair % plan->experts));
    double near = 0, all = 0;
    bool local = false;

    for (uint32_t i = 0; i < k.n; i++) {
        double share = k.share ? (double)k.share[i] : 1;

        if (k.rank[i] == home)
            return k.rank[copy] == home;
        all += share;
        if (c->node[k.rank[i]] == c->node[home]) {
            near += share;
            local = true;
        }
    }
    if (local && c->node[k.rank[copy]] != c->node[home])
        return 0;
    if (local && near <= 0) { /* only copies that get nothing are near: they share evenly */
        for (uint32_t i = 0; i < k.n; i++)
            near += c->node[k.rank[i]] == c->node[home];
        return 1 / near;
    }
    return (k.share ? (double)k.share[copy] : 1) / (local ? near : all);
}

static uint16_t draw_copy(const struct plan *plan, const struct cluster *c, uint32_t layer,
                          uint32_t expert, uint32_t home, uint64_t position)
{
    size_t pair = (size_t)layer * plan->experts + expert;
    struct copies k = copies_of(plan, layer, expert);
    double u = route_draw(position, layer, expert), sum = 0;
    uint16_t last = k.rank[0];

    for (uint32_t i = 0; i < k.n; i++) {
        double share = route_share(plan, c, pair, home, i);

        if (share <= 0)
            continue;
        sum += share;
        last = k.rank[i];
        if (u < sum)
            break;
    }
    return last; /* also where rounding leaves the sum below u */
}

static bool has(const uint64_t *set, uint32_t rank)
{
    return set[rank / 64] >> (rank % 64) & 1;
}

static uint16_t choose_copy(const struct plan *plan, const struct cluster *c, uint32_t layer,
                            uint32_t expert, uint32_t home, uint64_t position,
                            const uint64_t *forced)
{
    struct copies k = copies_of(plan, layer, expert);
    uint32_t lowest = UINT32_MAX;

    for (uint32_t i = 0; i < k.n; i++) {
        if (k.rank[i] == home)
            return (uint16_t)home;
        if (k.rank[i] < lowest && has(forced, k.rank[i]))
            lowest = k.rank[i];
    }
    return lowest < UINT32_MAX ? (uint16_t)lowest
                               : draw_copy(plan, c, layer, expert, home, position);
}

/* Only experts with one copy force a rank, and only those with several have a choice: so the order
 * in which experts are looked at does not matter. */
void route_choose(const struct plan *plan, const struct cluster *c, uint32_t layer,
                  const uint16_t *chosen, uint32_t topk, uint32_t home, uint64_t position,
                  uint16_t *ret)
{
    uint64_t forced[PLAN_MAX_RANKS / 64] = {0};
    bool several = false;

    for (uint32_t i = 0; i < topk; i++) {
        struct copies k = copies_of(plan, layer, chosen[i]);

        ret[i] = k.rank[0];
        several |= k.n > 1;
        if (k.n == 1)
            forced[ret[i] / 64] |= 1ull << (ret[i] % 64);
    }
    for (uint32_t i = 0; several && i < topk; i++)
        if (copies_of(plan, layer, chosen[i]).n > 1)
            ret[i] = choose_copy(plan, c, layer, chosen[i], home, position, forced);
}
