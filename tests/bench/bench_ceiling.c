/* The machine's ceilings as JSON: bench_ceiling MODEL_BYTES.
 *
 * Reading speed with one thread and with two, out of memory (a block of four times the last cache,
 * 1 GiB at least) and out of a block as large as the model's weights, which caches may hold; and
 * multiply-adds with the best instruction set. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/bench/ceiling.h"

#define RUNS 128
#define LEAST ((size_t)1 << 30)
#define MOST ((size_t)8 << 30)

static const char *best_isa(void)
{
#if defined __x86_64__
    if (__builtin_cpu_supports("avx512f"))
        return "avx512";
    if (__builtin_cpu_supports("avx2"))
        return "avx2";
#endif
    return "portable";
}

static void measure(const char *memory, size_t large, size_t model, unsigned threads)
{
    printf("{\"threads\": %u, \"memory_gbs\": %.2f, \"model_gbs\": %.2f, \"gflops\": %.1f}",
           threads, ceiling_read(memory, large, threads, RUNS, CLOCK_MONOTONIC),
           ceiling_read(memory, model, threads, RUNS, CLOCK_MONOTONIC),
           ceiling_flops(best_isa(), threads, RUNS, CLOCK_MONOTONIC));
}

int main(int argc, char **argv)
{
    size_t model = argc == 2 ? strtoull(argv[1], NULL, 10) : 0;
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t large = cache > 0 ? 4 * (size_t)cache : LEAST;
    char *memory;

    large = large < LEAST ? LEAST : large > MOST ? MOST : large;
    if (model < 4096 || model > large) {
        fprintf(stderr, "bench_ceiling: expected the model's bytes, from 4096 to %zu\n", large);
        return 1;
    }
    memory = aligned_alloc(4096, large / 4096 * 4096);
    if (!memory) {
        fprintf(stderr, "bench_ceiling: out of memory\n");
        return 1;
    }
    madvise(memory, large / 4096 * 4096, MADV_HUGEPAGE); /* as the kernels' memory */
    memset(memory, 1, large / 4096 * 4096);
    printf(
        "{\"isa\": \"%s\", \"last_cache_bytes\": %ld, \"memory_bytes\": %zu, \"model_bytes\": %zu, "
        "\"ceilings\": [",
        best_isa(), cache, large, model);
    measure(memory, large, model, 1);
    printf(", ");
    measure(memory, large, model, 2);
    printf("]}\n");
    free(memory);
    return 0;
}
