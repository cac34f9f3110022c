/* The load: requests over libcurl's multi interface, closed or open loop. One thread. */
#ifndef MT_CLI_BENCH_LOAD_H
#define MT_CLI_BENCH_LOAD_H

#include "cli/bench_prompts.h"

struct bench_load;

/* Allocates all that its requests need. config, model and prompts are borrowed. */
int bench_load_open(const struct bench_config *c, const char *model,
                    const struct bench_prompts *prompts, struct bench_load **ret,
                    struct mt_err *reterr);
void bench_load_close(struct bench_load *l); /* NULL allowed */

/* Makes n requests, numbered from `from`, and adds to *result. rate 0: closed loop. MT_ECLOSED when
 * stop_fd (-1: none) becomes readable. progress: a line on standard error, twice a second. */
int bench_load_run(struct bench_load *l, uint64_t from, uint64_t n, double rate, int stop_fd,
                   bool progress, struct bench_result *result, struct mt_err *reterr);

#endif
