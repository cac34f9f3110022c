#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "kernels/backend.h"

#define HUGE_PAGE ((size_t)2 << 20)
#define LINE ((size_t)64)

/* Large blocks ask for huge pages: streaming weights would otherwise miss the TLB at every row. The
 * block that calloc gave is remembered before the aligned one; calloc leaves fresh pages alone. */
void *kernels_cpu_alloc(struct kernels *k, size_t bytes)
{
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : LINE, pad = align + LINE;
    char *block, *memory;

    (void)k;
    if (bytes > SIZE_MAX - pad)
        return NULL;
    block = calloc(1, bytes + pad);
    if (!block)
        return NULL;
    memory = block + LINE;
    memory += -(uintptr_t)memory & (align - 1);
    ((void **)(void *)memory)[-1] = block;
    if (align == HUGE_PAGE) /* a hint: nothing is lost without it */
        (void)madvise(memory, bytes & ~(HUGE_PAGE - 1), MADV_HUGEPAGE);
    return memory;
}

void kernels_cpu_free(struct kernels *k, void *memory, size_t bytes)
{
    (void)k;
    (void)bytes;
    if (memory)
        free(((void **)memory)[-1]);
}

int kernels_cpu_sync(struct kernels *k, struct mt_err *reterr)
{
    (void)k;
    (void)reterr;
    return 0;
}
