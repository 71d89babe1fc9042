//! Element-wise functions, soft-max, binary functions with broadcasting, SwiGLU and dropout,
//! forward and backward.

use candle_core::{Tensor, cpu::erf::erf_f64};
use randori_sdk::seam::{Binary, Unary};
use rayon::prelude::*;

use super::{
    TASK, Values, change,
    math::{self, exp, sigmoid, tanh, vectorised},
    rows, task_rows, tensor,
};
use crate::{Error, Result};

/// sqrt(2/π) and the cubic coefficient of the tanh approximation of GELU.
const GELU: (f32, f32) = (0.797_884_6, 0.044_715);

/// (1 + tanh u) / 2, by which the tanh form of GELU multiplies x; a sigmoid of 2u, as 1 + tanh u
/// cancels where u < 0: at x = -3 five digits would be left, which a norm behind it makes large.
#[inline(always)]
fn gate(x: f32) -> f32 {
    sigmoid(2.0 * GELU.0 * (x + GELU.1 * x * x * x))
}

/// Defines `fn name(y, x)`: y = f(x) for every element.
macro_rules! map {
    ($name:ident, |$x:ident| $f:expr) => {
        vectorised! {
            fn $name(y: &mut [f32], x: &[f32]) {
                for (y, &$x) in y.iter_mut().zip(x) { *y = $f; }
            }
        }
    };
}

map!(silu, |x| x * sigmoid(x));
map!(gelu_tanh, |x| x * gate(x));
map!(tanh_of, |x| tanh(x));
map!(sigmoid_of, |x| sigmoid(x));
map!(relu, |x| if x > 0.0 || x.is_nan() { x } else { 0.0 });
map!(exp_of, |x| exp(x));
map!(softplus, |x| {
    let above = if x > 0.0 { x } else { 0.0 };
    above + exp(-x.abs()).ln_1p()
});
map!(gelu, |x| {
    let x = f64::from(x);
    (0.5 * x * (1.0 + erf_f64(x * std::f64::consts::FRAC_1_SQRT_2))) as f32
});

/// Defines `fn name(dx, saved)`: dx *= f(saved), where dx holds dy.
macro_rules! slope {
    ($name:ident, |$s:ident| $f:expr) => {
        vectorised! {
            fn $name(dx: &mut [f32], saved: &[f32]) {
                for (dx, &$s) in dx.iter_mut().zip(saved) { *dx *= $f; }
            }
        }
    };
}

slope!(silu_slope, |x| {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
});
slope!(gelu_tanh_slope, |x| {
    let s = gate(x);
    s + 2.0 * x * s * (1.0 - s) * GELU.0 * (1.0 + 3.0 * GELU.1 * x * x)
});
slope!(tanh_slope, |y| 1.0 - y * y);
slope!(sigmoid_slope, |y| y * (1.0 - y));
slope!(relu_slope, |y| if y > 0.0 { 1.0 } else { 0.0 });
slope!(exp_slope, |y| y);
slope!(softplus_slope, |x| sigmoid(x));
slope!(gelu_slope, |x| {
    let x = f64::from(x);
    let cdf = 0.5 * (1.0 + erf_f64(x * std::f64::consts::FRAC_1_SQRT_2));
    (cdf + x * (-0.5 * x * x).exp() * 0.398_942_280_401_432_7) as f32
});

/// Runs `f` on y and x, in parallel on pieces of them if they are long.
fn in_tasks(y: &mut [f32], x: &[f32], f: fn(&mut [f32], &[f32])) {
    if y.len() <= 2 * TASK {
        f(y, x);
    } else {
        y.par_chunks_mut(TASK)
            .zip(x.par_chunks(TASK))
            .for_each(|(y, x)| f(y, x));
    }
}

/// a += b; nobody else may hold a.
pub fn add_onto(a: &Tensor, b: &Tensor) -> Result<()> {
    let b = Values::of(b)?;
    change(a, |a| in_tasks(a, &b, |a, b| math::add_scaled(a, 1.0, b)))
}

/// f(x); soft-max is over the last axis.
pub fn unary(op: Unary, x: &Tensor) -> Result<Tensor> {
    let dims = x.dims();
    let x = Values::of(x)?;
    if op == Unary::Softmax {
        let mut y = x.to_vec();
        soft_max(&mut y, rows(dims).1);
        return tensor(y, dims);
    }
    let mut y = vec![0f32; x.len()];
    let f = match op {
        Unary::Silu => silu,
        Unary::Gelu => gelu,
        Unary::GeluTanh => gelu_tanh,
        Unary::Tanh => tanh_of,
        Unary::Sigmoid => sigmoid_of,
        Unary::Relu => relu,
        Unary::Softplus => softplus,
        Unary::Exp | Unary::Softmax => exp_of,
    };
    in_tasks(&mut y, &x, f);
    tensor(y, dims)
}

/// The gradient to x; `saved` is f's argument or its result, as [`Unary::saves_result`] says.
pub fn unary_backward(op: Unary, saved: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let dims = dy.dims();
    let (saved, dy) = (Values::of(saved)?, Values::of(dy)?);
    let mut dx = dy.to_vec();
    let f = match op {
        Unary::Silu => silu_slope,
        Unary::Gelu => gelu_slope,
        Unary::GeluTanh => gelu_tanh_slope,
        Unary::Tanh => tanh_slope,
        Unary::Sigmoid => sigmoid_slope,
        Unary::Relu => relu_slope,
        Unary::Exp => exp_slope,
        Unary::Softplus => softplus_slope,
        Unary::Softmax => {
            soft_max_slope(&mut dx, &saved, rows(dims).1);
            return tensor(dx, dims);
        }
    };
    in_tasks(&mut dx, &saved, f);
    tensor(dx, dims)
}

/// Soft-max of every row in place.
pub fn soft_max(y: &mut [f32], width: usize) {
    y.par_chunks_mut(task_rows(width) * width).for_each(|rows| {
        for row in rows.chunks_exact_mut(width) {
            let sum = math::exp_sum(row, math::max(row));
            math::scale(row, (1.0 / sum) as f32);
        }
    });
}

/// The gradient of [`soft_max`], in place: dx = y · (dy - Σ dy·y), where dx holds dy.
pub fn soft_max_slope(dx: &mut [f32], y: &[f32], width: usize) {
    for (dx, y) in dx.chunks_exact_mut(width).zip(y.chunks_exact(width)) {
        let mean = math::dot(dx, y) as f32;
        dx.iter_mut()
            .zip(y)
            .for_each(|(dx, y)| *dx = y * (*dx - mean));
    }
}

vectorised! {
    fn affine_of(x: &[f32], mul: f32, add: f32, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x * mul + add;
        }
    }
}

/// x · mul + add.
pub fn affine(x: &Tensor, mul: f32, add: f32) -> Result<Tensor> {
    let dims = x.dims();
    let x = Values::of(x)?;
    let mut y = vec![0f32; x.len()];
    affine_of(&x, mul, add, &mut y);
    tensor(y, dims)
}

/// Defines `fn name(y, a, b)` over three slices of one length.
macro_rules! zip {
    ($name:ident, |$a:ident, $b:ident| $f:expr) => {
        vectorised! {
            fn $name(y: &mut [f32], a: &[f32], b: &[f32]) {
                for ((y, &$a), &$b) in y.iter_mut().zip(a).zip(b) { *y = $f; }
            }
        }
    };
}
zip!(add, |a, b| a + b);
zip!(sub, |a, b| a - b);
zip!(mul, |a, b| a * b);
zip!(div, |a, b| a / b);

fn apply(op: Binary, a: f32, b: f32) -> f32 {
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
    }
}

/// A walk over a, with b broadcast to its shape. The first axes (tokens) are aligned with each
/// other, the others from the right.
struct Walk {
    dims: Vec<usize>,
    /// Strides of b along a's axes, 0 where b is broadcast.
    steps: Vec<usize>,
}

impl Walk {
    fn new(a: &[usize], b: &[usize]) -> Self {
        let mut steps = vec![0; a.len()];
        let mut stride = 1;
        for i in 0..b.len() {
            let (from_b, from_a) = if i + 1 == b.len() {
                (0, 0) // tokens
            } else {
                (b.len() - 1 - i, a.len() - 1 - i)
            };
            if b[from_b] != 1 {
                steps[from_a] = stride;
            }
            stride *= b[from_b];
        }
        Walk {
            dims: a.to_vec(),
            steps,
        }
    }

    /// Calls `row(index in a, index in b, b's stride along the last axis)` with the first element
    /// of every row of a's last axis.
    fn rows(&self, mut row: impl FnMut(usize, usize, usize)) {
        let last = self.dims.len() - 1;
        let width = self.dims[last];
        let total: usize = self.dims.iter().product();
        let mut at = vec![0usize; last];
        let (mut a, mut b) = (0, 0);
        while a < total {
            row(a, b, self.steps[last]);
            a += width;
            for axis in (0..last).rev() {
                at[axis] += 1;
                b += self.steps[axis];
                if at[axis] < self.dims[axis] {
                    break;
                }
                b -= at[axis] * self.steps[axis];
                at[axis] = 0;
            }
        }
    }
}

/// op(a, b) in a's shape, with b broadcast.
pub fn binary(op: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let dims = a.dims();
    let walk = (a.dims() != b.dims()).then(|| Walk::new(a.dims(), b.dims()));
    let (a, b) = (Values::of(a)?, Values::of(b)?);
    let mut y = vec![0f32; a.len()];
    if let Some(walk) = walk {
        let width = walk.dims[walk.dims.len() - 1];
        walk.rows(|i, j, step| {
            for c in 0..width {
                y[i + c] = apply(op, a[i + c], b[j + c * step]);
            }
        });
        return tensor(y, dims);
    }
    let f = match op {
        Binary::Add => add,
        Binary::Sub => sub,
        Binary::Mul => mul,
        Binary::Div => div,
    };
    zip_tasks(&mut y, &a, &b, f);
    tensor(y, dims)
}

/// Runs `f` on y, a and b, in parallel on pieces of them if they are long.
fn zip_tasks(y: &mut [f32], a: &[f32], b: &[f32], f: fn(&mut [f32], &[f32], &[f32])) {
    if y.len() <= 2 * TASK {
        f(y, a, b);
    } else {
        y.par_chunks_mut(TASK)
            .zip(a.par_chunks(TASK).zip(b.par_chunks(TASK)))
            .for_each(|(y, (a, b))| f(y, a, b));
    }
}

/// silu(g) · u, of one shape.
pub fn swiglu(g: &Tensor, u: &Tensor) -> Result<Tensor> {
    binary(Binary::Mul, &unary(Unary::Silu, g)?, u)
}

/// The gradients of [`swiglu`] to g and u.
pub fn swiglu_backward(g: &Tensor, u: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let du = binary(Binary::Mul, dy, &unary(Unary::Silu, g)?)?;
    let dg = unary_backward(Unary::Silu, g, &binary(Binary::Mul, dy, u)?)?;
    Ok((dg, du))
}

/// The gradient to b, summed over the broadcast axes. Products need a, quotients a and b.
pub fn binary_backward_b(
    op: Binary,
    a: Option<&Tensor>,
    b: Option<&Tensor>,
    b_dims: &[usize],
    dy: &Tensor,
) -> Result<Tensor> {
    let walk = Walk::new(dy.dims(), b_dims);
    let same = dy.dims() == b_dims;
    let dy = Values::of(dy)?;
    let a = a.map(Values::of).transpose()?;
    let b = b.map(Values::of).transpose()?;
    let mut db = vec![0f32; b_dims.iter().product()];
    if let (Binary::Mul, true, Some(a)) = (op, same, &a) {
        zip_tasks(&mut db, &dy, a, mul);
        return tensor(db, b_dims);
    }
    let width = walk.dims[walk.dims.len() - 1];
    walk.rows(|i, j, step| {
        for c in 0..width {
            let (i, j) = (i + c, j + c * step);
            db[j] += match (op, &a, &b) {
                (Binary::Sub, _, _) => -dy[i],
                (Binary::Mul, Some(a), _) => dy[i] * a[i],
                (Binary::Div, Some(a), Some(b)) => -dy[i] * a[i] / (b[j] * b[j]),
                _ => dy[i],
            };
        }
    });
    tensor(db, b_dims)
}

/// Dropout of x (rows, width), one key a row: see [`randori_lora::dropout`].
pub fn dropout(x: &Tensor, p: f32, keys: &[u64], salt: u64) -> Result<Tensor> {
    randori_lora::dropout(x, p, keys, salt).map_err(|e| Error::rule(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The approximation and its slope in f64, without 1 + tanh.
    fn exact(x: f64) -> (f64, f64) {
        let c = (2.0 / std::f64::consts::PI).sqrt();
        let s = 1.0 / (1.0 + (-2.0 * c * (x + 0.044_715 * x.powi(3))).exp());
        let inner = c * (1.0 + 3.0 * 0.044_715 * x * x);
        (x * s, s + 2.0 * x * s * (1.0 - s) * inner)
    }

    /// 1 + tanh, in f32, would be off by 1e-5 of the value at -3, and by all of it at -6.
    #[test]
    fn gelu_keeps_its_digits_where_it_is_small() {
        let x: Vec<f32> = (-6000..6000).map(|i| i as f32 * 1e-3).collect();
        let (mut y, mut slopes) = (vec![0f32; x.len()], vec![1f32; x.len()]);
        gelu_tanh(&mut y, &x);
        gelu_tanh_slope(&mut slopes, &x);
        for (i, x) in x.iter().enumerate() {
            let (value, slope) = exact(f64::from(*x));
            let off = |got: f32, want: f64| (f64::from(got) - want).abs() / want.abs();
            assert!(
                *x == 0.0 || off(y[i], value) < 6e-6,
                "{x}: {} {value}",
                y[i]
            );
            let turns = (-0.9..-0.6).contains(x); // where the slope is 0
            assert!(
                turns || off(slopes[i], slope) < 1e-5,
                "{x}: {} {slope}",
                slopes[i]
            );
        }
    }
}
