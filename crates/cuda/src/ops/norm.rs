//! RMSNorm.

use crate::{Error, Float, Grid, Launch, Ptr, Result, int};

/// Sizes and constants of a norm over rows.
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm {
    /// Values in x and y.
    pub float: Float,
    /// Rows.
    pub rows: usize,
    /// Values in a row.
    pub width: usize,
    /// Added to the mean of squares.
    pub eps: f32,
    /// Added to the scale (Gemma's 1).
    pub plus: f32,
}

impl RmsNorm {
    fn grid(&self) -> Result<Grid> {
        if self.width == 0 {
            return Err(Error::rule("a norm over rows of no values"));
        }
        // a thread for 4 values or so, whole warps
        let threads = self.width.div_ceil(4).next_multiple_of(32).clamp(32, 1024);
        Ok(Grid::line(self.rows, threads as u32))
    }

    /// y = x / sqrt(mean(x²) + eps) · (w + plus); `inverse` (rows, f32) is kept for the backward pass. w is f32.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn forward(&self, on: &dyn Launch, x: Ptr, w: Ptr, y: Ptr, inverse: Ptr) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let kernel = format!("rms_norm_{}", self.float.suffix());
        let args = [
            x.into(),
            w.into(),
            y.into(),
            inverse.into(),
            int(self.width)?,
            self.eps.into(),
            self.plus.into(),
        ];
        on.launch(&kernel, self.grid()?, &args)
    }

    /// The gradient to x, from what the forward pass kept.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn backward(
        &self,
        on: &dyn Launch,
        x: Ptr,
        w: Ptr,
        inverse: Ptr,
        dy: Ptr,
        dx: Ptr,
    ) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let kernel = format!("rms_norm_backward_{}", self.float.suffix());
        let args = [
            x.into(),
            w.into(),
            inverse.into(),
            dy.into(),
            dx.into(),
            int(self.width)?,
            self.plus.into(),
        ];
        on.launch(&kernel, self.grid()?, &args)
    }
}
