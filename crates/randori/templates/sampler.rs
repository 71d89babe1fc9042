//! my_plugin: a sampler for Randori. It reshapes a row of logits before the host draws a token.

use randori_sdk::{Logits, Sampler, Step, options, plugin};

options! {
    /// None of the last tokens again.
    pub struct MyPlugin {
        /// How many of the last tokens count.
        last: usize = 1, 1..=64;
    }
}

impl Sampler for MyPlugin {
    const NAME: &'static str = "my_plugin";
    /// What is kept per sequence: made fresh for each.
    type State = ();

    fn apply(&self, _state: &mut (), at: &Step, logits: &mut Logits) {
        for &token in at.generated().iter().rev().take(self.last) {
            if let Some(i) = logits.index(token) {
                logits[i] = f32::NEG_INFINITY; // removes the token
            }
        }
    }
}

plugin!("The sampler my_plugin", sampler MyPlugin);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_token_is_removed() {
        let mut row = [1.0, 2.0, 3.0];
        let at = Step::new(&[0, 2], 1, &|| 0.5);
        MyPlugin::default().apply(&mut (), &at, &mut Logits::new(&mut row));
        assert_eq!(row, [1.0, 2.0, f32::NEG_INFINITY]);
    }
}
