//! RMSNorm's kernels against f64.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod emulator;

use emulator::*;
use randori_cuda::{Float, ops::norm::RmsNorm};

fn reference(x: &[f64], w: &[f64], dy: &[f64], n: &RmsNorm) -> (Vec<f64>, Vec<f64>) {
    let (mut y, mut dx) = (Vec::new(), Vec::new());
    let width = n.width as f64;
    for (x, dy) in x.chunks(n.width).zip(dy.chunks(n.width)) {
        let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / width + f64::from(n.eps)).sqrt();
        let g: Vec<f64> = dy
            .iter()
            .zip(w)
            .map(|(d, w)| d * (w + f64::from(n.plus)))
            .collect();
        let mean = x.iter().zip(&g).map(|(x, g)| x * g).sum::<f64>() / width;
        y.extend(
            x.iter()
                .zip(w)
                .map(|(x, w)| x * r * (w + f64::from(n.plus))),
        );
        dx.extend(x.iter().zip(&g).map(|(x, g)| r * (g - x * r * r * mean)));
    }
    (y, dx)
}

#[test]
fn rms_norm_and_its_gradient_are_those_of_f64() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(1);
    for (rows, width, plus) in [(3, 576, 0.0), (1, 7, 1.0), (5, 4097, 0.0)] {
        for float in [Float::F32, Float::Bf16] {
            let n = RmsNorm {
                float,
                rows,
                width,
                eps: 1e-5,
                plus,
            };
            let (x, w, dy) = (
                dice.normals(rows * width),
                dice.normals(width),
                dice.normals(rows * width),
            );
            let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            let (wb, inverse) = (floats(&w), room(rows));
            let (y, dx, want, tolerance);
            match float {
                Float::F32 => {
                    let (xb, dyb, yb, dxb) =
                        (floats(&x), floats(&dy), room(x.len()), room(x.len()));
                    n.forward(on, xb.ptr(), wb.ptr(), yb.ptr(), inverse.ptr())
                        .unwrap();
                    n.backward(on, xb.ptr(), wb.ptr(), inverse.ptr(), dyb.ptr(), dxb.ptr())
                        .unwrap();
                    (y, dx) = (wide(yb.get()), wide(dxb.get()));
                    want = reference(&wide(&x), &wide(&w), &wide(&dy), &n);
                    tolerance = 1e-5;
                }
                Float::Bf16 => {
                    let (xb, dyb, yb, dxb) = (
                        halves(&x),
                        halves(&dy),
                        half_room(x.len()),
                        half_room(x.len()),
                    );
                    n.forward(on, xb.ptr(), wb.ptr(), yb.ptr(), inverse.ptr())
                        .unwrap();
                    n.backward(on, xb.ptr(), wb.ptr(), inverse.ptr(), dyb.ptr(), dxb.ptr())
                        .unwrap();
                    (y, dx) = (widened(yb.get()), widened(dxb.get()));
                    want = reference(&widened(xb.get()), &wide(&w), &widened(dyb.get()), &n);
                    tolerance = 0.05; // one rounding to 8 bits, of values some rms large
                }
            }
            inverse.get();
            let far = (apart(y, &want.0), apart(dx, &want.1));
            assert!(
                far.0 < tolerance && far.1 < tolerance,
                "{rows} x {width} {float:?}: {far:?}"
            );
        }
    }
}
