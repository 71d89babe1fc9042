//! A base that is loaded onto a GPU passes through the machine's memory a weight at a time. Wants
//! the stand-in for a GPU (`crates/cuda/stand_in/build.sh DIR`, then `LD_LIBRARY_PATH=DIR`), whose
//! memory is the machine's too and is subtracted; skips, loudly, without one. Alone in its process,
//! so that the peak is its own.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use randori_engine::{
    Base, Compute,
    fit::{Learns, Planner},
    trace,
    train::Optimizer,
    weights::{Dtype, LoadOptions, Quant, Source, describe, open},
};
use randori_lora::{LoraSpec, Targets};
use randori_sdk::seam::{Architecture, Backend, Binary, Id, OpResult};

const MIB: u64 = 1 << 20;
const LAYERS: usize = 64;
const SIDE: usize = 1024; // 2 MiB in bf16, 4 in f32, a little over 0.5 in NF4
const VOCAB: usize = 64;

struct Squares;

impl Architecture for Squares {
    fn name(&self) -> &str {
        "squares"
    }
    fn layers(&self) -> usize {
        LAYERS
    }
    fn embed(&self, ops: &mut dyn Backend, ids: Id) -> OpResult {
        ops.embed("embed", ids, VOCAB, SIDE)
    }
    fn block(&self, ops: &mut dyn Backend, layer: usize, x: Id) -> OpResult {
        let h = ops.linear(&format!("layers.{layer}.proj"), x, SIDE, false)?;
        ops.binary(Binary::Add, x, h)
    }
    fn head(&self, ops: &mut dyn Backend, x: Id) -> OpResult {
        ops.linear("head", x, VOCAB, false)
    }
}

fn status(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|l| l.starts_with(key))?;
    let kilobytes = line.split_whitespace().nth(1)?.parse::<u64>().ok()?;
    Some(kilobytes * 1024)
}

fn source() -> Source {
    let config = serde_json::json!({ "vocab_size": VOCAB });
    Source::Random { config, seed: 1 }
}

/// What `fit` says of the machine's memory.
fn predicted(options: &LoadOptions) -> u64 {
    let arch: Arc<dyn Architecture> = Arc::new(Squares);
    let traced = trace(&*arch).unwrap();
    let held = describe(source(), &[]).unwrap();
    let held = held.held(&traced, options, &*arch).unwrap();
    let spec = LoraSpec {
        targets: Targets::AllLinear,
        ..LoraSpec::default()
    };
    let learns = Learns::Lora(&spec, false); // in full training the base would stay
    let planner = Planner::new(arch, traced, held, learns, Optimizer::adamw(), 2).unwrap();
    planner.on_card(options.dtype).unwrap().beside_card(1).0
}

/// What loading took of the machine's memory, and the base. The peak is taken after every weight,
/// less what lay on the card before that weight: at the end alone it would be too low, since the
/// card's blocks go where the machine's were freed.
fn taken(options: &LoadOptions) -> (u64, Base) {
    let compute = Compute::on_gpu(candle_core::DType::BF16).unwrap();
    let free = || randori_engine::card().unwrap().1 as u64;
    let (card, before) = (free(), status("VmRSS").unwrap());
    let (mut most, mut held) = (0, 0);
    let mut see = |_, _| {
        let grown = status("VmHWM").unwrap().saturating_sub(before);
        most = grown.saturating_sub(held).max(most);
        held = card - free();
    };
    std::fs::write("/proc/self/clear_refs", "5").unwrap(); // the peak counts from here
    let base = open(source(), &[]).unwrap();
    let base = base
        .load_where(Arc::new(Squares), options, compute, &mut see)
        .unwrap();
    let on_card = card - free();
    assert!(on_card >= base.bytes() as u64, "{on_card} on the card");
    (most, base)
}

#[test]
fn the_machine_holds_a_weight_at_a_time() {
    match randori_engine::card() {
        Ok((name, ..)) if name.contains("stand-in") => {}
        Ok((name, ..)) => return eprintln!("SKIPPED: a test for the stand-in, not {name}"),
        Err(e) => return eprintln!("SKIPPED: {e}"),
    }
    let nf4 = Some(Quant::Nf4 { double: true });
    let mut bases = Vec::new(); // what is freed would be memory that the next finds
    for quant in [nf4, None] {
        let options = LoadOptions {
            quant,
            dtype: Dtype::Bf16,
        };
        let want = predicted(&options);
        let (took, base) = taken(&options);
        println!(
            "{quant:?}: {} KiB on the card; beside it {} KiB, predicted {}",
            base.bytes() / 1024,
            took / 1024,
            want / 1024
        );
        assert!(base.bytes() as u64 > want + 8 * MIB, "too small a test");
        assert!(took < want + 4 * MIB, "{quant:?}: {took} of {want}");
        bases.push(base);
    }
}
