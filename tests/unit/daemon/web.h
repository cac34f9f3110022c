/* A small HTTP client for the tests: blocking, on plain sockets, so that malformed bytes can be
 * sent as well. Fails the test where the server's side of the protocol is broken. */
#ifndef MT_TESTS_WEB_H
#define MT_TESTS_WEB_H

#include <stdbool.h>
#include <stddef.h>

#include "api/buf.h"

struct web_reply {
    int status;      /* 0: the connection was closed without an answer */
    struct buf head; /* status line and headers */
    struct buf body; /* chunks put together */
    bool whole;      /* the body came to its proper end */
};

int web_open(int port); /* connected */
void web_send(int fd, const void *bytes, size_t len);
void web_puts(int fd, const char *text);
/* Reads one answer; *rest keeps what came after it, for pipelining (NULL: nothing may follow). */
void web_read(int fd, struct buf *rest, struct web_reply *ret);
/* Reads whatever comes until there are n bytes or the end; the number read. */
size_t web_read_some(int fd, char *to, size_t n);
bool web_closed(int fd); /* waits for the end of the connection, throwing away what comes */
void web_done(struct web_reply *r);

/* One request on a connection of its own. body NULL: a GET. */
void web_call(int port, const char *path, const char *body, struct web_reply *ret);
const char *web_body(const struct web_reply *r); /* NUL-terminated */
/* The value of a header, in a buffer of the thread; NULL: absent. */
const char *web_header(const struct web_reply *r, const char *name);

#endif
