#include "placement/pricing.h"

#include <stdlib.h>
#include <string.h>

#define ASK_EVERY 1024  /* nodes between two questions whether to stop */
#define OVERLAP_DEPTH 2 /* pairs are counted anew on what is uncovered down to this depth */
#define SLACK 1e-9      /* rounding of sums of f and C */

/* What a node of the tree knows of the experts that may join the set. Overlaps are inherited from
 * the last level that counted them: on more tokens, so never too few. */
struct pricing_level {
    uint32_t n;
    uint16_t expert[PLACE_MAX_EXPERTS]; /* [n], the most promising first */
    double *gain;                       /* [experts] f of what is not covered yet */
    double *least;                      /* [experts] at least what it adds to f */
    double *bound;                      /* [experts] ... to the reduced cost */
    float *pair;                        /* [experts][experts] overlap of what is not covered */
    float *half;                        /* [experts][size]: half of the largest k overlaps */
    uint32_t pairs_at;                  /* the level whose pair and half are in force */
};

static uint64_t *uncovered(struct pricing *p, uint32_t depth)
{
    return p->bits + (size_t)depth * p->cover->words;
}

int pricing_new(const struct cover *cover, uint32_t size, struct pricing *ret,
                struct mt_err *reterr)
{
    struct pricing p = {.cover = cover, .size = size};
    size_t experts = cover->experts;
    bool whole = true;

    p.best = calloc(PRICING_KEEP, sizeof *p.best);
    p.level = calloc(size + 1, sizeof *p.level);
    p.bits = calloc((size_t)(size + 2) * cover->words + 1, sizeof *p.bits);
    for (uint32_t d = 0; p.level && d <= size; d++) {
        p.level[d].gain = calloc(experts, sizeof(double));
        p.level[d].bound = calloc(experts, sizeof(double));
        p.level[d].least = calloc(experts, sizeof(double));
        whole &= p.level[d].gain && p.level[d].bound && p.level[d].least;
        if (d > OVERLAP_DEPTH)
            continue;
        p.level[d].pair = calloc(experts * experts, sizeof(float));
        p.level[d].half = calloc(experts * (size + 1), sizeof(float));
        whole &= p.level[d].pair && p.level[d].half;
    }
    *ret = p;
    if (p.best && p.level && p.bits && whole)
        return 0;
    pricing_done(ret);
    return mt_error(reterr, MT_ENOMEM, "bound: no memory to price sets of %u experts", size);
}

void pricing_done(struct pricing *p)
{
    for (uint32_t d = 0; p->level && d <= p->size; d++) {
        free(p->level[d].gain);
        free(p->level[d].bound);
        free(p->level[d].least);
        free(p->level[d].pair);
        free(p->level[d].half);
    }
    free(p->best);
    free(p->level);
    free(p->bits);
    *p = (struct pricing){.best = NULL};
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* --- branch and bound ------------------------------------------------------------------------- */

/* The set so far. */
struct partial {
    uint32_t depth;
    double cost, covered, compute; /* f - pi, f, C */
    double promise;                /* no set that contains it costs less */
    uint16_t expert[PRICING_MAX_SIZE];
};

static void keep(struct pricing *p, const struct partial *s, double cost)
{
    uint32_t at = p->found;

    if (at == PRICING_KEEP && p->best[at - 1].cost <= cost)
        return;
    if (at == PRICING_KEEP)
        at--;
    else
        p->found++;
    while (at > 0 && p->best[at - 1].cost > cost) {
        p->best[at] = p->best[at - 1];
        at--;
    }
    p->best[at].cost = cost;
    memcpy(p->best[at].expert, s->expert, sizeof s->expert);
}

static bool over(struct pricing *p)
{
    if (++p->nodes % ASK_EVERY == 0 && !p->aborted)
        p->aborted = p->nodes >= p->max_nodes || (p->stop && p->stop(p->user));
    return p->aborted;
}

/* Overlaps of all pairs of the level's experts on what is not covered, and their partial sums. */
static void count_pairs(struct pricing *p, uint32_t depth)
{
    struct pricing_level *l = &p->level[depth];
    const struct cover *c = p->cover;
    uint32_t left = p->size - depth;
    uint64_t *both = uncovered(p, p->size + 1);
    double overlap[PLACE_MAX_EXPERTS];

    for (uint32_t i = 0; i < l->n; i++) {
        const uint64_t *open = uncovered(p, depth), *row = c->row + (size_t)l->expert[i] * c->words;

        for (uint32_t w = 0; w < c->words; w++)
            both[w] = open[w] & row[w];
        cover_overlaps(c, both, l->expert + i + 1, l->n - i - 1, overlap);
        for (uint32_t k = i + 1; k < l->n; k++) {
            /* Rounded up: floats that are never too small. */
            float v = (float)(overlap[k - i - 1] * (1 + 1e-6));

            l->pair[(size_t)l->expert[i] * c->experts + l->expert[k]] = v;
            l->pair[(size_t)l->expert[k] * c->experts + l->expert[i]] = v;
        }
    }
    for (uint32_t i = 0; i < l->n; i++) {
        const float *pair = l->pair + (size_t)l->expert[i] * c->experts;
        float *half = l->half + (size_t)l->expert[i] * (p->size + 1);
        float top[PRICING_MAX_SIZE + 1] = {0};

        for (uint32_t k = 0; k < l->n; k++) {
            uint32_t at = left - 1;

            if (k == i || left < 2 || pair[l->expert[k]] <= top[at - 1])
                continue;
            for (at = left - 2; at > 0 && top[at - 1] < pair[l->expert[k]]; at--)
                top[at] = top[at - 1];
            top[at] = pair[l->expert[k]];
        }
        half[0] = 0;
        for (uint32_t k = 1; k < left; k++)
            half[k] = half[k - 1] + top[k - 1] / 2;
    }
    l->pairs_at = depth;
}

/* At least what an expert adds to f with r - 1 others: a token that c of them choose counts 1/c for
 * each, and for every k >= 1
 *     1/c >= 2/(k+1) - (c-1)/(k(k+1)),
 * whose sums over the expert's tokens are its gain and half of its overlaps with the others. */
static double share_bound(double gain, double half, uint32_t others)
{
    static const double ONE[] = {0,       1,       1.0 / 2, 1.0 / 3, 1.0 / 4,
                                 1.0 / 5, 1.0 / 6, 1.0 / 7, 1.0 / 8, 1.0 / 9};
    double best = -1e300;

    for (uint32_t k = 1; k <= others + 1 && k <= 8; k++) { /* rises to its peak, then falls */
        double v = (gain - half * ONE[k]) * 2 * ONE[k + 1];

        if (v < best)
            break;
        best = v;
    }
    return larger(best, 0);
}

/* What the level's experts add at least, with `left` to be chosen in all. */
static void bound_gains(struct pricing *p, uint32_t depth, uint32_t left)
{
    struct pricing_level *l = &p->level[depth], *from = &p->level[l->pairs_at];

    for (uint32_t i = 0; i < l->n; i++) {
        uint16_t e = l->expert[i];
        double half = from->half[(size_t)e * (p->size + 1) + left - 1];

        l->least[e] = share_bound(l->gain[e], half, left - 1);
        l->bound[e] = l->least[e] - p->pi[e];
    }
}

/* The `left` smallest of value[e] over the level's experts, together; sign -1: the largest,
 * negated. */
static double least_sum(const struct pricing_level *l, const double *value, double sign,
                        uint32_t left)
{
    double least[PRICING_MAX_SIZE] = {0}, sum = 0;

    for (uint32_t i = 0; i < l->n; i++) {
        double v = sign * value[l->expert[i]];
        uint32_t at = i < left ? i : left - 1;

        if (i >= left && least[at] <= v)
            continue;
        for (; at > 0 && least[at - 1] > v; at--)
            least[at] = least[at - 1];
        least[at] = v;
    }
    for (uint32_t i = 0; i < left && i < l->n; i++)
        sum += least[i];
    return sum;
}

/* Sorts by bound, drops experts that no good set contains; returns false if nothing is left. With
 * the r least bounds b_1 <= ... <= b_r, a set that contains i costs at least b_i + b_1 + ... +
 * b_(r-1) (or the sum of all r, if i is among them). */
static bool sift(struct pricing *p, const struct partial *s, uint32_t left)
{
    struct pricing_level *l = &p->level[s->depth];
    double others = s->cost;

    if (l->n < left)
        return false;
    for (uint32_t i = 1; i < l->n; i++) {
        uint16_t e = l->expert[i];
        double v = l->bound[e];
        uint32_t k = i;

        for (; k > 0 && l->bound[l->expert[k - 1]] > v; k--)
            l->expert[k] = l->expert[k - 1];
        l->expert[k] = e;
    }
    for (uint32_t i = 0; i + 1 < left; i++)
        others += l->bound[l->expert[i]];
    if (others + l->bound[l->expert[left - 1]] >= p->limit)
        return false;
    while (l->n > left && others + l->bound[l->expert[l->n - 1]] >= p->limit)
        l->n--;
    return true;
}

/* Whether C can be in the window and f below the cap, whatever joins. */
static bool within_reach(const struct pricing *p, const struct partial *s, uint32_t left)
{
    const struct pricing_level *l = &p->level[s->depth];
    const double *compute = p->cover->compute;

    return s->covered + least_sum(l, l->least, 1, left) <= p->window.cap &&
           s->compute + least_sum(l, compute, 1, left) <= p->window.most &&
           s->compute - least_sum(l, compute, -1, left) >= p->window.least;
}

static void count_gains(struct pricing *p, uint32_t depth)
{
    struct pricing_level *l = &p->level[depth];
    double gain[PLACE_MAX_EXPERTS];

    cover_overlaps(p->cover, uncovered(p, depth), l->expert, l->n, gain);
    for (uint32_t i = 0; i < l->n; i++)
        l->gain[l->expert[i]] = gain[i];
}

static void uncover(struct pricing *p, const struct partial *s)
{
    uint32_t words = p->cover->words;
    const uint64_t *open = uncovered(p, s->depth - 1);
    const uint64_t *row = p->cover->row + (size_t)s->expert[s->depth - 1] * words;
    uint64_t *rest = uncovered(p, s->depth);

    for (uint32_t w = 0; w < words; w++)
        rest[w] = open[w] & ~row[w];
}

/* The last expert. */
static void finish(struct pricing *p, struct partial *s)
{
    struct pricing_level *l = &p->level[s->depth];
    uint32_t n = 0;

    for (uint32_t i = 0; i < l->n; i++) {
        uint16_t e = l->expert[i];
        double c = s->compute + p->cover->compute[e];

        if (s->cost + l->gain[e] - p->pi[e] < p->limit && c <= p->window.most &&
            c >= p->window.least && s->covered + l->gain[e] <= p->window.cap)
            l->expert[n++] = e;
    }
    l->n = n;
    if (!n)
        return;
    if (s->depth > 0)
        uncover(p, s);
    count_gains(p, s->depth);
    for (uint32_t i = 0; i < n; i++) {
        uint16_t e = l->expert[i];
        double cost = s->cost + l->gain[e] - p->pi[e];

        if (cost >= p->limit || s->covered + l->gain[e] > p->window.cap)
            continue;
        s->expert[s->depth] = e;
        keep(p, s, cost);
        p->limit = cost;
        p->aborted |= p->enough && p->found >= p->enough;
    }
}

static void grow(struct pricing *p, struct partial *s);

/* The set with the i-th candidate, and of the others only those after it. Their gains are bounded
 * by the overlaps with it until they are counted. */
static void branch(struct pricing *p, struct partial *s, uint32_t i)
{
    struct pricing_level *l = &p->level[s->depth], *to = l + 1;
    const struct cover *c = p->cover;
    uint16_t e = l->expert[i];
    const float *pair = p->level[l->pairs_at].pair + (size_t)e * c->experts;
    struct partial before = *s;

    to->n = l->n - i - 1;
    to->pairs_at = l->pairs_at;
    for (uint32_t k = 0; k < to->n; k++) {
        uint16_t other = l->expert[i + 1 + k];

        to->expert[k] = other;
        to->gain[other] = larger(l->gain[other] - pair[other], 0);
    }
    s->expert[s->depth++] = e;
    s->cost += l->gain[e] - p->pi[e];
    s->covered += l->gain[e];
    s->compute += c->compute[e];
    if (s->covered <= p->window.cap)
        grow(p, s);
    *s = before;
}

static bool promising(struct pricing *p, const struct partial *s, uint32_t left)
{
    bound_gains(p, s->depth, left);
    return sift(p, s, left) && within_reach(p, s, left);
}

static void grow(struct pricing *p, struct partial *s)
{
    struct pricing_level *l = &p->level[s->depth];
    uint32_t left = p->size - s->depth;

    if (over(p)) {
        p->frontier = p->frontier < s->promise ? p->frontier : s->promise;
        return;
    }
    if (left == 1) {
        finish(p, s);
        return;
    }
    if (l->n < left || !promising(p, s, left))
        return;
    if (s->depth > 0) {
        uncover(p, s);
        count_gains(p, s->depth);
        if (s->depth <= OVERLAP_DEPTH && left > 2)
            count_pairs(p, s->depth);
        if (!promising(p, s, left))
            return;
    }
    for (uint32_t i = 0; i + left <= l->n; i++) {
        double sum = s->cost;

        for (uint32_t k = 0; k < left; k++)
            sum += l->bound[l->expert[i + k]];
        if (sum >= p->limit)
            return;
        s->promise = sum;
        if (p->aborted) {
            p->frontier = p->frontier < sum ? p->frontier : sum;
            return;
        }
        branch(p, s, i);
    }
}

double pricing_exact(struct pricing *p, const double *pi, double limit)
{
    struct pricing_level *l = &p->level[0];
    struct partial s = {.promise = -1e300};

    p->pi = pi;
    p->limit = limit;
    p->frontier = 1e300;
    p->aborted = false;
    p->nodes = 0;
    p->found = 0;
    l->n = p->cover->experts;
    l->pairs_at = 0;
    for (uint32_t e = 0; e < l->n; e++)
        l->expert[e] = (uint16_t)e;
    memcpy(uncovered(p, 0), p->cover->all, p->cover->words * sizeof *p->bits);
    count_gains(p, 0);
    count_pairs(p, 0);
    bound_gains(p, 0, p->size);

    grow(p, &s);
    return (p->limit < p->frontier ? p->limit : p->frontier) - SLACK;
}

/* --- descent ---------------------------------------------------------------------------------- */

/* How far outside the window a set is; 0: inside. */
static double outside(const struct pricing *p, double compute, double f)
{
    double by = larger(compute - p->window.most, p->window.least - compute);

    return (by > 0 ? by / p->window.most : 0) + larger(f - p->window.cap, 0);
}

struct exchange {
    uint32_t out;
    uint16_t in;
    double value, cost;
};

/* The best exchange of the out-th expert: less far outside the window first, then by cost. */
static void best_exchange(struct pricing *p, const uint16_t *expert, uint32_t out,
                          const uint16_t *others, uint32_t n, struct exchange *best)
{
    const struct cover *c = p->cover;
    uint64_t *open = uncovered(p, 0);
    double gain[PLACE_MAX_EXPERTS], compute = 0, sum = 0, covered;

    for (uint32_t w = 0; w < c->words; w++) {
        uint64_t bits = 0;

        for (uint32_t k = 0; k < p->size; k++)
            bits |= k == out ? 0 : c->row[(size_t)expert[k] * c->words + w];
        open[w] = c->all[w] & ~bits;
    }
    covered = cover_part(c, c->all) - cover_part(c, open);
    for (uint32_t k = 0; k < p->size; k++) {
        compute += k == out ? 0 : c->compute[expert[k]];
        sum += k == out ? 0 : p->pi[expert[k]];
    }
    cover_overlaps(c, open, others, n, gain);
    for (uint32_t k = 0; k < n; k++) {
        double f = covered + gain[k], cost = f - sum - p->pi[others[k]];
        double far = outside(p, compute + c->compute[others[k]], f);
        double value = far > 0 ? 1e3 * (1 + far) + cost : cost;

        if (value < best->value - 1e-12)
            *best = (struct exchange){out, others[k], value, cost};
    }
}

double pricing_descend(struct pricing *p, const double *pi, uint16_t *expert, bool *ret_inside)
{
    uint16_t others[PLACE_MAX_EXPERTS];
    bool inside[PLACE_MAX_EXPERTS];
    struct exchange last = {.value = 1e300};

    p->pi = pi;
    best_exchange(p, expert, 0, expert, 1, &last); /* of the first for itself: what stands */
    for (;;) {
        struct exchange best = last;
        uint32_t n = 0;

        memset(inside, 0, sizeof inside);
        for (uint32_t k = 0; k < p->size; k++)
            inside[expert[k]] = true;
        for (uint32_t e = 0; e < p->cover->experts; e++)
            if (!inside[e])
                others[n++] = (uint16_t)e;
        for (uint32_t k = 0; k < p->size; k++)
            best_exchange(p, expert, k, others, n, &best);
        if (best.value >= last.value)
            break;
        expert[best.out] = best.in;
        last = best;
    }
    *ret_inside = last.value < 1e3;
    return last.cost;
}
