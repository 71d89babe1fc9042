//! `fit`'s figures for a GPU against what lies in its memory. The stand-in for one
//! (`crates/cuda/stand_in/build.sh DIR`, then `LD_LIBRARY_PATH=DIR`) reports at its end the most
//! bytes that ever were allocated on it, to the byte; a figure may be 5 % off. Skips, loudly,
//! without the stand-in: a real card tells no such thing.
//!
//! Each case runs in a process of its own, this test program started again with [`CASE`] set.
#![cfg(feature = "cuda")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{path::Path, process::Command, sync::Arc};

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, gguf_file::Value},
};
use randori_engine::{
    Compute, GenerateOptions, Player, ScoreItem,
    fit::{Decoding, Learns, Packing, Peak, Planner},
    generate, score,
    trace::{TracedWeight, trace},
    train::{Control, Optimizer, TrainSettings, Trainer},
    weights::{Dtype, LoadOptions, Quant, Source, describe, open},
};
use randori_lora::{LoraSpec, Targets};
use randori_sdk::seam::{
    Architecture, AttnSpec, Backend, Binary, Id, OpResult, RopeSpec, RouteSpec, Unary,
};

use randori_specimens::small as model;

mod tiny;
use tiny::{Logistic, lists, random_pairs};

const NAME: &str = "figures_are_what_lies_on_the_card";
const CASE: &str = "RANDORI_FIT_GPU_CASE";
/// The stand-in's switch.
const REPORT: &str = "RANDORI_STAND_IN_REPORT";
const OFF: f64 = 0.05;

const CASES: [&str; 25] = [
    "f32",
    "bf16",
    "bf16-checkpoint",
    "f32-nf4-several",
    "bf16-nf4-checkpoint",
    "bf16-full-eight-bits",
    "f32-rmsprop",
    "bf16-offloaded",
    "bf16-checkpoint-offload",
    "f32-nf4-checkpoint-offload-several",
    "bf16-dora-dropout",
    "bf16-full",
    "bf16-chunks",
    "bf16-full-chunks",
    "bf16-experts",
    "bf16-nf4-score",
    "bf16-score-chunks",
    "f32-generate",
    "bf16-nf4-generate",
    "bf16-generate-refill",
    "bf16-generate-long",
    "bf16-gguf-checkpoint",
    "f32-gguf",
    "bf16-gguf-generate",
    "bf16-gguf-generate-few",
];

const VOCAB: usize = 1500;
const WIDTH: usize = 128;
const HEADS: usize = 4;
const KV: usize = 2;
const FFN: usize = 352;
const LAYERS: usize = 3;
const DEEP: usize = 8; // the inputs of so many blocks are worth moving

const PROMPT: usize = 70;
const LONG: usize = 530; // enters in two pieces; its keys are attended to in two parts
const RESPONSE: usize = 90;
const PAIRS: usize = 4; // their targets go through the head at once
const MANY: usize = 8; // these do not
const SLOTS: usize = 20;
const FEW: usize = 8; // products of so many rows read quantised matrices as they are
const NEW: usize = 60; // over a page's end, where pools grow

/// A Llama of so many blocks, with four experts or without.
struct Llama(usize, bool);

impl Llama {
    fn mlp(&self, ops: &mut dyn Backend, name: &dyn Fn(&str) -> String, h: Id) -> OpResult {
        let gate = ops.linear(&name("gate_proj"), h, FFN, false)?;
        let gate = ops.unary(Unary::Silu, gate)?;
        let up = ops.linear(&name("up_proj"), h, FFN, false)?;
        let h = ops.binary(Binary::Mul, gate, up)?;
        ops.linear(&name("down_proj"), h, WIDTH, false)
    }
}

impl Architecture for Llama {
    fn name(&self) -> &str {
        "llama"
    }
    fn layers(&self) -> usize {
        self.0
    }
    fn embed(&self, ops: &mut dyn Backend, ids: Id) -> OpResult {
        ops.embed("model.embed_tokens", ids, VOCAB, WIDTH)
    }
    fn block(&self, ops: &mut dyn Backend, layer: usize, x: Id) -> OpResult {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let dim = WIDTH / HEADS;
        let rope = RopeSpec {
            inv_freq: (0..dim / 2).map(|i| 0.8f32.powi(i as i32)).collect(),
            ..RopeSpec::default()
        };
        let h = ops.rms_norm(&name("input_layernorm"), x, 1e-5, 0.0)?;
        let q = ops.linear(&name("self_attn.q_proj"), h, WIDTH, false)?;
        let k = ops.linear(&name("self_attn.k_proj"), h, dim * KV, false)?;
        let v = ops.linear(&name("self_attn.v_proj"), h, dim * KV, false)?;
        let (q, k) = (ops.unflatten(q, HEADS)?, ops.unflatten(k, KV)?);
        let v = ops.unflatten(v, KV)?;
        let (q, k) = (ops.rope(q, &rope)?, ops.rope(k, &rope)?);
        let a = ops.attention(q, k, v, &AttnSpec::default())?;
        let a = ops.flatten(a)?;
        let a = ops.linear(&name("self_attn.o_proj"), a, WIDTH, false)?;
        let x = ops.binary(Binary::Add, x, a)?;
        let h = ops.rms_norm(&name("post_attention_layernorm"), x, 1e-5, 0.0)?;
        let h = match self.1 {
            true => {
                let router = ops.linear(&name("router"), h, 4, false)?;
                let route = RouteSpec::top(2).normalised();
                ops.moe(router, h, &route, &mut |ops, e, h| {
                    let name = |part: &str| name(&format!("{e}.{part}"));
                    self.mlp(ops, &name, h).unwrap_or(0)
                })?
            }
            false => self.mlp(ops, &|part| name(&format!("mlp.{part}")), h)?,
        };
        ops.binary(Binary::Add, x, h)
    }
    fn head(&self, ops: &mut dyn Backend, x: Id) -> OpResult {
        let x = ops.rms_norm("model.norm", x, 1e-5, 0.0)?;
        ops.linear("lm_head", x, VOCAB, false)
    }
}

struct Case {
    name: &'static str,
    float: Dtype,
    options: LoadOptions,
    spec: LoraSpec,
    settings: TrainSettings,
    slots: usize,
    prompt: usize,
    pairs: usize,
}

impl Case {
    fn of(name: &'static str) -> Case {
        let has = |part: &str| name.split('-').any(|p| p == part);
        let float = if has("f32") { Dtype::F32 } else { Dtype::Bf16 };
        let pairs = if has("chunks") { MANY } else { PAIRS };
        Case {
            name,
            float,
            options: LoadOptions {
                quant: match (has("nf4"), has("gguf")) {
                    (true, _) => Some(Quant::Nf4 { double: true }),
                    (_, true) => Some(Quant::Gguf),
                    _ => None,
                },
                dtype: float,
            },
            spec: LoraSpec {
                rank: 8,
                targets: Targets::AllLinear,
                dora: has("dora"),
                dropout: 0.1,
                ..LoraSpec::default()
            },
            settings: TrainSettings {
                optimizer: match (has("eight"), has("rmsprop")) {
                    (true, _) => Optimizer::adamw_8bit(),
                    (_, true) => Optimizer::rmsprop(),
                    _ => Optimizer::adamw(),
                },
                offload_optimizer: has("offloaded"),
                learning_rate: 1e-4,
                batch: pairs,
                epochs: 2, // a second step's copy of the parameters replaces the first's
                micro_batch_tokens: if has("several") { 500 } else { 2048 },
                checkpoint: has("checkpoint"),
                offload_inputs: has("offload"),
                dropout: has("dropout"),
                ..TrainSettings::default()
            },
            slots: match (has("long"), has("few")) {
                (true, _) => 3,
                (_, true) => FEW,
                _ => SLOTS,
            },
            prompt: if has("long") { LONG } else { PROMPT },
            pairs,
        }
    }

    fn has(&self, part: &str) -> bool {
        self.name.split('-').any(|p| p == part)
    }

    fn arch(&self) -> Arc<dyn Architecture> {
        let layers = if self.has("offload") { DEEP } else { LAYERS };
        Arc::new(Llama(layers, self.has("experts")))
    }

    /// Random weights, or a file of them in `dir`.
    fn source(&self, dir: &Path) -> Source {
        if !self.has("gguf") {
            let config = serde_json::json!({ "vocab_size": VOCAB });
            return Source::Random { config, seed: 1 };
        }
        let file = dir.join("model.gguf");
        std::fs::write(&file, self.gguf()).unwrap();
        Source::Gguf(file)
    }

    /// All matrices in Q4_0.
    fn gguf(&self) -> Vec<u8> {
        let random = |w: TracedWeight| {
            let t = Tensor::randn(0f32, 0.05, w.shape, &Device::Cpu).unwrap();
            (w.name, t)
        };
        let weights = trace(&*self.arch()).unwrap().weights;
        let weights = weights.into_iter().map(random).collect();
        let count = |n: usize| Value::U32(n as u32);
        let mut metadata = model::gguf_metadata();
        for (key, value) in [
            ("llama.block_count", count(LAYERS)),
            ("llama.embedding_length", count(WIDTH)),
            ("llama.feed_forward_length", count(FFN)),
            ("llama.attention.head_count", count(HEADS)),
            ("llama.attention.head_count_kv", count(KV)),
            ("llama.rope.dimension_count", count(WIDTH / HEADS)),
            ("llama.vocab_size", count(VOCAB)),
        ] {
            metadata.retain(|(k, _)| k != key);
            metadata.push((key.to_string(), value));
        }
        model::gguf_bytes(&metadata, &weights, GgmlDType::Q4_0)
    }

    /// The peak on the card, and what is pinned of the host's memory.
    fn predicted(&self) -> (Peak, u64) {
        let arch = self.arch();
        let traced = trace(&*arch).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let held = describe(self.source(dir.path()), &model::families()).unwrap();
        let held = held.held(&traced, &self.options, &*arch).unwrap();
        let learns = match self.has("full") {
            true => Learns::Full,
            false => Learns::Lora(&self.spec, self.settings.dropout),
        };
        let planner = Planner::new(arch, traced, held, learns, self.settings.optimizer, 2).unwrap();
        let planner = planner.on_card(self.float).unwrap();
        let planner = planner
            .offload_inputs(self.settings.offload_inputs)
            .offload_optimizer(self.settings.offload_optimizer);
        let tokens = self.settings.micro_batch_tokens;
        let packing = Packing::fullest(PROMPT, &[RESPONSE; 2], self.pairs, tokens);
        let decoding = Decoding {
            slots: self.slots,
            prompt: self.prompt,
            response: NEW,
            refilled: self.has("refill"),
        };
        let peak = match (self.has("generate"), self.has("score")) {
            (true, _) => planner.generation_peak(&decoding, 1),
            (_, true) => planner.scoring_peak(&packing, 1),
            _ => planner.training_peak(&packing, self.settings.checkpoint, 1),
        };
        let trains = !self.has("generate") && !self.has("score");
        let pinned = if trains {
            planner.pinned_bytes(&packing).unwrap()
        } else {
            0
        };
        (peak.unwrap(), pinned)
    }

    fn play(&self) {
        let compute = Compute::on_gpu(match self.float {
            Dtype::F32 => candle_core::DType::F32,
            _ => candle_core::DType::BF16,
        });
        let compute = match self.has("full") {
            true => compute.unwrap().for_full_training(),
            false => compute.unwrap(),
        };
        let dir = tempfile::tempdir().unwrap();
        let base = open(self.source(dir.path()), &model::families())
            .unwrap()
            .load_where(self.arch(), &self.options, compute, &mut |_, _| ())
            .unwrap();
        let base = Arc::new(base);
        let player = match self.has("full") {
            true => Player::full(base),
            false => Player::with_lora(base, self.spec.clone(), 1),
        };
        let player = player.unwrap();
        if self.has("generate") {
            return self.answer(&player);
        }
        let of = |seed, n| lists(seed, self.pairs, n..n + 1, VOCAB);
        let (prompts, real, generated) = (of(1, PROMPT), of(2, RESPONSE), of(3, RESPONSE));
        if self.has("score") {
            let items: Vec<ScoreItem> = (0..self.pairs)
                .map(|i| ScoreItem {
                    prompt: &prompts[i],
                    responses: vec![&real[i], &generated[i]],
                })
                .collect();
            score(&player, &items, 2048, &mut |_| ()).unwrap();
            return;
        }
        let (prompt, response) = (PROMPT..PROMPT + 1, RESPONSE..RESPONSE + 1);
        let pairs = random_pairs(self.pairs, prompt, response, VOCAB, [-600.0; 2]);
        let mut trainer = Trainer::new(player, self.settings.clone()).unwrap();
        let step = &mut |_: &_, _: &Trainer| Ok(Control::Continue);
        trainer.train_pairs(&pairs, &Logistic(0.1), step).unwrap();
    }

    fn answer(&self, player: &Player) {
        let count = self.slots * if self.has("refill") { 2 } else { 1 };
        let options = GenerateOptions {
            max_new_tokens: NEW,
            min_new_tokens: NEW, // all as long as can be
            slots: self.slots,
            ..GenerateOptions::default()
        };
        let prompts = lists(4, count, self.prompt..self.prompt + 1, VOCAB);
        generate(player, &prompts, &[], &options, &mut |_| ()).unwrap();
    }
}

#[test]
fn figures_are_what_lies_on_the_card() {
    if let Ok(case) = std::env::var(CASE) {
        let case = CASES.into_iter().find(|c| *c == case).unwrap();
        return Case::of(case).play();
    }
    match randori_engine::card() {
        Ok((name, ..)) if name.contains("stand-in") => {}
        Ok((name, ..)) => return eprintln!("SKIPPED: only the stand-in reports, not {name}"),
        Err(e) => return eprintln!("SKIPPED: {e}"),
    }
    let mut wrong = Vec::new();
    // all, or those whose names hold this
    let some = std::env::var("RANDORI_FIT_GPU_ONLY").unwrap_or_default();
    for name in CASES.into_iter().filter(|c| c.contains(&some)) {
        let (peak, pinned) = Case::of(name).predicted();
        let [reported, reported_pinned] = reported(name);
        let off = |figure: u64, reported: u64| figure as f64 / reported.max(1) as f64 - 1.0;
        let pinned_off = if pinned == reported_pinned {
            0.0
        } else {
            off(pinned, reported_pinned)
        };
        let off = off(peak.total(), reported);
        println!(
            "{name:22} reported {reported:>9}  predicted {:>9}  ({:+.1} %)  pinned {reported_pinned}, {pinned}  {peak:?}",
            peak.total(),
            100.0 * off
        );
        if off.abs() > OFF || pinned_off.abs() > OFF {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "more than {OFF} off: {wrong:?}");
}

/// The most bytes that a case had on the card, and pinned.
fn reported(case: &str) -> [u64; 2] {
    let out = Command::new(std::env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture", "--test-threads=1"])
        .env(CASE, case)
        .env(REPORT, "1")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{case}: {errors}");
    let number = |before: &str, after: &str| -> u64 {
        let line = errors.lines().find(|l| l.contains(after));
        let line = line.and_then(|l| l.strip_prefix(before));
        let line = line.unwrap_or_else(|| panic!("{case} reported nothing: {errors}"));
        line.split(' ').next().unwrap().parse().unwrap()
    };
    [
        number("stand-in: at most ", " at the end"),
        number("stand-in: ", " bytes pinned"),
    ]
}
