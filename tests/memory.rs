//! Peak memory: an opponent and a policy share one base (compared with a single player that does
//! the same work, and with a process that holds the base twice, so that the test can fail); an
//! export holds one tensor at a time (compared with one that loads the base).
//!
//! Each case runs in a process of its own, this test program started again with [`CASE`] set: peak
//! RSS is a process's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod opened;

use std::{process::Command, sync::Arc};

use candle_core::Tensor;
use randori_engine::{
    Base, GenerateOptions, Inputs, Player, ScoreItem, Weight, generate, heap, score,
    train::{Control, Optimizer, Pair, Schedule, TrainSettings, Trainer},
    weights::{Dtype, LoadOptions, Source},
};
use randori_export::{
    Fidelity, FolderOptions, FromDisk, InMemory, Merged, Onto, RoundTrip, Tensors,
};
use randori_lora::{LoraSpec, Projection, Targets};
use randori_specimens::llama::{LLAMA, Shape, uniform};

use opened::{HOST, load, opened};

/// Set in the processes that are measured: `one`, `two` or `copies`.
const CASE: &str = "RANDORI_MEMORY_CASE";
const TEST: &str = "two_players_hold_one_base";
/// Name of the other test, and the variable with its base's path.
const EXPORT: &str = "an_export_holds_a_tensor_at_a_time";
const FOLDER: &str = "RANDORI_MEMORY_FOLDER";
/// About 120 MB of weights in f32.
const SHAPE: Shape = Shape {
    vocab: 12_000,
    width: 512,
    ffn: 1408,
    layers: 6,
    heads: 8,
    kv_heads: 4,
    head_dim: 64,
    context: 256,
    ..LLAMA
};
const MIB: f64 = 1024.0 * 1024.0;

#[test]
fn two_players_hold_one_base() {
    if !cfg!(target_os = "linux") {
        eprintln!("SKIPPED: peak memory is read from /proc/self/status, which only Linux has");
        return;
    }
    if let Ok(case) = std::env::var(CASE) {
        heap::steady();
        return play(&case);
    }
    let [one, two, copies] = ["one", "two", "copies"].map(measure);
    let Figures { base, adapter, .. } = one;
    println!("base {base:.1} MiB, adapter {adapter:.1} MiB; peak RSS in MiB:");
    println!("  one player             {:7.1}", one.peak);
    println!("  opponent and policy    {:7.1}", two.peak);
    println!("  two bases, for control {:7.1}", copies.peak);
    assert!(base > 100.0, "the base must be what fills the memory");
    let (more, copy) = (two.peak - one.peak, copies.peak - one.peak);
    assert!(
        more < adapter + 0.03 * base,
        "the second player costs {more:.1} MiB; its adapter is {adapter:.1} MiB"
    );
    assert!(
        copy > 0.9 * base,
        "a second base costs {copy:.1} MiB, so this test measures nothing"
    );
}

/// An export's peak above what the process held before is a few copies of the largest tensor, not
/// the base.
#[test]
fn an_export_holds_a_tensor_at_a_time() {
    if !cfg!(target_os = "linux") {
        eprintln!("SKIPPED: peak memory is read from /proc/self/status, which only Linux has");
        return;
    }
    if let Ok(case) = std::env::var(CASE) {
        heap::steady();
        return export(&case, &std::env::var(FOLDER).unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    let base = Player::bare(random_base());
    write(&in_memory(&base), &dir.path().join("base"), None);
    let size = bytes(&base.base) as f64 / MIB;
    drop(base);
    let folder = dir.path().to_str().unwrap();
    let [streamed, loaded] =
        ["streamed", "loaded"].map(|case| measure_test(EXPORT, case, &[(FOLDER, folder)]).peak);
    let largest = (4 * SHAPE.vocab * SHAPE.width) as f64 / MIB;
    println!("base {size:.1} MiB, largest tensor {largest:.1} MiB; an export's peak in MiB:");
    println!("  streamed               {streamed:7.1}");
    println!("  loaded, for control    {loaded:7.1}");
    assert!(
        streamed < 2.5 * largest + 20.0,
        "{streamed:.1} MiB for tensors of at most {largest:.1} MiB"
    );
    assert!(
        loaded > size,
        "a loaded base costs {loaded:.1} MiB, so this test measures nothing"
    );
}

/// Merges an adapter into the base of the folder, with a report on real inputs.
fn export(case: &str, dir: &str) {
    let (checkpoint, arch) = opened(Source::Folder(format!("{dir}/base").into()));
    let options = LoadOptions::default();
    let out = format!("{dir}/{case}");
    let mut plan = randori_engine::Packed::default();
    plan.push(&tokens(1, 24), &[&tokens(2, 16)]);
    let stream = checkpoint.stream(arch, &options).unwrap();
    let (spec, params) = adapter(stream.trace());
    let before = peak_rss();
    if case == "streamed" {
        let (lora, shared) = (Arc::new(spec.clone()), Arc::new(params.clone()));
        let inputs = stream.inputs(Some(lora), shared, &plan, 16).unwrap();
        let merging = FromDisk::new(&stream, Some(&spec), &params, Onto::Dequantised).unwrap();
        write(&merging, out.as_ref(), Some(inputs));
    } else {
        let base = load(Source::Folder(format!("{dir}/base").into()), &options);
        let player = Player::with_adapter(base, spec, params).unwrap();
        write(&in_memory(&player), out.as_ref(), None);
    }
    println!("\nfigures: {} 0 0", peak_rss() - before);
}

/// An adapter on every projection of a block, B not zero.
fn adapter(trace: &randori_engine::Trace) -> (LoraSpec, randori_engine::Params) {
    let spec = LoraSpec {
        rank: 8,
        alpha: 16.0,
        targets: Targets::AllLinear,
        ..LoraSpec::default()
    };
    let mut params = randori_engine::Params::new();
    for l in trace.linears.iter().filter(|l| l.layer.is_some()) {
        let (a, b) = spec
            .init(&Projection::new(&l.name, l.inputs, l.outputs), 1)
            .unwrap();
        params.insert(format!("{}.lora_A", l.name), a);
        params.insert(format!("{}.lora_B", l.name), (b + 0.01).unwrap());
    }
    (spec, params)
}

fn in_memory(player: &Player) -> InMemory<'_> {
    InMemory { player, onto: None }
}

/// An f32 folder; with inputs, measured too.
fn write(tensors: &dyn Tensors, out: &std::path::Path, inputs: Option<Inputs>) {
    let options = FolderOptions {
        dtype: Dtype::F32,
        ..FolderOptions::default()
    };
    let measured = inputs.is_some();
    let mut fidelity = Fidelity::new(inputs);
    let mut each = |name: &str, m: &Merged, round_trip: &RoundTrip| match measured {
        true => fidelity.add(name, m, round_trip),
        false => Ok(()),
    };
    randori_export::folder(tensors, &[], out, &options, &mut each, &mut |_, _| ()).unwrap();
    if measured {
        let total = fidelity.report().total.unwrap();
        assert!(total.kept == 1.0 && total.output == Some(0.0), "{total:?}");
    }
}

/// In MiB.
struct Figures {
    peak: f64,
    base: f64,
    adapter: f64,
}

/// Plays a case in a process of its own and reads its figures.
fn measure(case: &str) -> Figures {
    measure_test(TEST, case, &[])
}

fn measure_test(test: &str, case: &str, more: &[(&str, &str)]) -> Figures {
    let own = std::env::current_exe().unwrap();
    let out = Command::new(own)
        .envs(more.iter().copied())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CASE, case)
        .env("RAYON_NUM_THREADS", "2")
        // as `heap::steady` has it in the program; libtest's thread has an arena before it could be
        // called
        .env("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{case}: {text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    // the harness prints the test's name on the same line
    let figures: Vec<f64> = text
        .lines()
        .filter_map(|line| line.split_once("figures: "))
        .flat_map(|(_, figures)| figures.split(' '))
        .map(|figure| figure.parse().unwrap())
        .collect();
    match figures[..] {
        [peak, base, adapter] => Figures {
            peak,
            base,
            adapter,
        },
        _ => panic!("{case} printed no figures: {text}"),
    }
}

/// Does the same work in every case: the policy trains a step, a player answers and scores the
/// prompts, the policy trains on the answers. `two`: the answers are the opponent's, the policy
/// before its last step.
fn play(case: &str) {
    let base = random_base();
    let copy = (case == "copies").then(random_base);
    let loss = HOST.loss("spin", &[]).unwrap();
    let spec = LoraSpec {
        rank: 8,
        alpha: 16.0,
        rslora: false,
        dropout: 0.0,
        targets: Targets::AllLinear,
        ..LoraSpec::default()
    };
    let start = Player::with_lora(base.clone(), spec, 1).unwrap();
    let size = bytes(&base);
    let adapter: usize = start.params.values().map(tensor_bytes).sum();

    let train = |player: Player, pairs: &[Pair]| {
        let settings = TrainSettings {
            optimizer: Optimizer::rmsprop(),
            learning_rate: 1e-3,
            batch: pairs.len(),
            epochs: 2, // in the second the new adapter lies beside the old
            schedule: Schedule::default(), // a warm-up's first step has a rate of 0
            ..TrainSettings::default()
        };
        let mut trainer = Trainer::new(player, settings).unwrap();
        trainer
            .train_pairs(pairs, &*loss, &mut |_, _| Ok(Control::Continue))
            .unwrap();
        trainer.into_player().unwrap()
    };
    let prompts: Vec<Vec<u32>> = (0..2).map(|i| tokens(i, 24)).collect();
    let made_up: Vec<Vec<u32>> = (0..2).map(|i| tokens(10 + i, 16)).collect();
    let policy = train(start, &pairs(&prompts, &made_up, None));
    // the policy goes on from here; its former self stays only where there are two players
    let answers = answer(&policy, &prompts);
    let opponent = (case == "two").then(|| policy.clone());
    let next = pairs(&prompts, &answers, Some(&policy));
    let policy = train(policy, &next);
    if let Some(opponent) = opponent {
        // the former self must still be there, another player on the same base
        assert!(Arc::ptr_eq(&opponent.base, &policy.base));
        let differs = |(name, t): (&String, &Tensor)| floats(t) != floats(&opponent.params[name]);
        assert!(
            policy.params.iter().any(differs),
            "the policy has not moved"
        );
        answer(&opponent, &prompts);
        pairs(&prompts, &answers, Some(&opponent));
    }
    answer(&policy, &prompts);
    drop(copy);
    println!(
        "\nfigures: {} {} {}",
        peak_rss(),
        size as f64 / MIB,
        adapter as f64 / MIB
    );
}

fn random_base() -> Arc<Base> {
    let config = SHAPE.config();
    load(Source::Random { config, seed: 1 }, &LoadOptions::default())
}

fn answer(player: &Player, prompts: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let options = GenerateOptions {
        max_new_tokens: 12,
        ..GenerateOptions::default()
    };
    let answers = generate(player, prompts, &[], &options, &mut |_| ()).unwrap();
    answers.into_iter().map(|answer| answer.tokens).collect()
}

/// Pairs of made-up real responses and these generated ones, scored by the opponent if there is
/// one.
fn pairs(prompts: &[Vec<u32>], generated: &[Vec<u32>], opponent: Option<&Player>) -> Vec<Pair> {
    let real: Vec<Vec<u32>> = (0..prompts.len()).map(|i| tokens(20 + i, 16)).collect();
    let items: Vec<ScoreItem> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| ScoreItem {
            prompt,
            responses: vec![&real[i], &generated[i]],
        })
        .collect();
    let scores = match opponent {
        Some(opponent) => score(opponent, &items, 512, &mut |_| ()).unwrap(),
        None => vec![vec![0.0, 0.0]; prompts.len()],
    };
    let pair = |(i, score): (usize, &Vec<f64>)| Pair {
        prompt: prompts[i].clone(),
        real: real[i].clone(),
        generated: generated[i].clone(),
        ref_real: score[0],
        ref_generated: score[1],
        rewards: None,
        place: format!("made up:{i}"),
    };
    scores.iter().enumerate().map(pair).collect()
}

fn tokens(seed: usize, n: usize) -> Vec<u32> {
    let drawn = uniform(seed as u64, "tokens", n);
    drawn.map(|u| (u * SHAPE.vocab as f64) as u32).collect()
}

fn bytes(base: &Base) -> usize {
    let of = |weight: &Weight| match weight {
        Weight::Dense(t) => tensor_bytes(t),
        other => other.bytes(),
    };
    base.weights.values().map(of).sum()
}

fn tensor_bytes(t: &Tensor) -> usize {
    t.elem_count() * t.dtype().size_in_bytes()
}

fn floats(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// The most memory this process ever held, in MiB.
fn peak_rss() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}
