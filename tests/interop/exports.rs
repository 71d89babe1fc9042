//! The comparisons: every kind of adapter in every format, and files of other programs.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::Tensor;
use randori_data::Tokenizer;
use randori_engine::{
    Player,
    weights::{LoadOptions, Source},
};
use randori_lora::{LoraSpec, peft, splitmix, stack};
use serde_json::{Value, json};

use super::lab::{Lab, Model, weights};
use crate::model;

/// Of logits of order 1 to 10, in f32 on both sides.
const LOGITS: f64 = 1e-4;
/// llama.cpp keeps some tables in f16 and sums in its own order.
const LLAMA_CPP: f64 = 1e-3;

/// Texts whose token ids must agree.
const TEXTS: [&str; 8] = [
    "Hello world",
    "  two  spaces and\ttab\n\nlines \n",
    "1 22 333 4444 1,000.5 3.14159",
    "don't, we'll, I'VE",
    "Grüße, naïve café; 東京 и Москва; 👍🏽",
    "def f(x):\n    return x**2  # ok\n",
    "<|im_start|>user\nhi<|im_end|>",
    "a",
];

/// Number of tokens within which no window changes anything: these GGUF files have none.
const WINDOW: usize = 80;

/// Our adapters: kind, settings, whether a GGUF LoRA can say it.
fn kinds(model: &Model) -> Vec<(&'static str, Value, bool)> {
    let mut kinds = vec![
        (
            "LoRA",
            json!({"rank": 8, "alpha": 16.0, "targets": "all-linear"}),
            true,
        ),
        (
            "rsLoRA",
            json!({"rank": 16, "alpha": 8.0, "rslora": true,
                "targets": model.projections(&["q_proj", "k_proj", "down_proj"])}),
            true,
        ),
        (
            "rank and alpha patterns",
            json!({"rank": 8, "alpha": 16.0, "targets": r".*layers\.\d+\..*_proj",
                "rank_pattern": model.pattern(&[("k_proj", 2), ("up_proj", 3)]),
                "alpha_pattern": model.pattern(&[("v_proj", 40.0), ("k_proj", 5.0)])}),
            true,
        ),
        (
            "DoRA",
            json!({"rank": 8, "alpha": 16.0, "dora": true, "targets": "all-linear"}),
            false,
        ),
        (
            "DoRA with rsLoRA",
            json!({"rank": 4, "alpha": 8.0, "dora": true, "rslora": true,
                "targets": model.projections(&["q_proj", "o_proj", "up_proj"])}),
            false,
        ),
    ];
    kinds.push((
        "LoRA on the head",
        json!({"rank": 8, "alpha": 16.0, "targets": model.projections(&["q_proj", "lm_head"])}),
        !model.tied(),
    ));
    if !model.tied() {
        kinds.push((
            "LoRA and a saved head",
            json!({"rank": 8, "alpha": 16.0, "modules_to_save": ["lm_head"],
                "targets": model.projections(&["q_proj", "v_proj"])}),
            false,
        ));
    }
    kinds
}

/// A player as after training: B not zero, magnitudes and head moved.
fn trained(model: &Model, settings: Value) -> Player {
    let spec: LoraSpec = serde_json::from_value(settings).unwrap();
    let fresh = Player::with_lora(model.base.clone(), spec, 1).unwrap();
    let moved = |(name, t): (&String, &Tensor)| {
        let noise: Vec<f32> = splitmix(2, name, t.elem_count())
            .map(|u| (2.0 * u - 1.0) as f32)
            .collect();
        let noise = Tensor::from_vec(noise, t.shape(), t.device()).unwrap();
        let now = match name.rsplit('.').next().unwrap() {
            "lora_A" => Ok(t.clone()),
            "lora_B" => noise * 0.05,
            "lora_magnitude_vector" => t * ((noise * 0.1).unwrap() + 1.0).unwrap(),
            _ => t + (noise * 0.02).unwrap(),
        };
        (name.clone(), now.unwrap())
    };
    let params = fresh.params.iter().map(moved).collect();
    Player {
        params: Arc::new(params),
        ..fresh
    }
}

pub fn all(lab: &mut Lab, model: &Model) {
    base(lab, model);
    if model.name == "llama3" {
        return; // its frequencies are what it is for
    }
    for (i, (kind, settings, gguf_lora)) in kinds(model).into_iter().enumerate() {
        let player = trained(model, settings);
        let done = Adapter::new(lab, model, kind, &player);
        done.peft(lab);
        done.merged(lab, i == 0);
        if gguf_lora {
            done.gguf_lora(lab);
        }
    }
    from_peft(lab, model);
    if model.name == "llama" || model.name == "mistral" {
        four_bits(lab, model);
    }
}

/// The bare model through every format.
fn base(lab: &mut Lab, model: &Model) {
    let player = Player::bare(model.base.clone());
    let ours = lab.record(model, "base", &player, &model.tokens);
    lab.case(
        "imported",
        "base in transformers",
        model,
        LOGITS,
        json!({"ours": ours, "theirs": model.peers, "kind": "base"}),
    );
    let ids = texts(lab, model);
    let folder = lab.export(model, None, "again", &["--to", "hf", "--dtype", "f32"]);
    lab.case(
        "texts",
        "token ids and chat template of an exported folder",
        model,
        0.0,
        json!({"base": model.hf, "folder": folder, "ids": ids}),
    );
    let file = lab.export(
        model,
        None,
        "gguf/base.gguf",
        &["--to", "gguf", "--quant", "f32"],
    );
    let short = lab.record(
        model,
        "base-short",
        &player,
        &model.tokens[..WINDOW.min(model.tokens.len())],
    );
    lab.case(
        "llama_cpp",
        "base as GGUF f32 in llama.cpp",
        model,
        LLAMA_CPP,
        json!({"file": file, "ours": short}),
    );
    lab.case(
        "llama_cpp_texts",
        "token ids in prompts and chat template of a GGUF in llama.cpp",
        model,
        0.0,
        json!({"base": model.hf, "file": file, "ids": ids}),
    );
    lab.case(
        "gguf_in_transformers",
        "base as GGUF f32 in transformers: weights",
        model,
        0.0,
        json!({"file": file, "weights": model.hf.join("model.safetensors")}),
    );
    if model.name != "smollm2" {
        quantised(lab, model, &file);
    }
}

/// Every kind of block, as gguf-py quantises it, and as transformers (by gguf-py) and we read it.
fn quantised(lab: &mut Lab, model: &Model, f32: &Path) {
    for quant in [
        "f16", "bf16", "q8_0", "q4_0", "q4_1", "q4_k_m", "q6_k", "q5_1", "q5_k_s", "iq4_nl",
        "iq4_xs", "q3_k_l", "q2_k",
    ] {
        let file = lab.export(
            model,
            None,
            &format!("gguf/{quant}.gguf"),
            &["--to", "gguf", "--quant", quant],
        );
        let held = weights(Source::Gguf(file.clone()));
        let held = lab.save(model, &format!("ours/{quant}.safetensors"), &held);
        lab.case(
            "gguf_in_transformers",
            "GGUF blocks read by gguf-py and by us",
            model,
            0.0,
            json!({"file": file, "weights": held, "of": quant}),
        );
        if ["f16", "bf16", "q8_0"].contains(&quant) {
            // gguf-py writes no K blocks, and files of fewer bits have a head in Q6_K
            lab.case(
                "gguf_bytes",
                "GGUF blocks: bytes as gguf-py writes them",
                model,
                0.0,
                json!({"file": file, "f32": f32, "of": quant}),
            );
        }
    }
}

/// Token ids by our own tokenizer, of each text alone and behind the token that begins a prompt, if
/// one does.
fn texts(lab: &Lab, model: &Model) -> PathBuf {
    let tokenizer = Tokenizer::from_folder(&model.hf).unwrap();
    let bos = tokenizer.bos().map(|id| tokenizer.token(id).unwrap());
    let bos = bos.unwrap_or_default();
    let ids = |text: &str| tokenizer.ids(text).unwrap();
    let ids: Vec<(&str, Vec<u32>, Vec<u32>)> = TEXTS
        .iter()
        .map(|text| (*text, ids(text), ids(&format!("{bos}{text}"))))
        .collect();
    let place = lab.out.join(&model.name).join("ids.json");
    fs::write(&place, serde_json::to_vec(&ids).unwrap()).unwrap();
    place
}

/// One of our adapters, in the folder `randori export` starts from, with what we compute.
struct Adapter<'a> {
    model: &'a Model,
    kind: &'a str,
    short: String,
    folder: PathBuf,
    ours: PathBuf,
    /// The same over few enough tokens for a GGUF.
    in_window: PathBuf,
}

impl<'a> Adapter<'a> {
    fn new(lab: &Lab, model: &'a Model, kind: &'a str, player: &Player) -> Adapter<'a> {
        let short = kind.replace(' ', "-");
        let folder = lab.out.join(&model.name).join("trained").join(&short);
        randori_export::adapter(player, &folder, &model.name).unwrap();
        let few = &model.tokens[..WINDOW.min(model.tokens.len())];
        let ours = lab.record(model, &short, player, &model.tokens);
        let in_window = match few.len() == model.tokens.len() {
            true => ours.clone(),
            false => lab.record(model, &format!("{short}-short"), player, few),
        };
        Adapter {
            model,
            kind,
            short,
            folder,
            ours,
            in_window,
        }
    }

    fn export(&self, lab: &Lab, to: &str, options: &[&str]) -> PathBuf {
        let name = to.replace('*', &self.short);
        lab.export(self.model, Some(&self.folder), &name, options)
    }

    fn peft(&self, lab: &mut Lab) {
        let adapter = self.export(lab, "peft/*", &["--to", "peft"]);
        lab.case(
            "peft",
            "adapter in peft",
            self.model,
            LOGITS,
            json!({"base": self.model.hf, "adapter": adapter, "ours": self.ours, "of": self.kind, "tied": self.model.tied()}),
        );
    }

    /// Merged: a folder, once in shards too, and a GGUF file.
    fn merged(&self, lab: &mut Lab, shards: bool) {
        let folder = self.export(lab, "merged/*", &["--to", "hf", "--dtype", "f32"]);
        let whole =
            json!({"base": self.model.hf, "folder": folder, "ours": self.ours, "of": self.kind});
        lab.case(
            "folder",
            "merged folder in transformers",
            self.model,
            LOGITS,
            whole,
        );
        if shards {
            let size = if self.model.name == "smollm2" {
                "200MB"
            } else {
                "1MB"
            };
            let options = ["--to", "hf", "--dtype", "f32", "--max-shard-size", size];
            let sharded = self.export(lab, "sharded/*", &options);
            lab.case(
                "folder",
                "merged folder in transformers, in shards",
                self.model,
                LOGITS,
                json!({"base": self.model.hf, "folder": sharded, "ours": self.ours, "sharded": true, "of": self.kind}),
            );
        }
        let file = self.export(lab, "gguf/*.gguf", &["--to", "gguf", "--quant", "f32"]);
        lab.case(
            "gguf_in_transformers",
            "merged GGUF f32 in transformers: weights",
            self.model,
            0.0,
            json!({"file": file, "weights": folder.join("model.safetensors"), "of": self.kind}),
        );
        lab.case(
            "gguf_logits",
            "merged GGUF f32 in transformers: logits",
            self.model,
            LOGITS,
            json!({"base": self.model.hf, "file": file, "ours": self.in_window, "of": self.kind}),
        );
        lab.case(
            "llama_cpp",
            "merged GGUF f32 in llama.cpp",
            self.model,
            LLAMA_CPP,
            json!({"base": self.model.hf, "file": file, "ours": self.in_window, "of": self.kind}),
        );
    }

    fn gguf_lora(&self, lab: &mut Lab) {
        let lora = self.export(lab, "gguf-lora/*.gguf", &["--to", "gguf-lora"]);
        let base = lab.out.join(&self.model.name).join("gguf/base.gguf");
        lab.case(
            "llama_cpp",
            "GGUF LoRA on the base in llama.cpp",
            self.model,
            LLAMA_CPP,
            json!({"base": self.model.hf, "file": base, "lora": lora, "ours": self.in_window, "of": self.kind}),
        );
    }
}

/// bitsandbytes' checkpoints: theirs read by us, ours by them, the same bytes.
fn four_bits(lab: &mut Lab, model: &Model) {
    for double in [false, true] {
        let kind = if double { "nf4-double" } else { "nf4" };
        let words = if double {
            "double quantisation"
        } else {
            "plain scales"
        };
        let theirs = lab.out.join(&model.name).join("from-bnb").join(kind);
        let read = Player::bare(model::load(
            Source::Folder(theirs.clone()),
            &LoadOptions::default(),
        ));
        let ours = lab.record(model, &format!("from-bnb-{kind}"), &read, &model.tokens);
        lab.case(
            "imported",
            "bitsandbytes NF4 folder read by us",
            model,
            LOGITS,
            json!({"ours": ours, "theirs": model.peers, "kind": kind, "of": words, "adapter": true}),
        );
        let set = format!("adapter.double_quant={double}");
        let options = ["--to", "bnb", "--dtype", "f32", "--set", &set];
        let written = lab.export(model, None, &format!("bnb/{kind}"), &options);
        lab.case(
            "bnb_bytes",
            "NF4 folder: bytes as bitsandbytes writes them",
            model,
            0.0,
            json!({"ours": written, "theirs": theirs, "of": words}),
        );
        let again = Player::bare(model::load(
            Source::Folder(written.clone()),
            &LoadOptions::default(),
        ));
        let ours = lab.record(model, &format!("bnb-{kind}"), &again, &model.tokens);
        lab.case(
            "bnb",
            "NF4 folder in transformers",
            model,
            LOGITS,
            json!({"folder": written, "base": model.hf, "ours": ours, "of": words}),
        );
    }
}

/// Adapters that peft made.
fn from_peft(lab: &mut Lab, model: &Model) {
    let folder = lab.out.join(&model.name);
    let mut found: Vec<PathBuf> = fs::read_dir(folder.join("from-peft"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    found.sort();
    for adapter in found {
        let kind = adapter.file_name().unwrap().to_str().unwrap();
        let (spec, params) = peft::load(&adapter).unwrap();
        let player = Player::with_adapter(model.base.clone(), spec, params).unwrap();
        let ours = lab.record(model, &format!("from-peft-{kind}"), &player, &model.tokens);
        lab.case(
            "imported",
            "adapter made by peft, read by us",
            model,
            LOGITS,
            json!({"ours": ours, "theirs": model.peers, "kind": kind, "of": kind, "adapter": true}),
        );
    }
    if model.name != "smollm2" {
        let parts = ["regex", "whole-names-rslora"];
        let parts = parts.map(|kind| peft::load(&folder.join("from-peft").join(kind)).unwrap());
        let (spec, params) = stack(parts.to_vec()).unwrap();
        let player = Player::with_adapter(model.base.clone(), spec, params).unwrap();
        let ours = lab.record(model, "from-peft-stack", &player, &model.tokens);
        lab.case(
            "imported",
            "adapter made by peft, read by us",
            model,
            LOGITS,
            json!({"ours": ours, "theirs": model.peers, "kind": "stack", "of": "two in a stack", "adapter": true}),
        );
    }
}
