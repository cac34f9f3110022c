#!/usr/bin/env python3
"""The tables of placement: what each method's plans are worth, and what ours takes.

    tests/bench/place_tables.py [compare] [study] [v3] [time] [drift] [--moetuner build/moetuner]
        [--traces DIR] [--time-ms MS] [--parallel N] [--jobs N] [--seeds N] [--reuse] [--quick]

    compare  every method, fitted on the first half of the documents and scored on the second
             (sampled steps): three models, 4 to 16 ranks, fast and slow networks, spare slots, two
             mixes
    study    load and traffic alone, T = busiest rank's tokens + rho x busiest port's vectors
             (fluid), beside what prototypes reached and what was asked for
    v3       DeepSeek-V3, of which there are loads alone: max / mean load, fitted on one or two
             workloads, scored on all five
    time     how good a plan is after how long, and what is proven by then
    drift    bench_drift, if it was built

All of them by default. The bundled model's traces are in tests/data/traces; those of other models
are not in the repository: DIR has deepseek-v2-lite, mixtral-8x7b and deepseek-v3-counts, and what
is absent is skipped. N programs run at once, each of --jobs processes: no more than there are
cores, or times mean little. Prints Markdown; keeps it, the charts and every answer as JSON in
build/bench/place. --reuse takes the same program's answers to the same commands from there, so that
a run that was cut off goes on. --quick shows that it works, with figures that say nothing."""

import argparse
import glob
import json
import os
import statistics
import sys
import time
from collections import namedtuple

import place_run
import plot
from place_run import ROOT, Task, read_json, write

BUILD = os.environ.get("B", os.path.join(ROOT, "build"))
OUT = os.path.join(BUILD, "bench", "place")
CLUSTERS = os.path.join(ROOT, "tests", "bench", "clusters")
TINY = os.path.join(ROOT, "tests", "data", "traces")

TIE = 1e-4  # of J
EPLB = ("eplb", "eplb-global")
MOETUNER = ("moetuner", "moetuner-max", "moetuner-free")
SECTIONS = ("compare", "study", "v3", "time", "drift")


# --- what sections share ------------------------------------------------------------------------


def cluster(name):
    """A file's path, or the preset's name."""
    path = os.path.join(CLUSTERS, name + ".json")
    return os.path.relpath(path, ROOT) if os.path.exists(path) else name


def traces_of(options, model):
    """Its trace files, as the command line has them; none if they are absent."""
    folder = TINY if model == "tiny" else os.path.join(options.traces, model)
    return sorted(glob.glob(os.path.join(glob.escape(folder), "*.json")))


def header(*names):
    return [f"| {' | '.join(names)} |", "|" + "-|" * len(names)]


def row(*cells):
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def absent(options, models):
    """A line for each model without traces, once, and a blank one."""
    lines = [f"- Skipped: no traces of {model} (`--traces DIR`)."
             for model in dict.fromkeys(models) if not traces_of(options, model)]
    return lines + [""] if lines else []


def by_method(table):
    return {one["method"]: one for one in table["rows"]}


def least(methods, names, kind="sampled"):
    return min((methods[name] for name in names if name in methods), default=None,
               key=lambda one: one[kind]["j"])


def gap_of(one):
    """Proven, as `solve` has it; None if there is no bound."""
    return one["objective"] / one["bound"] - 1 if one.get("bound") else None


def per_cent(value, digits=2):
    return "-" if value is None else f"{100 * value:.{digits}f} %"


# --- compare -----------------------------------------------------------------------------------

# Model, its name here, ranks, fast network, slow network.
SHAPES = [
    ("deepseek-v2-lite", "DeepSeek-V2-Lite", 4, ["h200x4", "nic:4"]),
    ("deepseek-v2-lite", "DeepSeek-V2-Lite", 8, ["h200x8", "nic:8", "h200x4x2", "h200x4x2-slow"]),
    ("deepseek-v2-lite", "DeepSeek-V2-Lite", 16,
     ["h200x16", "nic:16", "h200x8x2", "h200x8x2-slow"]),
    ("tiny", "bundled", 4, ["cpu:4", "ethernet:4"]),
    ("tiny", "bundled", 8, ["cpu:8", "ethernet:8"]),
    ("mixtral-8x7b", "Mixtral-8x7B", 4, ["h200x4", "nic:4"]),
    ("mixtral-8x7b", "Mixtral-8x7B", 8, ["h200x8", "nic:8"]),
]
MIXES = [("half decode", "0.5"), ("prefill", "0")]
Cell = namedtuple("Cell", "model name ranks network mix share spare")


def compare_cells(options):
    spares, mixes = options.spares, MIXES
    if options.quick:
        spares, mixes = spares[:2], mixes[:1]
    return [Cell(model, name, ranks, network, mix, share, spare)
            for model, name, ranks, networks in SHAPES if traces_of(options, model)
            for network in networks for mix, share in mixes for spare in spares]


def compare_key(cell, seed):
    network = cell.network.replace(":", "")
    return f"compare-{cell.model}-{network}-{cell.mix.split()[0]}-{cell.spare}-{seed}"


def compare_task(options, cell, seed):
    return Task(compare_key(cell, seed),
                ["place", "compare", "--json", "--trace", *traces_of(options, cell.model),
                 "--cluster", cluster(cell.network), "--decode-share", cell.share,
                 "--spares", str(cell.spare), "--time-ms", str(options.time_ms),
                 "--jobs", str(options.jobs), "--seed", str(seed * 1000)])


def judge(table):
    """What a row of the table says."""
    methods = by_method(table)
    ours = methods["joint"]
    base = methods["contiguous"]["sampled"]["j"]
    best = least(methods, [name for name in methods if name != "joint"])
    score = ours["sampled"]
    relative = {name: one["sampled"]["j"] / base if one else None
                for name, one in (("ours", ours), ("best", best), ("eplb", least(methods, EPLB)),
                                  ("moetuner", least(methods, MOETUNER)))}
    margin = best["sampled"]["j"] / score["j"] - 1
    verdict = "tied" if abs(margin) <= TIE else "first" if margin > 0 else "behind"
    return {**relative, "best_name": best["method"], "margin": margin, "verdict": verdict,
            "load": score["load"], "S": score["ranks"], "R": score["remote"], "gap": gap_of(ours)}


def compare_row(cell, seeds):
    """seeds: one judgement each; the table has the one of the median margin."""
    middle = sorted(seeds, key=lambda one: one["margin"])[(len(seeds) - 1) // 2]
    margins = [one["margin"] for one in seeds]
    spread = f" ({100 * min(margins):.2f} to {100 * max(margins):.2f})" if len(seeds) > 1 else ""
    cells = ["-" if middle[name] is None else f"{middle[name]:.4f}"
             for name in ("best", "eplb", "moetuner")]
    return middle, row(
        f"{cell.name}, {cell.ranks} ranks", cell.network, cell.mix, cell.spare,
        f"{middle['ours']:.4f}", f"{middle['best_name']} {cells[0]}",
        f"{100 * middle['margin']:.2f}{spread}", f"{middle['load']:.3f}", f"{middle['S']:.2f}",
        f"{middle['R']:.2f}", cells[1], cells[2], per_cent(middle["gap"]))


def compare_verdicts(found, seeds):
    count = {name: sum(one["verdict"] == name for one, _ in found)
             for name in ("first", "tied", "behind")}
    lines = ["", f"Of {len(found)} rows ours is first in {count['first']}, tied (within "
                 f"{100 * TIE:g} %) in {count['tied']}, behind in {count['behind']}."]
    margins = [one["margin"] for one, _ in found if one["verdict"] == "first"]
    if margins:
        lines.append(f"Margin where it is first: median {100 * statistics.median(margins):.2f} %, "
                     f"least {100 * min(margins):.3f} %, most {100 * max(margins):.2f} %.")
    for one, cell in found:
        worst = min(one["margins"])
        if one["verdict"] == "behind" or worst < -TIE:
            lines.append(f"- {'behind' if one['verdict'] == 'behind' else 'behind with a seed'}: "
                         f"{cell.name}, {cell.ranks} ranks, {cell.network}, {cell.mix}, "
                         f"{cell.spare} spare: {100 * one['margin']:.3f} % to {one['best_name']}"
                         + (f", worst seed {100 * worst:.3f} %" if seeds > 1 else ""))
    return lines


def compare(options, runner):
    cells = compare_cells(options)
    answers = runner.run(compare_task(options, cell, seed)
                         for cell in cells for seed in range(options.seeds))
    lines = ["## Every method on held-out text", "",
             "Fitted on the first half of the documents, scored on the second, sampled; "
             f"{options.time_ms} ms a method and row, {options.jobs} processes (seeds) each; of "
             f"{options.seeds} such runs the one of the median margin. J relative to contiguous. "
             "Margin: what the best other method takes more than ours, in per cent. "
             "EPLB: the better of hierarchical and global; MoETuner: the best of its three forms. "
             "Gap: proven, of the fluid J on what was fitted.", "",
             "Networks: h200xN one node; nic:N a node for each GPU, 400 Gb/s; -slow two nodes with "
             "25 Gb/s each; cpu:N shared memory; ethernet:N a node for each GPU, 25 Gb/s.", ""]
    lines += absent(options, [shape[0] for shape in SHAPES])
    lines += header("shape", "network", "mix", "spare", "ours", "best other", "margin, %", "load",
                    "\\|S\\|", "R", "EPLB", "MoETuner", "gap")
    found = []
    for cell in cells:
        seeds = [answers[compare_key(cell, seed)] for seed in range(options.seeds)]
        seeds = [judge(one["tables"][0]) for one in seeds if one]
        if not seeds:
            continue
        middle, line = compare_row(cell, seeds)
        found.append(({**middle, "margins": [one["margin"] for one in seeds]}, cell))
        lines.append(line)
    return lines + compare_verdicts(found, options.seeds)


# --- study -------------------------------------------------------------------------------------

RHOS = ("0.63", "2", "4")
# Asked: L and D (or R) of one plan; T by rho. mean: T is of mean traffic. Reached: by prototypes.
Ask = namedtuple("Ask", "model ranks spare homes reached limits times mean", defaults=(False,))
ASKS = [
    Ask("deepseek-v2-lite", 4, 0, "load", "L 1.043 D 2.671; T .951 - .888",
        {"load": 1.045, "ranks": 2.60}, {"0.63": 0.94, "4": 0.87}),
    Ask("deepseek-v2-lite", 8, 0, "load",
        "L 1.082 D 3.773 / L 1.096 D 3.638; T .917 .876 .843",
        {"load": 1.075, "ranks": 3.65}, {"0.63": 0.91, "2": 0.865, "4": 0.83}),
    Ask("deepseek-v2-lite", 16, 0, "load", "L 1.161 D 4.530; T .917 - .878",
        {"load": 1.15, "ranks": 4.45}, {"0.63": 0.905, "4": 0.855}),
    Ask("deepseek-v2-lite", 8, 2, "load", "T mean .945 .858 .777", {}, {"4": 0.76}, True),
    Ask("deepseek-v2-lite", 8, 4, "load", "T mean .917 .830 .731", {}, {"4": 0.71}, True),
    Ask("tiny", 4, 0, "load", "L 1.046 D 1.601; T .845 .823 .806", {}, {}),
    Ask("tiny", 8, 0, "load", "L 1.165 D 1.841; T .890 - .877", {}, {}),
    Ask("tiny", 4, 0, "affinity", "L 1.041 R 1.020", {"load": 1.045, "remote": 1.00}, {}),
    Ask("tiny", 8, 0, "affinity", "L 1.172 R 1.385", {"load": 1.17, "remote": 1.37}, {}),
]
SYMBOLS = {"load": "L", "ranks": "D", "remote": "R"}


def pool_tiny(options):
    """The bundled model's domains as one trace: the first halves to fit, the second to score."""
    parts = {"fit": ([], bytearray()), "test": ([], bytearray())}
    for path in traces_of(options, "tiny"):
        head = read_json(path)
        with open(path[:-5] + ".u8", "rb") as file:
            ids = file.read()
        size = head["layers"] * head["topk"]
        half = (len(head["documents"]) + 1) // 2  # the prototypes' halves
        cut = sum(head["documents"][:half]) * size
        for name, documents, piece in (("fit", head["documents"][:half], ids[:cut]),
                                       ("test", head["documents"][half:], ids[cut:])):
            parts[name][0].extend(documents)
            parts[name][1].extend(piece)
    for name, (documents, ids) in parts.items():
        path = os.path.join(OUT, "tiny-" + name)
        write(path + ".u8", bytes(ids))
        write(path + ".json", json.dumps({**head, "domain": name, "tokens": sum(documents),
                                          "documents": documents}) + "\n")
    return [os.path.join(OUT, f"tiny-{name}.json") for name in parts]


def study_key(ask, rho):
    return f"study-{ask.model}-{ask.ranks}-{ask.spare}-{ask.homes}-{rho}"


def study_task(options, ask, rho):
    if ask.model == "tiny":
        fit, test = (os.path.join(OUT, f"tiny-{name}.json") for name in ("fit", "test"))
        text = ["--trace", fit, "--test", test]
    else:
        text = ["--trace", *traces_of(options, ask.model)]
    # Homes follow from the prompts; what is decoded after them is what can gain.
    homes = (["--homes", "affinity", "--prompt-tokens", "32", "--decode-share", "1"]
             if ask.homes == "affinity" else ["--decode-share", "0"])
    return Task(study_key(ask, rho),
                ["place", "compare", "--json", *text, "--cluster",
                 cluster(f"rho-{rho}-{ask.ranks}"), *homes, "--spares", str(ask.spare),
                 "--time-ms", str(options.time_ms), "--jobs", str(options.jobs),
                 "--methods", "joint,contiguous,eplb,eplb-global"])


def mean_time(score, topk, rho):
    """T with the mean instead of the busiest port, in token-experts of a layer, times ranks."""
    return score["load"] * topk + float(rho) * score["remote"]


def study_figures(answer, rho):
    methods, topk = by_method(answer["tables"][0]), answer["problem"]["topk"]
    base, ours = methods["contiguous"]["fluid"], methods["joint"]["fluid"]
    scores = {"ours": ours, "eplb": least(methods, EPLB, "fluid")["fluid"]}
    found = {name: ours[name] for name in SYMBOLS}
    for name, score in scores.items():
        found[name] = score["j"] / base["j"]
        found[name + "_mean"] = mean_time(score, topk, rho) / mean_time(base, topk, rho)
    return found


def study_asks(ask, figures):
    """What was asked, and whether it is met, as lines. figures: of each rho."""
    where = f"{ask.model}, {ask.ranks} ranks, {ask.spare} spare, homes by {ask.homes}"
    lines = []
    if ask.limits and figures:
        rho, best = min(figures.items(), key=lambda item: max(
            item[1][name] / limit for name, limit in ask.limits.items()))
        met = all(best[name] <= limit for name, limit in ask.limits.items())
        asked = " and ".join(f"{SYMBOLS[name]} <= {x:g}" for name, x in ask.limits.items())
        found = " ".join(f"{SYMBOLS[name]} {best[name]:.3f}" for name in ask.limits)
        lines.append(row(where, asked, f"{found} (rho {rho})", "met" if met else "not met"))
    for rho, limit in ask.times.items():
        if rho in figures:
            value = figures[rho]["ours_mean" if ask.mean else "ours"]
            lines.append(row(where, f"T({rho}){' mean' if ask.mean else ''} <= {limit:g}",
                             f"{value:.3f}", "met" if value <= limit else "not met"))
    if ask.mean and figures:
        behind = [rho for rho, one in figures.items() if one["ours"] > one["eplb"] * (1 + TIE)]
        lines.append(row(where, "never behind EPLB", f"behind at {', '.join(behind) or 'none'}",
                         "not met" if behind else "met"))
    return lines


def study(options, runner):
    asks = [ask for ask in ASKS if traces_of(options, ask.model)]
    pool_tiny(options)
    answers = runner.run(study_task(options, ask, rho) for ask in asks for rho in RHOS)
    lines = ["## Load and traffic alone", "",
             "Held-out text, fluid. L: max / mean load; D: a token's distinct ranks in a layer; R: "
             "without its home. T: relative to contiguous, with the busiest port; T mean: with the "
             "mean of all ranks. rho: a vector's way there and back, in times of a token at an "
             "expert. The bundled model's domains are pooled here; with homes by affinity, prompts "
             "have 32 tokens, and what follows them is scored. EPLB's copies are chosen as ours "
             "are, the nearest first.", ""]
    lines += absent(options, [ask.model for ask in ASKS])
    lines += header("model", "ranks", "spare", "homes", "rho", "L", "D", "R", "T", "T mean",
                    "EPLB T", "EPLB T mean", "prototypes reached")
    verdicts = []
    for ask in asks:
        found = {rho: answers[study_key(ask, rho)] for rho in RHOS}
        figures = {rho: study_figures(one, rho) for rho, one in found.items() if one}
        for rho, one in figures.items():
            lines.append(row(
                ask.model, ask.ranks, ask.spare, ask.homes, rho,
                *(f"{one[name]:.3f}" for name in ("load", "ranks", "remote", "ours", "ours_mean",
                                                  "eplb", "eplb_mean")), ask.reached))
        verdicts += study_asks(ask, figures)
    return lines + ["", *header("shape", "asked", "found", ""), *verdicts]


# --- v3 ----------------------------------------------------------------------------------------

V3 = ["prefill_in1024", "prefill_in4096", "decode_in1000out1000", "decode_in500out1500",
      "decode_in1800out100"]
V3_FITS = {"p1024": V3[:1], "p1024 + d1000": [V3[0], V3[2]]}
V3_METHODS = ("joint", "eplb", "eplb-global")


def v3_loads(name):
    return os.path.join(OUT, f"v3-{name}-loads.json")


def v3_key(fit, ranks, spare, priced):
    return f"v3-{fit.replace(' ', '')}-{ranks}-{spare}{'-priced' if priced else ''}"


def v3_task(options, fit, ranks, spare, priced):
    network = f"h200x{ranks // 8}x8" if priced else f"load-{ranks // 8}x8"
    return Task(v3_key(fit, ranks, spare, priced),
                ["place", "compare", "--json", "--trace", *map(v3_loads, V3_FITS[fit]), "--test",
                 *map(v3_loads, V3), "--cluster", cluster(network), "--spares", str(spare),
                 "--decode-share", "0.5" if priced else "0", "--time-ms", str(options.time_ms),
                 "--jobs", str(options.jobs), "--methods", ",".join(V3_METHODS + ("contiguous",))])


def v3_columns(one):
    """Load of each workload, in the order of V3."""
    return [s["load"] for s in one["fluid"]["scenarios"] if s["phase"] == "prefill"]


def v3_lines(fit, ranks, spare, answer):
    methods = by_method(answer["tables"][0])
    known = [V3.index(name) for name in V3_FITS[fit]]
    columns = {name: v3_columns(methods[name]) for name in V3_METHODS}
    inside = {name: statistics.mean(c[i] for i in known) for name, c in columns.items()}
    lines = []
    for name in V3_METHODS:
        cells = [f"**{x:.3f}**" if i in known else f"{x:.3f}" for i, x in enumerate(columns[name])]
        gap = gap_of(methods[name])
        # J of this cluster is the load, so that its bound is one of the load.
        bound = "-" if gap is None else f"{inside[name] / (1 + gap):.3f} ({per_cent(gap)})"
        lines.append(row(ranks, spare, fit, name, f"{inside[name]:.4f}", bound, *cells))
    worse = []
    for i, where in enumerate(["in-sample", *V3]):
        mine, *theirs = ([inside[name], *columns[name]][i] for name in V3_METHODS)
        if mine > min(theirs) * (1 + TIE):
            worse.append(f"{where} by {per_cent(mine / min(theirs) - 1)}")
    text = f"- {ranks} ranks, {spare} spare, fitted on {fit}: {', '.join(worse)}"
    return lines, [text] if worse else []


def v3(options, runner):
    folder = os.path.join(options.traces, "deepseek-v3-counts")
    title = ["## DeepSeek-V3: loads alone", ""]
    if absent(options, ["deepseek-v3-counts"]):
        return title + absent(options, ["deepseek-v3-counts"])
    runner.run(Task(f"v3-import-{name}",
                    ["place", "import", "--format", "sglang", "--input",
                     os.path.join(folder, name + ".json"), "--topk", "8", "-o", v3_loads(name)],
                    kind="text") for name in V3)
    grid = [(fit, ranks, spare) for ranks in (32, 64) for spare in (0, 1, 2) for fit in V3_FITS]
    answers = runner.run(v3_task(options, *cell, priced) for priced in (False, True)
                         for cell in grid)
    lines = title + [
        "58 layers of 256 experts, 8 nodes, top-8; mean over layers of max / mean load over ranks. "
        "Bold: what the plan was fitted on. Bound: of the in-sample load, by ours (no plan is "
        "below 1).", ""]
    lines += header("ranks", "spare", "fitted on", "method", "in-sample", "bound (gap)", *V3)
    worse = []
    for cell in grid:
        answer = answers[v3_key(*cell, False)]
        if answer:
            some, bad = v3_lines(*cell, answer)
            lines += some
            worse += bad
    lines += ["", f"Ours is worse than the better EPLB somewhere in {len(worse)} of {len(grid)} "
                  "problems.", *worse, "",
              "J on `h200x4x8` and `h200x8x8`, half of the tokens decoded, all five workloads, "
              "relative to contiguous (compute alone; each active expert costs its weights' "
              "reading):", "", *header("ranks", "spare", "fitted on", *V3_METHODS)]
    for cell in grid:
        answer = answers[v3_key(*cell, True)]
        if answer:
            methods, (fit, ranks, spare) = by_method(answer["tables"][0]), cell
            base = methods["contiguous"]["fluid"]["j"]
            lines.append(row(ranks, spare, fit, *(f"{methods[name]['fluid']['j'] / base:.4f}"
                                                  for name in V3_METHODS)))
    return lines


# --- time --------------------------------------------------------------------------------------

BUDGETS = [250, 500, 1000, 2000, 5000, 10000, 15000, 30000, 60000]
Timed = namedtuple("Timed", "key name model cluster generate", defaults=(None,))
TIMED = [
    Timed("mixtral", "Mixtral 32x8, 4 ranks", "mixtral-8x7b", "h200x4"),
    Timed("tiny", "bundled 8x16, 4 ranks", "tiny", "cpu:4"),
    Timed("v2", "V2-Lite 26x64, 8 ranks", "deepseek-v2-lite", "h200x8"),
    Timed("v2-rho2-8", "V2-Lite, rho 2, 8 ranks", "deepseek-v2-lite", "rho-2-8"),
    Timed("v2-rho2-16", "V2-Lite, rho 2, 16 ranks", "deepseek-v2-lite", "rho-2-16"),
    Timed("g48", "generated 48x128, 16 ranks", None, "h200x16", (48, 128, 8)),
    Timed("g58", "generated 58x256, 64 ranks", None, "h200x8x8", (58, 256, 8)),
]


def generate(options, runner):
    """Traces of the shapes that were not recorded; the text of how they are made."""
    tasks = []
    for one in TIMED:
        if one.generate:
            layers, experts, topk = map(str, one.generate)
            tasks.append(Task(f"time-{one.key}-trace",
                              ["place", "generate", "--layers", layers, "--experts", experts,
                               "--topk", topk, "--tokens", "2000" if options.quick else "20000",
                               "--seed", "1", "-o", os.path.join(OUT, one.key + ".json")],
                              kind="text"))
    runner.run(tasks)
    return "; ".join("`moetuner " + " ".join(task.command[:-2]) + "`" for task in tasks)


def timed_traces(options, one):
    return [os.path.join(OUT, one.key + ".json")] if one.generate else traces_of(options, one.model)


def time_key(one, budget):
    return f"time-{one.key}-{budget}"


def time_task(options, one, budget):
    path = os.path.join(OUT, time_key(one, budget))
    # Nothing there distinguishes decode from prefill: one scenario is enough.
    mix = ["--decode-share", "0"] if one.cluster.startswith("rho") else []
    return Task(time_key(one, budget),
                ["place", "solve", "--json", "--no-resample", "--trace",
                 *timed_traces(options, one), "--cluster", cluster(one.cluster), *mix,
                 "--time-ms", str(budget), "--jobs", str(options.jobs),
                 "--curve", path + ".csv", "-o", path + ".plan.json"])


def seconds_to(runs, best, part):
    """Of the first run whose plan is within part of the best, and that no longer run undoes."""
    good = None
    for _, run in sorted(runs.items(), reverse=True):
        if run["objective"] > best * (1 + part):
            break
        good = run["seconds"]
    return "-" if good is None else f"{good:.2f}"


def is_optimal(run):
    gap = gap_of(run)
    return gap is not None and gap < 1e-6


def time_line(one, runs, shown):
    best = min(run["objective"] for run in runs.values())
    bound = max(run.get("bound") or 0 for run in runs.values())
    proven = []
    for budget in shown:
        run = runs.get(budget)
        proven.append("-" if run is None else f"{per_cent(run['objective'] / best - 1)} / "
                                              f"{per_cent(gap_of(run))} ({run['seconds']:.1f} s)")
    optimal = [run["seconds"] for _, run in sorted(runs.items()) if is_optimal(run)]
    return row(one.key, one.name, one.cluster, f"{best:.6g}",
               per_cent(best / bound - 1 if bound else None),
               seconds_to(runs, best, 0.01), seconds_to(runs, best, 0.002),
               f"{optimal[0]:.2f}" if optimal else "-", *proven)


def chart(rows, budgets, command):
    """What is lost to the best known, and what is not proven, by the time that was given."""
    floor = 1e-3
    names, lost, open_gap = [], [], []
    for color, (one, runs) in enumerate(rows):
        best = min(run["objective"] for run in runs.values())
        names.append(one.key)
        short = [(budget / 1e3, runs[budget]) for budget in budgets if budget in runs]
        dash = "5 4" if color >= len(plot.COLORS) else ""
        lost.append(plot.Line(one.key, color, dash, [
            (x, max(100 * (run["objective"] / best - 1), floor)) for x, run in short]))
        gaps = [(x, max(100 * gap_of(run), floor)) for x, run in short if gap_of(run) is not None]
        if gaps:
            open_gap.append(plot.Line(one.key, color, dash, gaps))
    panels = [plot.Panel("above the best known, % (0.001: none)", "seconds given", lost)]
    if open_gap:
        panels.append(plot.Panel("proven gap, % (0.001: none)", "seconds given", open_gap))
    return plot.draw("Placement: quality over time", command, panels, names)


def time_section(options, runner):
    made = generate(options, runner)
    rows = [one for one in TIMED if timed_traces(options, one)]
    budgets = [100, 300, 1000] if options.quick else BUDGETS
    shown = budgets if options.quick else [1000, 10000, 60000]
    every = budgets + [2000 if options.quick else options.long_ms]
    # The longest first, so that they do not stand alone at the end.
    answers = runner.run(time_task(options, one, budget) for budget in sorted(every, reverse=True)
                         for one in rows)
    lines = ["## Time to the plan, and what is proven", "",
             f"`place solve --no-resample`, {options.jobs} processes, a run for each time given ("
             + ", ".join(f"{budget / 1e3:g}" for budget in every) + " s). Best known: of all of "
             "them, with the best bound of all. To 1 % and 0.2 %: seconds that the first run took "
             "whose plan, and all of those given longer, is that near. Optimal: of the first run "
             "that proves its plan. Last: above the best known / proven gap (seconds taken) of the "
             "run that was given so long. Generated: " + made + ".", ""]
    lines += absent(options, [one.model for one in TIMED if one.model])
    lines += header("", "shape", "cluster", "best J", "its gap", "to 1 %, s", "to 0.2 %, s",
                    "optimal, s", *(f"{budget / 1e3:g} s" for budget in shown))
    charted = []
    for one in rows:
        runs = {budget: answers[time_key(one, budget)] for budget in every}
        runs = {budget: run for budget, run in runs.items() if run}
        if runs:
            lines.append(time_line(one, runs, shown))
            charted.append((one, runs))
    if charted:
        write(os.path.join(OUT, "time.svg"), chart(charted, budgets, options.command))
        lines += ["", f"`{os.path.relpath(os.path.join(OUT, 'time.svg'), ROOT)}` draws them; the "
                      "`.csv` beside it are the searches' own curves."]
    return lines


# --- drift -------------------------------------------------------------------------------------

DRIFT_CLUSTERS = ["cpu:4", "cpu:8", "rho:0.63:4", "rho:2:4", "rho:4:4", "rho:0.63:8", "rho:2:8",
                  "rho:4:8"]


def drift(options, runner):
    title = ["## Drift", ""]
    if not os.access(options.drift, os.X_OK):
        return title + [f"Skipped: no `{options.drift}` (`make build/tests/bench/bench_drift`, or "
                        "`--drift PATH`)."]
    extra = ["--iterations", "500", "--segment", "16384"] if options.quick else []
    if options.segment:
        extra += ["--segment", str(options.segment)]
    tasks = [Task(f"drift-{only}-{name.replace(':', '')}",
                  ["--traces", TINY, "--cluster", name, "--only", only, *extra], "drift", "text")
             for only in ("day", "fits")  # the longer ones first
             for name in (DRIFT_CLUSTERS[:1] if options.quick else DRIFT_CLUSTERS)]
    answers = runner.run(tasks)
    lines = title
    for task in tasks:
        if answers[task.key]:
            lines += [f"`bench_drift {' '.join(task.command[2:])}`", "", "```",
                      answers[task.key].rstrip(), "```", ""]
    return lines


# --- all of it ---------------------------------------------------------------------------------


def numbers(text):
    return [int(word) for word in text.split(",")]


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--moetuner", default=os.path.join(BUILD, "moetuner"))
    parser.add_argument("--drift", default=os.path.join(BUILD, "tests", "bench", "bench_drift"))
    parser.add_argument("--traces", default="traces", metavar="DIR")
    parser.add_argument("--time-ms", type=int, default=10000, help="of each method")
    parser.add_argument("--long-ms", type=int, default=300000, help="time: for the best known")
    parser.add_argument("--segment", type=int, metavar="TOKENS", help="drift: of a domain")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="programs at once")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes of each")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="compare: repetitions")
    parser.add_argument("--spares", type=numbers, default=[0, 1, 2, 4], metavar="R,...",
                        help="compare: spare slots of a rank and layer")
    parser.add_argument("--reuse", action="store_true", help="answers that are there")
    parser.add_argument("--quick", action="store_true", help="shows that it works")
    options = parser.parse_args(arguments)
    for name in options.section:
        if name not in SECTIONS:
            parser.error(f"no section {name}; expected {', '.join(SECTIONS)}")
    options.section = options.section or list(SECTIONS)
    options.command = " ".join(["tests/bench/place_tables.py", *arguments])
    options.traces, options.moetuner, options.drift = map(
        os.path.abspath, (options.traces, options.moetuner, options.drift))
    if options.quick:
        options.time_ms = min(options.time_ms, 200)
    return options


def main():
    options = parse(sys.argv[1:])
    if not os.access(options.moetuner, os.X_OK):
        raise SystemExit(f"{options.moetuner}: no such program; `make programs` makes it")
    os.makedirs(OUT, exist_ok=True)
    runner = place_run.Runner(options, OUT)
    make = {"compare": compare, "study": study, "v3": v3, "time": time_section, "drift": drift}
    head = f"Made by `{options.command}` on {place_run.machine()}.\n"
    print(head)
    for name in SECTIONS:
        if name in options.section:
            began = time.monotonic()
            text = "\n".join(make[name](options, runner)) + "\n"
            write(os.path.join(OUT, name + ".md"),
                  f"{head}\n{text}\nTook {time.monotonic() - began:.0f} s.\n")
            print(text, flush=True)
    if runner.failed:
        print("Failed:", *(f"- {line}" for line in runner.failed), sep="\n")
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
