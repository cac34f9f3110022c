"""A small Mixtral for training: parameter names of MixtralForCausalLM, capacity-limited experts.

Shapes in comments: B sequences, T tokens each, N = B*T; the other letters are Config's fields.
The order in which modules are made is part of the result: it decides which random numbers
initialise which weight.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass(frozen=True)
class Config:
    """Sizes of the bundled model, and what only matters while it is trained."""

    hidden: int = 256
    layers: int = 8
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 32
    intermediate: int = 128
    experts: int = 16
    top_k: int = 2
    vocab: int = 8192
    rms_eps: float = 1e-5
    rope_theta: float = 10000.0
    window: int = 512  # tokens of a training sequence
    dropout: float = 0.1
    capacity_factor: float = 2.0  # an expert takes this times its fair share of a batch


class Norm(nn.Module):
    """RMS norm, computed in float32."""

    def __init__(self, config):
        super().__init__()
        self.eps = config.rms_eps
        self.weight = nn.Parameter(torch.ones(config.hidden))

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * y).to(x.dtype)


class Rope:
    """Rotary position embedding of the first `window` positions, halves rotated."""

    def __init__(self, config, device):
        exponents = torch.arange(0, config.head_dim, 2).float() / config.head_dim
        inverse = 1.0 / (config.rope_theta ** exponents)
        angles = torch.outer(torch.arange(config.window).float(), inverse)
        angles = torch.cat([angles, angles], -1).to(device)
        self.cos, self.sin = angles.cos().bfloat16(), angles.sin().bfloat16()  # [window, head_dim]

    def __call__(self, x):
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin


class Attention(nn.Module):
    """Causal grouped-query attention."""

    def __init__(self, config, rope):
        super().__init__()
        self.config, self.rope = config, rope
        q_size, kv_size = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden, q_size, bias=False)
        self.k_proj = nn.Linear(config.hidden, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden, kv_size, bias=False)
        self.o_proj = nn.Linear(q_size, config.hidden, bias=False)

    def forward(self, x):
        batch, tokens, _ = x.shape
        c = self.config

        def split(y, heads):  # [B, T, heads*head_dim] -> [B, heads, T, head_dim]
            return y.view(batch, tokens, heads, c.head_dim).transpose(1, 2)

        q = split(self.q_proj(x), c.heads)
        k = split(self.k_proj(x), c.kv_heads)
        v = split(self.v_proj(x), c.kv_heads)
        out = F.scaled_dot_product_attention(self.rope(q), self.rope(k), v, is_causal=True,
                                             enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).reshape(batch, tokens, c.heads * c.head_dim))


class Experts(nn.Module):
    """Router and experts. A token beyond an expert's capacity passes it by."""

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        self.gate = nn.Linear(c.hidden, c.experts, bias=False)
        self.w1 = nn.Parameter(torch.randn(c.experts, c.intermediate, c.hidden) * 0.02)
        self.w3 = nn.Parameter(torch.randn(c.experts, c.intermediate, c.hidden) * 0.02)
        self.w2 = nn.Parameter(torch.randn(c.experts, c.hidden, c.intermediate) * 0.02
                               / math.sqrt(2 * c.layers))

    def forward(self, x):
        """Returns the output [B, T, hidden], the auxiliary loss and the load [experts]."""
        c = self.config
        batch, tokens, hidden = x.shape
        n = batch * tokens
        rows = x.reshape(n, hidden)
        with torch.autocast("cuda", enabled=False):
            logits = F.linear(rows.float(), self.gate.weight.float())  # [N, experts]
        probabilities = logits.softmax(-1)
        weights, chosen = probabilities.topk(c.top_k, -1)  # [N, top_k]
        weights = weights / weights.sum(-1, keepdim=True)

        # Sort the N*top_k choices by expert; each expert's first `capacity` get a slot.
        chosen = chosen.reshape(-1)
        by_expert, order = torch.sort(chosen, stable=True)
        load = F.one_hot(chosen, c.experts).sum(0)
        start = load.cumsum(0) - load
        position = torch.arange(n * c.top_k, device=x.device) - start[by_expert]
        capacity = int(n * c.top_k / c.experts * c.capacity_factor)
        nowhere = c.experts * capacity
        slot = torch.where(position < capacity, by_expert * capacity + position, nowhere)
        row = order // c.top_k

        packed = torch.zeros(nowhere + 1, hidden, device=x.device, dtype=x.dtype)
        packed = packed.index_copy(0, slot, rows[row])[:-1].view(c.experts, capacity, hidden)
        inner = (F.silu(torch.bmm(packed, self.w1.to(x.dtype).transpose(1, 2)))
                 * torch.bmm(packed, self.w3.to(x.dtype).transpose(1, 2)))
        results = torch.bmm(inner, self.w2.to(x.dtype).transpose(1, 2)).reshape(nowhere, hidden)
        results = (torch.cat([results, results.new_zeros(1, hidden)])[slot]
                   * weights.reshape(-1)[order].unsqueeze(1).to(x.dtype))
        out = torch.zeros_like(rows).index_add(0, row, results)

        balance = c.experts * ((load.float() / (n * c.top_k)) * probabilities.mean(0)).sum()
        z_loss = 0.0001 * torch.logsumexp(logits, -1).pow(2).mean() / 0.01
        return out.view(batch, tokens, hidden), balance + z_loss, load


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, config, rope):
        super().__init__()
        self.dropout = config.dropout
        self.self_attn = Attention(config, rope)
        self.block_sparse_moe = Experts(config)
        self.input_layernorm = Norm(config)
        self.post_attention_layernorm = Norm(config)

    def forward(self, x):
        x = x + F.dropout(self.self_attn(self.input_layernorm(x)), self.dropout, self.training)
        y, aux, load = self.block_sparse_moe(self.post_attention_layernorm(x))
        return x + F.dropout(y, self.dropout, self.training), aux, load


class Mixtral(nn.Module):
    """The whole model; the head is the embedding."""

    def __init__(self, config, device):
        super().__init__()
        self.config = config
        rope = Rope(config, device)
        self.embed_tokens = nn.Embedding(config.vocab, config.hidden)
        self.layers = nn.ModuleList(Block(config, rope) for _ in range(config.layers))
        self.norm = Norm(config)

    def forward(self, tokens):
        """Returns logits [B, T, vocab], the mean auxiliary loss and loads [layers, experts]."""
        x = self.embed_tokens(tokens).bfloat16()
        aux = 0
        loads = []
        for block in self.layers:
            x, block_aux, load = block(x)
            aux = aux + block_aux
            loads.append(load)
        logits = F.linear(self.norm(x), self.embed_tokens.weight.to(x.dtype))
        return logits, aux / len(self.layers), torch.stack(loads)


def initialise(model):
    """Draws the matrices again; the experts' keep what they were made with."""
    depth = math.sqrt(2 * model.config.layers)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.02 / (depth if "o_proj" in name else 1))
