#!/usr/bin/env bash
# llama.cpp b11549 (xllamacpp 2026.10.11549): yarn's borders in a GGUF's metadata,
# rope.scaling.yarn_beta_fast and .yarn_beta_slow, change nothing in the architectures olmo2 and
# qwen3.
#
# mistral3, for comparison, reads them, and yarn's factor counts in all three: a model with other
# borders than 32 and 1 computes something else than in transformers, in silence.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q xllamacpp==2026.10.11549 gguf==0.19.0 cffi==2.1.1 numpy==2.4.6
PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 "$work/venv/bin/python" - <<'PY'
from tiny_gguf import difference

yarn = {"rope.freq_base": 1e4, "rope.scaling.type": "yarn", "rope.scaling.factor": 8.0,
        "rope.scaling.original_context_length": 256,
        "rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0}
borders = {"rope.scaling.yarn_beta_fast": 4.0, "rope.scaling.yarn_beta_slow": 0.25}
for architecture, read in (("olmo2", False), ("qwen3", False), ("mistral3", True)):
    assert difference(architecture, yarn, {"rope.scaling.factor": 2.0}) > 0.1
    found = difference(architecture, yarn, borders)
    assert found > 0.1 if read else found == 0, "llama.cpp does otherwise now"
PY
