#!/usr/bin/env bash
# Checks and measures Randori on the GPU of this machine, beside PyTorch: every kernel against an f64 reference on fresh random
# input, the engine's passes against the processor's, then the bench and its peer; prints one table. Wants what build.sh packed,
# and python3 with torch, transformers and peft (bitsandbytes and flash-attn are used where they are). No Rust, no network.
# usage: run.sh [--small] [--out FOLDER] DIR
#   DIR      where build.sh left randori-gpu.tar.xz
#   --out    where results.json, table.md and every program's output go (a new temporary folder unless named)
#   --small  tiny sizes, PyTorch on the processor: to try the script without a GPU, on crates/cuda/stand_in
# RANDORI_BENCH_SECONDS (570): parts that would begin later are left out, and said to be. PYTHON names the interpreter.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
small=() out='' dir=''
while [ $# -gt 0 ]; do
    case $1 in
        --small) small=(--small) ;;
        --out) shift; out=${1:?--out wants a folder} ;;
        -*) sed -n '2,10s/^# //p' "$0"; exit 2 ;;
        *) dir=$1 ;;
    esac
    shift
done
[ -n "$dir" ] || { sed -n '2,10s/^# //p' "$0"; exit 2; }
[ -f "$dir/randori-gpu.tar.xz" ] || { echo "no randori-gpu.tar.xz in $dir; build.sh makes it" >&2; exit 2; }
python=${PYTHON:-python3}
all=${RANDORI_BENCH_SECONDS:-570}
limit=$((all * 2 / 5)) # for the tests: the rest is the bench's
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=${out:-$(mktemp -d)}
mkdir -p "$out"
sizes=$here/full.json
[ ${#small[@]} = 0 ] || sizes=$here/small.json

# whoever has Python has tar's and xz's formats
"$python" -c 'import sys, tarfile; tarfile.open(sys.argv[1], "r:xz").extractall(sys.argv[2], filter="data")' "$dir/randori-gpu.tar.xz" "$work" || exit 2
# CUDA's libraries, for a machine that has them with PyTorch only
there=$("$python" - <<'PY'
import glob, os, sysconfig
folders = {sysconfig.get_paths()[k] for k in ("purelib", "platlib")}
print(":".join(sorted(f for s in folders for f in glob.glob(os.path.join(s, "nvidia", "*", "lib")))))
PY
)
paths=${LD_LIBRARY_PATH:-}
[ ${#small[@]} -gt 0 ] || paths=$paths${paths:+${there:+:}}$there

# run NAME SECONDS COMMAND...: its output goes to NAME.log; answers its status, 124 when there was no time (left)
run() {
    local name=$1 most=$2 left=$((limit - SECONDS)) code
    shift 2
    [ "$left" -gt 5 ] || { echo "$name: left out, the time is up" | tee "$out/$name.log"; return 124; }
    [ "$most" -lt "$left" ] || most=$left
    local start=$SECONDS
    timeout -k 5 "$most" "$@" >"$out/$name.log" 2>&1
    code=$?
    echo "$name: $([ $code = 0 ] && echo done || echo "FAILED ($code)") after $((SECONDS - start)) s"
    return $code
}
ours() { run "$1" "$2" env LD_LIBRARY_PATH="$paths" "${@:3}"; }
# the stand-in is no driver for PyTorch
peer() { run "$1" "$2" env ${small[@]+-u LD_LIBRARY_PATH} "$python" "${@:3}"; }

seed=$((RANDOM << 15 | RANDOM))
echo "RANDORI_TEST_SEED=$seed, commit $(cat "$work/commit" 2>/dev/null)"
: >"$out/tests"
for program in "$work"/tests/*; do
    name=$(basename "$program")
    ours "$name" 100 RANDORI_TEST_GPU=1 RANDORI_TEST_SEED=$seed "$program" --nocapture
    code=$?
    # a test that found no GPU passes, and must not count
    if [ $code = 0 ] && grep -q SKIPPED "$out/$name.log"; then code=77; fi
    echo "$name $code" >>"$out/tests"
    if [ $code != 0 ]; then
        grep -E 'SKIPPED|panicked|FAILED|error|apart|off' -A2 "$out/$name.log" | head -30
        tail -5 "$out/$name.log"
    fi
done

limit=$all
: >"$out/ours.jsonl"
: >"$out/peer.jsonl"
for case in kernels train generate; do
    ours "ours-$case" 150 "$work/bin/gpu" "$case" "$sizes" || tail -12 "$out/ours-$case.log"
    grep '^{' "$out/ours-$case.log" >>"$out/ours.jsonl"
    peer "peer-$case" 150 "$here/peer.py" "$case" "$sizes" ${small[@]+"${small[@]}"} || tail -12 "$out/peer-$case.log"
    grep '^{' "$out/peer-$case.log" >>"$out/peer.jsonl"
done
"$python" "$here/table.py" "$out" "$seed" "$work/commit" "$SECONDS" ${small[@]+"${small[@]}"}
