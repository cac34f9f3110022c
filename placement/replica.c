#include "placement/replica.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ASK 64
#define SMALLEST 1e-12
#define EXP_STEPS 32 /* per unit of the exponent */
#define EXP_MOST 12

/* What one copy of an expert with several serves. Kept twice, so that a move that is not wanted is
 * undone by turning back to the other side. */
struct share {
    uint64_t *served; /* [words] */
    int32_t *load;    /* [samples] */
    int32_t *flow;    /* [samples] */
    int32_t *pairs;   /* [classes]; exact combine only */
};

/* A rank's counters before a move. */
struct saved {
    uint32_t rank;
    uint64_t *touched;
    int32_t *load, *flow, *pairs, *count;
};

struct replica {
    struct layer *l;
    uint8_t *has;      /* [experts + 1][ranks] */
    uint16_t *slot_of; /* [experts + 1][ranks] */
    uint16_t *copies;  /* [experts + 1] */
    uint16_t *item;    /* [slots] */
    uint16_t *best;
    struct share *share; /* [2][slots] */
    uint8_t *side;       /* [slots] which of the two counts */
    uint16_t *turned;    /* [slots] those that a move has turned */
    uint32_t turns;
    struct saved *saved; /* [ranks] */
    uint32_t saves;
    uint64_t *forced;  /* [ranks][words] who needs a rank for an expert with no other copy */
    int32_t *load;     /* [ranks][samples] of those experts */
    int32_t *flow;     /* [ranks][samples] likewise */
    int32_t *pairs;    /* [ranks][classes] likewise */
    uint64_t *touched; /* [ranks + nodes][words] */
    uint64_t *rest;
    uint32_t total[PLAN_MAX_RANKS];       /* tokens of one expert that each rank serves */
    float idle[EXP_STEPS * EXP_MOST + 1]; /* exp(-i / EXP_STEPS) */
    void *memory[4];                      /* what share and saved point into */
    double price;
};

/* The next `n` of an array that is cut up. */
static uint64_t *cut_set(uint64_t **io, size_t n)
{
    *io += n;
    return *io - n;
}

static int32_t *cut_row(int32_t **io, size_t n)
{
    *io += n;
    return *io - n;
}

static int open_rows(struct replica *r)
{
    const struct layer *l = r->l;
    size_t words = l->bag->words + 1, classes = l->bag->classes + 1, lanes = l->samples;
    size_t shares = 2 * (size_t)l->slots, ranks = l->ranks;
    uint64_t *sets = calloc((shares + ranks) * words, sizeof *sets);
    int32_t *loads = calloc(2 * (shares + ranks) * lanes, sizeof *loads);
    int32_t *counts = calloc((shares + 2 * ranks) * classes, sizeof *counts);

    r->memory[0] = sets;
    r->memory[1] = loads;
    r->memory[2] = counts;
    r->share = calloc(shares, sizeof *r->share);
    r->saved = calloc(ranks, sizeof *r->saved);
    if (!sets || !loads || !counts || !r->share || !r->saved)
        return -1;
    for (size_t i = 0; i < shares; i++) {
        struct share *to = &r->share[i];

        to->served = cut_set(&sets, words);
        to->load = cut_row(&loads, lanes);
        to->flow = cut_row(&loads, lanes);
        to->pairs = cut_row(&counts, classes);
    }
    for (size_t i = 0; i < ranks; i++) {
        struct saved *to = &r->saved[i];

        to->touched = cut_set(&sets, words);
        to->load = cut_row(&loads, lanes);
        to->flow = cut_row(&loads, lanes);
        to->pairs = cut_row(&counts, classes);
        to->count = cut_row(&counts, classes);
    }
    return 0;
}

int replica_new(struct layer *l, struct replica **ret, struct mt_err *reterr)
{
    size_t words = l->bag->words + 1, rows = (size_t)l->ranks + l->nodes;
    struct replica *r = calloc(1, sizeof *r);

    if (!r)
        goto no_memory;
    r->l = l;
    r->has = calloc((size_t)(l->experts + 1) * l->ranks, sizeof *r->has);
    r->slot_of = calloc((size_t)(l->experts + 1) * l->ranks, sizeof *r->slot_of);
    r->copies = calloc(l->experts + 1, sizeof *r->copies);
    r->item = calloc(l->slots, sizeof *r->item);
    r->best = calloc(l->slots, sizeof *r->best);
    r->side = calloc(l->slots, sizeof *r->side);
    r->turned = calloc(l->slots, sizeof *r->turned);
    r->forced = calloc(l->ranks * words, sizeof *r->forced);
    r->load = calloc((size_t)l->ranks * l->samples, sizeof *r->load);
    r->flow = calloc((size_t)l->ranks * l->samples, sizeof *r->flow);
    r->pairs = calloc((size_t)l->ranks * (l->bag->classes + 1), sizeof *r->pairs);
    r->touched = calloc(rows * words, sizeof *r->touched);
    r->rest = calloc(words, sizeof *r->rest);
    if (!r->has || !r->slot_of || !r->copies || !r->item || !r->best || !r->side || !r->turned ||
        !r->forced || !r->load || !r->flow || !r->pairs || !r->touched || !r->rest || open_rows(r))
        goto no_memory;
    for (uint32_t i = 0; i <= EXP_STEPS * EXP_MOST; i++)
        r->idle[i] = expf(-(float)i / EXP_STEPS);
    *ret = r;
    return 0;
no_memory:
    replica_free(r);
    return mt_error(reterr, MT_ENOMEM, "search: no memory for the replicas of a layer");
}

void replica_free(struct replica *r)
{
    if (!r)
        return;
    free(r->has);
    free(r->slot_of);
    free(r->copies);
    free(r->item);
    free(r->best);
    free(r->side);
    free(r->turned);
    free(r->forced);
    free(r->load);
    free(r->flow);
    free(r->pairs);
    free(r->touched);
    free(r->rest);
    free(r->share);
    free(r->saved);
    for (size_t i = 0; i < sizeof r->memory / sizeof *r->memory; i++)
        free(r->memory[i]);
    free(r);
}

static struct share *share_of(const struct replica *r, uint32_t slot)
{
    return &r->share[(size_t)r->side[slot] * r->l->slots + slot];
}

/* What a rank's only copies need: it does not depend on the other ranks' replicas. */
static void gather(struct replica *r, uint32_t rank)
{
    const struct layer *l = r->l;
    size_t words = l->bag->words, classes = l->bag->classes;
    uint64_t *forced = r->forced + rank * words;
    int32_t *load = r->load + (size_t)rank * l->samples, *pairs = r->pairs + rank * classes;
    int32_t *flow = r->flow + (size_t)rank * l->samples;

    memset(forced, 0, words * sizeof *forced);
    memset(load, 0, l->samples * sizeof *load);
    memset(flow, 0, l->samples * sizeof *flow);
    memset(pairs, 0, classes * sizeof *pairs);
    for (uint32_t s = l->first[rank]; s < l->first[rank + 1]; s++) {
        uint32_t e = r->item[s];

        if (e == l->experts || r->copies[e] > 1)
            continue;
        l->bits->unite(forced, l->x + e * words, words);
        l->bits->add_row(load, l->cost + (size_t)e * l->samples, l->samples);
        l->bits->add_row(flow, l->flow + (size_t)e * l->samples, l->samples);
        l->bits->add_row(pairs, l->class_pairs + e * classes, classes);
    }
}

static uint32_t copies_on(const struct replica *r, uint32_t e, uint32_t first, uint32_t end)
{
    uint32_t n = 0;

    for (uint32_t g = first; g < end; g++)
        n += r->has[(size_t)e * r->l->ranks + g];
    return n;
}

/* Tokens that live on the rank. */
static void serve_home(struct replica *r, uint64_t *served, uint32_t rank)
{
    const struct bag *b = r->l->bag;

    for (uint32_t g = 0; g < b->groups; g++) {
        uint32_t from = b->class_word[b->group[g].first + rank];
        uint32_t to = b->class_word[b->group[g].first + rank + 1];

        r->total[rank] += r->l->bits->take_all(served + from, r->rest + from, to - from);
    }
}

/* Draws for the homes of node m, among its own copies if it has any. */
static void serve_draw(struct replica *r, uint32_t e, uint64_t *served, uint32_t rank, uint32_t m)
{
    const struct layer *l = r->l;
    const struct bag *b = l->bag;
    uint32_t first = l->node_first[m], end = l->node_first[m + 1];
    uint32_t n = copies_on(r, e, first, end), i;
    /* Draws of different experts are independent: the first bits of their bytes are others. */
    const uint64_t *planes = b->planes + (size_t)(e * 8 % (BAG_PLANES - 7)) * b->words;

    if (n && (rank < first || rank >= end))
        return;
    i = copies_on(r, e, n ? first : 0, rank);
    n = n ? n : r->copies[e];
    for (uint32_t g = 0; g < b->groups; g++) {
        uint32_t from = b->class_word[b->group[g].first + first];
        uint32_t words = b->class_word[b->group[g].first + end] - from;
        uint32_t limit = n <= 16 ? ((i + 1) * 16 + n / 2) / n * 16 : (i + 1) * 256 / n;

        r->total[rank] += i + 1 == n
                              ? l->bits->take_all(served + from, r->rest + from, words)
                              : l->bits->take_below(served + from, r->rest + from, planes + from,
                                                    b->words, e * 167 & 255, limit, words);
    }
}

/* The part of an expert's tokens that a rank serves: of the bag's, or expected for loads alone. */
static double part_of(const struct replica *r, uint32_t e, uint32_t rank, uint32_t all)
{
    const struct layer *l = r->l;
    double part = 0;

    if (all)
        return (double)r->total[rank] / all;
    for (uint32_t m = 0; m < l->nodes; m++) {
        uint32_t first = l->node_first[m], end = l->node_first[m + 1];
        uint32_t n = copies_on(r, e, first, end);

        if (n && rank >= first && rank < end)
            part += (double)(end - first) / l->ranks / n;
        else if (!n)
            part += (double)(end - first) / l->ranks / r->copies[e];
    }
    return part;
}

static void fill_load(struct replica *r, uint32_t e, double part, struct share *share)
{
    const struct layer *l = r->l;
    const double *a = sample_token_cost(l->set), *b = sample_active_cost(l->set);
    const float *tokens = l->tokens + (size_t)e * l->samples;
    const float *active = l->active + (size_t)e * l->samples;
    const int32_t *flow = l->flow + (size_t)e * l->samples;
    float rate = part < 0.999 ? (float)(-log1p(-part) * EXP_STEPS) : EXP_STEPS * 7;

    for (uint32_t k = 0; k < l->samples; k++) {
        float x = tokens[k] * rate;
        float idle = x < EXP_STEPS * EXP_MOST ? r->idle[(uint32_t)x] : 0;
        float some = active[k] < 1 - idle ? active[k] : 1 - idle;

        share->flow[k] = (int32_t)((double)flow[k] * part);
        share->load[k] =
            (int32_t)((a[k] * (double)tokens[k] * part + b[k] * (double)some) / l->unit);
    }
}

static void count_classes(const struct layer *l, const uint64_t *set, int32_t *ret)
{
    const struct bag *b = l->bag;

    for (uint32_t c = 0; c < b->classes; c++)
        ret[c] = (int32_t)l->bits->count(set + b->class_word[c],
                                         b->class_word[c + 1] - b->class_word[c]);
}

/* Turns the shares of an expert's copies, and fills them. */
static void serve(struct replica *r, uint32_t e)
{
    struct layer *l = r->l;
    size_t words = l->bag->words;
    const uint16_t *slot = r->slot_of + (size_t)e * l->ranks;
    uint16_t at[PLAN_MAX_RANKS];
    uint32_t n = 0, all = 0;

    memcpy(r->rest, l->x + e * words, words * sizeof *r->rest);
    for (uint32_t g = 0; g < l->ranks; g++) {
        if (!r->has[(size_t)e * l->ranks + g])
            continue;
        at[n++] = (uint16_t)g;
        r->side[slot[g]] ^= 1;
        r->turned[r->turns++] = slot[g];
        r->total[g] = 0;
        memset(share_of(r, slot[g])->served, 0, words * sizeof(uint64_t));
        serve_home(r, share_of(r, slot[g])->served, g);
    }
    for (uint32_t i = 0; i < n; i++)
        r->total[at[i]] += l->bits->take(share_of(r, slot[at[i]])->served, r->rest,
                                         r->forced + at[i] * words, words);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t m = 0; m < l->nodes; m++)
            serve_draw(r, e, share_of(r, slot[at[i]])->served, at[i], m);
        all += r->total[at[i]];
    }
    for (uint32_t i = 0; i < n; i++) {
        struct share *s = share_of(r, slot[at[i]]);

        fill_load(r, e, part_of(r, e, at[i], all), s);
        if (l->p->cluster.exact_combine)
            count_classes(l, s->served, s->pairs);
    }
}

/* A rank's counters from its only copies and its shares. */
static void sum_rank(struct replica *r, uint32_t rank)
{
    struct layer *l = r->l;
    size_t words = l->bag->words, classes = l->bag->classes;
    uint64_t *touched = r->touched + rank * words;
    int32_t *load = l->load + (size_t)rank * l->samples, *pairs = l->pairs + rank * classes;
    int32_t *flow = l->flows + (size_t)rank * l->samples;

    memcpy(touched, r->forced + rank * words, words * sizeof *touched);
    memcpy(load, r->load + (size_t)rank * l->samples, l->samples * sizeof *load);
    memcpy(flow, r->flow + (size_t)rank * l->samples, l->samples * sizeof *flow);
    memcpy(pairs, r->pairs + rank * classes, classes * sizeof *pairs);
    for (uint32_t s = l->first[rank]; s < l->first[rank + 1]; s++) {
        const struct share *share = share_of(r, s);

        if (r->item[s] == l->experts || r->copies[r->item[s]] < 2)
            continue;
        l->bits->unite(touched, share->served, words);
        l->bits->add_row(load, share->load, l->samples);
        l->bits->add_row(flow, share->flow, l->samples);
        if (l->p->cluster.exact_combine)
            l->bits->add_row(pairs, share->pairs, classes);
    }
    count_classes(l, touched, l->touched + rank * classes);
}

static void sum_nodes(struct replica *r)
{
    struct layer *l = r->l;
    size_t words = l->bag->words;

    for (uint32_t m = 0; l->p->cluster.two_level && m < l->nodes; m++) {
        uint64_t *node = r->touched + (l->ranks + m) * words;

        memset(node, 0, words * sizeof *node);
        for (uint32_t g = l->node_first[m]; g < l->node_first[m + 1]; g++)
            l->bits->unite(node, r->touched + g * words, words);
        count_classes(l, node, l->touched + (size_t)(l->ranks + m) * l->bag->classes);
    }
}

void replica_set(struct replica *r, const uint16_t *items)
{
    struct layer *l = r->l;

    memmove(r->item, items, l->slots * sizeof *r->item);
    memset(r->has, 0, (size_t)(l->experts + 1) * l->ranks);
    memset(r->copies, 0, (l->experts + 1) * sizeof *r->copies);
    memset(l->moves, 0, sizeof l->moves);
    for (uint32_t s = 0; s < l->slots; s++) {
        size_t at = (size_t)r->item[s] * l->ranks + l->slot_rank[s];

        r->has[at] = 1;
        r->slot_of[at] = (uint16_t)s;
        r->copies[r->item[s]]++;
        l->moves[l->move[at]]++;
    }
    for (uint32_t g = 0; g < l->ranks; g++)
        gather(r, g);
    r->turns = 0;
    for (uint32_t e = 0; e < l->experts; e++)
        if (r->copies[e] > 1)
            serve(r, e);
    for (uint32_t g = 0; g < l->ranks; g++)
        sum_rank(r, g);
    sum_nodes(r);
    r->price = layer_price(l);
}

const uint16_t *replica_items(const struct replica *r)
{
    return r->item;
}

double replica_price(const struct replica *r)
{
    return r->price;
}

/* Ranks whose only copies change, at most once each. */
struct dirty {
    uint32_t n, rank[8];
};

static void mark(struct dirty *d, uint32_t rank)
{
    for (uint32_t i = 0; i < d->n; i++)
        if (d->rank[i] == rank)
            return;
    d->rank[d->n++] = rank;
}

/* The rank of an expert's only copy. */
static void mark_only(const struct replica *r, uint32_t e, struct dirty *d)
{
    const uint8_t *has = r->has + (size_t)e * r->l->ranks;

    for (uint32_t g = 0; r->copies[e] == 1 && g < r->l->ranks; g++)
        if (has[g])
            mark(d, g);
}

/* Puts another item into a slot. */
static void put(struct replica *r, uint32_t slot, uint32_t item, struct dirty *d)
{
    struct layer *l = r->l;
    uint32_t g = l->slot_rank[slot], old = r->item[slot];

    mark(d, g);
    if (item < l->experts)
        mark_only(r, item, d);
    r->has[(size_t)old * l->ranks + g] = 0;
    r->copies[old]--;
    l->moves[l->move[(size_t)old * l->ranks + g]]--;
    r->item[slot] = (uint16_t)item;
    r->has[(size_t)item * l->ranks + g] = 1;
    r->slot_of[(size_t)item * l->ranks + g] = (uint16_t)slot;
    r->copies[item]++;
    l->moves[l->move[(size_t)item * l->ranks + g]]++;
    if (old < l->experts)
        mark_only(r, old, d);
}

/* Up to two slots and what they are to hold. */
struct change {
    uint32_t n, slot[2], item[2];
};

static void put_all(struct replica *r, const struct change *c, struct dirty *d)
{
    for (uint32_t i = 0; i < c->n; i++)
        put(r, c->slot[i], c->item[i], d);
    for (uint32_t i = 0; i < d->n; i++)
        gather(r, d->rank[i]);
}

/* Whose copies are served anew: those that have one on a rank whose only copies changed, and those
 * whose own copies did. Marks the ranks that feel it. */
static void serve_affected(struct replica *r, const struct change *c, const struct change *back,
                           const struct dirty *d, uint8_t *felt)
{
    const struct layer *l = r->l;
    uint8_t affected[PLACE_MAX_EXPERTS + 1] = {0};

    for (uint32_t i = 0; i < c->n; i++)
        affected[c->item[i]] = affected[back->item[i]] = 1;
    for (uint32_t i = 0; i < d->n; i++) {
        felt[d->rank[i]] = 1;
        for (uint32_t s = l->first[d->rank[i]]; s < l->first[d->rank[i] + 1]; s++)
            affected[r->item[s]] = 1;
    }
    for (uint32_t e = 0; e < l->experts; e++) {
        if (!affected[e] || r->copies[e] < 2)
            continue;
        serve(r, e);
        for (uint32_t g = 0; g < l->ranks; g++)
            felt[g] |= r->has[(size_t)e * l->ranks + g];
    }
}

static void save_rank(struct replica *r, uint32_t rank)
{
    const struct layer *l = r->l;
    size_t words = l->bag->words, classes = l->bag->classes;
    struct saved *s = &r->saved[r->saves++];

    s->rank = rank;
    memcpy(s->touched, r->touched + rank * words, words * sizeof *s->touched);
    memcpy(s->load, l->load + (size_t)rank * l->samples, l->samples * sizeof *s->load);
    memcpy(s->flow, l->flows + (size_t)rank * l->samples, l->samples * sizeof *s->flow);
    memcpy(s->pairs, l->pairs + rank * classes, classes * sizeof *s->pairs);
    memcpy(s->count, l->touched + rank * classes, classes * sizeof *s->count);
}

static void restore(struct replica *r)
{
    struct layer *l = r->l;
    size_t words = l->bag->words, classes = l->bag->classes;

    for (uint32_t i = 0; i < r->saves; i++) {
        const struct saved *s = &r->saved[i];

        memcpy(r->touched + s->rank * words, s->touched, words * sizeof *s->touched);
        memcpy(l->load + (size_t)s->rank * l->samples, s->load, l->samples * sizeof *s->load);
        memcpy(l->flows + (size_t)s->rank * l->samples, s->flow, l->samples * sizeof *s->flow);
        memcpy(l->pairs + s->rank * classes, s->pairs, classes * sizeof *s->pairs);
        memcpy(l->touched + s->rank * classes, s->count, classes * sizeof *s->count);
    }
    for (uint32_t i = 0; i < r->turns; i++)
        r->side[r->turned[i]] ^= 1;
    sum_nodes(r);
}

static bool try_change(struct replica *r, const struct change *c, double most)
{
    struct change back = *c;
    struct dirty d = {0}, undone = {0};
    uint8_t felt[PLAN_MAX_RANKS] = {0};
    double now;

    for (uint32_t i = 0; i < c->n; i++)
        back.item[i] = r->item[c->slot[i]];
    r->turns = r->saves = 0;
    put_all(r, c, &d);
    serve_affected(r, c, &back, &d, felt);
    for (uint32_t g = 0; g < r->l->ranks; g++)
        if (felt[g]) {
            save_rank(r, g);
            sum_rank(r, g);
        }
    sum_nodes(r);
    now = layer_price_within(r->l, r->price + most);
    if (now > r->price + most) {
        put_all(r, &back, &undone);
        restore(r);
        return false;
    }
    r->price = now;
    return true;
}

static bool has(const struct replica *r, uint32_t item, uint32_t rank)
{
    return item < r->l->experts && r->has[(size_t)item * r->l->ranks + rank];
}

static bool draw_exchange(const struct replica *r, struct random *random, struct change *c)
{
    const struct layer *l = r->l;
    uint32_t a = random_below(random, l->slots), b = random_below(random, l->slots);

    *c = (struct change){2, {a, b}, {r->item[b], r->item[a]}};
    return r->item[a] != r->item[b] && l->slot_rank[a] != l->slot_rank[b] &&
           !has(r, r->item[b], l->slot_rank[a]) && !has(r, r->item[a], l->slot_rank[b]);
}

static bool draw_other(const struct replica *r, struct random *random, struct change *c)
{
    const struct layer *l = r->l;
    uint32_t a = random_below(random, l->slots), item = random_below(random, l->experts + 1);

    *c = (struct change){1, {a}, {item}};
    return item != r->item[a] && (r->item[a] == l->experts || r->copies[r->item[a]] > 1) &&
           !has(r, item, l->slot_rank[a]);
}

bool replica_move(struct replica *r, struct random *random, double most)
{
    struct change c;
    bool drawn = random_below(random, 2) ? draw_exchange(r, random, &c) : draw_other(r, random, &c);

    return drawn && try_change(r, &c, most);
}

void replica_fill(struct replica *r, struct random *random, uint32_t tries,
                  const struct place_run *run)
{
    const struct layer *l = r->l;

    for (uint32_t s = 0; s < l->slots; s++) {
        if (r->item[s] < l->experts)
            continue;
        for (uint32_t i = 0; i < tries; i++) {
            struct change c = {1, {s}, {random_below(random, l->experts)}};

            if (run && run->stop && run->stop(run->user))
                return;
            if (!has(r, c.item[0], l->slot_rank[s]))
                try_change(r, &c, -SMALLEST * r->price);
        }
    }
}

uint64_t replica_anneal(struct replica *r, const struct anneal *how, struct random *random,
                        const struct place_run *run)
{
    size_t size = r->l->slots * sizeof *r->best;
    double best = r->price, heat = how->hot;
    double cool = how->moves ? pow(how->cold / how->hot, (double)ASK / (double)how->moves) : 1;
    uint64_t i;

    memcpy(r->best, r->item, size);
    for (i = 0; i < how->moves && r->l->ranks > 1; i++) {
        if (i % ASK == ASK - 1) {
            heat *= cool;
            if (run && run->stop && run->stop(run->user))
                break;
        }
        if (replica_move(r, random, -heat * log(random_unit(random) + 1e-300)) &&
            r->price < best * (1 - SMALLEST)) {
            best = r->price;
            memcpy(r->best, r->item, size);
        }
    }
    if (r->price > best)
        replica_set(r, r->best);
    return i;
}
