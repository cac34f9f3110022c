/* moetuner bench: load for a server of OpenAI's completions API that returns token ids (ours does),
 * and what it measures. One thread; memory depends on --concurrency, --prompt-tokens and the file
 * of prompts, not on how many requests are made. */
#ifndef MT_CLI_BENCH_H
#define MT_CLI_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "api/option.h"
#include "cli/bench_stats.h"

#define BENCH_MAX_CONCURRENCY 16384
#define BENCH_MAX_TOKENS 1000000
#define BENCH_OPEN_CONCURRENCY 256 /* in flight at most with --rate, unless told otherwise */

enum bench_arrivals { BENCH_POISSON, BENCH_CONSTANT };

extern const struct option BENCH_OPTIONS[];
extern const char *const BENCH_ARRIVALS[];

struct bench_config {
    char *url; /* without a slash at its end */
    char *model, *prompts;
    int64_t concurrency, requests, warmup;
    int64_t prompt_tokens, max_tokens, distinct, vocab, seed;
    int64_t timeout; /* ms, of one request */
    double rate;     /* requests/s; 0: closed loop */
    int arrivals;    /* enum bench_arrivals */
    double temperature;
    bool stream, json, help;
};

/* Defaults, then flags; *c needs option_done(BENCH_OPTIONS, c) in any case. */
int bench_config_read(int argc, char *const *argv, struct bench_config *c, struct mt_err *reterr);

/* One kind of failure: "HTTP 429", "connection", "answer". */
struct bench_error {
    char what[16];
    uint64_t count;
    char first[MT_ERR_TEXT]; /* the first one's message */
};

#define BENCH_MAX_ERRORS 12 /* kinds; what is beyond counts with the last */

struct bench_result {
    uint64_t ok, failed;
    uint64_t delayed;                                    /* open loop: arrivals that found all
                                                          * --concurrency requests busy */
    uint64_t output_tokens, input_tokens, cached_tokens; /* of those that are ok */
    double seconds;                                      /* first request to last answer */
    double client_cpu;                                   /* seconds of this process meanwhile */
    struct bench_hist ttft, gap, whole;                  /* ns */
    struct bench_error errors[BENCH_MAX_ERRORS];
    uint32_t n_errors;
};

void bench_result_fail(struct bench_result *r, const char *what, const char *message);

/* `model` is what the server was asked for. */
void bench_report_text(const struct bench_config *c, const char *model,
                       const struct bench_result *r, FILE *out);
int bench_report_json(const struct bench_config *c, const char *model, const struct bench_result *r,
                      FILE *out, struct mt_err *reterr);

#endif
