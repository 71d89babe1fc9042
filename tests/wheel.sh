#!/usr/bin/env bash
# The wheel as a stranger gets it: pip builds it and installs it in four ways, and it runs without a
# Rust toolchain, from an empty folder, where it plays the demo.
#   tests/wheel.sh [PYTHON]
# Wants a Rust toolchain and a C compiler for the build, a Python (python3) with pip and venv, and a
# package registry that has maturin. Whatever is missing is an error.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3}

fail() {
    echo "tests/wheel.sh: $*" >&2
    exit 1
}
for tool in cargo cc "$python"; do
    command -v "$tool" > /dev/null || fail "there is no $tool; it is needed to build the wheel"
done
"$python" -c 'import pip, venv, ensurepip' || fail "$python has no pip, venv or ensurepip"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "== build"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/wheel" "$root" ||
    fail "pip built no wheel; it takes maturin from a package registry"
wheel=$(echo "$work"/wheel/randori-*.whl)
ls -l "$wheel"

echo "== install"
"$python" -m venv "$work/env"
install=("$work/env/bin/python" -m pip install --quiet --no-index --no-deps)
"${install[@]}" "$wheel"
"${install[@]}" --target "$work/target" "$wheel"
"${install[@]}" --ignore-installed --prefix "$work/prefix" "$wheel"
# an environment has no user's packages: the Python that it was made from does
base=$("$python" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))')
PYTHONUSERBASE=$work/user PIP_BREAK_SYSTEM_PACKAGES=1 \
    "$base" -m pip install --quiet --no-index --no-deps --user "$wheel"

mkdir "$work/home" "$work/empty"
cd "$work/empty"
# The command with nothing of this shell's environment, and no programs but those of the wheel.
alone() {
    env -i HOME="$work/home" PATH="$work/env/bin" "$@"
}
want=$(alone randori --version)
[[ $want == "randori "* ]] || fail "randori --version said: $want"
same() {
    local how=$1 got
    shift
    got=$(alone "$@" -m randori --version) || fail "$how: python -m randori fails"
    [[ $got == "$want" ]] || fail "$how: python -m randori said $got, not $want"
}
same "in an environment" python
same "--target" PYTHONPATH="$work/target" "$base"
same "--prefix" PYTHONPATH="$(echo "$work"/prefix/lib/python3*/site-packages)" "$base"
same "--user" PYTHONUSERBASE="$work/user" "$base"
# an exit code passes through
code=0
alone python -m randori run absent.toml 2> /dev/null || code=$?
[[ $code == 1 ]] || fail "python -m randori ended with $code for a recipe that is not there"

echo "== demo"
linked=$(alone randori plugins | grep -c '^  linked into the program$' || true)
[[ $linked == 6 ]] || fail "$linked plugins are linked in, not 6"
alone randori run builtin:demo | tee table
exact() {
    awk -v row="$1" 'index($0, row) == 1 { $0 = substr($0, length(row) + 1); print $1 }' table
}
start=$(exact start) last=$(exact "iteration 2")
awk -v start="$start" -v last="$last" 'BEGIN { exit !(start > 0 && last > 2 * start) }' ||
    fail "the demo's game did not improve the start: exact match $start, then $last"
[[ -s runs/demo/report.html ]] || fail "there is no runs/demo/report.html"
answer=$(echo "Reverse 412." | alone python -m randori chat runs/demo) && [[ -n $answer ]] ||
    fail "the demo's player does not answer"
echo "== ok: a program of $(wc -c < "$work/env/bin/randori") bytes"
