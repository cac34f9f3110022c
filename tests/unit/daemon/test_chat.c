/* Chat templates against what Jinja renders (tests/golden/chat/cases.json), and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "daemon/chat.h"

#define MAX_MESSAGES 8

static struct chat_template *with_template(const char *text, bool tokens)
{
    json_t *config = json_pack("{s:s}", "chat_template", text);
    struct chat_template *c = NULL;
    struct mt_err err = {0};
    char *json;

    if (tokens) {
        json_object_set_new(config, "bos_token", json_string("<s>"));
        json_object_set_new(config, "eos_token", json_pack("{s:s}", "content", "</s>"));
    }
    json = json_dumps(config, 0);
    if (chat_parse(json, strlen(json), "test", &c, &err))
        fail_msg("%s", err.text);
    free(json);
    json_decref(config);
    return c;
}

static size_t read_messages(const json_t *list, struct chat_message *messages)
{
    size_t i, n = json_array_size(list);

    assert_in_range(n, 1, MAX_MESSAGES);
    for (i = 0; i < n; i++) {
        const json_t *m = json_array_get(list, i);

        messages[i].role = json_string_value(json_object_get(m, "role"));
        messages[i].content = json_string_value(json_object_get(m, "content"));
    }
    return n;
}

static void check_case(const json_t *one)
{
    const char *expected = json_string_value(json_object_get(one, "expected"));
    struct chat_template *c =
        with_template(json_string_value(json_object_get(one, "template")), true);
    struct chat_message messages[MAX_MESSAGES];
    size_t n = read_messages(json_object_get(one, "messages"), messages);
    struct mt_err err = {0};
    struct buf out;
    int status;

    assert_string_equal(chat_name(c), json_string_value(json_object_get(one, "name")));
    buf_init(&out, 1 << 16);
    buf_puts(&out, "before ");
    status = chat_render(c, messages, n, json_is_true(json_object_get(one, "prompt")), &out, &err);
    if (expected) {
        char *text = buf_steal(&out);

        assert_int_equal(status, 0);
        assert_memory_equal(text, "before ", 7);
        assert_string_equal(text + 7, expected);
        free(text);
    } else {
        assert_int_equal(status, MT_EINVAL);
        assert_non_null(strstr(err.text, "message "));
    }
    buf_done(&out);
    chat_free(c);
}

static void test_as_jinja(void **state)
{
    json_error_t error;
    json_t *cases = json_load_file("tests/golden/chat/cases.json", 0, &error);
    size_t i;

    (void)state;
    assert_non_null(cases);
    assert_true(json_array_size(cases) > 100);
    for (i = 0; i < json_array_size(cases); i++)
        check_case(json_array_get(cases, i));
    json_decref(cases);
}

static void expect_unsupported(struct chat_template *c, const char *name, const char *why)
{
    struct chat_message message = {"user", "x"};
    struct mt_err err = {0};
    struct buf out;

    buf_init(&out, 1 << 16);
    assert_string_equal(chat_name(c), name);
    assert_int_equal(chat_render(c, &message, 1, true, &out, &err), MT_EUNSUPPORTED);
    assert_non_null(strstr(err.text, why));
    assert_int_equal(out.len, 0);
    buf_done(&out);
    chat_free(c);
}

/* Any one character changed, outside of the white space in tags, and the template is unknown. */
static void test_changed_is_unknown(void **state)
{
    static const char known[] =
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    struct chat_template *c = with_template(known, false);
    char changed[sizeof(known)];
    size_t i;

    (void)state;
    assert_string_equal(chat_name(c), "chatml");
    chat_free(c);
    for (i = 0; i + 1 < sizeof(known); i++) {
        memcpy(changed, known, sizeof(known));
        changed[i] = 'x';
        expect_unsupported(with_template(changed, true), "unknown", "not one of those");
    }
}

static void test_missing(void **state)
{
    static const char others[] = "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": "
                                 "\"x\"}, {\"name\": \"rag\", \"template\": \"y\"}]}";
    struct chat_template *c = NULL;
    struct mt_err err = {0};

    (void)state;
    assert_int_equal(chat_load("/nonexistent/tokenizer_config.json", &c, &err), 0);
    expect_unsupported(c, "none", "no chat template");
    assert_int_equal(chat_parse("{}", 2, "test", &c, &err), 0);
    expect_unsupported(c, "none", "no chat template");
    assert_int_equal(chat_parse(others, strlen(others), "test", &c, &err), 0);
    expect_unsupported(c, "unknown", "not one of those");
}

static void test_named(void **state)
{
    static const char named[] =
        "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"x\"}, {\"name\": "
        "\"default\", \"template\": \"{% for message in messages %}{{'<|im_start|>' + "
        "message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if "
        "add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\"}]}";
    struct chat_template *c = NULL;
    struct mt_err err = {0};

    (void)state;
    assert_int_equal(chat_parse(named, strlen(named), "test", &c, &err), 0);
    assert_string_equal(chat_name(c), "chatml");
    assert_string_equal(chat_stops(c)[0], "<|im_end|>");
    assert_null(chat_stops(c)[1]);
    chat_free(c);
}

static void test_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "[]",
        "{\"chat_template\": 5}",
        "{\"chat_template\": [5]}",
        "{\"chat_template\": [{\"name\": \"default\"}]}",
        "{\"bos_token\": 1}",
        "{\"eos_token\": {\"content\": 1}}",
        "{\"bos_token\": \"a\", \"bos_token\": \"b\"}",
    };
    struct chat_template *c = (struct chat_template *)1;
    struct mt_err err;
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        err = (struct mt_err){0};
        assert_int_equal(chat_parse(bad[i], strlen(bad[i]), "FILE", &c, &err), MT_EINVAL);
        assert_non_null(strstr(err.text, "FILE"));
        assert_ptr_equal(c, (struct chat_template *)1);
    }
}

static void test_no_tokens_no_messages_no_room(void **state)
{
    static const char llama3[] =
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
        "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | "
        "trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
        "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
    struct chat_template *c = with_template(llama3, false);
    struct chat_message message = {"user", "Hello"};
    struct mt_err err = {0};
    struct buf out;

    (void)state;
    buf_init(&out, 20);
    assert_int_equal(chat_render(c, &message, 1, true, &out, &err), MT_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "bos_token"));
    chat_free(c);
    c = with_template(llama3, true);
    assert_int_equal(chat_render(c, &message, 0, true, &out, &err), MT_EINVAL);
    assert_int_equal(chat_render(c, &message, 1, true, &out, &err), MT_ELIMIT);
    chat_free(c);
    buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_jinja), cmocka_unit_test(test_changed_is_unknown),
        cmocka_unit_test(test_missing),  cmocka_unit_test(test_named),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_no_tokens_no_messages_no_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
