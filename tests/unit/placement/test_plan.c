/* Placement files: what is written is read back, and everything wrong is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "placement/plan.h"

static uint64_t state = 42;

static uint32_t below(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

/* A random valid plan; held[layer][rank] counts copies, as an oracle of plan_slots. */
static struct plan random_plan(uint32_t **ret_held)
{
    struct plan p = {.layers = 1 + below(6), .experts = 1 + below(20), .ranks = 1 + below(9)};
    size_t pairs = (size_t)p.layers * p.experts;
    uint32_t n = 0;

    p.start = calloc(pairs + 1, sizeof *p.start);
    p.rank = calloc(pairs * p.ranks, sizeof *p.rank);
    *ret_held = calloc((size_t)p.layers * p.ranks, sizeof **ret_held);
    for (size_t i = 0; i < pairs; i++) {
        uint32_t copies = 1 + below(p.ranks), at = below(p.ranks);

        for (uint32_t k = 0; k < copies; k++, at = (at + 1) % p.ranks) {
            p.rank[n++] = (uint16_t)at;
            (*ret_held)[i / p.experts * p.ranks + at]++;
        }
        p.start[i + 1] = n;
    }
    return p;
}

/* Fractions of 1/64, or an even split. */
static void random_shares(struct plan *p)
{
    size_t pairs = (size_t)p->layers * p->experts;

    p->share = calloc((size_t)p->start[pairs] + 1, sizeof *p->share);
    for (size_t i = 0; i < pairs; i++) {
        uint32_t n = p->start[i + 1] - p->start[i], left = 64, even = below(2);

        for (uint32_t k = p->start[i]; k < p->start[i + 1]; k++) {
            uint32_t part = k + 1 < p->start[i + 1] ? below(left + 1) : left;

            p->share[k] = even ? (float)(1. / n) : (float)part / 64;
            left -= part;
        }
    }
}

static void assert_equal(const struct plan *a, const struct plan *b)
{
    size_t pairs = (size_t)a->layers * a->experts;

    assert_int_equal(a->layers, b->layers);
    assert_int_equal(a->experts, b->experts);
    assert_int_equal(a->ranks, b->ranks);
    assert_memory_equal(a->start, b->start, (pairs + 1) * sizeof *a->start);
    assert_memory_equal(a->rank, b->rank, a->start[pairs] * sizeof *a->rank);
    assert_int_equal(!a->share, !b->share);
    if (a->share)
        assert_memory_equal(a->share, b->share, a->start[pairs] * sizeof *a->share);
}

static void test_round_trip(void **unused)
{
    (void)unused;
    for (int round = 0; round < 300; round++) {
        struct plan p, q, copy;
        struct mt_err err;
        char *text = NULL;
        uint32_t *held;
        size_t len = 0;
        FILE *out = open_memstream(&text, &len);

        p = random_plan(&held);
        if (round % 3 == 0)
            random_shares(&p);
        assert_int_equal(plan_write(out, &p, round % 2 ? "{\"by\": [1]}" : NULL, &err), 0);
        fclose(out);
        if (plan_parse(text, len, "text", &q, &err))
            fail_msg("%s", err.text);
        assert_equal(&p, &q);
        assert_int_equal(plan_copy(&p, &copy, &err), 0);
        assert_equal(&p, &copy);
        for (uint32_t r = 0; r < p.ranks; r++) {
            uint32_t most = 0;

            for (uint32_t l = 0; l < p.layers; l++)
                if (held[l * p.ranks + r] > most)
                    most = held[l * p.ranks + r];
            assert_int_equal(plan_slots(&q, r), most);
        }
        assert_int_equal(plan_check(&q, p.layers, p.experts, p.ranks, &err), 0);
        plan_done(&p);
        plan_done(&q);
        plan_done(&copy);
        free(held);
        free(text);
    }
}

static void test_contiguous(void **unused)
{
    struct plan p;
    struct mt_err err;

    (void)unused;
    assert_int_equal(plan_contiguous(2, 8, 4, &p, &err), 0);
    for (uint32_t i = 0; i < 16; i++) {
        assert_int_equal(p.start[i], i);
        assert_int_equal(p.rank[i], i % 8 / 2);
    }
    assert_int_equal(p.start[16], 16);
    assert_int_equal(plan_check(&p, 2, 8, 2, &err), MT_EINVAL);
    assert_string_equal(err.text, "placement: expected 2 MoE layers, 8 experts, 2 ranks; "
                                  "found 2 layers, 8 experts, 4 ranks");
    plan_done(&p);
    assert_int_equal(plan_contiguous(1, 3, 5, &p, &err), 0); /* ranks 2 and 4 stay bare */
    assert_int_equal(p.rank[0], 0);
    assert_int_equal(p.rank[1], 1);
    assert_int_equal(p.rank[2], 3);
    plan_done(&p);
    assert_int_equal(plan_contiguous(1, 3, 257, &p, &err), MT_EINVAL);
    assert_string_equal(err.text, "placement: ranks: expected 1 to 256, found 257");
    plan_done(NULL);
}

#define SPLIT(split) \
    "{\"layers\":1,\"experts\":2,\"ranks\":2,\"copies\":[[[0],[0,1]]],\"split\":" split "}"

static void test_split(void **unused)
{
    static const char text[] = SPLIT("[[[],[0.2501,0.7504]]]");
    struct plan p;
    struct mt_err err;

    (void)unused;
    assert_int_equal(plan_parse(text, sizeof text - 1, "f", &p, &err), 0);
    assert_true(p.share[0] == 1);
    assert_true(p.share[1] + p.share[2] > 1 - 1e-6f && p.share[1] + p.share[2] < 1 + 1e-6f);
    assert_true(p.share[1] > 0.2499f && p.share[1] < 0.2501f);
    plan_done(&p);
}

static void test_refused(void **unused)
{
    static const struct {
        const char *text, *error;
    } CASES[] = {
        {"[]", "f: expected an object, found an array"},
        {"{", "f: line 1, column 1: string or '}' expected near end of file"},
        {"{\"experts\":1,\"ranks\":1,\"copies\":[[[0]]]}",
         "f: layers: expected an integer, found nothing"},
        {"{\"layers\":1.5,\"experts\":1,\"ranks\":1,\"copies\":[[[0]]]}",
         "f: layers: expected an integer, found a real number"},
        {"{\"layers\":0,\"experts\":1,\"ranks\":1,\"copies\":[]}",
         "f: layers: expected 1 to 256, found 0"},
        {"{\"layers\":1,\"experts\":1025,\"ranks\":1,\"copies\":[]}",
         "f: experts: expected 1 to 1024, found 1025"},
        {"{\"layers\":1,\"experts\":1,\"ranks\":-1,\"copies\":[]}",
         "f: ranks: expected 1 to 256, found -1"},
        {"{\"layers\":1,\"experts\":1,\"ranks\":1}", "f: copies: expected an array, found nothing"},
        {"{\"layers\":2,\"experts\":1,\"ranks\":1,\"copies\":[[[0]]]}",
         "f: copies: expected 2 layers, found 1"},
        {"{\"layers\":2,\"experts\":1,\"ranks\":1,\"copies\":[[[0]],7]}",
         "f: copies: layer 1: expected an array, found an integer"},
        {"{\"layers\":1,\"experts\":2,\"ranks\":1,\"copies\":[[[0]]]}",
         "f: copies: layer 0: expected 2 experts, found 1"},
        {"{\"layers\":1,\"experts\":2,\"ranks\":2,\"copies\":[[[0],0]]}",
         "f: copies: layer 0, expert 1: expected an array of ranks, found an integer"},
        {"{\"layers\":1,\"experts\":2,\"ranks\":2,\"copies\":[[[0],[]]]}",
         "f: copies: layer 0, expert 1: expected 1 to 2 copies, found 0"},
        {"{\"layers\":1,\"experts\":2,\"ranks\":2,\"copies\":[[[0],[0,1,0]]]}",
         "f: copies: layer 0, expert 1: expected 1 to 2 copies, found 3"},
        {"{\"layers\":1,\"experts\":2,\"ranks\":2,\"copies\":[[[0],[\"1\"]]]}",
         "f: copies: layer 0, expert 1: expected a rank, found a string"},
        {"{\"layers\":1,\"experts\":2,\"ranks\":2,\"copies\":[[[2],[1]]]}",
         "f: copies: layer 0, expert 0: expected a rank below 2, found 2"},
        {"{\"layers\":1,\"experts\":2,\"ranks\":2,\"copies\":[[[-1],[1]]]}",
         "f: copies: layer 0, expert 0: expected a rank below 2, found -1"},
        {"{\"layers\":1,\"experts\":2,\"ranks\":2,\"copies\":[[[0],[1,1]]]}",
         "f: copies: layer 0, expert 1: expected distinct ranks, found rank 1 twice"},
        {SPLIT("7"), "f: split: expected an array, found an integer"},
        {SPLIT("[]"), "f: split: expected 1 layers, found 0"},
        {SPLIT("[[[]]]"), "f: split: layer 0: expected 2 experts, found 1"},
        {SPLIT("[[[],1]]"),
         "f: split: layer 0, expert 1: expected [] or an array of 2 fractions, found an integer "
         "of 0"},
        {SPLIT("[[[],[1]]]"),
         "f: split: layer 0, expert 1: expected [] or an array of 2 fractions, found an array of "
         "1"},
        {SPLIT("[[[1],[0.5,\"\"]]]"),
         "f: split: layer 0, expert 1: expected fractions 0 to 1, found a string 0"},
        {SPLIT("[[[1],[1.5,-0.5]]]"),
         "f: split: layer 0, expert 1: expected fractions 0 to 1, found a real number 1.5"},
        {SPLIT("[[[1],[0.5,0.4]]]"), "f: split: layer 0, expert 1: expected a sum of 1, found 0.9"},
    };
    struct plan p = {.layers = 77};
    struct mt_err err;

    (void)unused;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        assert_int_equal(plan_parse(CASES[i].text, strlen(CASES[i].text), "f", &p, &err),
                         MT_EINVAL);
        assert_string_equal(err.text, CASES[i].error);
        assert_int_equal(p.layers, 77); /* untouched */
    }
}

static void test_files(void **unused)
{
    char path[] = "/tmp/test-plan-XXXXXX";
    struct plan p, q;
    struct mt_err err;
    FILE *out;
    int fd = mkstemp(path);

    (void)unused;
    assert_true(fd >= 0);
    out = fdopen(fd, "w");
    assert_int_equal(plan_contiguous(256, 300, 7, &p, &err), 0); /* more than one read */
    assert_int_equal(plan_write(out, &p, NULL, &err), 0);
    fclose(out);
    assert_int_equal(plan_read(path, &q, &err), 0);
    assert_equal(&p, &q);
    plan_done(&p);
    plan_done(&q);
    unlink(path);
    assert_int_equal(plan_read(path, &q, &err), MT_ENOTFOUND);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(plan_read("/tmp", &q, &err), MT_EINVAL);
    assert_string_equal(err.text, "/tmp: expected a regular file");
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(plan_read(path, &q, &err), MT_EINVAL); /* does not wait for a writer */
    unlink(path);
    out = fopen("/dev/full", "w");
    assert_non_null(out);
    assert_int_equal(plan_contiguous(1, 1, 1, &p, &err), 0);
    assert_int_equal(plan_write(out, &p, NULL, &err), MT_EIO);
    fclose(out);
    plan_done(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_contiguous),
        cmocka_unit_test(test_split),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
