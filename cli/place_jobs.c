/* The solver in child processes, one a seed: they share a page for progress and the wish to stop,
 * and each sends its result through a pipe of its own. A child that dies costs its seed alone. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "api/buf.h"
#include "cli/place.h"

#define GRACE_MS 60000 /* from the wish to stop until a child is killed */
#define TICK_MS 100
#define CURVE_MS 10   /* the same where a curve is drawn */
#define LINE_MS 250   /* between progress lines */
#define ROUNDING 1e-9 /* a gap that is none */
#define MAX_RESULT (1u << 28)

/* Written by one child, read by the parent. `stage` is static, and at the same address in both. */
struct slot {
    _Atomic(const char *) stage;
    _Atomic double objective, bound;
    _Atomic uint64_t iterations;
};

struct shared {
    _Atomic int stop;
    struct slot slot[];
};

struct child {
    pid_t pid;
    int fd; /* the read end; -1: it has ended */
    struct buf got;
};

struct jobs {
    const struct place_problem *problem;
    const struct place_search *search;
    struct shared *shared;
    struct child *child;
    uint32_t n, running;
    int64_t began, stopped; /* ms; stopped 0: nobody wished it */
    bool interrupted, killed;
    double drawn_objective, drawn_bound; /* of the curve's last line */
    struct slot *mine;                   /* in a child */
};

/* What goes through the pipe; then start, rank and, if there are any, share. */
struct head {
    int rc;
    char error[MT_ERR_TEXT];
    uint32_t layers, experts, ranks, copies;
    bool shares, optimal;
    double objective, bound;
    uint64_t iterations;
    char no_bound[160], note[256];
};

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

const struct place_method *place_method_find(const char *name, struct mt_err *reterr)
{
    char known[256] = "";
    size_t len = 0;

    for (const struct place_method *m = PLACE_METHODS; m->name; m++) {
        if (!strcmp(m->name, name))
            return m;
        if (len < sizeof known)
            len +=
                (size_t)snprintf(known + len, sizeof known - len, "%s%s", len ? ", " : "", m->name);
    }
    mt_error(reterr, MT_EINVAL, "method %.60s: expected one of %s", name, known);
    return NULL;
}

/* Only these start elsewhere with another seed. With an iteration limit a result is a function of
 * the seed, and must not depend on how many processors there are. */
uint32_t place_jobs_default(const struct place_method *method, uint64_t iterations)
{
    cpu_set_t set;
    int n = 1;

    if (iterations || (strcmp(method->name, "joint") != 0 && strcmp(method->name, "random") != 0))
        return 1;
    if (!sched_getaffinity(0, sizeof set, &set))
        n = CPU_COUNT(&set);
    return n < 1 ? 1 : n > PLACE_MAX_JOBS ? PLACE_MAX_JOBS : (uint32_t)n;
}

/* ---- in a child ---- */

static bool child_stop(void *user)
{
    const struct jobs *j = user;

    return atomic_load_explicit(&j->shared->stop, memory_order_relaxed);
}

/* Only where a time was given: what depends on it depends on more than the seed. */
static double child_spent(void *user)
{
    const struct jobs *j = user;
    double part = (double)(now_ms() - j->began) / (double)j->search->time_ms;

    return child_stop(user) || part > 1 ? 1 : part;
}

static void child_progress(void *user, const struct place_progress *now)
{
    const struct jobs *j = user;

    atomic_store(&j->mine->stage, now->stage);
    atomic_store(&j->mine->objective, now->objective);
    atomic_store(&j->mine->bound, now->bound);
    atomic_store(&j->mine->iterations, now->iterations);
}

static void send_bytes(int fd, const void *bytes, size_t n)
{
    const char *at = bytes;

    while (n) {
        ssize_t k = write(fd, at, n);

        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            _exit(1);
        at += k;
        n -= (size_t)k;
    }
}

static void child_send(int fd, const struct head *h, const struct plan *p)
{
    send_bytes(fd, h, sizeof *h);
    if (h->rc)
        return;
    send_bytes(fd, p->start, ((size_t)h->layers * h->experts + 1) * sizeof *p->start);
    send_bytes(fd, p->rank, (size_t)h->copies * sizeof *p->rank);
    if (h->shares)
        send_bytes(fd, p->share, (size_t)h->copies * sizeof *p->share);
}

static void child_run(struct jobs *j, uint32_t which, int fd)
{
    const struct place_search *s = j->search;
    const struct place_run run = {.seed = s->seed + which,
                                  .iterations = s->iterations,
                                  .plain = s->plain,
                                  .skip_bound = which > 0,
                                  .gap = s->gap,
                                  .stop = child_stop,
                                  .spent = s->time_ms ? child_spent : NULL,
                                  .progress = child_progress,
                                  .user = j};
    struct place_result r = {0};
    struct head h = {0};
    struct mt_err err = {0};

    j->mine = &j->shared->slot[which];
    h.rc = s->method->solve(j->problem, &run, &r, &err);
    if (h.rc) {
        snprintf(h.error, sizeof h.error, "%s", err.text);
    } else {
        h.layers = r.plan.layers, h.experts = r.plan.experts, h.ranks = r.plan.ranks;
        h.copies = r.plan.start[(size_t)h.layers * h.experts];
        h.shares = r.plan.share;
        h.optimal = r.optimal;
        h.objective = r.objective;
        h.bound = r.no_bound ? 0 : r.bound;
        h.iterations = r.iterations;
        snprintf(h.no_bound, sizeof h.no_bound, "%s", r.no_bound ? r.no_bound : "");
        snprintf(h.note, sizeof h.note, "%s", r.note);
    }
    child_send(fd, &h, &r.plan);
}

/* ---- in the parent ---- */

static int start_child(struct jobs *j, uint32_t which, struct mt_err *reterr)
{
    struct child *c = &j->child[which];
    pid_t parent = getpid();
    int fd[2];

    if (pipe2(fd, O_CLOEXEC))
        return mt_error(reterr, MT_EIO, "pipe: %s", strerror(errno));
    fflush(NULL);
    c->pid = fork();
    if (!c->pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        close(fd[0]);
        child_run(j, which, fd[1]);
        _exit(0);
    }
    close(fd[1]);
    if (c->pid < 0) {
        close(fd[0]);
        return mt_error(reterr, MT_EIO, "fork: %s", strerror(errno));
    }
    c->fd = fd[0];
    j->running++;
    return 0;
}

static void wish_stop(struct jobs *j)
{
    atomic_store(&j->shared->stop, 1);
    if (!j->stopped)
        j->stopped = now_ms();
}

static void kill_children(struct jobs *j)
{
    for (uint32_t i = 0; i < j->n; i++)
        if (j->child[i].fd >= 0)
            kill(j->child[i].pid, SIGKILL);
    j->killed = true;
}

/* Whether it has proven what was asked for, so that the others may stop. With an iteration limit
 * each ends by itself: the result depends on the seeds alone. */
static bool proven(const struct jobs *j, const struct child *c)
{
    double gap = j->search->gap > ROUNDING ? j->search->gap : ROUNDING;
    struct head h;

    if (j->search->iterations || c->got.len < sizeof h)
        return false;
    memcpy(&h, c->got.data, sizeof h);
    return !h.rc && h.bound > 0 && h.objective - h.bound <= gap * h.bound;
}

static void end_child(struct jobs *j, struct child *c)
{
    close(c->fd);
    c->fd = -1;
    j->running--;
    if (!j->stopped && proven(j, c))
        wish_stop(j);
}

/* Some bytes of a result, or its end. */
static void receive(struct jobs *j, struct child *c)
{
    uint8_t bytes[65536];
    ssize_t n = read(c->fd, bytes, sizeof bytes);

    if (n > 0 && !buf_append(&c->got, bytes, (size_t)n))
        return;
    if (n < 0 && errno == EINTR)
        return;
    if (n > 0)
        kill(c->pid, SIGKILL); /* more than a result can be */
    end_child(j, c);
}

/* The least objective and the greatest bound that the children told; 0: none yet. */
static void best_progress(const struct jobs *j, struct place_progress *ret)
{
    memset(ret, 0, sizeof *ret);
    for (uint32_t i = 0; i < j->n; i++) {
        struct slot *s = &j->shared->slot[i];
        double objective = atomic_load(&s->objective), bound = atomic_load(&s->bound);

        ret->iterations += atomic_load(&s->iterations);
        if (objective > 0 && objective < INFINITY &&
            (!(ret->objective > 0) || objective < ret->objective)) {
            ret->objective = objective;
            ret->stage = atomic_load(&s->stage);
        }
        if (bound > ret->bound)
            ret->bound = bound;
    }
}

static void print_progress(const struct jobs *j)
{
    struct place_progress now;
    char j_text[32], gap[32];

    best_progress(j, &now);
    if (!now.stage)
        return;
    place_seconds_print(now.objective, j_text, sizeof j_text);
    place_gap_print(now.objective, now.objective < now.bound ? 0 : now.bound, false, gap,
                    sizeof gap);
    fprintf(stderr, "\r\033[K%6.1f s  %s: %s a token, gap %s, %llu iterations",
            (double)(now_ms() - j->began) / 1e3, now.stage, j_text, gap,
            (unsigned long long)now.iterations);
    fflush(stderr);
}

/* A line of the curve, if there is news. */
static void draw_curve(struct jobs *j)
{
    struct place_progress now;

    best_progress(j, &now);
    if (!(now.objective > 0) ||
        (now.objective == j->drawn_objective && now.bound == j->drawn_bound))
        return;
    j->drawn_objective = now.objective;
    j->drawn_bound = now.bound;
    fprintf(j->search->curve, "%.3f,%.9g,%.9g,%" PRIu64 "\n", (double)(now_ms() - j->began) / 1e3,
            now.objective, now.bound, now.iterations);
}

/* The first signal asks for the best plan so far, the second ends it all. */
static void take_signals(struct jobs *j)
{
    struct signalfd_siginfo info;

    while (read(j->search->stop_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (j->interrupted)
            kill_children(j);
        j->interrupted = true;
        wish_stop(j);
    }
}

static void look_at_time(struct jobs *j, int64_t left)
{
    if (j->search->time_ms && left <= 0 && !j->stopped)
        wish_stop(j);
    if (j->stopped && now_ms() - j->stopped > GRACE_MS && !j->killed)
        kill_children(j);
}

/* One wait for results, signals and time. */
static void watch(struct jobs *j, struct pollfd *fds, int64_t *line)
{
    const struct place_search *s = j->search;
    int64_t tick = s->curve ? CURVE_MS : TICK_MS;
    int64_t left = s->time_ms ? j->began + s->time_ms - now_ms() : tick;
    nfds_t n = 0;

    look_at_time(j, left);
    for (uint32_t i = 0; i < j->n; i++)
        fds[n++] = (struct pollfd){.fd = j->child[i].fd, .events = POLLIN};
    fds[n++] = (struct pollfd){.fd = s->stop_fd, .events = POLLIN};
    poll(fds, n, (int)(left > 0 && left < tick ? left : tick));
    for (uint32_t i = 0; i < j->n; i++)
        if (j->child[i].fd >= 0 && fds[i].revents)
            receive(j, &j->child[i]);
    if (s->stop_fd >= 0 && fds[j->n].revents & POLLIN)
        take_signals(j);
    if (s->curve)
        draw_curve(j);
    if (s->progress && now_ms() - *line >= LINE_MS) {
        *line = now_ms();
        print_progress(j);
    }
}

/* The parts of a result; refused if it is not whole. */
static int parse_result(const struct buf *b, struct head *h, struct plan *ret,
                        struct mt_err *reterr)
{
    const uint8_t *at = b->data;
    struct plan p = {0};
    size_t pairs, starts, ranks, shares;

    if (b->len < sizeof *h)
        return mt_error(reterr, MT_ECLOSED, "ended without a plan");
    memcpy(h, at, sizeof *h);
    at += sizeof *h;
    if (h->rc)
        return mt_error(reterr, h->rc, "%s", h->error);
    pairs = (size_t)h->layers * h->experts;
    starts = (pairs + 1) * sizeof *p.start;
    ranks = (size_t)h->copies * sizeof *p.rank;
    shares = h->shares ? (size_t)h->copies * sizeof *p.share : 0;
    if (b->len != sizeof *h + starts + ranks + shares)
        return mt_error(reterr, MT_ECLOSED, "ended within its plan");
    p.layers = h->layers, p.experts = h->experts, p.ranks = h->ranks;
    p.start = malloc(starts);
    p.rank = malloc(ranks + 1);
    p.share = shares ? malloc(shares) : NULL;
    if (!p.start || !p.rank || (shares && !p.share)) {
        plan_done(&p);
        return mt_error(reterr, MT_ENOMEM, "no memory for a plan");
    }
    memcpy(p.start, at, starts);
    memcpy(p.rank, at + starts, ranks);
    if (shares)
        memcpy(p.share, at + starts + ranks, shares);
    *ret = p;
    return 0;
}

static void reap(const struct child *c, char *how, size_t n)
{
    int status = 0;

    while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    if (WIFSIGNALED(status))
        snprintf(how, n, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(how, n, "exit status %d", WEXITSTATUS(status));
}

/* Takes over one result if it is the best. */
static int take_result(struct jobs *j, uint32_t which, struct place_outcome *o,
                       struct mt_err *reterr)
{
    struct child *c = &j->child[which];
    struct plan plan = {0};
    struct head h = {0};
    char how[96];
    int rc = parse_result(&c->got, &h, &plan, reterr);

    reap(c, how, sizeof how);
    if (rc && !h.rc) { /* not what the method said, but what became of its process */
        o->lost++;
        snprintf(o->lost_text, sizeof o->lost_text, "seed %" PRIu64 ": %s", j->search->seed + which,
                 how);
        return mt_error(reterr, rc, "the solver ended without a plan: %s", o->lost_text);
    }
    if (rc)
        return rc;
    rc = place_fits(j->problem, &plan, reterr);
    if (rc || (o->plan.start && !(h.objective < o->objective))) {
        plan_done(&plan);
    } else {
        plan_done(&o->plan);
        o->plan = plan;
        o->objective = h.objective;
        o->seed = j->search->seed + which;
        memcpy(o->note, h.note, sizeof o->note);
    }
    if (rc)
        return mt_error_prefix(reterr, "method %s", j->search->method->name), rc;
    o->iterations += h.iterations;
    o->optimal = o->optimal || h.optimal;
    if (h.bound > o->bound)
        o->bound = h.bound;
    memcpy(o->no_bound, h.no_bound, sizeof o->no_bound);
    return 0;
}

static int collect(struct jobs *j, struct place_outcome *ret, struct mt_err *reterr)
{
    struct place_outcome o = {.interrupted = j->interrupted,
                              .seeds = j->n,
                              .seconds = (double)(now_ms() - j->began) / 1e3};
    struct mt_err err = {0};
    int rc = 0;

    for (uint32_t i = 0; i < j->n; i++)
        if (j->child[i].pid > 0 && take_result(j, i, &o, &err) && !rc) {
            rc = err.status;
            *reterr = err;
        }
    if (!o.plan.start)
        return rc ? rc : mt_error(reterr, MT_EINTERNAL, "no process could be started");
    if (o.bound > 0)
        o.no_bound[0] = 0;
    if (j->search->curve)
        fprintf(j->search->curve, "%.3f,%.9g,%.9g,%" PRIu64 "\n", o.seconds, o.objective, o.bound,
                o.iterations);
    *ret = o;
    return 0;
}

static int run_children(struct jobs *j, struct place_outcome *ret, struct mt_err *reterr)
{
    struct pollfd *fds = calloc(j->n + 1, sizeof *fds);
    int64_t line = j->began;
    int rc = fds ? 0 : mt_error(reterr, MT_ENOMEM, "out of memory");

    if (!rc && j->search->curve)
        fputs("seconds,objective,bound,iterations\n", j->search->curve);
    for (uint32_t i = 0; !rc && i < j->n; i++)
        rc = start_child(j, i, reterr);
    if (rc) {
        wish_stop(j);
        kill_children(j);
    }
    while (fds && j->running)
        watch(j, fds, &line);
    if (j->search->progress)
        fputs("\r\033[K", stderr);
    free(fds);
    if (rc) {
        for (uint32_t i = 0; i < j->n; i++)
            if (j->child[i].pid > 0)
                waitpid(j->child[i].pid, NULL, 0);
        return rc;
    }
    return collect(j, ret, reterr);
}

int place_jobs_run(const struct place_problem *p, const struct place_search *s,
                   struct place_outcome *ret, struct mt_err *reterr)
{
    struct jobs j = {.problem = p, .search = s, .n = s->jobs, .began = now_ms()};
    size_t size = sizeof *j.shared + s->jobs * sizeof *j.shared->slot;
    int rc;

    j.child = calloc(s->jobs, sizeof *j.child);
    if (!j.child)
        return mt_error(reterr, MT_ENOMEM, "out of memory");
    j.shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (j.shared == MAP_FAILED) {
        free(j.child);
        return mt_error(reterr, MT_ENOMEM, "no memory to share with %u processes", s->jobs);
    }
    for (uint32_t i = 0; i < s->jobs; i++) {
        j.child[i].fd = -1;
        buf_init(&j.child[i].got, MAX_RESULT);
    }
    rc = run_children(&j, ret, reterr);
    for (uint32_t i = 0; i < s->jobs; i++)
        buf_done(&j.child[i].got);
    munmap(j.shared, size);
    free(j.child);
    return rc;
}
