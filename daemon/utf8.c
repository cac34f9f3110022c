#include "daemon/utf8.h"

unsigned utf8_len(uint8_t first)
{
    return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

int utf8_next(const uint8_t *text, size_t n, uint32_t *ret_cp)
{
    uint8_t first = text[0], low = 0x80, high = 0xbf; /* bounds of the second byte */
    unsigned len, i;
    uint32_t cp;

    if (first < 0x80) {
        *ret_cp = first;
        return 1;
    }
    if (first < 0xc2 || first > 0xf4)
        return -1;
    len = utf8_len(first);
    cp = first & (0x7fu >> len);
    if (first == 0xe0)
        low = 0xa0;
    else if (first == 0xed)
        high = 0x9f;
    else if (first == 0xf0)
        low = 0x90;
    else if (first == 0xf4)
        high = 0x8f;
    for (i = 1; i < len && i < n; i++) {
        if (text[i] < low || text[i] > high)
            return -(int)i;
        cp = cp << 6 | (text[i] & 0x3f);
        low = 0x80;
        high = 0xbf;
    }
    if (i < len)
        return 0;
    *ret_cp = cp;
    return (int)len;
}

size_t utf8_check(const uint8_t *text, size_t n)
{
    size_t i = 0;
    uint32_t cp;
    int len;

    while (i < n) {
        if (text[i] < 0x80) {
            i++;
            continue;
        }
        len = utf8_next(text + i, n - i, &cp);
        if (len <= 0)
            return i;
        i += (size_t)len;
    }
    return n;
}
