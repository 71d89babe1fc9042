//! Rotary frequencies from a configuration: transformers v5 (`rope_parameters`) and v4
//! (`rope_theta`, `rope_scaling`).

use std::f64::consts::TAU;

use crate::{Config, Result, json::Json, seam::RopeSpec};

/// Default theta, as in transformers.
const DEFAULT_THETA: f64 = 10_000.0;
/// Most features of a head, against a damaged configuration that says billions: each pair has a
/// frequency in memory.
const MOST_FEATURES: usize = 65_536;

impl RopeSpec {
    /// The frequencies of a model whose heads have `head_dim` features, of which the share
    /// `partial_rotary_factor` is rotated: `default`, `linear`, `llama3`, and `longrope` where it
    /// has one list of divisors for short and long texts.
    ///
    /// As in transformers 5, `rope_scaling` (v4) takes precedence over `rope_parameters` (v5), and
    /// a theta that the chosen section lacks is taken from beside it, or else is 10,000.
    ///
    /// # Errors
    /// An unknown kind, a missing key that it needs, sections keyed by layer type.
    pub fn from(config: &Config, head_dim: usize) -> Result<RopeSpec> {
        let rotary = Rotary::of(config)?;
        let share = rotary.number("partial_rotary_factor")?.unwrap_or(1.0);
        rotary.spec(head_dim, (head_dim as f64 * share) as usize)
    }

    /// The frequencies for an architecture that always rotates whole heads (Llama, Mistral): with
    /// plain frequencies `partial_rotary_factor` is not read, as in transformers.
    ///
    /// # Errors
    /// As `RopeSpec::from`; a `partial_rotary_factor` with any other kind, which transformers
    /// cannot compute either.
    pub fn of_whole_heads(config: &Config, head_dim: usize) -> Result<RopeSpec> {
        let rotary = Rotary::of(config)?;
        let share = rotary.number("partial_rotary_factor")?.unwrap_or(1.0);
        if share != 1.0 && rotary.kind()? != "default" {
            let what = format!(
                "is {share} beside rope_type \"{}\": this architecture turns whole heads",
                rotary.kind()?
            );
            return Err(config.error("partial_rotary_factor", &what));
        }
        rotary.spec(head_dim, head_dim)
    }
}

/// A configuration's rotary keys, in either version's section.
struct Rotary<'a> {
    config: &'a Config,
    section: Option<Config>,
}

impl<'a> Rotary<'a> {
    fn of(config: &'a Config) -> Result<Self> {
        let mut section = None;
        for key in ["rope_parameters", "rope_scaling"] {
            // an empty one counts as absent; the later of the two, v4's, goes first
            let found = config.section(key)?;
            section = found.filter(|s| s.entries().next().is_some()).or(section);
        }
        if let Some(section) = &section
            && let Some((key, _)) = section
                .entries()
                .find(|(_, v)| matches!(v, Json::Object(_)))
        {
            let what = "is keyed by layer type, which is not supported: all layers turn alike";
            return Err(section.error(key, what));
        }
        Ok(Rotary { config, section })
    }

    /// A number of the section, or else of the same key beside it.
    fn number(&self, key: &str) -> Result<Option<f64>> {
        let inside = match &self.section {
            Some(section) => section.f64_opt(key)?,
            None => None,
        };
        match inside {
            Some(value) => Ok(Some(value)),
            None => self.config.f64_opt(key),
        }
    }

    fn kind(&self) -> Result<&str> {
        match &self.section {
            None => Ok("default"),
            Some(section) => section.str_or("rope_type", section.str_or("type", "default")?),
        }
    }

    /// A list of the section that must have `pairs` entries.
    fn divisors(&self, section: &Config, key: &str, pairs: usize) -> Result<Vec<f64>> {
        match section.f64s(key)? {
            None => Err(section.error(key, "is missing")),
            Some(list) if list.len() != pairs => {
                let what = format!("has {} entries for {pairs} pairs of features", list.len());
                Err(section.error(key, &what))
            }
            Some(list) => Ok(list),
        }
    }

    /// The model's original context length. As in transformers, the key beside the section takes
    /// precedence over that in it.
    fn original_context(&self, section: &Config) -> Result<f64> {
        let key = "original_max_position_embeddings";
        let named = match self.config.f64_opt(key)? {
            Some(length) => Some(length),
            None => section.f64_opt(key)?,
        };
        match named {
            Some(length) => Ok(length),
            None => self.config.f64("max_position_embeddings"),
        }
    }

    fn spec(&self, head_dim: usize, dim: usize) -> Result<RopeSpec> {
        let theta = self.number("rope_theta")?.unwrap_or(DEFAULT_THETA);
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
        let section = self.section.as_ref().unwrap_or(self.config);
        let mut mscale = 1.0;
        let inv_freq: Vec<f64> = match self.kind()? {
            "default" => plain.collect(),
            "linear" => {
                let factor = section.f64("factor")?;
                plain.map(|f| f / factor).collect()
            }
            "llama3" => {
                let scale = Llama3 {
                    factor: section.f64("factor")?,
                    low: section.f64("low_freq_factor")?,
                    high: section.f64("high_freq_factor")?,
                    old_context: self.original_context(section)?,
                };
                plain.map(|f| scale.apply(f)).collect()
            }
            "longrope" => {
                mscale = self.long_attention(section)?;
                let short = self.divisors(section, "short_factor", dim / 2)?;
                if short != self.divisors(section, "long_factor", dim / 2)? {
                    let what = "differs from short_factor: frequencies that change with a text's \
                                length are not supported";
                    return Err(section.error("long_factor", what));
                }
                plain.zip(short).map(|(f, divisor)| f / divisor).collect()
            }
            other => {
                let what = format!("is \"{other}\"; supported: default, linear, llama3, longrope");
                return Err(section.error("rope_type", &what));
            }
        };
        if let Some(bad) = inv_freq.iter().find(|f| !f.is_finite()) {
            return Err(format!("a rotary frequency of this configuration is {bad}").into());
        }
        Ok(RopeSpec {
            interleaved: false,
            inv_freq: inv_freq.into_iter().map(|f| f as f32).collect(),
            mscale: mscale as f32,
        })
    }

    /// longrope's factor on cosine and sine: `attention_factor`, or sqrt(1 + ln(factor) /
    /// ln(original context)).
    fn long_attention(&self, section: &Config) -> Result<f64> {
        if let Some(given) = section.f64_opt("attention_factor")? {
            return Ok(given);
        }
        let original = self.original_context(section)?;
        let factor = match section.f64_opt("factor")? {
            Some(factor) => factor,
            None => self.config.f64("max_position_embeddings")? / original,
        };
        match factor <= 1.0 {
            true => Ok(1.0),
            false => Ok((1.0 + factor.ln() / original.ln()).sqrt()),
        }
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
        // the wavelength 4000 lies on the ramp: by transformers' formula (smooth = (8192 /
        // wavelength - 1) / 3)
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
    fn v4_goes_before_v5_and_takes_the_theta_beside_it() {
        let theta = |t: f32| RopeSpec {
            inv_freq: vec![1.0, t.powf(-0.5)],
            ..rope("{}", 4)
        };
        let linear = r#""rope_scaling": {"type": "linear", "factor": 2}"#;
        let v5 = r#""rope_parameters": {"rope_type": "default", "rope_theta": 400}"#;
        let both = rope(&format!("{{{linear}, {v5}}}"), 4);
        assert_eq!(both, rope(&format!("{{{linear}}}"), 4));
        assert_eq!(both.inv_freq, [0.5, 0.005]); // 10,000: the other section's theta is not read
        let all = rope(&format!("{{{linear}, {v5}, \"rope_theta\": 900}}"), 4);
        assert!((all.inv_freq[1] * 2.0 - 900f32.powf(-0.5)).abs() < 1e-7);
        for empty in ["null", "{}"] {
            let v4 = rope(&format!("{{\"rope_scaling\": {empty}, {v5}}}"), 4);
            assert_eq!(v4, theta(400.0), "{empty}");
        }
        let inside = rope(&format!("{{\"rope_theta\": 900, {v5}}}"), 4);
        assert_eq!(inside, theta(400.0));
    }

    #[test]
    fn whole_heads_know_no_partial_factor() {
        let whole = |json: &str| RopeSpec::of_whole_heads(&Config::parse(json).unwrap(), 8);
        let partial = r#"{"partial_rotary_factor": 0.5}"#;
        assert_eq!(whole(partial), whole("{}"));
        let scaled =
            r#"{"partial_rotary_factor": 0.5, "rope_scaling": {"type": "linear", "factor": 2}}"#;
        let error = whole(scaled).unwrap_err().0;
        assert!(
            error.contains("`partial_rotary_factor` is 0.5 beside rope_type"),
            "{error}"
        );
    }

    #[test]
    fn llama3_takes_the_original_length_beside_the_section_first() {
        let with = |inside: &str, beside: &str| {
            rope(
                &format!(
                    r#"{{"rope_parameters": {{"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
                    "high_freq_factor": 4, "rope_theta": 500{inside}}}, "max_position_embeddings": 64{beside}}}"#
                ),
                16,
            )
        };
        let key = r#", "original_max_position_embeddings":"#;
        assert_ne!(with(&format!("{key} 16"), ""), with("", ""));
        assert_eq!(with(&format!("{key} 64"), ""), with("", ""));
        let beside = with(&format!("{key} 16"), &format!("{key} 32"));
        assert_eq!(beside, with(&format!("{key} 32"), ""));
    }

    #[test]
    fn longrope_with_one_list_divides_each_frequency() {
        let long = |lists: &str| {
            let json = format!(
                r#"{{"rope_parameters": {{"rope_type": "longrope", {lists},
                "original_max_position_embeddings": 64}}, "max_position_embeddings": 256}}"#
            );
            RopeSpec::of_whole_heads(&Config::parse(&json).unwrap(), 4)
        };
        let got = long(r#""short_factor": [1, 4], "long_factor": [1, 4], "attention_factor": 1.5"#);
        let got = got.unwrap();
        assert_eq!((got.inv_freq, got.mscale), (vec![1.0, 0.0025], 1.5));
        // sqrt(1 + ln 4 / ln 64) = sqrt(4 / 3)
        let got = long(r#""short_factor": [1, 4], "long_factor": [1, 4]"#).unwrap();
        assert!((got.mscale - 1.154_700_5).abs() < 1e-6);
        for (lists, says) in [
            (
                r#""short_factor": [1, 4], "long_factor": [1, 5]"#,
                "`rope_parameters.long_factor` differs",
            ),
            (
                r#""short_factor": [1], "long_factor": [1]"#,
                "has 1 entries for 2 pairs",
            ),
            (
                r#""short_factor": [1, 4]"#,
                "`rope_parameters.long_factor` is missing",
            ),
        ] {
            let error = long(lists).unwrap_err().0;
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn sections_keyed_by_layer_type_are_refused() {
        let json = r#"{"rope_parameters": {"full_attention": {"rope_theta": 500000}}}"#;
        let error = RopeSpec::from(&Config::parse(json).unwrap(), 8)
            .unwrap_err()
            .0;
        let says = "`rope_parameters.full_attention` is keyed by layer type";
        assert!(error.contains(says), "{error}");
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
