//! Players with adapters, and a property of every player: a packed pair equals its responses one by
//! one.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use randori_engine::{Base, Grads, Packed, Params, PassOptions, Player};
use randori_lora::{LoraSpec, Targets};

use crate::model::{Shape, Weights, agree, dense, rows, tokens, uniform};

/// An adapter on every projection whose B is not zero.
pub fn adapted(base: Arc<Base>, rslora: bool) -> Player {
    let spec = LoraSpec {
        rank: 4,
        alpha: 6.0,
        rslora,
        dropout: 0.0,
        targets: Targets::AllLinear,
        ..LoraSpec::default()
    };
    let fresh = Player::with_lora(base, spec, 21).unwrap();
    let random = |(name, t): (&String, &Tensor)| {
        let size = if name.ends_with("lora_B") { 0.1 } else { 0.4 };
        let values: Vec<f32> = uniform(22, name, t.elem_count())
            .map(|u| (size * (2.0 * u - 1.0)) as f32)
            .collect();
        (
            name.clone(),
            Tensor::from_vec(values, t.shape(), &Device::Cpu).unwrap(),
        )
    };
    let params: Params = fresh.params.iter().map(random).collect();
    Player {
        params: Arc::new(params),
        ..fresh
    }
}

/// The base's weights with the player's update merged in, by the adapter's own merge.
pub fn merged(player: &Player) -> Weights {
    let spec = player.lora.as_ref().unwrap();
    let mut weights = dense(&player.base);
    for (name, weight) in weights.iter_mut() {
        let projection = name.trim_end_matches(".weight");
        if let Some(update) = spec.update(&player.params, projection) {
            *weight = randori_lora::merge(weight, &update).unwrap();
        }
    }
    weights
}

/// log-probs and gradients of prompts with two responses each, packed, against each response in a
/// plan of its own.
pub fn pair_equals_each_alone(what: &str, player: &Player, shape: &Shape) {
    let list = |seed: u64, n: usize| tokens(seed, n, shape.vocab);
    let pairs = [
        (list(11, 6), list(12, 9), list(13, 4)),
        (list(14, 1), list(15, 1), list(16, 7)),
    ];
    let mut together = Packed::default();
    let mut alone = Vec::new();
    for (prompt, real, generated) in &pairs {
        together.push(prompt, &[real, generated]);
        for response in [real, generated] {
            let mut plan = Packed::default();
            plan.push(prompt, &[response]);
            alone.push(plan);
        }
    }
    let got = player.logps(&together).unwrap();
    let want: Vec<f64> = alone
        .iter()
        .flat_map(|plan| player.logps(plan).unwrap())
        .collect();
    agree(
        &format!("{what}: a pair's log-probs"),
        &vec![got],
        &vec![want.clone()],
    );
    if player.params.is_empty() {
        return;
    }
    let slope = |i: usize| (i as f64 * 0.7).sin();
    let mut grads = Grads::new();
    let options = PassOptions::default();
    let mut slopes = |logps: &[f64]| Ok((0..logps.len()).map(slope).collect());
    player
        .forward_backward(&together, &options, &mut slopes, &mut grads)
        .unwrap();
    let (mut sum, mut done) = (Grads::new(), 0);
    for plan in &alone {
        let mut slopes = |logps: &[f64]| Ok((done..done + logps.len()).map(slope).collect());
        player
            .forward_backward(plan, &options, &mut slopes, &mut sum)
            .unwrap();
        done += plan.targets.len();
    }
    assert_eq!(
        grads.len(),
        player.params.len(),
        "{what}: every parameter has a gradient"
    );
    for (name, grad) in &grads {
        let flat = |t: &Tensor| rows(&t.flatten_all().unwrap().unsqueeze(0).unwrap());
        agree(
            &format!("{what}: gradient of {name}"),
            &flat(grad),
            &flat(&sum[name]),
        );
    }
}

/// |a - b| / |b|, over all values.
pub fn relative_error(a: &Tensor, b: &Tensor) -> f32 {
    let norm = |t: Tensor| t.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>();
    norm((a - b).unwrap()).unwrap() / norm(b.clone()).unwrap()
}
