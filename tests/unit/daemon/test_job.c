/* The worker-job library against the fake worker, alone and under the real mpirun. Whatever a test
 * does to its job, no process, directory, socket or segment may be left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/log.h"
#include "daemon/job.h"
#include "tests/fake/fake_model.h"

#define VOCAB 384
#define PATIENCE_MS 20000

struct world {
    char base[64]; /* TMPDIR of the job */
    char pids[64];
    char worker[512];
    struct job_options options;
    struct job *job;
    struct wire_step step;
    uint32_t logs;          /* JOB_LOG events seen by await */
    char said[MT_ERR_TEXT]; /* the last of them without a rank */
};

static const char *const ENVIRONMENT[] = {"FAKE_FAULT", "FAKE_ONLY", "FAKE_LOAD_MS", "FAKE_STEP_MS",
                                          "FAKE_SAY"};

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    ssize_t n;

    assert_non_null(w);
    for (size_t i = 0; i < sizeof ENVIRONMENT / sizeof *ENVIRONMENT; i++)
        unsetenv(ENVIRONMENT[i]);
    strcpy(w->base, "/tmp/test-job-XXXXXX");
    strcpy(w->pids, "/tmp/test-job-pids-XXXXXX");
    assert_non_null(mkdtemp(w->base));
    assert_non_null(mkdtemp(w->pids));
    setenv("TMPDIR", w->base, 1);
    setenv("FAKE_PIDS", w->pids, 1);
    n = readlink("/proc/self/exe", w->worker, 400);
    assert_true(n > 0);
    w->worker[n] = 0;
    *strrchr(w->worker, '/') = 0; /* build/unit/daemon */
    strcat(w->worker, "/../../tests/fake/fake_worker");
    w->options = (struct job_options){.worker = w->worker,
                                      .model = "/nowhere",
                                      .backend = "cpu",
                                      .numerics = "exact",
                                      .ranks = 2,
                                      .threads = 1,
                                      .step_tokens = 64,
                                      .max_seqs = 8,
                                      .start_ms = PATIENCE_MS};
    *state = w;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static uint32_t entries(const char *path)
{
    DIR *d = opendir(path);
    uint32_t n = 0;

    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* The pid that a rank wrote; its segment directory too, if asked. 0: it wrote none. */
static pid_t rank_pid(const struct world *w, uint32_t rank, char segments[256])
{
    char path[128];
    long pid = 0;
    char text[256] = "";
    FILE *f;

    snprintf(path, sizeof path, "%s/%u", w->pids, rank);
    f = fopen(path, "r");
    if (!f)
        return 0;
    if (fscanf(f, "%ld\n%255s", &pid, text) < 1)
        pid = 0;
    fclose(f);
    if (segments)
        memcpy(segments, text, sizeof text);
    return (pid_t)pid;
}

static bool alive(pid_t pid)
{
    char path[64], status[512];
    ssize_t n;
    int fd;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    fd = open(path, O_RDONLY);
    if (fd < 0)
        return false;
    n = read(fd, status, sizeof status - 1);
    close(fd);
    status[n > 0 ? n : 0] = 0;
    return n > 0 && !strstr(status, ") Z ") && !strstr(status, ") X ");
}

static pid_t parent_of(pid_t pid)
{
    char path[64];
    int parent = 0;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*d (%*[^)]) %*c %d", &parent), 1);
    fclose(f);
    return parent;
}

/* No process, file, directory or segment is left. */
static void assert_nothing_left(const struct world *w)
{
    char segments[256];

    for (uint32_t r = 0; r < 8; r++) {
        pid_t pid = rank_pid(w, r, segments);

        if (!pid)
            continue;
        assert_false(alive(pid));
        if (segments[0] == '/')
            assert_int_equal(access(segments, F_OK), -1);
    }
    assert_int_equal(entries(w->base), 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

static int tear_down(void **state)
{
    struct world *w = *state;

    job_free(w->job);
    assert_nothing_left(w);
    wire_step_done(&w->step);
    nftw(w->base, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    nftw(w->pids, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(w);
    return 0;
}

static void launch(struct world *w)
{
    struct mt_err err = {0};

    if (!w->job && job_new(&w->options, &w->job, &err))
        fail_msg("%s", err.text);
    if (job_launch(w->job, &err))
        fail_msg("%s", err.text);
}

/* The next event that is neither a log line nor nothing. */
static struct job_event await(struct world *w)
{
    struct job_event e;

    do {
        job_next(w->job, PATIENCE_MS, -1, &e);
        if (e.type == JOB_LOG) {
            w->logs++;
            if (e.rank == UINT32_MAX)
                strcpy(w->said, e.err.text);
        }
    } while (e.type == JOB_LOG);
    return e;
}

static void expect(struct world *w, enum job_event_type type)
{
    struct job_event e = await(w);

    if (e.type == JOB_DIED && type != JOB_DIED)
        fail_msg("died: %s", e.err.text);
    assert_int_equal(e.type, type);
}

/* Sends step n: sequence 5 appears with step 1 on the last rank, and goes on with what it sampled
 * last. */
static int send_step(struct world *w, uint64_t n, struct mt_err *reterr)
{
    static const int32_t PROMPT[] = {3, 7, 250};
    const uint32_t home = job_ranks(w->job) - 1, block = 9;
    const struct wire_admit admit = {.seq = 5, .home = home};
    struct wire_run run = {
        .seq = 5, .n_tokens = 1, .flags = WIRE_RUN_SAMPLE | WIRE_RUN_LAST, .n_logprobs = -1};
    int rc = wire_step_begin(&w->step, n, job_epoch(w->job), job_ranks(w->job));

    run.pos = (uint32_t)n + 1;
    if (n == 1) {
        rc |= wire_step_admit(&w->step, &admit);
        run.pos = 0;
        run.n_tokens = 3;
        run.flags = WIRE_RUN_SAMPLE;
        run.n_blocks = 1;
    }
    rc |= wire_step_run(&w->step, home, &run, PROMPT, &block);
    assert_int_equal(rc, 0);
    return job_send_step(w->job, &w->step, reterr);
}

static void send_ok(struct world *w, uint64_t n)
{
    struct mt_err err;

    if (send_step(w, n, &err))
        fail_msg("%s", err.text);
}

/* What the fake must have sampled in step n of send_step. */
static int32_t sampled(uint64_t n)
{
    const struct wire_admit greedy = {0};
    int32_t token = fake_next(250, 2, &greedy, VOCAB);

    for (uint64_t i = 2; i <= n; i++)
        token = fake_next(token, (uint32_t)i + 1, &greedy, VOCAB);
    return token;
}

static void expect_result(struct world *w, uint64_t n)
{
    const struct wire_result *r;

    expect(w, JOB_RESULT);
    r = job_result(w->job);
    assert_int_equal(r->step, n);
    assert_int_equal(r->n_samples, 1);
    assert_int_equal(r->samples[0].seq, 5);
    assert_int_equal(r->samples[0].token, sampled(n));
}

/* --- a job that works --- */

static void serve(struct world *w, uint32_t ranks)
{
    struct mt_err err;

    w->options.ranks = ranks;
    launch(w);
    assert_int_equal(job_incarnation(w->job), 1);
    expect(w, JOB_READY);
    assert_int_equal(job_facts(w->job)->vocab, VOCAB);
    for (uint32_t r = 0; r < ranks; r++)
        assert_int_equal(job_ready(w->job, r)->rank, r);
    assert_int_equal(job_plan(w->job)->ranks, ranks);
    send_ok(w, 1);
    send_ok(w, 2); /* one ahead, with a token that is not known here yet */
    assert_int_equal(job_unanswered(w->job), 2);
    assert_int_equal(send_step(w, 3, &err), MT_ELIMIT);
    expect_result(w, 1);
    assert_int_equal(send_step(w, 4, &err), MT_EINVAL); /* 3 is next */
    for (uint64_t n = 3; n <= 14; n++) {
        send_ok(w, n);
        expect_result(w, n - 1);
    }
    expect_result(w, 14);
    assert_int_equal(job_unanswered(w->job), 0);
    job_stop(w->job, PATIENCE_MS);
    assert_false(job_running(w->job));
    assert_nothing_left(w);
}

static void test_serves_alone(void **state)
{
    serve(*state, 1);
}

static void test_serves_under_mpirun(void **state)
{
    serve(*state, 3);
}

static void test_wake_and_timeout(void **state)
{
    struct world *w = *state;
    struct job_event e;
    int fd[2];

    w->options.ranks = 1;
    launch(w);
    expect(w, JOB_READY);
    assert_int_equal(pipe(fd), 0);
    do
        job_next(w->job, 50, fd[0], &e);
    while (e.type == JOB_LOG);
    assert_int_equal(e.type, JOB_NONE);
    assert_int_equal(write(fd[1], "x", 1), 1);
    job_next(w->job, -1, fd[0], &e); /* would wait for ever */
    assert_int_equal(e.type, JOB_NONE);
    job_stop(w->job, 0);
    job_next(w->job, -1, fd[0], &e); /* also without a job */
    assert_int_equal(e.type, JOB_NONE);
    close(fd[0]);
    close(fd[1]);
}

static void test_plan_given(void **state)
{
    static const char TEXT[] =
        "{\"layers\":1,\"experts\":2,\"ranks\":3,\"copies\":[[[1,2,0],[0]]]}";
    struct world *w = *state;
    struct plan plan;
    struct mt_err err;

    setenv("FAKE_LAYERS", "1", 1);
    setenv("FAKE_EXPERTS", "2", 1);
    assert_int_equal(plan_parse(TEXT, strlen(TEXT), "plan", &plan, &err), 0);
    w->options.ranks = 3;
    w->options.plan = &plan;
    launch(w);
    expect(w, JOB_READY); /* the fake refuses a map that breaks the wire's order */
    assert_ptr_equal(job_plan(w->job), &plan);
    job_free(w->job);
    w->job = NULL;
    unsetenv("FAKE_LAYERS");
    unsetenv("FAKE_EXPERTS");
    launch(w); /* now the model is another */
    expect(w, JOB_DIED);
    assert_nothing_left(w);
    job_free(w->job);
    w->job = NULL;
    plan_done(&plan);
}

/* --- faults --- */

struct fault_case {
    const char *fault;
    uint32_t ranks, blame;
    int status;
    const char *text; /* in the reason */
};

/* The job of incarnation 1 dies as told; that of 2 works. */
static void die_and_return(struct world *w, const struct fault_case *c)
{
    struct job_event e;
    struct mt_err err;
    uint64_t n = 1;

    print_message("%s with %u ranks\n", c->fault, c->ranks);
    setenv("FAKE_FAULT", c->fault, 1);
    setenv("FAKE_ONLY", "1", 1);
    w->options.ranks = c->ranks;
    launch(w);
    e = await(w);
    for (; e.type != JOB_DIED && n < 10; n++) {
        if (send_step(w, n, &err) == 0)
            e = await(w);
        else
            assert_int_equal(err.status, MT_ECLOSED);
    }
    if (e.type != JOB_DIED) /* rank 0 was faster than the end of another */
        e = await(w);
    assert_int_equal(e.type, JOB_DIED);
    if (e.err.status != c->status || !strstr(e.err.text, c->text) || e.rank != c->blame)
        fail_msg("expected %d \"%s\" of rank %u, found %d \"%s\" of %u", c->status, c->text,
                 c->blame, e.err.status, e.err.text, e.rank);
    assert_false(job_running(w->job));
    assert_nothing_left(w);
    launch(w);
    assert_int_equal(job_incarnation(w->job), 2);
    expect(w, JOB_READY);
    send_ok(w, 1);
    expect_result(w, 1);
    job_free(w->job);
    w->job = NULL;
    assert_nothing_left(w);
}

static void test_faults(void **state)
{
    static const struct fault_case CASES[] = {
        {"kill@2", 1, 0, MT_ECLOSED, "the worker was ended by signal 9"},
        {"kill@2", 2, 0, MT_ECLOSED, "mpirun exited with 137"},
        {"kill@1:1", 2, 1, MT_ECLOSED, "rank 1 closed its connection"},
        {"exit@3", 1, 0, MT_ECLOSED, "cannot go on: told so"},
        {"exit@3", 2, 0, MT_ECLOSED, "cannot go on: told so"},
        {"fail@3", 1, 0, MT_EINTERNAL, "rank 0: layer 3: told to fail"},
        {"fail@1:1", 2, 1, MT_EINTERNAL, "rank 1: layer 3: told to fail"},
        {"garbage@2", 2, 0, MT_EPROTO, "rank 0: frame header: expected magic"},
        {"garbage@1:1", 2, 1, MT_EPROTO, "rank 1: frame header: expected magic"},
        {"wrong@2", 1, 0, MT_EPROTO, "expected step 2 of 1 ranks (2 sent), found 3"},
        {"exit@0", 1, UINT32_MAX, MT_ECLOSED, "the worker exited with 1: fake_worker: cannot"},
        {"exit@0:1", 2, UINT32_MAX, MT_ECLOSED, "fake_worker: cannot go on"},
        {"unread@0", 1, 0, MT_EPROTO, "rank 0: config.json: told to be unreadable"},
        {"kill@0:1", 2, UINT32_MAX, MT_ECLOSED, "signal 9"},
    };

    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        die_and_return(*state, &CASES[i]);
}

static void test_hangs(void **state)
{
    static const struct fault_case SILENT[] = {
        {"stop@2", 1, 0, MT_ETIMEOUT, "rank 0 has been silent"},
        {"stop@1:1", 2, 1, MT_ETIMEOUT, "rank 1 has been silent"},
    };
    static const struct fault_case STUCK = {"hang@2", 2, UINT32_MAX, MT_ETIMEOUT,
                                            "step 2 has not moved"};
    struct world *w = *state;

    w->options.silence_ms = 1500;
    for (size_t i = 0; i < sizeof SILENT / sizeof *SILENT; i++) {
        setenv("FAKE_STEP_MS", "500", 1); /* so that the stop comes before the step's answer */
        die_and_return(w, &SILENT[i]);
    }
    w->options.silence_ms = 0;
    w->options.step_ms = 700;
    unsetenv("FAKE_STEP_MS");
    die_and_return(w, &STUCK);
}

/* A slow step that moves is no hang. */
static void test_slow_is_not_stuck(void **state)
{
    struct world *w = *state;

    setenv("FAKE_STEP_MS", "1500", 1);
    w->options.ranks = 1;
    w->options.step_ms = 600;
    w->options.silence_ms = 600;
    launch(w);
    expect(w, JOB_READY);
    send_ok(w, 1);
    expect_result(w, 1);
}

/* Nor is a job whose owner did not look for a while. */
static void test_owner_slept(void **state)
{
    struct world *w = *state;

    w->options.ranks = 1;
    w->options.silence_ms = 500;
    launch(w);
    expect(w, JOB_READY);
    poll(NULL, 0, 1200);
    send_ok(w, 1);
    expect_result(w, 1);
}

static void test_start_timeout(void **state)
{
    struct world *w = *state;
    struct job_event e;

    setenv("FAKE_LOAD_MS", "60000", 1);
    setenv("FAKE_FAULT", "faint@0:1", 1); /* one that loads is missed like one that runs */
    w->options.silence_ms = 1200;
    for (int i = 0; i < 2; i++) {
        w->options.start_ms = i ? 60000 : 600;
        launch(w);
        e = await(w);
        assert_int_equal(e.err.status, MT_ETIMEOUT);
        assert_non_null(strstr(e.err.text, i ? "rank 1 has been silent" : "not ready after"));
        job_free(w->job), w->job = NULL;
    }
}

static void test_stale_frames_are_dropped(void **state)
{
    struct world *w = *state;

    setenv("FAKE_FAULT", "stale@2", 1);
    launch(w);
    expect(w, JOB_READY);
    for (uint64_t n = 1; n <= 3; n++) {
        send_ok(w, n);
        expect_result(w, n);
    }
}

static void test_strangers_are_dropped(void **state)
{
    static const char *const FAULTS[] = {"token@0", "mute@0"};
    struct world *w = *state;

    for (size_t i = 0; i < 2; i++) {
        setenv("FAKE_FAULT", FAULTS[i], 1);
        launch(w);
        expect(w, JOB_READY);
        send_ok(w, 1);
        expect_result(w, 1);
        job_stop(w->job, PATIENCE_MS);
    }
}

static void test_output_becomes_lines(void **state)
{
    struct world *w = *state;

    setenv("FAKE_FAULT", "flood@1", 1);
    setenv("FAKE_SAY", "hello\tthere", 1);
    w->options.ranks = 1;
    launch(w);
    expect(w, JOB_READY);
    assert_string_equal(w->said, "hello there");
    send_ok(w, 1);
    expect_result(w, 1);
    while (w->logs <
           (1 << 20) / 128 + 2) { /* what is left of the flood, the greeting, one LOG frame */
        struct job_event e;

        job_next(w->job, PATIENCE_MS, -1, &e);
        assert_int_equal(e.type, JOB_LOG);
        w->logs++;
        if (e.rank == UINT32_MAX)
            assert_int_equal(strlen(e.err.text), 127);
    }
}

static void test_launch_fails(void **state)
{
    struct world *w = *state;
    struct mt_err err = {0};

    w->options.worker = "/nowhere/moetuner-worker";
    assert_int_equal(job_new(&w->options, &w->job, &err), 0);
    assert_int_equal(job_launch(w->job, &err), MT_ENOTFOUND);
    assert_non_null(strstr(err.text, "/nowhere/moetuner-worker: No such file"));
    job_free(w->job);
    w->options.worker = w->worker;
    w->options.mpirun = "no-such-mpirun";
    assert_int_equal(job_new(&w->options, &w->job, &err), 0);
    assert_int_equal(job_launch(w->job, &err), MT_ENOTFOUND);
    assert_non_null(strstr(err.text, "no-such-mpirun: not found in PATH"));
    job_free(w->job);
    w->options.mpirun = "/etc/passwd";
    assert_int_equal(job_new(&w->options, &w->job, &err), 0);
    assert_true(job_launch(w->job, &err) < 0);
    job_free(w->job);
    w->job = NULL;
    w->options.ranks = 0;
    assert_int_equal(job_new(&w->options, &w->job, &err), MT_EINVAL);
    assert_null(w->job);
}

/* --- what is left --- */

static void touch_segment(const struct world *w)
{
    char path[300], segments[256];
    int fd;

    assert_true(rank_pid(w, 0, segments) > 0);
    assert_int_equal(segments[0], '/');
    snprintf(path, sizeof path, "%s/vader_segment.left", segments);
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static void test_mpirun_killed(void **state)
{
    struct world *w = *state;
    struct job_event e;

    launch(w);
    expect(w, JOB_READY);
    touch_segment(w);
    assert_int_equal(kill(parent_of(rank_pid(w, 0, NULL)), SIGKILL), 0);
    e = await(w);
    assert_int_equal(e.type, JOB_DIED);
    assert_non_null(strstr(e.err.text, "mpirun was ended by signal 9"));
    assert_nothing_left(w);
}

static void test_stop_while_starting(void **state)
{
    struct world *w = *state;
    struct job_event e;

    setenv("FAKE_LOAD_MS", "60000", 1);
    launch(w);
    while (!rank_pid(w, 1, NULL))
        job_next(w->job, 10, -1, &e);
    job_stop(w->job, PATIENCE_MS); /* nobody would answer: must not wait for it */
    assert_nothing_left(w);
}

/* A hung rank does not answer SHUTDOWN: the stop is bounded all the same. */
static void test_stop_when_hung(void **state)
{
    struct world *w = *state;

    setenv("FAKE_FAULT", "stop@1", 1);
    launch(w);
    expect(w, JOB_READY);
    send_ok(w, 1);
    job_stop(w->job, 300);
    assert_nothing_left(w);
}

/* The process that owns a job is killed: its processes die with it; its directories are removed by
 * the next one when they are old enough. */
static void test_owner_killed(void **state)
{
    struct world *w = *state;
    char segments[256], path[400];
    pid_t owner = fork(), rank[2];
    int status;
    DIR *d;

    assert_true(owner >= 0);
    if (!owner) {
        struct job_event e;

        launch(w);
        for (;;)
            job_next(w->job, -1, -1, &e);
    }
    for (uint32_t r = 0; r < 2; r++)
        while (!(rank[r] = rank_pid(w, r, segments)))
            poll(NULL, 0, 10);
    touch_segment(w);
    kill(owner, SIGKILL);
    assert_int_equal(waitpid(owner, &status, 0), owner);
    for (uint32_t r = 0; r < 2; r++)
        while (alive(rank[r]))
            poll(NULL, 0, 10);
    assert_int_equal(entries(w->base), 1);
    d = opendir(w->base);
    for (const struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.') {
            const struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};

            snprintf(path, sizeof path, "%s/%s", w->base, e->d_name);
            assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
            assert_int_equal(utimensat(AT_FDCWD, segments, old, 0), 0);
        }
    closedir(d);
    w->options.ranks = 1;
    launch(w);
    expect(w, JOB_READY);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(access(segments, F_OK), -1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(serves_alone),
        TEST(serves_under_mpirun),
        TEST(wake_and_timeout),
        TEST(plan_given),
        TEST(faults),
        TEST(hangs),
        TEST(slow_is_not_stuck),
        TEST(owner_slept),
        TEST(start_timeout),
        TEST(stale_frames_are_dropped),
        TEST(strangers_are_dropped),
        TEST(output_becomes_lines),
        TEST(launch_fails),
        TEST(mpirun_killed),
        TEST(stop_while_starting),
        TEST(stop_when_hung),
        TEST(owner_killed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
