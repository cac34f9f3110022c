/* Starting and ending the processes of a job.
 *
 * One rank is run directly, more under mpirun. The child leads a process group of its own and dies
 * with us (PR_SET_PDEATHSIG, which follows the thread that launched it). mpirun puts each rank into
 * a group of the rank's own, so ranks are killed one by one, through process descriptors taken when
 * they dial: a pid used again later hurts nobody. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/job_impl.h"

#define FIRST_FD 16 /* above whatever the child's standard descriptors need */

/* Argument and environment lists: texts are copied, the array ends with NULL. */
struct words {
    char **at; /* owned */
    size_t n, cap;
    int status;
};

static void words_add(struct words *w, const char *text)
{
    char *copy = strdup(text);

    if (w->n + 1 >= w->cap) {
        size_t cap = w->cap ? w->cap * 2 : 64;
        char **at = realloc(w->at, cap * sizeof *at);

        if (at) {
            w->at = at;
            w->cap = cap;
        }
    }
    if (!copy || w->n + 1 >= w->cap) {
        free(copy);
        w->status = MT_ENOMEM;
        return;
    }
    w->at[w->n++] = copy;
    w->at[w->n] = NULL;
}

__attribute__((format(printf, 2, 3))) static void words_printf(struct words *w, const char *format,
                                                               ...)
{
    char *text = NULL;
    va_list args;

    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    if (text)
        words_add(w, text);
    else
        w->status = MT_ENOMEM;
    free(text);
}

static void words_done(struct words *w)
{
    for (size_t i = 0; i < w->n; i++)
        free(w->at[i]);
    free(w->at);
    *w = (struct words){0};
}

static void add_option(struct words *w, const char *name, const char *value)
{
    if (!value)
        return;
    words_add(w, name);
    words_add(w, value);
}

static void add_number(struct words *w, const char *name, long long value)
{
    words_add(w, name);
    words_printf(w, "%lld", value);
}

static uint32_t threads_per_rank(const struct job_options *o)
{
    cpu_set_t set;
    uint32_t cores = 1;

    if (o->threads)
        return o->threads;
    CPU_ZERO(&set);
    if (!sched_getaffinity(0, sizeof set, &set) && CPU_COUNT(&set) > 0)
        cores = (uint32_t)CPU_COUNT(&set);
    return o->ranks && cores > o->ranks ? cores / o->ranks : 1;
}

/* mpirun's own arguments. Naming pml and btl halves the time to start; yielding is needed as soon
 * as there are more ranks than cores; ranks of one host copy through shared memory, which asks for
 * no ptrace rights. */
static void add_mpirun(struct words *w, const struct job *j, const char *mpirun)
{
    static const char *const MCA[][2] = {
        {"pml", "ob1"},
        {"btl", "self,vader"},
        {"mpi_yield_when_idle", "1"},
        {"odls_base_sigkill_timeout", "0"},
        {"btl_vader_single_copy_mechanism", "none"},
        /* A host that vanishes is noticed after 3 s instead of 8 minutes. */
        {"oob_tcp_keepalive_time", "1"},
        {"oob_tcp_keepalive_intvl", "1"},
        {"oob_tcp_keepalive_probes", "2"},
    };

    words_add(w, mpirun);
    add_number(w, "-n", j->options.ranks);
    words_add(w, "--oversubscribe");
    add_option(w, "--bind-to", "none");
    for (size_t i = 0; i < sizeof MCA / sizeof *MCA; i++) {
        words_add(w, "--mca");
        add_option(w, MCA[i][0], MCA[i][1]);
    }
    words_add(w, "--mca");
    add_option(w, "orte_tmpdir_base", j->dir);
    words_add(w, "--mca");
    add_option(w, "btl_vader_backing_directory", j->shm[0] ? j->shm : j->dir);
    add_option(w, "-x", "MOETUNER_TOKEN");
}

static void add_worker(struct words *w, const struct job *j, const char *worker)
{
    const struct job_options *o = &j->options;

    words_add(w, worker);
    words_add(w, "--connect");
    words_printf(w, "unix:%s", j->socket);
    add_number(w, "--incarnation", (long long)j->incarnation);
    add_number(w, "--ranks", o->ranks);
    add_option(w, "--model", o->model);
    add_option(w, "--config", o->config);
    add_option(w, "--weights", o->weights);
    add_option(w, "--backend", o->backend);
    add_option(w, "--isa", o->isa);
    add_option(w, "--numerics", o->numerics);
    add_number(w, "--threads", threads_per_rank(o));
    add_number(w, "--spare-slots", o->spare_slots);
    add_number(w, "--step-tokens", o->step_tokens);
    add_number(w, "--max-seqs", o->max_seqs);
    add_number(w, "--kv-bytes", (long long)o->kv_bytes);
}

static void make_environment(struct words *w, const struct job *j)
{
    static const char *const OURS[] = {"TMPDIR=", "MOETUNER_TOKEN=", "OMPI_ALLOW_RUN_AS_ROOT"};
    const char *given = getenv("HWLOC_COMPONENTS");
    char hex[2 * WIRE_TOKEN_BYTES + 1];

    for (char **e = environ; *e; e++) {
        bool ours = false;

        for (size_t i = 0; i < sizeof OURS / sizeof *OURS; i++)
            ours |= !strncmp(*e, OURS[i], strlen(OURS[i]));
        if (!ours)
            words_add(w, *e);
    }
    for (size_t i = 0; i < WIRE_TOKEN_BYTES; i++)
        snprintf(hex + 2 * i, 3, "%02x", j->token[i]);
    words_printf(w, "MOETUNER_TOKEN=%s", hex);
    words_printf(w, "TMPDIR=%s", j->dir);
    /* Ranks are bound to nothing, so mpirun and each of them need not ask every PCI device and core
     * what it is: most of the time that a launch took. */
    if (!given)
        words_add(w, "HWLOC_COMPONENTS=-x86,-pci,-opencl,-linuxio");
    if (!geteuid()) {
        words_add(w, "OMPI_ALLOW_RUN_AS_ROOT=1");
        words_add(w, "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1");
    }
}

/* A program's path: as given if it has a slash, else from PATH. */
static int find_program(const char *name, char path[JOB_PATH], struct mt_err *reterr)
{
    const char *at = getenv("PATH"), *end;

    if (strchr(name, '/')) {
        if (snprintf(path, JOB_PATH, "%s", name) >= JOB_PATH)
            return mt_error(reterr, MT_ELIMIT, "the path %.200s is too long", name);
        return access(path, X_OK) ? mt_error(reterr, MT_ENOTFOUND, "%s: %s", path, strerror(errno))
                                  : 0;
    }
    for (at = at ? at : "/usr/bin:/bin"; *at; at = *end ? end + 1 : end) {
        end = strchrnul(at, ':');
        if (snprintf(path, JOB_PATH, "%.*s/%s", (int)(end - at), at, name) < JOB_PATH &&
            !access(path, X_OK))
            return 0;
    }
    return mt_error(reterr, MT_ENOTFOUND, "%s: not found in PATH", name);
}

/* moetuner-worker beside this executable, unless a path was given. */
static int find_worker(const struct job *j, char path[JOB_PATH], struct mt_err *reterr)
{
    char self[JOB_PATH];
    char *slash;
    ssize_t n;

    if (j->options.worker)
        return find_program(j->options.worker, path, reterr);
    n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return mt_error(reterr, MT_EIO, "/proc/self/exe: %s", strerror(errno));
    self[n] = 0;
    slash = strrchr(self, '/');
    if (slash)
        *slash = 0;
    if (snprintf(path, JOB_PATH, "%s/moetuner-worker", self) >= JOB_PATH)
        return mt_error(reterr, MT_ELIMIT, "the path %.200s is too long", self);
    return access(path, X_OK) ? mt_error(reterr, MT_ENOTFOUND, "%s: %s", path, strerror(errno)) : 0;
}

/* The texts of the options, so that the job keeps copies. */
static const size_t TEXTS[] = {
    offsetof(struct job_options, worker),  offsetof(struct job_options, mpirun),
    offsetof(struct job_options, model),   offsetof(struct job_options, config),
    offsetof(struct job_options, weights), offsetof(struct job_options, backend),
    offsetof(struct job_options, isa),     offsetof(struct job_options, numerics),
};

static char **text_at(struct job_options *o, size_t i)
{
    return (char **)((char *)o + TEXTS[i]);
}

int job_options_copy(const struct job_options *from, struct job_options *ret, struct mt_err *reterr)
{
    struct job_options copy = *from;
    bool lost = false;

    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        char **text = text_at(&copy, i);

        if (*text) {
            *text = strdup(*text);
            lost |= !*text;
        }
    }
    if (lost) {
        job_options_done(&copy);
        return mt_error(reterr, MT_ENOMEM, "no memory for the job's options");
    }
    *ret = copy;
    return 0;
}

void job_options_done(struct job_options *o)
{
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        free(*text_at(o, i));
        *text_at(o, i) = NULL;
    }
}

/* --- the child --- */

struct launch {
    char **argv, **envp;
    int in, out, err, report; /* descriptors, all of FIRST_FD or more */
    pid_t parent;
};

/* Runs between fork and exec in a process that had threads: system calls only. */
static void child_main(const struct launch *l)
{
    int report = l->report, error;
    sigset_t none;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != l->parent)
        _exit(127);
    setpgid(0, 0);
    for (int s = 1; s < NSIG; s++)
        signal(s, SIG_DFL); /* an ignored SIGPIPE would be inherited */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (dup2(l->in, 0) == 0 && dup2(l->out, 1) == 1 && dup2(l->err, 2) == 2 &&
        dup3(report, 3, O_CLOEXEC) == 3) {
        report = 3;
        if (close_range(4, ~0u, 0) == 0)
            execve(l->argv[0], l->argv, l->envp);
    }
    error = errno;
    if (write(report, &error, sizeof error) < 0)
        _exit(126);
    _exit(127);
}

/* A pipe whose ends keep clear of the standard descriptors, which the parent may have closed. */
static int make_pipe(int ret[2])
{
    int fd[2];

    if (pipe2(fd, O_CLOEXEC))
        return -1;
    for (int i = 0; i < 2; i++) {
        ret[i] = fcntl(fd[i], F_DUPFD_CLOEXEC, FIRST_FD);
        close(fd[i]);
    }
    if (ret[0] >= 0 && ret[1] >= 0)
        return 0;
    for (int i = 0; i < 2; i++)
        if (ret[i] >= 0)
            close(ret[i]);
    ret[0] = ret[1] = -1;
    return -1;
}

static void close_pair(int fd[2])
{
    for (int i = 0; i < 2; i++)
        if (fd[i] >= 0)
            close(fd[i]);
}

/* Waits until the child has executed its program, or cannot; closes both ends. */
static int wait_exec(int report[2])
{
    int error = 0;
    ssize_t n;

    close(report[1]);
    do
        n = read(report[0], &error, sizeof error);
    while (n < 0 && errno == EINTR);
    close(report[0]);
    report[0] = report[1] = -1;
    return n == (ssize_t)sizeof error ? error : 0;
}

static int fork_child(struct job *j, struct launch *l, int report[2], struct mt_err *reterr)
{
    int error;

    l->report = report[1];
    l->parent = getpid();
    j->pid = fork();
    if (j->pid == 0)
        child_main(l);
    if (j->pid < 0) {
        j->pid = 0;
        return mt_error(reterr, MT_EIO, "fork: %s", strerror(errno));
    }
    setpgid(j->pid, j->pid); /* as the child does: whoever comes first */
    error = wait_exec(report);
    if (!error) {
        j->pidfd = pidfd_open(j->pid, 0);
        if (j->pidfd >= 0)
            return 0;
        error = errno;
        kill(-j->pid, SIGKILL);
    }
    while (waitpid(j->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    j->pid = 0;
    return mt_error(reterr, MT_EIO, "cannot execute %s: %s", l->argv[0], strerror(error));
}

static int start(struct job *j, struct words *argv, struct words *envp, struct mt_err *reterr)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1}, report[2] = {-1, -1}, rc;

    if (make_pipe(in) || make_pipe(out) || make_pipe(err) || make_pipe(report)) {
        rc = mt_error(reterr, MT_EIO, "pipe: %s", strerror(errno));
    } else {
        struct launch l = {
            .argv = argv->at, .envp = envp->at, .in = in[0], .out = out[1], .err = err[1]};

        rc = fork_child(j, &l, report, reterr);
    }
    if (!rc) {
        fcntl(out[0], F_SETFL, O_NONBLOCK);
        fcntl(err[0], F_SETFL, O_NONBLOCK);
        job_lines_open(&j->lines[0], out[0]);
        job_lines_open(&j->lines[1], err[0]);
        out[0] = err[0] = -1;
    }
    close_pair(in); /* the child reads the end of its input at once */
    close_pair(out);
    close_pair(err);
    close_pair(report);
    return rc;
}

int job_spawn(struct job *j, struct mt_err *reterr)
{
    struct words argv = {0}, envp = {0};
    char worker[JOB_PATH], mpirun[JOB_PATH];
    int rc = find_worker(j, worker, reterr);

    if (!rc && j->options.ranks > 1) {
        rc = find_program(j->options.mpirun ? j->options.mpirun : "mpirun", mpirun, reterr);
        if (!rc)
            add_mpirun(&argv, j, mpirun);
    }
    if (rc)
        return rc;
    add_worker(&argv, j, worker);
    make_environment(&envp, j);
    if (argv.status || envp.status)
        rc = mt_error(reterr, MT_ENOMEM, "no memory for the arguments of %s", worker);
    else
        rc = start(j, &argv, &envp, reterr);
    words_done(&argv);
    words_done(&envp);
    return rc;
}

/* --- the end --- */

void job_reap(struct job *j)
{
    if (!j->pid || j->exited)
        return;
    if (waitpid(j->pid, &j->exit_status, WNOHANG) == j->pid)
        j->exited = true;
}

/* Waits until the child has ended, or the time is over. */
static void await_child(struct job *j, int64_t ms)
{
    struct pollfd p = {.fd = j->pidfd, .events = POLLIN};
    int64_t end = job_now_ms() + ms, left;

    for (job_reap(j); !j->exited && (left = end - job_now_ms()) > 0; job_reap(j))
        poll(&p, 1, (int)left);
}

/* Waits until the ranks have ended too: their memory must be free before the next incarnation takes
 * its own. */
static void await_ranks(struct job *j, int64_t ms)
{
    int64_t end = job_now_ms() + ms, left;

    for (uint32_t r = 0; r < j->options.ranks; r++) {
        struct pollfd p = {.fd = j->link[r].pidfd, .events = POLLIN};

        while (p.fd >= 0 && (left = end - job_now_ms()) > 0 && poll(&p, 1, (int)left) < 0)
            ;
    }
}

void job_kill(struct job *j)
{
    if (!j->pid)
        return;
    for (uint32_t r = 0; r < j->options.ranks; r++)
        if (j->link[r].pidfd >= 0)
            pidfd_send_signal(j->link[r].pidfd, SIGKILL, NULL, 0);
    job_reap(j);
    if (!j->exited) {
        kill(-j->pid, SIGTERM);
        await_child(j, JOB_TERM_MS);
    }
    if (!j->exited) {
        kill(-j->pid, SIGKILL);
        await_child(j, JOB_REAP_MS);
    }
    await_ranks(j, JOB_REAP_MS);
    if (j->pidfd >= 0)
        close(j->pidfd);
    j->pidfd = -1;
    j->pid = 0;
}
