/* The batcher under random shapes, requests, priorities, shared prefixes, cancellations, stops and
 * deaths of the job; each sequence must get exactly the tokens of the oracle. Pools are small, so
 * that many are preempted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "batcher_world.h"

static void random_shape(struct batcher_shape *shape)
{
    uint32_t r;

    *shape = (struct batcher_shape){.ranks = 1 + world_rnd(4),
                                    .block_tokens = 1 + world_rnd(8),
                                    .max_positions = 8 + world_rnd(MAX_PROMPT + 20),
                                    .epoch = 7};
    for (r = 0; r < shape->ranks; r++)
        shape->rank[r] = (struct batcher_rank){.kv_blocks = 4 + world_rnd(world_rnd(2) ? 60 : 20),
                                               .max_tokens = 1 + world_rnd(24),
                                               .max_seqs = 1 + world_rnd(8)};
}

static void test_random_loads(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    uint64_t preemptions = 0, hits = 0, deaths = 0;
    struct batcher_counts counts;
    uint32_t round, i;

    (void)state;
    assert_non_null(w);
    for (round = 0; round < 1000; round++) {
        world_rng = 88172645463325252u + round * 7919u;
        memset(w, 0, sizeof(*w));
        random_shape(&w->shape);
        assert_int_equal(batcher_new(&w->batcher, NULL), 0);
        assert_int_equal(batcher_start(w->batcher, &w->shape, NULL), 0);
        w->ranks = fake_ranks_new(&w->shape);
        w->n_loads = 1 + world_rnd(MAX_REQUESTS);
        for (i = 0; i < w->n_loads; i++)
            world_make_load(w, &w->loads[i]);
        world_run(w, round % 2, round % 4 > 1);
        batcher_count(w->batcher, &counts);
        preemptions += counts.preemptions;
        hits += counts.prefix_hits;
        deaths += w->deaths;
        batcher_free(w->batcher);
        fake_ranks_free(w->ranks);
        wire_step_done(&w->step);
    }
    assert_true(preemptions > 500 && hits > 10000 && deaths > 1000); /* it was about them, too */
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_loads)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
