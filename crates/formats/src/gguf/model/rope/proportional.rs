//! Heads of which only the first pairs of features are rotated, with frequencies of whole heads: a
//! file divides those of the others by a number beyond all texts.

use serde_json::{Value, json};

use super::super::{keys::shortest, names::ROPE_FACTORS};
use crate::{Error, Result, gguf::bytes::Read};

/// A divisor with which a pair of features does not turn within any text: llama.cpp's converter's.
pub(super) const STILL: f32 = 1e30;
/// A divisor from which on that is meant.
const STILL_FROM: f32 = 1e20;

/// How many pairs of features are rotated in layers that see everything, and the factor of their
/// divisors.
pub(super) fn proportional(section: &Value, kind: &str, head_dim: usize) -> Result<(usize, f64)> {
    let number = |key: &str| section.get(key).and_then(Value::as_f64);
    let share = match kind {
        "default" | "linear" => 1.0,
        "proportional" => number("partial_rotary_factor").unwrap_or(1.0),
        other => {
            return Err(Error::rule(format!(
                "the rope scaling {other:?} cannot be written as GGUF; of this architecture default, linear and \
                 proportional can"
            )));
        }
    };
    let pairs = (share * head_dim as f64 / 2.0) as usize;
    let factor = match kind {
        "default" => 1.0,
        _ => number("factor").unwrap_or(1.0),
    };
    let fits = (0.0..=1.0).contains(&share) && (1.0..STILL_FROM.into()).contains(&factor);
    match fits {
        true => Ok((pairs, factor)),
        false => Err(Error::rule(format!(
            "the rope scaling {kind:?} with a share of {share} and a factor of {factor} cannot be written as GGUF"
        ))),
    }
}

/// The section of a file with these divisors.
///
/// # Errors
/// Divisors that are not one number first and numbers with which nothing turns then.
pub(super) fn proportional_section(divisors: Option<Vec<f32>>, head_dim: usize) -> Read<Value> {
    let Some(divisors) = divisors else {
        return Err(format!("{ROPE_FACTORS} is missing"));
    };
    let turned = divisors.iter().take_while(|d| **d < STILL_FROM).count();
    let (turning, still) = divisors.split_at(turned);
    let factor = turning.first().copied().unwrap_or(1.0);
    let odd = turning.iter().find(|d| **d != factor);
    if let Some(odd) = odd.or(still.iter().find(|d| **d < STILL_FROM)) {
        return Err(format!(
            "{ROPE_FACTORS} holds {odd} beside {factor}: only one factor for the first pairs of features, and none turning \
             behind them, is supported here"
        ));
    }
    let mut share = turned as f64 / (head_dim / 2).max(1) as f64;
    if ((share * head_dim as f64 / 2.0) as usize) < turned {
        share = share.next_up(); // so that who multiplies again finds as many
    }
    let mut section = json!({"rope_type": "proportional", "partial_rotary_factor": share});
    if factor != 1.0 {
        section["factor"] = json!(shortest(factor.into()));
    }
    Ok(section)
}
