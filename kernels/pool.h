/* A small pool of threads that run the parts of one loop at a time.
 *
 * One thread (the owner) calls pool_run and takes part in the work itself. Parts are handed out
 * dynamically. A thread with nothing to do spins briefly, because the next loop of a forward pass
 * usually follows at once, and then sleeps; a sleeping or late thread never holds up a loop whose
 * parts are done. Loops do not nest. */
#ifndef MT_KERNELS_POOL_H
#define MT_KERNELS_POOL_H

#include <stdint.h>

#include "api/status.h"

struct pool;

/* threads >= 1 counts the owner; with 1 nothing is started, and pool_run is a plain call. */
int pool_new(unsigned threads, struct pool **ret, struct mt_err *reterr);
void pool_free(struct pool *p); /* NULL allowed; joins the threads */

/* Calls fn(context, begin, end, thread) for ranges of at most `chunk` (>= 1) items that together
 * are [0, items), each once, on several threads at a time; thread (0: the owner) < threads says
 * which. Returns when all are done; what they wrote is visible to the caller. */
void pool_run(struct pool *p, uint32_t items, uint32_t chunk,
              void (*fn)(void *context, uint32_t begin, uint32_t end, unsigned thread),
              void *context);

#endif
