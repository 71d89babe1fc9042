//! DoRA: against its merge, token by token, and against finite differences (its gradients of A and
//! B, whose norm is a constant, are held against PyTorch's in tests/goldens.rs).

use std::sync::Arc;

use crate::ops::{Llama, Random, base, floats, gradients, merged, plan, slopes, spec};
use randori_engine::{Base, KvCache, Packed, PassOptions, Player, SlotTokens};
use randori_lora::Targets;

fn llama() -> Arc<Base> {
    base(Llama::tiny(), 2)
}

/// A DoRA player whose B and magnitudes have moved.
fn magnified() -> Player {
    let spec = randori_lora::LoraSpec {
        dora: true,
        ..spec(Targets::AllLinear, 0.0)
    };
    let fresh = Player::with_lora(llama(), spec, 3).unwrap();
    let mut random = Random(31);
    let params = fresh.params.iter().map(|(name, t)| {
        let by = random.tensor(t.dims(), 0.2);
        let moved = match name {
            n if n.ends_with("lora_B") => by,
            n if n.ends_with("vector") => t.mul(&(by + 1.0).unwrap()).unwrap(),
            _ => t.clone(),
        };
        (name.clone(), moved)
    });
    Player {
        params: Arc::new(params.collect()),
        ..fresh.clone()
    }
}

#[test]
fn dora_scores_as_its_merge_and_decodes_as_it_scores() {
    let player = magnified();
    let plan = plan(29, 5);
    let with = player.logps(&plan).unwrap();
    let alone = Player::bare(Arc::new(merged(&player)))
        .logps(&plan)
        .unwrap();
    let bare = Player::bare(player.base.clone()).logps(&plan).unwrap();
    for ((with, merged), bare) in with.iter().zip(&alone).zip(&bare) {
        assert!((with - merged).abs() < 2e-5, "{with}, merged {merged}");
        assert!((with - bare).abs() > 1e-4, "the adapter does nothing");
    }
    // a fresh one changes nothing but by rounding
    let spec = (**player.lora.as_ref().unwrap()).clone();
    let fresh = Player::with_lora(player.base.clone(), spec, 3).unwrap();
    for (fresh, bare) in fresh.logps(&plan).unwrap().iter().zip(&bare) {
        assert!((fresh - bare).abs() < 1e-5, "{fresh} {bare}");
    }
    // token by token, with the norms of the first step
    let mut cache = KvCache::new(&player, 1);
    let mut single = Packed::default();
    single.push(&[3], &[&[7, 1, 4]]);
    let scored = player.logps(&single).unwrap();
    for (i, (&token, next)) in [3u32, 7, 1].iter().zip([7usize, 1, 4]).enumerate() {
        let tokens = [token];
        let step = [SlotTokens {
            slot: 0,
            tokens: &tokens,
        }];
        let logits = floats(&player.step(&mut cache, &step).unwrap());
        let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        let logp = f64::from(logits[next]) - sum.ln();
        assert!((logp - scored[i]).abs() < 1e-5, "{logp} {}", scored[i]);
    }
}

#[test]
fn dora_magnitudes_have_the_gradient_of_finite_differences() {
    let player = magnified();
    let plan = plan(29, 5);
    let weights = slopes(&plan);
    let loss = |p: &Player| -> f64 {
        let logps = p.logps(&plan).unwrap();
        logps.iter().zip(&weights).map(|(l, w)| l * w).sum()
    };
    let plain = gradients(&player, &plan, &PassOptions::default());
    let again = PassOptions {
        checkpoint: true,
        ..PassOptions::default()
    };
    let again = gradients(&player, &plan, &again);
    for (name, grad) in &plain {
        assert_eq!(floats(grad), floats(&again[name]), "{name}");
    }
    assert_eq!(plain.len(), player.params.len());
    for (name, value) in player.params.iter().filter(|(n, _)| n.ends_with("vector")) {
        let direction = Random(6).tensor(value.dims(), 1.0);
        let at = |by: f64| {
            let mut params = (*player.params).clone();
            let t = params[name].add(&(&direction * by).unwrap()).unwrap();
            params.insert(name.clone(), t);
            loss(&Player {
                params: Arc::new(params),
                ..player.clone()
            })
        };
        let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
        let pairs = floats(&plain[name]);
        let dot: f64 = pairs
            .iter()
            .zip(floats(&direction))
            .map(|(g, d)| f64::from(*g) * f64::from(d))
            .sum();
        assert!(
            (difference - dot).abs() < 5e-3 * dot.abs().max(1.0),
            "{name}: {difference} {dot}"
        );
    }
}
