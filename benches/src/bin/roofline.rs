//! Compares each stage's time with its lower bound on this machine, and measures how its cost
//! grows. docs/explanation/speed.md explains the tables.
//!
//! ```text
//! roofline [--quick] [PART OF A NAME]
//! ```
//! Prints markdown; progress goes to standard error. With a part of a name only those rows are
//! measured, for instance under a profiler. `RANDORI_BENCH_LAYERS` sets the blocks (30; 6 with
//! `--quick`), `RANDORI_BENCH_REPEATS` the repeats of a stage (7; 3) and RAYON_NUM_THREADS the
//! threads.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench stops at the first thing that does not work"
)]

use std::{cell::LazyCell, sync::Arc, time::Instant};

use randori_benches::{
    GENERATED, PROMPT, REAL, WIDTH, config_of, host, number, pairs, pairs_of, random,
    roofline::{
        Case, Ceilings, Costs, PRODUCTS, RowCounts, decoding, exponent, machine, medians,
        micro_batches, prefill, row, scoring, table, training,
    },
};
use randori_engine::{
    Base, trace,
    train::Pair,
    weights::{Dtype, LoadOptions, Quant},
};
use randori_host::Host;

/// Pairs of the stages' steps.
const PAIRS: usize = 4;
/// Most that a quiet machine's peak rates differ between two measurements.
const NOISE: f64 = 0.1;
/// Cached tokens of a decoding sequence.
const CACHED: usize = 100;

fn main() {
    randori_engine::heap::steady();
    let mut quick = false;
    let mut part = String::new();
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--quick" => quick = true,
            other if other.starts_with('-') => panic!("there is no option {other}"),
            other => part = other.to_string(),
        }
    }
    let run = Run {
        host: host(),
        layers: number("RANDORI_BENCH_LAYERS", if quick { 6 } else { 30 }),
        repeats: number("RANDORI_BENCH_REPEATS", if quick { 3 } else { 7 }),
        part,
        begin: Instant::now(),
    };
    run.all();
}

struct Run {
    host: Host,
    layers: usize,
    repeats: usize,
    part: String,
    begin: Instant,
}

/// A series of one table: cases of growing size.
struct Growth {
    stage: &'static str,
    what: String,
    sizes: Vec<f64>,
    cases: Vec<Case>,
}

impl Run {
    fn all(&self) {
        let before = machine();
        self.say("ceilings");
        let tries = self.repeats.max(5);
        let start = Ceilings::measure(tries);
        let stages = self.stages();
        let growth = self.growth();
        self.say("ceilings again");
        let end = Ceilings::measure(tries);
        let best = start.better(&end);

        println!("Before: {before}. After: {}.", machine());
        println!(
            "SmolLM2-135M's shapes with random weights, {} blocks; medians of {} runs (growth: {}).",
            self.layers,
            self.repeats,
            self.fewer()
        );
        self.print_counts();
        print_ceilings(&start, &end, &best);
        print_stages(&stages, &best);
        print_growth(&growth, &best);
    }

    /// Prints the counts behind the lower bounds.
    fn print_counts(&self) {
        let config = config_of(self.layers, WIDTH).to_string();
        let t = trace(&*self.host.architecture("llama", &config).unwrap()).unwrap();
        let r = RowCounts::of(&micro_batches(&pairs(PAIRS), usize::MAX)[0]);
        table(&["counted", "each", "in 4 pairs", "forward"]);
        let count = |what: &str, flops: f64, n: f64| {
            row(&[
                what.into(),
                format!("{:.4} MFLOP", flops / 1e6),
                format!("{n}"),
                format!("{:.2} GFLOP", flops * n / 1e9),
            ]);
        };
        count("rows through the blocks", t.flops_per_token, r.rows);
        count("(query, key) pairs", t.flops_per_token_pair, r.pairs);
        count("rows through the head", t.flops_per_head_row, r.head);
        let bytes = |what: &str, bytes: usize| {
            row(&[
                what.into(),
                format!("{:.1} kB", bytes as f64 / 1e3),
                format!("{}", r.rows),
                format!("{:.1} MB", bytes as f64 * r.rows / 1e6),
            ]);
        };
        bytes("the tape, a row", t.activation_bytes_per_token);
        bytes("the KV cache, a token", t.cache_bytes_per_token);
    }

    fn say(&self, what: &str) {
        eprintln!("{:5.0} s  {what}", self.begin.elapsed().as_secs_f64());
    }

    /// Number of repeats of a series.
    fn fewer(&self) -> usize {
        self.repeats.div_ceil(2)
    }

    fn wanted(&self, name: &str) -> bool {
        name.contains(&self.part)
    }

    fn base(&self, layers: usize, width: usize, quant: Option<Quant>) -> Arc<Base> {
        let options = LoadOptions {
            quant,
            dtype: Dtype::F32,
        };
        random(&self.host, config_of(layers, width), &options)
    }

    /// Every stage with its median.
    fn stages(&self) -> Vec<(Case, f64)> {
        let nf4 = Some(Quant::Nf4 { double: true });
        let mut done = Vec::new();
        for (format, quant) in [("f32", None), ("NF4", nf4)] {
            self.say(&format!("stages in {format}"));
            let base = LazyCell::new(|| self.base(self.layers, WIDTH, quant));
            let mut cases = self.of_stage(format, &|| LazyCell::force(&base));
            let times = medians(&mut cases, self.repeats);
            done.extend(cases.into_iter().zip(times));
        }
        done
    }

    fn of_stage<'b>(&self, format: &str, base: &dyn Fn() -> &'b Arc<Base>) -> Vec<Case> {
        let mut cases = Vec::new();
        let mut add = |name: String, make: &dyn Fn(&str) -> Case| {
            if self.wanted(&name) {
                cases.push(make(&name));
            }
        };
        add(format!("score {PAIRS} pairs, {format}"), &|name| {
            scoring(name, base(), pairs(PAIRS))
        });
        add(
            format!("SPIN step of {PAIRS} pairs, LoRA r=8, {format}"),
            &|name| training(&self.host, name, base(), pairs(PAIRS)),
        );
        add(format!("prefill 8 x {PROMPT} tokens, {format}"), &|name| {
            prefill(name, base(), 8, PROMPT)
        });
        for batch in [1, 8, 32] {
            add(
                format!("decode a token of {batch}, {CACHED} cached, {format}"),
                &|name| decoding(name, base(), batch, CACHED, self.repeats),
            );
        }
        cases
    }

    /// Every series with its medians.
    fn growth(&self) -> Vec<(Growth, Vec<f64>)> {
        let base = LazyCell::new(|| self.base(self.layers, WIDTH, None));
        let blocks = |decode| {
            let sizes = [1, 2, 3].map(|i| (self.layers * i / 3).max(1));
            let models = sizes.map(|layers| (layers, WIDTH));
            self.models(&format!("blocks {sizes:?}"), models, decode)
        };
        let makers: [(&str, &dyn Fn() -> Growth); 8] = [
            ("growth: prompt", &|| {
                self.steps(
                    "prompt tokens (1 pair, responses 51 and 93)",
                    [64, 256, 1024],
                    &base,
                    |n| pairs_of(1, [n, REAL, GENERATED]),
                )
            }),
            ("growth: response", &|| {
                self.steps(
                    "tokens of each response (1 pair, prompt 73)",
                    [32, 128, 512],
                    &base,
                    |n| pairs_of(1, [PROMPT, n, n]),
                )
            }),
            ("growth: pairs", &|| {
                self.steps(
                    "pairs (73, 51 and 93 tokens; 2,048 rows a micro-batch)",
                    [1, 4, 16],
                    &base,
                    pairs,
                )
            }),
            ("growth: blocks", &|| blocks(false)),
            ("growth: width", &|| {
                let layers = (self.layers / 3).max(1);
                let widths = [192, 384, 768];
                self.models(
                    &format!("widths {widths:?}, {layers} blocks"),
                    widths.map(|w| (layers, w)),
                    false,
                )
            }),
            ("growth: decode, blocks", &|| blocks(true)),
            ("growth: decode, batch", &|| {
                self.tokens("sequences (100 cached tokens)", [4, 16, 64], &base, |n| {
                    (n, CACHED)
                })
            }),
            ("growth: decode, cached", &|| {
                self.tokens("cached tokens (8 sequences)", [64, 256, 1024], &base, |n| {
                    (8, n)
                })
            }),
        ];
        let mut done = Vec::new();
        for (name, make) in makers {
            if self.wanted(name) {
                self.say(name);
                let mut series = make();
                let times = medians(&mut series.cases, self.fewer());
                done.push((series, times));
            }
        }
        done
    }

    fn steps(
        &self,
        what: &str,
        sizes: [usize; 3],
        base: &Arc<Base>,
        pairs: impl Fn(usize) -> Vec<Pair>,
    ) -> Growth {
        Growth {
            stage: "SPIN step",
            what: what.into(),
            sizes: sizes.map(|n| n as f64).to_vec(),
            cases: sizes
                .map(|n| training(&self.host, &n.to_string(), base, pairs(n)))
                .into(),
        }
    }

    fn tokens(
        &self,
        what: &str,
        sizes: [usize; 3],
        base: &Arc<Base>,
        shape: impl Fn(usize) -> (usize, usize),
    ) -> Growth {
        let case = |n: usize| {
            let (batch, cached) = shape(n);
            decoding(&n.to_string(), base, batch, cached, self.fewer())
        };
        Growth {
            stage: "decode a token",
            what: what.into(),
            sizes: sizes.map(|n| n as f64).to_vec(),
            cases: sizes.map(case).into(),
        }
    }

    /// Models of (blocks, width), measured against the weights that they multiply with.
    fn models(&self, what: &str, models: [(usize, usize); 3], decode: bool) -> Growth {
        let (mut sizes, mut cases) = (Vec::new(), Vec::new());
        for (layers, width) in models {
            let base = self.base(layers, width, None);
            let weights = Costs::of(&base).weights();
            let name = format!("{:.1}", weights / 1e6);
            sizes.push(weights);
            cases.push(match decode {
                true => decoding(&name, &base, 8, CACHED, self.fewer()),
                false => training(&self.host, &name, &base, pairs(PAIRS)),
            });
        }
        let (stage, of) = match decode {
            true => ("decode a token", "8 sequences"),
            false => ("SPIN step", "4 pairs"),
        };
        Growth {
            stage,
            what: format!("million weights ({of}; {what})"),
            sizes,
            cases,
        }
    }
}

fn print_ceilings(start: &Ceilings, end: &Ceilings, best: &Ceilings) {
    table(&["what", "at the start", "at the end"]);
    for (i, (rows, inputs, outputs)) in PRODUCTS.into_iter().enumerate() {
        row(&[
            format!("f32 product, {rows} rows, {inputs} -> {outputs}"),
            format!("{:.1} GFLOP/s", start.products[i] / 1e9),
            format!("{:.1} GFLOP/s", end.products[i] / 1e9),
        ]);
    }
    row(&[
        "reading 1 GiB".into(),
        format!("{:.1} GB/s", start.bytes / 1e9),
        format!("{:.1} GB/s", end.bytes / 1e9),
    ]);
    println!(
        "\nThe ceilings: {:.1} GFLOP/s, {:.1} GB/s.",
        best.flops() / 1e9,
        best.bytes / 1e9
    );
    let apart = start.apart(end);
    if apart > NOISE {
        println!(
            "**The ceilings at the start and at the end lie {:.0} % apart: something else ran here, and the shares below say little.**",
            100.0 * apart
        );
    }
}

/// Milliseconds that the operations and the bytes take at the ceilings.
fn floors(case: &Case, best: &Ceilings) -> (f64, f64) {
    let Case { work, .. } = case;
    (
        1e3 * work.flops / best.flops(),
        1e3 * work.bytes / best.bytes,
    )
}

fn print_stages(stages: &[(Case, f64)], best: &Ceilings) {
    table(&[
        "stage",
        "GFLOP",
        "MB",
        "ms of operations",
        "ms of bytes",
        "floor, ms",
        "measured, ms",
        "floor / measured",
    ]);
    for (case, seconds) in stages {
        let (flops, bytes) = floors(case, best);
        let floor = flops.max(bytes);
        row(&[
            case.name.clone(),
            format!("{:.2}", case.work.flops / 1e9),
            format!("{:.0}", case.work.bytes / 1e6),
            format!("{flops:.1}"),
            format!("{bytes:.1}"),
            format!("{floor:.1}"),
            format!("{:.1}", 1e3 * seconds),
            format!("{:.0} %", 100.0 * floor / (1e3 * seconds)),
        ]);
    }
}

fn print_growth(growth: &[(Growth, Vec<f64>)], best: &Ceilings) {
    table(&[
        "stage",
        "what grows",
        "sizes",
        "measured, ms",
        "exponent",
        "floor, ms",
        "the floor's exponent",
    ]);
    for (g, times) in growth {
        let floors: Vec<f64> = g
            .cases
            .iter()
            .map(|c| floors(c, best))
            .map(|(flops, bytes)| flops.max(bytes))
            .collect();
        let list = |all: Vec<String>| all.join(" / ");
        let ms = |all: &[f64], scale: f64| {
            list(all.iter().map(|t| format!("{:.1}", scale * t)).collect())
        };
        row(&[
            g.stage.into(),
            g.what.clone(),
            list(g.cases.iter().map(|c| c.name.clone()).collect()),
            ms(times, 1e3),
            format!("{:.2}", exponent(&g.sizes, times)),
            ms(&floors, 1.0),
            format!("{:.2}", exponent(&g.sizes, &floors)),
        ]);
    }
}
