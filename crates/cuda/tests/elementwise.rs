//! Element-wise kernels against f64.

use crate::emulator::*;
use candle_core::cpu::erf::erfc_f64;
use randori_cuda::{
    Float,
    ops::{
        binary::{Binary, ToSecond, binary},
        elementwise,
        softmax::SoftMax,
    },
};

/// Compares each value relative to its own size, so that errors of small results show: results are
/// computed in f32 and rounded once, to 24 or 8 bits.
fn close(got: Vec<f64>, want: &[f64], float: Float, what: &str) {
    let own = match float {
        Float::F32 => 2e-5,
        Float::Bf16 => 1.0 / 256.0 + 2e-5,
    };
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!(
            (g - w).abs() <= own * w.abs() + 1e-6,
            "{what} {float:?}: {g} is not {w}"
        );
    }
}

fn f(op: &str, x: f64) -> f64 {
    match op {
        "silu" => x / (1.0 + (-x).exp()),
        // 1 + erf would cancel far below 0
        "gelu" => 0.5 * x * erfc_f64(-x / 2f64.sqrt()),
        "gelu_tanh" => {
            0.5 * x
                * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        "tanh" => x.tanh(),
        "sigmoid" => 1.0 / (1.0 + (-x).exp()),
        "relu" => x.max(0.0),
        "exp" => x.exp(),
        "softplus" => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        other => panic!("{other}"),
    }
}

const ALL: [&str; 8] = [
    "silu",
    "gelu",
    "gelu_tanh",
    "tanh",
    "sigmoid",
    "relu",
    "exp",
    "softplus",
];

#[test]
fn functions_and_their_slopes_are_those_of_f64() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(11);
    for float in [Float::F32, Float::Bf16] {
        for (op, n) in ALL.into_iter().flat_map(|op| [(op, 1), (op, 2061)]) {
            let values: Vec<f32> = dice.normals(n).iter().map(|v| v * 1.5).collect();
            let x = Any::of(float, &values);
            let dy = Any::of(float, &dice.normals(n));
            let (y, dx) = (Any::room(float, n), Any::room(float, n));
            elementwise::unary(on, op, float, n, x.ptr(), y.ptr()).unwrap();
            let want: Vec<f64> = x.get().iter().map(|&x| f(op, x)).collect();
            close(y.get(), &want, float, &format!("{op:?}"));
            // central differences of the f64 function; from the exact x, or the x of the rounded
            // result
            let result = ["tanh", "sigmoid", "relu", "exp"].contains(&op);
            let saved = if result { &y } else { &x };
            elementwise::unary_backward(on, op, float, n, saved.ptr(), dy.ptr(), dx.ptr()).unwrap();
            let want: Vec<f64> = saved
                .get()
                .iter()
                .zip(dy.get())
                .map(|(&s, dy)| {
                    dy * match op {
                        "tanh" => 1.0 - s * s,
                        "sigmoid" => s * (1.0 - s),
                        "relu" => f64::from(u8::from(s > 0.0)),
                        "exp" => s,
                        _ => (f(op, s + 1e-5) - f(op, s - 1e-5)) / 2e-5,
                    }
                })
                .collect();
            close(dx.get(), &want, float, &format!("{op:?}'"));
        }
    }
}

#[test]
fn far_values_saturate_and_nan_stays() {
    let Some(on) = emulator() else { return };
    let x = [-200.0, -50.0, 0.0, 50.0, 200.0, f32::NAN];
    for op in ALL {
        let (b, y) = (floats(&x), room(6));
        elementwise::unary(on, op, Float::F32, 6, b.ptr(), y.ptr()).unwrap();
        let y = y.get();
        assert!(y[5].is_nan(), "{op:?}");
        let want: [f32; 2] = match op {
            "tanh" => [-1.0, 1.0],
            "sigmoid" => [0.0, 1.0],
            "exp" => [0.0, f32::INFINITY],
            _ => [0.0, 200.0],
        };
        assert_eq!([y[0], y[4]], want, "{op:?}");
    }
}

#[test]
fn swiglu_and_its_gradients_are_those_of_f64_in_place_and_off_alignment() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(12);
    for (float, skip) in [Float::F32, Float::Bf16]
        .into_iter()
        .flat_map(|f| [(f, 0), (f, 1)])
    {
        let n = 1033;
        let make = |dice: &mut Dice| Any::of(float, &dice.normals(n));
        let (g, u, dy) = (make(&mut dice), make(&mut dice), make(&mut dice));
        let y = Any::room(float, n);
        let at = |b: &Any| b.ptr().offset(skip * float.bytes());
        let (gs, us, dys) = (g.get(), u.get(), dy.get());
        elementwise::swiglu(on, float, n - skip, at(&g), at(&u), at(&y)).unwrap();
        let s = |x: f64| 1.0 / (1.0 + (-x).exp());
        let want: Vec<f64> = gs.iter().zip(&us).map(|(g, u)| g * s(*g) * u).collect();
        close(y.get()[skip..].to_vec(), &want[skip..], float, "swiglu");
        // dg over g, du over dy
        elementwise::swiglu_backward(
            on,
            float,
            n - skip,
            at(&g),
            at(&u),
            at(&dy),
            at(&g),
            at(&dy),
        )
        .unwrap();
        let (mut dg, mut du) = (Vec::new(), Vec::new());
        for i in skip..n {
            let (g, u, d) = (gs[i], us[i], dys[i]);
            dg.push(d * u * (s(g) + g * s(g) * (1.0 - s(g))));
            du.push(d * g * s(g));
        }
        close(g.get()[skip..].to_vec(), &dg, float, "dg");
        close(dy.get()[skip..].to_vec(), &du, float, "du");
        assert_eq!(g.get()[..skip], gs[..skip]);
    }
}

#[test]
fn affine_and_adding_onto_are_those_of_f64() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(13);
    for float in [Float::F32, Float::Bf16] {
        for n in [0, 5, 517] {
            let (x, y) = (Any::of(float, &dice.normals(n)), Any::room(float, n));
            elementwise::affine(on, float, n, x.ptr(), -1.5, 0.25, y.ptr()).unwrap();
            let want: Vec<f64> = x.get().iter().map(|x| x * -1.5 + 0.25).collect();
            close(y.get(), &want, float, "affine");
            let before = y.get();
            elementwise::add_onto(on, float, n, x.ptr(), y.ptr()).unwrap();
            let want: Vec<f64> = before.iter().zip(x.get()).map(|(y, x)| y + x).collect();
            close(y.get(), &want, float, "add_onto");
        }
    }
}

#[test]
fn dropout_has_the_mask_of_the_lora_crate() {
    let Some(on) = emulator() else { return };
    let (n, p, salt) = (4099usize * 3, 0.1f32, 0x1234_5678_9abc_def0u64);
    let keys = [5u64, 0xfeed_0000_0000_0000, 77];
    let k = Buffer::of(&keys, 0);
    let x = Dice(14).normals(n);
    let (b, y) = (floats(&x), room(n));
    elementwise::dropout(on, Float::F32, n, b.ptr(), p, (k.ptr(), 3), salt, y.ptr()).unwrap();
    let mut words = Dice(0);
    let mut dropped = 0;
    for (i, (x, y)) in x.iter().zip(y.get()).enumerate() {
        if i % 4099 == 0 {
            // splitmix64 from the row's seed: word i is the i-th drawn
            words = Dice(keys[i / 4099] ^ salt);
        }
        let gone = (words.word() >> 40) < (f64::from(p) * f64::from(1 << 24)) as u64;
        dropped += usize::from(gone);
        let want = if gone { 0.0 } else { x * (1.0 / (1.0 - p)) };
        assert_eq!(y.to_bits(), want.to_bits());
    }
    assert!((1000..1460).contains(&dropped), "{dropped}");
    let dropout =
        |p, rows| elementwise::dropout(on, Float::F32, n, b.ptr(), p, (k.ptr(), rows), 0, b.ptr());
    for (p, rows) in [(1.0, 3), (-0.1, 3), (f32::NAN, 3), (0.1, 2), (0.1, 0)] {
        assert!(dropout(p, rows).is_err());
    }
}

const SHAPES: [(&[usize], &[usize]); 9] = [
    (&[5, 7], &[5, 7]),
    (&[5, 3, 8], &[5, 8]),          // every head alike
    (&[301, 3, 8], &[1, 8]),        // every token alike
    (&[6, 3, 8], &[6, 3, 1]),       // a number a head
    (&[4, 2, 3, 5], &[4, 2, 1, 5]), // in the middle
    (&[2, 2, 3, 2, 3], &[1, 2, 1, 2, 1]),
    (&[3, 5, 700], &[3, 1]), // a number a token
    (&[9, 67], &[1]),
    (&[130, 33], &[1, 33]),
];

/// Where b's value for a's element `i` lies, by plain indices.
fn place(a: &[usize], b: &[usize], i: usize) -> usize {
    let mut index = vec![0; a.len()];
    let mut rest = i;
    for axis in (0..a.len()).rev() {
        index[axis] = rest % a[axis];
        rest /= a[axis];
    }
    let mut at = 0;
    for axis in 0..b.len() {
        let from = if axis == 0 {
            0
        } else {
            axis + a.len() - b.len()
        };
        at = at * b[axis] + if b[axis] == 1 { 0 } else { index[from] };
    }
    at
}

#[test]
fn binaries_broadcast_and_sum_back_as_f64() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(15);
    for ((a_dims, b_dims), float) in SHAPES
        .into_iter()
        .flat_map(|s| [(s, Float::F32), (s, Float::Bf16)])
    {
        for op in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div] {
            let (n, m): (usize, usize) = (a_dims.iter().product(), b_dims.iter().product());
            let bs: Vec<f32> = (0..m).map(|_| 1.0 + dice.unit() as f32).collect();
            let a = Any::of(float, &dice.normals(n));
            let (b, dy) = (Any::of(float, &bs), Any::of(float, &dice.normals(n)));
            let (y, db) = (Any::room(float, n), Any::room(float, m));
            binary(on, op, float, (a.ptr(), a_dims), (b.ptr(), b_dims), y.ptr()).unwrap();
            let second = ToSecond::new(float, a_dims, b_dims).unwrap();
            let scratch = room(second.scratch(op));
            second
                .run(on, op, a.ptr(), b.ptr(), dy.ptr(), scratch.ptr(), db.ptr())
                .unwrap();
            scratch.get();
            let (av, bv, dv) = (a.get(), b.get(), dy.get());
            let (mut want, mut back) = (vec![0.0; n], vec![0.0; m]);
            for i in 0..n {
                let j = place(a_dims, b_dims, i);
                let (a, b, d) = (av[i], bv[j], dv[i]);
                let (v, slope) = match op {
                    Binary::Add => (a + b, d),
                    Binary::Sub => (a - b, -d),
                    Binary::Mul => (a * b, d * a),
                    Binary::Div => (a / b, -d * a / (b * b)),
                };
                want[i] = v;
                back[j] += slope;
            }
            let what = format!("{op:?} {a_dims:?} {b_dims:?}");
            let far = (apart(y.get(), &want), apart(db.get(), &back));
            let most = match float {
                Float::F32 => (1e-5, 1e-5),
                Float::Bf16 => (0.02, 0.02),
            };
            assert!(
                far.0 < most.0 && far.1 < most.1,
                "{what} {float:?}: {far:?}"
            );
        }
    }
    let at = floats(&[0.0; 8]).ptr();
    for wrong in [&[2, 3][..], &[3, 2, 4], &[4]] {
        assert!(binary(on, Binary::Add, Float::F32, (at, &[2, 4]), (at, wrong), at).is_err());
    }
}

const FLOATS: [Float; 2] = [Float::F32, Float::Bf16];

fn soft_max(x: &[f64]) -> (Vec<f64>, f64) {
    let most = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = x.iter().map(|x| (x - most).exp()).sum();
    (
        x.iter().map(|x| (x - most).exp() / sum).collect(),
        most + sum.ln(),
    )
}

#[test]
fn soft_max_and_its_gradient_are_those_of_f64() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(31);
    for float in FLOATS {
        for (rows, width) in [(3, 1), (4, 8), (5, 61), (2, 3001), (1, 9000)] {
            let r = SoftMax { float, rows, width };
            let mut values: Vec<f32> = dice.normals(rows * width).iter().map(|v| v * 4.0).collect();
            if width > 8 {
                values[3] = f32::NEG_INFINITY; // masked
                values[0] = f32::NEG_INFINITY;
            }
            let (x, dy) = (
                Any::of(float, &values),
                Any::of(float, &dice.normals(rows * width)),
            );
            let y = Any::room(float, rows * width);
            r.forward(on, x.ptr(), y.ptr()).unwrap();
            let want: Vec<f64> = x.get().chunks(width).flat_map(|x| soft_max(x).0).collect();
            let own = match float {
                Float::F32 => 1e-5,
                Float::Bf16 => 1.0 / 256.0 + 1e-5,
            };
            for (g, w) in y.get().iter().zip(&want) {
                assert!((g - w).abs() <= own * w + 1e-9, "{r:?}: {g} is not {w}");
            }
            let mut want = Vec::new();
            for (y, dy) in y.get().chunks(width).zip(dy.get().chunks(width)) {
                let mean: f64 = y.iter().zip(dy).map(|(y, d)| y * d).sum();
                want.extend(y.iter().zip(dy).map(|(y, d)| y * (d - mean)));
            }
            r.backward(on, y.ptr(), dy.ptr(), y.ptr()).unwrap(); // over y
            let far: f64 = y
                .get()
                .iter()
                .zip(&want)
                .map(|(g, w)| (g - w).abs() - own * w.abs())
                .fold(0.0, f64::max);
            assert!(far < 3e-6, "{r:?}: {far}");
        }
    }
}
