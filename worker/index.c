#include "worker/index.h"

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/fields.h"

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"
#define SUFFIX ".safetensors"

struct shard {
    const char *name; /* in weight_map, or SINGLE */
    struct safetensors *file;
};

struct index {
    char path[PATH_MAX]; /* of the index, for messages */
    json_t *root;        /* of the index; NULL: one file */
    json_t *weight_map;  /* in root */
    size_t n;
    struct shard *shards; /* [n], by name */
};

static int join(char out[PATH_MAX], const char *dir, const char *name, struct mt_err *reterr)
{
    if ((size_t)snprintf(out, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
        return mt_error(reterr, MT_EINVAL, "%.100s...: the path is too long", dir);
    return 0;
}

/* A file of the model's own directory, with nothing in its name that could lead elsewhere. */
static bool shard_name_valid(const char *name)
{
    size_t n = strlen(name), suffix = strlen(SUFFIX);

    if (n <= suffix || n > NAME_MAX || name[0] == '.' || strcmp(name + n - suffix, SUFFIX))
        return false;
    for (size_t i = 0; i < n; i++)
        if (name[i] == '/' || (unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return false;
    return true;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int compare_shards(const void *a, const void *b)
{
    return strcmp(((const struct shard *)a)->name, ((const struct shard *)b)->name);
}

/* Every tensor's shard, sorted: names[n], borrowed from the index. */
static int read_weight_map(const struct index *x, const char **names, struct mt_err *reterr)
{
    const char *tensor;
    json_t *value;
    size_t n = 0;

    json_object_foreach(x->weight_map, tensor, value) {
        const char *shard = json_string_value(value);

        if (!shard || !shard_name_valid(shard))
            return mt_error(reterr, MT_EINVAL,
                            "%s: weight_map: tensor %.100s: expected the name of a .safetensors "
                            "file in this directory, found %s%.60s",
                            x->path, tensor, shard ? "" : "no text", shard ? shard : "");
        names[n++] = shard;
    }
    qsort(names, n, sizeof *names, compare_names);
    return 0;
}

static int open_shards(struct index *x, const char *dir, const char **names, size_t n,
                       struct mt_err *reterr)
{
    char path[PATH_MAX];
    size_t shards = 0;
    int rc = 0;

    for (size_t i = 0; i < n; i++)
        if (!i || strcmp(names[i], names[i - 1]))
            names[shards++] = names[i];
    if (shards > INDEX_MAX_SHARDS)
        return mt_error(reterr, MT_ELIMIT, "%s: weight_map: expected at most %d files, found %zu",
                        x->path, INDEX_MAX_SHARDS, shards);
    x->shards = calloc(shards, sizeof *x->shards);
    if (!x->shards)
        return mt_error(reterr, MT_ENOMEM, "%s: no memory for %zu shards", x->path, shards);
    for (size_t i = 0; i < shards && !rc; i++) {
        rc = join(path, dir, names[i], reterr);
        if (!rc)
            rc = safetensors_open(path, &x->shards[i].file, reterr);
        if (rc == MT_ENOTFOUND)
            mt_error(reterr, rc, "%s: weight_map: expected the file %s, found no such file",
                     x->path, names[i]);
        if (rc)
            break;
        x->shards[i].name = names[i];
        x->n++;
    }
    return rc;
}

static int open_indexed(struct index *x, const char *dir, struct mt_err *reterr)
{
    const char **names;
    size_t n;
    int rc = join(x->path, dir, INDEX, reterr);

    if (!rc)
        rc = fields_read(x->path, &x->root, reterr);
    if (rc == MT_ENOTFOUND)
        return mt_error(reterr, MT_ENOTFOUND, "%s: expected " SINGLE " or " INDEX ", found neither",
                        dir);
    if (rc)
        return rc;
    x->weight_map = json_object_get(x->root, "weight_map");
    n = json_object_size(x->weight_map);
    if (!n)
        return mt_error(reterr, MT_EINVAL, "%s: weight_map: expected an object that names tensors",
                        x->path);
    names = calloc(n, sizeof *names);
    if (!names)
        return mt_error(reterr, MT_ENOMEM, "%s: no memory for %zu tensors", x->path, n);
    rc = read_weight_map(x, names, reterr);
    if (!rc)
        rc = open_shards(x, dir, names, n, reterr);
    free(names);
    return rc;
}

static int open_any(struct index *x, const char *dir, struct mt_err *reterr)
{
    int rc = join(x->path, dir, SINGLE, reterr);

    x->shards = calloc(1, sizeof *x->shards);
    if (!rc && !x->shards)
        rc = mt_error(reterr, MT_ENOMEM, "%s: no memory to open it", x->path);
    if (!rc)
        rc = safetensors_open(x->path, &x->shards->file, reterr);
    if (!rc) {
        x->shards->name = SINGLE;
        x->n = 1;
        return 0;
    }
    free(x->shards);
    x->shards = NULL;
    return rc == MT_ENOTFOUND ? open_indexed(x, dir, reterr) : rc;
}

int index_open(const char *dir, struct index **ret, struct mt_err *reterr)
{
    struct index *x = calloc(1, sizeof *x);
    int rc;

    if (!x)
        return mt_error(reterr, MT_ENOMEM, "%s: no memory to open it", dir);
    rc = open_any(x, dir, reterr);
    if (rc)
        index_close(x);
    else
        *ret = x;
    return rc;
}

void index_close(struct index *x)
{
    if (!x)
        return;
    for (size_t i = 0; i < x->n; i++)
        safetensors_close(x->shards[i].file);
    free(x->shards);
    json_decref(x->root);
    free(x);
}

int index_get(const struct index *x, const char *name, unsigned dtypes, uint32_t dims,
              const uint64_t *shape, const struct safetensors_tensor **ret, struct mt_err *reterr)
{
    struct shard key = {.name = SINGLE}, *shard;

    if (x->root)
        key.name = json_string_value(json_object_get(x->weight_map, name));
    if (!key.name)
        return mt_error(reterr, MT_ENOTFOUND,
                        "%s: tensor %s: expected it in weight_map, found no such tensor", x->path,
                        name);
    shard = bsearch(&key, x->shards, x->n, sizeof *x->shards, compare_shards);
    if (!shard) /* cannot be: every name in weight_map was opened */
        return mt_error(reterr, MT_EINTERNAL, "%s: tensor %s: its shard %s is not open", x->path,
                        name, key.name);
    return safetensors_get(shard->file, name, dtypes, dims, shape, ret, reterr);
}
