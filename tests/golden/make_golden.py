#!/usr/bin/env python3
"""Makes the golden models: for each family a tiny model with random weights, and what it computes.

Each folder gets the model as Hugging Face transformers saves it (config.json, bfloat16 safetensors)
and golden.safetensors, with for i = 0, 1, 2:

    prompt_i  int32   [n]        random token ids, n = 1, 17, 61
    logits_i  float32 [n][384]   float32 arithmetic on the bfloat16 weights, eager attention
    greedy_i  int32   [24]       the tokens of highest logit that follow

Needs PyTorch (a CPU will do), transformers 5.17.0 and safetensors. All families draw from
generators of the one seed, so that one of them can be made again alone.
"""

import argparse
import json
import os
import sys

import torch
import transformers
from safetensors.torch import save_file

PROMPT_LENGTHS = (1, 17, 61)
GREEDY_TOKENS = 24
FIRST_TOKEN = 3  # below are padding, beginning and end
VOCAB = 384

COMMON = {
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}

DEEPSEEK = {
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
}

# model_type: (prefix of the classes, their configuration besides COMMON)
FAMILIES = {
    "mixtral": ("Mixtral", {
        "intermediate_size": 96,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": None,
        "rope_theta": 1e6,
    }),
    "olmoe": ("Olmoe", {
        "intermediate_size": 32,
        "num_key_value_heads": 4,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "norm_topk_prob": False,
    }),
    "qwen2_moe": ("Qwen2Moe", {
        "intermediate_size": 96,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 64,
        "num_key_value_heads": 2,
        "num_experts": 12,
        "num_experts_per_tok": 4,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }),
    "qwen3_moe": ("Qwen3Moe", {
        "intermediate_size": 96,
        "moe_intermediate_size": 32,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [1],
    }),
    "deepseek_v2": ("DeepseekV2", DEEPSEEK | {
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_experts_per_tok": 2,
        "q_lora_rank": None,
        "head_dim": 16,
        "topk_method": "greedy",
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": False,
    }),
    "deepseek_v3": ("DeepseekV3", DEEPSEEK | {
        "n_routed_experts": 16,
        "n_shared_experts": 1,
        "num_experts_per_tok": 4,
        "q_lora_rank": 48,
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
    }),
    "gpt_oss": ("GptOss", {
        "intermediate_size": 64,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }),
    "glm4_moe": ("Glm4Moe", {
        "intermediate_size": 128,
        "moe_intermediate_size": 32,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": True,
        "partial_rotary_factor": 0.5,
        "use_qk_norm": True,
    }),
    "granitemoe": ("GraniteMoe", {
        "intermediate_size": 32,
        "num_key_value_heads": 2,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "embedding_multiplier": 12.0,
        "logits_scaling": 6.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.0625,
    }),
    "phimoe": ("Phimoe", {
        "intermediate_size": 96,
        "num_key_value_heads": 2,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": None,
        "rope_theta": 10000.0,
    }),
}

SHARDED = ("mixtral", "deepseek_v3")  # saved in several files


def randomize(model, generator):
    """Weights that keep activations of order 1 and make routing decided, unlike a fresh model's."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() >= 2:
                weight.copy_(noise * (1.4 / (weight.shape[-1] ** 0.5)))
            elif "norm" in name:
                weight.copy_(1 + 0.1 * noise)
            else:
                weight.copy_(0.2 * noise)
        for name, buffer in model.named_buffers():
            if "e_score_correction_bias" in name:
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))


def greedy(model, prompt):
    """The tokens that follow, each step computed from the whole text, without a cache."""
    tokens = prompt
    for _ in range(GREEDY_TOKENS):
        with torch.no_grad():
            logits = model(tokens).logits[0, -1]
        tokens = torch.cat([tokens, logits.argmax().view(1, 1)], 1)
    return tokens[0, prompt.shape[1]:]


def golden(model, generator):
    """The tensors of golden.safetensors."""
    result = {}
    for i, n in enumerate(PROMPT_LENGTHS):
        prompt = torch.randint(FIRST_TOKEN, VOCAB, (1, n), generator=generator)
        with torch.no_grad():
            logits = model(prompt, use_cache=True).logits[0]
        result[f"prompt_{i}"] = prompt[0].to(torch.int32)
        result[f"logits_{i}"] = logits.float().contiguous()
        result[f"greedy_{i}"] = greedy(model, prompt).to(torch.int32)
    return result


def make(family, folder, seed):
    """Writes one family's model and golden values into `folder`."""
    prefix, settings = FAMILIES[family]
    model_class = getattr(transformers, prefix + "ForCausalLM")
    torch.manual_seed(seed)
    config = getattr(transformers, prefix + "Config")(**(COMMON | settings))
    config._attn_implementation = "eager"
    generator = torch.Generator().manual_seed(seed)
    model = model_class(config)
    randomize(model, generator)
    os.makedirs(folder, exist_ok=True)
    shard = "400KB" if family in SHARDED else "5GB"
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size=shard)

    # What was saved is what is computed with: bfloat16 weights, as float32.
    model = model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    result = golden(model.eval(), generator)
    save_file(result, os.path.join(folder, "golden.safetensors"))
    about = {
        "family": family,
        "transformers": transformers.__version__,
        "dtype_weights": "bfloat16",
        "dtype_compute": "float32",
        "attention": "eager",
        "note": "logits_i [len(prompt_i)][vocab] float32; "
                "greedy_i the 24 argmax tokens that follow",
    }
    with open(os.path.join(folder, "golden.json"), "w", encoding="utf-8") as out:
        json.dump(about, out)
    count = sum(p.numel() for p in model.parameters())
    print(f"{family}: {count} parameters, logits deviate by {result['logits_2'].std().item():.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="gets one folder for each family")
    parser.add_argument("seed", type=int)
    parser.add_argument("family", nargs="*", default=[], help="all if none is named: "
                        + " ".join(FAMILIES))
    args = parser.parse_args()
    unknown = [f for f in args.family if f not in FAMILIES]
    if unknown:
        parser.error(f"unknown family {unknown[0]}, expected one of: {' '.join(FAMILIES)}")
    for family in args.family or FAMILIES:
        make(family, os.path.join(args.folder, family), args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
