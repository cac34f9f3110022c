"""Runs the commands of place_tables.py, some at once, and keeps their answers."""

import concurrent.futures
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import namedtuple

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# key: names the answer's file; command: without the program.
Task = namedtuple("Task", "key command program kind", defaults=("moetuner", "json"))


class Runner:
    """Runs commands, some at once. What fails is listed, and missing in the tables."""

    def __init__(self, options, out):
        self.failed, self.done, self.total, self.reuse = [], 0, 0, options.reuse
        self.parallel, self.out = options.parallel, out
        self.programs = {"moetuner": options.moetuner, "drift": options.drift}
        self.digests = {name: digest(path) for name, path in self.programs.items()}

    def answer(self, task):
        path = os.path.join(self.out, task.key + ".json")
        same = {"command": task.command, "program": self.digests[task.program]}
        if self.reuse and os.path.exists(path):
            kept = read_json(path)
            if same.items() <= kept.items():
                return kept
        began = time.monotonic()
        ran = subprocess.run([self.programs[task.program], *task.command], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, check=False, text=True, cwd=ROOT)
        if ran.returncode:
            return {"failed": ran.stderr.strip()[-300:] or f"exit status {ran.returncode}"}
        kept = {**same, "wall_s": time.monotonic() - began,
                "result": json.loads(ran.stdout) if task.kind == "json" else ran.stdout}
        write(path, json.dumps(kept, indent=1) + "\n")
        return kept

    def one(self, task):
        try:
            found = self.answer(task)
        except (OSError, ValueError) as error:
            found = {"failed": str(error)}
        self.done += 1
        if "failed" in found:
            self.failed.append(f"{task.key}: {found['failed']}")
        if sys.stderr.isatty():
            print(f"\r{self.done} of {self.total}: {task.key}\033[K", end="", file=sys.stderr)
        return found.get("result")

    def run(self, tasks):
        """The answers, by key; None where it failed."""
        tasks = list(tasks)
        self.done, self.total = 0, len(tasks)
        with concurrent.futures.ThreadPoolExecutor(self.parallel) as pool:
            found = dict(zip([task.key for task in tasks], pool.map(self.one, tasks)))
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        return found


def digest(path):
    if not os.path.exists(path):
        return None
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def read_json(path):
    with open(path, encoding="utf8") as file:
        return json.load(file)


def write(path, content):
    with open(path + ".new", "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    os.replace(path + ".new", path)


def machine():
    """Where the figures come from, in words."""
    names = []
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file
                     if line.startswith("model name")]
    try:
        commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], check=False,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                text=True).stdout.strip()
    except OSError:
        commit = ""
    return (f"{os.cpu_count()} cores of {names[0] if names else 'an unknown processor'}, "
            f"commit {commit or 'unknown'}, load average {os.getloadavg()[0]:.1f} when it began")
