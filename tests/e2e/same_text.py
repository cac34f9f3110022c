#!/usr/bin/env python3
"""Invariant I6 over HTTP: the greedy text of ten prompts is one and the same, streamed or not, alone or among 64 other
requests, at 1, 2 and 4 ranks."""

import random
import unittest

import harness

TOKENS = 32
OTHERS = 64


def alone(daemon, prompt):
    return daemon.complete(prompt, max_tokens=TOKENS)["choices"][0]["text"]


def streamed(daemon, prompt):
    return daemon.stream_text(prompt, max_tokens=TOKENS)


def other(daemon, seed, prompts):
    """Company: a prompt of any length, sampled, streamed or not."""
    draw = random.Random(seed)
    prompt = draw.choice(prompts)[: draw.randrange(1, 400)]
    parameters = {"temperature": 1, "seed": seed, "max_tokens": draw.randrange(1, 48), "ignore_eos": True}
    if draw.random() < 0.5:
        return daemon.stream_text(prompt, **parameters)
    return daemon.complete(prompt, **parameters)["choices"][0]["text"]


class SameText(unittest.TestCase):
    texts = None  # of the first daemon; the others must give the same

    def check(self, ranks):
        prompts = harness.prompts()
        self.assertEqual(len(prompts), 10)
        with harness.Daemon(ranks=ranks) as daemon:
            texts = [alone(daemon, prompt) for prompt in prompts]
            self.assertTrue(all(texts))
            if SameText.texts is None:
                SameText.texts = texts
            self.assertEqual(texts, SameText.texts)
            self.assertEqual([streamed(daemon, prompt) for prompt in prompts], texts)
            calls = [lambda seed=seed: other(daemon, seed, prompts) for seed in range(OTHERS)]
            for index, prompt in enumerate(prompts):
                ask = alone if index % 2 else streamed
                calls.insert(6 * index, lambda ask=ask, prompt=prompt: ask(daemon, prompt))
            results = harness.in_parallel(calls)
            self.assertEqual([results[6 * index] for index in range(len(prompts))], texts)

    def test_1_rank(self):
        self.check(1)

    def test_2_ranks(self):
        self.check(2)

    def test_4_ranks(self):
        self.check(4)


if __name__ == "__main__":
    harness.main()
