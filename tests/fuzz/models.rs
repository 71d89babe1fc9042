//! Models and adapters: safetensors folders, bitsandbytes checkpoints, GGUF files, PEFT adapters.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};
use randori_engine::{
    Base, Player, Trace, trace,
    weights::{Dtype, LoadOptions, Quant, Source, TokenizerSource, open},
};
use randori_host::{Host, SearchPath};
use randori_lora::peft;
use randori_sdk::seam::Architecture;
use serde_json::{Value, json};

use super::{CASES, mutate::Kind, scratch, storm::storm, texts};

static HOST: LazyLock<Host> = LazyLock::new(|| Host::discover(&SearchPath::standard()).unwrap());

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(path)
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// As the program goes about it: configuration, architecture, weights.
fn loads(source: Source, options: &LoadOptions) -> Option<Base> {
    let checkpoint = open(source).ok()?;
    let config = checkpoint.config().clone();
    let kind = config["model_type"].as_str()?.to_string();
    let arch = HOST.architecture(&kind, &config.to_string()).ok()?;
    checkpoint.load(arch, options, &mut |_, _| ()).ok()
}

/// The same where the architecture is known to be right.
struct Known {
    arch: Arc<dyn Architecture>,
    trace: Trace,
}

impl Known {
    fn of(config: &Value) -> Known {
        let kind = config["model_type"].as_str().unwrap();
        let arch = HOST.architecture(kind, &config.to_string()).unwrap();
        let trace = trace(&*arch).unwrap();
        Known { arch, trace }
    }

    fn loads(&self, source: Source, options: &LoadOptions) -> bool {
        let Ok(checkpoint) = open(source) else {
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
fn gguf(formats: &[GgmlDType], tokenizer: &[(&str, gguf_file::Value)]) -> Vec<u8> {
    use gguf_file::Value::{F32, String as Text, U32};
    let names: [(&str, usize, usize); 9] = [
        ("token_embd", 16, 256),
        ("output", 16, 256),
        ("blk.0.attn_q", 256, 256),
        ("blk.0.attn_k", 128, 256),
        ("blk.0.attn_v", 128, 256),
        ("blk.0.attn_output", 256, 256),
        ("blk.0.ffn_gate", 256, 256),
        ("blk.0.ffn_up", 256, 256),
        ("blk.0.ffn_down", 256, 256),
    ];
    let mut stored = Vec::new();
    for (i, (name, rows, columns)) in names.into_iter().enumerate() {
        let values: Vec<f32> = randori_lora::splitmix(1, name, rows * columns)
            .map(|u| (u - 0.5) as f32)
            .collect();
        let t = Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap();
        let q = QTensor::quantize(&t, formats[i % formats.len()]).unwrap();
        stored.push((format!("{name}.weight"), q));
    }
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"] {
        let t = Tensor::ones(256, candle_core::DType::F32, &Device::Cpu).unwrap();
        let q = QTensor::quantize(&t, GgmlDType::F32).unwrap();
        stored.push((format!("{name}.weight"), q));
    }
    let mut metadata = vec![
        ("general.architecture", Text("llama".into())),
        ("general.quantization_version", U32(2)),
        ("llama.context_length", U32(64)),
        ("llama.embedding_length", U32(256)),
        ("llama.block_count", U32(1)),
        ("llama.feed_forward_length", U32(256)),
        ("llama.attention.head_count", U32(4)),
        ("llama.attention.head_count_kv", U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", F32(1e-5)),
        ("llama.rope.freq_base", F32(10_000.0)),
        ("llama.rope.dimension_count", U32(64)),
    ];
    metadata.extend(tokenizer.iter().map(|(k, v)| (*k, v.clone())));
    let metadata: Vec<(&str, &gguf_file::Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let refs: Vec<(&str, &QTensor)> = stored.iter().map(|(n, q)| (n.as_str(), q)).collect();
    let mut out = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut out, &metadata, &refs).unwrap();
    out.into_inner()
}

#[test]
fn gguf_models() {
    use GgmlDType::*;
    let sets: [(&str, &[GgmlDType], Option<Quant>, u64); 3] = [
        ("gguf f32 f16", &[F32, F16], None, CASES / 5),
        (
            "gguf q4_k q6_k q8_0 kept",
            &[Q4K, Q6K, Q5K, Q8_0],
            Some(Quant::Gguf),
            CASES / 2,
        ),
        (
            "gguf blocks dequantised",
            &[Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q6K],
            None,
            CASES * 3 / 10,
        ),
    ];
    let dir = scratch();
    let path = dir.path().join("model.gguf");
    for (name, formats, quant, count) in sets {
        storm(
            name,
            Kind::Bytes,
            &[gguf(formats, &[])],
            count,
            &mut |damaged| {
                std::fs::write(&path, damaged).unwrap();
                loads(Source::Gguf(path.clone()), &options(quant, Dtype::Bf16)).is_some()
            },
        );
    }
}

fn tokenizer_metadata(model: &str) -> Vec<(&'static str, gguf_file::Value)> {
    use gguf_file::Value::{Array, Bool, F32, I32, String as Text, U32};
    let texts = |all: &[&str]| Array(all.iter().map(|t| Text((*t).into())).collect());
    let tokens = [
        "<unk>", "<s>", "</s>", "a", "b", "ab", "c", "abc", "▁", "Ġ", "▁a", "<0x41>", "H", "e",
        "l", "o",
    ];
    let kinds = [2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 6, 1, 1, 1, 1];
    vec![
        ("tokenizer.ggml.model", Text(model.into())),
        ("tokenizer.ggml.pre", Text("smollm".into())),
        ("tokenizer.ggml.tokens", texts(&tokens)),
        (
            "tokenizer.ggml.scores",
            Array((0..16).map(|i| F32(-(i as f32))).collect()),
        ),
        (
            "tokenizer.ggml.token_type",
            Array(kinds.iter().map(|k| I32(*k)).collect()),
        ),
        ("tokenizer.ggml.merges", texts(&["a b", "ab c"])),
        ("tokenizer.ggml.bos_token_id", U32(1)),
        ("tokenizer.ggml.eos_token_id", U32(2)),
        ("tokenizer.ggml.unknown_token_id", U32(0)),
        ("tokenizer.ggml.add_bos_token", Bool(true)),
        (
            "tokenizer.chat_template",
            Text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}".into()),
        ),
    ]
}

#[test]
fn gguf_tokenizers() {
    let dir = scratch();
    let path = dir.path().join("model.gguf");
    let whole = ["gpt2", "llama"].map(|m| gguf(&[GgmlDType::Q4K], &tokenizer_metadata(m)));
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
            let Ok(checkpoint) = open(Source::Gguf(path.clone())) else {
                return false;
            };
            match checkpoint.tokenizer() {
                TokenizerSource::Gguf(g) => {
                    texts::works(randori_data::Tokenizer::from_gguf(&texts::converted(*g)))
                }
                _ => false,
            }
        },
    );
}

#[test]
fn peft_adapters() {
    let model = fixture("goldens/llama");
    let base = Arc::new(loads(Source::Folder(model.clone()), &LoadOptions::default()).unwrap());
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
