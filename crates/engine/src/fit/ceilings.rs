//! What this machine or its GPU can do, measured in a moment, and how long work takes by that.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use candle_core::{Device, Tensor};
use randori_kernels::{Cpu, Kernels, Result, Weight, math, shapes::Work};
use rayon::prelude::*;

/// The share of a bare product's speed that whole passes reach: attention, norms, thin products of
/// the update and memory traffic take the rest. From benches/results/roofline.md, where training,
/// scoring and prefill reach 51 to 69 %.
const REACHED: f64 = 0.65;
/// That share on a GPU. Assumed: no pass has been timed on one.
#[cfg(feature = "cuda")]
const REACHED_ON_CARD: f64 = 0.5;
/// Multiply-adds in whose time one weight is widened to f32. A guess from the same tables, never
/// measured alone; benches/results/memory.md has how far the estimates are off with it.
const WIDENING: f64 = 16.0;

/// Rows of the product that is measured, and the most of its other sizes.
const ROWS: usize = 512;
const WIDEST: usize = 2048;
/// The most memory that is read.
const STREAM: u64 = 512 << 20;
/// Products or copies on a GPU between two waits for it.
#[cfg(feature = "cuda")]
const AT_ONCE: usize = 4;
/// Time for either.
const LONG_ENOUGH: Duration = Duration::from_millis(250);

/// The machine's speed, all threads together, or a GPU's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// Multiply-adds a second in a product of matrices, f32 or what a GPU computes in.
    pub multiply_adds: f64,
    /// Bytes a second that are read from memory; on a GPU read or written.
    pub bytes: f64,
    /// The share of a bare product's speed that whole passes reach.
    pub reached: f64,
}

impl Ceilings {
    /// Measures a product as wide as the model and a read of as much memory as its weights take
    /// (both up to a limit), in about half a second.
    ///
    /// # Errors
    /// What candle refuses.
    pub fn measure(width: usize, weights: u64) -> Result<Ceilings> {
        Ok(Ceilings {
            multiply_adds: product(width.clamp(64, WIDEST))?,
            bytes: reading(weights.clamp(1 << 20, STREAM)),
            reached: REACHED,
        })
    }

    /// Measures the GPU likewise: a product in `float`, and a copy in its memory.
    ///
    /// # Errors
    /// No GPU, or one that fails.
    #[cfg(feature = "cuda")]
    pub fn measure_on_card(
        width: usize,
        weights: u64,
        float: candle_core::DType,
    ) -> Result<Ceilings> {
        let gpu = randori_cuda::gpu::Gpu::open()?;
        let timed = |mut work: Box<dyn FnMut() -> Result<()>>| {
            shortest(|| {
                // several, so that waiting for the host does not count
                for _ in 0..AT_ONCE {
                    work()?;
                }
                Ok(gpu.synchronise()?)
            })
            .map(|seconds| seconds / AT_ONCE as f64)
        };
        let width = width.clamp(64, 2 * WIDEST);
        let zeros =
            |rows: usize| Ok::<_, randori_kernels::Error>(gpu.zeros(&[rows, width], float)?);
        let (x, w) = (zeros(4 * ROWS)?, Weight::Dense(zeros(width)?));
        let card = randori_kernels::Card::new(Default::default());
        let product = timed(Box::new(move || card.product(&x, &w).map(drop)))?;
        let bytes = weights.clamp(1 << 20, STREAM) as usize;
        let from = gpu.zeros(&[bytes], candle_core::DType::U8)?;
        let to = gpu.zeros(&[bytes], candle_core::DType::U8)?;
        let copy = timed(Box::new(move || {
            use randori_cuda::gpu::ptr;
            Ok(gpu.copy(ptr(&from)?, ptr(&to)?, bytes)?)
        }))?;
        Ok(Ceilings {
            multiply_adds: (4 * ROWS * width * width) as f64 / product,
            bytes: 2.0 * bytes as f64 / copy,
            reached: REACHED_ON_CARD,
        })
    }

    /// How long work takes, by experience: the products at their share of the ceiling, then the
    /// memory traffic, then the widening.
    pub fn seconds(&self, work: &Work) -> f64 {
        let products = work.multiply_adds / self.reached + WIDENING * work.widened;
        products / self.multiply_adds + work.bytes / self.bytes
    }
}

fn product(width: usize) -> Result<f64> {
    let values = |rows: usize| -> Result<Tensor> {
        let values: Vec<f32> = (0..rows * width).map(|i| (i % 7) as f32 - 3.0).collect();
        Ok(Tensor::from_vec(values, (rows, width), &Device::Cpu)?)
    };
    let (x, w) = (values(ROWS)?, Weight::Dense(values(width)?));
    let seconds = shortest(|| {
        black_box(Cpu.product(&x, &w)?);
        Ok(())
    })?;
    Ok((ROWS * width * width) as f64 / seconds)
}

fn reading(bytes: u64) -> f64 {
    // written first, or every page would be the same page of zeros
    let buffer: Vec<f32> = (0..bytes as usize / 4)
        .into_par_iter()
        .map(|i| (i % 8) as f32)
        .collect();
    let seconds = shortest(|| {
        let sums = buffer.par_chunks(1 << 18).map(math::sum);
        black_box(sums.sum::<f64>());
        Ok(())
    });
    bytes as f64 / seconds.unwrap_or(f64::INFINITY)
}

/// The shortest of as many repeats as there is time for, after one that warms up: what else runs
/// here makes every other figure another one each time, and [`REACHED`] is the share of this one.
fn shortest(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let began = Instant::now();
    let (mut times, mut least) = (0, f64::INFINITY);
    while times < 3 || began.elapsed() < LONG_ENOUGH {
        let start = Instant::now();
        work()?;
        least = least.min(start.elapsed().as_secs_f64());
        times += 1;
    }
    Ok(least.max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_work_takes_its_time() {
        let machine = Ceilings {
            multiply_adds: 100.0,
            bytes: 10.0,
            reached: 0.65,
        };
        let seconds = |multiply_adds, bytes, widened| {
            machine.seconds(&Work {
                multiply_adds,
                bytes,
                widened,
            })
        };
        assert_eq!(seconds(0.0, 30.0, 0.0), 3.0);
        assert_eq!(seconds(130.0, 0.0, 0.0), 2.0);
        assert_eq!(seconds(0.0, 0.0, 100.0), WIDENING);
        assert_eq!(seconds(130.0, 30.0, 100.0), 5.0 + WIDENING);
    }

    #[test]
    fn a_machine_has_a_speed() {
        let machine = Ceilings::measure(64, 0).unwrap();
        assert!(machine.multiply_adds > 1e6 && machine.multiply_adds.is_finite());
        assert!(machine.bytes > 1e6 && machine.bytes.is_finite());
    }
}
