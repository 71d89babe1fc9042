//! Drawing one token from one row of logits: the sampler chain, the inverse CDF, and both
//! log-probs.

use std::sync::Arc;

use randori_kernels::{Error, Result, math};
use randori_sdk::seam::{SamplerFn, SamplerState, Step};

use crate::rng;

/// The position that a token is drawn for, and what may be drawn there.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub seed: u64,
    pub iteration: u64,
    pub sequence: u64,
    /// Token of the response, from 0.
    pub position: u64,
    /// Prompt and response so far.
    pub tokens: &'a [u32],
    /// How many of them are the prompt.
    pub prompt: usize,
    /// Tokens that may not be drawn here.
    pub banned: &'a [u32],
    /// Only ids below this are tokens.
    pub vocabulary: usize,
}

impl At<'_> {
    fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::rule(format!(
            "sequence {}, response token {}: {what}",
            self.sequence, self.position
        ))
    }
}

/// A token and its log-probs.
pub(super) struct Drawn {
    pub token: u32,
    /// Under the model.
    pub logp: f64,
    /// Under the distribution it was drawn from.
    pub behaviour: f64,
}

/// A sequence's working rows, kept from token to token.
#[derive(Default)]
pub(super) struct Scratch {
    logits: Vec<f32>,
    weights: Vec<f32>,
}

/// Draws from the model's `raw` logits (vocab), reshaped by the samplers in their order.
pub(super) fn draw(
    raw: &[f32],
    samplers: &[Arc<dyn SamplerFn>],
    states: &mut [Box<dyn SamplerState>],
    scratch: &mut Scratch,
    at: &At,
) -> Result<Drawn> {
    if let Some(i) = raw.iter().position(|l| !l.is_finite()) {
        return Err(at.error(format_args!(
            "the model's logit of token {i} is {}, not a finite number",
            raw[i]
        )));
    }
    // the rows of a padded vocabulary behind the tokens are the model's, but cannot be drawn
    let (open, padding) = raw.split_at(raw.len().min(at.vocabulary));
    let Scratch { logits, weights } = scratch;
    let plain = samplers.is_empty() && at.banned.is_empty();
    let row = if plain {
        open
    } else {
        logits.clear();
        logits.extend_from_slice(open);
        reshape(logits, samplers, states, at)?;
        logits
    };
    let (index, behaviour) = inverse_cdf(
        row,
        weights,
        rng::uniform(at.seed, at.iteration, at.sequence, at.position, 0),
    );
    let logp = if plain {
        behaviour - log_growth(f64::from(raw[index]) - behaviour, padding)
    } else {
        raw[index] as f64 - log_sum_exp(raw)
    };
    let token = index as u32;
    for state in states {
        state.accept(token, behaviour as f32);
    }
    Ok(Drawn {
        token,
        logp,
        behaviour,
    })
}

/// Runs the chain over `logits` in place and makes sure that something is left.
fn reshape(
    logits: &mut [f32],
    samplers: &[Arc<dyn SamplerFn>],
    states: &mut [Box<dyn SamplerState>],
    at: &At,
) -> Result<()> {
    ban(logits, at.banned);
    if !logits.iter().any(|l| l.is_finite()) {
        return Err(at.error(
            "every token of the vocabulary is a stop token, and min_new_tokens forbids them here",
        ));
    }
    let mut draws = 0;
    let mut uniform = || {
        draws += 1; // draw 0 is the host's
        rng::uniform(at.seed, at.iteration, at.sequence, at.position, draws)
    };
    for (sampler, state) in samplers.iter().zip(states) {
        let name = sampler.name();
        let mut step = Step {
            tokens: at.tokens,
            prompt: at.prompt,
            uniform: &mut uniform,
        };
        state
            .apply(&mut step, logits)
            .map_err(|e| at.error(format_args!("sampler {name}: {e}")))?;
        // a sampler may not bring back what is forbidden
        ban(logits, at.banned);
        if let Some(i) = logits
            .iter()
            .position(|l| l.is_nan() || *l == f32::INFINITY)
        {
            return Err(at.error(format_args!(
                "sampler {name} made the logit of token {i} {}",
                logits[i]
            )));
        }
        if !logits.iter().any(|l| l.is_finite()) {
            return Err(at.error(format_args!("sampler {name} left no token to draw")));
        }
    }
    Ok(())
}

fn ban(logits: &mut [f32], banned: &[u32]) {
    for &token in banned {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// The first token whose cumulated probability exceeds `u`, and its log-prob. `row` holds a finite
/// logit.
fn inverse_cdf(row: &[f32], weights: &mut Vec<f32>, u: f64) -> (usize, f64) {
    let max = math::max(row);
    weights.clear();
    weights.extend_from_slice(row);
    let total = math::exp_sum(weights, max);
    let threshold = u * total;
    let (mut sum, mut chosen) = (0.0, 0);
    for (i, &weight) in weights.iter().enumerate() {
        if weight > 0.0 {
            // also the answer where rounding leaves the sum just below the threshold
            chosen = i;
            sum += f64::from(weight);
            if sum > threshold {
                break;
            }
        }
    }
    (
        chosen,
        f64::from(row[chosen]) - (f64::from(max) + total.ln()),
    )
}

/// What log Σ exp, `sum`, grows by when the finite logits `more` join it.
fn log_growth(sum: f64, more: &[f32]) -> f64 {
    match more {
        [] => 0.0,
        more => (log_sum_exp(more) - sum).exp().ln_1p(),
    }
}

/// log Σ exp of a finite row.
pub(super) fn log_sum_exp(row: &[f32]) -> f64 {
    let max = math::max(row);
    f64::from(max) + math::sum_exp(row, max).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inverse_cdf_splits_the_unit_interval_by_probability() {
        let row = [
            1.0f32.ln(),
            f32::NEG_INFINITY,
            3.0f32.ln(),
            f32::NEG_INFINITY,
        ];
        let mut weights = Vec::new();
        for (u, token, p) in [
            (0.0, 0, 0.25),
            (0.2499, 0, 0.25),
            (0.2501, 2, 0.75),
            (1.0 - f64::EPSILON / 2.0, 2, 0.75),
        ] {
            let (i, logp) = inverse_cdf(&row, &mut weights, u);
            assert_eq!(i, token, "u = {u}");
            assert!((logp - f64::ln(p)).abs() < 1e-7);
        }
    }

    #[test]
    fn padding_behind_the_tokens_counts_in_the_log_prob_alone() {
        // p = 1, 3, 4 of 8 under the model; of the first two alone 1/4 and 3/4
        let row = [1.0f32.ln(), 3.0f32.ln(), 4.0f32.ln()];
        let at = At {
            seed: 1,
            iteration: 0,
            sequence: 0,
            position: 0,
            tokens: &[],
            prompt: 0,
            banned: &[],
            vocabulary: 2,
        };
        for (banned, alone) in [(&[][..], [0.25f64, 0.75]), (&[0][..], [0.0, 1.0])] {
            for position in 0..40 {
                let at = At {
                    position,
                    banned,
                    ..at
                };
                let drawn = draw(&row, &[], &mut [], &mut Scratch::default(), &at).unwrap();
                let (token, p) = (drawn.token as usize, [0.125f64, 0.375]);
                assert!((drawn.logp - p[token].ln()).abs() < 1e-7);
                assert!((drawn.behaviour - alone[token].ln()).abs() < 1e-7);
            }
        }
    }

    #[test]
    fn log_sum_exp_survives_large_logits() {
        assert!((log_sum_exp(&[1000.0, 1000.0]) - (1000.0 + 2f64.ln())).abs() < 1e-6);
        assert!(
            (log_sum_exp(&[-1000.0, -1001.0]) - (-1000.0 + (1.0 + (-1f64).exp()).ln())).abs()
                < 1e-6
        );
    }
}
