//! Against closed forms, and against the algorithm of 8-bit moments written out.
use super::{super::moments::Which, *};

const GRADIENTS: [f32; 6] = [0.5, -0.25, 1.5, 0.125, -2.0, 0.75];

/// Runs `optimizer` on one weight starting at 1 and answers the weight after each step.
fn path(optimizer: Optimizer, rate: f64, scale: f64, decay: bool) -> Vec<f64> {
    let (mut w, n) = ([1.0f32], usize::from(optimizer.moments().0));
    let mut m = Moment::new(Which::First, n, false);
    let mut v = Moment::new(Which::Second, 1, false);
    let mut path = Vec::new();
    for (i, g) in GRADIENTS.iter().enumerate() {
        let step = OptimizerStep {
            rate,
            scale,
            count: i + 1,
            decay,
        };
        optimizer
            .update(&mut w, &[*g], &mut m, &mut v, &step)
            .unwrap();
        path.push(w[0] as f64);
    }
    path
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    let d = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    d.fold(0f32, f32::max)
}

fn near(a: &[f64], b: &[f64]) {
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

/// Closed form: the moments as explicit weighted sums over all gradients so far.
#[test]
fn adamw_is_its_closed_form() {
    let (beta1, beta2, eps, weight_decay, rate) = (0.9, 0.99, 1e-3, 0.1, 0.05);
    let mut w = 1.0f64;
    let mut expected = Vec::new();
    for t in 1..=GRADIENTS.len() {
        let weighted = |beta: f64, power: i32| -> f64 {
            let sum: f64 = (0..t)
                .map(|i| beta.powi((t - 1 - i) as i32) * (GRADIENTS[i] as f64).powi(power))
                .sum();
            (1.0 - beta) * sum / (1.0 - beta.powi(t as i32))
        };
        w = w
            - rate * weight_decay * w
            - rate * weighted(beta1, 1) / (weighted(beta2, 2).sqrt() + eps);
        expected.push(w);
    }
    let optimizer = Optimizer::AdamW(AdamW {
        beta1,
        beta2,
        eps,
        weight_decay,
    });
    near(&path(optimizer, rate, 1.0, true), &expected);
}

#[test]
fn adamws_first_step_is_the_rate_whatever_the_gradient() {
    let path = path(Optimizer::adamw(), 0.01, 1e-3, false);
    assert!((path[0] - 0.99).abs() < 1e-6);
}

#[test]
fn rmsprop_is_its_closed_form_with_and_without_momentum() {
    let (alpha, eps, weight_decay, rate) = (0.9, 1e-3, 0.2, 0.05);
    for momentum in [0.0, 0.7] {
        let (mut w, mut expected, mut seen, mut changes) = (1.0f64, vec![], vec![], vec![]);
        for (t, g) in GRADIENTS.iter().enumerate() {
            seen.push(*g as f64 + weight_decay * w);
            let mean: f64 = (0..=t)
                .map(|i| (1.0 - alpha) * f64::powi(alpha, (t - i) as i32) * seen[i] * seen[i])
                .sum();
            changes.push(seen[t] / (mean.sqrt() + eps));
            w -= rate
                * (0..=t)
                    .map(|i| f64::powi(momentum, (t - i) as i32) * changes[i])
                    .sum::<f64>();
            expected.push(w);
        }
        let optimizer = Optimizer::RmsProp(RmsProp {
            alpha,
            eps,
            weight_decay,
            momentum,
        });
        near(&path(optimizer, rate, 1.0, true), &expected);
    }
}

#[test]
fn rmsprops_first_step_is_ten_rates() {
    let path = path(Optimizer::rmsprop(), 1e-3, 1.0, true);
    assert!((path[0] - (1.0 - 1e-2)).abs() < 1e-6);
}

#[test]
fn the_scale_is_on_the_gradient_and_decay_can_be_off() {
    let [decayed, plain] = [0.3, 0.0].map(|weight_decay| {
        Optimizer::RmsProp(RmsProp {
            alpha: 0.5,
            eps: 1.0,
            weight_decay,
            momentum: 0.0,
        })
    });
    assert_eq!(path(decayed, 0.1, 0.5, false), path(plain, 0.1, 0.5, true));
    assert_ne!(path(plain, 0.1, 0.5, true), path(plain, 0.1, 1.0, true));
}

/// The paper's algorithm on one block after another, in f64, with moments that are codes between
/// steps.
#[test]
fn moments_in_8_bits_are_the_algorithm() {
    let n = SMALLEST + 77;
    let (rate, beta1, beta2, eps) = (1e-2, 0.9, 0.99, 1e-6);
    let constants = AdamW {
        beta1,
        beta2,
        eps,
        weight_decay: 0.1,
    };
    let optimizer = Optimizer::AdamW8(constants);
    assert!(optimizer.in_8_bits(n) && !optimizer.in_8_bits(SMALLEST - 1));
    assert_eq!(optimizer.moment_bytes(n), 2 * 17 * (256 + 4));
    let start: Vec<f32> = (0..n).map(|i| (i as f32).cos()).collect();
    let mut w = start.clone();
    let mut moments = [Which::First, Which::Second].map(|w| Moment::new(w, n, true));
    let mut plain = (start.clone(), vec![0f32; n], vec![0f32; n]);
    let (mut want, mut wm, mut wv) = (start.clone(), vec![0f64; n], vec![0f64; n]);
    for t in 1..=12usize {
        let g: Vec<f32> = (0..n)
            .map(|i| ((i * t) as f32 * 0.37).sin() * (1.0 + (i % 9) as f32))
            .collect();
        let step = OptimizerStep {
            rate,
            scale: 0.5,
            count: t,
            decay: true,
        };
        let [first, second] = &mut moments;
        optimizer.update(&mut w, &g, first, second, &step).unwrap();
        adamw(
            &mut plain.0,
            &g,
            &mut plain.1,
            &mut plain.2,
            &constants,
            &step,
        );
        for i in 0..n {
            let g = f64::from(g[i]) * 0.5;
            wm[i] = beta1 * wm[i] + (1.0 - beta1) * g;
            wv[i] = beta2 * wv[i] + (1.0 - beta2) * g * g;
            let (a, b) = (1.0 - beta1.powi(t as i32), 1.0 - beta2.powi(t as i32));
            let change = wm[i] / a / ((wv[i] / b).sqrt() + eps);
            want[i] = (f64::from(want[i]) * (1.0 - rate * 0.1) - rate * change) as f32;
        }
        for (values, map) in [
            (&mut wm, Which::First.map()),
            (&mut wv, Which::Second.map()),
        ] {
            for block in values.chunks_mut(SHARED) {
                let most = block.iter().fold(0f32, |m, v| m.max((*v as f32).abs()));
                for v in block.iter_mut().filter(|_| most > 0.0) {
                    let share = *v as f32 / most;
                    let above = map.windows(2).filter(|p| share > (p[0] + p[1]) * 0.5);
                    *v = f64::from(map[above.count()] * most);
                }
            }
        }
    }
    // a value at the middle of two codes may go either way: some values, by a part of one step
    let same = w.iter().zip(&want).filter(|(a, b)| (*a - *b).abs() < 1e-6);
    assert!(
        same.count() > n - n / 50,
        "{}",
        largest_difference(&w, &want)
    );
    assert!(
        largest_difference(&w, &want) < 5e-3,
        "{}",
        largest_difference(&w, &want)
    );
    // and it is near what f32 moments do, but not that
    assert!(
        largest_difference(&w, &plain.0) < 2e-2 && w != plain.0,
        "{}",
        largest_difference(&w, &plain.0)
    );
}

#[test]
fn moments_of_another_kind_are_refused() {
    let optimizer = Optimizer::adamw();
    let mut moments = [Which::First, Which::Second].map(|w| Moment::new(w, 3, false));
    let [m, v] = &mut moments;
    let step = OptimizerStep {
        rate: 0.1,
        scale: 1.0,
        count: 1,
        decay: false,
    };
    let out = optimizer.update(&mut [0.0; 4], &[0.0; 4], m, v, &step);
    assert!(out.unwrap_err().to_string().contains("4 numbers"));
}

#[test]
fn constants_are_checked() {
    assert!(Optimizer::adamw().check().is_ok() && Optimizer::rmsprop().check().is_ok());
    let bad = [(1.0, 0.9, 1e-8), (0.9, f64::NAN, 1e-8), (0.9, 0.9, 0.0)];
    let adamw = bad.map(|(beta1, beta2, eps)| {
        Optimizer::AdamW(AdamW {
            beta1,
            beta2,
            eps,
            weight_decay: 0.0,
        })
    });
    let rmsprop = Optimizer::RmsProp(RmsProp {
        alpha: 0.9,
        eps: 1e-8,
        weight_decay: -1.0,
        momentum: 0.0,
    });
    for bad in adamw.into_iter().chain([rmsprop]) {
        assert!(bad.check().is_err(), "{bad:?}");
    }
}

/// Six steps of bitsandbytes' own AdamW8bit on the CPU: tests/golden/adamw8.py.
#[test]
fn moments_in_8_bits_are_those_of_bitsandbytes() {
    const N: usize = 4096 + 200;
    let file = include_bytes!("../../../tests/golden/adamw8.safetensors");
    let file = safetensors::SafeTensors::deserialize(file).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let view = file.tensor(name).unwrap();
        let (words, _) = view.data().as_chunks::<4>();
        words.iter().map(|w| f32::from_le_bytes(*w)).collect()
    };
    let optimizer = Optimizer::AdamW8(AdamW {
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-6,
        weight_decay: 0.1,
    });
    let mut w: Vec<f32> = (0..N)
        .map(|i| ((i * 7919 % 1000) as f64 / 500.0 - 1.0) as f32)
        .collect();
    let mut moments = [Which::First, Which::Second].map(|w| Moment::new(w, N, true));
    for t in 1..=6 {
        let g = |i: usize| {
            let sign = 1.0 - 2.0 * ((i / 3 + t) % 2) as f64;
            (((i * 131 + t * 977) % 2003) as f64 / 2003.0 + 0.5) * sign
        };
        let g = |i| g(i) as f32;
        let g: Vec<f32> = (0..N).map(g).collect();
        let step = OptimizerStep {
            rate: 1e-2,
            scale: 1.0,
            count: t,
            decay: true,
        };
        let [first, second] = &mut moments;
        optimizer.update(&mut w, &g, first, second, &step).unwrap();
    }
    // a value near a middle may get the code beside it, by its table or its f32, and its weight
    // goes another way from there: by a share of the 0.06 that all went
    let want = floats("weights");
    let same = w.iter().zip(&want).filter(|(a, b)| (*a - *b).abs() < 1e-6);
    let (same, far_off) = (same.count(), largest_difference(&w, &want));
    assert!(same > N - N / 10 && far_off < 1e-3, "{same} {far_off}");
    for (moment, name) in moments.iter().zip(["first", "second"]) {
        let Moment::Codes(c) = moment else { panic!() };
        let view = file.tensor(name).unwrap();
        let apart = c.codes.iter().zip(view.data()).filter(|(a, b)| a != b);
        assert!(apart.clone().count() < N / 10, "{name}: {}", apart.count());
        let map = c.which().map().map(f64::from);
        let values = |codes: &[u8]| {
            codes
                .iter()
                .map(|c| map[usize::from(*c)])
                .collect::<Vec<_>>()
        };
        let (a, b) = (values(&c.codes), values(view.data()));
        let off = a
            .iter()
            .zip(&b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(off < 0.03, "{name}: {off}"); // two of the signed map's widest steps
        let off = largest_difference(&c.most, &floats(&format!("{name}_scales")));
        assert!(off < 0.02, "{name}'s scales: {off}");
    }
}
