#include "placement/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/homes.h"
#include "placement/random.h"

#define PIECE 32 /* tokens: what counts as a document where there are few */
#define FEW_DOCUMENTS 16
#define FEWEST 4 /* samples of a scenario that varies */

/* One sample: a list of tokens; or, without one, a column of its scenario's pieces, or its loads.
 */
struct sample {
    uint32_t scenario;
    uint32_t *token; /* [tokens], or NULL */
    uint32_t tokens;
};

/* The tokens that a scenario is made of (by affinity prompts alone, or what follows them: score.h),
 * cut into what is resampled. */
struct pieces {
    const struct trace *trace;
    uint32_t *token; /* [tokens] indexes into the trace; NULL: all of it */
    uint32_t tokens, n;
    uint32_t *start; /* [n + 1] among the tokens */
    float *weight;   /* [n][samples]: of each piece in each sample; NULL: not resampled */
    uint32_t first, samples;
};

struct sample_set {
    const struct place_problem *p;
    uint32_t count, used;
    struct sample *sample; /* [used] */
    struct pieces *pieces; /* [scenarios] */
    double *token_cost, *active_cost, *weight;
};

static uint32_t token_of(const struct pieces *p, uint32_t i)
{
    return p->token ? p->token[i] : i;
}

/* The part of a document that the scenario has. */
static void range_of(const struct place_problem *p, const struct place_scenario *s, uint32_t doc,
                     uint32_t *ret_first, uint32_t *ret_end)
{
    uint32_t first = s->trace->doc[doc], end = s->trace->doc[doc + 1];
    uint32_t prompt = homes_prompt(p, end - first);

    *ret_first = *ret_end = first + prompt;
    if (p->homes == PLACE_HOMES_LOAD || s->phase == PLACE_PREFILL)
        *ret_first = first;
    if (p->homes == PLACE_HOMES_LOAD || s->phase == PLACE_DECODE)
        *ret_end = end;
}

static void cut_document(struct pieces *p, uint32_t first, uint32_t end, uint32_t longest)
{
    while (first < end) {
        uint32_t n = end - first < longest ? end - first : longest;

        p->start[p->n++] = p->tokens;
        for (uint32_t i = 0; p->token && i < n; i++)
            p->token[p->tokens + i] = first + i;
        p->tokens += n;
        first += n;
    }
}

static int cut_pieces(const struct place_problem *p, const struct place_scenario *s,
                      struct pieces *ret)
{
    const struct trace *t = s->trace;
    uint32_t longest = t->documents >= FEW_DOCUMENTS ? UINT32_MAX : PIECE;

    ret->trace = t;
    ret->start = calloc((size_t)t->documents + t->tokens / PIECE + 2, sizeof *ret->start);
    if (p->homes == PLACE_HOMES_AFFINITY)
        ret->token = calloc(t->tokens, sizeof *ret->token);
    if (!ret->start || (p->homes == PLACE_HOMES_AFFINITY && !ret->token))
        return -1;
    for (uint32_t d = 0; d < t->documents; d++) {
        uint32_t first, end;

        range_of(p, s, d, &first, &end);
        cut_document(ret, first, end, longest);
    }
    ret->start[ret->n] = ret->tokens;
    return 0;
}

/* Draws pieces with replacement into weight[n] (stride apart); their sum is made 1 over tokens. */
static void draw_pieces(const struct pieces *p, const struct sample_rule *rule, struct random *r,
                        float *weight, size_t stride)
{
    uint32_t n = (uint32_t)fmax(1, round(rule->documents * p->n));
    double total = 0;

    for (uint32_t i = 0; i < n; i++)
        weight[random_below(r, p->n) * stride] += 1;
    for (uint32_t i = 0; i < p->n; i++) {
        double length = p->start[i + 1] - p->start[i];

        if (rule->cap > 0 && length > rule->cap)
            weight[i * stride] *= (float)(rule->cap / length);
        total += (double)weight[i * stride] * length;
    }
    for (uint32_t i = 0; i < p->n; i++)
        weight[i * stride] /= (float)total;
}

/* Tokens drawn from weighted pieces. */
static void draw_tokens(const struct pieces *p, const float *weight, size_t stride,
                        struct random *r, struct sample *s)
{
    double step = 1.0 / s->tokens, due = random_unit(r) * step, sum = 0;
    uint32_t k = 0;

    for (uint32_t i = 0; i < p->n; i++) {
        uint32_t length = p->start[i + 1] - p->start[i];

        sum += (double)weight[i * stride] * length;
        while (k < s->tokens && due < sum) {
            s->token[k++] = token_of(p, p->start[i] + random_below(r, length));
            due += step;
        }
    }
    while (k < s->tokens) /* rounding of the sum */
        s->token[k++] = token_of(p, p->tokens - 1);
}

/* The i-th of n of the trace's own decode steps. */
static void take_step(const struct pieces *p, uint32_t i, uint32_t n, struct sample *s)
{
    uint64_t all = p->tokens, shift = i * all / ((uint64_t)s->tokens * n);

    for (uint32_t k = 0; k < s->tokens; k++)
        s->token[k] = token_of(p, (uint32_t)((k * all / s->tokens + shift) % all));
}

static int make_sample(struct sample_set *set, const struct sample_rule *rule, uint32_t scenario,
                       uint32_t i, struct random *r)
{
    const struct place_scenario *sc = &set->p->scenario[scenario];
    struct pieces *pieces = &set->pieces[scenario];
    struct sample *s = &set->sample[set->used++];

    *s = (struct sample){.scenario = scenario};
    if (pieces->weight)
        draw_pieces(pieces, rule, r, pieces->weight + i, pieces->samples);
    if (!sc->trace || sc->phase == PLACE_PREFILL)
        return 0;
    s->tokens = sc->tokens;
    s->token = calloc(s->tokens, sizeof *s->token);
    if (!s->token)
        return -1;
    if (pieces->weight)
        draw_tokens(pieces, pieces->weight + i, pieces->samples, r, s);
    else
        take_step(pieces, i, pieces->samples, s);
    return 0;
}

/* How many samples a scenario gets: one where nothing varies. */
static uint32_t samples_of(const struct place_problem *p, const struct sample_rule *rule,
                           uint32_t scenario)
{
    const struct place_scenario *s = &p->scenario[scenario];
    uint32_t n = rule->samples / p->scenarios;

    if (!s->trace || (s->phase == PLACE_PREFILL && !(rule->documents > 0)))
        return 1;
    return n > FEWEST ? n : FEWEST;
}

static int open_scenario(struct sample_set *set, const struct sample_rule *rule, uint32_t scenario,
                         struct random *r, struct mt_err *reterr)
{
    const struct place_problem *p = set->p;
    const struct place_scenario *s = &p->scenario[scenario];
    struct pieces *pieces = &set->pieces[scenario];
    uint32_t n = samples_of(p, rule, scenario);
    double by = s->share / s->tokens / n;

    if (s->trace && cut_pieces(p, s, pieces))
        goto no_memory;
    if (s->trace && !pieces->tokens)
        return mt_error(reterr, MT_EINVAL,
                        "scenario %s: expected tokens after the prompts, found none", s->name);
    pieces->first = set->used;
    pieces->samples = n;
    if (s->trace && rule->documents > 0) {
        pieces->weight = calloc((size_t)pieces->n * n, sizeof *pieces->weight);
        if (!pieces->weight)
            goto no_memory;
    }
    for (uint32_t k = 0; k < n; k++) {
        set->token_cost[set->used] = by * p->cluster.token_expert;
        set->active_cost[set->used] = by * p->cluster.active_expert;
        set->weight[set->used] = by;
        if (make_sample(set, rule, scenario, k, r))
            goto no_memory;
    }
    return 0;
no_memory:
    return mt_error(reterr, MT_ENOMEM, "search: no memory for %u samples", n);
}

int sample_new(const struct place_problem *p, const struct sample_rule *rule, uint64_t seed,
               struct sample_set **ret, struct mt_err *reterr)
{
    struct sample_set *s = calloc(1, sizeof *s);
    struct random r = {seed};
    uint32_t n = 0;
    int rc = 0;

    for (uint32_t i = 0; i < p->scenarios; i++)
        n += samples_of(p, rule, i);
    n = (n + SAMPLE_LANES - 1) / SAMPLE_LANES * SAMPLE_LANES;
    if (s) {
        s->p = p;
        s->count = n;
        s->sample = calloc((size_t)n + 1, sizeof *s->sample);
        s->pieces = calloc(p->scenarios + 1, sizeof *s->pieces);
        s->token_cost = calloc((size_t)n + 1, sizeof *s->token_cost);
        s->active_cost = calloc((size_t)n + 1, sizeof *s->active_cost);
        s->weight = calloc((size_t)n + 1, sizeof *s->weight);
    }
    if (!s || !s->sample || !s->pieces || !s->token_cost || !s->active_cost || !s->weight)
        rc = mt_error(reterr, MT_ENOMEM, "search: no memory for %u samples", n);
    for (uint32_t i = 0; !rc && i < p->scenarios; i++)
        rc = open_scenario(s, rule, i, &r, reterr);
    if (rc) {
        sample_free(s);
        return rc;
    }
    *ret = s;
    return 0;
}

void sample_free(struct sample_set *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; s->sample && i < s->used; i++)
        free(s->sample[i].token);
    for (uint32_t i = 0; s->pieces && i < s->p->scenarios; i++) {
        free(s->pieces[i].token);
        free(s->pieces[i].start);
        free(s->pieces[i].weight);
    }
    free(s->sample);
    free(s->pieces);
    free(s->token_cost);
    free(s->active_cost);
    free(s->weight);
    free(s);
}

uint32_t sample_count(const struct sample_set *s)
{
    return s->count;
}

const double *sample_token_cost(const struct sample_set *s)
{
    return s->token_cost;
}

const double *sample_weight(const struct sample_set *s)
{
    return s->weight;
}

const double *sample_active_cost(const struct sample_set *s)
{
    return s->active_cost;
}

/* Adds a piece's choices, by its weights, to the columns of its scenario. Counted first: a sum of
 * many small floats would not be exact. */
static void add_piece(const struct sample_set *s, const struct pieces *p, uint32_t first,
                      uint32_t end, const float *weight, float n, uint32_t layer, float *tokens)
{
    uint32_t count[PLACE_MAX_EXPERTS] = {0};

    for (uint32_t i = first; i < end; i++) {
        const uint16_t *chosen = trace_at(p->trace, token_of(p, i), layer);

        for (uint32_t j = 0; j < s->p->topk; j++)
            count[chosen[j]]++;
    }
    for (uint32_t e = 0; e < s->p->experts; e++) {
        float *row = tokens + (size_t)e * s->count + p->first;

        for (uint32_t k = 0; count[e] && k < p->samples; k++)
            row[k] += weight[k] * (n * (float)count[e]);
    }
}

/* A prefill scenario: its pieces, or all of it alike. */
static void add_prefill(const struct sample_set *s, const struct pieces *p, float n, uint32_t layer,
                        float *tokens)
{
    float even = 1 / (float)p->tokens;

    if (!p->weight)
        add_piece(s, p, 0, p->tokens, &even, n, layer, tokens);
    for (uint32_t i = 0; p->weight && i < p->n; i++)
        add_piece(s, p, p->start[i], p->start[i + 1], p->weight + (size_t)i * p->samples, n, layer,
                  tokens);
}

static void add_tokens(const struct sample_set *s, const struct sample *m, uint32_t layer,
                       uint32_t k, float *tokens)
{
    const struct trace *t = s->p->scenario[m->scenario].trace;

    for (uint32_t i = 0; i < m->tokens; i++) {
        const uint16_t *chosen = trace_at(t, m->token[i], layer);

        for (uint32_t j = 0; j < s->p->topk; j++)
            tokens[(size_t)chosen[j] * s->count + k] += 1;
    }
}

/* Loads alone. */
static void add_loads(const struct sample_set *s, const struct sample *m, uint32_t layer,
                      uint32_t k, float *tokens)
{
    const struct place_scenario *sc = &s->p->scenario[m->scenario];

    for (uint32_t e = 0; e < s->p->experts; e++)
        tokens[(size_t)e * s->count + k] =
            (float)(sc->load[(size_t)layer * s->p->experts + e] * sc->tokens);
}

void sample_layer(const struct sample_set *s, uint32_t layer, float *tokens, float *active)
{
    size_t size = (size_t)(s->p->experts + 1) * s->count;

    memset(tokens, 0, size * sizeof *tokens);
    for (uint32_t k = 0; k < s->used; k++) {
        const struct sample *m = &s->sample[k];

        if (m->token)
            add_tokens(s, m, layer, k, tokens);
        else if (!s->p->scenario[m->scenario].trace)
            add_loads(s, m, layer, k, tokens);
        else if (k == s->pieces[m->scenario].first)
            add_prefill(s, &s->pieces[m->scenario], (float)s->p->scenario[m->scenario].tokens,
                        layer, tokens);
    }
    for (size_t i = 0; i < size; i++) {
        const struct sample *m = &s->sample[i % s->count < s->used ? i % s->count : 0];
        float n = (float)s->p->scenario[m->scenario].tokens, w = tokens[i];

        active[i] = m->token ? (float)(w > 0) : w >= n ? 1 : -expm1f(n * log1pf(-w / n));
    }
}
