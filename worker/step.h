/* One step of the protocol on one rank: apply what the daemon says to the sequences, run the rows
 * that live here, sample, and bring all ranks' samples to rank 0. */
#ifndef MT_WORKER_STEP_H
#define MT_WORKER_STEP_H

#include "api/status.h"
#include "api/wire.h"
#include "worker/ep.h"
#include "worker/experts.h"
#include "worker/forward.h"
#include "worker/model.h"
#include "worker/sequences.h"

struct step_parts { /* borrowed for the runner's life */
    struct kernels *k;
    struct ep *ep;
    const struct model *model;
    const struct expert_map *map;
    struct sequences *sequences;
    struct forward *forward;
    uint32_t pool_blocks;
};

struct step_runner;

int step_open(const struct step_parts *parts, struct step_runner **ret, struct mt_err *reterr);
void step_close(struct step_runner *s); /* NULL allowed */

/* Collective. Runs the step here and gathers: on rank 0 *ret_result points to everybody's samples
 * and times, valid until the next call; elsewhere it is NULL. An error is fatal for the job: the
 * ranks are no longer in step. */
int step_run(struct step_runner *s, const struct wire_step *step,
             const struct wire_result **ret_result, struct mt_err *reterr);

#endif
