/* The placement file: JSON, checked field by field. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "api/file.h"
#include "placement/plan.h"

static const char *const TYPE_NAMES[] = {
    [JSON_OBJECT] = "an object",   [JSON_ARRAY] = "an array",     [JSON_STRING] = "a string",
    [JSON_INTEGER] = "an integer", [JSON_REAL] = "a real number", [JSON_TRUE] = "true",
    [JSON_FALSE] = "false",        [JSON_NULL] = "null",
};

static const char *found(const json_t *v)
{
    return v ? TYPE_NAMES[json_typeof(v)] : "nothing";
}

/* A count of the file's head, 1 .. max. */
static int read_count(const json_t *root, const char *name, const char *field, uint32_t max,
                      uint32_t *ret, struct mt_err *reterr)
{
    const json_t *v = json_object_get(root, field);

    if (!json_is_integer(v))
        return mt_error(reterr, MT_EINVAL, "%s: %s: expected an integer, found %s", name, field,
                        found(v));
    if (json_integer_value(v) < 1 || json_integer_value(v) > max)
        return mt_error(reterr, MT_EINVAL, "%s: %s: expected 1 to %u, found %" JSON_INTEGER_FORMAT,
                        name, field, max, json_integer_value(v));
    *ret = (uint32_t)json_integer_value(v);
    return 0;
}

/* An array of `want` elements; where: "layer 3" or "". */
static int check_array(const json_t *v, const char *name, const char *where, size_t want,
                       const char *of, struct mt_err *reterr)
{
    if (!json_is_array(v))
        return mt_error(reterr, MT_EINVAL, "%s: copies%s: expected an array, found %s", name, where,
                        found(v));
    if (json_array_size(v) != want)
        return mt_error(reterr, MT_EINVAL, "%s: copies%s: expected %zu %s, found %zu", name, where,
                        want, of, json_array_size(v));
    return 0;
}

/* The copies of one expert, appended to p->rank, which has room for p->ranks more. */
static int read_copies(const json_t *list, const char *name, size_t pair, struct plan *p,
                       struct mt_err *reterr)
{
    uint32_t layer = (uint32_t)(pair / p->experts), expert = (uint32_t)(pair % p->experts);
    uint32_t first = p->start[pair], n = 0;
    const json_t *v;
    size_t i;

    if (!json_is_array(list))
        return mt_error(reterr, MT_EINVAL,
                        "%s: copies: layer %u, expert %u: expected an array of ranks, found %s",
                        name, layer, expert, found(list));
    if (!json_array_size(list) || json_array_size(list) > p->ranks)
        return mt_error(reterr, MT_EINVAL,
                        "%s: copies: layer %u, expert %u: expected 1 to %u copies, found %zu", name,
                        layer, expert, p->ranks, json_array_size(list));
    json_array_foreach(list, i, v) {
        json_int_t rank = json_integer_value(v);

        if (!json_is_integer(v))
            return mt_error(reterr, MT_EINVAL,
                            "%s: copies: layer %u, expert %u: expected a rank, found %s", name,
                            layer, expert, found(v));
        if (rank < 0 || rank >= p->ranks)
            return mt_error(reterr, MT_EINVAL,
                            "%s: copies: layer %u, expert %u: expected a rank below %u, found "
                            "%" JSON_INTEGER_FORMAT,
                            name, layer, expert, p->ranks, rank);
        for (uint32_t k = 0; k < n; k++)
            if (p->rank[first + k] == rank)
                return mt_error(reterr, MT_EINVAL,
                                "%s: copies: layer %u, expert %u: expected distinct ranks, found "
                                "rank %u twice",
                                name, layer, expert, (unsigned)rank);
        p->rank[first + n++] = (uint16_t)rank;
    }
    p->start[pair + 1] = first + n;
    return 0;
}

/* Copies that the file claims, at most layers * experts * ranks, so that one allocation holds them.
 */
static size_t count_copies(const json_t *copies)
{
    const json_t *layer, *expert;
    size_t i, k, n = 0;

    json_array_foreach(copies, i, layer)
        json_array_foreach(layer, k, expert)
            n += json_array_size(expert);
    return n;
}

static int read_layers(const json_t *copies, const char *name, struct plan *p,
                       struct mt_err *reterr)
{
    for (uint32_t l = 0; l < p->layers; l++) {
        const json_t *layer = json_array_get(copies, l);
        char where[32];
        int rc;

        snprintf(where, sizeof where, ": layer %u", l);
        rc = check_array(layer, name, where, p->experts, "experts", reterr);
        for (uint32_t e = 0; !rc && e < p->experts; e++)
            rc = read_copies(json_array_get(layer, e), name, (size_t)l * p->experts + e, p, reterr);
        if (rc)
            return rc;
    }
    return 0;
}

static int read_root(const json_t *root, const char *name, struct plan *ret, struct mt_err *reterr)
{
    const json_t *copies = json_object_get(root, "copies");
    struct plan p = {0};
    int rc;

    if (!json_is_object(root))
        return mt_error(reterr, MT_EINVAL, "%s: expected an object, found %s", name, found(root));
    rc = read_count(root, name, "layers", PLAN_MAX_LAYERS, &p.layers, reterr);
    if (!rc)
        rc = read_count(root, name, "experts", PLAN_MAX_EXPERTS, &p.experts, reterr);
    if (!rc)
        rc = read_count(root, name, "ranks", PLAN_MAX_RANKS, &p.ranks, reterr);
    if (!rc)
        rc = check_array(copies, name, "", p.layers, "layers", reterr);
    if (rc)
        return rc;
    p.start = calloc((size_t)p.layers * p.experts + 1, sizeof *p.start);
    p.rank = calloc(count_copies(copies) + 1, sizeof *p.rank);
    if (!p.start || !p.rank)
        rc = mt_error(reterr, MT_ENOMEM, "%s: no memory for %u layers of %u experts", name,
                      p.layers, p.experts);
    else
        rc = read_layers(copies, name, &p, reterr);
    if (rc)
        plan_done(&p);
    else
        *ret = p;
    return rc;
}

int plan_parse(const char *bytes, size_t len, const char *name, struct plan *ret,
               struct mt_err *reterr)
{
    json_error_t at;
    json_t *root;
    int rc;

    if (len > PLAN_MAX_FILE)
        return mt_error(reterr, MT_ELIMIT, "%s: expected at most %u bytes, found %zu", name,
                        PLAN_MAX_FILE, len);
    root = json_loadb(bytes, len, JSON_REJECT_DUPLICATES, &at);
    if (!root)
        return mt_error(reterr, MT_EINVAL, "%s: line %d, column %d: %s", name, at.line, at.column,
                        at.text);
    rc = read_root(root, name, ret, reterr);
    json_decref(root);
    return rc;
}

int plan_read(const char *path, struct plan *ret, struct mt_err *reterr)
{
    size_t len;
    char *bytes;
    int rc = file_read(path, PLAN_MAX_FILE, &bytes, &len, reterr);

    if (rc)
        return rc;
    rc = plan_parse(bytes, len, path, ret, reterr);
    free(bytes);
    return rc;
}

static void write_layer(FILE *out, const struct plan *p, uint32_t layer)
{
    const uint32_t *start = p->start + (size_t)layer * p->experts;

    fputs("  [", out);
    for (uint32_t e = 0; e < p->experts; e++) {
        fputs(e ? ",[" : "[", out);
        for (uint32_t i = start[e]; i < start[e + 1]; i++)
            fprintf(out, "%s%u", i > start[e] ? "," : "", p->rank[i]);
        fputc(']', out);
    }
    fputs(layer + 1 < p->layers ? "],\n" : "]\n", out);
}

int plan_write(FILE *out, const struct plan *p, const char *report, struct mt_err *reterr)
{
    fprintf(out, "{\"layers\": %u, \"experts\": %u, \"ranks\": %u,\n", p->layers, p->experts,
            p->ranks);
    if (report)
        fprintf(out, " \"report\": %s,\n", report);
    fputs(" \"copies\": [\n", out);
    for (uint32_t l = 0; l < p->layers; l++)
        write_layer(out, p, l);
    fputs(" ]}\n", out);
    if (fflush(out) || ferror(out))
        return mt_error(reterr, MT_EIO, "placement: cannot write: %s", strerror(errno));
    return 0;
}
