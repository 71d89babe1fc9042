//! Optimiser steps on the device: AdamW with moments in f32 or 8 bits, and RMSProp, computing what
//! the engine's optimisers compute on the CPU.

use crate::{Arg, Error, Grid, Launch, Ptr, Result};

/// Values that share a scale in 8-bit moments.
pub const BLOCK: usize = 256;

/// AdamW's constants and one step's scalars. Bias corrections are computed in f64.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Per step: w ← w·(1 − rate·weight_decay); 0 where decay does not apply.
    pub weight_decay: f64,
    /// Learning rate.
    pub rate: f64,
    /// Factor on every gradient.
    pub scale: f64,
    /// Number of this step, from 1.
    pub count: usize,
}

/// AdamW's moments in 8 bits, in blocks of [`BLOCK`] values (arXiv 2110.02861).
#[derive(Debug, Clone, Copy)]
pub struct Moments8 {
    /// The first moment's codes: u8, padded to whole blocks, at a multiple of 8; initially the code
    /// of 0.
    pub first: Ptr,
    /// The second moment's codes, likewise.
    pub second: Ptr,
    /// The first moment's largest magnitude in each block: f32 (blocks), initially 0.
    pub first_most: Ptr,
    /// The second moment's largest magnitude in each block, likewise.
    pub second_most: Ptr,
    /// Values of the first moment's codes: f32 (256), ascending (bitsandbytes' signed dynamic map).
    pub signed_map: Ptr,
    /// Values of the second moment's codes: f32 (256), ascending (its unsigned dynamic map).
    pub unsigned_map: Ptr,
}

impl AdamW {
    fn constants(&self) -> Result<[Arg; 9]> {
        if self.count == 0 {
            return Err(Error::rule("AdamW's first step is number 1, not 0"));
        }
        let count = self.count as f64;
        let values = [
            self.scale,
            self.beta1,
            1.0 - self.beta1,
            self.beta2,
            1.0 - self.beta2,
            self.eps,
            self.rate * self.weight_decay,
            self.rate / (1.0 - self.beta1.powf(count)),
            (1.0 - self.beta2.powf(count)).sqrt(),
        ];
        Ok(values.map(|v| Arg::F32(v as f32)))
    }

    /// One step over `n` weights; w, g, m and v are f32 (n).
    ///
    /// # Errors
    /// Step 0, as [`Launch::launch`].
    pub fn step(&self, on: &dyn Launch, n: usize, w: Ptr, g: Ptr, m: Ptr, v: Ptr) -> Result<()> {
        let constants = self.constants()?;
        if n == 0 {
            return Ok(());
        }
        let mut args = vec![w.into(), g.into(), m.into(), v.into(), (n as u64).into()];
        args.extend(constants);
        on.launch("adamw_f32", Grid::each(n.div_ceil(4)), &args)
    }

    /// One step over `n` weights, w and g f32 (n), with moments in 8 bits.
    ///
    /// # Errors
    /// Step 0, codes that are not aligned, as [`Launch::launch`].
    pub fn step8(&self, on: &dyn Launch, n: usize, w: Ptr, g: Ptr, by: &Moments8) -> Result<()> {
        let constants = self.constants()?;
        if let Some(p) = [by.first, by.second]
            .iter()
            .find(|p| !p.0.is_multiple_of(8))
        {
            return Err(Error::rule(format!(
                "8-bit moments lie at {:#x}, which is no multiple of 8",
                p.0
            )));
        }
        if n == 0 {
            return Ok(());
        }
        let mut args = vec![
            w.into(),
            g.into(),
            by.first.into(),
            by.second.into(),
            by.first_most.into(),
            by.second_most.into(),
            by.signed_map.into(),
            by.unsigned_map.into(),
            (n as u64).into(),
        ];
        args.extend(constants);
        on.launch("adamw_8bit", Grid::each(n.div_ceil(8)), &args)
    }
}

/// RMSProp's constants and one step's scalars.
#[derive(Debug, Clone, Copy)]
pub struct RmsProp {
    /// Decay of the squared gradient's mean.
    pub alpha: f64,
    /// Added to the mean's square root.
    pub eps: f64,
    /// Added to the gradient as weight_decay·w; 0 where decay does not apply.
    pub weight_decay: f64,
    /// Momentum of the scaled gradient; used only with a buffer.
    pub momentum: f64,
    /// Learning rate.
    pub rate: f64,
    /// Factor on every gradient.
    pub scale: f64,
}

impl RmsProp {
    /// One step over `n` weights. All tensors are f32 (n); `buffer` holds the momentum, if there is
    /// any.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn step(
        &self,
        on: &dyn Launch,
        n: usize,
        w: Ptr,
        g: Ptr,
        buffer: Option<Ptr>,
        squares: Ptr,
    ) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        let mut args = vec![
            w.into(),
            g.into(),
            buffer.unwrap_or(Ptr::NULL).into(),
            squares.into(),
            (n as u64).into(),
        ];
        let constants = [
            self.scale,
            self.alpha,
            1.0 - self.alpha,
            self.eps,
            self.weight_decay,
            self.momentum,
            self.rate,
        ];
        args.extend(constants.map(|v| Arg::F32(v as f32)));
        on.launch("rmsprop_f32", Grid::each(n), &args)
    }
}

/// Values in one partial sum of [`squares`].
pub const PART: usize = 1 << 14;

/// Sums of squares of x, f32 (n), over every [`PART`] values: `parts` is f64 (n / [`PART`], rounded
/// up). Each sum has a fixed order.
///
/// # Errors
/// As [`Launch::launch`].
pub fn squares(on: &dyn Launch, n: usize, x: Ptr, parts: Ptr) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    let grid = Grid::each(n.div_ceil(PART) * 256);
    on.launch(
        "square_sums",
        grid,
        &[x.into(), parts.into(), (n as u64).into()],
    )
}
