/* What other systems record, and the placements that they take at start.
 *
 * In: counts of how often each expert was chosen become loads. Out: SGLang's and TensorRT-LLM's
 * maps of slots, which fill every slot: one that our plan leaves empty gets an expert that its rank
 * holds anyway and no other rank does (a second copy of a replicated one would bend the even
 * split), of these the most loaded; failing that, the most loaded one that the rank holds; a rank
 * that holds nothing in a layer gets the most loaded expert of all, a copy that the plan does not
 * have. Ties and unknown loads: fewest copies first, then lowest number. Both systems split tokens
 * evenly over copies: a plan's shares are not written. Pure but for reading the named files. */
#ifndef MT_PLACEMENT_FOREIGN_H
#define MT_PLACEMENT_FOREIGN_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "api/status.h"
#include "placement/plan.h"

#define LOADS_MAX_FILE (64u << 20)

/* --- loads without token paths ------------------------------------------------------------------
 */

struct loads {
    uint32_t layers, experts, topk; /* MoE layers */
    double *load; /* [layers][experts] mean choices per token; a layer's sum is topk; owned */
};

/* Our file: {"layers": L, "experts": E, "topk": K, "load": [[one number per expert] per layer]}.
 * Numbers are at least 0; a layer may hold counts of any total above 0, it is scaled to topk.
 * Unknown keys are ignored. MT_ENOTFOUND: a JSON object without "load", so something else (a trace,
 * perhaps). */
int loads_parse(const char *bytes, size_t len, const char *name, struct loads *ret,
                struct mt_err *reterr);
int loads_read(const char *path, struct loads *ret, struct mt_err *reterr);
/* One line per layer; what is written is read back bit by bit. */
int loads_write(FILE *out, const struct loads *l, struct mt_err *reterr);
void loads_done(struct loads *l);

/* --- recorded by others -------------------------------------------------------------------------
 */

/* SGLang's expert distribution, as JSON: {"logical_count": [layers][experts]}, or [steps][layers]
 * [experts], which are summed. It does not say how many experts a token chose: topk. Leading layers
 * without any count are dense: dropped, *ret_dense (may be NULL) says how many. Another layer
 * without counts is refused. */
int foreign_parse_sglang(const char *bytes, size_t len, const char *name, uint32_t topk,
                         struct loads *ret, uint32_t *ret_dense, struct mt_err *reterr);
int foreign_read_sglang(const char *path, uint32_t topk, struct loads *ret, uint32_t *ret_dense,
                        struct mt_err *reterr);
/* TensorRT-LLM's expert statistics, the folder EXPERT_STATISTIC_PATH: meta_info.json (num_experts,
 * num_experts_per_token) and rank0.safetensors, rank1.safetensors, ... up to the first that is not
 * there, with a tensor "ITERATION_LAYER" of num_experts counts each. Summed over ranks and
 * iterations. The lowest layer's number is *ret_dense; the numbers must have no gap. */
int foreign_read_trtllm(const char *folder, struct loads *ret, uint32_t *ret_dense,
                        struct mt_err *reterr);

/* --- placements for others ----------------------------------------------------------------------
 */

struct foreign_options {
    uint32_t slots;     /* of every rank; 0: the fewest that hold the plan */
    uint32_t dense;     /* layers before the first MoE layer */
    const double *load; /* [layers][experts], for the choice of what fills slots; NULL: unknown */
};

struct foreign_report {
    uint32_t slots;    /* of every rank */
    uint32_t physical; /* ranks * slots */
    uint32_t extra;    /* physical - experts: SGLang's --ep-num-redundant-experts */
    uint64_t repeated; /* empty slots filled with what the rank holds */
    uint64_t added;    /* ... with what it does not: copies beyond the plan */
};

/* The expert of each slot, filled as above: *ret[layers][ranks * slots], the caller's to free. */
int foreign_slots(const struct plan *p, const struct foreign_options *how, uint16_t **ret,
                  struct foreign_report *ret_report, struct mt_err *reterr);
/* Back: slot[layers][physical], physical a multiple of ranks; repeated experts count once; every
 * expert up to the highest must have a slot in each layer. `name` is for messages. */
int foreign_plan(uint32_t layers, uint32_t physical, uint32_t ranks, const uint16_t *slot,
                 const char *name, struct plan *ret, struct mt_err *reterr);

/* For --init-expert-location FILE.json: {"physical_to_logical_map": [[expert of each slot, rank by
 * rank] per layer]} and no other key (there each key is an argument). The model's layers are all
 * there: a dense one has the trivial map (slot modulo experts). ret may be NULL. */
int foreign_write_sglang(FILE *out, const struct plan *p, const struct foreign_options *how,
                         struct foreign_report *ret, struct mt_err *reterr);
/* For moe_config.load_balancer: YAML with num_slots, initial_global_assignments by the model's
 * layer number, and layer_updates_per_iter 0 (a static placement). */
int foreign_write_trtllm(FILE *out, const struct plan *p, const struct foreign_options *how,
                         struct foreign_report *ret, struct mt_err *reterr);

/* Back: the plan in such a file (repeated experts count once). The file does not say how many ranks
 * there are, nor which layers are dense: the first `dense` are skipped. Every expert must have a
 * slot. */
int foreign_parse_sglang_map(const char *bytes, size_t len, const char *name, uint32_t ranks,
                             uint32_t dense, struct plan *ret, struct mt_err *reterr);
/* The same; *ret_dense (may be NULL) is the lowest layer's number. Reads what TensorRT-LLM's own
 * tool and we write, not all of YAML. */
int foreign_parse_trtllm_map(const char *bytes, size_t len, const char *name, uint32_t ranks,
                             struct plan *ret, uint32_t *ret_dense, struct mt_err *reterr);

#endif
