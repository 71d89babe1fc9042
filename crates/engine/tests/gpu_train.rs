//! Training on a GPU against the processor's: optimisers there and here, checkpoints. Wants what
//! tests/gpu.rs wants.
#![cfg(feature = "cuda")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use randori_engine::{
    Player,
    train::{Control, Optimizer, RmsProp, TrainSettings, Trainer},
};

mod tiny;
use tiny::{card::*, *};

/// Losses of 16 steps, and what became of the parameters. `stop`: saved after so many and resumed.
fn trained(
    player: &Player,
    settings: &TrainSettings,
    stop: usize,
) -> (Vec<f64>, BTreeMap<String, Vec<f64>>) {
    let pairs = scored(player, random_pairs(24, 2..9, 2..9, VOCAB, [0.0; 2]));
    let mut trainer = Trainer::new(player.clone(), settings.clone()).unwrap();
    let mut losses = Vec::new();
    let mut run = |trainer: &mut Trainer, until: usize| {
        trainer
            .train_pairs(&pairs, &Logistic(0.1), &mut |m, _| {
                losses.push(m.loss);
                Ok(match m.step == until {
                    true => Control::Stop,
                    false => Control::Continue,
                })
            })
            .unwrap();
    };
    if stop > 0 {
        let folder = tempfile::tempdir().unwrap();
        run(&mut trainer, stop);
        trainer.save(folder.path()).unwrap();
        trainer = Trainer::load(folder.path(), player.clone(), settings.clone()).unwrap();
        assert_eq!(trainer.step(), stop);
    }
    run(&mut trainer, 0);
    let params = trainer.into_player().unwrap().params;
    assert!(params.values().all(|t| t.device().is_cpu()));
    let values = |(name, t): (&String, &Tensor)| (name.clone(), host(t));
    (losses, params.iter().map(values).collect())
}

#[test]
fn sixteen_steps_follow_the_processors() {
    if skip() {
        return;
    }
    let settings = |optimizer, learning_rate| TrainSettings {
        optimizer,
        learning_rate,
        batch: 3,
        epochs: 2,
        micro_batch_tokens: 40,
        ..TrainSettings::default()
    };
    let momentum = Optimizer::RmsProp(RmsProp {
        alpha: 0.9,
        eps: 1e-6,
        weight_decay: 0.01,
        momentum: 0.5,
    });
    // of values in 8 bits, some fall on the other side of a middle
    for (optimizer, rate, rank, tolerance) in [
        (Optimizer::rmsprop(), 1e-2, 2, 1e-4),
        (momentum, 1e-3, 2, 1e-4),
        (Optimizer::adamw(), 1e-2, 2, 1e-4),
        (Optimizer::adamw_8bit(), 3e-3, 300, 2e-3),
    ] {
        let near = learnt(rank);
        let far = on(up(&near.base, DType::F32), &near);
        let settings = settings(optimizer, rate);
        let ((a, pa), (b, pb)) = (trained(&near, &settings, 0), trained(&far, &settings, 0));
        assert_eq!(a.len(), 16);
        assert!(apart(&b, &a) < tolerance, "{optimizer:?}: {a:?} {b:?}");
        assert!((b[0] - std::f64::consts::LN_2).abs() < 1e-6, "{}", b[0]);
        assert!(
            a.iter().any(|l| (l - a[0]).abs() > 1e-3),
            "{optimizer:?} does not learn: {a:?}"
        );
        for (name, want) in &pa {
            let d = apart(&pb[name], want);
            assert!(
                d < 20.0 * tolerance,
                "{optimizer:?}: {name} is {d} off after 16 steps"
            );
        }
        // the processor's optimiser beside the card's passes, and a run that is resumed
        let mut offloaded = settings.clone();
        offloaded.offload_optimizer = true;
        let (c, pc) = trained(&far, &offloaded, 0);
        assert!(apart(&c, &a) < tolerance, "{optimizer:?}, offloaded");
        assert!(
            pc != pb,
            "{optimizer:?}: the card's arithmetic is the processor's"
        );
        assert_eq!(
            trained(&far, &settings, 5),
            (b, pb),
            "{optimizer:?}, resumed"
        );
    }
}
