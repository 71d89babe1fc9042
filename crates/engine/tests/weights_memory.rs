//! Loading must peak at the result plus about one tensor. Alone in its process, so that the peak is
//! its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use randori_engine::{
    trace::{Trace, TracedLinear, TracedWeight, Use},
    weights::{Dtype, LoadOptions, Quant, Source, open},
};
use randori_specimens::small::Named;

const MIB: usize = 1 << 20;
const MATRICES: usize = 24;
const SIDE: usize = 1024; // 2 MiB in bf16, 4 in f32, a little over 0.5 in NF4

fn status(key: &str) -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|l| l.starts_with(key))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<usize>()
        .ok()
        .map(|kb| kb * 1024)
}

#[test]
fn peak_is_the_result_and_one_tensor() {
    let Some(_) = status("VmHWM") else {
        eprintln!("SKIPPED: this system does not tell a process's peak memory");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let name = |i: usize| format!("model.layers.0.m{i}_proj");
    {
        let one = Tensor::full(0.5f32, (SIDE, SIDE), &Device::Cpu)
            .unwrap()
            .to_dtype(DType::BF16)
            .unwrap();
        let all: Vec<(String, Tensor)> = (0..MATRICES)
            .map(|i| (format!("{}.weight", name(i)), one.clone()))
            .collect();
        std::fs::write(
            dir.path().join("model.safetensors"),
            safetensors::serialize(all, None).unwrap(),
        )
        .unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    }
    let trace = Trace {
        weights: (0..MATRICES)
            .map(|i| TracedWeight {
                name: format!("{}.weight", name(i)),
                shape: vec![SIDE, SIDE],
                used_as: Use::Linear,
            })
            .collect(),
        linears: (0..MATRICES)
            .map(|i| TracedLinear {
                name: name(i),
                inputs: SIDE,
                outputs: SIDE,
                layer: Some(0),
            })
            .collect(),
        ..Trace::default()
    };
    for (quant, dtype, result) in [
        (None, Dtype::Bf16, MATRICES * 2 * MIB),
        (
            Some(Quant::Nf4 { double: true }),
            Dtype::F32,
            MATRICES * MIB * 52 / 100,
        ),
    ] {
        std::fs::write("/proc/self/clear_refs", "5").unwrap(); // the peak counts from here
        let before = status("VmRSS").unwrap();
        let checkpoint = open(Source::Folder(dir.path().into()), &[]).unwrap();
        let options = LoadOptions { quant, dtype };
        let base = checkpoint
            .load_traced(Arc::new(Named), &trace, &options, &mut |_, _| {})
            .unwrap();
        let grown = status("VmHWM").unwrap().saturating_sub(before);
        assert!(base.bytes() <= result + MIB, "{} bytes", base.bytes());
        // one tensor: its bytes and its f32 form, twice while it is flattened and encoded
        let allowed = result + 12 * MIB;
        assert!(
            grown < allowed,
            "{quant:?}: grew by {} MiB, {} allowed",
            grown / MIB,
            allowed / MIB
        );
    }
}
