//! Binary functions of two tensors of f32 or bf16, the second one broadcast, and the gradient to
//! the second.

use super::elementwise::{affine, each};
use crate::{Arg, Error, Float, Grid, Launch, Ptr, Result, int};

/// Most axes that a kernel indexes.
const AXES: usize = 5;
/// Threads that a sum is spread over.
const THREADS: usize = 1 << 16;

/// A binary function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Binary {
    /// a + b
    Add = 1,
    /// a - b
    Sub = 2,
    /// a · b
    Mul = 3,
    /// a / b
    Div = 4,
}

/// Sizes and strides of axes, outermost first. Axes of size 1 are dropped and contiguous neighbours
/// merged.
#[derive(Debug, Clone, Default)]
struct Axes(Vec<(usize, usize)>);

impl Axes {
    fn new(axes: impl Iterator<Item = (usize, usize)>) -> Self {
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for (size, step) in axes.filter(|(size, _)| *size != 1) {
            match merged.last_mut() {
                Some(outer) if outer.1 == size * step => *outer = (outer.0 * size, step),
                _ => merged.push((size, step)),
            }
        }
        Axes(merged)
    }

    /// The kernels' arguments: the sizes of all axes but the first, then the strides.
    fn args(&self) -> Result<Vec<Arg>> {
        if self.0.len() > AXES {
            return Err(Error::rule(format!(
                "a broadcast over {} separate axes: a kernel walks {AXES}",
                self.0.len()
            )));
        }
        let mut all = vec![(1, 0); AXES - self.0.len()];
        all.extend(&self.0);
        let size = |&(size, _): &(usize, usize)| {
            u32::try_from(size)
                .map(Arg::U32)
                .map_err(|_| Error::rule(format!("an axis of {size}")))
        };
        let mut args = all[1..].iter().map(size).collect::<Result<Vec<_>>>()?;
        args.extend(all.iter().map(|(_, step)| Arg::U64(*step as u64)));
        Ok(args)
    }
}

/// Strides of b along a's axes, 0 where b is broadcast. The first axes (tokens) are aligned with
/// each other, the others from the right.
fn steps(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let wrong = || Error::rule(format!("{b:?} cannot be broadcast to {a:?}"));
    if b.is_empty() || b.len() > a.len() {
        return Err(wrong());
    }
    let (mut steps, mut stride) = (vec![0; a.len()], 1);
    for i in 0..b.len() {
        let (from_b, from_a) = if i + 1 == b.len() {
            (0, 0)
        } else {
            (b.len() - 1 - i, a.len() - 1 - i)
        };
        if b[from_b] != 1 {
            if b[from_b] != a[from_a] {
                return Err(wrong());
            }
            steps[from_a] = stride;
        }
        stride *= b[from_b];
    }
    Ok(steps)
}

/// y = op(a, b) in a's shape. b has as many tokens (first axis) as a or 1, and may have fewer
/// trailing axes or axes of size 1. y may be a.
///
/// # Errors
/// A shape of b that does not broadcast; as [`Launch::launch`].
pub fn binary(
    on: &dyn Launch,
    op: Binary,
    float: Float,
    a: (Ptr, &[usize]),
    b: (Ptr, &[usize]),
    y: Ptr,
) -> Result<()> {
    let n: usize = a.1.iter().product();
    let head = [
        Arg::I32(op as i32),
        a.0.into(),
        b.0.into(),
        y.into(),
        (n as u64).into(),
    ];
    if a.1 == b.1 {
        return each(on, "binary", float, n, &head);
    }
    let axes = Axes::new(a.1.iter().copied().zip(steps(a.1, b.1)?));
    let args = [&head[..], &axes.args()?].concat();
    each(on, "broadcast", float, n, &args)
}

/// The gradient of op(a, b) to b: summed over the broadcast axes, in a fixed order.
#[derive(Debug, Clone)]
pub struct ToSecond {
    float: Float,
    same: bool,
    /// Values of b, and how many values of a each of them is combined with.
    size: usize,
    many: usize,
    kept: Axes,
    reduced: Axes,
    /// A warp sums for each value of b, instead of a thread.
    across: bool,
    parts: usize,
}

impl ToSecond {
    /// For a of shape `a` and b of shape `b`, as in [`binary`].
    ///
    /// # Errors
    /// A shape of b that does not broadcast.
    pub fn new(float: Float, a: &[usize], b: &[usize]) -> Result<Self> {
        let steps = steps(a, b)?;
        let strides = (0..a.len()).map(|i| a[i + 1..].iter().product::<usize>());
        let all: Vec<(usize, usize, usize)> = a
            .iter()
            .zip(strides)
            .zip(steps)
            .map(|((&size, stride), step)| (size, stride, step))
            .collect();
        let part = |keep: bool| {
            let axes = all.iter().filter(|a| (a.2 != 0) == keep);
            Axes::new(axes.map(|a| (a.0, a.1)))
        };
        let (size, n): (usize, usize) = (b.iter().product(), a.iter().product());
        let many = n / size.max(1);
        let across = all
            .iter()
            .rev()
            .find(|a| a.0 != 1)
            .is_some_and(|a| a.2 == 0);
        let (threads, least) = if across { (32, 256) } else { (1, 16) };
        let parts = (THREADS / (size * threads).max(1)).clamp(1, many.div_ceil(least).max(1));
        Ok(ToSecond {
            float,
            same: a == b,
            size,
            many,
            kept: part(true),
            reduced: part(false),
            across,
            parts: parts.min(256),
        })
    }

    fn direct(&self) -> bool {
        self.float == Float::F32 && self.parts == 1
    }

    /// Size of [`ToSecond::run`]'s scratch in f32 values.
    pub fn scratch(&self, op: Binary) -> usize {
        let simple = self.same && op != Binary::Div;
        if simple || self.direct() {
            0
        } else {
            self.parts * self.size
        }
    }

    /// Writes db (b's shape) from dy (a's shape). Reads `a` for products and quotients, `b` for
    /// quotients. `scratch` holds [`ToSecond::scratch`] f32 values.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn run(
        &self,
        on: &dyn Launch,
        op: Binary,
        a: Ptr,
        b: Ptr,
        dy: Ptr,
        scratch: Ptr,
        db: Ptr,
    ) -> Result<()> {
        if self.size == 0 {
            return Ok(());
        }
        let float = self.float;
        match op {
            Binary::Add if self.same => return affine(on, float, self.size, dy, 1.0, 0.0, db),
            Binary::Sub if self.same => return affine(on, float, self.size, dy, -1.0, 0.0, db),
            Binary::Mul if self.same => {
                let shape = &[self.size][..];
                return binary(on, op, float, (dy, shape), (a, shape), db);
            }
            _ => (),
        }
        let parts = if self.direct() { db } else { scratch };
        self.sum(on, op, [a, b, dy, parts])?;
        if self.direct() {
            return Ok(());
        }
        let args = [
            parts.into(),
            db.into(),
            (self.size as u64).into(),
            int(self.parts)?,
        ];
        let join = format!("join_parts_{}", float.suffix());
        on.launch(&join, Grid::each(self.size), &args)
    }

    fn sum(&self, on: &dyn Launch, op: Binary, pointers: [Ptr; 4]) -> Result<()> {
        let run = self.many.div_ceil(self.parts).max(1);
        let mut args = vec![Arg::I32(op as i32), Arg::I32(self.across.into())];
        args.extend(pointers.map(Arg::Ptr));
        args.extend([self.size, self.many, run].map(|n| Arg::U64(n as u64)));
        args.extend(self.kept.args()?);
        args.extend(self.reduced.args()?);
        let mut grid = Grid::each(self.size * if self.across { 32 } else { 1 });
        grid.blocks[1] = self.parts as u32;
        let kernel = format!("broadcast_sum_{}", self.float.suffix());
        on.launch(&kernel, grid, &args)
    }
}
