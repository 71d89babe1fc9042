//! What a trainer does when memory runs out in a step. It is a loss that says so here, as a device
//! would.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use randori_engine::{
    Error, Player,
    train::{AdamW, Control, Optimizer, Pair, Schedule, TrainSettings, Trainer},
};
use randori_sdk::seam::{LossFn, LossOut, Rows};

use crate::tiny::*;

fn pairs(count: usize) -> Vec<Pair> {
    random_pairs(count, 1..6, 2..9, VOCAB, [-10.0; 2])
}

fn largest_difference(a: &Player, b: &Player) -> f32 {
    let values = |p: &Player, name: &str| -> Vec<f32> {
        p.params[name].flatten_all().unwrap().to_vec1().unwrap()
    };
    let of = |name: &String| {
        let both = values(a, name).into_iter().zip(values(b, name));
        both.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    a.params.keys().map(of).fold(0.0, f32::max)
}

/// Has no memory for more than so many pairs at a time, or for any.
struct Narrow {
    pairs: usize,
    refused: AtomicUsize,
}

impl LossFn for Narrow {
    fn name(&self) -> &str {
        "narrow"
    }
    fn needs_ref(&self) -> bool {
        true
    }
    fn eval(&self, rows: &Rows) -> Result<LossOut, String> {
        if rows.groups > self.pairs {
            self.refused.fetch_add(1, Relaxed);
            return Err("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into());
        }
        Logistic(0.1).eval(rows)
    }
}

#[test]
fn a_step_without_memory_is_repeated_with_half_the_micro_batch() {
    let opponent = lora();
    let pairs = pairs(8);
    let run = |loss: &dyn LossFn, micro_batch_tokens| {
        let settings = TrainSettings {
            optimizer: Optimizer::AdamW(AdamW {
                eps: 1.0,
                ..AdamW::default()
            }),
            learning_rate: 0.5,
            epochs: 2,
            micro_batch_tokens,
            schedule: Schedule::default(),
            batch: 4,
            ..TrainSettings::default()
        };
        let mut trainer = Trainer::new(opponent.clone(), settings).unwrap();
        let mut metrics = vec![];
        let ended = trainer.train_pairs(&pairs, loss, &mut |m, _| {
            metrics.push(m.clone());
            Ok(Control::Continue)
        });
        (trainer, metrics, ended)
    };
    let narrow = Narrow {
        pairs: 1,
        refused: AtomicUsize::new(0),
    };
    let (halved, halved_metrics, ended) = run(&narrow, 1_000_000);
    ended.unwrap();
    let now = halved.micro_batch_tokens();
    assert!(now < 40, "{now}: a pair or two");
    // as if it had been so small from the first
    let (small, metrics, ended) = run(&Logistic(0.1), now);
    ended.unwrap();
    assert!(largest_difference(&small.player().unwrap(), &opponent) > 1e-2);
    let off = largest_difference(&halved.player().unwrap(), &small.player().unwrap());
    assert!(off < 1e-6, "{off}");
    assert_eq!(
        (halved.step(), metrics.len(), halved_metrics.len()),
        (4, 4, 4)
    );
    for (a, b) in metrics.iter().zip(&halved_metrics) {
        assert!((a.loss - b.loss).abs() < 1e-6 && (a.grad_norm - b.grad_norm).abs() < 1e-6);
        assert_eq!(a.num_tokens, b.num_tokens, "a repeated step counts once");
    }
    // log2 of a step's pairs and rows, not a million's
    let refused = narrow.refused.load(Relaxed);
    assert!((1..=6).contains(&refused), "{refused}");

    // and a pair that is too large alone is the end, with nothing changed
    let never = Narrow {
        pairs: 0,
        refused: AtomicUsize::new(0),
    };
    let (trainer, metrics, ended) = run(&never, 1_000_000);
    let error = ended.unwrap_err();
    assert!(matches!(error, Error::OutOfMemory(_)), "{error:?}");
    let said = error.to_string();
    for part in [
        "step 1 of 4",
        "data.jsonl:",
        "train.checkpoint",
        "data.max_prompt_tokens",
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    assert_eq!((trainer.step(), metrics.len()), (0, 0));
    assert_eq!(
        largest_difference(&trainer.player().unwrap(), &opponent),
        0.0
    );
}
