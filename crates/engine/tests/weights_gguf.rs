//! Base weights from GGUF: names, permutation, metadata, and damaged headers. The files are made by
//! candle's writer.

use std::path::PathBuf;

use crate::model;
use crate::model::*;
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use randori_engine::weights::{
    Checkpoint, Dtype, LoadOptions, Quant, Source, TokenizerSource, open,
};
use serde_json::json;

fn opened(bytes: &[u8]) -> (tempfile::TempDir, randori_engine::Result<Checkpoint>) {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let checkpoint = open(Source::Gguf(path), &model::families());
    (dir, checkpoint)
}

fn dense() -> LoadOptions {
    LoadOptions::default()
}

#[test]
fn dense_files_load_exactly() {
    let all = tensors();
    for (dtype, as_candle) in [
        (GgmlDType::F32, candle_core::DType::F32),
        (GgmlDType::F16, candle_core::DType::F16),
        (GgmlDType::BF16, candle_core::DType::BF16),
    ] {
        let (_dir, checkpoint) = opened(&gguf_bytes(&gguf_metadata(), &all, dtype));
        let base = load(checkpoint.unwrap(), dense()).unwrap();
        for (name, t) in &all {
            let want = if t.dims().len() == 1 {
                t.clone()
            } else {
                t.to_dtype(as_candle).unwrap()
            };
            assert_eq!(weight(&base, name), values(&want), "{name} in {dtype:?}");
        }
    }
}

#[test]
fn blocks_are_kept_or_dequantised_alike() {
    let all = tensors();
    for dtype in [GgmlDType::Q8_0, GgmlDType::Q4_0, GgmlDType::Q4_1] {
        let bytes = gguf_bytes(&gguf_metadata(), &all, dtype);
        let read = |options| {
            let (_dir, checkpoint) = opened(&bytes);
            load(checkpoint.unwrap(), options).unwrap()
        };
        let kept = read(LoadOptions {
            quant: Some(Quant::Gguf),
            dtype: Dtype::F32,
        });
        let plain = read(dense());
        let nf4 = read(LoadOptions {
            quant: Some(Quant::Nf4 { double: false }),
            dtype: Dtype::F32,
        });
        for (name, t) in &all {
            // rows keep their blocks, so quantising the unpermuted matrix says the same
            let want = if t.dims().len() == 1 {
                values(t)
            } else {
                values(
                    &QTensor::quantize(t, dtype)
                        .unwrap()
                        .dequantize(&candle_core::Device::Cpu)
                        .unwrap(),
                )
            };
            assert_eq!(weight(&plain, name), want, "{name} in {dtype:?}");
            assert_eq!(weight(&kept, name), want, "{name} in {dtype:?}");
            let format = if t.dims().len() == 1 {
                "f32".into()
            } else {
                format!("{dtype:?}").to_lowercase()
            };
            assert_eq!(kept.weights[name].format(), format);
            if name.contains("_proj") {
                assert_eq!(nf4.weights[name].format(), "nf4");
            }
        }
        assert!(kept.bytes() * 3 < plain.bytes());
    }
}

#[test]
fn metadata_becomes_config_and_tokenizer() {
    let (_dir, checkpoint) = opened(&gguf_bytes(&gguf_metadata(), &tensors(), GgmlDType::F32));
    let checkpoint = checkpoint.unwrap();
    let config = checkpoint.config();
    for (key, value) in model::config().as_object().unwrap() {
        assert_eq!(&config[key], value, "{key}");
    }
    assert_eq!(
        config["rope_parameters"],
        json!({"rope_type": "default", "rope_theta": 10000.0})
    );
    assert_eq!(
        (&config["bos_token_id"], &config["eos_token_id"]),
        (&json!(1), &json!(2))
    );
    let TokenizerSource::Gguf(t) = checkpoint.tokenizer() else {
        panic!("no tokenizer")
    };
    assert_eq!(
        (
            t.model.as_str(),
            t.pre.as_deref(),
            t.tokens.len(),
            t.token_types.len()
        ),
        ("gpt2", Some("smollm"), VOCAB, VOCAB)
    );
    assert_eq!(t.merges, ["a b", "ab c"]);
    assert_eq!(
        (t.bos, t.eos, t.unk, t.add_bos),
        (Some(1), Some(2), None, Some(false))
    );
    assert_eq!(t.chat_template.as_deref(), Some("{{ messages }}"));
}

#[test]
fn an_untied_head() {
    let mut all = tensors();
    all.insert(
        "output".into(),
        (&all["model.embed_tokens.weight"] * 2.0).unwrap(),
    );
    let mut bytes_of = all.clone();
    let head = bytes_of.remove("output").unwrap();
    bytes_of.insert("output.weight".into(), head.clone());
    let (_dir, checkpoint) = opened(&gguf_bytes(&gguf_metadata(), &bytes_of, GgmlDType::F32));
    let checkpoint = checkpoint.unwrap();
    assert_eq!(checkpoint.config()["tie_word_embeddings"], json!(false));
    assert!(
        checkpoint
            .tensors()
            .iter()
            .any(|(n, _)| n == "lm_head.weight")
    );
}

#[test]
fn llama_3_scaling_is_found_from_its_divisors() {
    // the divisors that llama.cpp's converter writes for factor 8, low 1, high 4, original 8192,
    // theta 500,000
    let (theta, dim, factor, original) = (500_000f64, HEAD_DIM, 8.0, 8192.0);
    let divisors: Vec<f32> = (0..dim / 2)
        .map(|i| {
            let wavelength = 2.0 * std::f64::consts::PI * theta.powf(2.0 * i as f64 / dim as f64);
            if wavelength < original / 4.0 {
                1.0
            } else if wavelength > original {
                factor as f32
            } else {
                let smooth = (original / wavelength - 1.0) / 3.0;
                (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
            }
        })
        .collect();
    let mut metadata = gguf_metadata();
    metadata
        .iter_mut()
        .find(|(k, _)| k == "llama.rope.freq_base")
        .unwrap()
        .1 = gguf_file::Value::F32(500_000.0);
    let with = |values: Vec<f32>| {
        let mut all = tensors();
        let n = values.len();
        all.insert(
            "rope_freqs.weight".into(),
            candle_core::Tensor::from_vec(values, n, &candle_core::Device::Cpu).unwrap(),
        );
        opened(&gguf_bytes(&metadata, &all, GgmlDType::F32))
    };
    let (_dir, checkpoint) = with(divisors);
    let checkpoint = checkpoint.unwrap();
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    assert_eq!(checkpoint.config()["rope_scaling"], scaling);
    assert_eq!(
        checkpoint.config()["rope_parameters"]["rope_theta"],
        json!(500_000.0)
    );
    load(checkpoint, dense()).unwrap();
    // any others are taken as they are
    let own = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0];
    let (_dir, odd) = with(own.to_vec());
    let odd = odd.unwrap();
    let scaling = &odd.config()["rope_parameters"];
    assert_eq!(scaling["rope_type"], "longrope");
    for list in ["short_factor", "long_factor"] {
        assert_eq!(scaling[list], json!(own), "{list}");
    }
    assert_eq!(scaling["attention_factor"], json!(1.0));
}

/// Changes one metadata entry (or removes it) and expects these words.
fn check(key: &str, value: Option<gguf_file::Value>, words: &str) {
    let mut metadata = gguf_metadata();
    metadata.retain(|(k, _)| k != key);
    metadata.extend(value.map(|v| (key.to_string(), v)));
    let (_dir, checkpoint) = opened(&gguf_bytes(&metadata, &tensors(), GgmlDType::F32));
    let e = checkpoint
        .and_then(|c| load(c, dense()))
        .err()
        .unwrap()
        .to_string();
    assert!(e.contains(words) && e.contains("model.gguf"), "{e}");
}

#[test]
fn faults_are_named() {
    use gguf_file::Value::*;
    check(
        "general.architecture",
        Some(String("gemma2".into())),
        "architecture gemma2 is not supported",
    );
    check(
        "general.architecture",
        None,
        "general.architecture is missing",
    );
    check("llama.block_count", None, "llama.block_count is missing");
    check(
        "llama.block_count",
        Some(String("two".into())),
        "llama.block_count must be a whole number",
    );
    check(
        "llama.attention.head_count_kv",
        Some(U32(3)),
        "4 heads cannot share 3",
    );
    check(
        "llama.attention.head_count",
        Some(U32(0)),
        "head_count is 0",
    );
    check("llama.expert_count", Some(U32(8)), "mixture of experts");
    check(
        "llama.rope.dimension_count",
        Some(U32(8)),
        "16 features of which 8 are rotated",
    );
    check("split.count", Some(U16(3)), "one of 3 parts");
    check(
        "llama.rope.scaling.type",
        Some(String("ntk".into())),
        "\"ntk\" is not supported",
    );
    // candle's reader divides by it
    check("general.alignment", Some(U32(0)), "general.alignment is 0");
    check("general.alignment", Some(U32(24)), "power of two");
    check(
        "tokenizer.ggml.eos_token_id",
        Some(U32(96)),
        "eos_token_id is 96, but there are 96 tokens",
    );
    check(
        "tokenizer.ggml.token_type",
        Some(Array(vec![I32(1)])),
        "1 entries for 96 tokens",
    );

    let good = gguf_bytes(&gguf_metadata(), &tensors(), GgmlDType::Q4_1);
    let fails = |bytes: &[u8], words: &str| {
        let (_dir, checkpoint) = opened(bytes);
        let e = checkpoint
            .and_then(|c| load(c, dense()))
            .err()
            .unwrap()
            .to_string();
        assert!(e.contains(words) && e.contains("model.gguf"), "{e}");
    };
    fails(&good[..good.len() - 40], "cut short or damaged");
    fails(&good[..200], "more than the file can hold");
    fails(&good[..2], "does not begin with GGUF");
    fails(b"safetensors!", "does not begin with GGUF");
    let with = |at: usize, bytes: &[u8]| {
        let mut all = good.clone();
        all[at..at + bytes.len()].copy_from_slice(bytes);
        all
    };
    fails(&with(4, &7u32.to_le_bytes()), "version 7");
    fails(&with(4, &3u32.to_be_bytes()), "big-endian");
    fails(
        &with(8, &u64::MAX.to_le_bytes()),
        "more than the file can hold",
    );
    fails(
        &with(24, &u64::MAX.to_le_bytes()),
        "a metadata key declares 18446744073709551615 characters",
    );
    // an unknown block format of one matrix: its type number follows the name, the number of axes
    // and two sizes
    let name = b"blk.1.ffn_up.weight";
    let at = good.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 16;
    fails(
        &with(at, &99u32.to_le_bytes()),
        "model.layers.1.mlp.up_proj.weight has the dtype number 99 of ggml, which cannot be read",
    );
    fails(
        &with(at, &15u32.to_le_bytes()),
        "has the dtype number 15 of ggml (Q8_K, which is for activations)",
    );
    // rows of 64 are no blocks of 256
    fails(&with(at, &10u32.to_le_bytes()), "which Q2_K cannot hold");
    fails(&with(at - 8, &u64::MAX.to_le_bytes()), "cannot hold");
    fails(
        &with(at + 4, &(1u64 << 62).to_le_bytes()),
        "cut short or damaged",
    );
    // a matrix of another size than the metadata says
    let mut metadata = gguf_metadata();
    metadata
        .iter_mut()
        .find(|(k, _)| k == "tokenizer.ggml.model")
        .unwrap()
        .1 = String("gpt2".into());
    let mut all = tensors();
    let narrow = all["model.layers.1.mlp.up_proj.weight"]
        .narrow(0, 0, 64)
        .unwrap();
    all.insert("model.layers.1.mlp.up_proj.weight".into(), narrow);
    fails(
        &gguf_bytes(&metadata, &all, GgmlDType::F32),
        "model.layers.1.mlp.up_proj.weight: config wants (128, 64), the file has (64, 64)",
    );
}
