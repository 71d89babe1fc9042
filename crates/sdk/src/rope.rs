//! Rotary frequencies from a configuration: transformers v5 (`rope_parameters`) and v4 (`rope_theta`, `rope_scaling`).

use std::f64::consts::TAU;

use crate::{Config, Result, seam::RopeSpec};

/// theta when a configuration has none, as in transformers.
const DEFAULT_THETA: f64 = 10_000.0;
/// Heads have some hundred features; a damaged configuration may say billions, and each has its frequency.
const MOST_FEATURES: usize = 65_536;

impl RopeSpec {
    /// The frequencies of a model whose heads have `head_dim` features: `default`, `linear` and `llama3` scaling,
    /// `partial_rotary_factor`.
    pub fn from(config: &Config, head_dim: usize) -> Result<RopeSpec> {
        // v5 keeps everything in `rope_parameters`; v4 had theta at the top and the rest in `rope_scaling`
        let section = match config.section("rope_parameters")? {
            Some(section) => Some(section),
            None => config.section("rope_scaling")?,
        };
        let section = section.as_ref().unwrap_or(config);
        let both = |key: &str, default: f64| match section.f64_opt(key)? {
            Some(value) => Ok(value),
            None => config.f64_or(key, default),
        };
        let theta = both("rope_theta", DEFAULT_THETA)?;
        let share = both("partial_rotary_factor", 1.0)?;
        let dim = (head_dim as f64 * share) as usize;
        if head_dim > MOST_FEATURES {
            let sentence =
                format!("heads of {head_dim} features: at most {MOST_FEATURES} are possible");
            return Err(sentence.into());
        }
        if dim == 0 || dim % 2 == 1 || dim > head_dim {
            let sentence = format!(
                "rotary embedding turns pairs of features: {dim} of {head_dim} features per head cannot be turned"
            );
            return Err(sentence.into());
        }
        // θ_i = theta^(-2i/d)
        let plain = (0..dim / 2).map(|i| theta.powf(-((2 * i) as f64) / dim as f64));
        let legacy = section.str_or("type", "default")?;
        let inv_freq: Vec<f64> = match section.str_or("rope_type", legacy)? {
            "default" => plain.collect(),
            "linear" => {
                let factor = section.f64("factor")?;
                plain.map(|f| f / factor).collect()
            }
            "llama3" => {
                let scale = Llama3::new(config, section)?;
                plain.map(|f| scale.apply(f)).collect()
            }
            other => {
                let what = format!("is \"{other}\"; supported: default, linear, llama3");
                return Err(section.error("rope_type", &what));
            }
        };
        Ok(RopeSpec {
            interleaved: false,
            inv_freq: inv_freq.into_iter().map(|f| f as f32).collect(),
            mscale: 1.0,
        })
    }
}

/// Llama 3.1's scaling: long wavelengths stretched by `factor`, short ones kept, a ramp between.
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    old_context: f64,
}

impl Llama3 {
    fn new(config: &Config, section: &Config) -> Result<Self> {
        let key = "original_max_position_embeddings";
        let old_context = match section.f64_opt(key)? {
            Some(length) => length,
            None => config
                .f64(key)
                .or_else(|_| config.f64("max_position_embeddings"))?,
        };
        Ok(Llama3 {
            factor: section.f64("factor")?,
            low: section.f64("low_freq_factor")?,
            high: section.f64("high_freq_factor")?,
            old_context,
        })
    }

    fn apply(&self, frequency: f64) -> f64 {
        // how often the wave turns within the old context
        let turns = self.old_context * frequency / TAU;
        let kept = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        (1.0 - kept) * frequency / self.factor + kept * frequency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(json: &str, head_dim: usize) -> RopeSpec {
        RopeSpec::from(&Config::parse(json).unwrap(), head_dim).unwrap()
    }

    #[test]
    fn both_spellings_give_the_same_frequencies() {
        let v4 = r#"{"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}"#;
        let v5 = r#"{"rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}"#;
        assert_eq!(rope(v4, 128), rope(v5, 128));
        assert_eq!(rope("{}", 8), rope(r#"{"rope_theta": 10000}"#, 8));
        let none = r#"{"rope_theta": 10000, "rope_scaling": null}"#;
        assert_eq!(rope("{}", 8), rope(none, 8));
        let partial = rope(r#"{"partial_rotary_factor": 0.5}"#, 16);
        assert_eq!(partial, rope("{}", 8));
    }

    #[test]
    fn llama3_keeps_the_short_and_stretches_the_long() {
        let json = r#"{"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}"#;
        let scaled = rope(json, 128).inv_freq;
        let plain = rope(r#"{"rope_theta": 500000.0}"#, 128).inv_freq;
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[63] * 8.0 / plain[63] - 1.0).abs() < 1e-6);
        // the wavelength 4000 lies on the ramp: by transformers' formula (smooth = (8192 / wavelength - 1) / 3)
        for (s, p) in scaled.iter().zip(&plain) {
            let wavelength = TAU / f64::from(*p);
            let smooth = (8192.0 / wavelength - 1.0) / 3.0;
            let want = match wavelength {
                w if w < 8192.0 / 4.0 => f64::from(*p),
                w if w > 8192.0 => f64::from(*p) / 8.0,
                _ => (1.0 - smooth) * f64::from(*p) / 8.0 + smooth * f64::from(*p),
            };
            assert!(
                (f64::from(*s) / want - 1.0).abs() < 1e-6,
                "{wavelength}: {s} {want}"
            );
        }
    }

    #[test]
    fn linear_divides_and_unknown_kinds_are_refused() {
        let linear = rope(r#"{"rope_scaling": {"type": "linear", "factor": 4.0}}"#, 8);
        for (s, p) in linear.inv_freq.iter().zip(rope("{}", 8).inv_freq) {
            assert!((s * 4.0 - p).abs() < 1e-7);
        }
        let config = Config::parse(r#"{"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}"#);
        let error = RopeSpec::from(&config.unwrap(), 8).unwrap_err();
        assert!(
            error.0.contains("is \"yarn\"; supported: default"),
            "{error}"
        );
    }
}
