#include "api/option.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/log.h"

struct unit {
    const char *name;
    int64_t factor;
};

static const struct unit NO_UNITS[] = {{"", 1}, {NULL, 0}};
static const struct unit SIZE_UNITS[] = {
    {"", 1},          {"B", 1},       {"K", 1 << 10},   {"KiB", 1 << 10}, {"M", 1 << 20},
    {"MiB", 1 << 20}, {"G", 1 << 30}, {"GiB", 1 << 30}, {NULL, 0},
};
static const struct unit DURATION_UNITS[] = {
    {"", 1000}, {"ms", 1}, {"s", 1000}, {"min", 60000}, {"h", 3600000}, {NULL, 0},
};

static const struct option *option_find(const struct option *table, const char *name, size_t len)
{
    for (const struct option *o = table; o->name; o++)
        if (strlen(o->name) == len && !memcmp(o->name, name, len))
            return o;
    return NULL;
}

/* "expected <what>, found <value>", the value on one line and not too long. */
static int refuse(const struct option *o, const char *value, const char *what,
                  struct mt_err *reterr)
{
    char found[80];

    return mt_error(reterr, MT_EINVAL, "option %s: expected %s, found %s", o->name, what,
                    log_quote(found, sizeof found, value));
}

static int refuse_range(const struct option *o, const char *value, const char *what,
                        struct mt_err *reterr)
{
    char expected[160];

    if (o->min == 0 && o->max == 0)
        snprintf(expected, sizeof expected, "%s of at least 0 that fits its type", what);
    else
        snprintf(expected, sizeof expected, "%s from %.17g to %.17g", what, o->min, o->max);
    return refuse(o, value, expected, reterr);
}

static bool in_range(const struct option *o, double value)
{
    if (o->min == 0 && o->max == 0)
        return value >= 0;
    return value >= o->min && value <= o->max;
}

/* A decimal integer and a unit, nothing before, between or behind. */
static int parse_integer(const struct option *o, const char *value, const struct unit *units,
                         const char *what, int64_t *ret, struct mt_err *reterr)
{
    const char *digits = *value == '-' || *value == '+' ? value + 1 : value;
    const struct unit *u;
    long long n;
    int64_t scaled;
    char *end;

    if (*digits < '0' || *digits > '9')
        return refuse(o, value, what, reterr);
    errno = 0;
    n = strtoll(value, &end, 10);
    for (u = units; u->name; u++)
        if (!strcmp(end, u->name))
            break;
    if (!u->name)
        return refuse(o, value, what, reterr);
    if (errno || __builtin_mul_overflow((int64_t)n, u->factor, &scaled) ||
        !in_range(o, (double)scaled))
        return refuse_range(o, value, what, reterr);
    *ret = scaled;
    return 0;
}

static int parse_real(const struct option *o, const char *value, double *ret, struct mt_err *reterr)
{
    static const char WHAT[] = "a number";
    double x;
    char *end;

    /* strtod would also take blanks, hexadecimals, "inf" and "nan". */
    if (!*value || strspn(value, "+-0123456789.eE") != strlen(value))
        return refuse(o, value, WHAT, reterr);
    x = strtod(value, &end);
    if (*end || end == value)
        return refuse(o, value, WHAT, reterr);
    if (!isfinite(x) || !in_range(o, x))
        return refuse_range(o, value, WHAT, reterr);
    *ret = x;
    return 0;
}

static int parse_flag(const struct option *o, const char *value, bool *ret, struct mt_err *reterr)
{
    static const char *const YES[] = {"true", "yes", "on", "1"};
    static const char *const NO[] = {"false", "no", "off", "0"};

    for (size_t i = 0; i < sizeof YES / sizeof *YES; i++) {
        if (!strcmp(value, YES[i]))
            return *ret = true, 0;
        if (!strcmp(value, NO[i]))
            return *ret = false, 0;
    }
    return refuse(o, value, "true or false", reterr);
}

static int parse_choice(const struct option *o, const char *value, int *ret, struct mt_err *reterr)
{
    char what[256] = "";
    size_t len = 0;

    for (int i = 0; o->choices[i]; i++) {
        if (!strcmp(o->choices[i], value))
            return *ret = i, 0;
        if (len < sizeof what)
            len += (size_t)snprintf(what + len, sizeof what - len, "%s%s", i ? " | " : "",
                                    o->choices[i]);
    }
    return refuse(o, value, what, reterr);
}

static int option_store(const struct option *o, void *config, const char *value,
                        struct mt_err *reterr)
{
    void *field = (char *)config + o->offset;
    char *text;

    switch (o->type) {
    case OPTION_FLAG: return parse_flag(o, value, field, reterr);
    case OPTION_INT: return parse_integer(o, value, NO_UNITS, "an integer", field, reterr);
    case OPTION_SIZE:
        return parse_integer(o, value, SIZE_UNITS, "a size (bytes, or with KiB, MiB, GiB)", field,
                             reterr);
    case OPTION_DURATION:
        return parse_integer(o, value, DURATION_UNITS,
                             "a duration (seconds, or with ms, s, min, h)", field, reterr);
    case OPTION_REAL: return parse_real(o, value, field, reterr);
    case OPTION_CHOICE: return parse_choice(o, value, field, reterr);
    case OPTION_TEXT:
        text = strdup(value);
        if (!text)
            return mt_error(reterr, MT_ENOMEM, "option %s: out of memory", o->name);
        free(*(char **)field);
        *(char **)field = text;
        return 0;
    }
    return mt_error(reterr, MT_EINTERNAL, "option %s: unknown type %d", o->name, (int)o->type);
}

int option_defaults(const struct option *table, void *config, struct mt_err *reterr)
{
    int rc;

    for (const struct option *o = table; o->name; o++)
        if (o->type == OPTION_TEXT)
            *(char **)((char *)config + o->offset) = NULL;
    for (const struct option *o = table; o->name; o++) {
        if (!o->value)
            continue;
        rc = option_store(o, config, o->value, reterr);
        if (rc) {
            option_done(table, config);
            return rc;
        }
    }
    return 0;
}

void option_done(const struct option *table, void *config)
{
    for (const struct option *o = table; o->name; o++) {
        char **field = (char **)((char *)config + o->offset);

        if (o->type == OPTION_TEXT) {
            free(*field);
            *field = NULL;
        }
    }
}

static int refuse_name(const char *name, struct mt_err *reterr)
{
    char found[80];

    return mt_error(reterr, MT_ENOTFOUND, "expected an option of this program, found %s",
                    log_quote(found, sizeof found, name));
}

int option_set(const struct option *table, void *config, const char *name, const char *value,
               struct mt_err *reterr)
{
    const struct option *o = option_find(table, name, strlen(name));

    if (!o)
        return refuse_name(name, reterr);
    return option_store(o, config, value, reterr);
}

int option_parse_args(const struct option *table, void *config, int argc, char *const *argv,
                      int *ret_next, struct mt_err *reterr)
{
    int i, rc;

    for (i = 1; i < argc && !strncmp(argv[i], "--", 2); i++) {
        const char *name = argv[i] + 2, *equals = strchr(name, '='), *value = NULL;
        const size_t len = equals ? (size_t)(equals - name) : strlen(name);
        const struct option *o = option_find(table, name, len);

        if (!*name) {
            i++; /* "--" */
            break;
        }
        if (equals)
            value = equals + 1;
        else if (!o && !strncmp(name, "no-", 3)) {
            o = option_find(table, name + 3, len - 3);
            if (o && o->type != OPTION_FLAG)
                o = NULL;
            value = "false";
        } else if (o && o->type == OPTION_FLAG)
            value = "true";
        else if (o && i + 1 < argc)
            value = argv[++i];
        if (!o)
            return refuse_name(name - 2, reterr);
        if (!value)
            return mt_error(reterr, MT_EINVAL, "option %s: expected a value, found none", o->name);
        rc = option_store(o, config, value, reterr);
        if (rc)
            return rc;
    }
    *ret_next = i;
    return 0;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static void trim(const char **at, size_t *len)
{
    while (*len && blank(**at))
        ++*at, --*len;
    while (*len && blank((*at)[*len - 1]))
        --*len;
}

/* One line of a file, len bytes without the newline. */
static int parse_line(const struct option *table, void *config, const char *at, size_t len,
                      struct mt_err *reterr)
{
    char name[OPTION_MAX_VALUE], value[OPTION_MAX_VALUE];
    const char *equals, *rest;
    size_t name_len, value_len;

    trim(&at, &len);
    if (!len || *at == '#')
        return 0;
    if (len >= OPTION_MAX_VALUE)
        return mt_error(reterr, MT_ELIMIT, "expected a line of less than %d bytes, found %zu",
                        OPTION_MAX_VALUE, len);
    if (memchr(at, 0, len))
        return mt_error(reterr, MT_EINVAL, "expected text, found a zero byte");
    equals = memchr(at, '=', len);
    if (!equals)
        return mt_error(reterr, MT_EINVAL, "expected `key = value`, found no =");
    rest = equals + 1;
    name_len = (size_t)(equals - at);
    value_len = len - name_len - 1;
    trim(&at, &name_len);
    trim(&rest, &value_len);
    memcpy(name, at, name_len);
    name[name_len] = 0;
    memcpy(value, rest, value_len);
    value[value_len] = 0;
    return option_set(table, config, name, value, reterr);
}

int option_parse_file(const struct option *table, void *config, const char *bytes, size_t len,
                      const char *name, struct mt_err *reterr)
{
    size_t number = 0;

    while (len) {
        const char *newline = memchr(bytes, '\n', len);
        const size_t n = newline ? (size_t)(newline - bytes) : len;
        int rc;

        number++;
        rc = parse_line(table, config, bytes, n, reterr);
        if (rc) {
            mt_error_prefix(reterr, "%s:%zu", name, number);
            return rc;
        }
        bytes += n + (newline != NULL);
        len -= n + (newline != NULL);
    }
    return 0;
}
