#!/usr/bin/env python3
"""The daemon's life: start, signals, clients that leave, full queues, ranks that die."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import unittest

import harness

LONG = {"prompt": "Once", "max_tokens": 2000, "ignore_eos": True, "temperature": 0}


class Start(unittest.TestCase):
    def test_curl_line_works_as_pasted(self):
        with harness.Daemon() as daemon:
            reply = subprocess.run(["sh", "-c", daemon.first_lines[1]], capture_output=True, timeout=60, check=True)
            self.assertEqual(json.loads(reply.stdout)["usage"]["completion_tokens"], 32)

    def fails(self, *options, **keywords):
        """The log of a daemon that must not start."""
        daemon = harness.Daemon(*options, wait=False, **keywords)
        try:
            self.assertEqual(daemon.wait(), 1)
            return daemon.log()
        finally:
            daemon.close()

    def test_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            log = self.fails("--port", str(taken.getsockname()[1]))
        self.assertIn("in use", log)
        self.assertNotIn("job_launched", log)

    def test_no_model(self):
        self.assertIn("no-such-model", self.fails(model="no-such-model"))

    def test_unsupported_model(self):
        with tempfile.TemporaryDirectory() as model:
            for name in os.listdir(harness.MODEL):
                os.symlink(os.path.join(harness.MODEL, name), os.path.join(model, name))
            with open(os.path.join(harness.MODEL, "config.json"), encoding="utf-8") as file:
                config = json.load(file)
            os.unlink(os.path.join(model, "config.json"))
            with open(os.path.join(model, "config.json"), "w", encoding="utf-8") as file:
                json.dump({**config, "model_type": "abacus"}, file)
            self.assertIn("abacus", self.fails(model=model))

    def test_unix_socket(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "socket")
            with harness.Daemon("--unix", path, ranks=1) as daemon:
                reply = subprocess.run(["sh", "-c", daemon.first_lines[1]], capture_output=True, timeout=60, check=True)
                self.assertEqual(json.loads(reply.stdout)["model"], "tiny")
            self.assertFalse(os.path.exists(path))


class Signals(unittest.TestCase):
    def test_interrupt_leaves_nothing(self):
        with harness.Daemon() as daemon:
            workers, shared = daemon.workers(), daemon.shared_memory()
            self.assertEqual(len(workers), 2)
            self.assertTrue(shared)
            stream = daemon.open_stream(**LONG)
            daemon.signal(signal.SIGINT)
            took = harness.wait_until("the daemon's end", lambda: daemon.process.poll() is not None)
            print(f"# stopped after {1000 * took:.0f} ms")
            self.assertEqual(daemon.wait(), 0)
            stream.close()
            self.assertEqual([pid for pid in workers if harness.alive(pid)], [])
            self.assertEqual(os.listdir(daemon.jobs), [])
            self.assertEqual([path for path in shared if os.path.exists(path)], [])

    def test_terminate_drains(self):
        with harness.Daemon("--drain-deadline", "100") as daemon:
            events = daemon.stream("/v1/completions", {**LONG, "max_tokens": 400})
            first = next(events)
            daemon.signal(signal.SIGTERM)
            harness.wait_until("readyz says draining", lambda: daemon.get("/readyz") == (503, "draining\n"))
            self.assertEqual(daemon.get("/healthz")[0], 200)
            status, headers, _ = daemon.request("POST", "/v1/completions", {"prompt": "a"})
            self.assertEqual(status, 503)
            self.assertGreater(int(headers["Retry-After"]), 0)
            rest = list(events)  # the running one is finished
            self.assertEqual(rest[-1]["choices"][0]["finish_reason"], "length")
            self.assertTrue(first["choices"][0]["text"])
            self.assertEqual(daemon.wait(50), 0)  # it does not wait for the deadline, with nothing left to do
            self.assertEqual(os.listdir(daemon.jobs), [])

    def test_drain_deadline(self):
        with harness.Daemon("--drain-deadline", "200ms") as daemon:
            events = daemon.stream("/v1/completions", LONG)
            next(events)
            daemon.signal(signal.SIGTERM)
            last = list(events)[-1]
            self.assertIn("error", last)
            self.assertEqual(daemon.wait(), 0)

    def test_second_terminate_stops(self):
        with harness.Daemon("--drain-deadline", "1h") as daemon:
            stream = daemon.open_stream(**LONG)
            daemon.signal(signal.SIGTERM)
            harness.wait_until("the drain", lambda: "drain" in daemon.log())
            daemon.signal(signal.SIGTERM)
            self.assertEqual(daemon.wait(), 0)
            stream.close()


class Clients(unittest.TestCase):
    def test_leaving_frees_the_sequence(self):
        with harness.Daemon() as daemon:
            for streamed in (True, False):
                if streamed:
                    sock = daemon.open_stream(**LONG)
                else:
                    body = json.dumps(LONG).encode()
                    sock = socket.create_connection((daemon.host, daemon.port))
                    sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
                                 % (len(body), body))
                harness.wait_until("it runs", lambda: daemon.metric("num_requests_running") == 1)
                sock.close()
                took = harness.wait_until("it is freed", lambda: daemon.metric("num_requests_running") == 0)
                print(f"# freed after {1000 * took:.0f} ms, streamed: {streamed}")
            aborted = 'request_success_total{model_name="tiny",finished_reason="abort"} 2'
            self.assertIn(aborted, daemon.get("/metrics")[1])

    def test_full_queue(self):
        with harness.Daemon("--max-seqs", "1", "--max-queued-requests", "1", ranks=1) as daemon:
            running = daemon.open_stream(**LONG, n=8)  # one after the other: long enough on any machine
            data = json.dumps(LONG).encode()
            waiting = socket.create_connection((daemon.host, daemon.port))
            waiting.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
                            % (len(data), data))
            harness.wait_until("one waits", lambda: daemon.metric("num_requests_waiting") == 1)
            status, headers, body = daemon.request("POST", "/v1/completions", LONG)
            self.assertEqual(status, 429)
            self.assertGreater(int(headers["Retry-After"]), 0)
            self.assertEqual(json.loads(body)["error"]["code"], "rate_limit_exceeded")
            running.close()
            waiting.close()
            harness.wait_until("all are freed", lambda: daemon.metric("num_requests_running") == 0
                               and daemon.metric("num_requests_waiting") == 0)
            self.assertEqual(daemon.complete("a", max_tokens=2)["usage"]["completion_tokens"], 2)

    def test_request_deadline(self):
        with harness.Daemon("--request-deadline", "100ms") as daemon:
            reply = daemon.post("/v1/completions", LONG, expect=504)
            self.assertEqual(reply["error"]["code"], "timeout")


class Workers(unittest.TestCase):
    def test_killed_rank(self):
        with harness.Daemon() as daemon:
            body = {**LONG, "max_tokens": 300, "temperature": 0.8, "seed": 3}
            whole = daemon.stream_text(**body)
            events = daemon.stream("/v1/completions", body)
            pieces = [next(events)]
            os.kill(daemon.workers()[1], signal.SIGKILL)
            pieces += events
            text = "".join(choice["text"] for event in pieces for choice in event["choices"])
            self.assertEqual(text, whole)
            self.assertEqual(daemon.metric("job_restarts_total"), 1)
            self.assertEqual(daemon.get("/readyz")[0], 200)


if __name__ == "__main__":
    harness.main()
