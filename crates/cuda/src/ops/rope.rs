//! Rotary position embedding.

use crate::{Arg, Error, Float, Grid, Launch, Ptr, Result, int};

/// Sizes of x (tokens, heads, dim).
#[derive(Debug, Clone, Copy)]
pub struct Rope {
    /// Values in x and y.
    pub float: Float,
    /// Rows.
    pub tokens: usize,
    /// Heads of a row.
    pub heads: usize,
    /// Values of a head.
    pub dim: usize,
    /// Pairs of a head: its first 2 · pairs values are turned.
    pub pairs: usize,
    /// Pairs are neighbours, rather than half a head apart.
    pub interleaved: bool,
}

impl Rope {
    /// y = x turned by the angles of its rows, whose cosines and sines (tokens, pairs) are f32; with `back`, turned back, which takes
    /// the gradient to y to that to x. y may be x; values behind the pairs are not written.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn turn(
        &self,
        on: &dyn Launch,
        x: Ptr,
        (cosines, sines): (Ptr, Ptr),
        y: Ptr,
        back: bool,
    ) -> Result<()> {
        if 2 * self.pairs > self.dim {
            return Err(Error::rule(format!(
                "{} pairs do not fit a head of {}",
                self.pairs, self.dim
            )));
        }
        let count = self.tokens * self.heads * self.pairs;
        if count == 0 {
            return Ok(());
        }
        let args = [
            x.into(),
            cosines.into(),
            sines.into(),
            y.into(),
            (count as u64).into(),
            int(self.heads)?,
            int(self.dim)?,
            int(self.pairs)?,
            Arg::I32(self.interleaved.into()),
            (if back { -1.0f32 } else { 1.0 }).into(),
        ];
        on.launch(
            &format!("rope_{}", self.float.suffix()),
            Grid::each(count),
            &args,
        )
    }
}
