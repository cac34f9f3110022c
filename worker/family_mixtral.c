/* Mixtral: grouped-query attention without biases, and in every layer a softmax router over experts
 * whose chosen weights are normalised again. */
#include "worker/family.h"
#include "worker/fields.h"

static int configure(const void *json_root, const char *file, struct model_config *c,
                     struct mt_err *reterr)
{
    struct fields f = {json_root, file, "", reterr, 0};

    c->inter = fields_u32(&f, "intermediate_size", 1, MODEL_MAX_INTER, FIELDS_REQUIRED);
    c->router = (struct router){
        .score = ROUTER_SOFTMAX,
        .renormalize = true,
        .experts = fields_u32(&f, "num_local_experts", 1, MODEL_MAX_EXPERTS, FIELDS_REQUIRED),
        .topk = fields_u32(&f, "num_experts_per_tok", 1, KERNELS_MAX_TOPK, FIELDS_REQUIRED),
        .groups = 1,
        .topk_groups = 1,
        .scale = 1,
    };
    c->window = fields_u32(&f, "sliding_window", 0, INT32_MAX, 0);
    if (fields_bool(&f, "attention_bias", false))
        fields_fail(&f, MT_EUNSUPPORTED, "attention_bias", "true is not supported");
    if (c->rope_dims != c->head_dim)
        fields_fail(&f, MT_EUNSUPPORTED, "partial_rotary_factor",
                    "a factor other than 1 is not supported");
    return f.status;
}

const struct family family_mixtral = {
    .model_type = "mixtral",
    .architecture = "MixtralForCausalLM",
    .configure = configure,
    .names =
        {
            .embed = "model.embed_tokens.weight",
            .final_norm = "model.norm.weight",
            .head = "lm_head.weight",
            .attn_norm = "model.layers.%u.input_layernorm.weight",
            .q = "model.layers.%u.self_attn.q_proj.weight",
            .k = "model.layers.%u.self_attn.k_proj.weight",
            .v = "model.layers.%u.self_attn.v_proj.weight",
            .o = "model.layers.%u.self_attn.o_proj.weight",
            .ffn_norm = "model.layers.%u.post_attention_layernorm.weight",
            .router = "model.layers.%u.block_sparse_moe.gate.weight",
            .expert_gate = "model.layers.%u.block_sparse_moe.experts.%u.w1.weight",
            .expert_up = "model.layers.%u.block_sparse_moe.experts.%u.w3.weight",
            .expert_down = "model.layers.%u.block_sparse_moe.experts.%u.w2.weight",
        },
};
