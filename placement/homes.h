/* Where sequences live: the homes of a trace's documents under a plan. Pure. */
#ifndef MT_PLACEMENT_HOMES_H
#define MT_PLACEMENT_HOMES_H

#include "placement/placement.h"

/* By affinity: ret[documents] ranks, for each document the rank of least modelled remote traffic of
 * its prompt tokens, with at most (1 + home_slack) of the mean tokens on a rank; documents in order
 * of their gain, then an exchange of pairs until none helps (with thousands of documents, of those
 * near each other in the trace). Where nothing has room, the emptiest rank takes it. Looks at
 * prompts alone (of p's prompt_fraction or prompt_tokens); lengths are known to the balance, as a
 * server's would be after the fact. */
int homes_affinity(const struct place_problem *p, const struct trace *t, const struct plan *plan,
                   uint16_t *ret, struct mt_err *reterr);
/* Tokens of a document that are its prompt: at least 1, at most its length. */
uint32_t homes_prompt(const struct place_problem *p, uint32_t length);

#endif
