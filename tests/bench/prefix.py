#!/usr/bin/env python3
"""Time to the first token of a 450-token prompt that was not seen before, and of the same one again.

    tests/bench/prefix.py [OPTION OF moetunerd]...

Each of 40 prompts is sent twice, one after the other; the medians and their ratio are printed."""

import http.client
import json
import os
import random
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness  # noqa: E402

PROMPTS, TOKENS = 40, 450


def first_token_ms(daemon, prompt):
    connection = http.client.HTTPConnection(daemon.host, daemon.port)
    began = time.perf_counter()
    connection.request("POST", "/v1/completions",
                       json.dumps({"prompt": prompt, "max_tokens": 1, "stream": True, "ignore_eos": True}))
    reply = connection.getresponse()
    line = reply.readline()
    took = 1000 * (time.perf_counter() - began)
    assert reply.status == 200 and line.startswith(b"data: {"), line
    reply.read()
    connection.close()
    return took


def main():
    draw = random.Random(1)
    first, second = [], []
    with harness.Daemon(*sys.argv[1:]) as daemon:
        for _ in range(PROMPTS):
            prompt = [draw.randrange(1000) for _ in range(TOKENS)]
            first.append(first_token_ms(daemon, prompt))
            second.append(first_token_ms(daemon, prompt))
        hits = daemon.metric("prefix_cache_hits_total")
    print(f"{TOKENS}-token prompt, median of {PROMPTS}: first {statistics.median(first):.2f} ms, "
          f"second {statistics.median(second):.2f} ms, ratio {statistics.median(first) / statistics.median(second):.1f}; "
          f"{hits / PROMPTS:.0f} tokens found each time")


if __name__ == "__main__":
    main()
