/* Whether a request's head was read as it was sent.
 *
 * libmicrohttpd 0.9.75 takes a bare LF for the end of a line, cuts a value at a NUL, joins folded
 * lines, and drops lines that it does not understand: where a program in front of us does
 * otherwise, the two see different requests. It parses in place: the head stays in its buffer with
 * a NUL over each delimiter, and the names and values it hands out point there:
 *
 *   method 0 uri 0 version 0 0 name 0 blanks value 0 0 ... name 0 blanks value 0 0 0 0
 *
 * So each piece must begin where the one before it ends, up to the last byte of the head. What was
 * cut, joined, copied or dropped leaves a gap. Other versions have another layout (and, from 1.0
 * on, refuse such lines themselves): http_raw_known tells. */
#include <string.h>

#include "daemon/http_impl.h"

struct raw {
    uintptr_t at; /* where the next name must begin */
    size_t most;  /* bytes that a head can have */
    bool whole;
};

bool http_raw_known(void)
{
    return !strcmp(MHD_get_version(), "0.9.75");
}

void http_raw_uri(struct conn *c, const char *uri)
{
    c->uri_end = (uintptr_t)uri + strlen(uri);
}

/* Blanks alone, from the colon to the value. */
static bool gap_ok(const char *name, const char *value, size_t most)
{
    const char *p = name + strlen(name) + 1;

    if ((uintptr_t)value < (uintptr_t)p || (uintptr_t)value - (uintptr_t)p > most)
        return false;
    while (p != value && (*p == ' ' || *p == '\t'))
        p++;
    return p == value;
}

static enum MHD_Result see_line(void *arg, enum MHD_ValueKind kind, const char *name,
                                const char *value)
{
    struct raw *r = arg;

    (void)kind;
    r->whole = value && (uintptr_t)name == r->at && gap_ok(name, value, r->most);
    if (r->whole)
        r->at = (uintptr_t)value + strlen(value) + 2;
    return r->whole ? MHD_YES : MHD_NO;
}

bool http_raw_check(const struct exchange *x, const char *method, const char *version)
{
    const union MHD_ConnectionInfo *head =
        MHD_get_connection_info(x->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    struct raw r = {.at = (uintptr_t)version + strlen(version) + 2,
                    .most = x->http->options.max_header,
                    .whole = true};

    if (!head || x->conn->uri_end + 1 != (uintptr_t)version)
        return false;
    MHD_get_connection_values(x->mhd, MHD_HEADER_KIND, see_line, &r);
    return r.whole && r.at + 2 == (uintptr_t)method + head->header_size;
}
