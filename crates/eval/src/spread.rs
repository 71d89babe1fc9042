//! A mean with its 95 % interval over seeds (Student's t: a handful of seeds is not a normal distribution).

use serde::{Deserialize, Serialize};

/// Two-sided 97.5 % quantiles of Student's t for 1, 2, … 30 degrees of freedom (standard tables).
const T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// Mean and half-width of its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Arithmetic mean.
    pub mean: f64,
    /// Half-width; 0 for a single value (nothing is known of its spread).
    pub half: f64,
    /// How many values.
    pub n: usize,
}

/// Over the values; `None` where there is none.
pub fn spread(values: &[f64]) -> Option<Spread> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    if n == 1 {
        return Some(Spread { mean, half: 0.0, n });
    }
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    let t = T.get(n - 2).copied().unwrap_or(1.96);
    Some(Spread {
        mean,
        half: t * (variance / n as f64).sqrt(),
        n,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        assert_eq!(spread(&[]), None);
        assert_eq!(
            spread(&[2.0]),
            Some(Spread {
                mean: 2.0,
                half: 0.0,
                n: 1
            })
        );
        // 1, 2, 3: standard deviation 1, standard error 1/sqrt 3, t(2) = 4.303
        let s = spread(&[1.0, 2.0, 3.0]).unwrap();
        assert!((s.mean - 2.0).abs() < 1e-12 && (s.half - 4.303 / 3f64.sqrt()).abs() < 1e-9);
    }
}
