/* Traces: what is written is read back, and everything wrong is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "placement/random.h"
#include "placement/trace.h"

static struct random random_numbers = {7};

static uint32_t below(uint32_t n)
{
    return random_below(&random_numbers, n);
}

static struct trace random_trace(void)
{
    struct trace t = {.layers = 1 + below(5), .documents = 1 + below(9), .name = "a \"b\""};
    size_t n;

    t.experts = below(2) ? 1 + below(256) : 257 + below(768);
    t.topk = 1 + below(t.experts < 16 ? t.experts : 16);
    t.doc = calloc(t.documents + 1, sizeof *t.doc);
    for (uint32_t d = 0; d < t.documents; d++)
        t.doc[d + 1] = t.doc[d] + 1 + below(20);
    t.tokens = t.doc[t.documents];
    n = (size_t)t.tokens * t.layers;
    t.choice = calloc(n * t.topk, sizeof *t.choice);
    for (size_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < t.topk;) {
            uint16_t *at = t.choice + i * t.topk, e = (uint16_t)below(t.experts);
            uint32_t j = 0;

            while (j < k && at[j] != e)
                j++;
            at[k] = e;
            k += j == k;
        }
    return t;
}

static void assert_equal(const struct trace *a, const struct trace *b)
{
    assert_string_equal(a->name, b->name);
    assert_int_equal(a->layers, b->layers);
    assert_int_equal(a->experts, b->experts);
    assert_int_equal(a->topk, b->topk);
    assert_int_equal(a->tokens, b->tokens);
    assert_int_equal(a->documents, b->documents);
    assert_memory_equal(a->doc, b->doc, (a->documents + 1) * sizeof *a->doc);
    assert_memory_equal(a->choice, b->choice,
                        (size_t)a->tokens * a->layers * a->topk * sizeof *a->choice);
}

static char folder[] = "/tmp/test-trace-XXXXXX";
static char json_path[64], ids_path[2][64];

static int make_folder(void **unused)
{
    (void)unused;
    if (!mkdtemp(folder))
        return -1;
    snprintf(json_path, sizeof json_path, "%s/t.json", folder);
    snprintf(ids_path[0], sizeof ids_path[0], "%s/t.u8", folder);
    snprintf(ids_path[1], sizeof ids_path[1], "%s/t.u16", folder);
    return 0;
}

static int remove_folder(void **unused)
{
    (void)unused;
    unlink(json_path);
    unlink(ids_path[0]);
    unlink(ids_path[1]);
    return rmdir(folder);
}

static void test_round_trip(void **unused)
{
    struct mt_err err;

    (void)unused;
    for (int round = 0; round < 100; round++) {
        struct trace t = random_trace(), u;

        if (trace_write(&t, json_path, &err) || trace_read(json_path, &u, &err))
            fail_msg("%s", err.text);
        assert_equal(&t, &u);
        trace_done(&t);
        trace_done(&u);
    }
}

static void test_bundled(void **unused)
{
    static const struct {
        const char *name;
        uint32_t tokens, documents;
    } CASES[] = {{"c", 8514, 9}, {"pgdoc", 8410, 11}, {"sqlitedoc", 3078, 7}};
    struct mt_err err;

    (void)unused;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char path[64];
        struct trace t;

        snprintf(path, sizeof path, "tests/data/traces/%s.json", CASES[i].name);
        if (trace_read(path, &t, &err))
            fail_msg("%s", err.text);
        assert_string_equal(t.name, CASES[i].name);
        assert_int_equal(t.layers, 8);
        assert_int_equal(t.experts, 16);
        assert_int_equal(t.topk, 2);
        assert_int_equal(t.tokens, CASES[i].tokens);
        assert_int_equal(t.documents, CASES[i].documents);
        trace_done(&t);
    }
}

#define HEAD(layers, experts, topk, tokens, documents) \
    "{\"layers\":" layers ",\"experts\":" experts ",\"topk\":" topk ",\"tokens\":" tokens \
    ",\"documents\":" documents "}"

static void test_refused(void **unused)
{
    static const struct {
        const char *json;
        size_t bytes;
        const char *error;
    } CASES[] = {
        {"[]", 4, "f: expected an object, found an array"},
        {"{", 4, "f: line 1, column 1: string or '}' expected near end of file"},
        {HEAD("0", "4", "2", "2", "[2]"), 4, "f: layers: expected 1 to 256, found 0"},
        {HEAD("1", "1025", "2", "2", "[2]"), 4, "f: experts: expected 1 to 1024, found 1025"},
        {HEAD("1", "4", "17", "2", "[2]"), 4, "f: topk: expected 1 to 16, found 17"},
        {HEAD("1", "4", "5", "2", "[2]"), 4, "f: topk: expected 1 to 4, found 5"},
        {HEAD("1", "4", "2", "67108865", "[2]"), 4,
         "f: tokens: expected 1 to 67108864, found 67108865"},
        {HEAD("256", "4", "4", "67108864", "[67108864]"), 4,
         "f: tokens * layers * topk: expected at most 4294967296 bytes of ids, found 68719476736"},
        {HEAD("1", "4", "2", "2", "2"), 4, "f: documents: expected an array, found an integer"},
        {HEAD("1", "4", "2", "2", "[]"), 4, "f: documents: expected 1 to 2, found 0"},
        {HEAD("1", "4", "2", "2", "[1,1,1]"), 4,
         "f: documents: expected at most one for each of 2 tokens, found 3"},
        {HEAD("1", "4", "2", "2", "[1]"), 4, "f: documents: expected a sum of 2 tokens, found 1"},
        {HEAD("1", "4", "2", "2", "[2,0]"), 4,
         "f: documents: document 1: expected 1 to 0 tokens (2 in all), found 0"},
        {HEAD("1", "4", "2", "2", "[1,\"1\"]"), 4,
         "f: documents: document 1: expected an integer, found a string"},
        {HEAD("1", "4", "2", "2", "[3]"), 4,
         "f: documents: document 0: expected 1 to 2 tokens (2 in all), found 3"},
        {HEAD("1", "4", "2", "2", "[2]"), 3,
         "f: ids: expected 2 tokens * 1 layers * 2 experts of 1 bytes = 4 bytes, found 3"},
        {HEAD("1", "4", "2", "2", "[2]"), 5,
         "f: ids: expected 2 tokens * 1 layers * 2 experts of 1 bytes = 4 bytes, found 5"},
        {HEAD("1", "257", "1", "2", "[2]"), 5,
         "f: ids: expected 2 tokens * 1 layers * 1 experts of 2 bytes = 4 bytes, found 5"},
        {HEAD("1", "3", "2", "2", "[2]"), 4,
         "f: token 1, layer 0: expected experts below 3, found 3"},
        {HEAD("2", "4", "1", "2", "[2]"), 4, ""},
        {"{\"domain\":1,\"layers\":1,\"experts\":4,\"topk\":2,\"tokens\":2,\"documents\":[2]}", 4,
         "f: domain: expected a string, found an integer"},
    };
    static const uint8_t ids[] = {0, 1, 2, 3, 0}, twice[] = {0, 1, 2, 2};
    struct trace t = {.layers = 77};
    struct mt_err err;

    (void)unused;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        int rc =
            trace_parse(CASES[i].json, strlen(CASES[i].json), ids, CASES[i].bytes, "f", &t, &err);

        if (!*CASES[i].error) {
            assert_int_equal(rc, 0);
            trace_done(&t);
            t.layers = 77;
            continue;
        }
        assert_true(rc < 0);
        assert_string_equal(err.text, CASES[i].error);
        assert_int_equal(t.layers, 77); /* untouched */
    }
    assert_int_equal(trace_parse(CASES[15].json, strlen(CASES[15].json), twice, 4, "f", &t, NULL),
                     MT_EINVAL);
    trace_parse(CASES[15].json, strlen(CASES[15].json), twice, 4, "f", &t, &err);
    assert_string_equal(err.text, "f: token 1, layer 0: expected distinct experts, found 2 twice");
}

static void test_files(void **unused)
{
    struct trace t = random_trace(), u;
    struct mt_err err;
    char other[96];
    FILE *out;

    (void)unused;
    assert_int_equal(trace_write(&t, "/tmp/trace.txt", &err), MT_EINVAL);
    assert_string_equal(err.text, "/tmp/trace.txt: expected a path that ends in .json");
    snprintf(other, sizeof other, "%s/none/t.json", folder);
    assert_int_equal(trace_write(&t, other, &err), MT_EIO);
    assert_int_equal(trace_read(other, &u, &err), MT_ENOTFOUND);
    assert_int_equal(trace_write(&t, json_path, &err), 0);
    out = fopen(ids_path[t.experts > 256], "ab");
    putc(0, out);
    fclose(out);
    assert_int_equal(trace_read(json_path, &u, &err), MT_EINVAL);
    assert_non_null(strstr(err.text, "t.json: ids: expected"));
    unlink(ids_path[t.experts > 256]);
    assert_int_equal(trace_read(json_path, &u, &err), MT_ENOTFOUND);
    /* A full disk leaves nothing behind. */
    snprintf(other, sizeof other, "%s/full.u%d.part", folder, t.experts > 256 ? 16 : 8);
    assert_int_equal(symlink("/dev/full", other), 0);
    snprintf(other, sizeof other, "%s/full.json", folder);
    assert_int_equal(trace_write(&t, other, &err), MT_EIO);
    assert_int_equal(access(other, F_OK), -1);
    trace_done(&t);
    /* Without "domain" a trace is called as its file, cut between characters. */
    {
        static const char path[] = "a/"
                                   "\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3"
                                   "\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4"
                                   "\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3"
                                   "\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4"
                                   "\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4.json";
        static const char json[] = HEAD("1", "4", "2", "1", "[1]");

        assert_int_equal(trace_parse(json, sizeof json - 1, "\0\1", 2, path, &t, &err), 0);
        assert_int_equal(strlen(t.name), 62);
        assert_memory_equal(t.name, path + 2, 62);
        trace_done(&t);
    }
}

static void test_slice(void **unused)
{
    struct mt_err err;

    (void)unused;
    for (int round = 0; round < 300; round++) {
        struct trace t = random_trace(), s;
        uint32_t first = below(t.documents), n = 1 + below(t.documents - first);
        uint32_t cap = below(2) ? 1 + below(60) : 0, all = t.doc[first + n] - t.doc[first];
        uint32_t tokens = cap && cap < all ? cap : all;

        assert_int_equal(trace_slice(&t, first, n, cap, &s, &err), 0);
        assert_int_equal(trace_check(&s, &err), 0);
        assert_int_equal(s.tokens, tokens);
        assert_true(s.documents <= n);
        for (uint32_t d = 0; d < s.documents; d++)
            assert_int_equal(s.doc[d], t.doc[first + d] - t.doc[first]);
        for (uint32_t i = 0; i < s.tokens; i++)
            for (uint32_t l = 0; l < s.layers; l++)
                assert_memory_equal(trace_at(&s, i, l), trace_at(&t, t.doc[first] + i, l),
                                    s.topk * sizeof *s.choice);
        trace_done(&s);
        assert_int_equal(trace_slice(&t, 0, 0, 0, &s, &err), MT_EINVAL);
        assert_int_equal(trace_slice(&t, first, t.documents - first + 1, 0, &s, &err), MT_EINVAL);
        assert_int_equal(trace_slice(&t, 1, UINT32_MAX, 0, &s, &err), MT_EINVAL);
        trace_done(&t);
    }
}

static void test_split(void **unused)
{
    struct trace t = {.documents = 100};

    (void)unused;
    assert_int_equal(trace_split(&t, 0.29), 29);
    assert_int_equal(trace_split(&t, 0.5), 50);
    assert_int_equal(trace_split(&t, 0), 1);
    assert_int_equal(trace_split(&t, -3), 1);
    assert_int_equal(trace_split(&t, (double)NAN), 1);
    assert_int_equal(trace_split(&t, 1), 99);
    assert_int_equal(trace_split(&t, 1e300), 99);
    t.documents = 1;
    assert_int_equal(trace_split(&t, 0.5), 1);
    t.documents = 3;
    assert_int_equal(trace_split(&t, 0.5), 1);
}

/* Against counting by expert. */
static void test_counts(void **unused)
{
    (void)unused;
    for (int round = 0; round < 20; round++) {
        struct trace t = random_trace();
        size_t cells = (size_t)t.experts * t.experts;
        double *load = calloc((size_t)t.layers * t.experts, sizeof *load);
        double *pairs = calloc(cells, sizeof *pairs), sum = 0;
        uint32_t l = below(t.layers), a = below(t.experts), b = below(t.experts), in = 0, both = 0;

        trace_loads(&t, load);
        for (uint32_t e = 0; e < t.experts; e++)
            sum += load[(size_t)l * t.experts + e];
        assert_true(fabs(sum - t.topk) < 1e-9);
        for (uint32_t i = 0; i < t.tokens; i++) {
            uint32_t has_a = 0, has_b = 0;

            for (uint32_t k = 0; k < t.topk; k++) {
                has_a += trace_at(&t, i, l)[k] == a;
                has_b += l + 1 < t.layers && trace_at(&t, i, l + 1)[k] == b;
            }
            in += has_a;
            both += has_a * has_b;
        }
        assert_true(fabs(load[(size_t)l * t.experts + a] - (double)in / t.tokens) < 1e-12);
        trace_pairs(&t, l, pairs);
        assert_true(fabs(pairs[(size_t)a * t.experts + b] - (double)both / t.topk) < 1e-12);
        sum = 0;
        for (size_t i = 0; i < cells; i++)
            sum += pairs[i];
        assert_true(fabs(sum - (l + 1 < t.layers ? (double)t.tokens * t.topk : 0)) < 1e-6);
        free(load);
        free(pairs);
        trace_done(&t);
    }
}

/* Any change of a byte, and any cut, is refused or gives a sound trace. */
static void test_mutations(void **unused)
{
    static const char json[] =
        "{\"domain\":\"d\",\"layers\":2,\"experts\":9,\"topk\":2,\"tokens\":5,"
        "\"documents\":[2,1,2]}";
    static const uint8_t ids[20] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1};
    uint32_t accepted = 0;
    struct mt_err err;

    (void)unused;
    for (int round = 0; round < 20000; round++) {
        char text[sizeof json];
        uint8_t bytes[20];
        struct trace t;
        size_t len = sizeof json - 1, ids_len = sizeof ids;
        uint32_t changes = below(4);

        memcpy(text, json, sizeof json);
        memcpy(bytes, ids, sizeof ids);
        while (changes--)
            if (below(3))
                text[below(sizeof json - 1)] = (char)(below(2) ? '0' + below(10) : below(256));
            else
                bytes[below(20)] = (uint8_t)below(10);
        if (!below(8))
            len = below(sizeof json);
        if (!below(8))
            ids_len = below(20);
        if (trace_parse(text, len, bytes, ids_len, "f", &t, &err))
            continue;
        assert_int_equal(trace_check(&t, &err), 0);
        trace_done(&t);
        accepted++;
    }
    assert_true(accepted > 1000 && accepted < 19000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_bundled),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_files),
        cmocka_unit_test(test_slice),      cmocka_unit_test(test_split),
        cmocka_unit_test(test_counts),     cmocka_unit_test(test_mutations),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
