/* Who is in flight: arrivals, each step's tokens, homes, and who leaves. */
#include <stdlib.h>
#include <string.h>

#include "placement/homes.h"
#include "placement/link.h"
#include "placement/replay_private.h"
#include "placement/route.h"

#define SEAT_TOKENS 64 /* what a sequence weighs beside prompt tokens to come, as in a server */

int replay_batch_open(struct replay_batch *b, const struct place_problem *p, const struct replay *r,
                      struct replay_window *w, struct mt_err *reterr)
{
    uint32_t ranks = p->cluster.ranks;

    *b = (struct replay_batch){.p = p, .r = r, .window = w};
    b->sequence = calloc(r->sequences, sizeof *b->sequence);
    b->living = calloc(ranks, sizeof *b->living);
    b->budget = calloc(ranks, sizeof *b->budget);
    b->waiting = calloc(ranks, sizeof *b->waiting);
    b->cursor = calloc(r->domains, sizeof *b->cursor);
    b->kv = calloc((size_t)ranks * ranks, sizeof *b->kv);
    if (!b->sequence || !b->living || !b->budget || !b->waiting || !b->cursor || !b->kv) {
        replay_batch_done(b);
        return mt_error(reterr, MT_ENOMEM, "replay: no memory for %u sequences", r->sequences);
    }
    return 0;
}

void replay_batch_done(struct replay_batch *b)
{
    free(b->sequence);
    free(b->living);
    free(b->budget);
    free(b->waiting);
    free(b->cursor);
    free(b->kv);
    *b = (struct replay_batch){0};
}

/* The document that arrives next; false if none does. */
static bool next_document(struct replay_batch *b, uint32_t *ret_document)
{
    if (!b->r->segments)
        while (!b->closed && b->cursor[b->domain] == b->r->domain[b->domain]->documents) {
            if (b->domain + 1 == b->r->domains)
                b->closed = true;
            else
                b->domain++;
        }
    if (b->closed)
        return false;
    *ret_document = b->cursor[b->domain]++ % b->r->domain[b->domain]->documents;
    if (b->r->segments)
        b->cursor[b->domain] %= b->r->domain[b->domain]->documents;
    return true;
}

static uint16_t load_home(const struct replay_batch *b)
{
    uint64_t least = UINT64_MAX;
    uint32_t best = 0;

    for (uint32_t g = 0; g < b->p->cluster.ranks; g++) {
        uint64_t cost = b->waiting[g] + (uint64_t)b->living[g] * SEAT_TOKENS;

        if (cost >= least)
            continue;
        least = cost;
        best = g;
    }
    return (uint16_t)best;
}

bool replay_batch_arrive(struct replay_batch *b, uint64_t steps, double clock)
{
    uint32_t document;

    while (b->n < b->r->sequences && next_document(b, &document)) {
        const uint32_t *doc = b->r->domain[b->domain]->doc + document;
        struct replay_sequence *s = &b->sequence[b->n++];

        *s = (struct replay_sequence){.id = b->arrived++,
                                      .domain = b->domain,
                                      .first = doc[0],
                                      .length = doc[1] - doc[0],
                                      .prompt = homes_prompt(b->p, doc[1] - doc[0]),
                                      .home = load_home(b),
                                      .steps = steps,
                                      .clock = clock};
        b->living[s->home]++;
        b->waiting[s->home] += s->prompt;
    }
    return b->n > 0;
}

/* The next n tokens of a sequence, at its home. */
static void process(struct replay_batch *b, struct step *step, struct replay_sequence *s,
                    uint32_t n)
{
    for (uint32_t i = 0; i < n; i++, s->done++) {
        step_add(step, b->r->domain[s->domain], s->first + s->done, s->home);
        replay_window_add(b->window, s, s->first + s->done);
    }
    b->budget[s->home] -= n;
}

void replay_batch_compose(struct replay_batch *b, struct step *step, struct replay_batch_step *ret)
{
    *ret = (struct replay_batch_step){0};
    for (uint32_t g = 0; g < b->p->cluster.ranks; g++)
        b->budget[g] = b->r->step_tokens;
    /* What decodes here must not prefill below in the same step. */
    for (uint32_t i = 0; i < b->n; i++) {
        struct replay_sequence *s = &b->sequence[(b->turn + i) % b->n];

        if (s->done < s->prompt || !b->budget[s->home])
            continue;
        process(b, step, s, 1);
        ret->decode++;
    }
    for (uint32_t i = 0; i < b->n; i++) {
        struct replay_sequence *s = &b->sequence[i];
        uint32_t n = s->prompt > s->done ? s->prompt - s->done : 0;

        if (n > b->budget[s->home])
            n = b->budget[s->home];
        if (!n)
            continue;
        process(b, step, s, n);
        b->waiting[s->home] -= n;
        ret->prefill += n;
    }
    b->turn++;
}

static const struct link *near_link(const struct cluster *c, uint32_t a, uint32_t b)
{
    return c->node[a] == c->node[b] ? &c->rank_link : &c->node_link;
}

/* Links' seconds of the prompt's vectors, there and back, from a home. */
static double prompt_traffic(const struct replay_batch *b, const struct plan *plan,
                             const struct replay_sequence *s, uint32_t home)
{
    const struct cluster *c = &b->p->cluster;
    const struct trace *t = b->r->domain[s->domain];
    double bytes = c->dispatch_bytes + c->combine_bytes, sum = 0;
    uint16_t rank[TRACE_MAX_TOPK];

    for (uint32_t i = s->first; i < s->first + s->prompt; i++)
        for (uint32_t l = 0; l < t->layers; l++) {
            route_choose(plan, c, l, trace_at(t, i, l), t->topk, home, i, rank);
            for (uint32_t k = 0; k < t->topk; k++) {
                bool again = false;

                for (uint32_t m = 0; m < k; m++)
                    again |= rank[m] == rank[k];
                if (!again && rank[k] != home)
                    sum += bytes / near_link(c, home, rank[k])->bandwidth;
            }
        }
    return sum;
}

/* Links' seconds of the rest of a sequence on a rank, judged by its prompt, with its KV's way
 * there. How long the rest is is not known: as long as those before it were. */
static double rest_cost(const struct replay_batch *b, const struct plan *plan,
                        const struct replay_sequence *s, uint32_t rank)
{
    const struct cluster *c = &b->p->cluster;
    double rest = b->ended ? (double)b->decoded / (double)b->ended : s->prompt;
    double cost = prompt_traffic(b, plan, s, rank) * rest / s->prompt;

    if (rank != s->home)
        cost += s->prompt * c->kv_bytes / near_link(c, s->home, rank)->bandwidth;
    return cost;
}

/* The rank where the rest of a sequence should live. */
static uint16_t affine_home(const struct replay_batch *b, const struct plan *plan,
                            const struct replay_sequence *s)
{
    const struct cluster *c = &b->p->cluster;
    double most = (1 + b->p->home_slack) * b->r->sequences / c->ranks;
    double least = rest_cost(b, plan, s, s->home);
    uint16_t best = s->home;

    for (uint32_t g = 0; g < c->ranks; g++) {
        double cost;

        if (g == s->home || b->living[g] + 1 > most)
            continue;
        cost = rest_cost(b, plan, s, g);
        if (cost < least) {
            least = cost;
            best = (uint16_t)g;
        }
    }
    return best;
}

/* Seconds of the busiest port while KV moves; clears. */
static double kv_seconds(struct replay_batch *b)
{
    const struct cluster *c = &b->p->cluster;
    double seconds;

    if (!b->kv_moves)
        return 0;
    seconds = link_seconds(c, b->kv, NULL, 1, NULL);
    memset(b->kv, 0, (size_t)c->ranks * c->ranks * sizeof *b->kv);
    b->kv_moves = false;
    return seconds;
}

/* The prompt is done: where the rest of the sequence lives. */
static void settle(struct replay_batch *b, const struct plan *plan, struct replay_sequence *s,
                   struct replay_batch_step *ret)
{
    uint16_t to = affine_home(b, plan, s);

    if (to == s->home)
        return;
    b->kv[(size_t)s->home * b->p->cluster.ranks + to] += s->prompt * b->p->cluster.kv_bytes;
    b->kv_moves = true;
    b->living[s->home]--;
    b->living[to]++;
    s->home = to;
    ret->kv_moves++;
}

void replay_batch_finish(struct replay_batch *b, const struct plan *plan, uint64_t steps,
                         double clock, struct replay_batch_step *ret)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < b->n; i++)
        if (b->sequence[i].done == b->sequence[i].length) {
            b->living[b->sequence[i].home]--;
            b->decoded += b->sequence[i].length - b->sequence[i].prompt;
            b->ended++;
            ret->ended++;
        }
    for (uint32_t i = 0; i < b->n; i++) {
        struct replay_sequence *s = &b->sequence[i];

        if (s->done >= s->prompt && !s->prompted) {
            s->prompted = true;
            ret->prompts++;
            ret->first_steps += (double)(steps - s->steps);
            ret->first_seconds += clock - s->clock;
            if (s->done < s->length && b->p->homes == PLACE_HOMES_AFFINITY)
                settle(b, plan, s, ret);
        }
        if (s->done < s->length)
            b->sequence[kept++] = *s;
    }
    b->n = kept;
    ret->kv = kv_seconds(b);
}

double replay_moved(const struct cluster *c, const struct plan *from, const struct plan *to)
{
    size_t pairs = (size_t)from->layers * from->experts;
    uint64_t copies = 0;

    for (size_t i = 0; i < pairs; i++)
        for (uint32_t k = to->start[i]; k < to->start[i + 1]; k++)
            copies += !plan_holds(from, i, to->rank[k]);
    return (double)copies * c->expert_bytes;
}
