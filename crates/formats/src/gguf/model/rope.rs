//! Conversion between a configuration's rotary scaling and llama.cpp's.
//!
//! llama.cpp divides every frequency by one factor and by its divisor in `rope_freqs.weight`, and
//! multiplies cosine and sine by `attn_factor`; each of the three may occur alone. With yarn it
//! multiplies them by 1 + ln(factor)/10 as well, and reads no key of its borders.

mod proportional;
mod yarn;

use randori_sdk::dialect::{Divisors, Gguf};
use serde_json::{Value, json};

use super::{
    dialect::{Keys, Spoken},
    keys::shortest,
    names::{ROPE_FACTORS, ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT},
};
use crate::{
    ByteSource, Error, Result,
    gguf::{self, bytes::Read},
};
use proportional::{STILL, proportional, proportional_section};
use yarn::{yarn_attention, yarn_scale, yarn_section};

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
    /// Frequencies by how often they turn within `original` tokens; `attention` is the factor on
    /// cosine and sine.
    Yarn {
        factor: f64,
        original: f64,
        attention: f64,
    },
    /// Texts up to `original` tokens have the short divisors, longer ones the long ones.
    ByLength {
        short: Vec<f32>,
        long: Vec<f32>,
        attention: f64,
        original: f64,
    },
    /// The first so many pairs of a head are rotated, with frequencies divided by the factor, and
    /// the others are not.
    Proportional { pairs: usize, factor: f64 },
}

impl Rope {
    /// Reads a configuration's scaling.
    ///
    /// # Errors
    /// A type that GGUF cannot express, or a missing key of it.
    pub fn new(config: &Value, head_dim: usize, gguf: &Gguf) -> Result<Rope> {
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
        if gguf.divisors == Divisors::Proportional {
            let (pairs, factor) = proportional(section, kind, head_dim)?;
            return Ok(Rope::Proportional { pairs, factor });
        }
        match kind {
            "default" => Ok(Rope::Plain),
            "linear" => Ok(Rope::Linear(need("factor")?)),
            "llama3" => Ok(Rope::Llama3 {
                factor: need("factor")?,
                low: need("low_freq_factor")?,
                high: need("high_freq_factor")?,
                original: original(config).ok_or_else(|| lacks(ORIGINAL))?,
            }),
            // older names, of which an architecture with two lists means by yarn no other
            "longrope" | "su" | "yarn"
                if kind != "yarn" || gguf.divisors == Divisors::LongShort =>
            {
                let list = |key: &str| -> Result<Vec<f32>> {
                    let list = section.get(key).and_then(Value::as_array);
                    let list = list.ok_or_else(|| lacks(key))?;
                    let numbers = list.iter().filter_map(Value::as_f64);
                    Ok(numbers.map(|v| v as f32).collect())
                };
                let (short, long) = (list("short_factor")?, list("long_factor")?);
                let (by_length, pairs) = (gguf.divisors == Divisors::LongShort, head_dim / 2);
                if (short != long && !by_length) || [short.len(), long.len()] != [pairs; 2] {
                    return Err(Error::rule(format!(
                        "short_factor and long_factor of the rope scaling differ, or are not {pairs} numbers: GGUF's {} \
                         has one list",
                        gguf.architecture
                    )));
                }
                let attention = rope_number(config, "attention_factor");
                if by_length {
                    let original = original(config).ok_or_else(|| lacks(ORIGINAL))?;
                    return Ok(Rope::ByLength {
                        short,
                        long,
                        attention: attention.unwrap_or_else(|| longer(config, original)),
                        original,
                    });
                }
                Ok(Rope::PerFrequency {
                    divisors: short,
                    attention: attention.ok_or_else(|| lacks("attention_factor"))?,
                })
            }
            "yarn" => {
                let factor = need("factor")?;
                Ok(Rope::Yarn {
                    factor,
                    original: original(config).ok_or_else(|| lacks(ORIGINAL))?,
                    attention: yarn_attention(section, factor, gguf)?,
                })
            }
            other => Err(Error::rule(format!(
                "the rope scaling {other:?} cannot be written as GGUF; default, linear, llama3, longrope and yarn can"
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
            Rope::Yarn {
                factor,
                original,
                attention,
            } => {
                let mut keys = vec![
                    (name("type"), gguf::Value::Text("yarn".into())),
                    (name("factor"), gguf::Value::Float(*factor)),
                    (
                        name("original_context_length"),
                        gguf::Value::Int(*original as i128),
                    ),
                ];
                let more = attention / yarn_scale(*factor, 1.0);
                if more != 1.0 {
                    keys.push((name("attn_factor"), gguf::Value::Float(more)));
                }
                keys
            }
            Rope::ByLength {
                attention,
                original,
                ..
            } => vec![
                (
                    name("original_context_length"),
                    gguf::Value::Int(*original as i128),
                ),
                (name("attn_factor"), gguf::Value::Float(*attention)),
            ],
            _ => Vec::new(),
        }
    }

    /// The tensors that divide the frequencies.
    pub fn tensors(&self, theta: f64, head_dim: usize) -> Vec<(&'static str, Vec<f32>)> {
        if let Rope::ByLength { short, long, .. } = self {
            return vec![
                (ROPE_FACTORS_LONG, long.clone()),
                (ROPE_FACTORS_SHORT, short.clone()),
            ];
        }
        let divisors = self.divisors(theta, head_dim);
        divisors.into_iter().map(|d| (ROPE_FACTORS, d)).collect()
    }

    /// The divisor of every frequency, for texts of any length; Llama 3's in f32 throughout, as
    /// llama.cpp's converter computes them.
    ///
    /// With wavelength w = 2π·theta^(2i/d) and original length L: 1 where w < L/high, the factor
    /// where w > L/low, and between them 1 / ((1 - s)/factor + s) with s = (L/w - low) / (high -
    /// low).
    pub fn divisors(&self, theta: f64, head_dim: usize) -> Option<Vec<f32>> {
        let (factor, low, high, original) = match self {
            Rope::Plain | Rope::Linear(_) | Rope::Yarn { .. } | Rope::ByLength { .. } => {
                return None;
            }
            Rope::PerFrequency { divisors, .. } => return Some(divisors.clone()),
            Rope::Proportional { pairs, factor } => {
                let divisor = |i| if i < *pairs { *factor as f32 } else { STILL };
                return Some((0..head_dim / 2).map(divisor).collect());
            }
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

/// The key of the original context length.
pub(super) const ORIGINAL: &str = "original_max_position_embeddings";

/// The original context length: a key beside the section takes precedence over one in it, as in
/// transformers.
fn original(config: &Value) -> Option<f64> {
    let beside = |key: &str| config.get(key).and_then(Value::as_f64);
    beside(ORIGINAL)
        .or_else(|| section(config).get(ORIGINAL).and_then(Value::as_f64))
        .or_else(|| beside("max_position_embeddings"))
}

/// The factor on cosine and sine that transformers computes for `longrope` where none is given:
/// √(1 + ln(longest / original) / ln original).
fn longer(config: &Value, original: f64) -> f64 {
    let longest = config
        .get("max_position_embeddings")
        .and_then(Value::as_f64);
    let times = rope_number(config, "factor").or(longest.map(|longest| longest / original));
    match times {
        Some(times) if times > 1.0 => (1.0 + times.ln() / original.ln()).sqrt(),
        _ => 1.0,
    }
}

/// Whether a configuration has a section.
pub(super) fn is_said(config: &Value) -> bool {
    let filled = |v: &Value| v.as_object().is_some_and(|section| !section.is_empty());
    let sections = ["rope_scaling", "rope_parameters"];
    sections
        .iter()
        .any(|key| config.get(*key).is_some_and(filled))
}

/// The section with the rope's keys. transformers v4 has theta at the top level and the rest in
/// `rope_scaling`, v5 everything in `rope_parameters`; if both exist v4's counts, as in
/// transformers 5. Where v5's is by kinds of layers, that of layers that see everything counts.
fn section(config: &Value) -> &Value {
    let filled = |v: &&Value| v.as_object().is_some_and(|section| !section.is_empty());
    let found = ["rope_scaling", "rope_parameters"]
        .iter()
        .find_map(|k| config.get(*k).filter(filled))
        .unwrap_or(config);
    found.get("full_attention").filter(filled).unwrap_or(found)
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
    keys: &Keys,
    files: &[ByteSource],
    spoken: &Spoken,
    theta: f64,
    head_dim: usize,
    context: usize,
) -> Read<Option<Value>> {
    let kinds = spoken.gguf.divisors;
    let attention = match keys.float("rope.scaling.attn_factor")? {
        Some(a) if a.is_finite() => a,
        Some(a) => return Err(format!("{} is {a}", keys.name("rope.scaling.attn_factor"))),
        None => 1.0,
    };
    let named = keys.text("rope.scaling.type")?;
    let yarn = named == Some("yarn");
    let factor = match named {
        Some("longrope") if kinds == Divisors::LongShort => 1.0,
        _ => factor(keys)?,
    };
    if kinds == Divisors::Proportional {
        if yarn || factor != 1.0 || attention != 1.0 {
            let key = keys.name("rope.scaling");
            return Err(format!("{key} beside {ROPE_FACTORS} is not supported here"));
        }
        let divisors = divisors(keys, ROPE_FACTORS, files, head_dim / 2)?;
        return Ok(Some(proportional_section(divisors, head_dim)?));
    }
    if yarn {
        return Ok(Some(yarn_section(
            keys,
            spoken,
            [factor, attention],
            context,
        )?));
    }
    if kinds == Divisors::LongShort
        && let Some(by_length) = by_length(keys, files, attention, head_dim / 2, context)?
    {
        return Ok(Some(by_length));
    }
    let divisors = match kinds {
        Divisors::One => divisors(keys, ROPE_FACTORS, files, head_dim / 2)?,
        _ => None,
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

/// The scaling of a file with divisors for short and for long texts; `None` without them.
fn by_length(
    keys: &Keys,
    files: &[ByteSource],
    attention: f64,
    pairs: usize,
    context: usize,
) -> Read<Option<Value>> {
    let read = |name: &str| -> Read<Option<Vec<f64>>> {
        let found = divisors(keys, name, files, pairs)?;
        Ok(found.map(|all| all.into_iter().map(|d| shortest(d.into())).collect()))
    };
    let (short, long) = match (read(ROPE_FACTORS_SHORT)?, read(ROPE_FACTORS_LONG)?) {
        (Some(short), Some(long)) => (short, long),
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(format!("{ROPE_FACTORS_LONG} is missing")),
        (None, Some(_)) => return Err(format!("{ROPE_FACTORS_SHORT} is missing")),
    };
    let original = keys.whole("rope.scaling.original_context_length")?;
    Ok(Some(json!({
        "rope_type": "longrope",
        "short_factor": short,
        "long_factor": long,
        "attention_factor": shortest(attention),
        "original_max_position_embeddings": original.unwrap_or(context),
    })))
}

/// The factor of all frequencies: `rope.scaling.factor`, or older files' `rope.scale_linear`. A
/// missing type means linear, and 0 no scaling.
fn factor(keys: &Keys) -> Read<f64> {
    match keys.text("rope.scaling.type")? {
        None | Some("linear" | "yarn") => {}
        Some("none") => return Ok(1.0),
        Some(other) => {
            return Err(format!(
                "{} {other:?} is not supported; none, linear and yarn are",
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

/// The divisors in a tensor of a file, if it has one of this name.
fn divisors(keys: &Keys, name: &str, files: &[ByteSource], pairs: usize) -> Read<Option<Vec<f32>>> {
    let Some(stored) = keys.header.tensors.get(name) else {
        return Ok(None);
    };
    if stored.shape != [pairs] {
        return Err(format!(
            "{name} has the shape {:?}, but heads have {pairs} pairs of features",
            stored.shape
        ));
    }
    let source = files
        .get(stored.file)
        .ok_or("a tensor's file is not open")?;
    let all = stored.numbers(name, source).map_err(|e| e.to_string())?;
    match all.iter().find(|d| !d.is_finite() || **d <= 0.0) {
        Some(bad) => Err(format!("{name} holds {bad}; a divisor is above 0")),
        None => Ok(Some(all)),
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
mod tests;
