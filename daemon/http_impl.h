/* What daemon/http*.c share. Nobody else includes this. */
#ifndef MT_DAEMON_HTTP_IMPL_H
#define MT_DAEMON_HTTP_IMPL_H

#include <microhttpd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/queue.h>

#include "daemon/http.h"

#define HTTP_MAX_SET_HEADERS 4
#define HTTP_CLIENT_BUCKETS 1024
#define HTTP_NO_MEMORY "out of memory\n"

struct http_client {
    uint8_t key[8];
    uint8_t length; /* of it; 0: a connection without an address */
    bool local;     /* a loopback address */
};

/* One client connection, from accept to close. */
struct conn {
    struct http *http;
    int fd; /* libmicrohttpd's; open as long as this object lives */
    char remote[HTTP_REMOTE_BYTES];
    struct http_client client;
    uintptr_t uri_end; /* of the request at hand, in libmicrohttpd's buffer */
    /* under http.lock */
    LIST_ENTRY(conn) same_bucket; /* in http.clients, if counted */
    bool counted;
    TAILQ_ENTRY(conn) link; /* in http.receiving, oldest first, while a request is awaited */
    bool receiving;
    uint64_t since_us;
};

struct http_waker {
    struct http *http;
    /* under http.lock */
    const void *key; /* NULL: free */
    struct exchange *x;
    struct http_waker *next; /* of the exchange's, or of the free ones */
    struct http_waker *next_all;
};

struct exchange {
    struct http *http;
    struct conn *conn;
    struct MHD_Connection *mhd;
    char id[HTTP_ID_BYTES];
    char note[HTTP_NOTE_BYTES];
    char *method, *path; /* copies */
    const struct http_route *route;
    const char *tail; /* into path */
    struct buf body;
    bool overflow;   /* the body is over the cap; its rest is thrown away */
    uint64_t waste;  /* bytes thrown away */
    bool dispatched; /* the handler has been called */
    uint64_t begun_us;

    int status; /* of the answer; 0: none yet */
    const char *type;
    unsigned n_headers;
    struct {
        const char *name;
        char value[64];
    } headers[HTTP_MAX_SET_HEADERS];
    const struct answer_ops *answer;
    void *state;
    bool streamed;
    bool ended;     /* the answer's end has been pulled */
    struct buf out; /* pulled, not yet taken */
    size_t out_at;  /* of it, handed to libmicrohttpd */
    uint64_t sent;

    /* under http.lock */
    TAILQ_ENTRY(exchange) link; /* in http.waiting, while an answer is awaited */
    bool waiting;
    bool asleep;         /* the connection is suspended */
    bool awake;          /* woken since it last looked */
    bool gone;           /* the client went away */
    bool ping;           /* it has been silent for too long */
    uint64_t quiet_us;   /* since when it is */
    uint64_t quiet_sent; /* what had been sent by then */
    struct http_waker *wakers;
};

struct http {
    struct http_options options;
    struct MHD_Daemon *mhd;
    bool raw;                       /* http_raw_check works with this libmicrohttpd */
    struct MHD_Response *no_memory; /* 503, made beforehand */
    int listen_fd;
    bool quiesced;
    pthread_t watcher;
    bool watcher_started;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* CLOCK_MONOTONIC: the lists below, n_exchanges or stopping */
    TAILQ_HEAD(conn_list, conn) receiving;
    TAILQ_HEAD(exchange_list, exchange) waiting;
    uint32_t n_exchanges;
    bool stopping;
    uint64_t watch_until_us; /* when the watcher wakes up by itself; UINT64_MAX: never */
    LIST_HEAD(conn_bucket, conn) clients[HTTP_CLIENT_BUCKETS];
    struct pollfd *watch_fds; /* [options.max_connections], the watcher's */
    struct exchange **watch_xs;
    struct http_waker *free_wakers, *all_wakers;
};

uint64_t http_now_us(void); /* CLOCK_MONOTONIC */

/* http_watch.c: a thread that looks after connections which libmicrohttpd does not poll, or not
 * strictly enough. The functions below need http.lock, except start and stop. */
int http_watch_start(struct http *h, struct mt_err *reterr);
void http_watch_stop(struct http *h); /* joins; http.stopping must be set */
/* From now on the connection has receive_ms to deliver a request, until http_watch_received. */
void http_watch_receive(struct conn *c);
void http_watch_received(struct conn *c);
/* From now on the exchange's client is watched for leaving, until http_watch_answered. */
void http_watch_answer(struct exchange *x);
void http_watch_answered(struct exchange *x);

/* http_client.c */
void http_client_set(struct http_client *c, const struct sockaddr *at); /* NULL allowed */
bool http_client_enter(struct conn *conn);        /* false: it is one too many; needs http.lock */
void http_client_leave(struct conn *conn);        /* needs http.lock */
void http_client_refuse(const struct conn *conn); /* answers and ends the connection */

/* http_answer.c */
/* Queues the exchange's answer as far as it is there, or puts the connection to sleep until more
 * is. */
enum MHD_Result http_answer_drive(struct exchange *x);
/* Both need http.lock. */
void http_answer_rouse(struct exchange *x); /* wakes the connection up */
void http_answer_ping(struct exchange *x,
                      uint64_t now); /* likewise, if it has been silent for long */

/* http_check.c: what libmicrohttpd 0.9.75 lets through and must not. 0, or the status to refuse
 * with. */
int http_check(struct exchange *x, const char *method, const char *version, const char **ret_why);

/* http_raw.c */
bool http_raw_known(void);
void http_raw_uri(struct conn *c, const char *uri); /* before it is taken apart */
bool http_raw_check(const struct exchange *x, const char *method, const char *version);

#endif
