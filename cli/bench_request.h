/* One request of the benchmark on a CURL handle that is used again and again: its body, what comes
 * back, when, and the verdict.
 *
 * A token's time is that of the event that brought it. The first event with tokens ends the time to
 * the first token; each later one with k tokens counts k gaps, each the time since the event before
 * divided by k. */
#ifndef MT_CLI_BENCH_REQUEST_H
#define MT_CLI_BENCH_REQUEST_H

#include <curl/curl.h>

#include "cli/bench_prompts.h"
#include "cli/bench_sse.h"

struct bench_request {
    const struct bench_config *config;
    const struct bench_prompts *prompts;
    const char *model;
    struct bench_result *result; /* where its gaps go, and at its end the rest */

    CURL *easy; /* owned */
    struct curl_slist *headers;
    char *body;   /* owned */
    int32_t *ids; /* [prompt_tokens], owned */
    struct bench_sse sse;
    struct buf reply; /* of an answer that is no stream */
    char detail[CURL_ERROR_SIZE];

    uint64_t asked, first, last;                          /* ns; first 0: no token yet */
    uint64_t tokens;                                      /* that came */
    int64_t usage_prompt, usage_cached, usage_completion; /* -1: not told */
    bool done;                                            /* [DONE] came */
    struct mt_err trouble;                                /* status 0: none */
};

uint64_t bench_now(void); /* ns, monotonic */

/* r is zeroed before; _done in any case. */
int bench_request_init(struct bench_request *r, const struct bench_config *c, const char *model,
                       const struct bench_prompts *prompts, struct mt_err *reterr);
void bench_request_done(struct bench_request *r);
/* Makes r->easy ready to run; latencies count from `asked`. */
int bench_request_begin(struct bench_request *r, uint64_t number, uint64_t asked,
                        struct bench_result *result, struct mt_err *reterr);
/* r->easy has ended with `code`: counts it as ok or failed. */
void bench_request_end(struct bench_request *r, CURLcode code);

#endif
