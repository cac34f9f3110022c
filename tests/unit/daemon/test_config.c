/* The daemon's options: defaults, the order of file and flags, and what cannot be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/config.h"

static int read_words(const char *words, struct config *c, struct mt_err *err)
{
    char text[512], *argv[32] = {"moetunerd"};
    int argc = 1;

    snprintf(text, sizeof text, "%s", words);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    return config_read(argc, argv, c, err);
}

static void test_defaults(void **state)
{
    struct mt_err err;
    struct config c;

    (void)state;
    assert_int_equal(read_words("--model some/where/tiny//", &c, &err), 0);
    assert_string_equal(c.served_name, "tiny");
    assert_string_equal(c.host, "127.0.0.1");
    assert_int_equal(c.port, 8000);
    assert_int_equal(c.ranks, 2);
    assert_string_equal(CONFIG_NUMERICS[c.numerics], "exact");
    assert_null(c.isa);
    assert_int_equal(c.drain_deadline, 30000);
    assert_int_equal(c.max_body, 8 << 20);
    assert_false(c.help || c.version || c.manual);
    config_done(&c);
    assert_int_equal(read_words("--model . --served-model-name=org/x", &c, &err), 0);
    assert_string_equal(c.served_name, "org/x");
    config_done(&c);
    assert_int_equal(read_words("--weights dummy:1 --config x.json", &c, &err), 0);
    assert_string_equal(c.served_name, "dummy");
    config_done(&c);
    assert_int_equal(read_words("--help", &c, &err), 0); /* needs no model */
    assert_true(c.help);
    config_done(&c);
}

/* Defaults, then the file, then the flags, wherever the file is named. */
static void test_file(void **state)
{
    char path[] = "/tmp/test_config.XXXXXX", words[256];
    struct mt_err err;
    struct config c;
    int fd = mkstemp(path);
    static const char TEXT[] = "# a comment\nmodel = m\nport = 1\nranks = 3\n";

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, TEXT, strlen(TEXT)), strlen(TEXT));
    snprintf(words, sizeof words, "--port=2 --config-file %s", path);
    assert_int_equal(read_words(words, &c, &err), 0);
    assert_string_equal(c.model, "m");
    assert_int_equal(c.port, 2);
    assert_int_equal(c.ranks, 3);
    config_done(&c);
    assert_int_equal(write(fd, "colour = red\n", 13), 13);
    assert_int_not_equal(read_words(words, &c, &err), 0);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "colour"));
    close(fd);
    unlink(path);
    assert_int_not_equal(read_words(words, &c, &err), 0);
}

static void test_refused(void **state)
{
    static const struct {
        const char *words, *message;
    } CASES[] = {
        {"", "model"},
        {"--model m word", "word"},
        {"--model m --port 65536", "port"},
        {"--model m --ranks 0", "ranks"},
        {"--model m --numerics half", "exact"},
        {"--model m --no-such", "no-such"},
        {"--model m --max-body 10", "max-body"},
        {"--weights dummy:1", "--config"},
        {"--model m --relaunch-min 5 --relaunch-max 1", "relaunch-max"},
    };
    struct mt_err err;
    struct config c;

    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        assert_int_not_equal(read_words(CASES[i].words, &c, &err), 0);
        if (!strstr(err.text, CASES[i].message))
            fail_msg("%s: %s", CASES[i].words, err.text);
    }
}

static void test_texts(void **state)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    (void)state;
    assert_non_null(out);
    config_help(out);
    config_manual(out);
    fclose(out);
    assert_non_null(strstr(text, "--max-queued-requests"));
    assert_non_null(strstr(text, ".SH OPTIONS"));
    assert_non_null(strstr(text, ".SH SIGNALS"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_texts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
