#!/usr/bin/env python3
"""Ten minutes at four times capacity: who is let in is served as fast as at capacity, all others are refused at once, and
memory stays flat.

    tests/long/overload.py [--seconds N] [--times X] [--json] [-- MOETUNERD_OPTION...]

Capacity is what a closed loop reaches that has a client for each place: for each sequence that can run (--ranks times
--max-seqs) and for each place in the queue (--max-queued-requests). The queue is an eighth of what runs, so that waiting
in it adds about an eighth to a request's latency; the latency without a queue is printed beside it. Capacity is measured
before and after the overload, which is an open loop of Poisson arrivals. Twenty seconds unless MT_LONG=1."""

import argparse
import json
import os
import random
import signal
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fault"))
import faults  # noqa: E402 - found by the line above
import load  # noqa: E402
from load import harness  # noqa: E402

# The KV pool is small, so that all of it is in use before memory is looked at: its pages come when they are touched.
RANKS, SEQUENCES, QUEUE = 2, 16, 4
OPTIONS = ("--max-seqs", str(SEQUENCES), "--max-queued-requests", str(QUEUE), "--kv-memory", "40MiB", "--log-level", "warn")
ALLOWED = 1.5  # latency of who is let in, against that at capacity
REFUSAL_SECONDS = 0.25  # "at once": 99 of 100 refusals; two busy cores
WINDOW = 5  # seconds over which the rate of the served is measured
WARM_UP = 0.2  # of the overload's time; memory is looked at afterwards


def arguments():
    long = os.environ.get("MT_LONG") == "1"
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600 if long else 20)
    parser.add_argument("--capacity-seconds", type=float, default=30 if long else 6)
    parser.add_argument("--times", type=float, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--json", action="store_true")
    options, daemon = parser.parse_known_args()
    options.daemon = [word for word in daemon if word != "--"]
    return options


def make_requests(draw, n=64):
    """Streams of one kind and different lengths, made beforehand."""
    prompts = harness.prompts()
    bodies = [{"prompt": draw.choice(prompts)[:draw.randrange(50, 400)], "max_tokens": draw.randrange(16, 64),
               "ignore_eos": True, "temperature": 0.8, "seed": i, "stream": True} for i in range(n)]
    return [(load.format_request("POST", "/v1/completions", body), body["max_tokens"]) for body in bodies]


class Outcome:
    """What became of the requests of one phase."""

    def __init__(self):
        self.first, self.whole, self.refused, self.bad = [], [], [], []
        self.tokens = 0
        self.began = time.monotonic()
        self.ended = None

    def take(self, exchange):
        seconds = exchange.ended - exchange.began
        if exchange.status == 429:
            self.refused.append(seconds)
            if not int(exchange.headers.get("retry-after", 0)) > 0:
                self.bad.append("429 without Retry-After")
        elif exchange.problem(True):
            self.bad.append(exchange.problem(True))
        else:
            self.first.append(exchange.first - exchange.began)
            self.whole.append(seconds)
            self.tokens += exchange.tag

    def stop(self):
        self.ended = time.monotonic()
        return self

    def rate(self):
        return len(self.whole) / (self.ended - self.began)

    def inside(self):
        """How many were in the daemon at once, on average."""
        return self.rate() * sum(self.whole) / len(self.whole)

    def row(self):
        return {"per_s": round(self.rate(), 2), "served": len(self.whole), "refused": len(self.refused),
                "ttft_ms": load.summary(self.first), "e2e_ms": load.summary(self.whole),
                "refusal_ms": load.summary(self.refused, digits=1)}


def merge(a, b):
    both = Outcome()
    both.first, both.whole = a.first + b.first, a.whole + b.whole
    both.began, both.ended = 0, (a.ended - a.began) + (b.ended - b.began)
    return both


class Load:
    def __init__(self, loop, requests, draw):
        self.loop, self.requests, self.draw = loop, requests, draw
        self.sent = 0
        self.late = []  # of the open loop: how much later than planned a request was sent

    def send(self, on_end):
        request, tokens = self.draw.choice(self.requests)
        self.sent += 1
        self.loop.start(load.Exchange(request, on_end, tokens))

    def closed(self, clients, seconds):
        """Each client sends its next request when its last is answered."""
        outcome = Outcome()
        end = outcome.began + seconds

        def ended(exchange):
            outcome.take(exchange)
            if exchange.ended < end:
                # a place is free a moment after its answer has ended
                self.loop.after(0.01 if exchange.status == 429 else 0, lambda: self.send(ended))
        for _ in range(clients):
            self.send(ended)
        self.loop.run(lambda: time.monotonic() >= end)
        outcome.stop()
        self.loop.run(lambda: not self.loop.open, harness.PATIENCE)
        return outcome

    def open(self, times, capacity, seconds):
        """Requests come when they come: `times` as many as can be served. What is served meanwhile tells whether that has
        become more, because other work on the machine has ended."""
        outcome = Outcome()
        end = outcome.began + seconds
        planned, rate, served = [outcome.began], [times * capacity], [0]

        def measure():
            rate[0] = times * max(capacity, (len(outcome.whole) - served[0]) / WINDOW)
            served[0] = len(outcome.whole)
            if time.monotonic() < end:
                self.loop.after(WINDOW, measure)

        def arrive():
            self.late.append(time.monotonic() - planned[0])
            self.send(outcome.take)
            planned[0] += self.draw.expovariate(rate[0])
            if planned[0] < end:
                self.loop.at(planned[0], arrive)
        self.loop.after(WINDOW, measure)
        self.loop.at(planned[0], arrive)
        self.loop.run(lambda: time.monotonic() >= end)
        outcome.stop()
        self.loop.run(lambda: not self.loop.open, harness.PATIENCE)
        return outcome


class Memory:
    """Resident memory of the daemon and of its ranks, each second; and descriptors."""

    def __init__(self, daemon, loop):
        self.daemon, self.workers = daemon, daemon.workers()
        self.began = time.monotonic()
        self.samples = {"daemon": [], **{f"rank {i}": [] for i in range(len(self.workers))}}
        self.descriptors = []
        loop.every(1, self.sample)

    def sample(self):
        at = time.monotonic() - self.began
        for name, pid in zip(self.samples, [self.daemon.process.pid] + self.workers):
            self.samples[name].append((at, faults.memory_kib(pid)))
        self.descriptors.append(faults.descriptors(self.daemon.process.pid))

    def rows(self, seconds):
        """After the warm-up."""
        return {name: load.flat_row([sample for sample in samples if WARM_UP * seconds <= sample[0] <= seconds])
                for name, samples in self.samples.items()}


class Overload(unittest.TestCase):
    def test_four_times_capacity(self):
        options = arguments()
        draw = random.Random(options.seed)
        words = [*OPTIONS, *options.daemon]
        print(f"# seed {options.seed}, {options.seconds:.0f} s, --ranks {RANKS} {' '.join(words)}", flush=True)
        with faults.Daemon(*words, ranks=RANKS) as daemon:
            loop = load.Loop(daemon)
            try:
                self.run_phases(daemon, loop, Load(loop, make_requests(draw), draw), options)
            finally:
                loop.close()
            daemon.signal(signal.SIGINT)
            self.assertEqual(daemon.wait(), 0)

    def run_phases(self, daemon, loop, load_, options):
        running, most = RANKS * SEQUENCES, RANKS * SEQUENCES + QUEUE
        warm = load_.closed(most, options.capacity_seconds / 3)
        alone = load_.closed(running, options.capacity_seconds)
        before = load_.closed(most, options.capacity_seconds)
        print(f"# capacity before: {before.rate():.1f} requests/s; without a queue {alone.rate():.1f}", flush=True)
        memory = Memory(daemon, loop)
        self.progress(loop, load_, memory, options)
        over = load_.open(options.times, before.rate(), options.seconds)
        rows = memory.rows(options.seconds)
        after = load_.closed(most, options.capacity_seconds)
        result = {"no_queue": alone.row(), "capacity_before": before.row(), "capacity_after": after.row(),
                  "overload": over.row(), "memory_kib": rows, "descriptors_max": max(memory.descriptors),
                  "sent_late_ms": load.summary(load_.late, digits=1)}
        self.tell(result)
        if options.json:
            print(json.dumps(result))
        self.check_latency(merge(before, after), alone, over, options.seconds)
        self.check_counters(daemon, load_, [warm, alone, before, over, after])
        for name, row in rows.items():
            self.assertIsNone(load.not_flat(row), f"memory of {name}")

    def progress(self, loop, load_, memory, options):
        if options.seconds >= 120:
            loop.every(60, lambda: print(f"# {time.monotonic() - memory.began:.0f} s, {load_.sent} sent, daemon "
                                         f"{memory.samples['daemon'][-1][1]} KiB", flush=True))

    def tell(self, result):
        for name in ("no_queue", "capacity_before", "overload", "capacity_after"):
            row = result[name]
            print(f"# {name:16} {row['per_s']:7} served/s  TTFT {row['ttft_ms']}  whole {row['e2e_ms']}")
        print(f"# refused {result['overload']['refused']}, ms {result['overload']['refusal_ms']}")
        print(f"# sent later than planned, ms {result['sent_late_ms']}")
        for name, row in result["memory_kib"].items():
            print(f"# memory of {name}, KiB: {row}")

    def check_latency(self, reference, alone, over, seconds):
        self.assertEqual(over.bad, [])
        self.assertGreater(len(over.whole), 30)
        self.assertGreater(len(over.refused), 2 * len(over.whole), "it is an overload")
        for name, a, b in (("TTFT", reference.first, over.first), ("latency", reference.whole, over.whole)):
            for share in (0.5, 0.9, 0.99) if seconds >= 120 else (0.5, 0.9):
                ratio = load.percentile(b, share) / load.percentile(a, share)
                print(f"# {name}, {share:.0%}: {ratio:.2f} times that at capacity")
                self.assertLess(ratio, ALLOWED, f"{name}, {share:.0%}")
        print(f"# latency, median: {load.percentile(over.whole, 0.5) / load.percentile(alone.whole, 0.5):.2f} times that "
              "without a queue")
        # by Little's law: as many as are in the daemon at once; other work on the machine cancels out
        print(f"# mean latency times rate: {reference.inside():.1f} at capacity, {over.inside():.1f} in the overload")
        self.assertLess(over.inside() / reference.inside(), ALLOWED)
        self.assertGreater(over.rate(), reference.rate() / ALLOWED, "refusals cost little of the service")
        self.assertLess(load.percentile(over.refused, 0.99), REFUSAL_SECONDS, "refused at once")

    def check_counters(self, daemon, load_, outcomes):
        """Each request sent was served or refused, and the daemon counts the same."""
        loop_ended = load_.sent - len(load_.loop.open)
        self.assertEqual(loop_ended, load_.sent, "no request is stuck")
        text = daemon.get("/metrics")[1]
        succeeded = sum(float(line.rsplit(" ", 1)[1]) for line in text.split("\n")
                        if line.startswith("moetuner:request_success_total"))
        rejected = daemon.metric("request_rejections_total")
        self.assertEqual(daemon.metric("request_failures_total"), 0)
        self.assertEqual(succeeded + rejected, load_.sent)
        self.assertEqual(rejected, sum(len(outcome.refused) for outcome in outcomes))
        self.assertEqual((daemon.metric("num_requests_running"), daemon.metric("num_requests_waiting")), (0, 0))
        self.assertEqual(daemon.metric("kv_cache_usage_perc"), 0)
        self.assertEqual(daemon.metric("job_restarts_total"), 0)


if __name__ == "__main__":
    harness.main()
