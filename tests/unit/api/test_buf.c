/* The capped buffer against a plain array that is handled with memmove, over random operations. */
#include "api/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/status.h"

static uint32_t random_state;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)random_state * n) >> 32);
}

#define CAP 1000

struct oracle {
    uint8_t bytes[CAP];
    size_t len;
    int status;
};

static void oracle_append(struct oracle *o, const void *bytes, size_t n)
{
    if (o->status)
        return;
    if (n > CAP - o->len) {
        o->status = MT_ELIMIT;
        return;
    }
    memcpy(o->bytes + o->len, bytes, n);
    o->len += n;
}

static void one_operation(struct buf *b, struct oracle *o)
{
    uint8_t bytes[400];
    char text[64];
    uint32_t n = random_below(random_below(2) ? 400 : 20);

    for (uint32_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)random_below(256);
    switch (random_below(6)) {
    case 0:
    case 1:
        oracle_append(o, bytes, n);
        assert_int_equal(buf_append(b, bytes, n), o->status);
        break;
    case 2: {
        uint8_t *at = buf_grow(b, n);

        oracle_append(o, bytes, n);
        assert_int_equal(at == NULL, o->status != 0);
        if (at)
            memcpy(at, bytes, n);
        break;
    }
    case 3:
        snprintf(text, sizeof text, "%*d|%s", (int)(n % 50), -7, "x");
        oracle_append(o, text, strlen(text));
        assert_int_equal(buf_printf(b, "%*d|%s", (int)(n % 50), -7, "x"), o->status);
        break;
    case 4: {
        size_t k = n < o->len ? n : o->len;

        memmove(o->bytes, o->bytes + k, o->len - k);
        o->len -= k;
        buf_consume(b, n);
        break;
    }
    default:
        if (random_below(4) && !o->status)
            break;
        o->len = 0;
        o->status = 0;
        buf_reset(b);
    }
}

static void test_equals_an_array(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 200; seed++) {
        struct oracle o = {.len = 0};
        struct buf b;

        random_state = seed;
        buf_init(&b, CAP);
        for (int i = 0; i < 200; i++) {
            one_operation(&b, &o);
            assert_int_equal(b.status, o.status);
            assert_int_equal(b.len, o.len);
            assert_true(b.alloc <= CAP + 1);
            if (o.len)
                assert_memory_equal(b.data, o.bytes, o.len);
        }
        buf_done(&b);
    }
}

static void test_failure_sticks_until_reset(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, 4);
    assert_int_equal(buf_puts(&b, "abcd"), 0);
    assert_int_equal(buf_puts(&b, ""), 0);
    assert_int_equal(buf_puts(&b, "e"), MT_ELIMIT);
    buf_consume(&b, 4);
    assert_int_equal(buf_puts(&b, "e"), MT_ELIMIT);
    assert_int_equal(buf_printf(&b, "%d", 1), MT_ELIMIT);
    assert_null(buf_grow(&b, 0));
    assert_null(buf_steal(&b));
    buf_reset(&b);
    assert_int_equal(buf_puts(&b, "e"), 0);
    buf_done(&b);
}

static void test_huge_requests_are_refused(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, SIZE_MAX / 4);
    assert_int_equal(buf_puts(&b, "x"), 0);
    assert_null(buf_grow(&b, SIZE_MAX));
    assert_int_equal(b.status, MT_ELIMIT);
    buf_reset(&b);
    assert_null(buf_grow(&b, SIZE_MAX / 4)); /* within the cap, beyond any memory */
    assert_int_equal(b.status, MT_ENOMEM);
    assert_int_equal(b.len, 0);
    buf_done(&b);
}

static void test_steal_ends_text_and_empties(void **state)
{
    struct buf b;
    char *text;

    (void)state;
    buf_init(&b, 10);
    assert_int_equal(buf_append(&b, "0123456789", 10), 0); /* the NUL goes beyond the cap */
    text = buf_steal(&b);
    assert_string_equal(text, "0123456789");
    free(text);
    assert_int_equal(b.len, 0);
    text = buf_steal(&b);
    assert_string_equal(text, "");
    free(text);
    assert_int_equal(buf_puts(&b, "again"), 0);
    buf_done(&b);
    buf_done(&b);
    buf_done(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_an_array),
        cmocka_unit_test(test_failure_sticks_until_reset),
        cmocka_unit_test(test_huge_requests_are_refused),
        cmocka_unit_test(test_steal_ends_text_and_empties),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
