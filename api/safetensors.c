#include "api/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX_BYTES 8  /* the header's length */
#define MAX_NAME 256    /* bytes of a tensor's name */
#define LABEL_BYTES 160 /* of a path that an error shows; the tail says more than the head */
#define SHAPE_TEXT 192  /* eight 20-digit numbers, commas and brackets */
#define DTYPES_TEXT 128 /* every dtype's name and separators */

struct safetensors {
    char *name;
    const char *label; /* the tail of name, for messages */
    const uint8_t *data;
    uint64_t data_len;
    void *map; /* NULL: the bytes are the caller's */
    size_t map_len;
    size_t n;
    struct safetensors_tensor *tensors; /* [n], by position */
    uint32_t *by_name;                  /* [n], indices into tensors by ascending name */
    char *names;                        /* the tensors' names, one after the other */
};

static const struct {
    const char *name;
    size_t size;
} DTYPES[SAFETENSORS_DTYPES] = {
    [SAFETENSORS_BOOL] = {"BOOL", 1},       [SAFETENSORS_U8] = {"U8", 1},
    [SAFETENSORS_I8] = {"I8", 1},           [SAFETENSORS_F8_E4M3] = {"F8_E4M3", 1},
    [SAFETENSORS_F8_E5M2] = {"F8_E5M2", 1}, [SAFETENSORS_F8_E8M0] = {"F8_E8M0", 1},
    [SAFETENSORS_U16] = {"U16", 2},         [SAFETENSORS_I16] = {"I16", 2},
    [SAFETENSORS_F16] = {"F16", 2},         [SAFETENSORS_BF16] = {"BF16", 2},
    [SAFETENSORS_U32] = {"U32", 4},         [SAFETENSORS_I32] = {"I32", 4},
    [SAFETENSORS_F32] = {"F32", 4},         [SAFETENSORS_U64] = {"U64", 8},
    [SAFETENSORS_I64] = {"I64", 8},         [SAFETENSORS_F64] = {"F64", 8},
};

const char *safetensors_dtype_name(enum safetensors_dtype t)
{
    return t < SAFETENSORS_DTYPES ? DTYPES[t].name : "?";
}

size_t safetensors_dtype_size(enum safetensors_dtype t)
{
    return t < SAFETENSORS_DTYPES ? DTYPES[t].size : 0;
}

/* --- one tensor's entry -------------------------------------------------------------------- */

/* Names are shown in messages and logs, so control characters are refused; JSON has seen to UTF-8
 * and to NUL. */
static bool name_valid(const char *name)
{
    size_t n = strlen(name);

    if (!n || n > MAX_NAME)
        return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return false;
    return true;
}

static int entry_dtype(const struct safetensors *f, const char *name, const json_t *entry,
                       struct safetensors_tensor *t, struct mt_err *reterr)
{
    const char *text = json_string_value(json_object_get(entry, "dtype"));

    if (!text)
        return mt_error(reterr, MT_EINVAL, "%s: tensor %s: expected a text in \"dtype\"", f->label,
                        name);
    for (unsigned i = 0; i < SAFETENSORS_DTYPES; i++)
        if (!strcmp(text, DTYPES[i].name)) {
            t->dtype = (enum safetensors_dtype)i;
            return 0;
        }
    return mt_error(reterr, MT_EUNSUPPORTED, "%s: tensor %s: unknown dtype \"%.32s\"", f->label,
                    name, text);
}

static int entry_shape(const struct safetensors *f, const char *name, const json_t *entry,
                       struct safetensors_tensor *t, struct mt_err *reterr)
{
    const json_t *shape = json_object_get(entry, "shape");
    size_t dims = json_array_size(shape);

    if (!json_is_array(shape) || dims > SAFETENSORS_MAX_DIMS)
        return mt_error(reterr, MT_EINVAL,
                        "%s: tensor %s: expected an array of at most %d sizes in \"shape\"",
                        f->label, name, SAFETENSORS_MAX_DIMS);
    t->dims = (uint32_t)dims;
    t->bytes = DTYPES[t->dtype].size;
    for (size_t i = 0; i < dims; i++) {
        const json_t *size = json_array_get(shape, i);
        json_int_t value = json_integer_value(size);

        if (!json_is_integer(size) || value < 0)
            return mt_error(reterr, MT_EINVAL,
                            "%s: tensor %s: expected a whole number >= 0 in \"shape\"[%zu]",
                            f->label, name, i);
        t->shape[i] = (uint64_t)value;
        if (__builtin_mul_overflow(t->bytes, t->shape[i], &t->bytes))
            return mt_error(reterr, MT_EINVAL, "%s: tensor %s: its shape overflows 64 bits",
                            f->label, name);
    }
    return 0;
}

static int entry_offsets(const struct safetensors *f, const char *name, const json_t *entry,
                         struct safetensors_tensor *t, struct mt_err *reterr)
{
    const json_t *pair = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(pair, 0), *last = json_array_get(pair, 1);
    json_int_t begin = json_integer_value(first), end = json_integer_value(last);

    if (json_array_size(pair) != 2 || !json_is_integer(first) || !json_is_integer(last) ||
        begin < 0 || end < begin)
        return mt_error(reterr, MT_EINVAL,
                        "%s: tensor %s: expected \"data_offsets\" [begin, end], 0 <= begin <= end",
                        f->label, name);
    if ((uint64_t)end > f->data_len)
        return mt_error(reterr, MT_EINVAL,
                        "%s: tensor %s: its bytes end at %lld, but the file has %llu after its "
                        "header (truncated?)",
                        f->label, name, (long long)end, (unsigned long long)f->data_len);
    if ((uint64_t)(end - begin) != t->bytes)
        return mt_error(reterr, MT_EINVAL,
                        "%s: tensor %s: expected %llu bytes for its shape and dtype, found %lld",
                        f->label, name, (unsigned long long)t->bytes, (long long)(end - begin));
    t->data = f->data + begin;
    return 0;
}

static int read_entry(const struct safetensors *f, const char *name, const json_t *entry,
                      struct safetensors_tensor *t, struct mt_err *reterr)
{
    int rc;

    if (!name_valid(name))
        return mt_error(reterr, MT_EINVAL,
                        "%s: a tensor's name is empty, longer than %d bytes or has control "
                        "characters",
                        f->label, MAX_NAME);
    if (!json_is_object(entry))
        return mt_error(reterr, MT_EINVAL, "%s: tensor %s: expected an object", f->label, name);
    rc = entry_dtype(f, name, entry, t, reterr);
    if (!rc)
        rc = entry_shape(f, name, entry, t, reterr);
    if (!rc)
        rc = entry_offsets(f, name, entry, t, reterr);
    return rc;
}

/* --- the header ---------------------------------------------------------------------------- */

static int compare_position(const void *va, const void *vb)
{
    const struct safetensors_tensor *a = va, *b = vb;
    const char *pa = a->data, *pb = b->data;

    if (pa != pb)
        return pa < pb ? -1 : 1;
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? -1 : 1; /* empty tensors before the one they touch */
    return strcmp(a->name, b->name);
}

static int compare_name(const void *va, const void *vb, void *tensors)
{
    const struct safetensors_tensor *t = tensors;

    return strcmp(t[*(const uint32_t *)va].name, t[*(const uint32_t *)vb].name);
}

static int check_overlaps(const struct safetensors *f, struct mt_err *reterr)
{
    const struct safetensors_tensor *last = NULL; /* the one before that is not empty */

    for (size_t i = 0; i < f->n; i++) {
        const struct safetensors_tensor *t = f->tensors + i;

        if (!t->bytes)
            continue;
        if (last && (const char *)last->data + last->bytes > (const char *)t->data)
            return mt_error(reterr, MT_EINVAL,
                            "%s: tensor %s: its bytes begin at %td, inside tensor %.100s", f->label,
                            t->name, (const uint8_t *)t->data - f->data, last->name);
        last = t;
    }
    return 0;
}

/* Fills f->tensors, which has room for every key of root, and f->names. */
static int read_entries(struct safetensors *f, json_t *root, struct mt_err *reterr)
{
    char *end = f->names;
    const char *key;
    json_t *entry;
    int rc;

    json_object_foreach(root, key, entry) {
        struct safetensors_tensor *t = f->tensors + f->n;
        size_t size = strlen(key) + 1;

        if (!strcmp(key, "__metadata__")) {
            if (!json_is_object(entry))
                return mt_error(reterr, MT_EINVAL, "%s: __metadata__: expected an object",
                                f->label);
            continue;
        }
        rc = read_entry(f, key, entry, t, reterr);
        if (rc)
            return rc;
        t->name = memcpy(end, key, size);
        end += size;
        f->n++;
    }
    if (f->n)
        qsort(f->tensors, f->n, sizeof *f->tensors, compare_position);
    for (size_t i = 0; i < f->n; i++)
        f->by_name[i] = (uint32_t)i;
    if (f->n)
        qsort_r(f->by_name, f->n, sizeof *f->by_name, compare_name, f->tensors);
    return check_overlaps(f, reterr);
}

static int read_header(struct safetensors *f, const char *json, size_t len, struct mt_err *reterr)
{
    json_error_t why;
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &why);
    size_t room;
    int rc;

    if (!root)
        return mt_error(reterr,
                        json_error_code(&why) == json_error_out_of_memory ? MT_ENOMEM : MT_EINVAL,
                        "%s: header: byte %d: %s", f->label, why.position, why.text);
    room = json_object_size(root) + 1;
    f->tensors = calloc(room, sizeof *f->tensors);
    f->by_name = calloc(room, sizeof *f->by_name);
    f->names = malloc(len); /* quoted in the header, so they fit */
    if (!f->tensors || !f->by_name || !f->names)
        rc = mt_error(reterr, MT_ENOMEM, "%s: no memory for the names of %zu tensors", f->label,
                      room);
    else
        rc = read_entries(f, root, reterr);
    json_decref(root);
    return rc;
}

static int parse(struct safetensors *f, const uint8_t *bytes, size_t len, struct mt_err *reterr)
{
    uint64_t header = 0;

    if (len < PREFIX_BYTES)
        return mt_error(reterr, MT_EINVAL,
                        "%s: expected a safetensors file, found %zu bytes (truncated?)", f->label,
                        len);
    for (unsigned i = 0; i < PREFIX_BYTES; i++)
        header |= (uint64_t)bytes[i] << (8 * i);
    if (header > SAFETENSORS_MAX_HEADER)
        return mt_error(reterr, MT_ELIMIT,
                        "%s: header: expected at most %u bytes, found %llu (no safetensors file?)",
                        f->label, SAFETENSORS_MAX_HEADER, (unsigned long long)header);
    if (header > len - PREFIX_BYTES)
        return mt_error(reterr, MT_EINVAL,
                        "%s: header: expected %llu bytes, the file has %zu (truncated?)", f->label,
                        (unsigned long long)header, len - PREFIX_BYTES);
    if (!header || bytes[PREFIX_BYTES] != '{')
        return mt_error(reterr, MT_EINVAL, "%s: header: expected a JSON object", f->label);
    f->data = bytes + PREFIX_BYTES + header;
    f->data_len = len - PREFIX_BYTES - header;
    return read_header(f, (const char *)bytes + PREFIX_BYTES, (size_t)header, reterr);
}

/* --- opening ------------------------------------------------------------------------------- */

static struct safetensors *new_file(const char *name, struct mt_err *reterr)
{
    struct safetensors *f = calloc(1, sizeof *f);
    size_t len = strlen(name);

    if (f)
        f->name = strdup(name);
    if (!f || !f->name) {
        free(f);
        mt_error(reterr, MT_ENOMEM, "%s: no memory to open it", name);
        return NULL;
    }
    f->label = f->name + (len > LABEL_BYTES ? len - LABEL_BYTES : 0);
    return f;
}

int safetensors_parse(const void *bytes, size_t len, const char *name, struct safetensors **ret,
                      struct mt_err *reterr)
{
    struct safetensors *f = new_file(name, reterr);
    int rc;

    if (!f)
        return MT_ENOMEM;
    rc = parse(f, bytes, len, reterr);
    if (rc)
        safetensors_close(f);
    else
        *ret = f;
    return rc;
}

static int map_file(struct safetensors *f, struct mt_err *reterr)
{
    /* O_NONBLOCK: a fifo is refused below, instead of waiting here for its writer. */
    int fd = open(f->name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    int rc = 0;

    if (fd < 0)
        return mt_error(reterr, errno == ENOENT ? MT_ENOTFOUND : MT_EIO, "%s: %s", f->label,
                        strerror(errno));
    if (fstat(fd, &st))
        rc = mt_error(reterr, MT_EIO, "%s: %s", f->label, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = mt_error(reterr, MT_EINVAL, "%s: expected a regular file", f->label);
    else if (st.st_size < PREFIX_BYTES)
        rc = mt_error(reterr, MT_EINVAL,
                      "%s: expected a safetensors file, found %lld bytes (truncated?)", f->label,
                      (long long)st.st_size);
    else {
        void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED) {
            rc = mt_error(reterr, MT_EIO, "%s: cannot map it: %s", f->label, strerror(errno));
        } else {
            f->map = map;
            f->map_len = (size_t)st.st_size;
        }
    }
    close(fd);
    return rc;
}

int safetensors_open(const char *path, struct safetensors **ret, struct mt_err *reterr)
{
    struct safetensors *f = new_file(path, reterr);
    int rc;

    if (!f)
        return MT_ENOMEM;
    rc = map_file(f, reterr);
    if (!rc)
        rc = parse(f, f->map, f->map_len, reterr);
    if (rc)
        safetensors_close(f);
    else
        *ret = f;
    return rc;
}

void safetensors_close(struct safetensors *f)
{
    if (!f)
        return;
    if (f->map)
        munmap(f->map, f->map_len);
    free(f->tensors);
    free(f->by_name);
    free(f->names);
    free(f->name);
    free(f);
}

/* --- reading ------------------------------------------------------------------------------- */

const char *safetensors_name(const struct safetensors *f)
{
    return f->name;
}

size_t safetensors_count(const struct safetensors *f)
{
    return f->n;
}

const struct safetensors_tensor *safetensors_at(const struct safetensors *f, size_t i)
{
    return i < f->n ? f->tensors + i : NULL;
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *f, const char *name)
{
    size_t low = 0, high = f->n;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const struct safetensors_tensor *t = f->tensors + f->by_name[mid];
        int order = strcmp(name, t->name);

        if (!order)
            return t;
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

static void shape_text(char out[SHAPE_TEXT], uint32_t dims, const uint64_t *shape)
{
    size_t at = 0;

    for (uint32_t i = 0; i < dims && i < SAFETENSORS_MAX_DIMS; i++)
        at += (size_t)snprintf(out + at, SHAPE_TEXT - at, "%s%llu", i ? ", " : "[",
                               (unsigned long long)shape[i]);
    snprintf(out + at, SHAPE_TEXT - at, "%s", at ? "]" : "[]");
}

static void dtypes_text(char out[DTYPES_TEXT], unsigned dtypes)
{
    size_t at = 0;

    *out = '\0';
    for (unsigned i = 0; i < SAFETENSORS_DTYPES; i++)
        if (dtypes & 1u << i)
            at +=
                (size_t)snprintf(out + at, DTYPES_TEXT - at, "%s%s", at ? "|" : "", DTYPES[i].name);
}

int safetensors_get(const struct safetensors *f, const char *name, unsigned dtypes, uint32_t dims,
                    const uint64_t *shape, const struct safetensors_tensor **ret,
                    struct mt_err *reterr)
{
    const struct safetensors_tensor *t = safetensors_find(f, name);
    char wanted[SHAPE_TEXT], found[SHAPE_TEXT], set[DTYPES_TEXT];
    bool same;

    same = t && dtypes & 1u << t->dtype && t->dims == dims;
    for (uint32_t i = 0; same && i < dims; i++)
        same = t->shape[i] == shape[i];
    if (same) {
        *ret = t;
        return 0;
    }
    shape_text(wanted, dims, shape);
    dtypes_text(set, dtypes);
    if (!t)
        return mt_error(reterr, MT_ENOTFOUND, "%s: tensor %s: expected %s %s, found no such tensor",
                        f->label, name, set, wanted);
    shape_text(found, t->dims, t->shape);
    return mt_error(reterr, MT_EINVAL, "%s: tensor %s: expected %s %s, found %s %s", f->label, name,
                    set, wanted, DTYPES[t->dtype].name, found);
}
