"""Logits of tiny random GGUF models in llama.cpp, for the scripts beside this file: the library
inside xllamacpp's wheel, called through its C interface, since no Python class there hands out
logits. Structs that go by value are opaque, of the sizes that they have in xllamacpp
2026.10.11549 (llama.cpp's release b11549)."""
import tempfile
from pathlib import Path

import cffi
import gguf
import numpy as np
import xllamacpp

WIDTH, HEADS, LAYERS, VOCABULARY, TOKENS = 64, 2, 4, 32, 48
BOTH = ["attn_norm", "ffn_norm"]
NORMS = {"mistral3": BOTH, "qwen3": BOTH + ["attn_q_norm", "attn_k_norm"],
         "olmo2": ["attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm"],
         "gemma3": BOTH + ["attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm"]}
OF_HEADS = {"qwen3", "gemma3"}  # where q and k are normed head by head

ffi = cffi.FFI()
ffi.cdef("""
struct model_params { uint64_t all[10]; };
struct context_params { uint64_t all[21]; };
struct llama_batch {
    int32_t n_tokens; int32_t *token; float *embd; int32_t *pos, *n_seq_id, **seq_id;
    int8_t *logits;
};
void llama_log_set(void (*)(int, const char *, void *), void *);
struct model_params llama_model_default_params(void);
struct context_params llama_context_default_params(void);
void *llama_model_load_from_file(const char *, struct model_params);
void *llama_init_from_model(void *, struct context_params);
struct llama_batch llama_batch_init(int32_t, int32_t, int32_t);
int32_t llama_decode(void *, struct llama_batch);
float *llama_get_logits(void *);
""")
lib = ffi.dlopen(str(next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))))
silent = ffi.callback("void(int, const char *, void *)", lambda *_: None)
lib.llama_log_set(silent, ffi.NULL)


def write(path, architecture, keys):
    """A model of this architecture, the same for the same architecture, with these further keys."""
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("tokenizer.ggml.model", "no_vocab")
    sizes = {"context_length": 256, "embedding_length": WIDTH, "block_count": LAYERS,
             "feed_forward_length": WIDTH, "vocab_size": VOCABULARY, "attention.head_count": HEADS,
             "attention.layer_norm_rms_epsilon": 1e-6}
    add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
    for key, value in (sizes | keys).items():
        add[type(value)](f"{architecture}.{key}", value)

    def tensor(name, *shape):
        values = random.normal(size=shape) * (1 if len(shape) == 1 else 2 / shape[-1] ** 0.5)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))

    for name, rows in (("token_embd", VOCABULARY), ("output", VOCABULARY)):
        tensor(name, rows, WIDTH)
    tensor("output_norm", WIDTH)
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            tensor(f"blk.{layer}.{part}", WIDTH, WIDTH)
        for norm in NORMS[architecture]:
            of_heads = architecture in OF_HEADS and norm in ("attn_q_norm", "attn_k_norm")
            tensor(f"blk.{layer}.{norm}", WIDTH // HEADS if of_heads else WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def logits(architecture, keys):
    """Logits of 48 tokens."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.gguf")
        write(path, architecture, keys)
        model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        assert model != ffi.NULL, f"llama.cpp does not load the {architecture} model"
        context = lib.llama_init_from_model(model, lib.llama_context_default_params())
        batch = lib.llama_batch_init(TOKENS, 0, 1)
        batch.n_tokens = TOKENS
        for i in range(TOKENS):
            batch.token[i], batch.pos[i], batch.logits[i] = 7 * i % VOCABULARY, i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        assert lib.llama_decode(context, batch) == 0
        all = ffi.buffer(lib.llama_get_logits(context), 4 * TOKENS * VOCABULARY)
        return np.frombuffer(all, np.float32).copy()


def difference(architecture, keys, others):
    """Largest difference that other values of some keys make, printed with them."""
    found = float(np.abs(logits(architecture, keys | others) - logits(architecture, keys)).max())
    what = ", ".join(f"{key} = {value}" for key, value in others.items())
    print(f"{architecture}, {what}: logits differ by {found:.3g}")
    return found
