"""Writes a trained model as a Hugging Face Mixtral directory."""

import json

import torch
from safetensors.torch import save_file

from data import END_OF_TEXT, PAD, SPECIAL

SHARD_BYTES = 15_000_000
MAX_POSITIONS = 2048
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tensors_of(model):
    """Returns the checkpoint's names and bfloat16 tensors, in file order."""

    def stored(x):
        return x.detach().to(torch.bfloat16).cpu().contiguous()

    tensors = {"model.embed_tokens.weight": stored(model.embed_tokens.weight),
               "model.norm.weight": stored(model.norm.weight)}
    for i, block in enumerate(model.layers):
        at = f"model.layers.{i}."
        for letter in "qkvo":
            weight = getattr(block.self_attn, letter + "_proj").weight
            tensors[f"{at}self_attn.{letter}_proj.weight"] = stored(weight)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}{norm}.weight"] = stored(getattr(block, norm).weight)
        moe = block.block_sparse_moe
        tensors[f"{at}block_sparse_moe.gate.weight"] = stored(moe.gate.weight)
        for expert in range(model.config.experts):
            for name in ("w1", "w2", "w3"):
                key = f"{at}block_sparse_moe.experts.{expert}.{name}.weight"
                tensors[key] = stored(getattr(moe, name)[expert])
    return tensors


def shards_of(tensors):
    """Splits tensors into dictionaries of at most SHARD_BYTES."""
    shards, shard, size = [], {}, 0
    for name, tensor in tensors.items():
        n_bytes = tensor.numel() * 2
        if size + n_bytes > SHARD_BYTES:
            shards.append(shard)
            shard, size = {}, 0
        shard[name] = tensor
        size += n_bytes
    return shards + [shard]


def save_weights(model, folder):
    """Writes the shards and their index."""
    tensors = tensors_of(model)
    shards = shards_of(tensors)
    weight_map = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, f"{folder}/{name}", metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
    total = sum(tensor.numel() * 2 for tensor in tensors.values())
    save_json({"metadata": {"total_size": total}, "weight_map": weight_map},
              f"{folder}/model.safetensors.index.json", indent=1)


def save_json(value, path, indent=None):
    """Writes one JSON file."""
    with open(path, "w") as out:
        json.dump(value, out, indent=indent)


def save_configuration(config, folder):
    """Writes config.json, generation_config.json and tokenizer_config.json."""
    save_json({
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope_theta,
        "num_local_experts": config.experts,
        "num_experts_per_tok": config.top_k,
        "tie_word_embeddings": True,
        "sliding_window": None,
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": END_OF_TEXT,
        "pad_token_id": PAD,
        "torch_dtype": "bfloat16",
        "router_aux_loss_coef": 0.01,
        "attention_dropout": 0.0,
        "use_cache": True,
        "initializer_range": 0.02,
    }, f"{folder}/config.json", indent=1)
    save_json({
        "bos_token": SPECIAL[END_OF_TEXT],
        "eos_token": SPECIAL[END_OF_TEXT],
        "pad_token": SPECIAL[PAD],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_POSITIONS,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }, f"{folder}/tokenizer_config.json", indent=1)
    save_json({"bos_token_id": END_OF_TEXT, "eos_token_id": END_OF_TEXT, "pad_token_id": PAD},
              f"{folder}/generation_config.json")
