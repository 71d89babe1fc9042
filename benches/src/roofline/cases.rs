//! The engine's stages as closures to time, each with its lower bound of work.

use std::{hint::black_box, ops::Range, sync::Arc, time::Instant};

use randori_engine::{
    Base, KvCache, Player, ScoreItem, SlotTokens, score,
    train::{Control, Optimizer, Pair, TrainSettings, Trainer},
};
use randori_host::Host;

use super::counts::{Costs, RowCounts, Work, micro_batches};
use crate::{VOCAB, adapter, tokens};

/// Tokens of a prompt that enter the cache together, as in generation.
const PIECE: usize = 512;

/// A stage to time.
pub struct Case {
    /// Name in the table.
    pub name: String,
    /// Lower bound of its work.
    pub work: Work,
    run: Box<dyn FnMut()>,
}

impl Case {
    fn new(name: impl Into<String>, work: Work, run: impl FnMut() + 'static) -> Case {
        Case {
            name: name.into(),
            work,
            run: Box::new(run),
        }
    }
}

/// Median seconds of every case. After a warm-up round the cases take turns, so that a disturbance
/// affects all alike.
pub fn medians(cases: &mut [Case], repeats: usize) -> Vec<f64> {
    let mut seconds = vec![Vec::with_capacity(repeats); cases.len()];
    for round in 0..=repeats {
        for (case, seconds) in cases.iter_mut().zip(&mut seconds) {
            let start = Instant::now();
            (case.run)();
            if round > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    seconds
        .into_iter()
        .map(|mut s| {
            s.sort_by(f64::total_cmp);
            (s[(s.len() - 1) / 2] + s[s.len() / 2]) / 2.0
        })
        .collect()
}

/// One SPIN step over `pairs`, AdamW's update included, with the benches' adapter.
pub fn training(host: &Host, name: &str, base: &Arc<Base>, pairs: Vec<Pair>) -> Case {
    let loss = host.loss("spin", &[]).unwrap();
    let settings = TrainSettings {
        optimizer: Optimizer::adamw(),
        learning_rate: 1e-6,
        batch: pairs.len(),
        epochs: 1_000_000, // a step each; as many as are measured
        shuffle: false,    // which pairs share a micro-batch is counted
        ..TrainSettings::default()
    };
    let plans = micro_batches(&pairs, settings.micro_batch_tokens);
    let rows: Vec<RowCounts> = plans.iter().map(RowCounts::of).collect();
    let player = Player::with_lora(base.clone(), adapter(), 1).unwrap();
    let mut trainer = Trainer::new(player, settings).unwrap();
    Case::new(name, Costs::of(base).training(&rows), move || {
        let step = trainer.train_pairs(&pairs, &*loss, &mut |_, _| Ok(Control::Stop));
        step.unwrap();
    })
}

/// The opponent's log-probs of `pairs` in one pass.
pub fn scoring(name: &str, base: &Arc<Base>, pairs: Vec<Pair>) -> Case {
    let plans = micro_batches(&pairs, usize::MAX);
    let work = Costs::of(base).forward(&RowCounts::of(&plans[0]));
    let player = Player::bare(base.clone());
    Case::new(name, work, move || {
        let items: Vec<ScoreItem> = pairs
            .iter()
            .map(|p| ScoreItem {
                prompt: &p.prompt,
                responses: vec![&p.real, &p.generated],
            })
            .collect();
        black_box(score(&player, &items, usize::MAX, &mut |_| ()).unwrap());
    })
}

/// `batch` prompts of `len` tokens into an empty cache, in one pass.
pub fn prefill(name: &str, base: &Arc<Base>, batch: usize, len: usize) -> Case {
    let work = Costs::of(base).step(batch, 0, len);
    let player = Player::bare(base.clone());
    let prompts = prompts(batch, len);
    let mut cache = KvCache::new(&player, batch);
    Case::new(name, work, move || {
        (0..batch).for_each(|slot| cache.clear(slot));
        black_box(player.step(&mut cache, &entries(&prompts, 0..len)).unwrap());
    })
}

/// The next token of `batch` sequences that hold `cached` tokens in the middle of `repeats`: every
/// run adds one. Drawing the token is not part of it.
pub fn decoding(name: &str, base: &Arc<Base>, batch: usize, cached: usize, repeats: usize) -> Case {
    let work = Costs::of(base).step(batch, cached, 1);
    let player = Player::bare(base.clone());
    let mut cache = KvCache::new(&player, batch);
    // the round that warms up adds a token too, so the middle one of those that count finds
    // `cached`
    let before = cached - repeats.div_ceil(2);
    let held = prompts(batch, before);
    for first in (0..before).step_by(PIECE) {
        let piece = first..before.min(first + PIECE);
        // a sequence at a time, which bounds the memory
        for entry in entries(&held, piece.clone()) {
            player.step(&mut cache, &[entry]).unwrap();
        }
    }
    let next = prompts(batch, 1);
    Case::new(name, work, move || {
        black_box(player.step(&mut cache, &entries(&next, 0..1)).unwrap());
    })
}

fn prompts(batch: usize, len: usize) -> Vec<Vec<u32>> {
    (0..batch as u64).map(|i| tokens(i, len, VOCAB)).collect()
}

fn entries(prompts: &[Vec<u32>], piece: Range<usize>) -> Vec<SlotTokens<'_>> {
    let slots = prompts.iter().enumerate();
    slots
        .map(|(slot, tokens)| SlotTokens {
            slot,
            tokens: &tokens[piece.clone()],
        })
        .collect()
}
