//! A small Llama for the tests of weights: its names and shapes, its tensors, its files.
#![allow(dead_code)] // each test uses some of it

use std::{collections::BTreeMap, path::Path, sync::Arc};

use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};
use randori_engine::{
    Base,
    trace::{Trace, TracedLinear, TracedWeight, Use},
    weights::{Checkpoint, LoadOptions},
};
use randori_sdk::seam::{Architecture, Backend, Id, OpResult};
use serde_json::{Value, json};

pub const LAYERS: usize = 2;
pub const WIDTH: usize = 64;
pub const HEADS: usize = 4;
pub const KV_HEADS: usize = 2;
pub const HEAD_DIM: usize = 16;
pub const INNER: usize = 128;
pub const VOCAB: usize = 96;

pub type Tensors = BTreeMap<String, Tensor>;

/// Never run: the trace is made by hand.
pub struct Named;
impl Architecture for Named {
    fn name(&self) -> &str {
        "llama"
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

pub fn config() -> Value {
    json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "vocab_size": VOCAB, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "hidden_act": "silu", "torch_dtype": "float32",
    })
}

pub fn trace() -> Trace {
    let mut trace = Trace {
        width: WIDTH,
        vocab: VOCAB,
        ..Trace::default()
    };
    let mut add = |name: String, shape: Vec<usize>, used_as: Use, layer: Option<usize>| {
        if used_as == Use::Linear {
            trace.linears.push(TracedLinear {
                name: name.clone(),
                inputs: shape[1],
                outputs: shape[0],
                layer,
            });
        }
        trace.weights.push(TracedWeight {
            name: format!("{name}.weight"),
            shape,
            used_as,
        });
    };
    add(
        "model.embed_tokens".into(),
        vec![VOCAB, WIDTH],
        Use::Embed,
        None,
    );
    for l in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{l}.{part}");
        add(name("input_layernorm"), vec![WIDTH], Use::Norm, None);
        add(
            name("self_attn.q_proj"),
            vec![HEADS * HEAD_DIM, WIDTH],
            Use::Linear,
            Some(l),
        );
        add(
            name("self_attn.k_proj"),
            vec![KV_HEADS * HEAD_DIM, WIDTH],
            Use::Linear,
            Some(l),
        );
        add(
            name("self_attn.v_proj"),
            vec![KV_HEADS * HEAD_DIM, WIDTH],
            Use::Linear,
            Some(l),
        );
        add(
            name("self_attn.o_proj"),
            vec![WIDTH, HEADS * HEAD_DIM],
            Use::Linear,
            Some(l),
        );
        add(
            name("post_attention_layernorm"),
            vec![WIDTH],
            Use::Norm,
            None,
        );
        add(
            name("mlp.gate_proj"),
            vec![INNER, WIDTH],
            Use::Linear,
            Some(l),
        );
        add(
            name("mlp.up_proj"),
            vec![INNER, WIDTH],
            Use::Linear,
            Some(l),
        );
        add(
            name("mlp.down_proj"),
            vec![WIDTH, INNER],
            Use::Linear,
            Some(l),
        );
    }
    add("model.norm".into(), vec![WIDTH], Use::Norm, None);
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
    trace()
        .weights
        .iter()
        .map(|w| {
            let n = w.shape.iter().product();
            let values: Vec<f32> = randori_lora::splitmix(1, &w.name, n)
                .map(|u| (u - 0.5) as f32)
                .collect();
            (
                w.name.clone(),
                Tensor::from_vec(values, w.shape.as_slice(), &Device::Cpu).unwrap(),
            )
        })
        .collect()
}

pub fn load(checkpoint: Checkpoint, options: LoadOptions) -> randori_engine::Result<Base> {
    checkpoint.load_traced(Arc::new(Named), &trace(), &options, &mut |_, _| {})
}

pub fn values(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

pub fn weight(base: &Base, name: &str) -> Vec<f32> {
    values(&base.weights[name].to_f32().unwrap())
}

pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

/// safetensors bytes by the safetensors crate.
pub fn safetensors_bytes(tensors: &Tensors, dtype: DType) -> Vec<u8> {
    let tensors: BTreeMap<_, _> = tensors
        .iter()
        .map(|(n, t)| (n.clone(), t.to_dtype(dtype).unwrap()))
        .collect();
    safetensors::serialize(tensors, None).unwrap()
}

pub fn write_folder(dir: &Path, tensors: &Tensors, dtype: DType) {
    std::fs::write(dir.join("config.json"), config().to_string()).unwrap();
    std::fs::write(
        dir.join("model.safetensors"),
        safetensors_bytes(tensors, dtype),
    )
    .unwrap();
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

/// `W.reshape(h, 2, hd/2, in).swapaxes(1, 2).reshape(W.shape)`, as llama.cpp's converter has it.
pub fn permute(w: &Tensor, heads: usize) -> Tensor {
    let (rows, inputs) = w.dims2().unwrap();
    let half = rows / heads / 2;
    let split = w
        .reshape((heads, 2, half, inputs))
        .unwrap()
        .transpose(1, 2)
        .unwrap();
    split.contiguous().unwrap().reshape((rows, inputs)).unwrap()
}

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
