/* The placement file: JSON, checked field by field. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "api/file.h"
#include "placement/field.h"
#include "placement/plan.h"

#define SPLIT_SLACK 1e-3 /* of a sum of fractions, which is made 1 if it is off by more than */
#define SPLIT_EXACT 1e-5

/* An array of `want` elements; where: "copies", "split: layer 3". */
static int check_array(const json_t *v, const char *name, const char *where, size_t want,
                       const char *of, struct mt_err *reterr)
{
    if (!json_is_array(v))
        return mt_error(reterr, MT_EINVAL, "%s: %s: expected an array, found %s", name, where,
                        field_found(v));
    if (json_array_size(v) != want)
        return mt_error(reterr, MT_EINVAL, "%s: %s: expected %zu %s, found %zu", name, where, want,
                        of, json_array_size(v));
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
                        name, layer, expert, field_found(list));
    if (!json_array_size(list) || json_array_size(list) > p->ranks)
        return mt_error(reterr, MT_EINVAL,
                        "%s: copies: layer %u, expert %u: expected 1 to %u copies, found %zu", name,
                        layer, expert, p->ranks, json_array_size(list));
    json_array_foreach(list, i, v) {
        json_int_t rank = json_integer_value(v);

        if (!json_is_integer(v))
            return mt_error(reterr, MT_EINVAL,
                            "%s: copies: layer %u, expert %u: expected a rank, found %s", name,
                            layer, expert, field_found(v));
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

        snprintf(where, sizeof where, "copies: layer %u", l);
        rc = check_array(layer, name, where, p->experts, "experts", reterr);
        for (uint32_t e = 0; !rc && e < p->experts; e++)
            rc = read_copies(json_array_get(layer, e), name, (size_t)l * p->experts + e, p, reterr);
        if (rc)
            return rc;
    }
    return 0;
}

/* The fractions of one expert: one for each copy, or none for an even split. */
static int read_fractions(const json_t *list, const char *name, size_t pair, struct plan *p,
                          struct mt_err *reterr)
{
    uint32_t layer = (uint32_t)(pair / p->experts), expert = (uint32_t)(pair % p->experts);
    uint32_t n = p->start[pair + 1] - p->start[pair];
    float *share = p->share + p->start[pair];
    size_t given = json_array_size(list);
    double sum = 0;

    if (!json_is_array(list) || (given && given != n))
        return mt_error(reterr, MT_EINVAL,
                        "%s: split: layer %u, expert %u: expected [] or an array of %u fractions, "
                        "found %s of %zu",
                        name, layer, expert, n, field_found(list), given);
    for (uint32_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        double part = given ? json_number_value(v) : 1. / n;

        if ((given && !json_is_number(v)) || !(part >= 0 && part <= 1 + SPLIT_SLACK))
            return mt_error(reterr, MT_EINVAL,
                            "%s: split: layer %u, expert %u: expected fractions 0 to 1, found %s "
                            "%g",
                            name, layer, expert, field_found(v), part);
        share[i] = (float)part;
        sum += (double)share[i];
    }
    if (fabs(sum - 1) > SPLIT_SLACK)
        return mt_error(reterr, MT_EINVAL,
                        "%s: split: layer %u, expert %u: expected a sum of 1, found %g", name,
                        layer, expert, sum);
    for (uint32_t i = 0; fabs(sum - 1) > SPLIT_EXACT && i < n; i++)
        share[i] = (float)(share[i] / sum);
    return 0;
}

static int read_split(const json_t *split, const char *name, struct plan *p, struct mt_err *reterr)
{
    int rc = check_array(split, name, "split", p->layers, "layers", reterr);

    if (rc)
        return rc;
    p->share = calloc((size_t)p->start[(size_t)p->layers * p->experts] + 1, sizeof *p->share);
    if (!p->share)
        return mt_error(reterr, MT_ENOMEM, "%s: no memory for %u layers of %u experts", name,
                        p->layers, p->experts);
    for (uint32_t l = 0; l < p->layers; l++) {
        const json_t *layer = json_array_get(split, l);
        char where[32];

        snprintf(where, sizeof where, "split: layer %u", l);
        rc = check_array(layer, name, where, p->experts, "experts", reterr);
        for (uint32_t e = 0; !rc && e < p->experts; e++)
            rc = read_fractions(json_array_get(layer, e), name, (size_t)l * p->experts + e, p,
                                reterr);
        if (rc)
            return rc;
    }
    return 0;
}

static int read_root(const json_t *root, const char *name, struct plan *ret, struct mt_err *reterr)
{
    const json_t *copies = json_object_get(root, "copies");
    const json_t *split = json_object_get(root, "split");
    struct plan p = {0};
    int rc;

    rc = field_count(root, name, "layers", PLAN_MAX_LAYERS, &p.layers, reterr);
    if (!rc)
        rc = field_count(root, name, "experts", PLAN_MAX_EXPERTS, &p.experts, reterr);
    if (!rc)
        rc = field_count(root, name, "ranks", PLAN_MAX_RANKS, &p.ranks, reterr);
    if (!rc)
        rc = check_array(copies, name, "copies", p.layers, "layers", reterr);
    if (rc)
        return rc;
    p.start = calloc((size_t)p.layers * p.experts + 1, sizeof *p.start);
    p.rank = calloc(count_copies(copies) + 1, sizeof *p.rank);
    if (!p.start || !p.rank)
        rc = mt_error(reterr, MT_ENOMEM, "%s: no memory for %u layers of %u experts", name,
                      p.layers, p.experts);
    else
        rc = read_layers(copies, name, &p, reterr);
    if (!rc && split)
        rc = read_split(split, name, &p, reterr);
    if (rc)
        plan_done(&p);
    else
        *ret = p;
    return rc;
}

int plan_parse(const char *bytes, size_t len, const char *name, struct plan *ret,
               struct mt_err *reterr)
{
    json_t *root;
    int rc = field_load(bytes, len, PLAN_MAX_FILE, name, &root, reterr);

    if (rc)
        return rc;
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

/* An even split is [], so that what is uneven stands out. */
static void write_split(FILE *out, const struct plan *p, uint32_t layer)
{
    const uint32_t *start = p->start + (size_t)layer * p->experts;

    fputs("  [", out);
    for (uint32_t e = 0; e < p->experts; e++) {
        uint32_t n = start[e + 1] - start[e];
        const float *share = p->share + start[e];
        bool even = true;

        for (uint32_t i = 0; i < n; i++)
            even = even && share[i] == (float)(1. / n);
        fputs(e ? ",[" : "[", out);
        for (uint32_t i = 0; !even && i < n; i++)
            fprintf(out, "%s%.9g", i ? "," : "", (double)share[i]);
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
    if (p->share)
        fputs(" ],\n \"split\": [\n", out);
    for (uint32_t l = 0; p->share && l < p->layers; l++)
        write_split(out, p, l);
    fputs(" ]}\n", out);
    if (fflush(out) || ferror(out))
        return mt_error(reterr, MT_EIO, "placement: cannot write: %s", strerror(errno));
    return 0;
}
