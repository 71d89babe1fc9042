#!/usr/bin/env bash
# Builds the stand-in for NVIDIA's libraries (see driver.cpp). Then `LD_LIBRARY_PATH=DIR randori ...` of a build with the
# feature `cuda` believes that there is a GPU.
# usage: build.sh DIR
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
to=$(cd "$1" && pwd)
for kernel in "$here"/../kernels/*.cu; do echo "#include \"$kernel\""; done >"$to/kernels.inc"
"${CXX:-c++}" -std=c++17 -O2 -march=native -fPIC -shared -w -fno-strict-aliasing -ffp-contract=off -DRANDORI_EMULATE -I"$to" -I"$here/../kernels" \
    "$here/driver.cpp" -o "$to/libcuda.so.1"
for name in libcublas.so.13 libcublasLt.so.13 libcurand.so.10; do ln -sf libcuda.so.1 "$to/$name"; done
