//! The GPU's passes against the processor's: log-probs, gradients, generation. Wants the feature
//! `cuda`, and a GPU or the stand-in for one (`crates/cuda/stand_in/build.sh DIR`, then
//! `LD_LIBRARY_PATH=DIR`); skips, loudly, without either.
#![cfg(feature = "cuda")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{
    DType,
    quantized::{GgmlDType, QTensor},
};
use randori_engine::{
    Base, Compute, GenerateOptions, Grads, Packed, PassOptions, Player, Weight, generate,
    weights::{Dtype, LoadOptions, Quant, Source, open},
};
use randori_lora::{LoraSpec, Targets};
use randori_qlora::{GgufMatrix, QuantMatrix};
use randori_sdk::seam::{Architecture, Backend, Binary, Id, OpResult, RouteSpec, Unary};

mod ops;
mod tiny;
use ops::shared::Shared;
use tiny::{card::*, *};

/// Shared prompts with two responses each, long enough for several tiles.
fn plan() -> Packed {
    packed(&[(70, 9, 66), (3, 5, 1), (64, 64, 20)])
}

fn packed(sizes: &[(usize, usize, usize)]) -> Packed {
    let mut plan = Packed::default();
    for (i, &(prompt, real, generated)) in sizes.iter().enumerate() {
        let list = |k: usize, n: usize| -> Vec<u32> {
            lists((10 * i + k) as u64, 1, n..n + 1, VOCAB).remove(0)
        };
        let (p, r, g) = (list(1, prompt), list(2, real), list(3, generated));
        plan.push(&p, &[&r, &g]);
    }
    plan
}

fn gradients(player: &Player, plan: &Packed, options: &PassOptions) -> (Vec<f64>, Grads) {
    let mut grads = Grads::new();
    let mut logps = Vec::new();
    let mut slopes = |l: &[f64]| {
        logps = l.to_vec();
        Ok((0..l.len()).map(|i| 0.3 - 0.1 * (i % 7) as f64).collect())
    };
    player
        .forward_backward(plan, options, &mut slopes, &mut grads)
        .unwrap();
    (logps, grads)
}

fn compare(what: &str, near: &Player, far: &Player, options: &PassOptions, tolerance: f64) {
    compare_on(&plan(), what, near, far, options, tolerance);
}

fn compare_on(
    plan: &Packed,
    what: &str,
    near: &Player,
    far: &Player,
    options: &PassOptions,
    tolerance: f64,
) {
    let (a, ga) = gradients(near, plan, options);
    let (b, gb) = gradients(far, plan, options);
    assert!(apart(&b, &a) < tolerance, "{what}: {}", apart(&b, &a));
    assert!(ga.keys().eq(gb.keys()), "{what}");
    for (name, want) in &ga {
        let d = apart(&host(&gb[name]), &host(want));
        assert!(d < 4.0 * tolerance, "{what}: {name} is {d} off");
    }
    if options.dropout_seed.is_some() {
        return; // nothing is dropped in scoring
    }
    let logps = far.logps(plan).unwrap();
    assert!(apart(&logps, &a) < tolerance, "{what}, scored");
}

#[test]
fn log_probs_and_gradients_are_the_processors() {
    if skip() {
        return;
    }
    let near = learnt(2);
    for checkpoint in [false, true] {
        for dropout_seed in [None, Some(9)] {
            let options = PassOptions {
                checkpoint,
                dropout_seed,
                ..PassOptions::default()
            };
            for (float, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 2e-2)] {
                let far = on(up(&near.base, float), &near);
                let what = format!("{float:?}, {options:?}");
                compare(&what, &near, &far, &options, tolerance);
            }
        }
    }
}

/// The tiny Llama with its projections quantised. Widths of 16 and 24 are no whole GGUF blocks, but
/// 4-bit codes take any.
#[test]
fn quantised_bases_are_the_processors() {
    if skip() {
        return;
    }
    for double in [false, true] {
        let mut near = learnt(2);
        let mut weights = near.base.weights.clone();
        for (name, w) in &mut weights {
            if let (true, Weight::Dense(t)) = (name.contains("_proj"), &*w) {
                *w = Weight::Quant(Arc::new(QuantMatrix::nf4(t, double).unwrap()));
            }
        }
        near.base = Arc::new(Base {
            arch: near.base.arch.clone(),
            config: near.base.config.clone(),
            weights,
            squares: Default::default(),
            compute: Default::default(),
        });
        for (float, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 2e-2)] {
            let far = on(up(&near.base, float), &near);
            let what = format!("nf4, double {double}, {float:?}");
            compare(&what, &near, &far, &PassOptions::default(), tolerance);
        }
    }
}

/// Widths that quantised weights are read at as they are: the model's, and within its block.
struct Wide(usize, usize);

impl Architecture for Wide {
    fn name(&self) -> &str {
        "wide"
    }
    fn layers(&self) -> usize {
        1
    }
    fn embed(&self, ops: &mut dyn Backend, ids: Id) -> OpResult {
        ops.embed("embed", ids, VOCAB, self.0)
    }
    fn block(&self, ops: &mut dyn Backend, _: usize, x: Id) -> OpResult {
        let h = ops.linear("up", x, self.1, false)?;
        let h = ops.linear("down", h, self.0, false)?;
        ops.binary(Binary::Add, x, h)
    }
    fn head(&self, ops: &mut dyn Backend, x: Id) -> OpResult {
        ops.linear("head", x, VOCAB, false)
    }
}

fn wide(arch: Wide, quant: Option<Quant>, compute: Compute) -> Base {
    let config = serde_json::json!({ "vocab_size": VOCAB });
    let dtype = Dtype::F32;
    let source = open(Source::Random { config, seed: 1 }, &[]).unwrap();
    let options = LoadOptions { quant, dtype };
    let base = source.load_where(Arc::new(arch), &options, compute, &mut |_, _| ());
    base.unwrap()
}

/// Log-probs of a few rows, of some and of many.
fn compare_rows(near: &Player, far: &Player, tolerance: f64, what: &str) {
    for sizes in [(2, 2, 3), (4, 3, 5), (20, 30, 14), (40, 30, 40)] {
        let plan = packed(&[sizes]);
        let (a, b) = (near.logps(&plan).unwrap(), far.logps(&plan).unwrap());
        let off = apart(&b, &a);
        assert!(off < tolerance, "{what}, {sizes:?}: {off}");
        assert!(off > 0.0, "{what}, {sizes:?}: not another machine's");
    }
}

/// From codes one by one, from codes on the tensor cores, from a dequantised matrix.
#[test]
fn products_of_any_number_of_rows_are_the_processors() {
    if skip() {
        return;
    }
    let base = |compute| {
        let nf4 = Some(Quant::Nf4 { double: true });
        Player::bare(Arc::new(wide(Wide(64, 1056), nf4, compute)))
    };
    let near = base(Compute::default());
    for (float, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 1e-2)] {
        let far = base(Compute::on_gpu(float).unwrap());
        compare_rows(&near, &far, tolerance, &format!("{float:?}"));
    }
}

/// The same of GGUF's blocks.
#[test]
fn blocks_are_the_processors() {
    if skip() {
        return;
    }
    for dtype in [
        GgmlDType::Q4_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q4K,
        GgmlDType::Q6K,
    ] {
        let mut base = wide(Wide(256, 1280), None, Compute::default());
        for name in ["up.weight", "down.weight"] {
            let weight = base.weights.get_mut(name).unwrap();
            let Weight::Dense(t) = &*weight else {
                panic!("{name} is quantised")
            };
            let (blocks, (rows, columns)) =
                (QTensor::quantize(t, dtype).unwrap(), t.dims2().unwrap());
            let data = blocks.data().unwrap();
            let matrix = GgufMatrix::new(dtype, rows, columns, &data, None).unwrap();
            *weight = Weight::Quant(Arc::new(QuantMatrix::Gguf(matrix)));
        }
        let near = Player::bare(Arc::new(base));
        for (float, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 1e-2)] {
            let far = Player::bare(up(&near.base, float));
            compare_rows(&near, &far, tolerance, &format!("{dtype:?}, {float:?}"));
        }
    }
}

#[test]
fn a_fully_trained_player_has_the_processors_gradients() {
    if skip() {
        return;
    }
    let near = Player::full(llama()).unwrap();
    let far = on(up(&near.base, DType::F32), &near);
    compare("full", &near, &far, &PassOptions::default(), 1e-5);
    // with the base where it was loaded, which an adapter's player can use, too
    for near in [near, learnt(2)] {
        let compute = Compute::on_gpu(DType::F32).unwrap().for_full_training();
        let far = on(place(&near.base, compute), &near);
        let dense = |w: &Weight| matches!(w, Weight::Dense(t) if t.device().is_cpu());
        assert!(far.base.weights.values().all(dense));
        compare("stays", &near, &far, &PassOptions::default(), 1e-5);
    }
}

/// The magnitudes' gradients too, and in bf16 the embedding's, which is summed in f32.
#[test]
fn dora_and_full_players_have_the_processors_gradients() {
    if skip() {
        return;
    }
    let spec = LoraSpec {
        dora: true,
        ..(*lora().lora.unwrap()).clone()
    };
    let dora = with_b(Player::with_lora(llama(), spec, 7).unwrap());
    let names: Vec<&String> = dora.params.keys().collect();
    assert!(names.iter().any(|n| n.ends_with("lora_magnitude_vector")));
    for near in [dora.clone(), Player::full(llama()).unwrap()] {
        for (float, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 2e-2)] {
            let far = on(up(&near.base, float), &near);
            let what = format!("DoRA {}, {float:?}", near.lora.is_some());
            compare(&what, &near, &far, &PassOptions::default(), tolerance);
        }
    }
}

/// More targets than go through a GPU's head at once, with a frozen head and with a trained one.
#[test]
fn chunks_of_the_head_are_the_processors() {
    if skip() {
        return;
    }
    let plan = packed(&[(4, 170, 190); 3]);
    assert!(plan.targets.len() > 1024);
    for near in [learnt(2), Player::full(llama()).unwrap()] {
        let far = on(up(&near.base, DType::F32), &near);
        let what = format!("chunks, LoRA {}", near.lora.is_some());
        let options = PassOptions::default();
        compare_on(&plan, &what, &near, &far, &options, 1e-5);
    }
}

/// Silus in every place: as a product's first factor alone, its second, both, with something else
/// that uses them, over values of which one is not trained, behind rows that are many or few.
struct Silus;

impl Architecture for Silus {
    fn name(&self) -> &str {
        "silus"
    }
    fn layers(&self) -> usize {
        6
    }
    fn embed(&self, ops: &mut dyn Backend, ids: Id) -> OpResult {
        ops.embed("embed", ids, VOCAB, 16)
    }
    fn block(&self, ops: &mut dyn Backend, layer: usize, x: Id) -> OpResult {
        let name = |part: &str| format!("layers.{layer}.{part}");
        let g = ops.linear(&name("gate"), x, 16, false)?;
        let a = ops.unary(Unary::Silu, g)?;
        let u = match layer {
            0 => x, // nothing trained in or below it
            _ => ops.linear(&name("up"), x, 16, false)?,
        };
        let y = match layer {
            0 | 1 => ops.binary(Binary::Mul, a, u)?,
            2 => ops.binary(Binary::Mul, u, a)?,
            3 => ops.binary(Binary::Mul, a, a)?,
            4 => {
                let y = ops.binary(Binary::Mul, a, u)?;
                ops.binary(Binary::Add, y, a)?
            }
            _ => {
                let u = ops.unary(Unary::Silu, u)?;
                let y = ops.binary(Binary::Mul, a, u)?;
                ops.unary(Unary::Silu, y)?
            }
        };
        ops.binary(Binary::Add, x, y)
    }
    fn head(&self, ops: &mut dyn Backend, x: Id) -> OpResult {
        ops.linear("head", x, VOCAB, false)
    }
}

/// Random weights, large enough that functions are not straight lines.
fn drawn(arch: Arc<dyn Architecture>) -> Arc<Base> {
    let config = serde_json::json!({ "vocab_size": VOCAB });
    let base = open(Source::Random { config, seed: 1 }, &[]).unwrap();
    let mut base = base
        .load(arch, &LoadOptions::default(), &mut |_, _| ())
        .unwrap();
    let sorted: BTreeMap<&String, &mut Weight> = base.weights.iter_mut().collect();
    for (i, w) in sorted.into_values().enumerate() {
        *w = Weight::Dense(random(8, i as u64, &w.shape(), 0.5));
    }
    Arc::new(base)
}

#[test]
fn silus_are_the_processors_wherever_they_stand() {
    if skip() {
        return;
    }
    let base = drawn(Arc::new(Silus));
    let spec = |names: &[&str]| LoraSpec {
        rank: 2,
        targets: Targets::Names(names.iter().map(|n| n.to_string()).collect()),
        ..LoraSpec::default()
    };
    for names in [&["gate", "up"][..], &["gate"], &["up"]] {
        let near = with_b(Player::with_lora(base.clone(), spec(names), 3).unwrap());
        for checkpoint in [false, true] {
            let options = PassOptions {
                checkpoint,
                dropout_seed: None,
                ..PassOptions::default()
            };
            let far = on(up(&near.base, DType::F32), &near);
            let what = format!("silus, {names:?}, {options:?}");
            compare(&what, &near, &far, &options, 1e-5);
        }
    }
}

/// Four experts, of which every token goes to two.
struct Experts(bool);

impl Architecture for Experts {
    fn name(&self) -> &str {
        "experts"
    }
    fn layers(&self) -> usize {
        2
    }
    fn embed(&self, ops: &mut dyn Backend, ids: Id) -> OpResult {
        ops.embed("embed", ids, VOCAB, 16)
    }
    fn block(&self, ops: &mut dyn Backend, layer: usize, x: Id) -> OpResult {
        let router = ops.linear(&format!("layers.{layer}.router"), x, 4, false)?;
        let route = RouteSpec {
            sigmoid: self.0,
            normalise: layer == 0,
            scale: 1.5,
            ..RouteSpec::top(2)
        };
        let y = ops.moe(router, x, &route, &mut |ops, e, x| {
            let name = |part: &str| format!("layers.{layer}.{e}.{part}");
            let run = |ops: &mut dyn Backend| {
                let g = ops.linear(&name("gate"), x, 24, false)?;
                let g = ops.unary(Unary::Silu, g)?;
                let u = ops.linear(&name("up"), x, 24, false)?;
                let h = ops.binary(Binary::Mul, g, u)?;
                ops.linear(&name("down"), h, 16, false)
            };
            run(ops).unwrap_or(0)
        })?;
        ops.binary(Binary::Add, x, y)
    }
    fn head(&self, ops: &mut dyn Backend, x: Id) -> OpResult {
        ops.linear("head", x, VOCAB, false)
    }
}

#[test]
fn experts_are_the_processors() {
    if skip() {
        return;
    }
    for sigmoid in [false, true] {
        let base = drawn(Arc::new(Experts(sigmoid)));
        let spec = LoraSpec {
            rank: 2,
            targets: Targets::AllLinear,
            ..LoraSpec::default()
        };
        let lora = with_b(Player::with_lora(base.clone(), spec, 3).unwrap());
        for near in [lora, Player::full(base.clone()).unwrap()] {
            let what = format!("experts, sigmoid {sigmoid}, LoRA {}", near.lora.is_some());
            let far = on(up(&near.base, DType::F32), &near);
            compare(&what, &near, &far, &PassOptions::default(), 1e-5);
        }
    }
}

/// Values that cross blocks, and keys that a cache holds once for several of them.
#[test]
fn carried_values_are_the_processors() {
    if skip() {
        return;
    }
    let near = Player::full(drawn(Arc::new(Shared {
        vocab: VOCAB,
        head_dim: 8,
        ..Shared::tiny()
    })));
    let near = near.unwrap();
    let far = on(up(&near.base, DType::F32), &near);
    compare("carried", &near, &far, &PassOptions::default(), 1e-5);
    let options = GenerateOptions {
        max_new_tokens: 70,
        slots: 3,
        min_new_tokens: 66,
        ..GenerateOptions::default()
    };
    let prompts = lists(4, 7, 1..90, VOCAB);
    let run = |p: &Player| generate(p, &prompts, &[], &options, &mut |_| {}).unwrap();
    for (a, b) in run(&near).iter().zip(&run(&far)) {
        assert_eq!(a.tokens, b.tokens);
    }
}

#[test]
fn generation_draws_the_processors_tokens() {
    if skip() {
        return;
    }
    let near = learnt(2);
    let far = on(up(&near.base, DType::F32), &near);
    // prompts over a page, slots that are used again, and a cache that must grow
    let prompts = lists(4, 7, 1..90, VOCAB);
    let options = GenerateOptions {
        max_new_tokens: 70,
        slots: 3,
        min_new_tokens: 66,
        stop: vec![2],
        seed: 11,
        ..GenerateOptions::default()
    };
    let early = GenerateOptions {
        min_new_tokens: 0,
        ..options.clone()
    };
    // through the host, where samplers are
    let chain = [temperature::<7>()];
    for (o, samplers) in [(&options, &[][..]), (&early, &[]), (&early, &chain)] {
        let run = |p: &Player| generate(p, &prompts, samplers, o, &mut |_| {}).unwrap();
        for (i, (a, b)) in run(&near).iter().zip(&run(&far)).enumerate() {
            assert_eq!((&a.tokens, a.ended), (&b.tokens, b.ended), "prompt {i}");
            let wide = |l: &[f32]| l.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
            assert!(apart(&wide(&b.behaviour), &wide(&a.behaviour)) < 1e-5);
        }
    }
    let run = |p: &Player| generate(p, &prompts, &[], &options, &mut |_| {}).unwrap();
    let (a, b) = (run(&near), run(&far));
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        assert_eq!(a.tokens, b.tokens, "prompt {i}");
        let wide = |l: &[f32]| l.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        assert!(apart(&wide(&b.logps), &wide(&a.logps)) < 1e-5);
    }
    assert!(a.iter().any(|g| g.tokens.len() > 64), "no long response");
}
