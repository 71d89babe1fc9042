#!/usr/bin/env python
"""GGUF of gpt-oss, LFM2 and Qwen3.5, whose layers transformers does not read from GGUF as llama.cpp has them:

    gguf_hybrids.py RANDORI OUT      RANDORI: the program, with its plugins beside it; OUT: a new folder

Makes tiny random models of true structure, lets `randori export` write GGUF files and GGUF LoRAs of them and read the files
again, and compares llama.cpp's logits with transformers' and peft's, 32 greedy tokens, and every weight that comes back. Prints a
table; exit code 1 if anything differs too much.
"""
import math, subprocess, sys, warnings
from pathlib import Path

import gguf
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from inputs import BYTE_LEVEL, logits, perturb, qwens
from llama import Llama
from quiet import hush

LENGTH, GREEDY = 64, 32
LIMIT = 1e-3  # llama.cpp keeps some tables in f16 and sums in its own order
CLEAR = 10 * LIMIT  # between the two likeliest of each greedy token
COMMON = dict(vocab_size=BYTE_LEVEL, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-6, tie_word_embeddings=False)
PLAIN = {"rope_type": "default", "rope_theta": 50000.0}


def f32(folder):
    """Experts one by one, which f64 has too, and attention with sinks."""
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, experts_implementation="eager", attn_implementation="eager").eval()


def whole_borders(head_dim, original, last):
    """Yarn whose ramp ends at pair `last`, so that rounding it to a whole pair (llama.cpp) or not (`truncate` false) is one; it
    begins at 0, as the original length is less than 32 turns."""
    theta = math.exp(head_dim / 2 * math.log(original / (2 * math.pi)) / (last - 1e-5))
    return {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
            "original_max_position_embeddings": original, "rope_theta": theta}


def models():
    """name, model, targets of an adapter: modules, parameters"""
    attention = ["q_proj", "k_proj", "v_proj"]
    gpt_oss = dict(COMMON, head_dim=64, num_local_experts=8, num_experts_per_tok=2, sliding_window=16, intermediate_size=192)
    for name, rope in (("gpt_oss", PLAIN), ("gpt_oss, yarn", whole_borders(64, 64, 6))):
        config = transformers.GptOssConfig(**gpt_oss, rope_parameters=rope)
        parameters = ["mlp.router.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
        yield name, transformers.GptOssForCausalLM(config), attention + ["o_proj"], parameters
    lfm2 = {k: v for k, v in COMMON.items() if k != "rms_norm_eps"}
    for name, more in (("lfm2", dict(block_auto_adjust_ff_dim=False)), ("lfm2, adjusted", dict(tie_word_embeddings=True, intermediate_size=600))):
        config = transformers.Lfm2Config(**lfm2 | more, conv_L_cache=3, rope_parameters=PLAIN,
                                         layer_types=["conv", "conv", "full_attention", "conv"])
        yield name, transformers.Lfm2ForCausalLM(config), attention + ["in_proj", "out_proj", "w1", "w2"], None
    for name, heads in (("qwen3_5", (2, 6)), ("qwen3_5, heads alike", (4, 4))):
        config = transformers.Qwen3_5TextConfig(
            **COMMON, head_dim=64, linear_num_key_heads=heads[0], linear_num_value_heads=heads[1], linear_key_head_dim=32,
            linear_value_head_dim=32, rope_parameters=PLAIN)
        targets = attention + ["o_proj", "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj", "down_proj"]
        yield name, transformers.Qwen3_5ForCausalLM(config), targets, None


def randomise(model, generator):
    """Matrices such that logits are of order 1, vectors around what they usually are."""
    plus = "qwen3_5" in model.config.model_type
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if "A_log" in name:
            p.data = 1.0 + 0.5 * noise
        elif name.endswith("bias") or "sinks" in name:
            p.data = 0.5 * noise
        elif p.dim() == 1:
            added = 1.0 if plus and "linear_attn.norm" not in name else 0.0
            p.data = 0.5 - added + torch.rand(p.shape, generator=generator)
        else:
            inputs = p.shape[1] if p.dim() == 3 and "experts" in name else p.shape[-1]
            gain = 1.5 if "q_proj" in name or "k_proj" in name else 0.5 if "embed" in name else 1.0
            p.data = gain * noise / inputs ** 0.5
    model.tie_weights()


def run(randori, folder, recipe, *args):
    """`randori export` of this recipe's model."""
    (folder / "r.toml").write_text(f'name = "interop"\n[model]\nsource = "{recipe}"\n[data]\ntrain = "builtin:demo"\n'
                                   '[adapter]\nkind = "lora"\n')
    done = subprocess.run([randori, "export", "r.toml", "--quiet", *args], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"randori export {' '.join(args)}: {done.stdout}{done.stderr}")


def mxfp4(source, out):
    """The file with its experts in MXFP4, by gguf-py; what they are then, by name."""
    reader, held = gguf.GGUFReader(source), {}
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            array = field.types[0] == gguf.GGUFValueType.ARRAY
            writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1] if array else None)
    four = gguf.GGMLQuantizationType.MXFP4
    for tensor in reader.tensors:
        if not tensor.name.endswith("_exps.weight"):
            writer.add_tensor(tensor.name, tensor.data)
            continue
        blocks = gguf.quants.quantize(tensor.data, four)
        writer.add_tensor(tensor.name, blocks, raw_dtype=four)
        held[tensor.name] = torch.from_numpy(gguf.quants.dequantize(blocks, four).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def in_mxfp4(randori, folder, tokens):
    """gpt-oss as it is in the wild."""
    held = mxfp4(folder / "x.gguf", folder / "mxfp4.gguf")
    run(randori, folder, "mxfp4.gguf", "--to", "hf", "--dtype", "f32", "--out", "mxfp4")
    back, off = load_file(folder / "mxfp4/model.safetensors"), 0.0
    for name, wanted in held.items():
        layer, part = name.split(".")[1], name.split(".")[2]
        stack = f"model.layers.{layer}.mlp.experts." + ("down_proj" if "down" in part else "gate_up_proj")
        found = back[stack].transpose(1, 2)  # (experts, out, in)
        turn = {"ffn_gate_exps": slice(0, None, 2), "ffn_up_exps": slice(1, None, 2)}.get(part, slice(None))
        off = max(off, abs(found[:, turn] - wanted).max().item())
    yield "experts in MXFP4, against gguf-py's values", off, 0
    Llama(folder / "mxfp4.gguf").logits(tokens)  # llama.cpp reads such a file


def clear(model, prompt):
    """Greedy tokens after a prompt, and the least distance between the two likeliest."""
    tokens, least = prompt.clone(), float("inf")
    for _ in range(GREEDY):
        best = logits(model, tokens)[-1].topk(2)
        least = min(least, float(best.values[0] - best.values[1]))
        tokens = torch.cat([tokens, best.indices[:1]])
    return tokens[len(prompt):].tolist(), least


def compare(randori, folder, model, targets, parameters, generator):
    """What was compared, largest difference."""
    randomise(model, generator)
    qwens(folder / "hf")
    model.save_pretrained(folder / "hf")
    tokens = torch.randint(3, BYTE_LEVEL, (LENGTH,), generator=generator)
    reference = f32(folder / "hf")
    ours = logits(reference, tokens)
    run(randori, folder, "hf", "--to", "gguf", "--quant", "f32", "--out", "x.gguf")
    theirs = Llama(folder / "x.gguf")
    yield "llama.cpp's logits of the GGUF", abs(torch.tensor(theirs.logits(tokens)) - ours).max().item(), LIMIT
    while True:
        prompt = torch.randint(3, BYTE_LEVEL, (8,), generator=generator)
        wanted, least = clear(reference, prompt)
        if least > CLEAR:
            break
    got = theirs.greedy(prompt.tolist(), GREEDY)
    yield f"of {GREEDY} greedy tokens others (least gap {least:.2g})", sum(a != b for a, b in zip(got, wanted)), 0

    run(randori, folder, "x.gguf", "--to", "hf", "--dtype", "f32", "--out", "back")
    back, own = load_file(folder / "back/model.safetensors"), load_file(folder / "hf/model.safetensors")
    if back.keys() != own.keys():
        raise RuntimeError(f"other tensors come back: {sorted(back.keys() ^ own.keys())[:4]}")
    yield "weights that come back from the GGUF", max(abs(back[n].double() - t.double()).max().item() for n, t in own.items()), 1e-6
    again = logits(f32(folder / "back"), tokens)
    yield "log-probs of the folder made of the GGUF", abs(again.log_softmax(-1) - ours.log_softmax(-1)).max().item(), 1e-4

    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=targets, target_parameters=parameters)
    adapted = get_peft_model(f32(folder / "hf"), lora).eval()
    perturb(adapted, generator)
    adapted.save_pretrained(folder / "adapter")
    wanted = logits(adapted, tokens)
    if abs(wanted - ours).max() < 1e-2:
        raise RuntimeError("the adapter changes next to nothing")
    run(randori, folder, "hf", "--adapter", "adapter", "--to", "gguf-lora", "--out", "lora.gguf")
    theirs = Llama(folder / "x.gguf", folder / "lora.gguf")
    yield "llama.cpp's logits with a GGUF LoRA", abs(torch.tensor(theirs.logits(tokens)) - wanted).max().item(), LIMIT
    run(randori, folder, "hf", "--adapter", "adapter", "--to", "hf", "--dtype", "f32", "--out", "merged")
    exact = adapted.merge_and_unload()  # in f64, as `logits` has left it
    named, merged = exact.state_dict(), load_file(folder / "merged/model.safetensors")
    yield "merged weights, of their largest, against sums in f64", max(
        (abs(named[n] - t.double()).max() / named[n].abs().max()).item() for n, t in merged.items()), 1e-6
    rounding = abs(logits(exact.float(), tokens) - wanted).max().item()
    found = abs(logits(f32(folder / "merged"), tokens) - wanted).max().item()
    yield f"logits of the merged folder (these sums in f32: {rounding:.2g})", found, max(1e-4, 4 * rounding)
    run(randori, folder, "hf", "--adapter", "adapter", "--to", "peft", "--out", "peft")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # peft says no more than that where names do not fit
        for kind in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", kind)
        again = PeftModel.from_pretrained(f32(folder / "hf"), folder / "peft").eval()
    yield "peft's logits of the adapter that was read and written", abs(logits(again, tokens) - wanted).max().item(), 1e-4
    run(randori, folder, "hf", "--to", "gguf", "--quant", "q8_0", "--out", "q8.gguf")
    run(randori, folder, "q8.gguf", "--to", "gguf", "--quant", "f32", "--out", "held.gguf")
    held = {t.name: t.data for t in gguf.GGUFReader(folder / "held.gguf").tensors}
    off = [abs(gguf.quants.dequantize(t.data, t.tensor_type) - held[t.name]).max() for t in gguf.GGUFReader(folder / "q8.gguf").tensors]
    yield "Q8_0 read and written in F32, against gguf-py's values", max(off), 1e-6
    if parameters:
        yield from in_mxfp4(randori, folder, tokens)


def main(randori, out):
    generator, failed, rows = torch.Generator().manual_seed(3), 0, []
    for name, model, *targets in models():
        folder = out / name.replace(", ", "-").replace(" ", "-")
        folder.mkdir(parents=True)
        try:
            for what, found, limit in compare(randori, folder, model, *targets, generator):
                bad = not found <= limit
                failed += bad
                rows.append(f"| {name} | {what} | {found:.2g} | {limit:.2g} |{' DIFFERS' if bad else ''}")
                print(rows[-1], flush=True)
        except RuntimeError as error:
            failed += 1
            print(f"| {name} | failed: {error} |", flush=True)
    print(f"{len(rows)} comparisons, {failed} failed")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    hush()
    sys.exit(main(str(Path(sys.argv[1]).resolve()), Path(sys.argv[2]).resolve()))
