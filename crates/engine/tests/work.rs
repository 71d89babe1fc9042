//! A step's work, counted and not timed: multiply-adds against what the trace says they must be,
//! allocations and memory against ceilings. Whoever computes a prompt twice, pads, projects prompt
//! rows to the vocabulary, runs the head once more or makes a gradient that nobody wants fails
//! here, on any machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ops;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use ops::{Llama, Random, adapted, base, shared::Shared, slopes};
use randori_engine::{
    Grads, KvCache, Packed, PassOptions, Player, SlotTokens, Trace,
    fit::{Learns, Packing, Planner},
    trace,
    train::Optimizer,
    weights::{LoadOptions, Source, describe},
    work::multiply_adds,
};
use randori_lora::Targets;

/// Counts all threads' allocations.
struct Counting;

static CALLS: AtomicI64 = AtomicI64::new(0);
static HELD: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

fn held(bytes: i64) {
    let now = HELD.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(now, Relaxed);
}

// SAFETY: every call is passed on as it is; the counters are atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        held(layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        held(-(layout.size() as i64));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Large enough that a few hundred rows' values outweigh the rest.
fn llama() -> Llama {
    Llama {
        vocab: 4096,
        width: 96,
        layers: 3,
        heads: 6,
        kv_heads: 3,
        ffn: 256,
        window: None,
    }
}

/// Of `ops::spec`.
const RANK: u64 = 3;
const PROMPT: usize = 90;
const RESPONSES: [usize; 2] = [70, 40];
const PAIRS: usize = 2;

fn pairs() -> Packed {
    let mut random = Random(3);
    let mut plan = Packed::default();
    for _ in 0..PAIRS {
        let prompt = random.tokens(PROMPT, 4096);
        let responses = RESPONSES.map(|n| random.tokens(n, 4096));
        plan.push(&prompt, &[&responses[0], &responses[1]]);
    }
    plan
}

/// (query, key) pairs of a causal run of `n` queries behind `before` keys, in blocks of 64 queries.
fn seen(before: usize, n: usize) -> u64 {
    let block = |from: usize| {
        let to = n.min(from + 64);
        (to - from) * (before + to)
    };
    (0..n).step_by(64).map(block).sum::<usize>() as u64
}

/// Of one forward pass through the blocks over the pairs, attention's part apart.
fn attention(t: &Trace) -> u64 {
    // a response's last token is no row: nothing follows it
    let of_pair = RESPONSES.iter().map(|n| seen(PROMPT, n - 1)).sum::<u64>() + seen(0, PROMPT);
    // the trace counts flops, two to a multiply-add
    PAIRS as u64 * of_pair * (t.flops_per_token_pair / 2.0) as u64
}

#[test]
fn a_step_does_the_work_of_its_trace_and_no_more() {
    let plan = pairs();
    let (rows, targets) = (plan.ids.len() as u64, plan.targets.len() as u64);
    let answers = RESPONSES.iter().sum::<usize>();
    assert_eq!(
        (rows as usize, targets as usize),
        (PAIRS * (PROMPT + answers - 2), PAIRS * answers),
        "the prompt is there once, and only responses are predicted"
    );
    let base = base(llama(), 5);
    let t = trace(base.arch.as_ref()).unwrap();
    let block = (t.flops_per_token / 2.0) as u64;
    let head = (t.flops_per_head_row / 2.0) as u64;

    // scoring: every row once, and once through the head for every target
    let start = multiply_adds();
    Player::bare(base.clone()).logps(&plan).unwrap();
    let forward = rows * block + attention(&t);
    assert_eq!(multiply_adds() - start, forward + targets * head);

    // training: forward; to the inputs of every projection but those of block 0 that read the
    // embedding, which nobody trains; the head forward and backward for every target; the update's
    // two products, and four back
    let player = adapted(base.clone(), Targets::AllLinear, 0.0);
    let in_blocks = t.linears.iter().filter(|l| l.layer.is_some());
    let lora: u64 = in_blocks
        .map(|l| RANK * (l.inputs + l.outputs) as u64)
        .sum();
    let lowest = |l: &&randori_engine::trace::TracedLinear| {
        let reads_embedding = ["q_proj", "k_proj", "v_proj"];
        l.layer == Some(0) && reads_embedding.iter().any(|name| l.name.ends_with(name))
    };
    let spared: u64 = t
        .linears
        .iter()
        .filter(lowest)
        .map(|l| (l.inputs * l.outputs) as u64 + RANK * l.inputs as u64)
        .sum();
    let expected = 2 * rows * block - rows * spared
        // scores and their sum over v forward; scores again, dp, dv, dq and dk backward
        + attention(&t) / 2 * 7
        + 2 * targets * head
        + 3 * rows * lora;
    for checkpoint in [false, true] {
        let options = PassOptions {
            checkpoint,
            ..PassOptions::default()
        };
        let step = || {
            let mut grads = Grads::new();
            let start = multiply_adds();
            player
                .forward_backward(&plan, &options, &mut |_| Ok(slopes(&plan)), &mut grads)
                .unwrap();
            multiply_adds() - start
        };
        // once more through the blocks with checkpointing
        let again = forward + rows * lora;
        assert_eq!(step(), expected + if checkpoint { again } else { 0 });
        memory(&t, rows, checkpoint, &mut || assert!(step() > 0));
    }

    decoding(&Player::bare(base), &t);
    carried_memory();
}

/// What a step holds at its worst, and how often it asks for memory.
fn memory(t: &Trace, rows: u64, checkpoint: bool, step: &mut dyn FnMut()) {
    let (calls, before) = (CALLS.load(Relaxed), HELD.load(Relaxed));
    PEAK.store(before, Relaxed);
    step();
    let calls = CALLS.load(Relaxed) - calls;
    let peak = (PEAK.load(Relaxed) - before) as f64;
    let blocks = match checkpoint {
        false => t.activation_bytes_per_token,
        true => t.block_bytes_per_token + 3 * 4 * t.width,
    };
    // besides the tape: one chunk's logits or one block's gradients
    let tape = (rows as usize * blocks) as f64;
    let chunk = (128 * 4 * t.vocab) as f64;
    println!(
        "checkpoint {checkpoint}: {calls} allocations, peak {peak} bytes, tape {tape}, chunk {chunk}"
    );
    assert!(peak < 1.15 * (tape + chunk), "{peak} bytes");
    let most = MOST_CALLS[usize::from(checkpoint)];
    assert!(calls < most, "{calls} allocations, at most {most}");
}

/// Allocations of a step through three blocks with twenty-one adapted projections, without and with
/// checkpointing: a fifth above what it makes today.
const MOST_CALLS: [i64; 2] = [7500, 10_500];

/// A token costs one pass over the weights, one row of the head, and the keys it sees.
fn decoding(player: &Player, t: &Trace) {
    let mut cache = KvCache::new(player, 2);
    let mut feed = |tokens: [&[u32]; 2]| {
        let batch = [0, 1].map(|slot| SlotTokens {
            slot,
            tokens: tokens[slot],
        });
        let start = multiply_adds();
        player.step(&mut cache, &batch).unwrap();
        multiply_adds() - start
    };
    let (block, head, pair) = (
        (t.flops_per_token / 2.0) as u64,
        (t.flops_per_head_row / 2.0) as u64,
        (t.flops_per_token_pair / 2.0) as u64,
    );
    let prompt: Vec<u32> = (0..30).collect();
    let first = feed([&prompt, &prompt[..20]]);
    assert_eq!(
        first,
        50 * block + 2 * head + (30 * 30 + 20 * 20) * pair,
        "only a prompt's last row goes through the head"
    );
    assert_eq!(feed([&[7], &[8]]), 2 * (block + head) + (31 + 21) * pair);
}

/// What `fit` says a step with carried values takes, against what it takes: what a pair more adds,
/// so that nothing constant counts.
fn carried_memory() {
    let arch = Shared {
        vocab: 512,
        width: 96,
        heads: 6,
        head_dim: 16,
        share: 24,
        layers: 6,
        ..Shared::tiny()
    };
    let config = serde_json::json!({ "vocab_size": arch.vocab });
    let traced = trace(&arch).unwrap();
    let held = describe(Source::Random { config, seed: 1 }, &[]).unwrap();
    let held = held.held(&traced, &LoadOptions::default(), &arch).unwrap();
    let spec = ops::spec(Targets::AllLinear, 0.0);
    let (shapes, learns) = (Arc::new(arch.clone()), Learns::Lora(&spec, false));
    let planner = Planner::new(shapes, traced, held, learns, Optimizer::adamw(), 1).unwrap();
    let player = adapted(base(arch, 5), Targets::AllLinear, 0.0);
    let of = |pairs: usize, checkpoint: bool| {
        let packing = Packing::fullest(PROMPT, &RESPONSES, pairs, usize::MAX);
        let said = planner.training_peak(&packing, checkpoint, 1).unwrap();
        let mut random = Random(3);
        let mut plan = Packed::default();
        for _ in 0..pairs {
            let prompt = random.tokens(PROMPT, 512);
            let responses = RESPONSES.map(|n| random.tokens(n, 512));
            plan.push(&prompt, &[&responses[0], &responses[1]]);
        }
        assert_eq!(plan.ids.len(), packing.rows);
        let options = PassOptions {
            checkpoint,
            ..PassOptions::default()
        };
        let step = || {
            let (before, mut grads) = (HELD.load(Relaxed), Grads::new());
            PEAK.store(before, Relaxed);
            player
                .forward_backward(&plan, &options, &mut |_| Ok(slopes(&plan)), &mut grads)
                .unwrap();
            PEAK.load(Relaxed) - before
        };
        step(); // what threads keep is there from now on
        (
            (said.kept + said.work + said.gradients) as f64,
            step() as f64,
        )
    };
    for checkpoint in [false, true] {
        let (few, many) = (of(2, checkpoint), of(8, checkpoint));
        let (said, taken) = (many.0 - few.0, many.1 - few.1);
        println!("carried values, checkpoint {checkpoint}: {taken} bytes more, {said} said");
        assert!((said / taken - 1.0).abs() < 0.1, "{said} for {taken}");
    }
}
