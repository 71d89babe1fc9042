//! The optimiser on a GPU: parameters, gradients and moments lie on the card, and nothing but the
//! gradient's norm comes down.
//!
//! The arithmetic is f32 where the processor's is f64 (crates/cuda/kernels/adamw.cu): the two
//! differ by rounding.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{DType, Device, Tensor};
use randori_cuda::{
    gpu::{self, Gpu},
    ops::adamw::{self, AdamW, Moments8, RmsProp},
};
use randori_kernels::{Error, Result};

use super::{
    moments::{self as near, Codes, Moment, Which},
    optim::{Optimizer, OptimizerStep},
};
use crate::{
    params::{Grads, Params},
    player::Player,
};

/// The moments of all parameters on the card.
pub(super) struct DeviceMoments {
    moments: BTreeMap<String, MomentPair>,
    /// What codes mean: f32 (256), of the first moment and of the second. There where codes are.
    maps: Option<[Tensor; 2]>,
}

/// A parameter's first moment, where the optimiser keeps one, and its second.
struct MomentPair(Option<DeviceMoment>, Option<DeviceMoment>);

/// One moment of one parameter on the card.
enum DeviceMoment {
    F32(Tensor),
    Codes { codes: Tensor, most: Tensor },
}

/// A player's parameters on its base's card, in f32, held by nobody else.
pub(super) fn upload_params(player: &Player) -> Result<Arc<Params>> {
    let device = &player.base.compute.device;
    let params = player.params.iter().map(|(name, t)| {
        let near = t.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        Ok((name.clone(), near.contiguous()?.to_device(device)?))
    });
    Ok(Arc::new(params.collect::<Result<Params>>()?))
}

/// Parameters in the machine's memory.
pub(super) fn download_params(params: &Params) -> Result<Arc<Params>> {
    let params = params
        .iter()
        .map(|(name, t)| Ok((name.clone(), t.to_device(&Device::Cpu)?)));
    Ok(Arc::new(params.collect::<Result<Params>>()?))
}

/// The Euclidean norm over all gradients, summed in f64 in a fixed order.
pub(super) fn global_norm(grads: &Grads) -> Result<f64> {
    let gpu = Gpu::open()?;
    let parts = |t: &Tensor| t.elem_count().div_ceil(adamw::PART);
    let all: usize = grads.values().map(parts).sum();
    let sums = gpu.room(&[all], DType::F64)?; // every part is written
    let mut at = gpu::ptr(&sums)?;
    for grad in grads.values() {
        adamw::squares(gpu, grad.elem_count(), gpu::ptr(grad)?, at)?;
        at = at.offset(8 * parts(grad));
    }
    Ok(sums.to_vec1::<f64>()?.iter().sum::<f64>().sqrt())
}

impl DeviceMoment {
    fn new(gpu: &Gpu, moment: &Moment) -> Result<DeviceMoment> {
        Ok(match moment {
            Moment::F32(values) => DeviceMoment::F32(gpu.upload(values)?),
            Moment::Codes(c) => DeviceMoment::Codes {
                codes: gpu.upload(&c.codes)?,
                most: gpu.upload(&c.most)?,
            },
        })
    }

    fn download(&self, which: Which) -> Result<Moment> {
        Ok(match self {
            DeviceMoment::F32(t) => Moment::F32(t.to_vec1()?),
            DeviceMoment::Codes { codes, most } => {
                Moment::Codes(Codes::new(which, codes.to_vec1()?, most.to_vec1()?))
            }
        })
    }
}

impl DeviceMoments {
    /// Those of steps before, or zeros: all room is taken at once, so that a step that begins has
    /// what it needs.
    pub(super) fn new(
        player: &Player,
        optimizer: &Optimizer,
        before: &near::Moments,
    ) -> Result<Self> {
        let gpu = Gpu::open()?;
        let (first, second) = optimizer.moments();
        let mut moments = BTreeMap::new();
        let mut coded = false;
        for (name, param) in player.params.iter() {
            let n = param.elem_count();
            let upload = |which, is_kept: bool, before: &BTreeMap<String, Moment>| {
                if !is_kept {
                    return Ok(None);
                }
                match before.get(name) {
                    Some(moment) => DeviceMoment::new(gpu, moment),
                    None => DeviceMoment::new(gpu, &Moment::new(which, n, optimizer.in_8_bits(n))),
                }
                .map(Some)
            };
            let first = upload(Which::First, first, &before.first)?;
            let second = upload(Which::Second, second, &before.second)?;
            coded |= optimizer.in_8_bits(n);
            moments.insert(name.clone(), MomentPair(first, second));
        }
        let map = |which: Which| gpu.upload(which.map().as_slice());
        let maps = match coded {
            true => Some([map(Which::First)?, map(Which::Second)?]),
            false => None,
        };
        Ok(DeviceMoments { moments, maps })
    }

    /// The same in the machine's memory.
    pub(super) fn download(&self) -> Result<near::Moments> {
        let mut moments = near::Moments::default();
        for (name, MomentPair(first, second)) in &self.moments {
            if let Some(moment) = first {
                let moment = moment.download(Which::First)?;
                moments.first.insert(name.clone(), moment);
            }
            if let Some(moment) = second {
                let moment = moment.download(Which::Second)?;
                moments.second.insert(name.clone(), moment);
            }
        }
        Ok(moments)
    }

    /// Changes the parameters in place; one without a gradient has a zero gradient.
    pub(super) fn step(
        &self,
        optimizer: &Optimizer,
        params: &Params,
        grads: &Grads,
        step: &OptimizerStep,
    ) -> Result<()> {
        let gpu = Gpu::open()?;
        // room first: a step that lacks it has changed nothing
        let mut missing = Grads::new();
        for (name, param) in params.iter().filter(|(name, _)| !grads.contains_key(*name)) {
            missing.insert(name.clone(), gpu.zeros(param.dims(), DType::F32)?);
        }
        for (name, param) in params {
            let of = |g: &Grads| g.get(name).cloned();
            let (Some(grad), Some(pair)) =
                (of(grads).or_else(|| of(&missing)), self.moments.get(name))
            else {
                return Err(Error::rule(format!("`{name}` has no moments")));
            };
            let decay = param.rank() > 1;
            let step = OptimizerStep { decay, ..*step };
            self.change(gpu, optimizer, (param, &grad), pair, &step)
                .map_err(|e| Error::rule(format!("`{name}`: {e}")))?;
        }
        Ok(())
    }

    fn change(
        &self,
        gpu: &Gpu,
        optimizer: &Optimizer,
        (param, grad): (&Tensor, &Tensor),
        MomentPair(first, second): &MomentPair,
        step: &OptimizerStep,
    ) -> Result<()> {
        let n = param.elem_count();
        let (w, g) = (gpu::ptr(param)?, gpu::ptr(grad)?);
        let refused = || Error::rule("its moments are not this optimiser's");
        match optimizer {
            Optimizer::AdamW(c) | Optimizer::AdamW8(c) => {
                let adamw = AdamW {
                    beta1: c.beta1,
                    beta2: c.beta2,
                    eps: c.eps,
                    weight_decay: step.weight_decay(c.weight_decay),
                    rate: step.rate,
                    scale: step.scale,
                    count: step.count,
                };
                match (first, second) {
                    (Some(DeviceMoment::F32(m)), Some(DeviceMoment::F32(v))) => {
                        adamw.step(gpu, n, w, g, gpu::ptr(m)?, gpu::ptr(v)?)?;
                    }
                    (
                        Some(DeviceMoment::Codes { codes, most }),
                        Some(DeviceMoment::Codes {
                            codes: codes2,
                            most: most2,
                        }),
                    ) => {
                        let [signed, unsigned] = self.maps.as_ref().ok_or_else(refused)?;
                        let by = Moments8 {
                            first: gpu::ptr(codes)?,
                            second: gpu::ptr(codes2)?,
                            first_most: gpu::ptr(most)?,
                            second_most: gpu::ptr(most2)?,
                            signed_map: gpu::ptr(signed)?,
                            unsigned_map: gpu::ptr(unsigned)?,
                        };
                        adamw.step8(gpu, n, w, g, &by)?;
                    }
                    _ => return Err(refused()),
                }
            }
            Optimizer::RmsProp(c) => {
                let rmsprop = RmsProp {
                    alpha: c.alpha,
                    eps: c.eps,
                    weight_decay: step.weight_decay(c.weight_decay),
                    momentum: c.momentum,
                    rate: step.rate,
                    scale: step.scale,
                };
                let (buffer, squares) = match (first, second) {
                    (None, Some(DeviceMoment::F32(v))) => (None, v),
                    (Some(DeviceMoment::F32(m)), Some(DeviceMoment::F32(v))) => {
                        (Some(gpu::ptr(m)?), v)
                    }
                    _ => return Err(refused()),
                };
                rmsprop.step(gpu, n, w, g, buffer, gpu::ptr(squares)?)?;
            }
        }
        Ok(())
    }
}
