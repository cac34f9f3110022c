#include "worker/fields.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/file.h"

#define MESSAGE_BYTES 256

int fields_parse(const char *json, size_t len, const char *name, json_t **ret,
                 struct mt_err *reterr)
{
    json_error_t why;
    json_t *root;

    if (len > FIELDS_MAX_FILE)
        return mt_error(reterr, MT_ELIMIT, "%s: expected at most %u bytes, found %zu", name,
                        FIELDS_MAX_FILE, len);
    root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return mt_error(reterr,
                        json_error_code(&why) == json_error_out_of_memory ? MT_ENOMEM : MT_EINVAL,
                        "%s: line %d: %s", name, why.line, why.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return mt_error(reterr, MT_EINVAL, "%s: expected a JSON object", name);
    }
    *ret = root;
    return 0;
}

int fields_read(const char *path, json_t **ret, struct mt_err *reterr)
{
    char *bytes;
    size_t len;
    int rc = file_read(path, FIELDS_MAX_FILE, &bytes, &len, reterr);

    if (rc)
        return rc;
    rc = fields_parse(bytes, len, path, ret, reterr);
    free(bytes);
    return rc;
}

void fields_release(json_t *root)
{
    json_decref(root);
}

void fields_fail(struct fields *f, int status, const char *key, const char *format, ...)
{
    char message[MESSAGE_BYTES];
    va_list ap;

    if (f->status)
        return;
    va_start(ap, format);
    vsnprintf(message, sizeof message, format, ap);
    va_end(ap);
    f->status = mt_error(f->err, status, "%s: %s%s: %s", f->file, f->prefix, key, message);
}

static const json_t *look(const struct fields *f, const char *key)
{
    const json_t *value = json_object_get(f->object, key);

    return json_is_null(value) ? NULL : value;
}

bool fields_has(const struct fields *f, const char *key)
{
    return look(f, key);
}

/* What was found, for messages. */
static void value_text(char out[64], const json_t *value)
{
    static const char *const KINDS[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "a list", [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",      [JSON_NULL] = "null",
    };

    if (!value)
        snprintf(out, 64, "nothing");
    else if (json_is_string(value))
        snprintf(out, 64, "\"%.40s\"", json_string_value(value));
    else if (json_is_integer(value))
        snprintf(out, 64, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        snprintf(out, 64, "%g (not a whole number)", json_real_value(value));
    else
        snprintf(out, 64, "%s", KINDS[json_typeof(value)]);
}

uint32_t fields_u32(struct fields *f, const char *key, uint32_t min, uint32_t max, int64_t fallback)
{
    const json_t *value = look(f, key);
    json_int_t number = json_integer_value(value);
    uint32_t missing = fallback < 0 ? min : (uint32_t)fallback;
    char found[64];

    if (f->status || (!value && fallback >= 0))
        return missing;
    if (json_is_integer(value) && number >= min && number <= max)
        return (uint32_t)number;
    value_text(found, value);
    fields_fail(f, MT_EINVAL, key, "expected a whole number from %u to %u, found %s", min, max,
                found);
    return missing;
}

double fields_real(struct fields *f, const char *key, double min, double max, double fallback)
{
    const json_t *value = look(f, key);
    double number = json_number_value(value), missing = fallback < 0 ? min : fallback;
    char found[64];

    if (f->status || (!value && fallback >= 0))
        return missing;
    if (json_is_number(value) && number >= min && number <= max)
        return number;
    value_text(found, value);
    if (json_is_real(value))
        snprintf(found, sizeof found, "%g", number);
    fields_fail(f, MT_EINVAL, key, "expected a number from %g to %g, found %s", min, max, found);
    return missing;
}

bool fields_bool(struct fields *f, const char *key, bool fallback)
{
    const json_t *value = look(f, key);
    char found[64];

    if (f->status || !value)
        return fallback;
    if (json_is_boolean(value))
        return json_is_true(value);
    value_text(found, value);
    fields_fail(f, MT_EINVAL, key, "expected true or false, found %s", found);
    return fallback;
}

const char *fields_text(struct fields *f, const char *key, const char *fallback)
{
    const json_t *value = look(f, key);
    const char *missing = fallback ? fallback : "";
    char found[64];

    if (f->status || (!value && fallback))
        return missing;
    if (json_is_string(value))
        return json_string_value(value);
    value_text(found, value);
    fields_fail(f, MT_EINVAL, key, "expected a text, found %s", found);
    return missing;
}

struct fields fields_object(struct fields *f, const char *key, const char *prefix)
{
    const json_t *value = look(f, key);
    struct fields inner = {value, f->file, prefix, f->err, f->status};
    char found[64];

    if (!f->status && value && !json_is_object(value)) {
        value_text(found, value);
        fields_fail(f, MT_EINVAL, key, "expected an object, found %s", found);
        inner.status = f->status;
        inner.object = NULL;
    }
    return inner;
}

void fields_merge(struct fields *f, const struct fields *inner)
{
    if (!f->status)
        f->status = inner->status;
}
