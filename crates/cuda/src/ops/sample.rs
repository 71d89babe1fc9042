//! Draws tokens on the device, so that only ids and log-probs leave it.
//!
//! The order of samplers, the ranking of equal logits and both log-probs are those of the engine's
//! CPU side. Probabilities are rounded to multiples of about 2^-45 of the best token's and summed
//! exactly: a draw that is nearer to a boundary between two tokens than this, or than the rounding
//! of e^x, may give another token than the CPU.

use crate::{Arg, Error, Float, Grid, Launch, Ptr, Result};

/// Most samplers of a chain.
pub const STEPS: usize = 4;

/// One sampler of the chain, with its option.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Divides the logits by a temperature from 0.01 to 100.
    Temperature(f64),
    /// Keeps the k best tokens; 0 keeps all.
    TopK(usize),
    /// Keeps the fewest best tokens whose share of the remaining probability reaches p; 1 keeps
    /// all.
    TopP(f64),
    /// Keeps the tokens that are at least p times as likely as the best.
    MinP(f64),
    /// Keeps the best token, among equals that with the lowest id.
    Greedy,
}

impl Step {
    fn code(self) -> Result<(u32, f64)> {
        let (code, value, good) = match self {
            Step::Temperature(t) => (1, t, (0.01..=100.0).contains(&t)),
            Step::TopK(k) => (2, k as f64, true),
            Step::TopP(p) => (3, p, (0.0..=1.0).contains(&p)),
            Step::MinP(p) => (4, p, (0.0..=1.0).contains(&p)),
            Step::Greedy => (2, 1.0, true),
        };
        if good {
            Ok((code, value))
        } else {
            Err(Error::rule(format!("{self:?} is out of its bounds")))
        }
    }
}

/// Tokens that must not be drawn in some rows.
#[derive(Debug, Clone, Copy)]
pub struct Banned {
    /// The tokens: u32 (count).
    pub tokens: Ptr,
    /// Number of tokens.
    pub count: usize,
    /// Whether they are forbidden in each row: u32 (rows), 0 for no.
    pub rows: Ptr,
}

/// Rows of logits to draw from.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// Type of the logits.
    pub float: Float,
    /// Rows.
    pub rows: usize,
    /// Logits of a row, up to 2^24.
    pub vocab: usize,
    /// Tokens that can be drawn: the first `open`; the rest is padding of the vocabulary.
    pub open: usize,
    /// The samplers, in order.
    pub chain: &'a [Step],
    /// Tokens removed before the first sampler.
    pub banned: Option<Banned>,
}

impl Sample<'_> {
    /// Draws a token from each row of `logits` (rows, vocab) with `uniform`, f64 (rows) in \[0, 1).
    /// Writes `ids`, u32 (rows), and f64 (rows) `logp`, the log-prob under the model, and
    /// `behaviour`, that under the distribution drawn from. A row with a logit that is not finite,
    /// or with no token left, gives the id 2^32 - 1 and NaN.
    ///
    /// # Errors
    /// An option out of its bounds, more than [`STEPS`] samplers, a vocabulary over 2^24, as
    /// [`Launch::launch`].
    pub fn draw(
        &self,
        on: &dyn Launch,
        logits: Ptr,
        uniform: Ptr,
        ids: Ptr,
        logp: Ptr,
        behaviour: Ptr,
    ) -> Result<()> {
        let (mut kinds, mut values) = (0, [0.0f64; STEPS]);
        if self.chain.len() > STEPS {
            return Err(Error::rule(format!(
                "a chain of {} samplers; the device takes {STEPS}",
                self.chain.len()
            )));
        }
        for (i, step) in self.chain.iter().enumerate() {
            let (code, value) = step.code()?;
            kinds |= code << (8 * i);
            values[i] = value;
        }
        if self.vocab == 0 || self.vocab > 1 << 24 {
            return Err(Error::rule(format!(
                "cannot draw from {} tokens",
                self.vocab
            )));
        }
        if self.open == 0 || self.open > self.vocab {
            return Err(Error::rule(format!(
                "cannot draw from the first {} of {} tokens",
                self.open, self.vocab
            )));
        }
        if self.rows == 0 {
            return Ok(());
        }
        let (tokens, count, forbid) = match self.banned {
            Some(b) => (b.tokens, b.count, b.rows),
            None => (Ptr::NULL, 0, Ptr::NULL),
        };
        // a row of weights up to 2^shift sums to less than 2^62
        let shift = 62 - self.vocab.next_power_of_two().trailing_zeros();
        let mut args = vec![
            logits.into(),
            Arg::I32(self.vocab as i32),
            Arg::I32(self.open as i32),
            uniform.into(),
            tokens.into(),
            crate::int(count)?,
            forbid.into(),
            kinds.into(),
        ];
        args.extend(values.map(|v| Arg::U64(v.to_bits()))); // `double` in the kernel
        args.extend::<[Arg; 4]>([
            Arg::I32(shift as i32),
            ids.into(),
            logp.into(),
            behaviour.into(),
        ]);
        let threads = self.vocab.div_ceil(8).next_multiple_of(32).clamp(64, 1024);
        let kernel = format!("sample_{}", self.float.suffix());
        on.launch(&kernel, Grid::line(self.rows, threads as u32), &args)
    }
}
