//! Small models, losses and samplers for the tests of generation, scoring and training.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{collections::HashMap, ops::Range, sync::Arc};

use candle_core::{DType, Device, Tensor};
use randori_engine::{Base, Packed, Player, ScoreItem, Weight, rng, score, train::Pair};
use randori_lora::{LoraSpec, Targets};
use randori_sdk::seam::{
    Architecture, AttnSpec, Backend, Binary, GENERATED, Id, LossFn, LossOut, OpResult, REAL,
    RopeSpec, Rows, SamplerFn, SamplerState, Step, Unary,
};

#[cfg(feature = "cuda")]
pub mod card;

/// A Llama of two blocks.
pub struct TinyLlama;

pub const VOCAB: usize = 23;
const WIDTH: usize = 16;
const HEADS: usize = 4;
const KV: usize = 2;
const FFN: usize = 24;

impl Architecture for TinyLlama {
    fn name(&self) -> &str {
        "tiny-llama"
    }
    fn layers(&self) -> usize {
        2
    }
    fn embed(&self, ops: &mut dyn Backend, ids: Id) -> OpResult {
        ops.embed("embed", ids, VOCAB, WIDTH)
    }
    fn block(&self, ops: &mut dyn Backend, layer: usize, x: Id) -> OpResult {
        let name = |part: &str| format!("layers.{layer}.{part}");
        let rope = RopeSpec {
            inv_freq: vec![1.0, 0.1],
            ..RopeSpec::default()
        };
        let h = ops.rms_norm(&name("norm1"), x, 1e-5, 0.0)?;
        let q = ops.linear(&name("q_proj"), h, WIDTH, false)?;
        let k = ops.linear(&name("k_proj"), h, WIDTH / HEADS * KV, false)?;
        let v = ops.linear(&name("v_proj"), h, WIDTH / HEADS * KV, false)?;
        let (q, k, v) = (
            ops.unflatten(q, HEADS)?,
            ops.unflatten(k, KV)?,
            ops.unflatten(v, KV)?,
        );
        let (q, k) = (ops.rope(q, &rope)?, ops.rope(k, &rope)?);
        let a = ops.attention(q, k, v, &AttnSpec::default())?;
        let a = ops.flatten(a)?;
        let a = ops.linear(&name("o_proj"), a, WIDTH, false)?;
        let x = ops.binary(Binary::Add, x, a)?;
        let h = ops.rms_norm(&name("norm2"), x, 1e-5, 0.0)?;
        let gate = ops.linear(&name("gate_proj"), h, FFN, false)?;
        let gate = ops.unary(Unary::Silu, gate)?;
        let up = ops.linear(&name("up_proj"), h, FFN, false)?;
        let h = ops.binary(Binary::Mul, gate, up)?;
        let h = ops.linear(&name("down_proj"), h, WIDTH, false)?;
        ops.binary(Binary::Add, x, h)
    }
    fn head(&self, ops: &mut dyn Backend, x: Id) -> OpResult {
        let x = ops.rms_norm("norm", x, 1e-5, 0.0)?;
        ops.linear("head", x, VOCAB, false)
    }
}

/// Uniform in ±`size`.
pub fn random(seed: u64, name: u64, shape: &[usize], size: f64) -> Tensor {
    let n = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..n)
        .map(|i| ((2.0 * rng::uniform(seed, name, i as u64, 0, 0) - 1.0) * size) as f32)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Random weights of [`TinyLlama`], large enough that it has opinions.
pub fn llama() -> Arc<Base> {
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("embed.weight".into(), vec![VOCAB, WIDTH]),
        ("head.weight".into(), vec![VOCAB, WIDTH]),
        ("norm.weight".into(), vec![WIDTH]),
    ];
    let kv = WIDTH / HEADS * KV;
    for layer in 0..2 {
        for (part, shape) in [
            ("norm1", vec![WIDTH]),
            ("norm2", vec![WIDTH]),
            ("q_proj", vec![WIDTH, WIDTH]),
            ("k_proj", vec![kv, WIDTH]),
            ("v_proj", vec![kv, WIDTH]),
            ("o_proj", vec![WIDTH, WIDTH]),
            ("gate_proj", vec![FFN, WIDTH]),
            ("up_proj", vec![FFN, WIDTH]),
            ("down_proj", vec![WIDTH, FFN]),
        ] {
            shapes.push((format!("layers.{layer}.{part}.weight"), shape));
        }
    }
    let weights = shapes.into_iter().enumerate().map(|(i, (name, shape))| {
        let size = if shape.len() == 1 { 1.0 } else { 0.6 };
        (name, Weight::Dense(random(1, i as u64, &shape, size)))
    });
    Arc::new(Base {
        arch: Arc::new(TinyLlama),
        config: serde_json::json!({}),
        weights: weights.collect(),
        squares: Default::default(),
        compute: Default::default(),
    })
}

/// A LoRA player over [`llama`].
pub fn lora() -> Player {
    lora_of(2)
}

/// The same of another rank: of 300, A is large enough for moments in 8 bits.
pub fn lora_of(rank: usize) -> Player {
    let targets = Targets::Names(["q_proj", "v_proj", "down_proj"].map(String::from).to_vec());
    let spec = LoraSpec {
        rank,
        alpha: 4.0,
        rslora: false,
        dropout: 0.25,
        targets,
        ..LoraSpec::default()
    };
    Player::with_lora(llama(), spec, 7).unwrap()
}

/// No blocks: the logits after a token are one column of a table, so every distribution is known
/// exactly.
pub struct Bigram(pub usize);

impl Architecture for Bigram {
    fn name(&self) -> &str {
        "bigram"
    }
    fn layers(&self) -> usize {
        0
    }
    fn embed(&self, ops: &mut dyn Backend, ids: Id) -> OpResult {
        ops.embed("embed", ids, self.0, self.0)
    }
    fn block(&self, _: &mut dyn Backend, _: usize, _: Id) -> OpResult {
        Err("a bigram has no blocks".into())
    }
    fn head(&self, ops: &mut dyn Backend, x: Id) -> OpResult {
        ops.linear("head", x, self.0, false)
    }
}

/// The base whose logits after token t are `table[t]`.
pub fn bigram(table: &[Vec<f32>]) -> Arc<Base> {
    let n = table.len();
    let embed = Tensor::eye(n, DType::F32, &Device::Cpu).unwrap();
    let columns: Vec<f32> = (0..n)
        .flat_map(|i| table.iter().map(move |row| row[i]))
        .collect();
    let head = Tensor::from_vec(columns, (n, n), &Device::Cpu).unwrap();
    let weights = [("embed.weight", embed), ("head.weight", head)];
    Arc::new(Base {
        arch: Arc::new(Bigram(n)),
        config: serde_json::json!({}),
        weights: HashMap::from(
            weights.map(|(name, tensor)| (name.to_string(), Weight::Dense(tensor))),
        ),
        squares: Default::default(),
        compute: Default::default(),
    })
}

/// A bigram with the same logits after every token.
pub fn fixed(logits: &[f32]) -> Player {
    Player::bare(bigram(&vec![logits.to_vec(); logits.len()]))
}

/// log soft-max of the logits after `tokens`, without a cache.
pub fn next_logps(player: &Player, tokens: &[u32], vocab: usize) -> Vec<f64> {
    let responses: Vec<[u32; 1]> = (0..vocab as u32).map(|t| [t]).collect();
    let mut plan = Packed::default();
    plan.push(
        tokens,
        &responses.iter().map(|r| r.as_slice()).collect::<Vec<_>>(),
    );
    player.logps(&plan).unwrap()
}

/// The paper's logistic loss: log(1 + exp(−beta·margin)).
pub struct Logistic(pub f64);

impl LossFn for Logistic {
    fn name(&self) -> &str {
        "logistic"
    }
    fn options(&self) -> String {
        format!("slope={:?}", self.0)
    }
    fn needs_ref(&self) -> bool {
        true
    }
    fn eval(&self, rows: &Rows) -> Result<LossOut, String> {
        let mut margin = vec![0.0; rows.groups];
        let sign = |i: usize| match rows.role[i] {
            REAL => 1.0,
            GENERATED => -1.0,
            other => panic!("role {other}"),
        };
        for i in 0..rows.logp.len() {
            margin[rows.group[i] as usize] += sign(i) * (rows.logp[i] - rows.ref_logp[i]);
        }
        let falling = |t: f64| -self.0 / (1.0 + (self.0 * t).exp());
        Ok(LossOut {
            loss: margin.iter().map(|t| (-self.0 * t).exp().ln_1p()).collect(),
            d_logp: (0..rows.logp.len())
                .map(|i| sign(i) * falling(margin[rows.group[i] as usize]))
                .collect(),
            metrics: vec![
                ("groups".into(), rows.groups as f64),
                ("progress".into(), rows.progress),
            ],
        })
    }
}

impl<F: Fn(&[u32], &mut [f32]) + Send + Sync + Copy + 'static> SamplerFn for Reshape<F> {
    fn name(&self) -> &str {
        self.0
    }
    fn begin(&self) -> Box<dyn SamplerState> {
        Box::new(Reshape(self.0, self.1))
    }
}

/// A stateless sampler from a closure over (tokens so far, logits).
pub struct Reshape<F>(pub &'static str, pub F);

impl<F: Fn(&[u32], &mut [f32]) + Send> SamplerState for Reshape<F> {
    fn apply(&mut self, step: &mut Step, logits: &mut [f32]) -> Result<(), String> {
        (self.1)(step.tokens, logits);
        Ok(())
    }
    fn accept(&mut self, _: u32, _: f32) {}
}

/// Keeps the largest logit only.
pub fn greedy() -> Arc<dyn SamplerFn> {
    Arc::new(Reshape("greedy", |_: &[u32], logits: &mut [f32]| {
        let best = argmax(logits);
        for (i, logit) in logits.iter_mut().enumerate().filter(|(i, _)| *i != best) {
            let _ = i;
            *logit = f32::NEG_INFINITY;
        }
    }))
}

/// Divides the logits.
pub fn temperature<const TENTHS: u32>() -> Arc<dyn SamplerFn> {
    Arc::new(Reshape("temperature", |_: &[u32], logits: &mut [f32]| {
        logits.iter_mut().for_each(|l| *l /= TENTHS as f32 / 10.0);
    }))
}

/// The first largest.
pub fn argmax<T: PartialOrd>(values: &[T]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

/// `count` token lists with lengths in `range`, from a seed.
pub fn lists(seed: u64, count: usize, range: Range<usize>, vocab: usize) -> Vec<Vec<u32>> {
    let draw =
        |i: usize, k: u64, n: usize| (rng::uniform(seed, 99, i as u64, k, 0) * n as f64) as usize;
    (0..count)
        .map(|i| {
            let len = range.start + draw(i, 0, range.len());
            (0..len)
                .map(|k| draw(i, k as u64 + 1, vocab) as u32)
                .collect()
        })
        .collect()
}

/// `count` pairs of random tokens, their lengths in these ranges, with these reference log-probs of
/// real and generated.
pub fn random_pairs(
    count: usize,
    prompts: Range<usize>,
    responses: Range<usize>,
    vocab: usize,
    refs: [f64; 2],
) -> Vec<Pair> {
    let lists = |seed, lengths: &Range<usize>| lists(seed, count, lengths.clone(), vocab);
    let answers = lists(2, &responses).into_iter().zip(lists(3, &responses));
    let pair = |(i, (prompt, (real, generated))): (usize, _)| Pair {
        prompt,
        real,
        generated,
        ref_real: refs[0],
        ref_generated: refs[1],
        rewards: None,
        place: format!("data.jsonl:{}", i + 1),
    };
    let all = lists(1, &prompts).into_iter().zip(answers);
    all.enumerate().map(pair).collect()
}

/// The pairs with `opponent`'s log-probs as their references.
pub fn scored(opponent: &Player, mut pairs: Vec<Pair>) -> Vec<Pair> {
    let item = |pair: &Pair| {
        (
            pair.prompt.clone(),
            [pair.real.clone(), pair.generated.clone()],
        )
    };
    let owned: Vec<_> = pairs.iter().map(item).collect();
    let items: Vec<ScoreItem> = owned
        .iter()
        .map(|(prompt, responses)| ScoreItem {
            prompt,
            responses: responses.iter().map(|r| r.as_slice()).collect(),
        })
        .collect();
    let scores = score(opponent, &items, 1000, &mut |_| {}).unwrap();
    for (pair, scores) in pairs.iter_mut().zip(scores) {
        (pair.ref_real, pair.ref_generated) = (scores[0], scores[1]);
    }
    pairs
}
