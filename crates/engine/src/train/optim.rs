//! Optimisers: AdamW and RMSProp with PyTorch's semantics. Weights and moments are f32, the arithmetic f64.

use std::collections::BTreeMap;

use candle_core::{Storage, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, player::Grads};

/// Elements a thread takes at a time; also the fixed blocks of the norm's sum, so that it does not depend on threads.
const BLOCK: usize = 1 << 14;

/// Which optimiser, with its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam with decoupled weight decay and bias correction.
    AdamW {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        eps: f64,
        /// Per step: w ← w·(1 − lr·weight_decay).
        weight_decay: f64,
    },
    /// The paper's optimiser; no bias correction, so the first step is about 10·lr·sign(gradient).
    RmsProp {
        /// Decay of the squared gradient's mean.
        alpha: f64,
        /// Added to its root.
        eps: f64,
        /// Added to the gradient as weight_decay·w (not decoupled, as in PyTorch).
        weight_decay: f64,
        /// Momentum of the scaled gradient; 0: none.
        momentum: f64,
    },
}

impl Optimizer {
    /// AdamW with PyTorch's constants and no weight decay.
    pub fn adamw() -> Self {
        Optimizer::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
        }
    }

    /// RMSProp with PyTorch's constants, as SPIN uses it.
    pub fn rmsprop() -> Self {
        Optimizer::RmsProp {
            alpha: 0.99,
            eps: 1e-8,
            weight_decay: 0.0,
            momentum: 0.0,
        }
    }

    /// Refuses constants outside their range.
    pub fn check(&self) -> Result<()> {
        let (decays, eps, weight_decay) = match *self {
            Optimizer::AdamW {
                beta1,
                beta2,
                eps,
                weight_decay,
            } => ([("beta1", beta1), ("beta2", beta2)], eps, weight_decay),
            Optimizer::RmsProp {
                alpha,
                eps,
                weight_decay,
                momentum,
            } => (
                [("alpha", alpha), ("momentum", momentum)],
                eps,
                weight_decay,
            ),
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
        match *self {
            Optimizer::AdamW { .. } => (true, true),
            Optimizer::RmsProp { momentum, .. } => (momentum > 0.0, true),
        }
    }

    /// One step over one tensor. All slices have the same length, except that `first` is empty where
    /// [`Optimizer::moments`] says it is not kept.
    pub fn update(
        &self,
        w: &mut [f32],
        g: &[f32],
        first: &mut [f32],
        second: &mut [f32],
        step: &Update,
    ) {
        let weights = w
            .par_chunks_mut(BLOCK)
            .zip(g.par_chunks(BLOCK))
            .zip(second.par_chunks_mut(BLOCK));
        if self.moments().0 {
            weights
                .zip(first.par_chunks_mut(BLOCK))
                .for_each(|(((w, g), v), m)| match *self {
                    Optimizer::AdamW {
                        beta1,
                        beta2,
                        eps,
                        weight_decay,
                    } => {
                        let decay = if step.decay { weight_decay } else { 0.0 };
                        adamw(w, g, m, v, [beta1, beta2, eps, decay], step);
                    }
                    Optimizer::RmsProp {
                        alpha,
                        eps,
                        weight_decay,
                        momentum,
                    } => {
                        let decay = if step.decay { weight_decay } else { 0.0 };
                        rmsprop(w, g, Some((m, momentum)), v, [alpha, eps, decay], step);
                    }
                });
        } else if let Optimizer::RmsProp {
            alpha,
            eps,
            weight_decay,
            ..
        } = *self
        {
            let decay = if step.decay { weight_decay } else { 0.0 };
            weights.for_each(|((w, g), v)| rmsprop(w, g, None, v, [alpha, eps, decay], step));
        }
    }
}

/// What a step has besides the tensors.
#[derive(Debug, Clone, Copy)]
pub struct Update {
    /// Learning rate.
    pub rate: f64,
    /// Factor on every gradient (clipping).
    pub scale: f64,
    /// Steps including this one, for AdamW's bias correction.
    pub count: usize,
    /// Whether weight decay applies (it does not to norms and biases).
    pub decay: bool,
}

fn adamw(
    w: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    constants: [f64; 4],
    step: &Update,
) {
    let [beta1, beta2, eps, weight_decay] = constants;
    let count = step.count as f64;
    let size = step.rate / (1.0 - beta1.powf(count));
    let root = (1.0 - beta2.powf(count)).sqrt();
    let shrink = 1.0 - step.rate * weight_decay;
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
    mut momentum: Option<(&mut [f32], f64)>,
    v: &mut [f32],
    constants: [f64; 3],
    step: &Update,
) {
    let [alpha, eps, weight_decay] = constants;
    for (i, ((w, &g), v)) in w.iter_mut().zip(g).zip(v).enumerate() {
        let g = g as f64 * step.scale + weight_decay * *w as f64;
        let square = alpha * *v as f64 + (1.0 - alpha) * g * g;
        let mut change = g / (square.sqrt() + eps);
        if let Some((buffer, factor)) = &mut momentum {
            change += *factor * buffer[i] as f64;
            buffer[i] = change as f32;
        }
        *w = (*w as f64 - step.rate * change) as f32;
        *v = square as f32;
    }
}

/// Moments by parameter name; a map stays empty where the optimiser keeps none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Moments {
    pub first: BTreeMap<String, Vec<f32>>,
    pub second: BTreeMap<String, Vec<f32>>,
}

/// The Euclidean norm over all gradients, summed in f64.
pub fn global_norm(grads: &Grads) -> Result<f64> {
    let mut sum = 0.0;
    for grad in grads.values() {
        sum += with_floats(grad, |g| {
            let blocks: Vec<f64> = g
                .par_chunks(BLOCK)
                .map(|b| b.iter().map(|&x| x as f64 * x as f64).sum::<f64>())
                .collect();
            blocks.iter().sum::<f64>()
        })?;
    }
    Ok(sum.sqrt())
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
mod tests {
    use super::*;

    const GRADIENTS: [f32; 6] = [0.5, -0.25, 1.5, 0.125, -2.0, 0.75];

    /// Runs `optimizer` on one weight starting at 1 and answers the weight after each step.
    fn path(optimizer: Optimizer, rate: f64, scale: f64, decay: bool) -> Vec<f64> {
        let (mut w, mut m, mut v) = (
            [1.0f32],
            vec![0.0f32; optimizer.moments().0 as usize],
            [0.0f32],
        );
        let mut path = Vec::new();
        for (i, g) in GRADIENTS.iter().enumerate() {
            optimizer.update(
                &mut w,
                &[*g],
                &mut m,
                &mut v,
                &Update {
                    rate,
                    scale,
                    count: i + 1,
                    decay,
                },
            );
            path.push(w[0] as f64);
        }
        path
    }

    fn near(a: &[f64], b: &[f64]) {
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }

    /// Closed form: the moments as explicit weighted sums over all gradients so far.
    #[test]
    fn adamw_is_its_closed_form() {
        let (beta1, beta2, eps, weight_decay, rate) = (0.9, 0.99, 1e-3, 0.1, 0.05);
        let mut w = 1.0f64;
        let mut expected = Vec::new();
        for t in 1..=GRADIENTS.len() {
            let weighted = |beta: f64, power: i32| -> f64 {
                let sum: f64 = (0..t)
                    .map(|i| beta.powi((t - 1 - i) as i32) * (GRADIENTS[i] as f64).powi(power))
                    .sum();
                (1.0 - beta) * sum / (1.0 - beta.powi(t as i32))
            };
            w = w
                - rate * weight_decay * w
                - rate * weighted(beta1, 1) / (weighted(beta2, 2).sqrt() + eps);
            expected.push(w);
        }
        near(
            &path(
                Optimizer::AdamW {
                    beta1,
                    beta2,
                    eps,
                    weight_decay,
                },
                rate,
                1.0,
                true,
            ),
            &expected,
        );
    }

    #[test]
    fn adamws_first_step_is_the_rate_whatever_the_gradient() {
        let path = path(Optimizer::adamw(), 0.01, 1e-3, false);
        assert!((path[0] - 0.99).abs() < 1e-6);
    }

    #[test]
    fn rmsprop_is_its_closed_form_with_and_without_momentum() {
        let (alpha, eps, weight_decay, rate) = (0.9, 1e-3, 0.2, 0.05);
        for momentum in [0.0, 0.7] {
            let (mut w, mut expected, mut seen, mut changes) = (1.0f64, vec![], vec![], vec![]);
            for (t, g) in GRADIENTS.iter().enumerate() {
                seen.push(*g as f64 + weight_decay * w);
                let mean: f64 = (0..=t)
                    .map(|i| (1.0 - alpha) * f64::powi(alpha, (t - i) as i32) * seen[i] * seen[i])
                    .sum();
                changes.push(seen[t] / (mean.sqrt() + eps));
                w -= rate
                    * (0..=t)
                        .map(|i| f64::powi(momentum, (t - i) as i32) * changes[i])
                        .sum::<f64>();
                expected.push(w);
            }
            near(
                &path(
                    Optimizer::RmsProp {
                        alpha,
                        eps,
                        weight_decay,
                        momentum,
                    },
                    rate,
                    1.0,
                    true,
                ),
                &expected,
            );
        }
    }

    #[test]
    fn rmsprops_first_step_is_ten_rates() {
        let path = path(Optimizer::rmsprop(), 1e-3, 1.0, true);
        assert!((path[0] - (1.0 - 1e-2)).abs() < 1e-6);
    }

    #[test]
    fn the_scale_is_on_the_gradient_and_decay_can_be_off() {
        let decayed = Optimizer::RmsProp {
            alpha: 0.5,
            eps: 1.0,
            weight_decay: 0.3,
            momentum: 0.0,
        };
        let plain = Optimizer::RmsProp {
            alpha: 0.5,
            eps: 1.0,
            weight_decay: 0.0,
            momentum: 0.0,
        };
        assert_eq!(path(decayed, 0.1, 0.5, false), path(plain, 0.1, 0.5, true));
        assert_ne!(path(plain, 0.1, 0.5, true), path(plain, 0.1, 1.0, true));
    }

    #[test]
    fn the_norm_is_over_all_tensors() {
        let device = candle_core::Device::Cpu;
        let big = Tensor::full(0.5f32, 40_000, &device).unwrap();
        let grads = Grads::from([
            (
                "a".to_string(),
                Tensor::new(&[[3.0f32, 0.0], [4.0, 0.0]], &device)
                    .unwrap()
                    .t()
                    .unwrap(),
            ),
            ("b".to_string(), big.narrow(0, 10_000, 30_000).unwrap()),
        ]);
        assert!((global_norm(&grads).unwrap() - (25.0f64 + 7500.0).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn constants_are_checked() {
        assert!(Optimizer::adamw().check().is_ok() && Optimizer::rmsprop().check().is_ok());
        for bad in [
            Optimizer::AdamW {
                beta1: 1.0,
                beta2: 0.9,
                eps: 1e-8,
                weight_decay: 0.0,
            },
            Optimizer::AdamW {
                beta1: 0.9,
                beta2: f64::NAN,
                eps: 1e-8,
                weight_decay: 0.0,
            },
            Optimizer::AdamW {
                beta1: 0.9,
                beta2: 0.9,
                eps: 0.0,
                weight_decay: 0.0,
            },
            Optimizer::RmsProp {
                alpha: 0.9,
                eps: 1e-8,
                weight_decay: -1.0,
                momentum: 0.0,
            },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
