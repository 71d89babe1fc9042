#!/usr/bin/env bash
# llama.cpp b11549 (xllamacpp 2026.10.11549): the architecture olmo2 (OLMo 3, where the file has a
# window) ignores rope.freq_base_swa, the rotary base of the layers with a window: they turn by
# rope.freq_base.
#
# gemma3, for comparison, reads the key. OLMo 3's class in transformers has a base for each kind of
# layers, so that a model with two is another one in llama.cpp, in silence.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q xllamacpp==2026.10.11549 gguf==0.19.0 cffi==2.1.1 numpy==2.4.6
PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 "$work/venv/bin/python" - <<'PY'
from tiny_gguf import difference

keys = {"attention.sliding_window": 16, "rope.freq_base": 1e4, "rope.freq_base_swa": 1e4}
for architecture, read in (("olmo2", False), ("gemma3", True)):
    assert difference(architecture, keys, {"attention.sliding_window": 4}) > 0.1
    found = difference(architecture, keys, {"rope.freq_base_swa": 1e6})
    assert found > 0.1 if read else found == 0, "llama.cpp does otherwise now"
assert difference("olmo2", keys, {"rope.freq_base": 1e6}) > 0.1
PY
