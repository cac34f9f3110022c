/* Clusters: presets, files, a model's sizes, and everything wrong refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "placement/cluster.h"
#include "placement/random.h"

static const struct model_dims DIMS = {"m", 2, 8, 2, 100, 10, 2, 4, 77, 5e3, 7e3};

static bool near(double a, double b)
{
    return fabs(a - b) <= 1e-12 * fabs(b);
}

static void test_presets(void **unused)
{
    static const struct {
        const char *spec;
        uint32_t ranks, nodes;
        double rank_bandwidth, node_bandwidth;
    } CASES[] = {
        {"h200x8", 8, 1, 300e9, 400e9},       {"h200x8x2", 16, 2, 300e9, 400e9},
        {"h200x4x2", 8, 2, 300e9, 200e9},     {"h100x8", 8, 1, 300e9, 400e9},
        {"h100x8x32", 256, 32, 300e9, 400e9}, {"nic:4", 4, 4, 300e9, 50e9},
        {"ethernet:16", 16, 16, 300e9, 3e9},  {"cpu:4", 4, 1, 10e9, 40e9},
        {"cpu:1", 1, 1, 10e9, 10e9},
    };
    const struct model_dims *m = cluster_known_model(26, 64, 6);
    struct mt_err err;

    (void)unused;
    assert_string_equal(m->name, "DeepSeek-V2-Lite");
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct cluster c;

        if (cluster_read(CASES[i].spec, m, 64, 3, &c, &err))
            fail_msg("%s", err.text);
        assert_int_equal(cluster_check(&c, &err), 0);
        assert_string_equal(c.name, CASES[i].spec);
        assert_int_equal(c.ranks, CASES[i].ranks);
        assert_int_equal(c.nodes, CASES[i].nodes);
        for (uint32_t r = 0; r < c.ranks; r++) {
            assert_int_equal(c.node[r], r / (c.ranks / c.nodes));
            assert_int_equal(c.slots[r], (64 + c.ranks - 1) / c.ranks + 3 < 64
                                             ? (64 + c.ranks - 1) / c.ranks + 3
                                             : 64);
        }
        assert_true(near(c.rank_link.bandwidth, CASES[i].rank_bandwidth));
        assert_true(near(c.node_link.bandwidth, CASES[i].node_bandwidth));
        assert_true(near(c.expert_bytes, 3. * 2048 * 1408 * 2));
        assert_true(near(c.dispatch_bytes, 2048 * 2 + 6 * 8));
        assert_true(near(c.combine_bytes, 2048 * 2));
        assert_true(c.migration_share > 0 && !c.two_level && !c.exact_combine);
    }
}

/* The measured rates: Mixtral's grouped products, 655 TFLOP/s at 4,096 tokens, 2.9 TB/s at 256. */
static void test_rates(void **unused)
{
    struct cluster c;
    struct mt_err err;

    (void)unused;
    assert_int_equal(cluster_read("h200x8", cluster_known_model(32, 8, 2), 8, 0, &c, &err), 0);
    assert_true(c.token_expert * 8192 * 2 / 3 / 2939e-6 > 0.8);
    assert_true(c.token_expert * 8192 * 2 / 3 / 2939e-6 < 1.25);
    assert_true(c.active_expert * 8 * 2 / 3 / 657e-6 > 0.8);
    assert_true(c.active_expert * 8 * 2 / 3 / 657e-6 < 1.25);
    assert_true(near(c.dense_step, 2 * (2. * 4096 * 5120) / 2.8e12));
    assert_null(cluster_known_model(32, 8, 3));
    assert_string_equal(cluster_known_model(58, 256, 8)->name, "DeepSeek-V3");
    assert_string_equal(cluster_known_model(8, 16, 2)->name, "bundled tiny");
}

#define COSTS \
    "\"token_expert_seconds\":1e-6,\"active_expert_seconds\":2e-6,\"dense_step_seconds\":3e-6," \
    "\"dense_token_seconds\":4e-6,\"dispatch_bytes\":5,\"combine_bytes\":6,\"kv_bytes\":7," \
    "\"expert_bytes\":8"
#define LINK "{\"bandwidth\":1e9,\"latency\":1e-6}"
#define RANKS "\"ranks_per_node\":2,\"rank_link\":" LINK

static void test_file(void **unused)
{
    static const char all[] =
        "{\"name\":\"n\",\"node_of_rank\":[0,0,1],\"two_level\":true,\"exact_combine\":true,"
        "\"rank_link\":{\"bandwidth\":3e9,\"latency\":0},\"node_link\":{\"bandwidth\":4e9,"
        "\"latency\":1e-6},\"migration_share\":0.5,\"slots\":[1,9,4]," COSTS "}";
    static const char rates[] = "{" RANKS ",\"flops\":1e9,\"memory_bandwidth\":1e8}";
    static const char some[] = "{" RANKS ",\"flops\":1e9,\"memory_bandwidth\":1e8,"
                               "\"dense_step_seconds\":0.25}";
    struct cluster c;
    struct mt_err err;

    (void)unused;
    if (cluster_parse(all, sizeof all - 1, "f", NULL, 8, 0, &c, &err))
        fail_msg("%s", err.text);
    assert_string_equal(c.name, "n");
    assert_int_equal(c.ranks, 3);
    assert_int_equal(c.nodes, 2);
    assert_int_equal(c.node[2], 1);
    assert_int_equal(c.slots[0], 1);
    assert_int_equal(c.slots[1], 8); /* never more than experts */
    assert_int_equal(c.slots[2], 4);
    assert_true(c.two_level && c.exact_combine);
    assert_true(near(c.rank_link.bandwidth, 3e9) && near(c.node_link.latency, 1e-6));
    assert_true(near(c.token_expert, 1e-6) && near(c.active_expert, 2e-6));
    assert_true(near(c.dense_step, 3e-6) && near(c.dense_token, 4e-6));
    assert_true(near(c.dispatch_bytes, 5) && near(c.combine_bytes, 6));
    assert_true(near(c.kv_bytes, 7) && near(c.expert_bytes, 8) && near(c.migration_share, 0.5));

    assert_int_equal(cluster_parse(rates, sizeof rates - 1, "dir/f", &DIMS, 7, 1, &c, &err), 0);
    assert_string_equal(c.name, "f");
    assert_int_equal(c.slots[1], 5);
    assert_true(near(c.token_expert, 6. * 100 * 10 / 1e9));
    assert_true(near(c.expert_bytes, 3. * 100 * 10 * 2));
    assert_true(near(c.active_expert, 3. * 100 * 10 * 2 / 1e8));
    assert_true(near(c.dense_step, 7e3 / 1e8) && near(c.dense_token, 5e3 / 1e9));
    assert_true(near(c.dispatch_bytes, 416) && near(c.combine_bytes, 400) && near(c.kv_bytes, 77));
    assert_true(near(c.node_link.bandwidth, 1e9)); /* cannot be used: as the other */

    assert_int_equal(cluster_parse(some, sizeof some - 1, "f", &DIMS, 7, 1, &c, &err), 0);
    assert_true(near(c.dense_step, 0.25) && near(c.dense_token, 5e3 / 1e9));
}

static void test_refused(void **unused)
{
    static const struct {
        const char *text, *error;
    } CASES[] = {
        {"7", "f: line 1, column 1: '[' or '{' expected near '7'"},
        {"[]", "f: expected an object, found an array"},
        {"{\"rank_lnk\":1}", "f: rank_lnk: expected a field of a cluster (nodes, ranks_per_node, "
                             "rank_link, flops, ...), found this"},
        {"{}", "f: expected one of ranks_per_node and node_of_rank, found neither"},
        {"{\"ranks_per_node\":2,\"node_of_rank\":[0]}",
         "f: expected one of ranks_per_node and node_of_rank, found both"},
        {"{\"nodes\":3,\"ranks_per_node\":86}", "f: ranks_per_node: expected 1 to 85, found 86"},
        {"{\"node_of_rank\":[0,2]}", "f: node_of_rank: rank 1: expected 0 or the next, found 2"},
        {"{\"node_of_rank\":[1,1]}", "f: node_of_rank: rank 0: expected 0, found 1"},
        {"{\"node_of_rank\":[0,1,0]}", "f: node_of_rank: rank 2: expected 1 or the next, found 0"},
        {"{\"nodes\":3,\"node_of_rank\":[0,1]}",
         "f: nodes: expected 2, as the ranks have, found 3"},
        {"{\"node_of_rank\":[0,\"1\"]}",
         "f: node_of_rank: rank 1: expected an integer, found a string"},
        {"{\"node_of_rank\":[]}", "f: node_of_rank: expected 1 to 256 ranks, found 0"},
        {"{\"ranks_per_node\":2}", "f: rank_link: expected an object, found nothing"},
        {"{\"ranks_per_node\":2,\"nodes\":2,\"rank_link\":" LINK "}",
         "f: node_link: expected an object for 2 nodes, found nothing"},
        {"{\"ranks_per_node\":2,\"rank_link\":1}",
         "f: rank_link: expected an object, found an integer"},
        {"{\"ranks_per_node\":2,\"rank_link\":{\"bandwidth\":1}}",
         "f: rank_link: expected bandwidth and latency, found no latency"},
        {"{\"ranks_per_node\":2,\"rank_link\":{\"bandwidth\":0,\"latency\":0}}",
         "f: rank_link: bandwidth: expected 1 to 1e+21, found 0"},
        {"{\"ranks_per_node\":2,\"rank_link\":{\"width\":0}}",
         "f: rank_link: width: expected bandwidth and latency only, found this"},
        {"{" RANKS ",\"two_level\":1}", "f: two_level: expected true or false, found an integer"},
        {"{" RANKS ",\"migration_share\":1.5}",
         "f: migration_share: expected 1e-09 to 1, found 1.5"},
        {"{" RANKS ",\"flops\":\"1\"}", "f: flops: expected a number, found a string"},
        {"{" RANKS ",\"kv_bytes\":-1}", "f: kv_bytes: expected 0 to 1e+15, found -1"},
        {"{" RANKS ",\"slots\":[1]}", "f: slots: expected 2, one for each rank, found 1"},
        {"{" RANKS ",\"slots\":true}", "f: slots: expected an integer or an array, found true"},
        {"{" RANKS ",\"slots\":[1,-1]}", "f: slots: rank 1: expected 0 to 1024, found -1"},
        {"{" RANKS ",\"name\":3}", "f: name: expected a string, found an integer"},
        {"{" RANKS ",\"slots\":2," COSTS "}",
         "f: slots: expected none beside 1 spare ones, found some: give one of the two"},
        {"{" RANKS ",\"flops\":1e9,\"dispatch_bytes\":1,\"combine_bytes\":1,\"kv_bytes\":1,"
         "\"expert_bytes\":1,\"dense_step_seconds\":0,\"dense_token_seconds\":0}",
         "f: expected token_expert_seconds, active_expert_seconds in a cluster file: the sizes of "
         "this model are not known, so that rates do not give them"},
    };
    static const char no_memory[] = "{" RANKS ",\"flops\":1e9}";
    struct cluster c = {.ranks = 77};
    struct mt_err err;

    (void)unused;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        assert_int_equal(
            cluster_parse(CASES[i].text, strlen(CASES[i].text), "f", NULL, 8, 1, &c, &err),
            MT_EINVAL);
        assert_string_equal(err.text, CASES[i].error);
        assert_int_equal(c.ranks, 77);
    }
    assert_int_equal(cluster_parse(no_memory, sizeof no_memory - 1, "f", &DIMS, 8, 1, &c, &err),
                     MT_EINVAL);
    assert_string_equal(err.text, "f: expected active_expert_seconds, dense_step_seconds in a "
                                  "cluster file, or flops and memory_bandwidth, which give them");
}

static void test_spec_refused(void **unused)
{
    static const struct {
        const char *spec, *error;
    } CASES[] = {
        {"h200x", "h200x: expected 1 to 256 ranks in all, as in h200xN"},
        {"h200x0", "h200x0: expected 1 to 256 ranks"},
        {"h200x8x", "h200x8x: expected 1 to 256 ranks"},
        {"h200x8x2x2", "h200x8x2x2: expected 1 to 256 ranks"},
        {"h200x8x33", "h200x8x33: expected 1 to 256 ranks"},
        {"h100x99999999999999999999", "h100x99999999999999999999: expected 1 to 256 ranks"},
        {"cpu:4x2", "cpu:4x2: expected 1 to 256 ranks"},
        {"nic:-1", "nic:-1: expected 1 to 256 ranks"},
        {"tpu", "tpu: expected a preset (h200xN, h200xNxM, h100xN, h100xNxM, nic:N, ethernet:N, "
                "cpu:N) or the path of a JSON file"},
        {"", ": expected a preset"},
        {"none.json", "none.json: No such file"},
    };
    struct cluster c = {.ranks = 77};
    struct mt_err err;

    (void)unused;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        assert_true(cluster_read(CASES[i].spec, &DIMS, 8, 0, &c, &err) < 0);
        assert_memory_equal(err.text, CASES[i].error, strlen(CASES[i].error));
        assert_int_equal(c.ranks, 77);
    }
    assert_int_equal(cluster_read("tpu", &DIMS, 8, 0, &c, NULL), MT_ENOTFOUND);
    assert_int_equal(cluster_read("h200x8", NULL, 8, 0, &c, &err), MT_EINVAL);
    assert_non_null(strstr(err.text, "h200x8: expected token_expert_seconds, "));
    assert_non_null(strstr(cluster_presets(), "h200xNxM"));
}

static void test_read(void **unused)
{
    static const char text[] = "{" RANKS "," COSTS "}";
    char path[] = "/tmp/test-cluster-XXXXXX";
    struct cluster c;
    struct mt_err err;
    int fd = mkstemp(path);

    (void)unused;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    assert_int_equal(cluster_read(path, NULL, 8, 0, &c, &err), 0);
    assert_int_equal(c.ranks, 2);
    assert_int_equal(c.slots[0], 4);
    unlink(path);
}

/* cluster_check names the field of each number that is out of range. */
static void test_check(void **unused)
{
    static const char text[] = "{" RANKS "," COSTS "}";
    struct cluster good, c;
    struct mt_err err;

    (void)unused;
    assert_int_equal(cluster_parse(text, sizeof text - 1, "f", NULL, 8, 0, &good, &err), 0);
#define REFUSED(change, field) \
    do { \
        c = good; \
        change; \
        assert_int_equal(cluster_check(&c, &err), MT_EINVAL); \
        assert_non_null(strstr(err.text, "cluster: " field ": expected")); \
    } while (0)
    REFUSED(c.ranks = 0, "ranks");
    REFUSED(c.ranks = 257, "ranks");
    REFUSED(c.nodes = 2, "nodes");
    REFUSED(c.node[1] = 5, "node_of_rank: rank 1");
    REFUSED(c.token_expert = 0, "token_expert_seconds");
    REFUSED(c.active_expert = (double)NAN, "active_expert_seconds");
    REFUSED(c.dense_step = (double)INFINITY, "dense_step_seconds");
    REFUSED(c.rank_link.bandwidth = 0, "rank_link: bandwidth");
    REFUSED(c.node_link.latency = -1, "node_link: latency");
    REFUSED(c.migration_share = 0, "migration_share");
    REFUSED(c.slots[1] = 5000, "slots: rank 1");
    REFUSED(memset(c.name, 'x', sizeof c.name), "name");
#undef REFUSED
}

static void test_mutations(void **unused)
{
    static const char text[] =
        "{\"nodes\":2,\"ranks_per_node\":2,\"rank_link\":" LINK ",\"node_link\":" LINK
        ",\"slots\":[3,4,5,6],\"flops\":1e9," COSTS "}";
    struct random r = {3};
    uint32_t accepted = 0;
    struct mt_err err;

    (void)unused;
    for (int round = 0; round < 20000; round++) {
        char changed[sizeof text];
        struct cluster c;

        memcpy(changed, text, sizeof text);
        for (uint32_t n = random_below(&r, 4); n; n--)
            changed[random_below(&r, sizeof text - 1)] =
                (char)(random_below(&r, 3) ? '0' + random_below(&r, 10) : random_below(&r, 256));
        if (cluster_parse(changed,
                          random_below(&r, 8) ? sizeof text - 1 : random_below(&r, sizeof text),
                          "f", NULL, 8, 0, &c, &err))
            continue;
        assert_int_equal(cluster_check(&c, &err), 0);
        accepted++;
    }
    assert_true(accepted > 1000 && accepted < 19000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_presets),      cmocka_unit_test(test_rates),
        cmocka_unit_test(test_file),         cmocka_unit_test(test_refused),
        cmocka_unit_test(test_spec_refused), cmocka_unit_test(test_read),
        cmocka_unit_test(test_check),        cmocka_unit_test(test_mutations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
