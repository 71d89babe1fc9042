#!/usr/bin/env bash
# Makes everything the demo embeds: data, tokenizer, and the start, trained from random weights by `randori sft`
# (about six minutes on two idle cores). Needs python3 (standard library only) and a Rust toolchain.
set -euo pipefail
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 configs/demo/make_data.py
python3 configs/demo/make_data.py --broad "$scratch/broad.jsonl"
cargo run --release -- sft configs/demo/start.toml --set data.train="$scratch/broad.jsonl" \
    --runs "$scratch/runs" --out "$scratch/model"
cp "$scratch"/model/* configs/demo/model/
