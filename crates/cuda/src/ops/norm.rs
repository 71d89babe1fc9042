//! RMSNorm and layer norm over rows. The gradients to their scales and biases are in
//! [`super::columns`].

use crate::{Arg, Error, Float, Grid, Launch, Ptr, Result, int};

/// Launches `name` with one block a row: the pointers, the width, then the constants.
fn each_row(
    on: &dyn Launch,
    name: &str,
    (float, rows, width): (Float, usize, usize),
    pointers: &[Ptr],
    constants: &[f32],
) -> Result<()> {
    if rows == 0 {
        return Ok(());
    }
    if width == 0 {
        return Err(Error::rule("a norm over rows of no values"));
    }
    let mut args: Vec<Arg> = pointers.iter().map(|p| Arg::Ptr(*p)).collect();
    args.push(int(width)?);
    args.extend(constants.iter().map(|c| Arg::F32(*c)));
    // a thread for 16 bytes or so, whole warps
    let vectors = width.div_ceil(16 / float.bytes());
    let threads = vectors.next_multiple_of(32).clamp(32, 1024);
    let kernel = format!("{name}_{}", float.suffix());
    on.launch(&kernel, Grid::line(rows, threads as u32), &args)
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
        let sizes = (self.float, self.rows, self.width);
        each_row(
            on,
            "rms_norm",
            sizes,
            &[x, w, y, inverse],
            &[self.eps, self.plus],
        )
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
        let sizes = (self.float, self.rows, self.width);
        let pointers = [x, w, inverse, dy, dx];
        each_row(on, "rms_norm_backward", sizes, &pointers, &[self.plus])
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
        let sizes = (self.float, self.rows, self.width);
        let pointers = [x, w, bias, y, means, inverse];
        each_row(on, "layer_norm", sizes, &pointers, &[self.eps])
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
        let sizes = (self.float, self.rows, self.width);
        let pointers = [x, w, means, inverse, dy, dx];
        each_row(on, "layer_norm_backward", sizes, &pointers, &[])
    }
}
