//! Ops that keep a state of a sequence: gradients through the prompt that responses share, cached
//! against packed, packed against a naive f64 reference.
#![allow(clippy::needless_range_loop)]

use std::sync::Arc;

use crate::ops::{
    Block, Probe, Random, base, bits, check_gradients, floats, gradients, plan, spec,
};
use randori_engine::{
    Base, GenerateOptions, KvCache, Packed, PassOptions, Player, SlotTokens, Weight, generate,
    trace,
};
use randori_lora::Targets;
use randori_sdk::seam::{Architecture, AttnSpec, Backend, Binary, Id, OpResult, Unary};

const VOCAB: usize = 13;
const WIDTH: usize = 12;
const TAPS: usize = 4;

/// Blocks of x + f(x), and logits that are the hidden state itself: no product, so that one row and
/// many are the same to the bit.
struct Bare {
    layers: usize,
    block: Block,
}

impl Architecture for Bare {
    fn name(&self) -> &str {
        "bare"
    }
    fn layers(&self) -> usize {
        self.layers
    }
    fn embed(&self, ops: &mut dyn Backend, ids: Id) -> OpResult {
        ops.embed("embed", ids, VOCAB, WIDTH)
    }
    fn block(&self, ops: &mut dyn Backend, layer: usize, x: Id) -> OpResult {
        (self.block)(ops, layer, x)
    }
    fn head(&self, ops: &mut dyn Backend, x: Id) -> OpResult {
        ops.affine(x, 1.0, 0.0)
    }
}

/// x + silu(conv(x)), and another convolution in the same block.
fn convolutions(g: &mut dyn Backend, layer: usize, x: Id) -> OpResult {
    let y = g.conv(&format!("layer{layer}.a"), x, TAPS, true)?;
    let y = g.unary(Unary::Silu, y)?;
    let y = g.conv(&format!("layer{layer}.b"), y, 2, false)?;
    g.binary(Binary::Add, x, y)
}

fn bare(block: fn(&mut dyn Backend, usize, Id) -> OpResult) -> Player {
    let block: Block = Box::new(block);
    Player::bare(base(Bare { layers: 2, block }, 3))
}

/// f between two projections, two blocks deep, every weight trained.
fn trained(f: impl Fn(&mut dyn Backend, &str, Id) -> OpResult + Send + Sync + 'static) -> Player {
    let block: Block = Box::new(move |g, layer, x| {
        let p = format!("layer{layer}");
        let h = g.linear(&format!("{p}.in"), x, WIDTH, true)?;
        let y = f(g, &p, h)?;
        let y = g.linear(&format!("{p}.out"), y, WIDTH, false)?;
        g.binary(Binary::Add, x, y)
    });
    let probe = Probe {
        vocab: VOCAB,
        width: WIDTH,
        layers: 2,
        block,
    };
    Player::full(base(probe, 3)).unwrap()
}

/// Three responses behind one prompt, one of them shorter than the taps; prompts of one token and
/// of two; a long sequence.
fn forks() -> Packed {
    let mut random = Random(4);
    let mut of = |n: usize| random.tokens(n, VOCAB);
    let (short, mut plan) = (of(2), plan(VOCAB, 9));
    plan.push(&of(9), &[&of(7), &short, &of(5)]);
    plan.push(&of(2), &[&of(3), &of(4), &of(6)]);
    plan.push(&of(20), &[&of(75)]);
    plan
}

/// Gradients by finite differences, and the same bits where blocks are run again.
fn check(f: impl Fn(&mut dyn Backend, &str, Id) -> OpResult + Send + Sync + 'static) {
    let (player, plan) = (trained(f), forks());
    check_gradients(&player, &plan, 1e-2, 2e-3);
    let of = |checkpoint| {
        let options = PassOptions {
            checkpoint,
            ..PassOptions::default()
        };
        gradients(&player, &plan, &options)
    };
    let (kept, again) = (of(false), of(true));
    assert_eq!(kept.len(), again.len());
    for (name, grad) in &kept {
        assert_eq!(bits(grad), bits(&again[name]), "{name}");
    }
}

#[test]
fn convolutions_have_the_gradients_of_finite_differences() {
    for (taps, bias) in [(1, false), (2, true), (TAPS, true), (30, false)] {
        check(move |g, p, x| {
            let y = g.conv(&format!("{p}.conv"), x, taps, bias)?;
            g.affine(y, 0.3, 0.0)
        });
    }
    // of a gate and what it gates, as LFM2 has it
    check(|g, p, x| {
        // normed: f32 has too few digits for differences of a third power's third power
        let x = g.rms_norm("", x, 1e-5, 0.0)?;
        let gate = g.linear(&format!("{p}.gate"), x, WIDTH, false)?;
        let y = g.binary(Binary::Mul, gate, x)?;
        let y = g.conv(&format!("{p}.conv"), y, 3, false)?;
        g.binary(Binary::Mul, gate, y)
    });
}

fn weight(base: &Base, name: &str) -> Vec<f32> {
    match &base.weights[name] {
        Weight::Dense(t) => floats(t),
        _ => panic!("{name} is quantised"),
    }
}

/// Rows of a packed pass against their sequences alone, in f64.
#[test]
fn packed_convolutions_equal_a_naive_f64_reference() {
    let block: Block = Box::new(|g, _, x| g.conv("conv", x, TAPS, true));
    let base: Arc<Base> = base(Bare { layers: 1, block }, 5);
    let (table, w) = (weight(&base, "embed.weight"), weight(&base, "conv.weight"));
    let bias = weight(&base, "conv.bias");
    let player = Player::bare(base);
    let plan = forks();
    let hidden = floats(&player.hidden(&plan).unwrap());
    for segment in &plan.segments {
        let parent = segment.parent.map(|p| &plan.segments[p]);
        let before = parent.map_or(0..0, |p| p.start..p.start + p.len);
        let own = segment.start..segment.start + segment.len;
        let rows: Vec<usize> = before.chain(own.clone()).collect();
        for (i, row) in own.enumerate() {
            let at = rows.len() - segment.len + i;
            for channel in 0..WIDTH {
                let tap = |tap: usize| {
                    let row = rows[(at + tap + 1).checked_sub(TAPS)?];
                    let x = table[plan.ids[row] as usize * WIDTH + channel];
                    Some(f64::from(x) * f64::from(w[channel * TAPS + tap]))
                };
                let sum: f64 = (0..TAPS).filter_map(tap).sum();
                let want = sum + f64::from(bias[channel]);
                let got = f64::from(hidden[row * WIDTH + channel]);
                assert!((got - want).abs() < 1e-5, "row {row}: {got} for {want}");
            }
        }
    }
}

/// Rows after `tokens` that come in pieces of these lengths.
fn cached(player: &Player, cache: &mut KvCache, tokens: &[u32], piece: usize) -> Vec<u32> {
    let mut last = Vec::new();
    for tokens in tokens.chunks(piece) {
        let step = [SlotTokens { slot: 1, tokens }];
        last = bits(&player.step(cache, &step).unwrap());
    }
    last
}

/// The hidden state after every token, whether it came packed or in pieces of any length, is the
/// same to the bit; and so in a slot that another sequence has left.
fn same_bits(block: fn(&mut dyn Backend, usize, Id) -> OpResult) {
    let player = bare(block);
    let plan = forks();
    let hidden = bits(&player.hidden(&plan).unwrap());
    let mut cache = KvCache::new(&player, 2);
    for segment in &plan.segments {
        let parent = segment.parent.map(|p| &plan.segments[p]);
        let before = parent.map_or(&[][..], |p| &plan.ids[p.start..p.start + p.len]);
        let own = &plan.ids[segment.start..segment.start + segment.len];
        let tokens = [before, own].concat();
        for piece in [1, 2, 3, 7, tokens.len()] {
            cache.clear(1);
            let last = segment.start + segment.len - 1;
            let want = &hidden[last * WIDTH..(last + 1) * WIDTH];
            assert_eq!(cached(&player, &mut cache, &tokens, piece), want, "{piece}");
        }
    }
}

#[test]
fn cached_convolutions_have_the_bits_of_packed_ones() {
    same_bits(convolutions);
}

/// Attention that keeps keys and values beside a convolution's state, and a failed step.
#[test]
fn what_a_sequence_was_is_kept_beside_its_keys_and_values() {
    let block: Block = Box::new(|g, layer, x| {
        let y = g.conv(&format!("layer{layer}.conv"), x, TAPS, true)?;
        let q = g.unflatten(y, 3)?;
        let y = g.attention(q, q, q, &AttnSpec::default())?;
        let y = g.flatten(y)?;
        g.binary(Binary::Add, x, y)
    });
    let player = Player::bare(base(Bare { layers: 2, block }, 3));
    let traced = trace(&*player.base.arch).unwrap();
    assert_eq!(traced.state_bytes, 2 * 4 * (TAPS - 1) * WIDTH);
    assert_eq!(traced.cache_bytes_per_token, 2 * 2 * 4 * WIDTH);

    let tokens = Random(8).tokens(40, VOCAB);
    let mut cache = KvCache::new(&player, 2);
    let want = cached(&player, &mut cache, &tokens, 40);
    let held = 2 * traced.state_bytes;
    assert!(cache.bytes() > held + 2 * traced.cache_bytes_per_token * 40 - 1);
    // a token that is none fails before anything has changed
    cache.clear(1);
    cached(&player, &mut cache, &tokens[..39], 5);
    let bad = [SlotTokens {
        slot: 1,
        tokens: &[VOCAB as u32],
    }];
    assert!(player.step(&mut cache, &bad).is_err());
    let got = cached(&player, &mut cache, &tokens[39..], 1);
    for (got, want) in got.iter().zip(&want) {
        let (got, want) = (f32::from_bits(*got), f32::from_bits(*want));
        assert!((got - want).abs() < 1e-5, "{got} for {want}");
    }
}

/// A step that fails between two blocks leaves states of the first ahead of its tokens: its
/// sequence must begin again.
#[test]
fn a_step_that_failed_halfway_is_not_gone_on_from() {
    let block: Block = Box::new(|g, layer, x| {
        let y = g.conv(&format!("layer{layer}.conv"), x, 3, false)?;
        match layer {
            0 => Ok(y),
            _ => g.unary(Unary::Silu, y),
        }
    });
    let player = Player::bare(base(Bare { layers: 2, block }, 3));
    let mut lacking = player.base.weights.clone();
    lacking.remove("layer1.conv.weight");
    let lacking = Player::bare(Arc::new(Base {
        arch: player.base.arch.clone(),
        config: player.base.config.clone(),
        weights: lacking,
        squares: Default::default(),
        compute: Default::default(),
    }));
    let mut cache = KvCache::new(&player, 2);
    let step = |player: &Player, cache: &mut KvCache| {
        let tokens = [SlotTokens {
            slot: 1,
            tokens: &[1, 2],
        }];
        player.step(cache, &tokens).map(|t| bits(&t))
    };
    let want = step(&player, &mut cache).unwrap();
    assert!(step(&lacking, &mut cache).is_err());
    let error = step(&player, &mut cache).unwrap_err().to_string();
    assert!(error.contains("slot 1 has failed"), "{error}");
    cache.clear(1);
    assert_eq!(step(&player, &mut cache).unwrap(), want);
}

/// Slots are refilled, prompts come in pieces: the number of slots changes no token.
#[test]
fn the_number_of_slots_changes_no_response() {
    let player = bare(convolutions);
    let mut random = Random(6);
    let prompts: Vec<Vec<u32>> = [3, 600, 1, 9, 2]
        .into_iter()
        .map(|n| random.tokens(n, VOCAB))
        .collect();
    let of = |slots| {
        let options = GenerateOptions {
            max_new_tokens: 9,
            slots,
            vocabulary: WIDTH,
            ..GenerateOptions::default()
        };
        generate(&player, &prompts, &[], &options, &mut |_| {}).unwrap()
    };
    let one = of(1);
    assert_eq!(one, of(2));
    assert_eq!(one, of(5));
}

/// An adapter finds no projection in a convolution.
#[test]
fn a_convolution_is_no_projection() {
    let player = trained(|g, p, x| g.conv(&format!("{p}.conv"), x, 3, false));
    let named = Targets::Names(vec!["conv".into()]);
    let error = Player::with_lora(player.base.clone(), spec(named, 0.0), 1);
    let error = error.map(drop).unwrap_err().to_string();
    assert!(error.contains("conv"), "{error}");
    let every = Player::with_lora(player.base.clone(), spec(Targets::AllLinear, 0.0), 1).unwrap();
    assert!(every.params.keys().all(|name| !name.contains("conv")));
}

#[test]
fn a_convolution_refuses_what_it_cannot_mean() {
    let refused = |block: Block| {
        let error = trace(&Bare { layers: 1, block }).unwrap_err();
        error.to_string()
    };
    let error = refused(Box::new(|g, _, x| g.conv("c", x, 0, false)));
    assert!(error.contains("at least 1 tap"), "{error}");
    let error = refused(Box::new(|g, _, x| {
        let heads = g.unflatten(x, 3)?;
        g.conv("c", heads, 2, false)
    }));
    assert!(error.contains("wants (channels)"), "{error}");
}

/// q and k of 2 heads, v of 4, from parts of x, and their gates.
fn delta_rule(g: &mut dyn Backend, q: Id, k: Id, v: Id, gates: [Id; 2]) -> OpResult {
    let (q, k, v) = (g.unflatten(q, 2)?, g.unflatten(k, 2)?, g.unflatten(v, 4)?);
    let strength = g.unary(Unary::Sigmoid, gates[0])?;
    // -e^(gate/2 - 1): a few tenths
    let decay = g.affine(gates[1], 0.5, -1.0)?;
    let decay = g.unary(Unary::Exp, decay)?;
    let decay = g.affine(decay, -1.0, 0.0)?;
    let y = g.delta_rule(q, k, v, strength, decay)?;
    g.flatten(y)
}

#[test]
fn the_delta_rule_has_the_gradients_of_finite_differences() {
    check(|g, p, x| {
        let mut project = |name: &str, out| g.linear(&format!("{p}.{name}"), x, out, false);
        let (q, k, v) = (project("q", 6)?, project("k", 6)?, project("v", 12)?);
        let gates = [project("b", 4)?, project("g", 4)?];
        // of keys about as long as 1, as a norm would leave them
        let (q, k) = (g.affine(q, 0.5, 0.0)?, g.affine(k, 0.4, 0.0)?);
        delta_rule(g, q, k, v, gates)
    });
}

/// x + delta(x), of parts of x alone.
fn deltas(g: &mut dyn Backend, _: usize, x: Id) -> OpResult {
    let (q, k) = (g.narrow(x, 0, 6)?, g.narrow(x, 6, 6)?);
    let k = g.affine(k, 0.3, 0.0)?;
    let gates = [g.narrow(x, 2, 4)?, g.narrow(x, 7, 4)?];
    let y = delta_rule(g, q, k, x, gates)?;
    g.binary(Binary::Add, x, y)
}

#[test]
fn the_cached_delta_rule_has_the_bits_of_the_packed_one() {
    same_bits(deltas);
    let traced = trace(&*bare(deltas).base.arch).unwrap();
    assert_eq!(traced.state_bytes, 2 * 4 * (4 * 3 * 3));
    assert_eq!(traced.cache_bytes_per_token, 0);
}

/// Rows of a packed pass against their sequences alone, in f64, written as the paper has it.
#[test]
fn the_packed_delta_rule_equals_a_naive_f64_reference() {
    let block: Block = Box::new(deltas);
    let base: Arc<Base> = base(Bare { layers: 1, block }, 5);
    let table = weight(&base, "embed.weight");
    let plan = forks();
    let hidden = floats(&Player::bare(base).hidden(&plan).unwrap());
    for segment in &plan.segments {
        let parent = segment.parent.map(|p| &plan.segments[p]);
        let before = parent.map_or(0..0, |p| p.start..p.start + p.len);
        let own = segment.start..segment.start + segment.len;
        let mut states = [[[0f64; 3]; 3]; 4]; // head, key feature, value feature
        for row in before.chain(own.clone()) {
            let token = plan.ids[row] as usize;
            let x: Vec<f64> = table[token * WIDTH..][..WIDTH]
                .iter()
                .map(|x| f64::from(*x))
                .collect();
            for (head, state) in states.iter_mut().enumerate() {
                let of = |from: usize, by: f64| [0, 1, 2].map(|i| by * x[from + i]);
                let (q, k) = (of(head / 2 * 3, 1.0), of(6 + head / 2 * 3, 0.3));
                let v = of(head * 3, 1.0);
                let strength = 1.0 / (1.0 + (-x[2 + head]).exp());
                let decay = (-(x[7 + head] * 0.5 - 1.0).exp()).exp();
                let mut out = [0f64; 3];
                for j in 0..3 {
                    (0..3).for_each(|i| state[i][j] *= decay);
                    let held: f64 = (0..3).map(|i| state[i][j] * k[i]).sum();
                    for i in 0..3 {
                        state[i][j] += k[i] * strength * (v[j] - held);
                        out[j] += state[i][j] * q[i];
                    }
                }
                if !own.contains(&row) {
                    continue;
                }
                for j in 0..3 {
                    let got = f64::from(hidden[row * WIDTH + head * 3 + j]);
                    let want = x[head * 3 + j] + out[j];
                    assert!((got - want).abs() < 1e-5, "row {row}: {got} for {want}");
                }
            }
        }
    }
}

#[test]
fn the_delta_rule_refuses_what_it_cannot_mean() {
    for (keys, values, gates) in [(4, 3, 3), (2, 4, 3), (3, 4, 4)] {
        let block: Block = Box::new(move |g, _, x| {
            let (q, v) = (g.unflatten(x, keys)?, g.unflatten(x, values)?);
            let gate = g.narrow(x, 0, gates)?;
            let y = g.delta_rule(q, q, v, gate, gate)?;
            g.flatten(y)
        });
        let error = trace(&Bare { layers: 1, block }).unwrap_err().to_string();
        assert!(error.contains("a multiple of key heads"), "{error}");
    }
}
