#!/usr/bin/env bash
# peft 0.21.2: an adapter whose alpha_pattern has two keys for one module is another one after
# saving and loading; with rank_pattern it does not load at all.
#
# A guess: of two keys the longer one counts, or the first, and a saved adapter stays what it was.
# Seen: the first in the dictionary counts, whichever is longer; adapter_config.json is written with
# its keys sorted, so that after loading the first one in the alphabet counts: other scales, other
# logits, in silence. With ranks the sizes no longer fit those of the file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q peft==0.21.2 transformers==5.24.0 torch==2.15.0
"$work/venv/bin/python" - <<'PY'
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

ONE_LAYER = "layers.1.self_attn.q_proj"  # before "q_proj" in the alphabet
ids = torch.arange(10)[None]


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    ))


def player(**patterns):
    return get_peft_model(base(), LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=False, **patterns
    ))


def alphas(model):
    projections = [layer.self_attn.q_proj for layer in model.base_model.model.model.layers]
    return [p.scaling["default"] * p.r["default"] for p in projections]


def loaded(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return PeftModel.from_pretrained(base(), folder)


for patterns, before, after in (
    ({"q_proj": 32, ONE_LAYER: 64}, [32, 32], [32, 64]),
    ({ONE_LAYER: 64, "q_proj": 32}, [32, 64], [32, 64]),
):
    made = player(alpha_pattern=patterns)
    again = loaded(made)
    moved = (made(input_ids=ids).logits - again(input_ids=ids).logits).abs().max().item()
    print(patterns, ": alphas", alphas(made), "; loaded", alphas(again), f"; logits {moved:.1e}")
    assert (alphas(made), alphas(again)) == (before, after)
    assert (moved > 1e-3) == (before != after)
try:
    loaded(player(rank_pattern={"q_proj": 8, ONE_LAYER: 16}))
    raise SystemExit("peft loads overlapping ranks now")
except RuntimeError as error:
    assert "size mismatch" in str(error)
    print("the same keys as rank_pattern: size mismatch when loaded")
PY
