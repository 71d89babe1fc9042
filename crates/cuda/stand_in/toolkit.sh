#!/usr/bin/env bash
# Makes a CUDA toolkit that compiles nothing, for a machine without NVIDIA's: its nvcc answers every call with an empty file, its
# libraries are empty. What is built with it has no kernels, so it cannot use a GPU; but its Rust is whole, for the type checker and
# clippy, and it runs on the stand-in, which has kernels of its own.
# usage: toolkit.sh DIR; then: export CUDA_HOME=DIR CUDA_COMPUTE_CAP=80 PATH=DIR/bin:$PATH; unset NVCC
set -euo pipefail
mkdir -p "$1/bin" "$1/include" "$1/lib64"
for name in cuda cublas cublasLt curand cudart nvrtc; do
    echo | "${CC:-cc}" -x c -shared -fPIC - -o "$1/lib64/lib$name.so"
done
cat >"$1/bin/nvcc" <<'NVCC'
#!/usr/bin/env bash
set -eu
to= folder= source= kind= before=
for argument in "$@"; do
    case "$before" in
        -o) to=$argument ;;
        --output-directory) folder=$argument ;;
    esac
    case "$argument" in
        --version) printf 'nvcc that compiles nothing\n\n\nCuda compilation tools, release 13.0, V13.0.0\n'; exit ;;
        --ptx | --lib | -c) kind=$argument ;;
        *.cu) source=$argument ;;
    esac
    before=$argument
done
to=${to:-$folder/$(basename "$source" .cu).ptx}
case "$kind" in
    --lib) rm -f "$to"; ar rcs "$to" ;;
    -c) echo | "${CC:-cc}" -x c -c - -o "$to" ;;
    *) : >"$to" ;;
esac
NVCC
chmod +x "$1/bin/nvcc"
