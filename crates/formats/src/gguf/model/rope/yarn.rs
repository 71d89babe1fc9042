//! Yarn: frequencies by how often they turn within the original context length.

use randori_sdk::dialect::Gguf;
use serde_json::{Value, json};

use super::super::{
    dialect::{Keys, Spoken},
    keys::shortest,
    names::ROPE_FACTORS,
};
use crate::{Error, Result, gguf::bytes::Read};

/// The factor on cosine and sine of yarn: 1 + by/10 · ln factor.
pub(super) fn yarn_scale(factor: f64, by: f64) -> f64 {
    match factor <= 1.0 {
        true => 1.0,
        false => 0.1 * by * factor.ln() + 1.0,
    }
}

/// The factor on cosine and sine of a section's yarn.
///
/// # Errors
/// Borders that llama.cpp b11549 reads no key for: it takes 32 and 1 turns, to whole pairs.
pub(super) fn yarn_attention(section: &Value, factor: f64, gguf: &Gguf) -> Result<f64> {
    let number = |key: &str| section.get(key).and_then(Value::as_f64);
    for (key, theirs) in [("beta_fast", 32.0), ("beta_slow", 1.0)] {
        let stored = format!("rope.scaling.yarn_{key}");
        let said = gguf.keys.iter().any(|known| known.key == stored);
        if let Some(other) = number(key).filter(|n| !said && *n != 0.0 && *n != theirs) {
            return Err(Error::rule(format!(
                "{key} of the rope scaling is {other}; GGUF means {theirs} and cannot say otherwise"
            )));
        }
    }
    let truncates = section.get("truncate") != Some(&Value::Bool(false)); // absent: true
    if truncates != gguf.yarn_truncates {
        return Err(Error::rule(format!(
            "truncate of the rope scaling is {truncates}; GGUF's {} means {} and cannot say otherwise",
            gguf.architecture, gguf.yarn_truncates
        )));
    }
    let some = |key: &str| number(key).filter(|n| *n != 0.0);
    let pair = (some("mscale"), some("mscale_all_dim"));
    Ok(match (number("attention_factor"), pair) {
        (Some(given), _) => given,
        (None, (Some(one), Some(all))) => yarn_scale(factor, one) / yarn_scale(factor, all),
        (None, _) => yarn_scale(factor, 1.0),
    })
}

/// The section of a file's yarn with this factor and `attn_factor`.
pub(super) fn yarn_section(
    keys: &Keys,
    spoken: &Spoken,
    [factor, more]: [f64; 2],
    context: usize,
) -> Read<Value> {
    if keys.header.tensors.contains_key(ROPE_FACTORS) {
        return Err(format!("yarn beside {ROPE_FACTORS} is not supported"));
    }
    let original = keys.whole("rope.scaling.original_context_length")?;
    let log = keys.float("rope.scaling.yarn_log_multiplier")?;
    let all = log.filter(|_| spoken.gguf.yarn_log).unwrap_or(0.0);
    let more = shortest(more) / yarn_scale(factor, shortest(all));
    let mut section = json!({
        "rope_type": "yarn",
        "factor": shortest(factor),
        "original_max_position_embeddings": original.unwrap_or(context),
    });
    if !spoken.gguf.yarn_truncates {
        section["truncate"] = json!(false);
    }
    if more != 1.0 {
        section["attention_factor"] = json!(more * yarn_scale(factor, 1.0));
    }
    Ok(section)
}
