#!/usr/bin/env bash
# The engine's tests of its GPU side, on the stand-in: a C++ compiler is enough. Some ten minutes on two cores; with --watch, which ends
# a test at a kernel's first race or misaligned access, ten times as long.
# usage: check.sh [--watch] [TEST...]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."
watch=()
if [ "${1:-}" = --watch ]; then watch=(--watch); shift; fi
tests=("$@")
if [ ${#tests[@]} = 0 ]; then tests=(gpu gpu_train gpu_offload gpu_loading fit_gpu); fi
to=$(pwd)/target/stand-in
"$here/build.sh" "${watch[@]}" "$to"
if ! command -v nvcc >/dev/null && [ -z "${CUDA_HOME:-}${CUDA_PATH:-}${NVCC:-}" ]; then
    "$here/toolkit.sh" "$to/toolkit"
    export CUDA_HOME=$to/toolkit CUDA_COMPUTE_CAP=80 RANDORI_CUDA_ARCHS=80 PATH=$to/toolkit/bin:$PATH
fi
LD_LIBRARY_PATH=$to cargo test --release --target-dir target/stand-in/build -p randori-engine --features cuda "${tests[@]/#/--test=}"
