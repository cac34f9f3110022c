/* The expert map and the choice of copies, against a recount written from the rule's words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/experts.h"

#define MAX_RANKS 8
#define MAX_EXPERTS 12
#define MAX_LAYERS 3

static uint64_t state = 99;

static uint32_t random_below(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % n);
}

struct random_map {
    struct wire_map wire;
    uint32_t start[MAX_LAYERS * MAX_EXPERTS + 1];
    uint16_t rank[MAX_LAYERS * MAX_EXPERTS * MAX_RANKS];
    bool holds[MAX_LAYERS][MAX_EXPERTS][MAX_RANKS];
};

static void random_map(struct random_map *m)
{
    uint32_t n = 0;

    memset(m, 0, sizeof *m);
    m->wire = (struct wire_map){.epoch = 1,
                                .layers = 1 + random_below(MAX_LAYERS),
                                .experts = 1 + random_below(MAX_EXPERTS),
                                .ranks = 1 + random_below(MAX_RANKS),
                                .start = m->start,
                                .rank = m->rank};
    for (uint32_t l = 0; l < m->wire.layers; l++)
        for (uint32_t e = 0; e < m->wire.experts; e++) {
            uint16_t primary = (uint16_t)random_below(m->wire.ranks);
            m->start[l * m->wire.experts + e] = n;
            m->rank[n++] = primary;
            m->holds[l][e][primary] = true;
            for (uint32_t r = 0; r < m->wire.ranks; r++)
                if (r != primary && random_below(3) == 0) {
                    m->rank[n++] = (uint16_t)r;
                    m->holds[l][e][r] = true;
                }
        }
    m->start[m->wire.layers * m->wire.experts] = n;
}

static uint32_t copies(const struct random_map *m, uint32_t l, int32_t e)
{
    uint32_t n = 0;

    for (uint32_t r = 0; r < m->wire.ranks; r++)
        n += m->holds[l][e][r];
    return n;
}

/* Ranks that may serve expert e for this token, by the rule: a set, since the last clause draws. */
static void allowed(const struct random_map *m, const uint32_t *node, uint32_t home, uint32_t l,
                    const int32_t *ids, uint32_t topk, int32_t e, bool ret[MAX_RANKS])
{
    uint32_t near = 0;

    memset(ret, 0, MAX_RANKS * sizeof *ret);
    if (m->holds[l][e][home]) {
        ret[home] = true;
        return;
    }
    for (uint32_t r = 0; r < m->wire.ranks; r++)
        for (uint32_t j = 0; j < topk; j++)
            if (m->holds[l][e][r] && copies(m, l, ids[j]) == 1 && m->holds[l][ids[j]][r]) {
                ret[r] = true; /* the lowest such rank */
                return;
            }
    for (uint32_t r = 0; r < m->wire.ranks; r++)
        near += m->holds[l][e][r] && node[r] == node[home];
    for (uint32_t r = 0; r < m->wire.ranks; r++)
        ret[r] = m->holds[l][e][r] && (!near || node[r] == node[home]);
}

static void test_choice_follows_the_rule(void **unused)
{
    static struct random_map m;

    (void)unused;
    for (int i = 0; i < 3000; i++) {
        uint32_t node[MAX_RANKS], topk, home, layer;
        int32_t ids[4], slot[4], held_slot = -1;
        uint16_t rank[4];
        struct expert_map map;
        struct mt_err err;

        random_map(&m);
        assert_int_equal(expert_map_build(&m.wire, &map, &err), 0);
        topk = 1 + random_below(m.wire.experts < 4 ? m.wire.experts : 4);
        home = random_below(m.wire.ranks);
        layer = random_below(m.wire.layers);
        for (uint32_t r = 0; r < MAX_RANKS; r++)
            node[r] = r / 3;
        for (uint32_t j = 0; j < topk; j++)
            ids[j] = (int32_t)((random_below(m.wire.experts) / topk * topk + j) % m.wire.experts);
        expert_choose(&map, node, home, layer, random_below(1000), ids, topk, rank, slot);
        for (uint32_t j = 0; j < topk; j++) {
            bool ok[MAX_RANKS];
            int32_t *held;
            uint32_t slots;

            allowed(&m, node, home, layer, ids, topk, ids[j], ok);
            assert_true(ok[rank[j]]);
            assert_int_equal(expert_map_held(&map, rank[j], 1, &held, &slots, &err), 0);
            assert_in_range(slot[j], 0, slots - 2); /* the last one is spare */
            held_slot = held[layer * slots + (uint32_t)slot[j]];
            free(held);
            assert_int_equal(held_slot, ids[j]);
        }
        expert_map_done(&map);
    }
}

/* Replicas share the load: of many positions, each copy on the home's node serves about its part.
 */
static void test_replicas_share(void **unused)
{
    uint32_t start[] = {0, 3}, node[] = {0, 0, 0, 0}, count[4] = {0};
    uint16_t ranks[] = {2, 1, 3};
    struct wire_map wire = {.layers = 1, .experts = 1, .ranks = 4, .start = start, .rank = ranks};
    struct expert_map map;
    struct mt_err err;

    (void)unused;
    assert_int_equal(expert_map_build(&wire, &map, &err), 0);
    for (uint32_t p = 0; p < 3000; p++) {
        int32_t id = 0, slot;
        uint16_t rank;
        expert_choose(&map, node, 0, 0, p, &id, 1, &rank, &slot);
        count[rank]++;
    }
    assert_int_equal(count[0], 0);
    for (int r = 1; r < 4; r++)
        assert_in_range(count[r], 900, 1100);
    expert_map_done(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choice_follows_the_rule),
        cmocka_unit_test(test_replicas_share),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
