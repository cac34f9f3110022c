/* The tensors of a Hugging Face directory: one model.safetensors, or the shards that
 * model.safetensors.index.json lists. Opening maps every shard and checks its header; no tensor's
 * bytes are read. Immutable once open. */
#ifndef MT_WORKER_INDEX_H
#define MT_WORKER_INDEX_H

#include <stddef.h>
#include <stdint.h>

#include "api/safetensors.h"
#include "api/status.h"

#define INDEX_MAX_SHARDS 4096

struct index;

int index_open(const char *dir, struct index **ret, struct mt_err *reterr);
void index_close(struct index *x); /* NULL allowed */

/* As safetensors_get, in the shard that the index names. */
int index_get(const struct index *x, const char *name, unsigned dtypes, uint32_t dims,
              const uint64_t *shape, const struct safetensors_tensor **ret, struct mt_err *reterr);

#endif
