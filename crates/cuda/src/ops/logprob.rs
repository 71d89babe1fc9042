//! Log-probs of chosen tokens, and the gradient back to the logits.

use crate::{Error, Float, Grid, Launch, Ptr, Result, int};

/// Threads of a row, and entries that a row of [`Logits::gradient`] may have.
pub const MOST: usize = 512;

/// Logits (rows, vocab).
#[derive(Debug, Clone, Copy)]
pub struct Logits {
    /// Their values.
    pub float: Float,
    /// Rows.
    pub rows: usize,
    /// Values of a row.
    pub vocab: usize,
    /// Where.
    pub at: Ptr,
}

/// What a row's gradient is made of, on the device.
#[derive(Debug, Clone, Copy)]
pub struct Slopes {
    /// Each row's sum of slopes: f32 (rows).
    pub totals: Ptr,
    /// Row r has the entries `starts[r]..starts[r + 1]`: u32 (rows + 1).
    pub starts: Ptr,
    /// u32, no token twice in a row.
    pub tokens: Ptr,
    /// f32
    pub slopes: Ptr,
}

impl Logits {
    fn grid(&self) -> Grid {
        Grid::line(self.rows, MOST as u32)
    }

    /// out (rows, 2) f32: the largest logit and log Σ e^(z - largest); the second is NaN where a logit is.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn sums(&self, on: &dyn Launch, out: Ptr) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let args = [self.at.into(), out.into(), (self.vocab as u64).into()];
        on.launch(
            &format!("logprob_sums_{}", self.float.suffix()),
            self.grid(),
            &args,
        )
    }

    /// out\[i\] (f32) = the logit of `tokens[i]` in row `rows[i]` (both u32, `count` of them, all there).
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn pick(
        &self,
        on: &dyn Launch,
        rows: Ptr,
        tokens: Ptr,
        count: usize,
        out: Ptr,
    ) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let args = [
            self.at.into(),
            rows.into(),
            tokens.into(),
            out.into(),
            int(count)?,
            (self.vocab as u64).into(),
        ];
        on.launch(
            &format!("logprob_pick_{}", self.float.suffix()),
            Grid::each(count),
            &args,
        )
    }

    /// Turns the logits into the gradient to them. `most` is the largest number of entries that a row has; `sums` is what
    /// [`Logits::sums`] wrote.
    ///
    /// # Errors
    /// A row with more than [`MOST`] entries; as [`Launch::launch`].
    pub fn gradient(&self, on: &dyn Launch, sums: Ptr, slopes: &Slopes, most: usize) -> Result<()> {
        if most > MOST {
            return Err(Error::rule(format!(
                "a row of logits takes up to {MOST} different targets, not {most}"
            )));
        }
        if self.rows == 0 {
            return Ok(());
        }
        let pointers = [
            self.at,
            sums,
            slopes.totals,
            slopes.starts,
            slopes.tokens,
            slopes.slopes,
        ];
        let mut args: Vec<_> = pointers.map(Into::into).to_vec();
        args.push((self.vocab as u64).into());
        on.launch(
            &format!("logprob_gradient_{}", self.float.suffix()),
            self.grid(),
            &args,
        )
    }
}
