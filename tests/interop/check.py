#!/usr/bin/env python
"""Loads what Randori wrote with the programs that people load it with, and prints one table of differences.

    check.py CASES.json      called by tests/interop.rs; exit code 1 if anything differs too much

A case: `{"check": NAME of a function below, "what": row of the table, "model": …, "limit": largest |difference| allowed, …}`.
Each check answers the largest difference of logits, weights or bytes, the distance from the model without the adapter (None
where there is none), and complaints: missing keys, warnings, text that differs. A complaint fails whatever the figures are.
"""
import json, sys, tempfile, traceback, warnings
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from quiet import hush, wide

TELLING = 1e-2  # what an adapter must change at least, so that a base that passes for it is noticed
MESSAGES = [
    [{"role": "user", "content": "Wie geht's?  12345 + 1,000.5"}],
    [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "three\n\nfour"}],
]


@dataclass
class Found:
    difference: float
    from_base: float | None = None
    complaints: list = field(default_factory=list)


def apart(a, b):
    """Largest |difference|; infinite where shapes differ or a number is none."""
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    if a.shape != b.shape or not torch.isfinite(a).all() or not torch.isfinite(b).all():
        return float("inf")
    return (a - b).abs().max().item()


@lru_cache(2)
def model(folder, gguf_file=None):
    """A folder or GGUF file by transformers, with the keys it missed or did not know; f32 weights, wide sums (quiet.py says why)."""
    from transformers import AutoModelForCausalLM
    args = {"gguf_file": gguf_file} if gguf_file else {}
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                        output_loading_info=True, **args)
    complaints = [f"{k}: {sorted(v)[:3]}" for k, v in info.items() if v]
    return wide(loaded.eval()), complaints


@lru_cache(None)
def tokenizer(folder):
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(folder)


def logits(m, tokens):
    with torch.no_grad():
        return m(input_ids=tokens[None].long()).logits[0].float()


@lru_cache(None)
def base_logits(folder, tokens):
    return logits(model(folder)[0], torch.tensor(tokens))


def against(m, complaints, case):
    """Our logits, and the distance from the base's where the case names a base."""
    ours = load_file(case["ours"])
    theirs = logits(m, ours["tokens"])
    base = case.get("base") and apart(theirs, base_logits(case["base"], tuple(ours["tokens"].tolist())))
    return Found(apart(theirs, ours["logits"]), base, complaints)


def adapted(base, adapter, tied=False, trained=False):
    """A folder with an adapter by peft, which says no more than a warning where names do not fit: here any warning is a complaint."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    base = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded = wide(PeftModel.from_pretrained(base, adapter, is_trainable=trained).eval())
    complaints = [str(w.message)[:200] for w in said if not issubclass(w.category, (FutureWarning, DeprecationWarning))]
    if tied:  # peft warns of its own merge, which changes the one shared matrix
        complaints = [c for c in complaints if not c.startswith("Model has `tie_word_embeddings=True`")]
    if not json.loads((Path(adapter) / "adapter_config.json").read_text())["rank_pattern"]:  # those that it makes for stacked experts
        complaints = [c for c in complaints if "_pattern keys did not match" not in c]
    return loaded, complaints


def peft(case):
    """An adapter on its base."""
    return against(*adapted(case["base"], case["adapter"], case.get("tied")), case)


def folder(case):
    """A model folder: every key known, nothing missing, the shards asked for."""
    loaded, complaints = model(case["folder"])
    shards = len(list(Path(case["folder"]).glob("*.safetensors")))
    if (shards > 1) != case.get("sharded", False):
        complaints = complaints + [f"{shards} weight files"]
    return against(loaded, complaints, case)


def bnb(case):
    """A 4-bit folder through bitsandbytes: the projections must really be 4-bit there."""
    loaded, complaints = model(case["folder"])
    four = sum(type(m).__name__ == "Linear4bit" for m in loaded.modules())
    if four != 7 * loaded.config.num_hidden_layers:
        complaints = complaints + [f"{four} 4-bit projections"]
    return against(loaded, complaints, case)


def texts(case):
    """Tokenizer and template of an exported folder against the model's own, and against Randori's ids."""
    ours, theirs, complaints = tokenizer(case["folder"]), tokenizer(case["base"]), []
    for text, ids, _ in json.loads(Path(case["ids"]).read_text()):
        if not (ours(text, add_special_tokens=False).input_ids == theirs(text, add_special_tokens=False).input_ids == ids):
            complaints.append(f"ids of {text!r}")
        if ours(text).input_ids != theirs(text).input_ids:
            complaints.append(f"ids with special tokens of {text!r}")
    for messages in MESSAGES:
        for prompt in (False, True):
            a, b = (t.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt) for t in (ours, theirs))
            if a != b:
                complaints.append(f"template: {a!r} is not {b!r}")
    return Found(float(len(complaints)), None, complaints)


def gguf_in_transformers(case):
    """A GGUF file by transformers (gguf-py's dequantising, rows of q and k put back) against what we hold of it."""
    path = Path(case["file"])
    loaded, complaints = model(str(path.parent), path.name)
    theirs, ours = loaded.state_dict(), load_file(case["weights"])
    if loaded.config.tie_word_embeddings:
        theirs.pop("lm_head.weight", None)
    odd = sorted(set(theirs) ^ set(ours))
    if odd:
        complaints = complaints + [f"tensors on one side only: {odd[:3]}"]
    return Found(max(apart(theirs[n], ours[n]) for n in set(theirs) & set(ours)), None, complaints)


def gguf_logits(case):
    path = Path(case["file"])
    loaded, complaints = model(str(path.parent), path.name)
    return against(loaded, complaints, case)


def gguf_bytes(case):
    """Blocks as gguf-py quantises the same f32 tensors."""
    import gguf
    whole = {t.name: t for t in gguf.GGUFReader(case["f32"]).tensors}
    worst, compared = 0.0, 0
    for t in gguf.GGUFReader(case["file"]).tensors:
        if t.tensor_type == gguf.GGMLQuantizationType.F32:
            continue
        wide = np.asarray(whole[t.name].data, dtype=np.float32)
        want = gguf.quants.quantize(wide, t.tensor_type).view(np.uint8).reshape(-1)
        worst = max(worst, float((want != np.asarray(t.data).view(np.uint8).reshape(-1)).sum()))
        compared += 1
    return Found(worst, None, [] if compared else ["no quantised tensor"])


@lru_cache(2)
def llama_cpp_model(file, lora):
    from llama import Llama
    return Llama(file, lora)


def llama_cpp(case):
    """Logits and greedy tokens of a GGUF file, with a GGUF LoRA if the case names one."""
    m = llama_cpp_model(case["file"], case.get("lora"))
    ours, complaints = load_file(case["ours"]), []
    tokens = ours["tokens"].tolist()
    theirs = m.logits(tokens)
    wanted = ours["greedy"].tolist()
    got = m.greedy(ours["prompt"].tolist(), len(wanted))
    if got != wanted:
        complaints.append(f"greedy text: {got} here, {wanted} in Randori")
    base = case.get("base") and apart(theirs, base_logits(case["base"], tuple(tokens)))
    return Found(apart(theirs, ours["logits"]), base, complaints)


def llama_cpp_texts(case):
    """llama.cpp's ids of texts after the first special token, if there is one, as in a chat prompt (GGUF has no flag for tokenizers that put a space
    at the very start of a text only); its template; its special tokens."""
    m, own, complaints = llama_cpp_model(case["file"], None), tokenizer(case["base"]), []
    for text, _, ids in json.loads(Path(case["ids"]).read_text()):
        got = m.tokenize((own.bos_token or "") + text)
        if got != ids:
            complaints.append(f"ids of {text!r}: {got} is not {ids}")
    special = {"bos": own.bos_token_id, "eos": own.eos_token_id}
    complaints += [f"{k}: {a} is not {special[k]}" for k, a in m.special().items() if special[k] not in (None, a)]
    carried = m.template()
    for messages in MESSAGES:
        got, want = (
            own.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
            for template in (carried, None)
        )
        if got != want:
            complaints.append(f"template: {got!r} is not {want!r}")
    return Found(float(len(complaints)), None, complaints)


def bnb_bytes(case):
    """Every tensor of our 4-bit checkpoint, byte for byte: codes, scales, scales of scales; the states as JSON."""
    ours, theirs = (load_file(Path(case[k]) / "model.safetensors") for k in ("ours", "theirs"))
    odd = sorted(set(ours) ^ set(theirs))
    complaints, wrong = [f"on one side only: {odd[:3]}"] if odd else [], 0
    raw = lambda t: t.contiguous().view(torch.uint8).reshape(-1)
    for name in set(ours) & set(theirs):
        a, b = raw(ours[name]), raw(theirs[name])
        if "quant_state" in name:
            a, b = (json.loads(bytes(t.tolist())) for t in (a, b))
            complaints += [] if a == b else [f"{name}: {a} is not {b}"]
        else:
            wrong += int((a != b).sum()) if a.shape == b.shape else 10**9
    return Found(float(wrong), None, complaints)


def imported(case):
    """Our logits of something that another program made, against its own."""
    ours, theirs = load_file(case["ours"]), load_file(case["theirs"])
    base = apart(theirs[case["kind"]], theirs["base"]) if case.get("adapter") else None
    return Found(apart(ours["logits"], theirs[case["kind"]]), base)


CHECKS = {f.__name__: f for f in (peft, folder, bnb, texts, gguf_in_transformers, gguf_logits, gguf_bytes, llama_cpp, llama_cpp_texts,
                                  bnb_bytes, imported)}


def judge(case):
    try:
        found = CHECKS[case["check"]](case)
    except Exception:
        return Found(float("inf"), None, [traceback.format_exc(limit=-3)])
    if found.difference > case["limit"]:
        found.complaints.append(f"differs by {found.difference:.2e}")
    if found.from_base is not None and not found.from_base > TELLING:
        found.complaints.append(f"hardly another model than the base: {found.from_base:.2e}")
    return found


def spoilt(cases, scratch):
    """Exports as they must not be, made of the first that fit: every one of them has to be noticed."""
    first = lambda check, key: next((c for c in cases if c["check"] == check and key in c), None)
    if case := first("peft", "adapter"):
        for what, names, settings in (("adapter with lower-case names", lambda n: n.replace("lora_A", "lora_a").replace("lora_B", "lora_b"), {}),
                                      ("adapter without peft's prefix", lambda n: n.removeprefix("base_model.model."), {}),
                                      ("adapter with rsLoRA's scale forgotten or added", lambda n: n, "use_rslora")):
            folder = Path(scratch) / what.replace(" ", "-")
            folder.mkdir()
            config = json.loads((Path(case["adapter"]) / "adapter_config.json").read_text())
            if settings:
                config[settings] = not config[settings]
            (folder / "adapter_config.json").write_text(json.dumps(config))
            tensors = load_file(Path(case["adapter"]) / "adapter_model.safetensors")
            save_file({names(n): t for n, t in tensors.items()}, folder / "adapter_model.safetensors")
            yield case | {"what": what, "adapter": str(folder)}
    if case := first("folder", "base"):
        yield case | {"what": "base for a merged folder", "folder": case["base"]}
    if case := first("llama_cpp", "lora"):
        yield case | {"what": "base for a GGUF LoRA", "lora": None}
    if case := first("gguf_in_transformers", "of"):
        others = [c for c in cases if c["check"] == case["check"] and c["model"] == case["model"] and c["weights"] != case["weights"]]
        if others:
            yield case | {"what": "GGUF of other weights", "weights": others[0]["weights"]}


def line(what, group):
    """One row: all models and kinds of adapter that were compared in the same way."""
    names = lambda key: ", ".join(dict.fromkeys(c[key] for c, _ in group if key in c))
    figure = lambda v: "0" if v == 0 else f"{v:.1e}"
    away = [f.from_base for _, f in group if f.from_base is not None]
    bad = [f"{c['model']} {c.get('of', '')}".strip() for c, f in group if f.complaints]
    return "| " + " | ".join([
        what, names("of"), names("model"), figure(max(f.difference for _, f in group)), figure(max(c["limit"] for c, _ in group)),
        f"{min(away):.2g}" if away else "", "DIFFERS: " + "; ".join(bad) if bad else "equal"]) + " |"


def main(cases):
    rows, failed = defaultdict(list), 0
    for case in cases:
        found = judge(case)
        failed += bool(found.complaints)
        rows[case["what"]].append((case, found))
        print(f"{case['what']}, {case['model']}, {case.get('of', '')}: {found.difference:.1e}", *found.complaints, sep="\n    ", flush=True)
    lines = ["| what | of | models | largest difference | allowed | least distance from the base | verdict |", "|---|---|---|---|---|---|---|"]
    lines += [line(what, group) for what, group in rows.items()]
    with tempfile.TemporaryDirectory() as scratch:
        unnoticed = [c["what"] for c in spoilt(cases, scratch) if not judge(c).complaints]
    text = "\n".join(lines)
    print("\n" + text)
    print(f"\n{len(cases)} comparisons, {failed} failed; spoilt exports that went unnoticed: {unnoticed or 'none'}")
    return 1 if failed or unnoticed or not cases else 0


if __name__ == "__main__":
    hush()
    warnings.simplefilter("ignore")
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
