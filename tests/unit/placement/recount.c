#include "recount.h"

#include <math.h>
#include <string.h>

#include "placement/route.h"

/* What a step does in one layer; expected numbers in a fluid step, whole ones in a sampled step. */
struct counts {
    double tokens[RECOUNT_RANKS]; /* by home */
    double pairs[RECOUNT_EXPERTS][RECOUNT_RANKS];
    double d[RECOUNT_RANKS][RECOUNT_RANKS], c[RECOUNT_RANKS][RECOUNT_RANKS];   /* vectors */
    double dn[RECOUNT_RANKS][RECOUNT_RANKS], cn[RECOUNT_RANKS][RECOUNT_RANKS]; /* between nodes */
    double ranks, remote, local;
};

static uint32_t copies(const struct plan *p, uint32_t layer, uint32_t expert)
{
    return p->start[layer * p->experts + expert + 1] - p->start[layer * p->experts + expert];
}

static uint32_t copy_rank(const struct plan *p, uint32_t layer, uint32_t expert, uint32_t i)
{
    return p->rank[p->start[layer * p->experts + expert] + i];
}

static double copy_share(const struct plan *p, uint32_t layer, uint32_t expert, uint32_t i)
{
    return p->share ? p->share[p->start[layer * p->experts + expert] + i] : 1;
}

static bool holds(const struct plan *p, uint32_t layer, uint32_t expert, uint32_t rank)
{
    for (uint32_t i = 0; i < copies(p, layer, expert); i++)
        if (copy_rank(p, layer, expert, i) == rank)
            return true;
    return false;
}

/* The lowest rank with a copy where another chosen expert has its only one, or -1. */
static int forced(const struct plan *p, uint32_t layer, const uint16_t *chosen, uint32_t topk,
                  uint32_t i)
{
    for (uint32_t r = 0; r < p->ranks; r++)
        for (uint32_t k = 0; k < topk; k++)
            if (k != i && copies(p, layer, chosen[k]) == 1 && holds(p, layer, chosen[k], r) &&
                holds(p, layer, chosen[i], r))
                return (int)r;
    return -1;
}

/* Shares of the copies among which the draw is made, scaled to a sum of 1. */
static void table(const struct plan *p, const struct cluster *c, uint32_t layer, uint32_t expert,
                  uint32_t home, double *ret)
{
    bool near = false;
    double sum = 0;
    uint32_t among = 0;

    for (uint32_t i = 0; i < copies(p, layer, expert); i++)
        near |= c->node[copy_rank(p, layer, expert, i)] == c->node[home];
    for (uint32_t i = 0; i < copies(p, layer, expert); i++) {
        bool in = !near || c->node[copy_rank(p, layer, expert, i)] == c->node[home];

        ret[i] = in ? copy_share(p, layer, expert, i) : 0;
        sum += ret[i];
        among += in;
    }
    for (uint32_t i = 0; i < copies(p, layer, expert); i++) {
        bool in = !near || c->node[copy_rank(p, layer, expert, i)] == c->node[home];

        ret[i] = sum > 0 ? ret[i] / sum : in ? 1.0 / among : 0;
    }
}

static void draw(const struct plan *p, const struct cluster *c, uint32_t layer, uint32_t expert,
                 uint32_t home, const uint64_t *position, double *prob)
{
    double share[RECOUNT_RANKS], u, sum = 0;
    uint32_t n = copies(p, layer, expert), last = 0;

    table(p, c, layer, expert, home, share);
    if (!position) {
        for (uint32_t i = 0; i < n; i++)
            prob[copy_rank(p, layer, expert, i)] += share[i];
        return;
    }
    u = route_draw(*position, layer, expert);
    for (uint32_t i = 0; i < n; i++) {
        if (share[i] > 0)
            last = i;
        sum += share[i];
        if (share[i] > 0 && u < sum)
            break;
    }
    prob[copy_rank(p, layer, expert, last)] = 1;
}

void recount_serve(const struct plan *plan, const struct cluster *c, uint32_t layer,
                   const uint16_t *chosen, uint32_t topk, uint32_t home, const uint64_t *position,
                   double prob[][RECOUNT_RANKS])
{
    for (uint32_t i = 0; i < topk; i++) {
        int force = forced(plan, layer, chosen, topk, i);

        memset(prob[i], 0, sizeof prob[i]);
        if (holds(plan, layer, chosen[i], home))
            prob[i][home] = 1;
        else if (copies(plan, layer, chosen[i]) == 1)
            prob[i][copy_rank(plan, layer, chosen[i], 0)] = 1;
        else if (force >= 0)
            prob[i][force] = 1;
        else
            draw(plan, c, layer, chosen[i], home, position, prob[i]);
    }
}

/* `weight` tokens that live at home and choose these. */
static void count_token(struct counts *n, const struct cluster *c, const uint16_t *chosen,
                        uint32_t topk, double prob[][RECOUNT_RANKS], uint32_t home, double weight)
{
    n->tokens[home] += weight;
    for (uint32_t r = 0; r < c->ranks; r++) {
        double none = 1, m = 0;

        for (uint32_t i = 0; i < topk; i++) {
            n->pairs[chosen[i]][r] += weight * prob[i][r];
            none *= 1 - prob[i][r];
            m += prob[i][r];
        }
        n->ranks += weight * (1 - none);
        if (r == home) {
            n->local += weight * m;
        } else {
            n->remote += weight * (1 - none);
            n->d[home][r] += weight * (1 - none);
            n->c[r][home] += weight * (c->exact_combine ? m : 1 - none);
        }
    }
    for (uint32_t to = 0; to < c->nodes; to++) {
        double none = 1, m = 0;

        for (uint32_t i = 0; i < topk; i++) {
            double there = 0;

            for (uint32_t r = 0; r < c->ranks; r++)
                there += c->node[r] == to ? prob[i][r] : 0;
            none *= 1 - there;
            m += there;
        }
        if (to == c->node[home])
            continue;
        n->dn[c->node[home]][to] += weight * (1 - none);
        n->cn[to][c->node[home]] += weight * (c->exact_combine ? m : 1 - none);
    }
}

static void port(const struct link *link, double vectors, double bytes, uint32_t peers, double *max)
{
    *max = fmax(*max, vectors * bytes / link->bandwidth + peers * link->latency);
}

static double exchange(const struct cluster *c, double v[][RECOUNT_RANKS],
                       double across[][RECOUNT_RANKS], double bytes)
{
    double max = 0;

    for (uint32_t out = 0; out < 2; out++) {
        for (uint32_t a = 0; a < c->ranks; a++) {
            double sum = 0;
            uint32_t peers = 0;

            for (uint32_t b = 0; b < c->ranks; b++) {
                double here = out ? v[a][b] : v[b][a];

                if (a == b || c->node[a] != c->node[b])
                    continue;
                sum += here;
                peers += here > 0;
            }
            port(&c->rank_link, sum, bytes, peers, &max);
        }
        for (uint32_t a = 0; a < c->nodes; a++) {
            double sum = 0;
            uint32_t peers = 0;

            for (uint32_t b = 0; b < c->nodes; b++) {
                double here = 0;

                if (a == b)
                    continue;
                for (uint32_t from = 0; from < c->ranks; from++)
                    for (uint32_t to = 0; to < c->ranks; to++)
                        if (c->node[from] == (out ? a : b) && c->node[to] == (out ? b : a))
                            here += v[from][to];
                if (c->two_level)
                    here = out ? across[a][b] : across[b][a];
                sum += here;
                peers += here > 0;
            }
            port(&c->node_link, sum, bytes, peers, &max);
        }
    }
    return max;
}

/* Adds the seconds of one layer, and its figures. sampled: an expert is active if it has a token.
 */
static void finish_layer(const struct place_problem *p, struct counts *n, double tokens,
                         bool sampled, bool traffic, struct score_scenario *ret)
{
    const struct cluster *c = &p->cluster;
    double dense = 0, compute = 0, most = 0, total = 0, busiest = 0;

    for (uint32_t g = 0; g < c->ranks; g++) {
        double load = 0, active = 0;

        for (uint32_t e = 0; e < p->experts; e++) {
            load += n->pairs[e][g];
            if (sampled)
                active += n->pairs[e][g] > 0;
            else
                active += 1 - pow(1 - fmin(1, n->pairs[e][g] / tokens), tokens);
        }
        dense = fmax(dense, c->dense_step + c->dense_token * n->tokens[g]);
        compute = fmax(compute, c->token_expert * load + c->active_expert * active);
        most = fmax(most, load);
        busiest = fmax(busiest, active);
        total += load;
    }
    ret->terms.dense += dense;
    ret->terms.compute += compute;
    if (traffic) {
        ret->terms.dispatch += exchange(c, n->d, n->dn, c->dispatch_bytes);
        ret->terms.combine += exchange(c, n->c, n->cn, c->combine_bytes);
        ret->ranks += n->ranks / tokens / p->layers;
        ret->remote += n->remote / tokens / p->layers;
        ret->local += n->local / tokens / p->topk / p->layers;
    }
    ret->straggler += (total > 0 ? most * c->ranks / total : 1) / p->layers;
    ret->active += busiest / p->layers;
}

void recount_step(const struct place_problem *p, const struct plan *plan, const struct trace *t,
                  const struct recount_token *token, uint32_t n, struct score_scenario *ret,
                  double loads[][RECOUNT_RANKS])
{
    double prob[TRACE_MAX_TOPK][RECOUNT_RANKS];

    for (uint32_t l = 0; l < p->layers; l++) {
        struct counts k = {0};

        for (uint32_t i = 0; i < n; i++) {
            const uint16_t *chosen = trace_at(t, token[i].token, l);
            uint64_t position = token[i].token;

            recount_serve(plan, &p->cluster, l, chosen, p->topk, token[i].home, &position, prob);
            count_token(&k, &p->cluster, chosen, p->topk, prob, token[i].home, 1);
        }
        finish_layer(p, &k, n, true, true, ret);
        for (uint32_t g = 0; g < p->cluster.ranks; g++)
            for (uint32_t e = 0; e < p->experts; e++)
                loads[l][g] += k.pairs[e][g];
    }
}

/* Homes by load: all tokens. By affinity: prompts are prefilled at their load homes, what follows
 * is decoded where the document lives. */
static uint32_t members(const struct place_problem *p, const struct place_scenario *s,
                        const uint16_t *homes, struct recount_token *ret, uint32_t *ret_prompts)
{
    const struct trace *t = s->trace;
    uint32_t n = 0;

    memset(ret_prompts, 0, sizeof *ret_prompts * RECOUNT_RANKS);
    for (uint32_t d = 0; d < t->documents; d++) {
        uint32_t length = t->doc[d + 1] - t->doc[d];
        double prompt = p->prompt_tokens ? p->prompt_tokens : floor(p->prompt_fraction * length);

        prompt = fmin(fmax(prompt, 1), length);
        for (uint32_t i = 0; i < length; i++) {
            bool in = p->homes == PLACE_HOMES_LOAD || (i < prompt) == (s->phase == PLACE_PREFILL);

            if (in)
                ret[n++] = (struct recount_token){t->doc[d] + i, homes ? homes[d] : 0};
        }
        if (homes)
            ret_prompts[homes[d]] += (uint32_t)prompt;
    }
    return n;
}

static double kv_move(const struct place_problem *p, const uint32_t *prompts, uint32_t decoded)
{
    const struct cluster *c = &p->cluster;
    struct cluster quick = *c;
    double v[RECOUNT_RANKS][RECOUNT_RANKS];

    quick.rank_link.latency = quick.node_link.latency = 0;
    quick.two_level = false;
    for (uint32_t from = 0; from < c->ranks; from++)
        for (uint32_t to = 0; to < c->ranks; to++)
            v[from][to] = (double)prompts[to] / c->ranks;
    return exchange(&quick, v, v, c->kv_bytes) / decoded;
}

static void fluid_scenario(const struct place_problem *p, const struct place_scenario *s,
                           const struct plan *plan, const struct recount_token *m, uint32_t n,
                           bool fixed, struct score_scenario *ret)
{
    const struct cluster *c = &p->cluster;
    double prob[TRACE_MAX_TOPK][RECOUNT_RANKS], before = 0;

    for (uint32_t l = 0; l < p->layers; l++) {
        struct counts k = {0};

        for (uint32_t h = 0; h < c->ranks; h++) {
            for (uint32_t i = 0; s->trace && i < n; i++) {
                const uint16_t *chosen = trace_at(s->trace, m[i].token, l);
                double weight = (double)s->tokens / n / (fixed ? 1 : c->ranks);

                if (fixed && m[i].home != h)
                    continue;
                recount_serve(plan, c, l, chosen, p->topk, h, NULL, prob);
                count_token(&k, c, chosen, p->topk, prob, h, weight);
            }
            for (uint16_t e = 0; !s->trace && e < p->experts; e++) {
                recount_serve(plan, c, l, &e, 1, h, NULL, prob);
                for (uint32_t g = 0; g < c->ranks; g++)
                    k.pairs[e][g] +=
                        s->load[l * p->experts + e] * s->tokens / c->ranks * prob[0][g];
            }
            if (!s->trace)
                k.tokens[h] = (double)s->tokens / c->ranks;
        }
        finish_layer(p, &k, s->tokens, false, s->trace != NULL, ret);
        ret->load_worst = fmax(ret->load_worst, (ret->straggler - before) * p->layers);
        before = ret->straggler;
    }
    ret->load = ret->straggler;
}

/* Whole tokens of a step for each rank's part, as even as can be. */
static void shares_of(const struct place_problem *p, const struct place_scenario *s,
                      const uint32_t *held, uint32_t n, bool fixed, uint32_t *quota)
{
    uint32_t left = s->tokens;
    bool more[RECOUNT_RANKS] = {false};

    for (uint32_t g = 0; g < p->cluster.ranks; g++) {
        quota[g] = fixed
                       ? (uint32_t)((uint64_t)s->tokens * held[g] / n)
                       : s->tokens * (g + 1) / p->cluster.ranks - s->tokens * g / p->cluster.ranks;
        left -= quota[g];
    }
    for (; left; left--) {
        uint32_t best = RECOUNT_RANKS;

        for (uint32_t g = 0; g < p->cluster.ranks; g++)
            if (!more[g] && (best == RECOUNT_RANKS || (uint64_t)s->tokens * held[g] % n >
                                                          (uint64_t)s->tokens * held[best] % n))
                best = g;
        more[best] = true;
        quota[best]++;
    }
}

static void sampled_scenario(const struct place_problem *p, const struct place_scenario *s,
                             const struct plan *plan, const struct recount_token *m, uint32_t n,
                             bool fixed, struct score_scenario *ret)
{
    const struct cluster *c = &p->cluster;
    uint32_t held[RECOUNT_RANKS] = {0}, first[RECOUNT_RANKS], length[RECOUNT_RANKS];
    uint32_t quota[RECOUNT_RANKS], before = 0, steps = 1, turns = 1;
    static uint32_t stream[RECOUNT_RANKS][4096];
    static struct recount_token step[4096];
    double all[PLACE_MAX_LAYERS][RECOUNT_RANKS] = {{0}};
    struct score_scenario sum = {0};

    for (uint32_t i = 0; fixed && i < n; i++)
        held[m[i].home]++;
    shares_of(p, s, held, n, fixed, quota);
    for (uint32_t g = 0; g < c->ranks; g++) {
        length[g] = 0;
        for (uint32_t i = 0; fixed && i < n; i++)
            if (m[i].home == g)
                stream[g][length[g]++] = m[i].token;
        if (!fixed) {
            first[g] = (uint32_t)((uint64_t)n * before / s->tokens);
            before += quota[g];
            for (uint32_t i = first[g]; i < (uint64_t)n * before / s->tokens; i++)
                stream[g][length[g]++] = m[i].token;
            if (!length[g])
                stream[g][length[g]++] = m[first[g] < n ? first[g] : n - 1].token;
        }
        while (quota[g] && steps * quota[g] < length[g])
            steps++;
    }
    while (!fixed && c->ranks <= 32 && turns < c->ranks && turns * n <= 16384)
        turns++;
    for (uint32_t i = 0; i < steps * turns; i++) {
        uint32_t in = 0;

        for (uint32_t g = 0; g < c->ranks; g++)
            for (uint32_t j = 0; j < quota[g]; j++, in++) {
                uint32_t at = s->phase == PLACE_PREFILL ? i / turns * quota[g] + j
                                                        : i / turns + j * length[g] / quota[g];

                step[in] =
                    (struct recount_token){stream[g][at % length[g]], (g + i % turns) % c->ranks};
            }
        recount_step(p, plan, s->trace, step, in, &sum, all);
    }
    for (uint32_t l = 0; l < p->layers; l++) {
        double most = 0, total = 0;

        for (uint32_t g = 0; g < c->ranks; g++) {
            most = fmax(most, all[l][g]);
            total += all[l][g];
        }
        ret->load += most * c->ranks / total / p->layers;
        ret->load_worst = fmax(ret->load_worst, most * c->ranks / total);
    }
    ret->terms = (struct step_terms){
        sum.terms.dense / (steps * turns), sum.terms.dispatch / (steps * turns),
        sum.terms.compute / (steps * turns), sum.terms.combine / (steps * turns)};
    ret->straggler = sum.straggler / (steps * turns);
    ret->active = sum.active / (steps * turns);
    ret->ranks = sum.ranks / (steps * turns);
    ret->remote = sum.remote / (steps * turns);
    ret->local = sum.local / (steps * turns);
    ret->steps = steps;
}

double recount_migration(const struct cluster *c, const struct plan *from, const struct plan *to)
{
    struct cluster quick = *c;
    double v[RECOUNT_RANKS][RECOUNT_RANKS] = {{0}};

    quick.rank_link.latency = quick.node_link.latency = 0;
    quick.two_level = false;
    for (uint32_t l = 0; l < to->layers; l++)
        for (uint32_t e = 0; e < to->experts; e++)
            for (uint32_t r = 0; r < c->ranks; r++) {
                uint32_t near = c->ranks, far = c->ranks;

                if (!holds(to, l, e, r) || holds(from, l, e, r))
                    continue;
                for (uint32_t q = c->ranks; q-- > 0;)
                    if (holds(from, l, e, q)) {
                        far = q;
                        near = c->node[q] == c->node[r] ? q : near;
                    }
                v[near < c->ranks ? near : far][r]++;
            }
    return exchange(&quick, v, v, c->expert_bytes) / c->migration_share;
}

void recount_score(const struct place_problem *p, const struct plan *plan,
                   enum score_evaluation how, uint16_t *const *homes, struct score *ret)
{
    static struct recount_token m[4096];

    memset(ret, 0, sizeof *ret);
    for (uint32_t i = 0; i < p->scenarios; i++) {
        const struct place_scenario *s = &p->scenario[i];
        struct score_scenario *r = &ret->scenario[i];
        uint32_t prompts[RECOUNT_RANKS], n = 0;
        bool fixed = p->homes == PLACE_HOMES_AFFINITY && s->phase == PLACE_DECODE && s->trace;

        if (s->trace)
            n = members(p, s, fixed ? homes[i] : NULL, m, prompts);
        if (how == SCORE_SAMPLED)
            sampled_scenario(p, s, plan, m, n, fixed, r);
        else
            fluid_scenario(p, s, plan, m, n, fixed, r);
        r->step = r->terms.dense + r->terms.dispatch + r->terms.compute + r->terms.combine;
        r->tokens = s->tokens;
        if (fixed)
            ret->kv_moves += s->share * kv_move(p, prompts, n);
        ret->tokens_seconds += s->share * r->step / s->tokens;
        ret->load += s->share * r->load;
        ret->straggler += s->share * r->straggler;
        ret->load_worst = fmax(ret->load_worst, r->load_worst);
        ret->ranks += s->share * r->ranks;
        ret->remote += s->share * r->remote;
        ret->local += s->share * r->local;
    }
    if (p->from)
        ret->migration = recount_migration(&p->cluster, p->from, plan);
    ret->j =
        ret->tokens_seconds + ret->kv_moves + (p->horizon > 0 ? ret->migration / p->horizon : 0);
}
