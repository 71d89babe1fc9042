//! RMSNorm and layer norm over rows. The gradients to their scales and biases are in
//! [`super::columns`].

use crate::{Error, Float, Grid, Launch, Ptr, Result, int};

fn grid(float: Float, rows: usize, width: usize) -> Result<Grid> {
    if width == 0 {
        return Err(Error::rule("a norm over rows of no values"));
    }
    // a thread for 16 bytes or so, whole warps
    let vectors = width.div_ceil(16 / float.bytes());
    let threads = vectors.next_multiple_of(32).clamp(32, 1024);
    Ok(Grid::line(rows, threads as u32))
}

/// Sizes and constants of an RMSNorm over rows.
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
    /// Added to the scale w (Gemma: 1).
    pub plus: f32,
}

impl RmsNorm {
    /// y = x / sqrt(mean(x²) + eps) · (w + plus), with w f32 (width). Writes 1 / sqrt(mean(x²) +
    /// eps) to `inverse`, f32 (rows), for the backward pass.
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
        on.launch(&kernel, grid(self.float, self.rows, self.width)?, &args)
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
        on.launch(&kernel, grid(self.float, self.rows, self.width)?, &args)
    }
}

/// Sizes and constants of a layer norm over rows.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm {
    /// Values in x and y.
    pub float: Float,
    /// Rows.
    pub rows: usize,
    /// Values in a row.
    pub width: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm {
    /// y = (x - mean) / sqrt(variance + eps) · w + bias, with w and bias f32 (width), bias null for
    /// none. Writes `means` and `inverse` = 1 / sqrt(variance + eps), f32 (rows), for the backward
    /// pass.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn forward(
        &self,
        on: &dyn Launch,
        x: Ptr,
        w: Ptr,
        bias: Ptr,
        y: Ptr,
        means: Ptr,
        inverse: Ptr,
    ) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let args = [
            x.into(),
            w.into(),
            bias.into(),
            y.into(),
            means.into(),
            inverse.into(),
            int(self.width)?,
            self.eps.into(),
        ];
        let kernel = format!("layer_norm_{}", self.float.suffix());
        on.launch(&kernel, grid(self.float, self.rows, self.width)?, &args)
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
        means: Ptr,
        inverse: Ptr,
        dy: Ptr,
        dx: Ptr,
    ) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let args = [
            x.into(),
            w.into(),
            means.into(),
            inverse.into(),
            dy.into(),
            dx.into(),
            int(self.width)?,
        ];
        let kernel = format!("layer_norm_backward_{}", self.float.suffix());
        on.launch(&kernel, grid(self.float, self.rows, self.width)?, &args)
    }
}
