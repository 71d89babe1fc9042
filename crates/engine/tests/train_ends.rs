//! Trainings that have nothing to learn: whose rates are all 0, and whose loss is satisfied by
//! every pair.

use randori_engine::train::{
    Control, Example, Pair, Schedule, ScheduleKind, StepMetrics, TrainSettings, Trainer,
};
use randori_sdk::seam::{LossFn, LossOut, Rows};

use crate::tiny::*;

/// max(0, 1 − margin), flat from margin 1 on.
struct Hinge;

impl LossFn for Hinge {
    fn name(&self) -> &str {
        "hinge"
    }
    fn needs_ref(&self) -> bool {
        true
    }
    fn eval(&self, rows: &Rows) -> Result<LossOut, String> {
        let ratio = |row: usize| rows.logp[row] - rows.ref_logp[row];
        let margin = |g: usize| ratio(2 * g) - ratio(2 * g + 1);
        let open = |g: usize| if margin(g) < 1.0 { 1.0 } else { 0.0 };
        Ok(LossOut {
            loss: (0..rows.groups)
                .map(|g| (1.0 - margin(g)).max(0.0))
                .collect(),
            d_logp: (0..rows.groups).flat_map(|g| [-open(g), open(g)]).collect(),
            metrics: vec![],
        })
    }
}

/// Eight pairs; the policy is 100 nats better than its opponent at telling the `won` ones apart,
/// and as much worse at the others.
fn pairs(won: impl Fn(usize) -> bool) -> Vec<Pair> {
    let mut pairs = random_pairs(8, 1..6, 2..9, VOCAB, [0.0, -200.0]);
    for (_, pair) in pairs.iter_mut().enumerate().filter(|(i, _)| won(*i)) {
        (pair.ref_real, pair.ref_generated) = (-200.0, 0.0);
    }
    pairs
}

fn settings() -> TrainSettings {
    TrainSettings {
        batch: 4,
        epochs: 3,
        learning_rate: 1e-6,
        ..TrainSettings::default()
    }
}

fn train(trainer: &mut Trainer, pairs: &[Pair], until: usize) -> Vec<StepMetrics> {
    let mut metrics = vec![];
    trainer
        .train_pairs(pairs, &Hinge, &mut |m, _| {
            metrics.push(m.clone());
            Ok(match m.step == until {
                true => Control::Stop,
                false => Control::Continue,
            })
        })
        .unwrap();
    metrics
}

#[test]
fn a_satisfied_loss_ends_the_training_and_says_so() {
    let mut trainer = Trainer::new(lora(), settings()).unwrap();
    let metrics = train(&mut trainer, &pairs(|_| true), 0);
    let converged: Vec<bool> = metrics.iter().map(|m| m.converged).collect();
    // 6 steps were meant; after 2 every pair has been seen
    assert_eq!(converged, [false, true]);
    let told = |m: &StepMetrics| m.values().iter().any(|v| *v == ("converged".into(), 1.0));
    assert!(!told(&metrics[0]) && told(&metrics[1]));
    assert_eq!((metrics[1].loss, metrics[1].grad_norm), (0.0, 0.0));
}

#[test]
fn a_resumed_training_ends_at_the_same_step() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = pairs(|_| true);
    let load = || Trainer::load(folder.path(), lora(), settings()).unwrap();
    let mut first = Trainer::new(lora(), settings()).unwrap();
    train(&mut first, &pairs, 1);
    first.save(folder.path()).unwrap();
    let mut second = load();
    let metrics = train(&mut second, &pairs, 0);
    assert_eq!(metrics.len(), 1);
    assert!(metrics[0].converged && second.step() == 2);
    // killed before its stage was recorded: it is over
    second.save(folder.path()).unwrap();
    let mut third = load();
    assert!(train(&mut third, &pairs, 0).is_empty() && third.step() == 2);
}

#[test]
fn one_pair_that_pulls_keeps_it_going() {
    for open in [0, 7] {
        let mut trainer = Trainer::new(lora(), settings()).unwrap();
        let metrics = train(&mut trainer, &pairs(|i| i != open), 0);
        assert_eq!(metrics.len(), 6);
        assert!(metrics.iter().all(|m| !m.converged));
        assert!(metrics.iter().any(|m| m.grad_norm == 0.0), "a quiet step");
    }
}

/// Gradients that are 0 for another reason: slopes that cancel on equal responses.
#[test]
fn a_gradient_of_0_is_no_satisfied_loss() {
    let mut pairs = pairs(|_| false);
    for pair in &mut pairs {
        pair.generated = pair.real.clone();
        pair.ref_generated = pair.ref_real;
    }
    let mut trainer = Trainer::new(lora(), settings()).unwrap();
    let metrics = train(&mut trainer, &pairs, 0);
    assert_eq!(metrics.len(), 6);
    assert!(metrics.iter().all(|m| !m.converged && m.grad_norm < 1e-5));
}

/// Numbers above 0 that f32, in which weights are held, takes for 0.
#[test]
fn numbers_too_small_for_f32_are_refused() {
    for (tiny, says) in [
        (
            TrainSettings {
                learning_rate: 1e-300,
                ..settings()
            },
            "learning_rate is 1e-300; it must be a positive number in f32 too, where it is 0",
        ),
        (
            TrainSettings {
                clip: Some(1e-300),
                ..settings()
            },
            "clip is 1e-300; it must be a positive number in f32 too",
        ),
    ] {
        let error = Trainer::new(lora(), tiny).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}

/// transformers' warm-up begins at 0: `get_linear_schedule_with_warmup` of one step and one of
/// warm-up has the rate 0 alone (transformers 5.24.0).
#[test]
fn rates_that_are_all_0_are_refused_before_the_first_step() {
    let warmup = |kind, warmup_ratio, batch, epochs, max_steps| TrainSettings {
        schedule: Schedule { kind, warmup_ratio },
        batch,
        epochs,
        max_steps,
        ..settings()
    };
    let linear = ScheduleKind::Linear;
    for (settings, says) in [
        (
            warmup(linear, 0.1, 64, 1, None),
            "8 pairs, batch 64, epochs 1 make 1 step, and a warm-up of 0.1",
        ),
        (
            warmup(ScheduleKind::Constant, 1.0, 8, 1, None),
            "8 pairs, batch 8, epochs 1 make 1 step",
        ),
        (
            warmup(linear, 0.1, 4, 2, Some(1)),
            "8 pairs, batch 4, epochs 2 make 1 step",
        ),
        // half of 1e-45, f32's smallest number being 1.4e-45
        (
            TrainSettings {
                learning_rate: 1e-45,
                ..warmup(linear, 1.0, 4, 1, None)
            },
            "8 pairs, batch 4, epochs 1 make 2 steps",
        ),
    ] {
        let mut trainer = Trainer::new(lora(), settings).unwrap();
        let mut steps = 0;
        let error = trainer.train_pairs(&pairs(|_| false), &Hinge, &mut |_, _| {
            steps += 1;
            Ok(Control::Continue)
        });
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("nothing would be learnt: "), "{error}");
        assert!(error.contains(says), "{error}");
        assert_eq!(steps, 0);
    }
    for learns in [
        warmup(linear, 0.0, 64, 1, None),
        warmup(linear, 0.1, 64, 2, None),
        warmup(linear, 0.1, 4, 1, None),
        warmup(linear, 1.0, 4, 1, None),
    ] {
        learns.check_rates(8, "pairs").unwrap();
    }
    let example = Example {
        prompt: &[1],
        response: &[2],
        place: &"",
    };
    let mut trainer = Trainer::new(lora(), warmup(linear, 0.1, 64, 1, None)).unwrap();
    let error = trainer.train_sft(&[example], &mut |_, _| Ok(Control::Continue));
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("1 examples, batch 64")
    );
}
