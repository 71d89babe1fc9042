#!/usr/bin/env bash
# Builds the stand-in for NVIDIA's libraries (see driver.cpp). Then `LD_LIBRARY_PATH=DIR randori ...` of a build with the
# feature `cuda` believes that there is a GPU. With --watch it ends the program at a kernel's first race or misaligned access
# (kernels/watch.cpp), at a tenth of the speed.
# usage: build.sh [--watch] DIR
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
watch=()
if [ "$1" = --watch ]; then watch=(-g1 -DRANDORI_WATCH); shift; fi
mkdir -p "$1"
to=$(cd "$1" && pwd)
build=("${CXX:-c++}" -std=c++17 -O2 -march=native -fPIC -w -fno-strict-aliasing -ffp-contract=off -DRANDORI_EMULATE "${watch[@]}" -I"$to" -I"$here/../kernels")
for kernel in "$here"/../kernels/*.cu; do echo "#include \"$kernel\""; done >"$to/kernels.inc"
if [ ${#watch[@]} = 0 ]; then
    "${build[@]}" -shared "$here/driver.cpp" -o "$to/libcuda.so.1"
else
    "${build[@]}" -c -fsanitize=thread,alignment -fno-sanitize-recover=alignment -x c++ "$to/kernels.inc" -o "$to/kernels.o"
    "${build[@]}" -shared -Wl,-z,defs "$to/kernels.o" "$here/driver.cpp" "$here/../kernels/watch.cpp" -o "$to/libcuda.so.1"
    rm "$to/kernels.o"
fi
for name in libcublas.so.13 libcublasLt.so.13 libcurand.so.10; do ln -sf libcuda.so.1 "$to/$name"; done
