//! The losses that come with Randori, one file each: formula, code and tests. Each is a function of
//! one pair's log-probs, of the human response y and the opponent's y', under the policy and under
//! the opponent; the SDK differentiates it. (`aot` alone is a function of all pairs of a step, with
//! slopes by hand.) They know no tensor, no token and no training step.
//!
//! `a` and `b` are the log-ratios of y and y' to the opponent. docs/reference/losses.md compares
//! the losses.

pub mod aot;
pub mod correlation;
pub mod dpop;
pub mod exponential;
pub mod hinge;
pub mod ipo;
pub mod odpo;
mod per_token;
pub mod sigmoid_norm;
pub mod simpo;
pub mod space;
pub mod spin;
pub mod sppo_hard;

randori_sdk::plugin!(
    "Losses over pairs of a human and a generated response: SPIN's own, and those that fix one of its weaknesses",
    // the SPIN paper's game, with each of its four l(t)
    loss spin::Spin,
    loss hinge::Hinge,
    loss exponential::Exponential,
    loss correlation::Correlation,
    // a target for the margin, or for each side
    loss ipo::Ipo,
    loss sppo_hard::SppoHard,
    // per token, so that length does not matter
    loss simpo::Simpo,
    loss sigmoid_norm::SigmoidNorm,
    // log p(real) must not fall
    loss dpop::Dpop,
    loss space::Space,
    // over the distributions of a whole step
    loss aot::Aot,
    // with the data's rewards
    loss odpo::Odpo,
);

#[cfg(test)]
mod check;
#[cfg(test)]
mod tests;
