//! Training steps and generation with random weights in NF4. All blocks have the same values, each
//! in its own memory: the card holds and reads as much as with a real model, and the processor
//! quantises one block in 32.

use std::{sync::Arc, time::Instant};

use candle_core::DType;
use randori_benches::{host, random, tokens};
use randori_cuda::gpu::Gpu;
use randori_engine::{
    Base, Compute, GenerateOptions, Packed, Player, generate as answers,
    train::{
        Control, Optimizer, Pair, Schedule, ScheduleKind, StepMetrics, TrainSettings, Trainer,
    },
    weights::{Dtype, LoadOptions, Quant},
    work::multiply_adds,
};
use randori_host::Host;
use randori_lora::{LoraSpec, Targets};
use randori_sdk::seam::Value as OptionValue;
use serde_json::{Value, json};

use super::{Sizes, count, kernels, median, say};

const FIRST: &str = "model.layers.0.";
const GIB: f64 = (1u64 << 30) as f64;

/// The model in the card's memory, for passes in bf16.
fn base(host: &Host, sizes: &Sizes) -> Arc<Base> {
    let config = &sizes.0["model"];
    let layers = sizes.model("num_hidden_layers");
    let mut single = config.clone();
    single["num_hidden_layers"] = json!(1);
    let options = LoadOptions {
        quant: Some(Quant::Nf4 { double: true }),
        dtype: Dtype::Bf16,
    };
    let single = random(host, single, &options);
    let family = config["model_type"].as_str().expect("a model_type");
    let compute = Compute::on_gpu(DType::BF16).unwrap();
    let mut weights = std::collections::HashMap::new();
    for (name, weight) in &single.weights {
        let names = match name.strip_prefix(FIRST) {
            Some(rest) => (0..layers)
                .map(|i| format!("model.layers.{i}.{rest}"))
                .collect(),
            None => vec![name.clone()],
        };
        for name in names {
            weights.insert(name, compute.place(weight.clone()).unwrap());
        }
    }
    Arc::new(Base {
        arch: host.architecture(family, &config.to_string()).unwrap(),
        config: config.clone(),
        weights,
        squares: Default::default(),
        compute,
    })
}

/// GPU memory in use, by any process.
fn taken(gpu: &Gpu) -> f64 {
    let (free, all) = gpu.memory().unwrap();
    (all - free) as f64
}

/// One of the sizes' training steps.
struct Step<'a>(&'a Value);

impl Step<'_> {
    fn count(&self, key: &str) -> usize {
        count(self.0, key)
    }

    fn pairs(&self, vocab: usize) -> Vec<Pair> {
        let (prompt, response) = (self.count("prompt"), self.count("response"));
        let pair = |i: u64| Pair {
            prompt: tokens(3 * i, prompt, vocab),
            real: tokens(3 * i + 1, response, vocab),
            generated: tokens(3 * i + 2, response, vocab),
            // about the log-probs of random weights, so that the loss is near ln 2, as in a real
            // game
            ref_real: -(response as f64) * (vocab as f64).ln(),
            ref_generated: -(response as f64) * (vocab as f64).ln(),
            rewards: None,
            place: format!("bench:{i}"),
        };
        (0..self.count("pairs") as u64).map(pair).collect()
    }

    fn plan(&self, pairs: &[Pair]) -> Packed {
        let mut plan = Packed::default();
        for p in &pairs[..self.count("at_once")] {
            plan.push(&p.prompt, &[&p.real, &p.generated]);
        }
        plan
    }
}

pub fn train(gpu: &Gpu, sizes: &Sizes) {
    // the rate that shares refer to, measured in this process: the card's clock changes with its
    // temperature
    let rate = kernels::product(gpu, sizes.count("product"));
    let host = host();
    let base = base(&host, sizes);
    let steps = sizes.0["train"].as_array().expect("training steps");
    for step in steps {
        one(gpu, sizes, &host, &base, &Step(step), rate);
    }
}

/// The settings of a training with one micro-batch of `rows` rows a pass and `batch` pairs a step.
fn settings(sizes: &Sizes, step: &Step, batch: usize, rows: usize) -> TrainSettings {
    TrainSettings {
        optimizer: Optimizer::adamw(),
        learning_rate: sizes.0["learning_rate"].as_f64().expect("a rate"),
        schedule: Schedule {
            kind: ScheduleKind::Constant,
            warmup_ratio: 0.0,
        },
        clip: Some(1.0),
        batch,
        epochs: step.count("steps") + 1,
        micro_batch_tokens: rows,
        checkpoint: true,
        shuffle: false,
        beta: beta(sizes),
        ..TrainSettings::default()
    }
}

/// The loss's beta.
fn beta(sizes: &Sizes) -> f64 {
    sizes.0["beta"].as_f64().expect("beta")
}

fn one(gpu: &Gpu, sizes: &Sizes, host: &Host, base: &Arc<Base>, step: &Step, rate: f64) {
    let name = step.0["name"].as_str().expect("a name");
    let pairs = step.pairs(sizes.model("vocab_size"));
    let plan = step.plan(&pairs);
    let spec = LoraSpec {
        rank: sizes.count("rank"),
        alpha: sizes.0["alpha"].as_f64().expect("alpha"),
        targets: Targets::AllLinear,
        ..LoraSpec::default()
    };
    let player = Player::with_lora(base.clone(), spec, 7).unwrap();
    let settings = settings(sizes, step, pairs.len(), plan.ids.len());
    // what checkpointing computes a second time: the blocks, forward
    let before = multiply_adds();
    player.hidden(&plan).unwrap();
    let micro = pairs.len() / step.count("at_once");
    let again = (micro as u64 * (multiply_adds() - before)) as f64;

    gpu.synchronise().unwrap();
    gpu.forget_peak().unwrap();
    let loss = host
        .loss("spin", &[("beta".into(), OptionValue::Float(beta(sizes)))])
        .expect("the loss plugin");
    let mut trainer = Trainer::new(player, settings).unwrap();
    let (mut seconds, mut work, mut losses) = (Vec::new(), 0.0, Vec::new());
    let (mut last, mut done) = (Instant::now(), multiply_adds());
    let mut each = |m: &StepMetrics, _: &Trainer| {
        // the optimiser runs on the card: wait for the whole step
        gpu.synchronise()?;
        seconds.push(last.elapsed().as_secs_f64());
        work = (multiply_adds() - done) as f64;
        losses.push(m.loss);
        (last, done) = (Instant::now(), multiply_adds());
        Ok(Control::Continue)
    };
    trainer.train_pairs(&pairs, &*loss, &mut each).unwrap();
    let peak = gpu.peak().unwrap() as f64;

    let typical = median(seconds[1..].to_vec());
    // as a padded trainer counts: the prompt once for each response
    let padded = 2 * pairs.len() * (step.count("prompt") + step.count("response"));
    let rows = plan.ids.len();
    let note = format!(
        "{rows} packed rows at once; NF4; steps of {typical:.3} s ({:.3} to {:.3}), loss {:.4} to {:.4}",
        seconds[1..].iter().copied().fold(f64::INFINITY, f64::min),
        seconds[1..].iter().copied().fold(0.0, f64::max),
        losses[0],
        losses[losses.len() - 1]
    );
    say(
        &format!("train, {name}"),
        padded as f64 / typical,
        "tokens/s",
        &note,
    );
    let share = |work: f64| 200.0 * work / typical / rate;
    let note = format!(
        "{:.0} % with what checkpointing repeats; the product here {:.4} TFLOP/s",
        share(work),
        rate / 1e12
    );
    say(&format!("share, {name}"), share(work - again), "%", &note);
    let note = format!("the whole card {:.2} GiB", taken(gpu) / GIB);
    say(&format!("memory, {name}"), peak / GIB, "GiB", &note);
}

pub fn generate(gpu: &Gpu, sizes: &Sizes) {
    let player = Player::bare(base(&host(), sizes));
    let of = &sizes.0["generate"];
    let (batch, new) = (count(of, "batch"), count(of, "new"));
    let vocab = sizes.model("vocab_size");
    let prompts: Vec<Vec<u32>> = (0..batch as u64)
        .map(|i| tokens(100 + i, count(of, "prompt"), vocab))
        .collect();
    gpu.forget_peak().unwrap();
    let mut seconds = Vec::new();
    for i in 0..=count(of, "repeats") {
        let many = if i == 0 { new.min(8) } else { new };
        let options = GenerateOptions {
            max_new_tokens: many,
            min_new_tokens: many,
            slots: batch,
            seed: i as u64,
            ..GenerateOptions::default()
        };
        let start = Instant::now();
        let out = answers(&player, &prompts, &[], &options, &mut |_| ()).unwrap();
        gpu.synchronise().unwrap();
        assert!(out.iter().all(|g| g.tokens.len() == many));
        if i > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let typical = median(seconds);
    let note = format!(
        "{batch} x {new} tokens behind {}, NF4, {typical:.2} s",
        count(of, "prompt")
    );
    say(
        "generate",
        (batch * new) as f64 / typical,
        "tokens/s",
        &note,
    );
    let note = format!("the whole card {:.2} GiB", taken(gpu) / GIB);
    say(
        "memory, generate",
        gpu.peak().unwrap() as f64 / GIB,
        "GiB",
        &note,
    );
}
