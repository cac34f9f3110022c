/* Placement files: any bytes are refused or give a sound plan, which is the same when written and
 * read again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct plan *p)
{
    size_t pairs = (size_t)p->layers * p->experts;

    for (size_t i = 0; i < pairs; i++) {
        double sum = 0;

        if (p->start[i] >= p->start[i + 1]) /* I1 */
            abort();
        for (uint32_t k = p->start[i]; p->share && k < p->start[i + 1]; k++)
            sum += p->share[k] >= 0 ? (double)p->share[k] : -9;
        if (p->share && !(sum > 1 - 2e-5 && sum < 1 + 2e-5))
            abort();
        for (uint32_t k = p->start[i]; k < p->start[i + 1]; k++)
            if (p->rank[k] >= p->ranks)
                abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct plan p, q;
    struct mt_err err;
    char *text = NULL;
    size_t len = 0;
    FILE *out;

    if (plan_parse((const char *)data, size, "fuzz", &p, &err))
        return 0;
    check(&p);
    out = open_memstream(&text, &len);
    if (out) {
        if (plan_write(out, &p, NULL, &err))
            abort();
        fclose(out);
        if (plan_parse(text, len, "written", &q, &err) || q.layers != p.layers ||
            q.experts != p.experts || q.ranks != p.ranks ||
            memcmp(p.start, q.start, ((size_t)p.layers * p.experts + 1) * sizeof *p.start) ||
            memcmp(p.rank, q.rank, p.start[(size_t)p.layers * p.experts] * sizeof *p.rank) ||
            !p.share != !q.share ||
            (p.share &&
             memcmp(p.share, q.share, p.start[(size_t)p.layers * p.experts] * sizeof *p.share)))
            abort();
        plan_done(&q);
    }
    free(text);
    plan_done(&p);
    return 0;
}
