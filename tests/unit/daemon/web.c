#include "web.h"

#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define MAX_ANSWER ((size_t)256 << 20)

int web_open(int port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

void web_send(int fd, const void *bytes, size_t len)
{
    const char *at = bytes;

    while (len) {
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL);

        if (n <= 0)
            return; /* the server hung up; its answer tells why */
        at += n;
        len -= (size_t)n;
    }
}

void web_puts(int fd, const char *text)
{
    web_send(fd, text, strlen(text));
}

/* More bytes into b; false at the end. */
static bool read_more(int fd, struct buf *b)
{
    char bytes[65536];
    ssize_t n;

    do {
        n = recv(fd, bytes, sizeof bytes, 0);
    } while (n < 0 && errno == EINTR);
    if (n <= 0)
        return false;
    assert_int_equal(buf_append(b, bytes, (size_t)n), 0);
    return true;
}

static const char *text_of(struct buf *b)
{
    assert_int_equal(buf_append(b, "", 1), 0);
    b->len--;
    return (const char *)b->data;
}

/* Takes one line, without its CRLF, off b. False at the end of the connection. */
static bool take_line(int fd, struct buf *b, char *line, size_t size)
{
    char *end;
    size_t n;

    while (!(end = strstr(text_of(b), "\r\n")))
        if (!read_more(fd, b))
            return false;
    n = (size_t)(end - (char *)b->data);
    assert_true(n < size);
    memcpy(line, b->data, n);
    line[n] = 0;
    buf_consume(b, n + 2);
    return true;
}

static bool take_bytes(int fd, struct buf *b, size_t n, struct buf *to)
{
    while (b->len < n)
        if (!read_more(fd, b))
            return false;
    assert_int_equal(buf_append(to, b->data, n), 0);
    buf_consume(b, n);
    return true;
}

static bool take_chunks(int fd, struct buf *b, struct buf *to)
{
    char line[256];

    for (;;) {
        size_t n;

        if (!take_line(fd, b, line, sizeof line))
            return false;
        n = strtoul(line, NULL, 16);
        if (n && !take_bytes(fd, b, n, to))
            return false;
        if (!take_line(fd, b, line, sizeof line))
            return false;
        assert_string_equal(line, "");
        if (!n)
            return true;
    }
}

static bool take_body(int fd, struct buf *b, struct web_reply *r)
{
    const char *length = web_header(r, "Content-Length");
    const char *coding;

    if (length)
        return take_bytes(fd, b, strtoul(length, NULL, 10), &r->body);
    coding = web_header(r, "Transfer-Encoding");
    if (coding)
        return take_chunks(fd, b, &r->body);
    while (read_more(fd, b))
        ;
    return take_bytes(fd, b, b->len, &r->body);
}

void web_read(int fd, struct buf *rest, struct web_reply *ret)
{
    struct buf own, *b = rest ? rest : &own;
    char line[4096];

    buf_init(&own, MAX_ANSWER);
    *ret = (struct web_reply){0};
    buf_init(&ret->head, 1 << 20);
    buf_init(&ret->body, MAX_ANSWER);
    while (take_line(fd, b, line, sizeof line)) {
        if (!ret->head.len)
            ret->status = atoi(line + strlen("HTTP/1.1 "));
        if (!*line && ret->status == 100) { /* 100 Continue: the answer follows */
            buf_reset(&ret->head);
            continue;
        }
        buf_puts(&ret->head, line);
        buf_puts(&ret->head, "\r\n");
        if (*line)
            continue;
        ret->whole = take_body(fd, b, ret);
        break;
    }
    if (!rest && own.len)
        fail_msg("more than one answer came: %s%s...%s", text_of(&ret->head), text_of(&ret->body),
                 text_of(&own));
    buf_done(&own);
}

size_t web_read_some(int fd, char *to, size_t n)
{
    size_t have = 0;
    ssize_t got;

    while (have < n && (got = recv(fd, to + have, n - have, 0)) > 0)
        have += (size_t)got;
    return have;
}

bool web_closed(int fd)
{
    char bytes[4096];

    while (recv(fd, bytes, sizeof bytes, 0) > 0)
        ;
    return true;
}

void web_done(struct web_reply *r)
{
    buf_done(&r->head);
    buf_done(&r->body);
}

void web_call(int port, const char *path, const char *body, struct web_reply *ret)
{
    int fd = web_open(port);
    char head[1024];

    snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: test\r\nContent-Length: %zu\r\n\r\n",
             body ? "POST" : "GET", path, body ? strlen(body) : 0);
    web_puts(fd, head);
    if (body)
        web_puts(fd, body);
    web_read(fd, NULL, ret);
    close(fd);
}

const char *web_body(const struct web_reply *r)
{
    return text_of((struct buf *)&r->body);
}

const char *web_header(const struct web_reply *r, const char *name)
{
    static _Thread_local char value[512];
    const char *line = text_of((struct buf *)&r->head);
    size_t n = strlen(name);

    for (; *line; line = strstr(line, "\r\n") + 2)
        if (!strncasecmp(line, name, n) && line[n] == ':') {
            snprintf(value, sizeof value, "%.*s", (int)strcspn(line + n + 2, "\r"), line + n + 2);
            return value;
        }
    return NULL;
}
