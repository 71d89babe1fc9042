//! Weights without numbers: how they are stored, and what a product with one takes.

use std::ops::{AddAssign, Mul};

use randori_cuda::ops::{matvec, product4};

use super::Shapes;

/// Work that takes time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Multiply-adds of matrix products and attention, to the last one what [`crate::work`] counts.
    pub multiply_adds: f64,
    /// Bytes that no cache holds: weights at each product, keys and values of a cache, the
    /// optimiser's tensors.
    pub bytes: f64,
    /// Weights that products widened to f32 on their way.
    pub widened: f64,
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.multiply_adds += other.multiply_adds;
        self.bytes += other.bytes;
        self.widened += other.widened;
    }
}

impl Mul<f64> for Work {
    type Output = Work;
    fn mul(self, times: f64) -> Work {
        Work {
            multiply_adds: times * self.multiply_adds,
            bytes: times * self.bytes,
            widened: times * self.widened,
        }
    }
}

/// How a weight is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// f32, bf16 or f16.
    Dense,
    /// 4-bit codes; whether their scales are quantised too.
    Nf4 {
        /// Double quantisation.
        double: bool,
    },
    /// A GGUF file's own blocks.
    Blocks,
}

/// A weight of the base.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// Memory it takes.
    pub bytes: u64,
    /// Whether products on the CPU go over a few widened rows at a time.
    pub widened: bool,
    /// In which form.
    pub held: Holding,
}

/// A weight (out, in).
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    /// (out, in)
    pub shape: (usize, usize),
    /// How the base holds it.
    pub stored: Option<Stored>,
    /// Whether the player has a copy of its own, in f32.
    pub own: bool,
}

impl Matrix {
    /// The base's, unless the player has a copy of its own.
    fn stored(&self) -> Option<&Stored> {
        self.stored.as_ref().filter(|_| !self.own)
    }

    fn numbers(&self) -> usize {
        self.shape.0 * self.shape.1
    }
}

impl Shapes {
    /// Counts a product of `rows` rows with a weight, and the memory that goes by.
    pub fn goes_over(&self, w: &Matrix, rows: usize) {
        let numbers = w.numbers();
        self.multiplies((rows * numbers) as u64);
        let (bytes, widened) = match w.stored() {
            Some(stored) => (stored.bytes, stored.widened),
            None => (4 * numbers as u64, false),
        };
        let mut work = self.work.get();
        work.bytes += bytes as f64;
        match self.card {
            // a card writes the dequantised matrix, and reads it again
            Some(float) => {
                let dequantised = match w.stored().map(|s| s.held) {
                    Some(Holding::Nf4 { .. } | Holding::Blocks) => rows > self.coded(),
                    Some(Holding::Dense) | None => false,
                };
                if dequantised {
                    work.bytes += (2 * float) as f64 * numbers as f64;
                }
            }
            None => work.widened += if widened { numbers as f64 } else { 0.0 },
        }
        self.work.set(work);
    }

    /// Most rows whose products on the card read quantised weights as they are.
    fn coded(&self) -> usize {
        if self.card == Some(2) {
            product4::MOST
        } else {
            matvec::MOST
        }
    }

    /// Beside a product of `rows` rows with a weight: on the CPU, rows of it that lie widened in
    /// every thread's buffer; on a GPU, all of a quantised one dequantised, unless the rows are few
    /// enough to read it as it is: then room for sums, of more than a few.
    pub(super) fn widening(&self, w: &Matrix, rows: usize) -> u64 {
        let (out, inputs) = w.shape;
        let Some(float) = self.card else {
            return match w.stored.is_some_and(|s| s.widened) {
                true => self.threads * 4 * (64 * inputs) as u64,
                false => 0,
            };
        };
        let few = rows <= self.coded() && inputs.is_multiple_of(32);
        match w.stored().map(|s| s.held) {
            Some(Holding::Nf4 { .. } | Holding::Blocks) if few && rows <= matvec::MOST => 0,
            Some(Holding::Nf4 { .. }) if few => {
                4 * product4::Encoding::Nf4.parts(rows, out, inputs) as u64
            }
            Some(Holding::Blocks) if few => {
                4 * product4::Encoding::Blocks.parts(rows, out, inputs) as u64
            }
            Some(Holding::Nf4 { .. } | Holding::Blocks) => float * w.numbers() as u64,
            Some(Holding::Dense) | None => 0,
        }
    }

    /// The same beside the product with its transpose, which the CPU widens no rows for that last.
    pub(super) fn backward_widening(&self, w: &Matrix) -> u64 {
        match self.card {
            Some(_) => self.widening(w, usize::MAX),
            None => 0,
        }
    }

    /// DoRA's gains of a projection on a GPU: A·Wᵀ, and once the whole of a quantised weight in
    /// f32, for its rows' norms.
    pub fn gain(&self, w: &Matrix, rank: usize) {
        let Some(float) = self.card else { return };
        let dense = self.widening(w, usize::MAX);
        let product = float * (rank * w.shape.0) as u64 + self.widening(w, rank);
        self.ledger.touch((4 / float * dense).max(product));
    }
}
