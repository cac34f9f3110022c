/* What the bodies of calls mean, and what is said about wrong ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/params.h"

static const struct limits LIMITS = {.prompts = 4,
                                     .choices = 8,
                                     .sequences = 16,
                                     .stops = 3,
                                     .stop_bytes = 10,
                                     .stop_tokens = 12,
                                     .logprobs = 5,
                                     .messages = 3,
                                     .json_depth = 6};

static bool parse(const char *body, bool chat, struct call *c, struct problem *p)
{
    *c = (struct call){0};
    *p = (struct problem){0};
    return call_parse((const uint8_t *)body, strlen(body), chat, &LIMITS, c, p);
}

static void test_defaults(void **state)
{
    struct problem p;
    struct call c;

    (void)state;
    assert_true(parse("{\"prompt\": \"abc\"}", false, &c, &p));
    assert_int_equal(c.n_prompts, 1);
    assert_int_equal(c.prompts[0].len, 3);
    assert_null(c.model);
    assert_false(c.has_max_tokens);
    assert_true(c.params.temperature == 1 && c.params.top_p == 1 && c.params.min_p == 0);
    assert_int_equal(c.params.top_k, 0);
    assert_int_equal(c.params.n, 1);
    assert_int_equal(c.params.n_logprobs, -1);
    assert_false(c.params.has_seed || c.params.ignore_eos || c.params.include_stop);
    assert_false(c.echo || c.stream || c.include_usage || c.return_token_ids);
    assert_true(c.add_special);
    call_done(&c);
}

static void test_everything(void **state)
{
    struct problem p;
    struct call c;

    (void)state;
    assert_true(parse(
        "{\"model\":\"m\",\"prompt\":[\"a\",\"bc\"],\"max_tokens\":7,\"temperature\":0.5,\"top_p\":"
        "0.25,"
        "\"top_k\":3,\"min_p\":0.125,\"seed\":-5,\"stop\":[\"x\",\"\\u00e9\"],\"n\":2,\"best_of\":"
        "2,"
        "\"logprobs\":4,\"echo\":true,\"stream\":true,\"stream_options\":{\"include_usage\":true},"
        "\"ignore_eos\":true,\"return_token_ids\":true,\"include_stop_str_in_output\":true,"
        "\"stop_token_ids\":[5,6],\"add_special_tokens\":false,\"user\":\"u\",\"nobody_knows\":[1]"
        "}",
        false, &c, &p));
    assert_string_equal(c.model, "m");
    assert_int_equal(c.n_prompts, 2);
    assert_int_equal(c.params.max_tokens, 7);
    assert_true(c.has_max_tokens);
    assert_true(c.params.temperature == 0.5f && c.params.top_p == 0.25f &&
                c.params.min_p == 0.125f);
    assert_int_equal(c.params.top_k, 3);
    assert_true(c.params.has_seed && c.params.seed == (uint64_t)-5);
    assert_int_equal(c.n_stops, 2);
    assert_int_equal(c.stops[1].len, 2);
    assert_int_equal(c.params.n, 2);
    assert_int_equal(c.params.n_logprobs, 4);
    assert_true(c.params.prompt_logprobs && c.params.ignore_eos && c.params.include_stop);
    assert_int_equal(c.params.n_stop_tokens, 2);
    assert_int_equal(c.params.stop_tokens[1], 6);
    assert_true(c.echo && c.stream && c.include_usage && c.return_token_ids && !c.add_special);
    call_done(&c);
}

static void test_prompt_forms(void **state)
{
    struct problem p;
    struct call c;

    (void)state;
    assert_true(parse("{\"prompt\":[5,0,2147483647]}", false, &c, &p));
    assert_int_equal(c.n_prompts, 1);
    assert_int_equal(c.prompts[0].n_ids, 3);
    assert_int_equal(c.prompts[0].ids[2], 2147483647);
    call_done(&c);
    assert_true(parse("{\"prompt\":[[1],[2,3]]}", false, &c, &p));
    assert_int_equal(c.n_prompts, 2);
    assert_int_equal(c.prompts[1].ids[1], 3);
    call_done(&c);
    assert_true(parse("{\"prompt\":\"a\",\"max_tokens\":0,\"echo\":true}", false, &c, &p));
    assert_int_equal(c.params.max_tokens, 0);
    call_done(&c);
}

static void test_chat(void **state)
{
    struct problem p;
    struct call c;

    (void)state;
    assert_true(
        parse("{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
              "{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"assistant\",\"content\":null},"
              "{\"role\":\"user\",\"content\":\"c\",\"name\":\"me\"}],\"logprobs\":true,\"top_"
              "logprobs\":3,"
              "\"max_completion_tokens\":9,\"max_tokens\":5}",
              true, &c, &p));
    assert_int_equal(c.n_messages, 3);
    assert_string_equal(c.messages[0].content, "a\nb");
    assert_string_equal(c.messages[1].content, "");
    assert_string_equal(c.messages[2].content, "c");
    assert_int_equal(c.params.n_logprobs, 3);
    assert_int_equal(c.params.max_tokens, 9);
    call_done(&c);
    assert_true(parse("{\"messages\":[{\"role\":\"user\",\"content\":\"c\"}],\"logprobs\":true}",
                      true, &c, &p));
    assert_int_equal(c.params.n_logprobs, 0);
    call_done(&c);
}

/* null is absent, everywhere; what changes nothing is taken. */
static void test_harmless(void **state)
{
    static const char *const NAMES[] = {
        "model",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "stop",
        "n",
        "best_of",
        "logprobs",
        "echo",
        "stream",
        "stream_options",
        "ignore_eos",
        "return_token_ids",
        "user",
        "suffix",
        "logit_bias",
        "tools",
        "tool_choice",
        "functions",
        "response_format",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "stop_token_ids",
        "prompt_logprobs",
        "top_logprobs",
        "include_stop_str_in_output",
        "add_special_tokens",
        "skip_special_tokens",
    };
    static const char *const VALUES[] = {
        "\"presence_penalty\":0",
        "\"frequency_penalty\":0.0",
        "\"repetition_penalty\":1.0",
        "\"logit_bias\":{}",
        "\"suffix\":\"\"",
        "\"tools\":[]",
        "\"tool_choice\":\"none\"",
        "\"min_tokens\":0",
        "\"response_format\":{\"type\":\"text\"}",
        "\"skip_special_tokens\":true",
        "\"use_beam_search\":false",
        "\"stop\":[]",
        "\"modalities\":[\"text\"]",
        "\"stream_options\":null",
        "\"top_k\":-1",
        "\"temperature\":0",
        "\"temperature\":2",
        "\"top_p\":1",
    };
    char body[256];
    struct problem p;
    struct call c;

    (void)state;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        for (int chat = 0; chat < 2; chat++) {
            snprintf(body, sizeof body,
                     "{\"prompt\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"b\"}],\"%"
                     "s\":null}",
                     NAMES[i]);
            if (!parse(body, chat, &c, &p))
                fail_msg("%s: %s", body, p.message);
            call_done(&c);
        }
    for (size_t i = 0; i < sizeof VALUES / sizeof *VALUES; i++) {
        snprintf(body, sizeof body, "{\"prompt\":\"a\",%s}", VALUES[i]);
        if (!parse(body, false, &c, &p))
            fail_msg("%s: %s", body, p.message);
        call_done(&c);
    }
}

struct wrong {
    const char *body, *param, *message;
};

static void check_wrong(const struct wrong *w, size_t n, bool chat)
{
    struct problem p;
    struct call c;

    for (size_t i = 0; i < n; i++) {
        if (parse(w[i].body, chat, &c, &p))
            fail_msg("taken: %s", w[i].body);
        assert_int_equal(p.status, 400);
        if (w[i].param ? !p.param || strcmp(p.param, w[i].param) != 0 : p.param != NULL)
            fail_msg("%s: param is %s", w[i].body, p.param ? p.param : "null");
        if (!strstr(p.message, w[i].message))
            fail_msg("%s: %s", w[i].body, p.message);
        call_done(&c);
    }
}

static void test_wrong_completions(void **state)
{
    static const struct wrong CASES[] = {
        {"", NULL, "empty body"},
        {"{", NULL, "JSON"},
        {"[]", NULL, "expected a JSON object, but got an array"},
        {"{\"prompt\":\"a\"} x", NULL, "JSON"},
        {"{\"prompt\":\"a\",\"prompt\":\"b\"}", NULL, "duplicate"},
        {"{\"prompt\":\"\\u0000\"}", NULL, "column 18: the character \\u0000 is not supported"},
        {"{\"prompt\":[[[[[[1]]]]]]}", NULL, "more than 6 levels"},
        {"{}", "prompt", "Missing required parameter: 'prompt'"},
        {"{\"prompt\":null}", "prompt", "Missing"},
        {"{\"prompt\":5}", "prompt", "but got an integer"},
        {"{\"prompt\":[]}", "prompt", "an empty array"},
        {"{\"prompt\":[true]}", "prompt", "but got a boolean"},
        {"{\"prompt\":[\"a\",5]}", "prompt", "index 1"},
        {"{\"prompt\":[5,\"a\"]}", "prompt", "expected token ids (integers), but got a string"},
        {"{\"prompt\":[[1],5]}", "prompt", "index 1"},
        {"{\"prompt\":[-1]}", "prompt", "but got -1"},
        {"{\"prompt\":[2147483648]}", "prompt", "but got 2147483648"},
        {"{\"prompt\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}", "prompt", "at most 4 prompts, but got 5"},
        {"{\"prompt\":\"a\",\"model\":5}", "model", "expected a string, but got an integer"},
        {"{\"prompt\":\"a\",\"temperature\":\"hot\"}", "temperature",
         "Invalid type for 'temperature': expected a number, but got a string instead."},
        {"{\"prompt\":\"a\",\"temperature\":2.5}", "temperature", "from 0 to 2, but got 2.5"},
        {"{\"prompt\":\"a\",\"temperature\":2.0000001}", "temperature",
         "but got 2.0000001 instead"},
        {"{\"prompt\":\"a\",\"top_p\":1e-50}", "top_p", "above 0, but got 1e-50 instead"},
        {"{\"prompt\":\"a\",\"temperature\":-1}", "temperature", "but got -1"},
        {"{\"prompt\":\"a\",\"top_p\":0}", "top_p", "above 0"},
        {"{\"prompt\":\"a\",\"top_p\":1.5}", "top_p", "from 0 to 1"},
        {"{\"prompt\":\"a\",\"top_k\":-2}", "top_k", "from -1"},
        {"{\"prompt\":\"a\",\"top_k\":1.5}", "top_k",
         "expected an integer, but got a number with a fraction"},
        {"{\"prompt\":\"a\",\"min_p\":-0.5}", "min_p", "from 0 to 1"},
        {"{\"prompt\":\"a\",\"seed\":\"x\"}", "seed", "expected an integer"},
        {"{\"prompt\":\"a\",\"max_tokens\":0}", "max_tokens", "at least 1"},
        {"{\"prompt\":\"a\",\"max_tokens\":-1}", "max_tokens", "but got -1"},
        {"{\"prompt\":\"a\",\"max_tokens\":2147483648}", "max_tokens", "2147483648"},
        {"{\"prompt\":\"a\",\"max_tokens\":[]}", "max_tokens", "but got an array"},
        {"{\"prompt\":\"a\",\"n\":0}", "n", "from 1"},
        {"{\"prompt\":\"a\",\"n\":9}", "n", "at most 8, but got 9"},
        {"{\"prompt\":[\"a\",\"b\",\"c\"],\"n\":6}", "n", "3 prompts with 'n' of 6"},
        {"{\"prompt\":\"a\",\"n\":2,\"best_of\":3}", "best_of", "the same as 'n' (2), but got 3"},
        {"{\"prompt\":\"a\",\"logprobs\":6}", "logprobs", "at most 5, but got 6"},
        {"{\"prompt\":\"a\",\"logprobs\":21}", "logprobs", "from 0 to 20"},
        {"{\"prompt\":\"a\",\"logprobs\":true}", "logprobs",
         "expected an integer, but got a boolean"},
        {"{\"prompt\":\"a\",\"echo\":1}", "echo", "expected a boolean, but got an integer"},
        {"{\"prompt\":\"a\",\"stream\":\"yes\"}", "stream", "expected a boolean"},
        {"{\"prompt\":\"a\",\"stream_options\":{}}", "stream_options", "needs 'stream'"},
        {"{\"prompt\":\"a\",\"stream\":true,\"stream_options\":5}", "stream_options",
         "expected an object"},
        {"{\"prompt\":\"a\",\"stream\":true,\"stream_options\":{\"include_usage\":1}}",
         "include_usage", "boolean"},
        {"{\"prompt\":\"a\",\"ignore_eos\":\"\"}", "ignore_eos", "expected a boolean"},
        {"{\"prompt\":\"a\",\"return_token_ids\":3}", "return_token_ids", "expected a boolean"},
        {"{\"prompt\":\"a\",\"stop\":5}", "stop",
         "a string or an array of strings, but got an integer"},
        {"{\"prompt\":\"a\",\"stop\":\"\"}", "stop", "non-empty"},
        {"{\"prompt\":\"a\",\"stop\":[\"a\",null]}", "stop", "but got null"},
        {"{\"prompt\":\"a\",\"stop\":[\"a\",\"b\",\"c\",\"d\"]}", "stop",
         "at most 3 strings, but got 4"},
        {"{\"prompt\":\"a\",\"stop\":\"12345678901\"}", "stop",
         "at most 10 bytes in a string, but got 11"},
        {"{\"prompt\":\"a\",\"stop_token_ids\":[\"x\"]}", "stop_token_ids", "token ids"},
        {"{\"prompt\":\"a\",\"suffix\":\"x\"}", "suffix", "'suffix' is not supported"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"5\":1}}", "logit_bias", "not supported"},
        {"{\"prompt\":\"a\",\"presence_penalty\":0.1}", "presence_penalty", "not supported"},
        {"{\"prompt\":\"a\",\"frequency_penalty\":1}", "frequency_penalty", "not supported"},
        {"{\"prompt\":\"a\",\"repetition_penalty\":0}", "repetition_penalty", "not supported"},
        {"{\"prompt\":\"a\",\"skip_special_tokens\":false}", "skip_special_tokens",
         "not supported"},
        {"{\"prompt\":\"a\",\"prompt_logprobs\":1}", "prompt_logprobs", "not supported"},
        {"{\"prompt\":\"a\",\"guided_json\":{\"a\":1}}", "guided_json", "not supported"},
    };

    (void)state;
    check_wrong(CASES, sizeof CASES / sizeof *CASES, false);
}

#define USER "\"messages\":[{\"role\":\"user\",\"content\":\"b\"}]"

static void test_wrong_chats(void **state)
{
    static const struct wrong CASES[] = {
        {"{}", "messages", "Missing"},
        {"{\"messages\":\"hi\"}", "messages", "expected an array of objects, but got a string"},
        {"{\"messages\":[]}", "messages", "got none"},
        {"{\"messages\":[5]}", "messages", "but got an integer"},
        {"{\"messages\":[{\"content\":\"a\"}]}", "messages", "'role'"},
        {"{\"messages\":[{\"role\":5,\"content\":\"a\"}]}", "messages", "'role'"},
        {"{\"messages\":[{\"role\":\"user\"}]}", "messages",
         "'content' of each message, but got nothing"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":null}]}", "messages", "but got null"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]"
         "}]}",
         "messages", "only content parts of type 'text'"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", "messages",
         "a string 'text'"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{}]}]}",
         "messages", "'tool_calls'"},
        {"{\"messages\":[{\"role\":\"a\",\"content\":\"\"},{\"role\":\"a\",\"content\":\"\"},"
         "{\"role\":\"a\",\"content\":\"\"},{\"role\":\"a\",\"content\":\"\"}]}",
         "messages", "at most 3, but got 4"},
        {"{" USER ",\"logprobs\":1}", "logprobs", "expected a boolean"},
        {"{" USER ",\"top_logprobs\":1}", "top_logprobs", "needs 'logprobs'"},
        {"{" USER ",\"logprobs\":true,\"top_logprobs\":6}", "top_logprobs", "at most 5"},
        {"{" USER ",\"max_completion_tokens\":0}", "max_completion_tokens", "at least 1"},
        {"{" USER ",\"tools\":[{\"type\":\"function\"}]}", "tools", "not supported"},
        {"{" USER ",\"tool_choice\":\"auto\"}", "tool_choice", "not supported"},
        {"{" USER ",\"response_format\":{\"type\":\"json_object\"}}", "response_format",
         "not supported"},
        {"{" USER ",\"n\":9}", "n", "at most 8"},
    };

    (void)state;
    check_wrong(CASES, sizeof CASES / sizeof *CASES, true);
}

/* Every beginning of a good body, and every good body with one byte changed, is taken or refused,
 * never worse. */
static void test_mutations(void **state)
{
    static const char GOOD[] =
        "{\"prompt\":[[1,2],[3]],\"stop\":[\"a\\u00e9\",\"b\"],\"stream\":true,"
        "\"stream_options\":{\"include_usage\":true},\"n\":2,\"seed\":12,\"top_p\":0.5}";
    char body[sizeof GOOD];
    struct problem p;
    struct call c;

    (void)state;
    for (size_t n = 0; n < strlen(GOOD); n++) {
        memcpy(body, GOOD, n);
        body[n] = 0;
        assert_false(parse(body, false, &c, &p));
        call_done(&c);
    }
    for (size_t at = 0; at < strlen(GOOD); at++)
        for (int byte = 1; byte < 256; byte++) {
            memcpy(body, GOOD, sizeof GOOD);
            body[at] = (char)byte;
            if (!parse(body, false, &c, &p))
                assert_true(p.status == 400 && *p.message);
            call_done(&c);
        }
}

static int allocations_left;

static void *sparing_malloc(size_t size)
{
    return allocations_left-- > 0 ? malloc(size) : NULL;
}

/* Each allocation of jansson's fails in turn: the call is refused, and nothing is lost or touched.
 */
static void test_out_of_memory(void **state)
{
    static const char BODY[] = "{\"prompt\":[[1,2],[3]],\"stop\":[\"a\"],\"stream\":true,\"n\":2,"
                               "\"stream_options\":{\"include_usage\":true},\"top_p\":0.5}";
    struct problem p;
    struct call c;
    bool taken = false;

    (void)state;
    json_set_alloc_funcs(sparing_malloc, free);
    for (int n = 0; !taken; n++) {
        allocations_left = n;
        taken = parse(BODY, false, &c, &p);
        if (!taken)
            assert_true(p.status >= 400 && *p.message);
        call_done(&c);
        assert_true(n < 1000);
    }
    json_set_alloc_funcs(malloc, free);
}

/* A body with n of something. */
static void build(struct buf *out, const char *begin, const char *item, const char *between,
                  const char *end, int n)
{
    buf_reset(out);
    buf_puts(out, begin);
    if (!item)
        buf_printf(out, "%d", n);
    for (int i = 0; item && i < n; i++)
        buf_printf(out, "%s%s", i ? between : "", item);
    for (int i = 0; item && !strcmp(item, "[") && i < n; i++)
        buf_puts(out, "]");
    buf_printf(out, "%s%c", end, 0);
}

/* Every limit at its edge: so many are taken, and one more is refused by the name of what it is and
 * with the limit's number. */
static void test_limits(void **state)
{
    static const struct limits WIDE = {100, 100, 100, 16, 100, 12, 20, 100, 100};
    static const struct {
        size_t offset;
        int limit, n; /* n: of the items that reach it */
        bool chat;
        const char *begin, *item, *between, *end, *param;
    } ROWS[] = {
#define OF(field) offsetof(struct limits, field)
        {OF(prompts), 5, 5, false, "{\"prompt\":[", "\"a\"", ",", "]}", "prompt"},
        {OF(prompts), 5, 5, false, "{\"prompt\":[", "[1,2]", ",", "]}", "prompt"},
        {OF(choices), 5, 5, false, "{\"prompt\":\"a\",\"n\":", NULL, "", "}", "n"},
        {OF(sequences), 5, 5, false, "{\"prompt\":\"a\",\"n\":", NULL, "", "}", "n"},
        {OF(sequences), 6, 2, false, "{\"n\":3,\"prompt\":[", "\"a\"", ",", "]}", "n"},
        {OF(stops), 5, 5, false, "{\"prompt\":\"a\",\"stop\":[", "\"b\"", ",", "]}", "stop"},
        {OF(stop_bytes), 5, 5, false, "{\"prompt\":\"a\",\"stop\":\"", "b", "", "\"}", "stop"},
        {OF(stop_bytes), 6, 2, false, "{\"prompt\":\"a\",\"stop\":[\"", "\xe2\x82\xac", "", "\"]}",
         "stop"},
        {OF(stop_tokens), 5, 5, false, "{\"prompt\":\"a\",\"stop_token_ids\":[", "1", ",", "]}",
         "stop_token_ids"},
        {OF(stop_tokens), 0, 0, false, "{\"prompt\":\"a\",\"stop_token_ids\":[", "1", ",", "]}",
         "stop_token_ids"},
        {OF(logprobs), 5, 5, false, "{\"prompt\":\"a\",\"logprobs\":", NULL, "", "}", "logprobs"},
        {OF(logprobs), 5, 5, true,
         "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"logprobs\":true,"
         "\"top_logprobs\":",
         NULL, "", "}", "top_logprobs"},
        {OF(messages), 5, 5, true, "{\"messages\":[", "{\"role\":\"user\",\"content\":\"a\"}", ",",
         "]}", "messages"},
        {OF(json_depth), 5, 4, false, "{\"prompt\":\"a\",\"x\":", "[", "", "}", NULL},
#undef OF
    };
    struct problem p;
    struct call c;
    struct buf body;
    char number[24];

    (void)state;
    buf_init(&body, 10000);
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        for (int more = 0; more < 2; more++) {
            struct limits limits = WIDE;
            int64_t limit = ROWS[i].limit;
            bool taken;

            memcpy((char *)&limits + ROWS[i].offset, &limit, sizeof limit);
            build(&body, ROWS[i].begin, ROWS[i].item, ROWS[i].between, ROWS[i].end,
                  ROWS[i].n + more);
            c = (struct call){0};
            taken = call_parse(body.data, body.len - 1, ROWS[i].chat, &limits, &c, &p);
            call_done(&c);
            if (taken != !more)
                fail_msg("row %zu: %s: %s", i, body.data, more ? "taken" : p.message);
            if (taken)
                continue;
            snprintf(number, sizeof number, "%d", ROWS[i].limit);
            assert_int_equal(p.status, 400);
            if (!strstr(p.message, number) || !p.param != !ROWS[i].param ||
                (p.param && strcmp(p.param, ROWS[i].param) != 0))
                fail_msg("row %zu: %s: %s", i, p.param ? p.param : "-", p.message);
        }
    buf_done(&body);
}

static void test_problem_json(void **state)
{
    struct problem p;
    struct buf out;

    (void)state;
    buf_init(&out, 4096);
    problem_param(&p, "top_p", "a \"quoted\" %s", "\xe9");
    problem_print(&p, &out);
    buf_append(&out, "", 1);
    assert_string_equal((char *)out.data,
                        "{\"error\":{\"message\":\"a \\\"quoted\\\" \xef\xbf\xbd\",\"type\":"
                        "\"invalid_request_error\",\"param\":\"top_p\",\"code\":null}}");
    buf_done(&out);
    problem_from(&p, &(struct mt_err){.status = MT_ELIMIT, .text = "full"});
    assert_int_equal(p.status, 429);
    assert_true(p.retry_after_s > 0);
    problem_from(&p, &(struct mt_err){.status = MT_ECLOSED, .text = "closed"});
    assert_int_equal(p.status, 503);
    assert_true(p.retry_after_s > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),      cmocka_unit_test(test_everything),
        cmocka_unit_test(test_prompt_forms),  cmocka_unit_test(test_chat),
        cmocka_unit_test(test_harmless),      cmocka_unit_test(test_wrong_completions),
        cmocka_unit_test(test_wrong_chats),   cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_limits),        cmocka_unit_test(test_problem_json),
        cmocka_unit_test(test_out_of_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
