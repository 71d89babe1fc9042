//! Yarn (arXiv 2309.00071) in a configuration and in GGUF metadata.
//!
//! llama.cpp multiplies cosine and sine by 0.1·ln(factor) + 1 by itself, or with `yarn_log_multiplier` m
//! by that over 0.1·m·ln(factor) + 1, and by `attn_factor`. transformers has one number for all of it.

use serde_json::{Value, json};

use super::{dialect::Keys, keys::shortest};
use crate::{
    Error, Result,
    gguf::{self, bytes::Read},
};

/// Yarn's numbers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Yarn {
    factor: f64,
    original: f64,
    /// The factor on cosine and sine.
    attention: f64,
    /// Turns within the original context from which frequencies stay as they are, and below which
    /// they are divided.
    fast: f64,
    slow: f64,
}

/// Turns where nothing else is said, in both programs.
const FAST: f64 = 32.0;
const SLOW: f64 = 1.0;

/// 0.1·multiplier·ln(factor) + 1; 1 where nothing is stretched.
fn grown(factor: f64, multiplier: f64) -> f64 {
    match factor <= 1.0 {
        true => 1.0,
        false => 0.1 * multiplier * factor.ln() + 1.0,
    }
}

impl Yarn {
    /// That of a configuration's section.
    ///
    /// # Errors
    /// A ramp whose ends are not rounded, which llama.cpp always does.
    pub fn new(section: &Value, factor: f64, original: f64) -> Result<Yarn> {
        let number = |key: &str| section.get(key).and_then(Value::as_f64);
        // 0 counts as absent
        let some = |key: &str| number(key).filter(|n| *n != 0.0);
        if section.get("truncate") == Some(&Value::Bool(false)) {
            return Err(Error::rule(
                "truncate of the rope scaling \"yarn\" is false, which GGUF cannot say; export a Hugging Face folder",
            ));
        }
        let attention = match (some("mscale"), some("mscale_all_dim")) {
            (Some(mscale), Some(all)) => grown(factor, mscale) / grown(factor, all),
            _ => grown(factor, 1.0),
        };
        Ok(Yarn {
            factor,
            original,
            attention: number("attention_factor").unwrap_or(attention),
            fast: some("beta_fast").unwrap_or(FAST),
            slow: some("beta_slow").unwrap_or(SLOW),
        })
    }

    /// The keys of `rope.scaling`.
    pub fn keys(&self) -> Vec<(&'static str, gguf::Value)> {
        let real = |key, value| (key, gguf::Value::Float(value));
        let mut keys = vec![
            ("type", gguf::Value::Text("yarn".into())),
            real("factor", self.factor),
            (
                "original_context_length",
                gguf::Value::Int(self.original as i128),
            ),
        ];
        let attention = self.attention / grown(self.factor, 1.0);
        for (key, value, usual) in [
            ("attn_factor", attention, 1.0),
            ("yarn_beta_fast", self.fast, FAST),
            ("yarn_beta_slow", self.slow, SLOW),
        ] {
            if value != usual {
                keys.push(real(key, value));
            }
        }
        keys
    }

    /// That of a file whose models take `context` tokens.
    ///
    /// # Errors
    /// A factor that is not there or not above 0, a number that is not finite, a share of yarn.
    pub fn read(keys: &Keys, context: usize) -> Read<Yarn> {
        let number = |key: &str, usual: f64| -> Read<f64> {
            let key = format!("rope.scaling.{key}");
            match keys.float(&key)? {
                None => Ok(usual),
                Some(value) if value.is_finite() => Ok(shortest(value)),
                Some(other) => Err(format!("{} is {other}", keys.name(&key))),
            }
        };
        let factor = number("factor", 0.0)?;
        if factor <= 0.0 {
            let key = keys.name("rope.scaling.factor");
            return Err(format!("{key} must be above 0, got {factor}"));
        }
        let share = number("yarn_ext_factor", 1.0)?;
        if share != 1.0 {
            let key = keys.name("rope.scaling.yarn_ext_factor");
            return Err(format!("{key} is {share}; only 1 is supported"));
        }
        let own = match number("yarn_log_multiplier", 0.0)? {
            0.0 => grown(factor, 1.0),
            all => grown(factor, 1.0) / grown(factor, all),
        };
        let original = keys.whole("rope.scaling.original_context_length")?;
        Ok(Yarn {
            factor,
            original: original.unwrap_or(context) as f64,
            attention: own * number("attn_factor", 1.0)?,
            fast: number("yarn_beta_fast", FAST)?,
            slow: number("yarn_beta_slow", SLOW)?,
        })
    }

    /// The section of a configuration.
    pub fn section(&self) -> Value {
        json!({
            "rope_type": "yarn",
            "factor": self.factor,
            "original_max_position_embeddings": self.original as u64,
            "attention_factor": self.attention,
            "beta_fast": self.fast,
            "beta_slow": self.slow,
        })
    }
}
