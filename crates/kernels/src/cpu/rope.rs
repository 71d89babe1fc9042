//! Rotary position embedding (arXiv 2104.09864): each pair of features is rotated by position times
//! inverse frequency.

use candle_core::Tensor;
use randori_sdk::seam::RopeSpec;
use rayon::prelude::*;

use super::{Values, task_rows, tensor};
use crate::Result;

/// Cosines and sines of every row's position, (tokens, pairs), times `mscale`.
pub struct Table {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    pub pairs: usize,
    pub interleaved: bool,
}

/// Computes the table of these positions.
pub fn table(spec: &RopeSpec, positions: &[u32]) -> Result<Table> {
    Ok(Table::new(spec, positions))
}

impl Table {
    /// As [`table`].
    pub fn new(spec: &RopeSpec, positions: &[u32]) -> Self {
        let size = positions.len() * spec.inv_freq.len();
        let (mut cos, mut sin) = (Vec::with_capacity(size), Vec::with_capacity(size));
        for &position in positions {
            for &frequency in &spec.inv_freq {
                // the angle is rounded to f32, as every published implementation does
                let (s, c) = f64::from(position as f32 * frequency).sin_cos();
                cos.push((c * f64::from(spec.mscale)) as f32);
                sin.push((s * f64::from(spec.mscale)) as f32);
            }
        }
        Table {
            cos,
            sin,
            pairs: spec.inv_freq.len(),
            interleaved: spec.interleaved,
        }
    }
}

/// Rotates x (tokens, heads, d); with `back` by the negated angles (the transposed rotation).
pub fn rotate(x: &Tensor, table: &Table, back: bool) -> Result<Tensor> {
    let (_, heads, d) = x.dims3()?;
    let dims = x.dims();
    let mut y = Values::of(x)?.to_vec();
    let width = heads * d;
    let at_once = task_rows(width);
    let sign = if back { -1.0 } else { 1.0 };
    let work = |(task, y): (usize, &mut [f32])| {
        for (row, y) in (task * at_once..).zip(y.chunks_exact_mut(width)) {
            let angles = row * table.pairs..(row + 1) * table.pairs;
            let (cos, sin) = (&table.cos[angles.clone()], &table.sin[angles]);
            for head in y.chunks_exact_mut(d) {
                if table.interleaved {
                    for ((pair, c), s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                        let (a, b, s) = (pair[0], pair[1], sign * s);
                        pair[0] = a * c - b * s;
                        pair[1] = a * s + b * c;
                    }
                } else {
                    let (first, second) = head.split_at_mut(table.pairs);
                    for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                        let (x, y, s) = (*a, *b, sign * s);
                        *a = x * c - y * s;
                        *b = x * s + y * c;
                    }
                }
            }
        }
    };
    if y.len() <= at_once * width {
        work((0, &mut y));
    } else {
        y.par_chunks_mut(at_once * width).enumerate().for_each(work);
    }
    tensor(y, dims)
}
