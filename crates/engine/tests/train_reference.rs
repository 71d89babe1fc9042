//! Whole trainings of a bigram against the same in plain f64: loss, slopes, accumulation, clipping,
//! schedule, optimiser.

use randori_engine::{
    Player, rng,
    train::{
        AdamW, Control, Example, Optimizer, RmsProp, Schedule, ScheduleKind, StepMetrics,
        TrainSettings, Trainer,
    },
};

use crate::tiny::*;

const N: usize = 6;

/// Embedding and head, (N, N) each, row-major; the logits after token c are W·E[c].
#[derive(Clone)]
struct Reference {
    e: Vec<f64>,
    w: Vec<f64>,
}

impl Reference {
    fn start(table: &[Vec<f32>]) -> Self {
        let e = (0..N * N)
            .map(|i| if i / N == i % N { 1.0 } else { 0.0 })
            .collect();
        Reference {
            e,
            w: (0..N * N).map(|i| table[i % N][i / N] as f64).collect(),
        }
    }

    fn soft_max(&self, c: usize) -> Vec<f64> {
        let logits: Vec<f64> = (0..N)
            .map(|i| (0..N).map(|j| self.w[i * N + j] * self.e[c * N + j]).sum())
            .collect();
        let total: f64 = logits.iter().map(|l: &f64| l.exp()).sum();
        logits.iter().map(|l| l.exp() / total).collect()
    }

    fn logp(&self, prompt: &[u32], response: &[u32]) -> f64 {
        let mut c = *prompt.last().unwrap() as usize;
        response
            .iter()
            .map(|&y| self.soft_max(std::mem::replace(&mut c, y as usize))[y as usize].ln())
            .sum()
    }

    /// Adds slope · d logp / d (E, W) to the gradient (E then W).
    fn backward(&self, prompt: &[u32], response: &[u32], slope: f64, grad: &mut [f64]) {
        let mut c = *prompt.last().unwrap() as usize;
        for &y in response {
            for (i, p) in self.soft_max(c).into_iter().enumerate() {
                let d = slope * ((i == y as usize) as u8 as f64 - p);
                for j in 0..N {
                    grad[c * N + j] += d * self.w[i * N + j];
                    grad[N * N + i * N + j] += d * self.e[c * N + j];
                }
            }
            c = y as usize;
        }
    }

    fn values(&mut self) -> impl Iterator<Item = &mut f64> {
        self.e.iter_mut().chain(&mut self.w)
    }
}

/// The optimisers written as in their papers, one number at a time.
struct Optim(Optimizer, Vec<[f64; 2]>, i32);

impl Optim {
    fn step(&mut self, model: &mut Reference, grad: &[f64], rate: f64) {
        self.2 += 1;
        for ((w, g), state) in model.values().zip(grad).zip(&mut self.1) {
            match self.0 {
                Optimizer::AdamW(AdamW {
                    beta1,
                    beta2,
                    eps,
                    weight_decay,
                }) => {
                    state[0] = beta1 * state[0] + (1.0 - beta1) * g;
                    state[1] = beta2 * state[1] + (1.0 - beta2) * g * g;
                    let (m, v) = (
                        state[0] / (1.0 - beta1.powi(self.2)),
                        state[1] / (1.0 - beta2.powi(self.2)),
                    );
                    *w -= rate * (m / (v.sqrt() + eps) + weight_decay * *w);
                }
                Optimizer::RmsProp(RmsProp {
                    alpha,
                    eps,
                    weight_decay,
                    momentum,
                }) => {
                    let g = g + weight_decay * *w;
                    state[1] = alpha * state[1] + (1.0 - alpha) * g * g;
                    state[0] = momentum * state[0] + g / (state[1].sqrt() + eps);
                    *w -= rate * state[0];
                }
                Optimizer::AdamW8(_) => panic!("no number has 8-bit moments of its own"),
            }
        }
    }
}

fn table() -> Vec<Vec<f32>> {
    (0..N)
        .map(|i| random(17, i as u64, &[N], 1.0).to_vec1().unwrap())
        .collect()
}

fn settings(optimizer: Optimizer, batch: usize) -> TrainSettings {
    TrainSettings {
        optimizer,
        learning_rate: 0.02,
        min_learning_rate: Some(0.005),
        schedule: Schedule {
            kind: ScheduleKind::Linear,
            warmup_ratio: 0.3,
        },
        clip: Some(0.3),
        batch,
        epochs: 3,
        micro_batch_tokens: 12,
        beta: 0.7,
        ..TrainSettings::default()
    }
}

fn optimizers() -> [Optimizer; 2] {
    [
        Optimizer::AdamW(AdamW {
            beta1: 0.8,
            beta2: 0.9,
            eps: 1e-3,
            weight_decay: 0.1,
        }),
        Optimizer::RmsProp(RmsProp {
            alpha: 0.9,
            eps: 1e-3,
            weight_decay: 0.05,
            momentum: 0.5,
        }),
    ]
}

/// Runs the reference: `step` adds a step's gradient and answers its loss. (loss, gradient norm,
/// rate) per step.
fn reference(
    model: &mut Reference,
    settings: &TrainSettings,
    n: usize,
    mut step: impl FnMut(&Reference, &[usize], &mut [f64]) -> f64,
) -> Vec<(f64, f64, f64)> {
    let mut optim = Optim(settings.optimizer, vec![[0.0; 2]; 2 * N * N], 0);
    let (per_epoch, mut figures) = (n.div_ceil(settings.batch), vec![]);
    let total = 3 * per_epoch;
    let warmup = (0.3 * total as f64).ceil() as usize;
    for k in 0..total {
        let order = rng::permutation(settings.seed, (k / per_epoch) as u64, n);
        let items = order.chunks(settings.batch).nth(k % per_epoch).unwrap();
        let mut grad = vec![0.0; 2 * N * N];
        let loss = step(model, items, &mut grad);
        let norm = grad.iter().map(|g| g * g).sum::<f64>().sqrt();
        grad.iter_mut()
            .for_each(|g| *g *= (0.3 / (norm + 1e-6)).min(1.0));
        let rate = if k < warmup {
            0.02 * k as f64 / warmup as f64
        } else {
            0.005 + 0.015 * (total - k) as f64 / (total - warmup) as f64
        };
        optim.step(model, &grad, rate);
        figures.push((loss, norm, rate));
    }
    figures
}

fn compare(
    trainer: &Trainer,
    model: &Reference,
    metrics: &[StepMetrics],
    figures: &[(f64, f64, f64)],
) {
    assert_eq!(metrics.len(), figures.len());
    for (m, (loss, norm, rate)) in metrics.iter().zip(figures) {
        assert!(
            (m.loss - loss).abs() < 1e-5,
            "step {}: loss {} instead of {loss}",
            m.step,
            m.loss
        );
        assert!(
            (m.grad_norm - norm).abs() < 1e-5,
            "step {}: norm {} instead of {norm}",
            m.step,
            m.grad_norm
        );
        assert!((m.learning_rate - rate).abs() < 1e-12, "step {}", m.step);
    }
    assert!(
        figures.iter().any(|f| f.1 > 0.3),
        "clipping should have happened"
    );
    let player = trainer.player().unwrap();
    for (name, expected) in [("embed.weight", &model.e), ("head.weight", &model.w)] {
        let values = player.params[name]
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        for (value, expected) in values.iter().zip(expected) {
            assert!(
                (*value as f64 - expected).abs() < 2e-5,
                "{name}: {value} instead of {expected}"
            );
        }
    }
}

#[test]
fn supervised_training_is_the_reference() {
    let (prompts, responses) = (lists(1, 7, 1..4, N), lists(2, 7, 1..9, N));
    let examples: Vec<Example> = std::iter::zip(&prompts, &responses)
        .map(|(prompt, response)| Example {
            prompt,
            response,
            place: &"sft",
        })
        .collect();
    for optimizer in optimizers() {
        let settings = settings(optimizer, 3);
        let mut model = Reference::start(&table());
        let figures = reference(
            &mut model,
            &settings,
            examples.len(),
            |model, items, grad| {
                // the mean over the step's response tokens, not over examples
                let tokens: usize = items.iter().map(|&i| examples[i].response.len()).sum();
                let of = |&i: &usize| (examples[i].prompt, examples[i].response);
                for (prompt, response) in items.iter().map(of) {
                    model.backward(prompt, response, -1.0 / tokens as f64, grad);
                }
                items
                    .iter()
                    .map(of)
                    .map(|(p, r)| -model.logp(p, r))
                    .sum::<f64>()
                    / tokens as f64
            },
        );
        let mut trainer = Trainer::new(Player::full(bigram(&table())).unwrap(), settings).unwrap();
        let mut metrics = vec![];
        trainer
            .train_sft(&examples, &mut |m, _| {
                metrics.push(m.clone());
                Ok(Control::Continue)
            })
            .unwrap();
        assert!(metrics.iter().all(|m| m.pairs.is_none()));
        compare(&trainer, &model, &metrics, &figures);
    }
}

#[test]
fn training_on_pairs_is_the_reference() {
    let beta = 0.7;
    let start = Reference::start(&table());
    let mut pairs = random_pairs(8, 1..4, 1..9, N, [0.0; 2]);
    for pair in &mut pairs {
        pair.ref_real = start.logp(&pair.prompt, &pair.real);
        pair.ref_generated = start.logp(&pair.prompt, &pair.generated);
    }
    for optimizer in optimizers() {
        let settings = settings(optimizer, 3);
        let mut model = start.clone();
        let mut margins = vec![];
        let figures = reference(&mut model, &settings, pairs.len(), |model, items, grad| {
            let (mut loss, mut sum) = (0.0, 0.0);
            for pair in items.iter().map(|&i| &pairs[i]) {
                let margin = model.logp(&pair.prompt, &pair.real)
                    - pair.ref_real
                    - (model.logp(&pair.prompt, &pair.generated) - pair.ref_generated);
                let slope = -beta / (1.0 + (beta * margin).exp()) / items.len() as f64;
                model.backward(&pair.prompt, &pair.real, slope, grad);
                model.backward(&pair.prompt, &pair.generated, -slope, grad);
                loss += (-beta * margin).exp().ln_1p() / items.len() as f64;
                sum += beta * margin / items.len() as f64;
            }
            margins.push(sum);
            loss
        });
        let mut trainer = Trainer::new(Player::full(bigram(&table())).unwrap(), settings).unwrap();
        let mut metrics = vec![];
        trainer
            .train_pairs(&pairs, &Logistic(beta), &mut |m, _| {
                metrics.push(m.clone());
                Ok(Control::Continue)
            })
            .unwrap();
        compare(&trainer, &model, &metrics, &figures);
        for (m, margin) in metrics.iter().zip(&margins) {
            let p = m.pairs.unwrap();
            assert!(
                (p.rewards.unwrap().margins - margin).abs() < 1e-5
                    && (p.rewards.unwrap().real - p.rewards.unwrap().generated - margin).abs()
                        < 1e-5
            );
        }
    }
}
