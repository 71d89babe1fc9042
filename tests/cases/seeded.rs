//! Small models whose weights any language can compute: each value is a pure function of its
//! tensor's name and its index (FNV-1a of the name, then SplitMix64), so expected values of other
//! programs need no stored weights.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use randori_formats::Dtype;
use randori_formats::gguf::{self, Kind, TensorSpec, model};
use randori_sdk::seam::Family;
pub use randori_specimens::llama::Shape;
use randori_specimens::llama::{LLAMA, permute, write_folder};
use serde_json::{Value, json};

use crate::{opened::family, program::World};

pub const HIDDEN: usize = 32;
pub const HEAD_DIM: usize = 8;
const FFN: usize = 48;
const VOCAB: usize = 337; // the demo's tokenizer

/// A model's configuration and tensors.
#[derive(Clone)]
pub struct Seeded {
    pub config: Value,
    pub tensors: BTreeMap<String, Tensor>,
}

/// Their shape, but for what a test changes.
pub const SEEDED: Shape = Shape {
    vocab: VOCAB,
    width: HIDDEN,
    ffn: FFN,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: HEAD_DIM,
    context: 256,
    ..LLAMA
};

/// About 1 in norms, between -0.3 and 0.3 elsewhere.
pub fn values(name: &str, count: usize) -> Vec<f32> {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let one = |i: usize| {
        let mut z = hash.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let u = ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32;
        match name.ends_with("norm.weight") {
            true => 1.0 + (u - 0.5) * 0.5,
            false => (u - 0.5) * 0.6,
        }
    };
    (0..count).map(one).collect()
}

pub fn tensor(name: &str, shape: &[usize]) -> Tensor {
    let values = values(name, shape.iter().product());
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

impl Seeded {
    /// A Llama with a head of its own.
    pub fn llama(shape: &Shape) -> Seeded {
        let ids = json!({"bos_token_id": null, "eos_token_id": 0, "pad_token_id": 3});
        let seeded = Seeded {
            config: shape.config(),
            tensors: shape.weights(|name, shape| values(name, shape.iter().product())),
        };
        seeded.with(ids)
    }

    /// The same with other keys; `json!({"key": null})` writes null.
    pub fn with(mut self, keys: Value) -> Seeded {
        for (key, value) in keys.as_object().unwrap() {
            self.config[key] = value.clone();
        }
        self
    }

    /// The same without a key.
    pub fn without(mut self, key: &str) -> Seeded {
        self.config.as_object_mut().unwrap().remove(key);
        self
    }

    /// The same without a tensor.
    pub fn lacking(mut self, name: &str) -> Seeded {
        self.tensors.remove(name).unwrap();
        self
    }

    /// Writes the model's folder, with the demo's tokenizer; its path.
    pub fn write(&self, w: &World, name: &str) -> std::path::PathBuf {
        let dir = w.dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        write_folder(&dir, &self.config, &self.tensors);
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(w.dir().join("tokenizer").join(file), dir.join(file)).unwrap();
        }
        dir
    }

    /// Writes it as a GGUF, its matrices in F32; `keys` go to the metadata in place of those of the
    /// same name, `fuse` says whether q, k and v are one tensor, `more` are added as they are.
    pub fn gguf(
        &self,
        path: &Path,
        keys: &[(&str, gguf::Value)],
        more: &[(&str, Tensor)],
        fuse: bool,
    ) {
        let own = model::keys(&self.config, self.family(), VOCAB).unwrap();
        let mut metadata: BTreeMap<String, gguf::Value> = own.into_iter().collect();
        let none = [("tokenizer.ggml.model", gguf::Value::Text("none".into()))];
        for (key, value) in none.iter().chain(keys) {
            metadata.insert((*key).to_string(), value.clone());
        }
        let mut stored = self.for_llama_cpp(fuse);
        stored.extend(more.iter().map(|(n, t)| (n.to_string(), t.clone())));
        let tensors: Vec<_> = stored
            .iter()
            .map(|(name, t)| {
                let values: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
                let coming = TensorSpec::new(name, t.dims(), Kind::Dense(Dtype::F32));
                (coming, Dtype::F32.encode(name, &values).unwrap())
            })
            .collect();
        let metadata: Vec<_> = metadata.into_iter().collect();
        gguf::write(path, true, &metadata, &tensors).unwrap();
    }

    fn family(&self) -> &'static Family {
        family(self.config["model_type"].as_str().unwrap())
    }

    fn for_llama_cpp(&self, fuse: bool) -> BTreeMap<String, Tensor> {
        let heads = |name: &str| {
            let key = match name.contains("q_proj") {
                true => "num_attention_heads",
                false => "num_key_value_heads",
            };
            self.config[key].as_u64().unwrap() as usize
        };
        let gguf = self.family().dialect.gguf.unwrap();
        let mut all = BTreeMap::new();
        for (name, t) in &self.tensors {
            let turned = name.contains("q_proj") || name.contains("k_proj");
            let t = if turned {
                permute(t, heads(name))
            } else {
                t.clone()
            };
            let to = model::gguf_name(&gguf, name).unwrap();
            all.insert(to, t);
        }
        let fused: Vec<String> = all
            .keys()
            .filter(|n| fuse && n.contains("attn_q."))
            .cloned()
            .collect();
        for q in fused {
            let parts = ["attn_q", "attn_k", "attn_v"]
                .map(|part| all.remove(&q.replace("attn_q", part)).unwrap());
            all.insert(
                q.replace("attn_q", "attn_qkv"),
                Tensor::cat(&parts, 0).unwrap(),
            );
        }
        all
    }
}

const PAIR: &str = r#"{"prompt": "Reverse 869 and tell me what the answer would be, please.", "chosen": "The answer is 968.", "rejected": "I am not sure at all."}"#;

/// log p of the pair's two responses under the model at `source`, and what was said aside.
#[track_caller]
pub fn scored(w: &World, source: &str) -> ([f64; 2], String) {
    recipe(w, source);
    let out = w.run(&[
        "score",
        "m.toml",
        "--pairs",
        "p.jsonl",
        "-o",
        "scores.jsonl",
        "-q",
    ]);
    assert_eq!(out.code, 0, "{}{}", out.stdout, out.stderr);
    let text = fs::read_to_string(w.dir().join("scores.jsonl")).unwrap();
    let row: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let both = ["ref_real", "ref_generated"].map(|key| row[key].as_f64().unwrap());
    (both, out.stderr)
}

/// The model at `source` is refused with a sentence that says `why`.
#[track_caller]
pub fn refused(w: &World, source: &str, why: &str) {
    recipe(w, source);
    w.refused(
        &[
            "score",
            "m.toml",
            "--pairs",
            "p.jsonl",
            "-o",
            "scores.jsonl",
            "-q",
        ],
        why,
    );
}

fn recipe(w: &World, source: &str) {
    w.file("p.jsonl", PAIR);
    w.file(
        "m.toml",
        &format!("name = \"m\"\n[model]\nsource = \"{source}\"\ntokenizer = \"tokenizer\"\n"),
    );
}

#[test]
fn seeded_weights_are_those_that_python_made() {
    // numpy by the same two functions
    let t = tensor("model.norm.weight", &[2]).to_vec1::<f32>().unwrap();
    assert_eq!(t, [0.774_343_9, 0.818_91]);
}
