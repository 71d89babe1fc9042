//! The search for scales: weighted least squares over codes that are spread a little wider or
//! narrower than evenly.
//!
//! It runs on eight parts of a block at once, one in each lane of an array, since sums must be in
//! llama.cpp's order: within a part nothing can be added side by side.

use super::{TINY, nearest};

/// Number of parts that are searched at once.
pub(super) const LANES: usize = 8;

/// A number for each part.
type Lanes = [f32; LANES];

/// The lanes of a function of the lane.
fn lanes(of: impl FnMut(usize) -> f32) -> Lanes {
    std::array::from_fn(of)
}

/// Values of eight parts, part after part, so that each lane is a part.
pub(super) fn transposed<const N: usize>(x: &[f32]) -> [Lanes; N] {
    std::array::from_fn(|i| lanes(|j| x[j * N + i]))
}

/// Eight parts of a block: values are near `scale * code - low`.
pub(super) struct Parts<const N: usize> {
    /// Each part's scale.
    pub scale: Lanes,
    /// What is subtracted in each part, 0 at least; 0 in all of a search without minima.
    pub low: Lanes,
    /// Each part's codes.
    pub codes: [[u8; N]; LANES],
}

/// How scales and minima are searched for.
pub(super) struct Search {
    /// The highest code.
    pub top: f32,
    /// Whether errors are magnitudes; squares otherwise.
    pub magnitudes: bool,
    /// How many codes the first spread is wider than the even one.
    pub first: f32,
    /// Number of the last spread, each 0.1 codes wider than the one before.
    pub last: u8,
}

/// What a sum over a part's values has to be divided by or compared with.
struct Whole {
    weights: Lanes,
    values: Lanes,
}

impl Search {
    fn code(&self, v: f32) -> f32 {
        nearest(v).max(0.0).min(self.top)
    }

    /// The weighted errors of scales and minima with these codes.
    fn errors<const N: usize>(
        &self,
        (x, weights): (&[Lanes; N], &[Lanes; N]),
        codes: &[Lanes; N],
        scale: &Lanes,
        min: &Lanes,
    ) -> Lanes {
        let mut sum = [0.0; LANES];
        for ((x, w), code) in x.iter().zip(weights).zip(codes) {
            for j in 0..LANES {
                let off = scale[j] * code[j] + min[j] - x[j];
                let off = if self.magnitudes {
                    off.abs()
                } else {
                    off * off
                };
                sum[j] += w[j] * off;
            }
        }
        sum
    }

    /// The scales and minima (at most 0) with the least weighted error: evenly spread codes, then
    /// for each other spread of codes the weighted least squares.
    pub(super) fn parts<const N: usize>(&self, x: &[Lanes; N], weights: &[Lanes; N]) -> Parts<N> {
        let (mut min, mut max) = (x[0], x[0]);
        let mut whole = Whole {
            weights: [0.0; LANES],
            values: [0.0; LANES],
        };
        for (x, w) in x.iter().zip(weights) {
            for j in 0..LANES {
                min[j] = if x[j] < min[j] { x[j] } else { min[j] };
                max[j] = if x[j] > max[j] { x[j] } else { max[j] };
                whole.weights[j] += w[j];
                whole.values[j] += w[j] * x[j];
            }
        }
        let mut min = lanes(|j| if min[j] > 0.0 { 0.0 } else { min[j] });
        let flat: [bool; LANES] = std::array::from_fn(|j| max[j] == min[j]);
        let least = min;
        let spread = |codes: f32, min: &Lanes| {
            lanes(|j| codes / if flat[j] { 1.0 } else { max[j] - min[j] })
        };
        let coded = |inverse: &Lanes, min: &Lanes| -> [Lanes; N] {
            std::array::from_fn(|i| lanes(|j| self.code(inverse[j] * (x[i][j] - min[j]))))
        };
        let even = spread(self.top, &min);
        let mut scale = lanes(|j| 1.0 / even[j]);
        let mut chosen = (even, min);
        let mut errors = self.errors((x, weights), &coded(&even, &min), &scale, &min);
        for step in 0..=self.last {
            let inverse = spread(self.first + 0.1 * f32::from(step) + self.top, &min);
            let codes = coded(&inverse, &min);
            let (positive, other) = whole.least_squares((x, weights), &codes);
            let error = self.errors((x, weights), &codes, &other.0, &other.1);
            for j in 0..LANES {
                let better = positive[j] && error[j] < errors[j];
                let take = |new: f32, old: f32| if better { new } else { old };
                chosen.0[j] = take(inverse[j], chosen.0[j]);
                chosen.1[j] = take(min[j], chosen.1[j]);
                errors[j] = take(error[j], errors[j]);
                scale[j] = take(other.0[j], scale[j]);
                min[j] = take(other.1[j], min[j]);
            }
        }
        let codes = coded(&chosen.0, &chosen.1);
        Parts {
            scale: lanes(|j| if flat[j] { 0.0 } else { scale[j] }),
            low: lanes(|j| -if flat[j] { least[j] } else { min[j] }),
            codes: std::array::from_fn(|j| {
                std::array::from_fn(|i| if flat[j] { 0 } else { codes[i][j] as u8 })
            }),
        }
    }

    /// Chooses a part's codes anew, for a scale and minimum as they are stored; a scale of 0 leaves
    /// them.
    pub(super) fn again<const N: usize>(
        &self,
        codes: &mut [u8; N],
        x: &[f32],
        scale: f32,
        low: f32,
    ) {
        if scale != 0.0 {
            for (code, x) in codes.iter_mut().zip(x) {
                *code = self.code((x + low) / scale) as u8;
            }
        }
    }
}

impl Whole {
    /// The scales and minima that fit these codes best, and whether there are any.
    fn least_squares<const N: usize>(
        &self,
        (x, weights): (&[Lanes; N], &[Lanes; N]),
        codes: &[Lanes; N],
    ) -> ([bool; LANES], (Lanes, Lanes)) {
        let (mut l, mut ll, mut xl) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for ((x, w), code) in x.iter().zip(weights).zip(codes) {
            for j in 0..LANES {
                l[j] += w[j] * code[j];
                ll[j] += w[j] * code[j] * code[j];
                xl[j] += w[j] * code[j] * x[j];
            }
        }
        let (w, sum) = (&self.weights, &self.values);
        let determinant = lanes(|j| w[j] * ll[j] - l[j] * l[j]);
        let min = lanes(|j| (ll[j] * sum[j] - l[j] * xl[j]) / determinant[j]);
        let scale = lanes(|j| match min[j] > 0.0 {
            true => xl[j] / ll[j],
            false => (w[j] * xl[j] - sum[j] * l[j]) / determinant[j],
        });
        let min = lanes(|j| if min[j] > 0.0 { 0.0 } else { min[j] });
        (determinant.map(|d| d > 0.0), (scale, min))
    }
}

/// Scales without minima for eight parts, by errors weighted with squares; codes are `half` more
/// than whole numbers from `-half` to `half - 1`. Of 19 spreads, the first of which puts the
/// extreme value on the lowest code, the one whose best factor leaves the least error.
pub(super) fn symmetric<const N: usize>(x: &[Lanes; N], half: f32) -> Parts<N> {
    let mut extreme = [0.0f32; LANES];
    for x in x {
        for j in 0..LANES {
            extreme[j] = if x[j].abs() > extreme[j].abs() {
                x[j]
            } else {
                extreme[j]
            };
        }
    }
    let tiny = extreme.map(|v| v.abs() < TINY);
    let extreme = lanes(|j| if tiny[j] { 1.0 } else { extreme[j] });
    let code = |v: f32| nearest(v).max(-half).min(half - 1.0);
    let sums = |inverse: &Lanes| {
        let (mut xl, mut ll) = ([0.0; LANES], [0.0; LANES]);
        for x in x {
            for j in 0..LANES {
                let (w, l) = (x[j] * x[j], code(inverse[j] * x[j]));
                xl[j] += w * x[j] * l;
                ll[j] += w * l * l;
            }
        }
        (xl, ll)
    };
    let mut chosen = lanes(|j| -half / extreme[j]);
    let (xl, ll) = sums(&chosen);
    let mut scale = lanes(|j| if ll[j] > 0.0 { xl[j] / ll[j] } else { 0.0 });
    let mut best = lanes(|j| scale[j] * xl[j]);
    for step in (-9i8..=9).filter(|step| *step != 0) {
        let inverse = lanes(|j| -(half + 0.1 * f32::from(step)) / extreme[j]);
        let (xl, ll) = sums(&inverse);
        for j in 0..LANES {
            let better = ll[j] > 0.0 && xl[j] * xl[j] > best[j] * ll[j];
            let factor = xl[j] / ll[j];
            let take = |new: f32, old: f32| if better { new } else { old };
            chosen[j] = take(inverse[j], chosen[j]);
            scale[j] = take(factor, scale[j]);
            best[j] = take(factor * xl[j], best[j]);
        }
    }
    Parts {
        scale: lanes(|j| if tiny[j] { 0.0 } else { scale[j] }),
        low: [0.0; LANES],
        codes: std::array::from_fn(|j| {
            std::array::from_fn(|i| match tiny[j] {
                true => 0,
                false => (code(chosen[j] * x[i][j]) + half) as u8,
            })
        }),
    }
}
