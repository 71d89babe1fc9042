//! Rotary position embedding (arXiv 2104.09864): each pair of features is rotated by position times
//! inverse frequency.

use candle_core::Tensor;
use randori_sdk::seam::{LongRope, RopeSpec};
use rayon::prelude::*;

use super::{Values, task_rows, tensor};
use crate::{Error, Plan, Result};

/// Cosines and sines of every row's position, (tokens, pairs), times `mscale` and the position's
/// growth.
pub struct Table {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    pub pairs: usize,
    pub interleaved: bool,
}

/// Computes the table of a pass's rows.
pub fn table(spec: &RopeSpec, plan: &Plan) -> Result<Table> {
    Table::new(spec, plan)
}

impl Table {
    /// As [`table`].
    ///
    /// # Errors
    /// A long sequence where `spec` has no frequencies for it, or rows that long and other
    /// sequences share.
    pub fn new(spec: &RopeSpec, plan: &Plan) -> Result<Self> {
        let size = plan.positions.len() * spec.inv_freq.len();
        let (mut cos, mut sin) = (Vec::with_capacity(size), Vec::with_capacity(size));
        let long = match &spec.long {
            Some(long) => plan.longer_than(long.after)?,
            None => Vec::new(),
        };
        for (row, &position) in plan.positions.iter().enumerate() {
            let beyond = long.get(row).copied().unwrap_or(false);
            let inv_freq = match &spec.long {
                Some(long) if beyond => {
                    check_long(long)?;
                    &long.inv_freq
                }
                _ => &spec.inv_freq,
            };
            let growth = spec.growth.map_or(1.0, |growth| growth.at(position));
            let scale = f64::from(spec.mscale) * growth;
            for &frequency in inv_freq {
                // the angle is rounded to f32, as every published implementation does
                let (s, c) = f64::from(position as f32 * frequency).sin_cos();
                cos.push((c * scale) as f32);
                sin.push((s * scale) as f32);
            }
        }
        Ok(Table {
            cos,
            sin,
            pairs: spec.inv_freq.len(),
            interleaved: spec.interleaved,
        })
    }
}

fn check_long(long: &LongRope) -> Result<()> {
    match long.inv_freq.is_empty() {
        true => Err(Error::rule(format!(
            "a sequence is longer than {} tokens, beyond which this model's rotary frequencies \
             change with every token; that is not supported",
            long.after
        ))),
        false => Ok(()),
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
