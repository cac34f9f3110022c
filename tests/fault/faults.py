"""Faults for a daemon's worker job, and what can be seen of its recovery from outside: its log, its processes, what they
leave behind."""

import collections
import os
import re
import signal
import time

import load
from load import harness

EVENT = re.compile(r"moetunerd: \w+ (job_\w+) incarnation=(\d+)(.*)")
KINDS = ("rank0", "rank", "mpirun", "stop", "segv", "all", "twice", "launch", "deaf")


def children(pid):
    """Process ids of a process's children."""
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += [int(word) for word in file.read().split()]
    except OSError:
        pass
    return found


def with_word(word):
    """Process ids of all processes, zombies not, in whose command line a word occurs."""
    found = []
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if name.isdigit() and word.encode() in file.read():
                    found.append(int(name))
        except OSError:
            continue
    return found


def rank_order(pid):
    """A rank's number, as mpirun told it."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            found = re.search(rb"OMPI_COMM_WORLD_RANK=(\d+)", file.read())
    except OSError:
        return -1
    return int(found[1]) if found else -1


def memory_kib(pid):
    """Resident memory; 0 if the process is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            found = re.search(r"VmRSS:\s+(\d+)", file.read())
    except OSError:
        return 0
    return int(found[1]) if found else 0


def descriptors(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


class Daemon(harness.Daemon):
    """One whose log is about its job when it is shown: that of a long run has a line for each request."""

    def log(self):
        lines = [line[:400] for line in super().log().split("\n")
                 if not re.search(" info http | request_done | rank_log ", line)]
        return "\n".join(lines[-60:])


class Job:
    """The worker job of a daemon, seen from outside. look() reads what the log has to tell; times are when it was read,
    so it is to be called often."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.log = open(daemon.log_path, encoding="utf-8", errors="replace")
        self.launched = self.deaths = 0
        self.at = {}  # event -> when it was last seen
        self.ready = False
        self.shared = set()  # directories of shared memory that were ever in use
        self.rest = ""
        self.reasons = collections.Counter()
        self.look()

    def look(self):
        text = self.rest + self.log.read()
        if not text:
            return
        text, newline, self.rest = text.rpartition("\n")
        for line in text.split("\n") if newline else ():
            found = EVENT.search(line)
            if not found:
                continue
            self.at[found[1]] = time.monotonic()
            if found[1] == "job_launched":
                self.launched = int(found[2])
            elif found[1] == "job_ready":
                self.ready = True
            elif found[1] == "job_died":
                self.ready = False
                self.deaths += 1
                self.reasons[re.sub(r"\d+", "N", found[3].partition("error=")[2])[:90]] += 1

    def launcher(self):
        """mpirun, or the only rank."""
        found = children(self.daemon.process.pid)
        return found[0] if found else 0

    def ranks(self):
        """In their order; those that have begun."""
        launcher = self.launcher()
        return sorted((pid for pid in children(launcher) if rank_order(pid) >= 0), key=rank_order) or [launcher]

    def remember_shared(self):
        self.shared |= self.daemon.shared_memory()

    def directories(self):
        """Of running jobs; one while a job runs, none afterwards."""
        return os.listdir(self.daemon.jobs)

    def leftovers(self):
        """What is left after the daemon's end, as text; empty if nothing."""
        left = [f"process {pid}" for pid in with_word(self.daemon.jobs)]
        left += [os.path.join(self.daemon.jobs, name) for name in self.directories()]
        return left + [path for path in self.shared if os.path.exists(path)]

    def close(self):
        self.log.close()


def send(pid, number):
    """True if there was such a process. 0 is nobody: to kill() it would be ourselves."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


def anybody(job, draw):
    return draw.choice(job.ranks() + [job.launcher()])


def inject(kind, job, loop, draw):
    """Does what `kind` says to the running job; returns the time of the (first) blow. Later blows of the same fault are
    timers of the loop."""
    ranks, launcher = job.ranks(), job.launcher()
    now = time.monotonic()
    if kind == "rank0":
        send(ranks[0], signal.SIGKILL)
    elif kind == "rank":
        send(draw.choice(ranks[1:] or ranks), signal.SIGKILL)
    elif kind == "mpirun":
        send(launcher, signal.SIGKILL)
    elif kind == "stop":
        send(draw.choice(ranks), signal.SIGSTOP)
    elif kind == "segv":
        send(draw.choice(ranks), signal.SIGSEGV)
    elif kind == "all":
        for pid in ranks:
            send(pid, signal.SIGKILL)
    elif kind == "twice":  # within 50 ms: while the first is being dealt with
        send(draw.choice(ranks), signal.SIGKILL)
        loop.after(0.05, lambda: send(anybody(job, draw), signal.SIGKILL))
    elif kind == "launch":  # the next incarnation is hit while it starts
        send(draw.choice(ranks), signal.SIGKILL)
        launched, delay = job.launched, draw.uniform(0, 0.2)

        def strike():
            if job.launched == launched:
                loop.after(0.002, strike)
            else:
                loop.after(delay, lambda: send(anybody(job, draw), signal.SIGKILL))
        strike()
    elif kind == "deaf":  # mpirun neither notices nor obeys
        send(launcher, signal.SIGSTOP)
        send(draw.choice(ranks), signal.SIGKILL)
    else:
        raise ValueError(kind)
    return now


class Recovery:
    """Watches the clients of a closed loop after a fault. turn() after each turn of the loop, until it says true: the job is
    ready again and every client that had a stream in flight has moved since."""

    def __init__(self, job, clients, kind, began):
        self.job, self.clients, self.kind, self.began = job, clients, kind, began
        self.deaths = job.deaths
        self.waiting = set(clients.streaming())
        self.died = self.launched = self.ready = self.first = self.all = None
        self.left = set(self.waiting)

    def turn(self):
        self.job.look()
        if self.job.deaths == self.deaths or not self.job.ready:
            self.ready = self.first = None
            if self.job.deaths > self.deaths and self.died is None:
                self.died = self.job.at["job_died"]
            return False
        if self.died is None:
            self.died = self.job.at["job_died"]
        if self.ready != self.job.at["job_ready"]:  # a later incarnation: all over again
            self.ready, self.launched, self.first = self.job.at["job_ready"], self.job.at["job_launched"], None
            self.left = set(self.waiting)
        for client in list(self.left):
            moved = self.clients.last_move(client)
            if moved >= self.ready:
                self.first = min(self.first or moved, moved)
                self.left.discard(client)
        if self.left:
            return False
        self.all = max(self.clients.last_move(client) for client in self.waiting) if self.waiting else self.ready
        return True

    def parts(self):
        """Seconds: until the death was told, until ready, until the first token, until all moved; the last two from the
        fault."""
        return {"detected": self.died - self.began, "launch": self.launched - self.died,
                "ready": self.ready - self.launched, "first": (self.first or self.ready) - self.began,
                "all": self.all - self.began}
