/* The tokenizer: golden ids of the `tokenizers` package (tests/golden/tokenizer/tiny.json), a naive
 * merger as oracle on random vocabularies, decoding cut anywhere, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "daemon/tokenizer.h"
#include "daemon/utf8.h"

#define BUNDLED "models/tiny/tokenizer.json"
#define MAX_TEXT 64

static uint64_t rng = 88172645463325252u;

static uint32_t rnd(uint32_t n)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)((rng >> 11) % n);
}

static struct tokenizer *bundled(void)
{
    struct tokenizer *t = NULL;
    struct mt_err err = {0};

    if (tokenizer_load(BUNDLED, &t, &err))
        fail_msg("%s", err.text);
    return t;
}

/* --- golden ------------------------------------------------------------------------------------
 */

/* Pushes the bytes of the ids in pieces of random length. */
static char *decode_in_pieces(const struct tokenizer *t, const int32_t *ids, size_t n)
{
    struct detok detok = {0};
    struct buf out;
    size_t i, at, len = 0, step;

    buf_init(&out, 1 << 20);
    for (i = 0; i < n; i++) {
        const uint8_t *bytes = tokenizer_bytes(t, ids[i], &len);

        assert_non_null(bytes);
        for (at = 0; at < len; at += step) {
            step = 1 + rnd(3);
            step = step < len - at ? step : len - at;
            assert_int_equal(detok_push(&detok, bytes + at, step, &out), 0);
        }
    }
    assert_int_equal(detok_flush(&detok, &out), 0);
    return buf_steal(&out);
}

static void check_golden(const struct tokenizer *t, const json_t *one)
{
    const json_t *text = json_object_get(one, "text"), *expected = json_object_get(one, "ids");
    size_t i, n = 0, len = json_string_length(text);
    struct mt_err err = {0};
    int32_t *ids = NULL;
    struct buf out;
    char *pieces;

    assert_int_equal(tokenizer_encode(t, json_string_value(text), len, TOKENIZER_PARSE_SPECIAL,
                                      1 << 20, &ids, &n, &err),
                     0);
    assert_int_equal(n, json_array_size(expected));
    for (i = 0; i < n; i++)
        assert_int_equal(ids[i], json_integer_value(json_array_get(expected, i)));
    buf_init(&out, 1 << 20);
    assert_int_equal(tokenizer_decode(t, ids, n, false, &out, &err), 0);
    assert_int_equal(out.len, len);
    pieces = decode_in_pieces(t, ids, n);
    if (len) {
        assert_memory_equal(out.data, json_string_value(text), len);
        assert_memory_equal(pieces, json_string_value(text), len);
    }
    free(pieces);
    free(ids);
    buf_done(&out);
}

static void test_golden(void **state)
{
    json_t *cases = json_load_file("tests/golden/tokenizer/tiny.json", JSON_ALLOW_NUL, NULL);
    struct tokenizer *t = bundled();
    size_t i;

    (void)state;
    assert_true(json_array_size(cases) > 90);
    for (i = 0; i < json_array_size(cases); i++)
        check_golden(t, json_array_get(cases, i));
    json_decref(cases);
    tokenizer_free(t);
}

static void test_specials(void **state)
{
    static const char text[] = "a<|im_end|>";
    struct tokenizer *t = bundled();
    int32_t *ids, end = tokenizer_id(t, "<|im_end|>");
    struct mt_err err;
    struct buf out;
    size_t n, len;

    (void)state;
    assert_int_equal(tokenizer_vocab(t), 8192);
    assert_int_equal(end, 2);
    assert_int_equal(tokenizer_id(t, "a"), -1);
    assert_true(tokenizer_special(t, end));
    assert_false(tokenizer_special(t, 100));
    assert_false(tokenizer_special(t, -1));
    assert_false(tokenizer_special(t, 8192));
    assert_null(tokenizer_bytes(t, -1, &len));
    assert_null(tokenizer_bytes(t, 8192, &len));
    assert_int_equal(
        tokenizer_encode(t, text, strlen(text), TOKENIZER_PARSE_SPECIAL, 10, &ids, &n, &err), 0);
    assert_int_equal(n, 2);
    assert_int_equal(ids[1], end);
    buf_init(&out, 100);
    assert_int_equal(tokenizer_decode(t, ids, n, true, &out, &err), 0);
    assert_int_equal(out.len, 1);
    free(ids);
    assert_int_equal(tokenizer_encode(t, text, strlen(text), 0, 10, &ids, &n, &err), 0);
    assert_true(n > 2);
    while (n)
        assert_int_not_equal(ids[--n], end);
    ids[0] = 8192;
    assert_int_equal(tokenizer_decode(t, ids, 1, true, &out, &err), MT_EINVAL);
    free(ids);
    buf_done(&out);
    tokenizer_free(t);
}

/* --- limits ------------------------------------------------------------------------------------
 */

static void test_limits(void **state)
{
    static const char *const bad[] = {"ab\xff", "ab\xc3", "ab\xc0\x80", "ab\xed\xa0\x80",
                                      "ab\xf4\x90\x80\x80"};
    struct tokenizer *t = bundled();
    int32_t *ids = NULL;
    struct mt_err err = {0};
    size_t i, n = 7, exact = 0;
    char *big;

    (void)state;
    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(tokenizer_encode(t, bad[i], strlen(bad[i]), 0, 10, &ids, &n, &err),
                         MT_EINVAL);
        assert_non_null(strstr(err.text, "offset 2"));
    }
    assert_int_equal(tokenizer_encode(t, "a b c d", 7, 0, 3, &ids, &n, &err), MT_ELIMIT);
    big = malloc(TOKENIZER_MAX_INPUT + 1);
    assert_non_null(big);
    memset(big, 'a', TOKENIZER_MAX_INPUT + 1);
    assert_int_equal(tokenizer_encode(t, big, TOKENIZER_MAX_INPUT + 1, 0, SIZE_MAX, &ids, &n, &err),
                     MT_ELIMIT);
    assert_null(ids);
    assert_int_equal(n, 7);
    /* One piece of a mebibyte: hopeless if merging, or splitting, were quadratic. */
    assert_int_equal(tokenizer_encode(t, big, 1 << 20, 0, 1 << 20, &ids, &n, &err), 0);
    assert_in_range(n, 1, 1 << 19);
    free(ids);
    memset(big, ' ', 1 << 20);
    assert_int_equal(tokenizer_encode(t, big, 1 << 20, 0, 1 << 20, &ids, &n, &err), 0);
    free(ids);
    /* A limit is found out before the merging, but never too early. */
    assert_int_equal(tokenizer_encode(t, big, 1 << 20, 0, n, &ids, &exact, &err), 0);
    assert_int_equal(exact, n);
    free(ids);
    assert_int_equal(tokenizer_encode(t, big, 1 << 20, 0, n - 1, &ids, &exact, &err), MT_ELIMIT);
    assert_int_equal(tokenizer_encode(t, big, 1 << 20, 0, 2, &ids, &exact, &err), MT_ELIMIT);
    assert_non_null(strstr(err.text, "more than 2 tokens"));
    free(big);
    assert_int_equal(tokenizer_encode(t, "", 0, 0, 0, &ids, &n, &err), 0);
    assert_int_equal(n, 0);
    free(ids);
    tokenizer_free(t);
}

/* --- tokenizers made here ----------------------------------------------------------------------
 */

/* The character that stands for a byte in the byte-level alphabet. */
static void alphabet(unsigned byte, char out[3])
{
    static const unsigned gaps[][2] = {{0, 0x21}, {0x7f, 0xa1}, {0xad, 0xae}};
    unsigned i, cp = byte, before = 0;

    for (i = 0; i < 3; before += gaps[i][1] - gaps[i][0], i++)
        if (byte >= gaps[i][0] && byte < gaps[i][1])
            cp = 0x100 + before + byte - gaps[i][0];
    out[0] = (char)(cp < 0x80 ? cp : 0xc0 | cp >> 6);
    out[1] = (char)(cp < 0x80 ? 0 : 0x80 | (cp & 0x3f));
    out[2] = 0;
}

/* A tokenizer.json with all bytes (as ids) and nothing else. */
static json_t *base(void)
{
    json_t *vocab = json_object(), *root;
    unsigned byte;
    char key[3];

    for (byte = 0; byte < 256; byte++) {
        alphabet(byte, key);
        json_object_set_new(vocab, key, json_integer(byte));
    }
    root = json_pack("{s:n, s:{s:s, s:b, s:b}, s:{s:s}, s:[], s:{s:s, s:o, s:[]}}", "normalizer",
                     "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 0,
                     "decoder", "type", "ByteLevel", "added_tokens", "model", "type", "BPE",
                     "vocab", vocab, "merges");
    assert_non_null(root);
    assert_int_equal(json_object_size(vocab), 256);
    return root;
}

static int parse(const json_t *root, struct tokenizer **ret, struct mt_err *err)
{
    char *text = json_dumps(root, 0);
    int status;

    assert_non_null(text);
    status = tokenizer_parse(text, strlen(text), "FILE", ret, err);
    free(text);
    return status;
}

/* --- merging against an oracle -----------------------------------------------------------------
 */

struct rule {
    int left, right, id;
};

/* The definition: again and again the first pair of the least rank becomes one. */
static size_t merge_naively(const struct rule *rules, size_t n_rules, int32_t *ids, size_t n)
{
    size_t r, i;

    for (r = 0; r < n_rules; r++) {
        for (i = 0; i + 1 < n; i++)
            if (ids[i] == rules[r].left && ids[i + 1] == rules[r].right)
                break;
        if (i + 1 >= n)
            continue;
        ids[i] = rules[r].id;
        memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof(*ids));
        n--;
        r = SIZE_MAX; /* from the least rank again */
    }
    return n;
}

/* Random merges over "abc", each making a new string. */
static size_t random_rules(json_t *root, struct rule *rules, size_t n)
{
    json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    json_t *merges = json_object_get(model, "merges");
    char text[256][80] = {"a", "b", "c"}, joined[160];
    int ids[256] = {'a', 'b', 'c'};
    size_t made = 0, tries;

    for (tries = 0; tries < 50 * n && made < n; tries++) {
        uint32_t a = rnd(3 + (uint32_t)made), b = rnd(3 + (uint32_t)made);

        snprintf(joined, sizeof(joined), "%s%s", text[a], text[b]);
        if (strlen(joined) > 12 || json_object_get(vocab, joined))
            continue;
        rules[made] = (struct rule){ids[a], ids[b], 256 + (int)made};
        json_object_set_new(vocab, joined, json_integer(256 + (int)made));
        json_array_append_new(merges, made % 2 ? json_pack("[ss]", text[a], text[b])
                                               : json_sprintf("%s %s", text[a], text[b]));
        strcpy(text[3 + made], joined);
        ids[3 + made] = 256 + (int)made;
        made++;
    }
    return made;
}

static void test_merges(void **state)
{
    int round, k;

    (void)state;
    for (round = 0; round < 60; round++) {
        json_t *root = base();
        struct rule rules[40];
        size_t n_rules = random_rules(root, rules, 1 + rnd(40)), i, n, len;
        struct tokenizer *t = NULL;
        struct mt_err err = {0};

        if (parse(root, &t, &err))
            fail_msg("%s", err.text);
        for (k = 0; k < 100; k++) {
            int32_t expected[MAX_TEXT], *ids = NULL;
            char text[MAX_TEXT];

            len = 1 + rnd(MAX_TEXT);
            for (i = 0; i < len; i++)
                expected[i] = text[i] = (char)('a' + rnd(3));
            assert_int_equal(tokenizer_encode(t, text, len, 0, MAX_TEXT, &ids, &n, &err), 0);
            assert_int_equal(n, merge_naively(rules, n_rules, expected, len));
            assert_memory_equal(ids, expected, n * sizeof(*ids));
            free(ids);
        }
        tokenizer_free(t);
        json_decref(root);
    }
}

/* --- decoding ----------------------------------------------------------------------------------
 */

static void check_detok(const char *bytes, const char *expected)
{
    size_t n = strlen(bytes), cut;

    for (cut = 0; cut <= n; cut++) {
        struct detok detok = {0};
        struct buf out;
        char *text;

        buf_init(&out, 1000);
        detok_push(&detok, (const uint8_t *)bytes, cut, &out);
        detok_push(&detok, (const uint8_t *)bytes + cut, n - cut, &out);
        assert_int_equal(detok_flush(&detok, &out), 0);
        text = buf_steal(&out);
        assert_string_equal(text, expected);
        free(text);
    }
}

#define BAD "\xef\xbf\xbd"

/* The examples of the Unicode standard, section 3.9 (tables 3-8 to 3-11). */
static void test_replacement(void **state)
{
    (void)state;
    check_detok("\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64",
                "a" BAD BAD BAD "b" BAD "c" BAD BAD "d");
    check_detok("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", BAD BAD BAD BAD BAD BAD BAD BAD "A");
    check_detok("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", BAD BAD BAD BAD BAD BAD BAD BAD "A");
    check_detok("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", BAD BAD BAD BAD BAD "A" BAD BAD "B");
    check_detok("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", BAD BAD BAD BAD "A");
    check_detok("\xf0\x9f\x98\x80 \xe4\xb8\xad", "\xf0\x9f\x98\x80 \xe4\xb8\xad");
    check_detok("\xe4\xb8", BAD);
}

static void test_detok_any_bytes(void **state)
{
    int round;

    (void)state;
    for (round = 0; round < 3000; round++) {
        static const uint8_t pool[] = {'a',  0x80, 0xbf, 0xc2, 0xe0, 0xa0,
                                       0xed, 0xf0, 0x90, 0xf4, 0xff};
        uint8_t bytes[MAX_TEXT];
        struct detok whole = {0}, cut = {0};
        struct buf a, b;
        size_t n = 1 + rnd(MAX_TEXT - 1), i;

        buf_init(&a, 1000);
        buf_init(&b, 1000);
        for (i = 0; i < n; i++) {
            bytes[i] = pool[rnd(sizeof(pool))];
            detok_push(&cut, bytes + i, 1, &b);
            assert_int_equal(utf8_check(b.data ? b.data : bytes, b.len), b.len);
        }
        detok_push(&whole, bytes, n, &a);
        assert_int_equal(detok_flush(&whole, &a), 0);
        assert_int_equal(detok_flush(&cut, &b), 0);
        assert_int_equal(a.len, b.len);
        assert_memory_equal(a.data, b.data, a.len);
        assert_int_equal(utf8_check(a.data, a.len), a.len);
        buf_done(&a);
        buf_done(&b);
    }
}

/* --- what is refused ---------------------------------------------------------------------------
 */

struct refusal {
    const char *field; /* of the root, or of the model after "model." */
    const char *json;  /* what is put there */
    int status;
    const char *text;
};

#define SPLIT(PATTERN) \
    "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"behavior\": " \
    "\"Isolated\", \"pattern\": {\"Regex\": \"" PATTERN "\"}}, {\"type\": \"ByteLevel\", " \
    "\"add_prefix_space\": false, \"use_regex\": false}]}"

#define ADDED(REST) "[{\"id\": 256, \"content\": \"<x>\"" REST "}]"

static const struct refusal refusals[] = {
    {"normalizer", "{\"type\": \"NFKC\"}", MT_EUNSUPPORTED, "\"NFKC\""},
    {"normalizer", "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Replace\"}]}",
     MT_EUNSUPPORTED, "\"Replace\""},
    {"pre_tokenizer", "null", MT_EUNSUPPORTED, "pre_tokenizer"},
    {"pre_tokenizer", "{\"type\": \"Metaspace\"}", MT_EUNSUPPORTED, "\"Metaspace\""},
    {"pre_tokenizer", "{\"type\": \"Sequence\", \"pretokenizers\": []}", MT_EUNSUPPORTED,
     "ByteLevel"},
    {"pre_tokenizer",
     "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"behavior\": "
     "\"Removed\"}, {\"type\": \"ByteLevel\"}]}",
     MT_EUNSUPPORTED, "\"Removed\""},
    {"pre_tokenizer", SPLIT("a|"), MT_EUNSUPPORTED, "match nothing"},
    {"pre_tokenizer", SPLIT("\\\\w+"), MT_EUNSUPPORTED, "\\w+"},
    {"pre_tokenizer", SPLIT("^a"), MT_EUNSUPPORTED, "anchor"},
    {"pre_tokenizer", SPLIT("\\\\p{Han}+"), MT_EUNSUPPORTED, "\\p{Han}"},
    {"pre_tokenizer", SPLIT("a{1,3}+"), MT_EUNSUPPORTED, "after a count"},
    {"pre_tokenizer", SPLIT("a{,3}"), MT_EUNSUPPORTED, "brace"},
    {"pre_tokenizer", SPLIT("(?i:straße)"), MT_EUNSUPPORTED, "(?i: )"},
    {"pre_tokenizer", SPLIT("(?i:is|first)"), MT_EUNSUPPORTED, "pair of letters"},
    {"pre_tokenizer", SPLIT("(?i)a"), MT_EUNSUPPORTED, "group"},
    {"pre_tokenizer", SPLIT("[a&&b]"), MT_EUNSUPPORTED, "class within"},
    {"pre_tokenizer", SPLIT("[[:alpha:]]"), MT_EUNSUPPORTED, "class within"},
    {"pre_tokenizer", SPLIT("[a"), MT_EUNSUPPORTED, "without end"},
    {"pre_tokenizer", SPLIT("[]a]"), MT_EUNSUPPORTED, "empty class"},
    {"pre_tokenizer", SPLIT("(a"), MT_EUNSUPPORTED, "parenthesis"},
    {"pre_tokenizer", SPLIT("a)"), MT_EUNSUPPORTED, "parenthesis"},
    {"pre_tokenizer", SPLIT("a\\\\"), MT_EUNSUPPORTED, "escape"},
    {"pre_tokenizer", SPLIT("\\\\p{L}|[\u2ff0-\u2fff]"), MT_EUNSUPPORTED, "Unicode 14"},
    {"pre_tokenizer", SPLIT("(?<=a+)b"), MT_EINVAL, "split pattern"},
    {"post_processor", "{\"type\": \"BertProcessing\"}", MT_EUNSUPPORTED, "\"BertProcessing\""},
    {"post_processor", "{\"type\": \"TemplateProcessing\", \"single\": []}", MT_EUNSUPPORTED,
     "Sequence A"},
    {"post_processor",
     "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"b\"}}], "
     "\"special_tokens\": {\"b\": {\"ids\": [256]}}}",
     MT_EINVAL, "0 .. 255"},
    {"decoder", "null", MT_EUNSUPPORTED, "decoder"},
    {"decoder", "{\"type\": \"WordPiece\"}", MT_EUNSUPPORTED, "\"WordPiece\""},
    {"added_tokens", "{}", MT_EINVAL, "added_tokens"},
    {"added_tokens", "[{\"id\": 256, \"content\": \"\"}]", MT_EUNSUPPORTED, "0 bytes"},
    {"added_tokens", "[{\"id\": 300, \"content\": \"<x>\"}]", MT_EUNSUPPORTED, "expected 256"},
    {"added_tokens", "[{\"id\": 256, \"content\": \"a\"}]", MT_EUNSUPPORTED, "expected 97"},
    {"added_tokens", ADDED(", \"single_word\": true"), MT_EUNSUPPORTED, "single_word"},
    {"added_tokens", ADDED(", \"special\": 1"), MT_EINVAL, "special"},
    {"added_tokens", "[{\"id\": 256, \"content\": \"x1\"}, {\"id\": 257, \"content\": \"x1\"}]",
     MT_EINVAL, "twice"},
    {"added_tokens",
     "[{\"id\": 256, \"content\": \"x1\", \"rstrip\": true}, {\"id\": 257, \"content\": \" y\"}]",
     MT_EUNSUPPORTED, "rstrip"},
    {"model", "5", MT_EINVAL, "model"},
    {"model.type", "\"Unigram\"", MT_EUNSUPPORTED, "\"Unigram\""},
    {"model.byte_fallback", "true", MT_EUNSUPPORTED, "byte_fallback"},
    {"model.dropout", "0.1", MT_EUNSUPPORTED, "dropout"},
    {"model.end_of_word_suffix", "\"</w>\"", MT_EUNSUPPORTED, "end_of_word_suffix"},
    {"model.continuing_subword_prefix", "\"##\"", MT_EUNSUPPORTED, "continuing_subword_prefix"},
    {"model.vocab", "{}", MT_EINVAL, "model.vocab"},
    {"model.vocab", "{\"a\": 0}", MT_EUNSUPPORTED, "the byte 0x00"},
    {"model.vocab", "{\"a\": -1}", MT_EINVAL, "\"a\""},
    {"model.vocab", "{\"a\": 4194304}", MT_EINVAL, "\"a\""},
    {"model.vocab", "{\"a\": \"b\"}", MT_EINVAL, "\"a\""},
    {"model.vocab", "{\"a\": 1, \"b\": 1}", MT_EINVAL, "twice"},
    {"model.merges", "{}", MT_EINVAL, "model.merges"},
    {"model.merges", "[\"ab\"]", MT_EINVAL, "model.merges[0]"},
    {"model.merges", "[\"a b c\"]", MT_EINVAL, "model.merges[0]"},
    {"model.merges", "[[\"a\", 5]]", MT_EINVAL, "model.merges[0]"},
    {"model.merges", "[\"a b\"]", MT_EINVAL, "not in the vocabulary"},
};

static void test_refused(void **state)
{
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        const struct refusal *r = &refusals[i];
        bool in_model = !strncmp(r->field, "model.", 6);
        json_t *root = base(), *value = json_loads(r->json, JSON_DECODE_ANY, NULL);
        struct tokenizer *t = NULL;
        struct mt_err err = {0};

        assert_non_null(value);
        json_object_set_new(in_model ? json_object_get(root, "model") : root,
                            r->field + (in_model ? 6 : 0), value);
        if (parse(root, &t, &err) != r->status)
            fail_msg("%s = %s: status %d, %s", r->field, r->json, err.status, err.text);
        if (!strstr(err.text, r->text) || !strstr(err.text, "FILE"))
            fail_msg("%s = %s: %s", r->field, r->json, err.text);
        assert_null(t);
        json_decref(root);
    }
}

static void test_not_json(void **state)
{
    struct tokenizer *t = NULL;
    struct mt_err err = {0};

    (void)state;
    assert_int_equal(tokenizer_parse("{", 1, "FILE", &t, &err), MT_EINVAL);
    assert_int_equal(tokenizer_parse("[]", 2, "FILE", &t, &err), MT_EINVAL);
    assert_int_equal(tokenizer_load("/nonexistent", &t, &err), MT_ENOTFOUND);
    assert_int_equal(tokenizer_load("/", &t, &err), MT_EINVAL);
    assert_null(t);
}

/* A pattern that tries all ways to read a run of "a" is stopped, not waited for. */
static void test_split_is_bounded(void **state)
{
    json_t *root = base();
    struct tokenizer *t = NULL;
    struct mt_err err = {0};
    int32_t *ids = NULL;
    char text[200];
    size_t n = 0;

    (void)state;
    json_object_set_new(root, "pre_tokenizer", json_loads(SPLIT("(?:a|aa)+[bc]"), 0, NULL));
    assert_int_equal(parse(root, &t, &err), 0);
    memset(text, 'a', sizeof(text));
    assert_int_equal(tokenizer_encode(t, text, sizeof(text), 0, 1000, &ids, &n, &err), MT_ELIMIT);
    assert_null(ids);
    text[sizeof(text) - 1] = 'b';
    assert_int_equal(tokenizer_encode(t, text, sizeof(text), 0, 1000, &ids, &n, &err), 0);
    assert_int_equal(n, sizeof(text));
    free(ids);
    tokenizer_free(t);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),           cmocka_unit_test(test_specials),
        cmocka_unit_test(test_limits),           cmocka_unit_test(test_merges),
        cmocka_unit_test(test_replacement),      cmocka_unit_test(test_detok_any_bytes),
        cmocka_unit_test(test_refused),          cmocka_unit_test(test_not_json),
        cmocka_unit_test(test_split_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
