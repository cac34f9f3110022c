"""What the end-to-end tests share: a real daemon on a free port, HTTP without libraries, and TAP.

Daemons are found in the build folder B (default: build) and serve models/tiny. Each has a TMPDIR of its own, so that a
test can see what it leaves behind."""

import http.client
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("B", "build"))
MODEL = os.path.join(ROOT, "models", "tiny")
PATIENCE = 120  # seconds, for what must happen; a failure, not a measurement


def prompts():
    with open(os.path.join(ROOT, "tests", "e2e", "prompts.json"), encoding="utf-8") as file:
        return json.load(file)


def wait_until(what, condition, patience=PATIENCE):
    """Waits for a condition; returns the seconds it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > patience:
            raise AssertionError(f"not within {patience} s: {what}")
        time.sleep(0.01)
    return time.monotonic() - began


def alive(pid):
    """Whether a process runs; one that only awaits its reaping by init does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Daemon:
    """A running moetunerd; a context that stops it."""

    def __init__(self, *options, ranks=2, model=MODEL, wait=True, log=None, limits=None):
        """log: a file or descriptor for standard error, instead of log_path; limits: of RLIMIT_..., as ulimit sets."""
        self.tmp = tempfile.mkdtemp(prefix="e2e-")
        self.log_path = os.path.join(self.tmp, "log")
        self.jobs = os.path.join(self.tmp, "tmp")
        os.mkdir(self.jobs)
        command = [os.path.join(BUILD, "moetunerd"), "--model", model, "--ranks", str(ranks),
                   "--threads", "1", "--port", "0", *options]
        environment = dict(os.environ, TMPDIR=self.jobs)

        def limit():
            for name, value in (limits or {}).items():
                resource.setrlimit(getattr(resource, "RLIMIT_" + name.upper()), (value, value))

        with open(self.log_path, "wb") as file:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log or file, env=environment,
                                            text=True, preexec_fn=limit if limits else None)
        self.host, self.port, self.first_lines = "127.0.0.1", None, []
        if wait:
            self.wait_ready()

    def wait_ready(self):
        watchdog = threading.Timer(PATIENCE, self.process.kill)
        watchdog.start()
        self.first_lines = [self.process.stdout.readline(), self.process.stdout.readline()]
        watchdog.cancel()
        if "ready at" not in self.first_lines[0]:
            raise AssertionError("the daemon did not become ready:\n" + self.log())
        if "http://" in self.first_lines[0]:
            self.port = int(self.first_lines[0].strip().rsplit(":", 1)[1])

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def connect(self):
        return http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)

    def request(self, method, path, body=None):
        """(status, headers, bytes)"""
        connection = self.connect()
        try:
            connection.request(method, path, None if body is None else json.dumps(body),
                               {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            connection.close()

    def get(self, path):
        status, _, body = self.request("GET", path)
        return status, body.decode()

    def post(self, path, body, expect=200):
        status, _, reply = self.request("POST", path, body)
        if status != expect:
            raise AssertionError(f"{path}: expected {expect}, found {status}: {reply.decode()}")
        return json.loads(reply)

    def complete(self, prompt, **parameters):
        return self.post("/v1/completions", {"prompt": prompt, "temperature": 0, **parameters})

    def stream(self, path, body):
        """Yields the events of a stream; checks that it ends as it must."""
        connection = self.connect()
        try:
            connection.request("POST", path, json.dumps({**body, "stream": True}))
            reply = connection.getresponse()
            if reply.status != 200:
                raise AssertionError(f"{path}: {reply.status}: {reply.read().decode()}")
            for line in reply:
                line = line.decode("utf-8").rstrip("\n")
                if line == "data: [DONE]":
                    return
                if line and line != ": ping":
                    assert line.startswith("data: "), line
                    yield json.loads(line[6:])
            raise AssertionError("the stream ended without [DONE]")
        finally:
            connection.close()

    def stream_text(self, prompt, **parameters):
        body = {"prompt": prompt, "temperature": 0, **parameters}
        return "".join(choice["text"] for event in self.stream("/v1/completions", body)
                       for choice in event["choices"])

    def open_stream(self, **body):
        """A socket on which a stream has begun to arrive."""
        data = json.dumps({"temperature": 0, "stream": True, **body}).encode()
        sock = socket.create_connection((self.host, self.port), timeout=PATIENCE)
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        sock.recv(1)
        return sock

    def metric(self, name):
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith("moetuner:" + name) and line[len("moetuner:" + name)] in "{ ":
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError("no metric " + name)

    def workers(self):
        """Process ids of the job's ranks."""
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"moetuner-worker") and any(self.jobs.encode() in word for word in words):
                found.append(int(name))
        return sorted(found)

    def shared_memory(self):
        """Directories under /dev/shm that the ranks were told to use."""
        found = set()
        for pid in self.workers():
            with open(f"/proc/{pid}/environ", "rb") as file:
                for word in file.read().split(b"\0"):
                    name, _, value = word.partition(b"=")
                    if value.startswith(b"/dev/shm/"):
                        found.add(value.decode())
        return found

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, patience=PATIENCE):
        return self.process.wait(patience)

    def close(self):
        if self.process.poll() is None:
            self.signal(signal.SIGINT)
            try:
                self.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self.tmp, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None and not isinstance(error, unittest.SkipTest):
            print("# the daemon's log:\n#   " + self.log().replace("\n", "\n#   "))
        self.close()


def read_all(sock):
    """All that comes until the other side closes, or resets."""
    back = b""
    while True:
        try:
            more = sock.recv(65536)
        except ConnectionResetError:
            return back
        if not more:
            return back
        back += more


def in_parallel(calls):
    """Runs callables, each in a thread of its own; their results in order. Raises the first error."""
    results = [None] * len(calls)

    def run(index):
        try:
            results[index] = calls[index]()
        except BaseException as error:  # told to the caller below
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


class Tap(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.number = 0

    def line(self, word, test, rest=""):
        self.number += 1
        print(f"{word} {self.number} - {test.id().split('.', 1)[1]}{rest}", flush=True)

    def trouble(self, test, error):
        self.line("not ok", test)
        text = "".join(traceback.format_exception(*error))
        print("#   " + text.strip().replace("\n", "\n#   "), flush=True)

    def addSuccess(self, test):
        self.line("ok", test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.trouble(test, err)

    def addError(self, test, err):
        super().addError(test, err)
        if hasattr(test, "_testMethodName"):
            self.trouble(test, err)
        else:  # a set-up of a class: its tests do not run
            self.number += 1
            print(f"not ok {self.number} - {test}\n#   " +
                  "".join(traceback.format_exception(*err)).strip().replace("\n", "\n#   "), flush=True)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.number += 1
        print(f"ok {self.number} - {test} # SKIP {reason}", flush=True)


def main():
    """Runs the tests of the calling program; exits 1 if one fails."""
    if not os.access(os.path.join(BUILD, "moetunerd"), os.X_OK):
        print(f"1..0 # SKIP {BUILD}/moetunerd is not built")
        sys.exit(77)
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    result = Tap()
    suite.run(result)
    print(f"1..{result.number}")
    sys.exit(0 if result.wasSuccessful() else 1)
