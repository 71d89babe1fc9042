//! Low-rank updates y += s · x Aᵀ Bᵀ and their gradients: x (n, in), A (r, in), B (out, r).

use candle_core::Tensor;

use super::{
    linear::{self, matrix, multiply},
    memory::room,
};
use crate::{Result, rows};

/// Adds the update to y (n, out), in place. Returns x Aᵀ (n, r).
pub fn add_update(x: &Tensor, update: &randori_lora::Update, y: &Tensor) -> Result<Tensor> {
    let xa = linear::forward(x, &update.a)?;
    let (outputs, rank) = update.b.dims2()?;
    let size = (rows(x.dims()).0, outputs, rank);
    let (left, right) = (matrix(&xa)?, matrix(&update.b)?.t());
    multiply(size, left, right, y, update.scale as f32, 1.0)?;
    Ok(xa)
}

/// Adds the gradients to dA and dB, which are f32, in place. Returns u = s · dy B (n, r).
pub fn update_backward(
    x: &Tensor,
    xa: &Tensor,
    update: &randori_lora::Update,
    dy: &Tensor,
    [da, db]: [&Tensor; 2],
) -> Result<Tensor> {
    let ((rank, inputs), (outputs, _)) = (update.a.dims2()?, update.b.dims2()?);
    let (n, scale) = (rows(dy.dims()).0, update.scale as f32);
    let u = room(dy, &[n, rank])?;
    let size = (n, rank, outputs);
    multiply(size, matrix(dy)?, matrix(&update.b)?, &u, scale, 0.0)?;
    let size = (rank, inputs, n);
    multiply(size, matrix(&u)?.t(), matrix(x)?, da, 1.0, 1.0)?;
    let size = (outputs, rank, n);
    multiply(size, matrix(dy)?.t(), matrix(xa)?, db, scale, 1.0)?;
    Ok(u)
}

/// dx += u A, in place.
pub fn update_input_gradient(u: &Tensor, update: &randori_lora::Update, dx: &Tensor) -> Result<()> {
    let (rank, inputs) = update.a.dims2()?;
    let size = (rows(u.dims()).0, inputs, rank);
    multiply(size, matrix(u)?, matrix(&update.a)?, dx, 1.0, 1.0)
}
