#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/backend.h"

#define HUGE_PAGE ((size_t)2 << 20)

/* Large blocks ask for huge pages: streaming weights would otherwise miss the TLB at every row. */
void *kernels_cpu_alloc(struct kernels *k, size_t bytes)
{
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    void *memory;

    (void)k;
    if (bytes > SIZE_MAX - align)
        return NULL;
    bytes = (bytes + align - 1) / align * align;
    memory = aligned_alloc(align, bytes ? bytes : align);
    if (!memory)
        return NULL;
    if (align == HUGE_PAGE)
        (void)madvise(memory, bytes, MADV_HUGEPAGE); /* a hint: nothing is lost without it */
    memset(memory, 0, bytes);
    return memory;
}

void kernels_cpu_free(struct kernels *k, void *memory, size_t bytes)
{
    (void)k;
    (void)bytes;
    free(memory);
}

int kernels_cpu_sync(struct kernels *k, struct mt_err *reterr)
{
    (void)k;
    (void)reterr;
    return 0;
}
