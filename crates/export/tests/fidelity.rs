//! The fidelity report's numbers, compared with a direct computation and with a table measured in
//! PyTorch (synthetic weights on bf16's grid, a rank-16 update): how much bf16 and f16 keep of
//! updates of three sizes.

use candle_core::{DType, Device, Tensor};
use randori_engine::{Inputs, weights::Dtype};
use randori_export::{Fidelity, FidelityReport, Merged, Rounding, Survival};

const N: usize = 512;
const NAME: &str = "model.layers.0.mlp.up_proj.weight";

/// Normal numbers of deviation 1.
fn normal(seed: u64, rows: usize, columns: usize) -> Tensor {
    let mut uniform = randori_lora::splitmix(seed, "normal", 2 * rows * columns);
    let values: Vec<f32> = (0..rows * columns)
        .map(|_| {
            let (u, v) = (uniform.next().unwrap(), uniform.next().unwrap());
            ((-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
        })
        .collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
}

fn norm(t: &Tensor) -> f64 {
    let squares = t.sqr().unwrap().sum_all().unwrap();
    f64::from(squares.to_scalar::<f32>().unwrap()).sqrt()
}

/// A base on bf16's grid and a rank-16 update of this size relative to it.
fn updated(size: f64) -> Merged {
    let w = (normal(1, N, N) * 0.02).unwrap();
    let w = w
        .to_dtype(DType::BF16)
        .unwrap()
        .to_dtype(DType::F32)
        .unwrap();
    let d = normal(2, N, 16).matmul(&normal(3, 16, N)).unwrap();
    let d = (&d * (size * norm(&w) / norm(&d))).unwrap();
    Merged {
        weight: (&w + d).unwrap(),
        base: Some(w),
    }
}

fn inputs() -> Inputs {
    Inputs::from([("model.layers.0.mlp.up_proj".to_string(), normal(4, 24, N))])
}

fn report(merged: &Merged, rounding: Rounding) -> FidelityReport {
    let mut fidelity = Fidelity::new(Some(inputs()));
    let round_trip = |values: &[f32]| rounding.values(NAME, values);
    fidelity.add(NAME, merged, &round_trip).unwrap();
    fidelity.report()
}

fn near(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance
}

#[test]
fn the_measured_table() {
    // |dW|/|W|, kept and output error in bf16, output error in f16
    for (size, kept, bf16, f16) in [
        (1e-2, 1.00, 0.16, 0.02),
        (1e-3, 0.53, 0.80, 0.20),
        (1e-4, 0.06, 0.98, 0.84),
    ] {
        let merged = updated(size);
        let s = report(&merged, Rounding::Nearest(Dtype::Bf16))
            .total
            .unwrap();
        println!("{size}: {s:?}");
        assert!(near(s.size, size, 0.01 * size), "{s:?}");
        assert!(near(s.kept, kept, 0.03), "bf16 keeps {} at {size}", s.kept);
        assert!(near(s.output.unwrap(), bf16, 0.04), "{s:?}");
        if size == 1e-3 {
            assert!(near(s.unchanged, 0.78, 0.03), "{s:?}");
        }
        let h = report(&merged, Rounding::Nearest(Dtype::F16))
            .total
            .unwrap();
        println!("{size}, f16: {h:?}");
        assert!(near(h.output.unwrap(), f16, 0.05), "{h:?}");
        let all = report(&merged, Rounding::Nearest(Dtype::F32))
            .total
            .unwrap();
        assert_eq!((all.kept, all.noise, all.output), (1.0, 0.0, Some(0.0)));
    }
}

#[test]
fn the_numbers_are_those_of_the_definition() {
    let merged = updated(3e-3);
    let base = merged.base.clone().unwrap();
    let round = |t: &Tensor| {
        let narrow = t.to_dtype(DType::F16).unwrap();
        narrow.to_dtype(DType::F32).unwrap()
    };
    let d = (&merged.weight - &base).unwrap();
    let left = (round(&merged.weight) - round(&base)).unwrap();
    let lost = (&left - &d).unwrap();
    let dot = (&left * &d).unwrap().sum_all().unwrap();
    let x = &inputs()["model.layers.0.mlp.up_proj"];
    let out = |m: &Tensor| norm(&x.matmul(&m.t().unwrap()).unwrap());
    let s = report(&merged, Rounding::Nearest(Dtype::F16))
        .total
        .unwrap();
    assert!(near(s.size, norm(&d) / norm(&base), 1e-6));
    let kept = f64::from(dot.to_scalar::<f32>().unwrap()) / (norm(&d) * norm(&d));
    assert!(near(s.kept, kept, 1e-4), "{s:?} {kept}");
    assert!(near(s.noise, norm(&lost) / norm(&d), 1e-4), "{s:?}");
    assert!(near(s.output.unwrap(), out(&lost) / out(&d), 1e-4), "{s:?}");
    assert_eq!(s.moved, None);
}

#[test]
fn a_better_choice_is_measured() {
    let lost = report(&updated(1e-3), Rounding::Nearest(Dtype::Bf16));
    assert!(lost.total.unwrap().is_lost());
    assert_eq!(lost.better().unwrap().dtype, "f16");
    let tiny = report(&updated(1e-4), Rounding::Nearest(Dtype::Bf16));
    assert_eq!(tiny.better().unwrap().dtype, "f32");
    // what is written is among the choices, with the same numbers
    let bf16 = lost.choices.iter().find(|c| c.dtype == "bf16").unwrap();
    let total = lost.total.unwrap();
    assert_eq!((bf16.kept, bf16.noise), (total.kept, Some(total.noise)));
    // nothing better is wanted where nothing is lost
    assert_eq!(
        report(&updated(1e-2), Rounding::Nearest(Dtype::Bf16)).better(),
        None
    );
    // a number that f16 cannot hold rules it out
    let mut beyond = updated(1e-3);
    beyond.weight = (beyond.weight * 1e7).unwrap();
    beyond.base = beyond.base.map(|b| (b * 1e7).unwrap());
    let beyond = report(&beyond, Rounding::Nearest(Dtype::Bf16));
    let f16 = beyond.choices.iter().find(|c| c.dtype == "f16").unwrap();
    assert_eq!(f16.noise, None);
    assert_eq!(beyond.better().unwrap().dtype, "f32");
}

#[test]
fn stochastic_rounding_keeps_the_mean() {
    let merged = updated(1e-4);
    let of = |rounding| -> Survival { report(&merged, rounding).total.unwrap() };
    let nearest = of(Rounding::Nearest(Dtype::Bf16));
    assert!(nearest.kept < 0.1, "{nearest:?}");
    // kept is a mean over a quarter million entries of an unbiased rounding: 1 within noise / √n
    for seed in 0..3 {
        let s = of(Rounding::Stochastic { seed });
        let deviation = s.noise / N as f64;
        assert!(near(s.kept, 1.0, 4.0 * deviation), "{s:?}");
        assert!(s.noise > nearest.noise, "the price of it: {s:?}");
    }
    // and over many seeds every entry's own mean comes out
    let d = updated(1e-2);
    let w = d.weight.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let mut mean = vec![0f64; 64];
    for seed in 0..4000 {
        let rounded = Rounding::Stochastic { seed }.values("w", &w[..64]).unwrap();
        for (m, r) in mean.iter_mut().zip(rounded) {
            *m += f64::from(r) / 4000.0;
        }
    }
    for (m, w) in mean.iter().zip(&w) {
        let step = f64::from(w.abs()) / 128.0; // at most
        assert!(
            near(*m, f64::from(*w), 5.0 * step / 2.0 / 4000f64.sqrt()),
            "{m} {w}"
        );
    }
}

#[test]
fn another_base_is_noise_of_its_own() {
    let merged = updated(1e-2);
    let base = merged.base.clone().unwrap();
    let played = (&base + (normal(7, N, N) * 1e-3).unwrap()).unwrap();
    let measured = |inputs| {
        let mut fidelity = Fidelity::new(inputs);
        fidelity.add(NAME, &merged, &|v| Ok(v.to_vec())).unwrap();
        fidelity.trained_on(NAME, &merged, &played).unwrap();
        fidelity.report()
    };
    let d = (&merged.weight - &base).unwrap();
    let apart = (&base - &played).unwrap();
    let x = &inputs()["model.layers.0.mlp.up_proj"];
    let out = |m: &Tensor| norm(&x.matmul(&m.t().unwrap()).unwrap());
    let s = measured(Some(inputs())).total.unwrap();
    assert!(near(s.moved.unwrap(), out(&apart) / out(&d), 1e-3), "{s:?}");
    let s = measured(None).total.unwrap();
    assert!(
        near(s.moved.unwrap(), norm(&apart) / norm(&d), 1e-3),
        "{s:?}"
    );
    assert_eq!(s.output, None);
}

#[test]
fn modules_add_up_and_the_noisiest_comes_first() {
    let mut fidelity = Fidelity::new(None);
    let bf16 = |v: &[f32]| Rounding::Nearest(Dtype::Bf16).values("w", v);
    let same = Merged {
        weight: updated(1e-3).base.unwrap(),
        base: None,
    };
    fidelity.add("a.weight", &updated(1e-2), &bf16).unwrap();
    fidelity.add("b.weight", &updated(1e-4), &bf16).unwrap();
    fidelity.add("norm.weight", &same, &bf16).unwrap();
    // an update of zero
    let idle = Merged {
        base: Some(same.weight.clone()),
        weight: same.weight,
    };
    fidelity.add("c.weight", &idle, &bf16).unwrap();
    fidelity
        .trained_on("c.weight", &idle, &idle.weight)
        .unwrap();
    let report = fidelity.report();
    let names: Vec<&str> = report.modules.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
    let [b, a] = [0, 1].map(|i| report.modules[i].survival);
    let total = report.total.unwrap();
    let square = |v: f64| v * v;
    let mean = (square(a.size) + square(b.size)) / 2.0; // bases of one size
    assert!(near(total.size, mean.sqrt(), 1e-9));
    let kept = (a.kept * square(a.size) + b.kept * square(b.size)) / (2.0 * mean);
    assert!(near(total.kept, kept, 1e-9));
    assert_eq!(Fidelity::new(None).report(), FidelityReport::default());
}
