//! When the game is over: the opponent can no longer be told from the data.

use crate::Signals;

/// Stops the game after `patience` iterations in a row that ended in a draw.
///
/// An iteration is a draw when the trained policy cannot tell real from generated: of its pairs,
/// ties counted half, it gets no more right than chance would by `noise` standard errors, or its
/// mean margin is not above `margin`. At the fixed point p_theta = p_data (paper, Theorem 5.2)
/// every iteration is a draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StopRule {
    /// Draws in a row that end the game; 0 = never.
    pub patience: usize,
    /// Standard errors above one half that an accuracy must be to count as told apart.
    pub noise: f64,
    /// Margin, in reward units, that must be exceeded to count as told apart.
    pub margin: f64,
}

impl StopRule {
    /// Plays all iterations.
    pub fn never() -> StopRule {
        StopRule {
            patience: 0,
            ..StopRule::default()
        }
    }

    /// Whether the game is over after these iterations.
    pub fn reached(&self, history: &[Signals]) -> bool {
        let draws = history
            .iter()
            .rev()
            .take_while(|signals| self.draw(signals))
            .count();
        self.patience > 0 && draws >= self.patience
    }

    /// Whether this iteration was a draw. What was not measured (NaN) decides nothing.
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
