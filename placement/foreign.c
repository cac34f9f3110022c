/* Loads, SGLang's files, and the table of slots that both systems take. */
#include "placement/foreign.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "api/file.h"
#include "placement/field.h"
#include "placement/trace.h"

/* --- loads --------------------------------------------------------------------------------------
 */

void loads_done(struct loads *l)
{
    if (!l)
        return;
    free(l->load);
    *l = (struct loads){0};
}

/* An array of 1 .. max elements. */
static int check_array(const json_t *v, const char *name, const char *where, size_t max,
                       struct mt_err *reterr)
{
    if (!json_is_array(v))
        return mt_error(reterr, MT_EINVAL, "%s: %s: expected an array, found %s", name, where,
                        field_found(v));
    if (!json_array_size(v) || json_array_size(v) > max)
        return mt_error(reterr, MT_EINVAL, "%s: %s: expected 1 to %zu elements, found %zu", name,
                        where, max, json_array_size(v));
    return 0;
}

/* Adds rows[layers][experts] of numbers of at least 0 to load. */
static int add_rows(const json_t *rows, const char *name, const char *field, uint32_t layers,
                    uint32_t experts, double *load, struct mt_err *reterr)
{
    char where[96];

    if (!json_is_array(rows) || json_array_size(rows) != layers)
        return mt_error(reterr, MT_EINVAL, "%s: %s: expected %u layers, found %zu", name, field,
                        layers, json_array_size(rows));
    for (uint32_t l = 0; l < layers; l++) {
        const json_t *row = json_array_get(rows, l);

        snprintf(where, sizeof where, "%.64s: layer %u", field, l);
        if (!json_is_array(row) || json_array_size(row) != experts)
            return mt_error(reterr, MT_EINVAL, "%s: %s: expected %u numbers, found %zu", name,
                            where, experts, json_array_size(row));
        for (uint32_t e = 0; e < experts; e++) {
            const json_t *v = json_array_get(row, e);

            if (!json_is_number(v) || !(json_number_value(v) >= 0))
                return mt_error(reterr, MT_EINVAL,
                                "%s: %s, expert %u: expected a number of at least 0, found %s",
                                name, where, e, json_is_number(v) ? "less" : field_found(v));
            load[(size_t)l * experts + e] += json_number_value(v);
        }
    }
    return 0;
}

static double layer_sum(const struct loads *l, uint32_t layer)
{
    double sum = 0;

    for (uint32_t e = 0; e < l->experts; e++)
        sum += l->load[(size_t)layer * l->experts + e];
    return sum;
}

/* Counts become mean choices per token. A layer whose sum is right but for rounding stays as it is,
 * so that what was written is read back. */
static int scale(struct loads *l, const char *name, uint32_t first_layer, struct mt_err *reterr)
{
    for (uint32_t i = 0; i < l->layers; i++) {
        double sum = layer_sum(l, i);

        if (!(sum > 0) || !isfinite(sum))
            return mt_error(reterr, MT_EINVAL, "%s: layer %u: expected counts, found a total of %g",
                            name, first_layer + i, sum);
        if (fabs(sum - l->topk) <= 1e-9 * l->topk)
            continue;
        for (uint32_t e = 0; e < l->experts; e++) /* divide first: no overflow */
            l->load[(size_t)i * l->experts + e] =
                l->load[(size_t)i * l->experts + e] / sum * l->topk;
    }
    return 0;
}

static int new_loads(struct loads *l, const char *name, struct mt_err *reterr)
{
    l->load = calloc((size_t)l->layers * l->experts + 1, sizeof *l->load);
    return l->load ? 0
                   : mt_error(reterr, MT_ENOMEM, "%s: no memory for %u layers of %u experts", name,
                              l->layers, l->experts);
}

static int loads_root(const json_t *root, const char *name, struct loads *ret,
                      struct mt_err *reterr)
{
    const json_t *rows = json_object_get(root, "load");
    struct loads l = {0};
    int rc;

    if (!rows)
        return mt_error(reterr, MT_ENOTFOUND, "%s: load: expected an array, found nothing", name);
    rc = field_count(root, name, "layers", PLAN_MAX_LAYERS, &l.layers, reterr);
    if (!rc)
        rc = field_count(root, name, "experts", PLAN_MAX_EXPERTS, &l.experts, reterr);
    if (!rc)
        rc = field_count(root, name, "topk", TRACE_MAX_TOPK, &l.topk, reterr);
    if (!rc && l.topk > l.experts)
        rc = mt_error(reterr, MT_EINVAL, "%s: topk: expected at most %u, found %u", name, l.experts,
                      l.topk);
    if (!rc)
        rc = new_loads(&l, name, reterr);
    if (!rc)
        rc = add_rows(rows, name, "load", l.layers, l.experts, l.load, reterr);
    if (!rc)
        rc = scale(&l, name, 0, reterr);
    if (rc)
        loads_done(&l);
    else
        *ret = l;
    return rc;
}

int loads_parse(const char *bytes, size_t len, const char *name, struct loads *ret,
                struct mt_err *reterr)
{
    json_t *root;
    int rc = field_load(bytes, len, LOADS_MAX_FILE, name, &root, reterr);

    if (rc)
        return rc;
    rc = loads_root(root, name, ret, reterr);
    json_decref(root);
    return rc;
}

int loads_read(const char *path, struct loads *ret, struct mt_err *reterr)
{
    size_t len;
    char *bytes;
    int rc = file_read(path, LOADS_MAX_FILE, &bytes, &len, reterr);

    if (rc)
        return rc;
    rc = loads_parse(bytes, len, path, ret, reterr);
    free(bytes);
    return rc;
}

static int finish_writing(FILE *out, const char *what, struct mt_err *reterr)
{
    if (fflush(out) || ferror(out))
        return mt_error(reterr, MT_EIO, "%s: cannot write: %s", what, strerror(errno));
    return 0;
}

int loads_write(FILE *out, const struct loads *l, struct mt_err *reterr)
{
    fprintf(out, "{\"layers\": %u, \"experts\": %u, \"topk\": %u, \"load\": [\n", l->layers,
            l->experts, l->topk);
    for (uint32_t i = 0; i < l->layers; i++) {
        for (uint32_t e = 0; e < l->experts; e++)
            fprintf(out, "%s%.17g", e ? "," : " [", l->load[(size_t)i * l->experts + e]);
        fputs(i + 1 < l->layers ? "],\n" : "]\n", out);
    }
    fputs("]}\n", out);
    return finish_writing(out, "loads", reterr);
}

/* --- SGLang's counts ----------------------------------------------------------------------------
 */

/* Drops leading layers that count nothing. */
static int drop_dense(struct loads *l, const char *name, uint32_t *ret_dense, struct mt_err *reterr)
{
    uint32_t dense = 0;

    while (dense < l->layers && layer_sum(l, dense) == 0)
        dense++;
    if (dense == l->layers)
        return mt_error(reterr, MT_EINVAL, "%s: logical_count: expected counts, found none", name);
    l->layers -= dense;
    memmove(l->load, l->load + (size_t)dense * l->experts,
            (size_t)l->layers * l->experts * sizeof *l->load);
    *ret_dense = dense;
    return 0;
}

static int sglang_root(const json_t *root, const char *name, uint32_t topk, struct loads *ret,
                       uint32_t *ret_dense, struct mt_err *reterr)
{
    const json_t *steps = json_object_get(root, "logical_count"), *rows = steps, *row;
    struct loads l = {.topk = topk};
    uint32_t dense = 0;
    size_t n = 1;
    int rc = check_array(steps, name, "logical_count", SIZE_MAX, reterr);
    bool many = !rc && json_is_array(json_array_get(json_array_get(steps, 0), 0));

    if (!rc && many) {
        n = json_array_size(steps);
        rows = json_array_get(steps, 0);
    }
    if (!rc)
        rc = check_array(rows, name, "logical_count", PLAN_MAX_LAYERS, reterr);
    row = rc ? NULL : json_array_get(rows, 0);
    if (!rc)
        rc = check_array(row, name, "logical_count: layer 0", PLAN_MAX_EXPERTS, reterr);
    if (rc)
        return rc;
    l.layers = (uint32_t)json_array_size(rows);
    l.experts = (uint32_t)json_array_size(row);
    if (!topk || topk > TRACE_MAX_TOPK || topk > l.experts)
        return mt_error(reterr, MT_EINVAL, "%s: topk: expected 1 to %u, found %u", name,
                        l.experts < TRACE_MAX_TOPK ? l.experts : TRACE_MAX_TOPK, topk);
    rc = new_loads(&l, name, reterr);
    for (size_t i = 0; !rc && i < n; i++)
        rc = add_rows(many ? json_array_get(steps, i) : steps, name, "logical_count", l.layers,
                      l.experts, l.load, reterr);
    if (!rc)
        rc = drop_dense(&l, name, &dense, reterr);
    if (!rc)
        rc = scale(&l, name, dense, reterr);
    if (rc) {
        loads_done(&l);
        return rc;
    }
    *ret = l;
    if (ret_dense)
        *ret_dense = dense;
    return 0;
}

int foreign_parse_sglang(const char *bytes, size_t len, const char *name, uint32_t topk,
                         struct loads *ret, uint32_t *ret_dense, struct mt_err *reterr)
{
    json_t *root;
    int rc = field_load(bytes, len, LOADS_MAX_FILE, name, &root, reterr);

    if (rc)
        return rc;
    rc = sglang_root(root, name, topk, ret, ret_dense, reterr);
    json_decref(root);
    return rc;
}

int foreign_read_sglang(const char *path, uint32_t topk, struct loads *ret, uint32_t *ret_dense,
                        struct mt_err *reterr)
{
    size_t len;
    char *bytes;
    int rc = file_read(path, LOADS_MAX_FILE, &bytes, &len, reterr);

    if (rc)
        return rc;
    rc = foreign_parse_sglang(bytes, len, path, topk, ret, ret_dense, reterr);
    free(bytes);
    return rc;
}

/* --- the table of slots -------------------------------------------------------------------------
 */

struct filler {
    const struct plan *p;
    const double *load; /* [experts] of the layer, or NULL */
    size_t first;       /* pair of the layer's expert 0 */
};

static uint32_t copies(const struct filler *f, uint32_t expert)
{
    return f->p->start[f->first + expert + 1] - f->p->start[f->first + expert];
}

/* Whether a is better than b to fill a slot with, of experts that both are on the rank or not. */
static bool fills_better(const struct filler *f, bool here, uint32_t a, uint32_t b)
{
    bool sole_a = here && copies(f, a) == 1, sole_b = here && copies(f, b) == 1;

    if (sole_a != sole_b)
        return sole_a;
    if (f->load && f->load[a] != f->load[b])
        return f->load[a] > f->load[b];
    return copies(f, a) < copies(f, b);
}

/* Fills slot[n .. slots - 1] of a rank that holds slot[0 .. n - 1]. */
static void fill_slots(const struct filler *f, uint16_t *slot, uint32_t n, uint32_t slots)
{
    uint32_t best = n ? slot[0] : 0, candidates = n ? n : f->p->experts;

    for (uint32_t i = 1; i < candidates; i++) {
        uint32_t e = n ? slot[i] : i;

        if (fills_better(f, n > 0, e, best))
            best = e;
    }
    for (uint32_t i = n; i < slots; i++)
        slot[i] = (uint16_t)best;
}

int foreign_slots(const struct plan *p, const struct foreign_options *how, uint16_t **ret,
                  struct foreign_report *ret_report, struct mt_err *reterr)
{
    struct foreign_report report = {.slots = how->slots};
    uint32_t most = 0, held[PLAN_MAX_RANKS];
    uint16_t *slot;

    for (uint32_t r = 0; r < p->ranks; r++) {
        uint32_t n = plan_slots(p, r);

        most = n > most ? n : most;
    }
    if (!report.slots)
        report.slots = most;
    if (report.slots < most || report.slots > PLAN_MAX_EXPERTS)
        return mt_error(reterr, MT_EINVAL, "placement: slots: expected %u to %u, found %u", most,
                        PLAN_MAX_EXPERTS, report.slots);
    if (how->dense > PLAN_MAX_LAYERS)
        return mt_error(reterr, MT_EINVAL, "placement: dense layers: expected at most %u, found %u",
                        PLAN_MAX_LAYERS, how->dense);
    report.physical = p->ranks * report.slots;
    report.extra = report.physical - p->experts;
    slot = calloc((size_t)p->layers * report.physical + 1, sizeof *slot);
    if (!slot)
        return mt_error(reterr, MT_ENOMEM, "placement: no memory for %u slots", report.physical);
    for (uint32_t l = 0; l < p->layers; l++) {
        uint16_t *row = slot + (size_t)l * report.physical;
        struct filler f = {p, how->load ? how->load + (size_t)l * p->experts : NULL,
                           (size_t)l * p->experts};

        memset(held, 0, sizeof held);
        for (uint32_t e = 0; e < p->experts; e++)
            for (uint32_t i = p->start[f.first + e]; i < p->start[f.first + e + 1]; i++)
                row[p->rank[i] * report.slots + held[p->rank[i]]++] = (uint16_t)e;
        for (uint32_t r = 0; r < p->ranks; r++) {
            uint32_t empty = report.slots - held[r];

            fill_slots(&f, row + (size_t)r * report.slots, held[r], report.slots);
            report.added += held[r] || !empty ? 0 : 1;
            report.repeated += held[r] || !empty ? empty : empty - 1;
        }
    }
    *ret = slot;
    *ret_report = report;
    return 0;
}

int foreign_plan(uint32_t layers, uint32_t physical, uint32_t ranks, const uint16_t *slot,
                 const char *name, struct plan *ret, struct mt_err *reterr)
{
    uint32_t experts = 0;
    uint8_t *held;
    int rc = 0;

    if (!layers || layers > PLAN_MAX_LAYERS || !ranks || ranks > PLAN_MAX_RANKS || !physical ||
        physical % ranks)
        return mt_error(reterr, MT_EINVAL,
                        "%s: expected 1 to %u layers and slots for each of 1 to %u ranks, found %u "
                        "layers, %u slots, %u ranks",
                        name, PLAN_MAX_LAYERS, PLAN_MAX_RANKS, layers, physical, ranks);
    for (size_t i = 0; i < (size_t)layers * physical; i++)
        experts = slot[i] >= experts ? slot[i] + 1u : experts;
    if (experts > PLAN_MAX_EXPERTS)
        return mt_error(reterr, MT_EINVAL, "%s: expected experts below %u, found %u", name,
                        PLAN_MAX_EXPERTS, experts - 1);
    held = calloc((size_t)layers * experts * ranks, 1);
    if (!held)
        return mt_error(reterr, MT_ENOMEM, "%s: no memory for %u layers of %u experts", name,
                        layers, experts);
    for (uint32_t l = 0; l < layers; l++)
        for (uint32_t i = 0; i < physical; i++)
            held[((size_t)l * experts + slot[(size_t)l * physical + i]) * ranks +
                 i / (physical / ranks)] = 1;
    for (size_t pair = 0; !rc && pair < (size_t)layers * experts; pair++)
        if (!memchr(held + pair * ranks, 1, ranks))
            rc = mt_error(reterr, MT_EINVAL, "%s: layer %zu: expected a slot for expert %zu", name,
                          pair / experts, pair % experts);
    if (!rc)
        rc = plan_from_held(layers, experts, ranks, held, ret, reterr);
    free(held);
    return rc;
}

/* --- SGLang's map -------------------------------------------------------------------------------
 */

int foreign_write_sglang(FILE *out, const struct plan *p, const struct foreign_options *how,
                         struct foreign_report *ret, struct mt_err *reterr)
{
    struct foreign_report report = {0};
    uint16_t *slot = NULL;
    int rc = foreign_slots(p, how, &slot, &report, reterr);

    if (rc)
        return rc;
    fputs("{\"physical_to_logical_map\": [\n", out);
    for (uint32_t l = 0; l < how->dense + p->layers; l++) {
        for (uint32_t i = 0; i < report.physical; i++) {
            size_t at = (size_t)(l - how->dense) * report.physical + i;

            fprintf(out, "%s%u", i ? "," : " [", l < how->dense ? i % p->experts : slot[at]);
        }
        fputs(l + 1 < how->dense + p->layers ? "],\n" : "]\n", out);
    }
    fputs("]}\n", out);
    free(slot);
    rc = finish_writing(out, "placement", reterr);
    if (!rc && ret)
        *ret = report;
    return rc;
}

/* rows[dense ..][physical] of expert numbers. */
static int read_slots(const json_t *rows, const char *name, uint32_t dense, uint32_t physical,
                      uint16_t *slot, struct mt_err *reterr)
{
    const char *field = "physical_to_logical_map";

    for (size_t l = dense; l < json_array_size(rows); l++) {
        const json_t *row = json_array_get(rows, l);

        if (!json_is_array(row) || json_array_size(row) != physical)
            return mt_error(reterr, MT_EINVAL, "%s: %s: layer %zu: expected %u slots, found %zu",
                            name, field, l, physical, json_array_size(row));
        for (size_t i = 0; i < physical; i++) {
            const json_t *v = json_array_get(row, i);

            if (!json_is_integer(v) || json_integer_value(v) < 0 ||
                json_integer_value(v) >= PLAN_MAX_EXPERTS)
                return mt_error(reterr, MT_EINVAL,
                                "%s: %s: layer %zu, slot %zu: expected an expert below %u, found "
                                "%s",
                                name, field, l, i, PLAN_MAX_EXPERTS,
                                json_is_integer(v) ? "another number" : field_found(v));
            slot[(l - dense) * physical + i] = (uint16_t)json_integer_value(v);
        }
    }
    return 0;
}

static int map_root(const json_t *root, const char *name, uint32_t ranks, uint32_t dense,
                    struct plan *ret, struct mt_err *reterr)
{
    const json_t *rows = json_object_get(root, "physical_to_logical_map"), *row;
    uint32_t layers, physical;
    uint16_t *slot;
    int rc = check_array(rows, name, "physical_to_logical_map", 2 * PLAN_MAX_LAYERS, reterr);

    if (rc)
        return rc;
    if (json_array_size(rows) <= dense)
        return mt_error(reterr, MT_EINVAL,
                        "%s: physical_to_logical_map: expected more than %u dense layers, found "
                        "%zu",
                        name, dense, json_array_size(rows));
    row = json_array_get(rows, dense);
    rc = check_array(row, name, "physical_to_logical_map: first layer",
                     (size_t)PLAN_MAX_RANKS * PLAN_MAX_EXPERTS, reterr);
    if (rc)
        return rc;
    layers = (uint32_t)json_array_size(rows) - dense;
    physical = (uint32_t)json_array_size(row);
    slot = calloc((size_t)layers * physical, sizeof *slot);
    if (!slot)
        return mt_error(reterr, MT_ENOMEM, "%s: no memory for %u slots", name, physical);
    rc = read_slots(rows, name, dense, physical, slot, reterr);
    if (!rc)
        rc = foreign_plan(layers, physical, ranks, slot, name, ret, reterr);
    free(slot);
    return rc;
}

int foreign_parse_sglang_map(const char *bytes, size_t len, const char *name, uint32_t ranks,
                             uint32_t dense, struct plan *ret, struct mt_err *reterr)
{
    json_t *root;
    int rc = field_load(bytes, len, LOADS_MAX_FILE, name, &root, reterr);

    if (rc)
        return rc;
    rc = map_root(root, name, ranks, dense, ret, reterr);
    json_decref(root);
    return rc;
}
