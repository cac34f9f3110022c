#include "placement/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/flow.h"
#include "placement/fluid.h"
#include "placement/homes.h"
#include "placement/link.h"

#define SHORT_TRACE 16384 /* tokens */
#define FEW_RANKS 32      /* beyond, a step is dear, and chance evens out over the ranks */

/* Tokens of a scenario, and where they live: with homes by load all of them, anywhere; with homes
 * by affinity the prompts (prefill) anywhere, the rest (decode) where their document lives. */
struct crowd {
    uint32_t *token; /* [n] */
    uint16_t *home;  /* [n], or NULL */
    uint32_t n;
    uint32_t prompt[PLAN_MAX_RANKS]; /* tokens of the prompts of who lives there */
};

static void crowd_done(struct crowd *c)
{
    free(c->token);
    free(c->home);
}

/* Adds what a document has of it: `of` are the documents' homes, or NULL. */
static void crowd_add(const struct place_problem *p, const struct place_scenario *s, uint32_t doc,
                      const uint16_t *of, struct crowd *c)
{
    uint32_t first = s->trace->doc[doc], end = s->trace->doc[doc + 1];
    uint32_t prompt = homes_prompt(p, end - first);

    if (of) {
        c->prompt[of[doc]] += prompt;
        first += prompt;
    } else if (p->homes == PLACE_HOMES_AFFINITY) {
        end = first + prompt;
    }
    for (uint32_t i = first; i < end; i++) {
        if (of)
            c->home[c->n] = of[doc];
        c->token[c->n++] = i;
    }
}

static int crowd_fill(const struct place_problem *p, const struct place_scenario *s,
                      const struct plan *plan, struct crowd *ret, struct mt_err *reterr)
{
    const struct trace *t = s->trace;
    bool moved = p->homes == PLACE_HOMES_AFFINITY && s->phase == PLACE_DECODE;
    struct crowd c = {.token = calloc(t->tokens, sizeof *c.token)};
    uint16_t *of = moved ? calloc(t->documents, sizeof *of) : NULL;
    int rc = 0;

    if (moved)
        c.home = calloc(t->tokens, sizeof *c.home);
    if (!c.token || (moved && (!c.home || !of)))
        rc = mt_error(reterr, MT_ENOMEM, "score: no memory for %u tokens", t->tokens);
    else if (moved)
        rc = homes_affinity(p, t, plan, of, reterr);
    for (uint32_t d = 0; !rc && d < t->documents; d++)
        crowd_add(p, s, d, of, &c);
    free(of);
    if (rc)
        crowd_done(&c);
    else
        *ret = c;
    return rc;
}

/* Seconds of the busiest port for rank-to-rank moves [from][to] of `bytes` each. Like all moves,
 * they are spread over many steps: latency is not their price. */
static double move_seconds(const struct cluster *c, const double *moves, double bytes)
{
    struct cluster k = *c;

    k.rank_link.latency = k.node_link.latency = 0;
    return link_seconds(&k, moves, NULL, bytes, NULL);
}

/* Seconds per decoded token for the prompts' KV that goes from load homes, all alike, to where the
 * document lives. */
static int kv_seconds(const struct place_problem *p, const struct crowd *c, double *ret,
                      struct mt_err *reterr)
{
    uint32_t ranks = p->cluster.ranks;
    double *moves;

    if (!c->home)
        return 0;
    moves = calloc((size_t)ranks * ranks, sizeof *moves);
    if (!moves)
        return mt_error(reterr, MT_ENOMEM, "score: no memory for %u ranks", ranks);
    for (uint32_t h = 0; h < ranks; h++)
        for (uint32_t g = 0; g < ranks; g++)
            moves[(size_t)h * ranks + g] = (double)c->prompt[g] / ranks;
    *ret = move_seconds(&p->cluster, moves, p->cluster.kv_bytes) / c->n;
    free(moves);
    return 0;
}

static void finish(const struct place_problem *p, const struct step_figures *f, double by,
                   struct score_scenario *ret)
{
    double layers = p->layers;

    ret->load = ret->straggler = f->load * by / layers;
    ret->active = f->active * by / layers;
    ret->ranks = f->ranks * by / layers;
    ret->remote = f->remote * by / layers;
    ret->local = f->local * by / layers;
    ret->step = step_seconds(&ret->terms);
}

static int score_fluid(const struct place_problem *p, const struct place_scenario *s,
                       const struct plan *plan, const struct crowd *c, struct score_scenario *ret,
                       struct mt_err *reterr)
{
    struct fluid_tokens tokens = {c->token, c->n, c->home};
    struct step_figures sum = {0};
    struct fluid *f;
    int rc = fluid_new(p, &f, reterr);

    if (rc)
        return rc;
    for (uint32_t l = 0; l < p->layers; l++) {
        struct step_figures before = sum;

        fluid_layer(f, plan, s, &tokens, l, &ret->terms, &sum);
        ret->load_worst = fmax(ret->load_worst, sum.load - before.load);
    }
    finish(p, &sum, 1, ret);
    ret->traffic = s->trace != NULL;
    fluid_free(f);
    return 0;
}

/* What a step takes from a rank: `take` of tokens[first .. first + n - 1] of the crowd. */
struct stream {
    uint32_t first, n, take;
};

/* Homes by load: takes as even as whole tokens allow, and parts of the crowd in proportion, so that
 * the steps together see every token alike; a part has at least one token. */
static void cut_evenly(uint32_t tokens, uint32_t crowd, uint32_t ranks, struct stream *ret)
{
    for (uint32_t g = 0; g < ranks; g++) {
        uint64_t before = (uint64_t)tokens * g / ranks, after = (uint64_t)tokens * (g + 1) / ranks;
        uint32_t first = (uint32_t)(crowd * before / tokens);
        uint32_t end = (uint32_t)(crowd * after / tokens);

        first = first < crowd ? first : crowd - 1;
        ret[g] = (struct stream){first, end > first ? end - first : 1, (uint32_t)(after - before)};
    }
}

/* Homes by affinity: the crowd is sorted by home; takes in proportion to who lives there, by
 * largest remainders. */
static void cut_by_home(uint32_t tokens, const struct crowd *c, uint32_t ranks, struct stream *ret)
{
    uint64_t rest[PLAN_MAX_RANKS];
    uint32_t at = 0, left = tokens;

    for (uint32_t g = 0; g < ranks; g++) {
        uint32_t first = at;

        while (at < c->n && c->home[at] == g)
            at++;
        rest[g] = (uint64_t)tokens * (at - first) % c->n;
        ret[g] =
            (struct stream){first, at - first, (uint32_t)((uint64_t)tokens * (at - first) / c->n)};
        left -= ret[g].take;
    }
    for (; left; left--) {
        uint32_t best = 0;

        for (uint32_t g = 1; g < ranks; g++)
            best = rest[g] > rest[best] ? g : best;
        ret[best].take++;
        rest[best] = 0; /* there are more remainders than tokens left */
    }
}

/* Sorts the crowd by home, in document order within one. */
static int sort_by_home(struct crowd *c, uint32_t ranks, struct mt_err *reterr)
{
    uint32_t *token = calloc(c->n, sizeof *token), k = 0;
    uint16_t *home = calloc(c->n, sizeof *home);

    if (!token || !home) {
        free(token);
        free(home);
        return mt_error(reterr, MT_ENOMEM, "score: no memory for %u tokens", c->n);
    }
    for (uint32_t g = 0; g < ranks; g++)
        for (uint32_t i = 0; i < c->n; i++)
            if (c->home[i] == g) {
                token[k] = c->token[i];
                home[k++] = (uint16_t)g;
            }
    free(c->token);
    free(c->home);
    c->token = token;
    c->home = home;
    return 0;
}

static void add_step(struct step *s, const struct place_scenario *sc, const struct crowd *c,
                     const struct stream *stream, uint32_t home, uint32_t number)
{
    uint64_t n = stream->n, take = stream->take;

    for (uint64_t j = 0; j < take; j++) {
        uint64_t at = sc->phase == PLACE_PREFILL ? number * take + j : j * n / take + number;

        step_add(s, sc->trace, c->token[stream->first + at % n], home);
    }
}

static uint32_t count_steps(const struct stream *streams, uint32_t ranks)
{
    uint32_t steps = 1;

    for (uint32_t g = 0; g < ranks; g++) {
        uint64_t n = streams[g].n, take = streams[g].take;
        uint32_t need = take ? (uint32_t)((n + take - 1) / take) : 0;

        steps = need > steps ? need : steps;
    }
    return steps;
}

static void add_terms(struct step_terms *to, const struct step_terms *t, double by)
{
    to->dense += t->dense * by;
    to->dispatch += t->dispatch * by;
    to->compute += t->compute * by;
    to->combine += t->combine * by;
}

static void add_figures(struct step_figures *to, const struct step_figures *f)
{
    to->load += f->load;
    to->active += f->active;
    to->ranks += f->ranks;
    to->remote += f->remote;
    to->local += f->local;
}

/* Of loads[layers][ranks] over all steps. */
static void finish_loads(const struct place_problem *p, const double *loads,
                         struct score_scenario *ret)
{
    uint32_t ranks = p->cluster.ranks;

    ret->load = ret->load_worst = 0;
    for (uint32_t l = 0; l < p->layers; l++) {
        double most = 0, sum = 0, ratio;

        for (uint32_t g = 0; g < ranks; g++) {
            most = fmax(most, loads[(size_t)l * ranks + g]);
            sum += loads[(size_t)l * ranks + g];
        }
        ratio = sum > 0 ? most * ranks / sum : 1;
        ret->load += ratio / p->layers;
        ret->load_worst = fmax(ret->load_worst, ratio);
    }
}

static void add_loads(const struct step *s, const struct place_problem *p, double *loads)
{
    for (uint32_t l = 0; l < p->layers; l++)
        for (uint32_t g = 0; g < p->cluster.ranks; g++)
            loads[(size_t)l * p->cluster.ranks + g] += step_loads(s, l)[g];
}

/* Homes by load: a short trace is seen from several homes, each part of it from each of them, since
 * which documents happen to live where would otherwise decide. */
static uint32_t count_turns(const struct crowd *c, uint32_t ranks)
{
    uint32_t turns = c->home || ranks > FEW_RANKS ? 1 : SHORT_TRACE / c->n + 1;

    return turns < ranks ? turns : ranks;
}

static int score_sampled(const struct place_problem *p, const struct place_scenario *sc,
                         const struct plan *plan, struct crowd *c, struct score_scenario *ret,
                         struct mt_err *reterr)
{
    struct stream streams[PLAN_MAX_RANKS];
    double *loads = calloc((size_t)p->layers * p->cluster.ranks, sizeof *loads);
    struct step_figures sum = {0};
    struct step *s = NULL;
    uint32_t turns;
    int rc = loads ? step_new(p, &s, reterr) : mt_error(reterr, MT_ENOMEM, "score: no memory");

    if (!rc && c->home)
        rc = sort_by_home(c, p->cluster.ranks, reterr);
    if (rc) {
        step_free(s);
        free(loads);
        return rc;
    }
    if (c->home)
        cut_by_home(sc->tokens, c, p->cluster.ranks, streams);
    else
        cut_evenly(sc->tokens, c->n, p->cluster.ranks, streams);
    ret->steps = count_steps(streams, p->cluster.ranks);
    turns = count_turns(c, p->cluster.ranks);
    for (uint32_t i = 0; i < ret->steps * turns; i++) {
        struct step_terms t;
        struct step_figures f;

        step_begin(s, plan);
        for (uint32_t g = 0; g < p->cluster.ranks; g++)
            add_step(s, sc, c, &streams[g], (g + i % turns) % p->cluster.ranks, i / turns);
        step_time(s, &t, &f, NULL);
        add_terms(&ret->terms, &t, 1.0 / ret->steps / turns);
        add_figures(&sum, &f);
        add_loads(s, p, loads);
    }
    finish(p, &sum, 1.0 / ret->steps / turns, ret);
    finish_loads(p, loads, ret);
    ret->traffic = true;
    step_free(s);
    free(loads);
    return 0;
}

static int score_scenario(const struct place_problem *p, const struct place_scenario *s,
                          const struct plan *plan, enum score_evaluation how,
                          struct score_scenario *ret, double *ret_kv, struct mt_err *reterr)
{
    struct crowd c = {0};
    int rc = 0;

    ret->tokens = s->tokens;
    if (how == SCORE_SAMPLED && !s->trace)
        return mt_error(reterr, MT_EUNSUPPORTED,
                        "scenario %s: steps need token paths, and only loads are known", s->name);
    if (s->trace)
        rc = crowd_fill(p, s, plan, &c, reterr);
    if (!rc && s->trace && !c.n)
        rc = mt_error(reterr, MT_EINVAL,
                      "scenario %s: expected tokens after the prompts, found none", s->name);
    else if (!rc && how == SCORE_SAMPLED)
        rc = score_sampled(p, s, plan, &c, ret, reterr);
    else if (!rc)
        rc = score_fluid(p, s, plan, &c, ret, reterr);
    if (!rc)
        rc = kv_seconds(p, &c, ret_kv, reterr);
    crowd_done(&c);
    return rc;
}

/* Adds a scenario's figures to the whole's by its share. */
static void add_scenario(struct score *to, const struct score_scenario *s, double share)
{
    to->tokens_seconds += share * s->step / s->tokens;
    add_terms(&to->terms, &s->terms, share / s->tokens);
    to->load += share * s->load;
    to->straggler += share * s->straggler;
    to->load_worst = fmax(to->load_worst, s->load_worst);
    to->ranks += share * s->ranks;
    to->remote += share * s->remote;
    to->local += share * s->local;
}

int score_plan(const struct place_problem *p, const struct plan *plan, enum score_evaluation how,
               struct score *ret, struct mt_err *reterr)
{
    struct score s = {.evaluation = how, .scenarios = p->scenarios};

    if (p->semantics == PLACE_FLOW)
        return flow_score(p, plan, how, ret, reterr);
    for (uint32_t i = 0; i < p->scenarios; i++) {
        double kv = 0;
        int rc = score_scenario(p, &p->scenario[i], plan, how, &s.scenario[i], &kv, reterr);

        if (rc)
            return rc;
        add_scenario(&s, &s.scenario[i], p->scenario[i].share);
        s.kv_moves += p->scenario[i].share * kv;
    }
    if (p->from)
        s.migration = score_migration(&p->cluster, p->from, plan);
    s.j = s.tokens_seconds + s.kv_moves + (p->horizon > 0 ? s.migration / p->horizon : 0);
    *ret = s;
    return 0;
}

uint32_t score_source(const struct cluster *c, const struct plan *from, size_t pair, uint32_t rank)
{
    uint32_t best = UINT32_MAX;
    bool near = false;

    for (uint32_t i = from->start[pair]; i < from->start[pair + 1]; i++) {
        uint32_t g = from->rank[i];
        bool here = c->node[g] == c->node[rank];

        if (best == UINT32_MAX || here > near || (here == near && g < best)) {
            best = g;
            near = here;
        }
    }
    return best;
}

double score_migration(const struct cluster *c, const struct plan *from, const struct plan *to)
{
    double in[PLAN_MAX_RANKS] = {0}, out[PLAN_MAX_RANKS] = {0};
    double node_in[PLAN_MAX_RANKS] = {0}, node_out[PLAN_MAX_RANKS] = {0}, worst = 0;

    for (size_t pair = 0; pair < (size_t)to->layers * to->experts; pair++)
        for (uint32_t i = to->start[pair]; i < to->start[pair + 1]; i++) {
            uint32_t g = to->rank[i], source;

            if (plan_holds(from, pair, g))
                continue;
            source = score_source(c, from, pair, g);
            if (c->node[source] == c->node[g]) {
                in[g]++;
                out[source]++;
            } else {
                node_in[c->node[g]]++;
                node_out[c->node[source]]++;
            }
        }
    for (uint32_t g = 0; g < c->ranks; g++)
        worst = fmax(worst, fmax(in[g], out[g]) / c->rank_link.bandwidth);
    for (uint32_t m = 0; c->nodes > 1 && m < c->nodes; m++)
        worst = fmax(worst, fmax(node_in[m], node_out[m]) / c->node_link.bandwidth);
    return worst * c->expert_bytes / c->migration_share;
}
