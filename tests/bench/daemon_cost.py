#!/usr/bin/env python3
"""What the daemon itself costs: its CPU time while many streams run, beside that of the ranks.

    tests/bench/daemon_cost.py [--streams 256] [--seconds 8] [--rounds 3] [--chat] [MOETUNERD OPTION...]

Opens the streams on models/tiny, waits until all of them run, and then takes the CPU time (user and system) of
moetunerd, by thread, and of mpirun with its ranks, over the window. The client's own time is not counted. The share is
a ratio of CPU times, so other load on the machine moves it little; the tokens a second are only for orientation."""

import argparse
import json
import os
import selectors
import socket
import statistics
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))
import harness  # noqa: E402

SERVER = "MHD-"  # what libmicrohttpd calls its threads


def threads_of(pid):
    """CPU seconds by kind of thread. From schedstat, which counts nanoseconds: the ticks of stat miss threads that
    run for a moment at a time."""
    found = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/comm", encoding="utf-8", errors="replace") as file:
                kind = "http" if file.read().startswith(SERVER) else "rest"
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="utf-8") as file:
                found[kind] = found.get(kind, 0) + int(file.read().split()[0]) / 1e9
        except OSError:
            continue  # it has ended
    return found


def children(pid):
    """mpirun, the ranks, and whatever else the daemon started."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                pass
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


class Streams:
    """Streams that are read by one thread and counted."""

    def __init__(self, daemon, count, body, path):
        self.bytes, self.events, self.closed = 0, 0, 0
        self.selector, self.stop = selectors.DefaultSelector(), False
        for index in range(count):
            data = json.dumps({**body, "seed": index, "stream": True}).encode()
            sock = socket.create_connection((daemon.host, daemon.port))
            sock.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
                         % (path.encode(), len(data), data))
            sock.setblocking(False)
            self.selector.register(sock, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.stop and self.selector.get_map():
            for key, _ in self.selector.select(0.2):
                data = key.fileobj.recv(1 << 18)
                self.bytes += len(data)
                self.events += data.count(b"\n\n")
                if not data:
                    self.closed += 1
                    self.selector.unregister(key.fileobj)
                    key.fileobj.close()
            time.sleep(0.02)  # as few reads as a client may do: its time is not at issue

    def close(self):
        self.stop = True
        self.thread.join()
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()
        self.selector.close()


def measure(daemon, options):
    body = {"max_tokens": options.tokens, "ignore_eos": True, "temperature": 0.8}
    if options.chat:
        path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": "Once"}]
    else:
        path, body["prompt"] = "/v1/completions", "Once upon a time"
    streams = Streams(daemon, options.streams, body, path)
    try:
        harness.wait_until("all streams run", lambda: daemon.metric("num_requests_running") == options.streams)
        ranks = children(daemon.process.pid)

        def look():
            job = sum(sum(threads_of(pid).values()) for pid in ranks)
            return (time.monotonic(), threads_of(daemon.process.pid), job, daemon.metric("generation_tokens_total"),
                    streams.events, streams.bytes)

        first = look()
        time.sleep(options.seconds)
        last = look()
        if daemon.metric("num_requests_running") != options.streams:
            raise AssertionError("streams ended within the window: use more --tokens or fewer --seconds")
    finally:
        streams.close()
    harness.wait_until("all are freed", lambda: daemon.metric("num_requests_running") == 0)
    wall = last[0] - first[0]
    parts = {kind: last[1][kind] - first[1].get(kind, 0) for kind in last[1]}
    own, job, tokens = sum(parts.values()), last[2] - first[2], last[3] - first[3]
    events, volume = last[4] - first[4], last[5] - first[5]
    print(f"daemon {own:6.2f} s ({', '.join(f'{kind} {parts[kind]:.2f}' for kind in sorted(parts))}), "
          f"ranks {job:6.2f} s: share {100 * own / (own + job):4.1f} %; {1e6 * own / tokens:6.1f} us a token, "
          f"{tokens / wall:6.0f} tokens/s, {tokens / max(events, 1):.2f} tokens an event, "
          f"{volume / max(events, 1):.0f} bytes an event", flush=True)
    return own / (own + job), own / tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--chat", action="store_true")
    options, rest = parser.parse_known_args()
    with harness.Daemon("--max-seqs", str((options.streams + 1) // 2), "--kv-memory", "1GiB", *rest) as daemon:
        rounds = [measure(daemon, options) for _ in range(options.rounds)]
    print(f"median of {options.rounds}: the daemon takes {100 * statistics.median(r[0] for r in rounds):.1f} % of the "
          f"CPU time of the run, {1e6 * statistics.median(r[1] for r in rounds):.1f} us a token "
          f"({options.streams} streams, 2 ranks, models/tiny)")


if __name__ == "__main__":
    main()
