//! Fresh weights, each a pure function of the seed and its tensor's name.

use candle_core::{DType, Device, Tensor};
use randori_kernels::Result;

use crate::trace::{TracedWeight, Use};

/// Deviation of projections, embeddings and taps, as Llama's own initialisation has it.
const DEVIATION: f64 = 0.02;

/// One tensor in f32: norms scale by 1, biases and parameters are 0, the rest is normal.
pub(super) fn tensor(weight: &TracedWeight, seed: u64) -> Result<Tensor> {
    let shape = weight.shape.as_slice();
    match weight.used_as {
        Use::Norm => Ok(Tensor::ones(shape, DType::F32, &Device::Cpu)?),
        Use::NormPlus | Use::Bias | Use::Param => {
            Ok(Tensor::zeros(shape, DType::F32, &Device::Cpu)?)
        }
        Use::Linear | Use::Embed | Use::Conv => {
            let count: usize = shape.iter().product();
            let mut uniform = randori_lora::splitmix(seed, &weight.name, 2 * count.div_ceil(2));
            let mut values = Vec::with_capacity(count + 1);
            // Box-Muller: two normal numbers of two uniform ones
            while let (Some(u), Some(v)) = (uniform.next(), uniform.next()) {
                let radius = DEVIATION * (-2.0 * (1.0 - u).ln()).sqrt();
                let (sine, cosine) = (std::f64::consts::TAU * v).sin_cos();
                values.extend([(radius * cosine) as f32, (radius * sine) as f32]);
            }
            values.truncate(count);
            Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_norms_scale_by_one() {
        let zero = [Use::NormPlus, Use::Bias, Use::Param].map(|used_as| (used_as, 0.0));
        for (used_as, want) in [(Use::Norm, 1.0)].into_iter().chain(zero) {
            let (name, shape) = ("model.norm.weight".to_string(), vec![3]);
            let weight = TracedWeight {
                name,
                shape,
                used_as,
            };
            let values: Vec<f32> = tensor(&weight, 1).unwrap().to_vec1().unwrap();
            assert_eq!(values, [want; 3], "{used_as:?}");
        }
    }
}
