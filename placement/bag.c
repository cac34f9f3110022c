#include "placement/bag.h"

#include <stdlib.h>
#include <string.h>

#include "placement/homes.h"
#include "placement/random.h"

#define SMALL_CLASS 8 /* words; classes of fewer words are not rounded up to whole vectors */

/* One group while it is made: which tokens of the trace belong to it. */
struct part {
    enum { PART_ALL, PART_PROMPTS, PART_REST } what;
    const uint16_t *homes; /* [documents], or NULL */
    double keep;           /* part of its tokens that is taken */
};

static bool belongs(const struct place_problem *p, const struct trace *t, const struct part *part,
                    uint32_t doc, uint32_t token)
{
    uint32_t prompt;

    if (part->what == PART_ALL)
        return true;
    prompt = homes_prompt(p, t->doc[doc + 1] - t->doc[doc]);
    return (token - t->doc[doc] < prompt) == (part->what == PART_PROMPTS);
}

static void add_group(struct bag *b, struct part *parts, const struct place_scenario *s,
                      struct part part)
{
    for (uint32_t g = 0; g < b->groups; g++)
        if (b->group[g].trace == s->trace && parts[g].what == part.what) {
            b->group[g].weight += s->share;
            return;
        }
    parts[b->groups] = part;
    b->group[b->groups++] = (struct bag_group){.trace = s->trace, .weight = s->share};
}

static void find_groups(struct bag *b, const uint16_t *const *homes, struct part *parts)
{
    for (uint32_t i = 0; i < b->p->scenarios; i++) {
        const struct place_scenario *s = &b->p->scenario[i];

        if (!s->trace)
            continue;
        if (b->p->homes == PLACE_HOMES_LOAD)
            add_group(b, parts, s, (struct part){PART_ALL, NULL, 1});
        else if (s->phase == PLACE_PREFILL)
            add_group(b, parts, s, (struct part){PART_PROMPTS, NULL, 1});
        else
            add_group(b, parts, s, (struct part){PART_REST, homes[i], 1});
    }
}

/* Groups count by their shares, not their lengths: each has the same room. Returns how many tokens
 * are taken at most. */
static size_t divide_room(const struct bag *b, struct part *parts, uint32_t max_tokens)
{
    size_t sum = 0;

    for (uint32_t g = 0; g < b->groups; g++) {
        const struct trace *t = b->group[g].trace;
        uint32_t n = 0, room = max_tokens / b->groups;

        for (uint32_t d = 0; d < t->documents; d++)
            for (uint32_t i = t->doc[d]; i < t->doc[d + 1]; i++)
                n += belongs(b->p, t, &parts[g], d, i);
        parts[g].keep = n > room ? (double)room / n : 1;
        sum += (n > room ? room : n) + 1; /* one for rounding */
    }
    return sum;
}

/* Every rank once in each `n` draws: homes as even as they can be, and less noise in prices. */
struct deck {
    uint32_t n, left;
    uint16_t rank[PLAN_MAX_RANKS];
};

static uint32_t deck_draw(struct deck *d, struct random *r)
{
    uint32_t i;
    uint16_t rank;

    d->left = d->left ? d->left : d->n;
    i = random_below(r, d->left--);
    rank = d->rank[i];
    d->rank[i] = d->rank[d->left];
    d->rank[d->left] = rank;
    return rank;
}

/* Fills token, token_group and, in bit, the class; counts each class in class_word. */
static void draw_tokens(struct bag *b, const struct part *parts, enum bag_homes kind, uint64_t seed)
{
    struct random r = {seed};
    uint32_t ranks = b->p->cluster.ranks;
    struct deck deck = {.n = ranks};

    for (uint32_t g = 0; g < ranks; g++)
        deck.rank[g] = (uint16_t)g;
    for (uint32_t g = 0; g < b->groups; g++) {
        struct bag_group *group = &b->group[g];
        const struct trace *t = group->trace;
        double due = 0;

        group->first = b->classes;
        group->homes = parts[g].homes || kind == BAG_ASSIGNED;
        b->classes += group->homes ? ranks : 1;
        for (uint32_t d = 0; d < t->documents; d++)
            for (uint32_t i = t->doc[d]; i < t->doc[d + 1]; i++) {
                uint32_t class = group->first;

                if (!belongs(b->p, t, &parts[g], d, i))
                    continue;
                due += parts[g].keep;
                if (due < 1)
                    continue;
                due -= 1;
                if (group->homes)
                    class += parts[g].homes ? parts[g].homes[d] : deck_draw(&deck, &r);
                b->token[b->tokens] = i;
                b->token_group[b->tokens] = (uint16_t)g;
                b->bit[b->tokens++] = class;
                b->class_word[class + 1]++;
                group->tokens++;
            }
    }
}

/* Tokens per class become first words, classes become bits. */
static int lay_out(struct bag *b)
{
    uint32_t *next = calloc(b->classes + 1, sizeof *next);

    if (!next)
        return -1;
    for (uint32_t c = 0; c < b->classes; c++) {
        uint32_t words = (b->class_word[c + 1] + 63) / 64;

        if (words > SMALL_CLASS)
            words = (words + 7) & ~7u;
        b->class_word[c + 1] = b->class_word[c] + words;
        next[c] = b->class_word[c] * 64;
    }
    b->words = b->class_word[b->classes];
    for (uint32_t i = 0; i < b->tokens; i++)
        b->bit[i] = next[b->bit[i]]++;
    free(next);
    return 0;
}

static void name_homes(struct bag *b)
{
    for (uint32_t g = 0; g < b->groups; g++) {
        struct bag_group *group = &b->group[g];
        uint32_t n = group->homes ? b->p->cluster.ranks : 1;

        group->weight /= group->tokens ? group->tokens : 1;
        for (uint32_t k = 0; k < n; k++)
            b->class_home[group->first + k] = (uint16_t)(group->homes ? k : b->p->cluster.ranks);
    }
}

int bag_new(const struct place_problem *p, const uint16_t *const *homes, enum bag_homes kind,
            uint32_t max_tokens, uint64_t seed, struct bag *ret, struct mt_err *reterr)
{
    struct bag b = {.p = p};
    struct part parts[BAG_MAX_GROUPS];
    struct random r = {seed ^ 0x706c616e65735full};
    size_t most, classes;

    find_groups(&b, homes, parts);
    most = divide_room(&b, parts, max_tokens);
    classes = (size_t)b.groups * p->cluster.ranks;
    b.class_word = calloc(classes + 2, sizeof *b.class_word);
    b.class_home = calloc(classes + 1, sizeof *b.class_home);
    b.token = calloc(most + 1, sizeof *b.token);
    b.bit = calloc(most + 1, sizeof *b.bit);
    b.token_group = calloc(most + 1, sizeof *b.token_group);
    if (!b.class_word || !b.class_home || !b.token || !b.bit || !b.token_group)
        goto no_memory;
    draw_tokens(&b, parts, kind, seed);
    if (lay_out(&b))
        goto no_memory;
    name_homes(&b);
    b.planes = calloc((size_t)b.words * BAG_PLANES + 1, sizeof *b.planes);
    if (!b.planes)
        goto no_memory;
    for (size_t i = 0; i < (size_t)b.words * BAG_PLANES; i++)
        b.planes[i] = random_next(&r);
    *ret = b;
    return 0;
no_memory:
    bag_done(&b);
    return mt_error(reterr, MT_ENOMEM, "search: no memory for %zu tokens", most);
}

void bag_done(struct bag *b)
{
    free(b->class_word);
    free(b->class_home);
    free(b->token_group);
    free(b->token);
    free(b->bit);
    free(b->planes);
    *b = (struct bag){0};
}

void bag_layer(const struct bag *b, uint32_t layer, uint64_t *x)
{
    memset(x, 0, (size_t)(b->p->experts + 1) * b->words * sizeof *x);
    for (uint32_t i = 0; i < b->tokens; i++) {
        const struct trace *t = b->group[b->token_group[i]].trace;
        const uint16_t *chosen = trace_at(t, b->token[i], layer);

        for (uint32_t k = 0; k < t->topk; k++)
            x[(size_t)chosen[k] * b->words + b->bit[i] / 64] |= 1ull << (b->bit[i] % 64);
    }
}
