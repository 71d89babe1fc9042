//! One piece of the work on a real model, for `benches/side_by_side.py`, which runs the PyTorch and
//! llama.cpp peers beside it.
//!
//! ```text
//! side CASE MODEL IDS.json [key=value …]
//! ```
//! `MODEL` is a Hugging Face folder or a GGUF file, `IDS.json` the pairs' token ids
//! (`expected_scores_f32.json` of the peers). Prints one JSON line: wall seconds of every repeat,
//! tokens, the process's peak memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench stops at the first thing that does not work"
)]

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Instant};

use randori_benches::{Probe, adapter, host, load, sequence};
use randori_engine::{
    Base, GenerateOptions, Grads, KvCache, PassOptions, Player, ScoreItem, SlotTokens, generate,
    score,
    train::{
        Control, Optimizer, Pair, Schedule, ScheduleKind, StepMetrics, TrainSettings, Trainer,
    },
    weights::{Dtype, LoadOptions, Quant, Source},
};
use randori_host::Host;
use randori_sdk::seam::{Backend, Id, Value as OptionValue};
use serde_json::{Value, json};

/// The loss's beta, as in the peer.
const BETA: f64 = 0.1;
const RATE: f64 = 1e-4;
const SEED: u64 = 7;

/// Prompt, real and generated ids of a pair.
type Ids = [Vec<u32>; 3];

fn main() {
    let started = Instant::now();
    randori_engine::heap::steady();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [case, model, ids, rest @ ..] = args.as_slice() else {
        panic!("side CASE MODEL IDS.json [key=value …]");
    };
    let run = Run {
        host: host(),
        model: PathBuf::from(model),
        ids: read(ids),
        options: rest
            .iter()
            .map(|o| o.split_once('=').expect("key=value"))
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
    };
    let mut line = match case.as_str() {
        "train" => run.train(),
        "score" => run.score(),
        "generate" => run.generate(),
        "iteration" => run.iteration(),
        "first" => run.first(started),
        "product" => run.product(),
        other => panic!("there is no case {other}"),
    };
    line["case"] = json!(case);
    line["peak_mib"] = json!(peak());
    println!("{line}");
}

/// This process's peak memory in MiB (0 where `/proc` does not tell).
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

fn read(path: &str) -> Vec<Ids> {
    let text = std::fs::read_to_string(path).expect("the pairs' ids");
    let rows: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let list = |row: &Value, key: &str| serde_json::from_value(row[key].clone()).expect("ids");
    rows.iter()
        .map(|r| ["prompt_ids", "real_ids", "generated_ids"].map(|key| list(r, key)))
        .collect()
}

struct Run {
    host: Host,
    model: PathBuf,
    ids: Vec<Ids>,
    options: BTreeMap<String, String>,
}

impl Run {
    fn number(&self, key: &str, default: usize) -> usize {
        self.options
            .get(key)
            .map_or(default, |v| v.parse().expect("a whole number"))
    }

    /// `weights=` f32 (as stored or dequantised), bf16, gguf (its own blocks) or nf4.
    fn base(&self) -> Arc<Base> {
        let weights = self.options.get("weights").map_or("f32", String::as_str);
        let (quant, dtype) = match weights {
            "f32" => (None, Dtype::F32),
            "bf16" => (None, Dtype::Bf16),
            "gguf" => (Some(Quant::Gguf), Dtype::F32),
            "nf4" => (Some(Quant::Nf4 { double: true }), Dtype::F32),
            other => panic!("weights={other}"),
        };
        let source = match self.model.is_dir() {
            true => Source::Folder(self.model.clone()),
            false => Source::Gguf(self.model.clone()),
        };
        load(&self.host, source, &LoadOptions { quant, dtype })
    }

    fn limited(&self) -> &[Ids] {
        &self.ids[..self.number("pairs", self.ids.len()).min(self.ids.len())]
    }

    /// The opponent's log-probs of the pairs, then `epochs` over them in steps of four.
    fn train(&self) -> Value {
        let base = self.base();
        let pairs = self.limited();
        let start = Instant::now();
        let pairs = scored(&Player::bare(base.clone()), pairs);
        let score_s = start.elapsed().as_secs_f64();
        let steps = self.steps(base, &pairs);
        json!({
            "pairs": pairs.len(),
            "score_s": score_s,
            "step_s": steps.iter().map(|s| s.0).collect::<Vec<_>>(),
            "losses": steps.iter().map(|s| s.1).collect::<Vec<_>>(),
            "total_s": start.elapsed().as_secs_f64(),
        })
    }

    /// Seconds and loss of every step.
    fn steps(&self, base: Arc<Base>, pairs: &[Pair]) -> Vec<(f64, f64)> {
        let settings = TrainSettings {
            optimizer: Optimizer::adamw(),
            learning_rate: RATE,
            schedule: Schedule {
                kind: ScheduleKind::Constant,
                warmup_ratio: 0.0,
            },
            clip: Some(1.0),
            batch: 4,
            epochs: self.number("epochs", 2),
            shuffle: false,
            beta: BETA,
            ..TrainSettings::default()
        };
        let player = Player::with_lora(base, adapter(), SEED).expect("an adapter");
        let mut trainer = Trainer::new(player, settings).expect("settings");
        let loss = self
            .host
            .loss("spin", &[("beta".into(), OptionValue::Float(BETA))])
            .expect("the loss plugin");
        let (mut steps, mut last) = (Vec::new(), Instant::now());
        trainer
            .train_pairs(pairs, &*loss, &mut |m: &StepMetrics, _| {
                steps.push((last.elapsed().as_secs_f64(), m.loss));
                last = Instant::now();
                Ok(Control::Continue)
            })
            .expect("training");
        steps
    }

    /// Response tokens a second, four pairs (eight responses) at a time.
    fn score(&self) -> Value {
        let player = Player::bare(self.base());
        let (mut seconds, mut tokens) = (Vec::new(), Vec::new());
        for pairs in self.limited().chunks(4) {
            let start = Instant::now();
            let scores = score(&player, &items(pairs), 1 << 20, &mut |_| {}).expect("scores");
            assert_eq!(scores.len(), pairs.len());
            seconds.push(start.elapsed().as_secs_f64());
            tokens.push(pairs.iter().map(|p| p[1].len() + p[2].len()).sum::<usize>());
        }
        json!({ "wall_s": seconds, "tokens": tokens })
    }

    /// `batch` sequences of `new` tokens, `reps` times, drawn from the model's own distribution;
    /// with `lora=1`, through a fresh adapter.
    fn generate(&self) -> Value {
        let (batch, new) = (self.number("batch", 32), self.number("new", 128));
        let player = match self.number("lora", 0) {
            0 => Player::bare(self.base()),
            _ => Player::with_lora(self.base(), adapter(), SEED).expect("an adapter"),
        };
        let prompts: Vec<Vec<u32>> = self.ids[..batch].iter().map(|p| p[0].clone()).collect();
        let mut seconds = Vec::new();
        for i in 0..=self.number("reps", 2) {
            let options = GenerateOptions {
                max_new_tokens: if i == 0 { 8 } else { new },
                min_new_tokens: if i == 0 { 8 } else { new },
                slots: batch,
                seed: i as u64,
                ..GenerateOptions::default()
            };
            let start = Instant::now();
            let out = generate(&player, &prompts, &[], &options, &mut |_| ()).expect("answers");
            assert!(out.iter().all(|g| g.tokens.len() == options.max_new_tokens));
            if i > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        json!({ "wall_s": seconds, "tokens": batch * new })
    }

    /// Generates an answer to every prompt, scores, and trains one epoch.
    fn iteration(&self) -> Value {
        let base = self.base();
        let opponent = Player::bare(base.clone());
        let start = Instant::now();
        let prompts: Vec<Vec<u32>> = self.limited().iter().map(|p| p[0].clone()).collect();
        let options = GenerateOptions {
            max_new_tokens: self.number("new", 128),
            slots: self.number("slots", 32),
            stop: vec![2], // SmolLM2's end of turn
            seed: SEED,
            ..GenerateOptions::default()
        };
        let out = generate(&opponent, &prompts, &[], &options, &mut |_| ()).expect("answers");
        let generate_s = start.elapsed().as_secs_f64();
        let ids: Vec<Ids> = self
            .limited()
            .iter()
            .zip(&out)
            .map(|(p, g)| [p[0].clone(), p[1].clone(), g.tokens.clone()])
            .collect();
        let pairs = scored(&opponent, &ids);
        let score_s = start.elapsed().as_secs_f64() - generate_s;
        let steps = self.steps(base, &pairs);
        json!({
            "generate_s": generate_s,
            "score_s": score_s,
            "train_s": steps.iter().map(|s| s.0).sum::<f64>(),
            "total_s": start.elapsed().as_secs_f64(),
            "generated_tokens": out.iter().map(|g| g.tokens.len()).sum::<usize>(),
        })
    }

    /// GFLOP/s of products as the engine runs them: n rows through two projections, k to m and
    /// back, in a block of a model; with `head=1`, n rows to m tokens' logits and their gradient
    /// back, soft-max and log-probs included.
    fn product(&self) -> Value {
        let (n, k, m) = (
            self.number("n", 256),
            self.number("k", 576),
            self.number("m", 1536),
        );
        let seconds = match self.number("head", 0) {
            0 => projections(n, k, m),
            _ => head(n, k, m),
        };
        json!({ "gflops": 4.0 * (n * k * m) as f64 / seconds / 1e9 })
    }

    /// From the process's start to the first token after the first prompt.
    fn first(&self, started: Instant) -> Value {
        let player = Player::bare(self.base());
        let mut cache = KvCache::new(&player, 1);
        let tokens = self.ids[0][0].as_slice();
        let logits = player
            .step(&mut cache, &[SlotTokens { slot: 0, tokens }])
            .expect("logits");
        let best = logits.argmax(1).unwrap().to_vec1::<u32>().unwrap()[0];
        json!({ "wall_s": [started.elapsed().as_secs_f64()], "token": best })
    }
}

/// The median time of runs that take some seconds in all, without the first.
fn typical(mut run: impl FnMut()) -> f64 {
    run();
    let mut seconds: Vec<f64> = Vec::new();
    while seconds.len() < 3 || (seconds.iter().sum::<f64>() < 1.0 && seconds.len() < 200) {
        let start = Instant::now();
        run();
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// How often a pass runs through the two projections, so that the rest of the pass matters little.
const TIMES: usize = 8;

fn projections(n: usize, k: usize, m: usize) -> f64 {
    let base = Probe {
        vocab: 64,
        width: k,
        layers: 1,
        block: move |ops: &mut dyn Backend, mut x: Id| {
            for _ in 0..TIMES {
                let up = ops.linear("up", x, m, false)?;
                x = ops.linear("down", up, k, false)?;
            }
            Ok(x)
        },
    }
    .base();
    let (player, plan) = (Player::bare(base), sequence(n, 64));
    typical(|| drop(player.hidden(&plan).expect("hidden states"))) / TIMES as f64
}

fn head(n: usize, k: usize, m: usize) -> f64 {
    let base = Probe {
        vocab: m,
        width: k,
        layers: 1,
        block: |ops: &mut dyn Backend, x: Id| ops.rms_norm("norm", x, 1e-5, 0.0),
    }
    .base();
    // only the norm below the head is trained: the gradient has to come through, and goes no
    // further
    let full = Player::full(base).expect("dense weights");
    let norm = full.params["norm.weight"].clone();
    let player = Player {
        params: Arc::new([("norm.weight".to_string(), norm)].into()),
        ..full
    };
    let plan = sequence(n, m);
    typical(|| {
        let mut slopes = |logps: &[f64]| Ok(vec![1e-3; logps.len()]);
        player
            .forward_backward(
                &plan,
                &PassOptions::default(),
                &mut slopes,
                &mut Grads::new(),
            )
            .expect("a pass");
    })
}

fn items(pairs: &[Ids]) -> Vec<ScoreItem<'_>> {
    pairs
        .iter()
        .map(|p| ScoreItem {
            prompt: &p[0],
            responses: vec![&p[1], &p[2]],
        })
        .collect()
}

/// The pairs with the opponent's log-probs.
fn scored(opponent: &Player, pairs: &[Ids]) -> Vec<Pair> {
    let scores = score(opponent, &items(pairs), 1024, &mut |_| {}).expect("scores");
    let pair = |(i, (p, s)): (usize, (&Ids, &Vec<f64>))| Pair {
        prompt: p[0].clone(),
        real: p[1].clone(),
        generated: p[2].clone(),
        ref_real: s[0],
        ref_generated: s[1],
        rewards: None,
        place: format!("pairs:{}", i + 1),
    };
    pairs.iter().zip(&scores).enumerate().map(pair).collect()
}
