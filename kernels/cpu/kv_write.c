#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

struct kv_copy {
    const struct kv_layer *kv;
    const float *key, *value;
    size_t stride;
    const struct kernel_rows *rows;
};

static uint16_t bf16_of(float x)
{
    uint16_t lane[V16_LANES];

    v16_store_bf16(lane, v16_set1(x));
    return lane[0];
}

/* key[d] goes KV_BLOCK_TOKENS apart, value[d] side by side. */
static void write_head(const struct kv_layer *kv, const float *key, const float *value,
                       size_t block_head, uint32_t slot)
{
    const uint32_t dim = kv->head_dim;
    const size_t at = block_head * dim * KV_BLOCK_TOKENS;

    for (uint32_t d = 0; d < dim; d++) {
        size_t k_at = at + (size_t)d * KV_BLOCK_TOKENS + slot, v_at = at + (size_t)slot * dim + d;

        if (kv->dtype == DTYPE_F32) {
            ((float *)kv->k)[k_at] = key[d];
            ((float *)kv->v)[v_at] = value[d];
        } else {
            ((uint16_t *)kv->k)[k_at] = bf16_of(key[d]);
            ((uint16_t *)kv->v)[v_at] = bf16_of(value[d]);
        }
    }
}

static void write_rows(void *context, uint32_t begin, uint32_t end, unsigned thread)
{
    const struct kv_copy *c = context;
    const struct kv_layer *kv = c->kv;

    (void)thread;
    for (uint32_t i = begin; i < end; i++) {
        uint32_t pos = c->rows->pos[i];
        size_t block = c->rows->tables[c->rows->table_at[i] + pos / KV_BLOCK_TOKENS];

        for (uint32_t h = 0; h < kv->kv_heads; h++) {
            size_t at = i * c->stride + (size_t)h * kv->head_dim;

            write_head(kv, c->key + at, c->value + at, block * kv->kv_heads + h,
                       pos % KV_BLOCK_TOKENS);
        }
    }
}

void ISA(cpu_kv_write)(struct kernels *k, const struct kv_layer *kv, const float *key,
                       const float *value, size_t stride, const struct kernel_rows *rows)
{
    struct kv_copy c = {kv, key, value, stride, rows};

    cpu_run(cpu_of(k), rows->n, (uint64_t)kv->kv_heads * kv->head_dim * 4, write_rows, &c);
}
