//! A GGUF's rotary scaling as transformers would say it.
//!
//! llama.cpp divides every frequency by one factor, and by `rope_freqs.weight`'s divisor of that
//! frequency, and multiplies cosine and sine by `attn_factor`; each of the three may stand alone.

use serde_json::{Value, json};

use super::{
    super::{
        Dtype, convert,
        index::{Place, Stored},
    },
    header::Header,
    names::ROPE_FACTORS,
};

/// `linear` and `llama3` where they say the same, or else `longrope` with the divisors themselves;
/// `None`: plain.
///
/// # Errors
/// A type that is not known, a factor or a divisor that is no positive number, divisors for other
/// heads.
pub(super) fn scaling(
    header: &Header,
    place: &Place,
    theta: f64,
    head_dim: usize,
    context: usize,
) -> Result<Option<Value>, String> {
    let factor = factor(header)?;
    let attention = match header.float("llama.rope.scaling.attn_factor")? {
        Some(a) if a.is_finite() => a,
        Some(a) => return Err(format!("llama.rope.scaling.attn_factor is {a}")),
        None => 1.0,
    };
    let divisors = match header.tensors.get(ROPE_FACTORS) {
        Some(stored) => Some(divisors(stored, place, head_dim / 2)?),
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

/// What divides all frequencies: `rope.scaling.factor`, or older files' `rope.scale_linear`; the
/// type that a file does not name is linear, and 0 means no scaling.
fn factor(header: &Header) -> Result<f64, String> {
    match header.text("llama.rope.scaling.type")? {
        None | Some("linear") => {}
        Some("none") => return Ok(1.0),
        Some(other) => {
            return Err(format!(
                "llama.rope.scaling.type {other:?} is not supported; none and linear are"
            ));
        }
    }
    for key in ["llama.rope.scaling.factor", "llama.rope.scale_linear"] {
        match header.float(key)? {
            None => {}
            Some(0.0) => return Ok(1.0),
            Some(factor) if factor.is_finite() && factor > 0.0 => return Ok(factor),
            Some(other) => return Err(format!("{key} must be above 0, got {other}")),
        }
    }
    Ok(1.0)
}

fn divisors(stored: &Stored, place: &Place, pairs: usize) -> Result<Vec<f32>, String> {
    if stored.shape != [pairs] {
        return Err(format!(
            "{ROPE_FACTORS} has the shape {:?}, but heads have {pairs} pairs of features",
            stored.shape
        ));
    }
    let all = convert::dense(ROPE_FACTORS, stored, place, Dtype::F32)
        .and_then(|t| Ok(t.to_vec1::<f32>()?))
        .map_err(|e| e.to_string())?;
    match all.iter().find(|d| !d.is_finite() || **d <= 0.0) {
        Some(bad) => Err(format!("{ROPE_FACTORS} holds {bad}; a divisor is above 0")),
        None => Ok(all),
    }
}

/// The parameters of Llama 3's scaling whose divisors these are: by hypothesis its usual 1 and 4,
/// over the usual original lengths, in f32 as llama.cpp's converter computes them. Other tools know
/// this kind better than a list.
fn llama3(stored: &[f32], theta: f64, head_dim: usize) -> Option<Value> {
    let factor = stored.iter().copied().fold(1.0, f32::max);
    let (low, high) = (1.0f32, 4.0f32);
    let fits = |original: &usize| {
        let one = |i: usize| {
            let frequency = 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32);
            let turns = *original as f32 * frequency / std::f32::consts::TAU;
            // turns of the original length: many keep their frequency, few divide it, between them
            // a blend
            let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        let mut pairs = stored.iter().enumerate();
        pairs.all(|(i, d)| (one(i) - d).abs() <= 2e-5 * d)
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
