"""llama.cpp's C interface, called in the library inside PyPI's `xllamacpp` (prebuilt wheels): logits of every position,
which no Python class hands out there, with keys and values cached in f32."""
from pathlib import Path

import cffi
import numpy as np
import xllamacpp

CONTEXT = 160  # tokens; every case is shorter
F32, F16 = 0, 1  # ggml's numbers of the types

# The interface of the version in requirements.txt (llama.cpp's release b11549): structs whole, since they go by value;
# pointers to what is not looked into are `void *`, enumerations `int`.
ffi = cffi.FFI()
ffi.cdef("""
struct llama_model_params {
    void *devices, *overrides; int n_gpu_layers, split_mode, load_mode, lazy_mode, main_gpu; float *tensor_split;
    void *progress, *progress_data, *kv_overrides; bool vocab_only, check, extra, no_host, no_alloc, load_mtp;
};
struct llama_context_params {
    uint32_t n_ctx, n_batch, n_ubatch, n_seq_max, n_rs_seq, n_outputs_max, n_outputs_max_per_seq;
    int n_threads, n_threads_batch, ctx_type, rope_scaling_type, pooling_type, attention_type, flash_attn_type;
    float rope_freq_base, rope_freq_scale, yarn_ext, yarn_attn, yarn_fast, yarn_slow; uint32_t yarn_orig_ctx;
    float defrag; void *eval, *eval_data; int type_k, type_v; size_t moe_cache_size; void *abort, *abort_data;
    bool embeddings, offload_kqv, no_perf, op_offload, swa_full, kv_unified; void *samplers; size_t n_samplers; void *other;
};
struct llama_batch { int32_t n_tokens; int32_t *token; float *embd; int32_t *pos, *n_seq_id, **seq_id; int8_t *logits; };
void llama_log_set(void (*)(int, const char *, void *), void *);
void llama_backend_init(void);
struct llama_model_params llama_model_default_params(void);
struct llama_context_params llama_context_default_params(void);
void *llama_model_load_from_file(const char *, struct llama_model_params);
void *llama_init_from_model(void *, struct llama_context_params);
void llama_free(void *);
void llama_model_free(void *);
const void *llama_model_get_vocab(const void *);
const char *llama_model_chat_template(const void *, const char *);
int32_t llama_vocab_n_tokens(const void *);
int32_t llama_vocab_bos(const void *);
int32_t llama_vocab_eos(const void *);
int32_t llama_tokenize(const void *, const char *, int32_t, int32_t *, int32_t, bool, bool);
void *llama_adapter_lora_init(void *, const char *);
int32_t llama_set_adapters_lora(void *, void **, size_t, float *);
void *llama_get_memory(const void *);
void llama_memory_clear(void *, bool);
struct llama_batch llama_batch_init(int32_t, int32_t, int32_t);
void llama_batch_free(struct llama_batch);
int32_t llama_decode(void *, struct llama_batch);
float *llama_get_logits(void *);
""")
lib = ffi.dlopen(str(next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))))


@ffi.callback("void(int, const char *, void *)")
def _silent(_level, _text, _data):
    pass


lib.llama_log_set(_silent, ffi.NULL)
lib.llama_backend_init()
_defaults = lib.llama_context_default_params()
if (_defaults.n_ctx, _defaults.type_k, _defaults.type_v, _defaults.flash_attn_type) != (512, F16, F16, -1):
    raise RuntimeError("this xllamacpp has another interface than that of requirements.txt")


class Llama:
    """A GGUF model, with a GGUF LoRA where one is named."""

    def __init__(self, file, lora=None):
        given = lib.llama_model_default_params()
        self.model = lib.llama_model_load_from_file(str(file).encode(), given)
        if self.model == ffi.NULL:
            raise RuntimeError(f"llama.cpp does not load {file}")
        given = lib.llama_context_default_params()
        given.n_ctx = given.n_batch = given.n_ubatch = CONTEXT
        given.n_threads = given.n_threads_batch = 2
        given.type_k = given.type_v = F32
        given.flash_attn_type = 0
        self.context = lib.llama_init_from_model(self.model, given)
        if self.context == ffi.NULL:
            raise RuntimeError(f"llama.cpp makes no context for {file}")
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.width = lib.llama_vocab_n_tokens(self.vocab)
        if lora:
            adapter = lib.llama_adapter_lora_init(self.model, str(lora).encode())
            if adapter == ffi.NULL:
                raise RuntimeError(f"llama.cpp does not load {lora}")
            scales = ffi.new("float[]", [1.0])
            if lib.llama_set_adapters_lora(self.context, ffi.new("void *[]", [adapter]), 1, scales):
                raise RuntimeError(f"llama.cpp does not apply {lora}")

    def __del__(self):
        if getattr(self, "context", ffi.NULL) != ffi.NULL:
            lib.llama_free(self.context)
        if self.model != ffi.NULL:
            lib.llama_model_free(self.model)

    def logits(self, tokens):
        """Logits of every position, (tokens, vocabulary), from an empty cache."""
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        return self._more(tokens, 0)

    def greedy(self, prompt, n):
        """n tokens, the likeliest each time; whatever they are."""
        last, out, at = self.logits(prompt)[-1], [], len(prompt)
        while len(out) < n:
            out.append(int(last.argmax()))
            last, at = self._more(out[-1:], at)[-1], at + 1
        return out

    def _more(self, tokens, at):
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = int(token), at + i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        failed = lib.llama_decode(self.context, batch)
        lib.llama_batch_free(batch)
        if failed:
            raise RuntimeError(f"llama_decode answers {failed}")
        all = ffi.buffer(lib.llama_get_logits(self.context), len(tokens) * self.width * 4)
        return np.frombuffer(all, dtype=np.float32).reshape(len(tokens), self.width).copy()

    def tokenize(self, text):
        """Ids of a text with special tokens read, none added."""
        data = text.encode()
        ids = ffi.new("int32_t[]", len(data) + 16)
        n = lib.llama_tokenize(self.vocab, data, len(data), ids, len(data) + 16, False, True)
        return list(ids[0:n])

    def template(self):
        """The chat template that the file carries."""
        text = lib.llama_model_chat_template(self.model, ffi.NULL)
        return "" if text == ffi.NULL else ffi.string(text).decode()

    def special(self):
        """Ids of the first and last token of a text."""
        return {"bos": lib.llama_vocab_bos(self.vocab), "eos": lib.llama_vocab_eos(self.vocab)}
