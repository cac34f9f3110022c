#include "http_site.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "web.h"

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
    struct http_site *s = user;

    pthread_mutex_lock(&s->lock);
    s->logged++;
    s->last_status = a->status;
    s->last_cut = a->cut;
    pthread_mutex_unlock(&s->lock);
}

static void on_count(enum http_count what, int64_t change, void *user)
{
    struct http_site *s = user;

    pthread_mutex_lock(&s->lock);
    if (what == HTTP_CONNECTIONS)
        s->connections += change;
    else if (what == HTTP_REFUSED)
        s->refused += change;
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
        buf_puts(out, TAP_LINE);
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

static const struct answer_ops TAP = {tap_pull, tap_free, TAP_IDLE};

static void on_tap(struct exchange *x, void *user)
{
    struct http_site *s = user;
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

void http_site_start(struct http_site *s, const struct http_options *wish)
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
    o.stall_ms = o.stall_ms ? o.stall_ms : 60000;
    o.routes = SITE;
    o.user = s;
    o.refuse = on_refuse;
    o.log = on_log;
    o.count = on_count;
    assert_int_equal(http_listen_tcp("127.0.0.1", 0, &fd, &s->port, NULL), 0);
    assert_true(s->port > 0);
    assert_int_equal(http_start(&o, fd, &s->http, NULL), 0);
}

void http_site_stop(struct http_site *s)
{
    http_free(s->http);
    for (size_t i = 0; i < s->n_taps; i++)
        assert_int_equal(s->taps[i].frees, 1);
    assert_int_equal(s->connections, 0);
}

const struct http_options HTTP_SITE_PLAIN = {0};

/* --- taps --- */

struct tap *tap_opened(struct http_site *s, size_t i)
{
    struct tap *t = &s->taps[i];

    pthread_mutex_lock(&t->lock);
    while (!t->waker)
        pthread_cond_wait(&t->changed, &t->lock);
    pthread_mutex_unlock(&t->lock);
    return t;
}

void tap_give(struct tap *t, size_t lines, bool end)
{
    pthread_mutex_lock(&t->lock);
    t->lines += lines;
    t->ended |= end;
    pthread_mutex_unlock(&t->lock);
    http_wake(t->waker, t);
}

void tap_await_freed(struct tap *t)
{
    pthread_mutex_lock(&t->lock);
    while (!t->frees)
        pthread_cond_wait(&t->changed, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

void http_site_streamed(struct http_site *s, bool streamed)
{
    pthread_mutex_lock(&s->lock);
    s->streamed = streamed;
    pthread_mutex_unlock(&s->lock);
}

int tap_open(struct http_site *s)
{
    int fd = web_open(s->port);

    web_puts(fd, "GET /tap HTTP/1.1\r\nHost: x\r\n\r\n");
    return fd;
}
