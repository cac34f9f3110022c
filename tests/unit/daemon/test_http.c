/* The HTTP server by itself, over real sockets: requests, connections, listening. */
#include <arpa/inet.h>
#include <errno.h>
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

#include "daemon/http_impl.h"
#include "http_site.h"
#include "web.h"

/* --- requests that are answered at once --- */

static void test_plain(void **state)
{
    struct http_site s;
    struct web_reply r;
    int fd;

    (void)state;
    http_site_start(&s, &HTTP_SITE_PLAIN);
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
    http_site_stop(&s);
}

static void test_no_route(void **state)
{
    struct http_site s;
    struct web_reply r;

    (void)state;
    http_site_start(&s, &HTTP_SITE_PLAIN);
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
    http_site_stop(&s);
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
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\nabc", 400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n 3\r\n\r\nabc", 400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nA: b\r\n Content-Length: 3\r\n\r\nabc", 400},
        {"GET /hello HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400},
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
    struct http_site s;
    struct web_reply r;

    (void)state;
    http_site_start(&s, &HTTP_SITE_PLAIN);
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
    http_site_stop(&s);
}

static void test_long_path_and_body(void **state)
{
    struct http_site s;
    struct web_reply r;
    char path[301], bytes[1201], head[128];
    int fd;

    (void)state;
    http_site_start(&s, &HTTP_SITE_PLAIN);
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
    http_site_stop(&s);
}

static void test_pipelining(void **state)
{
    struct http_site s;
    struct web_reply r;
    struct buf rest;
    int fd;

    (void)state;
    http_site_start(&s, &HTTP_SITE_PLAIN);
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
    http_site_stop(&s);
}

/* --- connections --- */

/* Connections over the cap wait, and are served once idle ones have had their time. */
static void test_connection_cap(void **state)
{
    const struct http_options o = {.max_connections = 64, .receive_ms = 300};
    static int fds[1000];
    struct http_site s;
    struct web_reply r;

    (void)state;
    http_site_start(&s, &o);
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
    http_site_stop(&s);
}

/* One client's connections: the last that is allowed is served, one more is told why not, and
 * counts for nothing once it is gone. */
static void test_client_cap(void **state)
{
    const struct http_options o = {.max_client_connections = 4};
    struct http_site s;
    struct web_reply r;
    int fds[5];

    (void)state;
    http_site_start(&s, &o);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 4; i++) {
            fds[i] = web_open(s.port);
            web_puts(fds[i], "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
            web_read(fds[i], NULL, &r);
            assert_int_equal(r.status, 200);
            web_done(&r);
        }
        fds[4] = web_open(s.port);
        web_read(fds[4], NULL, &r);
        assert_int_equal(r.status, 429);
        assert_non_null(strstr(web_body(&r), "max-connections-per-client"));
        assert_string_equal(web_header(&r, "Retry-After"), "1");
        web_done(&r);
        assert_true(web_closed(fds[4]));
        for (int i = 0; i < 5; i++)
            close(fds[i]);
        for (int left = 1; left;) { /* the server has seen them go */
            pthread_mutex_lock(&s.lock);
            left = s.connections != 0;
            pthread_mutex_unlock(&s.lock);
        }
    }
    assert_int_equal(s.refused, 3);
    http_site_stop(&s);
}

static void set_client(struct http_client *c, const char *text)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    struct sockaddr_in four = {.sin_family = AF_INET};

    if (inet_pton(AF_INET6, text, &six.sin6_addr) == 1)
        http_client_set(c, (struct sockaddr *)&six);
    else if (inet_pton(AF_INET, text, &four.sin_addr) == 1)
        http_client_set(c, (struct sockaddr *)&four);
    else
        http_client_set(c, NULL);
}

/* Who is one and the same client, and how many connections each may have by default. */
static void test_clients(void **state)
{
    static const struct {
        const char *one, *other;
        bool same;
    } PAIRS[] = {
        {"192.0.2.1", "192.0.2.1", true},          {"192.0.2.1", "192.0.2.2", false},
        {"192.0.2.1", "::ffff:192.0.2.1", true},   {"2001:db8::1", "2001:db8::2:3", true},
        {"2001:db8::1", "2001:db8:0:1::1", false},
    };
    static const struct {
        const char *who;
        unsigned n; /* of 10 */
    } LIMITS[] = {{"192.0.2.1", 6}, {"2001:db8::1", 6},       {"127.0.0.1", 10}, {"127.9.9.9", 10},
                  {"::1", 10},      {"::ffff:127.0.0.1", 10}, {"unix", 10}};
    static struct http h;

    (void)state;
    for (size_t i = 0; i < sizeof PAIRS / sizeof *PAIRS; i++) {
        struct http_client one, other;

        set_client(&one, PAIRS[i].one);
        set_client(&other, PAIRS[i].other);
        assert_int_equal(one.length == other.length && !memcmp(one.key, other.key, one.length),
                         PAIRS[i].same);
    }
    h.options.max_connections = 8;
    for (size_t i = 0; i < sizeof LIMITS / sizeof *LIMITS; i++) {
        struct conn conns[10] = {0};
        unsigned n = 0;

        for (unsigned k = 0; k < 10; k++) {
            conns[k].http = &h;
            set_client(&conns[k].client, LIMITS[i].who);
            n += http_client_enter(&conns[k]);
        }
        assert_int_equal(n, LIMITS[i].n);
        for (unsigned k = 0; k < 10; k++)
            http_client_leave(&conns[k]);
        assert_true(http_client_enter(&conns[9])); /* room again */
        http_client_leave(&conns[9]);
    }
}

/* A request that drips in for ever is cut off, though the connection is never idle. */
static void test_drip(void **state)
{
    const struct http_options o = {.receive_ms = 300};
    static const char *const STARTS[] = {
        "GET /hello HTTP/1.1\r\nX-Long: ",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
    };
    struct http_site s;

    (void)state;
    http_site_start(&s, &o);
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
    http_site_stop(&s);
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
        cmocka_unit_test(test_plain),      cmocka_unit_test(test_no_route),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_long_path_and_body),
        cmocka_unit_test(test_pipelining), cmocka_unit_test(test_connection_cap),
        cmocka_unit_test(test_client_cap), cmocka_unit_test(test_clients),
        cmocka_unit_test(test_drip),       cmocka_unit_test(test_listen),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
