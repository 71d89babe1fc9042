#!/usr/bin/env bash
# transformers 5.24.0: the class GPT2Tokenizer in tokenizer_config.json replaces the pre-tokenizer of
# tokenizer.json by its own.
#
# A tokenizer.json that splits digits before it splits bytes (as SmolLM2's does) gives one token for
# "12" under that class, and two under the generic class: the same file, other token ids, in silence.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q transformers==5.24.0
"$work/venv/bin/python" - <<'PY'
import json, os, tempfile
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoTokenizer

def ids(kind):
    folder = tempfile.mkdtemp()
    tokenizer = Tokenizer(models.BPE({"1": 0, "2": 1, "12": 2}, [("1", "2")]))
    digits = Digits(individual_digits=True)
    tokenizer.pre_tokenizer = Sequence([digits, ByteLevel(add_prefix_space=False)])
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as out:
        json.dump({"tokenizer_class": kind}, out)
    return AutoTokenizer.from_pretrained(folder)("12").input_ids

for kind, expected in [("PreTrainedTokenizerFast", [0, 1]), ("GPT2Tokenizer", [2])]:
    got = ids(kind)
    print(f"{kind}: {got}")
    assert got == expected
PY
