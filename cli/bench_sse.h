/* Server-sent events out of a stream of bytes, however it is cut. As the HTML standard reads them:
 * lines end in LF, CR or CRLF; the data lines of an event are joined by LF; a blank line ends it;
 * comments and other fields are ignored. Pure; memory is bounded by max_event. */
#ifndef MT_CLI_BENCH_SSE_H
#define MT_CLI_BENCH_SSE_H

#include <stdbool.h>

#include "api/buf.h"
#include "api/status.h"

struct bench_sse {
    struct buf line, data;
    bool has_data, after_cr;
};

/* Called for each whole event; other than 0 stops the reader and is what feed returns. */
typedef int bench_sse_event(void *user, const char *data, size_t len, struct mt_err *reterr);

void bench_sse_init(struct bench_sse *s, size_t max_event);
void bench_sse_done(struct bench_sse *s);
void bench_sse_reset(struct bench_sse *s); /* for another stream; keeps the memory */
/* MT_ELIMIT if a line or an event is longer than max_event. */
int bench_sse_feed(struct bench_sse *s, const char *bytes, size_t n, bench_sse_event *event,
                   void *user, struct mt_err *reterr);

#endif
