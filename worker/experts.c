#include "worker/experts.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

int expert_map_build(const struct wire_map *wire, struct expert_map *ret, struct mt_err *reterr)
{
    size_t pairs = (size_t)wire->layers * wire->experts;
    struct expert_map m = {.epoch = wire->epoch,
                           .layers = wire->layers,
                           .experts = wire->experts,
                           .ranks = wire->ranks};

    m.start = malloc((pairs + 1) * sizeof *m.start);
    m.copy = malloc(wire->start[pairs] * sizeof *m.copy);
    m.used = calloc((size_t)m.layers * m.ranks, sizeof *m.used);
    if (!m.start || !m.copy || !m.used) {
        expert_map_done(&m);
        return mt_error(reterr, MT_ENOMEM, "no memory for a map of %u layers x %u experts",
                        m.layers, m.experts);
    }
    memcpy(m.start, wire->start, (pairs + 1) * sizeof *m.start);
    for (size_t p = 0; p < pairs; p++) {
        uint32_t *used = m.used + p / m.experts * m.ranks;
        for (uint32_t i = m.start[p]; i < m.start[p + 1]; i++) {
            uint16_t rank = wire->rank[i];
            m.copy[i] = (struct expert_copy){.rank = rank, .slot = (uint16_t)used[rank]++};
        }
    }
    *ret = m;
    return 0;
}

void expert_map_done(struct expert_map *m)
{
    if (!m)
        return;
    free(m->start);
    free(m->copy);
    free(m->used);
    *m = (struct expert_map){0};
}

int expert_map_held(const struct expert_map *m, uint32_t rank, uint32_t spare, int32_t **ret_held,
                    uint32_t *ret_slots, struct mt_err *reterr)
{
    uint32_t slots = 0;
    int32_t *held;

    for (uint32_t l = 0; l < m->layers; l++)
        if (m->used[l * m->ranks + rank] > slots)
            slots = m->used[l * m->ranks + rank];
    slots += spare;
    held = malloc(((size_t)m->layers * slots + 1) * sizeof *held);
    if (!held)
        return mt_error(reterr, MT_ENOMEM, "no memory for %u expert slots", slots);
    for (size_t i = 0; i < (size_t)m->layers * slots; i++)
        held[i] = -1;
    for (size_t p = 0; p < (size_t)m->layers * m->experts; p++)
        for (uint32_t i = m->start[p]; i < m->start[p + 1]; i++)
            if (m->copy[i].rank == rank)
                held[p / m->experts * slots + m->copy[i].slot] = (int32_t)(p % m->experts);
    *ret_held = held;
    *ret_slots = slots;
    return 0;
}

/* SplitMix64's finaliser: position, layer and expert spread evenly over the copies. */
static uint64_t choice_hash(uint32_t position, uint32_t layer, uint32_t expert)
{
    uint64_t z =
        ((uint64_t)position << 32) + ((uint64_t)layer << 16) + expert + 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

struct copies {
    const struct expert_copy *at;
    uint32_t n;
};

static struct copies copies_of(const struct expert_map *m, uint32_t layer, int32_t expert)
{
    const uint32_t *start = m->start + (size_t)layer * m->experts + expert;

    return (struct copies){m->copy + start[0], start[1] - start[0]};
}

/* The copy on the lowest rank that must serve this token anyway, or NULL. */
static const struct expert_copy *copy_forced(const struct expert_map *m, uint32_t layer,
                                             const int32_t *ids, uint32_t topk, struct copies c)
{
    const struct expert_copy *best = NULL;

    for (uint32_t i = 0; i < c.n; i++) {
        if (best && best->rank < c.at[i].rank)
            continue;
        for (uint32_t j = 0; j < topk; j++) {
            struct copies other = copies_of(m, layer, ids[j]);
            if (other.n == 1 && other.at->rank == c.at[i].rank)
                best = c.at + i;
        }
    }
    return best;
}

static const struct expert_copy *copy_drawn(const uint32_t *node, uint32_t home, struct copies c,
                                            uint64_t hash)
{
    uint32_t near = 0, pick;

    for (uint32_t i = 0; i < c.n; i++)
        near += node[c.at[i].rank] == node[home];
    if (!near)
        return c.at + hash % c.n;
    pick = (uint32_t)(hash % near);
    for (uint32_t i = 0; i < c.n; i++)
        if (node[c.at[i].rank] == node[home] && pick-- == 0)
            return c.at + i;
    return c.at;
}

void expert_choose(const struct expert_map *m, const uint32_t *node, uint32_t home, uint32_t layer,
                   uint32_t position, const int32_t *ids, uint32_t topk, uint16_t *ret_rank,
                   int32_t *ret_slot)
{
    for (uint32_t j = 0; j < topk; j++) {
        struct copies c = copies_of(m, layer, ids[j]);
        const struct expert_copy *chosen = c.n == 1 ? c.at : NULL;

        for (uint32_t i = 0; i < c.n && !chosen; i++)
            if (c.at[i].rank == home)
                chosen = c.at + i;
        if (!chosen)
            chosen = copy_forced(m, layer, ids, topk, c);
        if (!chosen)
            chosen = copy_drawn(node, home, c, choice_hash(position, layer, (uint32_t)ids[j]));
        ret_rank[j] = chosen->rank;
        ret_slot[j] = chosen->slot;
    }
}
