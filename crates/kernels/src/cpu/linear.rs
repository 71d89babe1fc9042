//! Products with weights, row look-ups, biases, and their gradients: x (n, in), W (out, in), y (n,
//! out). f32 weights are used as they are stored; f16 and bf16 are widened a block at a time into a
//! buffer that stays in cache.

use candle_core::{CpuStorage, DType, Storage, Tensor};
use gemm::Parallelism;
use half::{bf16, f16, slice::HalfFloatSliceExt};
use randori_qlora::QuantMatrix;
use rayon::prelude::*;

use super::{
    Shared, Values, change, few, host,
    math::vectorised,
    product::{Output, View, multiply, multiply_into, multiply_onto},
    rows, tensor,
};
use crate::{Error, Result, work};

/// Rows of W that are widened together.
const BLOCK: usize = 64;
/// Columns of W in a task of the backward pass.
const COLUMNS: usize = 128;
/// Rows of W that such a task widens together; it sums over all rows in order.
const DEPTH: usize = 256;

/// y = x Wᵀ.
pub fn forward(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (n, _) = rows(x.dims());
    tensor(forward_values(x, w)?, &[n, w.dims()[0]])
}

fn forward_values(x: &Tensor, w: &Tensor) -> Result<Vec<f32>> {
    let (outputs, inputs) = w.dims2()?;
    let (n, _) = rows(x.dims());
    let x = Values::of(x)?;
    if w.dtype() == DType::F32 {
        let w = Values::of(w)?;
        if few::suits(n, outputs) {
            return Ok(few::product(&x, &w, inputs));
        }
        return Ok(multiply(
            (n, outputs, inputs),
            View::rows(&x, inputs),
            View::rows(&w, inputs).t(),
        ));
    }
    with_half(w, |w| {
        if few::suits(n, outputs) {
            return Ok(match w {
                Half::F16(w) => few::product(&x, w, inputs),
                Half::Bf16(w) => few::product(&x, w, inputs),
            });
        }
        let mut y = vec![0f32; n * outputs];
        let out = Shared::new(&mut y);
        let x: &[f32] = &x;
        (0..outputs.div_ceil(BLOCK))
            .into_par_iter()
            .for_each_init(Vec::new, |wide, block| {
                let (from, to) = (block * BLOCK, ((block + 1) * BLOCK).min(outputs));
                w.widen(from * inputs, (to - from) * inputs, wide);
                // SAFETY: this task alone writes columns from..to of y.
                unsafe {
                    multiply_into(
                        (n, to - from, inputs),
                        View::rows(x, inputs),
                        View::rows(wide, inputs).t(),
                        1.0,
                        Output::new(out.at(from), outputs, false),
                        Parallelism::None,
                    );
                }
            });
        Ok(y)
    })
}

/// y = x Wᵀ for a quantised W, dequantised in registers for a few rows of x, in the first cache for
/// some more, else a block of rows at a time.
pub fn quantised(x: &Tensor, w: &QuantMatrix) -> Result<Tensor> {
    let (outputs, inputs) = w.shape();
    let (n, width) = rows(x.dims());
    if n > 0 && width == inputs && few::suits(n, outputs) {
        let x = Values::of(x)?;
        let y = match w.fused(&x) {
            Some(y) => {
                work::count((n, outputs, inputs));
                y
            }
            None => few::quantised(&x, w),
        };
        return tensor(y, &[n, outputs]);
    }
    work::count((n, outputs, inputs));
    w.forward(x).map_err(|e| Error::rule(e.to_string()))
}

/// dx = dy W for a quantised W.
pub fn quantised_backward(dy: &Tensor, w: &QuantMatrix) -> Result<Tensor> {
    let (outputs, inputs) = w.shape();
    work::count((rows(dy.dims()).0, inputs, outputs));
    w.backward(dy).map_err(|e| Error::rule(e.to_string()))
}

/// dx = dy W.
pub fn backward(dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (n, _) = rows(dy.dims());
    tensor(backward_values(dy, w)?, &[n, w.dims()[1]])
}

fn backward_values(dy: &Tensor, w: &Tensor) -> Result<Vec<f32>> {
    let (outputs, inputs) = w.dims2()?;
    let (n, _) = rows(dy.dims());
    let dy = Values::of(dy)?;
    if w.dtype() == DType::F32 {
        let w = Values::of(w)?;
        return Ok(multiply(
            (n, inputs, outputs),
            View::rows(&dy, outputs),
            View::rows(&w, inputs),
        ));
    }
    with_half(w, |w| {
        let mut dx = vec![0f32; n * inputs];
        let out = Shared::new(&mut dx);
        let dy: &[f32] = &dy;
        (0..inputs.div_ceil(COLUMNS))
            .into_par_iter()
            .for_each_init(Vec::new, |wide, block| {
                let (from, to) = (block * COLUMNS, ((block + 1) * COLUMNS).min(inputs));
                for first in (0..outputs).step_by(DEPTH) {
                    let depth = DEPTH.min(outputs - first);
                    wide.clear();
                    for row in first..first + depth {
                        w.widen_behind(row * inputs + from, to - from, wide);
                    }
                    // SAFETY: this task alone writes columns from..to of dx.
                    unsafe {
                        multiply_into(
                            (n, to - from, depth),
                            View::new(&dy[first..], outputs, 1),
                            View::rows(wide, to - from),
                            1.0,
                            Output::new(out.at(from), inputs, first > 0),
                            Parallelism::None,
                        );
                    }
                }
            });
        Ok(dx)
    })
}

/// dW += dyᵀ x.
pub fn weight_gradient(x: &Tensor, dy: &Tensor, dw: &Tensor) -> Result<()> {
    let (n, inputs) = rows(x.dims());
    let (_, outputs) = rows(dy.dims());
    let (x, dy) = (Values::of(x)?, Values::of(dy)?);
    change(dw, |dw| {
        multiply_onto(
            (outputs, inputs, n),
            View::rows(&dy, outputs).t(),
            View::rows(&x, inputs),
            1.0,
            dw,
            true,
        );
    })
}

vectorised! {
    fn add_rows(y: &mut [f32], bias: &[f32]) {
        for y in y.chunks_exact_mut(bias.len()) {
            for (y, b) in y.iter_mut().zip(bias) {
                *y += b;
            }
        }
    }
}

/// y += b on every row, in place; nobody else may hold y.
pub fn add_bias(y: &Tensor, bias: &Tensor) -> Result<()> {
    let bias = floats(bias)?;
    change(y, |y| add_rows(y, &bias))
}

vectorised! {
    fn add_columns(rows: &[f32], onto: &mut [f32]) {
        for row in rows.chunks_exact(onto.len()) {
            for (o, r) in onto.iter_mut().zip(row) {
                *o += r;
            }
        }
    }
}

/// db += the sum of dy's rows.
pub fn bias_gradient(dy: &Tensor, db: &Tensor) -> Result<()> {
    let dy = Values::of(dy)?;
    change(db, |db| add_columns(&dy, db))
}

/// Looks up rows of a dense table (vocab, width), in f32.
pub fn lookup(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (_, width) = table.dims2()?;
    let mut out = Vec::with_capacity(ids.len() * width);
    if table.dtype() == DType::F32 {
        let table = Values::of(table)?;
        for &id in ids {
            out.extend_from_slice(&table[id as usize * width..][..width]);
        }
    } else {
        with_half(table, |table| {
            for &id in ids {
                table.widen_behind(id as usize * width, width, &mut out);
            }
            Ok(())
        })?;
    }
    tensor(out, &[ids.len(), width])
}

/// dtable\[ids\[i\]\] += dy\[i\], in order.
pub fn lookup_gradient(ids: &[u32], dy: &Tensor, dtable: &Tensor) -> Result<()> {
    let (_, width) = rows(dy.dims());
    let dy = Values::of(dy)?;
    change(dtable, |table| {
        for (&id, dy) in ids.iter().zip(dy.chunks_exact(width)) {
            let row = &mut table[id as usize * width..][..width];
            row.iter_mut().zip(dy).for_each(|(t, d)| *t += d);
        }
    })
}

/// A small tensor's values in f32: a bias, the scale of a norm.
pub fn floats(t: &Tensor) -> Result<Vec<f32>> {
    if t.dtype() == DType::F32 && t.device().is_cpu() {
        return Ok(Values::of(t)?.to_vec());
    }
    Ok(host(t)?.flatten_all()?.to_vec1()?)
}

/// The values of a half-precision weight.
enum Half<'a> {
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

vectorised! {
    fn widen_bf16(from: &[bf16], to: &mut [f32]) {
        for (t, f) in to.iter_mut().zip(from) {
            *t = f32::from_bits(u32::from(f.to_bits()) << 16);
        }
    }
}

impl Half<'_> {
    /// Replaces `to` by `len` values from `start`.
    fn widen(&self, start: usize, len: usize, to: &mut Vec<f32>) {
        to.clear();
        self.widen_behind(start, len, to);
    }

    /// Appends `len` values from `start`.
    fn widen_behind(&self, start: usize, len: usize, to: &mut Vec<f32>) {
        let old = to.len();
        to.resize(old + len, 0.0);
        match self {
            Half::F16(w) => w[start..start + len].convert_to_f32_slice(&mut to[old..]),
            Half::Bf16(w) => widen_bf16(&w[start..start + len], &mut to[old..]),
        }
    }
}

/// Calls `use_it` with the values of an f16 or bf16 weight.
fn with_half<T>(w: &Tensor, use_it: impl FnOnce(&Half) -> Result<T>) -> Result<T> {
    let (guard, layout) = w.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::rule("a weight must be contiguous"));
    };
    match &*guard {
        Storage::Cpu(CpuStorage::F16(w)) => use_it(&Half::F16(&w[start..end])),
        Storage::Cpu(CpuStorage::BF16(w)) => use_it(&Half::Bf16(&w[start..end])),
        _ => Err(Error::rule(format!(
            "a dense weight must be f32, f16 or bf16 on the CPU, not {:?}",
            w.dtype()
        ))),
    }
}
