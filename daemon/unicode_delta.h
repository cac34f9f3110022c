/* What PCRE2's Unicode tables (14) do not know as the `tokenizers` package does (16): text is shown
 * to the split patterns with each such character replaced by a stand-in of the same category and
 * length, so that both split alike. A newer PCRE2 sees the same stand-ins, so the result does not
 * depend on its version. */
#ifndef MT_DAEMON_UNICODE_DELTA_H
#define MT_DAEMON_UNICODE_DELTA_H

#include <stddef.h>
#include <stdint.h>

struct unicode_delta {
    uint32_t first, last; /* code points, ascending */
    uint32_t stand_in;
};

extern const struct unicode_delta unicode_delta[];
extern const size_t unicode_delta_count;

#endif
