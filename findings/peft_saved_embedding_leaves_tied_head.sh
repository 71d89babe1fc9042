#!/usr/bin/env bash
# peft 0.21.2: `modules_to_save=["embed_tokens"]` splits a tied model while it trains.
#
# A guess: the head is the embedding, so training the embedding in full moves the head.
# Seen: peft trains a copy of the embedding and the head keeps the base's matrix. A warning speaks
# of complications when merging, not of the model that is being trained.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q peft==0.21.2 transformers==5.24.0 torch==2.15.0
"$work/venv/bin/python" - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
))
assert model.lm_head.weight is model.model.embed_tokens.weight
before = model.lm_head.weight.detach().clone()
wanted = LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"])
player = get_peft_model(model, wanted)
with torch.no_grad():
    copies = [p for n, p in player.named_parameters() if "modules_to_save.default" in n]
    for copy in copies:
        copy.add_(1.0)
head = player.base_model.model.lm_head.weight
print("trained copies:", len(copies), "; head unmoved:", torch.equal(head, before))
assert len(copies) == 1 and torch.equal(head, before)
PY
