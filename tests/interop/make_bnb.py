#!/usr/bin/env python
"""Makes tests/fixtures/bnb/: a tiny Llama that transformers quantised with bitsandbytes and saved, one folder per kind.

    python tests/interop/make_bnb.py            # packages: tests/interop/requirements.txt

`double` and `plain` are NF4 with and without quantised scales (`double` with a projection that is skipped), `fp4` is FP4
and `int8` the 8 bits that Randori refuses. `expected.safetensors` holds the token ids, and for each kind the logits that
transformers computes with the weights dequantised to f32 (in training mode: bitsandbytes' own CPU kernel for inference
rounds to bf16).

    python tests/interop/make_bnb.py FOLDER     # checks a folder that Randori wrote: prints logits of the same ids
"""
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)
OUT = Path(__file__).resolve().parent.parent / "fixtures" / "bnb"
TOKENS = torch.tensor([[3, 17, 4, 29, 8, 8, 1, 30, 12, 5]])


def logits(model):
    with torch.no_grad():
        return model.train()(TOKENS).logits[0].float().contiguous()


def load(path, **kw):
    return AutoModelForCausalLM.from_pretrained(path, device_map="cpu", dtype=torch.float32, **kw)


def main():
    torch.manual_seed(5)
    dense = LlamaForCausalLM(LlamaConfig(
        vocab_size=32, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False))
    for p in dense.parameters():
        p.data = 0.5 + torch.rand(p.shape) if p.dim() == 1 else torch.randn(p.shape) * 1.5 / p.shape[1] ** 0.5
        p.data = p.data.bfloat16().float()
    source = OUT / "dense"
    dense.save_pretrained(source)
    expected = {"tokens": TOKENS[0].int(), "dense": logits(dense)}
    four = lambda **k: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, **k)
    kinds = {
        "double": four(bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                       llm_int8_skip_modules=["lm_head", "o_proj"]),
        "plain": four(bnb_4bit_quant_type="nf4"),
        "fp4": four(bnb_4bit_quant_type="fp4"),
        "int8": BitsAndBytesConfig(load_in_8bit=True),
    }
    for kind, settings in kinds.items():
        model = load(source, quantization_config=settings)
        model.save_pretrained(OUT / kind)
        (OUT / kind / "generation_config.json").unlink()
        if kind != "int8":
            expected[kind] = logits(model)
            assert torch.equal(expected[kind], logits(load(OUT / kind))), kind
    (source / "generation_config.json").unlink()
    save_file(expected, OUT / "expected.safetensors")


if len(sys.argv) > 1:
    for folder in sys.argv[1:]:
        model = load(folder)
        print(folder, {type(m).__name__ for m in model.modules() if "Linear" in type(m).__name__})
        save_file({"logits": logits(model)}, str(Path(folder) / "transformers.logits"))
else:
    main()
