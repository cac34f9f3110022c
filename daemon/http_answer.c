/* Answers: those that are there, those that come later, and those that come piece by piece.
 *
 * An exchange's answer is pulled by the libmicrohttpd thread that owns its connection. Between
 * pulls the connection is suspended. The race between "nothing there, go to sleep" and "something
 * is there, wake up" is settled by `awake`: a waker sets it, going to sleep fails while it is set,
 * and it is cleared before each pull. */
#include <stdlib.h>
#include <string.h>

#include "daemon/http_impl.h"

#define ANSWER_BLOCK 8192                /* bytes that libmicrohttpd asks a stream for at once */
#define ANSWER_MAX_OUT ((size_t)1 << 30) /* one body, or what a stream holds between two reads */

void exchange_set_header(struct exchange *x, const char *name, const char *value)
{
    size_t len = strlen(value);

    if (x->n_headers == HTTP_MAX_SET_HEADERS || len >= sizeof x->headers[0].value)
        return;
    x->headers[x->n_headers].name = name;
    memcpy(x->headers[x->n_headers++].value, value, len + 1);
}

void exchange_reply(struct exchange *x, int status, const char *type, struct buf *body)
{
    x->status = status;
    x->type = type;
    buf_done(&x->out);
    x->out = *body;
    buf_init(body, body->cap);
    if (!x->out.status)
        return;
    buf_done(&x->out);
    buf_init(&x->out, sizeof HTTP_NO_MEMORY);
    x->status = MHD_HTTP_SERVICE_UNAVAILABLE;
    x->type = "text/plain; charset=utf-8";
    if (buf_puts(&x->out, HTTP_NO_MEMORY))
        buf_reset(&x->out); /* an empty body will do */
    exchange_set_header(x, MHD_HTTP_HEADER_RETRY_AFTER, "2");
}

void exchange_answer(struct exchange *x, const struct answer_ops *ops, void *state,
                     const char *type, bool streamed)
{
    x->answer = ops;
    x->state = state;
    x->type = type;
    x->streamed = streamed;
    x->status = MHD_HTTP_OK;
    buf_done(&x->out);
    buf_init(&x->out, ANSWER_MAX_OUT);
    pthread_mutex_lock(&x->http->lock);
    x->quiet_us = http_now_us();
    http_watch_answer(x);
    pthread_mutex_unlock(&x->http->lock);
}

struct http_waker *exchange_waker(struct exchange *x, const void *key)
{
    struct http *h = x->http;
    struct http_waker *w;

    pthread_mutex_lock(&h->lock);
    w = h->free_wakers;
    if (w) {
        h->free_wakers = w->next;
    } else {
        w = calloc(1, sizeof *w);
        if (w) {
            w->http = h;
            w->next_all = h->all_wakers;
            h->all_wakers = w;
        }
    }
    if (w) {
        w->key = key;
        w->x = x;
        w->next = x->wakers;
        x->wakers = w;
    }
    pthread_mutex_unlock(&h->lock);
    return w;
}

void http_answer_rouse(struct exchange *x)
{
    x->awake = true;
    if (!x->asleep)
        return;
    x->asleep = false;
    MHD_resume_connection(x->mhd);
}

void http_wake(struct http_waker *w, const void *key)
{
    struct http *h = w->http;

    pthread_mutex_lock(&h->lock);
    if (w->key == key)
        http_answer_rouse(w->x);
    pthread_mutex_unlock(&h->lock);
}

void http_answer_ping(struct exchange *x, uint64_t now)
{
    const int64_t ping_ms = x->http->options.ping_ms;

    if (!ping_ms || !x->asleep || !x->streamed || !x->answer->idle ||
        now < x->quiet_us + (uint64_t)ping_ms * 1000)
        return;
    x->ping = true;
    x->quiet_us = now;
    http_answer_rouse(x);
}

/* Before a pull. False: the client is gone, or the server stops. */
static bool answer_look(struct exchange *x, bool *ret_ping)
{
    bool go;

    pthread_mutex_lock(&x->http->lock);
    x->awake = false;
    *ret_ping = x->ping;
    x->ping = false;
    go = !x->gone && !x->http->stopping;
    pthread_mutex_unlock(&x->http->lock);
    return go;
}

/* After a pull that gave nothing. False: look again. */
static bool answer_sleep(struct exchange *x)
{
    bool asleep;

    pthread_mutex_lock(&x->http->lock);
    asleep = !x->awake && !x->gone && !x->http->stopping;
    if (asleep) {
        if (x->quiet_sent != x->sent) {
            x->quiet_sent = x->sent;
            x->quiet_us = http_now_us();
        }
        x->asleep = true;
        MHD_suspend_connection(x->mhd);
    }
    pthread_mutex_unlock(&x->http->lock);
    return asleep;
}

static enum answer_step answer_pull(struct exchange *x)
{
    enum answer_step step = x->answer->pull(x->state, x, &x->out, &x->status);

    if (step != ANSWER_END)
        return step;
    x->ended = true;
    pthread_mutex_lock(&x->http->lock);
    http_watch_answered(x);
    pthread_mutex_unlock(&x->http->lock);
    return step;
}

static size_t answer_take(struct exchange *x, char *to, size_t max)
{
    size_t n = x->out.len - x->out_at;

    if (n > max)
        n = max;
    memcpy(to, x->out.data + x->out_at, n);
    x->out_at += n;
    x->sent += n;
    if (x->out_at == x->out.len) {
        buf_reset(&x->out);
        x->out_at = 0;
    }
    return n;
}

/* libmicrohttpd wants bytes of a stream. */
static ssize_t answer_read(void *arg, uint64_t pos, char *to, size_t max)
{
    struct exchange *x = arg;
    enum answer_step step;
    bool ping;

    (void)pos;
    for (;;) {
        if (x->out.len > x->out_at)
            return (ssize_t)answer_take(x, to, max);
        if (x->ended)
            return MHD_CONTENT_READER_END_OF_STREAM;
        if (!answer_look(x, &ping))
            return MHD_CONTENT_READER_END_WITH_ERROR;
        step = answer_pull(x);
        if (step == ANSWER_WAIT && !x->out.len && ping)
            buf_puts(&x->out, x->answer->idle); /* between two pulls, so never within an event */
        else if (step == ANSWER_WAIT && !x->out.len && !x->out.status && answer_sleep(x))
            return 0;
        if (x->out.status)
            return MHD_CONTENT_READER_END_WITH_ERROR;
    }
}

static struct MHD_Response *answer_response(struct exchange *x)
{
    struct MHD_Response *response;
    size_t len = x->out.len;
    char *bytes;

    if (x->answer && x->streamed)
        return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, ANSWER_BLOCK, answer_read, x,
                                                 NULL);
    bytes = buf_steal(&x->out);
    if (!bytes)
        return NULL;
    response = MHD_create_response_from_buffer(len, bytes, MHD_RESPMEM_MUST_FREE);
    if (!response)
        free(bytes);
    else
        x->sent = len;
    return response;
}

static enum MHD_Result answer_queue(struct exchange *x)
{
    struct MHD_Response *response = answer_response(x);
    enum MHD_Result ok = response ? MHD_YES : MHD_NO;

    if (ok == MHD_YES)
        ok = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, x->type);
    if (ok == MHD_YES)
        ok = MHD_add_response_header(response, "X-Request-Id", x->id);
    if (ok == MHD_YES && x->streamed)
        ok = MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    for (unsigned i = 0; ok == MHD_YES && i < x->n_headers; i++)
        ok = MHD_add_response_header(response, x->headers[i].name, x->headers[i].value);
    if (ok == MHD_YES) {
        ok = MHD_queue_response(x->mhd, (unsigned)x->status, response);
    } else { /* out of memory */
        x->status = MHD_HTTP_SERVICE_UNAVAILABLE;
        ok = MHD_queue_response(x->mhd, MHD_HTTP_SERVICE_UNAVAILABLE, x->http->no_memory);
    }
    if (response)
        MHD_destroy_response(response);
    return ok;
}

enum MHD_Result http_answer_drive(struct exchange *x)
{
    bool ping;

    if (!x->answer || x->streamed)
        return answer_queue(x);
    while (!x->ended) {
        if (!answer_look(x, &ping))
            return MHD_NO;
        if (answer_pull(x) == ANSWER_WAIT && answer_sleep(x))
            return MHD_YES;
    }
    if (x->out.status)
        exchange_reply(x, MHD_HTTP_SERVICE_UNAVAILABLE, NULL,
                       &(struct buf){.status = x->out.status});
    return answer_queue(x);
}
