/* Traces: the head, a zero byte, the ids. Any bytes are refused or give a sound trace, whose parts
 * and sums are sound too. */
#include <stdlib.h>
#include <string.h>

#include "placement/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
    if (!holds)
        abort();
}

static void check_parts(const struct trace *t)
{
    struct trace half;
    struct mt_err err;
    uint32_t fit = trace_split(t, 0.5);

    require(fit >= 1 && fit <= t->documents);
    require(!trace_slice(t, 0, fit, 3, &half, &err));
    require(!trace_check(&half, &err) && half.tokens <= 3);
    trace_done(&half);
}

static void check_sums(const struct trace *t)
{
    double *load = calloc((size_t)t->layers * t->experts, sizeof *load);

    if (load) {
        trace_loads(t, load);
        for (uint32_t l = 0; l < t->layers; l++) {
            double sum = 0;

            for (uint32_t e = 0; e < t->experts; e++)
                sum += load[(size_t)l * t->experts + e];
            require(sum > t->topk - 1e-6 && sum < t->topk + 1e-6);
        }
    }
    free(load);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    struct trace t;
    struct mt_err err;
    size_t head = end ? (size_t)(end - data) : size;

    if (trace_parse((const char *)data, head, end ? end + 1 : data, end ? size - head - 1 : 0,
                    "fuzz.json", &t, &err)) {
        require(err.status < 0 && *err.text);
        return 0;
    }
    require(!trace_check(&t, &err));
    check_parts(&t);
    check_sums(&t);
    trace_done(&t);
    return 0;
}
