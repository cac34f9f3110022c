/* What a rank accepts of the daemon's orders, and that what it refuses changes nothing outside its
 * tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/sequences.h"

struct fixture {
    struct sequences s;
    struct wire_step step;
    struct mt_err err;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    *state = f;
    return f ? sequences_open(&f->s, 1, 2, 8, 100, 50, &f->err) : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    sequences_close(&f->s);
    wire_step_done(&f->step);
    free(f);
    return 0;
}

static void begin(struct fixture *f)
{
    assert_int_equal(wire_step_begin(&f->step, 1, 0, 2), 0);
}

static int apply(struct fixture *f)
{
    return sequences_apply(&f->s, &f->step, &f->err);
}

static void admit(struct fixture *f, uint32_t seq, uint32_t home)
{
    struct wire_admit a = {.seq = seq, .home = home, .top_p = 1};

    assert_int_equal(wire_step_admit(&f->step, &a), 0);
}

static void run(struct fixture *f, uint32_t seq, uint32_t pos, uint32_t n, uint32_t flags,
                int32_t token, uint32_t n_blocks, uint32_t first_block)
{
    int32_t tokens[64];
    uint32_t blocks[16];
    struct wire_run r = {.seq = seq,
                         .pos = pos,
                         .n_tokens = n,
                         .flags = flags,
                         .n_logprobs = -1,
                         .n_blocks = n_blocks};

    for (int i = 0; i < 64; i++)
        tokens[i] = token;
    for (uint32_t i = 0; i < 16; i++)
        blocks[i] = first_block + i;
    assert_int_equal(wire_step_run(&f->step, 1, &r, tokens, blocks), 0);
}

static void refused(struct fixture *f, const char *word)
{
    assert_int_equal(apply(f), MT_EPROTO);
    assert_non_null(strstr(f->err.text, word));
}

static void test_admit_run_free(void **state)
{
    struct fixture *f = *state;

    begin(f);
    admit(f, 5, 1);
    admit(f, 6, 0); /* another rank's */
    run(f, 5, 0, 20, 0, 3, 2, 4);
    run(f, 6, 0, 20, 0, 3, 2, 100);
    assert_int_equal(apply(f), 0);
    assert_non_null(sequences_find(&f->s, 5));
    assert_null(sequences_find(&f->s, 6));
    assert_int_equal(sequences_find(&f->s, 5)->n_blocks, 2);
    assert_int_equal(sequences_find(&f->s, 5)->blocks[1], 5);
    begin(f);
    wire_step_free_seq(&f->step, 5);
    admit(f, 5, 1); /* its number may be used again at once */
    assert_int_equal(apply(f), 0);
    assert_int_equal(sequences_find(&f->s, 5)->n_blocks, 0);
}

static void test_refusals(void **state)
{
    struct fixture *f = *state;

    begin(f);
    admit(f, 1, 1);
    run(f, 1, 0, 16, 0, 3, 1, 0);
    assert_int_equal(apply(f), 0);
    begin(f);
    admit(f, 1, 1);
    refused(f, "lives already");
    begin(f);
    run(f, 1, 16, 1, 0, 3, 0, 0);
    refused(f, "position");
    begin(f);
    run(f, 1, 0, 1, 0, 50, 0, 0);
    refused(f, "vocabulary");
    begin(f);
    run(f, 1, 0, 1, 0, -1, 0, 0);
    refused(f, "vocabulary");
    begin(f);
    run(f, 1, 0, 1, WIRE_RUN_LAST, 0, 0, 0);
    refused(f, "sampled nothing");
    begin(f);
    run(f, 1, 0, 1, 0, 3, 1, 8);
    refused(f, "pool has 8");
    begin(f);
    admit(f, 2, 1);
    admit(f, 3, 1);
    refused(f, "2 sequences already");
}

static void test_sampling_parameters(void **state)
{
    struct fixture *f = *state;
    struct wire_admit bad[] = {
        {.seq = 1, .home = 1, .temperature = -1, .top_p = 1},
        {.seq = 1, .home = 1, .temperature = __builtin_nanf(""), .top_p = 1},
        {.seq = 1, .home = 1, .temperature = __builtin_inff(), .top_p = 1},
        {.seq = 1, .home = 1, .top_p = 0},
        {.seq = 1, .home = 1, .top_p = __builtin_nanf("")},
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        begin(f);
        assert_int_equal(wire_step_admit(&f->step, bad + i), 0);
        refused(f, "temperature");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_admit_run_free, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sampling_parameters, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
