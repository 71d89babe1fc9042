//! The stop rule: the game ends when the policy no longer tells generated from real.

use crate::Signals;

/// Stops the game after `patience` consecutive draws.
///
/// An iteration is a draw when the trained policy cannot tell real from generated: either its
/// accuracy (ties counted half) is no more than `noise` standard errors above one half, or its mean
/// margin is at most `margin`. At the fixed point p_theta = p_data (paper, Theorem 5.2) every
/// iteration is a draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StopRule {
    /// Consecutive draws that end the game; 0 = never.
    pub patience: usize,
    /// Standard errors above one half that the accuracy must exceed in an iteration that is no
    /// draw.
    pub noise: f64,
    /// Mean margin, in reward units, that must be exceeded in an iteration that is no draw.
    pub margin: f64,
}

impl StopRule {
    /// A rule that never stops: all iterations are played.
    pub fn never() -> StopRule {
        StopRule {
            patience: 0,
            ..StopRule::default()
        }
    }

    /// Whether the game ends after these iterations.
    pub fn reached(&self, history: &[Signals]) -> bool {
        let draws = history
            .iter()
            .rev()
            .take_while(|signals| self.draw(signals))
            .count();
        self.patience > 0 && draws >= self.patience
    }

    /// Whether an iteration was a draw. An unmeasured value (NaN) makes none.
    pub fn draw(&self, signals: &Signals) -> bool {
        let standard_error = 0.5 / (signals.pairs.max(1) as f64).sqrt();
        let ties = if signals.ties.is_nan() {
            0.0
        } else {
            signals.ties
        };
        let right = signals.accuracy + 0.5 * ties;
        right <= 0.5 + self.noise * standard_error || signals.margin <= self.margin
    }
}

impl Default for StopRule {
    fn default() -> Self {
        StopRule {
            patience: 1,
            noise: 2.0,
            margin: 0.0,
        }
    }
}
