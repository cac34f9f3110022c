/* The objective counted anew, token by token, rank by rank and expert by expert, from its text: an
 * oracle of score.h for small problems. Slow on purpose; shares nothing with placement/ but the
 * structs and the hash of a draw. */
#ifndef MT_TESTS_RECOUNT_H
#define MT_TESTS_RECOUNT_H

#include "placement/score.h"

#define RECOUNT_RANKS 12
#define RECOUNT_EXPERTS 24

/* prob[i][r]: the probability that rank r serves chosen[i]. position NULL: before the draw,
 * otherwise 0 or 1. */
void recount_serve(const struct plan *plan, const struct cluster *c, uint32_t layer,
                   const uint16_t *chosen, uint32_t topk, uint32_t home, const uint64_t *position,
                   double prob[][RECOUNT_RANKS]);
/* A token of a trace, and where it lives. */
struct recount_token {
    uint32_t token, home;
};

/* Adds a step's terms and figures (load as straggler), and its token-expert pairs. */
void recount_step(const struct place_problem *p, const struct plan *plan, const struct trace *t,
                  const struct recount_token *token, uint32_t n, struct score_scenario *ret,
                  double loads[][RECOUNT_RANKS]);
/* The J of score_plan and all that leads there. homes: of each scenario's documents, [documents],
 * or NULL: by load. */
void recount_score(const struct place_problem *p, const struct plan *plan,
                   enum score_evaluation how, uint16_t *const *homes, struct score *ret);
double recount_migration(const struct cluster *c, const struct plan *from, const struct plan *to);

#endif
