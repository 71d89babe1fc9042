#!/usr/bin/env bash
# Makes train.jsonl, test.jsonl and the smaller gsm8k.jsonl from GSM8K's own files: their first rows,
# unchanged.
#   configs/gsm8k/make.sh FOLDER     (grade_school_math/data of github.com/openai/grade-school-math)
set -euo pipefail
from=${1:?the folder with the train.jsonl and test.jsonl of GSM8K}
to=$(cd "$(dirname "$0")" && pwd)
head -n 520 "$from/train.jsonl" > "$to/train.jsonl"
head -n 256 "$from/train.jsonl" > "$to/gsm8k.jsonl"
head -n 96 "$from/test.jsonl" > "$to/test.jsonl"
