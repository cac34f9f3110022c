/* Reads safetensors files: an 8-byte little-endian header length, a JSON header, the tensors.
 *
 * Everything that a file can claim is checked when it is opened: header length, names, dtypes,
 * shapes, and that each tensor's bytes lie inside the file and in no other tensor's (holes are
 * allowed). After that every tensor's `data` may be read for `bytes` bytes. Values are
 * little-endian and need not be aligned: copy them, or check first. An open file is immutable and
 * may be read by any thread. */
#ifndef MT_API_SAFETENSORS_H
#define MT_API_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "api/status.h"

#define SAFETENSORS_MAX_HEADER (32u << 20) /* bytes of JSON */
#define SAFETENSORS_MAX_DIMS 8

enum safetensors_dtype {
    SAFETENSORS_BOOL,
    SAFETENSORS_U8,
    SAFETENSORS_I8,
    SAFETENSORS_F8_E4M3,
    SAFETENSORS_F8_E5M2,
    SAFETENSORS_F8_E8M0,
    SAFETENSORS_U16,
    SAFETENSORS_I16,
    SAFETENSORS_F16,
    SAFETENSORS_BF16,
    SAFETENSORS_U32,
    SAFETENSORS_I32,
    SAFETENSORS_F32,
    SAFETENSORS_U64,
    SAFETENSORS_I64,
    SAFETENSORS_F64,
    SAFETENSORS_DTYPES, /* how many there are */
};

/* A set of dtypes, as safetensors_get takes it: SAFETENSORS_SET(F32) | SAFETENSORS_SET(BF16). */
#define SAFETENSORS_SET(type) (1u << SAFETENSORS_##type)

struct safetensors_tensor {
    const char *name;
    enum safetensors_dtype dtype;
    uint32_t dims;                        /* 0: a scalar */
    uint64_t shape[SAFETENSORS_MAX_DIMS]; /* [dims], row-major */
    const void *data;                     /* in the file's bytes */
    uint64_t bytes;                       /* product of shape times the dtype's size */
};

struct safetensors;

/* From bytes, which must outlive *ret and are not freed with it. `name` is for messages; copied. */
int safetensors_parse(const void *bytes, size_t len, const char *name, struct safetensors **ret,
                      struct mt_err *reterr);
/* Maps a file read-only. Its size is taken once: reading a page that a later truncation removed
 * raises SIGBUS, as for every mapped file, so model files must be replaced (renamed over), never
 * rewritten in place. */
int safetensors_open(const char *path, struct safetensors **ret, struct mt_err *reterr);
void safetensors_close(struct safetensors *f); /* NULL allowed; tensors are gone with it */

const char *safetensors_name(const struct safetensors *f); /* as opened */
/* Tensors in the order of their bytes. Borrowed from f. */
size_t safetensors_count(const struct safetensors *f);
const struct safetensors_tensor *safetensors_at(const struct safetensors *f, size_t i);
/* NULL: there is none of that name. */
const struct safetensors_tensor *safetensors_find(const struct safetensors *f, const char *name);

/* Finds a tensor and refuses it unless its dtype is in `dtypes` and its shape is shape[dims]; the
 * error names the file, the tensor, what was expected and what was found. MT_ENOTFOUND if there is
 * no such tensor. */
int safetensors_get(const struct safetensors *f, const char *name, unsigned dtypes, uint32_t dims,
                    const uint64_t *shape, const struct safetensors_tensor **ret,
                    struct mt_err *reterr);

const char *safetensors_dtype_name(enum safetensors_dtype t); /* "BF16" */
size_t safetensors_dtype_size(enum safetensors_dtype t);      /* bytes of one value */

#endif
