"""Asks llama.cpp's quantiser which format every tensor of a few made-up models gets in each of its mixtures, and writes what it
chose to crates/formats/tests/fixtures/mixtures.json.

    python3 tests/interop/make_mixtures.py LIBRARY

LIBRARY is a shared library that exports `llama_model_quantize` (an own build of llama.cpp; the wheel of PyPI's llama-cpp-cffi 0.4.42
holds one: `llama/_llama_cpp_cpu*.so`, which wants a `__cxa_call_terminate` before GCC 13). Wants gguf, numpy and cffi. Only the first
two fields of its options are used, the number of threads and the mixture's number, which have stood there since 2023."""
import itertools, json, re, sys, tempfile
from pathlib import Path

import cffi
import gguf
import numpy as np

OUT = Path(__file__).resolve().parents[2] / "crates/formats/tests/fixtures/mixtures.json"
MIXTURES = dict(q4_0=2, q4_1=3, q8_0=7, q5_0=8, q5_1=9, q2_k=10, q3_k_s=11, q3_k_m=12, q3_k_l=13, q4_k_s=14, q4_k_m=15, q5_k_s=16,
                q5_k_m=17, q6_k=18, iq4_nl=25, f16=1, bf16=32)
# name -> layers, width, inner width, heads, key heads, features of a head, experts, whether the embedding is the head
MODELS = {"gqa4": (32, 256, 512, 8, 2, 32, 0, False), "mha": (12, 256, 256, 4, 4, 64, 0, False),
          "odd_tied": (30, 288, 544, 3, 1, 96, 0, True), "experts8": (16, 256, 256, 8, 2, 32, 8, False),
          "experts4": (6, 256, 256, 8, 2, 32, 4, False), "eighty": (80, 256, 512, 8, 1, 32, 0, False)}
VOCAB = 64

ffi = cffi.FFI()
ffi.cdef("""
struct options { int32_t threads; int mixture; char rest[1024]; };
struct options llama_model_quantize_default_params(void);
uint32_t llama_model_quantize(const char *, const char *, struct options *);
void llama_log_set(void (*)(int, const char *, void *), void *);
void llama_backend_init(void);
""")
lib = ffi.dlopen(sys.argv[1])


@ffi.callback("void(int, const char *, void *)")
def silent(_level, _text, _data):
    pass


lib.llama_log_set(silent, ffi.NULL)
lib.llama_backend_init()


def write(path, layers, width, inner, heads, kv, size, experts, tied):
    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(128), out.add_embedding_length(width), out.add_block_count(layers), out.add_feed_forward_length(inner)
    out.add_head_count(heads), out.add_head_count_kv(kv), out.add_key_length(size), out.add_value_length(size)
    out.add_layer_norm_rms_eps(1e-5), out.add_rope_dimension_count(size), out.add_vocab_size(VOCAB)
    if experts:
        out.add_expert_count(experts), out.add_expert_used_count(2)
    out.add_tokenizer_model("gpt2"), out.add_tokenizer_pre("default"), out.add_token_merges(["! \""])
    out.add_token_list([bytes([33 + i]) for i in range(VOCAB)]), out.add_token_types([1] * VOCAB)
    draw = np.random.default_rng(1)
    add = lambda name, *shape: out.add_tensor(f"{name}.weight", (draw.standard_normal(shape) * 0.05).astype(np.float32))
    add("token_embd", VOCAB, width), add("output_norm", width)
    if not tied:
        add("output", VOCAB, width)
    for i in range(layers):
        at = lambda name, *shape: add(f"blk.{i}.{name}", *shape)
        at("attn_norm", width), at("ffn_norm", width)
        at("attn_q", heads * size, width), at("attn_k", kv * size, width), at("attn_v", kv * size, width)
        at("attn_output", width, heads * size)
        if experts:
            at("ffn_gate_inp", experts, width)
            at("ffn_gate_exps", experts, inner, width), at("ffn_up_exps", experts, inner, width)
            at("ffn_down_exps", experts, width, inner)
        else:
            at("ffn_gate", inner, width), at("ffn_up", inner, width), at("ffn_down", width, inner)
    out.write_header_to_file(), out.write_kv_data_to_file(), out.write_tensors_to_file(), out.close()


def chosen(folder, model, mixture):
    options = lib.llama_model_quantize_default_params()
    options.threads, options.mixture = 1, MIXTURES[mixture]
    out = folder / "out.gguf"
    if lib.llama_model_quantize(str(model).encode(), str(out).encode(), ffi.new("struct options *", options)) != 0:
        sys.exit(f"llama.cpp does not quantise {model.name} to {mixture}")
    read = gguf.GGUFReader(out)
    return int(read.fields["general.file_type"].contents()), {t.name: t.tensor_type.name for t in read.tensors}


def runs(names):
    counted = ((name, len(list(group))) for name, group in itertools.groupby(names))
    return " ".join(name if n == 1 else f"{name}*{n}" for name, n in counted)


def main():
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, (layers, width, inner, heads, kv, size, experts, tied) in MODELS.items():
            model = folder / f"{name}.gguf"
            write(model, layers, width, inner, heads, kv, size, experts, tied)
            quants, columns = {}, {}
            for mixture in MIXTURES:
                number, types = chosen(folder, model, mixture)
                parts = sorted({re.sub(r"^blk\.\d+\.|\.weight$", "", t) for t in types if "norm" not in t})
                inside = lambda part: [types[f"blk.{i}.{part}.weight"] for i in range(layers) if f"blk.{i}.{part}.weight" in types]
                quants[mixture] = {"file_type": number} | {part: runs(inside(part) or [types[f"{part}.weight"]]) for part in parts}
                columns = {part: inner if part.startswith("ffn_down") else heads * size if part == "attn_output" else width
                           for part in parts}
            found[name] = dict(layers=layers, queries_per_key=heads // kv, experts=experts, tied=tied, columns=columns, quants=quants)
            model.unlink()
    OUT.write_text(json.dumps(found, indent=1) + "\n")


main()
