/* One completions or chat call under way: the requests it became (one for each prompt) and how much
 * of each of their choices has been told to the client. Owned by its exchange; pulled by one server
 * thread at a time. */
#ifndef MT_DAEMON_GENERATION_H
#define MT_DAEMON_GENERATION_H

#include <jansson.h>

#include "api/buf.h"
#include "daemon/request.h"
#include "daemon/routes.h"

/* How much of a choice has been told. */
struct cursor {
    bool begun;    /* the role, or the echo */
    bool finished; /* the finish reason */
    size_t text;   /* bytes */
    uint32_t tokens;
    size_t
        chars; /* characters of echo and text before tokens[tokens] (legacy logprobs count them) */
    size_t chars_at; /* of text, in bytes: where that count stands */
};

struct generation_request {
    struct request *request;
    struct http_waker *waker;
    struct buf echo; /* the prompt as text, with echo */
};

struct generation {
    const struct routes *routes;
    bool chat, stream, echo, include_usage, return_token_ids;
    bool told_prompt; /* chat: its token ids, once */
    int64_t created_s;
    char id[REQUEST_ID_BYTES];
    struct buf head;    /* of the answer or of each chunk, up to its choices; made by reply_begin */
    uint32_t n_choices; /* of each request */
    size_t n_requests;
    struct generation_request *requests; /* [n_requests] */
    struct cursor *cursors;              /* [n_requests][n_choices] */
};

/* reply.c. An answer, or a chunk of a stream, is reply_begin, choices with commas between them,
 * reply_end. What fails is told in out->status. */
enum reply_usage_kind {
    USAGE_NONE,
    USAGE_NULL, /* a chunk of a stream that will end with the usage */
    USAGE_FULL, /* once all requests are done */
};

void reply_begin(struct generation *g, struct buf *out);
/* The next part of a choice: all there is where g is not streamed, a bounded piece where it is;
 * false: nothing is new. Advances the cursor. Takes the request's lock. */
bool reply_choice(struct generation *g, size_t request, uint32_t choice, struct buf *out);
void reply_end(struct generation *g, enum reply_usage_kind usage, struct buf *out);

/* reply_logprobs.c: of tokens from..to of a choice, with those of the prompt before them if
 * `prompt`. The request's lock is held. */
json_t *reply_logprobs(const struct generation *g, const struct generation_request *q,
                       const struct choice *c, struct cursor *at, uint32_t to, bool prompt);

/* sse.c and routes_generate.c */
enum answer_step sse_pull(void *state, struct exchange *x, struct buf *out, int *status);
bool generation_done(const struct generation *g);
/* The first request that failed as a whole; false: none. */
bool generation_failed(const struct generation *g, struct mt_err *ret);

#endif
