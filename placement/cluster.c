#include "placement/cluster.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/file.h"
#include "placement/field.h"
#include "placement/preset.h"

/* What a file or preset says, before the sizes of a model fill in the rest. */
struct draft {
    struct cluster c; /* costs that are not given are NAN */
    struct preset_rates rates;
    bool slots; /* given */
};

enum kind { SECONDS, BYTES, RATE };

/* Numbers of the file's head, and of a cluster. */
static const struct number {
    const char *key;
    size_t offset; /* in struct draft */
    enum kind kind;
    bool cost; /* in the end a number, from the file or from the model */
    double least;
} NUMBERS[] = {
    {"token_expert_seconds", offsetof(struct draft, c.token_expert), SECONDS, true, 1e-18},
    {"active_expert_seconds", offsetof(struct draft, c.active_expert), SECONDS, true, 0},
    {"dense_step_seconds", offsetof(struct draft, c.dense_step), SECONDS, true, 0},
    {"dense_token_seconds", offsetof(struct draft, c.dense_token), SECONDS, true, 0},
    {"dispatch_bytes", offsetof(struct draft, c.dispatch_bytes), BYTES, true, 0},
    {"combine_bytes", offsetof(struct draft, c.combine_bytes), BYTES, true, 0},
    {"kv_bytes", offsetof(struct draft, c.kv_bytes), BYTES, true, 0},
    {"expert_bytes", offsetof(struct draft, c.expert_bytes), BYTES, true, 0},
    {"flops", offsetof(struct draft, rates.flops), RATE, false, 1},
    {"memory_bandwidth", offsetof(struct draft, rates.memory_bandwidth), RATE, false, 1},
};
#define NUMBER_COUNT (sizeof NUMBERS / sizeof *NUMBERS)

static const char *const OTHER_KEYS[] = {
    "name",          "nodes",     "ranks_per_node", "node_of_rank",    "two_level",
    "exact_combine", "rank_link", "node_link",      "migration_share", "slots",
};

static double most(enum kind kind)
{
    return kind == SECONDS ? 1e3 : kind == BYTES ? 1e15 : 1e21;
}

static double *number_at(struct draft *d, const struct number *n)
{
    return (double *)(void *)((char *)d + n->offset);
}

/* A finite number within least .. greatest. */
static int check_range(const char *name, const char *field, double value, double least,
                       double greatest, struct mt_err *reterr)
{
    if (value >= least && value <= greatest)
        return 0;
    return mt_error(reterr, MT_EINVAL, "%s: %s: expected %g to %g, found %g", name, field, least,
                    greatest, value);
}

static int check_link(const char *name, const char *field, const struct link *l,
                      struct mt_err *reterr)
{
    char where[48];
    int rc;

    snprintf(where, sizeof where, "%s: bandwidth", field);
    rc = check_range(name, where, l->bandwidth, 1, most(RATE), reterr);
    snprintf(where, sizeof where, "%s: latency", field);
    return rc ? rc : check_range(name, where, l->latency, 0, most(SECONDS), reterr);
}

/* Nodes are 0 .. nodes - 1, ascending over the ranks. */
static int check_nodes(const struct cluster *c, const char *name, struct mt_err *reterr)
{
    if (c->ranks < 1 || c->ranks > PLAN_MAX_RANKS)
        return mt_error(reterr, MT_EINVAL, "%s: ranks: expected 1 to %u, found %u", name,
                        PLAN_MAX_RANKS, c->ranks);
    for (uint32_t r = 0; r < c->ranks; r++) {
        uint32_t last = r ? c->node[r - 1] : 0;

        if (c->node[r] != last && (!r || c->node[r] != last + 1))
            return mt_error(reterr, MT_EINVAL, "%s: node_of_rank: rank %u: expected %u%s, found %u",
                            name, r, last, r ? " or the next" : "", c->node[r]);
    }
    if (c->nodes != c->node[c->ranks - 1] + 1u)
        return mt_error(reterr, MT_EINVAL, "%s: nodes: expected %u, as the ranks have, found %u",
                        name, c->node[c->ranks - 1] + 1u, c->nodes);
    return 0;
}

uint64_t cluster_slots(const struct cluster *c)
{
    uint64_t slots = 0;

    for (uint32_t r = 0; r < c->ranks; r++)
        slots += c->slots[r];
    return slots;
}

int cluster_check(const struct cluster *c, struct mt_err *reterr)
{
    struct draft d = {.c = *c};
    const char *name = "cluster";
    int rc = check_nodes(c, name, reterr);

    for (size_t i = 0; !rc && i < NUMBER_COUNT; i++)
        if (NUMBERS[i].cost)
            rc = check_range(name, NUMBERS[i].key, *number_at(&d, &NUMBERS[i]), NUMBERS[i].least,
                             most(NUMBERS[i].kind), reterr);
    if (!rc)
        rc = check_link(name, "rank_link", &c->rank_link, reterr);
    if (!rc)
        rc = check_link(name, "node_link", &c->node_link, reterr);
    if (!rc)
        rc = check_range(name, "migration_share", c->migration_share, 1e-9, 1, reterr);
    for (uint32_t r = 0; !rc && r < c->ranks; r++)
        if (c->slots[r] > PLAN_MAX_EXPERTS)
            rc = mt_error(reterr, MT_EINVAL, "%s: slots: rank %u: expected at most %u, found %u",
                          name, r, PLAN_MAX_EXPERTS, c->slots[r]);
    if (!rc && !memchr(c->name, 0, sizeof c->name))
        rc = mt_error(reterr, MT_EINVAL, "%s: name: expected at most %d bytes", name,
                      CLUSTER_NAME - 1);
    return rc;
}

/* --- the model's sizes ---------------------------------------------------------------------- */

static void fill(double *at, double value)
{
    if (isnan(*at))
        *at = value; /* NAN if it depends on a rate that is not given */
}

static void fill_costs(struct draft *d, const struct model_dims *m)
{
    double weights = 3. * m->hidden * m->intermediate;

    fill(&d->c.expert_bytes, weights * m->weight_bytes);
    fill(&d->c.token_expert, 2 * weights / d->rates.flops);
    fill(&d->c.active_expert, weights * m->weight_bytes / d->rates.memory_bandwidth);
    fill(&d->c.dense_step, m->dense_bytes / d->rates.memory_bandwidth);
    fill(&d->c.dense_token, m->dense_flops / d->rates.flops);
    fill(&d->c.dispatch_bytes, m->hidden * m->activation_bytes + 8. * m->topk);
    fill(&d->c.combine_bytes, m->hidden * m->activation_bytes);
    fill(&d->c.kv_bytes, m->kv_bytes);
}

/* Names all that is missing, so that one look is enough. */
static int check_costs(struct draft *d, const char *name, bool model, struct mt_err *reterr)
{
    char missing[256] = "";
    size_t len = 0;

    for (size_t i = 0; i < NUMBER_COUNT; i++)
        if (NUMBERS[i].cost && isnan(*number_at(d, &NUMBERS[i])))
            len += (size_t)snprintf(missing + len, sizeof missing - len, "%s%s", len ? ", " : "",
                                    NUMBERS[i].key);
    if (!len)
        return 0;
    return mt_error(reterr, MT_EINVAL, "%s: expected %s in a cluster file%s", name, missing,
                    model ? ", or flops and memory_bandwidth, which give them"
                          : ": the sizes of this model are not known, so that rates do not give "
                            "them");
}

static int set_slots(struct draft *d, const char *name, uint32_t experts, uint32_t spare,
                     struct mt_err *reterr)
{
    struct cluster *c = &d->c;

    if (experts < 1 || experts > PLAN_MAX_EXPERTS)
        return mt_error(reterr, MT_EINVAL, "%s: experts: expected 1 to %u, found %u", name,
                        PLAN_MAX_EXPERTS, experts);
    if (spare > PLAN_MAX_EXPERTS)
        return mt_error(reterr, MT_EINVAL, "%s: spare slots: expected at most %u, found %u", name,
                        PLAN_MAX_EXPERTS, spare);
    if (spare && d->slots)
        return mt_error(reterr, MT_EINVAL,
                        "%s: slots: expected none beside %u spare ones, found some: give one of "
                        "the two",
                        name, spare);
    for (uint32_t r = 0; r < c->ranks; r++) {
        if (!d->slots)
            c->slots[r] = (experts + c->ranks - 1) / c->ranks + spare;
        if (c->slots[r] > experts)
            c->slots[r] = experts;
    }
    return 0;
}

static int finish(struct draft *d, const char *name, const struct model_dims *dims,
                  uint32_t experts, uint32_t spare, struct cluster *ret, struct mt_err *reterr)
{
    int rc;

    if (dims)
        fill_costs(d, dims);
    rc = check_costs(d, name, dims != NULL, reterr);
    if (!rc)
        rc = set_slots(d, name, experts, spare, reterr);
    if (rc)
        return rc;
    rc = cluster_check(&d->c, reterr);
    if (rc)
        mt_error_prefix(reterr, "%s", name);
    else
        *ret = d->c;
    return rc;
}

static void draft_costs(struct draft *d)
{
    for (size_t i = 0; i < NUMBER_COUNT; i++)
        if (NUMBERS[i].cost)
            *number_at(d, &NUMBERS[i]) = NAN;
}

/* --- the file ----------------------------------------------------------------------------------
 */

static int check_keys(const json_t *root, const char *name, struct mt_err *reterr)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)root, key, v) {
        bool known = false;

        for (size_t i = 0; i < NUMBER_COUNT; i++)
            known = known || !strcmp(key, NUMBERS[i].key);
        for (size_t i = 0; i < sizeof OTHER_KEYS / sizeof *OTHER_KEYS; i++)
            known = known || !strcmp(key, OTHER_KEYS[i]);
        if (!known)
            return mt_error(reterr, MT_EINVAL,
                            "%s: %.80s: expected a field of a cluster (nodes, ranks_per_node, "
                            "rank_link, flops, ...), found this",
                            name, key);
    }
    return 0;
}

/* A number, if it is there. */
static int read_number(const json_t *root, const char *name, const char *where, const char *key,
                       double least, double greatest, double *ret, struct mt_err *reterr)
{
    const json_t *v = json_object_get(root, key);
    char field[96];
    int rc;

    if (!v)
        return 0;
    snprintf(field, sizeof field, "%s%s", where, key);
    if (!json_is_number(v))
        return mt_error(reterr, MT_EINVAL, "%s: %s: expected a number, found %s", name, field,
                        field_found(v));
    rc = check_range(name, field, json_number_value(v), least, greatest, reterr);
    if (!rc)
        *ret = json_number_value(v);
    return rc;
}

static int read_bool(const json_t *root, const char *name, const char *key, bool *ret,
                     struct mt_err *reterr)
{
    const json_t *v = json_object_get(root, key);

    if (v && !json_is_boolean(v))
        return mt_error(reterr, MT_EINVAL, "%s: %s: expected true or false, found %s", name, key,
                        field_found(v));
    *ret = json_is_true(v);
    return 0;
}

/* A link that no traffic can use may be missing: it gets the numbers of the other. */
static int read_link(const json_t *root, const char *name, const char *key, struct link *ret,
                     struct mt_err *reterr)
{
    const json_t *v = json_object_get(root, key), *part;
    struct link l = {NAN, NAN};
    const char *inner;
    char where[32];
    int rc;

    *ret = l;
    if (!v)
        return 0;
    if (!json_is_object(v))
        return mt_error(reterr, MT_EINVAL, "%s: %s: expected an object, found %s", name, key,
                        field_found(v));
    json_object_foreach((json_t *)v, inner, part)
        if (strcmp(inner, "bandwidth") != 0 && strcmp(inner, "latency") != 0)
            return mt_error(reterr, MT_EINVAL,
                            "%s: %s: %.80s: expected bandwidth and latency only, found this", name,
                            key, inner);
    snprintf(where, sizeof where, "%s: ", key);
    rc = read_number(v, name, where, "bandwidth", 1, most(RATE), &l.bandwidth, reterr);
    if (!rc)
        rc = read_number(v, name, where, "latency", 0, most(SECONDS), &l.latency, reterr);
    if (rc)
        return rc;
    if (isnan(l.bandwidth) || isnan(l.latency))
        return mt_error(reterr, MT_EINVAL, "%s: %s: expected bandwidth and latency, found no %s",
                        name, key, isnan(l.bandwidth) ? "bandwidth" : "latency");
    *ret = l;
    return 0;
}

static int read_links(const json_t *root, const char *name, struct cluster *c,
                      struct mt_err *reterr)
{
    int rc = read_link(root, name, "rank_link", &c->rank_link, reterr);

    if (!rc)
        rc = read_link(root, name, "node_link", &c->node_link, reterr);
    if (rc)
        return rc;
    if (isnan(c->rank_link.bandwidth) && (c->ranks > c->nodes || c->nodes == 1))
        return mt_error(reterr, MT_EINVAL, "%s: rank_link: expected an object, found nothing",
                        name);
    if (isnan(c->node_link.bandwidth) && c->nodes > 1)
        return mt_error(reterr, MT_EINVAL,
                        "%s: node_link: expected an object for %u nodes, found nothing", name,
                        c->nodes);
    if (isnan(c->rank_link.bandwidth))
        c->rank_link = c->node_link;
    if (isnan(c->node_link.bandwidth))
        c->node_link = c->rank_link;
    return 0;
}

/* Integers of a list, each at most `most_each`; `field` for messages. */
static int read_list(const json_t *list, const char *name, const char *field, uint32_t most_each,
                     uint32_t *ret, struct mt_err *reterr)
{
    const json_t *v;
    size_t i;

    json_array_foreach(list, i, v) {
        if (!json_is_integer(v))
            return mt_error(reterr, MT_EINVAL, "%s: %s: rank %zu: expected an integer, found %s",
                            name, field, i, field_found(v));
        if (json_integer_value(v) < 0 || json_integer_value(v) > most_each)
            return mt_error(reterr, MT_EINVAL,
                            "%s: %s: rank %zu: expected 0 to %u, found %" JSON_INTEGER_FORMAT, name,
                            field, i, most_each, json_integer_value(v));
        ret[i] = (uint32_t)json_integer_value(v);
    }
    return 0;
}

static int read_node_of_rank(const json_t *root, const char *name, struct cluster *c,
                             struct mt_err *reterr)
{
    const json_t *list = json_object_get(root, "node_of_rank");
    uint32_t node[PLAN_MAX_RANKS];
    int rc;

    if (!json_is_array(list))
        return mt_error(reterr, MT_EINVAL, "%s: node_of_rank: expected an array, found %s", name,
                        field_found(list));
    if (!json_array_size(list) || json_array_size(list) > PLAN_MAX_RANKS)
        return mt_error(reterr, MT_EINVAL, "%s: node_of_rank: expected 1 to %u ranks, found %zu",
                        name, PLAN_MAX_RANKS, json_array_size(list));
    rc = read_list(list, name, "node_of_rank", PLAN_MAX_RANKS - 1, node, reterr);
    if (rc)
        return rc;
    c->ranks = (uint32_t)json_array_size(list);
    for (uint32_t r = 0; r < c->ranks; r++)
        c->node[r] = (uint16_t)node[r];
    if (!json_object_get(root, "nodes"))
        c->nodes = c->node[c->ranks - 1] + 1u;
    return check_nodes(c, name, reterr);
}

static int read_nodes(const json_t *root, const char *name, struct cluster *c,
                      struct mt_err *reterr)
{
    bool list = json_object_get(root, "node_of_rank"),
         even = json_object_get(root, "ranks_per_node");
    uint32_t per_node;
    int rc = 0;

    if (list == even)
        return mt_error(reterr, MT_EINVAL,
                        "%s: expected one of ranks_per_node and node_of_rank, found %s", name,
                        list ? "both" : "neither");
    c->nodes = 1;
    if (json_object_get(root, "nodes"))
        rc = field_count(root, name, "nodes", PLAN_MAX_RANKS, &c->nodes, reterr);
    if (rc)
        return rc;
    if (list)
        return read_node_of_rank(root, name, c, reterr);
    rc = field_count(root, name, "ranks_per_node", PLAN_MAX_RANKS / c->nodes, &per_node, reterr);
    if (rc)
        return rc;
    c->ranks = c->nodes * per_node;
    for (uint32_t r = 0; r < c->ranks; r++)
        c->node[r] = (uint16_t)(r / per_node);
    return 0;
}

static int read_slots(const json_t *root, const char *name, struct draft *d, struct mt_err *reterr)
{
    const json_t *v = json_object_get(root, "slots");
    uint32_t n;
    int rc;

    if (!v)
        return 0;
    d->slots = true;
    if (json_is_array(v) && json_array_size(v) != d->c.ranks)
        return mt_error(reterr, MT_EINVAL, "%s: slots: expected %u, one for each rank, found %zu",
                        name, d->c.ranks, json_array_size(v));
    if (json_is_array(v))
        return read_list(v, name, "slots", PLAN_MAX_EXPERTS, d->c.slots, reterr);
    if (!json_is_integer(v))
        return mt_error(reterr, MT_EINVAL, "%s: slots: expected an integer or an array, found %s",
                        name, field_found(v));
    rc = field_count(root, name, "slots", PLAN_MAX_EXPERTS, &n, reterr);
    for (uint32_t r = 0; !rc && r < d->c.ranks; r++)
        d->c.slots[r] = n;
    return rc;
}

static int read_name(const json_t *root, const char *path, struct cluster *c, struct mt_err *reterr)
{
    const json_t *v = json_object_get(root, "name");
    const char *slash = strrchr(path, '/');

    if (v && !json_is_string(v))
        return mt_error(reterr, MT_EINVAL, "%s: name: expected a string, found %s", path,
                        field_found(v));
    if (v && json_string_length(v) >= CLUSTER_NAME)
        return mt_error(reterr, MT_EINVAL, "%s: name: expected at most %d bytes, found %zu", path,
                        CLUSTER_NAME - 1, json_string_length(v));
    snprintf(c->name, sizeof c->name, "%s", v ? json_string_value(v) : slash ? slash + 1 : path);
    return 0;
}

static int read_draft(const json_t *root, const char *name, struct draft *d, struct mt_err *reterr)
{
    struct cluster *c = &d->c;
    int rc = check_keys(root, name, reterr);

    draft_costs(d);
    d->rates = (struct preset_rates){NAN, NAN};
    c->migration_share = CLUSTER_MIGRATION_SHARE;
    if (!rc)
        rc = read_name(root, name, c, reterr);
    if (!rc)
        rc = read_nodes(root, name, c, reterr);
    if (!rc)
        rc = read_links(root, name, c, reterr);
    if (!rc)
        rc = read_bool(root, name, "two_level", &c->two_level, reterr);
    if (!rc)
        rc = read_bool(root, name, "exact_combine", &c->exact_combine, reterr);
    if (!rc)
        rc = read_number(root, name, "", "migration_share", 1e-9, 1, &c->migration_share, reterr);
    for (size_t i = 0; !rc && i < NUMBER_COUNT; i++)
        rc = read_number(root, name, "", NUMBERS[i].key, NUMBERS[i].least, most(NUMBERS[i].kind),
                         number_at(d, &NUMBERS[i]), reterr);
    return rc ? rc : read_slots(root, name, d, reterr);
}

int cluster_parse(const char *bytes, size_t len, const char *name, const struct model_dims *dims,
                  uint32_t experts, uint32_t spare, struct cluster *ret, struct mt_err *reterr)
{
    struct draft d = {0};
    json_t *root;
    int rc = field_load(bytes, len, CLUSTER_MAX_FILE, name, &root, reterr);

    if (rc)
        return rc;
    rc = read_draft(root, name, &d, reterr);
    json_decref(root);
    return rc ? rc : finish(&d, name, dims, experts, spare, ret, reterr);
}

static int read_path(const char *path, const struct model_dims *dims, uint32_t experts,
                     uint32_t spare, struct cluster *ret, struct mt_err *reterr)
{
    size_t len;
    char *bytes;
    int rc = file_read(path, CLUSTER_MAX_FILE, &bytes, &len, reterr);

    if (rc)
        return rc;
    rc = cluster_parse(bytes, len, path, dims, experts, spare, ret, reterr);
    free(bytes);
    return rc;
}

int cluster_read(const char *spec, const struct model_dims *dims, uint32_t experts, uint32_t spare,
                 struct cluster *ret, struct mt_err *reterr)
{
    struct draft d = {0};
    struct mt_err unknown = {0};
    size_t len = strlen(spec);
    int rc;

    if (strchr(spec, '/') || (len > 5 && !strcmp(spec + len - 5, ".json")))
        return read_path(spec, dims, experts, spare, ret, reterr);
    rc = preset_read(spec, &d.c, &d.rates, &unknown);
    if (rc == MT_ENOTFOUND) {
        rc = read_path(spec, dims, experts, spare, ret, reterr);
        if (rc != MT_ENOTFOUND)
            return rc;
    }
    if (rc)
        return mt_error(reterr, rc, "%s", unknown.text);
    draft_costs(&d);
    snprintf(d.c.name, sizeof d.c.name, "%s", spec);
    return finish(&d, spec, dims, experts, spare, ret, reterr);
}
