#!/usr/bin/env python
"""Makes tests/fixtures/packed/: the tiny Llama of tests/fixtures/bnb/dense in the quantised formats
of Hugging Face folders, one folder each, and `expected.safetensors`: the token ids, and for each
folder the logits that transformers computes in f32.

    pip install -r tests/interop/requirements.txt
    pip install --no-deps compressed-tensors==0.20.1 gptqmodel==7.7.0 autoawq==0.2.9
    python tests/interop/make_packed.py

`gpt_oss` is a small random gpt-oss with its experts in MXFP4. transformers reads it and the folders
`fp8` and `ct` itself. What gptqmodel (`gptq`, `act`) and autoawq (`awq`) dequantise is put into its
dense model: their kernels compute in 16 bits.
"""
import importlib.util
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)
torch.manual_seed(16)
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
OUT, DENSE = FIXTURES / "packed", FIXTURES / "bnb" / "dense"
TOKENS = torch.tensor([[3, 17, 4, 29, 8, 8, 1, 30, 12, 5]])
weights, expected = load_file(DENSE / "model.safetensors"), {"tokens": TOKENS[0].int()}
projections = [name for name in weights if name.endswith("_proj.weight")]


def logits(model):
    with torch.no_grad():
        return model.eval()(TOKENS).logits[0].float().contiguous()


def load(path):
    return AutoModelForCausalLM.from_pretrained(path, device_map="cpu", dtype=torch.float32)


def write(kind, quantization, tensors):
    """The folder of a model whose projections are these tensors."""
    folder = OUT / kind
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((DENSE / "config.json").read_text()) | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    rest = {name: t.bfloat16() for name, t in weights.items() if name not in projections}
    save_file(rest | tensors, folder / "model.safetensors", metadata={"format": "pt"})


def dequantised(values):
    model = load(DENSE)
    missing, unexpected = model.load_state_dict(values, strict=False)
    assert not unexpected and len(missing) == len(weights) - len(values), (missing, unexpected)
    return logits(model)


def codes(w, group, symmetric):
    """Codes in 4 bits (out, in), scales in f16 and zero points (out, groups)."""
    blocks = w.reshape(w.shape[0], -1, group)
    low, high = blocks.amin(-1), blocks.amax(-1)
    if symmetric:
        scale = (torch.maximum(high / 7, low / -8) + 1e-4).half()
        zero = torch.full(scale.shape, 8)
    else:
        scale = ((high - low) / 15 + 1e-4).half()
        zero = torch.round(-low / scale.float()).clamp(1, 15).long()
    q = torch.round(blocks / scale.float().unsqueeze(-1)) + zero.unsqueeze(-1)
    return q.clamp(0, 15).long().reshape(w.shape), scale, zero


def packed(values, order=range(8)):
    """Eight 4-bit values of a row in a word, `order` from the low bits up."""
    values = values.reshape(values.shape[0], -1, 8)[..., list(order)]
    word = (values << 4 * torch.arange(8)).sum(-1)
    return torch.where(word >= 2**31, word - 2**32, word).to(torch.int32)


def gptq(kind, act):
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    tensors, values = {}, {}
    for name in projections:
        w = weights[name]
        place = torch.randperm(w.shape[1]) if act else torch.arange(w.shape[1])
        group = place // 32  # the group of each input
        q, scale, zero = codes(w[:, torch.argsort(place)], 32, not act)
        parts = {"qweight": packed(q[:, place]).T.contiguous(), "scales": scale.T.contiguous(),
                 "qzeros": packed(zero.T - 1), "g_idx": group.int(), "bias": torch.zeros(w.shape[0])}
        tensors |= {f"{name.removesuffix('weight')}{part}": t for part, t in parts.items()}
        module = TorchLinear(4, 32, not act, act, w.shape[1], w.shape[0], bias=False)
        for part in ["qweight", "qzeros", "g_idx"]:
            setattr(module, part, parts[part].clone())
        module.scales = parts["scales"].float()
        convert_gptq_v1_to_v2_format_module(module, 4, torch.int32)
        values[name] = super(TorchLinear, module).dequantize_weight().T.contiguous()
    write(kind, {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": not act, "desc_act": act}, tensors)
    expected[kind] = dequantised(values)


def awq():
    spec = importlib.util.find_spec("awq").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("packing", f"{spec}/utils/packing_utils.py")
    packing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(packing)
    tensors, values, order = {}, {}, [0, 2, 4, 6, 1, 3, 5, 7]
    for name in projections:
        q, scale, zero = codes(weights[name], 32, False)
        parts = {"qweight": packed(q.T, order), "qzeros": packed(zero.T, order), "scales": scale.T.contiguous()}
        tensors |= {f"{name.removesuffix('weight')}{part}": t for part, t in parts.items()}
        values[name] = packing.dequantize_gemm(
            parts["qweight"], parts["qzeros"], parts["scales"].float(), 4, 32).T.contiguous()
    write("awq", {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}, tensors)
    expected["awq"] = dequantised(values)


def fp8():
    tensors = {}
    for name in projections:
        w = weights[name]
        blocks = w.reshape(w.shape[0] // 32, 32, w.shape[1] // 64, 64)
        scale = blocks.abs().amax((1, 3)) / 448
        q = (blocks / scale[:, None, :, None]).reshape(w.shape).to(torch.float8_e4m3fn)
        tensors |= {name: q, f"{name}_scale_inv": scale}
    write("fp8", {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                  "weight_block_size": [32, 64]}, tensors)
    expected["fp8"] = logits(load(OUT / "fp8"))


def ct():
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    args = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "dynamic": False}
    scheme, tensors = QuantizationScheme(targets=["Linear"], weights=args), {}
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    for name in projections:
        _, scale, _ = codes(weights[name], 32, True)
        parts = compressor.compress({"weight": weights[name], "weight_scale": scale.float()}, scheme)
        parts["weight_scale"] = scale.float()
        tensors |= {f"{name.removesuffix('weight')}{part}": t for part, t in parts.items()}
    write("ct", {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": args}}, "ignore": ["lm_head"]}, tensors)
    expected["ct"] = logits(load(OUT / "ct"))


def gpt_oss():
    dense = transformers.GptOssForCausalLM(transformers.GptOssConfig(
        vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=5,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, rope_parameters=dict(
            rope_type="yarn", factor=4.0, rope_theta=300.0, original_max_position_embeddings=64, truncate=False)))
    for p in dense.parameters():
        p.data = 0.5 + torch.rand(p.shape) if p.dim() == 1 else torch.randn(p.shape) / p.shape[-1] ** 0.5
    folder = OUT / "gpt_oss"
    dense.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    tensors = {name: t.bfloat16() for name, t in load_file(folder / "model.safetensors").items()}
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        shape = (experts, outputs, inputs // 32)
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(121, 125, shape, dtype=torch.uint8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    skipped = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": skipped}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    expected["gpt_oss"] = logits(load(folder))


gptq("gptq", False)
gptq("act", True)
awq()
fp8()
ct()
gpt_oss()
expected["dense"] = logits(load(DENSE))
save_file(expected, OUT / "expected.safetensors")
for kind, found in expected.items():
    print(kind, "" if kind == "tokens" else f"{(found - expected['dense']).abs().max():.3f} off the dense model's")
