/* One worker job: starts mpirun, speaks to its ranks, notices its death. Used by the daemon's
 * engine and by `moetuner eval`. Not an MPI program itself (see docs/architecture.md).
 *
 * Owned by one thread; nothing here blocks but job_next (which waits as long as it is told) and
 * job_stop (bounded). Every launch is a new incarnation; frames of an older one are dropped. Each
 * has a directory of its own (mode 0700, under TMPDIR) with the control socket and OpenMPI's
 * session, which is removed with everything in it on death and at the end, as are the shared-memory
 * segments of the job; what a killed daemon left is removed by the next one. */
#ifndef MT_DAEMON_JOB_H
#define MT_DAEMON_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "api/status.h"
#include "api/wire.h"
#include "placement/plan.h"

struct job_options {
    const char *worker;   /* path of moetuner-worker; NULL: beside this executable */
    const char *mpirun;   /* NULL: "mpirun" from PATH */
    const char *model;    /* Hugging Face directory; NULL with weights "dummy:SEED" */
    const char *config;   /* config.json for dummy weights, else NULL */
    const char *weights;  /* NULL (from the model directory) or "dummy:SEED" */
    const char *backend;  /* "cpu" */
    const char *isa;      /* NULL: best */
    const char *numerics; /* "exact" or "fast" */
    uint32_t ranks;       /* 1 .. WIRE_MAX_RANKS */
    uint32_t threads;     /* per rank; 0: cores / ranks, at least 1 */
    uint32_t spare_slots; /* expert slots per rank and layer beyond what the map needs */
    uint32_t step_tokens; /* token budget per rank and step */
    uint32_t max_seqs;    /* sequences per rank */
    int64_t kv_bytes;     /* per rank; 0: the worker's default */
    int64_t start_ms;     /* from launch to the last READY; then the launch has failed */
    int64_t silence_ms;   /* without a heartbeat of a rank that has dialled: hung; 0: no watch */
    int64_t step_ms; /* with a step unanswered and no rank through a layer: hung; 0: no watch */
    const struct plan
        *plan; /* NULL: contiguous, once the shape is known; borrowed for the job's life */
};

enum job_event_type {
    JOB_NONE,   /* timeout, or the wake descriptor is readable */
    JOB_READY,  /* all ranks loaded: facts, ready[] are valid */
    JOB_RESULT, /* job_result() is the next step's answer, valid until the next job_next */
    JOB_LOG,    /* a rank's log line, or a line of output (rank UINT32_MAX) */
    JOB_DIED,   /* the launch failed, or the job died or hung and has been killed whole */
};

struct job_event {
    enum job_event_type type;
    uint32_t rank;     /* JOB_LOG, JOB_DIED (the rank that is to blame, or UINT32_MAX) */
    struct mt_err err; /* JOB_DIED: why; JOB_LOG: status = level, text = line */
};

struct job;

/* Checks and copies the options; launches nothing. */
int job_new(const struct job_options *options, struct job **ret, struct mt_err *reterr);
/* Starts the next incarnation; the job must not be running. The processes die with the calling
 * thread, so it must be the one that owns the job to its end. */
int job_launch(struct job *j, struct mt_err *reterr);
/* Waits up to timeout_ms (-1: for ever) for the next event; returns at once with JOB_NONE when
 * wake_fd (or -1) becomes readable. Does all the job's I/O, its watching and its clean-up. */
void job_next(struct job *j, int timeout_ms, int wake_fd, struct job_event *ret);
/* Sends the next step (they are numbered from 1 in each incarnation), and WAKE to the other ranks
 * when the job was idle. Never more than WIRE_MAX_AHEAD are unanswered: MT_ELIMIT. MT_ECLOSED: not
 * running; job_next tells why. Bytes that do not fit the socket now are sent by job_next. */
int job_send_step(struct job *j, const struct wire_step *step, struct mt_err *reterr);

bool job_running(const struct job *j); /* launched, and JOB_DIED not yet told */
uint64_t job_incarnation(const struct job *j);
uint64_t job_epoch(const struct job *j); /* of the map in force; steps carry it */
uint32_t job_ranks(const struct job *j);
uint32_t job_unanswered(const struct job *j); /* steps sent without a result */
/* Facts from the hello frames; NULL before the first JOB_READY of this object. */
const struct wire_facts *job_facts(const struct job *j);
const struct wire_ready *job_ready(const struct job *j, uint32_t rank);
const struct wire_result *job_result(const struct job *j);
const struct plan *job_plan(const struct job *j); /* the map in force, once ready */

/* Asks for an orderly end, waits up to grace_ms, then kills mpirun and its whole process group,
 * reaps, cleans up. */
void job_stop(struct job *j, int grace_ms);
void job_free(struct job *j); /* stops first if need be; NULL allowed */

#endif
