#!/usr/bin/env python3
"""make bench: throughput and latency of the daemon on models/tiny, beside the machine's ceilings of the same run.

    tests/bench/serve.py [--rounds N] [--concurrency 1,8,32,128] [--prompt-tokens P] [--max-tokens T]

Each round starts each kind of job in turn (exact and fast; two ranks of one thread, one rank of two threads) and runs
`moetuner bench` against it at each concurrency; each figure is the median of the rounds. Writes serve.json, serve.md
and serve.svg to build/bench, and prints the table. The load generator shares the cores with what it measures."""

import argparse
import json
import os
import statistics
import subprocess
import sys

import plot

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
import harness  # noqa: E402

OUT = os.path.join(harness.BUILD, "bench")
PROMPTS = os.path.join(ROOT, "tests", "data", "prompts.json")
JOBS = [{"numerics": numerics, "ranks": ranks, "threads": threads}
        for ranks, threads in ((2, 1), (1, 2)) for numerics in ("exact", "fast")]
BF16 = 2


def title(job):
    return f"{job['numerics']}, {job['ranks']} x {job['threads']}"


# --- what a step costs at least --------------------------------------------------------------------------------------


def model_parts(model):
    """Weights of the dense part and of one expert, and what else a step's cost depends on, from config.json."""
    with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
        c = json.load(file)
    hidden, layers, head = c["hidden_size"], c["num_hidden_layers"], c["head_dim"]
    kv = c["num_key_value_heads"] * head
    attention = 2 * hidden * c["num_attention_heads"] * head + 2 * hidden * kv
    return {"dense": layers * (attention + hidden * c["num_local_experts"] + 2 * hidden)
                     + hidden * c["vocab_size"] + hidden,
            "expert": 3 * hidden * c["intermediate_size"], "experts": c["num_local_experts"],
            "top": c["num_experts_per_tok"], "layers": layers, "kv": 2 * kv * layers,
            "attention": 2 * c["num_attention_heads"] * head * layers, "embedding": hidden * c["vocab_size"],
            "tied": c["tie_word_embeddings"]}


def model_bytes(parts):
    untied = 0 if parts["tied"] else parts["embedding"]
    return BF16 * (parts["dense"] + untied + parts["layers"] * parts["experts"] * parts["expert"])


def floor(parts, job, concurrency, context, ceiling):
    """The least time of a decode step, in ms, and what sets it: each weight that is touched read once, and the keys and
    values; or the multiply-adds. Experts touched: as if tokens chose evenly. Each rank that has sequences reads the
    dense part."""
    touched = parts["experts"] * (1 - (1 - parts["top"] / parts["experts"]) ** concurrency)
    weights = BF16 * (parts["dense"] * min(job["ranks"], concurrency) + parts["layers"] * touched * parts["expert"])
    kv = (4 if job["numerics"] == "exact" else 2) * parts["kv"] * context * concurrency
    work = 2 * concurrency * (parts["dense"] + parts["layers"] * parts["top"] * parts["expert"]
                              + parts["attention"] * context)
    reading, computing = (weights + kv) / ceiling["model_gbs"] / 1e6, work / ceiling["gflops"] / 1e6
    return {"weight_bytes": weights, "kv_bytes": kv, "flops": work, "floor_ms": max(reading, computing),
            "floor_by": "reading" if reading > computing else "arithmetic"}


# --- measuring -------------------------------------------------------------------------------------------------------


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}: {done.stdout.decode()[:500]}")
    return json.loads(done.stdout)


def measure_job(job, options):
    """The tool's reports, by concurrency."""
    most = str(max(options.concurrency))
    with harness.Daemon("--threads", str(job["threads"]), "--numerics", job["numerics"], "--max-seqs", most,
                        ranks=job["ranks"]) as daemon:
        return {many: run([os.path.join(harness.BUILD, "moetuner"), "bench", "--json",
                           "--url", f"http://{daemon.host}:{daemon.port}", "--prompts", PROMPTS,
                           "--concurrency", str(many), "--requests", str(max(2 * many, options.requests)),
                           "--warmup", str(many), "--prompt-tokens", str(options.prompt_tokens),
                           "--max-tokens", str(options.max_tokens)])
                for many in options.concurrency}


def median_of(reports):
    """Reports of one kind: the median of each number, also within objects."""
    merged = dict(reports[0])
    for key, value in merged.items():
        if isinstance(value, dict):
            merged[key] = median_of([report[key] for report in reports])
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            merged[key] = statistics.median(report[key] for report in reports)
    return merged


def measure(options):
    load = busy()
    parts = model_parts(harness.MODEL)
    ceilings = run([os.path.join(harness.BUILD, "tests", "bench", "bench_ceiling"), str(model_bytes(parts))])
    reports = {title(job): [] for job in JOBS}
    for number in range(options.rounds):
        for job in JOBS:
            if sys.stderr.isatty():
                print(f"\rround {number + 1} of {options.rounds}: {title(job)}\033[K", end="", file=sys.stderr)
            reports[title(job)].append(measure_job(job, options))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    rows = []
    for job in JOBS:
        for many in options.concurrency:
            report = median_of([one[many] for one in reports[title(job)]])
            least = floor(parts, job, many, options.prompt_tokens + options.max_tokens / 2, ceilings["ceilings"][1])
            step = report["between_tokens_ms"]["p50"]
            rows.append({"job": title(job), "concurrency": many, **least, "reached": least["floor_ms"] / step,
                         "report": report})
    return {"machine": machine(), "load": load, "ceilings": ceilings, "rows": rows}


def busy():
    """How busy the machine is before anything is measured."""
    load = os.getloadavg()[0]
    warning = "; the machine was busy, so these figures say little" if load > 0.25 * os.cpu_count() else ""
    return f"Load average when it began: {load:.1f}{warning}."


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, check=False, text=True).stdout.strip()
    return {"cpu": names[0] if names else "unknown", "cores": os.cpu_count(), "commit": commit or "unknown"}


# --- reports ---------------------------------------------------------------------------------------------------------


def table(result, command):
    lines = [
        f"Made by `{command}` at {result['machine']['commit']} on {result['machine']['cores']} cores of "
        f"{result['machine']['cpu']}.", result["load"], "",
        "| ceilings, measured in this run | 1 thread | 2 threads |", "|-|-:|-:|"]
    one, two = result["ceilings"]["ceilings"]
    for name, key, unit in (("reading memory", "memory_gbs", "GB/s"),
                            ("reading a block as large as the model's weights", "model_gbs", "GB/s"),
                            (f"multiply-adds, {result['ceilings']['isa']}", "gflops", "GFLOP/s")):
        lines.append(f"| {name} | {one[key]:.1f} {unit} | {two[key]:.1f} {unit} |")
    lines += ["", "Jobs: numerics, ranks x threads. Floor: of a decode step, what two threads need to read each weight",
              "that the step touches and the keys and values once, at the speed of a block as large as the model, or",
              "for its multiply-adds. Reached: floor / p50. Tool: what `moetuner bench` took of the same cores.", "",
              "| job | in flight | output tokens/s | first token p50, ms | between tokens p50 | p99, ms | MB a step | "
              "floor, ms | by | reached | tool, cores |", "|-|" + "-:|" * 7 + "-|-:|-:|"]
    for row in result["rows"]:
        report, gap = row["report"], row["report"]["between_tokens_ms"]
        lines.append(
            f"| {row['job']} | {row['concurrency']} | {report['output_tokens_per_s']:.0f} | "
            f"{report['first_token_ms']['p50']:.2f} | {gap['p50']:.2f} | {gap['p99']:.2f} | "
            f"{(row['weight_bytes'] + row['kv_bytes']) / 1e6:.1f} | {row['floor_ms']:.3f} | {row['floor_by']} | "
            f"{100 * row['reached']:.0f} % | {report['client_cpu_seconds'] / report['seconds']:.2f} |")
    return "\n".join(lines) + "\n"


def picture(result, command):
    names = [title(job) for job in JOBS]

    def series(value, style=""):
        return [plot.Line(name, color, style, [(row["concurrency"], value(row["report"])) for row in result["rows"]
                                               if row["job"] == name]) for color, name in enumerate(names)]

    return plot.draw(
        "models/tiny: throughput and latency", command,
        [plot.Panel("output, tokens/s", "requests in flight", series(lambda r: r["output_tokens_per_s"])),
         plot.Panel("between tokens, ms: p50, and p99 dashed", "requests in flight",
                    series(lambda r: r["between_tokens_ms"]["p50"])
                    + series(lambda r: r["between_tokens_ms"]["p99"], "5 4"))], names)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=16, help="at least; and at least twice the concurrency")
    parser.add_argument("--concurrency", type=lambda text: [int(word) for word in text.split(",")],
                        default=[1, 8, 32, 128])
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    command = " ".join(["make bench" if len(sys.argv) == 1 else "tests/bench/serve.py", *sys.argv[1:]])
    result = {"command": command, **measure(options)}
    os.makedirs(OUT, exist_ok=True)
    for name, text in (("serve.json", json.dumps(result, indent=1) + "\n"), ("serve.md", table(result, command)),
                       ("serve.svg", picture(result, command))):
        with open(os.path.join(OUT, name), "w", encoding="utf-8") as file:
            file.write(text)
    print(table(result, command))
    print(f"also in {os.path.relpath(OUT)}: serve.json, serve.md, serve.svg")


if __name__ == "__main__":
    main()
