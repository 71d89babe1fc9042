//! Per-column factors and biases of (rows, width), and their gradients, which are sums over the
//! rows. Sums are f32, in an order that depends on the shape alone, and are added onto an f32
//! gradient.

use crate::{Arg, Float, Grid, Launch, Ptr, Result, int};

/// Blocks that a sum is spread over, and the fewest rows for which one is started.
const BLOCKS: usize = 1024;
const LEAST: usize = 64;

/// A matrix (rows, width).
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// Type of its values.
    pub float: Float,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub width: usize,
}

impl Columns {
    fn vector(&self) -> usize {
        16 / self.float.bytes()
    }

    fn parts(&self) -> usize {
        let across = self.width.div_ceil(32 * self.vector()).max(1);
        (BLOCKS / across)
            .clamp(1, 256)
            .min(self.rows.div_ceil(LEAST).max(1))
    }

    /// Size of the sums' scratch `parts` in f32 values.
    pub fn room(&self) -> usize {
        self.parts() * self.width
    }

    /// Replaces y (rows, width) by y · factors + bias; both are f32 (width) or null.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn scale(&self, on: &dyn Launch, y: Ptr, factors: Ptr, bias: Ptr) -> Result<()> {
        if self.rows == 0 || self.width == 0 {
            return Ok(());
        }
        let vectors = self.width.div_ceil(self.vector());
        let x = vectors.next_power_of_two().min(128);
        let rows = 128 / x;
        let grid = Grid {
            blocks: [
                self.rows.div_ceil(rows * 8) as u32,
                vectors.div_ceil(x) as u32,
                1,
            ],
            threads: [x as u32, rows as u32, 1],
            shared: 0,
        };
        let sizes = [self.rows, self.width].map(|n| Arg::U64(n as u64));
        let args = [y.into(), factors.into(), bias.into(), sizes[0], sizes[1]];
        let kernel = format!("columns_scale_{}", self.float.suffix());
        on.launch(&kernel, grid, &args)
    }

    fn sums(
        &self,
        on: &dyn Launch,
        name: &str,
        pointers: [Ptr; 4],
        divisor: Ptr,
        parts: Ptr,
        onto: Ptr,
    ) -> Result<()> {
        if self.rows == 0 || self.width == 0 {
            return Ok(());
        }
        let count = self.parts();
        let run = self.rows.div_ceil(count);
        let grid = Grid {
            blocks: [
                self.width.div_ceil(32 * self.vector()) as u32,
                count as u32,
                1,
            ],
            threads: [32, 8, 1],
            shared: 0,
        };
        let mut args = pointers.map(Arg::Ptr).to_vec();
        args.push(parts.into());
        args.extend([self.rows, self.width, run].map(|n| Arg::U64(n as u64)));
        on.launch(&format!("{name}_{}", self.float.suffix()), grid, &args)?;
        let args = [
            parts.into(),
            divisor.into(),
            onto.into(),
            Arg::U64(self.width as u64),
            int(count)?,
        ];
        on.launch("column_parts", Grid::each(self.width), &args)
    }

    /// onto, f32 (width), += Σ dy over the rows. `parts` is scratch of [`Columns::room`] values.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn sum(&self, on: &dyn Launch, dy: Ptr, parts: Ptr, onto: Ptr) -> Result<()> {
        let pointers = [dy, dy, Ptr::NULL, Ptr::NULL];
        self.sums(on, "column_sums", pointers, Ptr::NULL, parts, onto)
    }

    /// The gradient to a norm's scale: dw, f32 (width), += Σ dy · (x - mean) · inverse over the
    /// rows; `means`, f32 (rows), is null for RMSNorm. `parts` is scratch of [`Columns::room`]
    /// values.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn scale_gradient(
        &self,
        on: &dyn Launch,
        x: Ptr,
        means: Ptr,
        inverse: Ptr,
        dy: Ptr,
        parts: Ptr,
        dw: Ptr,
    ) -> Result<()> {
        let pointers = [dy, x, means, inverse];
        self.sums(on, "column_sums_scale", pointers, Ptr::NULL, parts, dw)
    }

    /// The gradient to DoRA's magnitudes m: dm, f32 (width), += Σ dy · (y - bias) / m over the
    /// rows, 0 where m is 0; `bias`, f32 (width), may be null. `parts` is scratch of
    /// [`Columns::room`] values.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn magnitude_gradient(
        &self,
        on: &dyn Launch,
        y: Ptr,
        bias: Ptr,
        dy: Ptr,
        magnitude: Ptr,
        parts: Ptr,
        dm: Ptr,
    ) -> Result<()> {
        let pointers = [dy, y, bias, Ptr::NULL];
        self.sums(on, "column_sums_gain", pointers, magnitude, parts, dm)
    }
}
