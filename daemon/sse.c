/* Streams: server-sent events, each one line of JSON; the last is [DONE]. A choice's next piece is
 * made when the client can take it, so a slow reader costs no memory but the text itself, which its
 * request's max_tokens bounds. */
#include "daemon/generation.h"
#include "daemon/problem.h"

#define SSE_ENOUGH (32 * 1024) /* bytes of events in one pull */

/* One piece of each choice that has one. */
static bool sse_round(struct generation *g, struct buf *out)
{
    bool some = false;

    for (size_t i = 0; i < g->n_requests; i++)
        for (uint32_t k = 0; k < g->n_choices; k++) {
            const size_t begun = out->len;

            buf_puts(out, "data: ");
            reply_begin(g, out);
            if (!reply_choice(g, i, k, out)) {
                out->len = begun;
                continue;
            }
            reply_end(g, g->include_usage ? USAGE_NULL : USAGE_NONE, out);
            buf_puts(out, "\n\n");
            some = true;
        }
    return some;
}

static void sse_end(struct generation *g, struct buf *out)
{
    struct problem p;
    struct mt_err err;

    if (generation_failed(g, &err)) {
        problem_from(&p, &err);
        buf_puts(out, "data: ");
        problem_print(&p, out);
        buf_puts(out, "\n\n");
    } else if (g->include_usage) {
        buf_puts(out, "data: ");
        reply_begin(g, out);
        reply_end(g, USAGE_FULL, out);
        buf_puts(out, "\n\n");
    }
    buf_puts(out, "data: [DONE]\n\n");
}

enum answer_step sse_pull(void *state, struct exchange *x, struct buf *out, int *status)
{
    struct generation *g = state;
    bool done, some;

    (void)x;
    (void)status;
    /* looked at first: what is written before it is set is then told below */
    done = generation_done(g);
    do {
        some = sse_round(g, out);
    } while (some && !out->status && out->len < SSE_ENOUGH);
    if (some || out->status)
        return ANSWER_MORE;
    if (!done)
        return out->len ? ANSWER_MORE : ANSWER_WAIT;
    sse_end(g, out);
    return ANSWER_END;
}
