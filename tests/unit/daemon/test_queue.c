/* The queue against a plain array that does the same in the slow and obvious way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/queue.h"

#define ITEMS 40

static void test_against_model(void **state)
{
    struct queue_item items[ITEMS], *model[ITEMS], *got;
    uint32_t n = 0, i, k, at, round;
    uint64_t order;
    int64_t tokens = 0;
    struct queue q;
    struct mt_err err;
    bool full;

    (void)state;
    srand(7);
    memset(items, 0, sizeof(items));
    queue_init(&q, 12, 100);
    for (round = 0; round < 100000; round++) {
        i = (uint32_t)rand() % ITEMS;
        if (rand() % 2 && !items[i].queued) {
            k = (uint32_t)rand() % (rand() % 50 ? 30 : 300);
            full = n && (n == 12 || tokens + k > 100);
            order = (uint64_t)rand() % 10;
            assert_int_equal(queue_push(&q, &items[i], k, order, &err), full ? MT_ELIMIT : 0);
            if (!full) {
                for (at = n++; at && model[at - 1]->order > order; at--)
                    model[at] = model[at - 1];
                model[at] = &items[i];
                tokens += k;
            }
        } else if (rand() % 2) {
            got = queue_pop(&q);
            assert_ptr_equal(got, n ? model[0] : NULL);
            if (got) {
                tokens -= got->tokens;
                memmove(model, model + 1, --n * sizeof(*model));
            }
        } else {
            for (k = 0; k < n && model[k] != &items[i]; k++)
                ;
            assert_int_equal(items[i].queued, k < n);
            if (k < n) {
                tokens -= items[i].tokens;
                memmove(model + k, model + k + 1, (--n - k) * sizeof(*model));
            }
            queue_remove(&q, &items[i]);
        }
        assert_int_equal(q.n_items, n);
        assert_int_equal(q.n_tokens, tokens);
        assert_ptr_equal(queue_head(&q), n ? model[0] : NULL);
    }
}

static void test_limits_are_named(void **state)
{
    struct queue_item items[3];
    struct mt_err err;
    struct queue q;

    (void)state;
    memset(items, 0, sizeof(items));
    queue_init(&q, 2, 50);
    assert_int_equal(queue_push(&q, &items[0], 40, 0, &err), 0);
    assert_int_equal(queue_push(&q, &items[1], 11, 0, &err), MT_ELIMIT);
    assert_non_null(strstr(err.text, "limit of 50"));
    assert_int_equal(queue_push(&q, &items[1], 10, 0, &err), 0);
    assert_int_equal(queue_push(&q, &items[2], 0, 0, &err), MT_ELIMIT);
    assert_non_null(strstr(err.text, "limit is 2"));
}

/* A level of priority is worth so much waiting, and no more. */
static void test_priority_is_time(void **state)
{
    (void)state;
    assert_int_equal(queue_order(5000, 0, 1000) - QUEUE_EPOCH, 5000);
    assert_int_equal(queue_order(5000, -2, 1000) - QUEUE_EPOCH, 3000);
    assert_int_equal(queue_order(5000, 3, 1000) - QUEUE_EPOCH, 8000);
    assert_int_equal(queue_order(5000, 3, 0) - QUEUE_EPOCH, 5000);
    assert_int_equal(QUEUE_EPOCH - queue_order(5000, -9, 1000),
                     4000); /* also just after the start */
    assert_true(queue_order(5000, -1, UINT64_MAX) < QUEUE_EPOCH);
    assert_true(queue_order(5000, 1000, UINT64_MAX) > queue_order(UINT32_MAX, 0, 1000));
    assert_true(queue_order(5000, INT32_MIN, 1) < queue_order(5000, INT32_MIN + 1, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_model),
        cmocka_unit_test(test_limits_are_named),
        cmocka_unit_test(test_priority_is_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
