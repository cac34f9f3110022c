/* How a loop is handed out without locks.
 *
 * `ticket` holds the loop's number (high half) and how many of its items nobody has taken yet (low
 * half). A thread reads the ticket, then the loop's fields, and takes a range by compare-and-swap
 * on the ticket. The fields change only after every item of the loop is done, so while the ticket
 * has items left they are this loop's: a swap that succeeds proves that the fields read before it
 * were right. A thread that comes late sees a used-up ticket, or fails its swap. (The fields are
 * atomics only because a late thread may read them while the next loop is being written, to no
 * effect.)
 *
 * `epoch` counts loops and is the futex that idle threads sleep on; `done` counts finished items
 * and is the futex that the owner sleeps on. Each sleeper announces itself (sleepers, waiting)
 * before the kernel compares the futex, and each waker changes the futex before it looks for
 * sleepers; all four accesses are sequentially consistent, so that one of the two sees the other.
 */
#include "kernels/pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPINS 1500 /* some 20 to 60 microseconds */

typedef void pool_fn(void *context, uint32_t begin, uint32_t end, unsigned thread);

struct pool {
    _Alignas(64) _Atomic uint64_t ticket;
    _Atomic uint32_t items, chunk;
    pool_fn *_Atomic fn;
    void *_Atomic context;
    _Alignas(64) _Atomic uint32_t done;
    atomic_bool waiting; /* the owner may sleep on `done` */
    _Alignas(64) _Atomic uint32_t epoch;
    _Atomic uint32_t sleepers; /* threads that may sleep on `epoch` */
    atomic_bool stop;
    unsigned threads; /* owner included */
    struct pool_thread {
        struct pool *pool;
        pthread_t id;
        unsigned number;
    } thread[];
};

static void relax(void)
{
#if defined __x86_64__ || defined __i386__
    __builtin_ia32_pause();
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* Takes and runs ranges until the loop has none left. */
static void pool_work(struct pool *p, unsigned thread)
{
    uint64_t ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);

    for (;;) {
        uint32_t left = (uint32_t)ticket, take, begin;
        uint32_t items = atomic_load_explicit(&p->items, memory_order_relaxed);
        uint32_t chunk = atomic_load_explicit(&p->chunk, memory_order_relaxed);
        pool_fn *fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
        void *context = atomic_load_explicit(&p->context, memory_order_relaxed);

        if (left == 0)
            return;
        take = left < chunk ? left : chunk;
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &ticket, ticket - take,
                                                   memory_order_acq_rel, memory_order_acquire))
            continue;
        begin = items - left;
        fn(context, begin, begin + take, thread);
        if (atomic_fetch_add(&p->done, take) + take == items && atomic_load(&p->waiting))
            futex_wake_all(&p->done);
        ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
    }
}

/* Returns when epoch is no longer `seen`. */
static void pool_idle(struct pool *p, uint32_t seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&p->epoch, memory_order_acquire) != seen)
            return;
        relax();
    }
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->epoch) == seen)
        futex_wait(&p->epoch, seen);
    atomic_fetch_sub(&p->sleepers, 1);
}

static void *pool_main(void *argument)
{
    struct pool_thread *self = argument;
    struct pool *p = self->pool;
    uint32_t seen = 0;

    for (;;) {
        pool_idle(p, seen);
        seen = atomic_load(&p->epoch);
        if (atomic_load(&p->stop))
            return NULL;
        pool_work(p, self->number);
    }
}

static void pool_announce(struct pool *p)
{
    atomic_fetch_add(&p->epoch, 1);
    if (atomic_load(&p->sleepers))
        futex_wake_all(&p->epoch);
}

static void pool_wait(struct pool *p, uint32_t items)
{
    uint32_t done;

    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(&p->done) == items)
            return;
        relax();
    }
    atomic_store(&p->waiting, true);
    while ((done = atomic_load(&p->done)) != items)
        futex_wait(&p->done, done);
    atomic_store(&p->waiting, false);
}

void pool_run(struct pool *p, uint32_t items, uint32_t chunk, pool_fn *fn, void *context)
{
    uint64_t loop;

    if (p->threads == 1 || items <= chunk) {
        if (items)
            fn(context, 0, items, 0);
        return;
    }
    loop = (atomic_load_explicit(&p->ticket, memory_order_relaxed) >> 32) + 1;
    atomic_store(&p->done, 0);
    atomic_store_explicit(&p->items, items, memory_order_relaxed);
    atomic_store_explicit(&p->chunk, chunk, memory_order_relaxed);
    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->context, context, memory_order_relaxed);
    atomic_store_explicit(&p->ticket, loop << 32 | items, memory_order_release);
    pool_announce(p);
    pool_work(p, 0);
    pool_wait(p, items);
}

/* Stops and joins the threads 1 .. n-1. */
static void pool_join(struct pool *p, unsigned n)
{
    atomic_store(&p->stop, true);
    pool_announce(p);
    for (unsigned i = 1; i < n; i++)
        pthread_join(p->thread[i].id, NULL);
}

int pool_new(unsigned threads, struct pool **ret, struct mt_err *reterr)
{
    size_t size = sizeof(struct pool) + threads * sizeof(struct pool_thread);
    struct pool *p;

    size = (size + 63) / 64 * 64;
    p = aligned_alloc(64, size);
    if (!p)
        return mt_error(reterr, MT_ENOMEM, "no memory for a pool of %u threads", threads);
    memset(p, 0, size);
    p->threads = threads;
    for (unsigned i = 1; i < threads; i++) {
        int rc;

        p->thread[i] = (struct pool_thread){.pool = p, .number = i};
        rc = pthread_create(&p->thread[i].id, NULL, pool_main, &p->thread[i]);
        if (rc) {
            pool_join(p, i);
            free(p);
            return mt_error(reterr, MT_EIO, "cannot start thread %u of %u: %s", i, threads,
                            strerror(rc));
        }
    }
    *ret = p;
    return 0;
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    pool_join(p, p->threads);
    free(p);
}
