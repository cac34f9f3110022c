#!/usr/bin/env python3
"""An hour of everything at once: calls of all kinds whose answers are known, clients that leave, bad input, half requests,
and a dead worker job twice a minute. No wrong answer, no stuck request; at the end every counter says what the clients saw,
and memory, descriptors and threads are where they were.

    tests/long/soak.py [--seconds N] [--seed N] [--fault-every SECONDS] [-- MOETUNERD_OPTION...]

Half a minute unless MT_LONG=1. A line a minute says how it goes; the last line is JSON."""

import argparse
import collections
import json
import os
import random
import re
import signal
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fault"))
import faults  # noqa: E402 - found by the line above
import load  # noqa: E402
from load import harness  # noqa: E402

CLIENTS = 20
RECEIVE = 5  # seconds that half a request may stay
MAX_BODY = 64 << 10
OPTIONS = ("--relaunch-min", "10ms", "--relaunch-max", "1", "--silence-deadline", "1", "--max-body", str(MAX_BODY),
           "--receive-deadline", str(RECEIVE))
BOUND = 90  # seconds: a request that takes longer is stuck
RANK_KIB = 360 << 10  # weights and buffers, 80 MiB, and the KV pool, 256 MiB, whose pages come when they are touched
LEAVE = 0.2  # share of calls whose client leaves
WARM_UP = 0.2  # of the time; memory is looked at afterwards
LEFT = "the client has left"


def arguments():
    long = os.environ.get("MT_LONG") == "1"
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3600 if long else 30)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--fault-every", type=float, default=30 if long else 8, help="0: none")
    options, daemon = parser.parse_known_args()
    options.daemon = [word for word in daemon if word != "--"]
    return options


def bad_requests():
    """(bytes, statuses that are right for them)."""
    def post(body, path="/v1/completions"):
        return load.format_request("POST", path, body)

    def raw(head, body=b""):
        return head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body

    wrong = [{"prompt": 5}, {"prompt": {}}, {"prompt": "a", "max_tokens": "x"}, {"prompt": "a", "max_tokens": -1},
             {"prompt": "a", "temperature": []}, {"prompt": "a", "n": 1000}, {"prompt": "a", "logprobs": 99},
             {"prompt": "a", "top_p": 0}, {"prompt": "a", "stop": [1]}, {"prompt": [99999]}, {"prompt": [-1]}, {},
             {"prompt": "a", "stream": "yes"}, {"prompt": "a", "stream_options": {"include_usage": True}},
             {"prompt": list(range(5, 3005))}, [], "text", 7, {"prompt": "a", "best_of": 7}]
    chats = [{"messages": []}, {"messages": "hi"}, {"messages": [{"role": 5}]}, {"messages": [{"content": "a"}]}]
    bytes_ = [b"", b"{", b"{\"prompt\": \"a\"", b"{\"prompt\": \"\xff\xfe\"}", b"{\"prompt\": \"\\ud800\"}", b"\0" * 50,
              b"[" * 5000, b"{\"prompt\": " + b"[" * 100 + b"]" * 100 + b"}",
              b"{\"prompt\": \"a\", \"seed\": 1e999}", b"nonsense"]
    found = [(post(body), (400,)) for body in wrong + bytes_]
    found += [(post(body, "/v1/chat/completions"), (400,)) for body in chats]
    found += [(post({"prompt": "a", "model": "another"}), (404,)), (post(b"x" * (MAX_BODY + 1)), (413,)),
              (post({"prompt": "a " * MAX_BODY}), (413,)), (load.format_request("GET", "/nowhere"), (404,)),
              (load.format_request("DELETE", "/v1/completions"), (405,)),
              (load.format_request("GET", "/" + "a" * 5000), (414,)),
              (raw("GET /healthz HTTP/1.1\nHost: x\nX: " + "y" * 40000), (431,)),
              (raw("POST /v1/completions HTTP/1.1\nHost: x\nContent-Length: 2\nTransfer-Encoding: chunked", b"{}"), (400,)),
              (raw("POST /v1/completions HTTP/1.1\nHost: x\nContent-Length: -5"), (400,)),
              (raw("POST /v1/completions HTTP/1.1\nHost: x\nTransfer-Encoding: chunked", b"zz\r\n{}\r\n"), (400,)),
              (raw("GET /healthz HTTP/1.1"), (400,)), (raw("PRI * HTTP/2.0"), (400, 505)),
              (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", (400, None))]
    return found


class Account:
    """What the clients know of the calls that they made: sums that the daemon's counters must match."""

    def __init__(self):
        self.finish = collections.Counter()  # choices of calls that were answered whole
        self.calls = self.requests = self.tokens = self.prompt_tokens = 0
        # of those whose client left: surely taken up, or perhaps never heard
        self.left = {True: collections.Counter(), False: collections.Counter()}

    def answered(self, answer, prompts):
        self.calls += 1
        self.requests += prompts
        self.tokens += answer["usage"]["completion_tokens"]
        self.prompt_tokens += answer["usage"]["prompt_tokens"]
        for choice in answer["choices"].values():
            self.finish[choice["finish_reason"]] += 1

    def abandoned(self, exchange, answer, prompts, choices, most):
        events = exchange.events() if exchange.status == 200 and exchange.headers["content-type"].startswith("text/") else []
        received = sum(len(choice.get("token_ids") or ()) for event in events for choice in event["choices"])
        self.left[exchange.status == 200].update(calls=1, requests=prompts, choices=choices, least_tokens=received,
                                                 most_tokens=most, prompt_tokens=answer["usage"]["prompt_tokens"])

    def all_left(self, what):
        return self.left[True][what] + self.left[False][what]


class Clients(load.ClosedLoop):
    """Clients of a catalogue, some of whom leave in the middle of an answer."""

    def __init__(self, loop, catalogue, clients, seed):
        self.account, self.leave = Account(), random.Random(seed + 1)
        super().__init__(loop, catalogue, clients, seed)

    def next(self, client):
        super().next(client)
        exchange = self.current[client]
        if exchange and self.leave.random() < LEAVE:
            after = self.leave.choice((0, 0.02, 0.3, 1.5)) * self.leave.random()
            self.loop.after(after, lambda: self.loop.end(exchange, LEFT))

    def ended(self, exchange):
        client, index = exchange.tag
        answer, prompts = self.catalogue.answers[index], self.catalogue.prompts(index)
        if exchange.error == LEFT:
            choices = self.catalogue.choices(index)
            most = choices * self.catalogue.calls[index][1]["max_tokens"]
            self.account.abandoned(exchange, answer, prompts, choices, most)
            self.current[client] = None
            self.next(client)
            return
        wrong = sum(self.wrong.values())
        super().ended(exchange)
        if sum(self.wrong.values()) == wrong:
            self.account.answered(answer, prompts)


class Vandals:
    """Bad input, and halves of good input."""

    def __init__(self, loop, catalogue, seed):
        self.loop, self.draw = loop, random.Random(seed)
        self.bad = bad_requests()
        self.good = [request for pair in catalogue.requests for request in pair]
        self.refused = self.halves = self.answered = 0
        self.wrong, self.slowest_half = [], 0
        self.stopping = False
        self.turn = 0
        loop.after(0, self.send_bad)
        loop.after(0, self.send_half)

    def send_bad(self):
        if self.stopping:
            return
        request, right = self.bad[self.turn % len(self.bad)]
        self.turn += 1

        def ended(exchange):
            self.answered += exchange.status is not None
            if exchange.status in right and not (exchange.error or "").startswith("stuck"):
                self.refused += 1
            elif len(self.wrong) < 10:
                self.wrong.append(f"{request[:150]!r}: expected {right}, found {exchange.status} {exchange.error} "
                                  f"{bytes(exchange.body[:100])!r}")
        self.loop.start(load.Exchange(request, ended))
        self.loop.after(self.draw.expovariate(20), self.send_bad)

    def send_half(self):
        """A request that ends in the middle; the client leaves soon, or waits until it is sent away."""
        if self.stopping:
            return
        request = self.draw.choice(self.good)
        exchange = load.Exchange(request[:self.draw.randrange(len(request) - 1)], self.half_ended)
        self.loop.start(exchange)
        if self.draw.random() < 0.7:
            self.loop.after(self.draw.random(), lambda: self.loop.end(exchange, LEFT))
        self.loop.after(self.draw.expovariate(5), self.send_half)

    def half_ended(self, exchange):
        self.halves += 1
        self.answered += exchange.status is not None
        if exchange.error != LEFT:
            self.slowest_half = max(self.slowest_half, exchange.ended - exchange.began)
        if exchange.status not in (None, 400, 408) and len(self.wrong) < 10:
            self.wrong.append(f"half a request was answered {exchange.status}")


class Watch:
    """The daemon's memory, descriptors and threads each second, and the most memory of each incarnation's ranks."""

    def __init__(self, daemon, loop, job):
        self.pid, self.job, self.began = daemon.process.pid, job, time.monotonic()
        self.memory, self.descriptors, self.ranks = [], [], collections.defaultdict(int)
        loop.every(1, self.sample)

    def sample(self):
        self.memory.append((time.monotonic() - self.began, faults.memory_kib(self.pid)))
        self.descriptors.append(faults.descriptors(self.pid))
        if self.job.ready:
            launched = self.job.launched
            for pid in self.job.ranks():
                self.ranks[launched] = max(self.ranks[launched], faults.memory_kib(pid))

    def now(self):
        with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as file:
            threads = int(re.search(r"Threads:\s+(\d+)", file.read())[1])
        return {"descriptors": faults.descriptors(self.pid), "threads": threads}


class Faults:
    """A fault now and then, each after the recovery from the last."""

    def __init__(self, loop, job, clients, options):
        self.loop, self.job, self.clients, self.every = loop, job, clients, options.fault_every
        self.draw = random.Random(options.seed + 2)
        self.recoveries, self.current = [], None
        self.stopping = False
        if self.every:
            loop.after(self.every * self.draw.uniform(0.3, 0.7), self.strike)

    def strike(self):
        if self.stopping:
            return
        self.job.remember_shared()
        kind = self.draw.choice(faults.KINDS)
        self.current = faults.Recovery(self.job, self.clients, kind, faults.inject(kind, self.job, self.loop, self.draw))

    def turn(self):
        self.job.look()
        if not self.current:
            return
        if self.current.turn():
            self.recoveries.append(self.current)
            self.current = None
            self.loop.after(self.every * self.draw.uniform(0.7, 1.3), self.strike)
        elif time.monotonic() - self.current.began > BOUND:
            raise AssertionError(f"no recovery from {self.current.kind} within {BOUND} s")


class Soak(unittest.TestCase):
    def test_everything_at_once(self):
        options = arguments()
        words = [*OPTIONS, *options.daemon]
        print(f"# seed {options.seed}, {options.seconds:.0f} s, {CLIENTS} clients, {' '.join(words)}", flush=True)
        with faults.Daemon(*words) as daemon:
            loop, job = load.Loop(daemon, BOUND), faults.Job(daemon)
            try:
                self.soak(daemon, loop, job, options)
            finally:
                loop.close()
                job.close()

    def soak(self, daemon, loop, job, options):
        catalogue = load.Catalogue(0.6)
        catalogue.record(loop)
        base = self.counters(daemon)
        watch = Watch(daemon, loop, job)
        rest = watch.now()
        before = loop.started
        clients, vandals = Clients(loop, catalogue, CLIENTS, options.seed), Vandals(loop, catalogue, options.seed)
        trouble = Faults(loop, job, clients, options)
        if options.seconds >= 120:
            loop.every(60, lambda: self.progress(watch, clients, vandals, trouble))
        end = watch.began + options.seconds
        while time.monotonic() < end:
            loop.turn(0.003 if trouble.current else 0.1)
            trouble.turn()
        trouble.stopping = vandals.stopping = True
        self.assertTrue(loop.run(lambda: not trouble.current or trouble.turn(), BOUND + 10, 0.01))
        self.assertTrue(clients.finish(), "calls are stuck")
        self.assertTrue(loop.run(lambda: not loop.open, BOUND + 10), "connections are stuck")
        loop.run_for(1.5)  # cancelled requests leave within a second
        counters = {name: value - base.get(name, 0) for name, value in self.counters(daemon).items()}
        exchanges = loop.started - before
        result = self.result(watch, clients, vandals, trouble, counters, rest)
        for sample in clients.samples + vandals.wrong:
            print("# " + sample)
        job.remember_shared()
        restarts = daemon.metric("job_restarts_total")
        daemon.signal(signal.SIGINT)
        status = daemon.wait()
        print(json.dumps(result), flush=True)
        self.check_clients(clients, vandals, job, restarts, trouble)
        self.check_counters(counters, clients.account, exchanges, vandals)
        self.check_resources(result, watch)
        self.assertEqual(status, 0)
        self.assertEqual(job.leftovers(), [])

    def progress(self, watch, clients, vandals, trouble):
        account = clients.account
        print(f"# {watch.memory[-1][0]:.0f} s: {account.calls} answered, {account.all_left('calls')} left, wrong "
              f"{dict(clients.wrong)}, {vandals.refused} bad and {vandals.halves} half, {len(trouble.recoveries)} faults; "
              f"{watch.memory[-1][1]} KiB, {watch.descriptors[-1]} descriptors", flush=True)

    def counters(self, daemon):
        """name -> value, the labels but model_name within the name; of histograms only the count."""
        found = {}
        for line in daemon.get("/metrics")[1].split("\n"):
            match = re.match(r'moetuner:(\w+)\{model_name="[^"]*",?([^}]*)\} (\S+)', line)
            if match and not match[1].endswith(("_bucket", "_sum")):
                found[match[1] + (" " + match[2] if match[2] else "")] = float(match[3])
        return found

    def result(self, watch, clients, vandals, trouble, counters, rest):
        after = [sample for sample in watch.memory if sample[0] >= WARM_UP * watch.memory[-1][0]]
        parts = [recovery.parts() for recovery in trouble.recoveries]
        account = clients.account
        return {"answered": account.calls, "left": {"taken": dict(account.left[True]), "perhaps": dict(account.left[False])},
                "wrong": dict(clients.wrong), "bad_refused": vandals.refused, "halves": vandals.halves,
                "slowest_half_s": round(vandals.slowest_half, 1), "faults": len(parts),
                "recovery_first_ms": load.summary([part["first"] for part in parts]),
                "recovery_all_ms": load.summary([part["all"] for part in parts]),
                "daemon_kib": {"first": watch.memory[0][1], **load.flat_row(after)},
                "rank_peak_kib": load.flat_row(sorted(watch.ranks.items())),
                "at_rest": {"before": rest, "after": watch.now()}, "most_descriptors": max(watch.descriptors),
                "counters": {name: value for name, value in counters.items() if value}}

    def check_clients(self, clients, vandals, job, restarts, trouble):
        self.assertGreater(clients.account.calls, CLIENTS)
        self.assertEqual(clients.wrong["differs"], 0, "answers that differ")
        self.assertEqual(clients.wrong["failed"], 0, "calls that failed")
        self.assertEqual(vandals.wrong, [])
        self.assertGreater(vandals.refused, len(vandals.bad))
        self.assertGreater(vandals.halves, 0)
        self.assertLess(vandals.slowest_half, 2 * RECEIVE + 5, "half a request is sent away in time")
        self.assertEqual(len(trouble.recoveries) > 0, trouble.every > 0)
        self.assertEqual(restarts, job.launched - 1)

    def between(self, name, least, value, most):
        self.assertTrue(least <= value <= most, f"{name}: expected {least} to {most}, found {value}")

    def check_counters(self, counters, account, exchanges, vandals):
        stop, length, abort = (counters[f'request_success_total finished_reason="{reason}"']
                               for reason in ("stop", "length", "abort"))
        sure, perhaps = account.left[True], account.left[False]
        left = account.all_left("choices")
        self.between("stop", account.finish["stop"], stop, account.finish["stop"] + left)
        self.between("length", account.finish["length"], length, account.finish["length"] + left)
        self.between("abort", 0, abort, left)
        whole = sum(account.finish.values()) + sure["choices"]
        self.between("choices", whole, stop + length + abort, whole + perhaps["choices"])
        whole = account.requests + sure["requests"]
        self.between("ended requests", whole, counters["e2e_request_latency_seconds_count"], whole + perhaps["requests"])
        self.between("generated tokens", account.tokens + account.all_left("least_tokens"),
                     counters["generation_tokens_total"], account.tokens + account.all_left("most_tokens"))
        self.between("prompt tokens", account.prompt_tokens, counters["prompt_tokens_total"],
                     account.prompt_tokens + account.all_left("prompt_tokens"))
        self.assertEqual(counters["request_failures_total"], 0)
        self.assertEqual(counters["request_rejections_total"], 0)
        self.between("HTTP requests", account.calls + vandals.answered, counters["http_requests_total"], exchanges + 10)
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
            self.assertEqual(counters[name], 0, name)
        self.assertLessEqual(counters["http_connections"], 1)

    def check_resources(self, result, watch):
        before, after = result["at_rest"]["before"], result["at_rest"]["after"]
        # one more connection may be about to be closed
        self.assertLessEqual(after["descriptors"], before["descriptors"] + 1, "descriptors leak")
        self.assertEqual(after["threads"], before["threads"])
        if os.environ.get("SAN"):
            return  # a sanitizer keeps what is freed
        self.assertIsNone(load.not_flat(result["daemon_kib"]), "daemon_kib")
        self.assertLess(result["rank_peak_kib"]["max"], RANK_KIB, "rank_peak_kib")


if __name__ == "__main__":
    harness.main()
