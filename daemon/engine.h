/* The engine: one thread that owns the queue, the batcher and the worker job. HTTP threads submit
 * and cancel; the engine writes tokens into requests and calls their notify.
 *
 * All functions may be called from any thread, unless stated. None blocks on the job. */
#ifndef MT_DAEMON_ENGINE_H
#define MT_DAEMON_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "api/status.h"
#include "daemon/job.h"
#include "daemon/metrics.h"
#include "daemon/request.h"
#include "daemon/tokenizer.h"

struct engine_options {
    struct job_options job;
    uint32_t max_queued_requests; /* waiting, not yet running */
    int64_t max_queued_tokens;    /* their prompt tokens */
    /* Between incarnations: nothing at first, then a back-off while they answer no step. */
    int64_t relaunch_min_ms, relaunch_max_ms;
    int64_t recovery_ms; /* a job that is down for longer is given up: requests fail; 0: at once */
    /* A request is given up when so many jobs in a row have died while they worked on it, and it
     * has not got a token in between: it may be what kills them. */
    uint32_t max_deaths;
    int64_t priority_ms;               /* one level of priority is worth so much waiting */
    const struct tokenizer *tokenizer; /* borrowed; NULL: token ids only */
    struct metrics *metrics;           /* borrowed */
    /* Log lines of ranks and of the engine itself; called by the engine's thread. */
    void (*log)(void *user, int level, const char *event, const char *fields);
    void *log_user;
};

enum engine_state {
    ENGINE_STARTING,
    ENGINE_READY,
    ENGINE_DOWN, /* relaunching; requests wait, those that ran too */
    ENGINE_LOST, /* still trying, but requests are refused: recovery_ms have passed */
    ENGINE_DRAINING,
    ENGINE_STOPPED
};

struct engine_status {
    enum engine_state state;
    uint64_t incarnation;
    uint64_t restarts;
    char text[MT_ERR_TEXT]; /* why it is down; empty when ready */
    uint32_t running, waiting;
    bool have_facts;
    struct wire_facts facts;
    uint32_t ranks;
    struct wire_ready rank0; /* isa, numerics, ... */
};

struct engine;

int engine_start(const struct engine_options *options, struct engine **ret, struct mt_err *reterr);
/* Takes a reference on success. MT_ELIMIT: a queue limit (answer 429); MT_ECLOSED: draining or lost
 * (503); MT_EINVAL: the request can never run (prompt longer than the model or than a whole KV
 * pool). */
int engine_submit(struct engine *e, struct request *r, struct mt_err *reterr);
/* Ends r as FINISH_ABORT soon (well under a second); a finished one is left as it is. */
void engine_cancel(struct engine *e, struct request *r);
void engine_status(struct engine *e, struct engine_status *ret);
/* A descriptor-free wait: blocks until the state is not STARTING or timeout_ms passed; returns the
 * state. */
enum engine_state engine_wait_ready(struct engine *e, int timeout_ms);
/* From now on submissions get MT_ECLOSED. Running requests go on; after deadline_ms those left end
 * with FINISH_ERROR. Returns at once; engine_status tells STOPPED when nothing runs and the job has
 * ended. deadline_ms 0: stop now. */
void engine_drain(struct engine *e, int64_t deadline_ms);
/* Blocks until STOPPED, joins the thread, frees. NULL allowed. */
void engine_free(struct engine *e);

#endif
