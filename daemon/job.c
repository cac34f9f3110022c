/* The life of a worker job; see job_impl.h for the parts and the states. */
#include "daemon/job.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>

#include "api/log.h"
#include "daemon/job_impl.h"

int64_t job_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* --- making --- */

static int check_options(const struct job_options *o, struct mt_err *reterr)
{
    if (o->ranks < 1 || o->ranks > WIRE_MAX_RANKS)
        return mt_error(reterr, MT_EINVAL, "ranks: expected 1 to %d, found %u", WIRE_MAX_RANKS,
                        o->ranks);
    if (!o->model == !o->weights || !o->config != !o->weights)
        return mt_error(reterr, MT_EINVAL, "expected a model directory, or weights with a config");
    if (!o->backend || !o->numerics)
        return mt_error(reterr, MT_EINVAL, "expected a backend and numerics");
    if (o->step_tokens < 1 || o->step_tokens > WIRE_MAX_STEP_TOKENS)
        return mt_error(reterr, MT_EINVAL, "step tokens: expected 1 to %u, found %u",
                        WIRE_MAX_STEP_TOKENS, o->step_tokens);
    if (o->max_seqs < 1 || o->max_seqs > WIRE_MAX_SEQS)
        return mt_error(reterr, MT_EINVAL, "sequences: expected 1 to %d, found %u", WIRE_MAX_SEQS,
                        o->max_seqs);
    return 0;
}

int job_new(const struct job_options *options, struct job **ret, struct mt_err *reterr)
{
    struct job *j;
    int rc = check_options(options, reterr);

    if (rc)
        return rc;
    j = calloc(1, sizeof *j);
    if (!j)
        return mt_error(reterr, MT_ENOMEM, "no memory for a job");
    j->dir_lock = j->shm_lock = j->listen = j->pidfd = -1;
    for (int i = 0; i < JOB_PENDING; i++)
        job_link_init(&j->pending[i], 0);
    job_lines_init(&j->lines[0], LOG_LEVEL_INFO);
    job_lines_init(&j->lines[1], LOG_LEVEL_WARN);
    rc = job_options_copy(options, &j->options, reterr);
    if (rc) {
        free(j);
        return rc;
    }
    j->link = calloc(options->ranks, sizeof *j->link);
    j->ready = calloc(options->ranks, sizeof *j->ready);
    j->polls = calloc(JOB_POLLS + options->ranks, sizeof *j->polls);
    if (!j->link || !j->ready || !j->polls) {
        job_free(j);
        return mt_error(reterr, MT_ENOMEM, "no memory for a job of %u ranks", options->ranks);
    }
    for (uint32_t r = 0; r < options->ranks; r++)
        job_link_init(&j->link[r],
                      r ? 64 << 10 : (size_t)WIRE_MAX_AHEAD * (WIRE_MAX_BODY + (64 << 10)));
    *ret = j;
    return 0;
}

int job_launch(struct job *j, struct mt_err *reterr)
{
    int rc;

    if (j->state != JOB_IDLE)
        return mt_error(reterr, MT_EINVAL, "the job is running already");
    if (getrandom(j->token, sizeof j->token, 0) != (ssize_t)sizeof j->token)
        return mt_error(reterr, MT_EIO, "getrandom: %s", strerror(errno));
    rc = job_dir_open(j, reterr);
    if (rc)
        return rc;
    j->incarnation++;
    rc = job_spawn(j, reterr);
    if (rc) {
        job_dir_close(j);
        return rc;
    }
    j->state = JOB_STARTING;
    j->launched_ms = job_now_ms();
    j->said[0] = j->block[0] = 0;
    return 0;
}

/* Forgets an incarnation whose processes have ended. */
static void forget(struct job *j)
{
    for (uint32_t r = 0; r < j->options.ranks; r++)
        job_link_close(&j->link[r]);
    for (int i = 0; i < JOB_PENDING; i++)
        job_link_close(&j->pending[i]);
    for (int i = 0; i < 2; i++) {
        job_lines_close(&j->lines[i]);
        buf_reset(&j->lines[i].in);
    }
    job_dir_close(j);
    j->state = JOB_IDLE;
    j->exited = j->in_block = j->final = false;
    j->n_ready = 0;
    j->sent = j->answered = 0;
}

/* --- dying --- */

void job_condemn(struct job *j, uint32_t rank, bool final, int status, const char *format, ...)
{
    va_list args;

    if (j->state == JOB_IDLE || j->final || (j->state == JOB_DYING && !final))
        return;
    j->blame = rank;
    j->final = final;
    j->why.status = status;
    va_start(args, format);
    vsnprintf(j->why.text, sizeof j->why.text, format, args);
    va_end(args);
    if (j->state == JOB_DYING)
        return;
    j->ran = j->state == JOB_RUNNING;
    j->state = JOB_DYING;
    j->dying = DYING_LISTEN;
    j->dying_lines = 0;
    j->dying_ms = job_now_ms() + (final ? 0 : JOB_LAST_WORDS_MS);
}

/* Adds to the reason how the process ended, if it did so by itself, and what it had to say. */
static void explain(struct job *j)
{
    const char *who = j->options.ranks > 1 ? "mpirun" : "the worker";
    char text[MT_ERR_TEXT];
    char how[96] = "";

    if (j->exited && WIFEXITED(j->exit_status))
        snprintf(how, sizeof how, "; %s exited with %d", who, WEXITSTATUS(j->exit_status));
    else if (j->exited && WIFSIGNALED(j->exit_status))
        snprintf(how, sizeof how, "; %s was ended by signal %d (%s)", who, WTERMSIG(j->exit_status),
                 strsignal(WTERMSIG(j->exit_status)));
    if (j->final && (j->ran || j->why.status != MT_ETIMEOUT))
        return; /* the reason says all */
    snprintf(text, sizeof text, "%.150s%s%s%.255s", j->why.text, j->final ? "" : how,
             j->said[0] || j->block[0] ? ": " : "", j->said[0] ? j->said : j->block);
    memcpy(j->why.text, text, sizeof text);
}

static bool dying_is_due(const struct job *j)
{
    return job_now_ms() >= j->dying_ms || (j->exited && j->lines[0].fd < 0 && j->lines[1].fd < 0);
}

/* One move towards the end; true: *ret is JOB_DIED. */
static bool die(struct job *j, struct job_event *ret)
{
    switch (j->dying) {
    case DYING_LISTEN:
        if (dying_is_due(j)) {
            job_poll(j, 0, -1); /* whatever came before the end is there by now */
            j->dying = DYING_LAST_LOOK;
        }
        return false;
    case DYING_LAST_LOOK:
        job_reap(j);
        explain(j);
        job_kill(j);
        j->dying = DYING_KILLED;
        return false;
    case DYING_KILLED: break;
    }
    *ret = (struct job_event){.type = JOB_DIED, .rank = j->blame, .err = j->why};
    forget(j);
    return true;
}

/* --- output --- */

static void append(char *to, size_t size, const char *line)
{
    size_t n = strlen(to);

    snprintf(to + n, size - n, "%s%s", n ? " " : "", line);
}

/* Keeps the first lines for the reason of a death. mpirun frames its explanations with dashes; what
 * a rank itself said is worth more than those. False: a line without content. */
static bool note_line(struct job *j, const char *line)
{
    size_t n = strlen(line);

    if (n >= 20 && strspn(line, "-") == n) {
        j->in_block = !j->in_block;
        return false;
    }
    if (strspn(line, " ") == n)
        return false;
    append(j->in_block ? j->block : j->said, sizeof j->said, line);
    return true;
}

static bool next_line(struct job *j, struct job_event *ret)
{
    char line[MT_ERR_TEXT];

    for (int i = 0; i < 2; i++) {
        struct job_lines *l = &j->lines[i];

        for (;;) {
            if (!job_lines_next(l, line)) {
                if (j->state != JOB_DYING || j->dying != DYING_KILLED || l->fd < 0)
                    break;
                job_lines_read(l); /* all writers are dead, so there is little left */
                if (l->fd >= 0 && !l->in.len)
                    job_lines_close(l);
                continue;
            }
            if (!note_line(j, line))
                continue;
            if (j->state == JOB_DYING && j->dying_lines++ >= JOB_DYING_LINES)
                continue;
            *ret = (struct job_event){.type = JOB_LOG, .rank = UINT32_MAX};
            mt_error(&ret->err, l->level, "%s", line);
            return true;
        }
    }
    return false;
}

/* --- watching --- */

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* When some rank last finished a step, or the first unanswered one was sent. Ranks move in
 * lock-step: none can be told from the others by this. */
static int64_t last_move(const struct job *j)
{
    int64_t latest = j->step_ms;

    for (uint32_t r = 0; r < j->options.ranks; r++)
        if (j->link[r].moved_ms > latest)
            latest = j->link[r].moved_ms;
    return latest;
}

/* A rank sends heartbeats from its HELLO on, also while it loads. */
static bool is_heard(const struct job *j, uint32_t rank)
{
    return (j->state == JOB_STARTING || j->state == JOB_RUNNING) && j->link[rank].fd >= 0;
}

static bool all_dialled(const struct job *j)
{
    for (uint32_t r = 0; r < j->options.ranks; r++)
        if (j->link[r].fd < 0)
            return false;
    return true;
}

/* When something must have happened, or INT64_MAX. */
static int64_t deadline(const struct job *j)
{
    const struct job_options *o = &j->options;
    int64_t at = INT64_MAX;

    if (j->state == JOB_DYING)
        at = j->dying_ms;
    if (j->state == JOB_STARTING && o->start_ms > 0)
        at = j->launched_ms + o->start_ms;
    if (j->state == JOB_STARTING && !all_dialled(j))
        at = earlier(at, j->launched_ms + JOB_DIAL_MS);
    if (j->state == JOB_RUNNING && o->step_ms > 0 && j->sent > j->answered)
        at = last_move(j) + o->step_ms;
    for (uint32_t r = 0; o->silence_ms > 0 && r < o->ranks; r++)
        if (is_heard(j, r))
            at = earlier(at, j->link[r].heard_ms + o->silence_ms);
    for (int i = 0; i < JOB_PENDING; i++)
        if (j->pending[i].fd >= 0)
            at = earlier(at, j->pending[i].since_ms + JOB_HELLO_MS);
    return at;
}

/* Called when all that had arrived has been read, so that our own sleep is not taken for theirs. */
static void watch(struct job *j)
{
    const struct job_options *o = &j->options;
    int64_t now = job_now_ms();

    if (j->exited)
        job_condemn(j, UINT32_MAX, false, MT_ECLOSED, "the job ended");
    if (j->state == JOB_STARTING && o->start_ms > 0 && now - j->launched_ms >= o->start_ms)
        job_condemn(j, UINT32_MAX, true, MT_ETIMEOUT,
                    "not ready after %lld ms (%u of %u ranks are)",
                    (long long)(now - j->launched_ms), j->n_ready, o->ranks);
    if (j->state == JOB_STARTING && !all_dialled(j) && now - j->launched_ms >= JOB_DIAL_MS)
        job_condemn(j, UINT32_MAX, true, MT_ETIMEOUT, "not all ranks have dialled after %lld ms",
                    (long long)(now - j->launched_ms));
    for (uint32_t r = 0; o->silence_ms > 0 && r < o->ranks; r++)
        if (is_heard(j, r) && now - j->link[r].heard_ms >= o->silence_ms)
            job_condemn(j, r, true, MT_ETIMEOUT, "rank %u has been silent for %lld ms", r,
                        (long long)(now - j->link[r].heard_ms));
    if (j->state == JOB_RUNNING && o->step_ms > 0 && j->sent > j->answered &&
        now - last_move(j) >= o->step_ms)
        job_condemn(j, UINT32_MAX, true, MT_ETIMEOUT, "step %llu has not moved for %lld ms",
                    (unsigned long long)j->answered + 1, (long long)(now - last_move(j)));
}

void job_next(struct job *j, int timeout_ms, int wake_fd, struct job_event *ret)
{
    int64_t end = timeout_ms < 0 ? INT64_MAX : job_now_ms() + timeout_ms;
    bool polled = false, woken = false;

    *ret = (struct job_event){.type = JOB_NONE};
    for (;;) {
        int64_t until, now;

        if (job_frames_next(j, ret) || next_line(j, ret))
            return;
        if (job_frames_greet(j))
            continue; /* more of its frames may have come with the first */
        if (polled)
            watch(j);
        if (j->state == JOB_DYING) {
            bool waiting = j->dying == DYING_LISTEN && !dying_is_due(j);

            if (die(j, ret))
                return;
            if (!waiting)
                continue;
        }
        now = job_now_ms();
        if (polled && (woken || now >= end))
            return;
        until = earlier(end, deadline(j));
        woken = job_poll(j, until == INT64_MAX ? -1 : until > now ? until - now : 0, wake_fd);
        polled = true;
    }
}

/* --- steps --- */

static void wake_others(struct job *j)
{
    for (uint32_t r = 1; r < j->options.ranks; r++) {
        struct job_link *l = &j->link[r];

        if (l->fd < 0)
            continue;
        wire_put_empty(&l->out, j->incarnation, WIRE_WAKE);
        l->out.status = 0; /* a full buffer loses a hint, no more */
        job_link_write(l, NULL);
    }
}

int job_send_step(struct job *j, const struct wire_step *step, struct mt_err *reterr)
{
    struct job_link *l = &j->link[0];
    int rc;

    if (j->state != JOB_RUNNING)
        return mt_error(reterr, MT_ECLOSED, "the job is not running");
    if (job_unanswered(j) >= WIRE_MAX_AHEAD)
        return mt_error(reterr, MT_ELIMIT, "expected at most %d steps ahead, found %u",
                        WIRE_MAX_AHEAD, job_unanswered(j) + 1);
    if (step->step != j->sent + 1 || step->ranks != j->options.ranks)
        return mt_error(reterr, MT_EINVAL, "expected step %llu of %u ranks, found %llu of %u",
                        (unsigned long long)j->sent + 1, j->options.ranks,
                        (unsigned long long)step->step, step->ranks);
    rc = wire_put_step(&l->out, j->incarnation, step);
    l->out.status = 0;
    if (rc)
        return mt_error(reterr, rc, "step %llu of %u tokens: %s", (unsigned long long)step->step,
                        step->n_tokens, mt_status_name(rc));
    if (j->sent++ == j->answered) {
        j->step_ms = job_now_ms();
        wake_others(j);
    }
    if (l->fd >= 0)
        job_link_write(l, NULL); /* a failure shows when the socket is read */
    return 0;
}

bool job_running(const struct job *j)
{
    return j->state != JOB_IDLE;
}

uint64_t job_incarnation(const struct job *j)
{
    return j->incarnation;
}

uint64_t job_epoch(const struct job *j)
{
    (void)j;
    return JOB_FIRST_EPOCH;
}

uint32_t job_ranks(const struct job *j)
{
    return j->options.ranks;
}

uint32_t job_unanswered(const struct job *j)
{
    return (uint32_t)(j->sent - j->answered);
}

const struct wire_facts *job_facts(const struct job *j)
{
    return j->have_facts ? &j->facts : NULL;
}

const struct wire_ready *job_ready(const struct job *j, uint32_t rank)
{
    return &j->ready[rank];
}

const struct wire_result *job_result(const struct job *j)
{
    return &j->result;
}

const struct plan *job_plan(const struct job *j)
{
    return j->options.plan ? j->options.plan : &j->plan;
}

/* --- stopping --- */

/* Nobody will ask for these any more; reading on keeps the ranks from blocking on their way out. */
static void discard(struct job *j)
{
    for (uint32_t r = 0; r < j->options.ranks; r++) {
        buf_reset(&j->link[r].in);
        j->link[r].at = j->link[r].pop = 0;
    }
    for (int i = 0; i < 2; i++)
        buf_reset(&j->lines[i].in);
}

void job_stop(struct job *j, int grace_ms)
{
    int64_t end = job_now_ms() + grace_ms, left;

    if (j->state == JOB_IDLE)
        return;
    if (j->state == JOB_RUNNING && grace_ms > 0 && j->link[0].fd >= 0) {
        wire_put_empty(&j->link[0].out, j->incarnation, WIRE_SHUTDOWN);
        wake_others(j);
        job_link_write(&j->link[0], NULL);
        while (!j->exited && (left = end - job_now_ms()) > 0) {
            job_poll(j, left, -1);
            discard(j);
        }
    }
    job_kill(j);
    forget(j);
}

void job_free(struct job *j)
{
    if (!j)
        return;
    if (j->link && j->ready && j->polls)
        job_stop(j, 0);
    for (uint32_t r = 0; j->link && r < j->options.ranks; r++)
        job_link_done(&j->link[r]);
    for (int i = 0; i < JOB_PENDING; i++)
        job_link_done(&j->pending[i]);
    for (int i = 0; i < 2; i++)
        job_lines_done(&j->lines[i]);
    wire_result_done(&j->result);
    plan_done(&j->plan);
    free(j->link);
    free(j->ready);
    free(j->polls);
    job_options_done(&j->options);
    free(j);
}
