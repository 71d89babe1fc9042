//! Rotary position embedding.

use crate::{Error, Float, Grid, Launch, Ptr, Result};

/// Rotary position embedding of x (tokens, heads, dim).
#[derive(Debug, Clone, Copy)]
pub struct Rope {
    /// Type of x and y.
    pub float: Float,
    /// Rows.
    pub tokens: usize,
    /// Heads of a row.
    pub heads: usize,
    /// Features of a head.
    pub dim: usize,
    /// Rotated pairs of a head: its first 2 · pairs features.
    pub pairs: usize,
    /// Pairs are neighbours (2i, 2i + 1), rather than (i, i + pairs).
    pub interleaved: bool,
}

impl Rope {
    /// Rotates x by its tokens' angles into y, given their cosines and sines, f32 (tokens, pairs);
    /// with `back` by the negated angles, which turns the gradient to y into that to x. Features
    /// behind the pairs are copied. y may be x.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn rotate(
        &self,
        on: &dyn Launch,
        x: Ptr,
        (cosines, sines): (Ptr, Ptr),
        y: Ptr,
        back: bool,
    ) -> Result<()> {
        let (d, pairs) = (self.dim, self.pairs);
        let sizes = (
            u32::try_from(self.heads),
            u32::try_from(d),
            u32::try_from(pairs),
        );
        let (Ok(heads), Ok(d32), Ok(pairs32)) = sizes else {
            return Err(Error::rule(format!("heads of {d} features")));
        };
        if 2 * pairs > d {
            return Err(Error::rule(format!(
                "{pairs} pairs want {} features or more a head, not {d}",
                2 * pairs
            )));
        }
        let vector = 16 / self.float.bytes();
        let part = if self.interleaved { 2 * pairs } else { pairs };
        let wide = [x, y].iter().all(|p| p.0.is_multiple_of(16))
            && d.is_multiple_of(vector)
            && part.is_multiple_of(vector);
        let (kernel, units) = match (self.interleaved, wide) {
            (true, true) => ("interleaved", d / vector),
            (true, false) => ("interleaved", d.div_ceil(2)),
            (false, true) => ("half", (d - pairs) / vector),
            (false, false) => ("half", d - pairs),
        };
        let n = self.tokens * self.heads * units;
        if n == 0 {
            return Ok(());
        }
        let args = [
            x.into(),
            cosines.into(),
            sines.into(),
            y.into(),
            (n as u64).into(),
            heads.into(),
            d32.into(),
            pairs32.into(),
            if back { -1.0 } else { 1.0 }.into(),
            i32::from(wide).into(),
        ];
        let kernel = format!("rope_{kernel}_{}", self.float.suffix());
        on.launch(&kernel, Grid::each(n), &args)
    }
}
