/* Drives a worker job without a daemon: sequences, their KV blocks and the steps are the caller's
 * to choose. Used by `moetuner eval` and by the property test of I6.
 *
 * A step is put together (drive_begin, then any of drive_admit, drive_run, drive_end) and sent
 * (drive_send); its answer is taken with drive_wait, in order. Up to WIRE_MAX_AHEAD steps may be
 * unanswered. One thread. */
#ifndef MT_CLI_DRIVE_H
#define MT_CLI_DRIVE_H

#include <stdint.h>

#include "api/status.h"
#include "api/wire.h"
#include "daemon/job.h"

struct drive;

struct drive_seq {
    uint32_t seq, home;
    uint32_t pos; /* tokens run so far */
    uint32_t n_blocks;
    uint32_t *blocks; /* [n_blocks] of its home's pool; owned */
};

struct drive_options {
    struct job_options job;
    int stop_fd; /* readable: give up with MT_ECLOSED; -1: none */
    /* Lines of the workers; NULL: dropped. */
    void (*log)(void *user, int level, const char *text);
    void *user;
};

/* Launches the job and waits until it is ready. */
int drive_open(const struct drive_options *options, struct drive **ret, struct mt_err *reterr);
void drive_close(struct drive *d); /* an orderly end; NULL allowed */

const struct job *drive_job(const struct drive *d);

int drive_begin(struct drive *d, struct mt_err *reterr);
/* Sampling parameters and seed come from `how`; its seq and home are ignored. *ret stays valid
 * until drive_end. */
int drive_admit(struct drive *d, uint32_t home, const struct wire_admit *how,
                struct drive_seq **ret, struct mt_err *reterr);
/* The next n tokens of s; tokens NULL: the one that it sampled last. flags: enum wire_run_flags
 * without LAST. Takes the blocks that it needs; MT_ELIMIT if the pool has none left. */
int drive_run(struct drive *d, struct drive_seq *s, const int32_t *tokens, uint32_t n,
              uint32_t flags, struct mt_err *reterr);
/* Ends s with this step, before its runs: s must not be run in it. */
int drive_end(struct drive *d, struct drive_seq *s, struct mt_err *reterr);
int drive_send(struct drive *d, struct mt_err *reterr);
/* The answer to the oldest unanswered step, valid until the next call. */
int drive_wait(struct drive *d, const struct wire_result **ret, struct mt_err *reterr);
/* s's part of an answer, or NULL. */
const struct wire_sample *drive_find(const struct wire_result *r, const struct drive_seq *s);

#endif
