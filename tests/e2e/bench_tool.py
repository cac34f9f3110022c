#!/usr/bin/env python3
"""moetuner bench against a real daemon: what it counts is what the daemon counted, and what fails is told."""

import json
import os
import signal
import subprocess
import unittest

import harness

TOOL = os.path.join(harness.BUILD, "moetuner")
PROMPTS = os.path.join(harness.ROOT, "tests", "data", "prompts.json")


def bench(url, *options):
    """(exit status, stdout, stderr)"""
    done = subprocess.run([TOOL, "bench", "--url", url, *options], capture_output=True, text=True, check=False,
                          timeout=harness.PATIENCE)
    return done.returncode, done.stdout, done.stderr


def total(daemon, name):
    """A counter, summed over its labels."""
    lines = daemon.get("/metrics")[1].splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"moetuner:{name}{{"))


class Bench(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = harness.Daemon()
        cls.url = f"http://{cls.daemon.host}:{cls.daemon.port}"

    @classmethod
    def tearDownClass(cls):
        cls.daemon.close()

    def counted(self, *options):
        """The report as JSON, and by how much the daemon's counters grew meanwhile."""
        names = ("request_success_total", "prompt_tokens_total", "generation_tokens_total")
        before = [total(self.daemon, name) for name in names]
        status, out, errors = bench(self.url, "--json", *options)
        self.assertEqual((status, errors), (0, ""))
        return json.loads(out), [total(self.daemon, name) - was for name, was in zip(names, before)]

    def check(self, report, grew, requests, warmup, prompt, answer):
        self.assertEqual((report["ok"], report["failed"], report["errors"]), (requests, 0, []))
        self.assertEqual(report["input_tokens"], requests * prompt)
        self.assertEqual(report["output_tokens"], requests * answer)
        made = requests + warmup
        self.assertEqual(grew, [made, made * prompt, made * answer])
        self.assertEqual(report["whole_request_ms"]["count"], requests)
        self.assertGreater(report["output_tokens_per_s"], 0)

    def check_times(self, report, requests, answer):
        for name in ("first_token_ms", "whole_request_ms", "between_tokens_ms"):
            row = report[name]
            self.assertLessEqual(row["p50"], row["p90"])
            self.assertLessEqual(row["p90"], row["p99"])
            self.assertLessEqual(row["p99"], row["max"])
            self.assertGreater(row["p50"], 0)
        self.assertEqual(report["first_token_ms"]["count"], requests)
        # the tokens of an answer's first event have no gap
        self.assertLessEqual(report["between_tokens_ms"]["count"], requests * (answer - 1))
        self.assertGreater(report["between_tokens_ms"]["count"], 0)

    def test_closed_loop(self):
        report, grew = self.counted("--concurrency=3", "--requests=7", "--warmup=2", "--prompt-tokens=9",
                                    "--max-tokens=11")
        self.check(report, grew, 7, 2, 9, 11)
        self.check_times(report, 7, 11)

    def test_open_loop(self):
        for arrivals in ("poisson", "constant"):
            report, grew = self.counted("--rate=50", "--arrivals", arrivals, "--requests=10", "--prompt-tokens=5",
                                        "--max-tokens=6", "--warmup=0", "--concurrency=2")
            self.check(report, grew, 10, 0, 5, 6)
            self.check_times(report, 10, 6)
            if arrivals == "constant":
                self.assertGreaterEqual(report["seconds"], 9 / 50)

    def test_whole_answers(self):
        report, grew = self.counted("--no-stream", "--requests=3", "--prompt-tokens=4", "--max-tokens=5")
        self.check(report, grew, 3, 4, 4, 5)
        self.assertEqual(report["first_token_ms"]["count"], 0)

    def test_prompts_of_a_file(self):
        options = ("--prompts", PROMPTS, "--requests=2", "--prompt-tokens=100", "--max-tokens=2", "--warmup=0")
        report, grew = self.counted(*options)
        self.check(report, grew, 2, 0, 100, 2)
        status, _, errors = bench(self.url, "--prompts", PROMPTS, "--prompt-tokens=999999")
        self.assertEqual(status, 2)
        self.assertIn("expected at least --prompt-tokens 999999, found", errors)

    def test_text(self):
        status, out, _ = bench(self.url, "--requests=2", "--max-tokens=3", "--model=tiny")
        self.assertEqual(status, 0)
        self.assertIn("requests   2 ok, 0 failed", out)
        self.assertIn("first token", out)

    def test_refused_requests(self):
        status, out, errors = bench(self.url, "--json", "--requests=3", "--warmup=0", "--prompt-tokens=5000")
        report = json.loads(out)
        self.assertEqual((status, errors, report["ok"], report["failed"]), (1, "", 0, 3))
        self.assertEqual([(error["what"], error["count"]) for error in report["errors"]], [("HTTP 400", 3)])
        self.assertIn("maximum context length", report["errors"][0]["first"])
        status, out, errors = bench(self.url, "--model=other", "--requests=1")
        self.assertEqual((status, out), (2, ""))
        self.assertRegex(errors, r"^moetuner bench: warm-up: .*other.*\n$")

    def test_no_server(self):
        status, out, errors = bench("http://127.0.0.1:1")
        self.assertEqual((status, out), (2, ""))
        self.assertRegex(errors, r"^moetuner bench: cannot reach http://127.0.0.1:1/v1/models: .*\n$")


class Gone(unittest.TestCase):
    """Clients and servers that end early: each with a daemon of its own, since they upset the counters."""

    def test_server_that_dies(self):
        with harness.Daemon() as daemon:
            url = f"http://{daemon.host}:{daemon.port}"
            with subprocess.Popen([TOOL, "bench", "--json", "--url", url, "--max-tokens=1900", "--requests=3",
                                   "--concurrency=3", "--warmup=0"], stdout=subprocess.PIPE, text=True) as process:
                harness.wait_until("a request runs", lambda: daemon.metric("num_requests_running") > 0)
                daemon.signal(signal.SIGKILL)
                report = json.loads(process.communicate(timeout=harness.PATIENCE)[0])
            self.assertEqual((process.returncode, report["ok"], report["failed"]), (1, 0, 3))
            self.assertEqual([error["what"] for error in report["errors"]], ["connection"])
            self.assertTrue(report["errors"][0]["first"])

    def test_timeout(self):
        with harness.Daemon() as daemon:
            status, out, _ = bench(f"http://{daemon.host}:{daemon.port}", "--json", "--requests=1", "--warmup=0",
                                   "--timeout=50ms", "--model=tiny", "--max-tokens=1900")
        report = json.loads(out)
        self.assertEqual((status, report["failed"], report["errors"][0]["what"]), (1, 1, "connection"))
        self.assertIn("timed out", report["errors"][0]["first"])

    def test_interrupt(self):
        with harness.Daemon() as daemon:
            url = f"http://{daemon.host}:{daemon.port}"
            with subprocess.Popen([TOOL, "bench", "--url", url, "--max-tokens=1900", "--requests=1000"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                harness.wait_until("a request runs", lambda: daemon.metric("num_requests_running") > 0)
                process.send_signal(signal.SIGINT)
                out, errors = process.communicate(timeout=harness.PATIENCE)
            self.assertEqual((process.returncode, out, errors), (2, "", "moetuner bench: interrupted\n"))


if __name__ == "__main__":
    harness.main()
