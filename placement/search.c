#include "placement/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/anneal.h"
#include "placement/bag.h"
#include "placement/layer.h"
#include "placement/replica.h"

#define MAX_TOKENS (1u << 16)          /* of the bag */
#define MAX_TOKENS_REPLICAS (1u << 14) /* replicas are served anew with every move */
#define FILL_TRIES 24
#define REPLICA_SHARE 20      /* exchanges that one move of replicas is worth */
#define REPLICA_SHARE_LOADS 2 /* the same where there are no tokens to serve anew */
#define FRESH 4               /* every so many rounds copies start from single ones */
#define COOL 100.0

struct search {
    const struct place_problem *p;
    struct bag bag, bag_homes; /* the second for replicas, where copies depend on homes */
    struct sample_set *set;
    struct layer *layer, *layer_homes;
    struct replica *replica; /* NULL: every slot holds a different expert */
    struct random random;
    uint32_t rounds;
    uint16_t *item, *single; /* [layers][slots] best with copies; best with one each */
    double *price, *price_single;
    uint16_t *past;  /* [layers][SEARCH_PAST][experts] ranks */
    uint32_t *pasts; /* [layers] how many there were */
};

static bool has_spare(const struct place_problem *p)
{
    return cluster_slots(&p->cluster) > p->experts && p->cluster.ranks > 1;
}

/* A layer of a plan as items: in slots of their ranks, one copy of each or all. */
static void items_of(const struct layer *l, const struct plan *plan, uint32_t layer, bool all,
                     uint16_t *items)
{
    uint32_t next[PLAN_MAX_RANKS];

    memcpy(next, l->first, sizeof next);
    for (uint32_t s = 0; s < l->slots; s++)
        items[s] = (uint16_t)l->experts;
    for (uint32_t e = 0; e < l->experts; e++) {
        size_t pair = (size_t)layer * l->experts + e;

        for (uint32_t i = plan->start[pair]; i < plan->start[pair + 1]; i++) {
            items[next[plan->rank[i]]++] = (uint16_t)e;
            if (!all)
                break;
        }
    }
}

static uint16_t *row(const struct search *s, uint16_t *of, uint32_t layer)
{
    return of + (size_t)layer * s->layer->slots;
}

static void price_start(struct search *s, const struct plan *start)
{
    for (uint32_t i = 0; i < s->p->layers; i++) {
        layer_load(s->layer, i);
        items_of(s->layer, start, i, false, row(s, s->single, i));
        layer_set(s->layer, row(s, s->single, i));
        s->price_single[i] = s->price[i] = s->layer->price;
        items_of(s->layer, start, i, s->replica != NULL, row(s, s->item, i));
        if (!s->replica)
            continue;
        layer_load(s->layer_homes, i);
        replica_set(s->replica, row(s, s->item, i));
        s->price[i] = replica_price(s->replica);
    }
}

static int open_replicas(struct search *s, const uint16_t *const *homes, uint64_t seed,
                         struct mt_err *reterr)
{
    int rc = bag_new(s->p, homes, BAG_ASSIGNED, MAX_TOKENS_REPLICAS, seed, &s->bag_homes, reterr);

    if (!rc)
        rc = layer_new(&s->bag_homes, s->set, &s->layer_homes, reterr);
    if (!rc)
        rc = replica_new(s->layer_homes, &s->replica, reterr);
    return rc;
}

int search_new(const struct place_problem *p, const struct search_rule *rule,
               const uint16_t *const *homes, const struct plan *start, uint64_t seed,
               struct search **ret, struct mt_err *reterr)
{
    struct search *s = calloc(1, sizeof *s);
    size_t slots;
    int rc;

    if (!s)
        return mt_error(reterr, MT_ENOMEM, "search: no memory");
    s->p = p;
    s->random.state = seed;
    rc = bag_new(p, homes, BAG_ALIKE, MAX_TOKENS, seed, &s->bag, reterr);
    if (!rc)
        rc = sample_new(p, &rule->sample, seed, &s->set, reterr);
    if (!rc)
        rc = layer_new(&s->bag, s->set, &s->layer, reterr);
    if (!rc && has_spare(p) && !rule->single)
        rc = open_replicas(s, homes, seed, reterr);
    if (rc) {
        search_free(s);
        return rc;
    }
    s->layer->traffic = rule->traffic;
    if (s->layer_homes)
        s->layer_homes->traffic = rule->traffic;
    slots = (size_t)p->layers * s->layer->slots;
    s->item = calloc(slots, sizeof *s->item);
    s->single = calloc(slots, sizeof *s->single);
    s->price = calloc(p->layers, sizeof *s->price);
    s->price_single = calloc(p->layers, sizeof *s->price_single);
    s->past = calloc((size_t)p->layers * SEARCH_PAST * p->experts, sizeof *s->past);
    s->pasts = calloc(p->layers, sizeof *s->pasts);
    if (!s->item || !s->single || !s->price || !s->price_single || !s->past || !s->pasts) {
        search_free(s);
        return mt_error(reterr, MT_ENOMEM, "search: no memory for %zu slots", slots);
    }
    price_start(s, start);
    *ret = s;
    return 0;
}

void search_free(struct search *s)
{
    if (!s)
        return;
    replica_free(s->replica);
    layer_free(s->layer_homes);
    layer_free(s->layer);
    sample_free(s->set);
    bag_done(&s->bag);
    bag_done(&s->bag_homes);
    free(s->item);
    free(s->single);
    free(s->price);
    free(s->price_single);
    free(s->past);
    free(s->pasts);
    free(s);
}

/* The items that stand in a layer join its past. */
static void remember(struct search *s, uint32_t layer)
{
    const struct layer *l = s->layer;
    uint16_t *past =
        s->past + ((size_t)layer * SEARCH_PAST + s->pasts[layer]++ % SEARCH_PAST) * l->experts;

    for (uint32_t k = 0; k < l->slots; k++)
        if (l->item[k] < l->experts)
            past[l->item[k]] = l->slot_rank[k];
}

uint32_t search_past(const struct search *s, uint32_t layer, uint16_t *ret)
{
    uint32_t n = s->pasts[layer] < SEARCH_PAST ? s->pasts[layer] : SEARCH_PAST;
    size_t experts = s->layer->experts;

    for (uint32_t i = 0; i < n; i++) {
        size_t at = (size_t)layer * SEARCH_PAST + (s->pasts[layer] - 1 - i) % SEARCH_PAST;

        memcpy(ret + i * experts, s->past + at * experts, experts * sizeof *ret);
    }
    return n;
}

/* Few experts are heavy ones, and leave a local optimum only with much heat; many need little. So
 * one round in three is hot. */
static double heat_of_round(const struct search *s)
{
    return s->rounds % 3 == 1 ? 8 : 1;
}

/* One copy each: annealed from the best, kept if better. */
static uint64_t exchange_layer(struct search *s, uint32_t i, uint64_t moves,
                               const struct place_run *run)
{
    struct layer *l = s->layer;
    uint16_t *best = row(s, s->single, i);
    double heat;
    uint64_t tried;

    layer_load(l, i);
    layer_set(l, best);
    heat = anneal_heat(l) * heat_of_round(s);
    tried = anneal_exchange(l, &(struct anneal){moves, heat, heat / COOL}, &s->random, run);
    tried += anneal_descend(l, moves, run);
    remember(s, i);
    if (l->price < s->price_single[i]) {
        s->price_single[i] = l->price;
        memcpy(best, l->item, l->slots * sizeof *best);
    }
    return tried;
}

static uint64_t replica_share(const struct search *s)
{
    return s->bag_homes.words ? REPLICA_SHARE : REPLICA_SHARE_LOADS;
}

/* With copies: in the first round and every other from the best single placement, filled; else from
 * the best with copies. */
static uint64_t replicate_layer(struct search *s, uint32_t i, uint64_t moves,
                                const struct place_run *run)
{
    struct replica *r = s->replica;
    uint16_t *best = row(s, s->item, i);
    double heat;
    uint64_t tried;

    layer_load(s->layer_homes, i);
    if (s->rounds % FRESH) {
        replica_set(r, best);
    } else {
        replica_set(r, row(s, s->single, i));
        replica_fill(r, &s->random, FILL_TRIES, run);
    }
    s->layer_homes->price = replica_price(r);
    heat = anneal_heat(s->layer_homes) / (s->rounds % FRESH ? 8 : 4);
    tried = replica_anneal(r, &(struct anneal){moves, heat, heat / COOL}, &s->random, run);
    if (replica_price(r) < s->price[i]) {
        s->price[i] = replica_price(r);
        memcpy(best, replica_items(r), s->layer->slots * sizeof *best);
    }
    return tried * replica_share(s);
}

void search_round(struct search *s, uint64_t moves, const struct place_run *run, uint64_t *io_left,
                  uint64_t *io_tried)
{
    for (uint32_t i = 0; i < s->p->layers && *io_left; i++) {
        uint64_t tried = 0;

        if (run->stop && run->stop(run->user))
            return;
        if (!s->replica || s->rounds < FRESH || s->rounds % FRESH == 0)
            tried = exchange_layer(s, i, moves, run);
        if (s->replica) {
            tried += replicate_layer(s, i, moves / replica_share(s) + 1, run);
        } else if (s->price_single[i] < s->price[i]) {
            s->price[i] = s->price_single[i];
            memcpy(row(s, s->item, i), row(s, s->single, i), s->layer->slots * sizeof *s->item);
        }
        *io_tried += tried;
        *io_left -= tried < *io_left ? tried : *io_left;
    }
    s->rounds++;
}

void search_offer(struct search *s, const struct plan *plan)
{
    uint32_t slots = s->layer->slots;

    for (uint32_t i = 0; i < s->p->layers; i++) {
        uint16_t *items = s->replica ? s->layer_homes->best : s->layer->best;
        double price;

        items_of(s->layer, plan, i, s->replica != NULL, items);
        if (s->replica) {
            layer_load(s->layer_homes, i);
            replica_set(s->replica, items);
            price = replica_price(s->replica);
        } else {
            layer_load(s->layer, i);
            layer_set(s->layer, items);
            price = s->layer->price;
        }
        if (price >= s->price[i])
            continue;
        s->price[i] = price;
        memcpy(row(s, s->item, i), items, slots * sizeof *items);
        if (s->replica || price >= s->price_single[i])
            continue;
        s->price_single[i] = price;
        memcpy(row(s, s->single, i), items, slots * sizeof *items);
    }
}

double search_price(const struct search *s)
{
    double sum = 0;

    for (uint32_t i = 0; i < s->p->layers; i++)
        sum += s->price[i];
    return sum;
}

static int plan_of(const struct search *s, const uint16_t *item, struct plan *ret,
                   struct mt_err *reterr)
{
    const struct place_problem *p = s->p;
    uint32_t ranks = p->cluster.ranks, slots = s->layer->slots;
    uint8_t *held = calloc((size_t)p->layers * p->experts, ranks);
    int rc;

    if (!held)
        return mt_error(reterr, MT_ENOMEM, "search: no memory for a plan");
    for (uint32_t i = 0; i < p->layers; i++)
        for (uint32_t k = 0; k < slots; k++) {
            uint32_t e = item[(size_t)i * slots + k];

            if (e < p->experts)
                held[((size_t)i * p->experts + e) * ranks + s->layer->slot_rank[k]] = 1;
        }
    rc = plan_from_held(p->layers, p->experts, ranks, held, ret, reterr);
    free(held);
    return rc;
}

int search_plan(const struct search *s, struct plan *ret, struct mt_err *reterr)
{
    return plan_of(s, s->item, ret, reterr);
}

int search_single_plan(const struct search *s, struct plan *ret, struct mt_err *reterr)
{
    return plan_of(s, s->single, ret, reterr);
}
