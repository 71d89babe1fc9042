#!/usr/bin/env bash
# transformers 5.24.0: a Llama whose configuration has `sliding_window` computes two models.
#
# A guess: either the key is ignored (the Llama class never had windows) or it is obeyed.
# Seen: one pass over the whole text ignores it, bit for bit, while `generate` keeps only the last
# keys of the window in its cache, so that the same weights write other tokens than the same
# configuration without the key. `generate(use_cache=False)` writes the plain model's tokens.
# So log-probs that a trainer computes and answers that it samples are of two models.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q transformers==5.24.0 torch==2.15.0
"$work/venv/bin/python" - <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

sizes = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    bos_token_id=None, eos_token_id=None, pad_token_id=None,
)
torch.manual_seed(0)
plain = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
windowed = LlamaForCausalLM(LlamaConfig(**sizes, sliding_window=4)).eval()
windowed.load_state_dict(plain.state_dict())
ids = torch.randint(0, 64, (1, 24), generator=torch.Generator().manual_seed(1))

def written(model, **options):
    out = model.generate(ids, max_new_tokens=16, do_sample=False, **options)
    return out[0, ids.shape[1]:].tolist()

with torch.no_grad():
    one_pass = torch.equal(
        plain(ids, use_cache=False).logits, windowed(ids, use_cache=False).logits
    )
print("one pass, equal logits:", one_pass)
print("generate, plain:   ", written(plain))
print("generate, windowed:", written(windowed))
print("the same, no cache:", written(windowed, use_cache=False))
assert one_pass
assert written(plain) != written(windowed)
assert written(plain) == written(windowed, use_cache=False)
PY
