#!/usr/bin/env python3
"""moetuner place, from the command line: every subcommand on the bundled model's traces, what it refuses, and how it
ends."""

import glob
import json
import os
import re
import signal
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree

import harness

TOOL = os.path.join(harness.BUILD, "moetuner")
TRACES = os.path.join(harness.ROOT, "tests", "data", "traces")
LAYERS, EXPERTS, TOPK, RANKS = 8, 16, 2, 4
CLUSTER = ("--cluster", f"cpu:{RANKS}")


def start(*words, **options):
    return subprocess.Popen([TOOL, "place", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            **options)


def place(*words):
    """(exit status, stdout, stderr)"""
    with start(*words) as process:
        out, errors = process.communicate(timeout=harness.PATIENCE)
    return process.returncode, out, errors


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text if isinstance(text, str) else json.dumps(text))
    return path


def even(layers=LAYERS, experts=EXPERTS, ranks=RANKS):
    """The contiguous placement, as a file has it."""
    return {"layers": layers, "experts": experts, "ranks": ranks,
            "copies": [[[e * ranks // experts] for e in range(experts)] for _ in range(layers)]}


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as file:
        return [int(word) for word in file.read().split()]


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="place-")
        cls.traces = sorted(glob.glob(os.path.join(TRACES, "*.json")))[:3]
        cls.trace = cls.traces[0]
        methods = place("--help")[1].split("Methods", 1)[1].split("\n\n", 1)[0]
        cls.methods = [line.split()[0] for line in methods.splitlines() if line.startswith("  ")]
        cls.searches = "joint" in cls.methods

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def good(self, *words):
        """What it prints; it must succeed, without a word on standard error."""
        status, out, errors = place(*words)
        self.assertEqual((status, errors), (0, ""), words)
        return out

    def refused(self, expected, *words):
        """It must fail with one line, and print nothing else."""
        status, out, errors = place(*words)
        self.assertEqual((status, out), (2, ""), (words, errors))
        self.assertRegex(errors, expected)
        self.assertTrue(errors.endswith("\n") and errors.count("\n") == 1, errors)
        self.assertTrue(errors.startswith("moetuner place"), errors)

    def solve(self, name, *words):
        """The file of a placement, solved without a search."""
        path = self.path(name)
        self.good("solve", "--trace", self.trace, *CLUSTER, "--method=eplb", "-o", path, *words)
        return path

    def check_plan(self, plan, slots):
        """Every expert has a copy, no rank two of one, none more than its slots."""
        self.assertEqual((plan["layers"], plan["experts"], plan["ranks"]), (LAYERS, EXPERTS, RANKS))
        for layer in plan["copies"]:
            self.assertEqual(len(layer), EXPERTS)
            for copies in layer:
                self.assertTrue(copies and len(set(copies)) == len(copies))
            held = [rank for copies in layer for rank in copies]
            for rank in range(RANKS):
                self.assertLessEqual(held.count(rank), slots)


class Commands(Case):
    def test_help(self):
        out = self.good("--help")
        for command in ("solve", "score", "compare", "diff", "explain", "import", "export", "generate"):
            self.assertIn(f"  {command} ", out)
        for command in ("solve", "score", "compare"):
            out = self.good(command, "--help")
            for term in ("dense", "dispatch", "compute", "combine", "migration"):
                self.assertRegex(out, rf"(?m)^  {term}\s+\w")
        for command in ("diff", "explain", "import", "export", "generate"):
            self.assertIn("Usage: moetuner place " + command, self.good(command, "--help"))
        self.assertEqual(place()[0], 2)

    def test_unknown_words(self):
        self.refused('no command "sovle"; expected solve, score', "sovle")
        self.refused("found the word extra", "diff", "extra")
        self.refused("--speed", "solve", "--speed=9")

    def test_problem(self):
        self.refused("--trace", "solve", *CLUSTER)
        self.refused("trace: expected a file", "solve", "--trace", *CLUSTER)
        self.refused("cluster", "solve", "--trace", self.trace)
        self.refused("nowhere.json", "solve", "--trace", "nowhere.json", *CLUSTER)
        self.refused("h999x9", "solve", "--trace", self.trace, "--cluster=h999x9")
        self.refused("expected one of", "solve", "--trace", self.trace, *CLUSTER, "--method=magic")
        self.refused("documents", "solve", "--trace", self.trace, *CLUSTER, "--documents=3:3")
        self.refused("documents", "solve", "--trace", self.trace, *CLUSTER, "--documents=0:99999")
        self.refused("decode-share", "solve", "--trace", self.trace, *CLUSTER, "--decode-share=1.5")
        self.refused("expected a trace", "solve", "--trace", write(self.path("other.json"), {"a": 1}), *CLUSTER)
        self.refused("line 1", "solve", "--trace", write(self.path("broken.json"), "{"), *CLUSTER)
        loads = {"layers": 1, "experts": 4, "topk": 1, "load": [[1, 1, 1, 1]]}
        self.refused("expected 8 layers", "solve", "--trace", self.trace, write(self.path("small.json"), loads),
                     *CLUSTER)

    def test_model(self):
        loads = write(self.path("strange.json"), {"layers": 3, "experts": 5, "topk": 2, "load": [[1] * 5] * 3})
        self.refused("cpu:4", "solve", "--trace", loads, *CLUSTER, "--method=contiguous")
        out = self.good("solve", "--trace", loads, *CLUSTER, "--method=contiguous", "--model", harness.MODEL)
        self.assertIn("sizes of", out)
        self.refused("config.json", "solve", "--trace", loads, *CLUSTER, "--model", self.folder.name)


class Solve(Case):
    def test_file_and_table(self):
        path = self.path("plan.json")
        out = self.good("solve", "--trace", *self.traces, *CLUSTER, "--method=eplb", "--replicas=1", "-o", path)
        for text in ("contiguous", "this plan", "proven gap", "3 traces"):
            self.assertIn(text, out)
        plan = read(path)
        self.check_plan(plan, EXPERTS // RANKS + 1)
        report = plan["report"]
        self.assertEqual((report["method"], report["replicas"], report["interrupted"]), ("eplb", 1, False))
        self.assertEqual(len(report["problem"]["traces"]), 3)
        self.assertEqual(len(report["scores"]["this plan"]["scenarios"]), 6)
        shares = sum(s["share"] for s in report["scores"]["this plan"]["scenarios"])
        self.assertAlmostEqual(shares, 1)
        self.assertIn("bound" if "gap" in report else "no_bound", report)
        self.assertLess(len(read_bytes(path).splitlines()), 2 * LAYERS + 8)  # one line per layer
        self.assertEqual(json.loads(self.good("solve", "--trace", self.trace, *CLUSTER, "--method=eplb", "--json"))
                         ["method"], "eplb")

    def test_from(self):
        before, after = write(self.path("before.json"), even()), self.path("after.json")
        out = self.good("solve", "--trace", self.trace, *CLUSTER, "--method=eplb", "--replicas=1", "--from", before,
                        "--horizon=1e6", "--output", after)
        self.assertIn("in force", out)
        self.assertIn("migration:", out)
        report = read(after)["report"]
        self.assertGreater(report["copies"], 0)
        self.assertGreater(report["scores"]["this plan"]["migration_seconds"], 0)
        self.assertEqual(report["scores"]["in force"]["migration_seconds"], 0)
        self.refused("layers", "solve", "--trace", self.trace, *CLUSTER, "--method=eplb", "--from",
                     write(self.path("short.json"), even(layers=2)))

    def test_output(self):
        for path in (self.folder.name, os.path.join(self.folder.name, "none", "p.json")):
            self.refused("cannot write|directory", "solve", "--trace", self.trace, *CLUSTER, "--method=eplb", "-o",
                         path)
        path = write(self.path("kept.json"), "mine")
        self.refused("found none", "score", "--trace", self.trace, *CLUSTER)
        self.refused("nowhere", "solve", "--trace", self.trace, *CLUSTER, "-o", path, "--method=eplb", "--from",
                     "nowhere.json")
        self.assertEqual(read_bytes(path), b"mine")
        self.good("solve", "--trace", self.trace, *CLUSTER, "--method=eplb", "-o", "/dev/null")
        self.assertFalse([name for name in os.listdir(self.folder.name) if ".json." in name])

    def test_same_file_twice(self):
        files = [self.path(f"same{i}.json") for i in range(3)]
        for path, seed in zip(files, (7, 7, 8)):
            self.good("solve", "--trace", self.trace, *CLUSTER, "--replicas=1", "--method",
                      "joint" if self.searches else "random", "--iterations=2000", f"--seed={seed}", "-o", path)
        self.assertEqual(read_bytes(files[0]), read_bytes(files[1]))
        self.assertNotEqual(read_bytes(files[0]), read_bytes(files[2]))

    def test_first_tokens_and_documents(self):
        for words, tokens in ((("--fit-first-tokens=128",), 128), (("--documents=0:1", "--fit-first-tokens=9"), 9)):
            out = self.good("solve", "--trace", self.trace, *CLUSTER, "--method=contiguous", "--json", *words)
            self.assertEqual(json.loads(out)["problem"]["traces"][0]["tokens"], tokens)


class Search(Case):
    """What only a search that takes its time can show."""

    def setUp(self):
        if not self.searches:
            self.skipTest("no method joint")

    def begin(self, *words):
        """A search that goes on, and its processes."""
        process = start("solve", "--trace", self.trace, *CLUSTER, "--replicas=2", "--method=joint", "--time-ms=600000",
                        *words)
        self.addCleanup(process.kill)
        harness.wait_until("the search begins", lambda: process.poll() is not None or children(process.pid))
        return process

    def end(self, process, number):
        process.send_signal(number)
        out, errors = process.communicate(timeout=harness.PATIENCE)
        return process.returncode, out, errors

    def test_interrupt(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            path = self.path(f"best{number}.json")
            process = self.begin("--jobs=2", "-o", path)
            status, out, errors = self.end(process, number)
            self.assertEqual((status, errors), (0, ""))
            self.assertEqual(read(path)["report"]["interrupted"], "interrupted" in out)  # or it was faster than that
            self.check_plan(read(path), EXPERTS // RANKS + 2)

    def test_killed_child(self):
        path = self.path("survived.json")
        process = self.begin("--jobs=2", "-o", path)
        harness.wait_until("two processes", lambda: process.poll() is not None or len(children(process.pid)) == 2)
        if process.poll() is None:
            os.kill(children(process.pid)[0], signal.SIGKILL)
            harness.wait_until("it is noticed", lambda: process.poll() is not None or len(children(process.pid)) == 1
                               or self.zombies(process.pid))
        status, _, errors = self.end(process, signal.SIGINT)
        self.assertEqual(status, 0, errors)
        self.check_plan(read(path), EXPERTS // RANKS + 2)
        if errors:
            self.assertRegex(errors, "ended without a plan: seed 0: killed by signal 9")
            self.assertEqual(read(path)["report"]["lost"]["processes"], 1)

    @staticmethod
    def zombies(pid):
        return [child for child in children(pid) if not harness.alive(child)]

    def test_all_killed(self):
        path = self.path("lost.json")
        process = self.begin("--jobs=1", "-o", path)
        for child in children(process.pid):
            os.kill(child, signal.SIGKILL)
        _, errors = process.communicate(timeout=harness.PATIENCE)
        if process.returncode:
            self.assertEqual(process.returncode, 2)
            self.assertRegex(errors, "killed by signal 9")
            self.assertFalse(os.path.exists(path))

    def test_killed_parent(self):
        process = self.begin("--jobs=2")
        solvers = children(process.pid)
        process.kill()
        process.communicate(timeout=harness.PATIENCE)
        harness.wait_until("its processes end", lambda: not any(harness.alive(solver) for solver in solvers))

    def test_interrupted_comparison(self):
        process = start("compare", "--trace", self.trace, *CLUSTER, "--methods=joint", "--time-ms=600000")
        self.addCleanup(process.kill)
        harness.wait_until("the search begins", lambda: process.poll() is not None or children(process.pid))
        status, out, errors = self.end(process, signal.SIGINT)
        if status:  # or it was faster than that
            self.assertEqual((status, out, errors), (2, "", "moetuner place compare: interrupted\n"))

    def test_time(self):
        took = harness.wait_until("done", lambda: self.good(
            "solve", "--trace", self.trace, *CLUSTER, "--method=joint", "--replicas=2", "--time-ms=200"))
        self.assertLess(took, 60)

    def test_curve(self):
        curve = self.path("curve.csv")
        out = self.good("solve", "--trace", self.trace, *CLUSTER, "--method=joint", "--time-ms=1000", "--curve", curve,
                        "--json")
        lines = read_bytes(curve).decode().splitlines()
        self.assertEqual(lines[0], "seconds,objective,bound,iterations")
        self.assertAlmostEqual(float(lines[-1].split(",")[1]) / json.loads(out)["objective"], 1, delta=1e-6)

    def test_never_worse_than_contiguous(self):
        out = self.good("solve", "--trace", self.trace, *CLUSTER, "--method=joint", "--iterations=2000", "--json")
        scores = json.loads(out)["scores"]
        self.assertLessEqual(scores["this plan"]["j"], scores["contiguous"]["j"] * (1 + 1e-9))


class Score(Case):
    def test_both_evaluations(self):
        plan = self.solve("scored.json", "--replicas=2")
        words = ("score", "--trace", *self.traces, *CLUSTER, "--placement", plan)
        out = self.good(*words)
        for text in ("fluid", "sampled", "busiest port", "J = "):
            self.assertIn(text, out)
        found = json.loads(self.good(*words, "--json"))
        self.assertEqual(found["problem"]["slots"], EXPERTS // RANKS + 2)  # as many as the placement needs
        for how in ("fluid", "sampled"):
            self.assertEqual(len(found[how]["scenarios"]), 6)
            for scenario in found[how]["scenarios"]:
                self.assertAlmostEqual(sum(scenario["terms"].values()), scenario["step_seconds"],
                                       delta=1e-6 * scenario["step_seconds"])
        mean = sum(s["share"] * s["step_seconds"] / s["tokens"] for s in found["fluid"]["scenarios"])
        self.assertAlmostEqual(mean / found["fluid"]["tokens_seconds"], 1, delta=1e-6)

    def test_migration(self):
        plan, before = self.solve("moved.json"), write(self.path("even.json"), even())
        words = ("score", "--trace", self.trace, *CLUSTER, "--placement", plan, "--json", "--from", before)
        free, paid = (json.loads(self.good(*words, "--horizon", horizon))["fluid"] for horizon in ("0", "1000"))
        self.assertEqual(free["j"], free["tokens_seconds"])
        self.assertAlmostEqual(paid["j"], paid["tokens_seconds"] + paid["migration_seconds"] / 1000, delta=1e-12)

    def test_refused(self):
        for name, plan, text in (("layers", even(layers=3), "layers"), ("ranks", even(ranks=2), "ranks"),
                                 ("none", {"layers": 1}, "experts"), ("text", "{]", "line 1")):
            self.refused(text, "score", "--trace", self.trace, *CLUSTER, "--placement",
                         write(self.path(f"bad-{name}.json"), plan))


class Compare(Case):
    def test_table_json_chart(self):
        chart = self.path("chart.svg")
        words = ("compare", "--trace", *self.traces, *CLUSTER, "--methods=contiguous,random,eplb", "--spares=0,2")
        out = self.good(*words, "--svg", chart)
        self.assertEqual(out.count("contiguous, the 1 of"), 2)
        self.assertRegex(out, r"(?m)^\* \w+")
        self.assertEqual(out.count("best: "), 2)
        root = xml.etree.ElementTree.parse(chart).getroot()
        texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
        for text in ("contiguous", "eplb", "dispatch", "microseconds a token", "2 spare slots a rank and layer"):
            self.assertIn(text, texts)
        tables = json.loads(self.good(*words, "--json"))["tables"]
        self.assertEqual([table["spare"] for table in tables], [0, 2])
        for table in tables:
            rows = {row["method"]: row for row in table["rows"]}
            self.assertEqual(rows["contiguous"]["relative"], 1)
            self.assertEqual(table["evaluation"], "sampled")
            best = min(rows.values(), key=lambda row: row["relative"])
            self.assertEqual(rows[table["best"]]["relative"], best["relative"])

    def test_every_method(self):
        out = self.good("compare", "--trace", self.trace, *CLUSTER, "--time-ms=300")
        for method in self.methods:
            self.assertRegex(out, rf"(?m)^[* ] {method} ")

    def test_other_traces(self):
        out = self.good("compare", "--trace", self.traces[0], "--test", self.traces[1], *CLUSTER, "--methods=eplb",
                        "--fit-first-tokens=256", "--json")
        found = json.loads(out)
        self.assertEqual(found["problem"]["traces"][0]["tokens"], 256)
        self.assertEqual(found["scored"], "fitted on --trace, scored on --test")

    def test_loads_alone(self):
        loads = {"layers": LAYERS, "experts": EXPERTS, "topk": TOPK,
                 "load": [[1 + (e * 7 + l) % 5 for e in range(EXPERTS)] for l in range(LAYERS)]}
        words = ("--trace", write(self.path("loads.json"), loads), *CLUSTER)
        out = self.good("compare", *words, "--methods=contiguous,eplb", "--spares=1")
        self.assertIn("traffic is not priced", out)
        self.refused("weight", "solve", *words, "--weight=tokens")
        self.assertIn("only compute time", out)
        plan = self.path("of-loads.json")
        self.good("solve", *words, "--method=eplb", "-o", plan)
        found = json.loads(self.good("score", *words, "--placement", plan, "--json"))
        self.assertNotIn("sampled", found)
        self.assertEqual(found["fluid"]["terms"]["dispatch"], 0)
        self.assertIn("traffic is not known", self.good("explain", *words, "--placement", plan))

    def test_refused(self):
        words = ("compare", "--trace", self.trace, *CLUSTER)
        self.refused("spares", *words, "--spares=1,,2")
        self.refused("expected one of", *words, "--methods=eplb,")
        self.refused("cannot write", *words, "--methods=eplb", "--svg", self.path("none/x.svg"))


class Diff(Case):
    def apply(self, plan, moves, slots):
        """The placement after the moves, each of which must be possible."""
        held = [[set(copies) for copies in layer] for layer in plan["copies"]]
        for move in moves:
            copies = held[move["layer"]][move["expert"]]
            if move["move"] == "drop":
                copies.remove(move["rank"])
            else:
                self.assertIn(move["from"], copies)
                self.assertNotIn(move["to"], copies)
                copies.add(move["to"])
                self.assertLessEqual(sum(move["to"] in other for other in held[move["layer"]]), slots)
            self.assertTrue(copies)
        return held

    def test_moves_lead_there(self):
        before, after = write(self.path("a.json"), even()), self.solve("b.json", "--replicas=1")
        words = ("diff", "--from", before, "--to", after, *CLUSTER, "--replicas=2")
        found = json.loads(self.good(*words, "--json"))
        held = self.apply(even(), found["moves"], EXPERTS // RANKS + 2)
        self.assertEqual(held, [[set(copies) for copies in layer] for layer in read(after)["copies"]])
        self.assertEqual(found["copies"], sum(move["move"] == "copy" for move in found["moves"]))
        out = self.good(*words)
        self.assertEqual(out.count(": copy expert"), found["copies"])
        self.assertIn("copies", out)
        nothing = json.loads(self.good("diff", "--from", after, "--to", after, *CLUSTER, "--json"))
        self.assertEqual((nothing["moves"], nothing["seconds"]), ([], 0))

    def test_refused(self):
        before = write(self.path("c.json"), even())
        self.refused("layers", "diff", "--from", before, "--to", write(self.path("d.json"), even(layers=7)), *CLUSTER)
        self.refused("--to", "diff", "--from", before, *CLUSTER)
        self.refused("ranks", "diff", "--from", before, "--to", before, "--cluster=cpu:8")


class Foreign(Case):
    def test_placement_there_and_back(self):
        plan = self.solve("ours.json", "--replicas=1")
        for form, dense in (("sglang", 0), ("sglang", 3), ("trtllm", 0)):
            theirs, back = self.path(f"theirs.{form}"), self.path("back.json")
            out = self.good("export", "--format", form, "--placement", plan, "--trace", self.trace, "-o", theirs,
                            f"--dense={dense}")
            self.assertIn("slots a rank", out)
            self.good("import", "--format", form, "--what=placement", "--input", theirs, f"--ranks={RANKS}",
                      f"--dense={dense}", "-o", back)
            self.assertEqual([[sorted(copies) for copies in layer] for layer in read(back)["copies"]],
                             [[sorted(copies) for copies in layer] for layer in read(plan)["copies"]])
        self.assertEqual(list(read(self.path("theirs.sglang"))), ["physical_to_logical_map"])

    def test_counts(self):
        counts = {"logical_count": [[0] * EXPERTS] + [[3 * e + l + 1 for e in range(EXPERTS)] for l in range(LAYERS)]}
        theirs, loads = write(self.path("counts.json"), counts), self.path("imported.json")
        self.assertIn("1 dense", self.good("import", "--format=sglang", "--input", theirs, "--topk=2", "-o", loads))
        found = read(loads)
        self.assertEqual((found["layers"], found["experts"], found["topk"]), (LAYERS, EXPERTS, TOPK))
        self.assertAlmostEqual(sum(found["load"][0]), TOPK)
        self.good("solve", "--trace", loads, *CLUSTER, "--method=eplb")
        self.refused("place import", "solve", "--trace", theirs, *CLUSTER)

    def test_refused(self):
        self.refused("--topk", "import", "--input", self.trace, "-o", self.path("x"))
        self.refused("expected", "import", "--input", self.trace, "--topk=2", "-o", self.path("x"))
        self.refused("--input", "import", "-o", self.path("x"))
        self.refused("meta_info", "import", "--format=trtllm", "--input", self.folder.name, "-o", self.path("x"))
        self.refused("--placement", "export", "-o", self.path("x"))
        self.refused("sglang | trtllm", "export", "--format=vllm")
        self.assertFalse(os.path.exists(self.path("x")))


class Generate(Case):
    def test_trace(self):
        words = ("generate", "--layers=3", "--experts=12", "--topk=3", "--tokens=1500", "--documents=9")
        paths = [self.path(f"made{i}.json") for i in range(3)]
        for path, seed in zip(paths, (1, 1, 2)):
            self.assertIn("1500 tokens in 9 documents", self.good(*words, f"--seed={seed}", "-o", path))
        head = read(paths[0])
        self.assertEqual((head["layers"], head["experts"], head["topk"], sum(head["documents"])), (3, 12, 3, 1500))
        ids = [read_bytes(path.replace(".json", ".u8")) for path in paths]
        self.assertEqual((len(ids[0]), ids[0] == ids[1], ids[0] == ids[2]), (1500 * 3 * 3, True, False))
        self.good("compare", "--trace", *paths, *CLUSTER, "--model", harness.MODEL, "--methods=eplb,random")
        self.good(*words, "--stay=0", "--words=5", "-o", paths[2])

    def test_refused(self):
        path = self.path("unmade.json")
        self.refused("--layers", "generate", "-o", path)
        self.refused("topk", "generate", "--layers=1", "--experts=2", "--topk=3", "-o", path)
        self.refused("documents", "generate", "--layers=1", "--experts=2", "--topk=1", "--tokens=3", "--documents=4",
                     "-o", path)
        self.refused("--output", "generate", "--layers=1", "--experts=2", "--topk=1")
        self.refused("none", "generate", "--layers=1", "--experts=2", "--topk=1", "-o", self.path("none/x.json"))
        self.assertFalse(os.path.exists(path))


class Explain(Case):
    def test_picture(self):
        plan = self.solve("drawn.json", "--replicas=1")
        words = ("explain", "--placement", plan, "--trace", self.trace)
        out = self.good(*words, "--layer=3")
        self.assertEqual(len(re.findall(r"(?m)^  rank +\d+ .* of the mean, \d+ copies$", out)), RANKS)
        self.assertIn("\u2588", out)
        self.assertNotIn("\033", out)  # not a terminal: no colours
        out = self.good(*words, "--cluster", f"cpu:{RANKS}")
        self.assertIn("all layers together", out)
        for layer in range(LAYERS):
            self.assertRegex(out, rf"(?m)^ +{layer} +\d\.\d+ ")
        self.refused("layer", *words, f"--layer={LAYERS}")
        self.refused("layers", "explain", "--trace", self.trace, "--placement",
                     write(self.path("other-shape.json"), even(layers=5)))


if __name__ == "__main__":
    harness.main()
