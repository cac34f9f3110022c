/* Loads and other systems' files: read, refused by name, written and read back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "placement/foreign.h"
#include "placement/random.h"

static int parse_loads(const char *text, struct loads *ret, struct mt_err *err)
{
    return loads_parse(text, strlen(text), "loads.json", ret, err);
}

static int parse_sglang(const char *text, uint32_t topk, struct loads *ret, uint32_t *ret_dense,
                        struct mt_err *err)
{
    return foreign_parse_sglang(text, strlen(text), "counts.json", topk, ret, ret_dense, err);
}

static void test_loads_round_trip(void **unused)
{
    struct random r = {3};

    (void)unused;
    for (int round = 0; round < 200; round++) {
        struct loads l = {.layers = 1 + random_below(&r, 5), .experts = 1 + random_below(&r, 20)};
        struct loads read, again;
        char *text = NULL;
        size_t len = 0, n = (size_t)l.layers * l.experts * sizeof(double);
        FILE *out;

        l.topk = 1 + random_below(&r, l.experts < 8 ? l.experts : 8);
        l.load = calloc(1, n);
        for (uint32_t i = 0; i < l.layers * l.experts; i++)
            l.load[i] = random_unit(&r) + 1e-9;
        for (int pass = 0; pass < 2; pass++) { /* scaled the first time, then bit by bit */
            out = open_memstream(&text, &len);
            assert_int_equal(loads_write(out, pass ? &read : &l, NULL), 0);
            fclose(out);
            assert_int_equal(loads_parse(text, len, "x", pass ? &again : &read, NULL), 0);
            free(text);
            text = NULL;
        }
        for (uint32_t i = 0; i < l.layers; i++) {
            double sum = 0, before = 0;

            for (uint32_t e = 0; e < l.experts; e++) {
                sum += read.load[i * l.experts + e];
                before += l.load[i * l.experts + e];
            }
            assert_float_equal(sum, l.topk, 1e-9);
            assert_float_equal(read.load[i * l.experts], l.load[i * l.experts] / before * l.topk,
                               1e-9);
        }
        assert_memory_equal(read.load, again.load, n);
        free(l.load);
        loads_done(&read);
        loads_done(&again);
    }
}

static void test_loads_refusals(void **unused)
{
    static const struct {
        const char *text, *says;
        int status;
    } rows[] = {
        {"[]", "expected an object", MT_EINVAL},
        {"{\"layers\": 1, \"experts\": 2, \"topk\": 1}", "load: expected an array", MT_ENOTFOUND},
        {"{\"layers\": 0, \"experts\": 2, \"topk\": 1, \"load\": [[1, 1]]}", "layers", MT_EINVAL},
        {"{\"layers\": 1, \"experts\": 2, \"topk\": 3, \"load\": [[1, 1]]}",
         "topk: expected at most 2, found 3", MT_EINVAL},
        {"{\"layers\": 2, \"experts\": 2, \"topk\": 1, \"load\": [[1, 1]]}",
         "expected 2 layers, found 1", MT_EINVAL},
        {"{\"layers\": 1, \"experts\": 2, \"topk\": 1, \"load\": [[1]]}",
         "load: layer 0: expected 2 numbers, found 1", MT_EINVAL},
        {"{\"layers\": 1, \"experts\": 2, \"topk\": 1, \"load\": [[1, -1]]}",
         "layer 0, expert 1: expected a number of at least 0, found less", MT_EINVAL},
        {"{\"layers\": 1, \"experts\": 2, \"topk\": 1, \"load\": [[1, \"x\"]]}", "found a string",
         MT_EINVAL},
        {"{\"layers\": 1, \"experts\": 2, \"topk\": 1, \"load\": [[0, 0]]}",
         "layer 0: expected counts, found a total of 0", MT_EINVAL},
        {"{\"layers\": 1, \"experts\": 2, \"topk\": 1, \"load\": [[1e308, 1e308]]}",
         "found a total of inf", MT_EINVAL},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct loads l;
        struct mt_err err;

        assert_int_equal(parse_loads(rows[i].text, &l, &err), rows[i].status);
        assert_non_null(strstr(err.text, rows[i].says));
    }
}

static void test_sglang_counts(void **unused)
{
    struct loads l;
    uint32_t dense = 9;

    (void)unused;
    assert_int_equal(parse_sglang("{\"logical_count\": [[0, 0, 0.0], [1, 2, 1], [0, 0, 5]]}", 2, &l,
                                  &dense, NULL),
                     0);
    assert_int_equal(dense, 1);
    assert_int_equal(l.layers, 2);
    assert_int_equal(l.experts, 3);
    assert_int_equal(l.topk, 2);
    assert_float_equal(l.load[1], 1, 1e-12);
    assert_float_equal(l.load[5], 2, 1e-12);
    loads_done(&l);
    /* two steps, summed */
    assert_int_equal(parse_sglang("{\"logical_count\": [[[0, 0], [1, 0]], [[0, 0], [0, 3]]]}", 1,
                                  &l, &dense, NULL),
                     0);
    assert_int_equal(dense, 1);
    assert_float_equal(l.load[0], 0.25, 1e-12);
    loads_done(&l);
}

static void test_sglang_refusals(void **unused)
{
    static const struct {
        const char *text, *says;
        uint32_t topk;
    } rows[] = {
        {"{}", "logical_count: expected an array, found nothing", 1},
        {"{\"logical_count\": []}", "logical_count: expected 1 to", 1},
        {"{\"logical_count\": [[]]}", "layer 0: expected 1 to", 1},
        {"{\"logical_count\": [[1, 2]]}", "topk: expected 1 to 2, found 3", 3},
        {"{\"logical_count\": [[1, 2]]}", "topk: expected 1 to 2, found 0", 0},
        {"{\"logical_count\": [[0, 0]]}", "expected counts, found none", 1},
        {"{\"logical_count\": [[0, 0], [1, 1], [0, 0]]}", "layer 2: expected counts", 1},
        {"{\"logical_count\": [[1, 2], [1]]}", "layer 1: expected 2 numbers, found 1", 1},
        {"{\"logical_count\": [[[1, 2]], [[1, 2], [1, 2]]]}", "expected 1 layers, found 2", 1},
        {"{\"logical_count\": [[1, null]]}",
         "expert 1: expected a number of at least 0, found null", 1},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct loads l;
        struct mt_err err;

        assert_int_equal(parse_sglang(rows[i].text, rows[i].topk, &l, NULL, &err), MT_EINVAL);
        assert_non_null(strstr(err.text, rows[i].says));
    }
}

/* --- TensorRT-LLM's folder ------------------------------------------------------------------- */

static void put_file(const char *folder, const char *name, const void *bytes, size_t len)
{
    char path[256];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    fclose(f);
}

/* A file of two tensors of three counts. */
static void put_rank(const char *folder, const char *name, const char *first, const char *second,
                     const int64_t *counts)
{
    char header[256];
    uint8_t bytes[512] = {0};
    uint64_t n =
        (uint64_t)snprintf(header, sizeof header,
                           "{\"%s\":{\"dtype\":\"I64\",\"shape\":[3],\"data_offsets\":[0,24]},"
                           "\"%s\":{\"dtype\":\"I64\",\"shape\":[3],\"data_offsets\":[24,48]}}",
                           first, second);

    memcpy(bytes, &n, sizeof n);
    memcpy(bytes + 8, header, n);
    memcpy(bytes + 8 + n, counts, 48);
    put_file(folder, name, bytes, 8 + n + 48);
}

static void clear(const char *folder)
{
    static const char *const names[] = {"meta_info.json", "rank0.safetensors", "rank1.safetensors",
                                        "rank0_raw.safetensors"};
    char path[256];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
}

static void test_trtllm_statistics(void **unused)
{
    static const char meta[] = "{\"num_experts\": 3, \"num_experts_per_token\": 2}";
    static const int64_t a[6] = {1, 2, 3, 4, 0, 0}, b[6] = {0, 0, 2, 0, 4, 0},
                         bad[6] = {1, -1, 1, 1, 1, 1};
    char folder[] = "/tmp/moetuner-foreign-XXXXXX";
    struct loads l;
    struct mt_err err;
    uint32_t dense = 0;

    (void)unused;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(foreign_read_trtllm(folder, &l, NULL, &err), MT_ENOTFOUND);
    put_file(folder, "meta_info.json", meta, sizeof meta - 1);
    assert_int_equal(foreign_read_trtllm(folder, &l, NULL, &err), MT_ENOTFOUND);
    assert_non_null(strstr(err.text, "rank0.safetensors"));
    put_rank(folder, "rank0.safetensors", "100_3", "100_4", a);
    put_rank(folder, "rank1.safetensors", "101_3", "100_4", b);
    put_rank(folder, "rank0_raw.safetensors", "x", "y", a); /* not looked at */
    assert_int_equal(foreign_read_trtllm(folder, &l, &dense, &err), 0);
    assert_int_equal(dense, 3);
    assert_int_equal(l.layers, 2);
    assert_int_equal(l.topk, 2);
    assert_float_equal(l.load[0], 1 * 2 / 8.0, 1e-12); /* 1 2 5 */
    assert_float_equal(l.load[2], 5 * 2 / 8.0, 1e-12);
    assert_float_equal(l.load[3], 1, 1e-12); /* 4 4 0 */
    loads_done(&l);
    put_rank(folder, "rank1.safetensors", "101_3", "101_6", b);
    assert_int_equal(foreign_read_trtllm(folder, &l, &dense, &err), MT_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "found 6 but not 5"));
    put_rank(folder, "rank1.safetensors", "101_3", "other", b);
    assert_int_equal(foreign_read_trtllm(folder, &l, &dense, &err), MT_EINVAL);
    assert_non_null(strstr(err.text, "found other"));
    put_rank(folder, "rank1.safetensors", "101_3", "101_4", bad);
    assert_int_equal(foreign_read_trtllm(folder, &l, &dense, &err), MT_EINVAL);
    assert_non_null(strstr(err.text, "expert 1: expected a count, found -1"));
    clear(folder);
    rmdir(folder);
}

/* --- placements ---------------------------------------------------------------------------------
 */

static struct plan random_plan(struct random *r)
{
    uint32_t layers = 1 + random_below(r, 4), experts = 1 + random_below(r, 12);
    uint32_t ranks = 1 + random_below(r, 6);
    uint8_t *held = calloc((size_t)layers * experts * ranks, 1);
    struct plan p;

    for (uint32_t i = 0; i < layers * experts; i++) {
        held[i * ranks + random_below(r, ranks)] = 1;
        for (uint32_t k = random_below(r, 3); k > 0; k--)
            held[i * ranks + random_below(r, ranks)] = 1;
    }
    assert_int_equal(plan_from_held(layers, experts, ranks, held, &p, NULL), 0);
    free(held);
    return p;
}

/* p is q, or lacks only copies that fill ranks without any expert in a layer. */
static void check_same(const struct plan *p, const struct plan *q, uint64_t added)
{
    uint32_t pairs = p->layers * p->experts;

    assert_int_equal(p->layers, q->layers);
    assert_int_equal(p->experts, q->experts);
    assert_int_equal(p->ranks, q->ranks);
    assert_int_equal(q->start[pairs], p->start[pairs] + added);
    for (uint32_t i = 0; i < pairs; i++)
        for (uint32_t k = p->start[i], j = q->start[i]; k < p->start[i + 1]; k++, j++) {
            while (j < q->start[i + 1] && q->rank[j] != p->rank[k])
                j++;
            assert_true(j < q->start[i + 1]);
        }
}

static void test_export_round_trip(void **unused)
{
    struct random r = {11};

    (void)unused;
    for (int round = 0; round < 2000; round++) {
        struct plan p = random_plan(&r), q;
        struct foreign_options how = {.dense = random_below(&r, 4)};
        struct foreign_report report;
        bool trtllm = round % 2;
        uint64_t empty;
        uint32_t dense = how.dense;
        char *text = NULL;
        size_t len = 0;
        FILE *out = open_memstream(&text, &len);

        for (uint32_t g = 0; g < p.ranks; g++)
            if (plan_slots(&p, g) > how.slots)
                how.slots = plan_slots(&p, g);
        empty = how.slots;
        how.slots = random_below(&r, 2) ? how.slots + random_below(&r, 3) : 0;
        empty = (uint64_t)p.layers * p.ranks * (how.slots ? how.slots : empty) -
                p.start[p.layers * p.experts];
        assert_int_equal(
            (trtllm ? foreign_write_trtllm : foreign_write_sglang)(out, &p, &how, &report, NULL),
            0);
        fclose(out);
        assert_int_equal(report.physical, report.slots * p.ranks);
        assert_int_equal(report.extra + p.experts, report.physical);
        assert_int_equal(report.repeated + report.added, empty);
        if (trtllm)
            assert_int_equal(foreign_parse_trtllm_map(text, len, "x", p.ranks, &q, &dense, NULL),
                             0);
        else
            assert_int_equal(foreign_parse_sglang_map(text, len, "x", p.ranks, dense, &q, NULL), 0);
        assert_int_equal(dense, how.dense);
        check_same(&p, &q, report.added);
        plan_done(&p);
        plan_done(&q);
        free(text);
    }
}

/* Two ranks of three slots; expert 0 on both, 1 and 2 on rank 0, 3 on rank 1. */
static struct plan small_plan(void)
{
    static const uint8_t held[4][2] = {{1, 1}, {1, 0}, {1, 0}, {0, 1}};
    struct plan p;

    assert_int_equal(plan_from_held(1, 4, 2, held[0], &p, NULL), 0);
    return p;
}

static void test_sglang_text(void **unused)
{
    static const char want[] = "{\"physical_to_logical_map\": [\n"
                               " [0,1,2,3,0,1,2,3],\n"
                               " [0,1,2,2,0,3,3,3]\n"
                               "]}\n";
    static const double load[4] = {5, 1, 2, 1};
    struct plan p = small_plan();
    struct foreign_options how = {.slots = 4, .dense = 1, .load = load};
    struct foreign_report report;
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    (void)unused;
    assert_int_equal(foreign_write_sglang(out, &p, &how, &report, NULL), 0);
    fclose(out);
    assert_string_equal(text, want); /* never expert 0, which has a copy elsewhere */
    assert_int_equal(report.extra, 4);
    assert_int_equal(report.repeated, 3);
    free(text);
    plan_done(&p);
}

static void test_trtllm_text(void **unused)
{
    static const char want[] = "num_slots: 6\n"
                               "layer_updates_per_iter: 0\n"
                               "initial_global_assignments:\n"
                               "  3: [0, 1, 2, 0, 3, 3]\n";
    struct plan p = small_plan();
    struct foreign_options how = {.dense = 3};
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    struct mt_err err;

    (void)unused;
    assert_int_equal(foreign_write_trtllm(out, &p, &how, NULL, NULL), 0);
    fclose(out);
    assert_string_equal(text, want);
    free(text);
    how.slots = 2;
    out = open_memstream(&text, &len);
    assert_int_equal(foreign_write_trtllm(out, &p, &how, NULL, &err), MT_EINVAL);
    assert_non_null(strstr(err.text, "slots: expected 3 to"));
    fclose(out);
    free(text);
    plan_done(&p);
}

/* As TensorRT-LLM's own tool writes it, and what is wrong with others. */
static void test_trtllm_map(void **unused)
{
    static const char good[] = "# made by hand\n"
                               "initial_global_assignments:\n"
                               "  3: [1, 0, 2,\n"
                               "    0] # wrapped\n"
                               "  4: [2, 1, 0, 1]\n"
                               "layer_updates_per_iter: 0\n"
                               "num_slots: 4";
    static const struct {
        const char *text, *says;
    } rows[] = {
        {"", "expected lists, found none"},
        {"num_slots: 2\n", "expected lists, found none"},
        {"initial_global_assignments:\n 0: [0, 1]\n", "num_slots: expected 2, as in the lists"},
        {"num_slots: 2\ninitial_global_assignments:\n 0: [0, 1]\n 2: [0, 1]\n",
         "line 4: expected layers in order"},
        {"num_slots: 2\ninitial_global_assignments:\n 0: [0, 1]\n 1: [0, 1, 1]\n",
         "line 4: expected as many slots"},
        {"num_slots: 2\ninitial_global_assignments:\n 0: [0, 1\n", "line 4: expected a comma"},
        {"num_slots: 2\ninitial_global_assignments:\n 0: [0, x]\n", "line 3: expected an expert"},
        {"num_slots: 2\ninitial_global_assignments:\n 0: 1\n", "line 3: expected a layer's list"},
        {"num_slots: 2\n 0: [0, 1]\n", "line 2: expected a key"},
        {"num_slots: 2\ninitial_global_assignments:\n 0: [0, 2]\n",
         "layer 0: expected a slot for expert 1"},
        {"num_slots: 3\ninitial_global_assignments:\n 0: [0, 1, 2]\n",
         "expected 1 to 256 layers and slots for each of"},
    };
    struct plan p;
    struct mt_err err;
    uint32_t dense = 0;

    (void)unused;
    assert_int_equal(foreign_parse_trtllm_map(good, sizeof good - 1, "m.yaml", 2, &p, &dense, &err),
                     0);
    assert_int_equal(dense, 3);
    assert_int_equal(p.experts, 3);
    assert_int_equal(p.start[1], 2); /* expert 0 of layer 3 on both ranks */
    plan_done(&p);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(foreign_parse_trtllm_map(rows[i].text, strlen(rows[i].text), "m.yaml", 2,
                                                  &p, NULL, &err),
                         MT_EINVAL);
        assert_non_null(strstr(err.text, rows[i].says));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loads_round_trip),  cmocka_unit_test(test_loads_refusals),
        cmocka_unit_test(test_sglang_counts),     cmocka_unit_test(test_sglang_refusals),
        cmocka_unit_test(test_trtllm_statistics), cmocka_unit_test(test_export_round_trip),
        cmocka_unit_test(test_sglang_text),       cmocka_unit_test(test_trtllm_text),
        cmocka_unit_test(test_trtllm_map),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
