//! The norm of a step's gradients.

use randori_kernels::Result;
use rayon::prelude::*;

use super::optim::{BLOCK, with_floats};
use crate::params::Grads;

/// The Euclidean norm over all gradients, summed in f64.
pub(super) fn global_norm(grads: &Grads) -> Result<f64> {
    #[cfg(feature = "cuda")]
    if grads.values().any(|g| g.device().is_cuda()) {
        return super::on_card::global_norm(grads);
    }
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

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn the_norm_is_over_all_tensors() {
        let device = Device::Cpu;
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
}
