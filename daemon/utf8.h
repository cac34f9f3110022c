/* UTF-8, strictly (no surrogates, no overlong forms, nothing above U+10FFFF). Pure. */
#ifndef MT_DAEMON_UTF8_H
#define MT_DAEMON_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Looks at the start of n > 0 bytes. Returns the length of the character there (its code point in
 * *ret_cp); 0 if all n bytes are the beginning of one that is not finished; -k if the first k bytes
 * can never become one (the "maximal subpart" that decoders replace by one U+FFFD). */
int utf8_next(const uint8_t *text, size_t n, uint32_t *ret_cp);
/* Length of the character that begins with this byte of valid text. */
unsigned utf8_len(uint8_t first);
/* Offset of the first byte that is not part of a valid character; n if there is none. */
size_t utf8_check(const uint8_t *text, size_t n);

#endif
