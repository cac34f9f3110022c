/* The parts of moetuner place that are its own: processes that solve, files that appear whole,
 * command lines, figures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/file.h"
#include "cli/place.h"

/* --- processes -------------------------------------------------------------------------------- */

/* Two layers of four experts on two ranks with two slots each. */
static void make_problem(struct place_problem *p)
{
    memset(p, 0, sizeof *p);
    p->layers = 2;
    p->experts = 4;
    p->topk = 1;
    p->cluster.ranks = 2;
    p->cluster.nodes = 1;
    p->cluster.slots[0] = p->cluster.slots[1] = 2;
}

static int answer(const struct place_problem *p, double objective, double bound,
                  struct place_result *ret, struct mt_err *reterr)
{
    ret->objective = objective;
    ret->bound = bound;
    ret->no_bound = bound > 0 ? NULL : "none in this test";
    ret->iterations = 10;
    snprintf(ret->note, sizeof ret->note, "objective %g", objective);
    return plan_contiguous(p->layers, p->experts, p->cluster.ranks, &ret->plan, reterr);
}

/* Seed 12 is the best; a bound of 1. */
static int solve_seeds(const struct place_problem *p, const struct place_run *run,
                       struct place_result *ret, struct mt_err *reterr)
{
    return answer(p, run->seed == 12 ? 2 : 3 + (double)run->seed, 1, ret, reterr);
}

/* Seed 11 dies, and then nothing is proven. */
static int solve_dying(const struct place_problem *p, const struct place_run *run,
                       struct place_result *ret, struct mt_err *reterr)
{
    if (run->seed == 11)
        raise(SIGKILL);
    return answer(p, (double)run->seed, 0, ret, reterr);
}

static int solve_ending(const struct place_problem *p, const struct place_run *run,
                        struct place_result *ret, struct mt_err *reterr)
{
    (void)p;
    (void)run;
    (void)ret;
    (void)reterr;
    _exit(3);
}

static int solve_refusing(const struct place_problem *p, const struct place_run *run,
                          struct place_result *ret, struct mt_err *reterr)
{
    (void)p;
    (void)run;
    (void)ret;
    return mt_error(reterr, MT_EUNSUPPORTED, "not defined for this");
}

/* Goes on until it is told to stop; tells of a gap of 10 %. */
static int solve_until_stop(const struct place_problem *p, const struct place_run *run,
                            struct place_result *ret, struct mt_err *reterr)
{
    const struct place_progress now = {
        .stage = "search", .objective = 1.1, .bound = 1, .iterations = 5};

    run->progress(run->user, &now);
    if (run->spent && run->spent(run->user) > 0.9)
        return mt_error(reterr, MT_EINTERNAL, "expected most of the time to be left");
    while (!run->stop(run->user))
        continue;
    return answer(p, 1.1, 1, ret, reterr);
}

/* Seed 12 ends by itself, within 10 % of its bound; the others go on until they are stopped. */
static int solve_one_proves(const struct place_problem *p, const struct place_run *run,
                            struct place_result *ret, struct mt_err *reterr)
{
    if (run->seed != 12)
        return solve_until_stop(p, run, ret, reterr);
    return answer(p, 1.09, 1, ret, reterr);
}

/* More copies than there are slots: every expert everywhere. */
static int solve_too_much(const struct place_problem *p, const struct place_run *run,
                          struct place_result *ret, struct mt_err *reterr)
{
    uint8_t held[16];

    (void)run;
    memset(held, 1, sizeof held);
    ret->objective = 1;
    ret->no_bound = "none";
    return plan_from_held(p->layers, p->experts, p->cluster.ranks, held, &ret->plan, reterr);
}

static int run(int (*solve)(const struct place_problem *, const struct place_run *,
                            struct place_result *, struct mt_err *),
               uint32_t jobs, int64_t time_ms, double gap, int stop_fd, struct place_outcome *ret,
               struct mt_err *reterr)
{
    const struct place_method method = {"test", "", solve};
    const struct place_search search = {.method = &method,
                                        .seed = 10,
                                        .gap = gap,
                                        .time_ms = time_ms,
                                        .jobs = jobs,
                                        .stop_fd = stop_fd};
    struct place_problem p;

    make_problem(&p);
    return place_jobs_run(&p, &search, ret, reterr);
}

static void test_best_seed_wins(void **state)
{
    struct place_outcome o;
    struct mt_err err;

    (void)state;
    assert_int_equal(run(solve_seeds, 5, 0, 0, -1, &o, &err), 0);
    assert_int_equal(o.seed, 12);
    assert_true(o.objective == 2 && o.bound == 1);
    assert_string_equal(o.no_bound, "");
    assert_string_equal(o.note, "objective 2");
    assert_int_equal(o.iterations, 50);
    assert_int_equal(o.lost, 0);
    assert_false(o.interrupted);
    assert_int_equal(o.plan.start[8], 8);
    plan_done(&o.plan);
}

static void test_dead_process_costs_its_seed(void **state)
{
    struct place_outcome o;
    struct mt_err err;

    (void)state;
    assert_int_equal(run(solve_dying, 3, 0, 0, -1, &o, &err), 0);
    assert_int_equal(o.seed, 10);
    assert_int_equal(o.lost, 1);
    assert_non_null(strstr(o.lost_text, "seed 11: killed by signal 9"));
    assert_string_equal(o.no_bound, "none in this test");
    plan_done(&o.plan);
}

static void test_no_plan_is_an_error(void **state)
{
    struct place_outcome o;
    struct mt_err err;

    (void)state;
    assert_int_equal(run(solve_ending, 2, 0, 0, -1, &o, &err), MT_ECLOSED);
    assert_non_null(strstr(err.text, "exit status 3"));
    assert_int_equal(run(solve_refusing, 2, 0, 0, -1, &o, &err), MT_EUNSUPPORTED);
    assert_string_equal(err.text, "not defined for this");
    assert_int_equal(run(solve_too_much, 1, 0, 0, -1, &o, &err), MT_EINVAL);
}

static void test_ends_by_time_and_gap(void **state)
{
    struct place_outcome o;
    struct mt_err err;

    (void)state;
    assert_int_equal(run(solve_until_stop, 2, 300, 0, -1, &o, &err), 0);
    plan_done(&o.plan);
    assert_int_equal(run(solve_one_proves, 3, 0, 0.2, -1, &o, &err), 0);
    assert_int_equal(o.seed, 12);
    assert_false(o.interrupted);
    plan_done(&o.plan);
}

/* --- files ------------------------------------------------------------------------------------ */

static void test_output_is_whole_or_not_there(void **state)
{
    char folder[] = "/tmp/test_place-XXXXXX", path[64], *bytes;
    struct place_output o;
    struct stat st;
    struct mt_err err;
    size_t len;

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);
    assert_int_equal(place_output_open(path, &o, &err), 0);
    fputs("first", o.file);
    assert_int_equal(stat(path, &st), -1);
    assert_int_equal(place_output_commit(&o, &err), 0);
    place_output_drop(&o);
    assert_int_equal(place_output_open(path, &o, &err), 0);
    fputs("second", o.file);
    place_output_drop(&o);
    assert_int_equal(file_read(path, 100, &bytes, &len, &err), 0);
    assert_string_equal(bytes, "first");
    free(bytes);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0); /* nothing else is left there */
    assert_int_equal(place_output_open(path, &o, &err), MT_EIO);
    assert_int_equal(place_output_open("/tmp", &o, &err), MT_EINVAL);
    assert_int_equal(place_output_open("/dev/full", &o, &err), 0);
    fputs("lost", o.file);
    assert_int_equal(place_output_commit(&o, &err), MT_EIO);
    place_output_drop(&o);
}

/* --- command lines ---------------------------------------------------------------------------- */

struct config {
    struct place_input in;
    char *output;
    bool help;
};

static const struct option OPTIONS[] = {
    PLACE_ROW_TRACE(struct config),
    PLACE_ROWS_PROBLEM(struct config),
    {"output", OPTION_TEXT, offsetof(struct config, output), NULL, 0, 0, NULL, NULL, "", ""},
    PLACE_ROW_HELP(struct config),
    {0},
};

static void test_lists_of_traces(void **state)
{
    char *argv[] = {"solve",     "--trace", "a", "b",       "--cluster", "c",
                    "--trace=d", "-o",      "p", "--trace", "e",         NULL};
    struct place_args args;
    struct config c;
    struct mt_err err;

    (void)state;
    assert_int_equal(place_args_read(11, argv, OPTIONS, &c, &args, &err), 0);
    assert_int_equal(args.traces, 4);
    assert_string_equal(args.trace[1], "b");
    assert_string_equal(args.trace[2], "d");
    assert_string_equal(args.trace[3], "e");
    assert_string_equal(c.output, "p");
    assert_string_equal(c.in.cluster, "c");
    place_args_done(&args);
    option_done(OPTIONS, &c);
}

static void test_lists_that_are_refused(void **state)
{
    char *many[PLACE_MAX_SOURCES + 4] = {"solve", "--trace"};
    char *none[] = {"solve", "--trace", "--help", NULL};
    char *word[] = {"solve", "--help", "word", NULL};
    struct place_args args;
    struct config c;
    struct mt_err err;

    (void)state;
    for (int i = 2; i < PLACE_MAX_SOURCES + 3; i++)
        many[i] = "a";
    assert_int_equal(place_args_read(PLACE_MAX_SOURCES + 3, many, OPTIONS, &c, &args, &err),
                     MT_ELIMIT);
    place_args_done(&args);
    option_done(OPTIONS, &c);
    assert_int_equal(place_args_read(3, none, OPTIONS, &c, &args, &err), MT_EINVAL);
    place_args_done(&args);
    option_done(OPTIONS, &c);
    assert_int_equal(place_args_read(3, word, OPTIONS, &c, &args, &err), MT_EINVAL);
    place_args_done(&args);
    option_done(OPTIONS, &c);
}

/* --- figures ---------------------------------------------------------------------------------- */

static void test_figures(void **state)
{
    char text[32];

    (void)state;
    place_seconds_print(2.5e-7, text, sizeof text);
    assert_string_equal(text, "250 ns");
    place_seconds_print(0, text, sizeof text);
    assert_string_equal(text, "0 ns");
    place_seconds_print(61, text, sizeof text);
    assert_string_equal(text, "61 s");
    place_gap_print(1.05, 1, false, text, sizeof text);
    assert_string_equal(text, "5.00 %");
    place_gap_print(1, 0, false, text, sizeof text);
    assert_string_equal(text, "-");
    place_gap_print(1, 0, true, text, sizeof text);
    assert_string_equal(text, "own");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best_seed_wins),
        cmocka_unit_test(test_dead_process_costs_its_seed),
        cmocka_unit_test(test_no_plan_is_an_error),
        cmocka_unit_test(test_ends_by_time_and_gap),
        cmocka_unit_test(test_output_is_whole_or_not_there),
        cmocka_unit_test(test_lists_of_traces),
        cmocka_unit_test(test_lists_that_are_refused),
        cmocka_unit_test(test_figures),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
