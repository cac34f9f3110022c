/* What methods that are not searches share. Private to placement/. */
#ifndef MT_PLACEMENT_BASELINE_H
#define MT_PLACEMENT_BASELINE_H

#include "placement/placement.h"

/* Loads of the scenarios by their shares: *ret[layers][experts], the caller's to free. */
int baseline_loads(const struct place_problem *p, double **ret, struct mt_err *reterr);
/* Experts that each rank holds without copies: as even as the slots allow, ret[ranks]. MT_EINVAL if
 * the slots hold fewer than all experts. */
int baseline_sizes(const struct place_problem *p, uint32_t *ret, struct mt_err *reterr);
/* Takes the plan over (also on failure) and says what it is worth; note may be NULL. */
int baseline_result(const struct place_problem *p, struct plan *plan, const char *method,
                    const char *note, struct place_result *ret, struct mt_err *reterr);

#endif
