/* The HTTP server by itself, over real sockets: answers that come later, and clients that do not
 * wait for them. */
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
#include "http_site.h"
#include "web.h"

static void test_whole_answer(void **state)
{
    struct http_site s;
    struct web_reply r;
    struct tap *t;
    int fd;

    (void)state;
    http_site_start(&s, &HTTP_SITE_PLAIN);
    fd = tap_open(&s);
    t = tap_opened(&s, 0);
    tap_give(t, 2, false);
    tap_give(t, 1, true);
    web_read(fd, NULL, &r);
    assert_int_equal(r.status, 200);
    assert_string_equal(web_body(&r), TAP_LINE TAP_LINE TAP_LINE);
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
    http_site_stop(&s);
}

static void test_stream(void **state)
{
    char part[sizeof TAP_LINE * 4];
    struct http_site s;
    struct web_reply r;
    struct tap *t;
    int fd;

    (void)state;
    http_site_start(&s, &HTTP_SITE_PLAIN);
    http_site_streamed(&s, true);
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
    assert_true(web_read_some(fd, part, sizeof TAP_LINE) == sizeof TAP_LINE);
    assert_non_null(
        strstr("\r\n38\r\n" TAP_LINE, "38")); /* sizeof TAP_LINE is checked by the reader below */
    tap_await_freed(t);
    assert_int_equal(t->cuts, 0);
    close(fd);
    fd = tap_open(&s);
    t = tap_opened(&s, 1);
    tap_give(t, 5000, true);
    web_read(fd, NULL, &r);
    assert_true(r.whole);
    assert_int_equal(r.body.len, 5000 * strlen(TAP_LINE));
    web_done(&r);
    close(fd);
    http_site_stop(&s);
}

/* A client that leaves while nothing is sent to it: the answer is freed as cut, streamed or not,
 * closed or half-closed. */
static void test_disconnect(void **state)
{
    struct http_site s;

    (void)state;
    http_site_start(&s, &HTTP_SITE_PLAIN);
    for (size_t i = 0; i < 4; i++) {
        struct tap *t;
        int fd;

        http_site_streamed(&s, i % 2);
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
    http_site_stop(&s);
}

/* A stream that its client does not read holds up nobody, and is whole when it is read at last. */
static void test_slow_reader(void **state)
{
    const struct http_options o = {.threads = 1};
    const size_t lines = 400000;
    struct http_site s;
    struct web_reply r;
    struct tap *t;
    int fd;

    (void)state;
    http_site_start(&s, &o);
    http_site_streamed(&s, true);
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
    assert_int_equal(r.body.len, lines * strlen(TAP_LINE));
    for (size_t i = 0; i < lines; i++)
        if (memcmp(r.body.data + i * strlen(TAP_LINE), TAP_LINE, strlen(TAP_LINE)) != 0)
            fail_msg("line %zu differs", i);
    web_done(&r);
    close(fd);
    http_site_stop(&s);
}

/* Reads lines into text until it ends with `end`. */
static void read_until(int fd, const char *end, char *text, size_t size)
{
    size_t len = 0;

    do {
        ssize_t n = recv(fd, text + len, size - 1 - len, 0);

        if (n <= 0)
            fail_msg("the stream ended: %s", text);
        len += (size_t)n;
        text[len] = 0;
    } while (!strstr(text, end));
}

/* A silent stream gets its idle line, between two pieces, again and again; one that talks gets
 * none; a whole answer never does. */
static void test_ping(void **state)
{
    const struct http_options o = {.ping_ms = 50};
    struct http_site s;
    struct web_reply r;
    char text[4096];
    struct tap *t;
    int fd;

    (void)state;
    http_site_start(&s, &o);
    http_site_streamed(&s, true);
    fd = tap_open(&s); /* nothing is there yet, as in a queue */
    t = tap_opened(&s, 0);
    read_until(fd, TAP_IDLE, text, sizeof text);
    assert_non_null(strstr(text, "200 OK"));
    tap_give(t, 1, false);
    read_until(fd, TAP_LINE, text, sizeof text);
    read_until(fd, TAP_IDLE, text, sizeof text);
    tap_give(t, 1, true);
    read_until(fd, "0\r\n\r\n", text, sizeof text);
    close(fd);
    http_site_streamed(&s, false);
    fd = tap_open(&s);
    t = tap_opened(&s, 1);
    usleep((HTTP_WATCH_MS + 100) * 1000);
    tap_give(t, 1, true);
    web_read(fd, NULL, &r);
    assert_string_equal(web_body(&r), TAP_LINE);
    web_done(&r);
    close(fd);
    http_site_stop(&s);
}

/* Pings, pieces and readers of any speed: what is left without the idle lines is the text. */
static void test_ping_splits_nothing(void **state)
{
    const struct http_options o = {.ping_ms = 1};
    struct http_site s;
    struct web_reply r;
    struct tap *t;
    size_t lines = 0, pings = 0;
    int fd;

    (void)state;
    http_site_start(&s, &o);
    http_site_streamed(&s, true);
    fd = tap_open(&s);
    t = tap_opened(&s, 0);
    for (int i = 0; i < 8; i++) {
        usleep((unsigned)(i % 4) * 100000);
        tap_give(t, (size_t)i * 700, i == 7);
    }
    web_read(fd, NULL, &r);
    assert_true(r.whole);
    for (const char *at = web_body(&r); *at;) {
        bool ping = !strncmp(at, TAP_IDLE, strlen(TAP_IDLE));

        if (!ping && strncmp(at, TAP_LINE, strlen(TAP_LINE)) != 0)
            fail_msg("neither a line nor a ping: %.60s", at);
        at += strlen(ping ? TAP_IDLE : TAP_LINE);
        lines += !ping;
        pings += ping;
    }
    assert_int_equal(lines, 28 * 700);
    assert_true(pings > 0);
    web_done(&r);
    close(fd);
    http_site_stop(&s);
}

/* A client that takes nothing is cut off, its answer cancelled; what it cost until then is bounded
 * by what the kernel holds. */
static void test_stalled_reader(void **state)
{
    const struct http_options o = {.stall_ms = 1000, .ping_ms = 50};
    const size_t lines = 1000000;
    struct http_site s;
    struct tap *t;
    int fd;

    (void)state;
    http_site_start(&s, &o);
    http_site_streamed(&s, true);
    fd = tap_open(&s);
    t = tap_opened(&s, 0);
    tap_give(t, lines, true);
    tap_await_freed(t);
    assert_int_equal(t->cuts, 1);
    assert_true(t->told < lines);
    close(fd);
    http_site_stop(&s);
}

/* A client that neither reads nor closes does not keep a cancelled or finished server from ending.
 */
static void test_stop_with_sleepers(void **state)
{
    struct http_site s;
    int fds[16];

    (void)state;
    http_site_start(&s, &HTTP_SITE_PLAIN);
    for (size_t i = 0; i < 16; i++) {
        http_site_streamed(&s, i % 2);
        fds[i] = tap_open(&s);
        tap_opened(&s, i);
        if (i == 5)
            tap_give(&s.taps[i], 1000000, false);
    }
    assert_false(http_quiesce(s.http, 10));
    http_site_stop(&s);
    for (size_t i = 0; i < 16; i++) {
        assert_int_equal(s.taps[i].cuts, 1);
        assert_true(web_closed(fds[i]));
        close(fds[i]);
    }
}

/* --- races --- */

struct giver {
    struct http_site *site;
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
    struct http_site s;
    struct web_reply r;
    int fds[STREAMS];
    size_t wholes = 0;

    (void)state;
    http_site_start(&s, &HTTP_SITE_PLAIN);
    http_site_streamed(&s, true);
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
        assert_int_equal(r.body.len, LINES * strlen(TAP_LINE));
        wholes++;
        web_done(&r);
        close(fds[i]);
    }
    for (int i = 0; i < GIVERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(wholes, STREAMS - STREAMS / 4);
    for (size_t i = 0; i < STREAMS; i++)
        tap_await_freed(&s.taps[i]);
    http_site_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_answer),        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_disconnect),          cmocka_unit_test(test_ping),
        cmocka_unit_test(test_ping_splits_nothing), cmocka_unit_test(test_stalled_reader),
        cmocka_unit_test(test_slow_reader),         cmocka_unit_test(test_stop_with_sleepers),
        cmocka_unit_test(test_many_streams),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
