//! What scoring and generating do when memory runs out. It is an architecture that says so here, as
//! a device would.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use randori_engine::{
    Base, Error, GenerateOptions, Generation, Player, Progress, ScoreItem, generate, score,
};
use randori_sdk::seam::{Architecture, Backend, Id, OpResult};

use crate::tiny::*;

/// The tiny model, whose passes of some numbers find no memory: at their beginning, or late, when
/// keys and values have been written.
struct Short<F> {
    refuses: F,
    late: bool,
    passes: AtomicUsize,
    refused: AtomicBool,
}

impl<F> Short<F> {
    fn refuse(&self, late: bool) -> Result<(), String> {
        match self.late == late && self.refused.load(Relaxed) {
            true => Err("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into()),
            false => Ok(()),
        }
    }
}

impl<F: Fn(usize) -> bool + Send + Sync> Architecture for Short<F> {
    fn name(&self) -> &str {
        TinyLlama.name()
    }
    fn layers(&self) -> usize {
        TinyLlama.layers()
    }
    fn embed(&self, ops: &mut dyn Backend, ids: Id) -> OpResult {
        let pass = self.passes.fetch_add(1, Relaxed);
        self.refused.store((self.refuses)(pass), Relaxed);
        self.refuse(false)?;
        TinyLlama.embed(ops, ids)
    }
    fn block(&self, ops: &mut dyn Backend, layer: usize, x: Id) -> OpResult {
        TinyLlama.block(ops, layer, x)
    }
    fn head(&self, ops: &mut dyn Backend, x: Id) -> OpResult {
        self.refuse(true)?;
        TinyLlama.head(ops, x)
    }
}

fn short(late: bool, refuses: impl Fn(usize) -> bool + Send + Sync + 'static) -> Player {
    let base = llama();
    Player::bare(Arc::new(Base {
        arch: Arc::new(Short {
            refuses,
            late,
            // the first is no pass: whether lengths matter to the architecture is traced
            passes: AtomicUsize::new(usize::MAX),
            refused: AtomicBool::new(false),
        }),
        config: base.config.clone(),
        weights: base.weights.clone(),
        squares: Default::default(),
        compute: Default::default(),
    }))
}

#[test]
fn scoring_goes_on_with_half_the_micro_batch() {
    scoring(false);
    scoring(true);
}

fn scoring(late: bool) {
    let (prompts, responses) = (lists(5, 9, 2..5, VOCAB), lists(6, 9, 2..5, VOCAB));
    let items: Vec<ScoreItem> = prompts
        .iter()
        .zip(&responses)
        .map(|(p, r)| ScoreItem {
            prompt: p,
            responses: vec![r],
        })
        .collect();
    let want = score(&Player::bare(llama()), &items, 1000, &mut |_| {}).unwrap();
    let mut seen: Vec<Progress> = vec![];
    // all at once, then after a half
    let player = short(late, |pass| [0, 2].contains(&pass));
    let got = score(&player, &items, 1000, &mut |p| seen.push(p)).unwrap();
    for (a, b) in want.iter().flatten().zip(got.iter().flatten()) {
        assert!((a - b).abs() < 1e-4, "{a} and {b}");
    }
    let rows: usize = prompts
        .iter()
        .zip(&responses)
        .map(|(p, r)| p.len() + r.len() - 1)
        .sum();
    let (first, last) = (seen[0], seen[seen.len() - 1]);
    assert_eq!(first.at_once, rows.div_ceil(2));
    assert!(
        last.at_once <= first.at_once.div_ceil(2),
        "{last:?} after {first:?}"
    );
    assert_eq!((last.done, last.tokens), (9, rows));
    assert!(seen.is_sorted_by_key(|p| p.done));

    let error = score(&short(late, |_| true), &items, 1000, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.starts_with("item 0 to score: no memory for it alone, "),
        "{text}"
    );
}

#[test]
fn answers_go_on_in_half_as_many_slots() {
    answering(false);
    answering(true);
}

fn answering(late: bool) {
    let prompts = lists(7, 12, 3..6, VOCAB);
    let options = GenerateOptions {
        max_new_tokens: 9,
        slots: 8,
        seed: 3,
        stop: vec![1, 2],
        ..GenerateOptions::default()
    };
    let run = |player: &Player| -> (Vec<Vec<u32>>, Vec<Progress>) {
        let mut seen = vec![];
        let out = generate(player, &prompts, &[], &options, &mut |p| seen.push(p)).unwrap();
        (
            out.into_iter().map(|g: Generation| g.tokens).collect(),
            seen,
        )
    };
    let (want, whole) = run(&Player::bare(llama()));
    assert!(whole.iter().all(|p| p.at_once == 8));
    let all = whole[whole.len() - 1];

    // in a cache that grows
    let (got, seen) = run(&short(late, |pass| pass == 0));
    assert_eq!(got, want);
    assert!(seen.iter().all(|p| p.at_once == 8), "{seen:?}");
    let (got, seen) = run(&short(late, |pass| pass < 2));
    assert_eq!(got, want);
    assert!(seen.iter().all(|p| p.at_once == 4), "{seen:?}");
    // when some are finished, which stay
    let later = whole
        .iter()
        .position(|p| (3..12).contains(&p.done))
        .unwrap()
        + 1;
    let (got, seen) = run(&short(late, move |pass| (later..later + 2).contains(&pass)));
    assert_eq!(got, want);
    let fell = seen.iter().position(|p| p.at_once == 4).unwrap();
    assert!(
        fell == later && seen[fell].done >= whole[later - 1].done,
        "{seen:?}"
    );
    assert_eq!(
        (seen[seen.len() - 1].done, seen[seen.len() - 1].tokens),
        (12, all.tokens)
    );

    let error = generate(&short(late, |_| true), &prompts, &[], &options, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.starts_with("no memory for the answer to one prompt alone ("),
        "{text}"
    );
}

/// Room for the longest answers cannot be had; the answers are short.
#[test]
fn answers_that_are_never_cut_take_what_they_need() {
    let prompts = lists(7, 12, 3..6, VOCAB);
    let run = |max_new_tokens| {
        let options = GenerateOptions {
            max_new_tokens,
            slots: 8,
            seed: 3,
            stop: vec![1, 2, 3],
            ..GenerateOptions::default()
        };
        generate(&Player::bare(llama()), &prompts, &[], &options, &mut |_| {}).unwrap()
    };
    let want = run(1000);
    assert!(want.iter().all(|g| g.ended));
    for most in [1 << 50, usize::MAX] {
        assert_eq!(run(most), want);
    }
}
