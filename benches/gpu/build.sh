#!/usr/bin/env bash
# Builds what run.sh needs on a machine with a GPU, and packs it: the test programs of crates/cuda, the engine's `gpu` and
# `gpu_train` and `gpu_offload`, the bench `gpu`, and the plugins it loads. Wants Rust, CUDA's compiler (CUDA_HOME or NVCC) and python3 here;
# nothing of them there.
# usage: build.sh DIR        RANDORI_CUDA_ARCHS (90 unless set) says for which cards; CARGO_TARGET_DIR is honoured
set -euo pipefail
[ $# = 1 ] || { sed -n '2,5s/^# //p' "$0"; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
to=$(cd "$1" && pwd)
export RANDORI_CUDA_ARCHS=${RANDORI_CUDA_ARCHS:-90}
most=$((64 << 20)) # what may be carried
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"

packages=(cuda engine benches plugin-llama plugin-losses)
targets=(--lib --bin gpu --test kernels --test gpu --test gpu_train --test gpu_offload)
# one call, so that all packages share one build of candle
cargo build --release "${packages[@]/#/-prandori-}" --features randori-cuda/cuda,randori-engine/cuda,randori-benches/cuda \
    "${targets[@]}" --message-format=json-render-diagnostics >"$work/built.json"

python3 - "$work" <<'PY'
import json, os, shutil, sys

work = sys.argv[1]
os.makedirs(f"{work}/carry/tests")
os.makedirs(f"{work}/carry/bin")
for line in open(f"{work}/built.json"):
    message = json.loads(line)
    if message["reason"] != "compiler-artifact":
        continue
    target, program = message["target"], message.get("executable")
    if program and target["kind"] == ["test"]:
        crate = "cuda" if "/crates/cuda/" in target["src_path"] else "engine"
        shutil.copy(program, f"{work}/carry/tests/{crate}-{target['name']}")
    elif program and target["name"] == "gpu":
        shutil.copy(program, f"{work}/carry/bin/gpu")
    elif "cdylib" in target["kind"] and "/plugins/" in target["src_path"]:
        library = next(f for f in message["filenames"] if f.endswith(".so"))
        shutil.copy(library, f"{work}/carry/bin/")
PY
for file in "$work"/carry/*/*; do strip "$file"; done
git rev-parse HEAD >"$work/carry/commit" 2>/dev/null || true
git diff --quiet HEAD 2>/dev/null || echo "with changes" >>"$work/carry/commit"

# the programs hold the same kernels: a window over all of them packs these once. Quick settings: 30 s and 15 MiB on one core, where
# xz's own take ten minutes
tar -C "$work/carry" --sort=name --owner=0 --group=0 -cf "$work/carry.tar" .
xz -T1 --lzma2=preset=1,dict=512MiB,mf=hc4,nice=273,depth=8 -c "$work/carry.tar" >"$to/randori-gpu.tar.xz"
size=$(stat -c %s "$to/randori-gpu.tar.xz")
(cd "$work/carry" && ls -l tests bin)
echo "$to/randori-gpu.tar.xz: $((size / 1024)) KiB of at most $((most / 1024)), $(($(stat -c %s "$work/carry.tar") >> 20)) MiB unpacked, for compute capability $RANDORI_CUDA_ARCHS"
[ "$size" -le "$most" ] || { echo "too large to be carried" >&2; exit 1; }
