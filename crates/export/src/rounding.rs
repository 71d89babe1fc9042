//! Rounding of f32 to the output's dtype: to nearest, or stochastically so that the mean is kept.

use half::bf16;
use randori_formats::Dtype;

use crate::Result;

/// How a dense output is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest value, ties to even.
    Nearest(Dtype),
    /// Stochastically to one of the two neighbouring bf16 values: E[round(v)] = v. The random
    /// number is a pure function of (seed, tensor name, index).
    Stochastic {
        /// Seed of the random numbers.
        seed: u64,
    },
}

impl Rounding {
    /// Dtype of the file's numbers.
    pub fn dtype(self) -> Dtype {
        match self {
            Rounding::Nearest(dtype) => dtype,
            Rounding::Stochastic { .. } => Dtype::Bf16,
        }
    }

    /// Rounds `values`, all those of the tensor `name`.
    ///
    /// # Errors
    /// A number beyond f16.
    pub fn values(self, name: &str, values: &[f32]) -> Result<Vec<f32>> {
        let mut rounded = values.to_vec();
        self.apply(name, &mut rounded)?;
        Ok(rounded)
    }

    /// [`Rounding::values`] in place.
    pub(crate) fn apply(self, name: &str, values: &mut [f32]) -> Result<()> {
        match self {
            Rounding::Nearest(dtype) => dtype.round(name, values)?,
            Rounding::Stochastic { seed } => {
                let random = randori_lora::splitmix(seed, name, values.len());
                for (v, u) in values.iter_mut().zip(random) {
                    *v = up_or_down(*v, u);
                }
            }
        }
        Ok(())
    }
}

/// bf16 is the upper half of f32. A number in [0, 2^16) added to the lower half carries into the
/// upper one with probability lower / 2^16: the value's relative distance to the neighbour away
/// from zero.
pub(crate) fn up_or_down(v: f32, u: f64) -> f32 {
    if !v.is_finite() {
        return bf16::from_f32(v).to_f32();
    }
    let kept = |bits: u32| f32::from_bits(bits & 0xffff_0000);
    let carried = kept(v.to_bits().wrapping_add((u * 65_536.0) as u32));
    if carried.is_finite() {
        carried
    } else {
        kept(v.to_bits()) // next to the largest: no neighbour above
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod tests {
    use super::*;

    /// `n` roundings of one value.
    fn drawn(v: f32, n: usize, seed: u64) -> Vec<f32> {
        let rounding = Rounding::Stochastic { seed };
        rounding.values("model.layers.0.w", &vec![v; n]).unwrap()
    }

    #[test]
    fn the_expectation_is_the_value() {
        for v in [1.001f32, -0.333_333, 3.0e-5, 1e30, -7.7e-39] {
            let n = 40_000;
            let all = drawn(v, n, 1);
            let below = f32::from_bits(v.to_bits() & 0xffff_0000);
            let above = f32::from_bits((v.to_bits() & 0xffff_0000) + 0x1_0000);
            assert!(all.iter().all(|r| *r == below || *r == above), "{v}");
            let step = f64::from(above) - f64::from(below);
            let mean = all.iter().map(|r| f64::from(*r)).sum::<f64>() / n as f64;
            // the standard deviation of a mean of n two-valued draws is at most step / (2 √n)
            let off = (mean - f64::from(v)).abs() / step.abs();
            assert!(
                off < 4.0 * 0.5 / (n as f64).sqrt(),
                "{v}: off by {off} steps"
            );
        }
    }

    #[test]
    fn what_bf16_holds_stays_and_nothing_overflows() {
        for v in [0.0f32, -0.0, 1.0, -2.5, f32::INFINITY] {
            assert!(drawn(v, 1000, 2).iter().all(|r| r.to_bits() == v.to_bits()));
        }
        assert!(drawn(f32::MAX, 1000, 3).iter().all(|r| r.is_finite()));
        assert!(drawn(f32::NAN, 3, 3).iter().all(|r| r.is_nan()));
    }

    #[test]
    fn it_is_a_function_of_seed_name_and_index() {
        let v = vec![1.001f32; 500];
        let with = |seed, name: &str, n: usize| {
            Rounding::Stochastic { seed }.values(name, &v[..n]).unwrap()
        };
        assert_eq!(with(1, "a", 500), with(1, "a", 500));
        assert_eq!(with(1, "a", 500)[..100], with(1, "a", 100));
        assert_ne!(with(1, "a", 500), with(2, "a", 500));
        assert_ne!(with(1, "a", 500), with(1, "b", 500));
    }
}
