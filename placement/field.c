#include "placement/field.h"

static const char *const TYPE_NAMES[] = {
    [JSON_OBJECT] = "an object",   [JSON_ARRAY] = "an array",     [JSON_STRING] = "a string",
    [JSON_INTEGER] = "an integer", [JSON_REAL] = "a real number", [JSON_TRUE] = "true",
    [JSON_FALSE] = "false",        [JSON_NULL] = "null",
};

const char *field_found(const json_t *v)
{
    return v ? TYPE_NAMES[json_typeof(v)] : "nothing";
}

int field_load(const char *bytes, size_t len, size_t cap, const char *name, json_t **ret,
               struct mt_err *reterr)
{
    json_error_t at;
    json_t *root;
    int rc;

    if (len > cap)
        return mt_error(reterr, MT_ELIMIT, "%s: expected at most %zu bytes, found %zu", name, cap,
                        len);
    root = json_loadb(bytes, len, JSON_REJECT_DUPLICATES, &at);
    if (!root)
        return mt_error(reterr, MT_EINVAL, "%s: line %d, column %d: %s", name, at.line, at.column,
                        at.text);
    if (json_is_object(root)) {
        *ret = root;
        return 0;
    }
    rc = mt_error(reterr, MT_EINVAL, "%s: expected an object, found %s", name, field_found(root));
    json_decref(root);
    return rc;
}

int field_count(const json_t *root, const char *name, const char *field, uint32_t max,
                uint32_t *ret, struct mt_err *reterr)
{
    const json_t *v = json_object_get(root, field);

    if (!json_is_integer(v))
        return mt_error(reterr, MT_EINVAL, "%s: %s: expected an integer, found %s", name, field,
                        field_found(v));
    if (json_integer_value(v) < 1 || json_integer_value(v) > max)
        return mt_error(reterr, MT_EINVAL, "%s: %s: expected 1 to %u, found %" JSON_INTEGER_FORMAT,
                        name, field, max, json_integer_value(v));
    *ret = (uint32_t)json_integer_value(v);
    return 0;
}
