#!/usr/bin/env bash
# transformers 5.24.0: what reaches a chat template is not what the caller and the template's usual
# variables suggest.
#
# 1. A key of a message whose value is None is removed before rendering: `m.content` of a message
#    with tool calls is undefined (empty), where Python's None would print as "None".
# 2. Every named special token is a variable, not only bos, eos, pad and unk: also a model's own,
#    such as `image_token`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q transformers==5.24.0 jinja2==3.1.6
"$work/venv/bin/python" - <<'PY'
import json, os, tempfile
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

folder = tempfile.mkdtemp()
words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "<img>": 2}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
words.save(os.path.join(folder, "tokenizer.json"))
config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "cls_token": "<s>",
          "image_token": "<img>"}
with open(os.path.join(folder, "tokenizer_config.json"), "w") as out:
    json.dump(config, out)
tokenizer = AutoTokenizer.from_pretrained(folder)

def shown(template, messages, **more):
    return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **more)

call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
each = "{% for m in messages %}"
got = shown(each + "[{{ m.content }}|{{ 'content' in m }}]{% endfor %}", [call])
print("content None:", got)
assert got == "[|False]"
got = shown("{{ cls_token }}{{ image_token }}", [call])
print("special tokens in the template:", got)
assert got == "<s><img>"
PY
