//! Optimiser steps on the device: AdamW with moments in f32 or 8 bits, RMSProp; the meaning of the engine's optimisers.

use std::sync::LazyLock;

use crate::{Arg, Error, Grid, Launch, Ptr, Result};

/// Values that share a scale in 8-bit moments.
pub const BLOCK: usize = 256;

/// AdamW's constants and what one step has besides the tensors. Bias corrections are computed in f64.
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
    /// Steps including this one.
    pub count: usize,
}

/// Moments in 8 bits.
#[derive(Debug, Clone, Copy)]
pub struct Moments8 {
    /// u8 codes of the first moment, padded to whole blocks, at a multiple of 8; [`zero`] at the start.
    pub first: Ptr,
    /// u8 codes of the second moment, likewise.
    pub second: Ptr,
    /// f32, one a block: the first moment's largest magnitude; 0 at the start.
    pub first_most: Ptr,
    /// f32, one a block, of the second moment.
    pub second_most: Ptr,
    /// f32 (256): [`signed_map`].
    pub signed_map: Ptr,
    /// f32 (256): [`unsigned_map`].
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

/// RMSProp's constants and what one step has besides the tensors.
#[derive(Debug, Clone, Copy)]
pub struct RmsProp {
    /// Decay of the squared gradient's mean.
    pub alpha: f64,
    /// Added to its root.
    pub eps: f64,
    /// Added to the gradient as weight_decay·w; 0 where decay does not apply.
    pub weight_decay: f64,
    /// Momentum of the scaled gradient; only with a buffer.
    pub momentum: f64,
    /// Learning rate.
    pub rate: f64,
    /// Factor on every gradient.
    pub scale: f64,
}

impl RmsProp {
    /// One step over `n` weights; all f32 (n), `buffer` holds the momentum where there is one.
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

/// bitsandbytes' signed dynamic map, ascending: for each decade 10^-6 … 1, the midpoints of 2^i equal parts of (0.1, 1) and
/// their negatives, with 0 and 1.
pub fn signed_map() -> &'static [f32; 256] {
    static MAP: LazyLock<[f32; 256]> = LazyLock::new(|| map(true));
    &MAP
}

/// bitsandbytes' unsigned dynamic map, ascending: twice as many parts a decade, no negatives.
pub fn unsigned_map() -> &'static [f32; 256] {
    static MAP: LazyLock<[f32; 256]> = LazyLock::new(|| map(false));
    &MAP
}

/// The code of 0 in a map.
pub fn zero(map: &[f32; 256]) -> u8 {
    map.iter().position(|v| *v == 0.0).unwrap_or(0) as u8
}

fn map(signed: bool) -> [f32; 256] {
    let mut map = vec![0.0, 1.0];
    for i in 0..7i32 {
        let parts = if signed { 1u32 << i } else { 2 << i };
        // torch.linspace(0.1, 1) in f32, with a fused product and sum, from whichever end is nearer
        let (low, high) = (0.1f32, 1.0f32);
        let width = (high - low) / parts as f32;
        let edge = |k: u32| {
            if k < parts.div_ceil(2) {
                width.mul_add(k as f32, low)
            } else {
                width.mul_add(-((parts - k) as f32), high)
            }
        };
        for k in 0..parts {
            let middle = 10f64.powi(i - 6) as f32 * ((edge(k) + edge(k + 1)) / 2.0);
            map.push(middle);
            if signed {
                map.push(-middle);
            }
        }
    }
    map.sort_by(f32::total_cmp);
    std::array::from_fn(|i| map[i])
}
