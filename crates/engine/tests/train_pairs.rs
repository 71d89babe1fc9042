//! Training on pairs with LoRA on a small Llama: the game's invariants, accumulation, and what
//! happens to bad numbers.

use std::collections::BTreeMap;

use randori_engine::{
    Error, Params, Player,
    train::{
        AdamW, Control, Example, Optimizer, Pair, Schedule, StepMetrics, TrainSettings, Trainer,
    },
};
use randori_sdk::seam::{LossFn, LossOut, Rows};

use crate::tiny::*;

/// Pairs scored by `opponent`.
fn pairs(opponent: &Player, count: usize, vocab: usize) -> Vec<Pair> {
    scored(opponent, random_pairs(count, 1..6, 2..9, vocab, [0.0; 2]))
}

fn settings() -> TrainSettings {
    TrainSettings {
        optimizer: Optimizer::adamw(),
        learning_rate: 1e-2,
        schedule: Schedule::default(),
        batch: 4,
        epochs: 1,
        micro_batch_tokens: 40,
        ..TrainSettings::default()
    }
}

fn train(trainer: &mut Trainer, pairs: &[Pair]) -> Vec<StepMetrics> {
    let mut metrics = vec![];
    trainer
        .train_pairs(pairs, &Logistic(0.1), &mut |m, _| {
            metrics.push(m.clone());
            Ok(Control::Continue)
        })
        .unwrap();
    metrics
}

fn values(params: &Params) -> BTreeMap<String, Vec<f32>> {
    params
        .iter()
        .map(|(name, t)| (name.clone(), t.flatten_all().unwrap().to_vec1().unwrap()))
        .collect()
}

fn largest_difference(a: &Player, b: &Player) -> f32 {
    let (a, b) = (values(&a.params), values(&b.params));
    assert!(a.keys().eq(b.keys()));
    a.values()
        .flatten()
        .zip(b.values().flatten())
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn step_0_has_loss_ln_2_and_no_rewards() {
    let opponent = lora();
    let mut trainer = Trainer::new(
        opponent.clone(),
        TrainSettings {
            batch: 12,
            ..settings()
        },
    )
    .unwrap();
    let first = train(&mut trainer, &pairs(&opponent, 12, VOCAB)).remove(0);
    let p = first.pairs.unwrap();
    assert!(
        (first.loss - std::f64::consts::LN_2).abs() < 1e-6,
        "{}",
        first.loss
    );
    for reward in [
        p.rewards.unwrap().real,
        p.rewards.unwrap().generated,
        p.rewards.unwrap().margins,
    ] {
        assert!(reward.abs() < 1e-5, "{p:?}");
    }
    assert_eq!(p.rewards.unwrap().accuracies, 0.0, "a tie is not a win");
    assert!(first.grad_norm > 1e-3);
    assert_eq!((first.step, first.total_steps, first.epoch), (1, 1, 1.0));
}

#[test]
fn identical_responses_give_no_gradient() {
    let opponent = lora();
    let mut pairs = pairs(&opponent, 4, VOCAB);
    for pair in &mut pairs {
        pair.generated = pair.real.clone();
        pair.ref_generated = pair.ref_real;
    }
    let metrics = train(&mut Trainer::new(opponent, settings()).unwrap(), &pairs);
    assert!(metrics[0].grad_norm < 1e-6, "{}", metrics[0].grad_norm);
    assert!((metrics[0].loss - std::f64::consts::LN_2).abs() < 1e-6);
}

#[test]
fn accumulated_is_the_full_batch() {
    let opponent = lora();
    let pairs = pairs(&opponent, 10, VOCAB);
    // a large eps makes the update linear in the gradient, so that rounding is not blown up where
    // it is near 0
    let optimizer = Optimizer::AdamW(AdamW {
        eps: 1.0,
        ..AdamW::default()
    });
    let run = |micro_batch_tokens, checkpoint| {
        let settings = TrainSettings {
            optimizer,
            learning_rate: 0.5,
            batch: 5,
            epochs: 2,
            micro_batch_tokens,
            checkpoint,
            ..settings()
        };
        let mut trainer = Trainer::new(opponent.clone(), settings).unwrap();
        let metrics = train(&mut trainer, &pairs);
        (trainer.player().unwrap(), metrics)
    };
    let (full, full_metrics) = run(10_000, false);
    assert!(
        largest_difference(&full, &opponent) > 1e-2,
        "nothing was trained"
    );
    for (budget, checkpoint) in [(1, false), (30, false), (30, true)] {
        let (player, metrics) = run(budget, checkpoint);
        assert!(
            largest_difference(&full, &player) < 1e-6,
            "{budget}: {}",
            largest_difference(&full, &player)
        );
        for (a, b) in full_metrics.iter().zip(&metrics) {
            assert!((a.loss - b.loss).abs() < 1e-6 && (a.grad_norm - b.grad_norm).abs() < 1e-6);
            assert_eq!(a.num_tokens, b.num_tokens);
            let (p, q) = (a.pairs.unwrap(), b.pairs.unwrap());
            assert!(
                (p.rewards.unwrap().margins - q.rewards.unwrap().margins).abs() < 1e-5
                    && p.rewards.unwrap().accuracies == q.rewards.unwrap().accuracies
            );
            // extra metrics are means over pairs whatever the micro-batches: here of a constant per
            // batch
            assert_eq!(a.extra[1].0, "progress");
            assert!((a.extra[1].1 - b.extra[1].1).abs() < 1e-12);
        }
    }
}

#[test]
fn training_separates_the_pairs_and_leaves_the_opponent() {
    let opponent = lora();
    let before = values(&opponent.params);
    let pairs = pairs(&opponent, 8, VOCAB);
    let mut trainer = Trainer::new(
        opponent.clone(),
        TrainSettings {
            epochs: 40,
            ..settings()
        },
    )
    .unwrap();
    let metrics = train(&mut trainer, &pairs);
    let last = metrics.last().unwrap();
    assert!(
        last.loss < 0.5 * metrics[0].loss,
        "{} -> {}",
        metrics[0].loss,
        last.loss
    );
    assert_eq!(last.pairs.unwrap().rewards.unwrap().accuracies, 1.0);
    assert!(last.pairs.unwrap().rewards.unwrap().margins > 0.1);
    assert_eq!(
        before,
        values(&opponent.params),
        "the frozen opponent moved"
    );
    assert_eq!((metrics.len(), last.epoch, last.step), (80, 40.0, 80));
    let keys: Vec<String> = last.values().into_iter().map(|(key, _)| key).collect();
    for key in [
        "loss",
        "grad_norm",
        "learning_rate",
        "num_tokens",
        "rewards/real",
        "rewards/margins",
        "logps/generated",
    ] {
        assert!(keys.iter().any(|k| k == key), "{key}");
    }
}

#[test]
fn dropout_is_off_unless_asked_for() {
    let opponent = lora();
    let pairs = pairs(&opponent, 8, VOCAB);
    let run = |dropout, seed| {
        let settings = TrainSettings {
            dropout,
            seed,
            shuffle: false,
            epochs: 3,
            ..settings()
        };
        let mut trainer = Trainer::new(opponent.clone(), settings).unwrap();
        train(&mut trainer, &pairs);
        trainer.player().unwrap()
    };
    assert_eq!(largest_difference(&run(false, 1), &run(false, 2)), 0.0);
    assert_eq!(largest_difference(&run(true, 1), &run(true, 1)), 0.0);
    assert!(largest_difference(&run(true, 1), &run(true, 2)) > 0.0);
    assert!(largest_difference(&run(true, 1), &run(false, 1)) > 0.0);
}

/// A loss that breaks at the pair whose real response begins with `at`.
struct Broken<'a> {
    pairs: &'a [Pair],
    at: usize,
    slope_only: bool,
}

impl LossFn for Broken<'_> {
    fn name(&self) -> &str {
        "broken"
    }
    fn needs_ref(&self) -> bool {
        true
    }
    fn eval(&self, rows: &Rows) -> Result<LossOut, String> {
        let mut out = Logistic(0.1).eval(rows)?;
        for i in
            (0..rows.ref_logp.len()).filter(|&i| rows.ref_logp[i] == self.pairs[self.at].ref_real)
        {
            out.d_logp[i] = f64::NAN;
            if !self.slope_only {
                out.loss[rows.group[i] as usize] = f64::NAN;
            }
        }
        Ok(out)
    }
}

#[test]
fn a_loss_that_is_not_finite_names_step_and_pair_and_changes_nothing() {
    let opponent = lora();
    let pairs = pairs(&opponent, 8, VOCAB);
    for slope_only in [false, true] {
        let loss = Broken {
            pairs: &pairs,
            at: 6,
            slope_only,
        };
        let mut trainer = Trainer::new(
            opponent.clone(),
            TrainSettings {
                shuffle: false,
                ..settings()
            },
        )
        .unwrap();
        let mut good = None;
        let error = trainer
            .train_pairs(&pairs, &loss, &mut |_, trainer| {
                good = Some(trainer.player().unwrap());
                Ok(Control::Continue)
            })
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("step 2 of 2: data.jsonl:7: loss broken is"),
            "{error}"
        );
        assert_eq!(trainer.step(), 1);
        assert_eq!(
            largest_difference(&trainer.player().unwrap(), &good.unwrap()),
            0.0
        );
    }
}

/// Finite log-probs whose gradient is not: slopes so large that they overflow f32.
struct Steep<'a>(&'a [Pair]);

impl LossFn for Steep<'_> {
    fn name(&self) -> &str {
        "steep"
    }
    fn needs_ref(&self) -> bool {
        true
    }
    fn eval(&self, rows: &Rows) -> Result<LossOut, String> {
        let mut out = Logistic(0.1).eval(rows)?;
        for i in (0..rows.ref_logp.len()).filter(|&i| rows.ref_logp[i] == self.0[2].ref_real) {
            out.d_logp[i] = 1e60;
        }
        Ok(out)
    }
}

#[test]
fn a_gradient_that_is_not_finite_names_step_and_pair_and_changes_nothing() {
    let opponent = lora();
    let pairs = pairs(&opponent, 4, VOCAB);
    let mut trainer = Trainer::new(opponent.clone(), settings()).unwrap();
    let error = trainer
        .train_pairs(&pairs, &Steep(&pairs), &mut |_, _| Ok(Control::Continue))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("step 1 of 1: data.jsonl:3: the gradient's norm is"),
        "{error}"
    );
    assert_eq!(
        (
            trainer.step(),
            largest_difference(&trainer.player().unwrap(), &opponent)
        ),
        (0, 0.0)
    );
}

#[test]
fn a_model_that_is_not_finite_names_the_pair() {
    let mut table = vec![vec![0.0f32; 4]; 4];
    table[2][1] = f32::NAN;
    let pair = |prompt: Vec<u32>, place: &str| Pair {
        prompt,
        real: vec![1],
        generated: vec![0],
        ref_real: 0.0,
        ref_generated: 0.0,
        rewards: None,
        place: place.into(),
    };
    let mut trainer = Trainer::new(Player::full(bigram(&table)).unwrap(), settings()).unwrap();
    let pairs = [pair(vec![2], "a:9")];
    let error = trainer
        .train_pairs(&pairs, &Logistic(1.0), &mut |_, _| Ok(Control::Continue))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("step 1 of 1: a:9: the policy's log-prob is NaN"),
        "{error}"
    );
    let example = [Example {
        prompt: &[2],
        response: &[1],
        place: &"b:3",
    }];
    let error = trainer
        .train_sft(&example, &mut |_, _| Ok(Control::Continue))
        .unwrap_err()
        .to_string();
    assert!(error.contains("b:3"), "{error}");
}

#[test]
fn bad_pairs_and_settings_are_refused() {
    let refuse = |change: fn(&mut TrainSettings), words: &str| {
        let mut settings = settings();
        change(&mut settings);
        let error = Trainer::new(lora(), settings).err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
    };
    refuse(|s| s.learning_rate = 0.0, "learning_rate is 0");
    refuse(|s| s.learning_rate = f64::NAN, "learning_rate is NaN");
    refuse(|s| s.clip = Some(-1.0), "clip is -1");
    refuse(
        |s| s.min_learning_rate = Some(1.0),
        "min_learning_rate is 1",
    );
    refuse(|s| s.schedule.warmup_ratio = 1.5, "warmup_ratio is 1.5");
    refuse(|s| s.batch = 0, "batch is 0");
    refuse(|s| s.epochs = 0, "epochs is 0");
    refuse(|s| s.micro_batch_tokens = 0, "micro_batch_tokens is 0");
    refuse(|s| s.max_steps = Some(0), "max_steps is 0");
    assert!(
        Trainer::new(Player::bare(llama()), settings()).is_err(),
        "nothing to train"
    );

    let opponent = lora();
    let good = pairs(&opponent, 2, VOCAB);
    let mut trainer = Trainer::new(opponent, settings()).unwrap();
    let mut refuse = |change: fn(&mut Pair), words: &str| {
        let mut pairs = good.clone();
        change(&mut pairs[1]);
        let error = trainer
            .train_pairs(&pairs, &Logistic(0.1), &mut |_, _| Ok(Control::Continue))
            .unwrap_err();
        assert!(
            error.to_string().contains("data.jsonl:2") && error.to_string().contains(words),
            "{error}"
        );
    };
    refuse(|p| p.prompt.clear(), "prompt is empty");
    refuse(
        |p| p.ref_generated = f64::NEG_INFINITY,
        "generated response is -inf",
    );
    assert!(
        trainer
            .train_pairs::<Pair>(&[], &Logistic(0.1), &mut |_, _| Ok(Control::Continue))
            .is_err()
    );
    assert!(
        trainer
            .train_sft(&[], &mut |_, _| Ok(Control::Continue))
            .is_err()
    );
}

#[test]
fn a_listener_stops_and_its_error_comes_back() {
    let opponent = lora();
    let pairs = pairs(&opponent, 12, VOCAB);
    let mut whole = Trainer::new(opponent.clone(), settings()).unwrap();
    assert_eq!(train(&mut whole, &pairs).len(), 3);
    let mut parts = Trainer::new(opponent, settings()).unwrap();
    parts
        .train_pairs(&pairs, &Logistic(0.1), &mut |_, _| Ok(Control::Stop))
        .unwrap();
    assert_eq!(parts.step(), 1);
    let stop = |_: &StepMetrics, _: &Trainer| Err(Error::rule("disk full"));
    assert!(
        parts
            .train_pairs(&pairs, &Logistic(0.1), &mut { stop })
            .is_err()
    );
    assert_eq!(
        parts.step(),
        2,
        "the update was made before the listener failed"
    );
    assert_eq!(train(&mut parts, &pairs).len(), 1);
    assert_eq!(
        largest_difference(&whole.player().unwrap(), &parts.player().unwrap()),
        0.0
    );
}
