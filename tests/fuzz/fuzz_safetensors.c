/* Any bytes as a safetensors file. What is accepted must be readable: every byte of every tensor,
 * and each tensor by its name. */
#include "api/safetensors.h"

#include <stdbool.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink;

static void require(bool holds)
{
    if (!holds)
        __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *f = NULL;
    const struct safetensors_tensor *last = NULL;
    struct mt_err err;
    int rc = safetensors_parse(data, size, "fuzz.safetensors", &f, &err);

    if (rc) {
        require(rc < 0 && err.status == rc && *err.text && !f);
        return 0;
    }
    for (size_t i = 0; i < safetensors_count(f); i++) {
        const struct safetensors_tensor *t = safetensors_at(f, i), *found = NULL;
        const uint8_t *bytes = t->data;
        uint64_t product = safetensors_dtype_size(t->dtype);

        for (uint32_t d = 0; d < t->dims; d++)
            product *= t->shape[d];
        require(product == t->bytes);
        for (uint64_t b = 0; b < t->bytes; b++)
            sink += bytes[b];
        require(safetensors_find(f, t->name) == t);
        require(!safetensors_get(f, t->name, 1u << t->dtype, t->dims, t->shape, &found, &err));
        require(found == t);
        require(safetensors_get(f, t->name, 0, t->dims, t->shape, &found, &err) == MT_EINVAL);
        if (last && t->bytes)
            require((const uint8_t *)last->data + last->bytes <= bytes);
        if (t->bytes)
            last = t;
    }
    safetensors_close(f);
    return 0;
}
