//! GGUF model files, read back by our own reader and by candle's, with blocks compared to those of
//! llama.cpp's quantiser (fixtures/blocks.py); and which models are refused.

use std::{collections::BTreeMap, fs::File, io::Read, io::Seek, io::SeekFrom, path::Path};

use crate::family;
use crate::model::{self, HEADS, KV_HEADS, VOCAB, WIDTH, config, permute, tensors, values, weight};
use candle_core::{Device, Tensor, quantized::gguf_file};
use randori_engine::weights::{LoadOptions, Source, open};
use randori_export::{Error, GgufOptions, GgufQuant, GgufReport, Merged, Result, Tensors, gguf};
use randori_formats::gguf::{GgufTokenizer, model::hf_name};
use randori_sdk::{dialect::Gguf, seam::Family};
use serde_json::{Value, json};

/// A model in memory.
struct Plain {
    config: Value,
    tensors: model::Tensors,
}

impl Plain {
    fn new() -> Self {
        Plain {
            config: config(),
            tensors: tensors(),
        }
    }
}

impl Tensors for Plain {
    fn config(&self) -> std::borrow::Cow<'_, Value> {
        std::borrow::Cow::Borrowed(&self.config)
    }

    fn family(&self) -> Family {
        family(&self.config)
    }

    fn list(&self) -> Vec<(String, Vec<usize>)> {
        let all = self.tensors.iter();
        all.map(|(n, t)| (n.clone(), t.dims().to_vec())).collect()
    }

    fn read(&self, name: &str) -> Result<Merged> {
        Ok(Merged {
            weight: self.tensors[name].clone(),
            base: None,
        })
    }
}

fn options(quant: GgufQuant) -> GgufOptions {
    GgufOptions {
        quant,
        replace: false,
        name: "small".into(),
    }
}

/// Writes the file; returns the report, and the values that `on_tensor` was told the file holds.
fn write(
    model: &Plain,
    out: &Path,
    quant: GgufQuant,
) -> Result<(GgufReport, BTreeMap<String, Vec<f32>>)> {
    let mut held = BTreeMap::new();
    let report = gguf(
        model,
        Some(&tokenizer(VOCAB)),
        out,
        &options(quant),
        &mut |name, merged, of| {
            held.insert(name.to_string(), of(&values(&merged.weight))?);
            Ok(())
        },
        &mut |done, all| assert!(done <= all),
    )?;
    Ok((report, held))
}

fn tokenizer(n: usize) -> GgufTokenizer {
    GgufTokenizer {
        model: "gpt2".into(),
        pre: Some("smollm".into()),
        tokens: (0..n).map(|i| format!("t{i}")).collect(),
        token_types: vec![1; n],
        scores: (0..n).map(|i| -(i as f32)).collect(),
        merges: vec!["a b".into()],
        bos: Some(1),
        add_bos: Some(false),
        ..GgufTokenizer::default()
    }
}

#[test]
fn the_file_holds_what_it_says_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let model = Plain::new();
    for quant in GgufQuant::ALL {
        let out = dir.path().join(format!("{quant}.gguf"));
        let (report, held) = write(&model, &out, quant).unwrap();
        assert_eq!(report.bytes, std::fs::metadata(&out).unwrap().len());
        let base = model::load(
            open(Source::Gguf(out), &model::families()).unwrap(),
            LoadOptions::default(),
        )
        .unwrap();
        let mut off: f32 = 0.0;
        for (name, t) in &model.tensors {
            assert_eq!(weight(&base, name), held[name], "{name} as {quant}");
            off = off.max(model::largest_difference(&held[name], &values(t)));
        }
        let most = match quant {
            GgufQuant::F32 => 0.0,
            GgufQuant::F16 | GgufQuant::Bf16 => 2e-3,
            GgufQuant::Q8_0 | GgufQuant::Q6K => 0.01, // rows of 64: Q6_K falls back to Q8_0
            GgufQuant::Iq4Nl => 0.09,                 // its outer levels lie far apart
            _ => 0.0625 + 1e-6,                       // half a step of 1/8
        };
        assert!(
            off <= most && (off > 0.0 || quant == GgufQuant::F32),
            "{quant}: {off}"
        );
        let kind = |k: &str| report.kinds.get(k).copied().unwrap_or(0);
        let expect = match quant {
            GgufQuant::Q5KM | GgufQuant::Q5KS | GgufQuant::Q5_1 => ["Q5_1", "Q8_0"],
            GgufQuant::Q4KM | GgufQuant::Q4KS | GgufQuant::Q5_0 => ["Q5_0", "Q8_0"], // tied embedding
            GgufQuant::Q3KL => ["Q5_1", "Q4_0"],
            GgufQuant::Q3KM => ["Q5_0", "Q4_0"],
            GgufQuant::Q3KS | GgufQuant::Q2K | GgufQuant::Q4_0 => ["Q4_0", "Q8_0"],
            GgufQuant::Q4_1 => ["Q4_1", "Q8_0"],
            GgufQuant::Iq4Nl => ["IQ4_NL", "Q8_0"],
            GgufQuant::Q6K | GgufQuant::Q8_0 => ["Q8_0"; 2],
            GgufQuant::F32 => ["F32"; 2],
            GgufQuant::F16 => ["F16"; 2],
            GgufQuant::Bf16 => ["BF16"; 2],
        };
        assert!(
            expect.iter().all(|k| kind(k) >= 1),
            "{quant}: {:?}",
            report.kinds
        );
        assert_eq!(report.tensors, model.tensors.len());
        assert_eq!(
            report.notes.is_empty(),
            matches!(
                quant,
                GgufQuant::F32 | GgufQuant::F16 | GgufQuant::Bf16 | GgufQuant::Q8_0
            )
        );
    }
}

#[test]
fn candle_reads_header_and_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Plain::new();
    model.config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 4096});
    let bias = Tensor::arange(0f32, 64.0, &Device::Cpu).unwrap();
    model
        .tensors
        .insert("model.layers.0.self_attn.q_proj.bias".into(), bias.clone());
    let out = dir.path().join("f32.gguf");
    write(&model, &out, GgufQuant::F32).unwrap();
    let mut file = File::open(&out).unwrap();
    let read = gguf_file::Content::read(&mut file).unwrap();
    let number = |k: &str| read.metadata[k].to_u32().unwrap();
    assert_eq!(
        read.metadata["general.architecture"].to_string().unwrap(),
        "llama"
    );
    assert_eq!(number("general.file_type"), 0);
    assert_eq!(number("general.quantization_version"), 2);
    assert_eq!(number("llama.vocab_size"), VOCAB as u32);
    assert_eq!(number("llama.rope.dimension_count"), (WIDTH / HEADS) as u32);
    assert_eq!(read.metadata["llama.rope.freq_base"].to_f32().unwrap(), 1e4);
    assert_eq!(
        read.metadata["tokenizer.ggml.tokens"]
            .to_vec()
            .unwrap()
            .len(),
        VOCAB
    );
    let mut tensor = |name: &str| {
        let t = read.tensor(&mut file, name, &Device::Cpu).unwrap();
        t.dequantize(&Device::Cpu).unwrap()
    };
    let q = &model.tensors["model.layers.1.self_attn.q_proj.weight"];
    assert_eq!(
        values(&tensor("blk.1.attn_q.weight")),
        values(&permute(q, HEADS))
    );
    let k = &model.tensors["model.layers.0.self_attn.k_proj.weight"];
    assert_eq!(
        values(&tensor("blk.0.attn_k.weight")),
        values(&permute(k, KV_HEADS))
    );
    let v = &model.tensors["model.layers.0.self_attn.v_proj.weight"];
    assert_eq!(values(&tensor("blk.0.attn_v.weight")), values(v));
    let b = permute(&bias.reshape((64, 1)).unwrap(), HEADS);
    assert_eq!(values(&tensor("blk.0.attn_q.bias")), values(&b));
    let divisors = values(&tensor("rope_freqs.weight"));
    assert_eq!((divisors.len(), divisors[0]), (WIDTH / HEADS / 2, 1.0));
    assert!(read.tensor_infos.values().all(|t| t.offset % 32 == 0));
    assert!(!read.tensor_infos.contains_key("output.weight")); // tied
    // and our reader takes the divisors back as the parameters they came from
    let again = open(Source::Gguf(out), &model::families()).unwrap();
    assert_eq!(again.config()["rope_scaling"], model.config["rope_scaling"]);
}

#[test]
fn blocks_are_those_of_llama_cpp() {
    let theirs: Value = serde_json::from_str(include_str!("fixtures/blocks.json")).unwrap();
    let wide = 512;
    let numbers: Vec<f32> = randori_lora::splitmix(7, "golden", 2 * wide)
        .map(|u| (u - 0.5) as f32)
        .collect();
    let mut model = Plain::new();
    // the rows of up and gate are wide enough for every block
    model.config["hidden_size"] = json!(wide);
    model.config["head_dim"] = json!(16);
    for (name, t) in &mut model.tensors {
        let dims: Vec<usize> = match t.dims() {
            [n] => vec![if *n == WIDTH { wide } else { *n }],
            [n, WIDTH] if !name.contains("o_proj") => vec![*n, wide],
            [_, n] => vec![wide, *n],
            other => panic!("{other:?}"),
        };
        let n = dims.iter().product::<usize>();
        let filled: Vec<f32> = numbers.iter().copied().cycle().take(n).collect();
        *t = Tensor::from_vec(filled, dims, &Device::Cpu).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    for quant in [
        GgufQuant::F16,
        GgufQuant::Bf16,
        GgufQuant::Q8_0,
        GgufQuant::Q4_0,
        GgufQuant::Q4KS,
        GgufQuant::Q6K,
        GgufQuant::Q5_1,
        GgufQuant::Q5KS,
        GgufQuant::Q3KS,
        GgufQuant::Q2K,
    ] {
        let out = dir.path().join(format!("{quant}.gguf"));
        let (_, held) = write(&model, &out, quant).unwrap();
        let mut file = File::open(&out).unwrap();
        let read = gguf_file::Content::read(&mut file).unwrap();
        for name in [
            "blk.1.ffn_gate.weight",
            "token_embd.weight",
            "blk.0.ffn_down.weight",
        ] {
            let info = &read.tensor_infos[name];
            let (kind, golden) = theirs
                .as_object()
                .unwrap()
                .iter()
                .find(|(k, _)| {
                    k.replace('_', "") == format!("{:?}", info.ggml_dtype).replace('_', "")
                })
                .unwrap();
            let bytes = hex(golden["bytes"].as_str().unwrap());
            let mut ours = vec![0; bytes.len()];
            file.seek(SeekFrom::Start(read.tensor_data_offset + info.offset))
                .unwrap();
            file.read_exact(&mut ours).unwrap();
            let held = &held[&hf_name(&Gguf::LLAMA, name).unwrap()][..2 * wide];
            let off: f64 = held
                .iter()
                .zip(&numbers)
                .map(|(a, b)| f64::from(a - b).powi(2))
                .sum();
            let norm: f64 = numbers.iter().map(|b| f64::from(*b).powi(2)).sum();
            let error = (off / norm).sqrt();
            let same =
                ours.iter().zip(&bytes).filter(|(a, b)| a == b).count() as f64 / bytes.len() as f64;
            eprintln!(
                "{name} {kind}: {:.2} % of the bytes, error {error:.6} of {}",
                100.0 * same,
                golden["error"]
            );
            if matches!(kind.as_str(), "Q4_K" | "Q6_K") {
                // candle searches the scales less thoroughly; the blocks must be nearly as good
                assert!(
                    error <= 1.06 * golden["error"].as_f64().unwrap(),
                    "{kind}: {error}"
                );
            } else {
                assert_eq!(same, 1.0, "{name} as {kind}");
            }
        }
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

#[test]
fn rows_without_a_token_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (Plain::new(), dir.path().join("x.gguf"));
    let write = |n: usize, out: &Path| {
        gguf(
            &model,
            Some(&tokenizer(n)),
            out,
            &options(GgufQuant::F16),
            &mut |_, _, _| Ok(()),
            &mut |_, _| {},
        )
    };
    write(VOCAB - 2, &out).unwrap();
    let read = gguf_file::Content::read(&mut File::open(&out).unwrap()).unwrap();
    let last = |key: &str| read.metadata[key].to_vec().unwrap().last().unwrap().clone();
    assert_eq!(
        last("tokenizer.ggml.tokens").to_string().unwrap(),
        "[PAD95]"
    );
    assert_eq!(last("tokenizer.ggml.token_type").to_i32().unwrap(), 5);
    assert!(last("tokenizer.ggml.scores").to_f32().unwrap() < -93.0);
    let e = write(VOCAB + 1, &dir.path().join("y.gguf"))
        .unwrap_err()
        .to_string();
    assert!(e.contains("97 tokens") && e.contains("96 rows"), "{e}");
}

#[test]
fn an_error_leaves_nothing_and_names_the_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&mut Plain), words: &str| {
        let mut model = Plain::new();
        change(&mut model);
        let e = write(&model, &dir.path().join("m.gguf"), GgufQuant::F16).unwrap_err();
        assert!(e.to_string().contains(words), "{e}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{words}");
    };
    let q = "model.layers.1.self_attn.q_proj.weight";
    refused(&|m| drop(m.tensors.remove(q)), q);
    refused(&|m| m.config["model_type"] = json!("gemma2"), "gemma2");
    refused(
        &|m| m.config["tie_word_embeddings"] = json!(false),
        "lm_head.weight",
    );
    refused(&|m| m.config["num_hidden_layers"] = json!(1), "layers.1.");
    refused(&|m| m.config["num_key_value_heads"] = json!(4), "k_proj");
    let huge = |m: &mut Plain| {
        let t = m
            .tensors
            .get_mut("model.layers.1.mlp.up_proj.weight")
            .unwrap();
        *t = (&*t * 1e6).unwrap();
    };
    refused(&huge, "beyond f16"); // when half the file is written
    let odd = |m: &mut Plain| {
        let t = m.tensors[q].clone();
        m.tensors
            .insert("model.layers.0.block_sparse_moe.gate.weight".into(), t);
    };
    refused(&odd, "block_sparse_moe");
    // the architectures differ in what they have a name for
    let family = |m: &mut Plain, name: &str| m.config["model_type"] = json!(name);
    let added = |m: &mut Plain, name: &str| {
        let t = m.tensors["model.norm.weight"].clone();
        m.tensors
            .insert(format!("model.layers.0.self_attn.{name}"), t);
    };
    refused(
        &|m| family(m, "qwen3"),
        "no model.layers.0.self_attn.q_norm",
    );
    let says = "q_norm.weight is no tensor that GGUF's llama has a name for";
    refused(&|m| added(m, "q_norm.weight"), says);
    for name in ["qwen2", "qwen3"] {
        let biased = |m: &mut Plain| {
            family(m, name);
            added(m, "o_proj.bias");
        };
        refused(&biased, "o_proj.bias is no tensor that");
    }
    // an error of the callback is returned; an existing file stays unless `replace` is set
    let (model, out) = (Plain::new(), dir.path().join("m.gguf"));
    let with = |options: &GgufOptions, each: &mut dyn FnMut() -> Result<()>| {
        gguf(
            &model,
            None,
            &out,
            options,
            &mut |_, _, _| each(),
            &mut |_, _| {},
        )
    };
    let e = with(&options(GgufQuant::F32), &mut || {
        Err(Error::Rule("no more".into()))
    })
    .unwrap_err();
    assert_eq!(e.to_string(), "no more");
    assert!(!out.exists());
    with(&options(GgufQuant::F32), &mut || Ok(())).unwrap();
    let before = std::fs::read(&out).unwrap();
    let e = with(&options(GgufQuant::Q8_0), &mut || Ok(())).unwrap_err();
    assert!(e.to_string().contains("there already"), "{e}");
    assert_eq!(std::fs::read(&out).unwrap(), before);
    let replace = GgufOptions {
        replace: true,
        ..options(GgufQuant::Q8_0)
    };
    with(&replace, &mut || Ok(())).unwrap();
    assert!(std::fs::read(&out).unwrap().len() < before.len());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
