#!/usr/bin/env python3
"""moetuner beside llama.cpp: the same weights in bf16, the same prompts, the same number of threads, this machine.

    tests/bench/compare_llama.py [--rounds N] [--threads T] [--json]

needs PyPI once: it makes a venv in build/bench/venv and builds llama-cpp-python for this CPU (minutes) into
build/bench/wheels. Where that fails it says so in one line and exits with 77. The model is converted here, by gguf's
writer; that the conversion is right shows in greedy tokens, which must agree before anything is timed.

moetuner is measured as its clients see it: through HTTP, by `moetuner bench`, which takes its share of the same cores.
llama.cpp is measured as a plain loop around llama_decode without HTTP, queue or text, which favours it. Engines take
turns within each round; figures are medians of the rounds, ratios are medians of each round's ratio."""

import argparse
import json
import os
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
import harness  # noqa: E402
import serve  # noqa: E402

OUT = os.path.join(harness.BUILD, "bench")
VENV = os.path.join(OUT, "venv")
PYTHON = os.path.join(VENV, "bin", "python")
WHEELS = os.path.join(OUT, "wheels")
GGUF = os.path.join(OUT, "tiny.gguf")
PROMPTS = os.path.join(ROOT, "tests", "data", "prompts.json")
PACKAGES = ["numpy", "gguf==0.19.0"]
LLAMA = "llama-cpp-python==0.3.36"
CMAKE_ARGS = "-DGGML_NATIVE=ON"  # -march=native: AVX-512 and VNNI where the CPU has them; OpenMP and llamafile's
# matrix products are on by default

DECODE = {"prompt": 64, "tokens": 192, "concurrency": 1}
BATCH = {"prompt": 64, "tokens": 64, "concurrency": 32}
PREFILL = {"prompt": 450, "tokens": 1, "concurrency": 1}
WORKLOADS = {"decode": DECODE, "batch": BATCH, "prefill": PREFILL}
PREFILL_REQUESTS = 4
LIMIT, LIMIT_CHOOSING = 5, 0.25  # seconds that a decode of llama.cpp may take
ROWS = [("decode at concurrency 1, tokens/s", "decode"), ("decode at concurrency 32, tokens/s", "batch_decode"),
        ("whole requests at concurrency 32, tokens/s", "batch"), ("prefill of 450 tokens, tokens/s", "prefill")]


class Unavailable(Exception):
    """llama.cpp cannot be had here."""


# --- llama.cpp -------------------------------------------------------------------------------------------------------


def pip(log, *arguments, **environment):
    if subprocess.run([PYTHON, "-m", "pip", *arguments], stdout=log, stderr=log, check=False,
                      env={**os.environ, **environment}).returncode:
        raise Unavailable(f"pip {arguments[0]} failed, see {log.name}")


def prepare():
    """The venv with what it needs, and the model as GGUF."""
    os.makedirs(WHEELS, exist_ok=True)
    if subprocess.run([PYTHON, "-c", "import llama_cpp, gguf, numpy"], stderr=subprocess.DEVNULL,
                      check=False).returncode if os.path.exists(PYTHON) else True:
        print("preparing llama.cpp in build/bench; building it takes minutes", file=sys.stderr)
        if subprocess.run([sys.executable, "-m", "venv", VENV], stdout=subprocess.DEVNULL, check=False).returncode:
            raise Unavailable("python3 -m venv failed (Debian: apt-get install python3-venv)")
        with open(os.path.join(OUT, "pip.log"), "wb") as log:
            pip(log, "install", *PACKAGES)
            if not any(name.startswith("llama_cpp_python") for name in os.listdir(WHEELS)):
                pip(log, "wheel", "--no-binary", "llama-cpp-python", "-w", WHEELS, LLAMA, CMAKE_ARGS=CMAKE_ARGS)
            pip(log, "install", "--only-binary", "llama-cpp-python", "-f", WHEELS, LLAMA)
    engine("convert", harness.MODEL, GGUF)


def engine(*arguments):
    program = os.path.join(ROOT, "tests", "bench", "llama_engine.py")
    subprocess.run([PYTHON, program, *arguments], check=True)


class Llama:
    """llama_engine.py as a process that answers."""

    def __init__(self, threads):
        program = os.path.join(ROOT, "tests", "bench", "llama_engine.py")
        self.process = subprocess.Popen([PYTHON, program, "serve", GGUF, str(threads)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.flags = {name: {"flash": True, "unified": False} for name in WORKLOADS}

    def ask(self, **what):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def run(self, name, prompts, limit=LIMIT, flags=None):
        work = WORKLOADS[name]
        return self.ask(op="measure", prompts=prompts[:work["concurrency"]], tokens=work["tokens"], limit=limit,
                        **(flags or self.flags[name]))

    def choose(self, prompts):
        """The fastest of its ways to hold keys and values and to attend, for each workload."""
        for name in WORKLOADS:
            times = {}
            for _ in range(3):
                for flags in ((flash, unified) for flash in (True, False) for unified in (True, False)):
                    result = self.run(name, prompts[name], LIMIT_CHOOSING, dict(zip(("flash", "unified"), flags)))
                    times.setdefault(flags, []).append(result["prefill" if name == "prefill" else "step"])
            self.flags[name] = dict(zip(("flash", "unified"), min(times, key=lambda flags: min(times[flags]))))

    def measure(self, prompts):
        decode = self.run("decode", prompts["decode"])
        batch = self.run("batch", prompts["batch"])
        many, tokens = BATCH["concurrency"], BATCH["tokens"]
        prefill = statistics.median(self.run("prefill", [prompt])["prefill"]
                                    for prompt in prompts["prefill"][:PREFILL_REQUESTS])
        return {"decode": 1 / decode["step"], "decode_inside": 1 / decode["step_inside"],
                "batch_decode": many / batch["step"], "batch_inside": many / batch["step_inside"],
                "batch": many * tokens / (batch["prefill"] + (tokens - 1) * batch["step"]),
                "prefill": PREFILL["prompt"] / prefill}


# --- moetuner --------------------------------------------------------------------------------------------------------


def mix(x):
    """bench_mix of cli/bench_prompts.c."""
    mask = (1 << 64) - 1
    x = (x + 0x9e3779b97f4a7c15) & mask
    x = ((x ^ x >> 30) * 0xbf58476d1ce4e5b9) & mask
    x = ((x ^ x >> 27) * 0x94d049bb133111eb) & mask
    return x ^ x >> 31


def same_prompts():
    """The prompts that `moetuner bench --prompts` sends, by workload."""
    with open(PROMPTS, encoding="utf-8") as file:
        texts = json.load(file)
    with harness.Daemon(ranks=1) as daemon:
        ids = [token for texts in texts.values() for text in texts
               for token in daemon.post("/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]]
    found = {}
    for name, work in WORKLOADS.items():
        starts = [mix(mix(number)) % (len(ids) - work["prompt"] + 1) for number in range(max(work["concurrency"], 8))]
        found[name] = [ids[start:start + work["prompt"]] for start in starts]
    return found


def tool(daemon, work, requests):
    done = subprocess.run(
        [os.path.join(harness.BUILD, "moetuner"), "bench", "--json", "--url", f"http://{daemon.host}:{daemon.port}",
         "--prompts", PROMPTS, "--warmup", str(work["concurrency"]), "--concurrency", str(work["concurrency"]),
         "--requests", str(requests), "--prompt-tokens", str(work["prompt"]), "--max-tokens", str(work["tokens"])],
        stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def measure_moetuner(numerics, ranks, threads):
    with harness.Daemon("--threads", str(threads // ranks), "--numerics", numerics, "--max-seqs", "64",
                        ranks=ranks) as daemon:
        decode = tool(daemon, DECODE, 1)
        batch = tool(daemon, BATCH, BATCH["concurrency"])
        prefill = tool(daemon, PREFILL, PREFILL_REQUESTS)
    return {"decode": 1000 / decode["between_tokens_ms"]["mean"],
            "batch_decode": BATCH["concurrency"] * 1000 / batch["between_tokens_ms"]["mean"],
            "batch": batch["output_tokens_per_s"],
            "prefill": PREFILL["prompt"] * 1000 / prefill["first_token_ms"]["p50"]}


# --- comparing -------------------------------------------------------------------------------------------------------


def agreement(llama, prompts, tokens=16):
    """Greedy answers of moetuner (exact) against llama.cpp's."""
    prefix = forced = total = firsts = 0
    with harness.Daemon(ranks=1) as daemon:
        for prompt in prompts:
            reply = daemon.complete(prompt, max_tokens=tokens, ignore_eos=True, return_token_ids=True)
            ours = reply["choices"][0]["token_ids"]
            how = {"prompts": [prompt], "tokens": tokens, "threads": 1, "limit": 60, **llama.flags["decode"]}
            theirs = llama.ask(op="measure", **how)["answers"][0]
            same = next((at for at in range(tokens) if ours[at] != theirs[at]), tokens)
            prefix, firsts, total = prefix + same, firsts + (same > 0), total + tokens
            forced += llama.ask(op="teacher", answer=ours, **how)["equal"]
    return {"prompts": len(prompts), "first_tokens_equal": firsts, "tokens": total, "equal_before_the_first_difference":
            prefix, "equal_teacher_forced": forced}


def table(result):
    engines = list(result["rounds"])
    lines = ["| | " + " | ".join(f"{name} | ratio" if name != "llama.cpp" else name for name in engines) + " |",
             "|-|" + "-:|" * (2 * len(engines) - 1)]
    for title, key in ROWS:
        cells = []
        for name in engines:
            cells.append(f"{statistics.median(one[key] for one in result['rounds'][name]):.0f}")
            if name != "llama.cpp":
                cells.append(f"**{result['ratios'][name][key]:.2f}**")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compare(options):
    prepare()
    prompts = same_prompts()
    llama = Llama(options.threads)
    try:
        result = {"command": " ".join(["tests/bench/compare_llama.py", *sys.argv[1:]]), "load": serve.busy(),
                  "machine": serve.machine(), "threads": options.threads, "llama": LLAMA, "cmake": CMAKE_ARGS,
                  "system": llama.ask(op="about")["system"], "agreement": agreement(llama, prompts["decode"])}
        found = result["agreement"]
        if found["first_tokens_equal"] < found["prompts"] or found["equal_teacher_forced"] < 0.95 * found["tokens"]:
            raise SystemExit(f"the conversion is wrong: {found}")
        llama.choose(prompts)
        result["llama_flags"] = llama.flags
        shapes = [("llama.cpp", None)] + [(f"{numerics}, {ranks} x {options.threads // ranks}", (numerics, ranks))
                                          for numerics in ("fast", "exact") for ranks in sorted({1, options.threads})]
        result["rounds"] = {name: [] for name, _ in shapes}
        for number in range(options.rounds):
            for name, shape in shapes[number % len(shapes):] + shapes[:number % len(shapes)]:
                result["rounds"][name].append(llama.measure(prompts) if shape is None
                                              else measure_moetuner(*shape, options.threads))
    finally:
        llama.close()
    rounds = result["rounds"]
    result["ratios"] = {name: {key: statistics.median(ours[key] / theirs[key] for ours, theirs
                                                      in zip(rounds[name], rounds["llama.cpp"])) for _, key in ROWS}
                        for name in rounds if name != "llama.cpp"}
    return result


def text(result):
    found = result["agreement"]
    chosen = "; ".join(f"{name}: flash attention {'on' if flags['flash'] else 'off'}, "
                       f"{'one cache' if flags['unified'] else 'a cache each'}"
                       for name, flags in result["llama_flags"].items())
    return f"""Made by `{result['command']}` at {result['machine']['commit']} on {result['machine']['cores']} cores of \
{result['machine']['cpu']}.
{result['load']} A busy machine hurts llama.cpp more: its threads spin for each other.
{result['threads']} thread{'s' if result['threads'] > 1 else ''} each. Columns of moetuner: numerics, ranks x threads; \
through HTTP. Ratio: to llama.cpp, without HTTP.

{table(result)}

Greedy tokens, moetuner exact against llama.cpp: {found['equal_teacher_forced']} of {found['tokens']} agree with \
moetuner's answer before them, {found['equal_before_the_first_difference']} before the first difference, \
{found['first_tokens_equal']} of {found['prompts']} first ones.
{result['llama']} ({result['cmake']}): {result['system']}
The fastest way of each, as measured before: {chosen}.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of each engine; also the ranks of the second shape")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not os.access(os.path.join(harness.BUILD, "moetunerd"), os.X_OK):
        raise SystemExit(f"{harness.BUILD}/moetunerd is not built: make")
    try:
        result = compare(options)
    except Unavailable as error:
        print(f"skipped: no llama.cpp here: {error}")
        sys.exit(77)
    with open(os.path.join(OUT, "llama.json"), "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    with open(os.path.join(OUT, "llama.md"), "w", encoding="utf-8") as file:
        file.write(text(result))
    print(json.dumps(result) if options.json else text(result))


if __name__ == "__main__":
    main()
