//! GGUF metadata as the `config.json` that transformers would have.

use serde_json::{Value, json};

use super::{super::index::Place, header::Header, names::ROPE_FACTORS};

/// The configuration, in both spellings of transformers (v4: `rope_theta`, `rope_scaling`; v5: `rope_parameters`).
pub(super) fn config(header: &Header, place: &Place) -> Result<Value, String> {
    let arch = header
        .text("general.architecture")?
        .ok_or("general.architecture is missing")?;
    if arch != "llama" {
        return Err(format!(
            "the GGUF architecture {arch} is not supported; llama (which Llama and Mistral go by) is"
        ));
    }
    if header.whole("llama.expert_count")?.unwrap_or(0) > 0 {
        return Err("a mixture of experts, which is not supported from GGUF".into());
    }
    if let Some(parts @ 2..) = header.whole("split.count")? {
        return Err(format!(
            "one of {parts} parts of a model; join them with llama-gguf-split --merge"
        ));
    }
    let number = |key: &str| -> Result<usize, String> {
        let key = format!("llama.{key}");
        match header.whole(&key)? {
            Some(0) => Err(format!("{key} is 0")),
            Some(n) => Ok(n),
            None => Err(format!("{key} is missing")),
        }
    };
    let (width, heads) = (number("embedding_length")?, number("attention.head_count")?);
    let kv_heads = header
        .whole("llama.attention.head_count_kv")?
        .unwrap_or(heads);
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(format!(
            "{heads} heads cannot share {kv_heads} key-value heads"
        ));
    }
    let head_dim = header
        .whole("llama.attention.key_length")?
        .unwrap_or(width / heads);
    let turned = header
        .whole("llama.rope.dimension_count")?
        .unwrap_or(head_dim);
    if turned != head_dim {
        return Err(format!(
            "heads of {head_dim} features of which {turned} are rotated, which is not supported from GGUF"
        ));
    }
    let epsilon = header
        .float("llama.attention.layer_norm_rms_epsilon")?
        .ok_or("llama.attention.layer_norm_rms_epsilon is missing")?;
    let theta = f64::from(header.float("llama.rope.freq_base")?.unwrap_or(10_000.0) as f32);
    let has = |name: &str| header.tensors.contains_key(name);
    let id = |name: &str| header.whole(&format!("tokenizer.ggml.{name}_token_id"));
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": number("feed_forward_length")?,
        "num_hidden_layers": number("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": number("context_length")?,
        "vocab_size": vocabulary(header)?,
        "rms_norm_eps": shortest(epsilon),
        "tie_word_embeddings": !has("output.weight"),
        "attention_bias": has("blk.0.attn_q.bias"),
        "mlp_bias": has("blk.0.ffn_up.bias"),
        "bos_token_id": id("bos")?,
        "eos_token_id": id("eos")?,
        "pad_token_id": id("padding")?,
        "rope_theta": theta,
        "torch_dtype": "float32",
        "dtype": "float32",
    });
    let scaling = scaling(header, place, theta, head_dim)?;
    let mut parameters = json!({"rope_type": "default"});
    if let Some(scaling) = scaling {
        config["rope_scaling"] = scaling.clone();
        parameters = scaling;
    }
    parameters["rope_theta"] = json!(theta);
    config["rope_parameters"] = parameters;
    Ok(config)
}

/// The embedding knows best: files disagree on the key.
fn vocabulary(header: &Header) -> Result<usize, String> {
    let rows = header
        .tensors
        .get("token_embd.weight")
        .and_then(|t| t.shape.first().copied());
    rows.ok_or_else(|| "token_embd.weight is missing".to_string())
}

/// f32 metadata as the decimal number a person wrote: 1e-5, not 9.999999747378752e-6.
fn shortest(v: f64) -> f64 {
    format!("{}", v as f32).parse().unwrap_or(v)
}

/// Linear scaling by its keys; Llama 3's by the divisors that llama.cpp stores instead of its parameters.
fn scaling(
    header: &Header,
    place: &Place,
    theta: f64,
    head_dim: usize,
) -> Result<Option<Value>, String> {
    if let Some(factors) = header.tensors.get(ROPE_FACTORS) {
        let bytes = place
            .read(factors.start, factors.len)
            .map_err(|e| e.to_string())?;
        let factors: Vec<f64> = bytes
            .chunks_exact(4)
            .map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
            .collect();
        return llama3(&factors, theta, head_dim).map(Some);
    }
    let factor = header.float("llama.rope.scaling.factor")?;
    match header.text("llama.rope.scaling.type")? {
        None | Some("none") => Ok(None),
        Some("linear") => {
            let factor = factor.ok_or("llama.rope.scaling.factor is missing")?;
            Ok(Some(json!({"rope_type": "linear", "factor": factor})))
        }
        Some(other) => Err(format!(
            "llama.rope.scaling.type {other:?} is not supported; linear is"
        )),
    }
}

/// Finds the parameters whose divisors these are: by hypothesis Llama 3's 1 and 4, over the usual original lengths.
fn llama3(stored: &[f64], theta: f64, head_dim: usize) -> Result<Value, String> {
    let factor = stored.iter().copied().fold(1.0, f64::max);
    for original in [8192usize, 4096, 2048, 16384, 32768] {
        let (low, high) = (1.0, 4.0);
        let ours = (0..head_dim / 2).map(|i| {
            let turns = original as f64 * theta.powf(-2.0 * i as f64 / head_dim as f64)
                / std::f64::consts::TAU;
            // turns of the original length: many keep their frequency, few divide it, between them a blend
            let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            1.0 / ((1.0 - smooth) / factor + smooth)
        });
        let fits = stored.len() == head_dim / 2
            && ours
                .zip(stored)
                .all(|(a, b)| (a - b).abs() <= 1e-3 * b.abs());
        if fits {
            return Ok(json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }));
        }
    }
    Err(format!(
        "{ROPE_FACTORS} are not the divisors of a Llama 3 scaling that we know"
    ))
}
