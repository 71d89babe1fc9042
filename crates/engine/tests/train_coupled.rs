//! Losses over a whole step's pairs, dropout by item and position, and trainings that have nothing
//! to learn: on a small Llama, with gradients read off a single update.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use candle_core::Tensor;
use randori_engine::{
    Player,
    train::{
        AdamW, Control, Example, Optimizer, Pair, Schedule, StepMetrics, TrainSettings, Trainer,
    },
};
use randori_sdk::seam::{LossFn, LossOut, Rows};

use crate::tiny::*;

/// Every pair against the mean margin of its batch: softplus(−(m_i − mean m)). It is nothing but
/// coupled: a pair alone has the loss ln 2 and no slope.
#[derive(Default)]
struct Centred {
    /// Says that it is not.
    denies: bool,
    /// Has no memory so many times.
    refuses: AtomicUsize,
    calls: AtomicUsize,
}

impl LossFn for Centred {
    fn name(&self) -> &str {
        "centred"
    }
    fn needs_ref(&self) -> bool {
        true
    }
    fn coupled(&self) -> bool {
        !self.denies
    }
    fn eval(&self, rows: &Rows) -> Result<LossOut, String> {
        self.calls.fetch_add(1, Relaxed);
        if self.refuses.load(Relaxed) > 0 {
            self.refuses.fetch_sub(1, Relaxed);
            return Err("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into());
        }
        let n = rows.groups as f64;
        let ratio = |row: usize| rows.logp[row] - rows.ref_logp[row];
        let margins: Vec<f64> = (0..rows.groups)
            .map(|g| ratio(2 * g) - ratio(2 * g + 1))
            .collect();
        let mean = margins.iter().sum::<f64>() / n;
        // d softplus(−t) / dt
        let falling: Vec<f64> = margins
            .iter()
            .map(|m| -1.0 / (1.0 + (m - mean).exp()))
            .collect();
        let shared = falling.iter().sum::<f64>() / n;
        Ok(LossOut {
            loss: margins.iter().map(|m| (mean - m).exp().ln_1p()).collect(),
            d_logp: falling
                .iter()
                .flat_map(|f| [f - shared, shared - f])
                .collect(),
            metrics: vec![("mean".into(), mean)],
        })
    }
}

/// [`lora`] with random B, so that nothing stands at a special place.
fn player() -> Player {
    let mut player = lora();
    let params = player.params.iter().enumerate().map(|(i, (name, value))| {
        let value = match name.ends_with("lora_B") {
            true => random(31, i as u64, value.dims(), 0.4),
            false => value.clone(),
        };
        (name.clone(), value)
    });
    player.params = Arc::new(params.collect());
    player
}

/// Pairs of tokens, scored by the unlearnt player, so that margins differ.
fn pairs(count: usize) -> Vec<Pair> {
    scored(&lora(), random_pairs(count, 1..6, 2..9, VOCAB, [0.0; 2]))
}

/// One step, as plain gradient descent: Adam's first update is lr·g/(|g| + eps), and eps is large.
const EPS: f64 = 1e6;

fn settings(micro_batch_tokens: usize, batch: usize) -> TrainSettings {
    TrainSettings {
        optimizer: Optimizer::AdamW(AdamW {
            eps: EPS,
            ..AdamW::default()
        }),
        learning_rate: EPS,
        schedule: Schedule::default(),
        clip: None,
        batch,
        epochs: 1,
        micro_batch_tokens,
        shuffle: false,
        ..TrainSettings::default()
    }
}

/// All of a player's numbers.
fn numbers(player: &Player) -> Vec<f32> {
    let of = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    player.params.values().flat_map(of).collect()
}

/// A step's figures and its gradient.
fn step(
    player: &Player,
    pairs: &[Pair],
    loss: &dyn LossFn,
    rows: usize,
) -> (StepMetrics, Vec<f64>) {
    let mut trainer = Trainer::new(player.clone(), settings(rows, pairs.len())).unwrap();
    let mut figures = None;
    trainer
        .train_pairs(pairs, loss, &mut |m, _| {
            figures = Some(m.clone());
            Ok(Control::Continue)
        })
        .unwrap();
    (figures.unwrap(), moved(player, &trainer))
}

fn moved(before: &Player, trainer: &Trainer) -> Vec<f64> {
    let after = numbers(&trainer.player().unwrap());
    let before = numbers(before);
    let each = before.iter().zip(&after);
    each.map(|(b, a)| f64::from(*b) - f64::from(*a)).collect()
}

fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let off: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    let size: f64 = a.iter().map(|a| square(*a)).sum();
    (off / size).sqrt()
}

#[test]
fn a_coupled_loss_sees_the_step_whatever_the_micro_batches() {
    let (player, pairs) = (player(), pairs(6));
    let of = |rows| step(&player, &pairs, &Centred::default(), rows);
    let (whole, gradient) = of(10_000);
    assert!(whole.grad_norm > 1e-2, "{}", whole.grad_norm);
    for rows in [1, 25, 60] {
        let (parts, g) = of(rows);
        assert!((parts.loss - whole.loss).abs() < 1e-6, "{rows} rows");
        assert!(apart(&gradient, &g) < 1e-4, "{}", apart(&gradient, &g));
        assert_eq!(parts.num_tokens, whole.num_tokens);
        assert!((parts.extra[0].1 - whole.extra[0].1).abs() < 1e-6);
        let (p, q) = (parts.pairs.unwrap(), whole.pairs.unwrap());
        assert!((p.rewards.unwrap().margins - q.rewards.unwrap().margins).abs() < 1e-5);
    }
    // were it asked part by part, it would say something else
    let denies = Centred {
        denies: true,
        ..Centred::default()
    };
    let (parts, g) = step(&player, &pairs, &denies, 1);
    assert!((parts.loss - std::f64::consts::LN_2).abs() < 1e-9);
    assert!((parts.loss - whole.loss).abs() > 1e-2 && apart(&gradient, &g) > 0.5);
}

/// The loss, at parameters moved along a direction, against the slope that the gradient promises
/// there.
#[test]
fn the_gradient_of_a_coupled_loss_is_its_finite_difference() {
    let (player, pairs) = (player(), pairs(5));
    let (_, gradient) = step(&player, &pairs, &Centred::default(), 1);
    for seed in 0..3 {
        let mut slope = 0.0;
        let mut at = 0;
        let mut directions = vec![];
        for (i, value) in player.params.values().enumerate() {
            let d = random(50 + seed, i as u64, value.dims(), 1.0);
            for d in d.flatten_all().unwrap().to_vec1::<f32>().unwrap() {
                slope += gradient[at] * f64::from(d);
                at += 1;
            }
            directions.push(d);
        }
        let at = |by: f64| {
            let each = player.params.iter().zip(&directions);
            let params = each.map(|((n, v), d)| (n.clone(), (v + (d * by).unwrap()).unwrap()));
            let player = Player {
                params: Arc::new(params.collect()),
                ..player.clone()
            };
            step(&player, &pairs, &Centred::default(), 1).0.loss
        };
        let h = 2e-3;
        let difference = (at(h) - at(-h)) / (2.0 * h);
        assert!(
            (difference - slope).abs() < 2e-3 * (0.1 + slope.abs()),
            "{difference} is not {slope}"
        );
    }
}

#[test]
fn a_lack_of_memory_in_the_middle_changes_nothing_of_a_coupled_loss() {
    let (player, pairs) = (player(), pairs(6));
    let (whole, gradient) = step(&player, &pairs, &Centred::default(), 10_000);
    // the first time all pairs are one micro-batch, then two halves, then four
    for refuses in [1, 2] {
        let loss = Centred {
            refuses: refuses.into(),
            ..Centred::default()
        };
        let (parts, g) = step(&player, &pairs, &loss, 10_000);
        assert!((parts.loss - whole.loss).abs() < 1e-6);
        assert!(apart(&gradient, &g) < 1e-4);
        assert_eq!(parts.num_tokens, whole.num_tokens);
        assert_eq!(loss.calls.load(Relaxed), refuses + 1);
    }
}

#[test]
fn dropout_does_not_depend_on_micro_batches() {
    let player = player();
    let (prompts, responses) = (lists(4, 6, 1..6, VOCAB), lists(5, 6, 2..9, VOCAB));
    let examples: Vec<Example> = (0..6)
        .map(|i| Example {
            prompt: &prompts[i],
            response: &responses[i],
            place: &"",
        })
        .collect();
    let of = |dropout, seed, rows| {
        let settings = TrainSettings {
            dropout,
            seed,
            ..settings(rows, 6)
        };
        let mut trainer = Trainer::new(player.clone(), settings).unwrap();
        let mut loss = 0.0;
        trainer
            .train_sft(&examples, &mut |m, _| {
                loss = m.loss;
                Ok(Control::Continue)
            })
            .unwrap();
        (loss, moved(&player, &trainer))
    };
    let (loss, gradient) = of(true, 3, 10_000);
    for rows in [1, 15, 30] {
        let (l, g) = of(true, 3, rows);
        assert!((l - loss).abs() < 1e-6, "{rows} rows: {l} and {loss}");
        assert!(apart(&gradient, &g) < 1e-4, "{rows} rows");
    }
    // it drops, and a seed is a mask
    assert!(apart(&gradient, &of(false, 3, 10_000).1) > 0.05);
    assert!(apart(&gradient, &of(true, 4, 10_000).1) > 0.05);

    // the log-probs that a coupled loss is told ahead are those of the passes with gradients
    let pairs = pairs(6);
    let of = |rows| {
        let settings = TrainSettings {
            dropout: true,
            ..settings(rows, 6)
        };
        let mut trainer = Trainer::new(player.clone(), settings).unwrap();
        let mut loss = 0.0;
        trainer
            .train_pairs(&pairs, &Centred::default(), &mut |m, _| {
                loss = m.loss;
                Ok(Control::Continue)
            })
            .unwrap();
        (loss, moved(&player, &trainer))
    };
    let (whole, parts) = (of(10_000), of(1));
    assert!((whole.0 - parts.0).abs() < 1e-6 && apart(&whole.1, &parts.1) < 1e-4);
}

/// −logp(y)/n + logp(y')/n, the opponent's log-probs unread; rewards, where they come, are
/// reported.
struct Plain;

impl LossFn for Plain {
    fn name(&self) -> &str {
        "plain"
    }
    fn needs_ref(&self) -> bool {
        false
    }
    fn eval(&self, rows: &Rows) -> Result<LossOut, String> {
        if rows.ref_logp.iter().any(|r| !r.is_nan()) {
            return Err("somebody scored".into());
        }
        let signs: Vec<f64> = (0..rows.logp.len()).map(|i| [-1.0, 1.0][i % 2]).collect();
        let reward = rows.reward.map(|r| ("reward".to_string(), r.iter().sum()));
        Ok(LossOut {
            loss: (0..rows.groups)
                .map(|g| rows.logp[2 * g + 1] - rows.logp[2 * g])
                .collect(),
            d_logp: signs,
            metrics: reward.into_iter().collect(),
        })
    }
}

#[test]
fn a_loss_without_an_opponent_needs_no_scores() {
    let mut pairs = pairs(3);
    for pair in &mut pairs {
        (pair.ref_real, pair.ref_generated) = (f64::NAN, f64::NAN);
    }
    let (figures, _) = step(&player(), &pairs, &Plain, 10_000);
    assert_eq!(figures.pairs.unwrap().rewards, None);
    let keys: Vec<String> = figures.values().into_iter().map(|(key, _)| key).collect();
    assert!(keys.iter().all(|key| !key.starts_with("rewards/")));
    assert!(keys.iter().any(|key| key == "logps/real"));
}

#[test]
fn rewards_reach_the_loss_when_all_pairs_have_them() {
    let mut pairs = pairs(3);
    for (i, pair) in pairs.iter_mut().enumerate() {
        pair.rewards = Some([i as f64, 0.5]);
    }
    let (figures, _) = step(&player(), &pairs, &Plain, 10_000);
    assert_eq!(figures.extra, [("reward".to_string(), 4.5)]);
    // not by half: a loss would get them in some micro-batches and in others not
    pairs[1].rewards = None;
    let (figures, _) = step(&player(), &pairs, &Plain, 1);
    assert_eq!(figures.extra, []);
    pairs[1].rewards = Some([f64::NAN, 1.0]);
    let mut trainer = Trainer::new(player(), settings(1, 3)).unwrap();
    let error = trainer.train_pairs(&pairs, &Plain, &mut |_, _| Ok(Control::Continue));
    assert_eq!(
        error.unwrap_err().to_string(),
        "data.jsonl:2: a reward is NaN"
    );
}
