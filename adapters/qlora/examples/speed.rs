//! How fast products with quantised matrices are, against the dense f32 product:
//! `cargo run --release -p randori-qlora --example speed`
#![allow(clippy::unwrap_used, reason = "a measurement stops by panicking")]

use std::time::Instant;

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use randori_qlora::QuantMatrix;

/// Best of five, in seconds.
fn time(mut f: impl FnMut()) -> f64 {
    let once = |f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| once(&mut f)).fold(f64::INFINITY, f64::min)
}

fn main() {
    println!(
        "GFLOP/s: dense forward, backward | each format forward, backward | dequantised Gweights/s"
    );
    for (n, outputs, inputs) in [
        (1, 1536, 576),
        (32, 1536, 576),
        (256, 1536, 576),
        (1024, 1536, 576),
        (1024, 576, 1536),
        (512, 4096, 4096),
    ] {
        let noise = |a: usize, b: usize| Tensor::randn(0f32, 1.0, (a, b), &Device::Cpu).unwrap();
        let (w, x, dy) = (noise(outputs, inputs), noise(n, inputs), noise(n, outputs));
        let rate = |seconds: f64| 2e-9 * (n * outputs * inputs) as f64 / seconds;
        let wt = w.t().unwrap();
        print!(
            "{n:5} x {inputs} -> {outputs}: {:6.1} {:6.1}",
            rate(time(|| drop(x.matmul(&wt).unwrap()))),
            rate(time(|| drop(dy.matmul(&w).unwrap())))
        );
        let gguf = |dtype| QuantMatrix::gguf(QTensor::quantize(&w, dtype).unwrap(), None).unwrap();
        let mut all = vec![
            ("nf4", QuantMatrix::nf4(&w, true).unwrap()),
            ("q4_1", gguf(GgmlDType::Q4_1)),
            ("q8_0", gguf(GgmlDType::Q8_0)),
        ];
        if inputs % 256 == 0 {
            all.push(("q4_k", gguf(GgmlDType::Q4K)));
            all.push(("q6_k", gguf(GgmlDType::Q6K)));
        }
        for (name, m) in all {
            let weights = 1e-9 * (outputs * inputs) as f64 / time(|| drop(m.dequantise().unwrap()));
            let (f, b) = (
                time(|| drop(m.forward(&x).unwrap())),
                time(|| drop(m.backward(&dy).unwrap())),
            );
            print!(" | {name} {:6.1} {:6.1} ({weights:.1})", rate(f), rate(b));
        }
        println!();
    }
}
