/* Differences of placements: replayed move by move on thousands of random pairs, the old placement
 * becomes the new one, within the slots and with every expert there all the time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/diff.h"
#include "placement/random.h"
#include "placement/score.h"

#define MAX_EXPERTS 24
#define MAX_RANKS 9
#define MAX_LAYERS 3

struct table {
    uint8_t held[MAX_LAYERS][MAX_EXPERTS][MAX_RANKS];
};

static struct cluster machine(uint32_t ranks, uint32_t nodes)
{
    struct cluster c = {.ranks = ranks,
                        .nodes = nodes,
                        .rank_link = {100e9, 1e-6},
                        .node_link = {10e9, 5e-6},
                        .expert_bytes = 3e6,
                        .migration_share = 0.25};

    for (uint32_t r = 0; r < ranks; r++)
        c.node[r] = (uint16_t)(r * nodes / ranks);
    return c;
}

static struct plan plan_of(const struct table *t, uint32_t layers, uint32_t experts, uint32_t ranks)
{
    uint8_t *held = calloc((size_t)layers * experts * ranks, 1);
    struct plan p;

    for (uint32_t l = 0; l < layers; l++)
        for (uint32_t e = 0; e < experts; e++)
            memcpy(held + ((size_t)l * experts + e) * ranks, t->held[l][e], ranks);
    assert_int_equal(plan_from_held(layers, experts, ranks, held, &p, NULL), 0);
    free(held);
    return p;
}

static struct table table_of(const struct plan *p)
{
    struct table t = {0};

    for (uint32_t i = 0; i < p->layers * p->experts; i++)
        for (uint32_t k = p->start[i]; k < p->start[i + 1]; k++)
            t.held[i / p->experts][i % p->experts][p->rank[k]] = 1;
    return t;
}

/* A random layer that fits: every expert once, then copies into some of the free slots. */
static void random_layer(struct random *r, uint32_t experts, uint32_t ranks, const uint32_t *slots,
                         uint32_t copies, uint8_t (*held)[MAX_RANKS])
{
    uint32_t used[MAX_RANKS] = {0};

    for (uint32_t e = 0; e < experts; e++) {
        uint32_t g = random_below(r, ranks);

        while (used[g] == slots[g])
            g = (g + 1) % ranks;
        used[g]++;
        held[e][g] = 1;
    }
    for (uint32_t i = 0; i < copies; i++) {
        uint32_t e = random_below(r, experts), g = random_below(r, ranks);

        if (used[g] < slots[g] && !held[e][g]) {
            used[g]++;
            held[e][g] = 1;
        }
    }
}

/* `to` is `from` with a few pairs of experts exchanged: cycles apart from each other. */
static void swap_some(struct random *r, uint32_t experts, uint8_t (*from)[MAX_RANKS],
                      uint8_t (*to)[MAX_RANKS])
{
    memcpy(to, from, experts * sizeof *to);
    for (uint32_t n = 1 + random_below(r, 5); n > 0; n--) {
        uint32_t e = random_below(r, experts), f = random_below(r, experts);
        uint8_t row[MAX_RANKS];

        memcpy(row, to[e], sizeof row);
        memcpy(to[e], to[f], sizeof row);
        memcpy(to[f], row, sizeof row);
    }
}

/* What the moves claim is what they do; returns new copies that were needed. */
static uint32_t replay(const struct cluster *c, const struct plan *from, const struct plan *to,
                       const struct diff *d, bool staging)
{
    struct table now = table_of(from), want = table_of(to);
    double in[2 * MAX_RANKS] = {0}, out[2 * MAX_RANKS] = {0}, transfer = 0, seconds = 0;
    uint32_t needed = 0, copies = 0, drops = 0, detours = 0;

    for (uint32_t l = 0; l < to->layers; l++)
        for (uint32_t e = 0; e < to->experts; e++)
            for (uint32_t g = 0; g < to->ranks; g++)
                needed += want.held[l][e][g] && !now.held[l][e][g];
    for (size_t i = 0; i < d->moves; i++) {
        const struct diff_move *m = &d->move[i];
        uint8_t(*layer)[MAX_RANKS] = now.held[m->layer];
        uint32_t used = 0, left = 0;

        assert_true(layer[m->expert][m->from]);
        if (m->drop) {
            assert_int_equal(m->from, m->to);
            layer[m->expert][m->from] = 0;
            for (uint32_t g = 0; g < to->ranks; g++)
                left += layer[m->expert][g];
            assert_true(left > 0);
            drops++;
            continue;
        }
        assert_false(layer[m->expert][m->to]);
        layer[m->expert][m->to] = 1;
        for (uint32_t e = 0; e < to->experts; e++)
            used += layer[e][m->to];
        assert_true(used <= c->slots[m->to] + (staging ? 1 : 0));
        copies++;
        detours += m->detour;
        if (c->node[m->from] == c->node[m->to]) {
            out[m->from]++;
            in[m->to]++;
        } else {
            out[MAX_RANKS + c->node[m->from]]++;
            in[MAX_RANKS + c->node[m->to]]++;
        }
    }
    assert_memory_equal(&now, &want, sizeof now);
    assert_int_equal(copies, d->copies);
    assert_int_equal(drops, d->drops);
    assert_int_equal(detours, d->detours);
    assert_int_equal(d->moves, copies + drops);
    for (uint32_t k = 0; k < 2 * MAX_RANKS; k++) {
        const struct link *l = k < MAX_RANKS ? &c->rank_link : &c->node_link;
        double most = fmax(in[k], out[k]), s = most * c->expert_bytes / (0.25 * l->bandwidth);
        const double *said_in = k < MAX_RANKS ? d->rank_in : d->node_in;
        const double *said_out = k < MAX_RANKS ? d->rank_out : d->node_out;

        assert_float_equal(said_in[k % MAX_RANKS], in[k] * c->expert_bytes, 1);
        assert_float_equal(said_out[k % MAX_RANKS], out[k] * c->expert_bytes, 1);
        transfer = fmax(transfer, s);
        seconds = fmax(seconds, s + most * l->latency);
    }
    assert_true(fabs(d->transfer - transfer) <= 1e-9 * transfer);
    assert_true(fabs(d->seconds - seconds) <= 1e-9 * seconds);
    return needed;
}

static void check_pair(struct random *r, uint32_t round, uint32_t *ret_detours,
                       uint32_t *ret_staged, uint32_t *ret_priced, uint32_t *ret_stuck)
{
    uint32_t nodes = 1 + random_below(r, 3), ranks = nodes * (1 + random_below(r, 3));
    uint32_t experts = 1 + random_below(r, MAX_EXPERTS), layers = 1 + random_below(r, MAX_LAYERS);
    uint32_t total = 0, spare = random_below(r, 3), tries;
    struct cluster c = machine(ranks, nodes);
    struct table a = {0}, b = {0};
    struct plan from, to;
    struct diff d;
    struct mt_err err;
    int rc;

    for (uint32_t g = 0; g < ranks; g++) {
        c.slots[g] = (experts + ranks - 1) / ranks + (round % 2 ? random_below(r, 3) : spare);
        total += c.slots[g];
    }
    tries = 2 * total;
    if (round % 3 == 0 && total > 1 && total - 1 <= MAX_EXPERTS) { /* one free slot in all */
        experts = total - 1;
        tries = 1;
    }
    for (uint32_t l = 0; l < layers; l++) {
        random_layer(r, experts, ranks, c.slots, random_below(r, tries), a.held[l]);
        if (tries == 1)
            swap_some(r, experts, a.held[l], b.held[l]);
        else
            random_layer(r, experts, ranks, c.slots, random_below(r, tries), b.held[l]);
    }
    from = plan_of(&a, layers, experts, ranks);
    to = plan_of(&b, layers, experts, ranks);
    for (int staging = 0; staging < 2; staging++) {
        uint32_t needed;

        rc = diff_plans(&c, &from, &to, staging, &d, &err);
        if (rc) { /* only a cycle in a layer without a free slot */
            assert_int_equal(rc, MT_ELIMIT);
            assert_false(staging);
            assert_non_null(strstr(err.text, "staging slot"));
            ++*ret_stuck;
            continue;
        }
        needed = replay(&c, &from, &to, &d, staging);
        assert_int_equal(d.copies, needed + d.detours);
        if (staging)
            assert_int_equal(d.detours, 0);
        else
            assert_int_equal(d.staged, 0);
        if (!d.detours && !d.elsewhere) {
            double priced = score_migration(&c, &from, &to);

            assert_true(fabs(d.transfer - priced) <= 1e-9 * priced);
            ++*ret_priced;
        }
        *ret_detours += d.detours > 0;
        *ret_staged += d.staged > 0;
        diff_done(&d);
    }
    plan_done(&from);
    plan_done(&to);
}

static void test_random_pairs(void **unused)
{
    struct random r = {2026};
    uint32_t detours = 0, staged = 0, priced = 0, stuck = 0;

    (void)unused;
    for (uint32_t round = 0; round < 20000; round++)
        check_pair(&r, round, &detours, &staged, &priced, &stuck);
    assert_true(detours > 100 && staged > 100 && priced > 1000 && stuck > 100);
}

/* Two ranks exchange an expert. */
static struct diff exchange(uint32_t slots_0, uint32_t slots_1, uint32_t slots_2, bool staging)
{
    static const struct table a = {{{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}}};
    static const struct table b = {{{{0, 1, 0}, {1, 0, 0}, {0, 0, 1}}}};
    struct cluster c = machine(3, 1);
    struct plan from = plan_of(&a, 1, 3, 3), to = plan_of(&b, 1, 3, 3);
    struct diff d = {0};
    struct mt_err err;

    c.slots[0] = slots_0;
    c.slots[1] = slots_1;
    c.slots[2] = slots_2;
    if (diff_plans(&c, &from, &to, staging, &d, &err))
        assert_non_null(strstr(err.text, "layer 0: expert 0 on rank 0 must move in a cycle"));
    plan_done(&from);
    plan_done(&to);
    return d;
}

static void test_cycle(void **unused)
{
    struct diff d = exchange(1, 1, 1, false);

    (void)unused;
    assert_int_equal(d.moves, 0); /* refused */
    d = exchange(2, 1, 1, false); /* its own free slot will do */
    assert_int_equal(d.copies, 2);
    assert_int_equal(d.detours, 0);
    diff_done(&d);
    d = exchange(1, 1, 2, false); /* through rank 2 */
    assert_int_equal(d.copies, 3);
    assert_int_equal(d.detours, 1);
    assert_true(d.move[0].detour && d.move[0].to == 2);
    assert_true(d.move[d.moves - 2].drop || d.move[d.moves - 1].drop);
    diff_done(&d);
    d = exchange(1, 1, 1, true);
    assert_int_equal(d.copies, 2);
    assert_int_equal(d.staged, 1);
    diff_done(&d);
}

static void test_same_is_nothing(void **unused)
{
    struct cluster c = machine(4, 2);
    struct plan p;
    struct diff d;

    (void)unused;
    for (uint32_t g = 0; g < 4; g++)
        c.slots[g] = 3;
    assert_int_equal(plan_contiguous(5, 12, 4, &p, NULL), 0);
    assert_int_equal(diff_plans(&c, &p, &p, false, &d, NULL), 0);
    assert_int_equal(d.moves, 0);
    assert_true(d.seconds == 0 && d.transfer == 0);
    diff_done(&d);
    plan_done(&p);
}

static void test_refusals(void **unused)
{
    struct cluster c = machine(4, 1);
    struct plan p, q;
    struct diff d;
    struct mt_err err;

    (void)unused;
    for (uint32_t g = 0; g < 4; g++)
        c.slots[g] = 2;
    assert_int_equal(plan_contiguous(2, 12, 4, &p, NULL), 0);
    assert_int_equal(plan_contiguous(2, 8, 4, &q, NULL), 0);
    assert_int_equal(diff_plans(&c, &p, &q, false, &d, &err), MT_EINVAL);
    assert_int_equal(diff_plans(&c, &p, &p, false, &d, &err), MT_EINVAL);
    assert_non_null(strstr(err.text, "from: layer 0, rank 0: expected at most 2 experts, found 3"));
    c.ranks = 3;
    assert_int_equal(diff_plans(&c, &q, &q, false, &d, &err), MT_EINVAL);
    plan_done(&p);
    plan_done(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_pairs),
        cmocka_unit_test(test_cycle),
        cmocka_unit_test(test_same_is_nothing),
        cmocka_unit_test(test_refusals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
