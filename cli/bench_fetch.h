/* One small HTTP exchange with JSON in and out, waited for. Any thread with its own CURL handle. */
#ifndef MT_CLI_BENCH_FETCH_H
#define MT_CLI_BENCH_FETCH_H

#include <curl/curl.h>
#include <jansson.h>

#include "api/buf.h"
#include "api/status.h"

#define BENCH_JSON_DEPTH 32

/* What every request of the benchmark shares: no proxy, no signals, the reply into `reply`. */
void bench_fetch_prepare(CURL *easy, const char *url, int64_t timeout_ms);

/* body NULL: GET. Steals the reference to body. *ret is the caller's to decref. */
int bench_fetch(const char *base, const char *path, json_t *body, int64_t timeout_ms, json_t **ret,
                struct mt_err *reterr);

/* What an answer that is not 200 says: OpenAI's error.message, or its first bytes. */
void bench_fetch_message(const struct buf *reply, char *out, size_t n);

#endif
