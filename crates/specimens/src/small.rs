//! A small Llama for the tests of weights: its names and shapes, its tensors, its files.

use std::{path::Path, sync::Arc};

use candle_core::{
    DType, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};
use randori_engine::{
    Base,
    trace::{Trace, TracedLinear, TracedWeight, Use},
    weights::{Checkpoint, LoadOptions},
};
use randori_sdk::{
    Dialect,
    dialect::Gguf,
    seam::{Architecture, Backend, Family, Id, OpResult},
};
use serde_json::{Value, json};

pub use crate::llama::permute;
use crate::llama::{self, LLAMA, Shape, Weights, uniform};

/// Its shape.
pub const SMALL: Shape = Shape {
    family: "llama",
    vocab: 96,
    width: 64,
    ffn: 128,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    tied: true,
    context: 64,
    ..LLAMA
};

/// `SMALL.layers`.
pub const LAYERS: usize = SMALL.layers;
/// `SMALL.width`.
pub const WIDTH: usize = SMALL.width;
/// `SMALL.heads`.
pub const HEADS: usize = SMALL.heads;
/// `SMALL.kv_heads`.
pub const KV_HEADS: usize = SMALL.kv_heads;
/// `SMALL.head_dim`.
pub const HEAD_DIM: usize = SMALL.head_dim;
/// `SMALL.ffn`.
pub const INNER: usize = SMALL.ffn;
/// `SMALL.vocab`.
pub const VOCAB: usize = SMALL.vocab;

/// Tensors by name.
pub type Tensors = Weights;

/// What Llama's plugin says of it.
pub const DIALECT: Dialect = Dialect {
    class: "LlamaForCausalLM",
    gguf: Some(Gguf::LLAMA),
    ..Dialect::NONE
};

/// It alone, as the families that files are read by.
pub fn families() -> [Family; 1] {
    [Named.family()]
}

/// Never run: the trace is made by hand.
pub struct Named;
impl Architecture for Named {
    fn name(&self) -> &str {
        "llama"
    }
    fn dialect(&self) -> Dialect {
        DIALECT
    }
    fn layers(&self) -> usize {
        LAYERS
    }
    fn embed(&self, _: &mut dyn Backend, _: Id) -> OpResult {
        Err("not run".into())
    }
    fn block(&self, _: &mut dyn Backend, _: usize, _: Id) -> OpResult {
        Err("not run".into())
    }
    fn head(&self, _: &mut dyn Backend, _: Id) -> OpResult {
        Err("not run".into())
    }
}

/// Its `config.json`.
pub fn config() -> Value {
    let mut config = SMALL.config();
    config["torch_dtype"] = json!("float32");
    config
}

/// What an architecture of this shape asks for.
pub fn trace() -> Trace {
    let mut trace = Trace {
        width: WIDTH,
        vocab: VOCAB,
        ..Trace::default()
    };
    for (weight, shape) in SMALL.tensors() {
        let name = weight.trim_end_matches(".weight").to_string();
        let used_as = match shape[..] {
            [_] => Use::Norm,
            _ if name == "model.embed_tokens" => Use::Embed,
            _ => Use::Linear,
        };
        if used_as == Use::Linear {
            trace.linears.push(TracedLinear {
                layer: name.split('.').nth(2).and_then(|layer| layer.parse().ok()),
                name,
                inputs: shape[1],
                outputs: shape[0],
            });
        }
        trace.weights.push(TracedWeight {
            name: weight,
            shape,
            used_as,
        });
    }
    trace.linears.push(TracedLinear {
        name: "model.embed_tokens".into(),
        inputs: WIDTH,
        outputs: VOCAB,
        layer: None,
    });
    trace
}

/// Every weight, different from all others, in f32.
pub fn tensors() -> Tensors {
    SMALL.weights(|name, shape| {
        let values = uniform(1, name, shape.iter().product());
        values.map(|u| (u - 0.5) as f32).collect()
    })
}

/// Loads it without running an architecture.
pub fn load(checkpoint: Checkpoint, options: LoadOptions) -> randori_engine::Result<Base> {
    checkpoint.load_traced(Arc::new(Named), &trace(), &options, &mut |_, _| {})
}

/// As f32, row by row.
pub fn values(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Values of a weight, dequantised.
pub fn weight(base: &Base, name: &str) -> Vec<f32> {
    values(&base.weights[name].to_f32().unwrap())
}

/// max |a - b|.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

fn cast(tensors: &Tensors, dtype: DType) -> Tensors {
    let one = |(n, t): (&String, &Tensor)| (n.clone(), t.to_dtype(dtype).unwrap());
    tensors.iter().map(one).collect()
}

/// safetensors bytes by the safetensors crate.
pub fn safetensors_bytes(tensors: &Tensors, dtype: DType) -> Vec<u8> {
    safetensors::serialize(cast(tensors, dtype), None).unwrap()
}

/// [`llama::write_folder`] in `dtype`.
pub fn write_folder(dir: &Path, tensors: &Tensors, dtype: DType) {
    llama::write_folder(dir, &config(), &cast(tensors, dtype));
}

/// llama.cpp's name of one of ours.
pub fn gguf_name(hf: &str) -> String {
    let table = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    table
        .iter()
        .fold(hf.to_string(), |name, (from, to)| name.replace(from, to))
}

/// Metadata as llama.cpp's converter writes them.
pub fn gguf_metadata() -> Vec<(String, gguf_file::Value)> {
    use gguf_file::Value::*;
    let list = |texts: &[&str]| Array(texts.iter().map(|t| String(t.to_string())).collect());
    let tokens: Vec<std::string::String> = (0..VOCAB).map(|i| format!("t{i}")).collect();
    let tokens: Vec<&str> = tokens.iter().map(|t| t.as_str()).collect();
    [
        ("general.architecture", String("llama".into())),
        ("llama.block_count", U32(LAYERS as u32)),
        ("llama.context_length", U32(64)),
        ("llama.embedding_length", U32(WIDTH as u32)),
        ("llama.feed_forward_length", U32(INNER as u32)),
        ("llama.attention.head_count", U32(HEADS as u32)),
        ("llama.attention.head_count_kv", U32(KV_HEADS as u32)),
        ("llama.attention.layer_norm_rms_epsilon", F32(1e-5)),
        ("llama.rope.freq_base", F32(10000.0)),
        ("llama.rope.dimension_count", U32(HEAD_DIM as u32)),
        ("tokenizer.ggml.model", String("gpt2".into())),
        ("tokenizer.ggml.pre", String("smollm".into())),
        ("tokenizer.ggml.tokens", list(&tokens)),
        (
            "tokenizer.ggml.token_type",
            Array((0..VOCAB).map(|_| I32(1)).collect()),
        ),
        ("tokenizer.ggml.merges", list(&["a b", "ab c"])),
        ("tokenizer.ggml.bos_token_id", U32(1)),
        ("tokenizer.ggml.eos_token_id", U32(2)),
        ("tokenizer.ggml.add_bos_token", Bool(false)),
        ("tokenizer.chat_template", String("{{ messages }}".into())),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_string(), v))
    .collect()
}

/// A GGUF file by candle's writer: matrices in `dtype`, vectors in F32, q and k permuted.
pub fn gguf_bytes(
    metadata: &[(String, gguf_file::Value)],
    tensors: &Tensors,
    dtype: GgmlDType,
) -> Vec<u8> {
    let stored: Vec<(String, QTensor)> = tensors
        .iter()
        .map(|(name, t)| {
            let heads = if name.contains("q_proj") {
                HEADS
            } else {
                KV_HEADS
            };
            let t = if name.contains("q_proj") || name.contains("k_proj") {
                permute(t, heads)
            } else {
                t.clone()
            };
            let dtype = if t.dims().len() == 1 {
                GgmlDType::F32
            } else {
                dtype
            };
            // a view is quantised with its whole storage: a copy
            (
                gguf_name(name),
                QTensor::quantize(&t.force_contiguous().unwrap(), dtype).unwrap(),
            )
        })
        .collect();
    let metadata: Vec<(&str, &gguf_file::Value)> =
        metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let refs: Vec<(&str, &QTensor)> = stored.iter().map(|(n, q)| (n.as_str(), q)).collect();
    let mut out = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut out, &metadata, &refs).unwrap();
    out.into_inner()
}
