//! The sampling error of a measure over a held-out set, by Efron's bootstrap: the prompts are
//! resampled with replacement. All players and measures of a comparison share the same resamples
//! (paired bootstrap), so variation common to them, easy prompts and hard ones, cancels in their
//! differences.

/// Number of resamples. The relative error of the standard error is 1 / sqrt(2 · 1000): 2 %.
const DRAWS: usize = 1000;

/// Bootstrap resamples of a held-out set's prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct Resamples {
    prompts: usize,
    /// How often each prompt occurs in each resample: [`DRAWS`] rows of one count per prompt.
    counts: Vec<u32>,
}

impl Resamples {
    /// Draws the resamples; `index` must return a uniformly random index below `prompts` at each
    /// call.
    pub fn draw(prompts: usize, index: &mut dyn FnMut() -> usize) -> Resamples {
        let mut counts = vec![0; DRAWS * prompts];
        for draw in counts.chunks_mut(prompts.max(1)) {
            for _ in 0..prompts {
                draw[index() % prompts] += 1;
            }
        }
        Resamples { prompts, counts }
    }

    /// Number of prompts.
    pub fn prompts(&self) -> usize {
        self.prompts
    }

    /// The standard error of a measure over prompts. `figure` computes the measure, given how often
    /// each prompt counts. `None` for fewer than two prompts, or a measure that is not finite.
    pub fn error(&self, figure: &mut dyn FnMut(&[u32]) -> f64) -> Option<f64> {
        if self.prompts < 2 {
            return None;
        }
        let values: Vec<f64> = self.counts.chunks(self.prompts).map(figure).collect();
        if values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
        // the variance of a resample is (n - 1)/n of a sample's: corrected, a mean's error is the
        // textbook's
        let prompts = self.prompts as f64;
        Some((variance * prompts / (prompts - 1.0)).sqrt())
    }
}

/// A weighted sum over prompts divided by another: per token with lengths as the second, a mean
/// with ones.
pub fn ratio(counts: &[u32], of: &[(f64, f64)]) -> f64 {
    let (mut above, mut below) = (0.0, 0.0);
    for (&count, (value, weight)) in counts.iter().zip(of) {
        above += f64::from(count) * value;
        below += f64::from(count) * weight;
    }
    above / below
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Knuth's MMIX generator, its upper bits.
    fn random(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed;
        move || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            state >> 33
        }
    }

    fn resamples(prompts: usize) -> Resamples {
        let mut next = random(1);
        Resamples::draw(prompts, &mut || next() as usize % prompts)
    }

    fn values(n: usize, seed: u64) -> Vec<f64> {
        let mut next = random(seed);
        (0..n).map(|_| (next() % 1000) as f64 / 100.0).collect()
    }

    /// The textbook's standard error of a mean.
    fn textbook(values: &[f64]) -> f64 {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        (squares / (n - 1.0) / n).sqrt()
    }

    fn of(values: &[f64]) -> Vec<(f64, f64)> {
        values.iter().map(|&v| (v, 1.0)).collect()
    }

    #[test]
    fn a_means_error_is_the_textbooks() {
        for n in [10, 96, 1000] {
            let values = values(n, n as u64);
            let error = resamples(n).error(&mut |c| ratio(c, &of(&values))).unwrap();
            let want = textbook(&values);
            assert!((error / want - 1.0).abs() < 0.08, "{n}: {error} {want}");
        }
    }

    /// The error of a share p is sqrt(p (1 - p) / (n - 1)).
    #[test]
    fn a_shares_error_is_the_binomials() {
        let right: Vec<f64> = (0..200).map(|i| f64::from(u8::from(i % 5 == 0))).collect();
        let error = resamples(200)
            .error(&mut |c| ratio(c, &of(&right)))
            .unwrap();
        let want = (0.2 * 0.8 / 199.0f64).sqrt();
        assert!((error / want - 1.0).abs() < 0.08, "{error} {want}");
    }

    /// Two players that differ little on prompts that differ much: the error of their difference is
    /// that of the differences, not of the players.
    #[test]
    fn pairing_removes_what_is_common() {
        let hard = values(100, 7);
        let gain: Vec<f64> = values(100, 9).iter().map(|v| 0.01 * v).collect();
        let better: Vec<f64> = hard.iter().zip(&gain).map(|(h, g)| h + g).collect();
        let draws = resamples(100);
        let mut difference = |c: &[u32]| ratio(c, &of(&better)) - ratio(c, &of(&hard));
        let paired = draws.error(&mut difference).unwrap();
        assert!((paired / textbook(&gain) - 1.0).abs() < 0.08, "{paired}");
        let alone = draws.error(&mut |c| ratio(c, &of(&hard))).unwrap();
        assert!(alone > 50.0 * paired, "{alone} {paired}");
    }

    /// With tokens in the denominator, values that are equal per token have no variance.
    #[test]
    fn a_ratio_is_of_sums() {
        let same: Vec<(f64, f64)> = (1..50)
            .map(|i| (0.5 * f64::from(i), f64::from(i)))
            .collect();
        let error = resamples(49).error(&mut |c| ratio(c, &same)).unwrap();
        assert!(error < 1e-12, "{error}");
    }

    #[test]
    fn nothing_is_known_of_one_prompt() {
        assert_eq!(resamples(1).error(&mut |_| 1.0), None);
        assert_eq!(Resamples::draw(0, &mut || 0).error(&mut |_| 1.0), None);
        assert_eq!(resamples(5).error(&mut |_| f64::NAN), None);
    }
}
