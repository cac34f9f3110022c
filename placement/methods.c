#include "placement/methods.h"

const struct place_method PLACE_METHODS[] = {
    {"joint", "ours: tail compute, traffic, replicas, homes and migration in one search",
     joint_solve},
    {"moetuner", "the paper's two ILPs: equal sizes, sum of traffic", moetuner_solve},
    {"moetuner-max", "... its busiest pair of ranks instead of the sum", moetuner_max_solve},
    {"moetuner-free", "... cluster sizes free, totals over all layers equal", moetuner_free_solve},
    {"contiguous", "experts in order, as many on each rank; spare slots unused", contiguous_solve},
    {"random", "contiguous of shuffled experts, by --seed", random_solve},
    {"eplb", "DeepSeek's greedy load balancer with replicas, hierarchical over nodes", eplb_solve},
    {"eplb-global", "the same by its global policy, blind to nodes", eplb_global_solve},
    {"grace", "GRACE-like: experts chosen together share a rank, then replicas", grace_solve},
    {"exflow", "ExFlow-like: affinity between consecutive layers alone", exflow_solve},
    {0},
};
