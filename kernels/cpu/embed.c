#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

struct embed {
    float *out;
    const struct weight *table;
    const int32_t *ids;
};

static void embed_rows(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct embed *e = context;
    const uint32_t d = e->table->cols;

    (void)thread;
    for (uint32_t i = begin; i < end; i++) {
        float *out = e->out + (size_t)i * d;
        size_t at = (size_t)e->ids[i] * d;

        for (uint32_t j = 0; j < d; j += V16_LANES) {
            v16 v = v16_load_part(e->table->data, at + j, e->table->dtype, d - j);

            v16_store_part(out + j, v, d - j);
        }
    }
}

void ISA(cpu_embed)(struct kernels *k, float *out, const struct weight *table, const int32_t *ids,
                    uint32_t n)
{
    struct embed e = {out, table, ids};

    cpu_run(cpu_of(k), n, table->cols, embed_rows, &e);
}
