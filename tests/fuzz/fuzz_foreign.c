/* Other systems' files and ours for loads: any bytes are refused or give something sound, which is
 * the same when written and read again. The first byte chooses the format. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement/foreign.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_loads(struct loads *l)
{
    struct loads again;
    struct mt_err err;
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    for (size_t i = 0; i < (size_t)l->layers * l->experts; i++)
        if (!(l->load[i] >= 0 && l->load[i] <= l->topk * 1.001))
            abort();
    if (out) {
        if (loads_write(out, l, &err))
            abort();
        fclose(out);
        if (loads_parse(text, len, "written", &again, &err) || again.layers != l->layers ||
            again.experts != l->experts || again.topk != l->topk ||
            memcmp(again.load, l->load, (size_t)l->layers * l->experts * sizeof *l->load))
            abort();
        loads_done(&again);
    }
    free(text);
    loads_done(l);
}

static void check_plan(struct plan *p, uint32_t dense)
{
    struct foreign_options how = {.dense = dense};
    struct mt_err err;

    for (int trtllm = 0; trtllm < 2; trtllm++) {
        struct plan q;
        char *text = NULL;
        size_t len = 0;
        FILE *out = open_memstream(&text, &len);

        if (!out)
            continue;
        if ((trtllm ? foreign_write_trtllm : foreign_write_sglang)(out, p, &how, NULL, &err))
            abort();
        fclose(out);
        if (trtllm && dense + p->layers > PLAN_MAX_LAYERS) {
            free(text);
            continue;
        }
        if (trtllm ? foreign_parse_trtllm_map(text, len, "written", p->ranks, &q, NULL, &err)
                   : foreign_parse_sglang_map(text, len, "written", p->ranks, dense, &q, &err))
            abort();
        if (q.layers != p->layers || q.experts != p->experts || q.ranks != p->ranks)
            abort();
        plan_done(&q);
        free(text);
    }
    plan_done(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mt_err err;
    struct loads l;
    struct plan p;
    uint32_t dense = 0;
    const char *text = (const char *)data + 1;

    if (!size)
        return 0;
    size--;
    switch (data[0] % 4) {
    case 0:
        if (!loads_parse(text, size, "fuzz", &l, &err))
            check_loads(&l);
        break;
    case 1:
        if (!foreign_parse_sglang(text, size, "fuzz", 1 + data[0] / 32, &l, &dense, &err))
            check_loads(&l);
        break;
    case 2:
        if (!foreign_parse_sglang_map(text, size, "fuzz", 1 + data[0] / 32, data[0] / 4 % 4, &p,
                                      &err))
            check_plan(&p, data[0] / 4 % 4);
        break;
    default:
        if (!foreign_parse_trtllm_map(text, size, "fuzz", 1 + data[0] / 32, &p, &dense, &err))
            check_plan(&p, dense);
        break;
    }
    return 0;
}
