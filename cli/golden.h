/* Golden prompts: what a model must answer, computed by an independent program.
 *
 * From a safetensors file with, for i = 0, 1, ...: prompt_i I32 [n], logits_i F32 [n][vocab] (the
 * row at p is of the token after tokens 0..p) and greedy_i I32 [m] (the tokens of the highest logit
 * that follow). */
#ifndef MT_CLI_GOLDEN_H
#define MT_CLI_GOLDEN_H

#include <stdint.h>

#include "api/status.h"

#define GOLDEN_MAX_PROMPTS 1024

struct golden_prompt {
    uint32_t n, n_greedy;
    int32_t *tokens; /* [n] */
    float *logits;   /* [n][vocab] */
    int32_t *greedy; /* [n_greedy] */
};

struct golden {
    uint32_t n, vocab;
    struct golden_prompt *prompt; /* [n] */
};

/* Refuses a file whose shapes do not fit each other or vocab, with token ids outside of it, or
 * without prompts. */
int golden_read(const char *path, uint32_t vocab, struct golden *ret, struct mt_err *reterr);
void golden_done(struct golden *g);

#endif
