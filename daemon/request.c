/* Making, checking and sharing requests. What they produce is written by ticket.c. */
#include "daemon/request.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/utf8.h"

static int check_stops(const struct request_params *p, struct mt_err *reterr)
{
    uint32_t i;

    if (p->n_stops > REQUEST_MAX_STOPS)
        return mt_error(reterr, MT_EINVAL, "stop has %" PRIu32 " strings, at most %d are allowed",
                        p->n_stops, REQUEST_MAX_STOPS);
    for (i = 0; i < p->n_stops; i++) {
        if (!p->stops[i].len || p->stops[i].len > REQUEST_MAX_STOP_BYTES)
            return mt_error(reterr, MT_EINVAL, "stop[%" PRIu32 "] has %zu bytes, expected 1..%d", i,
                            p->stops[i].len, REQUEST_MAX_STOP_BYTES);
        if (utf8_check((const uint8_t *)p->stops[i].text, p->stops[i].len) != p->stops[i].len)
            return mt_error(reterr, MT_EINVAL, "stop[%" PRIu32 "] is not valid UTF-8", i);
    }
    if (p->n_stop_tokens > REQUEST_MAX_STOP_TOKENS)
        return mt_error(reterr, MT_EINVAL, "%" PRIu32 " stop tokens, at most %d are allowed",
                        p->n_stop_tokens, REQUEST_MAX_STOP_TOKENS);
    return 0;
}

static int check_params(const struct request_params *p, uint32_t n_prompt, struct mt_err *reterr)
{
    if (!n_prompt)
        return mt_error(reterr, MT_EINVAL, "the prompt has no tokens, at least 1 is needed");
    if (!p->n || p->n > REQUEST_MAX_CHOICES)
        return mt_error(reterr, MT_EINVAL, "n is %" PRIu32 ", expected 1..%d", p->n,
                        REQUEST_MAX_CHOICES);
    if (!(p->temperature >= 0) || !isfinite(p->temperature))
        return mt_error(reterr, MT_EINVAL, "temperature is %g, expected 0 or more",
                        (double)p->temperature);
    if (!(p->top_p > 0 && p->top_p <= 1))
        return mt_error(reterr, MT_EINVAL, "top_p is %g, expected more than 0 and at most 1",
                        (double)p->top_p);
    if (!(p->min_p >= 0 && p->min_p <= 1))
        return mt_error(reterr, MT_EINVAL, "min_p is %g, expected 0..1", (double)p->min_p);
    if (p->top_k < 0)
        return mt_error(reterr, MT_EINVAL, "top_k is %" PRId32 ", expected 0 or more", p->top_k);
    if (p->n_logprobs < -1 || p->n_logprobs > WIRE_MAX_TOP_LOGPROBS)
        return mt_error(reterr, MT_EINVAL, "logprobs is %" PRId32 ", expected at most %d",
                        p->n_logprobs, WIRE_MAX_TOP_LOGPROBS);
    if (p->deadline_ms < 0)
        return mt_error(reterr, MT_EINVAL, "the deadline is %" PRId64 " ms, expected 0 or more",
                        p->deadline_ms);
    return check_stops(p, reterr);
}

static int draw(void *bytes, size_t n, struct mt_err *reterr)
{
    if (getrandom(bytes, n, 0) != (ssize_t)n)
        return mt_error(reterr, MT_EIO, "getrandom: %s", strerror(errno));
    return 0;
}

static int make_id(struct request *r, const char *prefix, struct mt_err *reterr)
{
    uint64_t bits[2];
    int rc = draw(bits, sizeof(bits), reterr), n;

    if (rc)
        return rc;
    n = snprintf(r->id, sizeof(r->id), "%s-%016" PRIx64 "%016" PRIx64, prefix, bits[0], bits[1]);
    if (n < 0 || (size_t)n >= sizeof(r->id))
        return mt_error(reterr, MT_EINVAL, "request id prefix \"%s\" is too long", prefix);
    return 0;
}

static void request_free(struct request *r)
{
    uint32_t i;

    for (i = 0; r->choices && i < r->params.n; i++) {
        buf_done(&r->choices[i].text);
        free(r->choices[i].tokens);
        free(r->choices[i].tops);
    }
    for (i = 0; i < r->params.n_stops; i++)
        free(r->params.stops[i].text);
    free(r->choices);
    free(r->prompt_tokens);
    free(r->prompt_tops);
    free(r->prompt);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* What is the request's own; prompt and stop texts come in last, when nothing can fail any more. */
static int request_alloc(struct request *r, uint32_t n_prompt, struct mt_err *reterr)
{
    uint32_t i;

    r->choices = calloc(r->params.n, sizeof(*r->choices));
    if (r->params.prompt_logprobs)
        r->prompt_tokens = calloc(n_prompt, sizeof(*r->prompt_tokens));
    if (!r->choices || (r->params.prompt_logprobs && !r->prompt_tokens))
        return mt_error(reterr, MT_ENOMEM, "no memory for a request of %" PRIu32 " tokens",
                        n_prompt);
    for (i = 0; i < r->params.n; i++)
        buf_init(&r->choices[i].text, REQUEST_MAX_TEXT);
    return r->params.has_seed ? 0 : draw(&r->params.seed, sizeof(r->params.seed), reterr);
}

int request_new(const char *id_prefix, const struct request_params *params, int32_t *prompt,
                uint32_t n_prompt, struct request **ret, struct mt_err *reterr)
{
    struct request *r;
    int rc = check_params(params, n_prompt, reterr);

    if (rc)
        return rc;
    r = calloc(1, sizeof(*r));
    if (!r)
        return mt_error(reterr, MT_ENOMEM, "no memory for a request");
    r->refs = 1;
    r->params = *params;
    pthread_mutex_init(&r->lock, NULL);
    rc = make_id(r, id_prefix, reterr);
    if (!rc)
        rc = request_alloc(r, n_prompt, reterr);
    if (rc) {
        r->params.n_stops = 0; /* they stay the caller's */
        request_free(r);
        return rc;
    }
    r->prompt = prompt;
    r->n_prompt = n_prompt;
    *ret = r;
    return 0;
}

struct request *request_ref(struct request *r)
{
    __atomic_add_fetch(&r->refs, 1, __ATOMIC_RELAXED);
    return r;
}

void request_unref(struct request *r)
{
    if (r && !__atomic_sub_fetch(&r->refs, 1, __ATOMIC_ACQ_REL))
        request_free(r);
}

const char *finish_reason_name(enum finish_reason f)
{
    switch (f) {
    case FINISH_STOP: return "stop";
    case FINISH_LENGTH: return "length";
    case FINISH_ABORT: return "abort";
    case FINISH_ERROR: return "error";
    case FINISH_NONE: break;
    }
    return NULL;
}
