/* The tokenizer and the chat templates when each allocation fails in turn, jansson's and PCRE2's
 * too, and when threads share a tokenizer. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/file.h"
#include "daemon/chat.h"
#include "daemon/tokenizer.h"

#define SMALL "tests/fuzz/corpus/tokenizer/split"
#define MAX_ALLOCATIONS 100000

static const char text[] = "Hello <x> aa l\xcc\xa7\xcc\x81 caf\xc3\xa9's \xe1\xb2\x89 123 end";

/* Allocations that still succeed; negative: all do. Sanitizers bring an allocator of their own. */
static long allowed = -1;

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#if defined(__has_feature)
#if !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer)
#define FAULTS 1
#endif
#else
#define FAULTS 1
#endif
#endif

#ifdef FAULTS
/* glibc's own names of what is replaced below.
 * NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);
/* NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */

static bool denied(void)
{
    return allowed == 0 || (allowed > 0 && allowed-- == 0);
}

void *malloc(size_t size)
{
    return denied() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    return denied() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    return denied() ? NULL : __libc_realloc(old, size);
}
#endif

static void *const untouched = (void *)1;

/* jansson now and then takes a failed allocation for a syntax error. */
static bool refused(int status)
{
    return status == MT_ENOMEM || status == MT_EINVAL;
}

static void need_faults(void)
{
#ifndef FAULTS
    skip();
#endif
}

static void test_load(void **state)
{
    struct tokenizer *t = untouched;
    struct mt_err err = {0};
    char *json = NULL;
    size_t len = 0;
    long n;
    int status = -1;

    (void)state;
    need_faults();
    assert_int_equal(file_read(SMALL, 1 << 20, &json, &len, &err), 0);
    for (n = 0; status && n < MAX_ALLOCATIONS; n++) {
        allowed = n;
        status = tokenizer_parse(json, len, "FILE", &t, &err);
        allowed = -1;
        assert_true(status == 0 || (refused(status) && t == untouched));
    }
    assert_int_equal(status, 0);
    assert_true(n > 100);
    tokenizer_free(t);
    free(json);
}

static void test_encode(void **state)
{
    struct tokenizer *t = NULL;
    struct mt_err err = {0};
    int32_t *ids = untouched;
    size_t count = 0;
    long n;
    int status = -1;

    (void)state;
    need_faults();
    assert_int_equal(tokenizer_load(SMALL, &t, &err), 0);
    for (n = 0; status && n < MAX_ALLOCATIONS; n++) {
        allowed = n;
        status = tokenizer_encode(t, text, sizeof(text) - 1, 3, 1000, &ids, &count, &err);
        allowed = -1;
        assert_true(status == 0 || (status == MT_ENOMEM && ids == untouched));
    }
    assert_int_equal(status, 0);
    assert_true(n > 5);
    free(ids);
    tokenizer_free(t);
}

static void test_chat(void **state)
{
    static const char config[] =
        "{\"bos_token\": \"<s>\", \"chat_template\": \"{% for message in messages %}"
        "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\"}";
    struct chat_template *c = untouched;
    struct mt_err err = {0};
    long n;
    int status = -1;

    (void)state;
    need_faults();
    for (n = 0; status && n < MAX_ALLOCATIONS; n++) {
        allowed = n;
        status = chat_parse(config, sizeof(config) - 1, "FILE", &c, &err);
        allowed = -1;
        assert_true(status == 0 || (refused(status) && c == untouched));
    }
    assert_int_equal(status, 0);
    assert_string_equal(chat_name(c), "chatml");
    chat_free(c);
}

struct sharer {
    const struct tokenizer *t;
    const int32_t *expected;
    size_t n;
    atomic_int wrong;
};

static void *encode_often(void *argument)
{
    struct sharer *s = argument;
    struct mt_err err;
    int32_t *ids;
    size_t n;
    int i;

    for (i = 0; i < 50; i++) {
        if (tokenizer_encode(s->t, text, sizeof(text) - 1, 3, 1000, &ids, &n, &err)) {
            s->wrong++;
            continue;
        }
        s->wrong += n != s->n || memcmp(ids, s->expected, n * sizeof(*ids));
        free(ids);
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct sharer s = {0};
    struct tokenizer *t = NULL;
    struct mt_err err = {0};
    pthread_t threads[4];
    int32_t *ids = NULL;
    int i;

    (void)state;
    assert_int_equal(tokenizer_load(SMALL, &t, &err), 0);
    assert_int_equal(tokenizer_encode(t, text, sizeof(text) - 1, 3, 1000, &ids, &s.n, &err), 0);
    s.t = t;
    s.expected = ids;
    for (i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, &s), 0);
    for (i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(s.wrong, 0);
    free(ids);
    tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_encode),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
