/* The machine that a placement is for: ranks on nodes, links, slots, and what work costs there.
 *
 * Seconds, bytes, tokens; alpha, beta, dense, bw, lat, b_d and b_c are those of the objective
 * (placement.h). Pure; any thread.
 *
 * The file is a JSON object:
 *     "name"                   text; the file's name if it is missing
 *     "ranks_per_node"         n, with "nodes" (1); or instead of it
 *     "node_of_rank"           [node of each rank]: ascending from 0, without gaps
 *     "rank_link", "node_link" {"bandwidth": bytes per second and direction, "latency": seconds per
 *                              message}: of each rank's port within its node, and of each node's to
 *                              the network; one that no traffic can use may be left out
 *     "two_level"              true: the network carries a vector once per node; false
 *     "exact_combine"          true: the experts' results come back one by one; false: one sum
 *     "migration_share"        of a link, for migration: 0 < x <= 1; 0.25
 *     "slots"                  of each rank and layer: n, or [of each rank]
 * and what work costs, as it was measured (each for one rank):
 *     "token_expert_seconds" "active_expert_seconds" "dense_step_seconds" "dense_token_seconds"
 *     "dispatch_bytes" "combine_bytes" "kv_bytes" "expert_bytes"
 * or, for those that are missing, the rates that give them with the sizes of the model:
 *     "flops"                  operations per second: alpha = 6 hidden intermediate / flops (three
 *                              matrices, two operations a weight), dense_token
 *     "memory_bandwidth"       bytes per second: beta = expert_bytes / memory_bandwidth, dense_step
 * with b_d = hidden * activation_bytes + 8 topk (an id and a weight for each expert), b_c = hidden
 * * activation_bytes, expert_bytes = 3 hidden intermediate weight_bytes. Other keys are refused. */
#ifndef MT_PLACEMENT_CLUSTER_H
#define MT_PLACEMENT_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/status.h"
#include "placement/plan.h"

#define CLUSTER_NAME 64
#define CLUSTER_MAX_FILE (1u << 20)
#define CLUSTER_MIGRATION_SHARE 0.25

struct link {
    double bandwidth; /* bytes per second and direction of one port */
    double latency;   /* seconds per message */
};

/* Sizes of a model, which turn a machine's rates into seconds per token and per expert. */
struct model_dims {
    char name[CLUSTER_NAME];
    uint32_t layers, experts, topk; /* MoE layers */
    uint32_t hidden, intermediate;  /* of one expert */
    double weight_bytes;            /* of one weight of an expert */
    double activation_bytes;        /* of one element of a vector between ranks */
    double kv_bytes;                /* KV cache of one token, all layers */
    double dense_flops;             /* attention and the rest: operations per token and layer */
    double dense_bytes;             /* their weights, per layer */
};

struct cluster {
    char name[CLUSTER_NAME];
    uint32_t ranks, nodes;
    uint16_t node[PLAN_MAX_RANKS];  /* of each rank; nodes are contiguous ranges of ranks */
    uint32_t slots[PLAN_MAX_RANKS]; /* expert slots of each rank in each layer */
    bool two_level;                 /* the network carries a vector once per node, not per rank */
    bool exact_combine;             /* m = experts on the rank; otherwise one partial sum (fast) */
    struct link rank_link;          /* each rank's port within its node */
    struct link node_link;          /* each node's port to the network */
    double token_expert;            /* alpha: seconds per token and expert */
    double active_expert;           /* beta: seconds per expert with at least one token */
    double dense_step, dense_token; /* dense(n) = dense_step + n * dense_token, per layer */
    double dispatch_bytes;          /* b_d: one vector with ids and weights */
    double combine_bytes;           /* b_c */
    double kv_bytes;                /* one token's KV, all layers: what a change of home moves */
    double expert_bytes;            /* one packed expert: what a migration moves */
    double migration_share;         /* of a link's bandwidth that migration may use, 0 < x <= 1 */
};

/* Known models by their shape; NULL if there is none. Borrowed, static. */
const struct model_dims *cluster_known_model(uint32_t layers, uint32_t experts, uint32_t topk);

/* spec: a preset ("h200x8", "h200x8x2", "h100x8", "cpu:N", ...) or the path of a JSON file. dims
 * turns its rates into seconds where the file does not give the seconds themselves; NULL is refused
 * only if it is needed, with a text that says which fields would do. Slots: ceil(experts / ranks) +
 * spare on each rank, unless the file gives them (then spare must be 0); never more than experts.
 */
int cluster_read(const char *spec, const struct model_dims *dims, uint32_t experts, uint32_t spare,
                 struct cluster *ret, struct mt_err *reterr);
/* The same from bytes: the parser of the file. */
int cluster_parse(const char *bytes, size_t len, const char *name, const struct model_dims *dims,
                  uint32_t experts, uint32_t spare, struct cluster *ret, struct mt_err *reterr);
/* The presets, a line each, for a text of help; static. */
const char *cluster_presets(void);
/* Every field in its range, by name. */
int cluster_check(const struct cluster *c, struct mt_err *reterr);
/* Slots of a layer, over all ranks. */
uint64_t cluster_slots(const struct cluster *c);

#endif
