#!/usr/bin/env bash
# transformers 5.24.0: which of a tokenizer's files takes precedence where they disagree.
#
# 1. The ids that `added_tokens_decoder` and `added_tokens.json` declare for new tokens only order
#    them: they get the next free ids, so an embedding made for the declared ones has other rows.
# 2. special_tokens_map.json goes before tokenizer_config.json,
# 3. but is not read at all once tokenizer_config.json has `added_tokens_decoder`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q transformers==5.24.0
"$work/venv/bin/python" - <<'PY'
import json, os, tempfile
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

def load(config, **files):
    folder = tempfile.mkdtemp()
    words = models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", **config}
    for name, content in {"tokenizer_config": config, **files}.items():
        with open(os.path.join(folder, name + ".json"), "w") as out:
            json.dump(content, out)
    return AutoTokenizer.from_pretrained(folder)

flags = ("lstrip", "rstrip", "normalized", "single_word")
entry = lambda text: {"content": text, "special": True, **dict.fromkeys(flags, False)}
decoder = {"added_tokens_decoder": {"7": entry("<x>"), "9": entry("<y>")}}
ids = load(decoder).convert_tokens_to_ids(["<x>", "<y>"])
print("declared 7 and 9:", ids)
assert ids == [3, 4]
ids = load({}, added_tokens={"<z>": 9, "<w>": 8}).convert_tokens_to_ids(["<z>", "<w>"])
print("declared 9 and 8:", ids)
assert ids == [4, 3]
other = {"eos_token": "b"}
believed = load({"eos_token": "a"}, special_tokens_map=other).eos_token
print("map against config:", believed)
assert believed == "b"
believed = load({"eos_token": "a", **decoder}, special_tokens_map=other).eos_token
print("the same with added_tokens_decoder:", believed)
assert believed == "a"
PY
