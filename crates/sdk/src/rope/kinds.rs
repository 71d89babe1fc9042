//! The kinds of rotary frequencies, each by its formula, in f64.

use std::f64::consts::TAU;

use super::{keys::Keys, rules::RopeKind};
use crate::Result;

/// Frequencies, not yet rounded.
pub(super) struct Computed {
    pub(super) inv_freq: Vec<f64>,
    /// Factor on cosine and sine.
    pub(super) mscale: f64,
    /// Those of sequences longer than so many tokens; none: such sequences are refused.
    pub(super) long: Option<(usize, Vec<f64>)>,
}

/// Computes the frequencies of `dim` rotated features.
pub(super) fn compute(keys: &Keys, kind: RopeKind, dim: usize, share: f64) -> Result<Computed> {
    let theta = keys.theta()?;
    let plain = |i: usize| theta.powf(-((2 * i) as f64) / dim as f64);
    let pairs = 0..dim / 2;
    let (mut mscale, mut long) = (1.0, None);
    let inv_freq: Vec<f64> = match kind {
        RopeKind::Default => pairs.map(plain).collect(),
        RopeKind::Linear => {
            let factor = keys.need("factor")?;
            pairs.map(|i| plain(i) / factor).collect()
        }
        RopeKind::Dynamic => {
            keys.need("factor")?;
            long = Some((
                length("max_position_embeddings", keys.longest()?)?,
                Vec::new(),
            ));
            pairs.map(plain).collect()
        }
        RopeKind::Yarn => {
            let yarn = Yarn::read(keys, theta, dim)?;
            mscale = yarn.attention;
            pairs.map(|i| yarn.apply(i, plain(i))).collect()
        }
        RopeKind::LongRope => {
            mscale = long_attention(keys)?;
            let of = |key: &str| -> Result<Vec<f64>> {
                let divisors = keys.divisors(key, dim / 2)?;
                let each = divisors.iter().enumerate();
                Ok(each.map(|(i, divisor)| plain(i) / divisor).collect())
            };
            let (short, beyond) = (of("short_factor")?, of("long_factor")?);
            if short != beyond {
                long = Some((original_length(keys)?, beyond));
            }
            short
        }
        RopeKind::Llama3 => {
            let scale = Llama3 {
                factor: keys.need("factor")?,
                low: keys.need("low_freq_factor")?,
                high: keys.need("high_freq_factor")?,
                old_context: keys.original()?,
            };
            pairs.map(|i| scale.apply(plain(i))).collect()
        }
        RopeKind::Proportional => {
            let factor = keys.number("factor")?.unwrap_or(1.0);
            let rotated = (share * dim as f64 / 2.0) as usize;
            let one = |i| if i < rotated { plain(i) / factor } else { 0.0 };
            pairs.map(one).collect()
        }
    };
    Ok(Computed {
        inv_freq,
        mscale,
        long,
    })
}

/// The original context length in tokens.
pub(super) fn original_length(keys: &Keys) -> Result<usize> {
    length("original_max_position_embeddings", keys.original()?)
}

/// A number of tokens.
fn length(key: &str, value: f64) -> Result<usize> {
    match value {
        n if n >= 1.0 && n.fract() == 0.0 && n <= 9e15 => Ok(n as usize),
        n => Err(format!("`{key}` must be a whole number of tokens, is {n}").into()),
    }
}

/// longrope's factor on cosine and sine, at every length: `attention_factor`, or sqrt(1 +
/// ln(factor) / ln(original context)).
fn long_attention(keys: &Keys) -> Result<f64> {
    if let Some(given) = keys.number("attention_factor")? {
        return Ok(given);
    }
    let original = keys.original()?;
    let factor = match keys.number("factor")? {
        Some(factor) => factor,
        None => keys.longest()? / original,
    };
    match factor <= 1.0 {
        true => Ok(1.0),
        false => Ok((1.0 + factor.ln() / original.ln()).sqrt()),
    }
}

/// Yarn's scaling.
struct Yarn {
    factor: f64,
    /// Factor on cosine and sine.
    attention: f64,
    /// The pairs between which the ramp lies.
    low: f64,
    high: f64,
}

impl Yarn {
    fn read(keys: &Keys, theta: f64, dim: usize) -> Result<Yarn> {
        let original = keys.original()?;
        let factor = match keys.number("factor")? {
            Some(factor) => factor,
            None => keys.longest()? / original,
        };
        let scale = |by: f64| match factor <= 1.0 {
            true => 1.0,
            false => 0.1 * by * factor.ln() + 1.0,
        };
        // 0 counts as absent
        let some =
            |key: &str| -> Result<Option<f64>> { Ok(keys.number(key)?.filter(|n| *n != 0.0)) };
        let over = (some("mscale")?, some("mscale_all_dim")?);
        let attention = match (keys.number("attention_factor")?, over) {
            (Some(given), _) => given,
            (None, (Some(mscale), Some(all))) => scale(mscale) / scale(all),
            (None, _) => scale(1.0),
        };
        // the pair that turns so often within the original context
        let pair = |turns: f64| dim as f64 * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
        let low = pair(some("beta_fast")?.unwrap_or(32.0));
        let high = pair(some("beta_slow")?.unwrap_or(1.0));
        let (low, high) = match keys.truncate()? {
            true => (low.floor(), high.ceil()),
            false => (low, high),
        };
        let (low, high) = (low.max(0.0), high.min((dim - 1) as f64));
        Ok(Yarn {
            factor,
            attention,
            low,
            high: if low == high { high + 0.001 } else { high },
        })
    }

    fn apply(&self, i: usize, frequency: f64) -> f64 {
        let stretched = ((i as f64 - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        stretched * frequency / self.factor + (1.0 - stretched) * frequency
    }
}

/// Llama 3.1's scaling.
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    old_context: f64,
}

impl Llama3 {
    fn apply(&self, frequency: f64) -> f64 {
        // how often the wave turns within the old context
        let turns = self.old_context * frequency / TAU;
        let kept = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        (1.0 - kept) * frequency / self.factor + kept * frequency
    }
}
