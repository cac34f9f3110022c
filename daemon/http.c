/* The server itself: start and end, connections, and the way of a request to its handler.
 *
 * libmicrohttpd runs a small pool of threads, each with poll(2): its epoll loop stalls for good
 * when exactly 128 connections are ready at once. */
#include "daemon/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "daemon/http_impl.h"

#define TRIM_BYTES ((size_t)256 << 10) /* of a body, whose JSON takes many times that */

uint64_t http_now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* --- connections --- */

static void describe_remote(const struct sockaddr *at, char out[HTTP_REMOTE_BYTES])
{
    char host[INET6_ADDRSTRLEN] = "?";

    if (at && at->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)at;

        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        snprintf(out, HTTP_REMOTE_BYTES, "%s:%u", host, ntohs(in->sin_port));
    } else if (at && at->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)at;

        inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof host);
        snprintf(out, HTTP_REMOTE_BYTES, "[%s]:%u", host, ntohs(in->sin6_port));
    } else {
        snprintf(out, HTTP_REMOTE_BYTES, "unix");
    }
}

static void http_count(struct http *h, enum http_count what, int64_t change)
{
    if (h->options.count)
        h->options.count(what, change, h->options.user);
}

static struct conn *conn_new(struct http *h, struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *fd =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    const union MHD_ConnectionInfo *at =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    struct conn *c = calloc(1, sizeof *c);
    bool welcome;

    if (!c)
        return NULL;
    c->http = h;
    c->fd = fd->connect_fd;
    describe_remote(at ? at->client_addr : NULL, c->remote);
    http_client_set(&c->client, at ? at->client_addr : NULL);
    pthread_mutex_lock(&h->lock);
    welcome = http_client_enter(c);
    http_watch_receive(c);
    pthread_mutex_unlock(&h->lock);
    if (!welcome) {
        http_client_refuse(c);
        http_count(h, HTTP_REFUSED, 1);
    }
    return c;
}

static void conn_free(struct conn *c)
{
    pthread_mutex_lock(&c->http->lock);
    http_watch_received(c);
    http_client_leave(c);
    pthread_mutex_unlock(&c->http->lock);
    free(c);
}

static void http_connection(void *arg, struct MHD_Connection *mhd, void **context,
                            enum MHD_ConnectionNotificationCode code)
{
    struct http *h = arg;

    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        *context = conn_new(h, mhd);
    } else if (*context) {
        conn_free(*context);
        *context = NULL;
    } else {
        return;
    }
    if (*context || code != MHD_CONNECTION_NOTIFY_STARTED)
        http_count(h, HTTP_CONNECTIONS, code == MHD_CONNECTION_NOTIFY_STARTED ? 1 : -1);
}

/* --- exchanges --- */

static void choose_id(struct exchange *x)
{
    static const char SANE[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:";
    const char *given = exchange_header(x, "X-Request-Id");
    size_t len = given ? strlen(given) : 0;
    uint64_t drawn = 0;

    if (len && len < sizeof x->id && strspn(given, SANE) == len) {
        memcpy(x->id, given, len + 1);
        return;
    }
    if (getrandom(&drawn, sizeof drawn, GRND_NONBLOCK) != sizeof drawn)
        drawn = x->begun_us ^ (uintptr_t)x;
    snprintf(x->id, sizeof x->id, "req-%016" PRIx64, drawn);
}

static struct exchange *exchange_new(struct http *h, struct MHD_Connection *mhd, const char *path,
                                     const char *method)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct exchange *x;

    if (!info || !info->socket_context || !(x = calloc(1, sizeof *x)))
        return NULL;
    x->http = h;
    x->conn = info->socket_context;
    x->mhd = mhd;
    x->begun_us = http_now_us();
    x->method = strdup(method);
    x->path = strdup(path);
    if (!x->method || !x->path) {
        free(x->method);
        free(x->path);
        free(x);
        return NULL;
    }
    buf_init(&x->body, h->options.max_body);
    buf_init(&x->out, 0);
    choose_id(x);
    pthread_mutex_lock(&h->lock);
    h->n_exchanges++;
    pthread_mutex_unlock(&h->lock);
    http_count(h, HTTP_REQUESTS, 1);
    return x;
}

static void exchange_free(struct exchange *x)
{
    buf_done(&x->body);
    buf_done(&x->out);
    free(x->method);
    free(x->path);
    free(x);
}

/* Nothing may wake or watch the exchange after this; its connection awaits the next request. */
static void exchange_detach(struct exchange *x)
{
    struct http *h = x->http;

    pthread_mutex_lock(&h->lock);
    http_watch_answered(x);
    http_watch_receive(x->conn);
    while (x->wakers) {
        struct http_waker *w = x->wakers;

        x->wakers = w->next;
        w->key = NULL;
        w->x = NULL;
        w->next = h->free_wakers;
        h->free_wakers = w;
    }
    pthread_mutex_unlock(&h->lock);
}

static void http_completed(void *arg, struct MHD_Connection *mhd, void **context,
                           enum MHD_RequestTerminationCode code)
{
    struct http *h = arg;
    struct exchange *x = *context;
    bool whole = code == MHD_REQUEST_TERMINATED_COMPLETED_OK, large;

    (void)mhd;
    if (!x)
        return;
    *context = NULL;
    exchange_detach(x);
    if (x->answer)
        x->answer->free(x->state, !x->ended);
    if (h->options.log)
        h->options.log(
            &(struct http_access){.id = x->id,
                                  .method = x->method,
                                  .path = x->path,
                                  .remote = x->conn->remote,
                                  .note = x->note,
                                  .status = x->answer && !x->streamed && !x->ended ? 0 : x->status,
                                  .cut = !whole || (x->answer && !x->ended),
                                  .bytes = x->sent,
                                  .us = http_now_us() - x->begun_us},
            h->options.user);
    large = x->body.len > TRIM_BYTES;
    exchange_free(x);
    if (large) /* and what was made of it: the C library would keep all that for this thread */
        malloc_trim(0);
    pthread_mutex_lock(&h->lock);
    h->n_exchanges--;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
}

const char *exchange_id(const struct exchange *x)
{
    return x->id;
}

const char *exchange_tail(const struct exchange *x)
{
    return x->tail;
}

const char *exchange_header(const struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, name);
}

const uint8_t *exchange_body(const struct exchange *x, size_t *ret_len)
{
    *ret_len = x->body.len;
    return x->body.data;
}

void exchange_note(struct exchange *x, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(x->note, sizeof x->note, format, args);
    va_end(args);
}

/* --- requests --- */

static bool route_takes(const struct http_route *r, const char *path, const char **ret_tail)
{
    size_t n = strlen(r->path) - 1;

    *ret_tail = "";
    if (r->path[n] != '*')
        return !strcmp(r->path, path);
    if (strncmp(r->path, path, n) || !path[n])
        return false;
    *ret_tail = path + n;
    return true;
}

static bool method_is(const struct http_route *r, const char *method)
{
    return !strcmp(r->method, method) ||
           (!strcmp(r->method, MHD_HTTP_METHOD_GET) && !strcmp(method, MHD_HTTP_METHOD_HEAD));
}

/* Finds the route; 404, or 405 with Allow, where there is none. */
static int find_route(struct exchange *x)
{
    char allow[64] = "";
    size_t n = 0;

    for (const struct http_route *r = x->http->options.routes; r->path; r++) {
        if (!route_takes(r, x->path, &x->tail))
            continue;
        if (method_is(r, x->method)) {
            x->route = r;
            return 0;
        }
        n += (size_t)snprintf(allow + n, sizeof allow - n, "%s%s", n ? ", " : "", r->method);
        if (n >= sizeof allow)
            n = sizeof allow - 1;
    }
    if (!*allow)
        return 404;
    exchange_set_header(x, MHD_HTTP_HEADER_ALLOW, allow);
    return 405;
}

static void exchange_refuse(struct exchange *x, int status, const char *why)
{
    x->http->options.refuse(x, status, why, x->http->options.user);
}

/* The request is here, whole. */
static void exchange_dispatch(struct exchange *x)
{
    int status;

    x->dispatched = true;
    pthread_mutex_lock(&x->http->lock);
    http_watch_received(x->conn);
    pthread_mutex_unlock(&x->http->lock);
    if (x->overflow) {
        exchange_set_header(x, MHD_HTTP_HEADER_CONNECTION, "close");
        exchange_refuse(x, 413, "the request body is larger than this server allows (--max-body)");
        return;
    }
    if (x->body.status) {
        exchange_refuse(x, 503, "out of memory");
        return;
    }
    status = find_route(x);
    if (status) {
        exchange_refuse(x, status,
                        status == 404 ? "no such path" : "this path does not take that method");
        return;
    }
    x->route->handle(x, x->http->options.user);
    if (!x->status)
        exchange_refuse(x, 500, "the request was not answered");
}

/* A chunked body over the cap is read on, and thrown away, so that its 413 arrives; but not for
 * ever. */
static enum MHD_Result exchange_collect(struct exchange *x, const char *bytes, size_t n)
{
    if (!x->overflow && buf_append(&x->body, bytes, n) == MT_ELIMIT)
        x->overflow = true;
    if (!x->overflow)
        return MHD_YES;
    x->waste += n;
    return x->waste > 2 * x->http->options.max_body ? MHD_NO : MHD_YES;
}

static enum MHD_Result http_access(void *arg, struct MHD_Connection *mhd, const char *path,
                                   const char *method, const char *version, const char *upload,
                                   size_t *upload_len, void **context)
{
    struct http *h = arg;
    struct exchange *x = *context;
    const char *why;
    int status;

    if (!x) {
        x = exchange_new(h, mhd, path, method);
        if (!x)
            return MHD_queue_response(mhd, MHD_HTTP_SERVICE_UNAVAILABLE, h->no_memory);
        *context = x;
        status = http_check(x, method, version, &why);
        if (!status)
            return MHD_YES;
        exchange_refuse(x, status, why);
        return http_answer_drive(
            x); /* answered before its body: libmicrohttpd closes the connection */
    }
    if (*upload_len) {
        enum MHD_Result more = exchange_collect(x, upload, *upload_len);

        *upload_len = 0;
        return more;
    }
    if (!x->dispatched)
        exchange_dispatch(x);
    return http_answer_drive(x);
}

/* Called with the request line, before it is taken apart. Leaves the exchange's context empty. */
static void *http_uri(void *arg, const char *uri, struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

    (void)arg;
    if (info && info->socket_context)
        http_raw_uri(info->socket_context, uri);
    return NULL;
}

static size_t keep_escapes(void *arg, struct MHD_Connection *mhd, char *text)
{
    (void)arg;
    (void)mhd;
    return strlen(text);
}

/* --- start and end --- */

static int make_no_memory(struct http *h, struct mt_err *reterr)
{
    static char text[] = HTTP_NO_MEMORY;

    h->no_memory = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_PERSISTENT);
    if (h->no_memory &&
        MHD_add_response_header(h->no_memory, MHD_HTTP_HEADER_RETRY_AFTER, "2") == MHD_YES &&
        MHD_add_response_header(h->no_memory, MHD_HTTP_HEADER_CONNECTION, "close") == MHD_YES)
        return 0;
    return mt_error(reterr, MT_ENOMEM, "the HTTP server: out of memory");
}

static int start_mhd(struct http *h, struct mt_err *reterr)
{
    const struct http_options *o = &h->options;
    const unsigned flags = MHD_USE_POLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME;
    const unsigned stall_s = (unsigned)((o->stall_ms + 999) / 1000);

    h->mhd = MHD_start_daemon(
        flags, 0, NULL, NULL, http_access, h, MHD_OPTION_LISTEN_SOCKET, h->listen_fd,
        MHD_OPTION_THREAD_POOL_SIZE, o->threads, MHD_OPTION_CONNECTION_LIMIT, o->max_connections,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, o->max_header, MHD_OPTION_CONNECTION_TIMEOUT, stall_s,
        MHD_OPTION_NOTIFY_COMPLETED, http_completed, h, MHD_OPTION_NOTIFY_CONNECTION,
        http_connection, h, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL,
        MHD_OPTION_URI_LOG_CALLBACK, http_uri, NULL, MHD_OPTION_STRICT_FOR_CLIENT, h->raw ? 0 : 1,
        MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
    if (!h->mhd)
        return mt_error(reterr, MT_EIO, "cannot start the HTTP server: %s", strerror(errno));
    return 0;
}

static void http_destroy(struct http *h)
{
    while (h->all_wakers) {
        struct http_waker *w = h->all_wakers;

        h->all_wakers = w->next_all;
        free(w);
    }
    if (h->no_memory)
        MHD_destroy_response(h->no_memory);
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->lock);
    free(h->watch_fds);
    free(h->watch_xs);
    free(h);
}

int http_start(const struct http_options *options, int fd, struct http **ret, struct mt_err *reterr)
{
    struct http *h = calloc(1, sizeof *h);
    pthread_condattr_t attr;
    int status;

    if (!h)
        return mt_error(reterr, MT_ENOMEM, "the HTTP server: out of memory");
    h->options = *options;
    h->listen_fd = fd;
    h->watch_until_us = UINT64_MAX;
    h->raw = http_raw_known();
    TAILQ_INIT(&h->receiving);
    TAILQ_INIT(&h->waiting);
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&h->changed, &attr);
    pthread_condattr_destroy(&attr);
    h->watch_fds = calloc(options->max_connections, sizeof *h->watch_fds);
    h->watch_xs = calloc(options->max_connections, sizeof *h->watch_xs);
    if (!h->watch_fds || !h->watch_xs)
        status = mt_error(reterr, MT_ENOMEM, "the HTTP server: out of memory");
    else
        status = make_no_memory(h, reterr);
    if (!status)
        status = http_watch_start(h, reterr);
    if (!status)
        status = start_mhd(h, reterr);
    if (status) {
        pthread_mutex_lock(&h->lock);
        h->stopping = true;
        pthread_cond_broadcast(&h->changed);
        pthread_mutex_unlock(&h->lock);
        http_watch_stop(h);
        http_destroy(h);
        return status;
    }
    *ret = h;
    return 0;
}

bool http_quiesce(struct http *h, int ms)
{
    uint64_t until = http_now_us() + (uint64_t)ms * 1000;
    struct timespec at = {.tv_sec = (time_t)(until / 1000000),
                          .tv_nsec = (long)(until % 1000000) * 1000};
    bool idle;

    if (!h->quiesced) {
        h->quiesced = true;
        MHD_quiesce_daemon(h->mhd); /* its threads may still look at the socket: it stays open */
    }
    pthread_mutex_lock(&h->lock);
    while (h->n_exchanges)
        if (pthread_cond_timedwait(&h->changed, &h->lock, &at))
            break;
    idle = !h->n_exchanges;
    pthread_mutex_unlock(&h->lock);
    return idle;
}

void http_free(struct http *h)
{
    struct exchange *x;

    if (!h)
        return;
    http_quiesce(h, 0);
    pthread_mutex_lock(&h->lock);
    h->stopping = true;
    /* libmicrohttpd aborts when it is stopped with a suspended connection; with `stopping` set,
     * none is suspended anew. */
    TAILQ_FOREACH(x, &h->waiting, link)
        http_answer_rouse(x);
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    http_watch_stop(h);
    MHD_stop_daemon(h->mhd);
    close(h->listen_fd);
    http_destroy(h);
}
