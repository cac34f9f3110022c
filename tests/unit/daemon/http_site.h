/* An HTTP server with routes of its own, for the tests of the server: /hello, /tail/..., /echo,
 * /nothing, and /tap, an answer that the test gives out line by line. */
#ifndef MT_TESTS_HTTP_SITE_H
#define MT_TESTS_HTTP_SITE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/http.h"

#define TAP_LINE "line of a stream 0123456789 abcdefghijklmnopqrstuvwxyz\n"
#define TAP_IDLE ": still here\n"

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

struct http_site {
    struct http *http;
    int port;
    pthread_mutex_t lock;
    int logged, last_status;
    bool last_cut;
    int64_t connections, refused;
    struct tap taps[64];
    size_t n_taps; /* used */
    bool streamed;
};

extern const struct http_options HTTP_SITE_PLAIN; /* all defaults */

/* What is zero in wish gets a default. */
void http_site_start(struct http_site *s, const struct http_options *wish);
void http_site_stop(
    struct http_site *s); /* checks that every tap was freed once, every connection counted out */
void http_site_streamed(struct http_site *s, bool streamed); /* the taps that come */

int tap_open(struct http_site *s);                     /* a connection that asked for a tap */
struct tap *tap_opened(struct http_site *s, size_t i); /* waits for the i-th to be asked for */
void tap_give(struct tap *t, size_t lines, bool end);
void tap_await_freed(struct tap *t);

#endif
