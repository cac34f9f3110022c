#!/usr/bin/env python3
"""The worker job dies and cannot be launched again, because its program or its model is broken. Up to --recovery-deadline
everything waits; after it everything is refused, with the reason; when the cause is gone the server comes back by itself."""

import json
import os
import shutil
import signal
import tempfile
import time
import unittest

import faults
import load
from load import harness

OPTIONS = ("--relaunch-min", "20ms", "--relaunch-max", "200ms", "--max-seqs", "2", "--max-queued-requests", "8")
LONG = {"prompt": "Once", "max_tokens": 1500, "ignore_eos": True, "temperature": 0, "return_token_ids": True}
BROKEN = "the worker is out of order"


class BrokenProgram:
    """A worker program that can be put out of order."""

    def __init__(self, folder):
        self.flag, self.path = os.path.join(folder, "broken"), os.path.join(folder, "worker")
        self.reason = "exited with"
        with open(self.path, "w", encoding="ascii") as file:
            file.write(f"#!/bin/sh\nif [ -e {self.flag} ]; then echo '{BROKEN}' >&2; exit 9; fi\n"
                       f"exec {harness.BUILD}/moetuner-worker \"$@\"\n")
        os.chmod(self.path, 0o755)

    def daemon(self, *options):
        return faults.Daemon(*OPTIONS, "--worker", self.path, *options)

    def break_it(self):
        with open(self.flag, "w", encoding="ascii"):
            pass

    def mend(self):
        os.unlink(self.flag)


class LostModel:
    """A model directory that can be moved away."""

    def __init__(self, folder):
        self.path, self.away = os.path.join(folder, "model"), os.path.join(folder, "away")
        self.reason = self.path
        shutil.copytree(harness.MODEL, self.path)

    def daemon(self, *options):
        return faults.Daemon(*OPTIONS, model=self.path, *options)

    def break_it(self):
        os.rename(self.path, self.away)

    def mend(self):
        os.rename(self.away, self.path)


class CannotReturn(unittest.TestCase):
    def start(self, cause, *options):
        folder = tempfile.mkdtemp(prefix="cause-")
        self.addCleanup(shutil.rmtree, folder, True)
        cause = cause(folder)
        daemon = cause.daemon(*options)
        self.addCleanup(daemon.close)
        loop = load.Loop(daemon)
        self.addCleanup(loop.close)
        return cause, daemon, loop

    def ask(self, loop, stream=False, **parameters):
        body = {**LONG, **parameters}
        request = load.format_request("POST", "/v1/completions", load.with_stream(body) if stream else body)
        return loop.start(load.Exchange(request, lambda exchange: None, stream, load.TOKENS))

    def strike(self, cause, daemon):
        cause.break_it()
        for pid in daemon.workers():
            faults.send(pid, signal.SIGKILL)

    def await_failed_launches(self, daemon, loop, n):
        job = faults.Job(daemon)
        self.addCleanup(job.close)

        def look():
            job.look()
            return job.deaths > n
        self.assertTrue(loop.run(look, harness.PATIENCE, 0.01), "the job was not launched again and again")

    def check_refusal(self, exchange, code=503):
        self.assertIsNone(exchange.error)
        self.assertEqual(exchange.status, code, bytes(exchange.body))
        self.assertEqual(json.loads(bytes(exchange.body))["error"]["code"], "unavailable")
        self.assertGreater(int(exchange.headers["retry-after"]), 0)

    def refused_after_deadline(self, cause):
        cause, daemon, loop = self.start(cause, "--recovery-deadline", "2")
        want = daemon.complete("Once", max_tokens=20)["choices"]
        # four run; the others wait
        streams = [self.ask(loop, True) for _ in range(3)]
        wholes = [self.ask(loop) for _ in range(3)]
        self.assertTrue(loop.run(lambda: daemon.metric("num_requests_running") == 4
                                 and daemon.metric("num_requests_waiting") == 2 and streams[0].first, 60, 0.01))
        struck = time.monotonic()
        self.strike(cause, daemon)
        loop.run(lambda: time.monotonic() > struck + 1)
        self.assertEqual([e.ended for e in streams + wholes], [None] * 6, "all wait until the deadline")
        self.assertEqual(daemon.get("/readyz")[0], 503)
        late = self.ask(loop, max_tokens=4)
        self.assertTrue(loop.run(lambda: not loop.open, 30), "all have ended after the deadline")
        took = [e.ended - struck for e in streams + wholes]
        print(f"# deadline of 2 s: requests ended {min(took):.2f} to {max(took):.2f} s after the death")
        self.assertGreater(min(took), 1.9)
        self.assertLess(max(took), 10)
        for exchange in streams:
            self.assertEqual(exchange.status, 200)
            self.assertEqual(exchange.events()[-1]["error"]["code"], "unavailable")
            self.assertTrue(exchange.body.endswith(b"data: [DONE]\n\n"))
        for exchange in wholes + [late]:
            self.check_refusal(exchange)
        self.check_down(cause, daemon, loop)
        cause.mend()
        took = harness.wait_until("it is ready by itself", lambda: daemon.get("/readyz") == (200, "ready\n"))
        print(f"# ready {took:.2f} s after the cause was gone")
        self.assertEqual(daemon.complete("Once", max_tokens=20)["choices"], want)
        self.assertEqual((daemon.metric("num_requests_running"), daemon.metric("num_requests_waiting")), (0, 0))
        self.assertEqual(daemon.metric("kv_cache_usage_perc"), 0)
        self.assertEqual(daemon.metric("request_failures_total"), 7)

    def check_down(self, cause, daemon, loop):
        """It stays down, says why, refuses at once, and lives."""
        for _ in range(5):
            status, text = daemon.get("/readyz")
            self.assertEqual(status, 503)
            self.assertIn(cause.reason, text)
            self.assertEqual(daemon.get("/healthz")[0], 200)
            for stream in (False, True):
                exchange = self.ask(loop, stream)
                self.assertTrue(loop.run(lambda: not loop.open, 30))
                self.check_refusal(exchange)
                self.assertLess(exchange.ended - exchange.began, 1, "refused at once")
            loop.run_for(0.2)

    def test_broken_program(self):
        self.refused_after_deadline(BrokenProgram)

    def test_lost_model(self):
        self.refused_after_deadline(LostModel)

    def test_short_outage_is_a_pause(self):
        cause, daemon, loop = self.start(BrokenProgram, "--recovery-deadline", "60")
        body = {"max_tokens": 300}
        asked = [self.ask(loop, stream, **body) for stream in (True, False, True, False, False, True)]
        self.assertTrue(loop.run(lambda: asked[0].first, 60, 0.01))
        self.strike(cause, daemon)
        self.await_failed_launches(daemon, loop, 3)
        asked.append(self.ask(loop, **body))  # in the middle of it
        loop.run_for(0.3)
        self.assertEqual([e.ended for e in asked], [None] * 7)
        self.assertEqual(daemon.get("/healthz")[0], 200)
        self.assertEqual(daemon.get("/readyz")[0], 503)
        cause.mend()
        self.assertTrue(loop.run(lambda: not loop.open, 60))
        undisturbed = self.ask(loop, **body)
        self.assertTrue(loop.run(lambda: not loop.open, 60))
        want = load.answer_of(undisturbed, False)
        for exchange in asked:
            self.assertIsNone(exchange.problem(exchange.tag))
            self.assertIsNone(load.difference(want, load.answer_of(exchange, exchange.tag)))
        self.assertEqual(daemon.metric("request_failures_total"), 0)

    def test_full_queue_in_an_outage(self):
        """What would wait longer than the queue is, is told so while the job is down too."""
        cause, daemon, loop = self.start(BrokenProgram, "--recovery-deadline", "60")
        self.strike(cause, daemon)
        self.await_failed_launches(daemon, loop, 1)
        asked = [self.ask(loop, max_tokens=8) for _ in range(12)]
        self.assertTrue(loop.run(lambda: len(loop.open) == 8, 30, 0.01), "four of twelve are refused, eight wait")
        for exchange in asked:
            if exchange.ended:
                self.assertEqual(exchange.status, 429)
        cause.mend()
        self.assertTrue(loop.run(lambda: not loop.open, 60))
        self.assertEqual(sorted(e.status for e in asked), [200] * 8 + [429] * 4)


if __name__ == "__main__":
    harness.main()
