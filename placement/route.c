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

/* The copies of a pair. */
struct copies {
    const uint16_t *rank;
    const float *share; /* NULL: even */
    uint32_t n;
};

static struct copies copies_of(const struct plan *p, size_t pair)
{
    uint32_t first = p->start[pair];

    return (struct copies){p->rank + first, p->share ? p->share + first : NULL,
                           p->start[pair + 1] - first};
}

/* Those among which a token of `home` draws: the node's, if there are any, otherwise all. */
struct lots {
    bool near;
    uint32_t n;
    double sum; /* of their shares; 0: they are alike */
};

static bool is_lot(const struct lots *l, const struct cluster *c, uint32_t rank, uint32_t home)
{
    return !l->near || c->node[rank] == c->node[home];
}

static struct lots lots_of(const struct copies *k, const struct cluster *c, uint32_t home)
{
    struct lots l = {false, 0, 0};

    for (uint32_t i = 0; i < k->n; i++)
        l.near |= c->node[k->rank[i]] == c->node[home];
    for (uint32_t i = 0; i < k->n; i++)
        if (is_lot(&l, c, k->rank[i], home)) {
            l.n++;
            l.sum += k->share ? (double)k->share[i] : 1;
        }
    return l;
}

/* The part of the lots that the copy has. */
static double lot(const struct lots *l, const struct copies *k, const struct cluster *c,
                  uint32_t home, uint32_t copy)
{
    if (!is_lot(l, c, k->rank[copy], home))
        return 0;
    if (l->sum <= 0)
        return 1.0 / l->n;
    return (k->share ? (double)k->share[copy] : 1) / l->sum;
}

double route_share(const struct plan *plan, const struct cluster *c, size_t pair, uint32_t home,
                   uint32_t copy)
{
    struct copies k = copies_of(plan, pair);
    struct lots l;

    for (uint32_t i = 0; i < k.n; i++)
        if (k.rank[i] == home)
            return i == copy;
    l = lots_of(&k, c, home);
    return lot(&l, &k, c, home, copy);
}

static uint16_t draw_copy(const struct plan *plan, const struct cluster *c, uint32_t layer,
                          uint32_t expert, uint32_t home, uint64_t position)
{
    struct copies k = copies_of(plan, (size_t)layer * plan->experts + expert);
    struct lots l = lots_of(&k, c, home);
    double u = route_draw(position, layer, expert), sum = 0;
    uint16_t last = k.rank[0];

    for (uint32_t i = 0; i < k.n; i++) {
        double share = lot(&l, &k, c, home, i);

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

/* The copy that needs no draw, or ROUTE_DRAWN. */
static uint16_t settle_copy(const struct copies *k, uint32_t home, const uint64_t *forced)
{
    uint16_t lowest = ROUTE_DRAWN;

    for (uint32_t i = 0; i < k->n; i++) {
        if (k->rank[i] == home)
            return (uint16_t)home;
        if (k->rank[i] < lowest && has(forced, k->rank[i]))
            lowest = k->rank[i];
    }
    return lowest;
}

/* Only experts with one copy force a rank, and only those with several have a choice: so the order
 * in which experts are looked at does not matter. */
uint32_t route_settle(const struct plan *plan, uint32_t layer, const uint16_t *chosen,
                      uint32_t topk, uint32_t home, uint16_t *ret)
{
    const size_t row = (size_t)layer * plan->experts;
    uint64_t forced[PLAN_MAX_RANKS / 64] = {0};
    uint32_t several = 0, drawn = 0;

    for (uint32_t i = 0; i < topk; i++) {
        struct copies k = copies_of(plan, row + chosen[i]);

        ret[i] = k.rank[0];
        if (k.n == 1)
            forced[ret[i] / 64] |= 1ull << (ret[i] % 64);
        else
            several++;
    }
    for (uint32_t i = 0; several && i < topk; i++) {
        struct copies k = copies_of(plan, row + chosen[i]);

        if (k.n == 1)
            continue;
        ret[i] = settle_copy(&k, home, forced);
        drawn += ret[i] == ROUTE_DRAWN;
    }
    return drawn;
}

void route_choose(const struct plan *plan, const struct cluster *c, uint32_t layer,
                  const uint16_t *chosen, uint32_t topk, uint32_t home, uint64_t position,
                  uint16_t *ret)
{
    if (!route_settle(plan, layer, chosen, topk, home, ret))
        return;
    for (uint32_t i = 0; i < topk; i++)
        if (ret[i] == ROUTE_DRAWN)
            ret[i] = draw_copy(plan, c, layer, chosen[i], home, position);
}
