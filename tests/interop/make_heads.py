#!/usr/bin/env python
"""Makes tests/fixtures/heads/: adapters as peft saves them that touch head, embedding, whole modules or biases.

    python tests/interop/make_heads.py            # packages: tests/interop/requirements.txt

Three tiny Llamas (`untied`, `tied`, and `biased`: attention biases), one folder per adapter as `save_pretrained` wrote it,
and `expected.json`: by adapter its base and the summed log-probs of two responses behind one prompt (TOKENS) that peft
computes after loading the folder onto a fresh base. tests/cases/peft_adapters.rs holds Randori against them.
"""
import json, shutil, sys, tempfile, warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from quiet import hush

hush()
warnings.simplefilter("ignore")
OUT = Path(__file__).resolve().parent.parent / "fixtures" / "heads"
VOCAB = 24
TOKENS = {"prompt": [1, 5, 9, 3, 7], "real": [4, 11, 2, 20], "generated": [6, 13, 8, 21, 2]}
BASES = {"untied": {}, "tied": {"tie_word_embeddings": True}, "biased": {"attention_bias": True}}


def randomise(model, generator):
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        p.data = 0.5 + torch.rand(p.shape, generator=generator) if "norm" in name else noise / p.shape[-1] ** 0.5
    model.tie_weights()


def fresh(name):
    return LlamaForCausalLM.from_pretrained(OUT / name, dtype=torch.float32).eval()


def logps(model):
    found = []
    for response in ("real", "generated"):
        ids = TOKENS["prompt"] + TOKENS[response]
        with torch.no_grad():
            rows = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        found.append(sum(rows[i - 1, ids[i]].item() for i in range(len(TOKENS["prompt"]), len(ids))))
    return found


def perturb(model, generator):
    """As training would leave it."""
    for name, p in model.named_parameters():
        if p.requires_grad:
            noise = torch.randn(p.shape, generator=generator)
            plain = "modules_to_save" in name or name.endswith("bias")
            p.data = p.data * (1 + 0.2 * noise) if "magnitude" in name else p.data + 0.2 * noise if plain else p.data + 0.3 * noise


def embedding(model, generator):
    weight = model.get_input_embeddings().weight
    weight.data = weight.data + 0.2 * torch.randn(weight.shape, generator=generator)


def head(model, generator):
    weight = model.base_model.model.lm_head.base_layer.weight
    weight.data = weight.data + 0.2 * torch.randn(weight.shape, generator=generator)


def both(model, generator):
    embedding(model, generator)
    weight = model.get_output_embeddings().weight
    weight.data = weight.data + 0.2 * torch.randn(weight.shape, generator=generator)


def kinds():
    """name -> base, settings, what else is changed before saving, arguments of save_pretrained."""
    one = lambda base, more=None, save={}, **k: (base, dict(r=2, lora_alpha=3) | k, more, save)
    copies = {"save_embedding_layers": True}
    for base in ("untied", "tied"):
        yield f"{base}-head", one(base, target_modules=["q_proj", "lm_head"])
        yield f"{base}-head-alone", one(base, target_modules=["lm_head"], save={"save_embedding_layers": False})
        yield f"{base}-head-dora", one(base, target_modules=["v_proj", "lm_head"], use_dora=True)
        yield f"{base}-head-other", one(base, head, target_modules=["lm_head"])
        yield f"{base}-copies", one(base, target_modules=["q_proj"], save=copies)
        yield f"{base}-copies-other", one(base, embedding if base == "tied" else both, target_modules=["q_proj"], save=copies)
        yield f"{base}-saved-head", one(base, target_modules=["q_proj"], modules_to_save=["lm_head"])
        yield f"{base}-saved-embedding", one(base, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
        yield f"{base}-saved-embedding-and-head", one(base, target_modules=["q_proj", "lm_head"], modules_to_save=["embed_tokens"])
    yield "norms", one("untied", target_modules=["q_proj"], modules_to_save=["norm"])
    yield "mlp", one("untied", target_modules=["q_proj"], modules_to_save=["mlp"])
    yield "bias-all", one("biased", target_modules=["q_proj", "v_proj"], bias="all")
    yield "bias-lora-only", one("biased", target_modules=["q_proj"], bias="lora_only")
    yield "bias-without", one("untied", target_modules=["q_proj"], bias="all")
    yield "fan-in-fan-out", one("untied", target_modules=["q_proj"], fan_in_fan_out=True)
    yield "excluded", one("untied", target_modules="all-linear", exclude_modules=["down_proj", "layers.0.self_attn.q_proj"])
    yield "layers", one("untied", target_modules=["q_proj", "up_proj"], layers_to_transform=[1], layers_pattern="layers")
    yield "layer", one("untied", target_modules=["q_proj", "up_proj"], layers_to_transform=0)
    yield "patterns", one("untied", target_modules="all-linear", use_rslora=True, rank_pattern={"k_proj": 1, r"layers\.0\..*_proj": 3},
                          alpha_pattern={"up_proj": 7, "layers.1.mlp.up_proj": 0.5})
    yield "gaussian", one("untied", target_modules=["q_proj"], init_lora_weights="gaussian")
    yield "orthogonal", one("untied", target_modules=["q_proj"], init_lora_weights="orthogonal")
    yield "not-zero", one("untied", target_modules=["q_proj"], init_lora_weights=False)
    yield "tying-without", one("untied", target_modules=["q_proj"], ensure_weight_tying=True)


def keep(folder, base):
    """Sets in any order, and nobody's paths."""
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config[key], list):
            config[key].sort()
    config["base_model_name_or_path"] = f"tiny-{base}"
    path.write_text(json.dumps(config, indent=1) + "\n")


def reloaded(base, folder):
    return logps(PeftModel.from_pretrained(fresh(base), folder).eval())


def converted(start, generator):
    """A start inside the base's weights, as a plain LoRA of twice the rank, and as it is."""
    settings = dict(task_type="CAUSAL_LM", r=2, lora_alpha=3, target_modules=["q_proj", "down_proj"], init_lora_weights=start)
    model = get_peft_model(fresh("untied"), LoraConfig(**settings)).eval()
    with tempfile.TemporaryDirectory() as initial:
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(initial)
        model.peft_config["default"].init_lora_weights = start
        perturb(model, generator)
        trained = logps(model)
        model.save_pretrained(OUT / start)
        model.save_pretrained(OUT / f"{start}-converted", path_initial_model_for_weight_conversion=initial)
    keep(OUT / start, "untied")
    keep(OUT / f"{start}-converted", "untied")
    again = reloaded("untied", OUT / f"{start}-converted")
    assert max(abs(a - b) for a, b in zip(trained, again)) < 1e-3, (start, trained, again)
    return again


def main():
    generator = torch.Generator().manual_seed(5)
    shutil.rmtree(OUT, ignore_errors=True)
    expected = {}
    for name, more in BASES.items():
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            head_dim=8, max_position_embeddings=32, bos_token_id=1, eos_token_id=2, **{"tie_word_embeddings": False} | more))
        randomise(model, generator)
        model.save_pretrained(OUT / name)
        (OUT / name / "generation_config.json").unlink(missing_ok=True)
        expected[name] = {"base": name, "logps": logps(fresh(name))}
    for kind, (base, settings, more, save) in kinds():
        model = get_peft_model(fresh(base), LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
        perturb(model, generator)
        if more:
            more(model, generator)
        trained = logps(model)
        model.save_pretrained(OUT / kind, **save)
        keep(OUT / kind, base)
        again = reloaded(base, OUT / kind)
        apart = max(abs(a - b) for a, b in zip(trained, again))
        if apart > 1e-3:
            print(f"{kind}: trained {trained}, loaded {again}", file=sys.stderr)
        assert max(abs(a - b) for a, b in zip(again, expected[base]["logps"])) > 1e-2, kind
        expected[kind] = {"base": base, "logps": again}
    for start in ("pissa", "olora"):
        expected[f"{start}-converted"] = {"base": "untied", "logps": converted(start, generator)}
    (OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


main()
size = sum(p.stat().st_size for p in OUT.rglob("*") if p.is_file())
print(f"{size / 1024:.0f} KiB in {OUT.name}/", file=sys.stderr)
