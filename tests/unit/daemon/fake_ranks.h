/* The ranks of a job, simulated and strict: they execute steps in order on KV memory of their own,
 * and fail the test on anything that a rank could not do. What a sequence samples is a hash of the
 * tokens found through its block table, so that a block given to two sequences changes somebody's
 * output. */
#ifndef MT_TESTS_FAKE_RANKS_H
#define MT_TESTS_FAKE_RANKS_H

#include "api/wire.h"
#include "daemon/batcher.h"

#define FAKE_VOCAB 97
#define FAKE_SEQS 256 /* ids that a test may need: the lowest are given first */

struct fake_ranks;

struct fake_ranks *fake_ranks_new(const struct batcher_shape *shape);
void fake_ranks_free(struct fake_ranks *f);
/* Executes at once; the result waits in line until it is asked for. */
void fake_ranks_step(struct fake_ranks *f, const struct wire_step *step);
/* The oldest result not yet given, valid until the next call. */
const struct wire_result *fake_ranks_answer(struct fake_ranks *f);

/* The oracle: the token after tokens[0..n), and the logprob reported for `token` at that place. */
int32_t ranks_next(uint64_t seed, uint32_t choice, const int32_t *tokens, uint32_t n);
float ranks_logprob(uint64_t seed, uint32_t choice, const int32_t *tokens, uint32_t n,
                    int32_t token);

#endif
