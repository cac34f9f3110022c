/* The HTTP server by itself, over real sockets, with routes of the test's own. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/http.h"
#include "web.h"

#define LINE "line of a stream 0123456789 abcdefghijklmnopqrstuvwxyz\n"

/* An answer that the test gives out piece by piece. */
struct tap {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t lines; /* that may be told */
    bool ended;   /* no more come */
    size_t told;
    int pulls, frees, cuts;
    struct http_waker *waker;
};

struct site {
    struct http *http;
    int port;
    pthread_mutex_t lock;
    int logged, last_status;
    bool last_cut;
    int64_t connections;
    struct tap taps[64];
    size_t n_taps; /* used */
    bool streamed;
};

static void answer_text(struct exchange *x, int status, const char *text)
{
    struct buf body;

    buf_init(&body, 1 << 20);
    buf_puts(&body, text);
    exchange_reply(x, status, "text/plain", &body);
}

static void on_refuse(struct exchange *x, int status, const char *why, void *user)
{
    (void)user;
    answer_text(x, status, why);
}

static void on_log(const struct http_access *a, void *user)
{
    struct site *s = user;

    pthread_mutex_lock(&s->lock);
    s->logged++;
    s->last_status = a->status;
    s->last_cut = a->cut;
    pthread_mutex_unlock(&s->lock);
}

static void on_count(int64_t connections, int64_t exchanges, void *user)
{
    struct site *s = user;

    (void)exchanges;
    pthread_mutex_lock(&s->lock);
    s->connections += connections;
    pthread_mutex_unlock(&s->lock);
}

static void on_hello(struct exchange *x, void *user)
{
    (void)user;
    exchange_note(x, "greeting=yes");
    answer_text(x, 200, "hello\n");
}

static void on_tail(struct exchange *x, void *user)
{
    (void)user;
    answer_text(x, 200, exchange_tail(x));
}

static void on_echo(struct exchange *x, void *user)
{
    size_t len;
    const uint8_t *bytes = exchange_body(x, &len);
    struct buf body;

    (void)user;
    buf_init(&body, 1 << 20);
    buf_append(&body, bytes, len);
    exchange_reply(x, 200, "application/octet-stream", &body);
}

static void on_nothing(struct exchange *x, void *user)
{
    (void)x;
    (void)user;
}

static enum answer_step tap_pull(void *state, struct exchange *x, struct buf *out, int *status)
{
    struct tap *t = state;
    enum answer_step step;

    (void)x;
    (void)status;
    pthread_mutex_lock(&t->lock);
    t->pulls++;
    for (int i = 0; i < 200 && t->told < t->lines; i++, t->told++)
        buf_puts(out, LINE);
    step = t->told < t->lines ? ANSWER_MORE : t->ended ? ANSWER_END : ANSWER_WAIT;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
    return step;
}

static void tap_free(void *state, bool cut)
{
    struct tap *t = state;

    pthread_mutex_lock(&t->lock);
    t->frees++;
    t->cuts += cut;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
}

static const struct answer_ops TAP = {tap_pull, tap_free};

static void on_tap(struct exchange *x, void *user)
{
    struct site *s = user;
    struct tap *t;
    bool streamed;

    pthread_mutex_lock(&s->lock);
    t = &s->taps[s->n_taps++];
    streamed = s->streamed;
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_lock(&t->lock);
    t->waker = exchange_waker(x, t);
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
    exchange_answer(x, &TAP, t, "text/plain", streamed);
}

static const struct http_route SITE[] = {
    {"GET", "/hello", on_hello, ""},
    {"GET", "/tail/*", on_tail, ""},
    {"POST", "/echo", on_echo, ""},
    {"GET", "/tap", on_tap, ""},
    {"GET", "/nothing", on_nothing, ""},
    {"PUT", "/hello", on_hello, ""},
    {NULL, NULL, NULL, NULL},
};

static void site_start(struct site *s, const struct http_options *wish)
{
    struct http_options o = *wish;
    int fd;

    memset(s, 0, sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
    for (size_t i = 0; i < sizeof s->taps / sizeof *s->taps; i++) {
        pthread_mutex_init(&s->taps[i].lock, NULL);
        pthread_cond_init(&s->taps[i].changed, NULL);
    }
    o.threads = o.threads ? o.threads : 2;
    o.max_connections = o.max_connections ? o.max_connections : 256;
    o.max_uri = 200;
    o.max_header = 32768;
    o.max_body = 1000;
    o.receive_ms = o.receive_ms ? o.receive_ms : 60000;
    o.stall_ms = 60000;
    o.routes = SITE;
    o.user = s;
    o.refuse = on_refuse;
    o.log = on_log;
    o.count = on_count;
    assert_int_equal(http_listen_tcp("127.0.0.1", 0, &fd, &s->port, NULL), 0);
    assert_true(s->port > 0);
    assert_int_equal(http_start(&o, fd, &s->http, NULL), 0);
}

static void site_stop(struct site *s)
{
    http_free(s->http);
    for (size_t i = 0; i < s->n_taps; i++)
        assert_int_equal(s->taps[i].frees, 1);
    assert_int_equal(s->connections, 0);
}

static const struct http_options PLAIN = {0};

/* --- requests that are answered at once --- */

static void test_plain(void **state)
{
    struct site s;
    struct web_reply r;
    int fd;

    (void)state;
    site_start(&s, &PLAIN);
    web_call(s.port, "/hello", NULL, &r);
    assert_int_equal(r.status, 200);
    assert_string_equal(web_body(&r), "hello\n");
    assert_int_equal(strncmp(web_header(&r, "X-Request-Id"), "req-", 4), 0);
    web_done(&r);
    web_call(s.port, "/tail/a%2Fb%00c", NULL, &r);
    assert_int_equal(r.status, 400);
    web_done(&r);
    web_call(s.port, "/tail/a%2Fb?x=1", NULL, &r);
    assert_string_equal(web_body(&r), "a%2Fb");
    web_done(&r);
    web_call(s.port, "/echo", "some bytes", &r);
    assert_string_equal(web_body(&r), "some bytes");
    web_done(&r);
    web_call(s.port, "/nothing", NULL, &r);
    assert_int_equal(r.status, 500);
    web_done(&r);
    fd = web_open(s.port);
    web_puts(fd, "HEAD /hello HTTP/1.0\r\nHost: x\r\nX-Request-Id: mine-1\r\n\r\n");
    web_read(fd, NULL, &r);
    assert_int_equal(r.status, 200);
    assert_string_equal(web_header(&r, "X-Request-Id"), "mine-1");
    web_done(&r);
    close(fd);
    fd = web_open(s.port);
    web_puts(fd, "GET /hello HTTP/1.1\r\nHost: x\r\nX-Request-Id: a b\"\r\n\r\n");
    web_read(fd, NULL, &r);
    assert_int_equal(strncmp(web_header(&r, "X-Request-Id"), "req-", 4), 0);
    web_done(&r);
    close(fd);
    site_stop(&s);
}

static void test_no_route(void **state)
{
    struct site s;
    struct web_reply r;

    (void)state;
    site_start(&s, &PLAIN);
    web_call(s.port, "/hell", NULL, &r);
    assert_int_equal(r.status, 404);
    web_done(&r);
    web_call(s.port, "/tail/", NULL, &r);
    assert_int_equal(r.status, 404);
    web_done(&r);
    web_call(s.port, "/hello", "", &r);
    assert_int_equal(r.status, 405);
    assert_string_equal(web_header(&r, "Allow"), "GET, PUT");
    web_done(&r);
    site_stop(&s);
}

/* What another HTTP program may read differently, and what is over a cap. Each on a connection of
 * its own. */
static void test_refused(void **state)
{
    static const struct {
        const char *bytes;
        int status;
    } CASES[] = {
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
         400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
         400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
         "1\r\na\r\n0\r\n\r\n",
         400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\nabc", 501},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
         501},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
         "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
         501},
        {"POST /echo HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nabcde", 400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", 413},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551616\r\n\r\n", 413},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n",
         413},
        {"GET /tail/%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"GET /hello HTTP/1.1\r\n\r\n", 400}, /* no Host */
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
        {"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400},
    };
    struct site s;
    struct web_reply r;

    (void)state;
    site_start(&s, &PLAIN);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        int fd = web_open(s.port);
        struct buf rest; /* libmicrohttpd's own 400 has its headers twice */

        buf_init(&rest, 1 << 20);
        web_puts(fd, CASES[i].bytes);
        web_read(fd, &rest, &r);
        if (r.status != CASES[i].status)
            fail_msg("case %zu: expected %d, found %d", i, CASES[i].status, r.status);
        web_done(&r);
        buf_done(&rest);
        /* what follows such a request is never read as another one */
        web_puts(fd, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_true(web_closed(fd));
        close(fd);
    }
    assert_true(http_quiesce(s.http, 10000));
    assert_int_not_equal(s.last_status, 200);
    site_stop(&s);
}

static void test_long_path_and_body(void **state)
{
    struct site s;
    struct web_reply r;
    char path[301], bytes[1201], head[128];
    int fd;

    (void)state;
    site_start(&s, &PLAIN);
    memset(path, 'a', 300);
    path[0] = '/';
    path[300] = 0;
    web_call(s.port, path, NULL, &r);
    assert_int_equal(r.status, 414);
    web_done(&r);
    memset(bytes, 'b', 1200);
    bytes[1000] = 0;
    web_call(s.port, "/echo", bytes, &r); /* the cap itself fits */
    assert_int_equal(r.status, 200);
    assert_int_equal(r.body.len, 1000);
    web_done(&r);
    bytes[1000] = 'b';
    fd = web_open(s.port);
    web_puts(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    snprintf(head, sizeof head, "%x\r\n", 1200);
    web_puts(fd, head);
    web_send(fd, bytes, 1200);
    web_puts(fd, "\r\n0\r\n\r\n");
    web_read(fd, NULL, &r);
    assert_int_equal(r.status, 413);
    web_done(&r);
    close(fd);
    fd = web_open(s.port); /* without end: hung up on */
    web_puts(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 100; i++) {
        web_puts(fd, head);
        web_send(fd, bytes, 1200);
        web_puts(fd, "\r\n");
    }
    assert_true(web_closed(fd));
    close(fd);
    site_stop(&s);
}

static void test_pipelining(void **state)
{
    struct site s;
    struct web_reply r;
    struct buf rest;
    int fd;

    (void)state;
    site_start(&s, &PLAIN);
    buf_init(&rest, 1 << 20);
    fd = web_open(s.port);
    web_puts(
        fd,
        "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nGET "
        "GET /missing HTTP/1.1\r\nHost: x\r\n\r\n"
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    web_read(fd, &rest, &r);
    assert_string_equal(web_body(&r), "hello\n");
    web_done(&r);
    web_read(fd, &rest, &r);
    assert_string_equal(web_body(&r), "GET ");
    web_done(&r);
    web_read(fd, &rest, &r);
    assert_int_equal(r.status, 404);
    web_done(&r);
    web_read(fd, &rest, &r);
    assert_string_equal(web_body(&r), "hi");
    web_done(&r);
    assert_int_equal(rest.len, 0);
    buf_done(&rest);
    close(fd);
    site_stop(&s);
}

/* --- connections --- */

/* Connections over the cap wait, and are served once idle ones have had their time. */
static void test_connection_cap(void **state)
{
    const struct http_options o = {.max_connections = 64, .receive_ms = 300};
    static int fds[1000];
    struct site s;
    struct web_reply r;

    (void)state;
    site_start(&s, &o);
    for (int i = 0; i < 1000; i++)
        fds[i] = web_open(s.port); /* into the backlog, most of them */
    pthread_mutex_lock(&s.lock);
    assert_true(s.connections <= 64);
    pthread_mutex_unlock(&s.lock);
    for (int i = 0; i < 900; i++)
        close(fds[i]);
    for (int i = 900; i < 1000;
         i++) { /* some were accepted and idle for too long: those are closed */
        web_puts(fds[i], "GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        web_read(fds[i], NULL, &r);
        assert_true(r.status == 200 || r.status == 0);
        web_done(&r);
        close(fds[i]);
    }
    web_call(s.port, "/hello", NULL, &r);
    assert_int_equal(r.status, 200);
    web_done(&r);
    site_stop(&s);
}

/* A request that drips in for ever is cut off, though the connection is never idle. */
static void test_drip(void **state)
{
    const struct http_options o = {.receive_ms = 300};
    static const char *const STARTS[] = {
        "GET /hello HTTP/1.1\r\nX-Long: ",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
    };
    struct site s;

    (void)state;
    site_start(&s, &o);
    for (int i = 0; i < 2; i++) {
        int fd = web_open(s.port);
        char byte;

        web_puts(fd, STARTS[i]);
        for (;;) {
            ssize_t n;

            web_send(fd, "a", 1);
            n = recv(fd, &byte, 1, MSG_DONTWAIT);
            if (!n || (n < 0 && errno != EAGAIN))
                break;
            usleep(20000);
        }
        close(fd);
    }
    site_stop(&s);
}

/* --- answers that come later --- */

static struct tap *tap_opened(struct site *s, size_t i)
{
    struct tap *t = &s->taps[i];

    pthread_mutex_lock(&t->lock);
    while (!t->waker)
        pthread_cond_wait(&t->changed, &t->lock);
    pthread_mutex_unlock(&t->lock);
    return t;
}

static void tap_give(struct tap *t, size_t lines, bool end)
{
    pthread_mutex_lock(&t->lock);
    t->lines += lines;
    t->ended |= end;
    pthread_mutex_unlock(&t->lock);
    http_wake(t->waker, t);
}

static void tap_await_freed(struct tap *t)
{
    pthread_mutex_lock(&t->lock);
    while (!t->frees)
        pthread_cond_wait(&t->changed, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

static void set_streamed(struct site *s, bool streamed)
{
    pthread_mutex_lock(&s->lock);
    s->streamed = streamed;
    pthread_mutex_unlock(&s->lock);
}

static int tap_open(struct site *s)
{
    int fd = web_open(s->port);

    web_puts(fd, "GET /tap HTTP/1.1\r\nHost: x\r\n\r\n");
    return fd;
}

static void test_whole_answer(void **state)
{
    struct site s;
    struct web_reply r;
    struct tap *t;
    int fd;

    (void)state;
    site_start(&s, &PLAIN);
    fd = tap_open(&s);
    t = tap_opened(&s, 0);
    tap_give(t, 2, false);
    tap_give(t, 1, true);
    web_read(fd, NULL, &r);
    assert_int_equal(r.status, 200);
    assert_string_equal(web_body(&r), LINE LINE LINE);
    assert_non_null(web_header(&r, "Content-Length"));
    web_done(&r);
    tap_await_freed(t);
    assert_int_equal(t->cuts, 0);
    http_wake(t->waker, t);                                 /* too late: nothing happens */
    web_puts(fd, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"); /* the connection goes on */
    web_read(fd, NULL, &r);
    assert_string_equal(web_body(&r), "hello\n");
    web_done(&r);
    close(fd);
    site_stop(&s);
}

static void test_stream(void **state)
{
    char part[sizeof LINE * 4];
    struct site s;
    struct web_reply r;
    struct tap *t;
    int fd;

    (void)state;
    site_start(&s, &PLAIN);
    set_streamed(&s, true);
    fd = tap_open(&s);
    t = tap_opened(&s, 0);
    /* the headers and the first line arrive before the second is there */
    tap_give(t, 1, false);
    for (size_t n = 0;;) {
        n += web_read_some(fd, part + n, 1);
        part[n] = 0;
        if (strstr(part, "tuvwxyz\n"))
            break;
        if (n > sizeof part - 2) { /* headers: forget them */
            memmove(part, part + n / 2, n - n / 2);
            n -= n / 2;
        }
    }
    tap_give(t, 1, true);
    assert_true(web_read_some(fd, part, sizeof LINE) == sizeof LINE);
    assert_non_null(
        strstr("\r\n38\r\n" LINE, "38")); /* sizeof LINE is checked by the reader below */
    tap_await_freed(t);
    assert_int_equal(t->cuts, 0);
    close(fd);
    fd = tap_open(&s);
    t = tap_opened(&s, 1);
    tap_give(t, 5000, true);
    web_read(fd, NULL, &r);
    assert_true(r.whole);
    assert_int_equal(r.body.len, 5000 * strlen(LINE));
    web_done(&r);
    close(fd);
    site_stop(&s);
}

/* A client that leaves while nothing is sent to it: the answer is freed as cut, streamed or not,
 * closed or half-closed. */
static void test_disconnect(void **state)
{
    struct site s;

    (void)state;
    site_start(&s, &PLAIN);
    for (size_t i = 0; i < 4; i++) {
        struct tap *t;
        int fd;

        set_streamed(&s, i % 2);
        fd = tap_open(&s);
        t = tap_opened(&s, i);
        if (i / 2)
            shutdown(fd, SHUT_WR);
        else
            close(fd);
        tap_await_freed(t);
        assert_int_equal(t->cuts, 1);
        if (i / 2)
            close(fd);
    }
    assert_true(http_quiesce(s.http, 10000));
    assert_int_equal(s.logged, 4);
    assert_true(s.last_cut);
    site_stop(&s);
}

/* A stream that its client does not read holds up nobody, and is whole when it is read at last. */
static void test_slow_reader(void **state)
{
    const struct http_options o = {.threads = 1};
    const size_t lines = 400000;
    struct site s;
    struct web_reply r;
    struct tap *t;
    int fd;

    (void)state;
    site_start(&s, &o);
    set_streamed(&s, true);
    fd = tap_open(&s);
    t = tap_opened(&s, 0);
    tap_give(t, lines, true);
    for (int i = 0; i < 50; i++) {
        web_call(s.port, "/hello", NULL, &r);
        assert_int_equal(r.status, 200);
        web_done(&r);
    }
    pthread_mutex_lock(&t->lock);
    assert_true(t->told < lines); /* it was not all taken into memory */
    pthread_mutex_unlock(&t->lock);
    web_read(fd, NULL, &r);
    assert_true(r.whole);
    assert_int_equal(r.body.len, lines * strlen(LINE));
    for (size_t i = 0; i < lines; i++)
        if (memcmp(r.body.data + i * strlen(LINE), LINE, strlen(LINE)) != 0)
            fail_msg("line %zu differs", i);
    web_done(&r);
    close(fd);
    site_stop(&s);
}

/* A client that neither reads nor closes does not keep a cancelled or finished server from ending.
 */
static void test_stop_with_sleepers(void **state)
{
    struct site s;
    int fds[16];

    (void)state;
    site_start(&s, &PLAIN);
    for (size_t i = 0; i < 16; i++) {
        set_streamed(&s, i % 2);
        fds[i] = tap_open(&s);
        tap_opened(&s, i);
        if (i == 5)
            tap_give(&s.taps[i], 1000000, false);
    }
    assert_false(http_quiesce(s.http, 10));
    site_stop(&s);
    for (size_t i = 0; i < 16; i++) {
        assert_int_equal(s.taps[i].cuts, 1);
        assert_true(web_closed(fds[i]));
        close(fds[i]);
    }
}

/* --- races --- */

struct giver {
    struct site *site;
    size_t from, to, lines;
};

static void *give_lines(void *arg)
{
    const struct giver *g = arg;

    for (size_t k = 0; k < g->lines; k++)
        for (size_t i = g->from; i < g->to; i++)
            tap_give(tap_opened(g->site, i), 1, k + 1 == g->lines);
    return NULL;
}

/* Many streams woken by several threads, some clients leaving in the middle: nothing is lost,
 * nothing hangs. */
static void test_many_streams(void **state)
{
    enum { STREAMS = 48, GIVERS = 3, LINES = 200 };
    struct giver givers[GIVERS];
    pthread_t threads[GIVERS];
    struct site s;
    struct web_reply r;
    int fds[STREAMS];
    size_t wholes = 0;

    (void)state;
    site_start(&s, &PLAIN);
    set_streamed(&s, true);
    for (int i = 0; i < STREAMS; i++)
        fds[i] = tap_open(&s);
    for (int i = 0; i < GIVERS; i++) {
        givers[i] = (struct giver){&s, (size_t)i * STREAMS / GIVERS,
                                   (size_t)(i + 1) * STREAMS / GIVERS, LINES};
        assert_int_equal(pthread_create(&threads[i], NULL, give_lines, &givers[i]), 0);
    }
    for (int i = 0; i < STREAMS; i += 4) {
        close(fds[i]);
        fds[i] = -1;
    }
    for (int i = 0; i < STREAMS; i++) {
        if (fds[i] < 0)
            continue;
        web_read(fds[i], NULL, &r);
        assert_true(r.whole);
        assert_int_equal(r.body.len, LINES * strlen(LINE));
        wholes++;
        web_done(&r);
        close(fds[i]);
    }
    for (int i = 0; i < GIVERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(wholes, STREAMS - STREAMS / 4);
    for (size_t i = 0; i < STREAMS; i++)
        tap_await_freed(&s.taps[i]);
    site_stop(&s);
}

/* --- sockets --- */

static void test_listen(void **state)
{
    char dir[] = "/tmp/test_http.XXXXXX", path[64], longer[256];
    struct mt_err err;
    int fd, other, port;

    (void)state;
    assert_int_equal(http_listen_tcp("127.0.0.1", 0, &fd, &port, &err), 0);
    assert_int_equal(http_listen_tcp("127.0.0.1", port, &other, &port, &err), MT_EIO);
    assert_non_null(strstr(err.text, "in use"));
    close(fd);
    assert_int_equal(http_listen_tcp("no.such.host.invalid", 0, &fd, &port, &err), MT_EINVAL);
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/socket", dir);
    assert_int_equal(http_listen_unix(path, &fd, &err), 0);
    assert_int_equal(http_listen_unix(path, &other, &err), MT_EIO); /* in use */
    close(fd);
    assert_int_equal(http_listen_unix(path, &fd, &err), 0); /* left behind */
    close(fd);
    unlink(path);
    rmdir(dir);
    memset(longer, 'a', sizeof longer);
    longer[sizeof longer - 1] = 0;
    assert_int_equal(http_listen_unix(longer, &fd, &err), MT_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),        cmocka_unit_test(test_no_route),
        cmocka_unit_test(test_refused),      cmocka_unit_test(test_long_path_and_body),
        cmocka_unit_test(test_pipelining),   cmocka_unit_test(test_connection_cap),
        cmocka_unit_test(test_drip),         cmocka_unit_test(test_whole_answer),
        cmocka_unit_test(test_stream),       cmocka_unit_test(test_disconnect),
        cmocka_unit_test(test_slow_reader),  cmocka_unit_test(test_stop_with_sleepers),
        cmocka_unit_test(test_many_streams), cmocka_unit_test(test_listen),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
