#!/usr/bin/env bash
# huggingface_hub 2.4.0: which values of HF_HUB_OFFLINE mean offline, alone and beside
# TRANSFORMERS_OFFLINE.
#
# Seen: "on" counts, "y" and "t" do not; HF_HUB_OFFLINE=0 overrules TRANSFORMERS_OFFLINE=1, so a
# machine that was told to stay offline goes to the network, while an empty HF_HUB_OFFLINE does not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q huggingface_hub==2.4.0
"$work/venv/bin/python" - <<'PY'
import os, subprocess, sys

def offline(**environment):
    kept = {k: v for k, v in os.environ.items() if not k.endswith("_OFFLINE")}
    code = "import huggingface_hub.constants as c; print(c.HF_HUB_OFFLINE)"
    run = subprocess.run([sys.executable, "-c", code], env={**kept, **environment},
                         capture_output=True, text=True, check=True)
    return run.stdout.strip() == "True"

seen = {value: offline(HF_HUB_OFFLINE=value) for value in ("1", "on", "yes", "y", "t")}
print(seen)
assert seen == {"1": True, "on": True, "yes": True, "y": False, "t": False}
both = {v: offline(HF_HUB_OFFLINE=v, TRANSFORMERS_OFFLINE="1") for v in ("", "0")}
print("beside TRANSFORMERS_OFFLINE=1:", both)
assert both == {"": True, "0": False}
PY
