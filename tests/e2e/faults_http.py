#!/usr/bin/env python3
"""What clients and the machine can do to the HTTP server, and who else may notice: nobody."""

import json
import os
import random
import re
import resource
import select
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import harness

LONG = {"prompt": "Once", "max_tokens": 2000, "ignore_eos": True, "temperature": 0}


def raw_request(path, body, more=b""):
    data = json.dumps(body).encode()
    return b"POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s" % (path.encode(), more, len(data), data)


def connect(daemon, receive_buffer=None):
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(harness.PATIENCE)
    sock.connect((daemon.host, daemon.port))
    return sock


def rss_kib(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def idle(daemon):
    return daemon.metric("num_requests_running") == 0 and daemon.metric("num_requests_waiting") == 0


class Streams(unittest.TestCase):
    def test_ping_while_queued(self):
        with harness.Daemon("--max-seqs", "1", "--stream-ping", "300ms", ranks=1) as daemon:
            first = daemon.open_stream(**LONG)
            second = connect(daemon)
            second.sendall(raw_request("/v1/completions", {**LONG, "max_tokens": 3, "stream": True},
                                       b"Connection: close\r\n"))
            back = b""
            while back.count(b": ping\n\n") < 2:
                back += second.recv(4096)
            self.assertEqual(daemon.metric("num_requests_waiting"), 1)
            self.assertNotIn(b"data:", back)
            first.close()
            back += harness.read_all(second)
            self.assertIn(b"data: [DONE]\n\n", back)
            second.close()

    def test_silent_reader(self):
        """It is cut off and its request cancelled; others are served meanwhile, and nothing piles up."""
        with harness.Daemon("--stall-deadline", "2", ranks=1) as daemon:
            before = rss_kib(daemon.process.pid)
            silent = connect(daemon, receive_buffer=4096)
            silent.sendall(raw_request("/v1/completions", {**LONG, "stream": True, "logprobs": 20, "n": 16}))
            harness.wait_until("it runs", lambda: daemon.metric("num_requests_running") > 0)
            self.assertEqual(daemon.complete("a", max_tokens=2)["usage"]["completion_tokens"], 2)
            harness.wait_until("it is cut off", lambda: idle(daemon))
            self.assertIn('finished_reason="abort"} 16', daemon.get("/metrics")[1])
            print(f"# resident: {before} KiB before, {rss_kib(daemon.process.pid)} KiB after")
            silent.close()


class Connections(unittest.TestCase):
    def test_thousand_idle(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        with harness.Daemon("--receive-deadline", "60", ranks=1) as daemon:
            before = rss_kib(daemon.process.pid)
            sockets = [connect(daemon) for _ in range(1000)]
            harness.wait_until("all are accepted", lambda: daemon.metric("http_connections") > 1000)
            self.assertEqual(daemon.complete("a", max_tokens=2)["usage"]["completion_tokens"], 2)
            self.assertTrue(daemon.stream_text("Once", max_tokens=20))
            print(f"# a connection costs {(rss_kib(daemon.process.pid) - before) / 1000:.1f} KiB")
            for sock in sockets:
                sock.close()
            harness.wait_until("all are gone", lambda: daemon.metric("http_connections") == 1)

    def test_per_client(self):
        with harness.Daemon("--max-connections-per-client", "8", ranks=1) as daemon:
            sockets = [connect(daemon) for _ in range(9)]
            told, _, _ = select.select(sockets, [], [], 30)  # whichever a server thread took last
            self.assertEqual([b" 429 " in sock.recv(4096) for sock in told], [True])
            for sock in sockets:
                sock.close()
            harness.wait_until("there is room again", lambda: self.served(daemon))
            self.assertGreaterEqual(daemon.metric("http_connections_refused_total"), 1)

    @staticmethod
    def served(daemon):
        try:
            return daemon.get("/healthz")[0] == 200
        except OSError:
            return False

    def test_drips(self):
        """A byte at a time, of a head and of a body: an absolute deadline ends both."""
        with harness.Daemon("--receive-deadline", "1500ms", ranks=1) as daemon:
            for start in (b"GET /version HTTP/1.1\r\nX: ",
                          b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"):
                sock = connect(daemon)
                sock.sendall(start)
                sock.settimeout(0.1)
                began, ended = time.monotonic(), False
                while not ended and time.monotonic() - began < 30:
                    try:
                        sock.sendall(b"a")
                        ended = sock.recv(1) == b""
                    except TimeoutError:
                        pass
                    except OSError:
                        ended = True
                took = time.monotonic() - began
                print(f"# ended after {took:.1f} s")
                self.assertTrue(ended and took > 1)
                sock.close()

    def test_random_disconnects(self):
        """Clients leave at every moment of a request's life; sequences, descriptors and counters come back."""
        draw = random.Random(5)
        with harness.Daemon("--max-seqs", "8", "--log-level", "warn") as daemon:
            daemon.complete("warm", max_tokens=1)
            before = descriptors(daemon.process.pid)

            def client(seed):
                rng = random.Random(seed)
                body = {"prompt": "Once upon a time " * rng.randrange(1, 8), "max_tokens": rng.randrange(1, 200),
                        "n": rng.choice([1, 1, 3]), "stream": rng.random() < 0.6, "ignore_eos": True, "seed": seed}
                data = raw_request("/v1/completions", body)
                cut = rng.choice([len(data), len(data), rng.randrange(len(data))])
                sock = connect(daemon)
                try:
                    sock.sendall(data[:cut])
                    deadline = time.monotonic() + rng.choice([0, 0.001, 0.01, 0.1, 0.5])
                    while (left := deadline - time.monotonic()) > 0:
                        sock.settimeout(left)
                        if not sock.recv(rng.choice([1, 100, 10000])):
                            break
                except OSError:
                    pass
                if rng.random() < 0.3:  # a reset rather than an end
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                elif rng.random() < 0.3:
                    try:
                        sock.shutdown(socket.SHUT_WR)
                    except OSError:
                        pass
                sock.close()

            for _ in range(int(os.environ.get("MT_LONG", "0")) * 9 + 1):
                harness.in_parallel([lambda seed=draw.randrange(1 << 30): [client(seed + k) for k in range(8)]
                                     for _ in range(24)])
            harness.wait_until("all sequences are freed", lambda: idle(daemon))
            harness.wait_until("all connections are gone", lambda: daemon.metric("http_connections") == 1)
            self.assertEqual(daemon.metric("kv_cache_usage_perc"), 0)
            self.assertEqual(daemon.metric("request_failures_total"), 0)
            harness.wait_until("all descriptors are closed", lambda: descriptors(daemon.process.pid) <= before)
            self.assertEqual(daemon.complete("a", max_tokens=2)["usage"]["completion_tokens"], 2)

    def test_stop_with_many_streams(self):
        """Stopping under suspended, running, stalled and queued exchanges ends well, every time."""
        for number in (signal.SIGINT, signal.SIGTERM):
            for delay in (0, 0.3):
                with harness.Daemon("--drain-deadline", "100ms", "--max-seqs", "16", ranks=1) as daemon:
                    sockets = []
                    for index in range(128):
                        sock = connect(daemon, receive_buffer=4096 if index % 8 == 0 else None)
                        sock.sendall(raw_request("/v1/completions", {**LONG, "stream": index % 4 != 1}))
                        sockets.append(sock)
                    time.sleep(delay)
                    daemon.signal(number)
                    self.assertEqual(daemon.wait(60), 0)
                    for sock in sockets:
                        sock.close()


class Machine(unittest.TestCase):
    """Things that run out."""

    def test_descriptors(self):
        """Few descriptors: connections wait, the rest of the daemon goes on, and the job can come back."""
        old = resource.getrlimit(resource.RLIMIT_NOFILE)
        with harness.Daemon("--receive-deadline", "3", ranks=2, wait=False, limits={"nofile": 128}) as daemon:
            daemon.wait_ready()
            self.assertIn("fewer_connections", daemon.log())
            sockets = [connect(daemon) for _ in range(300)]
            harness.wait_until("it is full", lambda: descriptors(daemon.process.pid) > 60)
            restarted = daemon.log().count("job_ready")
            os.kill(daemon.workers()[0], signal.SIGKILL)
            harness.wait_until("the job is back", lambda: daemon.log().count("job_ready") > restarted)
            for sock in sockets:
                sock.close()
            harness.wait_until("it serves", lambda: daemon.get("/readyz")[0] == 200)
            self.assertEqual(daemon.complete("a", max_tokens=2)["usage"]["completion_tokens"], 2)
        self.assertEqual(resource.getrlimit(resource.RLIMIT_NOFILE), old)

    def test_too_few_descriptors(self):
        daemon = harness.Daemon(wait=False, limits={"nofile": 40})
        self.assertEqual(daemon.wait(), 1)
        self.assertIn("open 40 files", daemon.log())
        daemon.close()

    def test_memory(self):
        """Floods of big bodies under a tight address space: refusals, no death, and then service as before."""
        if os.environ.get("SAN"):
            self.skipTest("sanitizers reserve address space")
        with harness.Daemon(ranks=1) as daemon:
            pid = daemon.process.pid
            with open(f"/proc/{pid}/status", encoding="utf-8") as file:
                size = next(int(line.split()[1]) for line in file if line.startswith("VmSize")) * 1024
            limit = size + (48 << 20)
            resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
            bodies = [b'{"prompt": [%s], "max_tokens": 1}' % b",".join([b"1"] * 3000000),
                      b'{"prompt": "%s", "max_tokens": 1}' % (b"word " * 1500000),
                      b'{"prompt": %s, "max_tokens": 1}' % json.dumps(["a"] * 900000).encode()]
            found = []

            def flood(index):
                body = bodies[index % len(bodies)]
                for _ in range(2):
                    try:
                        with connect(daemon) as sock:
                            sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                                         b"Content-Length: %d\r\n\r\n" % len(body) + body)
                            found.append(harness.read_all(sock)[:600])
                    except OSError:
                        found.append(b"")

            harness.in_parallel([lambda index=index: flood(index) for index in range(16)])
            self.assertIsNone(daemon.process.poll())
            counts = {}
            for back in found:
                status = int(back.split()[1]) if back else 0
                counts[status] = counts.get(status, 0) + 1
                if status == 503:
                    self.assertIn(b"Retry-After", back)
            print("# answers by status (0: cut off before one):", counts)
            self.assertIn(503, counts)
            self.assertLessEqual(set(counts), {0, 200, 400, 413, 429, 503})
            harness.wait_until("it is idle", lambda: idle(daemon))
            self.assertEqual(daemon.complete("a", max_tokens=2)["usage"]["completion_tokens"], 2)

    def test_log_nobody_reads(self):
        """A pipe whose reader sleeps must not stop the service; what was lost is told."""
        read_end, write_end = os.pipe()
        with harness.Daemon(ranks=1, wait=False, log=write_end) as daemon:
            os.close(write_end)
            daemon.wait_ready()
            rounds = 0
            while not daemon.metric("log_lines_dropped_total"):
                rounds += 1
                daemon.get("/version")  # a line of the log; a scrape that goes well is none
                self.assertLess(rounds, 5000)
            self.assertEqual(daemon.complete("a", max_tokens=2)["usage"]["completion_tokens"], 2)
            lost = daemon.metric("log_lines_dropped_total")
            text = os.read(read_end, 1 << 20)
            daemon.get("/version")
            text += os.read(read_end, 1 << 20)
            self.assertIn(b'path="/version"', text)
            told = sum(int(n) for n in re.findall(rb"log_resumed dropped=(\d+)\n", text))
            self.assertEqual(told, daemon.metric("log_lines_dropped_total"))
            self.assertGreaterEqual(told, lost)
            os.close(read_end)  # nor a reader that is gone
            self.assertEqual(daemon.complete("a", max_tokens=2)["usage"]["completion_tokens"], 2)

    def test_log_on_a_full_disk(self):
        with open("/dev/full", "wb") as full, harness.Daemon(ranks=1, wait=False, log=full) as daemon:
            daemon.wait_ready()
            self.assertEqual(daemon.complete("a", max_tokens=2)["usage"]["completion_tokens"], 2)
            self.assertGreater(daemon.metric("log_lines_dropped_total"), 0)

    def test_no_standard_descriptors(self):
        """Closed from the start: no socket must take their place and receive the log."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "socket")
            command = f'exec "$0" --model "$1" --ranks 1 --threads 1 --unix "{path}" <&- >&- 2>&-'
            process = subprocess.Popen(["sh", "-c", command, os.path.join(harness.BUILD, "moetunerd"), harness.MODEL],
                                       env=dict(os.environ, TMPDIR=folder))
            try:
                def reply():
                    with socket.socket(socket.AF_UNIX) as sock:
                        try:
                            sock.connect(path)
                            sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                            return harness.read_all(sock)
                        except OSError:
                            return b""
                harness.wait_until("it is ready", lambda: reply().startswith(b"HTTP/1.1 200"))
                self.assertNotIn(b"moetunerd:", reply())
            finally:
                process.send_signal(signal.SIGINT)
                self.assertEqual(process.wait(60), 0)


class Idle(unittest.TestCase):
    def test_costs_nothing(self):
        """Neither an idle server nor one with idle connections runs at all."""
        with harness.Daemon(ranks=1) as daemon:
            daemon.complete("a", max_tokens=2)
            sockets = [connect(daemon) for _ in range(50)]
            time.sleep(1)

            def switches():
                total = 0
                for task in os.listdir(f"/proc/{daemon.process.pid}/task"):
                    with open(f"/proc/{daemon.process.pid}/task/{task}/status", encoding="utf-8") as file:
                        total += sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)
                return total

            before = switches()
            time.sleep(2)
            woken = switches() - before
            print(f"# woken {woken / 2:.0f} times a second (heartbeats of the rank included)")
            self.assertLess(woken / 2, 60)
            for sock in sockets:
                sock.close()


if __name__ == "__main__":
    harness.main()
