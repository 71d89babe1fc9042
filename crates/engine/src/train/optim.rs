//! Optimisers: AdamW and RMSProp with PyTorch's semantics. Weights are f32, moments f32 or in 8
//! bits, the arithmetic f64.

use candle_core::{Storage, Tensor};
use randori_kernels::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::moments::{Codes, Moment, SHARED, SMALLEST, decode, encode};

/// Elements a thread takes at a time; also the fixed blocks of the norm's sum, so that it does not
/// depend on threads.
pub(super) const BLOCK: usize = 1 << 14;

/// Which optimiser, with its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam with decoupled weight decay and bias correction.
    AdamW(AdamW),
    /// The same with moments of large tensors in 8 bits (`moments.rs`).
    #[serde(rename = "adamw_8bit")]
    AdamW8(AdamW),
    /// The paper's optimiser; no bias correction, so the first step is about 10·lr·sign(gradient).
    RmsProp(RmsProp),
}

/// AdamW's constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Per step: w ← w·(1 − lr·weight_decay).
    pub weight_decay: f64,
}

impl Default for AdamW {
    /// PyTorch's, without weight decay.
    fn default() -> Self {
        AdamW {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// RMSProp's constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RmsProp {
    /// Decay of the squared gradient's mean.
    pub alpha: f64,
    /// Added to its root.
    pub eps: f64,
    /// Added to the gradient as weight_decay·w (not decoupled, as in PyTorch).
    pub weight_decay: f64,
    /// Momentum of the scaled gradient; 0: none.
    pub momentum: f64,
}

impl Default for RmsProp {
    /// PyTorch's, as SPIN uses it.
    fn default() -> Self {
        RmsProp {
            alpha: 0.99,
            eps: 1e-8,
            weight_decay: 0.0,
            momentum: 0.0,
        }
    }
}

impl Optimizer {
    /// AdamW with PyTorch's constants and no weight decay.
    pub fn adamw() -> Self {
        Optimizer::AdamW(AdamW::default())
    }

    /// The same with moments in 8 bits.
    pub fn adamw_8bit() -> Self {
        Optimizer::AdamW8(AdamW::default())
    }

    /// RMSProp with PyTorch's constants, as SPIN uses it.
    pub fn rmsprop() -> Self {
        Optimizer::RmsProp(RmsProp::default())
    }

    /// Refuses constants outside their range.
    pub fn check(&self) -> Result<()> {
        let (decays, eps, weight_decay) = match self {
            Optimizer::AdamW(c) | Optimizer::AdamW8(c) => {
                let decays = [("beta1", c.beta1), ("beta2", c.beta2)];
                (decays, c.eps, c.weight_decay)
            }
            Optimizer::RmsProp(c) => {
                let decays = [("alpha", c.alpha), ("momentum", c.momentum)];
                (decays, c.eps, c.weight_decay)
            }
        };
        for (name, value) in decays {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::rule(format!(
                    "the optimiser's {name} is {value}; it must lie in [0, 1)"
                )));
            }
        }
        if !(eps.is_finite() && eps > 0.0) {
            return Err(Error::rule(format!(
                "the optimiser's eps is {eps}; it must be a positive number"
            )));
        }
        if !(weight_decay.is_finite() && weight_decay >= 0.0) {
            return Err(Error::rule(format!(
                "weight_decay is {weight_decay}; it must be 0 or a positive number"
            )));
        }
        Ok(())
    }

    /// Whether it keeps (a first moment or momentum, a second moment).
    pub fn moments(&self) -> (bool, bool) {
        match self {
            Optimizer::AdamW(_) | Optimizer::AdamW8(_) => (true, true),
            Optimizer::RmsProp(c) => (c.momentum > 0.0, true),
        }
    }

    /// Whether it keeps the moments of a tensor of `n` numbers in 8 bits.
    pub fn in_8_bits(&self, n: usize) -> bool {
        matches!(self, Optimizer::AdamW8(_)) && n >= SMALLEST
    }

    /// Memory of the moments of a tensor of `n` numbers.
    pub fn moment_bytes(&self, n: usize) -> u64 {
        let (first, second) = self.moments();
        let each = match self.in_8_bits(n) {
            true => n.div_ceil(SHARED) * (SHARED + 4),
            false => 4 * n,
        };
        (u64::from(first) + u64::from(second)) * each as u64
    }

    /// One step over one tensor: w and g have the same length, and so have the moments, of which
    /// the first is left alone where [`Optimizer::moments`] says that it is not kept.
    ///
    /// # Errors
    /// Moments of another length or kind.
    pub(super) fn update(
        &self,
        w: &mut [f32],
        g: &[f32],
        first: &mut Moment,
        second: &mut Moment,
        step: &OptimizerStep,
    ) -> Result<()> {
        let n = w.len();
        let kept = self.moments().0;
        match (first, second) {
            (Moment::F32(m), Moment::F32(v))
                if g.len() == n && v.len() == n && (m.len() == n || !kept) =>
            {
                self.plain(w, g, m, v, step);
                Ok(())
            }
            (Moment::Codes(m), Moment::Codes(v))
                if g.len() == n && m.most.len() == n.div_ceil(SHARED) && self.in_8_bits(n) =>
            {
                self.coded(w, g, m, v, step);
                Ok(())
            }
            _ => Err(Error::rule(format!(
                "the optimiser's moments of a tensor of {n} numbers are of another kind or length"
            ))),
        }
    }

    fn plain(
        &self,
        w: &mut [f32],
        g: &[f32],
        first: &mut [f32],
        second: &mut [f32],
        step: &OptimizerStep,
    ) {
        let weights = w
            .par_chunks_mut(BLOCK)
            .zip(g.par_chunks(BLOCK))
            .zip(second.par_chunks_mut(BLOCK));
        if self.moments().0 {
            weights
                .zip(first.par_chunks_mut(BLOCK))
                .for_each(|(((w, g), v), m)| self.few(w, g, Some(m), v, step));
        } else {
            weights.for_each(|((w, g), v)| self.few(w, g, None, v, step));
        }
    }

    /// The same on codes: a block's moments are made f32, changed, and made codes again.
    fn coded<'a>(
        &self,
        w: &mut [f32],
        g: &[f32],
        first: &'a mut Codes,
        second: &'a mut Codes,
        step: &OptimizerStep,
    ) {
        let maps = [first.which().map(), second.which().map()];
        const SCALES: usize = BLOCK / SHARED;
        let parts = |c: &'a mut Codes| {
            let codes = c.codes.par_chunks_mut(BLOCK);
            codes.zip(c.most.par_chunks_mut(SCALES))
        };
        w.par_chunks_mut(BLOCK)
            .zip(g.par_chunks(BLOCK))
            .zip(parts(first))
            .zip(parts(second))
            .for_each(|(((w, g), (mc, mm)), (vc, vm))| {
                let blocks = w.chunks_mut(SHARED).zip(g.chunks(SHARED));
                let first = mc.chunks_mut(SHARED).zip(mm);
                let second = vc.chunks_mut(SHARED).zip(vm);
                for (((w, g), (mc, mm)), (vc, vm)) in blocks.zip(first).zip(second) {
                    let (mut m, mut v) = ([0f32; SHARED], [0f32; SHARED]);
                    let n = w.len();
                    decode(maps[0], mc, *mm, &mut m[..n]);
                    decode(maps[1], vc, *vm, &mut v[..n]);
                    self.few(w, g, Some(&mut m[..n]), &mut v[..n], step);
                    *mm = encode(maps[0], &m, mc);
                    *vm = encode(maps[1], &v, vc);
                }
            });
    }

    /// One step over a few values; `m` is there where a first moment is kept.
    fn few(
        &self,
        w: &mut [f32],
        g: &[f32],
        m: Option<&mut [f32]>,
        v: &mut [f32],
        step: &OptimizerStep,
    ) {
        match (self, m) {
            (Optimizer::AdamW(c) | Optimizer::AdamW8(c), Some(m)) => adamw(w, g, m, v, c, step),
            (Optimizer::RmsProp(c), m) => rmsprop(w, g, m, v, c, step),
            _ => {} // an AdamW without a first moment was refused
        }
    }
}

/// The numbers of one optimiser step, beside its tensors.
#[derive(Debug, Clone, Copy)]
pub(super) struct OptimizerStep {
    /// Learning rate.
    pub rate: f64,
    /// Factor on every gradient (clipping).
    pub scale: f64,
    /// Steps including this one, for AdamW's bias correction.
    pub count: usize,
    /// Whether weight decay applies (it does not to norms and biases).
    pub decay: bool,
}

impl OptimizerStep {
    /// The weight decay of this step.
    pub fn weight_decay(&self, configured: f64) -> f64 {
        if self.decay { configured } else { 0.0 }
    }
}

fn adamw(
    w: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    constants: &AdamW,
    step: &OptimizerStep,
) {
    let AdamW {
        beta1, beta2, eps, ..
    } = *constants;
    let count = step.count as f64;
    let size = step.rate / (1.0 - beta1.powf(count));
    let root = (1.0 - beta2.powf(count)).sqrt();
    let shrink = 1.0 - step.rate * step.weight_decay(constants.weight_decay);
    for (((w, &g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
        let g = g as f64 * step.scale;
        let first = beta1 * *m as f64 + (1.0 - beta1) * g;
        let second = beta2 * *v as f64 + (1.0 - beta2) * g * g;
        *w = (*w as f64 * shrink - size * first / (second.sqrt() / root + eps)) as f32;
        (*m, *v) = (first as f32, second as f32);
    }
}

fn rmsprop(
    w: &mut [f32],
    g: &[f32],
    mut buffer: Option<&mut [f32]>,
    v: &mut [f32],
    constants: &RmsProp,
    step: &OptimizerStep,
) {
    let RmsProp { alpha, eps, .. } = *constants;
    let weight_decay = step.weight_decay(constants.weight_decay);
    for (i, ((w, &g), v)) in w.iter_mut().zip(g).zip(v).enumerate() {
        let g = g as f64 * step.scale + weight_decay * *w as f64;
        let square = alpha * *v as f64 + (1.0 - alpha) * g * g;
        let mut change = g / (square.sqrt() + eps);
        if let Some(buffer) = &mut buffer {
            change += constants.momentum * buffer[i] as f64;
            buffer[i] = change as f32;
        }
        *w = (*w as f64 - step.rate * change) as f32;
        *v = square as f32;
    }
}

/// Runs `f` on an f32 tensor's elements, without a copy where they lie in this machine's memory.
pub(super) fn with_floats<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    if let Storage::Cpu(values) = &*storage {
        let start = layout.start_offset();
        return Ok(f(
            &values.as_slice::<f32>()?[start..start + layout.shape().elem_count()]
        ));
    }
    drop(storage);
    Ok(f(&tensor.flatten_all()?.to_vec1::<f32>()?))
}

#[cfg(test)]
mod tests;
