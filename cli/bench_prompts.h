/* Prompts as token ids, a function of the seed and a prompt's number alone: windows of a text, or
 * random ids. */
#ifndef MT_CLI_BENCH_PROMPTS_H
#define MT_CLI_BENCH_PROMPTS_H

#include "cli/bench.h"

struct bench_prompts {
    int32_t *tokens; /* [n], owned; NULL: random ids */
    size_t n;
};

/* A well mixed number for each x; the source of all that is random here. */
uint64_t bench_mix(uint64_t x);

/* Reads --prompts and has the server tokenise it. *p is zeroed before, _done after in any case. */
int bench_prompts_open(struct bench_prompts *p, const struct bench_config *c,
                       struct mt_err *reterr);
void bench_prompts_done(struct bench_prompts *p);
/* ids: [c->prompt_tokens] */
void bench_prompts_fill(const struct bench_prompts *p, const struct bench_config *c,
                        uint64_t number, int32_t *ids);

#endif
