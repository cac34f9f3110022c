/* Any bytes as a stream of events, whole and cut at places that they choose: no crash, memory
 * within the cap, and the same events. */
#include <stdlib.h>

#include "cli/bench_sse.h"

#define MAX_EVENT 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int note(void *user, const char *data, size_t len, struct mt_err *reterr)
{
    (void)reterr;
    if (len > MAX_EVENT)
        abort();
    buf_append(user, data, len);
    buf_append(user, "\n--\n", 4);
    return 0;
}

/* step 0: all at once. */
static int read_all(const uint8_t *data, size_t size, size_t step, struct buf *out)
{
    struct bench_sse s;
    struct mt_err err;
    int rc = 0;

    bench_sse_init(&s, MAX_EVENT);
    for (size_t at = 0, n; !rc && at < size; at += n) {
        n = step ? 1 + data[at] % step : size;
        if (n > size - at)
            n = size - at;
        rc = bench_sse_feed(&s, (const char *)data + at, n, note, out, &err);
    }
    bench_sse_done(&s);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf whole, cut;

    buf_init(&whole, (size_t)64 << 20);
    buf_init(&cut, (size_t)64 << 20);
    if (read_all(data, size, 0, &whole) != read_all(data, size, 7, &cut) || whole.len != cut.len)
        abort();
    for (size_t i = 0; i < whole.len; i++)
        if (whole.data[i] != cut.data[i])
            abort();
    buf_done(&whole);
    buf_done(&cut);
    return 0;
}
