/* Normal form C as the `tokenizers` package makes it: with the data of Unicode 9. Characters that
 * have come since, and that newer data orders or composes, stand between what can be normalised.
 *
 * utf8proc's own ordering of combining marks is quadratic in their number; the one here is not. */
#include <stdlib.h>
#include <utf8proc.h>

#include "daemon/tokenizer_private.h"
#include "daemon/utf8.h"

#define FIRST_MARK_BYTE \
    0xccu /* below U+0300 nothing combines, and nothing is another under NFC \
           */

struct range {
    uint32_t first, last;
};

/* Combining marks and canonical compositions younger than Unicode 9; whole blocks where these are.
 */
static const struct range young[] = {
    {0x007fd, 0x007fd}, {0x00897, 0x0089f}, {0x008ca, 0x008d3}, {0x009fe, 0x009fe},
    {0x00c3c, 0x00c3c}, {0x00d3b, 0x00d3c}, {0x00eba, 0x00eba}, {0x01715, 0x01715},
    {0x01abf, 0x01ace}, {0x01df6, 0x01dfa}, {0x0a82c, 0x0a82c}, {0x105c0, 0x105ff},
    {0x10d24, 0x10d27}, {0x10d40, 0x10d8f}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff},
    {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b},
    {0x11380, 0x113ff}, {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11900, 0x1195f},
    {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99},
    {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42},
    {0x16100, 0x1613f}, {0x16d40, 0x16d7f}, {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f},
    {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
    {0x1e5d0, 0x1e5ff},
};

struct nfc {
    struct buf points,
        keys; /* of the segment: utf8proc_int32_t; what marks are sorted by: uint64_t */
    struct buf *out;
    struct mt_err *err;
};

static bool is_young(uint32_t cp)
{
    size_t low = 0, high = sizeof(young) / sizeof(young[0]), mid;

    while (low < high) {
        mid = (low + high) / 2;
        if (cp > young[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < sizeof(young) / sizeof(young[0]) && cp >= young[low].first;
}

static int nfc_failed(struct nfc *c, int status)
{
    return mt_error(c->err, status, "normalising the text: %s", mt_status_name(status));
}

static int key_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Sorts n marks by class, and by place within a class: class 8 bits, place 35, code point 21. */
static int order_marks(struct nfc *c, utf8proc_int32_t *points, size_t n)
{
    uint64_t *keys;
    size_t i;

    buf_reset(&c->keys);
    keys = (uint64_t *)(void *)buf_grow(&c->keys, n * sizeof(*keys));
    if (!keys)
        return nfc_failed(c, c->keys.status);
    for (i = 0; i < n; i++)
        keys[i] = (uint64_t)utf8proc_get_property(points[i])->combining_class << 56 |
                  (uint64_t)i << 21 | (uint32_t)points[i];
    qsort(keys, n, sizeof(*keys), key_compare);
    for (i = 0; i < n; i++)
        points[i] = (utf8proc_int32_t)(keys[i] & 0x1fffff);
    return 0;
}

static int order_all(struct nfc *c, utf8proc_int32_t *points, size_t n)
{
    size_t i = 0, start;

    while (i < n) {
        for (start = i; i < n && utf8proc_get_property(points[i])->combining_class; i++)
            ;
        if (i - start > 1 && order_marks(c, points + start, i - start))
            return c->err ? c->err->status : MT_ENOMEM;
        i += i == start;
    }
    return 0;
}

static int decompose(struct nfc *c, const uint8_t *text, size_t n)
{
    utf8proc_int32_t parts[8];
    utf8proc_ssize_t count;
    uint32_t cp;
    size_t i;

    buf_reset(&c->points);
    for (i = 0; i < n; i += utf8_len(text[i])) {
        utf8_next(text + i, n - i, &cp);
        count = utf8proc_decompose_char((utf8proc_int32_t)cp, parts, 8,
                                        UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, NULL);
        if (count < 0 || count > 8)
            return nfc_failed(c, MT_EINTERNAL);
        buf_append(&c->points, parts, (size_t)count * sizeof(parts[0]));
    }
    return c->points.status ? nfc_failed(c, c->points.status) : 0;
}

/* Text in which nothing is younger than Unicode 9. */
static int normalise_segment(struct nfc *c, const uint8_t *text, size_t n)
{
    utf8proc_int32_t *points;
    utf8proc_ssize_t count, i;
    uint8_t bytes[4];
    int status = decompose(c, text, n);

    if (status)
        return status;
    points = (utf8proc_int32_t *)(void *)c->points.data;
    count = (utf8proc_ssize_t)(c->points.len / sizeof(*points));
    status = order_all(c, points, (size_t)count);
    if (status)
        return status;
    count = utf8proc_normalize_utf32(points, count, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    if (count < 0)
        return nfc_failed(c, MT_EINTERNAL);
    for (i = 0; i < count; i++)
        buf_append(c->out, bytes, (size_t)utf8proc_encode_char(points[i], bytes));
    return c->out->status ? nfc_failed(c, c->out->status) : 0;
}

/* An ASCII character joins what follows it but never what is before it, so it begins a segment. */
static size_t segment_end(const uint8_t *text, size_t n, size_t at)
{
    uint32_t cp;

    for (at++; at < n && text[at] >= 0x80; at += utf8_len(text[at])) {
        utf8_next(text + at, n - at, &cp);
        if (is_young(cp))
            break;
    }
    return at;
}

bool nfc_needed(const uint8_t *text, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++)
        if (text[i] >= FIRST_MARK_BYTE)
            return true;
    return false;
}

static int normalise_next(struct nfc *c, const uint8_t *text, size_t n, size_t *at)
{
    size_t start = *at;
    uint32_t cp;

    utf8_next(text + start, n - start, &cp);
    if (is_young(cp) || (cp < 0x80 && (start + 1 == n || text[start + 1] < 0x80))) {
        *at += utf8_len(text[start]);
        return buf_append(c->out, text + start, *at - start) ? nfc_failed(c, c->out->status) : 0;
    }
    *at = segment_end(text, n, start + utf8_len(text[start]) - 1);
    return normalise_segment(c, text + start, *at - start);
}

int nfc_normalise(const uint8_t *text, size_t n, struct buf *out, struct mt_err *reterr)
{
    struct nfc c = {.out = out, .err = reterr};
    size_t at = 0;
    int status = 0;

    buf_init(&c.points, SIZE_MAX / 2);
    buf_init(&c.keys, SIZE_MAX / 2);
    while (at < n && !status)
        status = normalise_next(&c, text, n, &at);
    buf_done(&c.points);
    buf_done(&c.keys);
    return status;
}
