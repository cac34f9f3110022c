/* The safetensors reader against files built here by hand, one of them broken in each known way,
 * and against a file that the format's reference library wrote (tests/golden). */
#include "api/safetensors.h"

#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define GOLDEN "tests/golden/mixtral/"

struct image {
    uint8_t bytes[4096];
    size_t len;
};

/* A file of the given header and `data` bytes 0, 1, 2, ... after it. */
static struct image make(const char *header, size_t data)
{
    struct image m = {.len = 8 + strlen(header) + data};

    assert_true(m.len <= sizeof m.bytes);
    for (unsigned i = 0; i < 8; i++)
        m.bytes[i] = (uint8_t)(strlen(header) >> (8 * i));
    memcpy(m.bytes + 8, header, strlen(header));
    for (size_t i = 0; i < data; i++)
        m.bytes[8 + strlen(header) + i] = (uint8_t)i;
    return m;
}

/* Parses a copy of exactly len bytes, so that the address sanitizer sees every read past them. */
static int parse(const uint8_t *bytes, size_t len, uint8_t **copy, struct safetensors **ret,
                 struct mt_err *err)
{
    *copy = malloc(len ? len : 1);
    assert_non_null(*copy);
    memcpy(*copy, bytes, len);
    return safetensors_parse(*copy, len, "x.safetensors", ret, err);
}

static const char GOOD[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[8,16]},"
    "\"a\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[0,6]},"
    "\"empty\":{\"dtype\":\"I64\",\"shape\":[4,0],\"data_offsets\":[8,8]},"
    "\"scalar\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[16,17],\"later\":\"key\"}}   ";

static void test_reads_what_is_there(void **state)
{
    struct image m = make(GOOD, 20);
    struct safetensors *f = NULL;
    struct mt_err err;
    uint8_t *copy;
    static const char *const ORDER[] = {"a", "empty", "b", "scalar"};
    const struct safetensors_tensor *t;

    (void)state;
    assert_int_equal(parse(m.bytes, m.len, &copy, &f, &err), 0);
    assert_string_equal(safetensors_name(f), "x.safetensors");
    assert_int_equal(safetensors_count(f), 4);
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(safetensors_at(f, i)->name, ORDER[i]);
        assert_ptr_equal(safetensors_find(f, ORDER[i]), safetensors_at(f, i));
    }
    assert_null(safetensors_at(f, 4));
    assert_null(safetensors_find(f, "__metadata__"));
    assert_null(safetensors_find(f, ""));
    t = safetensors_find(f, "b");
    assert_int_equal(t->dtype, SAFETENSORS_F32);
    assert_int_equal(t->dims, 2);
    assert_int_equal(t->shape[0], 2);
    assert_int_equal(t->shape[1], 1);
    assert_int_equal(t->bytes, 8);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(((const uint8_t *)t->data)[i], 8 + i);
    t = safetensors_find(f, "scalar");
    assert_int_equal(t->dims, 0);
    assert_int_equal(t->bytes, 1);
    assert_int_equal(*(const uint8_t *)t->data, 16);
    safetensors_close(f);
    free(copy);
}

static void test_get_names_both_sides(void **state)
{
    struct image m = make(GOOD, 20);
    struct safetensors *f = NULL;
    struct mt_err err;
    uint8_t *copy;
    const struct safetensors_tensor *t = NULL;
    unsigned floats = SAFETENSORS_SET(F32) | SAFETENSORS_SET(BF16);

    (void)state;
    assert_int_equal(parse(m.bytes, m.len, &copy, &f, &err), 0);
    assert_int_equal(safetensors_get(f, "b", floats, 2, (uint64_t[]){2, 1}, &t, &err), 0);
    assert_ptr_equal(t, safetensors_find(f, "b"));
    t = NULL;
    assert_int_equal(safetensors_get(f, "b", floats, 2, (uint64_t[]){1, 2}, &t, &err), MT_EINVAL);
    assert_string_equal(err.text,
                        "x.safetensors: tensor b: expected BF16|F32 [1, 2], found F32 [2, 1]");
    assert_int_equal(safetensors_get(f, "b", floats, 1, (uint64_t[]){2}, &t, &err), MT_EINVAL);
    assert_string_equal(err.text,
                        "x.safetensors: tensor b: expected BF16|F32 [2], found F32 [2, 1]");
    assert_int_equal(safetensors_get(f, "a", SAFETENSORS_SET(F32), 1, (uint64_t[]){3}, &t, &err),
                     MT_EINVAL);
    assert_string_equal(err.text, "x.safetensors: tensor a: expected F32 [3], found BF16 [3]");
    assert_int_equal(safetensors_get(f, "c", SAFETENSORS_SET(F32), 0, NULL, &t, &err),
                     MT_ENOTFOUND);
    assert_string_equal(err.text, "x.safetensors: tensor c: expected F32 [], found no such tensor");
    assert_null(t);
    safetensors_close(f);
    free(copy);
}

#define ONE(dtype, shape, offsets) \
    "{\"t\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(a, b) \
    "{\"p\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" a "}," \
    "\"q\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" b "}}"

/* Every header stands before 8 bytes of data. */
static const struct {
    const char *header, *message;
    int status;
} BROKEN[] = {
    {"", "expected a JSON object", MT_EINVAL},
    {"[]", "expected a JSON object", MT_EINVAL},
    {" {}", "expected a JSON object", MT_EINVAL},
    {"{", "header: byte 1", MT_EINVAL},
    {"{}x", "end of file expected", MT_EINVAL},
    {"{\"a\nb\":{}}", "header: byte ", MT_EINVAL},
    {ONE("\"U\\n8\"", "[1]", "[0,1]"), "unknown dtype \"U?8\"", MT_EUNSUPPORTED},
    {"{\"t\":1}", "tensor t: expected an object", MT_EINVAL},
    {"{\"t\":{}}", "tensor t: expected a text in \"dtype\"", MT_EINVAL},
    {"{\"__metadata__\":[]}", "__metadata__: expected an object", MT_EINVAL},
    {"{\"\":{}}", "name is empty", MT_EINVAL},
    {"{\"a\\u0000b\":{}}", "\\u0000", MT_EINVAL},
    {"{\"a\\nb\":{}}", "control characters", MT_EINVAL},
    {"{\"a\":{\"dtype\":\"\xff\"}}", "byte 0xff", MT_EINVAL},
    {ONE("7", "[1]", "[0,1]"), "expected a text in \"dtype\"", MT_EINVAL},
    {ONE("\"F128\"", "[1]", "[0,1]"), "unknown dtype \"F128\"", MT_EUNSUPPORTED},
    {ONE("\"f32\"", "[1]", "[0,4]"), "unknown dtype \"f32\"", MT_EUNSUPPORTED},
    {ONE("\"U8\"", "4", "[0,4]"), "array of at most 8 sizes", MT_EINVAL},
    {ONE("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), "array of at most 8 sizes", MT_EINVAL},
    {ONE("\"U8\"", "[-1]", "[0,1]"), "whole number >= 0 in \"shape\"[0]", MT_EINVAL},
    {ONE("\"U8\"", "[1,1.0]", "[0,1]"), "whole number >= 0 in \"shape\"[1]", MT_EINVAL},
    {ONE("\"U8\"", "[\"1\"]", "[0,1]"), "whole number >= 0 in \"shape\"[0]", MT_EINVAL},
    {ONE("\"U8\"", "[null]", "[0,1]"), "whole number >= 0 in \"shape\"[0]", MT_EINVAL},
    {ONE("\"U8\"", "[9223372036854775808]", "[0,1]"), "integer", MT_EINVAL},
    {ONE("\"F32\"", "[4611686018427387904,4]", "[0,0]"), "overflows", MT_EINVAL},
    {ONE("\"U8\"", "[4294967296,4294967296]", "[0,0]"), "overflows", MT_EINVAL},
    {ONE("\"U8\"", "[4]", "[0]"), "\"data_offsets\" [begin, end]", MT_EINVAL},
    {ONE("\"U8\"", "[4]", "[0,4,8]"), "\"data_offsets\" [begin, end]", MT_EINVAL},
    {ONE("\"U8\"", "[4]", "{}"), "\"data_offsets\" [begin, end]", MT_EINVAL},
    {ONE("\"U8\"", "[4]", "[4,0]"), "\"data_offsets\" [begin, end]", MT_EINVAL},
    {ONE("\"U8\"", "[4]", "[-4,0]"), "\"data_offsets\" [begin, end]", MT_EINVAL},
    {ONE("\"U8\"", "[4]", "[0,4.0]"), "\"data_offsets\" [begin, end]", MT_EINVAL},
    {ONE("\"U8\"", "[4]", "[true,4]"), "\"data_offsets\" [begin, end]", MT_EINVAL},
    {ONE("\"U8\"", "[4]", "[5,9]"), "bytes end at 9, but the file has 8", MT_EINVAL},
    {ONE("\"U8\"", "[9]", "[0,9]"), "bytes end at 9, but the file has 8", MT_EINVAL},
    {ONE("\"U8\"", "[4]", "[9223372036854775803,9223372036854775807]"), "the file has 8",
     MT_EINVAL},
    {ONE("\"U8\"", "[4]", "[0,5]"), "tensor t: expected 4 bytes for its shape and dtype, found 5",
     MT_EINVAL},
    {ONE("\"F32\"", "[4]", "[0,4]"), "tensor t: expected 16 bytes", MT_EINVAL},
    {TWO("[0,4]", "[3,7]"), "tensor q: its bytes begin at 3, inside tensor p", MT_EINVAL},
    {TWO("[3,7]", "[0,4]"), "tensor p: its bytes begin at 3, inside tensor q", MT_EINVAL},
    {TWO("[2,6]", "[2,6]"), "begin at 2, inside tensor", MT_EINVAL},
    {"{\"t\":{},\"t\":{}}", "duplicate", MT_EINVAL},
    {"{\"t\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", "duplicate", MT_EINVAL},
};

static void test_refuses_broken_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof BROKEN / sizeof *BROKEN; i++) {
        struct image m = make(BROKEN[i].header, 8);
        struct safetensors *f = NULL;
        struct mt_err err = {0};
        uint8_t *copy;
        int rc = parse(m.bytes, m.len, &copy, &f, &err);

        if (rc != BROKEN[i].status || f || err.status != rc || strchr(err.text, '\n') ||
            !strstr(err.text, BROKEN[i].message) || strncmp(err.text, "x.safetensors: ", 15))
            fail_msg("%s: status %d, text \"%s\"", BROKEN[i].header, rc, err.text);
        free(copy);
    }
}

/* A tensor's name may have 256 bytes. */
static void test_caps_names(void **state)
{
    (void)state;
    for (int n = 256; n <= 257; n++) {
        char header[512];
        struct image m;
        struct safetensors *f = NULL;
        struct mt_err err;
        uint8_t *copy;
        int rc;

        snprintf(header, sizeof header,
                 "{\"%0*d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", n, 0);
        m = make(header, 1);
        rc = parse(m.bytes, m.len, &copy, &f, &err);
        assert_int_equal(rc, n == 256 ? 0 : MT_EINVAL);
        safetensors_close(f);
        free(copy);
    }
}

/* Cut anywhere, the file is refused: its last tensor ends at its end. */
static void test_refuses_every_truncation(void **state)
{
    struct image m = make(GOOD, 17);

    (void)state;
    for (size_t len = 0; len < m.len; len++) {
        struct safetensors *f = NULL;
        struct mt_err err = {0};
        uint8_t *copy;
        int rc = parse(m.bytes, len, &copy, &f, &err);

        assert_true(rc < 0);
        assert_null(f);
        assert_true(*err.text);
        free(copy);
    }
}

static void test_refuses_long_headers(void **state)
{
    struct image m = make(GOOD, 17);
    struct safetensors *f = NULL;
    struct mt_err err;
    uint8_t *copy;

    (void)state;
    memset(m.bytes, 0xff, 8);
    assert_int_equal(parse(m.bytes, m.len, &copy, &f, &err), MT_ELIMIT);
    free(copy);
    memset(m.bytes, 0, 8);
    m.bytes[3] = SAFETENSORS_MAX_HEADER >> 24;
    assert_int_equal(parse(m.bytes, m.len, &copy, &f, &err), MT_EINVAL);
    assert_non_null(strstr(err.text, "truncated?"));
    free(copy);
}

static void test_reads_a_file_of_the_reference_library(void **state)
{
    struct safetensors *f = NULL;
    struct mt_err err;
    const struct safetensors_tensor *t;
    int32_t token;

    (void)state;
    if (safetensors_open(GOLDEN "golden.safetensors", &f, &err))
        fail_msg("%s", err.text);
    assert_int_equal(safetensors_count(f), 9);
    assert_int_equal(
        safetensors_get(f, "logits_1", SAFETENSORS_SET(F32), 2, (uint64_t[]){17, 384}, &t, &err),
        0);
    assert_int_equal(
        safetensors_get(f, "prompt_2", SAFETENSORS_SET(I32), 1, (uint64_t[]){61}, &t, &err), 0);
    for (size_t i = 0; i < 61; i++) {
        memcpy(&token, (const char *)t->data + 4 * i, sizeof token);
        assert_in_range(token, 3, 383);
    }
    safetensors_close(f);
}

static void test_open_refuses_what_is_no_file(void **state)
{
    struct safetensors *f = NULL;
    struct mt_err err;
    char dir[] = "/tmp/safetensors.XXXXXX", path[64];
    int fd;

    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(safetensors_open(dir, &f, &err), MT_EINVAL);
    assert_non_null(strstr(err.text, "regular file"));
    snprintf(path, sizeof path, "%s/f", dir);
    assert_int_equal(safetensors_open(path, &f, &err), MT_ENOTFOUND);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(mkfifo(path, 0600), 0); /* without a writer: must not wait for one */
    assert_int_equal(safetensors_open(path, &f, &err), MT_EINVAL);
    assert_int_equal(unlink(path), 0);
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    assert_int_equal(safetensors_open(path, &f, &err), MT_EINVAL); /* empty */
    assert_int_equal(write(fd, "\2\0\0\0\0\0\0\0{}", 10), 10);
    assert_int_equal(close(fd), 0);
    assert_null(f);
    assert_int_equal(safetensors_open(path, &f, &err), 0);
    assert_int_equal(safetensors_count(f), 0);
    safetensors_close(f);
    safetensors_close(NULL);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
}

static unsigned allowed; /* allocations of jansson that still succeed */

static void *scarce(size_t size)
{
    return allowed && allowed-- ? malloc(size) : NULL;
}

/* Each allocation of the JSON parser fails in turn: an error, no leak, nothing half-built. */
static void test_survives_failed_allocations(void **state)
{
    struct image m = make(GOOD, 17);
    unsigned n = 0;
    int rc = MT_ENOMEM;

    (void)state;
    json_set_alloc_funcs(scarce, free);
    for (; rc && n < 1000; n++) {
        struct safetensors *f = NULL;
        struct mt_err err = {0};
        uint8_t *copy;

        allowed = n;
        rc = parse(m.bytes, m.len, &copy, &f, &err);
        if (rc) {
            assert_null(f);
            assert_int_equal(err.status, rc);
        } else {
            assert_int_equal(safetensors_count(f), 4);
        }
        safetensors_close(f);
        free(copy);
    }
    json_set_alloc_funcs(malloc, free);
    assert_int_equal(rc, 0);
    assert_true(n > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_what_is_there),
        cmocka_unit_test(test_get_names_both_sides),
        cmocka_unit_test(test_refuses_broken_headers),
        cmocka_unit_test(test_caps_names),
        cmocka_unit_test(test_refuses_every_truncation),
        cmocka_unit_test(test_refuses_long_headers),
        cmocka_unit_test(test_reads_a_file_of_the_reference_library),
        cmocka_unit_test(test_open_refuses_what_is_no_file),
        cmocka_unit_test(test_survives_failed_allocations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
