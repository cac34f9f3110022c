/* The watcher: one thread beside libmicrohttpd's, for what that does not do.
 *
 * - A suspended connection is not polled, so its client's leaving goes unnoticed: while answers are
 * awaited, their sockets are looked at every HTTP_WATCH_MS. A stream that has been silent for long
 * is then woken up to say so.
 * - Its timeout is idle-only, so a drip of one byte a second holds a connection for ever: a
 * connection has receive_ms to deliver its next request, whole.
 *
 * A descriptor is only looked at, or shut down, under the server's lock and while its object is on
 * a list; the object leaves its list, under the lock, before libmicrohttpd closes the descriptor.
 * So none is ever stale. Connections are ended by shutdown(2), never closed: libmicrohttpd then
 * finds out by itself. */
#include <string.h>
#include <sys/socket.h>

#include "daemon/http_impl.h"

#define WATCH_US (HTTP_WATCH_MS * UINT64_C(1000))

/* Has the watcher up at that time; a time that it keeps anyway costs nothing. */
static void watch_by(struct http *h, uint64_t us)
{
    if (us >= h->watch_until_us)
        return;
    h->watch_until_us = us;
    pthread_cond_broadcast(&h->changed);
}

static uint64_t receive_deadline(const struct conn *c)
{
    return c->since_us + (uint64_t)c->http->options.receive_ms * 1000;
}

void http_watch_receive(struct conn *c)
{
    if (c->receiving)
        TAILQ_REMOVE(&c->http->receiving, c, link);
    c->receiving = true;
    c->since_us = http_now_us();
    TAILQ_INSERT_TAIL(&c->http->receiving, c, link);
    watch_by(c->http, receive_deadline(c));
}

void http_watch_received(struct conn *c)
{
    if (!c->receiving)
        return;
    c->receiving = false;
    TAILQ_REMOVE(&c->http->receiving, c, link);
}

void http_watch_answer(struct exchange *x)
{
    x->waiting = true;
    TAILQ_INSERT_TAIL(&x->http->waiting, x, link);
    watch_by(x->http, http_now_us() + WATCH_US);
}

void http_watch_answered(struct exchange *x)
{
    if (!x->waiting)
        return;
    x->waiting = false;
    TAILQ_REMOVE(&x->http->waiting, x, link);
}

/* Ends connections whose request is overdue; the list is in order of age. */
static void watch_overdue(struct http *h, uint64_t now)
{
    struct conn *c;

    while ((c = TAILQ_FIRST(&h->receiving)) && receive_deadline(c) <= now) {
        http_watch_received(c);
        shutdown(c->fd, SHUT_RDWR);
    }
}

/* Ends exchanges whose client has closed its side. */
static void watch_gone(struct http *h)
{
    struct exchange *x;
    uint32_t n = 0;

    TAILQ_FOREACH(x, &h->waiting, link) {
        if (n == h->options.max_connections)
            break;
        h->watch_xs[n] = x;
        h->watch_fds[n++] = (struct pollfd){.fd = x->conn->fd, .events = POLLRDHUP};
    }
    if (poll(h->watch_fds, n, 0) <= 0)
        return;
    for (uint32_t i = 0; i < n; i++) {
        if (!h->watch_fds[i].revents)
            continue;
        x = h->watch_xs[i];
        x->gone = true;
        http_watch_answered(x);
        shutdown(x->conn->fd, SHUT_RDWR);
        http_answer_rouse(x);
    }
}

static void watch_wait(struct http *h)
{
    struct timespec until;

    if (h->watch_until_us == UINT64_MAX) {
        pthread_cond_wait(&h->changed, &h->lock);
        return;
    }
    until.tv_sec = (time_t)(h->watch_until_us / 1000000);
    until.tv_nsec = (long)(h->watch_until_us % 1000000) * 1000;
    pthread_cond_timedwait(&h->changed, &h->lock, &until);
}

static void *watch_run(void *arg)
{
    struct http *h = arg;
    struct exchange *x;

    pthread_mutex_lock(&h->lock);
    while (!h->stopping) {
        uint64_t now = http_now_us();

        if (now >= h->watch_until_us) {
            h->watch_until_us = UINT64_MAX;
            watch_overdue(h, now);
            watch_gone(h);
            TAILQ_FOREACH(x, &h->waiting, link)
                http_answer_ping(x, now);
            if (!TAILQ_EMPTY(&h->receiving))
                h->watch_until_us = receive_deadline(TAILQ_FIRST(&h->receiving));
            if (!TAILQ_EMPTY(&h->waiting) && now + WATCH_US < h->watch_until_us)
                h->watch_until_us = now + WATCH_US;
        }
        watch_wait(h);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

int http_watch_start(struct http *h, struct mt_err *reterr)
{
    int err = pthread_create(&h->watcher, NULL, watch_run, h);

    if (err)
        return mt_error(reterr, MT_EIO, "cannot start the connection watcher: %s", strerror(err));
    h->watcher_started = true;
    return 0;
}

void http_watch_stop(struct http *h)
{
    if (!h->watcher_started)
        return;
    pthread_join(h->watcher, NULL);
    h->watcher_started = false;
}
