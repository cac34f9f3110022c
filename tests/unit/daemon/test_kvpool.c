/* The pool of KV blocks against a plain model: a list of contents by name, in order of use. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/kvpool.h"

#define BLOCKS 12
#define TOKENS 3

struct content { /* of a block, in the model */
    uint32_t holders;
    bool published;
    uint64_t before, serial, used;
    int32_t tokens[TOKENS];
};

struct model {
    struct kvpool pool;
    struct content block[BLOCKS];
    uint64_t clock, newest;
};

static uint32_t model_find(const struct model *m, uint64_t before, const int32_t *tokens)
{
    uint32_t i;

    for (i = 0; i < BLOCKS; i++)
        if (m->block[i].published && m->block[i].before == before &&
            !memcmp(m->block[i].tokens, tokens, sizeof(m->block[i].tokens)))
            return i;
    return KVPOOL_NONE;
}

static void check_counts(const struct model *m)
{
    uint32_t held = 0, cached = 0, i;

    for (i = 0; i < BLOCKS; i++) {
        held += m->block[i].holders > 0;
        cached += !m->block[i].holders && m->block[i].published;
    }
    assert_int_equal(m->pool.n_cached, cached);
    assert_int_equal(kvpool_available(&m->pool), BLOCKS - held);
}

/* Free blocks are taken first, then the cached one that was used longest ago. */
static void take(struct model *m)
{
    uint32_t block, i, oldest = KVPOOL_NONE;
    bool any_free = false, got = kvpool_take(&m->pool, &block);

    for (i = 0; i < BLOCKS; i++) {
        any_free |= !m->block[i].holders && !m->block[i].published;
        if (!m->block[i].holders && m->block[i].published &&
            (oldest == KVPOOL_NONE || m->block[i].used < m->block[oldest].used))
            oldest = i;
    }
    assert_int_equal(got, any_free || oldest != KVPOOL_NONE);
    if (!got)
        return;
    assert_int_equal(m->block[block].holders, 0);
    if (any_free)
        assert_false(m->block[block].published);
    else
        assert_int_equal(block, oldest);
    m->block[block] = (struct content){.holders = 1};
}

static void publish(struct model *m, uint32_t block, uint64_t before, const int32_t *tokens)
{
    uint32_t same = model_find(m, before, tokens);
    uint64_t serial = kvpool_publish(&m->pool, block, before, tokens);

    if (same != KVPOOL_NONE) {
        assert_int_equal(serial, m->block[same].serial);
        if (m->block[same].holders)
            return;
        m->block[same].published = false; /* its place is taken */
    }
    for (uint32_t i = 0; i < BLOCKS; i++)
        assert_true(!m->block[i].published || serial != m->block[i].serial);
    assert_true(same != KVPOOL_NONE || serial > m->newest); /* never given twice */
    m->newest = serial > m->newest ? serial : m->newest;
    m->block[block].published = true;
    m->block[block].before = before;
    m->block[block].serial = serial;
    memcpy(m->block[block].tokens, tokens, sizeof(m->block[block].tokens));
}

static void test_against_model(void **state)
{
    struct model m = {0};
    int32_t tokens[TOKENS];
    uint32_t round, i, found;
    uint64_t before;

    (void)state;
    srand(3);
    assert_int_equal(kvpool_init(&m.pool, BLOCKS, TOKENS, NULL), 0);
    for (round = 0; round < 300000; round++) {
        i = (uint32_t)rand() % BLOCKS;
        before = rand() % 2 ? 0 : m.block[(uint32_t)rand() % BLOCKS].serial;
        for (uint32_t k = 0; k < TOKENS; k++)
            tokens[k] = rand() % 2;
        switch (rand() % 4) {
        case 0: take(&m); break;
        case 1:
            if (m.block[i].holders) {
                kvpool_release(&m.pool, i);
                m.block[i].used = ++m.clock;
                if (!--m.block[i].holders && !m.block[i].published)
                    m.block[i].serial = 0;
            }
            break;
        case 2:
            if (m.block[i].holders && !m.block[i].published)
                publish(&m, i, before, tokens);
            break;
        default:
            found = KVPOOL_NONE;
            assert_int_equal(kvpool_find(&m.pool, before, tokens, &found),
                             model_find(&m, before, tokens) != KVPOOL_NONE);
            assert_int_equal(found, model_find(&m, before, tokens));
            if (found != KVPOOL_NONE && rand() % 2) {
                kvpool_hold(&m.pool, found);
                m.block[found].holders++;
            }
        }
        check_counts(&m);
    }
    kvpool_done(&m.pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_model)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
