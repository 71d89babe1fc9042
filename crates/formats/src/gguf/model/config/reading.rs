//! A file's metadata as a configuration; what is not supported is refused.

use randori_sdk::dialect::{Divisors, Gguf};
use serde_json::{Value, json};

use super::super::{
    dialect::{Keys, Spoken},
    heads,
    keys::{self, Sizes, shortest},
    layered::{FFN, Found},
    rope,
};
use crate::{
    ByteSource,
    gguf::{bytes::Read, header::Header},
};

/// Converts metadata to a configuration with both spellings of transformers (v4: `rope_theta`,
/// `rope_scaling`; v5: `rope_parameters`).
pub fn read(header: &Header, files: &[ByteSource], spoken: &Spoken) -> Read<Value> {
    let keys = Keys::new(header)?;
    supported(&keys, &spoken.gguf)?;
    let positive = |key: &str, found: Option<usize>| match found {
        Some(0) => Err(format!("{} is 0", keys.name(key))),
        Some(n) => Ok(n),
        None => Err(format!("{} is missing", keys.name(key))),
    };
    let number = |key: &str| positive(key, keys.whole(key)?);
    let layers = number("block_count")?;
    // one number, or one per layer
    let needed = |key: &str| positive(key, keys.alike(key, layers)?);
    let (width, heads) = (number("embedding_length")?, needed("attention.head_count")?);
    let found = Found::read(&keys, spoken, layers, heads)?;
    let (kv_heads, kinds) = match &found {
        Some(found) => (Some(found.windowed.key_heads), None),
        None => heads::key_heads(&keys, spoken, layers)?,
    };
    let kv_heads = kv_heads.unwrap_or(heads);
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(format!(
            "{heads} heads cannot share {kv_heads} key-value heads"
        ));
    }
    let features = keys.whole("attention.key_length")?.unwrap_or(width / heads);
    let rotated = turned(&keys, features, spoken.gguf.partial_rotary)?;
    let head_dim = found.as_ref().map_or(features, |f| f.windowed.features);
    let ffn = match &found {
        Some(found) => found.ffn,
        None => needed(FFN)?,
    };
    let epsilon = spoken.gguf.epsilon;
    let epsilon = keys
        .float(epsilon)?
        .ok_or_else(|| format!("{} is missing", keys.name(epsilon)))?;
    let class = spoken.family.dialect.class;
    let has = |name: &str| header.tensors.contains_key(name);
    let id = |name: &str| header.whole(&format!("tokenizer.ggml.{name}_token_id"));
    let mut config = json!({
        "architectures": (!class.is_empty()).then_some([class]),
        "model_type": spoken.family.name,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": number("context_length")?,
        "vocab_size": vocabulary(header)?,
        "rms_norm_eps": shortest(epsilon),
        "tie_word_embeddings": !has("output.weight"),
        "bos_token_id": id("bos")?,
        "eos_token_id": id("eos")?,
        "pad_token_id": id("padding")?,
        "torch_dtype": "float32",
        "dtype": "float32",
    });
    if spoken.gguf.partial_rotary {
        config["partial_rotary_factor"] = json!(rotated as f64 / head_dim as f64);
    }
    if let Some(kinds) = kinds {
        config["layer_types"] = kinds;
    }
    for (key, value) in found.into_iter().flat_map(|found| found.config) {
        config[key] = value;
    }
    rotary(&keys, files, spoken, rotated, &mut config)?;
    keys::read(spoken, &keys, layers, &mut config)?;
    spell_v4(&mut config);
    let sizes = Sizes {
        layers,
        width,
        heads,
        head_dim,
        theta: theta(&keys)?,
    };
    keys::imply(spoken, &sizes, &mut config);
    for key in spoken.gguf.renamed.iter().filter(|key| !key.older) {
        let map = config.as_object_mut();
        if let Some(map) = map
            && let Some(value) = map.remove(key.usual)
        {
            map.insert(key.here.into(), value);
        }
    }
    Ok(config)
}

/// A file's rotary base.
fn theta(keys: &Keys) -> Read<f64> {
    let base = keys.float("rope.freq_base")?;
    Ok(f64::from(base.unwrap_or(10_000.0) as f32))
}

/// The rotary keys of a configuration whose other keys are there.
fn rotary(
    keys: &Keys,
    files: &[ByteSource],
    spoken: &Spoken,
    rotated: usize,
    config: &mut Value,
) -> Read<()> {
    let theta = theta(keys)?;
    let context = config["max_position_embeddings"].as_u64().unwrap_or(0) as usize;
    config["rope_theta"] = json!(theta);
    let mut parameters = json!({"rope_type": "default"});
    if let Some(scaling) = rope::scaling(keys, files, spoken, theta, rotated, context)? {
        if spoken.gguf.divisors == Divisors::LongShort
            && let Some(original) = scaling.get(rope::ORIGINAL)
        {
            config[rope::ORIGINAL] = original.clone(); // a class with two lists looks there
        }
        if spoken.gguf.divisors != Divisors::Proportional {
            config["rope_scaling"] = scaling.clone(); // v4's spelling, of which that is no kind
        }
        parameters = scaling;
    }
    parameters["rope_theta"] = json!(theta);
    if spoken.gguf.partial_rotary {
        parameters["partial_rotary_factor"] = config["partial_rotary_factor"].clone();
    }
    config["rope_parameters"] = match keys::two_bases(spoken) {
        false => parameters,
        // layers with a window turn by a base of their own, never scaled
        true => {
            let base = keys::windowed_base(spoken, keys)?.unwrap_or(theta);
            json!({"full_attention": parameters, "sliding_attention":
                {"rope_type": "default", "rope_theta": base}})
        }
    };
    Ok(())
}

/// Gives v4's section, where there is one, what keys of the family have put into v5's.
fn spell_v4(config: &mut Value) {
    let more = config["rope_parameters"].as_object().cloned();
    let scaling = config.get_mut("rope_scaling");
    let Some(scaling) = scaling.and_then(Value::as_object_mut) else {
        return;
    };
    let beside = ["rope_theta", "partial_rotary_factor"];
    for (key, value) in more.into_iter().flatten() {
        if !value.is_object() && !beside.contains(&key.as_str()) {
            scaling.entry(key).or_insert(value);
        }
    }
}

/// Refuses features that are not supported.
fn supported(keys: &Keys, gguf: &Gguf) -> Read<()> {
    let known = |key: &str| gguf.keys.iter().any(|known| known.key == key);
    if !known("expert_count") && keys.whole("expert_count")?.unwrap_or(0) > 0 {
        return Err("a mixture of experts, which no loaded plugin reads from GGUF".into());
    }
    for key in ["expert_used_count", "expert_group_count"] {
        if known(key) {
            continue;
        }
        if let Some(n @ 1..) = keys.whole(key)? {
            let key = keys.name(key);
            return Err(format!("{key} is {n}, but there are no experts"));
        }
    }
    if let Some(n @ 1..) = keys.whole("nextn_predict_layers")? {
        return Err(format!(
            "{} is {n}: blocks that predict further tokens are not supported",
            keys.name("nextn_predict_layers")
        ));
    }
    if keys.flag("attention.causal")? == Some(false) {
        return Err(format!(
            "{} is false: only what reads from left to right is supported",
            keys.name("attention.causal")
        ));
    }
    Ok(())
}

/// How many features of a head are rotated; refuses heads whose values have another size, and a
/// part where the architecture has none.
fn turned(keys: &Keys, head_dim: usize, partial: bool) -> Read<usize> {
    let of_values = keys.whole("attention.value_length")?.unwrap_or(head_dim);
    if of_values != head_dim {
        return Err(format!(
            "heads of {head_dim} features whose values have {of_values}, which is not supported from GGUF"
        ));
    }
    let turned = keys.whole("rope.dimension_count")?.unwrap_or(head_dim);
    if turned != head_dim && !(partial && (1..head_dim).contains(&turned)) {
        return Err(format!(
            "heads of {head_dim} features of which {turned} are rotated, which is not supported from GGUF"
        ));
    }
    Ok(turned)
}

/// Size of the vocabulary, from the embedding's rows, since files disagree on the key.
fn vocabulary(header: &Header) -> Read<usize> {
    let rows = header
        .tensors
        .get("token_embd.weight")
        .and_then(|t| t.shape.first().copied());
    rows.ok_or_else(|| "token_embd.weight is missing".to_string())
}
