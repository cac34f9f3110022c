/* Between kernels.c, which opens backends, and the tables of the CPU backend. */
#ifndef MT_KERNELS_BACKEND_H
#define MT_KERNELS_BACKEND_H

#include "kernels/kernels.h"

extern const struct kernels_ops kernels_cpu_ops_portable;
#if defined __x86_64__
extern const struct kernels_ops kernels_cpu_ops_avx2;
extern const struct kernels_ops kernels_cpu_ops_avx512;
#endif

void *kernels_cpu_alloc(struct kernels *k, size_t bytes);
void kernels_cpu_free(struct kernels *k, void *memory, size_t bytes);
int kernels_cpu_sync(struct kernels *k, struct mt_err *reterr);

#endif
