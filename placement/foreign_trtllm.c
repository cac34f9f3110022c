/* TensorRT-LLM's expert statistics, and its load balancer's YAML. */
#include "placement/foreign.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "api/file.h"
#include "api/safetensors.h"
#include "placement/field.h"
#include "placement/trace.h"

#define META_MAX_FILE (1u << 20)

/* --- statistics ---------------------------------------------------------------------------------
 */

struct statistics {
    const char *folder;
    uint32_t experts, topk;
    double *sum; /* [PLAN_MAX_LAYERS][experts] */
    bool seen[PLAN_MAX_LAYERS];
};

static int read_meta(struct statistics *s, struct mt_err *reterr)
{
    char path[PATH_MAX];
    char *bytes;
    size_t len;
    json_t *root;
    int rc;

    if (snprintf(path, sizeof path, "%s/meta_info.json", s->folder) >= (int)sizeof path)
        return mt_error(reterr, MT_EINVAL, "%.64s...: expected a shorter path", s->folder);
    rc = file_read(path, META_MAX_FILE, &bytes, &len, reterr);
    if (rc)
        return rc;
    rc = field_load(bytes, len, META_MAX_FILE, path, &root, reterr);
    free(bytes);
    if (rc)
        return rc;
    rc = field_count(root, path, "num_experts", PLAN_MAX_EXPERTS, &s->experts, reterr);
    if (!rc)
        rc = field_count(root, path, "num_experts_per_token",
                         s->experts < TRACE_MAX_TOPK ? s->experts : TRACE_MAX_TOPK, &s->topk,
                         reterr);
    json_decref(root);
    return rc;
}

/* "ITERATION_LAYER"; false: it is something else. */
static bool parse_key(const char *key, uint32_t *ret_layer)
{
    const char *at = key;
    uint32_t layer = 0;

    while (isdigit((unsigned char)*at))
        at++;
    if (at == key || *at++ != '_' || !*at)
        return false;
    for (; isdigit((unsigned char)*at); at++) {
        layer = layer * 10 + (uint32_t)(*at - '0');
        if (layer >= PLAN_MAX_LAYERS)
            return false;
    }
    *ret_layer = layer;
    return !*at;
}

static int add_tensor(struct statistics *s, const struct safetensors *f,
                      const struct safetensors_tensor *named, struct mt_err *reterr)
{
    const struct safetensors_tensor *t;
    uint64_t shape[] = {s->experts};
    uint32_t layer;
    int rc;

    if (!parse_key(named->name, &layer))
        return mt_error(reterr, MT_EINVAL,
                        "%s: expected tensors named ITERATION_LAYER, layers below %u, found %.64s",
                        safetensors_name(f), PLAN_MAX_LAYERS, named->name);
    rc = safetensors_get(f, named->name, SAFETENSORS_SET(I64) | SAFETENSORS_SET(I32), 1, shape, &t,
                         reterr);
    if (rc)
        return rc;
    for (uint32_t e = 0; e < s->experts; e++) {
        int64_t count;
        int32_t narrow;

        if (t->dtype == SAFETENSORS_I64)
            memcpy(&count, (const char *)t->data + e * sizeof count, sizeof count);
        else {
            memcpy(&narrow, (const char *)t->data + e * sizeof narrow, sizeof narrow);
            count = narrow;
        }
        if (count < 0)
            return mt_error(reterr, MT_EINVAL, "%s: %s: expert %u: expected a count, found %lld",
                            safetensors_name(f), t->name, e, (long long)count);
        s->sum[(size_t)layer * s->experts + e] += (double)count;
    }
    s->seen[layer] = true;
    return 0;
}

/* rank0, rank1, ...; there must be one. */
static int add_ranks(struct statistics *s, struct mt_err *reterr)
{
    for (uint32_t rank = 0;; rank++) {
        char path[PATH_MAX];
        struct safetensors *f;
        int rc;

        if (snprintf(path, sizeof path, "%s/rank%u.safetensors", s->folder, rank) >=
            (int)sizeof path)
            return mt_error(reterr, MT_EINVAL, "%.64s...: expected a shorter path", s->folder);
        rc = safetensors_open(path, &f, reterr);
        if (rc == MT_ENOTFOUND && rank)
            return 0;
        if (!rc && rank == PLAN_MAX_RANKS) {
            safetensors_close(f);
            return mt_error(reterr, MT_ELIMIT, "%s: expected at most %u ranks", s->folder,
                            PLAN_MAX_RANKS);
        }
        if (rc)
            return rc;
        for (size_t i = 0; !rc && i < safetensors_count(f); i++)
            rc = add_tensor(s, f, safetensors_at(f, i), reterr);
        safetensors_close(f);
        if (rc)
            return rc;
    }
}

/* The layers that were seen, which must follow each other. */
static int take_layers(const struct statistics *s, struct loads *l, uint32_t *ret_first,
                       struct mt_err *reterr)
{
    uint32_t first = 0, end;

    while (first < PLAN_MAX_LAYERS && !s->seen[first])
        first++;
    for (end = first; end < PLAN_MAX_LAYERS && s->seen[end];)
        end++;
    for (uint32_t i = end; i < PLAN_MAX_LAYERS; i++)
        if (s->seen[i])
            return mt_error(reterr, MT_EUNSUPPORTED,
                            "%s: expected MoE layers one after the other, found %u but not %u",
                            s->folder, i, end);
    if (first == end)
        return mt_error(reterr, MT_EINVAL, "%s: expected counts, found none", s->folder);
    *l = (struct loads){.layers = end - first, .experts = s->experts, .topk = s->topk};
    l->load = calloc((size_t)l->layers * l->experts + 1, sizeof *l->load);
    if (!l->load)
        return mt_error(reterr, MT_ENOMEM, "%s: no memory for loads", s->folder);
    for (uint32_t i = 0; i < l->layers; i++) {
        const double *count = s->sum + (size_t)(first + i) * s->experts;
        double sum = 0;

        for (uint32_t e = 0; e < s->experts; e++)
            sum += count[e];
        if (!(sum > 0)) {
            loads_done(l);
            return mt_error(reterr, MT_EINVAL, "%s: layer %u: expected counts, found none",
                            s->folder, first + i);
        }
        for (uint32_t e = 0; e < s->experts; e++)
            l->load[(size_t)i * s->experts + e] = count[e] / sum * s->topk;
    }
    *ret_first = first;
    return 0;
}

int foreign_read_trtllm(const char *folder, struct loads *ret, uint32_t *ret_dense,
                        struct mt_err *reterr)
{
    struct statistics s = {.folder = folder};
    struct loads l = {0};
    uint32_t first = 0;
    int rc = read_meta(&s, reterr);

    if (rc)
        return rc;
    s.sum = calloc((size_t)PLAN_MAX_LAYERS * s.experts + 1, sizeof *s.sum);
    if (!s.sum)
        return mt_error(reterr, MT_ENOMEM, "%s: no memory for %u experts", folder, s.experts);
    rc = add_ranks(&s, reterr);
    if (!rc)
        rc = take_layers(&s, &l, &first, reterr);
    free(s.sum);
    if (rc)
        return rc;
    *ret = l;
    if (ret_dense)
        *ret_dense = first;
    return 0;
}

/* --- the balancer's file ------------------------------------------------------------------------
 */

int foreign_write_trtllm(FILE *out, const struct plan *p, const struct foreign_options *how,
                         struct foreign_report *ret, struct mt_err *reterr)
{
    struct foreign_report report = {0};
    uint16_t *slot = NULL;
    int rc = foreign_slots(p, how, &slot, &report, reterr);

    if (rc)
        return rc;
    fprintf(out, "num_slots: %u\nlayer_updates_per_iter: 0\ninitial_global_assignments:\n",
            report.physical);
    for (uint32_t l = 0; l < p->layers; l++) {
        fprintf(out, "  %u: [", how->dense + l);
        for (uint32_t i = 0; i < report.physical; i++)
            fprintf(out, "%s%u", i ? ", " : "", slot[(size_t)l * report.physical + i]);
        fputs("]\n", out);
    }
    free(slot);
    if (fflush(out) || ferror(out))
        return mt_error(reterr, MT_EIO, "placement: cannot write: %s", strerror(errno));
    if (ret)
        *ret = report;
    return 0;
}

/* A file being read, and what it said so far. */
struct reader {
    const char *at, *end, *name;
    uint32_t line;
    uint32_t first, layers; /* numbers first .. first + layers - 1 */
    uint32_t physical;      /* slots of the first list; 0: none yet */
    uint32_t stated;        /* num_slots; 0: not yet */
    uint16_t *slot;         /* [n], room for space */
    size_t n, space;
};

static int complain(const struct reader *r, const char *expected, struct mt_err *reterr)
{
    return mt_error(reterr, MT_EINVAL, "%s: line %u: expected %s", r->name, r->line, expected);
}

/* The next byte that is not blank, a line's end (if lines) or a comment's; '\0' at the end. */
static char next(struct reader *r, bool lines)
{
    for (; r->at < r->end; r->at++) {
        if (*r->at == '#') {
            while (r->at < r->end && *r->at != '\n')
                r->at++;
            r->at--;
        } else if (*r->at == '\n' && lines)
            r->line++;
        else if (*r->at != ' ' && *r->at != '\t' && *r->at != '\r')
            return *r->at;
    }
    return 0;
}

static int read_number(struct reader *r, uint32_t below, const char *what, uint32_t *ret,
                       struct mt_err *reterr)
{
    uint32_t value = 0;

    if (r->at == r->end || !isdigit((unsigned char)*r->at))
        return complain(r, what, reterr);
    for (; r->at < r->end && isdigit((unsigned char)*r->at); r->at++) {
        value = value * 10 + (uint32_t)(*r->at - '0');
        if (value >= below)
            return complain(r, what, reterr);
    }
    *ret = value;
    return 0;
}

static int add_slot(struct reader *r, uint32_t expert, struct mt_err *reterr)
{
    if (r->n == r->space) {
        size_t space = r->space ? r->space * 2 : 1024; /* less than the file has bytes */
        uint16_t *grown = realloc(r->slot, space * sizeof *grown);

        if (!grown)
            return mt_error(reterr, MT_ENOMEM, "%s: no memory for %zu slots", r->name, space);
        r->slot = grown;
        r->space = space;
    }
    r->slot[r->n++] = (uint16_t)expert;
    return 0;
}

/* "3: [1, 0, 2]", the brackets over any number of lines. */
static int read_layer(struct reader *r, struct mt_err *reterr)
{
    size_t before = r->n;
    uint32_t layer = 0, expert = 0;
    int rc = read_number(r, PLAN_MAX_LAYERS, "a layer's number below 256", &layer, reterr);

    if (rc)
        return rc;
    if (r->layers && layer != r->first + r->layers)
        return complain(r, "layers in order, without a gap", reterr);
    if (!r->layers)
        r->first = layer;
    if (next(r, false) != ':' || (r->at++, next(r, false)) != '[')
        return complain(r, "a layer's list: [expert, ...]", reterr);
    do {
        r->at++;
        next(r, true);
        rc = read_number(r, PLAN_MAX_EXPERTS, "an expert's number below 1024", &expert, reterr);
        if (!rc)
            rc = add_slot(r, expert, reterr);
        if (rc)
            return rc;
    } while (next(r, true) == ',');
    if (r->at == r->end || *r->at != ']')
        return complain(r, "a comma or the end of the list", reterr);
    r->at++;
    if (!r->physical && r->n - before <= (size_t)PLAN_MAX_RANKS * PLAN_MAX_EXPERTS)
        r->physical = (uint32_t)(r->n - before);
    if (r->n - before != r->physical)
        return complain(r, "as many slots in each layer", reterr);
    r->layers++;
    return 0;
}

static bool keyword(struct reader *r, const char *word)
{
    size_t n = strlen(word);

    if ((size_t)(r->end - r->at) <= n || memcmp(r->at, word, n) || r->at[n] != ':')
        return false;
    r->at += n + 1;
    next(r, false);
    return true;
}

static void skip_line(struct reader *r)
{
    while (r->at < r->end && *r->at != '\n')
        r->at++;
}

static int read_lines(struct reader *r, struct mt_err *reterr)
{
    bool inside = false;
    int rc = 0;

    while (!rc && next(r, true)) {
        if (isdigit((unsigned char)*r->at) && inside) {
            rc = read_layer(r, reterr);
        } else if (keyword(r, "initial_global_assignments")) {
            inside = true;
        } else if (keyword(r, "num_slots")) {
            inside = false;
            rc = read_number(r, PLAN_MAX_RANKS * PLAN_MAX_EXPERTS + 1, "a number of slots",
                             &r->stated, reterr);
        } else if (isalpha((unsigned char)*r->at)) {
            inside = false; /* another key, with its value in the line */
            skip_line(r);
        } else
            rc = complain(r, "a key", reterr);
        next(r, false);
        if (!rc && r->at < r->end && *r->at != '\n')
            rc = complain(r, "the end of the line", reterr);
    }
    return rc;
}

int foreign_parse_trtllm_map(const char *bytes, size_t len, const char *name, uint32_t ranks,
                             struct plan *ret, uint32_t *ret_dense, struct mt_err *reterr)
{
    struct reader r = {.at = bytes, .end = bytes + len, .name = name, .line = 1};
    int rc;

    if (len > LOADS_MAX_FILE)
        return mt_error(reterr, MT_ELIMIT, "%s: expected at most %u bytes, found %zu", name,
                        LOADS_MAX_FILE, len);
    rc = read_lines(&r, reterr);
    if (!rc && !r.layers)
        rc = mt_error(reterr, MT_EINVAL,
                      "%s: initial_global_assignments: expected lists, found none", name);
    if (!rc && r.stated != r.physical)
        rc = mt_error(reterr, MT_EINVAL, "%s: num_slots: expected %u, as in the lists, found %u",
                      name, r.physical, r.stated);
    if (!rc)
        rc = foreign_plan(r.layers, r.physical, ranks, r.slot, name, ret, reterr);
    free(r.slot);
    if (!rc && ret_dense)
        *ret_dense = r.first;
    return rc;
}
