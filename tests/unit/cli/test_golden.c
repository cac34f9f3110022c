/* Golden files: read as written, refused by name where they do not fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/golden.h"

static char path[] = "/tmp/test-golden-XXXXXX";

static int set_up(void **state)
{
    int fd = mkstemp(path);

    (void)state;
    return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(path);
}

/* A safetensors file of this header and zeros, with `first` as its first value. */
static int read_file(const char *header, size_t data, int32_t first, struct golden *ret,
                     struct mt_err *reterr)
{
    uint64_t n = strlen(header);
    FILE *out = fopen(path, "wb");

    assert_non_null(out);
    fwrite(&n, sizeof n, 1, out);
    fwrite(header, n, 1, out);
    for (size_t i = 0; i < data / sizeof first; i++) {
        fwrite(&first, sizeof first, 1, out);
        first = 0;
    }
    fclose(out);
    return golden_read(path, 3, ret, reterr);
}

#define TENSOR(name, dtype, shape, from, to) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" #from "," #to \
    "]}"
#define PROMPT TENSOR("prompt_0", "I32", "2", 0, 8)
#define LOGITS TENSOR("logits_0", "F32", "2,3", 8, 32)
#define GREEDY TENSOR("greedy_0", "I32", "1", 32, 36)

static void test_read(void **state)
{
    struct golden g;
    struct mt_err err;

    (void)state;
    if (read_file("{" PROMPT "," LOGITS "," GREEDY "}", 36, 2, &g, &err))
        fail_msg("%s", err.text);
    assert_int_equal(g.n, 1);
    assert_int_equal(g.prompt[0].n, 2);
    assert_int_equal(g.prompt[0].n_greedy, 1);
    assert_int_equal(g.prompt[0].tokens[0], 2);
    assert_int_equal(g.prompt[0].tokens[1], 0);
    assert_int_equal(g.prompt[0].greedy[0], 0);
    golden_done(&g);
    golden_done(NULL);
}

static void test_refused(void **state)
{
    static const struct {
        const char *header, *error;
        size_t data;
        int32_t first;
        int status;
    } CASES[] = {
        {"{" GREEDY "}", "expected tensor prompt_0, found none", 36, 0, MT_ENOTFOUND},
        {"{" PROMPT "," LOGITS "}", "greedy_0", 32, 0, MT_ENOTFOUND},
        {"{" PROMPT "," GREEDY "}", "logits_0", 36, 0, MT_ENOTFOUND},
        {"{" PROMPT "," LOGITS "," GREEDY "}",
         "tensor prompt_0[0]: expected a token id below 3, found 3", 36, 3, MT_EINVAL},
        {"{" PROMPT "," LOGITS "," GREEDY "}", "found -1", 36, -1, MT_EINVAL},
        {"{" TENSOR("prompt_0", "F32", "2", 0, 8) "," LOGITS "," GREEDY "}", "prompt_0", 36, 0,
         MT_EINVAL},
        {"{" TENSOR("prompt_0", "I32", "1", 0, 4) "," LOGITS "," GREEDY "}", "logits_0", 36, 0,
         MT_EINVAL},
        {"{" TENSOR("prompt_0", "I32", "0", 0, 0) "," LOGITS "," GREEDY "}", "found 0 of them", 36,
         0, MT_EINVAL},
        {"{" TENSOR("prompt_0", "I32", "1,2", 0, 8) "," LOGITS "," GREEDY "}", "prompt_0", 36, 0,
         MT_EINVAL},
    };
    struct golden g = {.n = 77};
    struct mt_err err;

    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        int rc = read_file(CASES[i].header, CASES[i].data, CASES[i].first, &g, &err);

        if (rc != CASES[i].status || !strstr(err.text, CASES[i].error) || !strstr(err.text, path))
            fail_msg("case %zu: expected %d \"%s\", found %d \"%s\"", i, CASES[i].status,
                     CASES[i].error, rc, rc ? err.text : "");
        assert_int_equal(g.n, 77); /* untouched */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
