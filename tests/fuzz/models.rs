//! Fuzzing of models and adapters: safetensors folders, bitsandbytes checkpoints, GGUF files, PEFT
//! adapters.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{Device, Tensor};
use randori_engine::{
    Base, Player, Trace, trace,
    weights::{Dtype, LoadOptions, Quant, Source, TokenizerSource, open},
};
use randori_formats::gguf::{self, Block, GgufTokenizer, TensorSpec, model};
use randori_lora::peft;
use randori_sdk::seam::Architecture;
use randori_specimens::llama::{LLAMA, Shape, uniform};
use serde_json::{Value, json};

use super::{
    CASES,
    mutate::Kind,
    opened::{HOST, architecture, families, family, load},
    scratch,
    storm::storm,
    texts,
};

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(path)
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Loads a model as the program does: configuration, architecture, weights.
fn loads(source: Source, options: &LoadOptions) -> Option<Base> {
    let checkpoint = open(source, families()).ok()?;
    let config = checkpoint.config().clone();
    let kind = config["model_type"].as_str()?.to_string();
    let arch = HOST.architecture(&kind, &config.to_string()).ok()?;
    checkpoint.load(arch, options, &mut |_, _| ()).ok()
}

/// A model whose architecture is known, to fuzz the other files.
struct Known {
    arch: Arc<dyn Architecture>,
    trace: Trace,
}

impl Known {
    fn of(config: &Value) -> Known {
        let arch = architecture(config);
        let trace = trace(&*arch).unwrap();
        Known { arch, trace }
    }

    fn loads(&self, source: Source, options: &LoadOptions) -> bool {
        let Ok(checkpoint) = open(source, families()) else {
            return false;
        };
        checkpoint.tensors();
        checkpoint
            .load_traced(self.arch.clone(), &self.trace, options, &mut |_, _| ())
            .is_ok()
    }
}

fn config(dir: &Path) -> Value {
    serde_json::from_slice(&bytes(&dir.join("config.json"))).unwrap()
}

fn options(quant: Option<Quant>, dtype: Dtype) -> LoadOptions {
    LoadOptions { quant, dtype }
}

const NF4: Option<Quant> = Some(Quant::Nf4 { double: true });

#[test]
fn safetensors() {
    let from = fixture("goldens/llama");
    let known = Known::of(&config(&from));
    let dir = scratch();
    std::fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let inputs = [bytes(&from.join("model.safetensors"))];
    storm(
        "safetensors",
        Kind::Safetensors,
        &inputs,
        CASES,
        &mut |damaged| {
            std::fs::write(dir.path().join("model.safetensors"), damaged).unwrap();
            let source = Source::Folder(dir.path().into());
            known.loads(source, &options(None, Dtype::F16))
        },
    );
}

/// The fixture's tensors in two files with an index.
fn sharded(from: &Path, dir: &Path) -> Vec<u8> {
    let all = candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu).unwrap();
    let mut map = BTreeMap::new();
    let mut parts = [
        std::collections::HashMap::new(),
        std::collections::HashMap::new(),
    ];
    let all: BTreeMap<String, Tensor> = all.into_iter().collect();
    for (i, (name, tensor)) in all.into_iter().enumerate() {
        map.insert(name.clone(), format!("model-{}.safetensors", i % 2));
        parts[i % 2].insert(name, tensor);
    }
    for (i, part) in parts.iter().enumerate() {
        candle_core::safetensors::save(part, dir.join(format!("model-{i}.safetensors"))).unwrap();
    }
    json!({"metadata": {"total_size": 1}, "weight_map": map})
        .to_string()
        .into_bytes()
}

#[test]
fn sharded_index_and_config() {
    let from = fixture("goldens/llama");
    let known = Known::of(&config(&from));
    let dir = scratch();
    let index = sharded(&from, dir.path());
    let text = bytes(&from.join("config.json"));
    std::fs::write(dir.path().join("config.json"), &text).unwrap();
    let path = dir.path().join("model.safetensors.index.json");
    storm(
        "index.json",
        Kind::Text,
        std::slice::from_ref(&index),
        CASES,
        &mut |damaged| {
            std::fs::write(&path, damaged).unwrap();
            known.loads(Source::Folder(dir.path().into()), &LoadOptions::default())
        },
    );
    config_json("config.json", &from);
    config_json("config.json of a Mistral", &fixture("goldens/mistral"));
}

fn config_json(name: &str, from: &Path) {
    let dir = scratch();
    let weights = "model.safetensors";
    std::fs::copy(from.join(weights), dir.path().join(weights)).unwrap();
    let text = bytes(&from.join("config.json"));
    storm(name, Kind::Text, &[text], CASES, &mut |damaged| {
        std::fs::write(dir.path().join("config.json"), damaged).unwrap();
        loads(Source::Folder(dir.path().into()), &LoadOptions::default()).is_some()
    });
}

#[test]
fn bitsandbytes() {
    for kind in ["double", "plain"] {
        let from = fixture("bnb").join(kind);
        let known = Known::of(&config(&from));
        let dir = scratch();
        std::fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
        let inputs = [bytes(&from.join("model.safetensors"))];
        let mut kept = false;
        let name = format!("bitsandbytes {kind}");
        storm(&name, Kind::Safetensors, &inputs, CASES, &mut |damaged| {
            std::fs::write(dir.path().join("model.safetensors"), damaged).unwrap();
            kept = !kept;
            let quant = if kept { NF4 } else { None };
            known.loads(
                Source::Folder(dir.path().into()),
                &options(quant, Dtype::F32),
            )
        });
    }
}

/// A little Llama as GGUF, each matrix in another format.
fn gguf(kinds: &[gguf::Kind], tokenizer: Option<&GgufTokenizer>) -> Vec<u8> {
    let shape = Shape {
        vocab: 16,
        width: 256,
        ffn: 256,
        layers: 1,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        context: 64,
        ..LLAMA
    };
    let llama = family("llama").dialect.gguf.unwrap();
    let mut kinds = kinds.iter().copied().cycle();
    let tensors: Vec<_> = shape
        .tensors()
        .into_iter()
        .map(|(name, shape)| {
            let kind = match shape[..] {
                [_] => gguf::Kind::Dense(Dtype::F32),
                _ => kinds.next().unwrap(),
            };
            let drawn = uniform(1, &name, shape.iter().product());
            let values: Vec<f32> = drawn.map(|u| (u - 0.5) as f32).collect();
            let bytes = match kind {
                gguf::Kind::Dense(dtype) => dtype.encode(&name, &values).unwrap(),
                gguf::Kind::Block(block) => randori_qlora::encode(block, &values).unwrap(),
            };
            let name = model::gguf_name(&llama, &name).unwrap();
            (TensorSpec::new(&name, &shape, kind), bytes)
        })
        .collect();
    let mut keys = model::keys(&shape.config(), family("llama"), shape.vocab).unwrap();
    keys.extend(tokenizer.into_iter().flat_map(GgufTokenizer::keys));
    let dir = scratch();
    let path = dir.path().join("model.gguf");
    gguf::write(&path, false, &keys, &tensors).unwrap();
    bytes(&path)
}

#[test]
fn gguf_models() {
    use Block::*;
    let dense = [Dtype::F32, Dtype::F16].map(gguf::Kind::Dense);
    let kept = [Q4K, Q6K, Q5K, Q8_0].map(gguf::Kind::Block);
    let decoded = [Q4_0, Q4_1, Q5_0, Q5_1, Q6K, Q2K, Q3K, Iq4Nl].map(gguf::Kind::Block);
    let sets: [(&str, &[gguf::Kind], Option<Quant>, u64); 3] = [
        ("gguf f32 f16", &dense, None, CASES / 5),
        (
            "gguf q4_k q6_k q8_0 kept",
            &kept,
            Some(Quant::Gguf),
            CASES / 2,
        ),
        ("gguf blocks dequantised", &decoded, None, CASES * 3 / 10),
    ];
    let dir = scratch();
    let path = dir.path().join("model.gguf");
    for (name, formats, quant, count) in sets {
        storm(
            name,
            Kind::Bytes,
            &[gguf(formats, None)],
            count,
            &mut |damaged| {
                std::fs::write(&path, damaged).unwrap();
                loads(Source::Gguf(path.clone()), &options(quant, Dtype::Bf16)).is_some()
            },
        );
    }
}

fn tokenizer(model: &str) -> GgufTokenizer {
    let texts = |all: &[&str]| all.iter().map(|t| (*t).to_string()).collect();
    GgufTokenizer {
        model: model.into(),
        pre: Some("smollm".into()),
        tokens: texts(&[
            "<unk>", "<s>", "</s>", "a", "b", "ab", "c", "abc", "▁", "Ġ", "▁a", "<0x41>", "H", "e",
            "l", "o",
        ]),
        scores: (0..16).map(|i| -(i as f32)).collect(),
        token_types: vec![2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 6, 1, 1, 1, 1],
        merges: texts(&["a b", "ab c"]),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        add_bos: Some(true),
        chat_template: Some(
            "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}".into(),
        ),
        ..GgufTokenizer::default()
    }
}

#[test]
fn gguf_tokenizers() {
    let dir = scratch();
    let path = dir.path().join("model.gguf");
    let whole =
        ["gpt2", "llama"].map(|m| gguf(&[gguf::Kind::Block(Block::Q4K)], Some(&tokenizer(m))));
    // the header alone is damaged: what a tensor holds is another test
    let heads: Vec<Vec<u8>> = whole.iter().map(|file| file[..2600].to_vec()).collect();
    let mut turn = 0;
    storm(
        "gguf tokenizer",
        Kind::Bytes,
        &heads,
        CASES,
        &mut |damaged| {
            let mut file = damaged.to_vec();
            file.extend(&whole[turn % 2][2600..]);
            turn += 1;
            std::fs::write(&path, file).unwrap();
            let Ok(checkpoint) = open(Source::Gguf(path.clone()), families()) else {
                return false;
            };
            match checkpoint.tokenizer() {
                TokenizerSource::Gguf(g) => texts::works(randori_data::Tokenizer::from_gguf(&g)),
                _ => false,
            }
        },
    );
}

#[test]
fn peft_adapters() {
    let model = fixture("goldens/llama");
    let base = load(Source::Folder(model.clone()), &LoadOptions::default());
    let plays = |dir: &Path| {
        let Ok((spec, params)) = peft::load(dir) else {
            return false;
        };
        Player::with_adapter(base.clone(), spec, params).is_ok()
    };
    let dir = scratch();
    for kind in ["dora_rslora_patterns", "patterns", "saved_head"] {
        let from = model.join(kind);
        let (json, tensors) = (
            bytes(&from.join(peft::CONFIG)),
            bytes(&from.join("adapter_model.safetensors")),
        );
        let write =
            |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        write("adapter_model.safetensors", &tensors);
        let share = CASES / 2;
        storm(
            &format!("{kind} adapter_config.json"),
            Kind::Text,
            std::slice::from_ref(&json),
            share,
            &mut |damaged| {
                write(peft::CONFIG, damaged);
                plays(dir.path())
            },
        );
        write(peft::CONFIG, &json);
        storm(
            &format!("{kind} adapter_model.safetensors"),
            Kind::Safetensors,
            &[tensors],
            share,
            &mut |damaged| {
                write("adapter_model.safetensors", damaged);
                plays(dir.path())
            },
        );
    }
}
