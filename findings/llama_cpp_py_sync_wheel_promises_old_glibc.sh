#!/usr/bin/env bash
# llama-cpp-py-sync 0.11739: its wheel is tagged manylinux2014 (glibc 2.17 and later), and the
# libraries in it want GLIBC_2.38.
#
# So pip installs it on systems with an older glibc (Debian 12 has 2.36), where its first import of
# llama.cpp fails. auditwheel names the tag that the wheel keeps.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q auditwheel==6.4.2
"$work/venv/bin/pip" download -q --no-deps --only-binary :all: -d "$work" \
    --platform manylinux2014_x86_64 --python-version 3.11 llama-cpp-py-sync==0.11739
wheel=$(ls "$work"/*.whl)
echo "tag in the name: ${wheel##*-}"
[[ $wheel == *-manylinux2014_x86_64.whl ]]
seen=$("$work/venv/bin/auditwheel" show "$wheel" | tr '\n' ' ')
echo "$seen" | grep -o 'GLIBC_2\.38' | head -1
echo "$seen" | grep -oE 'manylinux_2_[0-9]+_x86_64' | sort -u
echo "$seen" | grep -q 'GLIBC_2\.38'
! echo "$seen" | grep -qE 'manylinux_2_17_x86_64'
