//! A bias or a factor for each column, and sums over rows.

use crate::{Arg, Float, Grid, Launch, Ptr, Result, int};

/// Rows that one block sums.
const EACH: usize = 64;
/// Blocks along y at most.
const PARTS: usize = 65_535;

/// Rows of `width` values.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// Values in rows.
    pub float: Float,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub width: usize,
}

impl Columns {
    /// y = y · factors + bias in place, both f32 (width) or null.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn scale(&self, on: &dyn Launch, y: Ptr, factors: Ptr, bias: Ptr) -> Result<()> {
        let count = self.rows * self.width;
        if count == 0 {
            return Ok(());
        }
        let args = [
            y.into(),
            factors.into(),
            bias.into(),
            (count as u64).into(),
            (self.width as u64).into(),
        ];
        on.launch(
            &format!("columns_scale_{}", self.float.suffix()),
            Grid::each(count),
            &args,
        )
    }

    /// Rows a block sums, and how many blocks that makes.
    fn cut(&self) -> (usize, usize) {
        let each = EACH.max(self.rows.div_ceil(PARTS));
        (each, self.rows.div_ceil(each))
    }

    /// How many f32 values `parts` must hold for [`Columns::sum`].
    pub fn room(&self) -> usize {
        self.cut().1 * self.width
    }

    /// onto (width) f32 += Σ over rows of dy, or, with x (as dy) and inverse (rows) f32, of dy · x · inverse. `parts` is room as
    /// [`Columns::room`] says.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn sum(
        &self,
        on: &dyn Launch,
        dy: Ptr,
        by: Option<(Ptr, Ptr)>,
        parts: Ptr,
        onto: Ptr,
    ) -> Result<()> {
        if self.rows == 0 || self.width == 0 {
            return Ok(());
        }
        let (each, count) = self.cut();
        let (x, inverse) = by.unwrap_or((Ptr::NULL, Ptr::NULL));
        let mut args: Vec<Arg> = [dy, x, inverse, parts].map(Arg::from).to_vec();
        args.extend([
            (self.rows as u64).into(),
            (self.width as u64).into(),
            int(each)?,
        ]);
        let mut grid = Grid::each(self.width);
        grid.blocks[1] = count as u32;
        on.launch(
            &format!("columns_part_{}", self.float.suffix()),
            grid,
            &args,
        )?;
        let args = [
            parts.into(),
            onto.into(),
            int(count)?,
            (self.width as u64).into(),
        ];
        on.launch("columns_join", Grid::each(self.width), &args)
    }
}
