#include "placement/replica.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ASK 64
#define SMALLEST 1e-12
#define EXP_STEPS 32 /* per unit of the exponent */
#define EXP_MOST 12

struct replica {
    struct layer *l;
    uint8_t *has;     /* [experts + 1][ranks] */
    uint16_t *copies; /* [experts + 1] */
    uint16_t *item;   /* [slots] */
    uint16_t *best;
    uint64_t *forced;  /* [ranks][words] who needs a rank for an expert with no other copy */
    int32_t *load;     /* [ranks][samples] of those experts */
    int32_t *pairs;    /* [ranks][classes] likewise */
    uint64_t *touched; /* [ranks + nodes][words] */
    uint64_t *rest, *some;
    uint32_t total[PLAN_MAX_RANKS];       /* tokens of one expert that each rank serves */
    float idle[EXP_STEPS * EXP_MOST + 1]; /* exp(-i / EXP_STEPS) */
    double price;
};

int replica_new(struct layer *l, struct replica **ret, struct mt_err *reterr)
{
    size_t words = l->bag->words + 1, rows = (size_t)l->ranks + l->nodes;
    struct replica *r = calloc(1, sizeof *r);

    if (!r)
        goto no_memory;
    r->l = l;
    r->has = calloc((size_t)(l->experts + 1) * l->ranks, sizeof *r->has);
    r->copies = calloc(l->experts + 1, sizeof *r->copies);
    r->item = calloc(l->slots, sizeof *r->item);
    r->best = calloc(l->slots, sizeof *r->best);
    r->forced = calloc(l->ranks * words, sizeof *r->forced);
    r->load = calloc((size_t)l->ranks * l->samples, sizeof *r->load);
    r->pairs = calloc((size_t)l->ranks * (l->bag->classes + 1), sizeof *r->pairs);
    r->touched = calloc(rows * words, sizeof *r->touched);
    r->rest = calloc(words, sizeof *r->rest);
    r->some = calloc(words, sizeof *r->some);
    if (!r->has || !r->copies || !r->item || !r->best || !r->forced || !r->load || !r->pairs ||
        !r->touched || !r->rest || !r->some)
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
    free(r->copies);
    free(r->item);
    free(r->best);
    free(r->forced);
    free(r->load);
    free(r->pairs);
    free(r->touched);
    free(r->rest);
    free(r->some);
    free(r);
}

/* What a rank's only copies need: it does not depend on the other ranks' replicas. */
static void gather(struct replica *r, uint32_t rank)
{
    const struct layer *l = r->l;
    size_t words = l->bag->words, classes = l->bag->classes;
    uint64_t *forced = r->forced + rank * words;
    int32_t *load = r->load + (size_t)rank * l->samples, *pairs = r->pairs + rank * classes;

    memset(forced, 0, words * sizeof *forced);
    memset(load, 0, l->samples * sizeof *load);
    memset(pairs, 0, classes * sizeof *pairs);
    for (uint32_t s = l->first[rank]; s < l->first[rank + 1]; s++) {
        uint32_t e = r->item[s];

        if (e == l->experts || r->copies[e] > 1)
            continue;
        for (size_t w = 0; w < words; w++)
            forced[w] |= l->x[e * words + w];
        for (uint32_t k = 0; k < l->samples; k++)
            load[k] += l->cost[(size_t)e * l->samples + k];
        for (size_t c = 0; c < classes; c++)
            pairs[c] += l->class_pairs[e * classes + c];
    }
}

/* Moves what is left of an expert's tokens to a rank. */
static void give(struct replica *r, uint32_t rank, const uint64_t *mask, uint32_t from, uint32_t to)
{
    r->total[rank] += r->l->bits->take(r->some + from, r->rest + from, mask + from, to - from);
}

/* r->some, which a rank serves, becomes part of what it touches. */
static void settle(struct replica *r, uint32_t rank)
{
    const struct bag *b = r->l->bag;
    uint64_t *touched = r->touched + (size_t)rank * b->words;

    for (uint32_t w = 0; w < b->words; w++)
        touched[w] |= r->some[w];
    for (uint32_t c = 0; r->l->p->cluster.exact_combine && c < b->classes; c++)
        r->l->pairs[(size_t)rank * b->classes + c] += (int32_t)r->l->bits->count(
            r->some + b->class_word[c], b->class_word[c + 1] - b->class_word[c]);
    memset(r->some, 0, b->words * sizeof *r->some);
}

/* At home. */
static void serve_home(struct replica *r, uint32_t e, uint32_t rank)
{
    const struct bag *b = r->l->bag;

    for (uint32_t g = 0; g < b->groups; g++) {
        uint32_t c = b->group[g].first + rank;

        if (b->group[g].homes)
            give(r, rank, r->l->x + (size_t)e * b->words, b->class_word[c], b->class_word[c + 1]);
    }
}

/* The rank's part of what is drawn: classes [c, end), of whose candidates it is the i-th of n. */
static void draw(struct replica *r, uint32_t e, uint32_t rank, uint32_t i, uint32_t n, uint32_t c,
                 uint32_t end)
{
    const struct bag *b = r->l->bag;
    uint32_t from = b->class_word[c], to = b->class_word[end];

    r->total[rank] += r->l->bits->take_below(r->some + from, r->rest + from, b->planes + from,
                                             b->words, e * 167 & 255, (i + 1) * 256 / n, to - from);
}

static uint32_t copies_on(const struct replica *r, uint32_t e, uint32_t first, uint32_t end)
{
    uint32_t n = 0;

    for (uint32_t g = first; g < end; g++)
        n += r->has[(size_t)e * r->l->ranks + g];
    return n;
}

/* Draws for the homes of node m (class offsets), among its own copies if it has any. */
static void serve_draw(struct replica *r, uint32_t e, uint32_t rank, uint32_t m)
{
    const struct layer *l = r->l;
    uint32_t first = l->node_first[m], end = l->node_first[m + 1];
    uint32_t n = copies_on(r, e, first, end), i;

    if (!n)
        i = copies_on(r, e, 0, rank), n = r->copies[e];
    else if (rank < first || rank >= end)
        return;
    else
        i = copies_on(r, e, first, rank);
    for (uint32_t g = 0; g < l->bag->groups; g++) {
        const struct bag_group *group = &l->bag->group[g];

        if (group->homes)
            draw(r, e, rank, i, n, group->first + first, group->first + end);
        else if (m == 0) /* homes alike though copies differ: all draw among all */
            draw(r, e, rank, copies_on(r, e, 0, rank), r->copies[e], group->first,
                 group->first + 1);
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

static void add_load(struct replica *r, uint32_t e, uint32_t rank, double part)
{
    const struct layer *l = r->l;
    const double *a = sample_token_cost(l->set), *b = sample_active_cost(l->set);
    int32_t *load = l->load + (size_t)rank * l->samples;
    const float *tokens = l->tokens + (size_t)e * l->samples;
    const float *active = l->active + (size_t)e * l->samples;
    float rate = part < 0.999 ? (float)(-log1p(-part) * EXP_STEPS) : EXP_STEPS * 7;

    for (uint32_t k = 0; k < l->samples; k++) {
        float x = tokens[k] * rate;
        float idle = x < EXP_STEPS * EXP_MOST ? r->idle[(uint32_t)x] : 0;
        float some = active[k] < 1 - idle ? active[k] : 1 - idle;

        load[k] += (int32_t)((a[k] * (double)tokens[k] * part + b[k] * (double)some) / l->unit);
    }
}

static void serve(struct replica *r, uint32_t e)
{
    struct layer *l = r->l;
    size_t words = l->bag->words;
    const uint8_t *has = r->has + (size_t)e * l->ranks;
    uint32_t all = 0;

    memcpy(r->rest, l->x + e * words, words * sizeof *r->rest);
    memset(r->total, 0, l->ranks * sizeof *r->total);
    for (uint32_t g = 0; g < l->ranks; g++)
        if (has[g]) {
            serve_home(r, e, g);
            settle(r, g);
        }
    for (uint32_t g = 0; g < l->ranks; g++)
        if (has[g]) {
            give(r, g, r->forced + g * words, 0, l->bag->words);
            settle(r, g);
        }
    for (uint32_t g = 0; g < l->ranks; g++) {
        if (!has[g])
            continue;
        for (uint32_t m = 0; m < l->nodes; m++)
            serve_draw(r, e, g, m);
        settle(r, g);
        all += r->total[g];
    }
    for (uint32_t g = 0; g < l->ranks; g++)
        if (has[g])
            add_load(r, e, g, part_of(r, e, g, all));
}

static void count_touched(struct replica *r)
{
    struct layer *l = r->l;
    const struct bag *b = l->bag;
    uint32_t rows = l->ranks + (l->p->cluster.two_level ? l->nodes : 0);

    for (uint32_t m = 0; l->ranks + m < rows; m++) {
        uint64_t *node = r->touched + (size_t)(l->ranks + m) * b->words;

        memset(node, 0, b->words * sizeof *node);
        for (uint32_t g = l->node_first[m]; g < l->node_first[m + 1]; g++)
            for (uint32_t w = 0; w < b->words; w++)
                node[w] |= r->touched[(size_t)g * b->words + w];
    }
    for (uint32_t row = 0; row < rows; row++)
        for (uint32_t c = 0; c < b->classes; c++)
            l->touched[(size_t)row * b->classes + c] =
                (int32_t)l->bits->count(r->touched + (size_t)row * b->words + b->class_word[c],
                                        b->class_word[c + 1] - b->class_word[c]);
}

/* Serves all tokens anew; only what single copies force is kept between moves. */
static double price(struct replica *r)
{
    struct layer *l = r->l;

    memcpy(r->touched, r->forced, (size_t)l->ranks * l->bag->words * sizeof *r->touched);
    memcpy(l->load, r->load, (size_t)l->ranks * l->samples * sizeof *l->load);
    memcpy(l->pairs, r->pairs, (size_t)l->ranks * l->bag->classes * sizeof *l->pairs);
    for (uint32_t e = 0; e < l->experts; e++)
        if (r->copies[e] > 1)
            serve(r, e);
    count_touched(r);
    return layer_price(l);
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
        r->copies[r->item[s]]++;
        l->moves[l->move[at]]++;
    }
    for (uint32_t g = 0; g < l->ranks; g++)
        gather(r, g);
    r->price = price(r);
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
    r->copies[item]++;
    l->moves[l->move[(size_t)item * l->ranks + g]]++;
    if (old < l->experts)
        mark_only(r, old, d);
}

static void regather(struct replica *r, const struct dirty *d)
{
    for (uint32_t i = 0; i < d->n; i++)
        gather(r, d->rank[i]);
}

/* Up to two slots and what they are to hold. */
struct change {
    uint32_t n, slot[2], item[2];
};

static void apply(struct replica *r, const struct change *c)
{
    struct dirty d = {0};

    for (uint32_t i = 0; i < c->n; i++)
        put(r, c->slot[i], c->item[i], &d);
    regather(r, &d);
}

static bool try_change(struct replica *r, const struct change *c, double most)
{
    struct change back = *c;
    double now;

    for (uint32_t i = 0; i < c->n; i++)
        back.item[i] = r->item[c->slot[i]];
    apply(r, c);
    now = price(r);
    if (now - r->price > most) {
        apply(r, &back);
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
