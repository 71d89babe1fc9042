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
                q5_k_m=17, q6_k=18, iq4_nl=25, iq4_xs=30, f16=1, bf16=32)
# name -> layers, width, inner width, heads, key heads, features of a head, experts, whether the embedding is the head
MODELS = {"gqa4": (32, 256, 512, 8, 2, 32, 0, False), "mha": (12, 256, 256, 4, 4, 64, 0, False),
          "odd_tied": (30, 288, 544, 3, 1, 96, 0, True), "experts8": (16, 256, 256, 8, 2, 32, 8, False),
          "experts4": (6, 256, 256, 8, 2, 32, 4, False), "eighty": (80, 256, 512, 8, 1, 32, 0, False)}
# layers with attention in a hybrid whose others are convolutions; its `queries_per_key` is that of the first layer, none
HYBRID = (12, 256, 512, 8, [0, 0, 2, 0, 0, 2, 0, 0, 2, 0, 2, 0], 32, 0, True)
# experts with biases, which are matrices by their shape
BIASED = (8, 256, 256, 8, 2, 32, 32, False)
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


def write(path, layers, width, inner, heads, kv, size, experts, tied, arch="llama"):
    out = gguf.GGUFWriter(path, arch)
    out.add_context_length(128), out.add_embedding_length(width), out.add_block_count(layers), out.add_feed_forward_length(inner)
    out.add_head_count(heads), out.add_head_count_kv(kv), out.add_key_length(size), out.add_value_length(size)
    out.add_layer_norm_rms_eps(1e-5), out.add_rope_dimension_count(size), out.add_vocab_size(VOCAB)
    if arch == "lfm2":
        out.add_shortconv_l_cache(3)
    if arch == "gpt-oss":
        out.add_sliding_window(64), out.add_expert_feed_forward_length(inner)
    if experts:
        out.add_expert_count(experts), out.add_expert_used_count(2)
    out.add_tokenizer_model("gpt2"), out.add_tokenizer_pre("default"), out.add_token_merges(["! \""])
    out.add_token_list([bytes([33 + i]) for i in range(VOCAB)]), out.add_token_types([1] * VOCAB)
    draw = np.random.default_rng(1)
    put = lambda name, *shape: out.add_tensor(name, (draw.standard_normal(shape) * 0.05).astype(np.float32))
    add = lambda name, *shape: put(f"{name}.weight", *shape)
    add("token_embd", VOCAB, width), add("output_norm", width)
    if not tied:
        add("output", VOCAB, width)
    for i in range(layers):
        at = lambda name, *shape: add(f"blk.{i}.{name}", *shape)
        at("attn_norm", width), at("ffn_norm", width)
        keys = kv[i] if isinstance(kv, list) else kv
        if keys:
            at("attn_q", heads * size, width), at("attn_k", keys * size, width), at("attn_v", keys * size, width)
            at("attn_output", width, heads * size)
        else:
            at("shortconv.conv", width, 3), at("shortconv.in_proj", 3 * width, width), at("shortconv.out_proj", width, width)
        if arch == "gpt-oss":
            put(f"blk.{i}.ffn_gate_exps.bias", experts, inner), put(f"blk.{i}.ffn_down_exps.bias", experts, width)
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
        models = [(name, of, "llama") for name, of in MODELS.items()]
        for name, of, arch in models + [("hybrid", HYBRID, "lfm2"), ("biased", BIASED, "gpt-oss")]:
            layers, width, inner, heads, kv, size, experts, tied = of
            model = folder / f"{name}.gguf"
            write(model, *of, arch)
            quants, columns = {}, {}
            for mixture in MIXTURES:
                number, types = chosen(folder, model, mixture)
                parts = sorted({re.sub(r"^blk\.\d+\.|\.weight$", "", t) for t in types if "norm" not in t})
                whole = lambda i, part: f"blk.{i}.{part}" + ("" if part.endswith(".bias") else ".weight")
                inside = lambda part: [types[whole(i, part)] for i in range(layers) if whole(i, part) in types]
                quants[mixture] = {"file_type": number} | {part: runs(inside(part) or [types[f"{part}.weight"]]) for part in parts}
                sizes = {"ffn_down": inner, "ffn_down_exps": inner, "attn_output": heads * size, "shortconv.conv": 3}
                columns = {part: sizes.get(part, width) for part in parts}
            each = kv if isinstance(kv, list) else [kv] * layers
            found[name] = dict(layers=layers, queries_per_key=heads // each[0] if each[0] else 0, experts=experts, tied=tied,
                               with_attention=[i for i, n in enumerate(each) if n], columns=columns, quants=quants)
            model.unlink()
    OUT.write_text(json.dumps(found, indent=1) + "\n")


main()
