//! Log-probs of given tokens, and the gradient to the logits.

use crate::{Error, Float, Grid, Launch, Ptr, Result, int};

/// Threads for a row, and most targets that a row of [`Logits::gradient`] may have.
pub const MOST: usize = 512;

/// Logits (rows, vocab).
#[derive(Debug, Clone, Copy)]
pub struct Logits {
    /// Type of the logits.
    pub float: Float,
    /// Rows.
    pub rows: usize,
    /// Logits of a row.
    pub vocab: usize,
    /// Address of the logits.
    pub at: Ptr,
}

/// Slopes of the loss to each row's target log-probs, in the device's memory.
#[derive(Debug, Clone, Copy)]
pub struct Slopes {
    /// Sum of each row's slopes: f32 (rows).
    pub totals: Ptr,
    /// Row r has the targets `starts[r]..starts[r + 1]`: u32 (rows + 1).
    pub starts: Ptr,
    /// Target tokens: u32, no token twice in a row.
    pub tokens: Ptr,
    /// Slope of each target: f32.
    pub slopes: Ptr,
}

impl Logits {
    fn grid(&self) -> Grid {
        Grid::line(self.rows, MOST as u32)
    }

    /// Writes out, f32 (rows, 2): each row's largest logit, and log Σ e^(z - largest), which is NaN
    /// if any logit is.
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

    /// Writes out, f32 (count): the logit of `tokens[i]` in row `rows[i]`; both are u32 (count) and
    /// in range.
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

    /// Overwrites the logits with the loss's gradient to them. `most` is the largest number of
    /// targets of a row; `sums` is the output of [`Logits::sums`].
    ///
    /// # Errors
    /// A row with more than [`MOST`] targets; as [`Launch::launch`].
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
