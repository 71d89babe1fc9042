//! A tiny Llama as a GGUF file, by candle's writer: names, metadata, reversed dimensions and
//! permuted q and k as llama.cpp's converter makes them.

use std::{collections::BTreeMap, fs::File, path::Path};

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};
use gguf_file::Value;

use super::model::{CONTEXT, EPS, Shape, Weights};

/// Writes the model with every matrix in `dtype` (norms in F32); answers the weights the file
/// really holds: what candle dequantises, rows back in Hugging Face's order.
pub fn write(path: &Path, shape: &Shape, weights: &Weights, dtype: GgmlDType) -> Weights {
    let mut stored: BTreeMap<String, QTensor> = BTreeMap::new();
    let mut held = Weights::new();
    for (name, tensor) in weights {
        let heads = match name {
            n if n.ends_with("q_proj.weight") => Some(shape.heads),
            n if n.ends_with("k_proj.weight") => Some(shape.kv_heads),
            _ => None,
        };
        let as_stored = heads.map_or(tensor.clone(), |h| swap_halves(tensor, h, 2));
        let dtype = if tensor.rank() == 1 {
            GgmlDType::F32
        } else {
            dtype
        };
        let quantised = QTensor::quantize(&as_stored, dtype).unwrap();
        let back = quantised.dequantize(&Device::Cpu).unwrap();
        let back = heads.map_or(back.clone(), |h| swap_halves(&back, h, shape.head_dim / 2));
        held.insert(name.clone(), back);
        stored.insert(gguf_name(name), quantised);
    }
    if let Some(divisors) = rope_divisors(shape) {
        let n = divisors.len();
        let tensor = Tensor::from_vec(divisors, n, &Device::Cpu).unwrap();
        stored.insert(
            "rope_freqs.weight".into(),
            QTensor::quantize(&tensor, GgmlDType::F32).unwrap(),
        );
    }
    let metadata = metadata(shape);
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let stored: Vec<(&str, &QTensor)> = stored.iter().map(|(n, t)| (n.as_str(), t)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &metadata, &stored).unwrap();
    held
}

fn metadata(shape: &Shape) -> Vec<(&'static str, Value)> {
    let number = |n: usize| Value::U32(n as u32);
    vec![
        ("general.architecture", Value::String("llama".into())),
        ("general.quantization_version", Value::U32(2)),
        ("llama.context_length", number(CONTEXT)),
        ("llama.embedding_length", number(shape.width)),
        ("llama.block_count", number(shape.layers)),
        ("llama.feed_forward_length", number(shape.ffn)),
        ("llama.attention.head_count", number(shape.heads)),
        ("llama.attention.head_count_kv", number(shape.kv_heads)),
        (
            "llama.attention.layer_norm_rms_epsilon",
            Value::F32(EPS as f32),
        ),
        ("llama.rope.freq_base", Value::F32(shape.theta as f32)),
        ("llama.rope.dimension_count", number(shape.head_dim)),
        ("llama.vocab_size", number(shape.vocab)),
    ]
}

/// `W.reshape(heads, parts, rest, in).swapaxes(1, 2)`: with 2 parts llama.cpp's permutation, with
/// head_dim / 2 its inverse.
fn swap_halves(w: &Tensor, heads: usize, parts: usize) -> Tensor {
    let (outputs, inputs) = w.dims2().unwrap();
    w.reshape((heads, parts, outputs / heads / parts, inputs))
        .and_then(|w| w.transpose(1, 2)?.contiguous()?.reshape((outputs, inputs)))
        .unwrap()
}

fn gguf_name(name: &str) -> String {
    let parts = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
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

/// What llama.cpp stores instead of Llama 3's parameters: by how much each frequency is divided.
fn rope_divisors(shape: &Shape) -> Option<Vec<f32>> {
    let l = shape.llama3?;
    let divisor = |i: usize| {
        let frequency = shape.theta.powf(-2.0 * i as f64 / shape.head_dim as f64);
        let wave = 2.0 * std::f64::consts::PI / frequency;
        let original = l.original as f64;
        if wave < original / l.high {
            1.0
        } else if wave > original / l.low {
            l.factor
        } else {
            let smooth = (original / wave - l.low) / (l.high - l.low);
            1.0 / ((1.0 - smooth) / l.factor + smooth)
        }
    };
    Some((0..shape.head_dim / 2).map(|i| divisor(i) as f32).collect())
}
