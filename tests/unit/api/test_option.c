/* The option table: every type at its edges, and what each refusal says. */
#include "api/option.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct config {
    bool color;
    int64_t count, size, wait, any;
    double ratio;
    char *path, *name;
    int mode;
};

static const char *const MODES[] = {"exact", "fast", NULL};

#define AT(field) offsetof(struct config, field)

static const struct option TABLE[] = {
    {"color", OPTION_FLAG, AT(color), "true", 0, 0, NULL, NULL, "Looks", "Colours."},
    {"count", OPTION_INT, AT(count), "3", -5, 10, NULL, "N", "Numbers", "How many."},
    {"size", OPTION_SIZE, AT(size), "64MiB", 1024, 1e12, NULL, "BYTES", "Numbers", "How much."},
    {"wait", OPTION_DURATION, AT(wait), "1min", 0, 0, NULL, "TIME", "Numbers", "How long."},
    {"any", OPTION_INT, AT(any), "0", 0, 0, NULL, "N", "Numbers", "Anything."},
    {"ratio", OPTION_REAL, AT(ratio), "0.5", 0, 2, NULL, "X", "Numbers", "What part."},
    {"path", OPTION_TEXT, AT(path), NULL, 0, 0, NULL, "FILE", "Texts",
     "A file. It is read once, when the program starts, and never again, whatever becomes of it."},
    {"name", OPTION_TEXT, AT(name), "a-b\\c", 0, 0, NULL, "TEXT", "Texts", ".A name."},
    {"mode", OPTION_CHOICE, AT(mode), "fast", 0, 0, MODES, NULL, "Texts", "Which one."},
    {0},
};

static struct config fresh(void)
{
    struct config c;
    struct mt_err err;

    memset(&c, 0xa5, sizeof c); /* defaults must not trust what is there */
    assert_int_equal(option_defaults(TABLE, &c, &err), 0);
    return c;
}

static void test_defaults(void **state)
{
    struct config c = fresh();

    (void)state;
    assert_true(c.color);
    assert_int_equal(c.count, 3);
    assert_int_equal(c.size, 64 << 20);
    assert_int_equal(c.wait, 60000);
    assert_true(c.ratio == 0.5);
    assert_null(c.path);
    assert_string_equal(c.name, "a-b\\c");
    assert_int_equal(c.mode, 1);
    option_done(TABLE, &c);
    assert_null(c.name);
    option_done(TABLE, &c);
}

static void test_wrong_default_frees_the_others(void **state)
{
    const struct option wrong[] = {
        TABLE[7], {"n", OPTION_INT, AT(count), "x", 0, 0, 0, 0, 0, ""}, {0}};
    struct config c;
    struct mt_err err;

    (void)state;
    assert_int_equal(option_defaults(wrong, &c, &err), MT_EINVAL);
    assert_null(c.name);
}

static void test_numbers_at_their_edges(void **state)
{
    static const struct {
        const char *name, *value;
        int status;
        int64_t expected;
    } rows[] = {
        {"count", "-5", 0, -5},
        {"count", "10", 0, 10},
        {"count", "+7", 0, 7},
        {"count", "-6", MT_EINVAL, 0},
        {"count", "11", MT_EINVAL, 0},
        {"count", "", MT_EINVAL, 0},
        {"count", " 1", MT_EINVAL, 0},
        {"count", "1 ", MT_EINVAL, 0},
        {"count", "0x1", MT_EINVAL, 0},
        {"count", "1K", MT_EINVAL, 0},
        {"count", "--1", MT_EINVAL, 0},
        {"any", "9223372036854775807", 0, INT64_MAX},
        {"any", "9223372036854775808", MT_EINVAL, 0},
        {"any", "-1", MT_EINVAL, 0},
        {"size", "1024", 0, 1024},
        {"size", "1023", MT_EINVAL, 0},
        {"size", "2K", 0, 2048},
        {"size", "3MiB", 0, 3 << 20},
        {"size", "4G", 0, INT64_C(4) << 30},
        {"size", "932GiB", MT_EINVAL, 0},
        {"size", "9223372036854775807K", MT_EINVAL, 0},
        {"size", "1 MiB", MT_EINVAL, 0},
        {"size", "1mib", MT_EINVAL, 0},
        {"size", "KiB", MT_EINVAL, 0},
        {"wait", "15", 0, 15000},
        {"wait", "15ms", 0, 15},
        {"wait", "2s", 0, 2000},
        {"wait", "2min", 0, 120000},
        {"wait", "1h", 0, 3600000},
        {"wait", "0", 0, 0},
        {"wait", "-1", MT_EINVAL, 0},
        {"wait", "9223372036854775s", 0, INT64_C(9223372036854775000)},
        {"wait", "9223372036854776s", MT_EINVAL, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct config c = fresh();
        const struct config before = c;
        struct mt_err err = {0};

        assert_int_equal(option_set(TABLE, &c, rows[i].name, rows[i].value, &err), rows[i].status);
        if (rows[i].status) {
            assert_memory_equal(&c, &before, sizeof c);
            assert_non_null(strstr(err.text, rows[i].name));
            assert_non_null(strstr(err.text, "found \""));
        } else {
            int64_t got = *rows[i].name == 'c'   ? c.count
                          : *rows[i].name == 's' ? c.size
                          : *rows[i].name == 'w' ? c.wait
                                                 : c.any;

            assert_int_equal(got, rows[i].expected);
        }
        option_done(TABLE, &c);
    }
}

static void test_reals(void **state)
{
    static const char *const good[] = {"0", "2", "1e-3", ".5", "2e0"};
    static const char *const bad[] = {"",      "nan", "inf",   "-0.1", "2.01",
                                      "1e999", "0x1", "1.2.3", "e"};
    struct config c = fresh();

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(option_set(TABLE, &c, "ratio", good[i], NULL), 0);
        assert_true(c.ratio == strtod(good[i], NULL));
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(option_set(TABLE, &c, "ratio", bad[i], NULL), MT_EINVAL);
    assert_true(c.ratio == 2);
    option_done(TABLE, &c);
}

static void test_refusals_say_what_and_where(void **state)
{
    struct config c = fresh();
    struct mt_err err;

    (void)state;
    assert_int_equal(option_set(TABLE, &c, "count", "1\n2", &err), MT_EINVAL);
    assert_string_equal(err.text, "option count: expected an integer, found \"1\\n2\"");
    assert_int_equal(option_set(TABLE, &c, "count", "11", &err), MT_EINVAL);
    assert_string_equal(err.text, "option count: expected an integer from -5 to 10, found \"11\"");
    assert_int_equal(option_set(TABLE, &c, "mode", "slow", &err), MT_EINVAL);
    assert_string_equal(err.text, "option mode: expected exact | fast, found \"slow\"");
    assert_int_equal(option_set(TABLE, &c, "color", "blue", &err), MT_EINVAL);
    assert_string_equal(err.text, "option color: expected true or false, found \"blue\"");
    assert_int_equal(option_set(TABLE, &c, "colour", "true", &err), MT_ENOTFOUND);
    assert_string_equal(err.text, "expected an option of this program, found \"colour\"");
    option_done(TABLE, &c);
}

static int parse(struct config *c, int *next, struct mt_err *err, const char *const *words)
{
    char *argv[16] = {"program"};
    int argc = 1;

    while (*words)
        argv[argc++] = (char *)*words++;
    return option_parse_args(TABLE, c, argc, argv, next, err);
}

#define PARSE(...) parse(&c, &next, &err, (const char *const[]){__VA_ARGS__, NULL})

static void test_flags_of_a_command_line(void **state)
{
    struct config c = fresh();
    struct mt_err err;
    int next = -7;

    (void)state;
    assert_int_equal(PARSE("--no-color", "--count=4", "--path", "--x", "--mode", "exact", "rest"),
                     0);
    assert_false(c.color);
    assert_int_equal(c.count, 4);
    assert_string_equal(c.path, "--x");
    assert_int_equal(c.mode, 0);
    assert_int_equal(next, 7);
    assert_int_equal(PARSE("--color", "--path=", "--", "--count=9"), 0);
    assert_true(c.color);
    assert_string_equal(c.path, "");
    assert_int_equal(c.count, 4);
    assert_int_equal(next, 4);
    assert_int_equal(PARSE("--color=off", "-x"), 0);
    assert_false(c.color);
    assert_int_equal(next, 2);

    next = -7;
    assert_int_equal(PARSE("--count"), MT_EINVAL);
    assert_string_equal(err.text, "option count: expected a value, found none");
    assert_int_equal(PARSE("--no-count"), MT_ENOTFOUND);
    assert_int_equal(PARSE("--colo"), MT_ENOTFOUND);
    assert_int_equal(PARSE("--colors=true"), MT_ENOTFOUND);
    assert_int_equal(PARSE("--=1"), MT_ENOTFOUND);
    assert_int_equal(next, -7);
    option_done(TABLE, &c);
}

static int parse_text(struct config *c, const char *text, size_t len, struct mt_err *err)
{
    char *copy = malloc(len + 1); /* no NUL inside what the parser may read */
    int rc;

    assert_non_null(copy);
    memcpy(copy, text, len);
    rc = option_parse_file(TABLE, c, copy, len, "x.conf", err);
    free(copy);
    return rc;
}

#define PARSE_TEXT(text) parse_text(&c, text, sizeof(text) - 1, &err)

static void test_files(void **state)
{
    struct config c = fresh();
    struct mt_err err;
    char *line;

    (void)state;
    assert_int_equal(PARSE_TEXT("# head\n\n  count = 9\t\r\nname=x = # y\n color =no"), 0);
    assert_int_equal(c.count, 9);
    assert_string_equal(c.name, "x = # y");
    assert_false(c.color);
    assert_int_equal(PARSE_TEXT("path =\n"), 0);
    assert_string_equal(c.path, "");
    assert_int_equal(PARSE_TEXT(""), 0);

    assert_int_equal(PARSE_TEXT("count = 1\nsize = 5\n"), MT_EINVAL);
    assert_non_null(strstr(err.text, "x.conf:2: option size: expected a size"));
    assert_int_equal(c.count, 1);
    assert_int_equal(PARSE_TEXT("\n\ncolor\n"), MT_EINVAL);
    assert_string_equal(err.text, "x.conf:3: expected `key = value`, found no =");
    assert_int_equal(PARSE_TEXT("name = a\0b"), MT_EINVAL);
    assert_int_equal(PARSE_TEXT("nothing = 1"), MT_ENOTFOUND);
    assert_int_equal(PARSE_TEXT("= 1"), MT_ENOTFOUND);

    line = malloc(OPTION_MAX_VALUE);
    assert_non_null(line);
    memset(line, 'x', OPTION_MAX_VALUE);
    memcpy(line, "name=", 5);
    assert_int_equal(parse_text(&c, line, OPTION_MAX_VALUE - 1, &err), 0);
    assert_int_equal(strlen(c.name), OPTION_MAX_VALUE - 6);
    assert_int_equal(parse_text(&c, line, OPTION_MAX_VALUE, &err), MT_ELIMIT);
    free(line);
    option_done(TABLE, &c);
}

static char *printed(void (*print)(const struct option *, FILE *))
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    assert_non_null(out);
    print(TABLE, out);
    fclose(out);
    return text;
}

static void test_help_names_all_and_keeps_its_width(void **state)
{
    char *text = printed(option_help), *rest = text, *line;

    (void)state;
    for (const struct option *o = TABLE; o->name; o++) {
        char usage[64];

        snprintf(usage, sizeof usage, "\n  --%s", o->name);
        assert_non_null(strstr(text, usage));
    }
    assert_non_null(strstr(text, "Numbers:\n  --count=N\n        How many. Default: 3.\n"));
    assert_non_null(strstr(text, "--mode=exact|fast\n"));
    while ((line = strsep(&rest, "\n")))
        assert_true(strlen(line) <= 80);
    free(text);
}

static void test_manual_escapes(void **state)
{
    char *text = printed(option_manual);

    (void)state;
    assert_non_null(strstr(text, ".TP\n.B \\-\\-name=TEXT\n\\&.A name.\nDefault: a\\-b\\ec.\n"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_wrong_default_frees_the_others),
        cmocka_unit_test(test_numbers_at_their_edges),
        cmocka_unit_test(test_reals),
        cmocka_unit_test(test_refusals_say_what_and_where),
        cmocka_unit_test(test_flags_of_a_command_line),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_help_names_all_and_keeps_its_width),
        cmocka_unit_test(test_manual_escapes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
