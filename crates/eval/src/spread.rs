//! A mean with its 95 % confidence interval: over seeds (Student's t, since seeds are few) and over
//! held-out prompts.

/// Two-sided 97.5 % quantiles of Student's t for 1, 2, … 30 degrees of freedom (standard tables).
const T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// The same quantile of the normal distribution, for an error from a bootstrap's thousand
/// resamples.
const NORMAL: f64 = 1.96;

/// A mean with the half-width of its 95 % interval and the parts of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Arithmetic mean over seeds.
    pub mean: f64,
    /// Half-width from all known sources; `None` if there is none.
    pub half: Option<f64>,
    /// Half-width from seeds; `None` with one seed.
    pub by_seeds: Option<f64>,
    /// Half-width from held-out prompts.
    pub by_prompts: Option<f64>,
}

/// Computes the interval from one value per seed and, where known, the standard error of their mean
/// over prompts. The two are taken as independent and added as squares; since both contain how
/// seeds differ per prompt, the interval is too wide rather than too narrow. `None` without values.
pub fn spread(values: &[f64], prompts: Option<f64>) -> Option<Spread> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    let by_seeds = (n > 1).then(|| {
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        let t = T.get(n - 2).copied().unwrap_or(NORMAL);
        t * (variance / n as f64).sqrt()
    });
    let by_prompts = prompts.map(|error| NORMAL * error);
    let known = by_seeds.or(by_prompts).is_some();
    let half = by_seeds.unwrap_or(0.0).hypot(by_prompts.unwrap_or(0.0));
    Some(Spread {
        mean,
        half: known.then_some(half),
        by_seeds,
        by_prompts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        assert_eq!(spread(&[], Some(1.0)), None);
        let one = spread(&[2.0], None).unwrap();
        assert_eq!((one.mean, one.half), (2.0, None));
        // 1, 2, 3: standard deviation 1, standard error 1/sqrt 3, t(2) = 4.303
        let s = spread(&[1.0, 2.0, 3.0], None).unwrap();
        let seeds = 4.303 / 3f64.sqrt();
        assert!((s.mean - 2.0).abs() < 1e-12 && (s.half.unwrap() - seeds).abs() < 1e-9);
        // together with 1.96 standard errors over prompts, added as squares
        let s = spread(&[1.0, 2.0, 3.0], Some(0.5)).unwrap();
        let both = (seeds * seeds + 0.98 * 0.98).sqrt();
        assert!((s.half.unwrap() - both).abs() < 1e-9);
        assert_eq!(s.by_prompts, Some(0.98));
        let s = spread(&[2.0], Some(0.5)).unwrap();
        assert_eq!((s.half, s.by_seeds), (Some(0.98), None));
    }
}
