#include "placement/trace.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/file.h"
#include "placement/field.h"

#define PATH_SIZE 4096

static size_t id_bytes(const struct trace *t)
{
    return t->experts <= 256 ? 1 : 2;
}

/* Ids of the trace; its head is checked, so that the product fits. */
static size_t id_count(const struct trace *t)
{
    return (size_t)t->tokens * t->layers * t->topk;
}

static int check_head(const struct trace *t, const char *name, struct mt_err *reterr)
{
    const struct {
        const char *field;
        uint32_t value, max;
    } rows[] = {
        {"layers", t->layers, TRACE_MAX_LAYERS},
        {"experts", t->experts, TRACE_MAX_EXPERTS},
        {"topk", t->topk, t->experts < TRACE_MAX_TOPK ? t->experts : TRACE_MAX_TOPK},
        {"tokens", t->tokens, TRACE_MAX_TOKENS},
        {"documents", t->documents, t->tokens},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].value < 1 || rows[i].value > rows[i].max)
            return mt_error(reterr, MT_EINVAL, "%s: %s: expected 1 to %u, found %u", name,
                            rows[i].field, rows[i].max, rows[i].value);
    if ((uint64_t)id_count(t) * id_bytes(t) > TRACE_MAX_FILE)
        return mt_error(reterr, MT_ELIMIT,
                        "%s: tokens * layers * topk: expected at most %llu bytes of ids, found "
                        "%llu",
                        name, (unsigned long long)TRACE_MAX_FILE,
                        (unsigned long long)id_count(t) * id_bytes(t));
    return 0;
}

static int check_choices(const struct trace *t, const char *name, struct mt_err *reterr)
{
    size_t rows = (size_t)t->tokens * t->layers;

    for (size_t i = 0; i < rows; i++) {
        const uint16_t *at = t->choice + i * t->topk;

        for (uint32_t k = 0; k < t->topk; k++) {
            if (at[k] >= t->experts)
                return mt_error(reterr, MT_EINVAL,
                                "%s: token %zu, layer %zu: expected experts below %u, found %u",
                                name, i / t->layers, i % t->layers, t->experts, at[k]);
            for (uint32_t j = 0; j < k; j++)
                if (at[j] == at[k])
                    return mt_error(reterr, MT_EINVAL,
                                    "%s: token %zu, layer %zu: expected distinct experts, found "
                                    "%u twice",
                                    name, i / t->layers, i % t->layers, at[k]);
        }
    }
    return 0;
}

static int check_documents(const struct trace *t, const char *name, struct mt_err *reterr)
{
    if (t->doc[0])
        return mt_error(reterr, MT_EINVAL, "%s: documents: expected the first at 0, found %u", name,
                        t->doc[0]);
    for (uint32_t d = 0; d < t->documents; d++)
        if (t->doc[d + 1] <= t->doc[d])
            return mt_error(reterr, MT_EINVAL,
                            "%s: documents: document %u: expected at least one token, found none",
                            name, d);
    if (t->doc[t->documents] != t->tokens)
        return mt_error(reterr, MT_EINVAL, "%s: documents: expected a sum of %u tokens, found %u",
                        name, t->tokens, t->doc[t->documents]);
    return 0;
}

int trace_check(const struct trace *t, struct mt_err *reterr)
{
    const char *name = *t->name ? t->name : "trace";
    int rc = check_head(t, name, reterr);

    if (!rc)
        rc = check_documents(t, name, reterr);
    if (!rc)
        rc = check_choices(t, name, reterr);
    return rc;
}

/* Room for documents and ids of a checked head. */
static int reserve(struct trace *t, const char *name, struct mt_err *reterr)
{
    t->doc = calloc((size_t)t->documents + 1, sizeof *t->doc);
    t->choice = malloc(id_count(t) * sizeof *t->choice);
    if (t->doc && t->choice)
        return 0;
    mt_error(reterr, MT_ENOMEM, "%s: no memory for %u tokens", name, t->tokens);
    trace_done(t);
    return MT_ENOMEM;
}

/* "domain", or the path without folder and ending, cut to size. */
static int read_name(const json_t *root, const char *path, struct trace *t, struct mt_err *reterr)
{
    const json_t *domain = json_object_get(root, "domain");
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    size_t len = strlen(base);

    if (domain && !json_is_string(domain))
        return mt_error(reterr, MT_EINVAL, "%s: domain: expected a string, found %s", path,
                        field_found(domain));
    if (domain) {
        base = json_string_value(domain);
        len = json_string_length(domain);
        if (len >= TRACE_NAME)
            return mt_error(reterr, MT_EINVAL, "%s: domain: expected at most %d bytes, found %zu",
                            path, TRACE_NAME - 1, len);
    } else if (len > 5 && !strcmp(base + len - 5, ".json")) {
        len -= 5;
    }
    if (len >= TRACE_NAME)
        for (len = TRACE_NAME - 1; len && (base[len] & 0xc0) == 0x80;) /* within a character */
            len--;
    snprintf(t->name, sizeof t->name, "%.*s", (int)len, base);
    return 0;
}

/* documents: tokens of each, summed up into t->doc. */
static int read_documents(const json_t *list, const char *name, struct trace *t,
                          struct mt_err *reterr)
{
    const json_t *v;
    size_t i;

    json_array_foreach(list, i, v) {
        json_int_t n = json_integer_value(v);

        if (!json_is_integer(v))
            return mt_error(reterr, MT_EINVAL,
                            "%s: documents: document %zu: expected an integer, found %s", name, i,
                            field_found(v));
        if (n < 1 || n > t->tokens - t->doc[i])
            return mt_error(reterr, MT_EINVAL,
                            "%s: documents: document %zu: expected 1 to %u tokens (%u in all), "
                            "found %" JSON_INTEGER_FORMAT,
                            name, i, t->tokens - t->doc[i], t->tokens, n);
        t->doc[i + 1] = t->doc[i] + (uint32_t)n;
    }
    return check_documents(t, name, reterr);
}

static int read_head(const json_t *root, const char *name, struct trace *t, struct mt_err *reterr)
{
    const json_t *documents = json_object_get(root, "documents");
    int rc = field_count(root, name, "layers", TRACE_MAX_LAYERS, &t->layers, reterr);

    if (!rc)
        rc = field_count(root, name, "experts", TRACE_MAX_EXPERTS, &t->experts, reterr);
    if (!rc)
        rc = field_count(root, name, "topk", TRACE_MAX_TOPK, &t->topk, reterr);
    if (!rc)
        rc = field_count(root, name, "tokens", TRACE_MAX_TOKENS, &t->tokens, reterr);
    if (!rc && !json_is_array(documents))
        rc = mt_error(reterr, MT_EINVAL, "%s: documents: expected an array, found %s", name,
                      field_found(documents));
    if (rc)
        return rc;
    if (json_array_size(documents) > t->tokens)
        return mt_error(reterr, MT_EINVAL,
                        "%s: documents: expected at most one for each of %u tokens, found %zu",
                        name, t->tokens, json_array_size(documents));
    t->documents = (uint32_t)json_array_size(documents);
    rc = check_head(t, name, reterr);
    return rc ? rc : read_name(root, name, t, reterr);
}

static void unpack(const unsigned char *ids, struct trace *t)
{
    size_t n = id_count(t);

    if (id_bytes(t) == 1)
        for (size_t i = 0; i < n; i++)
            t->choice[i] = ids[i];
    else
        for (size_t i = 0; i < n; i++)
            t->choice[i] = (uint16_t)(ids[2 * i] | ids[2 * i + 1] << 8);
}

/* ids: bytes of the second file, which has ids_len of them. */
static int read_body(const json_t *root, const void *ids, size_t ids_len, const char *name,
                     struct trace *t, struct mt_err *reterr)
{
    size_t want = id_count(t) * id_bytes(t);
    int rc;

    if (ids_len != want)
        return mt_error(reterr, MT_EINVAL,
                        "%s: ids: expected %u tokens * %u layers * %u experts of %zu bytes = %zu "
                        "bytes, found %zu",
                        name, t->tokens, t->layers, t->topk, id_bytes(t), want, ids_len);
    rc = reserve(t, name, reterr);
    if (rc)
        return rc;
    rc = read_documents(json_object_get(root, "documents"), name, t, reterr);
    if (!rc) {
        unpack(ids, t);
        rc = check_choices(t, name, reterr);
    }
    if (rc)
        trace_done(t);
    return rc;
}

int trace_parse(const char *json, size_t len, const void *ids, size_t ids_len, const char *name,
                struct trace *ret, struct mt_err *reterr)
{
    struct trace t = {0};
    json_t *root;
    int rc = field_load(json, len, TRACE_MAX_HEAD, name, &root, reterr);

    if (rc)
        return rc;
    rc = read_head(root, name, &t, reterr);
    if (!rc)
        rc = read_body(root, ids, ids_len, name, &t, reterr);
    json_decref(root);
    if (!rc)
        *ret = t;
    return rc;
}

/* The file of ids beside path, which must end in .json. */
static int ids_path(const char *path, size_t bytes, char *ret, size_t size, struct mt_err *reterr)
{
    size_t len = strlen(path);

    if (len < 5 || strcmp(path + len - 5, ".json"))
        return mt_error(reterr, MT_EINVAL, "%s: expected a path that ends in .json", path);
    if (len + 8 > size)
        return mt_error(reterr, MT_EINVAL, "%.80s...: expected a path of at most %zu bytes", path,
                        size - 8);
    snprintf(ret, size, "%.*s%s", (int)(len - 5), path, bytes == 1 ? ".u8" : ".u16");
    return 0;
}

/* The ids of a trace whose head stands in t. */
static int read_ids(const char *path, const json_t *root, struct trace *t, struct mt_err *reterr)
{
    char ids_at[PATH_SIZE], *ids;
    size_t len;
    int rc = ids_path(path, id_bytes(t), ids_at, sizeof ids_at, reterr);

    if (!rc)
        rc = file_read(ids_at, TRACE_MAX_FILE, &ids, &len, reterr);
    if (rc)
        return rc;
    rc = read_body(root, ids, len, path, t, reterr);
    free(ids);
    return rc;
}

int trace_read(const char *path, struct trace *ret, struct mt_err *reterr)
{
    struct trace t = {0};
    json_t *root;
    char *json;
    size_t len;
    int rc = file_read(path, TRACE_MAX_HEAD, &json, &len, reterr);

    if (rc)
        return rc;
    rc = field_load(json, len, TRACE_MAX_HEAD, path, &root, reterr);
    free(json);
    if (rc)
        return rc;
    rc = read_head(root, path, &t, reterr);
    if (!rc)
        rc = read_ids(path, root, &t, reterr);
    json_decref(root);
    if (!rc)
        *ret = t;
    return rc;
}

static void put_ids(FILE *out, const struct trace *t)
{
    size_t n = id_count(t), bytes = id_bytes(t);

    for (size_t i = 0; i < n; i++) {
        putc(t->choice[i] & 255, out);
        if (bytes == 2)
            putc(t->choice[i] >> 8, out);
    }
}

static void put_head(FILE *out, const struct trace *t, const char *name)
{
    fprintf(out, "{\"domain\": %s, \"layers\": %u, \"experts\": %u, \"topk\": %u, \"tokens\": %u,",
            name, t->layers, t->experts, t->topk, t->tokens);
    fputs(" \"documents\": [", out);
    for (uint32_t d = 0; d < t->documents; d++)
        fprintf(out, "%s%u", d ? d % 16 ? ", " : ",\n " : "", t->doc[d + 1] - t->doc[d]);
    fprintf(out, "], \"layout\": \"uint%zu [tokens][layers][topk]\"}\n", 8 * id_bytes(t));
}

/* Writes beside `path` and renames; name: NULL for the ids. */
static int write_file(const struct trace *t, const char *path, const char *name,
                      struct mt_err *reterr)
{
    char part[PATH_SIZE + 8];
    bool failed;
    FILE *out;

    snprintf(part, sizeof part, "%s.part", path);
    out = fopen(part, "wb");
    if (!out)
        return mt_error(reterr, MT_EIO, "%s: %s", part, strerror(errno));
    if (name)
        put_head(out, t, name);
    else
        put_ids(out, t);
    failed = fflush(out) || ferror(out);
    failed = fclose(out) || failed;
    if (!failed && !rename(part, path))
        return 0;
    mt_error(reterr, MT_EIO, "%s: cannot write: %s", path, strerror(errno));
    remove(part);
    return MT_EIO;
}

int trace_write(const struct trace *t, const char *path, struct mt_err *reterr)
{
    char ids_at[PATH_SIZE], *name;
    json_t *text;
    int rc = trace_check(t, reterr);

    if (!rc)
        rc = ids_path(path, id_bytes(t), ids_at, sizeof ids_at, reterr);
    if (rc)
        return rc;
    text = json_string(t->name);
    name = text ? json_dumps(text, JSON_ENCODE_ANY) : NULL;
    json_decref(text);
    if (!name)
        return mt_error(reterr, MT_EINVAL, "%s: domain: expected UTF-8", path);
    rc = write_file(t, ids_at, NULL, reterr);
    if (!rc)
        rc = write_file(t, path, name, reterr);
    free(name);
    return rc;
}

int trace_slice(const struct trace *t, uint32_t first, uint32_t n, uint32_t max_tokens,
                struct trace *ret, struct mt_err *reterr)
{
    struct trace s = *t;
    uint32_t from;
    int rc;

    if (!n || first >= t->documents || n > t->documents - first)
        return mt_error(reterr, MT_EINVAL,
                        "%s: expected documents within 0 to %u, found %u of them from %u", t->name,
                        t->documents - 1, n, first);
    from = t->doc[first];
    s.tokens = t->doc[first + n] - from;
    if (max_tokens && max_tokens < s.tokens)
        s.tokens = max_tokens;
    for (s.documents = 1; t->doc[first + s.documents] - from < s.tokens;)
        s.documents++;
    rc = reserve(&s, t->name, reterr);
    if (rc)
        return rc;
    for (uint32_t d = 0; d < s.documents; d++)
        s.doc[d] = t->doc[first + d] - from;
    s.doc[s.documents] = s.tokens;
    memcpy(s.choice, trace_at(t, from, 0), id_count(&s) * sizeof *s.choice);
    *ret = s;
    return 0;
}

uint32_t trace_split(const struct trace *t, double fraction)
{
    uint32_t most = t->documents > 1 ? t->documents - 1 : 1;
    double n = fraction * t->documents + 1e-9; /* 0.29 * 100 is 29 */

    if (!(n >= 1))
        return 1;
    return n < most ? (uint32_t)n : most;
}

void trace_loads(const struct trace *t, double *ret)
{
    size_t rows = (size_t)t->tokens * t->layers, cells = (size_t)t->layers * t->experts;

    memset(ret, 0, cells * sizeof *ret);
    for (size_t i = 0; i < rows; i++)
        for (uint32_t k = 0; k < t->topk; k++)
            ret[i % t->layers * t->experts + t->choice[i * t->topk + k]]++;
    for (size_t i = 0; i < cells; i++)
        ret[i] /= t->tokens;
}

void trace_pairs(const struct trace *t, uint32_t layer, double *ret)
{
    size_t cells = (size_t)t->experts * t->experts;

    memset(ret, 0, cells * sizeof *ret);
    if (layer + 1 >= t->layers)
        return;
    for (uint32_t i = 0; i < t->tokens; i++) {
        const uint16_t *a = trace_at(t, i, layer), *b = trace_at(t, i, layer + 1);

        for (uint32_t k = 0; k < t->topk; k++)
            for (uint32_t j = 0; j < t->topk; j++)
                ret[(size_t)a[k] * t->experts + b[j]]++;
    }
    for (size_t i = 0; i < cells; i++)
        ret[i] /= t->topk;
}

void trace_done(struct trace *t)
{
    if (!t)
        return;
    free(t->doc);
    free(t->choice);
    *t = (struct trace){0};
}
