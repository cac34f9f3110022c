/* The HTTP/1.1 server: routes, limits, and answers that come later.
 *
 * microhttpd.h is included by daemon/http*.c alone; JSON and the engine are unknown here. A request
 * is collected whole (up to a cap) before its handler is called, on one of a few server threads,
 * which must never block. A handler either replies at once, or leaves an `answer`, which is pulled
 * until its end: into one body, or piece by piece into a stream. An answer that has nothing to give
 * sleeps without a thread until http_wake().
 *
 * A client that goes away (closes, or half-closes, its connection) while an answer is awaited is
 * noticed within HTTP_WATCH_MS, which wakes up nobody when no answer is awaited.
 *
 * Locks: one, the server's, never held across a call out of daemon/http*.c other than into
 * libmicrohttpd. */
#ifndef MT_DAEMON_HTTP_H
#define MT_DAEMON_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/buf.h"
#include "api/status.h"

#define HTTP_WATCH_MS 200
#define HTTP_ID_BYTES 65
#define HTTP_REMOTE_BYTES 64
#define HTTP_NOTE_BYTES 160

struct http;
struct exchange; /* one request and its answer; a handler may use it until it has replied */

struct http_route {
    const char *method;
    const char *path; /* a star at its end takes any non-empty rest, see exchange_tail */
    void (*handle)(struct exchange *x, void *user);
    const char *help;
};

/* What is told of an exchange when it is over. */
struct http_access {
    const char *id, *method, *path, *remote;
    const char *note; /* what the handler noted, "" if nothing */
    int status;       /* 0: the client was gone before there was an answer */
    bool cut;         /* the answer did not reach its end */
    uint64_t bytes;   /* of body */
    uint64_t us;      /* from the end of the headers */
};

enum http_count {
    HTTP_CONNECTIONS, /* open ones */
    HTTP_REQUESTS,
    HTTP_REFUSED, /* connections over max_client_connections */
};

struct http_options {
    uint32_t threads;
    uint32_t max_connections; /* further ones wait in the listen backlog */
    /* Of one address; further ones are answered 429 and closed. 0: three quarters of
     * max_connections, and no limit for this machine's own, behind which there may be a proxy. */
    uint32_t max_client_connections;
    size_t max_uri, max_header, max_body; /* bytes: 414, 431, 413 */
    int64_t receive_ms; /* a connection has this long, from its start or its last answer, to deliver
                           its next request */
    int64_t stall_ms;   /* a client that takes nothing of its answer for this long is cut off */
    int64_t ping_ms; /* a stream that is silent for this long gets its answer's `idle`; 0: never */
    const struct http_route *routes; /* ended by a row without a path */
    void *user;                      /* for the callbacks */
    /* Makes the answer to a request that no handler sees, by exchange_reply. */
    void (*refuse)(struct exchange *x, int status, const char *why, void *user);
    void (*log)(const struct http_access *a, void *user); /* any server thread; NULL allowed */
    void (*count)(enum http_count what, int64_t change, void *user); /* +1 or -1; NULL allowed */
};

/* Makes a listening socket. Port 0 is any free one; *ret_port tells which. */
int http_listen_tcp(const char *host, int port, int *ret_fd, int *ret_port, struct mt_err *reterr);
/* A socket file that nobody listens on any more is replaced. */
int http_listen_unix(const char *path, int *ret_fd, struct mt_err *reterr);

/* Owns fd on success. */
int http_start(const struct http_options *options, int fd, struct http **ret,
               struct mt_err *reterr);
/* Accepts no further connections, and waits up to ms for the exchanges in flight to end. True if
 * none is left. */
bool http_quiesce(struct http *h, int ms);
/* Cuts what is still in flight. NULL allowed. */
void http_free(struct http *h);

/* --- for handlers --- */
const char *exchange_id(
    const struct exchange *x); /* the client's X-Request-Id if it is sane, or one drawn */
const char *exchange_tail(
    const struct exchange *x); /* what "*" stands for, as sent (percent-encoded) */
const char *exchange_header(const struct exchange *x, const char *name); /* NULL: absent */
const uint8_t *exchange_body(const struct exchange *x, size_t *ret_len);

/* Adds a header to the answer to come; a bounded number of short ones. name is borrowed for ever.
 */
void exchange_set_header(struct exchange *x, const char *name, const char *value);
/* Text for the access log: `key=value` pairs. */
void exchange_note(struct exchange *x, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Answers now. Takes body's bytes; a body with an error status (out of memory) becomes a plain 503.
 * type is borrowed for ever. */
void exchange_reply(struct exchange *x, int status, const char *type, struct buf *body);

enum answer_step {
    ANSWER_WAIT, /* nothing now; sleep until http_wake */
    ANSWER_MORE, /* out holds something; pull again at once or later */
    ANSWER_END,  /* out holds the rest */
};

struct answer_ops {
    /* Appends to *out. *status may be set until the end of an unstreamed answer. Never called by
     * two threads at once. */
    enum answer_step (*pull)(void *state, struct exchange *x, struct buf *out, int *status);
    /* The exchange is over. cut: before its end was pulled (the client left, or the server stops):
     * cancel the work. */
    void (*free)(void *state, bool cut);
    /* Sent between two pulls of a stream that has been silent for ping_ms; NULL: nothing is. */
    const char *idle;
};

/* Answers later. streamed: the 200 goes out now, and each pull's output as soon as it is there;
 * else the whole is sent as one body at the end. Takes state in any case. */
void exchange_answer(struct exchange *x, const struct answer_ops *ops, void *state,
                     const char *type, bool streamed);

/* A handle that outlives the exchange (until http_free), by which any thread may wake its answer:
 * http_wake does nothing unless the waker is still that of `key`. NULL: out of memory. An
 * exchange's wakers end with it. */
struct http_waker;
struct http_waker *exchange_waker(struct exchange *x, const void *key);
void http_wake(struct http_waker *w, const void *key);

#endif
