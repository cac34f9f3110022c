#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/pool.h"

#define ITEMS 1000

struct visits {
    unsigned threads;
    uint32_t chunk;
    uint32_t seen[ITEMS]; /* not atomic: the thread sanitizer proves that nobody shares an item */
    uint32_t by[ITEMS];
};

static void visit(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    struct visits *v = context;

    for (uint32_t i = begin; i < end; i++) {
        v->seen[i]++;
        v->by[i] = thread;
    }
}

static struct pool *open_pool(unsigned threads)
{
    struct pool *p = NULL;
    struct mt_err err;

    assert_int_equal(pool_new(threads, &p, &err), 0);
    return p;
}

static void every_item_is_visited_once(void **state)
{
    static struct visits v;

    (void)state;
    for (unsigned threads = 1; threads <= 5; threads++) {
        struct pool *p = open_pool(threads);

        for (uint32_t items = 0; items <= ITEMS; items = items * 2 + 1) {
            for (uint32_t chunk = 1; chunk <= items + 1; chunk = chunk * 3 + 1) {
                memset(&v, 0, sizeof v);
                pool_run(p, items, chunk, visit, &v);
                for (uint32_t i = 0; i < ITEMS; i++) {
                    assert_int_equal(v.seen[i], i < items);
                    assert_true(v.by[i] < threads);
                }
            }
        }
        pool_free(p);
    }
}

struct step {
    uint32_t *from, *to;
};

static void add_neighbours(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct step *s = context;

    (void)thread;
    for (uint32_t i = begin; i < end; i++)
        s->to[i] = s->from[i] + s->from[(i + 1) % 64];
}

/* Each loop reads what all threads wrote in the one before, and changes the loop's context. */
static void loops_follow_each_other(void **state)
{
    uint32_t a[64], b[64], want[64], next[64];
    struct pool *p = open_pool(4);

    (void)state;
    for (uint32_t i = 0; i < 64; i++)
        a[i] = want[i] = i;
    for (int round = 0; round < 3000; round++) {
        struct step odd = {a, b}, even = {b, a};

        pool_run(p, 64, 1 + (uint32_t)round % 17, add_neighbours, round % 2 ? &even : &odd);
        for (uint32_t i = 0; i < 64; i++)
            next[i] = want[i] + want[(i + 1) % 64];
        memcpy(want, next, sizeof want);
        if (round % 500 == 0) { /* long enough to fall asleep */
            struct timespec nap = {.tv_nsec = 2000000};

            nanosleep(&nap, NULL);
        }
    }
    assert_memory_equal(a, want, sizeof a);
    pool_free(p);
}

static void slow_item(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    struct visits *v = context;

    if (begin == 0) {
        struct timespec nap = {.tv_nsec = 5000000};

        nanosleep(&nap, NULL);
    }
    visit(v, begin, end, thread);
}

/* The owner runs out of items first and has to sleep until the slow one is done. */
static void the_owner_waits_for_all(void **state)
{
    static struct visits v;
    struct pool *p = open_pool(3);

    (void)state;
    for (int round = 0; round < 20; round++) {
        memset(&v, 0, sizeof v);
        pool_run(p, 8, 1, slow_item, &v);
        for (uint32_t i = 0; i < 8; i++)
            assert_int_equal(v.seen[i], 1);
    }
    pool_free(p);
}

static double process_cpu(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Three threads that spun through these 200 ms would take 600 ms, or all that the machine gives. */
static void idle_threads_sleep(void **state)
{
    static struct visits v;
    struct pool *p = open_pool(4);
    struct timespec nap = {.tv_nsec = 200000000};
    double before;

    (void)state;
    pool_run(p, ITEMS, 1, visit, &v);
    before = process_cpu();
    nanosleep(&nap, NULL);
    assert_true(process_cpu() - before < 0.1);
    pool_free(p);
    pool_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_is_visited_once),
        cmocka_unit_test(loops_follow_each_other),
        cmocka_unit_test(the_owner_waits_for_all),
        cmocka_unit_test(idle_threads_sleep),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
