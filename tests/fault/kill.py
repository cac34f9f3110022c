#!/usr/bin/env python3
"""The worker job dies in every way while 32 clients are served; none of them may see more than a pause (invariants I4, I6).

    tests/fault/kill.py [--faults N] [--seed N] [--kinds a,b] [--scale X] [--json] [-- MOETUNERD_OPTION...]

Kinds: SIGKILL of rank 0, of another rank, of mpirun, of all ranks; SIGSTOP and SIGSEGV of a rank; two faults within 50 ms
("twice"); one while the next incarnation starts ("launch"); a killed rank under an mpirun that is stopped ("deaf"). The
answers are compared with those that the same daemon gave undisturbed. Without options a short run, with MT_LONG=1 a hundred
faults."""

import argparse
import json
import os
import random
import signal
import sys
import unittest

import faults
import load
from load import harness

CLIENTS = 32
SILENCE = "700ms"  # how soon a stopped rank is noticed; a rank is heard five times a second
RELAUNCH = ("--relaunch-min", "10ms", "--relaunch-max", "1")  # faults come a hundred times as often as in life
SHORT = ("rank0", "mpirun", "launch", "stop", "rank", "all")
PARTS = ("detected", "launch", "ready", "first", "all")


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=int, default=100 if os.environ.get("MT_LONG") == "1" else len(SHORT))
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--kinds", default="")
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--patience", type=float, default=60, help="seconds that a recovery may take")
    parser.add_argument("--json", action="store_true")
    options, daemon = parser.parse_known_args()
    options.daemon = [word for word in daemon if word != "--"]
    return options


def deck(options, draw):
    """As many kinds as there are faults, each as often as the others, in random order."""
    kinds = options.kinds.split(",") if options.kinds else SHORT if options.faults <= len(SHORT) else faults.KINDS
    cards = [kinds[i % len(kinds)] for i in range(options.faults)]
    draw.shuffle(cards)
    return cards


class Health:
    """Asks /healthz all the time."""

    def __init__(self, loop):
        self.loop, self.asked, self.bad, self.slowest = loop, 0, [], 0
        self.request = load.format_request("GET", "/healthz")
        loop.every(0.05, self.ask)

    def ask(self):
        self.loop.start(load.Exchange(self.request, self.ended))

    def ended(self, exchange):
        self.asked += 1
        self.slowest = max(self.slowest, exchange.ended - exchange.began)
        if exchange.problem(False):
            self.bad.append(exchange.problem(False))


def print_table(recoveries):
    kinds = [kind for kind in faults.KINDS if any(r.kind == kind for r in recoveries)]
    print("# ms from the fault   detected, + to the launch, + to ready  (medians)   first token: min median p90 max"
          "   all moved: median max")
    for kind in kinds + ["any"]:
        parts = [r.parts() for r in recoveries if kind in (r.kind, "any")]
        if not parts:
            continue
        rows = {name: load.summary([p[name] for p in parts]) for name in PARTS}
        first = rows["first"]
        print(f"# {kind:8} n={len(parts):<4} {rows['detected']['median']:6.0f} {rows['launch']['median']:6.0f} "
              f"{rows['ready']['median']:6.0f}        {first['min']:6.0f} {first['median']:6.0f} {first['p90']:6.0f} "
              f"{first['max']:6.0f}      {rows['all']['median']:6.0f} {rows['all']['max']:6.0f}")


def as_json(recoveries):
    groups = {kind: [r.parts() for r in recoveries if kind in (r.kind, "any")] for kind in faults.KINDS + ("any",)}
    return {kind: {name: load.summary([p[name] for p in parts]) for name in PARTS}
            for kind, parts in groups.items() if parts}


class Kill(unittest.TestCase):
    def test_faults_cost_no_more_than_a_pause(self):
        options = arguments()
        draw = random.Random(options.seed)
        cards = deck(options, draw)
        words = [*RELAUNCH, "--silence-deadline", SILENCE, *options.daemon]
        print(f"# seed {options.seed}, {len(cards)} faults, {CLIENTS} clients, {' '.join(words)}", flush=True)
        with faults.Daemon(*words, ranks=options.ranks) as daemon:
            loop = load.Loop(daemon, options.patience + harness.PATIENCE)
            job = faults.Job(daemon)
            try:
                self.run_faults(daemon, loop, job, cards, draw, options)
            finally:
                loop.close()
                job.close()

    def run_faults(self, daemon, loop, job, cards, draw, options):
        catalogue = load.Catalogue(options.scale)
        catalogue.record(loop)
        health = Health(loop)
        clients = load.ClosedLoop(loop, catalogue, CLIENTS, options.seed)
        recoveries = []
        for number, kind in enumerate(cards):
            loop.run_for(draw.uniform(0.1, 0.8))
            recoveries.append(self.one_fault(loop, job, clients, kind, draw, options))
            if options.faults > len(SHORT) and (number + 1) % 10 == 0:
                print(f"# {number + 1} faults, {clients.done} good answers, wrong {dict(clients.wrong)}", flush=True)
        self.assertTrue(clients.finish(), "calls are stuck after the last fault")
        print(f"# {clients.done} good answers, wrong: {dict(clients.wrong)}; incarnations {job.launched}; /healthz asked "
              f"{health.asked} times, slowest {1000 * health.slowest:.0f} ms; "
              f"{daemon.metric('num_preemptions_total'):.0f} preemptions")
        for reason, n in job.reasons.most_common():
            print(f"# {n:4} deaths: {reason}")
        print_table(recoveries)
        if options.json:
            print(json.dumps(as_json(recoveries)))
        self.check_end(daemon, loop, job, clients, health, options)

    def one_fault(self, loop, job, clients, kind, draw, options):
        job.remember_shared()
        recovery = faults.Recovery(job, clients, kind, faults.inject(kind, job, loop, draw))
        if not loop.run(recovery.turn, options.patience, 0.003):
            raise AssertionError(f"no recovery from {kind} within {options.patience} s: died {recovery.died}, "
                                 f"ready {recovery.ready}, still waiting {recovery.left}")
        self.assertEqual(len(job.directories()), 1, "one job, one directory")
        return recovery

    def check_end(self, daemon, loop, job, clients, health, options):
        restarts, failures = daemon.metric("job_restarts_total"), daemon.metric("request_failures_total")
        running, waiting = daemon.metric("num_requests_running"), daemon.metric("num_requests_waiting")
        job.remember_shared()
        daemon.signal(signal.SIGINT)
        status = daemon.wait()
        for sample in clients.samples:
            print("# " + sample)
        self.assertGreater(clients.done, CLIENTS)
        self.assertEqual(clients.wrong["differs"], 0, "answers that differ from the undisturbed ones")
        self.assertEqual(clients.wrong["failed"], 0, "calls that failed")
        self.assertEqual(failures, 0)
        self.assertEqual(health.bad, [])
        self.assertEqual(restarts, job.launched - 1)
        self.assertGreaterEqual(job.deaths, 1)
        self.assertEqual((running, waiting), (0, 0))
        self.assertEqual(status, 0)
        self.assertEqual(len(job.shared) > 0, options.ranks > 1)
        self.assertEqual(job.leftovers(), [])


if __name__ == "__main__":
    harness.main()
