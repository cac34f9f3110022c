/* What libmicrohttpd 0.9.75 accepts and must not reach a handler: framing that another HTTP program
 * in front of us may read differently (request smuggling), and bodies and paths over our caps. The
 * daemon gives it an identity function for unescaping, so that paths arrive as they were sent and
 * %00 cannot cut them short. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "daemon/http_impl.h"

#define TOKEN_CHARS "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

struct framing {
    unsigned lengths, encodings, hosts; /* header lines */
    bool bad_name;
    bool bad_value;
    bool chunked; /* the one encoding is "chunked" */
    bool bad_expect;
    bool bad_length;
    unsigned long long length;
};

static bool parse_length(const char *text, unsigned long long *ret)
{
    size_t n = text ? strspn(text, "0123456789") : 0;

    if (!n || text[n])
        return false;
    *ret = n > 18 ? ULLONG_MAX : strtoull(text, NULL, 10);
    return true;
}

/* "Content-Length : 3" is another header to libmicrohttpd, and of a folded line it puts the rest
 * behind the *name*: both are framing to others. */
static bool name_ok(const char *name)
{
    static const char *const FRAMING[] = {MHD_HTTP_HEADER_CONTENT_LENGTH,
                                          MHD_HTTP_HEADER_TRANSFER_ENCODING};

    if (!*name || name[strspn(name, TOKEN_CHARS)])
        return false;
    for (size_t i = 0; i < sizeof FRAMING / sizeof *FRAMING; i++) {
        size_t n = strlen(FRAMING[i]);

        if (!strncasecmp(name, FRAMING[i], n) && name[n])
            return false;
    }
    return true;
}

static bool value_ok(const char *value)
{
    for (; *value; value++)
        if (((unsigned char)*value < 0x20 && *value != '\t') || *value == 0x7f)
            return false;
    return true;
}

static bool path_ok(const char *path)
{
    if (*path != '/' || strstr(path, "%00"))
        return false;
    for (; *path; path++)
        if ((unsigned char)*path <= 0x20 || *path == 0x7f)
            return false;
    return true;
}

static enum MHD_Result see_header(void *arg, enum MHD_ValueKind kind, const char *name,
                                  const char *value)
{
    struct framing *f = arg;

    (void)kind;
    if (!name_ok(name)) {
        f->bad_name = true;
    } else if (value && !value_ok(value)) {
        f->bad_value = true;
    } else if (!strcasecmp(name, MHD_HTTP_HEADER_HOST)) {
        f->hosts++;
    } else if (!strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH)) {
        f->lengths++;
        if (!parse_length(value, &f->length))
            f->bad_length = true;
    } else if (!strcasecmp(name, MHD_HTTP_HEADER_TRANSFER_ENCODING)) {
        f->encodings++;
        f->chunked = value && !strcasecmp(value, "chunked");
    } else if (!strcasecmp(name, MHD_HTTP_HEADER_EXPECT)) {
        f->bad_expect = !value || strcasecmp(value, "100-continue") != 0;
    }
    return MHD_YES;
}

static int refuse(const char **ret_why, int status, const char *why)
{
    *ret_why = why;
    return status;
}

static int check_framing(const struct framing *framing, const char *version, const char **ret_why)
{
    const struct framing f = *framing;

    if (f.hosts > 1)
        return refuse(ret_why, 400, "more than one Host header");
    if (!f.hosts && strcmp(version, MHD_HTTP_VERSION_1_0) != 0)
        return refuse(ret_why, 400, "a request without a Host header");
    if (f.lengths > 1)
        return refuse(ret_why, 400, "more than one Content-Length header");
    if (f.lengths && f.encodings)
        return refuse(ret_why, 400, "both Content-Length and Transfer-Encoding");
    if (f.encodings > 1 || (f.encodings && !f.chunked))
        return refuse(ret_why, 501,
                      "the only Transfer-Encoding understood here is a single \"chunked\"");
    if (f.encodings && !strcmp(version, MHD_HTTP_VERSION_1_0))
        return refuse(ret_why, 400, "Transfer-Encoding in an HTTP/1.0 request");
    if (f.bad_length)
        return refuse(ret_why, 400, "Content-Length is not a number");
    return 0;
}

int http_check(struct exchange *x, const char *method, const char *version, const char **ret_why)
{
    struct framing f = {0};
    int status;

    if (strlen(x->path) > x->http->options.max_uri)
        return refuse(ret_why, 414,
                      "the request path is longer than this server allows (--max-uri)");
    if (x->http->raw && !http_raw_check(x, method, version))
        return refuse(ret_why, 400,
                      "a malformed head: a folded line, a line that is no header, a bare line feed "
                      "or a NUL");
    MHD_get_connection_values(x->mhd, MHD_HEADER_KIND, see_header, &f);
    if (f.bad_name || f.bad_value)
        return refuse(ret_why, 400, "a malformed or folded header line");
    status = check_framing(&f, version, ret_why);
    if (status)
        return status;
    if (f.bad_expect)
        return refuse(ret_why, 417, "the only expectation understood here is 100-continue");
    if (f.length > x->http->options.max_body)
        return refuse(ret_why, 413,
                      "the request body is larger than this server allows (--max-body)");
    if (!path_ok(x->path))
        return refuse(ret_why, 400, "malformed request path");
    return 0;
}
