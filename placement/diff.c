#include "placement/diff.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/score.h"

#define NOWHERE UINT16_MAX

/* Experts of one rank, in the order they are to be looked at. */
struct queue {
    uint16_t *expert; /* [experts] */
    uint32_t n;
};

/* One layer under way. An obsolete copy is one that `to` does not have; detours are kept apart. */
struct walk {
    const struct cluster *c;
    const struct plan *from, *to;
    uint32_t layer, experts, ranks;
    bool staging;
    uint8_t *held, *want;       /* [experts][ranks] */
    uint32_t *used;             /* [ranks] */
    uint32_t *copies, *missing; /* [experts] held now; still to be made */
    uint16_t *detour;           /* [experts] a rank, or NOWHERE */
    struct queue *todo, *old;   /* [ranks] copies to be made; obsolete ones that are still there */
    uint16_t *room;             /* [2][ranks][experts] of the queues */
    uint32_t open;              /* copies to be made, over all ranks */
    struct diff *out;
    size_t space; /* of out->move */
};

static int push(struct walk *w, struct diff_move move, struct mt_err *reterr)
{
    if (w->out->moves == w->space) {
        size_t space = w->space ? w->space * 2 : 256;
        struct diff_move *grown = realloc(w->out->move, space * sizeof *grown);

        if (!grown)
            return mt_error(reterr, MT_ENOMEM, "placement: no memory for %zu moves", space);
        w->out->move = grown;
        w->space = space;
    }
    w->out->move[w->out->moves++] = move;
    return 0;
}

static size_t cell(const struct walk *w, uint32_t expert, uint32_t rank)
{
    return (size_t)expert * w->ranks + rank;
}

static int drop(struct walk *w, uint32_t expert, uint32_t rank, bool detour, struct mt_err *reterr)
{
    w->held[cell(w, expert, rank)] = 0;
    w->used[rank]--;
    w->copies[expert]--;
    w->out->drops++;
    return push(w,
                (struct diff_move){w->layer, expert, (uint16_t)rank, (uint16_t)rank, true, detour},
                reterr);
}

/* Where a copy on `rank` is read: as priced, or the nearest that is left. */
static uint32_t source(struct walk *w, uint32_t expert, uint32_t rank)
{
    size_t pair = (size_t)w->layer * w->experts + expert;
    uint32_t priced = score_source(w->c, w->from, pair, rank), best = UINT32_MAX;
    bool near = false;

    if (w->held[cell(w, expert, priced)])
        return priced;
    w->out->elsewhere++;
    for (uint32_t g = 0; g < w->ranks; g++) {
        bool here = w->c->node[g] == w->c->node[rank];

        if (w->held[cell(w, expert, g)] && (best == UINT32_MAX || (here && !near))) {
            best = g;
            near = here;
        }
    }
    return best;
}

static int copy(struct walk *w, uint32_t expert, uint32_t rank, bool detour, struct mt_err *reterr)
{
    uint32_t from = source(w, expert, rank);
    uint16_t node = w->c->node[rank], away = w->c->node[from];

    if (node == away) {
        w->out->rank_out[from] += w->c->expert_bytes;
        w->out->rank_in[rank] += w->c->expert_bytes;
    } else {
        w->out->node_out[away] += w->c->expert_bytes;
        w->out->node_in[node] += w->c->expert_bytes;
    }
    w->held[cell(w, expert, rank)] = 1;
    w->used[rank]++;
    w->copies[expert]++;
    w->out->copies++;
    w->out->detours += detour;
    w->out->staged += w->used[rank] > w->c->slots[rank];
    return push(w,
                (struct diff_move){w->layer, expert, (uint16_t)from, (uint16_t)rank, false, detour},
                reterr);
}

static void queue_remove(struct queue *q, uint32_t i)
{
    memmove(q->expert + i, q->expert + i + 1, (q->n - i - 1) * sizeof *q->expert);
    q->n--;
}

/* The i-th copy that `rank` waits for. With the last one of an expert its detour is over. */
static int make(struct walk *w, uint32_t rank, uint32_t i, struct mt_err *reterr)
{
    uint32_t expert = w->todo[rank].expert[i];
    int rc = copy(w, expert, rank, false, reterr);

    queue_remove(&w->todo[rank], i);
    w->open--;
    if (!rc && !--w->missing[expert] && w->detour[expert] != NOWHERE) {
        rc = drop(w, expert, w->detour[expert], true, reterr);
        w->detour[expert] = NOWHERE;
    }
    return rc;
}

/* Makes what fits on the rank; experts on a detour last, so that one detour serves more. */
static int fill(struct walk *w, uint32_t rank, struct mt_err *reterr)
{
    struct queue *q = &w->todo[rank];
    int rc = 0;

    while (!rc && q->n && w->used[rank] < w->c->slots[rank]) {
        uint32_t i = 0;

        while (i < q->n && w->detour[q->expert[i]] != NOWHERE)
            i++;
        rc = make(w, rank, i < q->n ? i : 0, reterr);
    }
    return rc;
}

/* Drops obsolete copies where a slot is waited for; `eager`: also of experts that are still to be
 * copied elsewhere. Sets *ret_moved. */
static int give_way(struct walk *w, bool eager, bool *ret_moved, struct mt_err *reterr)
{
    int rc = 0;

    for (uint32_t g = 0; !rc && g < w->ranks; g++) {
        struct queue *q = &w->old[g];

        for (uint32_t i = 0; !rc && i < q->n && w->todo[g].n;) {
            uint32_t e = q->expert[i];

            if (w->copies[e] < 2 || (w->missing[e] && !eager)) {
                i++;
                continue;
            }
            queue_remove(q, i);
            rc = drop(w, e, g, false, reterr);
            if (!rc)
                rc = fill(w, g, reterr);
            *ret_moved = true;
            if (eager)
                return rc;
        }
    }
    return rc;
}

/* A free slot: near `rank` first. NOWHERE: there is none. */
static uint16_t free_rank(const struct walk *w, uint32_t rank)
{
    uint16_t best = NOWHERE;
    bool near = false;

    for (uint32_t g = 0; g < w->ranks; g++) {
        bool here = w->c->node[g] == w->c->node[rank];

        if (w->used[g] < w->c->slots[g] && (best == NOWHERE || (here && !near))) {
            best = (uint16_t)g;
            near = here;
        }
    }
    return best;
}

/* Everybody waits: each rank that waits is full, and each of its obsolete copies is the only one of
 * an expert that some full rank waits for. (Counting both sides: as many copies are waited for as
 * are obsolete, so each expert among them is waited for once, and the one slot that is gained here
 * passes on until the cycle is closed.) */
static int break_cycle(struct walk *w, struct mt_err *reterr)
{
    uint32_t rank = 0, at = 0, expert;
    uint16_t spare;
    int rc;

    while (rank < w->ranks && !w->todo[rank].n)
        rank++;
    if (rank == w->ranks || !w->old[rank].n)
        return mt_error(reterr, MT_EINTERNAL, "placement: layer %u: no way on", w->layer);
    expert = w->old[rank].expert[0];
    if (w->staging) {
        uint32_t to = 0;

        for (; to < w->ranks; to++) {
            for (at = 0; at < w->todo[to].n && w->todo[to].expert[at] != expert;)
                at++;
            if (at < w->todo[to].n)
                break;
        }
        if (to == w->ranks || w->used[to] > w->c->slots[to])
            return mt_error(reterr, MT_EINTERNAL, "placement: layer %u: no way on", w->layer);
        return make(w, to, at, reterr);
    }
    spare = free_rank(w, rank);
    if (spare == NOWHERE)
        return mt_error(reterr, MT_ELIMIT,
                        "placement: layer %u: expert %u on rank %u must move in a cycle of full "
                        "ranks: expected a free slot on one rank, or a staging slot, found none",
                        w->layer, expert, rank);
    rc = copy(w, expert, spare, true, reterr);
    w->detour[expert] = spare;
    if (!rc)
        queue_remove(&w->old[rank], 0);
    if (!rc)
        rc = drop(w, expert, rank, false, reterr);
    return rc ? rc : fill(w, rank, reterr);
}

/* Reads both placements of the layer; refuses what does not fit the slots. */
static int begin(struct walk *w, struct mt_err *reterr)
{
    size_t first = (size_t)w->layer * w->experts;
    uint32_t wanted[PLAN_MAX_RANKS] = {0};

    memset(w->held, 0, (size_t)w->experts * w->ranks);
    memset(w->want, 0, (size_t)w->experts * w->ranks);
    memset(w->used, 0, w->ranks * sizeof *w->used);
    w->open = 0;
    for (uint32_t e = 0; e < w->experts; e++) {
        for (uint32_t i = w->from->start[first + e]; i < w->from->start[first + e + 1]; i++) {
            w->held[cell(w, e, w->from->rank[i])] = 1;
            w->used[w->from->rank[i]]++;
        }
        for (uint32_t i = w->to->start[first + e]; i < w->to->start[first + e + 1]; i++) {
            w->want[cell(w, e, w->to->rank[i])] = 1;
            wanted[w->to->rank[i]]++;
        }
        w->copies[e] = w->from->start[first + e + 1] - w->from->start[first + e];
        w->missing[e] = 0;
        w->detour[e] = NOWHERE;
    }
    for (uint32_t g = 0; g < w->ranks; g++) {
        if (w->used[g] > w->c->slots[g] || wanted[g] > w->c->slots[g])
            return mt_error(reterr, MT_EINVAL,
                            "placement: %s: layer %u, rank %u: expected at most %u experts, found "
                            "%u",
                            w->used[g] > w->c->slots[g] ? "from" : "to", w->layer, g,
                            w->c->slots[g], w->used[g] > w->c->slots[g] ? w->used[g] : wanted[g]);
        w->todo[g].n = w->old[g].n = 0;
        for (uint32_t e = 0; e < w->experts; e++) {
            uint8_t held = w->held[cell(w, e, g)], want = w->want[cell(w, e, g)];

            if (want && !held) {
                w->todo[g].expert[w->todo[g].n++] = (uint16_t)e;
                w->missing[e]++;
                w->open++;
            } else if (held && !want)
                w->old[g].expert[w->old[g].n++] = (uint16_t)e;
        }
    }
    return 0;
}

static int walk_layer(struct walk *w, struct mt_err *reterr)
{
    int rc = begin(w, reterr);

    for (uint32_t g = 0; !rc && g < w->ranks; g++)
        rc = fill(w, g, reterr);
    while (!rc && w->open) {
        bool moved = false;

        rc = give_way(w, false, &moved, reterr);
        if (!rc && !moved)
            rc = give_way(w, true, &moved, reterr);
        if (!rc && !moved)
            rc = break_cycle(w, reterr);
    }
    for (uint32_t g = 0; !rc && g < w->ranks; g++)
        for (uint32_t i = 0; !rc && i < w->old[g].n; i++)
            rc = drop(w, w->old[g].expert[i], g, false, reterr);
    return rc;
}

static void walk_done(struct walk *w)
{
    free(w->held);
    free(w->want);
    free(w->used);
    free(w->copies);
    free(w->missing);
    free(w->detour);
    free(w->todo);
    free(w->old);
    free(w->room);
}

static int walk_init(struct walk *w, struct mt_err *reterr)
{
    size_t cells = (size_t)w->experts * w->ranks;

    w->held = calloc(cells, 1);
    w->want = calloc(cells, 1);
    w->used = calloc(w->ranks, sizeof *w->used);
    w->copies = calloc(w->experts, sizeof *w->copies);
    w->missing = calloc(w->experts, sizeof *w->missing);
    w->detour = calloc(w->experts, sizeof *w->detour);
    w->todo = calloc(w->ranks, sizeof *w->todo);
    w->old = calloc(w->ranks, sizeof *w->old);
    w->room = calloc(2 * cells, sizeof *w->room);
    if (!w->held || !w->want || !w->used || !w->copies || !w->missing || !w->detour || !w->todo ||
        !w->old || !w->room) {
        walk_done(w);
        return mt_error(reterr, MT_ENOMEM, "placement: no memory for %zu pairs", cells);
    }
    for (uint32_t g = 0; g < w->ranks; g++) {
        w->todo[g].expert = w->room + (size_t)g * w->experts;
        w->old[g].expert = w->room + cells + (size_t)g * w->experts;
    }
    return 0;
}

/* Seconds of the busiest port, and with one latency for each copy through it. */
static void time_moves(const struct cluster *c, struct diff *d)
{
    double share = c->migration_share;

    for (uint32_t i = 0; i < c->ranks + c->nodes; i++) {
        bool rank = i < c->ranks;
        const struct link *l = rank ? &c->rank_link : &c->node_link;
        double in = rank ? d->rank_in[i] : d->node_in[i - c->ranks];
        double bytes = fmax(in, rank ? d->rank_out[i] : d->node_out[i - c->ranks]);
        double transfer = bytes > 0 ? bytes / l->bandwidth / share : 0;
        double messages = bytes > 0 ? bytes / c->expert_bytes : 0;

        d->transfer = fmax(d->transfer, transfer);
        d->seconds = fmax(d->seconds, transfer + messages * l->latency);
    }
}

int diff_plans(const struct cluster *c, const struct plan *from, const struct plan *to,
               bool staging, struct diff *ret, struct mt_err *reterr)
{
    struct diff out = {0};
    struct walk w = {.c = c,
                     .from = from,
                     .to = to,
                     .experts = from->experts,
                     .ranks = from->ranks,
                     .staging = staging,
                     .out = &out};
    int rc = plan_check(from, from->layers, from->experts, c->ranks, reterr);

    if (!rc)
        rc = plan_check(to, from->layers, from->experts, from->ranks, reterr);
    if (!rc)
        rc = walk_init(&w, reterr);
    if (rc)
        return rc;
    for (; !rc && w.layer < from->layers; w.layer++)
        rc = walk_layer(&w, reterr);
    walk_done(&w);
    if (rc) {
        diff_done(&out);
        return rc;
    }
    time_moves(c, &out);
    *ret = out;
    return 0;
}

void diff_done(struct diff *d)
{
    if (!d)
        return;
    free(d->move);
    *d = (struct diff){0};
}
