#!/usr/bin/env python3
"""Takes every barrier and every wait for copies out of the kernels, one at a time, and says which
test notices.

usage: mutate.py SCRATCH [FILE ...]   (FILE: a name in ../kernels; all if none is named: about an
hour on two cores)

Works on a clone of the last commit in the folder SCRATCH. What no test notices is either
superfluous, since another barrier beside it does the same, or a fault that the tests would let
through: it must be read. Exit 1 if there is any.
"""
import os
import pathlib
import re
import subprocess
import sys
import time

WAIT = re.compile(r"__syncthreads\(\);|__syncwarp\(\);|copy_wait<\d>\(\);")
# the test programs that run a file's kernels, where its own name is not theirs
RUN_BY = {
    "attention.cuh": ["attention"],
    "attention_backward.cu": ["attention"],
    "columns.cu": ["elementwise", "norm", "rows"],
    "device.cuh": ["norm", "rows", "sample"],
    "gguf.cuh": ["gguf", "matvec"],
    "logprob.cu": ["rows"],
    "matvec.cuh": ["matvec"],
    "matvec_gguf.cu": ["matvec"],
    "product4.cu": ["matvec"],
    "product4.cuh": ["matvec"],
    "product_gguf.cu": ["matvec"],
    "softmax.cu": ["rows"],
}


def programs(repo, target):
    """The test programs, built: what they test is compiled when they run."""
    built = subprocess.run(
        ["cargo", "test", "--no-run", "-p", "randori-cuda", "--tests"],
        cwd=repo, env={**os.environ, "CARGO_TARGET_DIR": str(target)}, stderr=subprocess.PIPE, text=True,
    )
    found = re.findall(r"Executable tests/(\w+)\.rs \((.+)\)", built.stderr)
    if built.returncode or not found:
        sys.exit(built.stderr)
    # the paths are from the repository or absolute, as cargo likes
    return {name: repo / path for name, path in found}


def noticed(tests, repo, target):
    """The test that fails and how, in either order of threads; None if all pass."""
    for order in ({}, {"RANDORI_EMULATE_REVERSE": "1"}):
        for name, program in tests.items():
            run = subprocess.run(
                [program], cwd=repo / "crates/cuda", env={**os.environ, **order}, capture_output=True, text=True
            )
            if run.returncode:
                how = "a race" if "a race" in run.stderr else "an abort" if "emulated" in run.stderr else "values"
                return f"{name}{' reversed' if order else ''}: {how}"
    return None


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    scratch = pathlib.Path(sys.argv[1]).resolve()
    repo, target = scratch / "repo", scratch / "target"
    here = pathlib.Path(__file__).resolve().parents[3]
    if not repo.exists():
        subprocess.run(["git", "clone", "-q", here, repo], check=True)
    subprocess.run(["git", "pull", "-q", "--ff-only"], cwd=repo, check=True)
    kernels = repo / "crates/cuda/kernels"
    names = sys.argv[2:] or sorted(p.name for p in kernels.glob("*.cu*"))
    built = programs(repo, target)
    if (why := noticed(built, repo, target)) is not None:
        sys.exit(f"nothing was taken out, and yet: {why}")
    survivors = total = 0
    for name in names:
        source = (kernels / name).read_text()
        tests = {t: built[t] for t in RUN_BY.get(name, [pathlib.Path(name).stem]) if t in built}
        for place in WAIT.finditer(source):
            begin = source.rfind("\n", 0, place.start()) + 1
            if source[begin:].lstrip().startswith(("//", "inline", "__device__")):
                continue  # said, or defined, but not done
            began, total = time.time(), total + 1
            (kernels / name).write_text(source[: place.start()] + ";" + source[place.end():])
            try:
                found = noticed(tests, repo, target) if tests else None
            finally:
                (kernels / name).write_text(source)
                for made in (target / "tmp").glob("emulated-*"):
                    made.unlink()
            survivors += found is None
            line = source.count("\n", 0, place.start()) + 1
            print(f"{name}:{line} {place.group()} {found or 'NOT NOTICED'} ({time.time() - began:.0f} s)", flush=True)
    print(f"{total} taken out, {total - survivors} noticed")
    sys.exit(survivors > 0)


main()
