//! Frequencies against closed forms, against transformers' own (tests/fixtures/ropes.json, made by
//! the script beside it), and what is refused.

use std::f64::consts::TAU;

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
    assert_eq!(got.long, None);
    // sqrt(1 + ln 4 / ln 64) = sqrt(4 / 3)
    let got = long(r#""short_factor": [1, 4], "long_factor": [1, 4]"#).unwrap();
    assert!((got.mscale - 1.154_700_5).abs() < 1e-6);
    let two = long(r#""short_factor": [1, 4], "long_factor": [1, 5]"#).unwrap();
    let beyond = LongRope {
        after: 64,
        inv_freq: vec![1.0, 0.002],
    };
    assert_eq!((two.inv_freq, two.long), (vec![1.0, 0.0025], Some(beyond)));
    for (lists, says) in [
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
    let config = Config::parse(r#"{"rope_scaling": {"rope_type": "ntk", "factor": 4.0}}"#);
    let error = RopeSpec::from(&config.unwrap(), 8).unwrap_err();
    let says =
        "is \"ntk\"; supported: default, linear, llama3, yarn, longrope, dynamic, proportional";
    assert!(error.0.contains(says), "{error}");
}

/// What transformers' classes make of their keys.
fn rules(family: &str, layer_type: Option<&str>) -> RopeRules {
    const FULL: RopeRules = RopeRules {
        layer_type: Some("full_attention"),
        ..RopeRules::WHOLE
    };
    const SLIDING: RopeRules = RopeRules {
        layer_type: Some("sliding_attention"),
        scaled: false,
        theta_key: None,
        ..RopeRules::WHOLE
    };
    match (family, layer_type) {
        ("llama" | "granite" | "cohere2", None) => RopeRules::WHOLE,
        ("glm4", None) => RopeRules {
            share: Share::Part(0.5),
            ..RopeRules::PART
        },
        ("smollm3", None) => RopeRules {
            theta: 2e6,
            ..RopeRules::WHOLE
        },
        ("gpt_oss", None) => RopeRules {
            theta: 1.5e5,
            absent: Some(
                r#"{"rope_type": "yarn", "factor": 32, "truncate": false,
                    "original_max_position_embeddings": 4096}"#,
            ),
            ..RopeRules::WHOLE
        },
        ("ministral3", None) => RopeRules {
            absent: Some(
                r#"{"rope_type": "yarn", "rope_theta": 1e6, "factor": 16, "mscale": 1,
                    "mscale_all_dim": 1, "original_max_position_embeddings": 16384}"#,
            ),
            ..RopeRules::WHOLE
        },
        ("phi3", None) => RopeRules {
            original: Some(4096),
            kinds: &[
                ("default", RopeKind::Default),
                ("longrope", RopeKind::LongRope),
                ("su", RopeKind::LongRope),
                ("yarn", RopeKind::LongRope),
            ],
            ..RopeRules::PART
        },
        ("olmo3", Some("full_attention")) => RopeRules { theta: 5e5, ..FULL },
        ("olmo3", _) => RopeRules {
            theta: 5e5,
            ..SLIDING
        },
        ("gemma3", Some("full_attention")) => RopeRules { theta: 1e6, ..FULL },
        ("gemma3", _) => RopeRules {
            theta_key: Some("rope_local_base_freq"),
            ..SLIDING
        },
        ("gemma4", Some("full_attention")) => RopeRules {
            absent: Some(
                r#"{"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}"#,
            ),
            ..FULL
        },
        ("gemma4", _) => SLIDING,
        other => panic!("no rules for {other:?}"),
    }
}

#[test]
fn every_kind_has_transformers_frequencies() {
    let text = include_str!("../../tests/fixtures/ropes.json");
    let cases = text.lines().filter(|line| line.starts_with('{'));
    let mut seen = 0;
    for line in cases {
        let case = Config::parse(line.trim_end_matches(',')).unwrap();
        let (family, layers) = (
            case.str_or("family", "").unwrap(),
            case.str_opt("layer_type"),
        );
        let (config, head_dim) = (case.section("config").unwrap(), case.usize("head_dim"));
        let rules = rules(family, layers.unwrap());
        let rope = rules.read(&config.unwrap(), head_dim.unwrap());
        let rope = rope.unwrap_or_else(|e| panic!("{e}: {line}"));
        let length = case.usize("length").unwrap();
        let inv_freq = match rope.long {
            Some(long) if length > long.after => long.inv_freq,
            _ => rope.inv_freq,
        };
        let want = case.f64s("inv_freq").unwrap().unwrap();
        assert_eq!(inv_freq.len(), want.len(), "{line}");
        for (got, want) in inv_freq.iter().zip(&want) {
            let off = (f64::from(*got) - want).abs();
            assert!(off <= 1e-6 * want.abs(), "{got} for {want}: {line}");
        }
        let off = (f64::from(rope.mscale) / case.f64("mscale").unwrap() - 1.0).abs();
        assert!(off <= 1e-6, "mscale {}: {line}", rope.mscale);
        seen += 1;
    }
    assert!(seen > 100);
}

#[test]
fn sections_keyed_by_layer_type_are_read_where_they_are_meant() {
    let sliding = rules("olmo3", Some("sliding_attention"));
    for (json, says) in [
        (
            r#"{"rope_parameters": {"rope_type": "yarn", "factor": 4}}"#,
            "`rope_parameters` is not keyed by layer type: `sliding_attention` is missing",
        ),
        (
            r#"{"rope_parameters": {"sliding_attention": {"rope_type": "linear"}}}"#,
            "`rope_parameters.sliding_attention.factor` is missing",
        ),
    ] {
        let error = sliding.read(&Config::parse(json).unwrap(), 8).unwrap_err();
        assert!(error.0.contains(says), "{error}");
    }
    let full = rules("gemma3", Some("full_attention"));
    let json = r#"{"rope_scaling": {"type": "linear", "factor": 8}}"#;
    let error = full.read(&Config::parse(json).unwrap(), 8).unwrap_err();
    let says = "`rope_scaling.type` is an old name: this architecture wants rope_type";
    assert!(error.0.contains(says), "{error}");
}

#[test]
fn what_cannot_be_computed_is_refused() {
    for (json, says) in [
        (
            r#"{"rope_scaling": {"type": "yarn", "factor": 4}}"#,
            "`max_position_embeddings` is missing",
        ),
        (
            r#"{"rope_scaling": {"type": "dynamic"}, "max_position_embeddings": 64}"#,
            "`rope_scaling.factor` is missing",
        ),
        (
            r#"{"rope_scaling": {"type": "dynamic", "factor": 2}, "max_position_embeddings": 0.5}"#,
            "`max_position_embeddings` must be a whole number of tokens, is 0.5",
        ),
        (
            r#"{"rope_scaling": {"type": "linear", "factor": 0}}"#,
            "a rotary frequency of this configuration is inf",
        ),
        (
            r#"{"partial_rotary_factor": 0.4}"#,
            "3 of 8 features per head cannot be turned",
        ),
    ] {
        let error = RopeSpec::from(&Config::parse(json).unwrap(), 8).unwrap_err();
        assert!(error.0.contains(says), "{error}");
    }
    let phi3 = rules("phi3", None);
    let json = r#"{"rope_scaling": {"type": "linear", "factor": 2}}"#;
    let error = phi3.read(&Config::parse(json).unwrap(), 8).unwrap_err();
    assert!(
        error
            .0
            .contains("is \"linear\"; supported: default, longrope, su, yarn"),
        "{error}"
    );
}
