#include "placement/preset.h"

#include <string.h>

/* Rates are what programs achieve, not peaks. "measured": one H200, grouped matrix products of
 * OLMoE's, Qwen3-30B's and Mixtral's experts in bf16 with random uniform routing. What is assumed
 * can be replaced by a cluster file.
 *
 * NVLink 4 has 450 GB/s per direction (data sheet); all-to-all of a step's sizes is assumed to
 * reach two thirds. Messages of 2 us on NVLink, 5 us on a network with RDMA, 30 us over TCP:
 * assumed. */
#define NVLINK 300e9
#define NVLINK_LATENCY 2e-6
/* 400 Gb/s, one for each GPU. */
#define NIC 50e9
#define NIC_LATENCY 5e-6
/* Measured: 555 to 671 TFLOP/s at 4,096 and more tokens; experts are streamed from memory in decode
 * at 2.5 to 2.9 TB/s (T = 32 and 256). */
#define H200_FLOPS 600e12
#define H200_MEMORY 2.8e12
/* Assumed: the same cores; memory of 3.35 TB/s instead of 4.8 (data sheets). */
#define H100_FLOPS 600e12
#define H100_MEMORY 1.95e12
/* Assumed: a rank has some cores with AVX2 or AVX-512; the machine's memory is shared by all ranks,
 * one rank alone reaches at most CPU_MEMORY_RANK; messages are copied through shared memory. */
#define CPU_FLOPS 100e9
#define CPU_MEMORY 100e9
#define CPU_MEMORY_RANK 20e9
#define CPU_LINK 10e9
#define CPU_LATENCY 1e-6
/* 25 Gb/s. */
#define ETHERNET 3e9
#define ETHERNET_LATENCY 30e-6

struct preset {
    const char *prefix;
    bool per_node; /* N nodes of one rank; otherwise prefixN or prefixNxM */
    bool one_node; /* never more */
    struct preset_rates rates;
    double memory_all; /* bytes per second of a node's ranks together; 0: each has its own */
    struct link rank, network; /* of one rank; a node's port is the sum of its ranks' */
};

static const struct preset PRESETS[] = {
    {"h200x",
     false,
     false,
     {H200_FLOPS, H200_MEMORY},
     0,
     {NVLINK, NVLINK_LATENCY},
     {NIC, NIC_LATENCY}},
    {"h100x",
     false,
     false,
     {H100_FLOPS, H100_MEMORY},
     0,
     {NVLINK, NVLINK_LATENCY},
     {NIC, NIC_LATENCY}},
    {"nic:",
     true,
     false,
     {H200_FLOPS, H200_MEMORY},
     0,
     {NVLINK, NVLINK_LATENCY},
     {NIC, NIC_LATENCY}},
    {"ethernet:",
     true,
     false,
     {H200_FLOPS, H200_MEMORY},
     0,
     {NVLINK, NVLINK_LATENCY},
     {ETHERNET, ETHERNET_LATENCY}},
    {"cpu:",
     false,
     true,
     {CPU_FLOPS, CPU_MEMORY_RANK},
     CPU_MEMORY,
     {CPU_LINK, CPU_LATENCY},
     {CPU_LINK, CPU_LATENCY}},
};

const char PRESET_FORMS[] = "h200xN, h200xNxM, h100xN, h100xNxM, nic:N, ethernet:N, cpu:N";

const char *cluster_presets(void)
{
    return "  h200xN      N H200 GPUs in one node (h200x8)\n"
           "  h200xNxM    M nodes of N H200 GPUs, a 400 Gb/s NIC for each GPU (h200x8x2)\n"
           "  h100xN, h100xNxM   the same with H100 GPUs\n"
           "  nic:N       N nodes of one H200 GPU, a 400 Gb/s NIC each\n"
           "  ethernet:N  N nodes of one H200 GPU, 25 Gb/s Ethernet\n"
           "  cpu:N       N ranks on one machine without GPUs\n";
}

/* Digits at *at, 1 .. PLAN_MAX_RANKS, and *at behind them; 0 if there is no such number. */
static uint32_t take_number(const char **at)
{
    uint32_t n = 0;

    for (; **at >= '0' && **at <= '9'; ++*at)
        if (n <= PLAN_MAX_RANKS)
            n = n * 10 + (uint32_t)(**at - '0');
    return n <= PLAN_MAX_RANKS ? n : 0;
}

static int read_sizes(const struct preset *p, const char *spec, uint32_t *ret_nodes,
                      uint32_t *ret_per_node, struct mt_err *reterr)
{
    const char *at = spec + strlen(p->prefix);
    uint32_t first = take_number(&at), second = 1;

    if (first && *at == 'x' && !p->per_node && !p->one_node) {
        at++;
        second = take_number(&at);
    }
    if (!first || !second || *at || first * second > PLAN_MAX_RANKS)
        return mt_error(reterr, MT_EINVAL,
                        "%.80s: expected 1 to %u ranks in all, as in %s; or the path of a JSON "
                        "file",
                        spec, PLAN_MAX_RANKS, PRESET_FORMS);
    *ret_nodes = p->per_node ? first : second;
    *ret_per_node = p->per_node ? 1 : first;
    return 0;
}

int preset_read(const char *spec, struct cluster *ret, struct preset_rates *ret_rates,
                struct mt_err *reterr)
{
    const struct preset *p = PRESETS, *end = PRESETS + sizeof PRESETS / sizeof *PRESETS;
    struct cluster c = {.migration_share = CLUSTER_MIGRATION_SHARE};
    struct preset_rates rates;
    uint32_t per_node = 0;
    int rc;

    while (p < end && strncmp(spec, p->prefix, strlen(p->prefix)) != 0)
        p++;
    if (p == end)
        return mt_error(reterr, MT_ENOTFOUND,
                        "%.80s: expected a preset (%s) or the path of a JSON file", spec,
                        PRESET_FORMS);
    rc = read_sizes(p, spec, &c.nodes, &per_node, reterr);
    if (rc)
        return rc;
    c.ranks = c.nodes * per_node;
    for (uint32_t r = 0; r < c.ranks; r++)
        c.node[r] = (uint16_t)(r / per_node);
    c.rank_link = p->rank;
    c.node_link = (struct link){p->network.bandwidth * per_node, p->network.latency};
    rates = p->rates;
    if (p->memory_all > 0 && p->memory_all / per_node < rates.memory_bandwidth)
        rates.memory_bandwidth = p->memory_all / per_node;
    *ret = c;
    *ret_rates = rates;
    return 0;
}

/* Sizes from the models' config.json. Dense: the projections of attention and shared experts, two
 * operations a weight; the products with the KV cache depend on the context and are left out.
 * Activations between ranks are bf16, or float32 in our engine on CPUs (the bundled model). */
#define MLA_V3 (7168. * 1536 + 1536. * 128 * 192 + 7168. * 576 + 512. * 128 * 256 + 16384. * 7168)
#define MLA_V2_LITE (2048. * 16 * 192 + 2048. * 576 + 512. * 16 * 256 + 2048. * 2048)
#define DENSE(weights, bytes) 2. * (weights), (bytes) * (weights)

static const struct model_dims MODELS[] = {
    /* name, layers, experts, topk, hidden, intermediate, weight, activation, kv, dense */
    {"bundled tiny", 8, 16, 2, 256, 128, 2, 4, 8. * 2 * 128 * 2, DENSE(2. * 256 * (256 + 128), 2)},
    {"Mixtral-8x7B", 32, 8, 2, 4096, 14336, 2, 2, 32. * 2 * 1024 * 2,
     DENSE(2. * 4096 * (4096 + 1024), 2)},
    {"OLMoE-1B-7B", 16, 64, 8, 2048, 1024, 2, 2, 16. * 2 * 2048 * 2, DENSE(4. * 2048 * 2048, 2)},
    {"DeepSeek-V2-Lite", 26, 64, 6, 2048, 1408, 2, 2, 27. * 576 * 2,
     DENSE(MLA_V2_LITE + 3. * 2048 * 2816, 2)},
    {"Qwen3-30B-A3B", 48, 128, 8, 2048, 768, 2, 2, 48. * 2 * 512 * 2,
     DENSE(2. * 2048 * (4096 + 512), 2)},
    {"Qwen3-235B-A22B", 94, 128, 8, 4096, 1536, 2, 2, 94. * 2 * 512 * 2,
     DENSE(2. * 4096 * (8192 + 512), 2)},
    {"DeepSeek-V3", 58, 256, 8, 7168, 2048, 1, 2, 61. * 576 * 2,
     DENSE(MLA_V3 + 3. * 7168 * 2048, 1)},
};

const struct model_dims *cluster_known_model(uint32_t layers, uint32_t experts, uint32_t topk)
{
    for (size_t i = 0; i < sizeof MODELS / sizeof *MODELS; i++)
        if (MODELS[i].layers == layers && MODELS[i].experts == experts && MODELS[i].topk == topk)
            return &MODELS[i];
    return NULL;
}
