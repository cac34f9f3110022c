#include "placement/eplb.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "placement/baseline.h"
#include "placement/methods.h"

struct item {
    float weight;
    uint32_t id;
};

/* One layer at work; arrays for the most items that any step has. */
struct balance {
    const struct cluster *cluster;
    uint32_t experts, groups, nodes; /* global: 1 group, 1 node */
    uint32_t slots;                  /* of all ranks */
    float *pack_load;                /* [ranks or nodes] */
    uint32_t *pack_items, *room;     /* as above */
    struct item *order;              /* [max(slots, experts)] */
    uint32_t *pack, *place;          /* as order: where each item went, and as which */
    float *weight;                   /* as order */
    uint32_t *regrouped;             /* [experts] expert at each place, node by node */
    uint32_t *copy;                  /* [slots] place of the expert of each copy of a node */
    uint32_t *copies;                /* [experts] */
};

static int heavier_first(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* b->weight[n] into packs of room for b->room[]: fills pack and place. */
static void pack_items(struct balance *b, uint32_t n, uint32_t packs)
{
    bool ones = n == packs;

    for (uint32_t k = 0; k < packs; k++) {
        ones = ones && b->room[k] == 1;
        b->pack_load[k] = 0;
        b->pack_items[k] = 0;
    }
    for (uint32_t i = 0; i < n; i++)
        b->order[i] = (struct item){b->weight[i], i};
    if (!ones) /* one item a pack stays in order, as published */
        qsort(b->order, n, sizeof *b->order, heavier_first);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = b->order[i].id, best = ones ? i : UINT32_MAX;

        for (uint32_t k = 0; k < packs && !ones; k++)
            if (b->pack_items[k] < b->room[k] &&
                (best == UINT32_MAX || b->pack_load[k] < b->pack_load[best]))
                best = k;
        b->pack[id] = best;
        b->place[id] = b->pack_items[best]++;
        b->pack_load[best] += b->order[i].weight;
    }
}

/* Groups to nodes: b->regrouped. */
static void pack_groups(struct balance *b, const float *weight)
{
    uint32_t size = b->experts / b->groups, per_node = b->groups / b->nodes;

    for (uint32_t g = 0; g < b->groups; g++) {
        b->weight[g] = 0;
        for (uint32_t i = 0; i < size; i++)
            b->weight[g] += weight[g * size + i];
    }
    for (uint32_t k = 0; k < b->nodes; k++)
        b->room[k] = per_node;
    pack_items(b, b->groups, b->nodes);
    for (uint32_t g = 0; g < b->groups; g++)
        for (uint32_t i = 0; i < size; i++)
            b->regrouped[(b->pack[g] * per_node + b->place[g]) * size + i] = g * size + i;
}

/* Fills b->copy[n] with places of the node's experts, expert[count]. */
static void replicate(struct balance *b, const float *weight, const uint32_t *expert,
                      uint32_t count, uint32_t n)
{
    for (uint32_t i = 0; i < count; i++) {
        b->copy[i] = i;
        b->copies[i] = 1;
    }
    for (uint32_t i = count; i < n; i++) {
        uint32_t most = 0;
        float load = weight[expert[0]] / (float)b->copies[0];

        for (uint32_t e = 1; e < count; e++) {
            float other = weight[expert[e]] / (float)b->copies[e];

            if (other > load) {
                load = other;
                most = e;
            }
        }
        b->copy[i] = most;
        b->copies[most]++;
    }
}

/* Replicates within the ranks first .. end - 1 and packs: ret points at their first slot. */
static void fill_ranks(struct balance *b, const float *weight, const uint32_t *expert,
                       uint32_t count, uint32_t first, uint32_t end, uint16_t *ret)
{
    uint32_t n = 0, base[PLAN_MAX_RANKS];

    for (uint32_t r = first; r < end; r++) {
        base[r - first] = n;
        b->room[r - first] = b->cluster->slots[r];
        n += b->cluster->slots[r];
    }
    replicate(b, weight, expert, count, n);
    for (uint32_t i = 0; i < n; i++)
        b->weight[i] = weight[expert[b->copy[i]]] / (float)b->copies[b->copy[i]];
    pack_items(b, n, end - first);
    for (uint32_t i = 0; i < n; i++)
        ret[base[b->pack[i]] + b->place[i]] = (uint16_t)expert[b->copy[i]];
}

static void balance_layer(struct balance *b, const float *weight, uint16_t *ret)
{
    const struct cluster *c = b->cluster;
    uint32_t count = b->experts / b->nodes;

    pack_groups(b, weight);
    for (uint32_t k = 0, first = 0; k < b->nodes; k++) {
        uint32_t end = first, slots = 0;

        for (; end < c->ranks && (b->nodes == 1 || c->node[end] == k); end++)
            slots += c->slots[end];
        fill_ranks(b, weight, b->regrouped + (size_t)k * count, count, first, end, ret);
        ret += slots;
        first = end;
    }
}

static void balance_done(struct balance *b)
{
    free(b->pack_load);
    free(b->pack_items);
    free(b->room);
    free(b->order);
    free(b->pack);
    free(b->place);
    free(b->weight);
    free(b->regrouped);
    free(b->copy);
    free(b->copies);
}

static int balance_init(struct balance *b, struct mt_err *reterr)
{
    size_t items = (b->slots > b->experts ? b->slots : b->experts) + 1u;
    size_t packs = (size_t)b->cluster->ranks + b->nodes;

    b->pack_load = calloc(packs, sizeof *b->pack_load);
    b->pack_items = calloc(packs, sizeof *b->pack_items);
    b->room = calloc(packs, sizeof *b->room);
    b->order = calloc(items, sizeof *b->order);
    b->pack = calloc(items, sizeof *b->pack);
    b->place = calloc(items, sizeof *b->place);
    b->weight = calloc(items, sizeof *b->weight);
    b->regrouped = calloc(items, sizeof *b->regrouped);
    b->copy = calloc(items, sizeof *b->copy);
    b->copies = calloc(items, sizeof *b->copies);
    if (b->pack_load && b->pack_items && b->room && b->order && b->pack && b->place && b->weight &&
        b->regrouped && b->copy && b->copies)
        return 0;
    balance_done(b);
    return mt_error(reterr, MT_ENOMEM, "eplb: no memory for %zu slots", items);
}

/* Slots of the node, or of all ranks if nodes is 1; at most PLAN_MAX_RANKS * PLAN_MAX_EXPERTS. */
static uint64_t node_slots(const struct cluster *c, uint32_t nodes, uint32_t node)
{
    uint64_t n = 0;

    for (uint32_t r = 0; r < c->ranks; r++)
        if (nodes == 1 || c->node[r] == node)
            n += c->slots[r];
    return n;
}

int eplb_rebalance(const struct cluster *c, uint32_t layers, uint32_t experts, const float *weight,
                   uint32_t groups, uint16_t *ret, struct mt_err *reterr)
{
    uint32_t nodes = groups ? c->nodes : 1;
    struct balance b = {.cluster = c, .experts = experts, .groups = groups ? groups : 1};
    int rc;

    if (groups && (experts % groups || groups % nodes))
        return mt_error(reterr, MT_EINVAL,
                        "eplb: groups: expected a divisor of %u experts and a multiple of %u nodes,"
                        " found %u",
                        experts, nodes, groups);
    for (uint32_t k = 0; k < nodes; k++) {
        uint64_t n = node_slots(c, nodes, k);

        if (n < experts / nodes || n > PLAN_MAX_RANKS * PLAN_MAX_EXPERTS)
            return mt_error(reterr, MT_EINVAL,
                            "eplb: node %u: expected slots for %u experts, found %llu", k,
                            experts / nodes, (unsigned long long)n);
        b.slots += (uint32_t)n;
    }
    b.nodes = nodes;
    rc = balance_init(&b, reterr);
    if (rc)
        return rc;
    for (uint32_t l = 0; l < layers; l++)
        balance_layer(&b, weight + (size_t)l * experts, ret + (size_t)l * b.slots);
    balance_done(&b);
    return 0;
}

/* --- as a method -------------------------------------------------------------------------------
 */

/* slot[layers][slots] as a plan. A rank that got several copies of an expert keeps one, with the
 * share of all of them: *ret_twice counts the slots that stay empty. */
static int plan_of_slots(const struct place_problem *p, const uint16_t *slot, uint32_t slots,
                         struct plan *ret, uint64_t *ret_twice, struct mt_err *reterr)
{
    const struct cluster *c = &p->cluster;
    size_t pairs = (size_t)p->layers * p->experts;
    uint16_t *count = calloc(pairs * c->ranks, sizeof *count);
    uint8_t *held = calloc(pairs * c->ranks, 1);
    uint64_t twice = 0;
    struct plan plan = {0};
    int rc = count && held ? 0 : mt_error(reterr, MT_ENOMEM, "eplb: no memory for a placement");

    for (uint32_t l = 0; !rc && l < p->layers; l++)
        for (uint32_t r = 0, i = 0; r < c->ranks; r++)
            for (uint32_t k = 0; k < c->slots[r]; k++, i++) {
                size_t pair = (size_t)l * p->experts + slot[(size_t)l * slots + i];

                twice += held[pair * c->ranks + r];
                held[pair * c->ranks + r] = 1;
                count[pair * c->ranks + r]++;
            }
    if (!rc)
        rc = plan_from_held(p->layers, p->experts, c->ranks, held, &plan, reterr);
    if (!rc && twice) {
        plan.share = calloc(plan.start[pairs], sizeof *plan.share);
        if (!plan.share)
            rc = mt_error(reterr, MT_ENOMEM, "eplb: no memory for shares");
    }
    for (size_t i = 0; !rc && twice && i < pairs; i++) {
        uint32_t all = 0;

        for (uint32_t r = 0; r < c->ranks; r++)
            all += count[i * c->ranks + r];
        for (uint32_t k = plan.start[i]; k < plan.start[i + 1]; k++)
            plan.share[k] = (float)count[i * c->ranks + plan.rank[k]] / (float)all;
    }
    free(count);
    free(held);
    if (rc) {
        plan_done(&plan);
        return rc;
    }
    *ret = plan;
    *ret_twice = twice;
    return 0;
}

/* The problem knows no groups of experts. Each expert is then its own group: the policy at its
 * freest. 0: there is no such policy here. */
static uint32_t choose_groups(const struct place_problem *p, const char **ret_why)
{
    const struct cluster *c = &p->cluster;

    if (c->nodes == 1) {
        *ret_why = "one node: the global policy";
        return 0;
    }
    if (p->experts % c->nodes) {
        *ret_why = "experts are no multiple of nodes: the global policy";
        return 0;
    }
    for (uint32_t k = 0; k < c->nodes; k++)
        if (node_slots(c, c->nodes, k) < p->experts / c->nodes) {
            *ret_why = "a node has too few slots for its part: the global policy";
            return 0;
        }
    *ret_why = "hierarchical, each expert a group";
    return p->experts;
}

static int solve(const struct place_problem *p, uint32_t groups, const char *method,
                 const char *why, struct place_result *ret, struct mt_err *reterr)
{
    const struct cluster *c = &p->cluster;
    size_t pairs = (size_t)p->layers * p->experts;
    uint64_t slots = cluster_slots(c), twice = 0;
    bool uneven = false;
    double *load = NULL;
    float *weight = calloc(pairs, sizeof *weight);
    uint16_t *slot = calloc(p->layers * slots + 1, sizeof *slot);
    struct plan plan = {0};
    char note[256];
    int rc = weight && slot ? 0 : mt_error(reterr, MT_ENOMEM, "eplb: no memory for the slots");

    if (!rc)
        rc = baseline_loads(p, &load, reterr);
    for (size_t i = 0; !rc && i < pairs; i++)
        weight[i] = (float)load[i];
    if (!rc)
        rc = eplb_rebalance(c, p->layers, p->experts, weight, groups, slot, reterr);
    if (!rc)
        rc = plan_of_slots(p, slot, (uint32_t)slots, &plan, &twice, reterr);
    free(load);
    free(weight);
    free(slot);
    if (rc)
        return rc;
    for (uint32_t r = 1; r < c->ranks; r++)
        uneven = uneven || c->slots[r] != c->slots[0];
    if (twice)
        snprintf(note, sizeof note,
                 "%s; %llu slots empty, where it puts an expert twice on a rank%s", why,
                 (unsigned long long)twice, uneven ? "; slots differ between ranks" : "");
    else
        snprintf(note, sizeof note, "%s%s", why, uneven ? "; slots differ between ranks" : "");
    return baseline_result(p, &plan, method, note, ret, reterr);
}

int eplb_solve(const struct place_problem *p, const struct place_run *run, struct place_result *ret,
               struct mt_err *reterr)
{
    const char *why;
    uint32_t groups = choose_groups(p, &why);

    (void)run;
    return solve(p, groups, "eplb", why, ret, reterr);
}

int eplb_global_solve(const struct place_problem *p, const struct place_run *run,
                      struct place_result *ret, struct mt_err *reterr)
{
    (void)run;
    return solve(p, 0, "eplb-global", "global policy", ret, reterr);
}
