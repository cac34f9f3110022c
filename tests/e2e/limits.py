#!/usr/bin/env python3
"""The limits that are options, over HTTP and at their edges; and the operator's page, which must list them all."""

import json
import os
import re
import socket
import subprocess
import unittest

import harness

PAGE = os.path.join(harness.ROOT, "docs", "operations.md")
SECTIONS = "Queue and deadlines", "Limits of the HTTP server", "Limits of one call"
COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"


def prompt(**more):
    return COMPLETION, {"prompt": "a", "max_tokens": 1, **more}


def messages(n, **more):
    return CHAT, {"messages": [{"role": "user", "content": "a"}] * n, "max_tokens": 1, **more}


def nested(depth):
    value = 1
    for _ in range(depth - 1):
        value = [value]
    return prompt(user=None, x=value)


def padded(size):
    path, body = prompt()
    return path, {**body, "x": "y" * (size - len(json.dumps({**body, "x": ""})))}


# option, value, a call that has so many of it, the status one above, what its error must say
LIMITS = [
    ("max-prompts", 3, lambda n: (COMPLETION, {"prompt": ["a"] * n, "max_tokens": 1}), 400, "'prompt'"),
    ("max-choices", 4, lambda n: prompt(n=n), 400, "'n'"),
    ("max-sequences", 6, lambda n: (COMPLETION, {"prompt": ["a"] * 2, "n": n // 2 + n % 2, "max_tokens": 1}), 400,
     "sequences"),
    ("max-stops", 3, lambda n: prompt(stop=["b"] * n), 400, "'stop'"),
    ("max-stop-bytes", 8, lambda n: prompt(stop="b" * n), 400, "'stop'"),
    ("max-stop-tokens", 2, lambda n: prompt(stop_token_ids=[1] * n), 400, "'stop_token_ids'"),
    ("max-logprobs", 4, lambda n: prompt(logprobs=n), 400, "'logprobs'"),
    ("max-logprobs", 4, lambda n: messages(1, logprobs=True, top_logprobs=n), 400, "'top_logprobs'"),
    ("max-messages", 3, messages, 400, "'messages'"),
    ("max-json-depth", 6, nested, 400, "levels of nested JSON"),
    ("max-body", 4096, padded, 413, "--max-body"),
]


def options():
    """{name: default} of the sections that limit something."""
    text = subprocess.run([os.path.join(harness.BUILD, "moetunerd"), "--help"], capture_output=True, text=True,
                          check=True).stdout
    found = {}
    for section in re.split(r"\n(?=\S.*:\n)", text):
        title, _, rows = section.partition(":\n")
        if title.strip() in SECTIONS:
            for name, rest in re.findall(r"^  --([a-z-]+)=\w+\n((?:        .*\n?)+)", rows, re.MULTILINE):
                found[name] = re.search(r"Default:\s+(\S+)\.\s*$", rest).group(1)
    return found


def page():
    with open(PAGE, encoding="utf-8") as file:
        return file.read()


class Limits(unittest.TestCase):
    def test_edges(self):
        settings = [word for name, value, *_ in dict((row[0], row) for row in LIMITS).values()
                    for word in ("--" + name, str(value))]
        with harness.Daemon(*settings, ranks=1) as daemon:
            for name, limit, make, status, said in LIMITS:
                for n, expected in ((limit, 200), (limit + 1, status)):
                    found, _, reply = daemon.request("POST", *make(n))
                    self.assertEqual(found, expected, f"{name} at {n}: {reply[:300]}")
                self.assertIn(said, json.loads(reply)["error"]["message"])

    def test_heads(self):
        with harness.Daemon("--max-uri", "100", "--max-header", "4096", ranks=1) as daemon:
            def status(data):
                with socket.create_connection((daemon.host, daemon.port), timeout=30) as sock:
                    sock.sendall(data)
                    return int(sock.recv(4096).split()[1])

            for n, expected in ((100, 404), (101, 414)):
                self.assertEqual(status(b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * (n - 1))), expected)
            for n, expected in ((2000, 200), (5000, 431)):
                self.assertEqual(status(b"GET /version HTTP/1.1\r\nHost: x\r\nA: %s\r\n\r\n" % (b"a" * n)), expected)

    def test_all_options_are_tested(self):
        """An option of a call's limits that is not in the table above is not known to work."""
        tested = {row[0] for row in LIMITS} | {"max-uri", "max-header", "max-connections",
                                               "max-connections-per-client", "max-queued-requests",
                                               "max-queued-tokens"}
        self.assertEqual({name for name in options() if name.startswith("max-")}, tested)


class Page(unittest.TestCase):
    def test_options(self):
        rows = dict(re.findall(r"^\| `--([a-z-]+)` \| ([^|]+?) \|", page(), re.MULTILINE))
        self.assertEqual(rows, options())

    def test_metrics(self):
        with harness.Daemon(ranks=1) as daemon:
            served = set(re.findall(r"^# TYPE moetuner:(\w+) ", daemon.get("/metrics")[1], re.MULTILINE))
        told = set(re.findall(r"^\| `moetuner:(\w+)` \|", page(), re.MULTILINE))
        self.assertEqual(told, served)


if __name__ == "__main__":
    harness.main()
