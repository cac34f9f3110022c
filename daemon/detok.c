/* Bytes in, whole characters out. What is held back is always the valid beginning of one character,
 * so that the text is the same however the bytes are cut. */
#include <string.h>

#include "daemon/tokenizer.h"
#include "daemon/utf8.h"

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

/* Feeds one byte to a character that is under way. Returns true if the byte was used. */
static bool detok_byte(struct detok *d, uint8_t byte, struct buf *out)
{
    uint32_t cp;
    int len;

    d->pending[d->n] = byte;
    len = utf8_next(d->pending, d->n + 1u, &cp);
    if (len == 0) {
        d->n++;
        return true;
    }
    if (len > 0) {
        buf_append(out, d->pending, (size_t)len);
        d->n = 0;
        return true;
    }
    buf_puts(out, replacement);
    len = d->n ? 0 : 1; /* a byte that cannot begin a character is used up; one that breaks another
                           begins anew */
    d->n = 0;
    return len;
}

int detok_push(struct detok *d, const uint8_t *bytes, size_t n, struct buf *out)
{
    size_t i = 0, start;

    while (i < n) {
        if (d->n || bytes[i] >= 0x80) {
            i += detok_byte(d, bytes[i], out);
            continue;
        }
        for (start = i; i < n && bytes[i] < 0x80; i++)
            ;
        buf_append(out, bytes + start, i - start);
    }
    return out->status;
}

int detok_flush(struct detok *d, struct buf *out)
{
    if (d->n)
        buf_puts(out, replacement);
    d->n = 0;
    return out->status;
}
