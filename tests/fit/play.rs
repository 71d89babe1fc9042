//! The cases: a model trained, scored or sampled from, measured and compared with the figures
//! predicted for it.

use std::{path::Path, sync::Arc, time::Instant};

use randori_engine::{
    GenerateOptions, Player, ScoreItem,
    fit::{Ceilings, Decoding, Learns, Packing, Planner, Work},
    generate, heap, score, trace,
    train::{Control, Optimizer, Pair, Schedule, TrainSettings, Trainer},
    weights::{Dtype, LoadOptions, Quant, Source, describe, open},
    work::multiply_adds,
};
use randori_export::{GgufOptions, GgufQuant, InMemory, gguf};
use randori_lora::{LoraSpec, Targets};
use randori_specimens::llama::{LLAMA, Shape, uniform};

use crate::{
    FILE, MIB,
    opened::{HOST, architecture, families, load},
};

/// Model and sizes of a case: prompt tokens, response tokens, pairs in a step.
#[derive(Clone, Copy)]
pub struct Scene {
    pub shape: Shape,
    prompt: usize,
    response: usize,
    pairs: usize,
}

pub const SMALL: Scene = Scene {
    shape: Shape {
        vocab: 12_000,
        width: 512,
        ffn: 1408,
        layers: 4,
        heads: 8,
        kv_heads: 4,
        head_dim: 64,
        context: 1024,
        ..LLAMA
    },
    prompt: 64,
    response: 96,
    pairs: 4, // 1,016 rows
};

/// Of 54 million weights, of which 50 are experts'.
pub const MIXTURE: Scene = Scene {
    shape: Shape {
        family: "mixtral",
        vocab: 4_000,
        ffn: 1024,
        experts: 8,
        ..SMALL.shape
    },
    ..SMALL
};

pub const SEVEN: Scene = Scene {
    shape: Shape {
        family: "mistral",
        vocab: 32_000,
        width: 4096,
        ffn: 14_336,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        window: Some(4096),
        context: 32_768,
        ..LLAMA
    },
    prompt: 256,
    response: 385, // 256 + 2 · 384 = 1,024 rows, so that a pair of them are 2,048
    pairs: 2,
};

/// Sequences at once, and tokens of each response.
const SLOTS: usize = 40;
const NEW: usize = 90;

/// Settings of a case.
struct Case {
    options: LoadOptions,
    spec: LoraSpec,
    full: bool,
    checkpoint: bool,
    /// Pairs in a step.
    pairs: usize,
    /// Rows at a time.
    tokens: usize,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Train,
    Score,
    Generate { refilled: bool },
}

impl Case {
    fn of(name: &str, scene: &Scene) -> Case {
        let seven = name == "seven";
        let quant = match name {
            "nf4" | "seven" | "mixture" => Some(Quant::Nf4 { double: true }),
            "gguf" | "gguf-generate" => Some(Quant::Gguf),
            _ => None,
        };
        let dtype = match name {
            "seven" | "bf16" | "bf16-generate" => Dtype::Bf16,
            _ => Dtype::F32,
        };
        Case {
            options: LoadOptions { quant, dtype },
            spec: LoraSpec {
                rank: if seven { 16 } else { 8 },
                targets: Targets::AllLinear,
                dora: name == "dora",
                ..LoraSpec::default()
            },
            full: name == "full",
            checkpoint: ["checkpoint", "nf4", "seven", "mixture"].contains(&name),
            pairs: scene.pairs,
            tokens: if name == "several" { 508 } else { 2048 }, // two of four pairs at a time
            stage: match name {
                "score" => Stage::Score,
                "refill" => Stage::Generate { refilled: true },
                _ if name.ends_with("generate") => Stage::Generate { refilled: false },
                _ => Stage::Train,
            },
        }
    }

    fn settings(&self, seven: bool) -> TrainSettings {
        TrainSettings {
            optimizer: Optimizer::adamw(),
            learning_rate: 1e-4,
            batch: self.pairs,
            epochs: if seven { 1 } else { 2 },
            max_steps: seven.then_some(1),
            schedule: Schedule::default(), // a single step of a warm-up would be refused
            micro_batch_tokens: self.tokens,
            checkpoint: self.checkpoint,
            ..TrainSettings::default()
        }
    }
}

/// Plays a case and prints its figures.
pub fn play(name: &str, scene: Scene) {
    heap::steady(); // as the program does
    let config = scene.shape.config();
    let arch = architecture(&config);
    let case = Case::of(name, &scene);
    let source = || match name.starts_with("gguf") {
        true => Source::Gguf(std::env::var(FILE).unwrap().into()),
        false => Source::Random {
            config: config.clone(),
            seed: 1,
        },
    };
    let settings = case.settings(name == "seven");

    let traced = trace(&*arch).unwrap();
    let held = describe(source(), families()).unwrap();
    let held = held.held(&traced, &case.options, &*arch).unwrap();
    let learns = match case.full {
        true => Learns::Full,
        false => Learns::Lora(&case.spec, false),
    };
    let planner = Planner::new(arch.clone(), traced, held, learns, settings.optimizer, 2).unwrap();
    let packing = Packing::fullest(scene.prompt, &[scene.response; 2], case.pairs, case.tokens);
    let decoding = |refilled| Decoding {
        slots: SLOTS,
        prompt: scene.prompt,
        response: NEW,
        refilled,
    };
    let steps = (settings.total_steps(case.pairs) * if packing.several { 2 } else { 1 }) as f64;
    let (stage, work) = match case.stage {
        Stage::Score => (
            planner.scoring_peak(&packing, 1),
            planner.scoring_work(&packing),
        ),
        Stage::Generate { refilled } => {
            let decoding = decoding(refilled);
            let work = planner.generation_work(&decoding);
            let rounds = if refilled { 2.0 } else { 1.0 };
            (
                planner.generation_peak(&decoding, 1),
                work.map(|w| w * rounds),
            )
        }
        Stage::Train => {
            let work = planner.training_work(&packing, case.checkpoint);
            let peak = planner.training_peak(&packing, case.checkpoint, 1);
            (peak, work.map(|w| w * steps))
        }
    };
    let (stage, load, work) = (stage.unwrap(), planner.loading_peak(), work.unwrap());
    let predicted = stage.total().max(load.total()) as f64 / MIB;

    // what planning has freed would be used again, and not be seen in what the case takes
    heap::trim();
    let floor = status("VmRSS:") - code();
    let began = Instant::now();
    let base = open(source(), families())
        .unwrap()
        .load(arch, &case.options, &mut |_, _| ())
        .unwrap();
    assert_eq!(
        base.bytes() as u64,
        planner.base_bytes(),
        "the base's size is known exactly"
    );
    let loaded = (
        began.elapsed().as_secs_f64(),
        status("VmRSS:"),
        status("VmHWM:"),
    );
    let player = match case.full {
        true => Player::full(Arc::new(base)),
        false => Player::with_lora(Arc::new(base), case.spec.clone(), 1),
    }
    .unwrap();
    let own: usize = player.params.values().map(|t| 4 * t.elem_count()).sum();
    assert_eq!(own as u64, planner.player_bytes(), "and so is a player's");
    let (before, began) = (multiply_adds(), Instant::now());
    perform(&case, &scene, player, settings);
    let seconds = began.elapsed().as_secs_f64();
    let done = (multiply_adds() - before) as f64;
    let highest = status("VmHWM:");
    let peak = highest - code();
    println!("\nfigures: {floor} {peak} {highest} {predicted}");
    let mib = |bytes: u64| bytes as f64 / MIB;
    println!(
        "  base {:.1}, players {:.1}, moments {:.1}, gradients {:.1}, kept {:.1}, work {:.1} (attention {:.1}, logits {:.1}); load {:.1}",
        mib(stage.base),
        mib(stage.players),
        mib(stage.moments),
        mib(stage.gradients),
        mib(stage.kept),
        mib(stage.work),
        mib(stage.attention),
        mib(stage.logits),
        mib(load.total())
    );
    println!(
        "  loaded in {:.0} s (then {:.1} MiB, at most {:.1})",
        loaded.0, loaded.1, loaded.2
    );
    timed(&planner, &work, done, seconds);
    match case.stage {
        // the average of the keys that a token sees is rounded
        Stage::Generate { .. } => assert!((done / work.multiply_adds - 1.0).abs() < 0.01),
        // DoRA takes the norms of its rows besides; a trained head finds out with a chunk of rows
        // that it is trained
        _ if case.spec.dora || case.full => {
            assert!((done / work.multiply_adds - 1.0).abs() < 0.02)
        }
        _ => assert_eq!(done, work.multiply_adds, "the work is known exactly"),
    }
}

/// Compares the estimated time with the real one, loosely: other programs have their share of the
/// cores.
fn timed(planner: &Planner, work: &Work, done: f64, seconds: f64) {
    let machine = Ceilings::measure(planner.trace().width, planner.base_bytes()).unwrap();
    let estimate = machine.seconds(work);
    println!(
        "  {seconds:.2} s, estimated {estimate:.2} ({:+.0} %): {:.2} G multiply-adds ({:.2} expected) at {:.0} G/s, {:.1} GB at {:.1} GB/s, {:.2} G weights widened",
        100.0 * (estimate / seconds - 1.0),
        done / 1e9,
        work.multiply_adds / 1e9,
        machine.multiply_adds / 1e9,
        work.bytes / 1e9,
        machine.bytes / 1e9,
        work.widened / 1e9,
    );
    let off = (estimate / seconds).max(seconds / estimate);
    assert!(
        off < 4.0,
        "{seconds:.2} s took what was estimated at {estimate:.2} s"
    );
}

/// Performs the measured work of a case.
fn perform(case: &Case, scene: &Scene, player: Player, settings: TrainSettings) {
    let vocab = scene.shape.vocab as f64;
    let tokens = |seed: usize, n: usize| -> Vec<u32> {
        let drawn = uniform(seed as u64, "tokens", n);
        drawn.map(|u| (u * vocab) as u32).collect()
    };
    let pairs: Vec<Pair> = (0..case.pairs)
        .map(|i| Pair {
            prompt: tokens(i, scene.prompt),
            real: tokens(10 + i, scene.response),
            generated: tokens(20 + i, scene.response),
            ref_real: -1000.0,
            ref_generated: -1000.0,
            rewards: None,
            place: format!("made up:{i}"),
        })
        .collect();
    match case.stage {
        Stage::Score => {
            let items: Vec<ScoreItem> = pairs
                .iter()
                .map(|p| ScoreItem {
                    prompt: &p.prompt,
                    responses: vec![&p.real, &p.generated],
                })
                .collect();
            score(&player, &items, case.tokens, &mut |_| ()).unwrap();
        }
        Stage::Generate { refilled } => {
            let count = SLOTS * if refilled { 2 } else { 1 };
            let prompts: Vec<Vec<u32>> = (0..count).map(|i| tokens(i, scene.prompt)).collect();
            let options = GenerateOptions {
                max_new_tokens: NEW,
                slots: SLOTS,
                stop: vec![0],
                min_new_tokens: NEW, // all as long as can be
                ..GenerateOptions::default()
            };
            generate(&player, &prompts, &[], &options, &mut |_| ()).unwrap();
        }
        Stage::Train => {
            let loss = HOST.loss("spin", &[]).unwrap();
            let mut trainer = Trainer::new(player, settings).unwrap();
            trainer
                .train_pairs(&pairs, &*loss, &mut |metrics, _| {
                    assert!(metrics.loss.is_finite());
                    Ok(Control::Continue)
                })
                .unwrap();
        }
    }
}

/// Bytes of a model's weights in f32.
pub fn bytes_in_f32(scene: Scene) -> u64 {
    let config = scene.shape.config();
    let arch = architecture(&config);
    let traced = trace(&*arch).unwrap();
    let counts = traced
        .weights
        .iter()
        .map(|w| w.shape.iter().product::<usize>());
    4 * counts.sum::<usize>() as u64
}

/// The small model with its projections in 4 bits.
pub fn gguf_file(out: &Path) {
    let config = SMALL.shape.config();
    let base = load(Source::Random { config, seed: 1 }, &LoadOptions::default());
    let player = Player::bare(base);
    let tensors = InMemory {
        player: &player,
        onto: None,
    };
    let options = GgufOptions {
        quant: GgufQuant::Q4_0,
        replace: true,
        name: "small".into(),
    };
    gguf(
        &tensors,
        None,
        out,
        &options,
        &mut |_, _, _| Ok(()),
        &mut |_, _| (),
    )
    .unwrap();
}

/// Resident memory of the program and its libraries, in MiB. It is mapped from their files, page by
/// page or at once as the system chooses, and is part of no figure.
fn code() -> f64 {
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut ours, mut kib) = (false, 0.0);
    for line in maps.lines() {
        if line.starts_with(|c: char| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()) {
            // a mapping's first line begins with its addresses and ends with its file, its figures
            // begin with capital letters
            ours = line.ends_with(program) || line.contains(".so");
        }
        if let Some(rss) = line.strip_prefix("Rss:").filter(|_| ours) {
            kib += rss.trim_end_matches("kB").trim().parse::<f64>().unwrap();
        }
    }
    kib / 1024.0
}

/// A line of this process's status, in MiB.
fn status(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(key)).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}
