//! my_plugin: a loss over pairs for Randori. Its numbers carry their slopes to both log-probs, so
//! value and gradient cannot disagree.

use randori_sdk::{Dual, Pair, PairLoss, options, plugin};

options! {
    /// The logistic loss, with a share of the target for the other side (conservative DPO).
    pub struct MyPlugin {
        /// How strongly the policy is held to its opponent.
        beta: f64 = 0.1, 0.0..=100.0;
        /// Probability that a pair is the wrong way round.
        doubt: f64 = 0.05, 0.0..=0.5;
    }
}

impl PairLoss for MyPlugin {
    const NAME: &'static str = "my_plugin";

    fn loss(&self, pair: &Pair) -> Dual {
        let m = pair.margin() * self.beta;
        -m.log_sigmoid() * (1.0 - self.doubt) - (-m).log_sigmoid() * self.doubt
    }
}

plugin!("The loss my_plugin", loss MyPlugin);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_margin_0_it_is_ln_2() {
        // (log-prob, the opponent's, tokens) of the real and of the generated response
        let pair = Pair::new((-9.0, -10.0, 4), (-7.0, -8.0, 4));
        let loss = MyPlugin { beta: 1.0, doubt: 0.0 }.loss(&pair);
        assert!((loss.value - 2f64.ln()).abs() < 1e-15);
        assert_eq!(loss.slope, [-0.5, 0.5]);
    }
}
