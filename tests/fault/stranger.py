#!/usr/bin/env python3
"""Strangers at the worker job's control socket: garbage, lies, silence, crowds. The service goes on undisturbed; they are
sent away; nothing of them stays. (tests/unit/daemon/test_job.c has a wrong token and a mute one.)"""

import glob
import os
import random
import signal
import socket
import stat
import struct
import time
import unittest

import faults
import load
from load import harness

MAGIC, VERSION = 0x3154574d, 1  # api/wire.h
HELLO, MAP, READY, STEP, WAKE, RESULT, HEARTBEAT, LOG, FAIL, SHUTDOWN = range(1, 11)
HELLO_SECONDS = 5  # JOB_HELLO_MS: how long a stranger may say nothing
CROWD = 12  # more than the daemon holds at once, JOB_PENDING


def frame(kind, incarnation, body=b"", length=None):
    return struct.pack("<IIIIQ", MAGIC, VERSION | kind << 16, len(body) if length is None else length, 0, incarnation) + body


def hello(token, rank=1, ranks=2):
    facts = struct.pack("<32s7IiI3Q", b"mixtral", 8, 8, 16, 2, 256, 8192, 2048, 0, 0, 0, 0, 0)
    return struct.pack("<IIq", rank, ranks, os.getpid()) + token + facts


def token_of(daemon):
    """The job's own: as much as anybody of our user can learn."""
    with open(f"/proc/{daemon.workers()[0]}/environ", "rb") as file:
        for word in file.read().split(b"\0"):
            if word.startswith(b"MOETUNER_TOKEN="):
                return bytes.fromhex(word.partition(b"=")[2].decode())
    raise AssertionError("no token in the worker's environment")


def lies(daemon, incarnation, draw):
    """What strangers may say; none of it may cost the job anything, and all of it has them sent away at once."""
    token, wrong, near = token_of(daemon), draw.randbytes(32), bytearray(token_of(daemon))
    near[31] ^= 1
    yield frame(HELLO, incarnation, hello(wrong))
    yield frame(HELLO, incarnation, hello(bytes(near)))
    yield frame(HELLO, incarnation, hello(wrong), length=0xffffffff)
    yield frame(HELLO, incarnation, length=255 << 20)
    yield frame(HELLO, incarnation - 1, hello(token)) + frame(FAIL, incarnation - 1, struct.pack("<iI", -1, 4) + b"dead")
    yield frame(HELLO, incarnation + 1, hello(token))
    yield frame(HELLO, 0, hello(token)) + draw.randbytes(100000)
    yield from (frame(kind, incarnation, b"\0" * 64) for kind in range(HELLO, SHUTDOWN + 1))
    yield from (draw.randbytes(draw.randrange(24, 3000)) for _ in range(100))
    yield from (frame(draw.randrange(65536), incarnation, draw.randbytes(draw.randrange(200))) for _ in range(100))
    yield from (frame(HELLO, incarnation, draw.randbytes(draw.randrange(200))) for _ in range(100))


def halves(daemon, incarnation):
    """Beginnings of what would be right, and then silence."""
    real = frame(HELLO, incarnation, hello(token_of(daemon)))
    return [real[:cut] for cut in range(0, len(real), len(real) // CROWD)]


def dial(path):
    """A connection; None where the daemon has no room for one now."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        sock.connect(path)
        return sock
    except (BlockingIOError, ConnectionRefusedError, FileNotFoundError):
        sock.close()
        return None


def say(sock, text):
    try:
        sock.send(text)
    except (BlockingIOError, BrokenPipeError, ConnectionResetError):
        pass  # it has been sent away already


def sent_away(sock):
    try:
        return not sock.recv(65536)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


class Strangers(unittest.TestCase):
    def serve(self, seconds_of_answers):
        daemon = faults.Daemon()
        self.addCleanup(daemon.close)
        loop = load.Loop(daemon)
        self.addCleanup(loop.close)
        catalogue = load.Catalogue(seconds_of_answers)
        catalogue.record(loop)
        job = faults.Job(daemon)
        self.addCleanup(job.close)
        return daemon, loop, catalogue, job

    def control(self, daemon):
        found = glob.glob(os.path.join(daemon.jobs, "moetuner-job-*", "control"))
        return found[0] if found else None

    def end(self, daemon, loop, clients, job):
        self.assertTrue(clients.finish())
        self.assertEqual((dict(clients.wrong), clients.samples), ({}, []))
        daemon.signal(signal.SIGINT)
        self.assertEqual(daemon.wait(), 0)
        self.assertEqual(job.leftovers(), [])

    def test_while_serving(self):
        daemon, loop, catalogue, job = self.serve(1)
        before = faults.descriptors(daemon.process.pid)
        path = self.control(daemon)
        self.assertEqual(stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode), 0o700)
        clients = load.ClosedLoop(loop, catalogue, 8, 1)
        told, slowest = 0, 0
        for text in lies(daemon, job.launched, random.Random(5)):
            sock = dial(path)
            self.assertTrue(sock, "there is room")
            say(sock, text)
            told += 1
            began = time.monotonic()
            self.assertTrue(loop.run(lambda sock=sock: sent_away(sock), 60, 0.002))
            slowest = max(slowest, time.monotonic() - began)
            sock.close()
        self.assertLess(slowest, HELLO_SECONDS, "sent away for what was said, not for its time")
        crowd = []
        for text in halves(daemon, job.launched):
            sock = dial(path)
            if sock:
                say(sock, text)
                crowd.append(sock)
        print(f"# {told} strangers spoke, the slowest was sent away in {1000 * slowest:.0f} ms; {len(crowd)} fell silent")
        self.assertGreater(len(crowd), 8, "a crowd")
        began = time.monotonic()
        self.assertTrue(loop.run(lambda: all([sent_away(sock) for sock in crowd]), 60, 0.05))
        print(f"# the last silent one was sent away after {time.monotonic() - began:.1f} s")
        for sock in crowd:
            sock.close()
        self.assertTrue(clients.finish())
        self.assertEqual(daemon.metric("job_restarts_total"), 0)
        loop.run_for(0.5)
        self.assertLessEqual(faults.descriptors(daemon.process.pid), before + 1)
        job.remember_shared()
        self.end(daemon, loop, clients, job)

    def test_crowd_while_launching(self):
        """Silent strangers take all places before the ranks come: that costs the ranks no more than the strangers' time."""
        daemon, loop, catalogue, job = self.serve(0.5)
        old = self.control(daemon)
        job.remember_shared()
        for pid in daemon.workers():
            faults.send(pid, signal.SIGKILL)
        began = time.monotonic()
        while self.control(daemon) in (None, old):
            self.assertLess(time.monotonic() - began, 60)
            time.sleep(0.0002)
        crowd = [dial(self.control(daemon)) for _ in range(CROWD)]
        self.addCleanup(lambda: [sock.close() for sock in crowd if sock])
        self.assertGreater(sum(map(bool, crowd)), 8, "a crowd")
        self.assertTrue(loop.run(lambda: job.look() or job.ready and job.launched > 1, 60, 0.01), "ready in spite of them")
        print(f"# ready {time.monotonic() - began:.1f} s after the fault, with {sum(map(bool, crowd))} silent strangers")
        self.assertEqual(job.launched, 2, "the first launch succeeds")
        clients = load.ClosedLoop(loop, catalogue, 8, 1)
        loop.run_for(0.5)
        self.end(daemon, loop, clients, job)


if __name__ == "__main__":
    harness.main()
