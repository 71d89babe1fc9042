//! Soft-max over rows.

use crate::{Arg, Error, Float, Grid, Launch, Ptr, Result};

/// Soft-max over each row of (rows, width).
#[derive(Debug, Clone, Copy)]
pub struct SoftMax {
    /// Type of the values.
    pub float: Float,
    /// Rows.
    pub rows: usize,
    /// Values in a row.
    pub width: usize,
}

impl SoftMax {
    fn each_row(&self, on: &dyn Launch, name: &str, pointers: &[Ptr]) -> Result<()> {
        if self.width == 0 {
            return Err(Error::rule("a soft-max over rows of no values"));
        }
        if self.rows == 0 {
            return Ok(());
        }
        // a thread for 16 bytes or more
        let vectors = self.width.div_ceil(16 / self.float.bytes());
        let threads = vectors.next_multiple_of(32).clamp(32, 1024);
        let mut args: Vec<Arg> = pointers.iter().map(|p| Arg::Ptr(*p)).collect();
        args.push(Arg::U64(self.width as u64));
        let kernel = format!("{name}_{}", self.float.suffix());
        on.launch(&kernel, Grid::line(self.rows, threads as u32), &args)
    }

    /// y = soft-max of each row of x. y may be x.
    ///
    /// # Errors
    /// Rows of no values; as [`Launch::launch`].
    pub fn forward(&self, on: &dyn Launch, x: Ptr, y: Ptr) -> Result<()> {
        self.each_row(on, "softmax", &[x, y])
    }

    /// dx = y · (dy - Σ dy·y). dx may be y or dy.
    ///
    /// # Errors
    /// Rows of no values; as [`Launch::launch`].
    pub fn backward(&self, on: &dyn Launch, y: Ptr, dy: Ptr, dx: Ptr) -> Result<()> {
        self.each_row(on, "softmax_backward", &[y, dy, dx])
    }
}
