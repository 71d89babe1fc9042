#!/usr/bin/env bash
# transformers 5.24.0: the section in which a rope's numbers stand decides, twice unexpectedly.
#
# 1. `original_max_position_embeddings` beside `rope_parameters` goes before the one inside it.
# 2. A Llama with `rope_parameters` keyed by layer type (as newer families write them) computes
#    theta 10,000 instead of the theta given for its layers. A log line calls the key unrecognised;
#    the model is built and answers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q transformers==5.24.0 torch==2.15.0
"$work/venv/bin/python" - <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

sizes = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
)

def frequencies(**keys):
    return LlamaForCausalLM(LlamaConfig(**sizes, **keys)).model.rotary_emb.inv_freq

yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}
inside_64 = dict(yarn, original_max_position_embeddings=64)
inside_32 = dict(yarn, original_max_position_embeddings=32)
both = frequencies(rope_parameters=dict(inside_64), original_max_position_embeddings=32)
print("64 inside, 32 beside is 32:", torch.equal(both, frequencies(rope_parameters=inside_32)))
assert torch.equal(both, frequencies(rope_parameters=dict(inside_32)))
assert not torch.equal(both, frequencies(rope_parameters=dict(inside_64)))

theta = lambda t: {"rope_type": "default", "rope_theta": t}
keyed = frequencies(rope_parameters={"full_attention": theta(500000.0)})
default = frequencies(rope_parameters=theta(10000.0))
print("keyed by layer, 500,000 is 10,000:", torch.equal(keyed, default))
assert torch.equal(keyed, default)
assert not torch.equal(keyed, frequencies(rope_parameters=theta(500000.0)))
PY
