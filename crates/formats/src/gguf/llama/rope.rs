//! Conversion between a configuration's rotary scaling and llama.cpp's.
//!
//! llama.cpp divides every frequency by one factor and by its divisor in `rope_freqs.weight`, and
//! multiplies cosine and sine by `attn_factor`; each of the three may occur alone.

use serde_json::{Value, json};

use super::{
    dialect::{Dialect, Keys},
    names::ROPE_FACTORS,
};
use crate::{
    ByteSource, Error, Result, Stored,
    gguf::{self, bytes::Read, header::Header},
};

/// Scaling of the rotary frequencies, relative to theta's powers.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rope {
    /// None.
    Plain,
    /// All frequencies are divided by this.
    Linear(f64),
    /// Llama 3's ramp.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    /// Each frequency has its divisor, (head_dim / 2); cosine and sine are multiplied by
    /// `attention`.
    PerFrequency { divisors: Vec<f32>, attention: f64 },
}

impl Rope {
    /// Reads a configuration's scaling.
    ///
    /// # Errors
    /// A type that GGUF cannot express, or a missing key of it.
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
                Ok(Rope::PerFrequency {
                    divisors,
                    attention: attention.ok_or_else(|| lacks("attention_factor"))?,
                })
            }
            other => Err(Error::rule(format!(
                "the rope scaling {other:?} cannot be written as GGUF; default, linear, llama3 and longrope can"
            ))),
        }
    }

    /// The keys of `rope.scaling`, as named by `name`.
    pub fn keys(&self, name: impl Fn(&str) -> String) -> Vec<(String, gguf::Value)> {
        match self {
            Rope::Linear(factor) => vec![
                (name("type"), gguf::Value::Text("linear".into())),
                (name("factor"), gguf::Value::Float(*factor)),
            ],
            Rope::PerFrequency { attention, .. } if *attention != 1.0 => {
                vec![(name("attn_factor"), gguf::Value::Float(*attention))]
            }
            _ => Vec::new(),
        }
    }

    /// The divisor of every frequency; Llama 3's in f32 throughout, as llama.cpp's converter
    /// computes them.
    ///
    /// With wavelength w = 2π·theta^(2i/d) and original length L: 1 where w < L/high, the factor
    /// where w > L/low, and between them 1 / ((1 - s)/factor + s) with s = (L/w - low) / (high -
    /// low).
    pub fn divisors(&self, theta: f64, head_dim: usize) -> Option<Vec<f32>> {
        let (factor, low, high, original) = match self {
            Rope::Plain | Rope::Linear(_) => return None,
            Rope::PerFrequency { divisors, .. } => return Some(divisors.clone()),
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

/// The original context length: a key beside the section takes precedence over one in it, as in
/// transformers.
fn original(config: &Value) -> Option<f64> {
    let beside = |key: &str| config.get(key).and_then(Value::as_f64);
    beside(ORIGINAL)
        .or_else(|| section(config).get(ORIGINAL).and_then(Value::as_f64))
        .or_else(|| beside("max_position_embeddings"))
}

/// The section with the rope's keys. transformers v4 has theta at the top level and the rest in
/// `rope_scaling`, v5 everything in `rope_parameters`; if both exist v4's counts, as in
/// transformers 5.
fn section(config: &Value) -> &Value {
    let filled = |v: &&Value| v.as_object().is_some_and(|section| !section.is_empty());
    ["rope_scaling", "rope_parameters"]
        .iter()
        .find_map(|k| config.get(*k).filter(filled))
        .unwrap_or(config)
}

/// A number from the section, or else from beside it.
pub(super) fn rope_number(config: &Value, key: &str) -> Option<f64> {
    let inside = section(config).get(key).and_then(Value::as_f64);
    inside.or_else(|| config.get(key).and_then(Value::as_f64))
}

/// Converts GGUF's scaling to `linear` or `llama3` where equivalent, else to `longrope` with the
/// divisors; `None` without scaling.
///
/// # Errors
/// An unknown type, a factor or divisor that is not positive and finite, divisors for another head
/// size.
pub(super) fn scaling(
    header: &Header,
    source: &ByteSource,
    dialect: &Dialect,
    theta: f64,
    head_dim: usize,
    context: usize,
) -> Read<Option<Value>> {
    let keys = Keys::new(header, dialect);
    let factor = factor(&keys)?;
    let attention = match keys.float("rope.scaling.attn_factor")? {
        Some(a) if a.is_finite() => a,
        Some(a) => return Err(format!("{} is {a}", keys.name("rope.scaling.attn_factor"))),
        None => 1.0,
    };
    let stored = header.tensors.get(ROPE_FACTORS);
    let divisors = match stored.filter(|_| dialect.divisors) {
        Some(stored) => Some(divisors(stored, source, head_dim / 2)?),
        None => None,
    };
    let divisors = match divisors {
        None if attention == 1.0 && factor == 1.0 => return Ok(None),
        None if attention == 1.0 => {
            return Ok(Some(json!({"rope_type": "linear", "factor": factor})));
        }
        None => vec![1.0; head_dim / 2],
        Some(divisors) => divisors,
    };
    if attention == 1.0 && factor == 1.0 {
        if divisors.iter().all(|d| *d == 1.0) {
            return Ok(None);
        }
        if let Some(llama3) = llama3(&divisors, theta, head_dim) {
            return Ok(Some(llama3));
        }
    }
    let all: Vec<f64> = divisors.iter().map(|d| f64::from(*d) * factor).collect();
    Ok(Some(json!({
        "rope_type": "longrope",
        "short_factor": all,
        "long_factor": all,
        "factor": 1.0,
        "attention_factor": attention,
        "original_max_position_embeddings": context,
    })))
}

/// The factor of all frequencies: `rope.scaling.factor`, or older files' `rope.scale_linear`. A
/// missing type means linear, and 0 no scaling.
fn factor(keys: &Keys) -> Read<f64> {
    match keys.text("rope.scaling.type")? {
        None | Some("linear") => {}
        Some("none") => return Ok(1.0),
        Some(other) => {
            return Err(format!(
                "{} {other:?} is not supported; none and linear are",
                keys.name("rope.scaling.type")
            ));
        }
    }
    for key in ["rope.scaling.factor", "rope.scale_linear"] {
        match keys.float(key)? {
            None => {}
            Some(0.0) => return Ok(1.0),
            Some(factor) if factor.is_finite() && factor > 0.0 => return Ok(factor),
            Some(other) => {
                let key = keys.name(key);
                return Err(format!("{key} must be above 0, got {other}"));
            }
        }
    }
    Ok(1.0)
}

fn divisors(stored: &Stored, source: &ByteSource, pairs: usize) -> Read<Vec<f32>> {
    if stored.shape != [pairs] {
        return Err(format!(
            "{ROPE_FACTORS} has the shape {:?}, but heads have {pairs} pairs of features",
            stored.shape
        ));
    }
    let all = stored
        .numbers(ROPE_FACTORS, source)
        .map_err(|e| e.to_string())?;
    match all.iter().find(|d| !d.is_finite() || **d <= 0.0) {
        Some(bad) => Err(format!("{ROPE_FACTORS} holds {bad}; a divisor is above 0")),
        None => Ok(all),
    }
}

/// Parameters of Llama 3's scaling that give these divisors: tries its usual 1 and 4 with the usual
/// original lengths, since other programs support this type better than a list.
fn llama3(stored: &[f32], theta: f64, head_dim: usize) -> Option<Value> {
    let factor = stored.iter().copied().fold(1.0, f32::max);
    let (low, high) = (1.0f32, 4.0f32);
    let fits = |original: &usize| {
        let rope = Rope::Llama3 {
            factor: factor.into(),
            low: low.into(),
            high: high.into(),
            original: *original as f64,
        };
        let computed = rope.divisors(theta, head_dim).unwrap_or_default();
        let mut pairs = computed.iter().zip(stored);
        pairs.all(|(c, d)| (c - d).abs() <= 2e-5 * d)
    };
    let original = [8192usize, 4096, 2048, 16384, 32768]
        .into_iter()
        .find(fits)?;
    Some(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::{
        Dtype,
        gguf::{Kind, TensorSpec, header},
    };

    /// A header with this scaling's keys and divisors, and its file.
    fn written(rope: &Rope, theta: f64, head_dim: usize) -> ByteSource {
        let keys = rope.keys(|key| format!("llama.rope.scaling.{key}"));
        let divisors = rope.divisors(theta, head_dim);
        let coming = divisors
            .iter()
            .map(|d| TensorSpec::new(ROPE_FACTORS, &[d.len()], Kind::Dense(Dtype::F32)));
        let mut bytes = header::write(&keys, &coming.collect::<Vec<_>>()).unwrap();
        bytes.extend(
            Dtype::F32
                .encode("d", &divisors.unwrap_or_default())
                .unwrap(),
        );
        ByteSource::memory("x.gguf", bytes)
    }

    #[test]
    fn every_scaling_is_read_as_it_was_written() {
        let (each, theta) = (json!([1.0, 1.5, 2.0, 4.0]), 500_000.0);
        let usual = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
        for (section, same) in [
            (json!({"rope_type": "default"}), true),
            (json!({"rope_type": "linear", "factor": 4.0}), true),
            (usual, true),
            (
                json!({"rope_type": "longrope", "short_factor": each, "long_factor": each, "factor": 1.0,
                "attention_factor": 1.25, "original_max_position_embeddings": 64}),
                true,
            ),
            // unusual parameters: a list that computes the same
            (
                json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64}),
                false,
            ),
        ] {
            let rope = Rope::new(&json!({"rope_parameters": section}), 8).unwrap();
            let source = written(&rope, theta, 8);
            let header = Header::read(&source).unwrap();
            let (dialect, _) = Dialect::of_family("llama").unwrap();
            let read = scaling(&header, &source, dialect, theta, 8, 64).unwrap();
            let read = read.unwrap_or(json!({"rope_type": "default"}));
            let again = Rope::new(&json!({"rope_parameters": read}), 8).unwrap();
            match same {
                true => assert_eq!((&read["rope_type"], &again), (&section["rope_type"], &rope)),
                false => assert_eq!(again.divisors(theta, 8), rope.divisors(theta, 8)),
            }
        }
    }
}
