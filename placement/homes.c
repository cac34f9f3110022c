#include "placement/homes.h"

#include <math.h>
#include <stdlib.h>

#include "placement/route.h"

#define EXCHANGE_PASSES 20
#define EXCHANGE_TRIES (1u << 25) /* in all: a second or less, however many documents there are */

uint32_t homes_prompt(const struct place_problem *p, uint32_t length)
{
    double n = p->prompt_tokens ? (double)p->prompt_tokens : floor(p->prompt_fraction * length);

    return n < 1 ? 1 : n > length ? length : (uint32_t)n;
}

static bool one_copy_each(const struct plan *plan, uint32_t layer)
{
    const uint32_t *start = plan->start + (size_t)layer * plan->experts;

    return start[plan->experts] - start[0] == plan->experts;
}

static bool is_first(const uint16_t *at, uint32_t i)
{
    for (uint32_t k = 0; k < i; k++)
        if (at[k] == at[i])
            return false;
    return true;
}

/* Adds a token's remote vectors in a layer to cost[ranks], for each home. */
static void price_token(const struct place_problem *p, const struct plan *plan, uint32_t layer,
                        bool fixed, const struct trace *t, uint32_t token, double *cost)
{
    const uint16_t *chosen = trace_at(t, token, layer);
    uint32_t ranks = p->cluster.ranks, all = 0;
    uint16_t at[TRACE_MAX_TOPK];

    for (uint32_t h = 0; h < (fixed ? 1 : ranks); h++) {
        route_choose(plan, &p->cluster, layer, chosen, t->topk, h, token, at);
        for (uint32_t i = 0; i < t->topk; i++) {
            if (!is_first(at, i))
                continue;
            if (fixed) { /* a vector for every home but one */
                all++;
                cost[at[i]]--;
            } else {
                cost[h] += at[i] != h;
            }
        }
    }
    for (uint32_t h = 0; h < ranks && fixed; h++)
        cost[h] += all;
}

/* cost[documents][ranks]: remote vectors of the whole document, judged by its prompt. */
static void price_homes(const struct place_problem *p, const struct trace *t,
                        const struct plan *plan, double *cost)
{
    uint32_t ranks = p->cluster.ranks;

    for (uint32_t l = 0; l < t->layers; l++) {
        bool fixed = one_copy_each(plan, l);

        for (uint32_t d = 0; d < t->documents; d++) {
            uint32_t first = t->doc[d], prompt = homes_prompt(p, t->doc[d + 1] - first);

            for (uint32_t i = first; i < first + prompt; i++)
                price_token(p, plan, l, fixed, t, i, cost + (size_t)d * ranks);
        }
    }
    for (uint32_t d = 0; d < t->documents; d++) {
        uint32_t length = t->doc[d + 1] - t->doc[d];

        for (uint32_t h = 0; h < ranks; h++)
            cost[(size_t)d * ranks + h] *= (double)length / homes_prompt(p, length);
    }
}

struct homing {
    const struct trace *t;
    const double *cost; /* [documents][ranks] */
    uint32_t ranks;
    double room; /* tokens a home may have */
    double held[PLAN_MAX_RANKS];
    uint16_t *home;
};

struct wish {
    double gain; /* over the mean home */
    uint32_t doc;
};

static int by_gain(const void *a, const void *b)
{
    const struct wish *x = a, *y = b;

    if (x->gain != y->gain)
        return x->gain > y->gain ? -1 : 1;
    return x->doc < y->doc ? -1 : 1;
}

static double length_of(const struct homing *h, uint32_t doc)
{
    return h->t->doc[doc + 1] - h->t->doc[doc];
}

/* The cheapest rank with room, or the emptiest. */
static void place_document(struct homing *h, uint32_t doc)
{
    const double *cost = h->cost + (size_t)doc * h->ranks;
    uint32_t best = UINT32_MAX, emptiest = 0;

    for (uint32_t g = 0; g < h->ranks; g++) {
        if (h->held[g] < h->held[emptiest])
            emptiest = g;
        if (h->held[g] + length_of(h, doc) <= h->room &&
            (best == UINT32_MAX || cost[g] < cost[best]))
            best = g;
    }
    best = best == UINT32_MAX ? emptiest : best;
    h->home[doc] = (uint16_t)best;
    h->held[best] += length_of(h, doc);
}

/* Exchanges two documents' homes where that is cheaper and no fuller than before or the room. */
static bool exchange(struct homing *h, uint32_t a, uint32_t b)
{
    uint16_t ga = h->home[a], gb = h->home[b];
    const double *ca = h->cost + (size_t)a * h->ranks, *cb = h->cost + (size_t)b * h->ranks;
    double shift = length_of(h, b) - length_of(h, a), gain = ca[ga] + cb[gb] - ca[gb] - cb[ga];
    double before = fmax(fmax(h->held[ga], h->held[gb]), h->room);

    if (ga == gb || gain <= 1e-9 * (ca[ga] + cb[gb]) ||
        fmax(h->held[ga] + shift, h->held[gb] - shift) > before)
        return false;
    h->held[ga] += shift;
    h->held[gb] -= shift;
    h->home[a] = gb;
    h->home[b] = ga;
    return true;
}

static void improve(struct homing *h)
{
    uint32_t documents = h->t->documents, reach = EXCHANGE_TRIES / EXCHANGE_PASSES / documents;
    bool better = true;

    for (int pass = 0; better && pass < EXCHANGE_PASSES; pass++) {
        better = false;
        for (uint32_t a = 0; a < documents; a++)
            for (uint32_t b = a + 1; b < documents && b - a <= reach; b++)
                better |= exchange(h, a, b);
    }
}

int homes_affinity(const struct place_problem *p, const struct trace *t, const struct plan *plan,
                   uint16_t *ret, struct mt_err *reterr)
{
    uint32_t ranks = p->cluster.ranks, documents = t->documents;
    double *cost = calloc((size_t)documents * ranks, sizeof *cost);
    struct wish *wish = calloc(documents, sizeof *wish);
    struct homing h = {.t = t, .cost = cost, .ranks = ranks, .home = ret};

    if (!cost || !wish) {
        free(cost);
        free(wish);
        return mt_error(reterr, MT_ENOMEM, "homes: no memory for %u documents", documents);
    }
    h.room = (1 + p->home_slack) * t->tokens / ranks;
    price_homes(p, t, plan, cost);
    for (uint32_t d = 0; d < documents; d++) {
        double sum = 0, least = INFINITY;

        for (uint32_t g = 0; g < ranks; g++) {
            sum += cost[(size_t)d * ranks + g];
            least = fmin(least, cost[(size_t)d * ranks + g]);
        }
        wish[d] = (struct wish){sum / ranks - least, d};
    }
    qsort(wish, documents, sizeof *wish, by_gain);
    for (uint32_t i = 0; i < documents; i++)
        place_document(&h, wish[i].doc);
    improve(&h);
    free(cost);
    free(wish);
    return 0;
}
