#include "api/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/status.h"

void buf_init(struct buf *b, size_t cap)
{
    *b = (struct buf){.cap = cap};
}

void buf_done(struct buf *b)
{
    if (!b)
        return;
    free(b->data);
    *b = (struct buf){.cap = b->cap};
}

void buf_reset(struct buf *b)
{
    b->len = 0;
    b->status = 0;
}

/* Makes room for n more bytes and a NUL. */
static int buf_reserve(struct buf *b, size_t n)
{
    size_t want, alloc;
    uint8_t *data;

    if (b->status)
        return b->status;
    if (n > b->cap - b->len)
        return b->status = MT_ELIMIT;
    want = b->len + n + 1;
    if (want <= b->alloc)
        return 0;
    alloc = b->alloc ? b->alloc : 256;
    while (alloc < want)
        alloc = alloc > SIZE_MAX / 2 ? want : alloc * 2;
    if (alloc > b->cap && b->cap < SIZE_MAX)
        alloc = want > b->cap + 1 ? want : b->cap + 1;
    data = realloc(b->data, alloc);
    if (!data)
        return b->status = MT_ENOMEM;
    b->data = data;
    b->alloc = alloc;
    return 0;
}

uint8_t *buf_grow(struct buf *b, size_t n)
{
    uint8_t *at;

    if (buf_reserve(b, n))
        return NULL;
    at = b->data + b->len;
    b->len += n;
    return at;
}

int buf_append(struct buf *b, const void *bytes, size_t n)
{
    uint8_t *at = buf_grow(b, n);

    if (!at)
        return b->status;
    if (n)
        memcpy(at, bytes, n);
    return 0;
}

int buf_puts(struct buf *b, const char *text)
{
    return buf_append(b, text, strlen(text));
}

int buf_printf(struct buf *b, const char *format, ...)
{
    va_list ap, again;
    int n;

    if (b->status)
        return b->status;
    va_start(ap, format);
    va_copy(again, ap);
    n = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    if (n < 0)
        b->status = MT_EINVAL;
    else if (!buf_reserve(b, (size_t)n)) {
        vsnprintf((char *)b->data + b->len, (size_t)n + 1, format, again);
        b->len += (size_t)n;
    }
    va_end(again);
    return b->status;
}

void buf_consume(struct buf *b, size_t n)
{
    if (n > b->len)
        n = b->len;
    if (n < b->len)
        memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
}

char *buf_steal(struct buf *b)
{
    char *text;

    if (buf_reserve(b, 0))
        return NULL;
    text = (char *)b->data;
    text[b->len] = 0;
    *b = (struct buf){.cap = b->cap};
    return text;
}
