#!/usr/bin/env python3
"""What requests share: KV blocks (prefixes found again, preemption) and the waiting line (priorities)."""

import json
import unittest

import harness

PROMPT = "And the LORD spake unto Moses, saying, Speak unto the children of Israel. " * 6


class Prefixes(unittest.TestCase):
    def test_second_time(self):
        with harness.Daemon() as daemon:
            body = {"max_tokens": 40, "temperature": 0.7, "seed": 5, "logprobs": 2}
            first, second = (daemon.complete(PROMPT, **body) for _ in range(2))
            prompt = first["usage"]["prompt_tokens"]
            self.assertEqual(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
            self.assertEqual(second["usage"]["prompt_tokens_details"]["cached_tokens"], (prompt - 1) // 16 * 16)
            self.assertEqual(second["choices"], first["choices"])
            self.assertEqual(daemon.metric("prefix_cache_queries_total"), 2 * prompt)
            self.assertEqual(daemon.metric("prefix_cache_hits_total"), (prompt - 1) // 16 * 16)
            self.assertEqual(daemon.metric("kv_cache_usage_perc"), 0)

            # an answer that is sent back as part of the next prompt is known, too
            longer = PROMPT + first["choices"][0]["text"] + " And"
            again = daemon.complete(longer, max_tokens=4)["usage"]
            self.assertGreater(again["prompt_tokens_details"]["cached_tokens"], prompt)

            # the prompt's logprobs need all of it
            echo = daemon.complete(PROMPT, max_tokens=1, echo=True, logprobs=1)
            self.assertEqual(echo["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
            self.assertEqual(len(echo["choices"][0]["logprobs"]["token_logprobs"]), prompt + 1)

    def test_echo_of_several_choices(self):
        """Streamed or not, each choice brings all logprobs of the prompt, which comes in several steps."""
        body = {"prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": 1, "n": 3}
        with harness.Daemon("--step-tokens", "32") as daemon:
            whole = daemon.post("/v1/completions", body)["choices"]
            streamed = {choice["index"]: choice for event in daemon.stream("/v1/completions", body)
                        for choice in event["choices"]}
            self.assertEqual([streamed[i]["logprobs"] for i in range(3)], [choice["logprobs"] for choice in whole])
            self.assertEqual(whole[0]["logprobs"]["token_logprobs"].count(None), 1)
            one = daemon.post("/v1/completions", {"prompt": [5], "max_tokens": 0, "echo": True})
            self.assertEqual(one["choices"][0]["finish_reason"], "length")

    def test_choices_share_the_prompt(self):
        with harness.Daemon(ranks=2) as daemon:
            body = {"max_tokens": 20, "temperature": 1, "seed": 9}
            alone = daemon.complete(PROMPT, **body)
            choices = daemon.complete(PROMPT + " And", n=4, **body)
            one = daemon.complete(PROMPT, n=4, **body)
            self.assertEqual(one["choices"][0], alone["choices"][0])
            self.assertEqual(len({choice["text"] for choice in choices["choices"]}), 4)
            self.assertGreater(daemon.metric("prefix_cache_hits_total"), 6 * 96)


class Preemption(unittest.TestCase):
    def test_same_text_in_a_small_pool(self):
        prompts = [f"Chapter {i}. And it came to pass" for i in range(12)]
        body = {"max_tokens": 150, "temperature": 0.9, "seed": 2, "ignore_eos": True}
        with harness.Daemon(ranks=1) as daemon:
            want = [daemon.complete(prompt, **body)["choices"] for prompt in prompts]
        # one sequence of 512 positions in float32 takes 2 MiB
        with harness.Daemon("--kv-memory", "2MiB", ranks=1) as daemon:
            got = harness.in_parallel([lambda prompt=prompt: daemon.complete(prompt, **body)["choices"]
                                       for prompt in prompts])
            self.assertEqual(got, want)
            self.assertGreater(daemon.metric("num_preemptions_total"), 0)
            print(f"# {daemon.metric('num_preemptions_total'):.0f} preemptions")


class Priorities(unittest.TestCase):
    def test_urgent_ones_go_first(self):
        with harness.Daemon("--max-seqs", "1", ranks=1) as daemon:
            running = daemon.open_stream(prompt="Once", max_tokens=1900, ignore_eos=True, n=16)  # one by one
            priorities, done = [3, 1, -2, 0], []

            def waiting(n):
                harness.wait_until(f"{n} wait", lambda: daemon.metric("num_requests_waiting") == n)

            def later(n, priority):
                waiting(n)
                daemon.complete("Once", max_tokens=30, ignore_eos=True, priority=priority)
                done.append(priority)

            def let_go():
                waiting(len(priorities))
                running.close()

            harness.in_parallel([lambda n=n, p=p: later(n, p) for n, p in enumerate(priorities)] + [let_go])
            self.assertEqual(done, sorted(priorities))

    def test_range(self):
        with harness.Daemon(ranks=1) as daemon:
            reply = daemon.post("/v1/completions", {"prompt": "a", "priority": 1001}, expect=400)
            self.assertEqual(reply["error"]["param"], "priority")
            self.assertIn("-1000 to 1000", json.dumps(reply))


if __name__ == "__main__":
    harness.main()
