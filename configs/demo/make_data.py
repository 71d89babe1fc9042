#!/usr/bin/env python3
"""Writes the demo's data, tokenizer and model configuration (Python's standard library only).

    python3 configs/demo/make_data.py                 # train, validation, held_out, tokenizer, config
    python3 configs/demo/make_data.py --broad FILE    # the broad mixture the start is trained on (not kept in git)

Six families of instructions with one checkable answer each. The *broad* mixture answers them in six ways (one of
them a shrug); the demo's own examples are all in one way: "The answer is 42." The start (trained on the broad
mixture by `randori sft`) can do the tasks but has no single way of answering: it can but does not yet.
No instruction occurs in two splits.
"""
import argparse, json, os, random
from collections import Counter

HERE = os.path.dirname(os.path.abspath(__file__))
STYLES = [
    lambda a: f"The answer is {a}.",       # the wanted one
    lambda a: a,
    lambda a: f"Answer: {a}",
    lambda a: f"It is {a}, I think.",
    lambda a: f"{a}? Yes, {a}.",
    lambda a: "I am not sure.",
]
WANTED = 0
SPECIALS = ["<|end|>", "<|user|>", "<|assistant|>", "<|pad|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def number(rng, most=2):
    return rng.randrange(10 ** rng.randint(1, most))


def digits(rng, low=3, high=5):
    return "".join(rng.choice("0123456789") for _ in range(rng.randint(low, high)))


def instruction(rng):
    """One (instruction, answer)."""
    kind = rng.randrange(6)
    if kind == 0:
        a, b = number(rng), number(rng)
        return f"Add {a} and {b}.", str(a + b)
    if kind == 1:
        a, b = sorted((number(rng), number(rng)))
        return f"Subtract {a} from {b}.", str(b - a)
    if kind == 2:
        s = digits(rng)
        return f"Sort the digits of {s}.", "".join(sorted(s))
    if kind == 3:
        s = digits(rng)
        return f"Reverse {s}.", s[::-1]
    if kind == 4:
        v = rng.sample(range(100), 3)
        return f"Which is largest, {v[0]}, {v[1]} or {v[2]}?", str(max(v))
    s, d = digits(rng, 3, 6), rng.choice("0123456789")
    if rng.random() < 0.7:
        d = rng.choice(s)
    return f"How often is {d} in {s}?", str(s.count(d))


def unique(rng, n, seen):
    """n instructions that are not in `seen`; they are added to it."""
    rows = []
    while len(rows) < n:
        question, answer = instruction(rng)
        if question not in seen:
            seen.add(question)
            rows.append((question, answer))
    return rows


def apart(rng, n, seen):
    """n instructions, repeats allowed, none of them in `seen`."""
    rows = []
    while len(rows) < n:
        question, answer = instruction(rng)
        if question not in seen:
            rows.append((question, answer))
    return rows


def splits():
    """Disjoint by instruction."""
    rng, seen = random.Random(20240102), set()
    out = {name: unique(rng, n, seen) for name, n in (("held_out", 1000), ("validation", 500), ("train", 256))}
    return out, rng, seen


def write_jsonl(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        for question, response in rows:
            f.write(json.dumps({"prompt": question, "response": response}) + "\n")


def byte_letters():
    """GPT-2's map from bytes to printable letters."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, extra = {}, 0
    for b in range(256):
        if b in keep:
            table[b] = chr(b)
        else:
            table[b] = chr(256 + extra)
            extra += 1
    return table


def words(text):
    """As the tokenizer's pre-tokenizers cut: digits alone, then GPT-2's words (a word carries its leading space)."""
    import re
    return re.findall(r"\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]+|\s", text)


def bpe(texts, merges):
    """Byte-level BPE by the textbook: join the most frequent pair, `merges` times (ties: the smaller pair)."""
    letters = byte_letters()
    counts = Counter(w for t in texts for w in words(t))
    split = {w: [letters[b] for b in w.encode()] for w in counts}
    learned = []
    for _ in range(merges):
        pairs = Counter()
        for w, n in counts.items():
            for pair in zip(split[w], split[w][1:]):
                pairs[pair] += n
        if not pairs:
            break
        (a, b), _ = min(pairs.items(), key=lambda kv: (-kv[1], kv[0]))
        learned.append((a, b))
        for w, s in split.items():
            out, i = [], 0
            while i < len(s):
                if i + 1 < len(s) and (s[i], s[i + 1]) == (a, b):
                    out.append(a + b)
                    i += 2
                else:
                    out.append(s[i])
                    i += 1
            split[w] = out
    return [letters[b] for b in range(256)], learned


def tokenizer(texts):
    alphabet, merges = bpe(texts, 400)
    vocabulary = {}
    for token in SPECIALS + alphabet + [a + b for a, b in merges]:
        vocabulary.setdefault(token, len(vocabulary))
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True} for i, s in enumerate(SPECIALS)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocabulary, "merges": [[a, b] for a, b in merges]},
    }


def config(vocabulary):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary,
        "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 3,
        "num_key_value_heads": 1, "head_dim": 32, "hidden_act": "silu", "max_position_embeddings": 256,
        "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": True, "attention_bias": False,
        "mlp_bias": False, "initializer_range": 0.02, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 3,
    }


def dump(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1, ensure_ascii=False)
        f.write("\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--broad", help="write the broad mixture here and nothing else")
    p.add_argument("--n", type=int, default=200_000, help="rows of the broad mixture")
    a = p.parse_args()
    rows, rng, seen = splits()
    if a.broad:
        broad = apart(rng, a.n, seen)
        style = random.Random(5)
        write_jsonl(a.broad, [(q, STYLES[style.randrange(len(STYLES))](r)) for q, r in broad])
        return
    for name, split in rows.items():
        write_jsonl(os.path.join(HERE, f"{name}.jsonl"), [(q, STYLES[WANTED](r)) for q, r in split])
    sample = apart(rng, 3000, seen)
    tok = tokenizer([q for q, _ in sample] + [s(r) for _, r in sample for s in STYLES])
    model = os.path.join(HERE, "model")
    os.makedirs(model, exist_ok=True)
    dump(os.path.join(model, "tokenizer.json"), tok)
    dump(os.path.join(model, "tokenizer_config.json"), {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIALS[0], "pad_token": SPECIALS[3],
        "bos_token": None, "model_max_length": 256, "chat_template": TEMPLATE})
    size = len(tok["model"]["vocab"])
    dump(os.path.join(model, "config.json"), config(size))
    dump(os.path.join(model, "generation_config.json"), {"eos_token_id": 0, "pad_token_id": 3})
    print(f"vocabulary {size}; " + ", ".join(f"{k} {len(v)}" for k, v in rows.items()))


if __name__ == "__main__":
    main()
