"""Trains the bundled model: a 16 M-parameter Mixtral, 8 layers x 16 experts, top-2, byte-level BPE
of 8,192 tokens.

Needs one GPU with PyTorch, tokenizers and safetensors. The time given is that of the training loop
(the bundled weights: 250 s on one H200, 642 M tokens); the learning rate follows it, so another GPU
or another time gives another model. Also writes heldout.json, the beginnings of documents that were
not trained on.
"""

import argparse
import math
import os
import random
import time

import torch
import torch.nn.functional as F

from data import WEIGHTS, Batches, encode, read_corpus, train_tokenizer
from export import save_configuration, save_json, save_weights
from mixtral import Config, Mixtral, initialise

BATCH = 256  # windows in a step
LEARNING_RATE = 3e-3
WARMUP_STEPS = 200
UNTIMED_STEPS = 5  # compilation, not counted
AUX_WEIGHT = 0.01


def make_loss(model):
    """Returns a compiled function: windows -> (loss, cross entropy, loads)."""

    def loss(tokens):
        with torch.autocast("cuda", torch.bfloat16):
            logits, aux, loads = model(tokens[:, :-1])
        logits = logits.float().view(-1, model.config.vocab)
        cross_entropy = F.cross_entropy(logits, tokens[:, 1:].reshape(-1))
        return cross_entropy + AUX_WEIGHT * aux, cross_entropy, loads

    return torch.compile(loss)


def make_optimizer(model):
    """AdamW, with weight decay on matrices only."""
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)


def learning_rate(step, done):
    """Warm-up by steps, then a cosine over the fraction of the time that is done."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1, done)))
    return LEARNING_RATE * min(1, (step + 1) / WARMUP_STEPS) * (0.02 + 0.98 * cosine)


def imbalance(loads):
    """Largest over mean load of each layer's experts."""
    return [round((load.max() / load.float().mean()).item(), 2) for load in loads]


def train(model, loss, batches, seconds):
    """Runs steps until the time is over."""
    optimizer = make_optimizer(model)
    step, begin, done = 0, None, 0
    model.train()
    while True:
        if begin is None and step == UNTIMED_STEPS:
            torch.cuda.synchronize()
            begin = time.time()
        if begin is not None:
            done = (time.time() - begin) / seconds
        if done >= 1:
            break
        rate = learning_rate(step, done)
        for group in optimizer.param_groups:
            group["lr"] = rate
        total, cross_entropy, loads = loss(batches.draw())
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 200 == 0:
            print(f"step {step}: cross entropy {cross_entropy.item():.3f}, rate {rate:.5f}, "
                  f"max/mean load {imbalance(loads)}", flush=True)
    tokens = step * batches.size * batches.window
    print(f"{step} steps, {tokens / 1e6:.0f} M tokens", flush=True)


def validate(model, loss, held_out, window):
    """Prints the cross entropy of each domain's held-out documents."""
    model.eval()
    with torch.no_grad():
        for name, tokens in held_out.items():
            count = min(32, (len(tokens) - 1) // window)
            if count < 1:
                print(f"{name}: too short to validate")
                continue
            windows = [tokens[i * window:i * window + window + 1] for i in range(count)]
            _, cross_entropy, loads = loss(torch.stack(windows).long())
            print(f"{name}: cross entropy {cross_entropy.item():.3f}, "
                  f"max/mean load {imbalance(loads)}")


def main():
    """Trains tokenizer and model and writes them."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="folder of corpus.py's text files")
    parser.add_argument("output", help="folder for the model; made if missing")
    parser.add_argument("--seconds", type=float, default=250, help="training time [%(default)s]")
    args = parser.parse_args()
    config = Config()
    device = torch.device("cuda")

    os.makedirs(args.output, exist_ok=True)
    random.seed(1)
    training, held_out = read_corpus(args.corpus)
    tokenizer = train_tokenizer(training, config.vocab)
    tokenizer.save(f"{args.output}/tokenizer.json")
    tokens = {name: encode(tokenizer, training[name], device) for name in WEIGHTS}
    held_out_tokens = {name: encode(tokenizer, held_out[name], device) for name in WEIGHTS}
    print("tokens:", {name: len(tokens[name]) for name in WEIGHTS}, flush=True)

    torch.manual_seed(0)
    model = Mixtral(config, device).to(device)
    initialise(model)
    print("parameters:", sum(p.numel() for p in model.parameters()), flush=True)
    loss = make_loss(model)
    train(model, loss, Batches(tokens, config.window, BATCH), args.seconds)
    validate(model, loss, held_out_tokens, config.window)

    save_weights(model, args.output)
    save_configuration(config, args.output)
    save_json({name: [document[:6000] for document in held_out[name][:40]] for name in WEIGHTS},
              f"{args.output}/heldout.json")


if __name__ == "__main__":
    main()
