/* Text output against brute force: decode everything so far, cut at the first stop string, hold
 * back what may become one. Tokens are random bytes over a small alphabet, characters cut anywhere,
 * so that stop strings occur often. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/textout.h"
#include "daemon/utf8.h"

#define VOCAB 24
#define SPECIAL 20 /* and above: not shown */
#define EOS 23
#define MAX_TOKENS 60

struct fake_vocab {
    uint8_t bytes[VOCAB][8];
    size_t len[VOCAB];
};

static const uint8_t *fake_bytes(const void *user, int32_t token, size_t *ret_len)
{
    const struct fake_vocab *v = user;

    if (token < 0 || token >= SPECIAL)
        return NULL;
    *ret_len = v->len[token];
    return v->bytes[token];
}

/* One of a, b, e-acute, euro sign, an emoji, or (rarely) a stray byte. */
static size_t random_char(char *out)
{
    static const char *const chars[] = {"a", "b", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    const char *c = chars[rand() % 5];

    if (rand() % 40 == 0) {
        out[0] = (char)(0x80 + rand() % 0x80);
        return 1;
    }
    memcpy(out, c, strlen(c));
    return strlen(c);
}

static void random_vocab(struct fake_vocab *v)
{
    char text[512];
    size_t n = 0, at = 0;
    int i;

    while (n < 400)
        n += random_char(text + n);
    for (i = 0; i < VOCAB;
         i++) { /* a long text, cut anywhere: the pieces often fit together again */
        v->len[i] = (size_t)(rand() % 5);
        memcpy(v->bytes[i], text + at, v->len[i]);
        at += v->len[i];
    }
}

static void random_stops(struct request_params *p, char text[REQUEST_MAX_STOPS][64])
{
    uint32_t i;
    size_t n;
    int k;

    p->n_stops = (uint32_t)(rand() % 4);
    for (i = 0; i < p->n_stops; i++) {
        do {
            for (n = 0, k = 1 + rand() % 4; k; k--)
                n += random_char(text[i] + n);
        } while (utf8_check((uint8_t *)text[i], n) != n);
        p->stops[i].text = text[i];
        p->stops[i].len = n;
    }
}

/* Offset behind the first stop string to be completed, and its start; false: none. */
static bool first_stop(const struct request_params *p, const struct buf *text, size_t *start,
                       size_t *end)
{
    uint32_t i;

    for (*end = 1; *end <= text->len; ++*end) {
        for (*start = 0; *start < *end; ++*start)
            for (i = 0; i < p->n_stops; i++)
                if (p->stops[i].len == *end - *start &&
                    !memcmp(text->data + *start, p->stops[i].text, p->stops[i].len))
                    return true;
    }
    return false;
}

/* How much of a text with no whole stop string may be shown while more may follow. */
static size_t may_show(const struct request_params *p, const struct buf *text)
{
    size_t at;
    uint32_t i;

    for (at = 0; at < text->len; at++)
        for (i = 0; i < p->n_stops; i++)
            if (text->len - at < p->stops[i].len &&
                !memcmp(text->data + at, p->stops[i].text, text->len - at))
                return at;
    return text->len;
}

static void decode(const struct fake_vocab *v, const int32_t *tokens, int n, bool whole,
                   struct buf *out)
{
    struct detok d = {{0}, 0};
    int i;

    buf_reset(out);
    for (i = 0; i < n; i++)
        if (tokens[i] < SPECIAL)
            detok_push(&d, v->bytes[tokens[i]], v->len[tokens[i]], out);
    if (whole)
        detok_flush(&d, out);
}

static void assert_text(const struct buf *text, const struct buf *want, size_t n)
{
    assert_int_equal(text->len, n);
    assert_true(!n || !memcmp(text->data, want->data, n));
    assert_int_equal(utf8_check(text->data, text->len), text->len);
}

static void one_sequence(const struct fake_vocab *v, const struct textout_rules *rules)
{
    const struct request_params *p = rules->params;
    int32_t tokens[MAX_TOKENS];
    struct buf text, all;
    struct textout t;
    enum textout_verdict verdict = TEXTOUT_GO;
    size_t start, end, at, n_before;
    int n;

    buf_init(&text, 1 << 20);
    buf_init(&all, 1 << 20);
    textout_init(&t, rules);
    for (n = 0; n < MAX_TOKENS && verdict == TEXTOUT_GO; n++) {
        tokens[n] = rand() % 30 ? rand() % (EOS - 1) : EOS;
        decode(v, tokens, n, false, &all);
        n_before = all.len;
        assert_int_equal(textout_push(&t, tokens[n], &text, &at, &verdict), 0);
        assert_int_equal(at, n_before);
        decode(v, tokens, n + 1, false, &all);
        if (tokens[n] == EOS && !p->ignore_eos) {
            assert_int_equal(verdict, TEXTOUT_STOP_EOS);
        } else if (first_stop(p, &all, &start, &end)) {
            assert_int_equal(verdict, TEXTOUT_STOP);
            assert_text(&text, &all, p->include_stop ? end : start);
        } else {
            assert_int_equal(verdict, TEXTOUT_GO);
            assert_text(&text, &all, may_show(p, &all));
        }
    }
    if (verdict == TEXTOUT_GO)
        assert_int_equal(textout_flush(&t, &text), 0);
    if (verdict != TEXTOUT_STOP) {
        decode(v, tokens, n, true, &all);
        if (!first_stop(p, &all, &start, &end))
            start = end = all.len;
        assert_text(&text, &all, p->include_stop ? end : start);
    }
    textout_done(&t);
    buf_done(&text);
    buf_done(&all);
}

static void test_against_brute_force(void **state)
{
    static const int32_t eos[] = {777, EOS};
    char stops[REQUEST_MAX_STOPS][64];
    struct fake_vocab v;
    struct textout_vocab vocab = {&v, fake_bytes};
    struct request_params params = {.n = 1};
    struct textout_rules rules = {&vocab, &params, eos, 2};
    int round;

    (void)state;
    srand(11);
    for (round = 0; round < 1500; round++) {
        if (round % 10 == 0)
            random_vocab(&v);
        random_stops(&params, stops);
        params.include_stop = rand() % 2;
        params.ignore_eos = rand() % 3 == 0;
        one_sequence(&v, &rules);
    }
}

/* A stop token ends the text without a text of its own, and is obeyed where end-of-sequence is not.
 */
static void test_stop_tokens(void **state)
{
    struct request_params params = {.ignore_eos = true, .n_stop_tokens = 1, .stop_tokens = {21}};
    struct fake_vocab v = {.bytes = {"hi"}, .len = {2}};
    struct textout_vocab vocab = {&v, fake_bytes};
    int32_t eos = EOS;
    struct textout_rules rules = {&vocab, &params, &eos, 1};
    enum textout_verdict verdict;
    struct textout t;
    struct buf text;
    size_t at;

    (void)state;
    buf_init(&text, 100);
    textout_init(&t, &rules);
    assert_int_equal(textout_push(&t, EOS, &text, &at, &verdict), 0);
    assert_int_equal(verdict, TEXTOUT_GO);
    assert_int_equal(textout_push(&t, 0, &text, &at, &verdict), 0);
    assert_int_equal(at, 0);
    assert_int_equal(textout_push(&t, 21, &text, &at, &verdict), 0);
    assert_int_equal(verdict, TEXTOUT_STOP);
    assert_int_equal(at, 2);
    assert_int_equal(text.len, 2);
    textout_done(&t);
    buf_done(&text);
}

/* Without a vocabulary there is no text, and the tokens that stop still do. */
static void test_no_vocab(void **state)
{
    struct request_params params = {.n = 1};
    int32_t eos = EOS;
    struct textout_rules rules = {NULL, &params, &eos, 1};
    enum textout_verdict verdict;
    struct textout t;
    struct buf text;
    size_t at;

    (void)state;
    buf_init(&text, 100);
    textout_init(&t, &rules);
    assert_int_equal(textout_push(&t, 1, &text, &at, &verdict), 0);
    assert_int_equal(verdict, TEXTOUT_GO);
    assert_int_equal(textout_push(&t, EOS, &text, &at, &verdict), 0);
    assert_int_equal(verdict, TEXTOUT_STOP_EOS);
    assert_int_equal(text.len, 0);
    textout_done(&t);
    buf_done(&text);
}

/* A text over its cap is an error, not a cut text. */
static void test_cap(void **state)
{
    struct request_params params = {.n = 1};
    struct fake_vocab v = {.bytes = {"hi"}, .len = {2}};
    struct textout_vocab vocab = {&v, fake_bytes};
    struct textout_rules rules = {&vocab, &params, NULL, 0};
    enum textout_verdict verdict;
    struct textout t;
    struct buf text;
    size_t at;

    (void)state;
    buf_init(&text, 3);
    textout_init(&t, &rules);
    assert_int_equal(textout_push(&t, 0, &text, &at, &verdict), 0);
    assert_int_equal(textout_push(&t, 0, &text, &at, &verdict), MT_ELIMIT);
    textout_done(&t);
    buf_done(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_brute_force),
        cmocka_unit_test(test_stop_tokens),
        cmocka_unit_test(test_no_vocab),
        cmocka_unit_test(test_cap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
