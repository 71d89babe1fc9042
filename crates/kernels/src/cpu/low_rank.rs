//! Low-rank updates y += s · x Aᵀ Bᵀ and their gradients, in place: x (n, in), A (r, in), B (out,
//! r).
//!
//! `randori_lora` defines them, and the tests compare with it. Unlike there, nothing as wide as x
//! or y is allocated, and no product asks the operating system for the number of cores, as each of
//! candle's does.

use candle_core::Tensor;

use super::{
    Values, change, linear,
    product::{View, multiply, multiply_onto},
    rows, tensor,
};
use crate::{Error, Result};

/// Lanes of the widest vector register.
const LANES: usize = 16;

/// Rank, inputs and outputs, after a check that A and B have one rank.
fn sizes(a: &Tensor, b: &Tensor) -> Result<(usize, usize, usize)> {
    let ((rank, inputs), (outputs, columns)) = (a.dims2()?, b.dims2()?);
    if columns != rank {
        return Err(Error::rule(format!(
            "an A of rank {rank} does not go with a B of rank {columns}"
        )));
    }
    Ok((rank, inputs, outputs))
}

/// Adds the update to y (n, out), in place. Returns x Aᵀ (n, r), which the backward pass needs.
pub fn add_update(x: &Tensor, update: &randori_lora::Update, y: &Tensor) -> Result<Tensor> {
    let (rank, inputs, outputs) = sizes(&update.a, &update.b)?;
    let (n, width) = rows(x.dims());
    if width != inputs || rows(y.dims()) != (n, outputs) {
        return Err(Error::rule(format!(
            "an update of {inputs} inputs and {outputs} outputs does not fit {:?} and {:?}",
            x.dims(),
            y.dims()
        )));
    }
    // the few-row product sums a tail that registers do not divide apart, and the scale would
    // multiply the precision lost there
    let xa = if inputs.is_multiple_of(LANES) {
        linear::forward(x, &update.a)?
    } else {
        let (x, a) = (Values::of(x)?, Values::of(&update.a)?);
        let (left, right) = (View::rows(&x, inputs), View::rows(&a, inputs).t());
        tensor(multiply((n, rank, inputs), left, right), &[n, rank])?
    };
    let (xa_values, b) = (Values::of(&xa)?, Values::of(&update.b)?);
    let size = (n, outputs, rank);
    let (left, right) = (View::rows(&xa_values, rank), View::rows(&b, rank).t());
    change(y, |y| {
        multiply_onto(size, left, right, update.scale as f32, y, true)
    })?;
    drop(xa_values);
    Ok(xa)
}

/// Adds the gradients to dA and dB, in place. Returns u = s · dy B (n, r); u A is the gradient to
/// x.
pub fn update_backward(
    x: &Tensor,
    xa: &Tensor,
    update: &randori_lora::Update,
    dy: &Tensor,
    [da, db]: [&Tensor; 2],
) -> Result<Tensor> {
    let (rank, inputs, outputs) = sizes(&update.a, &update.b)?;
    let (n, scale) = (rows(dy.dims()).0, update.scale as f32);
    let (x, xa, dy) = (Values::of(x)?, Values::of(xa)?, Values::of(dy)?);
    let b = Values::of(&update.b)?;
    let mut u = vec![0f32; n * rank];
    let (left, right) = (View::rows(&dy, outputs), View::rows(&b, rank));
    multiply_onto((n, rank, outputs), left, right, scale, &mut u, false);
    let (left, right) = (View::rows(&u, rank).t(), View::rows(&x, inputs));
    change(da, |da| {
        multiply_onto((rank, inputs, n), left, right, 1.0, da, true)
    })?;
    let (left, right) = (View::rows(&dy, outputs).t(), View::rows(&xa, rank));
    change(db, |db| {
        multiply_onto((outputs, rank, n), left, right, scale, db, true)
    })?;
    tensor(u, &[n, rank])
}

/// dx += u A, in place.
pub fn update_input_gradient(u: &Tensor, update: &randori_lora::Update, dx: &Tensor) -> Result<()> {
    let (rank, inputs) = update.a.dims2()?;
    let (u, a) = (Values::of(u)?, Values::of(&update.a)?);
    let size = (u.len() / rank.max(1), inputs, rank);
    let (left, right) = (View::rows(&u, rank), View::rows(&a, inputs));
    change(dx, |dx| multiply_onto(size, left, right, 1.0, dx, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn noise(name: &str, dims: (usize, usize)) -> Tensor {
        let values: Vec<f32> = randori_lora::splitmix(5, name, dims.0 * dims.1)
            .map(|u| (u - 0.5) as f32)
            .collect();
        Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
    }

    fn apart(a: &Tensor, b: &Tensor) -> f32 {
        let all = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let pairs = all(a).into_iter().zip(all(b));
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn it_is_what_the_lora_crate_defines() {
        // few rows and many, inputs that registers divide and do not
        for (n, inputs) in [(1, 48), (3, 24), (70, 48), (90, 23)] {
            let (x, a, b) = (
                noise("x", (n, inputs)),
                noise("a", (5, inputs)),
                noise("b", (9, 5)),
            );
            let (y, dy) = (noise("y", (n, 9)), noise("dy", (n, 9)));
            let (delta, kept) = randori_lora::forward(&x, &a, &b, 1.7).unwrap();
            let wanted = (&y + delta).unwrap();
            let wants = randori_lora::backward(&x, &kept, &a, &b, 1.7, &dy).unwrap();
            let update = randori_lora::Update {
                a,
                b,
                scale: 1.7,
                magnitude: None,
            };
            let xa = add_update(&x, &update, &y).unwrap();
            assert!(apart(&xa, &kept) < 1e-5 && apart(&y, &wanted) < 1e-5);
            let zeros =
                |dims: (usize, usize)| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
            let (dx, da, db) = (zeros((n, inputs)), zeros((5, inputs)), zeros((9, 5)));
            let u = update_backward(&x, &xa, &update, &dy, [&da, &db]).unwrap();
            update_input_gradient(&u, &update, &dx).unwrap();
            assert!(apart(&dx, &wants.0) < 1e-5);
            assert!(apart(&da, &wants.1) < 1e-4 && apart(&db, &wants.2) < 1e-4);
        }
    }
}
