//! The machine's peak rates of f32 products and of reading memory, on all threads.

use std::{hint::black_box, time::Instant};

use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// (rows, in, out) of the products that are tried; the ceiling is the fastest. First those of a
/// step of four pairs and a square one as a textbook has it, then those that a step has besides: a
/// chunk of the head, and a low-rank update's two.
pub const PRODUCTS: [(usize, usize, usize); 6] = [
    (1024, 576, 1536),
    (1024, 1536, 576),
    (2048, 2048, 2048),
    (85, 576, 49_152),
    (1024, 576, 8),
    (1024, 8, 1536),
];

/// Bytes that are read: more than the last cache of any machine this is likely to run on.
const BUFFER: usize = 1 << 30;

/// Independent sums, so that additions do not wait for each other.
const LANES: usize = 64;

/// A machine's peak rates.
#[derive(Clone, Debug)]
pub struct Ceilings {
    /// Operations a second of every shape of [`PRODUCTS`].
    pub products: Vec<f64>,
    /// Bytes a second.
    pub bytes: f64,
}

impl Ceilings {
    /// Measures the best of `repeats`, since a disturbance only lowers a rate.
    pub fn measure(repeats: usize) -> Ceilings {
        Ceilings {
            products: PRODUCTS.iter().map(|p| product(*p, repeats)).collect(),
            bytes: reading(repeats),
        }
    }

    /// Operations a second.
    pub fn flops(&self) -> f64 {
        self.products.iter().copied().fold(0.0, f64::max)
    }

    /// How far the rates differ from another measurement's: the larger relative difference of the
    /// two.
    pub fn apart(&self, other: &Ceilings) -> f64 {
        let share = |a: f64, b: f64| 1.0 - a.min(b) / a.max(b);
        share(self.flops(), other.flops()).max(share(self.bytes, other.bytes))
    }

    /// The better of two measurements, figure by figure.
    pub fn better(&self, other: &Ceilings) -> Ceilings {
        let products = self.products.iter().zip(&other.products);
        Ceilings {
            products: products.map(|(a, b)| a.max(*b)).collect(),
            bytes: self.bytes.max(other.bytes),
        }
    }
}

/// The shortest of `repeats`, after one that warms up.
fn shortest(repeats: usize, mut work: impl FnMut()) -> f64 {
    work();
    let seconds = (0..repeats).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}

/// x·Wᵀ through candle, whose products are the gemm crate's, like the engine's. Small ones are
/// repeated, so that the clock's own time does not count.
fn product((rows, inputs, outputs): (usize, usize, usize), repeats: usize) -> f64 {
    let flops = 2.0 * (rows * inputs * outputs) as f64;
    let times = (1e9 / flops).ceil();
    let random = |shape: (usize, usize)| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
    let (x, w) = (random((rows, inputs)), random((outputs, inputs)));
    let turned = w.t().unwrap();
    let seconds = shortest(repeats, || {
        for _ in 0..times as usize {
            black_box(x.matmul(&turned).unwrap());
        }
    });
    times * flops / seconds
}

fn reading(repeats: usize) -> f64 {
    // written first, or every page would map to one page of zeros
    let buffer: Vec<f32> = (0..BUFFER / 4)
        .into_par_iter()
        .map(|i| (i % 8) as f32)
        .collect();
    let seconds = shortest(repeats, || {
        let sums = buffer.par_chunks(1 << 20).map(sum);
        black_box(sums.sum::<f32>());
    });
    BUFFER as f64 / seconds
}

fn sum(values: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    for chunk in values.chunks_exact(LANES) {
        for (s, v) in sums.iter_mut().zip(chunk) {
            *s += v;
        }
    }
    sums.iter().sum()
}

/// The processor's name, the threads used, and the load average, as far as the system tells.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let name = read("/proc/cpuinfo")
        .lines()
        .find_map(|l| {
            l.strip_prefix("model name")?
                .split_once(':')
                .map(|(_, n)| n.trim().to_string())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_string());
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("unknown");
    format!(
        "{name}, {} threads, load average {load}",
        rayon::current_num_threads()
    )
}
