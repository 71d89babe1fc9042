//! The benched model as files: a Hugging Face folder, or a GGUF as llama.cpp's converter makes
//! them.

use std::{collections::HashMap, fs::File, path::Path};

use candle_core::{
    DType, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};
use gguf_file::Value;
use randori_engine::{Base, Weight};

use crate::{FFN, HEAD_DIM, HEADS, KV_HEADS, VOCAB, WIDTH, config, layers};

fn tensors(base: &Base) -> impl Iterator<Item = (&String, &Tensor)> {
    base.weights.iter().map(|(name, weight)| match weight {
        Weight::Dense(tensor) => (name, tensor),
        _ => panic!(
            "{name} is {}; the files are written from dense weights",
            weight.format()
        ),
    })
}

/// Writes `config.json` and `model.safetensors` in `dtype`.
pub fn folder(dir: &Path, base: &Base, dtype: DType) {
    std::fs::write(dir.join("config.json"), config().to_string()).unwrap();
    let all: HashMap<&str, Tensor> = tensors(base)
        .map(|(name, t)| (name.as_str(), t.to_dtype(dtype).unwrap()))
        .collect();
    candle_core::safetensors::save(&all, dir.join("model.safetensors")).unwrap();
}

/// Writes a GGUF with matrices in `dtype`, but for the embedding, which is in Q8_0 as llama.cpp's
/// presets have it. (Rows of q and k are not permuted: they are random anyway; whoever reads the
/// file undoes the permutation all the same.)
pub fn gguf(path: &Path, base: &Base, dtype: GgmlDType) {
    let quantised = |(name, t): (&String, &Tensor)| {
        let dtype = match name.as_str() {
            _ if t.rank() == 1 => GgmlDType::F32,
            "model.embed_tokens.weight" => GgmlDType::Q8_0,
            _ => dtype,
        };
        (gguf_name(name), QTensor::quantize(t, dtype).unwrap())
    };
    let all: Vec<(String, QTensor)> = tensors(base).map(quantised).collect();
    let all: Vec<(&str, &QTensor)> = all.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let number = |n: usize| Value::U32(n as u32);
    let metadata = [
        ("general.architecture", Value::String("llama".into())),
        ("llama.context_length", number(8192)),
        ("llama.embedding_length", number(WIDTH)),
        ("llama.block_count", number(layers())),
        ("llama.feed_forward_length", number(FFN)),
        ("llama.attention.head_count", number(HEADS)),
        ("llama.attention.head_count_kv", number(KV_HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(100_000.0)),
        ("llama.rope.dimension_count", number(HEAD_DIM)),
        ("llama.vocab_size", number(VOCAB)),
    ];
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &metadata, &all).unwrap();
}

fn gguf_name(name: &str) -> String {
    let parts = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    parts
        .iter()
        .fold(name.to_string(), |name, (hf, gguf)| name.replace(hf, gguf))
}
