#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"

const struct kernels_ops ISA(kernels_cpu_ops) = {
    .alloc = kernels_cpu_alloc,
    .free = kernels_cpu_free,
    .embed = ISA(cpu_embed),
    .rmsnorm = ISA(cpu_rmsnorm),
    .matmul = ISA(cpu_matmul),
    .matmuls = ISA(cpu_matmuls),
    .rope = ISA(cpu_rope),
    .kv_write = ISA(cpu_kv_write),
    .attention = ISA(cpu_attention),
    .route = ISA(cpu_route),
    .experts = ISA(cpu_experts),
    .combine = ISA(cpu_combine),
    .sample = ISA(cpu_sample),
    .swiglu = ISA(cpu_swiglu),
    .sync = kernels_cpu_sync,
};
