#include "daemon/json.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/utf8.h"

/* jansson's own bound is 2048 deep, each level a stack frame; ours is checked before it starts. */
static int check_depth(const uint8_t *bytes, size_t len, unsigned max_depth, struct mt_err *reterr)
{
    bool quoted = false;
    unsigned depth = 0;

    for (size_t i = 0; i < len; i++) {
        uint8_t c = bytes[i];

        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '[' || c == '{') {
            if (++depth > max_depth)
                return mt_error(reterr, MT_ELIMIT, "more than %u levels of nested JSON", max_depth);
        } else if ((c == ']' || c == '}') && depth) {
            depth--;
        }
    }
    return 0;
}

/* jansson hides some failed allocations, and in one place loses bytes of a string over them: so
 * they are noted here. */
static _Thread_local bool alloc_failed;
static pthread_once_t alloc_once = PTHREAD_ONCE_INIT;
static json_malloc_t alloc_real;

static void *alloc_noted(size_t size)
{
    void *p = alloc_real(size);

    alloc_failed |= !p;
    return p;
}

static void alloc_note(void)
{
    json_free_t release;

    json_get_alloc_funcs(&alloc_real, &release);
    json_set_alloc_funcs(alloc_noted, release);
}

int json_read(const uint8_t *bytes, size_t len, unsigned max_depth, json_t **ret,
              struct mt_err *reterr)
{
    json_error_t error;
    json_t *root;
    int status = check_depth(bytes, len, max_depth, reterr);

    if (status)
        return status;
    if (!len)
        return mt_error(reterr, MT_EINVAL, "expected a JSON object, found an empty body");
    pthread_once(&alloc_once, alloc_note);
    alloc_failed = false;
    root = json_loadb((const char *)bytes, len, JSON_REJECT_DUPLICATES, &error);
    if (alloc_failed) {
        json_decref(root);
        return mt_error(reterr, MT_ENOMEM, "no memory for the JSON of %zu bytes", len);
    }
    if (!root && json_error_code(&error) == json_error_null_character)
        return mt_error(reterr, MT_EINVAL,
                        "line %d, column %d: the character \\u0000 is not supported", error.line,
                        error.column);
    if (!root)
        return mt_error(reterr, MT_EINVAL, "malformed JSON at line %d, column %d: %s", error.line,
                        error.column, error.text);
    *ret = root;
    return 0;
}

json_t *json_text(const char *text, size_t len)
{
    json_t *value = json_stringn(text, len);
    struct buf clean;

    if (value)
        return value;
    buf_init(&clean, 3 * len + 1);
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int n = utf8_next((const uint8_t *)text + i, len - i, &cp);

        if (n > 0)
            buf_append(&clean, text + i, (size_t)n);
        else
            buf_puts(&clean, "\xef\xbf\xbd");
        i += n ? (size_t)abs(n) : len - i;
    }
    value =
        clean.status ? NULL : json_stringn(clean.data ? (const char *)clean.data : "", clean.len);
    buf_done(&clean);
    return value;
}

json_t *json_whole(json_t *list, size_t n)
{
    if (list && json_array_size(list) == n)
        return list;
    json_decref(list);
    return NULL;
}

static int print_some(const char *text, size_t len, void *out)
{
    return buf_append(out, text, len);
}

void json_print(json_t *root, struct buf *out)
{
    /* 9 digits tell every float apart */
    if ((!root ||
         json_dump_callback(root, print_some, out, JSON_COMPACT | JSON_REAL_PRECISION(9))) &&
        !out->status)
        out->status = MT_ENOMEM;
    json_decref(root);
}

/* Bytes from the start of text that need no escape. */
static size_t plain_chars(const uint8_t *text, size_t len)
{
    size_t n = 0;

    while (n < len && text[n] >= 0x20 && text[n] != '"' && text[n] != '\\')
        n++;
    return n;
}

static void put_escape(struct buf *out, uint8_t c)
{
    static const char NAMED[] = "\"\\\b\f\n\r\t", LETTERS[] = "\"\\bfnrt";
    const char *at = memchr(NAMED, c, sizeof NAMED - 1);

    if (at)
        buf_append(out, (char[]){'\\', LETTERS[at - NAMED]}, 2);
    else
        buf_printf(out, "\\u%04X", c);
}

void json_put_chars(struct buf *out, const void *text, size_t len)
{
    const uint8_t *at = text;

    while (len) {
        const size_t valid = utf8_check(at, len);
        size_t bad = 0, n;
        uint32_t cp;

        for (size_t done = 0; done < valid; done += n + (done + n < valid)) {
            n = plain_chars(at + done, valid - done);
            buf_append(out, at + done, n);
            if (done + n < valid)
                put_escape(out, at[done + n]);
        }
        if (valid < len) {
            const int taken = utf8_next(at + valid, len - valid, &cp);

            bad = taken ? (size_t)abs(taken) : len - valid;
            buf_puts(out, "\xef\xbf\xbd");
        }
        at += valid + bad;
        len -= valid + bad;
    }
}

void json_put_text(struct buf *out, const void *text, size_t len)
{
    buf_append(out, "\"", 1);
    json_put_chars(out, text, len);
    buf_append(out, "\"", 1);
}

void json_put_int(struct buf *out, int64_t value)
{
    char digits[20], *at = digits + sizeof digits;
    uint64_t left = value < 0 ? -(uint64_t)value : (uint64_t)value;

    do
        *--at = (char)('0' + left % 10);
    while (left /= 10);
    if (value < 0)
        *--at = '-';
    buf_append(out, at, (size_t)(digits + sizeof digits - at));
}

const char *json_kind(const json_t *value)
{
    if (!value)
        return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number with a fraction";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    default: return "null";
    }
}
