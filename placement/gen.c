#include "placement/gen.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement/random.h"

#define LONGEST 2.8 /* deviations of a logarithm of length */
#define FLOOR \
    1e-10        /* of the best liked: the sums grow with each expert, so that all can be drawn */
#define TRIES 64 /* draws that may repeat an expert, before the next one is taken */

/* Tables of one layer at a time, and the state of all tokens. */
struct gen {
    const struct gen_options *o;
    struct trace *t;
    double *zipf;      /* [kinds] running sums of 1, 1/2, 1/3, ... */
    uint16_t *topic;   /* [topics][kinds] kinds by rank */
    uint16_t *word;    /* [documents][words] */
    uint16_t *subject; /* [documents] topic */
    uint16_t *kind;    /* [tokens] in the present layer */
    double *popular;   /* [experts] logarithms */
    double *liking;    /* [kinds][experts] running sums of preference */
    uint16_t *member;  /* [experts] community */
};

static int check_counts(const struct gen_options *o, struct mt_err *reterr)
{
    const struct {
        const char *field;
        uint32_t value, max;
    } rows[] = {
        {"layers", o->layers, TRACE_MAX_LAYERS},
        {"experts", o->experts, TRACE_MAX_EXPERTS},
        {"topk", o->topk, o->experts < TRACE_MAX_TOPK ? o->experts : TRACE_MAX_TOPK},
        {"tokens", o->tokens, TRACE_MAX_TOKENS},
        {"documents", o->documents, o->tokens},
        {"kinds", o->kinds, GEN_MAX_KINDS},
        {"topics", o->topics, GEN_MAX_TOPICS},
        {"words", o->words, GEN_MAX_KINDS},
        {"community", o->community, o->experts},
        {"groups", o->groups, o->experts},
        {"groups_chosen", o->groups_chosen, o->groups},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].value < 1 || rows[i].value > rows[i].max)
            return mt_error(reterr, MT_EINVAL, "generated trace: %s: expected 1 to %u, found %u",
                            rows[i].field, rows[i].max, rows[i].value);
    if (o->experts % o->groups)
        return mt_error(reterr, MT_EINVAL,
                        "generated trace: groups: expected a divisor of %u experts, found %u",
                        o->experts, o->groups);
    if (o->experts / o->groups * o->groups_chosen < o->topk)
        return mt_error(reterr, MT_EINVAL,
                        "generated trace: groups_chosen: expected enough for top-%u, found %u of "
                        "%u experts",
                        o->topk, o->groups_chosen, o->experts / o->groups);
    if ((uint64_t)o->tokens * o->layers * o->topk > TRACE_MAX_FILE / 2)
        return mt_error(reterr, MT_ELIMIT,
                        "generated trace: tokens: expected at most %llu choices in all, found %llu",
                        TRACE_MAX_FILE / 2, (unsigned long long)o->tokens * o->layers * o->topk);
    return 0;
}

static int check_numbers(const struct gen_options *o, struct mt_err *reterr)
{
    const struct {
        const char *field;
        double value, max;
    } rows[] = {
        {"length_spread", o->length_spread, 4},
        {"popularity", o->popularity, 4},
        {"skew", o->skew, 1},
        {"group_popularity", o->group_popularity, 4},
        {"together", o->together, 8},
        {"alone", o->alone, 8},
        {"own", o->own, 1},
        {"topical", o->topical, 1 - o->own},
        {"stay", o->stay, 1},
        {"linger", o->linger, 1},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!(rows[i].value >= 0 && rows[i].value <= rows[i].max))
            return mt_error(reterr, MT_EINVAL, "generated trace: %s: expected 0 to %g, found %g",
                            rows[i].field, rows[i].max, rows[i].value);
    if (!memchr(o->name, 0, sizeof o->name))
        return mt_error(reterr, MT_EINVAL, "generated trace: name: expected at most %d bytes",
                        TRACE_NAME - 1);
    return 0;
}

/* Mean 0, deviation 1: the sum of twelve uniform numbers. */
static double normal(struct random *r)
{
    double sum = -6;

    for (int i = 0; i < 12; i++)
        sum += random_unit(r);
    return sum;
}

/* Experts' popularity: skewed towards the hot ones. */
static double skewed(struct random *r, double skew)
{
    double x = normal(r);

    return x + skew * (x * x - 1);
}

/* The first index whose running sum is above u. */
static uint32_t find(const double *sums, uint32_t n, double u)
{
    uint32_t low = 0, high = n - 1;

    while (low < high) {
        uint32_t mid = (low + high) / 2;

        if (sums[mid] > u)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

static void shuffle(struct random *r, uint16_t *list, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        list[i] = (uint16_t)i;
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = random_below(r, i);
        uint16_t x = list[i - 1];

        list[i - 1] = list[j];
        list[j] = x;
    }
}

static uint32_t draw_rank(const struct gen *g, struct random *r)
{
    return find(g->zipf, g->o->kinds, random_unit(r) * g->zipf[g->o->kinds - 1]);
}

static uint16_t draw_kind(const struct gen *g, struct random *r, uint32_t document)
{
    const struct gen_options *o = g->o;
    double u = random_unit(r);

    if (u < o->own)
        return g->word[(size_t)document * o->words + random_below(r, o->words)];
    if (u < o->own + o->topical)
        return g->topic[(size_t)g->subject[document] * o->kinds + draw_rank(g, r)];
    return (uint16_t)draw_rank(g, r);
}

/* Log-normal, cut so that no document is most of the trace. */
static double draw_length(const struct gen_options *o, struct random *r)
{
    double x = normal(r);

    return exp(o->length_spread * (x > LONGEST ? LONGEST : x));
}

/* Lengths scaled to the tokens there are; each at least 1. */
static void make_lengths(struct gen *g, struct random *r)
{
    const struct gen_options *o = g->o;
    double sum = 0, done = 0;
    struct random again = *r;
    uint32_t spare = o->tokens - o->documents;

    for (uint32_t d = 0; d < o->documents; d++)
        sum += draw_length(o, r);
    for (uint32_t d = 0; d < o->documents; d++) {
        done += draw_length(o, &again);
        g->t->doc[d + 1] = d + 1 + (uint32_t)(spare * (done / sum));
    }
    g->t->doc[o->documents] = o->tokens;
}

static void make_documents(struct gen *g)
{
    const struct gen_options *o = g->o;
    struct random r = {o->seed};

    make_lengths(g, &r);
    for (uint32_t k = 0; k < o->kinds; k++)
        g->zipf[k] = (k ? g->zipf[k - 1] : 0) + 1. / (k + 1);
    for (uint32_t s = 0; s < o->topics; s++)
        shuffle(&r, g->topic + (size_t)s * o->kinds, o->kinds);
    for (uint32_t d = 0; d < o->documents; d++) {
        g->subject[d] = (uint16_t)random_below(&r, o->topics);
        for (uint32_t w = 0; w < o->words; w++)
            g->word[(size_t)d * o->words + w] =
                g->topic[(size_t)g->subject[d] * o->kinds + draw_rank(g, &r)];
    }
}

/* Groups that a kind does not choose, struck out of its preferences. */
static void choose_groups(const struct gen *g, struct random *r, const double *favour,
                          double *liking)
{
    const struct gen_options *o = g->o;
    uint32_t size = o->experts / o->groups;
    double score[TRACE_MAX_EXPERTS];

    for (uint32_t i = 0; i < o->groups; i++)
        score[i] = favour[i] + o->together * normal(r);
    for (uint32_t i = 0; i < o->groups; i++) {
        uint32_t better = 0;

        for (uint32_t j = 0; j < o->groups; j++)
            better += score[j] > score[i] || (!(score[j] < score[i]) && j < i);
        if (better >= o->groups_chosen)
            memset(liking + (size_t)i * size, 0, size * sizeof *liking);
    }
}

/* What each kind prefers in a layer, as running sums. */
static void make_layer(struct gen *g, uint64_t seed, struct random *r)
{
    const struct gen_options *o = g->o;
    double favour[TRACE_MAX_EXPERTS] = {0}, taste[TRACE_MAX_EXPERTS] = {0};
    uint32_t communities = (o->experts + o->community - 1) / o->community;
    uint32_t size = o->experts / o->groups;

    shuffle(r, g->member, o->experts);
    for (uint32_t i = 0, e = 0; i < o->groups; i++) {
        favour[i] = o->groups > 1 ? o->group_popularity * normal(r) : 0;
        for (uint32_t n = 0; n < size; n++)
            g->popular[e++] = o->popularity * skewed(r, o->skew) + favour[i];
    }
    for (uint32_t k = 0; k < o->kinds; k++) {
        struct random mind = {seed + k}; /* the same in all layers */
        double *liking = g->liking + (size_t)k * o->experts, most = 0;

        for (uint32_t c = 0; c < communities; c++)
            taste[c] = o->together * normal(&mind);
        for (uint32_t e = 0; e < o->experts; e++) {
            liking[e] =
                exp(g->popular[e] + taste[g->member[e] / o->community] + o->alone * normal(r));
            most = liking[e] > most ? liking[e] : most;
        }
        for (uint32_t e = 0; e < o->experts; e++)
            liking[e] += FLOOR * most;
        if (o->groups > 1)
            choose_groups(g, r, favour, liking);
        for (uint32_t e = 1; e < o->experts; e++)
            liking[e] += liking[e - 1];
    }
}

static int is_new(const uint16_t *chosen, uint32_t n, uint32_t expert)
{
    for (uint32_t k = 0; k < n; k++)
        if (chosen[k] == expert)
            return 0;
    return 1;
}

static void choose(const struct gen *g, struct random *r, uint32_t kind, uint16_t *ret)
{
    uint32_t n = g->o->experts;
    const double *sums = g->liking + (size_t)kind * n;

    for (uint32_t k = 0; k < g->o->topk; k++) {
        uint32_t e, tries = 0;

        do
            e = find(sums, n, random_unit(r) * sums[n - 1]);
        while (!is_new(ret, k, e) && ++tries < TRIES);
        while (!is_new(ret, k, e) || !(sums[e] > (e ? sums[e - 1] : 0)))
            e = (e + 1) % n;
        ret[k] = (uint16_t)e;
    }
}

static void fill_layer(struct gen *g, uint32_t layer, struct random *r)
{
    const struct gen_options *o = g->o;
    struct trace *t = g->t;

    for (uint32_t d = 0; d < t->documents; d++)
        for (uint32_t i = t->doc[d]; i < t->doc[d + 1]; i++) {
            if (!layer && i > t->doc[d] && random_unit(r) < o->linger)
                g->kind[i] = g->kind[i - 1];
            else if (!layer || random_unit(r) >= o->stay)
                g->kind[i] = draw_kind(g, r, d);
            choose(g, r, g->kind[i], t->choice + ((size_t)i * t->layers + layer) * t->topk);
        }
}

static void release(struct gen *g)
{
    free(g->zipf);
    free(g->topic);
    free(g->word);
    free(g->subject);
    free(g->kind);
    free(g->popular);
    free(g->liking);
    free(g->member);
}

static int reserve(struct gen *g, struct mt_err *reterr)
{
    const struct gen_options *o = g->o;
    struct trace *t = g->t;

    t->doc = calloc((size_t)o->documents + 1, sizeof *t->doc);
    t->choice = calloc((size_t)o->tokens * o->layers * o->topk, sizeof *t->choice);
    g->zipf = calloc(o->kinds, sizeof *g->zipf);
    g->topic = calloc((size_t)o->topics * o->kinds, sizeof *g->topic);
    g->word = calloc((size_t)o->documents * o->words, sizeof *g->word);
    g->subject = calloc(o->documents, sizeof *g->subject);
    g->kind = calloc(o->tokens, sizeof *g->kind);
    g->popular = calloc(o->experts, sizeof *g->popular);
    g->liking = calloc((size_t)o->kinds * o->experts, sizeof *g->liking);
    g->member = calloc(o->experts, sizeof *g->member);
    if (t->doc && t->choice && g->zipf && g->topic && g->word && g->subject && g->kind &&
        g->popular && g->liking && g->member)
        return 0;
    return mt_error(reterr, MT_ENOMEM, "generated trace: no memory for %u tokens", o->tokens);
}

int gen_trace(const struct gen_options *o, struct trace *ret, struct mt_err *reterr)
{
    struct trace t = {.layers = o->layers,
                      .experts = o->experts,
                      .topk = o->topk,
                      .tokens = o->tokens,
                      .documents = o->documents};
    struct gen g = {.o = o, .t = &t};
    struct random first = {o->seed};
    uint64_t minds = random_next(&first);
    int rc = check_counts(o, reterr);

    if (!rc)
        rc = check_numbers(o, reterr);
    if (rc)
        return rc;
    snprintf(t.name, sizeof t.name, "%s", o->name);
    rc = reserve(&g, reterr);
    if (!rc)
        make_documents(&g);
    for (uint32_t l = 0; !rc && l < o->layers; l++) {
        struct random seed = {o->seed ^ (0x6c61796572ull + l)}, r = {random_next(&seed)};

        make_layer(&g, minds, &r);
        fill_layer(&g, l, &r);
    }
    release(&g);
    if (rc)
        trace_done(&t);
    else
        *ret = t;
    return rc;
}

void gen_defaults(uint32_t layers, uint32_t experts, uint32_t topk, struct gen_options *ret)
{
    struct gen_options o = {
        .name = "generated",
        .layers = layers,
        .experts = experts,
        .topk = topk,
        .tokens = 16384,
        .documents = 188,
        .seed = 1,
        .kinds = experts < GEN_MAX_KINDS / 2 ? experts + experts / 4 + 1 : GEN_MAX_KINDS,
        .topics = 24,
        .words = 6,
        .community = topk,
        .groups = 1,
        .groups_chosen = 1,
        .length_spread = 1.5,
        .popularity = 0.32,
        .skew = 0.2,
        .together = 2.3,
        .alone = 1.4,
        .own = 0.7,
        .topical = 0.25,
        .linger = 0.4,
        .stay = 0.99,
    };

    if (experts >= 256 && experts % 8 == 0) {
        o.groups = 8;
        o.groups_chosen = 4;
        o.group_popularity = 0.55;
        o.popularity = 0.75;
        o.skew = 0.3;
    }
    if (o.community > experts)
        o.community = experts;
    *ret = o;
}
