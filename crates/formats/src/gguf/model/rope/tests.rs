#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use randori_sdk::{Dialect, seam::Family};

use super::*;
use crate::{
    Dtype,
    gguf::{Kind, TensorSpec, header, header::Header},
};

/// A file with this scaling's keys and divisors.
fn written(rope: &Rope, theta: f64, head_dim: usize) -> ByteSource {
    let architecture = ("general.architecture", gguf::Value::Text("llama".into()));
    let mut keys = vec![(architecture.0.to_string(), architecture.1)];
    keys.extend(rope.keys(|key| format!("llama.rope.scaling.{key}")));
    let tensors = rope.tensors(theta, head_dim);
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|(name, d)| TensorSpec::new(name, &[d.len()], Kind::Dense(Dtype::F32)))
        .collect();
    let mut bytes = header::write(&keys, &specs).unwrap();
    for (_, divisors) in &tensors {
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(Dtype::F32.encode("d", divisors).unwrap());
    }
    ByteSource::memory("x.gguf", bytes)
}

/// The scaling that is read of a scaling's file, and that as it is written again.
fn again(section: &Value, gguf: Gguf, theta: f64) -> (Value, [Rope; 2]) {
    let new = |section: &Value| Rope::new(&json!({"rope_parameters": section}), 8, &gguf).unwrap();
    let rope = new(section);
    let source = written(&rope, theta, 8);
    let header = Header::read(&source).unwrap();
    let dialect = Dialect {
        gguf: Some(gguf),
        ..Dialect::NONE
    };
    let family = Family::new("llama", dialect);
    let spoken = Spoken::of(&family).unwrap();
    let keys = Keys::new(&header).unwrap();
    let files = std::slice::from_ref(&source);
    let read = scaling(&keys, files, &spoken, theta, 8, 64).unwrap();
    let read = read.unwrap_or(json!({"rope_type": "default"}));
    let again = new(&read);
    (read, [rope, again])
}

#[test]
fn every_scaling_is_read_as_it_was_written() {
    let (each, theta) = (json!([1.0, 1.5, 2.0, 4.0]), 500_000.0);
    let usual = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    for (section, same) in [
        (json!({"rope_type": "default"}), true),
        (json!({"rope_type": "linear", "factor": 4.0}), true),
        (usual, true),
        (
            json!({"rope_type": "longrope", "short_factor": each, "long_factor": each, "factor": 1.0,
            "attention_factor": 1.25, "original_max_position_embeddings": 64}),
            true,
        ),
        // unusual parameters: a list that computes the same
        (
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}),
            false,
        ),
    ] {
        let (read, [rope, again]) = again(&section, Gguf::LLAMA, theta);
        match same {
            true => assert_eq!((&read["rope_type"], &again), (&section["rope_type"], &rope)),
            false => assert_eq!(again.divisors(theta, 8), rope.divisors(theta, 8)),
        }
    }
}

#[test]
fn divisors_by_length_are_two_tensors() {
    let by_length = Gguf {
        divisors: Divisors::LongShort,
        ..Gguf::LLAMA
    };
    let (short, long) = (json!([1.0, 1.1, 1.2, 1.3]), json!([1.0, 2.0, 3.5, 40.1]));
    let section = json!({"rope_type": "longrope", "short_factor": short, "long_factor": long,
        "attention_factor": 1.25, "original_max_position_embeddings": 32});
    let (read, [rope, twin]) = again(&section, by_length, 10_000.0);
    assert_eq!((&read, &twin), (&section, &rope));
    assert_eq!(rope.tensors(10_000.0, 8).len(), 2);
    // absent, it is transformers' formula: 128 of 32 tokens, phi-4-mini's 131072 of 4096
    for (longest, original, factor) in [(128, 32, 1.183_215_956_6), (131_072, 4096, 1.190_238_071)]
    {
        let config = json!({"max_position_embeddings": longest, "rope_scaling": {"type": "longrope",
            "short_factor": short, "long_factor": long}, "original_max_position_embeddings": original});
        let Rope::ByLength { attention, .. } = Rope::new(&config, 8, &by_length).unwrap() else {
            panic!()
        };
        assert!((attention - factor).abs() < 1e-9, "{attention}");
    }
    let error = Rope::new(&json!({"rope_parameters": section}), 8, &Gguf::LLAMA).unwrap_err();
    assert!(
        error.to_string().contains("GGUF's llama has one list"),
        "{error}"
    );
}

/// Values of llama.cpp b11549, whose logits were compared with transformers 5.24's: cosine and sine
/// times attn_factor · (1 + ln(factor)/10), borders at 32 and 1 turns.
#[test]
fn yarn_is_read_as_it_was_written() {
    let of = |more: Value| {
        let mut section =
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
        for (key, value) in more.as_object().unwrap() {
            section[key] = value.clone();
        }
        section
    };
    let usual = 1.138_629_436_111_989;
    for (more, factor, attention) in [
        (json!({}), None, usual),
        (
            json!({"beta_fast": 32, "beta_slow": 1, "truncate": true}),
            None,
            usual,
        ),
        (json!({"attention_factor": 1.0}), Some(0.878_248_856_3), 1.0),
        (
            json!({"mscale": 1.0, "mscale_all_dim": 1.0}),
            Some(0.878_248_856_3),
            1.0,
        ),
        (
            json!({"mscale": 1.0, "mscale_all_dim": 0.707}),
            Some(0.910_737_679),
            1.036_992_729_9,
        ),
    ] {
        let (read, [rope, twin]) = again(&of(more), Gguf::LLAMA, 10_000.0);
        let (Rope::Yarn { attention: a, .. }, Rope::Yarn { attention: b, .. }) = (&rope, &twin)
        else {
            panic!("{read}")
        };
        assert!(
            (a - attention).abs() < 1e-8 && (a - b).abs() < 1e-7,
            "{a} {b}"
        );
        let keys = rope.keys(str::to_string);
        let more = keys.iter().find(|(key, _)| key == "attn_factor");
        match (more, factor) {
            (None, None) => assert_eq!(read.get("attention_factor"), None),
            (Some((_, gguf::Value::Float(found))), Some(factor)) => {
                assert!((found - factor).abs() < 1e-9, "{found}");
            }
            other => panic!("{other:?}"),
        }
    }
    for (more, says) in [
        (
            json!({"beta_fast": 16}),
            "beta_fast of the rope scaling is 16; GGUF means 32",
        ),
        (
            json!({"truncate": false}),
            "truncate of the rope scaling is false",
        ),
    ] {
        let config = json!({"rope_parameters": of(more)});
        let error = Rope::new(&config, 8, &Gguf::LLAMA).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// Where the architecture has it, `yarn_log_multiplier` divides by 1 + that · ln(factor)/10.
#[test]
fn a_logarithm_s_multiplier_counts_where_the_architecture_has_it() {
    let keys = [
        ("general.architecture", gguf::Value::Text("x".into())),
        ("x.rope.scaling.type", gguf::Value::Text("yarn".into())),
        ("x.rope.scaling.factor", gguf::Value::Float(4.0)),
        (
            "x.rope.scaling.yarn_log_multiplier",
            gguf::Value::Float(1.0),
        ),
    ];
    let keys: Vec<_> = keys.map(|(key, value)| (key.to_string(), value)).into();
    let source = ByteSource::memory("x", header::write(&keys, &[]).unwrap());
    let header = Header::read(&source).unwrap();
    for (yarn_log, wanted) in [(false, Value::Null), (true, json!(1.0))] {
        let gguf = Gguf {
            yarn_log,
            ..Gguf::LLAMA
        };
        let dialect = Dialect {
            gguf: Some(gguf),
            ..Dialect::NONE
        };
        let family = Family::new("x", dialect);
        let spoken = Spoken::of(&family).unwrap();
        let keys = Keys::new(&header).unwrap();
        let read = scaling(&keys, &[], &spoken, 1e4, 8, 64).unwrap().unwrap();
        assert_eq!(read["original_max_position_embeddings"], 64);
        match wanted.as_f64() {
            None => assert_eq!(read.get("attention_factor"), None),
            Some(wanted) => {
                let found = read["attention_factor"].as_f64().unwrap();
                assert!((found - wanted).abs() < 1e-9, "{found}");
            }
        }
    }
}
