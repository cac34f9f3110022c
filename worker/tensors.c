#include "worker/tensors.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "worker/dummy.h"
#include "worker/index.h"

struct tensors {
    struct index *index; /* NULL: dummy */
    uint64_t seed;
};

static const enum safetensors_dtype STORED[] = {
    [DTYPE_F32] = SAFETENSORS_F32,
    [DTYPE_BF16] = SAFETENSORS_BF16,
    [DTYPE_F16] = SAFETENSORS_F16,
};
#define N_STORED (sizeof STORED / sizeof *STORED)

int tensors_open(const struct model_source *source, struct tensors **ret, struct mt_err *reterr)
{
    struct tensors *t = calloc(1, sizeof *t);
    int rc = 0;

    if (!t)
        return mt_error(reterr, MT_ENOMEM, "no memory to open the weights");
    t->seed = source->seed;
    if (!source->dummy)
        rc = index_open(source->dir, &t->index, reterr);
    if (rc)
        free(t);
    else
        *ret = t;
    return rc;
}

void tensors_close(struct tensors *t)
{
    if (t)
        index_close(t->index);
    free(t);
}

static int find_stored(const struct tensors *t, unsigned dtypes, const uint64_t *shape,
                       struct tensor *found, struct mt_err *reterr)
{
    const struct safetensors_tensor *stored;
    unsigned set = 0;
    int rc;

    for (unsigned i = 0; i < N_STORED; i++)
        if (dtypes & TENSORS_ONLY(i))
            set |= 1u << STORED[i];
    rc = index_get(t->index, found->name, set, found->dims, shape, &stored, reterr);
    if (rc)
        return rc;
    for (unsigned i = 0; i < N_STORED; i++)
        if (STORED[i] == stored->dtype)
            found->dtype = (enum dtype)i;
    found->data = stored->data;
    return 0;
}

int tensors_find(const struct tensors *t, const char *name, unsigned dtypes, uint32_t dims,
                 const uint64_t *shape, struct tensor *ret, struct mt_err *reterr)
{
    struct tensor found = {.name = name, .dims = dims, .elements = 1, .dtype = DTYPE_BF16};
    int rc = t->index ? find_stored(t, dtypes, shape, &found, reterr) : 0;

    if (rc)
        return rc;
    for (uint32_t i = 0; i < dims; i++)
        found.elements *= shape[i];
    found.bytes = found.elements * dtype_size(found.dtype);
    *ret = found;
    return 0;
}

void tensors_read(const struct tensors *t, const struct tensor *tensor, void *out)
{
    if (tensor->data)
        memcpy(out, tensor->data, tensor->bytes);
    else
        dummy_fill(out, tensor->elements, tensor->dims, tensor->name, t->seed);
}

/* Advice is advice: nothing follows from a failure. */
void tensors_will_need(const struct tensor *tensor)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)tensor->data & ~(page - 1);

    if (tensor->data)
        (void)madvise((void *)begin, (uintptr_t)tensor->data + tensor->bytes - begin,
                      MADV_WILLNEED);
}

void tensors_done_with(const struct tensor *tensor)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    /* Whole pages only: its neighbours may be in use. */
    uintptr_t begin = ((uintptr_t)tensor->data + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)tensor->data + tensor->bytes) & ~(page - 1);

    if (tensor->data && begin < end)
        (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}
