/* JSON without jansson, compared with jansson's; and jansson without memory. */
#include "daemon/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Below whatever the library notes: set before its first use. */
static int allocations_left = -1; /* -1: all */

static void *sparing_malloc(size_t size)
{
    if (!allocations_left)
        return NULL;
    allocations_left -= allocations_left > 0;
    return malloc(size);
}

/* However an allocation fails, the text is refused as that, and never taken with bytes missing. */
static void test_out_of_memory(void **state)
{
    struct mt_err err;
    struct buf text;
    json_t *root = NULL;
    int status = MT_ENOMEM;

    (void)state;
    buf_init(&text, 100000);
    buf_puts(&text, "{\"a\":[1,2.5,null],\"b\":{\"c\":\"");
    for (int i = 0; i < 5000; i++)
        buf_puts(&text, "x\\n");
    buf_puts(&text, "\"}}");
    for (int n = 0; status; n++) {
        allocations_left = n;
        status = json_read(text.data, text.len, 10, &root, &err);
        allocations_left = -1;
        if (status)
            assert_int_equal(status, MT_ENOMEM);
        assert_true(n < 1000);
    }
    assert_int_equal(json_string_length(json_object_get(json_object_get(root, "b"), "c")), 10000);
    json_decref(root);
    assert_int_equal(json_read((const uint8_t *)"{\"a\"", 4, 10, &root, &err), MT_EINVAL);
    buf_done(&text);
}

static void check_text(const void *bytes, size_t len)
{
    json_t *value = json_text(bytes, len);
    char *dumped = json_dumps(value, JSON_ENCODE_ANY);
    struct buf ours, theirs;

    assert_non_null(dumped);
    buf_init(&ours, 10000);
    buf_init(&theirs, 10000);
    json_put_text(&ours, bytes, len);
    buf_puts(&theirs, dumped);
    if (ours.len != theirs.len || memcmp(ours.data, theirs.data, ours.len) != 0)
        fail_msg("%.*s and %.*s", (int)ours.len, ours.data, (int)theirs.len, theirs.data);
    free(dumped);
    json_decref(value);
    buf_done(&ours);
    buf_done(&theirs);
}

static void test_text_as_jansson(void **state)
{
    static const char *const PIECES[] = {"a",
                                         "\"",
                                         "\\",
                                         "\n",
                                         "\xc3\xa9",
                                         "\xe2\x82\xac",
                                         "\xe2",
                                         "\x82",
                                         "\xf0\x9f\x98\x80",
                                         "\xed\xa0\x80",
                                         "/",
                                         "\x7f"};
    uint32_t r = 3;

    (void)state;
    check_text("", 0);
    for (int c = 0; c < 256; c++)
        check_text((uint8_t[]){(uint8_t)c}, 1);
    for (int round = 0; round < 5000; round++) {
        char text[200];
        size_t len = 0;

        for (uint32_t i = round % 20; i; i--) {
            const char *piece;

            r = r * 1664525u + 1013904223u;
            piece = PIECES[(r >> 16) % (sizeof PIECES / sizeof *PIECES)];
            memcpy(text + len, piece, strlen(piece));
            len += strlen(piece);
            if (r >> 28 == 0)
                text[len++] = (char)((r >> 8) & 0x1f);
        }
        check_text(text, len);
    }
}

static void test_int(void **state)
{
    static const int64_t VALUES[] = {0, 1, 9, 10, -1, 4294967296, INT64_MAX, INT64_MIN};
    char expected[32];
    struct buf out;

    (void)state;
    for (size_t i = 0; i < sizeof VALUES / sizeof *VALUES; i++) {
        buf_init(&out, 100);
        json_put_int(&out, VALUES[i]);
        snprintf(expected, sizeof expected, "%lld", (long long)VALUES[i]);
        assert_int_equal(out.len, strlen(expected));
        assert_memory_equal(out.data, expected, out.len);
        buf_done(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_text_as_jansson),
        cmocka_unit_test(test_int),
    };

    json_set_alloc_funcs(sparing_malloc, free);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
