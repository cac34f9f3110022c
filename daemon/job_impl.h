/* Inside of a worker job; included by job*.c only.
 *
 *   job.c         life: launch, READY, death, stop; events
 *   job_frames.c  what each frame of a rank means
 *   job_spawn.c   arguments and environment, fork and exec, the end of all processes
 *   job_dir.c     directories and control socket; sweeping what a killed daemon left
 *   job_link.c    frames on one non-blocking socket
 *   job_lines.c   lines of a pipe
 *   job_poll.c    one poll(2) over all of them
 *
 *   IDLE --launch--> STARTING --all READY--> RUNNING
 *    ^                  |                       |
 *    |                  +-- job_condemn --------+
 *    |                  v
 *    +--JOB_DIED--- DYING
 *
 * While DYING, frames and lines that are still there are read; then all is killed and removed. */
#ifndef MT_DAEMON_JOB_IMPL_H
#define MT_DAEMON_JOB_IMPL_H

#include <poll.h>
#include <sys/types.h>

#include "api/buf.h"
#include "daemon/job.h"

#define JOB_PENDING 8      /* connections that have not said HELLO yet */
#define JOB_HELLO_MS 5000  /* and how long they may take */
#define JOB_DIAL_MS 30000  /* from the launch to the last HELLO */
#define JOB_HELLO_MAX 4096 /* bytes of a frame before HELLO */
#define JOB_LAST_WORDS_MS \
    300 /* from the first sign of death to the kill, for FAIL frames and exit codes */
#define JOB_TERM_MS 300    /* from SIGTERM to SIGKILL */
#define JOB_REAP_MS 2000   /* from SIGKILL until we stop waiting */
#define JOB_LINE 480       /* bytes of an output line; longer ones are split */
#define JOB_DYING_LINES 64 /* output lines still reported after the death */
#define JOB_PATH 256
#define JOB_FIRST_EPOCH 1 /* of the map that a launch begins with */

/* One connection. Before HELLO it is pending and belongs to no rank. */
struct job_link {
    int fd;           /* -1: none */
    int pidfd;        /* the process at the other end; -1: unknown */
    bool ended;       /* it was there and has closed; frames before that may still be buffered */
    int64_t since_ms; /* accepted */
    int64_t heard_ms; /* last byte received */
    int64_t moved_ms; /* last change of progress */
    uint64_t progress;
    bool ready;
    struct buf in;  /* cap: one frame, and what came with its last bytes */
    size_t at;      /* frames before it have been delivered */
    size_t pop;     /* bytes of the frame delivered last; dropped at the next call */
    struct buf out; /* cap: the steps ahead */
    size_t sent;    /* bytes of out that have gone */
};

struct job_lines {
    int fd; /* -1: closed */
    int level;
    struct buf in;
};

enum job_state { JOB_IDLE, JOB_STARTING, JOB_RUNNING, JOB_DYING };

struct job {
    struct job_options options; /* texts are owned copies */
    enum job_state state;
    uint64_t incarnation;
    uint8_t token[WIRE_TOKEN_BYTES];

    char dir[JOB_PATH];     /* job directory, "" if none */
    char shm[JOB_PATH];     /* OpenMPI's segments, "" if they are in dir */
    char socket[JOB_PATH];  /* control socket in dir */
    int dir_lock, shm_lock; /* locked while we live: job_dir_sweep leaves such directories alone */
    int listen;

    pid_t pid; /* mpirun or the only worker; 0: none. Its process group has the same number */
    int pidfd;
    bool exited;
    int exit_status; /* of waitpid */
    int64_t launched_ms;

    struct job_link *link; /* [ranks] */
    struct job_link pending[JOB_PENDING];
    struct job_lines lines[2]; /* standard output, standard error */
    struct pollfd *polls;      /* [JOB_POLLS + ranks] */

    bool have_facts;
    struct wire_facts facts;
    struct plan plan;         /* in force; made from facts if options.plan is NULL */
    struct wire_ready *ready; /* [ranks] */
    uint32_t n_ready;
    uint64_t sent, answered; /* steps */
    int64_t step_ms;         /* when the job last got or answered a step */
    struct wire_result result;

    enum { DYING_LISTEN, DYING_LAST_LOOK, DYING_KILLED } dying;
    uint32_t blame; /* DYING: the rank, or UINT32_MAX */
    struct mt_err why;
    bool ran;         /* it was RUNNING before */
    bool final;       /* nothing that is learnt later changes why */
    int64_t dying_ms; /* when it must be over */
    uint32_t dying_lines;
    bool in_block;   /* output is inside one of mpirun's dashed blocks */
    char said[256];  /* first plain lines of output since the launch or READY; for why */
    char block[256]; /* first dashed block */
};

#define JOB_POLLS (5 + JOB_PENDING) /* wake, listen, process, two pipes */

int64_t job_now_ms(void);

/* job.c: begins the death of a job; the first cause stands unless a FAIL frame (final) follows one
 * that is not final. */
void job_condemn(struct job *j, uint32_t rank, bool final, int status, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* job_frames.c. Each may condemn the job. True: *ret is an event. */
bool job_frames_next(struct job *j, struct job_event *ret);
/* HELLO frames of pending connections; drops those that are late or wrong. True: somebody came in.
 */
bool job_frames_greet(struct job *j);

/* job_spawn.c */
int job_options_copy(const struct job_options *from, struct job_options *ret,
                     struct mt_err *reterr);
void job_options_done(struct job_options *o);
int job_spawn(struct job *j, struct mt_err *reterr);
void job_reap(struct job *j); /* without waiting; sets exited */
/* SIGKILL to the ranks, SIGTERM and then SIGKILL to the rest; waits, bounded, until all are gone.
 */
void job_kill(struct job *j);

/* job_dir.c */
int job_dir_open(struct job *j, struct mt_err *reterr);
void job_dir_close(struct job *j); /* removes everything */

/* job_link.c */
void job_link_init(struct job_link *l, size_t out_cap);
void job_link_open(struct job_link *l, int fd);
void job_link_end(struct job_link *l); /* closes the socket; what was received can still be read */
void job_link_close(struct job_link *l); /* keeps the memory, forgets the rest */
void job_link_done(struct job_link *l);
int job_link_read(struct job_link *l, struct mt_err *reterr);  /* 0, or why it ended */
int job_link_write(struct job_link *l, struct mt_err *reterr); /* as much as fits now */
bool job_link_unsent(const struct job_link *l);
/* 1: the next whole frame, valid until the next call; 0: none yet; MT_EPROTO. */
int job_link_next(struct job_link *l, size_t max_body, struct wire_header *ret_header,
                  const uint8_t **ret_body, struct mt_err *reterr);

/* job_lines.c */
void job_lines_init(struct job_lines *l, int level);
void job_lines_open(struct job_lines *l, int fd);
void job_lines_read(struct job_lines *l);
bool job_lines_next(struct job_lines *l,
                    char line[MT_ERR_TEXT]); /* a whole line, or the rest after the end */
void job_lines_close(struct job_lines *l);   /* what was read can still be taken */
void job_lines_done(struct job_lines *l);

/* job_poll.c: waits up to timeout_ms (-1: for ever), reads and writes what can be. True: wake_fd is
 * readable. */
bool job_poll(struct job *j, int64_t timeout_ms, int wake_fd);

#endif
