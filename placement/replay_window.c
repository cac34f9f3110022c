/* The last tokens that a replay processed, as a trace. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement/replay_private.h"

int replay_window_open(struct replay_window *w, uint32_t cap, struct mt_err *reterr)
{
    *w = (struct replay_window){.cap = cap};
    if (!cap)
        return 0;
    w->entry = calloc(cap, sizeof *w->entry);
    w->sorted = calloc(cap, sizeof *w->sorted);
    if (w->entry && w->sorted)
        return 0;
    replay_window_done(w);
    return mt_error(reterr, MT_ENOMEM, "replay: no memory for a window of %u tokens", cap);
}

void replay_window_add(struct replay_window *w, const struct replay_sequence *s, uint32_t token)
{
    if (!w->cap)
        return;
    w->entry[w->next] = (struct replay_window_entry){s->id, s->domain, token};
    w->next = w->next + 1 == w->cap ? 0 : w->next + 1;
    if (w->used < w->cap)
        w->used++;
}

static int by_sequence(const void *a, const void *b)
{
    const struct replay_window_entry *x = a, *y = b;

    if (x->sequence != y->sequence)
        return x->sequence < y->sequence ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

int replay_window_trace(const struct replay_window *w, const struct trace *const *domain,
                        struct trace *ret, struct mt_err *reterr)
{
    const struct trace *like = domain[w->entry[0].domain];
    size_t ids = (size_t)like->layers * like->topk;
    struct trace t = {
        .layers = like->layers, .experts = like->experts, .topk = like->topk, .tokens = w->used};

    snprintf(t.name, sizeof t.name, "window");
    t.doc = calloc((size_t)w->used + 1, sizeof *t.doc);
    t.choice = calloc(w->used * ids, sizeof *t.choice);
    if (!t.doc || !t.choice) {
        trace_done(&t);
        return mt_error(reterr, MT_ENOMEM, "replay: no memory for a window of %u tokens", w->used);
    }
    memcpy(w->sorted, w->entry, w->used * sizeof *w->sorted);
    qsort(w->sorted, w->used, sizeof *w->sorted, by_sequence);
    for (uint32_t i = 0; i < w->used; i++) {
        const struct replay_window_entry *e = &w->sorted[i];

        if (!i || e->sequence != e[-1].sequence)
            t.doc[t.documents++] = i;
        memcpy(t.choice + i * ids, trace_at(domain[e->domain], e->token, 0),
               ids * sizeof *t.choice);
    }
    t.doc[t.documents] = t.tokens;
    *ret = t;
    return 0;
}

void replay_window_done(struct replay_window *w)
{
    free(w->entry);
    free(w->sorted);
    *w = (struct replay_window){0};
}
