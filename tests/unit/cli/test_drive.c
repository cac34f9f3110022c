/* Driving a job by hand, against the fake worker, which refuses every block, position or sequence
 * that is wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/drive.h"
#include "tests/fake/fake_model.h"

#define VOCAB 384

static struct drive *open_drive(uint32_t ranks, int stop_fd, struct mt_err *reterr)
{
    char self[400], worker[512];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    struct drive_options options = {.job = {.worker = worker,
                                            .model = "/nowhere",
                                            .backend = "cpu",
                                            .numerics = "exact",
                                            .ranks = ranks,
                                            .threads = 1,
                                            .step_tokens = 64,
                                            .max_seqs = 8,
                                            .start_ms = 20000},
                                    .stop_fd = stop_fd};
    struct drive *d = NULL;

    assert_true(n > 0);
    self[n] = 0;
    *strrchr(self, '/') = 0; /* build/unit/cli */
    snprintf(worker, sizeof worker, "%s/../../tests/fake/fake_worker", self);
    drive_open(&options, &d, reterr);
    return d;
}

#define OK(call) \
    do { \
        if (call) \
            fail_msg("%s", err.text); \
    } while (0)

/* Many short lives in a small pool: ids and blocks come back, and what is sampled is the model's.
 */
static void test_lives(void **state)
{
    static const struct wire_admit HOW = {.temperature = 0.5f, .top_p = 1, .seed = 5};
    static const int32_t PROMPT[] = {9, 8, 7, 6, 5};
    struct mt_err err;
    struct drive *d;

    (void)state;
    setenv("FAKE_KV_BLOCKS", "3", 1);
    setenv("FAKE_BLOCK_TOKENS", "4", 1);
    d = open_drive(2, -1, &err);
    assert_non_null(d);
    for (uint32_t round = 0; round < 40; round++) {
        const struct wire_result *r;
        int32_t token = 0;
        struct drive_seq *s;

        OK(drive_begin(d, &err));
        OK(drive_admit(d, round % 2, &HOW, &s, &err));
        OK(drive_run(d, s, PROMPT, 5, WIRE_RUN_SAMPLE, &err));
        OK(drive_send(d, &err));
        OK(drive_begin(d, &err));
        OK(drive_run(d, s, NULL, 1, WIRE_RUN_SAMPLE, &err));
        OK(drive_send(d, &err));
        token = fake_next(PROMPT[4], 4, &HOW, VOCAB);
        for (uint32_t i = 0; i < 2; i++) {
            OK(drive_wait(d, &r, &err));
            assert_non_null(drive_find(r, s));
            assert_int_equal(drive_find(r, s)->token, token);
            token = fake_next(token, 5 + i, &HOW, VOCAB);
        }
        OK(drive_begin(d, &err));
        assert_int_equal(drive_run(d, s, PROMPT, 5, 0, &err), 0);
        assert_int_equal(drive_run(d, s, PROMPT, 2, 0, &err), MT_ELIMIT); /* 13 of 12 tokens */
        OK(drive_begin(d, &err));
        OK(drive_end(d, s, &err));
        OK(drive_send(d, &err));
        OK(drive_wait(d, &r, &err));
        assert_int_equal(r->n_samples, 0);
    }
    drive_close(d);
    unsetenv("FAKE_KV_BLOCKS");
    unsetenv("FAKE_BLOCK_TOKENS");
}

static void test_failures(void **state)
{
    const struct wire_result *r;
    struct mt_err err = {0};
    struct drive *d;
    int fd[2];

    (void)state;
    setenv("FAKE_FAULT", "exit@0", 1);
    assert_null(open_drive(1, -1, &err));
    assert_non_null(strstr(err.text, "cannot go on: told so"));
    setenv("FAKE_FAULT", "fail@1", 1);
    d = open_drive(1, -1, &err);
    assert_non_null(d);
    OK(drive_begin(d, &err));
    OK(drive_send(d, &err));
    assert_int_equal(drive_wait(d, &r, &err), MT_EINTERNAL);
    assert_non_null(strstr(err.text, "told to fail"));
    assert_true(drive_send(d, &err) < 0);
    drive_close(d);
    setenv("FAKE_FAULT", "hang@1", 1);
    assert_int_equal(pipe(fd), 0);
    d = open_drive(1, fd[0], &err);
    assert_non_null(d);
    OK(drive_begin(d, &err));
    OK(drive_send(d, &err));
    assert_int_equal(write(fd[1], "x", 1), 1);
    assert_int_equal(drive_wait(d, &r, &err), MT_ECLOSED);
    assert_string_equal(err.text, "interrupted");
    close(fd[0]);
    close(fd[1]);
    drive_close(d);
    drive_close(NULL);
    unsetenv("FAKE_FAULT");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lives),
        cmocka_unit_test(test_failures),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
