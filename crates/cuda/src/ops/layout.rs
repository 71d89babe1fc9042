//! Gathers and scatters rows, copies ranges of columns.

use crate::{Error, Float, Grid, Launch, Ptr, Result};

/// Threads for a row of `width` values.
fn threads(width: usize, at_once: usize) -> u32 {
    width.div_ceil(at_once).next_multiple_of(32).clamp(32, 256) as u32
}

/// Copies row `ids[i]` (u32, n) of x (rows, width) to row i of y (n, width); an id out of range
/// gives NaN.
///
/// # Errors
/// As [`Launch::launch`].
pub fn gather(
    on: &dyn Launch,
    float: Float,
    (x, rows, width): (Ptr, usize, usize),
    (ids, n): (Ptr, usize),
    y: Ptr,
) -> Result<()> {
    if n == 0 || width == 0 {
        return Ok(());
    }
    let args = [
        x.into(),
        ids.into(),
        y.into(),
        (rows as u64).into(),
        (width as u64).into(),
    ];
    let grid = Grid::line(n, threads(width, 16 / float.bytes()));
    on.launch(&format!("layout_gather_{}", float.suffix()), grid, &args)
}

/// The destinations of a scatter, each once, with its source rows in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScatterLists {
    /// Destination rows.
    pub rows: Vec<u32>,
    /// Destination k has the sources `starts[k]..starts[k + 1]`; one entry more than `rows`.
    pub starts: Vec<u32>,
    /// Source rows, grouped by destination.
    pub sources: Vec<u32>,
}

impl ScatterLists {
    /// Groups source rows by destination: row i goes to row `index[i]`.
    ///
    /// # Errors
    /// A destination that is not below `rows`.
    pub fn new(index: &[u32], rows: usize) -> Result<ScatterLists> {
        if let Some(bad) = index.iter().find(|i| **i as usize >= rows) {
            return Err(Error::rule(format!("row {bad} of {rows}")));
        }
        let mut order: Vec<u32> = (0..index.len() as u32).collect();
        order.sort_by_key(|&s| index[s as usize]); // stable
        let mut lists = ScatterLists::default();
        for (at, &source) in order.iter().enumerate() {
            let row = index[source as usize];
            if lists.rows.last() != Some(&row) {
                lists.rows.push(row);
                lists.starts.push(at as u32);
            }
        }
        lists.starts.push(order.len() as u32);
        lists.sources = order;
        Ok(lists)
    }
}

/// [`ScatterLists`] in the device's memory, with a factor for each source.
#[derive(Debug, Clone, Copy)]
pub struct DeviceScatterLists {
    /// Destination rows: u32 (count).
    pub rows: Ptr,
    /// Number of destinations.
    pub count: usize,
    /// Where each destination's sources start: u32 (count + 1).
    pub starts: Ptr,
    /// Source rows: u32.
    pub sources: Ptr,
    /// A factor for each source, in the order of `sources`: f32, or null for 1.
    pub factors: Ptr,
}

/// Adds x's rows, times their factors, onto their destinations in `onto`; rows have `width` values.
///
/// # Errors
/// As [`Launch::launch`].
pub fn scatter(
    on: &dyn Launch,
    float: Float,
    width: usize,
    x: Ptr,
    lists: &DeviceScatterLists,
    onto: Ptr,
) -> Result<()> {
    if lists.count == 0 || width == 0 {
        return Ok(());
    }
    let pointers = [
        x,
        lists.rows,
        lists.starts,
        lists.sources,
        lists.factors,
        onto,
    ];
    let mut args: Vec<_> = pointers.map(Into::into).to_vec();
    args.push((width as u64).into());
    let grid = Grid::line(lists.count, threads(width, 1));
    on.launch(&format!("layout_scatter_{}", float.suffix()), grid, &args)
}

/// Columns of rows of `width` values, from `start` on.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// The first row.
    pub at: Ptr,
    /// Values of a row.
    pub width: usize,
    /// First column.
    pub start: usize,
}

/// Copies `len` columns of `rows` rows.
///
/// # Errors
/// Columns out of range; as [`Launch::launch`].
pub fn columns(
    on: &dyn Launch,
    float: Float,
    from: Columns,
    to: Columns,
    (rows, len): (usize, usize),
) -> Result<()> {
    if let Some(c) = [from, to].iter().find(|c| c.start + len > c.width) {
        return Err(Error::rule(format!(
            "columns {}..{} of {}",
            c.start,
            c.start + len,
            c.width
        )));
    }
    if rows == 0 || len == 0 {
        return Ok(());
    }
    // in bytes, then in the largest unit in which all of them can be counted
    let first = |c: Columns| c.at.offset(c.start * float.bytes());
    let (from_at, to_at) = (first(from), first(to));
    let bytes = [from.width, to.width, len].map(|n| n * float.bytes());
    let fits = bytes.iter().all(|b| b.is_multiple_of(16))
        && [from_at, to_at].iter().all(|p| p.0.is_multiple_of(16));
    let unit = if fits { 16 } else { float.bytes() };
    let [from_step, to_step, len] = bytes.map(|b| b / unit);
    let wide = |n: usize| (n as u64).into();
    let args = [
        from_at.into(),
        wide(from_step),
        to_at.into(),
        wide(to_step),
        wide(len),
        wide(rows),
    ];
    let across = len.next_power_of_two().min(256);
    let down = 256 / across;
    let grid = Grid {
        blocks: [
            rows.div_ceil(down) as u32,
            len.div_ceil(across * 4).min(64) as u32,
            1,
        ],
        threads: [across as u32, down as u32, 1],
        shared: 0,
    };
    on.launch(&format!("layout_columns_{unit}"), grid, &args)
}
