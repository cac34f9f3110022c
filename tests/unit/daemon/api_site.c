#include "api_site.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct site site;

int site_set_up(void **state)
{
    static const char CHAT[] =
        "{\"chat_template\":\"{% for message in messages %}<|im_start|>{{ message['role'] }}\\n"
        "{{ message['content'] }}<|im_end|>\\n{% endfor %}{% if add_generation_prompt %}"
        "<|im_start|>assistant\\n{% endif %}\"}";
    struct http_options o = {.threads = 2,
                             .max_connections = 256,
                             .max_uri = 1000,
                             .max_header = 32768,
                             .max_body = 1 << 20,
                             .receive_ms = 60000,
                             .stall_ms = 60000,
                             .routes = ROUTES,
                             .user = &site.routes,
                             .refuse = routes_refuse};
    struct mt_err err = {0};
    int fd;

    (void)state;
    memset(&site, 0, sizeof site);
    site.engine = fake_backend_new();
    site.tokenizer = fake_tokenizer();
    site.metrics = metrics_new();
    assert_non_null(site.metrics);
    if (chat_parse(CHAT, strlen(CHAT), "test", &site.chat, &err))
        fail_msg("%s", err.text);
    site.routes = (struct routes){.backend = fake_backend_ops(site.engine),
                                  .tokenizer = site.tokenizer,
                                  .chat = site.chat,
                                  .metrics = site.metrics,
                                  .model = "org/tiny",
                                  .started_s = 1234,
                                  .limits = {.prompts = 8,
                                             .choices = 8,
                                             .sequences = 16,
                                             .stops = 4,
                                             .stop_bytes = 100,
                                             .stop_tokens = 12,
                                             .logprobs = 20,
                                             .messages = 10,
                                             .json_depth = 20}};
    assert_int_equal(http_listen_tcp("127.0.0.1", 0, &fd, &site.port, NULL), 0);
    assert_int_equal(http_start(&o, fd, &site.http, NULL), 0);
    return 0;
}

int site_tear_down(void **state)
{
    (void)state;
    http_free(site.http);
    fake_backend_hold(site.engine, false);
    fake_backend_await_idle(site.engine);
    fake_backend_free(site.engine);
    metrics_free(site.metrics);
    chat_free(site.chat);
    tokenizer_free(site.tokenizer);
    return 0;
}

json_t *site_call(const char *path, const char *body, int status)
{
    struct web_reply r;
    json_t *root;

    web_call(site.port, path, body, &r);
    if (r.status != status)
        fail_msg("%s %s: expected %d, found %d %s", path, body ? body : "", status, r.status,
                 web_body(&r));
    assert_true(r.whole);
    assert_string_equal(web_header(&r, "Content-Type"), "application/json");
    root = json_loads(web_body(&r), 0, NULL);
    assert_non_null(root);
    web_done(&r);
    return root;
}

const json_t *json_at(const json_t *value, const char *path)
{
    char name[64];

    while (value && *path) {
        size_t n = strcspn(path, ".");

        snprintf(name, sizeof name, "%.*s", (int)n, path);
        value = json_is_array(value) ? json_array_get(value, (size_t)atoi(name))
                                     : json_object_get(value, name);
        path += n + (path[n] == '.');
    }
    return value;
}

const char *json_text_at(const json_t *root, const char *path)
{
    const char *text = json_string_value(json_at(root, path));

    if (!text)
        fail_msg("no text at %s", path);
    return text;
}

long long json_number_at(const json_t *root, const char *path)
{
    if (!json_is_integer(json_at(root, path)))
        fail_msg("no integer at %s", path);
    return json_integer_value(json_at(root, path));
}

const char *site_said(unsigned c, unsigned n)
{
    static char text[FAKE_POSITIONS + 1];
    size_t len = 0, whole = 0;

    for (; len < n; len++) {
        text[len] = FAKE_TEXT[(c + len) % strlen(FAKE_TEXT)];
        if ((text[len] & 0xc0) != 0x80)
            whole = len; /* a character begins here */
    }
    if ((text[whole] & 0x80) && len - whole < (size_t)((text[whole] & 0xe0) == 0xc0 ? 2 : 3))
        len = whole;
    text[len] = 0;
    return text;
}

json_t *site_events(struct web_reply *r)
{
    json_t *events = json_array();
    const char *line;

    assert_int_equal(r->status, 200);
    assert_true(r->whole);
    assert_int_equal(strncmp(web_header(r, "Content-Type"), "text/event-stream", 17), 0);
    line = web_body(r);
    for (;;) {
        const char *end = strstr(line, "\n\n");
        json_t *event;

        assert_non_null(end);
        assert_int_equal(strncmp(line, "data: ", 6), 0);
        if (!strcmp(line, "data: [DONE]\n\n"))
            return events;
        event = json_loadb(line + 6, (size_t)(end - line - 6), 0, NULL);
        assert_non_null(event);
        json_array_append_new(events, event);
        line = end + 2;
    }
}

json_t *site_stream(const char *path, const char *body)
{
    struct web_reply r;
    json_t *events;

    web_call(site.port, path, body, &r);
    events = site_events(&r);
    web_done(&r);
    return events;
}

char *site_joined(const json_t *events, const char *field, int index)
{
    struct buf text;

    buf_init(&text, 1 << 20);
    for (size_t i = 0; i < json_array_size(events); i++) {
        const json_t *choices = json_object_get(json_array_get(events, i), "choices");

        for (size_t k = 0; k < json_array_size(choices); k++) {
            const json_t *choice = json_array_get(choices, k);

            if (json_number_at(choice, "index") == index && json_at(choice, field))
                buf_puts(&text, json_text_at(choice, field));
        }
    }
    return buf_steal(&text);
}

void site_check_error(const char *path, const char *body, int status, const char *param,
                      const char *code, const char *message)
{
    json_t *root = site_call(path, body, status);

    if (!strstr(json_text_at(root, "error.message"), message))
        fail_msg("%s: %s", body, json_text_at(root, "error.message"));
    assert_non_null(json_text_at(root, "error.type"));
    if (param)
        assert_string_equal(json_text_at(root, "error.param"), param);
    else
        assert_true(json_is_null(json_at(root, "error.param")));
    if (code)
        assert_string_equal(json_text_at(root, "error.code"), code);
    else
        assert_true(json_is_null(json_at(root, "error.code")));
    json_decref(root);
}
