#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/request.h"

static const struct request_params good = {
    .max_tokens = 4, .temperature = 1, .top_p = 1, .n = 2, .n_logprobs = -1};

static struct request *make(const struct request_params *p)
{
    int32_t *prompt = calloc(3, sizeof(*prompt));
    struct request *r = NULL;

    assert_non_null(prompt);
    assert_int_equal(request_new("chatcmpl", p, prompt, 3, &r, NULL), 0);
    return r;
}

static void test_ids_and_seeds(void **state)
{
    struct request_params p = good;
    struct request *a = make(&p), *b = make(&p), *c;

    (void)state;
    assert_int_equal(strncmp(a->id, "chatcmpl-", 9), 0);
    assert_string_not_equal(a->id, b->id);
    assert_true(a->params.seed != b->params.seed);
    p.has_seed = true;
    p.seed = 0;
    c = make(&p);
    assert_true(c->params.seed == 0);
    assert_int_equal(c->choices[1].finish, FINISH_NONE);
    request_unref(a);
    request_unref(b);
    request_unref(c);
    request_unref(NULL);
}

static void test_references(void **state)
{
    struct request *r = make(&good);

    (void)state;
    assert_ptr_equal(request_ref(r), r);
    request_unref(r);
    assert_int_equal(r->n_prompt, 3);
    request_unref(r);
}

/* Each of these is refused; prompt and stop texts stay the caller's. */
static void test_refused(void **state)
{
    struct request_params bad[14];
    static char stop[] = "x", not_utf8[] = "\xc3";
    int32_t prompt[1] = {1};
    struct request *r = NULL;
    struct mt_err err;
    size_t i;

    (void)state;
    for (i = 0; i < 14; i++)
        bad[i] = good;
    bad[0].n = 0;
    bad[1].n = REQUEST_MAX_CHOICES + 1;
    bad[2].temperature = -1;
    bad[3].temperature = NAN;
    bad[4].temperature = INFINITY;
    bad[5].top_p = 0;
    bad[6].top_p = 1.5f;
    bad[7].top_k = -1;
    bad[8].n_logprobs = 21;
    bad[9].n_stops = 1;
    bad[9].stops[0].text = stop;
    bad[9].stops[0].len = 0;
    bad[10].n_stops = 1;
    bad[10].stops[0].text = not_utf8;
    bad[10].stops[0].len = 1;
    bad[11].n_stops = REQUEST_MAX_STOPS + 1;
    bad[12].deadline_ms = -1;
    bad[13].min_p = NAN;
    for (i = 0; i < 14; i++) {
        assert_int_equal(request_new("cmpl", &bad[i], prompt, 1, &r, &err), MT_EINVAL);
        assert_null(r);
        assert_true(strlen(err.text) > 0);
    }
    assert_int_equal(request_new("cmpl", &good, prompt, 0, &r, &err), MT_EINVAL);
    assert_int_equal(
        request_new("a prefix that is far too long for it", &good, prompt, 1, &r, &err), MT_EINVAL);
    assert_null(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids_and_seeds),
        cmocka_unit_test(test_references),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
