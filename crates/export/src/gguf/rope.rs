//! A configuration's rotary scaling as llama.cpp keeps it: one factor, or a divisor of each
//! frequency.

use serde_json::Value;

use super::Meta;
use crate::{Error, Result};

/// How rotary frequencies differ from theta's powers.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rope {
    /// Not at all.
    Plain,
    /// All are divided by this.
    Linear(f64),
    /// Llama 3's ramp.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    /// Each has its divisor, (head_dim / 2); cosine and sine are multiplied by `attention`.
    Each { divisors: Vec<f32>, attention: f64 },
}

impl Rope {
    /// # Errors
    /// A kind that a GGUF cannot say, a key that it needs and does not have.
    pub fn new(config: &Value, head_dim: usize) -> Result<Rope> {
        let section = section(config);
        let kind = ["rope_type", "type"]
            .iter()
            .find_map(|k| section.get(*k).and_then(Value::as_str))
            .unwrap_or("default");
        let lacks = |key: &str| {
            Error::rule(format!(
                "the rope scaling {kind:?} of the model's configuration has no {key}"
            ))
        };
        let need = |key: &str| rope_number(config, key).ok_or_else(|| lacks(key));
        match kind {
            "default" => Ok(Rope::Plain),
            "linear" => Ok(Rope::Linear(need("factor")?)),
            "llama3" => Ok(Rope::Llama3 {
                factor: need("factor")?,
                low: need("low_freq_factor")?,
                high: need("high_freq_factor")?,
                original: original(config).ok_or_else(|| lacks(ORIGINAL))?,
            }),
            "longrope" => {
                let list = |key: &str| -> Result<Vec<f32>> {
                    let list = section.get(key).and_then(Value::as_array);
                    let list = list.ok_or_else(|| lacks(key))?;
                    let numbers = list.iter().filter_map(Value::as_f64);
                    Ok(numbers.map(|v| v as f32).collect())
                };
                let divisors = list("short_factor")?;
                if divisors != list("long_factor")? || divisors.len() != head_dim / 2 {
                    return Err(Error::rule(format!(
                        "short_factor and long_factor of the rope scaling differ, or are not {} numbers: GGUF's llama \
                         has one list",
                        head_dim / 2
                    )));
                }
                let attention = rope_number(config, "attention_factor");
                Ok(Rope::Each {
                    divisors,
                    attention: attention.ok_or_else(|| lacks("attention_factor"))?,
                })
            }
            other => Err(Error::rule(format!(
                "the rope scaling {other:?} cannot be written as GGUF; default, linear, llama3 and longrope can"
            ))),
        }
    }

    /// The keys of `rope.scaling`, named by `name`.
    pub fn keys(&self, name: impl Fn(&str) -> String) -> Vec<(String, Meta)> {
        match self {
            Rope::Linear(factor) => vec![
                (name("type"), Meta::Text("linear".into())),
                (name("factor"), Meta::F32(*factor as f32)),
            ],
            Rope::Each { attention, .. } if *attention != 1.0 => {
                vec![(name("attn_factor"), Meta::F32(*attention as f32))]
            }
            _ => Vec::new(),
        }
    }

    /// The divisor of every frequency; Llama 3's in f32 throughout as llama.cpp's converter
    /// computes them.
    ///
    /// With wavelength w = 2π·theta^(2i/d) and original length L: 1 where w < L/high, the factor
    /// where w > L/low, and between them 1 / ((1 - s)/factor + s) with s = (L/w - low) / (high -
    /// low).
    pub fn divisors(&self, theta: f64, head_dim: usize) -> Option<Vec<f32>> {
        let (factor, low, high, original) = match self {
            Rope::Plain | Rope::Linear(_) => return None,
            Rope::Each { divisors, .. } => return Some(divisors.clone()),
            Rope::Llama3 {
                factor,
                low,
                high,
                original,
            } => (*factor as f32, *low as f32, *high as f32, *original as f32),
        };
        let divisor = |i: usize| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            let frequency = 1.0 / (theta as f32).powf(exponent);
            let wave = std::f32::consts::TAU / frequency;
            if wave < original / high {
                1.0
            } else if wave > original / low {
                factor
            } else {
                let smooth = (original / wave - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        Some((0..head_dim / 2).map(divisor).collect())
    }
}

const ORIGINAL: &str = "original_max_position_embeddings";

/// The length that a scaling stretches: what stands beside the section goes before what stands in
/// it, as in transformers.
fn original(config: &Value) -> Option<f64> {
    let beside = |key: &str| config.get(key).and_then(Value::as_f64);
    beside(ORIGINAL)
        .or_else(|| section(config).get(ORIGINAL).and_then(Value::as_f64))
        .or_else(|| beside("max_position_embeddings"))
}

/// transformers v4 had theta at the top and the rest in `rope_scaling`, v5 keeps everything in
/// `rope_parameters`; where both are there v4's counts, as transformers 5 has it.
fn section(config: &Value) -> &Value {
    let filled = |v: &&Value| v.as_object().is_some_and(|section| !section.is_empty());
    ["rope_scaling", "rope_parameters"]
        .iter()
        .find_map(|k| config.get(*k).filter(filled))
        .unwrap_or(config)
}

/// A number of the section that counts, or else beside it.
pub(super) fn rope_number(config: &Value, key: &str) -> Option<f64> {
    let inside = section(config).get(key).and_then(Value::as_f64);
    inside.or_else(|| config.get(key).and_then(Value::as_f64))
}
