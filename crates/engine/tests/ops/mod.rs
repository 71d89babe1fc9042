//! Test-only architectures written straight against the seam, random weights, and finite
//! differences.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod naive;
pub mod shared;

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Tensor};
use randori_engine::{Base, Grads, Packed, Params, PassOptions, Player, Weight, trace};
use randori_lora::{LoraSpec, Targets};
use randori_sdk::seam::{Architecture, AttnSpec, Backend, Binary, Id, OpResult, RopeSpec, Unary};

/// A splitmix64 stream.
pub struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn uniform(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }
    /// Roughly normal: twelve uniforms.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
    pub fn tensor(&mut self, dims: &[usize], size: f64) -> Tensor {
        let n = dims.iter().product();
        let values: Vec<f32> = (0..n).map(|_| (self.normal() * size) as f32).collect();
        Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
    }
    pub fn tokens(&mut self, n: usize, vocab: usize) -> Vec<u32> {
        (0..n)
            .map(|_| (self.word() % vocab as u64) as u32)
            .collect()
    }
}

pub type Block = Box<dyn Fn(&mut dyn Backend, usize, Id) -> OpResult + Send + Sync>;

/// Embedding, blocks that the test writes, a plain head.
pub struct Probe {
    pub vocab: usize,
    pub width: usize,
    pub layers: usize,
    pub block: Block,
}

impl Architecture for Probe {
    fn name(&self) -> &str {
        "probe"
    }
    fn layers(&self) -> usize {
        self.layers
    }
    fn embed(&self, ops: &mut dyn Backend, ids: Id) -> OpResult {
        ops.embed("embed", ids, self.vocab, self.width)
    }
    fn block(&self, ops: &mut dyn Backend, layer: usize, x: Id) -> OpResult {
        (self.block)(ops, layer, x)
    }
    fn head(&self, ops: &mut dyn Backend, x: Id) -> OpResult {
        ops.linear("head", x, self.vocab, false)
    }
}

/// A small Llama: grouped-query attention, SwiGLU, tied head.
#[derive(Clone, Debug)]
pub struct Llama {
    pub vocab: usize,
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub ffn: usize,
    pub window: Option<usize>,
}

impl Llama {
    pub fn tiny() -> Self {
        Llama {
            vocab: 29,
            width: 24,
            layers: 3,
            heads: 4,
            kv_heads: 2,
            ffn: 40,
            window: None,
        }
    }
    pub fn head_dim(&self) -> usize {
        self.width / self.heads
    }
}

pub fn rope(pairs: usize) -> RopeSpec {
    let inv_freq = (0..pairs)
        .map(|i| 100f32.powf(-(i as f32) / pairs as f32))
        .collect();
    RopeSpec {
        inv_freq,
        ..RopeSpec::default()
    }
}

impl Architecture for Llama {
    fn name(&self) -> &str {
        "llama"
    }
    fn layers(&self) -> usize {
        self.layers
    }
    fn embed(&self, ops: &mut dyn Backend, ids: Id) -> OpResult {
        ops.embed("model.embed_tokens", ids, self.vocab, self.width)
    }
    fn block(&self, ops: &mut dyn Backend, layer: usize, x: Id) -> OpResult {
        let p = format!("model.layers.{layer}");
        let d = self.head_dim();
        let h = ops.rms_norm(&format!("{p}.input_layernorm"), x, 1e-5, 0.0)?;
        let q = ops.linear(&format!("{p}.self_attn.q_proj"), h, self.heads * d, false)?;
        let k = ops.linear(
            &format!("{p}.self_attn.k_proj"),
            h,
            self.kv_heads * d,
            false,
        )?;
        let v = ops.linear(
            &format!("{p}.self_attn.v_proj"),
            h,
            self.kv_heads * d,
            false,
        )?;
        let (q, k) = (
            ops.unflatten(q, self.heads)?,
            ops.unflatten(k, self.kv_heads)?,
        );
        let (q, k) = (ops.rope(q, &rope(d / 2))?, ops.rope(k, &rope(d / 2))?);
        let v = ops.unflatten(v, self.kv_heads)?;
        let spec = AttnSpec {
            window: self.window,
            ..AttnSpec::default()
        };
        let o = ops.attention(q, k, v, &spec)?;
        let o = ops.flatten(o)?;
        let o = ops.linear(&format!("{p}.self_attn.o_proj"), o, self.width, false)?;
        let x = ops.binary(Binary::Add, x, o)?;
        let h = ops.rms_norm(&format!("{p}.post_attention_layernorm"), x, 1e-5, 0.0)?;
        let gate = ops.linear(&format!("{p}.mlp.gate_proj"), h, self.ffn, false)?;
        let up = ops.linear(&format!("{p}.mlp.up_proj"), h, self.ffn, false)?;
        let gate = ops.unary(Unary::Silu, gate)?;
        let h = ops.binary(Binary::Mul, gate, up)?;
        let h = ops.linear(&format!("{p}.mlp.down_proj"), h, self.width, false)?;
        ops.binary(Binary::Add, x, h)
    }
    fn head(&self, ops: &mut dyn Backend, x: Id) -> OpResult {
        let x = ops.rms_norm("model.norm", x, 1e-5, 0.0)?;
        ops.linear("model.embed_tokens", x, self.vocab, false)
    }
}

/// A base of random weights of the shapes that the trace finds.
pub fn base(arch: impl Architecture + 'static, seed: u64) -> Arc<Base> {
    let mut random = Random(seed);
    let mut weights = HashMap::new();
    let traced = trace(&arch).unwrap();
    for w in &traced.weights {
        let size = match w.shape.len() {
            1 => 0.3,
            _ => 1.2 / (w.shape[1] as f64).sqrt(),
        };
        let mut t = random.tensor(&w.shape, size);
        if w.shape.len() == 1 {
            t = (t + 1.0).unwrap();
        }
        weights.insert(w.name.clone(), Weight::Dense(t));
    }
    let config = serde_json::json!({ "vocab_size": traced.vocab });
    Arc::new(Base {
        arch: Arc::new(arch),
        config,
        weights,
        squares: Default::default(),
        compute: Default::default(),
    })
}

/// A plan with three trees: a pair, a lone response, and a prompt of one token.
pub fn plan(vocab: usize, seed: u64) -> Packed {
    let mut r = Random(seed);
    let mut plan = Packed::default();
    let (p, a, b) = (r.tokens(5, vocab), r.tokens(4, vocab), r.tokens(6, vocab));
    plan.push(&p, &[&a, &b]);
    let (p, a) = (r.tokens(3, vocab), r.tokens(3, vocab));
    plan.push(&p, &[&a]);
    let (p, a, b) = (r.tokens(1, vocab), r.tokens(1, vocab), r.tokens(2, vocab));
    plan.push(&p, &[&a, &b]);
    plan
}

/// One made-up slope a target, so that no target counts for nothing.
pub fn slopes(plan: &Packed) -> Vec<f64> {
    let mut r = Random(77);
    plan.targets.iter().map(|_| r.uniform() + 0.2).collect()
}

pub fn gradients(player: &Player, plan: &Packed, options: &PassOptions) -> Grads {
    let mut grads = Grads::new();
    let slopes = slopes(plan);
    player
        .forward_backward(plan, options, &mut |_| Ok(slopes.clone()), &mut grads)
        .unwrap();
    grads
}

pub fn floats(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

pub fn bits(t: &Tensor) -> Vec<u32> {
    floats(t).iter().map(|v| v.to_bits()).collect()
}

/// The player with one tensor moved along a direction.
fn moved(player: &Player, name: &str, direction: &Tensor, by: f64) -> Player {
    let mut params: Params = (*player.params).clone();
    let t = (&params[name] + (direction * by).unwrap()).unwrap();
    params.insert(name.into(), t);
    Player {
        params: Arc::new(params),
        ..player.clone()
    }
}

/// Every trainable tensor's gradient against fourth-order differences along two random directions.
pub fn check_gradients(player: &Player, plan: &Packed, eps: f64, tolerance: f64) {
    let weights = slopes(plan);
    let loss = |p: &Player| -> f64 {
        p.logps(plan)
            .unwrap()
            .iter()
            .zip(&weights)
            .map(|(l, w)| l * w)
            .sum()
    };
    let grads = gradients(player, plan, &PassOptions::default());
    let mut random = Random(5);
    for (name, value) in player.params.iter() {
        let Some(grad) = grads.get(name) else {
            // an expert that no token chose
            let direction = random.tensor(value.dims(), 1.0);
            let (there, here) = (loss(&moved(player, name, &direction, eps)), loss(player));
            assert_eq!(there, here, "no gradient for {name}");
            continue;
        };
        assert_eq!(grad.dims(), value.dims(), "{name}");
        for _ in 0..2 {
            let n = value.elem_count() as f64;
            let direction = random.tensor(value.dims(), 1.0 / n.sqrt());
            let at = |by: f64| loss(&moved(player, name, &direction, by));
            let fd = (8.0 * (at(eps) - at(-eps)) - (at(2.0 * eps) - at(-2.0 * eps))) / (12.0 * eps);
            let dot: f64 = floats(grad)
                .iter()
                .zip(floats(&direction))
                .map(|(g, d)| f64::from(*g) * f64::from(d))
                .sum();
            let norm = floats(grad)
                .iter()
                .map(|g| f64::from(*g).powi(2))
                .sum::<f64>()
                .sqrt();
            let scale = (norm / n.sqrt()).max(dot.abs()).max(1e-2);
            assert!(norm > 0.0, "{name}: the gradient is zero");
            assert!(
                (fd - dot).abs() < tolerance * scale,
                "{name}: difference {fd}, gradient {dot} (norm {norm})"
            );
        }
    }
}

pub fn spec(targets: Targets, dropout: f32) -> LoraSpec {
    LoraSpec {
        rank: 3,
        alpha: 5.0,
        rslora: false,
        dropout,
        targets,
        ..LoraSpec::default()
    }
}

/// A LoRA player whose B is no longer zero.
pub fn adapted(base: Arc<Base>, targets: Targets, dropout: f32) -> Player {
    let player = Player::with_lora(base, spec(targets, dropout), 1).unwrap();
    let mut random = Random(6);
    let params = player
        .params
        .iter()
        .map(|(name, t)| {
            (
                name.clone(),
                if name.ends_with("B") {
                    random.tensor(t.dims(), 0.2)
                } else {
                    t.clone()
                },
            )
        })
        .collect();
    Player {
        params: Arc::new(params),
        ..player
    }
}

/// The player's update merged into its base.
pub fn merged(player: &Player) -> Base {
    let mut weights = player.base.weights.clone();
    for (name, weight) in weights.iter_mut() {
        let Weight::Dense(w) = weight else { panic!() };
        let projection = name.trim_end_matches(".weight");
        let spec = player.lora.as_ref().unwrap();
        if let Some(update) = spec.update(&player.params, projection) {
            *weight = Weight::Dense(randori_lora::merge(w, &update).unwrap());
        }
    }
    Base {
        arch: player.base.arch.clone(),
        config: player.base.config.clone(),
        weights,
        squares: Default::default(),
        compute: Default::default(),
    }
}
