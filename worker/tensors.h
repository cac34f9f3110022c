/* Where the weights of a model come from: a directory of safetensors, or a seed.
 *
 * Finding a tensor checks that it is there with the shape that the model needs; its bytes are not
 * touched before tensors_read, so that a rank reads only what it holds. */
#ifndef MT_WORKER_TENSORS_H
#define MT_WORKER_TENSORS_H

#include <stdint.h>

#include "kernels/kernels.h"
#include "worker/model.h"

#define TENSORS_ANY (~0u)                   /* any dtype that a weight may have */
#define TENSORS_ONLY(dtype) (1u << (dtype)) /* an enum dtype */

struct tensors;

struct tensor {
    const char *name; /* borrowed from the caller of tensors_find */
    enum dtype dtype;
    uint32_t dims;
    uint64_t elements, bytes;
    const void *data; /* mapped, of any alignment; NULL: made by tensors_read */
};

int tensors_open(const struct model_source *source, struct tensors **ret, struct mt_err *reterr);
void tensors_close(struct tensors *t); /* NULL allowed; mapped data is gone with it */

/* dtypes: a set of TENSORS_ONLY. shape: [dims], 1 or 2 of them. */
int tensors_find(const struct tensors *t, const char *name, unsigned dtypes, uint32_t dims,
                 const uint64_t *shape, struct tensor *ret, struct mt_err *reterr);
void tensors_read(const struct tensors *t, const struct tensor *tensor, void *out /* [bytes] */);

/* Hints to the operating system: the tensor is used in place from now on; or its bytes were copied,
 * so that this process has no further use for its pages. */
void tensors_will_need(const struct tensor *tensor);
void tensors_done_with(const struct tensor *tensor);

#endif
