//! Values that cross blocks, shared keys and values and a second embedding, against the same
//! function in a widened stream; their gradients, their cache, and what is refused.

use std::sync::Arc;

use randori_engine::{
    Base, GenerateOptions, KvCache, Packed, PassOptions, Player, SlotTokens, generate, trace,
};
use randori_lora::Targets;
use randori_sdk::seam::{AttnSpec, Backend, Id, OpResult, RouteSpec};

use crate::ops::{
    Block, Probe, Random, adapted, base, bits, check_gradients, floats, gradients, plan,
    shared::Shared,
};

const VOCAB: usize = 17;

/// Three responses behind one prompt, long enough for a block to let go of values early.
fn forks() -> Packed {
    let mut random = Random(4);
    let mut of = |n: usize| random.tokens(n, VOCAB);
    let (short, mut plan) = (of(2), plan(VOCAB, 9));
    plan.push(&of(9), &[&of(7), &short, &of(5)]);
    plan.push(&of(20), &[&of(75)]);
    plan
}

/// The same weights under the model that carries nothing.
fn widened(base: &Base) -> Arc<Base> {
    let arch = Shared {
        widened: true,
        ..Shared::tiny()
    };
    Arc::new(Base {
        arch: Arc::new(arch),
        config: base.config.clone(),
        weights: base.weights.clone(),
        squares: Default::default(),
        compute: Default::default(),
    })
}

fn checkpointed() -> PassOptions {
    PassOptions {
        checkpoint: true,
        ..PassOptions::default()
    }
}

#[test]
fn a_pass_is_that_of_the_widened_stream() {
    let base = base(Shared::tiny(), 3);
    let (carried, wide) = (Player::full(base.clone()), Player::full(widened(&base)));
    let (carried, wide, plan) = (carried.unwrap(), wide.unwrap(), forks());
    let both = [&carried, &wide].map(|player| player.logps(&plan).unwrap());
    for (a, b) in both[0].iter().zip(&both[1]) {
        assert!((a - b).abs() < 1e-6, "{a} for {b}");
    }
    let (ours, theirs) = (
        gradients(&carried, &plan, &PassOptions::default()),
        gradients(&wide, &plan, &PassOptions::default()),
    );
    assert_eq!(ours.len(), theirs.len());
    for (name, grad) in &ours {
        let (a, b) = (floats(grad), floats(&theirs[name]));
        let most = b.iter().fold(0.0, |most: f32, g| most.max(g.abs()));
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < 3e-5 * most, "{name}: {a} for {b}");
        }
    }
}

#[test]
fn gradients_cross_blocks_as_finite_differences_say() {
    let plan = forks();
    let full = Player::full(base(Shared::tiny(), 3)).unwrap();
    // nothing below the embedding's projection is trained: the stream from there has no gradient
    let adapter = adapted(base(Shared::tiny(), 3), Targets::AllLinear, 0.0);
    assert!(adapter.params.contains_key("project.lora_A"));
    let only = adapted(
        base(Shared::tiny(), 3),
        Targets::Names(vec!["project".into()]),
        0.0,
    );
    for player in [full, adapter, only] {
        check_gradients(&player, &plan, 1e-2, 5e-3);
        let kept = gradients(&player, &plan, &PassOptions::default());
        let again = gradients(&player, &plan, &checkpointed());
        assert_eq!((kept.len(), again.len()), (player.params.len(), kept.len()));
        for (name, grad) in &kept {
            assert_eq!(bits(grad), bits(&again[name]), "{name}");
        }
    }
}

/// Blocks that a wholly frozen model runs record nothing and carry all the same.
#[test]
fn a_frozen_model_has_the_log_probs_of_a_trained_one() {
    let base = base(Shared::tiny(), 3);
    let plan = forks();
    let frozen = Player::bare(base.clone()).logps(&plan).unwrap();
    let trained = Player::full(base).unwrap().logps(&plan).unwrap();
    assert_eq!(frozen, trained);
}

fn log_prob(logits: &[f32], token: u32) -> f64 {
    let sum: f64 = logits.iter().map(|z| f64::from(*z).exp()).sum();
    f64::from(logits[token as usize]) - sum.ln()
}

#[test]
fn decoding_finds_shared_keys_in_the_cache_which_holds_them_once() {
    let arch = Shared::tiny();
    let player = Player::bare(base(arch.clone(), 3));
    let traced = trace(&*player.base.arch).unwrap();
    assert_eq!(
        traced.cache_bytes_per_token,
        arch.own * 2 * 4 * arch.keys(),
        "keys and values of the blocks that have their own"
    );
    let tokens = Random(8).tokens(40, VOCAB);
    let mut plan = Packed::default();
    plan.push(&tokens[..1], &[&tokens[1..]]);
    let packed = player.logps(&plan).unwrap();
    for piece in [1, 3, 7, 39] {
        let mut cache = KvCache::with_room(&player, &[40, 40]);
        let mut done = 0;
        for part in tokens[..39].chunks(piece) {
            // another sequence beside it, so that rows of both stand in a step
            let batch =
                [(1, part), (0, &part[..1])].map(|(slot, tokens)| SlotTokens { slot, tokens });
            let logits = floats(&player.step(&mut cache, &batch).unwrap());
            done += part.len();
            let got = log_prob(&logits[..VOCAB], tokens[done]);
            let want = packed[done - 1];
            assert!(
                (got - want).abs() < 1e-5,
                "{piece}, {done}: {got} for {want}"
            );
        }
        assert_eq!(cache.bytes(), 2 * 40 * traced.cache_bytes_per_token);
    }
}

#[test]
fn the_number_of_slots_changes_no_response() {
    let player = Player::bare(base(Shared::tiny(), 3));
    let mut random = Random(6);
    let prompts: Vec<Vec<u32>> = [3, 600, 1, 9, 2]
        .into_iter()
        .map(|n| random.tokens(n, VOCAB))
        .collect();
    let of = |slots| {
        let options = GenerateOptions {
            max_new_tokens: 9,
            slots,
            vocabulary: VOCAB,
            ..GenerateOptions::default()
        };
        let made = generate(&player, &prompts, &[], &options, &mut |_| {}).unwrap();
        made.into_iter().map(|g| g.tokens).collect::<Vec<_>>()
    };
    assert_eq!(of(1), of(2));
    assert_eq!(of(1), of(5));
}

/// An export measures rounding on inputs: also on those of what the embedding multiplies.
#[test]
fn inputs_are_seen_call_by_call() {
    let player = Player::bare(base(Shared::tiny(), 3));
    let seen = player.inputs(&forks(), 8).unwrap();
    let traced = trace(&*player.base.arch).unwrap();
    let named: Vec<&String> = traced.linears.iter().map(|l| &l.name).collect();
    assert!(
        named.iter().all(|name| seen.contains_key(*name)),
        "{named:?}"
    );
    let layers: Vec<Option<usize>> = traced
        .linears
        .iter()
        .filter(|l| l.name == "project" || l.name == "head")
        .map(|l| l.layer)
        .collect();
    assert_eq!(layers, [Some(0), None], "only the head is the head");
    let carried: Vec<_> = traced
        .carried
        .iter()
        .map(|c| (c.name.as_str(), c.shape.as_slice(), c.layer))
        .collect();
    let keys: &[usize] = &[2, 6];
    let shares: &[usize] = &[24];
    assert_eq!(
        carried,
        [
            ("shares", shares, None),
            ("keys", keys, Some(1)),
            ("values", keys, Some(1))
        ]
    );
}

fn probe(block: impl Fn(&mut dyn Backend, usize, Id) -> OpResult + Send + Sync + 'static) -> Probe {
    let block: Block = Box::new(block);
    Probe {
        vocab: VOCAB,
        width: 8,
        layers: 2,
        block,
    }
}

/// What both runs say of a faulty block.
fn refused(
    block: impl Fn(&mut dyn Backend, usize, Id) -> OpResult + Send + Sync + Clone + 'static,
    says: &str,
) {
    let traced = trace(&probe(block.clone())).unwrap_err().to_string();
    let sound = base(probe(|_, _, x| Ok(x)), 1);
    let base = Base {
        arch: Arc::new(probe(block)),
        config: sound.config.clone(),
        weights: sound.weights.clone(),
        squares: Default::default(),
        compute: Default::default(),
    };
    let eager = Player::bare(Arc::new(base)).hidden(&plan(VOCAB, 9));
    assert_eq!(traced, eager.unwrap_err().to_string());
    assert!(traced.contains(says), "{traced}");
}

#[test]
fn what_nobody_or_two_calls_carry_is_refused() {
    refused(
        |g, layer, x| match layer {
            0 => Ok(x),
            _ => g.carried("keys"),
        },
        "block 1: carried `keys`: neither the embedding nor an earlier block carries that",
    );
    // a block's own is not there yet
    refused(
        |g, _, x| {
            g.carry("keys", x)?;
            g.carried("keys")
        },
        "block 0: carried `keys`: neither",
    );
    refused(
        |g, _, x| g.carry("keys", x),
        "block 1: carry `keys`: the embedding or one block carries a name, once",
    );
    refused(|g, _, x| g.carry("", x), "carry wants a name");
    refused(
        |g, _, x| {
            let router = g.narrow(x, 0, 2)?;
            g.moe(router, x, &RouteSpec::top(1), &mut |g, _, rows| {
                g.carry("rows", rows).unwrap_or(0)
            })
        },
        "expert 0 failed",
    );
}

/// Two calls of attention of one block over the same keys and values keep them once, too; over
/// other values they do not.
#[test]
fn keys_are_told_from_keys_by_what_they_are() {
    for (same, calls) in [(true, 1), (false, 2)] {
        let player = Player::bare(base(
            probe(move |g, _, x| {
                let x = g.unflatten(x, 2)?;
                let v = g.affine(x, 0.5, 0.0)?;
                let y = g.attention(x, x, v, &AttnSpec::default())?;
                let v = match same {
                    true => v,
                    false => g.affine(x, 0.5, 0.0)?,
                };
                let y = g.attention(y, x, v, &AttnSpec::default())?;
                g.flatten(y)
            }),
            5,
        ));
        let traced = trace(&*player.base.arch).unwrap();
        assert_eq!(traced.cache_bytes_per_token, 2 * calls * 2 * 4 * 8);
        let mut cache = KvCache::with_room(&player, &[9]);
        let tokens = Random(8).tokens(9, VOCAB);
        let mut last = Vec::new();
        for part in tokens.chunks(2) {
            let step = [SlotTokens {
                slot: 0,
                tokens: part,
            }];
            last = floats(&player.step(&mut cache, &step).unwrap());
        }
        assert_eq!(cache.bytes(), 9 * traced.cache_bytes_per_token);
        let mut plan = Packed::default();
        plan.push(&tokens, &[&[3]]);
        let want = player.logps(&plan).unwrap()[0];
        assert!((log_prob(&last, 3) - want).abs() < 1e-5);
    }
}
