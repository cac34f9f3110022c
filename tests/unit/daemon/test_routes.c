/* The API over real sockets, in front of an engine that says a known text. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "api_site.h"

/* --- what the server says of itself --- */

static void check_text(const char *path, int status, const char *text)
{
    struct web_reply r;

    web_call(site.port, path, NULL, &r);
    assert_int_equal(r.status, status);
    if (!strstr(web_body(&r), text))
        fail_msg("%s: %s", path, web_body(&r));
    assert_int_equal(strncmp(web_header(&r, "Content-Type"), "text/plain", 10), 0);
    web_done(&r);
}

static void test_info(void **state)
{
    json_t *root;

    (void)state;
    check_text("/", 200, "/v1/chat/completions");
    check_text("/healthz", 200, "ok");
    check_text("/readyz", 200, "ready");
    check_text("/metrics", 200, "# TYPE moetuner:");
    fake_backend_state(site.engine, ENGINE_DOWN, true);
    check_text("/readyz", 503, "down: rank 1 died");
    check_text("/healthz", 200, "ok");
    fake_backend_state(site.engine, ENGINE_DRAINING, true);
    check_text("/readyz", 503, "draining");
    fake_backend_state(site.engine, ENGINE_READY, true);
    root = site_call("/version", NULL, 200);
    assert_non_null(json_text_at(root, "version"));
    json_decref(root);
    root = site_call("/v1/models", NULL, 200);
    assert_string_equal(json_text_at(root, "object"), "list");
    assert_string_equal(json_text_at(root, "data.0.id"), "org/tiny");
    assert_int_equal(json_number_at(root, "data.0.created"), 1234);
    assert_int_equal(json_number_at(root, "data.0.max_model_len"), FAKE_POSITIONS);
    json_decref(root);
    root = site_call("/v1/models/org/tiny", NULL, 200);
    assert_string_equal(json_text_at(root, "object"), "model");
    json_decref(root);
    root = site_call("/v1/models/org%2Ftin%79", NULL, 200);
    json_decref(root);
    site_check_error("/v1/models/other", NULL, 404, "model", "model_not_found",
                     "'other' does not exist");
    site_check_error("/v1/models/org%2", NULL, 404, "model", "model_not_found", "does not exist");
    site_check_error("/v1/nothing", NULL, 404, NULL, NULL, "no such path");
    site_check_error("/v1/completions", NULL, 405, NULL, NULL, "method");
}

static void test_tokens(void **state)
{
    json_t *root = site_call("/tokenize", "{\"prompt\":\"a\\u00e9<|end|>\"}", 200);

    (void)state;
    assert_int_equal(json_number_at(root, "count"), 4);
    assert_int_equal(json_number_at(root, "tokens.0"), 'a');
    assert_int_equal(json_number_at(root, "tokens.1"), 0xc3);
    assert_int_equal(json_number_at(root, "tokens.3"), 256);
    assert_int_equal(json_number_at(root, "max_model_len"), FAKE_POSITIONS);
    json_decref(root);
    root = site_call("/detokenize", "{\"tokens\":[97,195,169,98]}", 200);
    assert_string_equal(json_text_at(root, "prompt"), "a\xc3\xa9"
                                                      "b");
    json_decref(root);
    site_check_error("/tokenize", "{}", 400, "prompt", NULL, "but got nothing");
    site_check_error("/tokenize", "{\"prompt\":[1]}", 400, "prompt", NULL, "but got an array");
    site_check_error("/tokenize", "{\"prompt\":\"a\",\"add_special_tokens\":1}", 400,
                     "add_special_tokens", NULL, "boolean");
    site_check_error("/tokenize", "{\"prompt\":\"a\",\"model\":\"x\"}", 404, "model",
                     "model_not_found", "'x'");
    site_check_error("/detokenize", "{\"tokens\":\"a\"}", 400, "tokens", NULL, "but got a string");
    site_check_error("/detokenize", "{\"tokens\":[\"a\"]}", 400, "tokens", NULL,
                     "but got a string");
    site_check_error("/detokenize", "{\"tokens\":[257]}", 400, "tokens", NULL, "257");
}

/* --- completions --- */

static void test_completion(void **state)
{
    json_t *root =
        site_call("/v1/completions", "{\"model\":\"org/tiny\",\"prompt\":\"hello\"}", 200);

    (void)state;
    assert_int_equal(strncmp(json_text_at(root, "id"), "cmpl-", 5), 0);
    assert_string_equal(json_text_at(root, "object"), "text_completion");
    assert_string_equal(json_text_at(root, "model"), "org/tiny");
    assert_string_equal(json_text_at(root, "choices.0.text"),
                        site_said(0, 16)); /* OpenAI's default */
    assert_string_equal(json_text_at(root, "choices.0.finish_reason"), "length");
    assert_true(json_is_null(json_at(root, "choices.0.logprobs")));
    assert_int_equal(json_number_at(root, "choices.0.index"), 0);
    assert_int_equal(json_number_at(root, "usage.prompt_tokens"), 5);
    assert_int_equal(json_number_at(root, "usage.completion_tokens"), 16);
    assert_int_equal(json_number_at(root, "usage.total_tokens"), 21);
    assert_null(json_at(root, "choices.0.token_ids"));
    json_decref(root);
}

static void test_completion_lists(void **state)
{
    json_t *root =
        site_call("/v1/completions",
                  "{\"prompt\":[\"one\",\"three\"],\"n\":2,\"max_tokens\":5,\"echo\":true,"
                  "\"return_token_ids\":true}",
                  200);
    char path[64], expected[FAKE_POSITIONS + 16];

    (void)state;
    assert_int_equal(json_array_size(json_at(root, "choices")), 4);
    for (unsigned i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "choices.%u.index", i);
        assert_int_equal(json_number_at(root, path), i);
        snprintf(path, sizeof path, "choices.%u.text", i);
        snprintf(expected, sizeof expected, "%s%s", i < 2 ? "one" : "three", site_said(i % 2, 5));
        assert_string_equal(json_text_at(root, path), expected);
        snprintf(path, sizeof path, "choices.%u.prompt_token_ids", i);
        assert_int_equal(json_array_size(json_at(root, path)), i < 2 ? 3 : 5);
        snprintf(path, sizeof path, "choices.%u.token_ids", i);
        assert_int_equal(json_array_size(json_at(root, path)), 5);
    }
    assert_int_equal(json_number_at(root, "choices.3.prompt_token_ids.0"), 't');
    assert_int_equal(json_number_at(root, "choices.1.token_ids.0"), 'b');
    assert_int_equal(json_number_at(root, "usage.prompt_tokens"), 8);
    assert_int_equal(json_number_at(root, "usage.completion_tokens"), 20);
    json_decref(root);
    root = site_call("/v1/completions",
                     "{\"prompt\":[[104,105],[256]],\"max_tokens\":1,\"echo\":true}", 200);
    assert_string_equal(json_text_at(root, "choices.0.text"), "hia");
    assert_string_equal(json_text_at(root, "choices.1.text"), "<|end|>a");
    json_decref(root);
}

static void test_echo_alone(void **state)
{
    json_t *root =
        site_call("/v1/completions",
                  "{\"prompt\":\"h\\u00e9\",\"max_tokens\":0,\"echo\":true,\"logprobs\":1}", 200);

    (void)state;
    assert_string_equal(json_text_at(root, "choices.0.text"), "h\xc3\xa9");
    assert_int_equal(json_array_size(json_at(root, "choices.0.logprobs.tokens")), 3);
    assert_true(json_is_null(json_at(root, "choices.0.logprobs.token_logprobs.0")));
    assert_true(json_is_null(json_at(root, "choices.0.logprobs.top_logprobs.0")));
    assert_true(json_is_real(json_at(root, "choices.0.logprobs.token_logprobs.1")));
    assert_int_equal(json_number_at(root, "usage.completion_tokens"), 0);
    json_decref(root);
    root = site_call("/v1/completions", "{\"prompt\":\"abc\",\"max_tokens\":0,\"echo\":true}", 200);
    assert_string_equal(json_text_at(root, "choices.0.text"), "abc");
    json_decref(root);
}

/* "h" "bytes" "bytes" of the echo, then a b ' ' c bytes bytes */
static void check_legacy(const json_t *logprobs)
{
    static const char *const TOKENS[] = {"h", "bytes:\\xc3", "bytes:\\xa9", "a",          "b",
                                         " ", "c",           "bytes:\\xc3", "bytes:\\xa9"};
    static const int OFFSETS[] = {0, 1, 2, 2, 3, 4, 5, 6, 6};
    char path[64];

    assert_int_equal(json_array_size(json_at(logprobs, "tokens")), 9);
    for (unsigned i = 0; i < 9; i++) {
        snprintf(path, sizeof path, "tokens.%u", i);
        assert_string_equal(json_text_at(logprobs, path), TOKENS[i]);
        snprintf(path, sizeof path, "text_offset.%u", i);
        assert_int_equal(json_number_at(logprobs, path), OFFSETS[i]);
        snprintf(path, sizeof path, "token_logprobs.%u", i);
        assert_true(i ? json_is_real(json_at(logprobs, path))
                      : json_is_null(json_at(logprobs, path)));
    }
    assert_true(json_real_value(json_at(logprobs, "token_logprobs.4")) == -0.75);
    assert_int_equal(json_object_size(json_at(logprobs, "top_logprobs.4")), 2);
    assert_true(json_real_value(json_object_get(json_at(logprobs, "top_logprobs.4"), "b")) ==
                -0.75);
    assert_true(json_real_value(json_object_get(json_at(logprobs, "top_logprobs.4"), "c")) ==
                -1.75);
}

static void test_legacy_logprobs(void **state)
{
    json_t *root =
        site_call("/v1/completions",
                  "{\"prompt\":\"h\\u00e9\",\"max_tokens\":6,\"echo\":true,\"logprobs\":2}", 200);
    static const char *const FIELDS[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
    json_t *events, *all;

    (void)state;
    check_legacy(json_at(root, "choices.0.logprobs"));
    json_decref(root);
    /* streamed: the same, in pieces */
    events = site_stream(
        "/v1/completions",
        "{\"prompt\":\"h\\u00e9\",\"max_tokens\":6,\"echo\":true,\"logprobs\":2,\"stream\":true}");
    all = json_object();
    for (size_t k = 0; k < 4; k++)
        json_object_set_new(all, FIELDS[k], json_array());
    for (size_t i = 0; i < json_array_size(events); i++)
        for (size_t k = 0; k < 4; k++)
            json_array_extend(
                json_object_get(all, FIELDS[k]),
                json_object_get(json_at(json_array_get(events, i), "choices.0.logprobs"),
                                FIELDS[k]));
    check_legacy(all);
    json_decref(all);
    json_decref(events);
    root = site_call("/v1/completions", "{\"prompt\":\"h\",\"max_tokens\":2,\"logprobs\":0}", 200);
    assert_true(json_is_null(json_at(root, "choices.0.logprobs.top_logprobs")));
    assert_int_equal(json_array_size(json_at(root, "choices.0.logprobs.token_logprobs")), 2);
    json_decref(root);
}

static void test_completion_stream(void **state)
{
    json_t *events = site_stream(
        "/v1/completions", "{\"prompt\":[\"x\",\"y\"],\"n\":2,\"max_tokens\":40,\"stream\":true,"
                           "\"stream_options\":{\"include_usage\":true},\"echo\":true,"
                           "\"return_token_ids\":true}");
    size_t n = json_array_size(events), finished = 0, ids = 0;
    char expected[FAKE_POSITIONS + 16];

    (void)state;
    for (int i = 0; i < 4; i++) {
        char *text = site_joined(events, "text", i);

        snprintf(expected, sizeof expected, "%c%s", i < 2 ? 'x' : 'y',
                 site_said((unsigned)i % 2, 40));
        assert_string_equal(text, expected);
        free(text);
    }
    for (size_t i = 0; i + 1 < n; i++) {
        const json_t *e = json_array_get(events, i);

        assert_string_equal(json_text_at(e, "object"), "text_completion");
        assert_string_equal(json_text_at(e, "id"), json_text_at(json_array_get(events, 0), "id"));
        assert_true(json_is_null(json_at(e, "usage")));
        finished += json_is_string(json_at(e, "choices.0.finish_reason"));
        ids += json_array_size(json_at(e, "choices.0.token_ids"));
    }
    assert_int_equal(finished, 4);
    assert_int_equal(ids, 160);
    assert_int_equal(json_array_size(json_at(json_array_get(events, n - 1), "choices")), 0);
    assert_int_equal(json_number_at(json_array_get(events, n - 1), "usage.completion_tokens"), 160);
    assert_int_equal(json_number_at(json_array_get(events, n - 1), "usage.prompt_tokens"), 2);
    json_decref(events);
    /* no usage unless it is asked for */
    events = site_stream("/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":3,\"stream\":true}");
    assert_null(json_at(events, "0.usage"));
    assert_string_equal(json_text_at(json_array_get(events, json_array_size(events) - 1),
                                     "choices.0.finish_reason"),
                        "length");
    json_decref(events);
}

/* --- chat --- */

#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static void test_chat(void **state)
{
    static const char PROMPT[] = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
    json_t *root = site_call("/v1/chat/completions",
                             "{" HI ",\"max_tokens\":6,\"logprobs\":true,\"top_logprobs\":2,"
                             "\"return_token_ids\":true}",
                             200);

    (void)state;
    assert_int_equal(strncmp(json_text_at(root, "id"), "chatcmpl-", 9), 0);
    assert_string_equal(json_text_at(root, "object"), "chat.completion");
    assert_string_equal(json_text_at(root, "choices.0.message.role"), "assistant");
    assert_string_equal(json_text_at(root, "choices.0.message.content"), site_said(0, 6));
    assert_string_equal(json_text_at(root, "choices.0.finish_reason"), "length");
    assert_int_equal(json_number_at(root, "usage.prompt_tokens"), strlen(PROMPT));
    assert_int_equal(json_array_size(json_at(root, "prompt_token_ids")), strlen(PROMPT));
    assert_int_equal(json_array_size(json_at(root, "choices.0.logprobs.content")), 6);
    assert_string_equal(json_text_at(root, "choices.0.logprobs.content.1.token"), "b");
    assert_int_equal(json_number_at(root, "choices.0.logprobs.content.1.bytes.0"), 'b');
    assert_true(json_real_value(json_at(root, "choices.0.logprobs.content.1.logprob")) == -0.75);
    assert_string_equal(json_text_at(root, "choices.0.logprobs.content.1.top_logprobs.1.token"),
                        "c");
    assert_string_equal(json_text_at(root, "choices.0.logprobs.content.4.token"), "\xef\xbf\xbd");
    assert_int_equal(json_number_at(root, "choices.0.logprobs.content.4.bytes.0"), 0xc3);
    json_decref(root);
    /* without max_tokens: to the end of the model's longest sequence */
    root = site_call("/v1/chat/completions", "{" HI "}", 200);
    assert_int_equal(json_number_at(root, "usage.total_tokens"), FAKE_POSITIONS);
    assert_string_equal(json_text_at(root, "choices.0.message.content"),
                        site_said(0, FAKE_POSITIONS - (unsigned)strlen(PROMPT)));
    json_decref(root);
}

static void test_chat_stream(void **state)
{
    json_t *events =
        site_stream("/v1/chat/completions", "{" HI ",\"n\":2,\"max_tokens\":9,\"stream\":true}");

    (void)state;
    for (int i = 0; i < 2; i++) {
        char *text = site_joined(events, "delta.content", i),
             *roles = site_joined(events, "delta.role", i);
        char path[64];

        snprintf(path, sizeof path, "%d.choices.0.delta.role", i);
        assert_string_equal(json_text_at(events, path), "assistant");
        snprintf(path, sizeof path, "%d.choices.0.delta.content", i);
        assert_string_equal(json_text_at(events, path), "");
        assert_string_equal(roles, "assistant");
        assert_string_equal(text, site_said((unsigned)i, 9));
        free(text);
        free(roles);
    }
    assert_string_equal(json_text_at(events, "0.object"), "chat.completion.chunk");
    json_decref(events);
}

/* --- refusals --- */

static void test_errors(void **state)
{
    static char body[3 * FAKE_POSITIONS];
    struct web_reply r;
    int fd;

    (void)state;
    site_check_error("/v1/completions", "{\"prompt\":\"a\",\"model\":\"x\"}", 404, "model",
                     "model_not_found", "'x' does not exist; this server serves 'org/tiny'");
    site_check_error("/v1/completions", "{\"prompt\":[257]}", 400, "prompt", NULL,
                     "from 0 to 256, but got 257");
    site_check_error("/v1/completions", "{\"prompt\":\"\"}", 400, "prompt", NULL, "no tokens");
    site_check_error("/v1/completions", "{\"prompt\":\"a\",\"temperature\":\"x\"}", 400,
                     "temperature", NULL, "expected a number, but got a string");
    site_check_error("/v1/completions", "{\"prompt\":\"a\",\"tools\":[1]}", 400, "tools",
                     "unsupported_parameter", "tools");
    site_check_error("/v1/completions", "prompt=a", 400, NULL, NULL, "JSON");
    site_check_error("/v1/completions", "", 400, NULL, NULL, "empty body");
    memset(body, 'a', sizeof body);
    memcpy(body, "{\"prompt\":\"", 11);
    memcpy(body + 11 + FAKE_POSITIONS, "\"}", 3);
    site_check_error("/v1/completions", body, 400, "prompt", "context_length_exceeded",
                     "4096 tokens. However, your prompt has 4096 tokens, which leaves no room");
    memcpy(body + 11 + FAKE_POSITIONS + 1, "\"}", 3);
    body[11 + FAKE_POSITIONS] = 'a';
    site_check_error("/v1/completions", body, 400, "prompt", "context_length_exceeded",
                     "4096 tokens. However, your prompt is longer: the text has more than 4096 "
                     "tokens. Please");
    fd = web_open(site.port);
    web_puts(fd, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: "
                 "text/xml\r\nContent-Length: 3\r\n\r\n<a>");
    web_read(fd, NULL, &r);
    assert_int_equal(r.status, 415);
    web_done(&r);
    web_puts(fd, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Encoding: "
                 "gzip\r\nContent-Length: 3\r\n\r\nabc");
    web_read(fd, NULL, &r);
    assert_int_equal(r.status, 415);
    web_done(&r);
    close(fd);
}

static void check_retry(const char *body, int status, const char *code)
{
    struct web_reply r;
    json_t *root;

    web_call(site.port, "/v1/completions", body, &r);
    assert_int_equal(r.status, status);
    assert_true(atoi(web_header(&r, "Retry-After")) > 0);
    root = json_loads(web_body(&r), 0, NULL);
    assert_string_equal(json_text_at(root, "error.code"), code);
    json_decref(root);
    web_done(&r);
}

static void test_refusals(void **state)
{
    (void)state;
    fake_backend_refuse(site.engine, MT_ELIMIT, 0);
    check_retry("{\"prompt\":\"a\"}", 429, "rate_limit_exceeded");
    /* the second of three is refused: the first is taken back */
    fake_backend_hold(site.engine, true);
    fake_backend_refuse(site.engine, MT_ELIMIT, 1);
    check_retry("{\"prompt\":[\"a\",\"b\",\"c\"]}", 429, "rate_limit_exceeded");
    fake_backend_await_idle(site.engine);
    assert_int_equal(fake_backend_cancelled(site.engine), 1);
    fake_backend_hold(site.engine, false);
    fake_backend_refuse(site.engine, MT_ECLOSED, 0);
    check_retry("{\"prompt\":\"a\",\"stream\":true}", 503, "unavailable");
    fake_backend_refuse(site.engine, 0, 0);
    fake_backend_state(site.engine, ENGINE_STARTING, false);
    check_retry("{\"prompt\":\"a\"}", 503, "unavailable");
}

static void test_failures(void **state)
{
    json_t *events;

    (void)state;
    fake_backend_fail(site.engine, MT_ECLOSED, 4);
    check_retry("{\"prompt\":\"a\"}", 503, "unavailable");
    events = site_stream(
        "/v1/completions",
        "{\"prompt\":\"a\",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    assert_string_equal(
        json_text_at(json_array_get(events, json_array_size(events) - 1), "error.message"),
        "the workers died");
    assert_true(json_array_size(events) >= 2); /* what was said before was told */
    for (size_t i = 0; i + 1 < json_array_size(events); i++)
        assert_true(json_is_null(json_at(json_array_get(events, i), "choices.0.finish_reason")));
    json_decref(events);
    fake_backend_fail(site.engine, MT_ETIMEOUT, 2);
    site_check_error("/v1/completions", "{\"prompt\":\"a\"}", 504, NULL, "timeout",
                     "the workers died");
    fake_backend_fail(site.engine, MT_EINTERNAL, 2);
    site_check_error("/v1/completions", "{\"prompt\":\"a\"}", 500, NULL, NULL, "the workers died");
}

/* A client that leaves frees its sequences: streamed or not, alone or several. */
static void test_disconnects(void **state)
{
    static const char *const BODIES[] = {
        "{\"prompt\":\"a\",\"max_tokens\":4000}",
        "{\"prompt\":\"a\",\"max_tokens\":4000,\"stream\":true}",
        "{\"prompt\":[\"a\",\"b\",\"c\"],\"max_tokens\":4000,\"stream\":true}",
    };
    unsigned cancelled = 0;

    (void)state;
    fake_backend_hold(site.engine, true);
    for (size_t i = 0; i < 3; i++) {
        unsigned want = i == 2 ? 3 : 1;
        char head[128], first;
        int fd = web_open(site.port);

        snprintf(head, sizeof head,
                 "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
                 strlen(BODIES[i]));
        web_puts(fd, head);
        web_puts(fd, BODIES[i]);
        while (fake_backend_running(site.engine) < want)
            usleep(1000);
        if (i) { /* in the middle of the stream */
            fake_backend_hold(site.engine, false);
            assert_int_equal(web_read_some(fd, &first, 1), 1);
            fake_backend_hold(site.engine, true);
        }
        close(fd);
        fake_backend_await_idle(site.engine);
        cancelled += want;
        assert_int_equal(fake_backend_cancelled(site.engine), cancelled);
    }
}

/* --- many at once --- */

struct client {
    pthread_t thread;
    int number, port;
    struct web_reply reply;
};

static void *client_run(void *arg)
{
    struct client *c = arg;
    char body[128];

    snprintf(body, sizeof body, "{\"prompt\":\"p%d\",\"n\":%d,\"max_tokens\":%d,\"stream\":%s}",
             c->number, c->number % 3 + 1, 50 + c->number, c->number % 2 ? "true" : "false");
    web_call(c->port, "/v1/completions", body, &c->reply);
    return NULL;
}

static void test_many(void **state)
{
    enum { CLIENTS = 64 };
    static struct client clients[CLIENTS];

    (void)state;
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = (struct client){.number = i, .port = site.port};
        assert_int_equal(pthread_create(&clients[i].thread, NULL, client_run, &clients[i]), 0);
    }
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &clients[i];

        pthread_join(c->thread, NULL);
        assert_int_equal(c->reply.status, 200);
        if (i % 2) {
            json_t *events = site_events(&c->reply);

            for (int k = 0; k < i % 3 + 1; k++) {
                char *text = site_joined(events, "text", k);

                assert_string_equal(text, site_said((unsigned)k, 50 + (unsigned)i));
                free(text);
            }
            json_decref(events);
        } else {
            json_t *root = json_loads(web_body(&c->reply), 0, NULL);

            assert_string_equal(json_text_at(root, "choices.0.text"),
                                site_said(0, 50 + (unsigned)i));
            assert_int_equal(json_number_at(root, "usage.completion_tokens"),
                             (50 + i) * (i % 3 + 1));
            json_decref(root);
        }
        web_done(&c->reply);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SITE_TEST(test_info),
        SITE_TEST(test_tokens),
        SITE_TEST(test_completion),
        SITE_TEST(test_completion_lists),
        SITE_TEST(test_echo_alone),
        SITE_TEST(test_legacy_logprobs),
        SITE_TEST(test_completion_stream),
        SITE_TEST(test_chat),
        SITE_TEST(test_chat_stream),
        SITE_TEST(test_errors),
        SITE_TEST(test_refusals),
        SITE_TEST(test_failures),
        SITE_TEST(test_disconnects),
        SITE_TEST(test_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
