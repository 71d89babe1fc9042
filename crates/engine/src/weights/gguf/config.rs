//! GGUF metadata as the `config.json` that transformers would have.

use serde_json::{Value, json};

use super::{super::index::Place, header::Header, rope};

/// The configuration, in both spellings of transformers (v4: `rope_theta`, `rope_scaling`; v5: `rope_parameters`).
pub(super) fn config(header: &Header, place: &Place) -> Result<Value, String> {
    supported(header)?;
    let number = |key: &str| -> Result<usize, String> {
        let key = format!("llama.{key}");
        match header.whole(&key)? {
            Some(0) => Err(format!("{key} is 0")),
            Some(n) => Ok(n),
            None => Err(format!("{key} is missing")),
        }
    };
    let layers = number("block_count")?;
    // one number, or one a layer
    let each = |key: &str| header.alike(&format!("llama.{key}"), layers);
    let needed = |key: &str| match each(key)? {
        Some(0) => Err(format!("llama.{key} is 0")),
        Some(n) => Ok(n),
        None => Err(format!("llama.{key} is missing")),
    };
    let (width, heads) = (number("embedding_length")?, needed("attention.head_count")?);
    let kv_heads = each("attention.head_count_kv")?.unwrap_or(heads);
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(format!(
            "{heads} heads cannot share {kv_heads} key-value heads"
        ));
    }
    let head_dim = header
        .whole("llama.attention.key_length")?
        .unwrap_or(width / heads);
    whole_heads(header, head_dim)?;
    let epsilon = header
        .float("llama.attention.layer_norm_rms_epsilon")?
        .ok_or("llama.attention.layer_norm_rms_epsilon is missing")?;
    let theta = f64::from(header.float("llama.rope.freq_base")?.unwrap_or(10_000.0) as f32);
    let has = |name: &str| header.tensors.contains_key(name);
    let id = |name: &str| header.whole(&format!("tokenizer.ggml.{name}_token_id"));
    let context = number("context_length")?;
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": needed("feed_forward_length")?,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": context,
        "vocab_size": vocabulary(header)?,
        "rms_norm_eps": shortest(epsilon),
        "tie_word_embeddings": !has("output.weight"),
        "bos_token_id": id("bos")?,
        "eos_token_id": id("eos")?,
        "pad_token_id": id("padding")?,
        "rope_theta": theta,
        "torch_dtype": "float32",
        "dtype": "float32",
    });
    let scaling = rope::scaling(header, place, theta, head_dim, context)?;
    let mut parameters = json!({"rope_type": "default"});
    if let Some(scaling) = scaling {
        config["rope_scaling"] = scaling.clone();
        parameters = scaling;
    }
    parameters["rope_theta"] = json!(theta);
    config["rope_parameters"] = parameters;
    Ok(config)
}

/// Refuses what is no `llama`, and what of it is not computed here.
fn supported(header: &Header) -> Result<(), String> {
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
    for key in ["llama.expert_used_count", "llama.expert_group_count"] {
        if let Some(n @ 1..) = header.whole(key)? {
            return Err(format!("{key} is {n}, but there are no experts"));
        }
    }
    if let Some(n @ 1..) = header.whole("llama.nextn_predict_layers")? {
        return Err(format!(
            "llama.nextn_predict_layers is {n}: blocks that predict further tokens are not supported"
        ));
    }
    if header.flag("llama.attention.causal")? == Some(false) {
        return Err(
            "llama.attention.causal is false: only what reads from left to right is supported"
                .into(),
        );
    }
    if let Some(parts @ 2..) = header.whole("split.count")? {
        return Err(format!(
            "one of {parts} parts of a model; join them with llama-gguf-split --merge"
        ));
    }
    Ok(())
}

/// Refuses heads whose values have another size, or of which a part is rotated.
fn whole_heads(header: &Header, head_dim: usize) -> Result<(), String> {
    let of_values = header
        .whole("llama.attention.value_length")?
        .unwrap_or(head_dim);
    if of_values != head_dim {
        return Err(format!(
            "heads of {head_dim} features whose values have {of_values}, which is not supported from GGUF"
        ));
    }
    let turned = header
        .whole("llama.rope.dimension_count")?
        .unwrap_or(head_dim);
    if turned != head_dim {
        return Err(format!(
            "heads of {head_dim} features of which {turned} are rotated, which is not supported from GGUF"
        ));
    }
    Ok(())
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
