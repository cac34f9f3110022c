#include "cli/bench_sse.h"

#include <string.h>

void bench_sse_init(struct bench_sse *s, size_t max_event)
{
    memset(s, 0, sizeof *s);
    buf_init(&s->line, max_event);
    buf_init(&s->data, max_event);
}

void bench_sse_done(struct bench_sse *s)
{
    buf_done(&s->line);
    buf_done(&s->data);
}

void bench_sse_reset(struct bench_sse *s)
{
    buf_reset(&s->line);
    buf_reset(&s->data);
    s->has_data = s->after_cr = false;
}

static int end_event(struct bench_sse *s, bench_sse_event *event, void *user, struct mt_err *reterr)
{
    int rc = 0;

    if (s->has_data)
        rc = event(user, s->data.len ? (const char *)s->data.data : "", s->data.len, reterr);
    buf_reset(&s->data);
    s->has_data = false;
    return rc;
}

static int end_line(struct bench_sse *s, bench_sse_event *event, void *user, struct mt_err *reterr)
{
    const char *line = (const char *)s->line.data;
    size_t len = s->line.len, skip = 5;

    if (!len)
        return end_event(s, event, user, reterr);
    if (len >= 5 && !memcmp(line, "data:", 5)) {
        skip += len > 5 && line[5] == ' ';
        if (s->has_data)
            buf_append(&s->data, "\n", 1);
        buf_append(&s->data, line + skip, len - skip);
        s->has_data = true;
    } else if (len == 4 && !memcmp(line, "data", 4)) { /* a field without a value */
        if (s->has_data)
            buf_append(&s->data, "\n", 1);
        s->has_data = true;
    }
    buf_reset(&s->line);
    return 0;
}

int bench_sse_feed(struct bench_sse *s, const char *bytes, size_t n, bench_sse_event *event,
                   void *user, struct mt_err *reterr)
{
    while (n) {
        size_t k = 0;
        int rc;

        if (s->after_cr && *bytes == '\n')
            bytes++, n--;
        s->after_cr = false;
        while (k < n && bytes[k] != '\n' && bytes[k] != '\r')
            k++;
        buf_append(&s->line, bytes, k);
        if (k < n) {
            rc = s->line.status ? 0 : end_line(s, event, user, reterr);
            if (rc)
                return rc;
            s->after_cr = bytes[k] == '\r';
            k++;
        }
        if (s->line.status || s->data.status)
            return mt_error(reterr, s->line.status ? s->line.status : s->data.status,
                            "expected an event of at most %zu bytes, found a longer one",
                            s->line.cap);
        bytes += k;
        n -= k;
    }
    return 0;
}
