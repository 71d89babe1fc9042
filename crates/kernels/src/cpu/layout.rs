//! Copies: columns narrowed, padded and concatenated, rows gathered and scattered.

use candle_core::Tensor;

use super::{Values, change, math, rows, tensor};
use crate::{Result, tensors::with_last};

/// Columns `start..start + len` of the last axis.
pub fn narrow(x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    let (n, width) = rows(x.dims());
    let dims = with_last(x.dims(), len);
    let x = Values::of(x)?;
    let mut y = Vec::with_capacity(n * len);
    for x in x.chunks_exact(width) {
        y.extend_from_slice(&x[start..start + len]);
    }
    tensor(y, &dims)
}

/// The gradient of [`narrow`]: dy padded with zeros to `width` columns.
pub fn widen(dy: &Tensor, start: usize, width: usize) -> Result<Tensor> {
    let (n, len) = rows(dy.dims());
    let dims = with_last(dy.dims(), width);
    let dy = Values::of(dy)?;
    let mut dx = vec![0f32; n * width];
    for (dx, dy) in dx.chunks_exact_mut(width).zip(dy.chunks_exact(len)) {
        dx[start..start + len].copy_from_slice(dy);
    }
    tensor(dx, &dims)
}

/// Concatenates along the last axis.
pub fn concat(xs: &[Tensor]) -> Result<Tensor> {
    let widths: Vec<usize> = xs.iter().map(|x| rows(x.dims()).1).collect();
    let total: usize = widths.iter().sum();
    let Some(first) = xs.first() else {
        return Err(crate::Error::rule("nothing to join"));
    };
    let (n, _) = rows(first.dims());
    let dims = with_last(first.dims(), total);
    let mut y = vec![0f32; n * total];
    let mut start = 0;
    for (x, &width) in xs.iter().zip(&widths) {
        let x = Values::of(x)?;
        for (y, x) in y.chunks_exact_mut(total).zip(x.chunks_exact(width)) {
            y[start..start + width].copy_from_slice(x);
        }
        start += width;
    }
    tensor(y, &dims)
}

/// Gathers rows of the first axis.
pub fn gather(x: &Tensor, index: &[u32]) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let width: usize = dims[1..].iter().product();
    dims[0] = index.len();
    let x = Values::of(x)?;
    let mut y = Vec::with_capacity(index.len() * width);
    for &i in index {
        y.extend_from_slice(&x[i as usize * width..][..width]);
    }
    tensor(y, &dims)
}

/// onto\[index\[i\]\] += factors\[i\] · x\[i\], in order; without factors they are 1.
pub fn scatter_by(x: &Tensor, index: &[u32], factors: Option<&[f32]>, onto: &Tensor) -> Result<()> {
    let width: usize = x.dims()[1..].iter().product();
    let x = Values::of(x)?;
    change(onto, |onto| {
        for (n, (&i, x)) in index.iter().zip(x.chunks_exact(width.max(1))).enumerate() {
            let row = &mut onto[i as usize * width..][..width];
            math::add_scaled(row, factors.map_or(1.0, |f| f[n]), x);
        }
    })
}

/// The dot product of each row (the first axis) of a and of b: (rows).
pub fn row_dots(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (rows, width) = (a.dims()[0], a.dims()[1..].iter().product());
    let (a, b) = (Values::of(a)?, Values::of(b)?);
    let pairs = b.chunks_exact(width).zip(a.chunks_exact(width));
    let dots = pairs.map(|(b, a)| math::dot(b, a) as f32).collect();
    tensor(dots, &[rows])
}
