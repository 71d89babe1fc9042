//! Products of a few rows against f64.

use std::sync::Arc;

use crate::blocks::*;
use crate::emulator::*;
use half::bf16;
use randori_cuda::{
    Float, Launch,
    ops::{
        gguf::Gguf,
        matvec::{self, Operands},
        nf4::{Nf4, Scales},
        product4::{self, Encoding},
    },
};
use randori_qlora::{NF4_LEVELS, Nf4Matrix, Nf4Parts, Nf4Scales, QuantMatrix};

/// Bytes aligned to 16.
#[derive(Clone, Copy, PartialEq)]
#[repr(align(16))]
struct Sixteen([u8; 16]);

fn aligned(bytes: &[u8]) -> Buffer<Sixteen> {
    let sixteens: Vec<Sixteen> = bytes
        .chunks(16)
        .map(|c| Sixteen(std::array::from_fn(|i| c.get(i).copied().unwrap_or(0xA5))))
        .collect();
    Buffer::of(&sixteens, Sixteen([0xA5; 16]))
}

/// x·wᵀ, and the same of magnitudes, which bounds the rounding error.
fn reference(x: &[f64], w: &[f64], columns: usize) -> Vec<(f64, f64)> {
    x.chunks(columns)
        .flat_map(|x| {
            w.chunks(columns).map(move |w| {
                let products = || x.iter().zip(w).map(|(x, w)| x * w);
                (products().sum(), products().map(f64::abs).sum())
            })
        })
        .collect()
}

fn check(got: &[f64], want: &[(f64, f64)], float: Float, name: &str) {
    assert_eq!(got.len(), want.len());
    for (g, (w, size)) in got.iter().zip(want) {
        // f32 sums of up to some thousand products; then one rounding to bf16
        let most = size * 2e-6
            + if float == Float::Bf16 {
                w.abs() / 256.0
            } else {
                0.0
            };
        assert!((g - w).abs() <= most, "{name}: {g} {w}");
    }
}

/// Runs `go` for both types of x and y and compares the results with products of W's values.
fn both(
    dice: &mut Dice,
    n: usize,
    (outputs, columns): (usize, usize),
    w: &[f64],
    name: &str,
    go: impl Fn(&Operands),
) {
    let x = dice.normals(n * columns);
    let (xf, yf, xh, yh) = (
        floats(&x),
        room(n * outputs),
        halves(&x),
        half_room(n * outputs),
    );
    go(&Operands {
        float: Float::F32,
        n,
        x: xf.ptr(),
        y: yf.ptr(),
    });
    go(&Operands {
        float: Float::Bf16,
        n,
        x: xh.ptr(),
        y: yh.ptr(),
    });
    let wide: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    let got: Vec<f64> = yf.get().iter().map(|v| f64::from(*v)).collect();
    check(&got, &reference(&wide, w, columns), Float::F32, name);
    check(
        &widened(yh.get()),
        &reference(&widened(xh.get()), w, columns),
        Float::Bf16,
        name,
    );
    // a row's answer is the same alone
    if n > 1 {
        let (x, y) = (floats(&x[(n - 1) * columns..]), room(outputs));
        go(&Operands {
            float: Float::F32,
            n: 1,
            x: x.ptr(),
            y: y.ptr(),
        });
        assert_eq!(y.get(), &yf.get()[(n - 1) * outputs..], "{name}");
    }
}

/// A random matrix of 4-bit codes with its buffers, and its values.
struct Coded {
    held: Buffer<Sixteen>,
    levels: Buffer<f32>,
    scale: Buffer<f32>,
    map: Buffer<f32>,
    nested: Buffer<u8>,
    shape: (usize, usize, usize),
    double: bool,
    values: Vec<f64>,
}

impl Coded {
    fn new(dice: &mut Dice, rows: usize, columns: usize, block: usize, double: bool) -> Coded {
        let blocks = (rows * columns).div_ceil(block);
        let codes: Vec<u64> = (0..rows * columns / 16).map(|_| dice.word()).collect();
        let scale_codes: Vec<u8> = (0..blocks).map(|_| dice.word() as u8).collect();
        let plain = dice.normals(if double { blocks.div_ceil(256) } else { blocks });
        let map: [f32; 256] = std::array::from_fn(|_| dice.normal());
        let bytes: Vec<u8> = codes.iter().flat_map(|c| c.to_le_bytes()).collect();
        let scales = if double {
            Nf4Scales::Double {
                codes: scale_codes.clone(),
                scales: plain.clone(),
                offset: 0.3,
                map: Arc::new(map),
                block: 256,
            }
        } else {
            Nf4Scales::Plain(plain.clone())
        };
        let parts = Nf4Parts {
            rows,
            columns,
            block,
            levels: NF4_LEVELS,
            codes: bytes.clone(),
            scales,
        };
        let mut w = vec![0.0; rows * columns];
        QuantMatrix::Nf4(Nf4Matrix::from_parts(parts).unwrap()).fill(0..rows, &mut w);
        Coded {
            held: aligned(&bytes),
            levels: floats(&NF4_LEVELS),
            scale: floats(&plain),
            map: floats(&map),
            nested: Buffer::of(&scale_codes, 1),
            shape: (rows, columns, block),
            double,
            values: w.iter().map(|v| f64::from(*v)).collect(),
        }
    }

    fn matrix(&self) -> Nf4 {
        let (rows, columns, block) = self.shape;
        Nf4 {
            rows,
            columns,
            block,
            codes: self.held.ptr(),
            levels: self.levels.ptr(),
            scales: match self.double {
                true => Scales::Double {
                    codes: self.nested.ptr(),
                    scales: self.scale.ptr(),
                    map: self.map.ptr(),
                    offset: 0.3,
                    block: 256,
                },
                false => Scales::Plain(self.scale.ptr()),
            },
        }
    }
}

fn nf4(
    on: &dyn Launch,
    dice: &mut Dice,
    n: usize,
    rows: usize,
    columns: usize,
    block: usize,
    double: bool,
) {
    let coded = Coded::new(dice, rows, columns, block, double);
    let name = format!("nf4 {n} {rows} x {columns} {double}");
    let m = coded.matrix();
    both(dice, n, (rows, columns), &coded.values, &name, |r| {
        matvec::nf4(on, &m, r).unwrap()
    });
}

#[test]
fn from_4_bit_codes() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(31);
    for (n, rows, columns, block) in [
        (1, 9, 96, 32),
        (3, 6, 1056, 64),
        (8, 7, 2080, 64),
        (2, 5, 11_264, 4096),
        (5, 1, 32, 32),
    ] {
        nf4(on, &mut dice, n, rows, columns, block, n % 2 == 1);
    }
    // several outputs a warp, the last warp with fewer
    nf4(on, &mut dice, 1, 8195, 32, 64, true);
    nf4(on, &mut dice, 4, 4097, 64, 64, false);
}

/// Runs `go` on many rows of bf16, and on the last row alone.
fn many(
    dice: &mut Dice,
    n: usize,
    (rows, columns): (usize, usize),
    w: &[f64],
    encoding: Encoding,
    name: &str,
    go: &dyn Fn(&product4::Operands),
) {
    let held = halves(&dice.normals(n * columns));
    let bytes: Vec<u8> = held.get().iter().flat_map(|v| v.to_le_bytes()).collect();
    let run = |from: usize, n: usize| {
        let (x, y) = (aligned(&bytes[2 * from * columns..]), half_room(n * rows));
        let parts = room(encoding.parts(n, rows, columns));
        go(&product4::Operands {
            n,
            x: x.ptr(),
            y: y.ptr(),
            parts: parts.ptr(),
        });
        assert!(parts.get().iter().all(|v| v.is_finite()), "{name}");
        y
    };
    let y = run(0, n);
    let want = reference(&widened(held.get()), w, columns);
    check(&widened(y.get()), &want, Float::Bf16, name);
    // a row's answer is the same alone
    let alone = run(n - 1, 1);
    assert!(alone.get() == &y.get()[(n - 1) * rows..], "{name}");
}

/// Many rows on the tensor cores: W in bf16, as it is dequantised.
#[test]
fn of_many_rows_from_4_bit_codes() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(33);
    for (n, rows, columns, block, double) in [
        (9, 130, 32, 32, true),
        (16, 5, 608, 64, false),
        (17, 40, 1024, 64, true), // in two shares
        (64, 129, 2080, 4096, true),
        (33, 16, 4096, 128, false),
        (1, 3, 64, 64, true),
    ] {
        let coded = Coded::new(&mut dice, rows, columns, block, double);
        let round = |v: &f64| f64::from(f32::from(bf16::from_f32(*v as f32)));
        let w: Vec<f64> = coded.values.iter().map(round).collect();
        let name = format!("{n} {rows} x {columns} {double}");
        many(
            &mut dice,
            n,
            (rows, columns),
            &w,
            Encoding::Nf4,
            &name,
            &|r| product4::nf4(on, &coded.matrix(), r).unwrap(),
        );
    }
    let coded = Coded::new(&mut dice, 8, 64, 64, true);
    let rows = |n| product4::Operands {
        n,
        x: coded.held.ptr(),
        y: coded.held.ptr(),
        parts: coded.held.ptr(),
    };
    let e = product4::nf4(on, &coded.matrix(), &rows(65)).unwrap_err();
    assert!(e.to_string().contains("64 rows, not 65"), "{e}");
    let mut odd = coded.matrix();
    odd.columns = 48;
    let e = product4::nf4(on, &odd, &rows(9)).unwrap_err();
    assert!(e.to_string().contains("columns in 32s"), "{e}");
}

#[test]
fn of_many_rows_from_ggufs_blocks() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(35);
    for dtype in FORMATS {
        let block = dtype.block_size();
        for (n, rows, columns) in [
            (9, 130, block),
            (33, 17, 1024 + block), // in two shares, the last stage not whole
            (64, 9, 256 + 3 * block),
        ] {
            let (cpu, data) = case(&mut dice, dtype, rows, columns);
            let mut w = vec![0.0; rows * columns];
            cpu.fill(0..rows, &mut w);
            let round = |v: &f32| f64::from(f32::from(bf16::from_f32(*v)));
            let w: Vec<f64> = w.iter().map(round).collect();
            // nothing behind the last block may be read: it could belong to another allocation
            let held = aligned(&data);
            let m = Gguf {
                dtype,
                rows,
                columns,
                data: held.ptr(),
            };
            let name = format!("{dtype:?} {n} {rows} x {columns}");
            many(
                &mut dice,
                n,
                (rows, columns),
                &w,
                Encoding::Blocks,
                &name,
                &|r| product4::gguf(on, &m, r).unwrap(),
            );
        }
    }
}

#[test]
fn from_ggufs_blocks() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(34);
    for dtype in FORMATS {
        let block = dtype.block_size();
        for (n, rows, blocks) in [
            (1, 9, 1),
            (3, 7, 1024 / block + 1),
            (8, 5, 2048 / block + 3),
            (2, 2, 3),
            (5, 1, 9 * 1024 / block), // more than lies in shared memory at once
        ] {
            let columns = blocks * block;
            let (cpu, data) = case(&mut dice, dtype, rows, columns);
            let mut w = vec![0.0; rows * columns];
            cpu.fill(0..rows, &mut w);
            let w: Vec<f64> = w.iter().map(|v| f64::from(*v)).collect();
            // at every alignment that an upload or a row may have
            for skip in [0, 2, 4, 8] {
                let mut bytes = vec![0xA5; skip];
                bytes.extend(&data);
                let held = aligned(&bytes);
                let m = Gguf {
                    dtype,
                    rows,
                    columns,
                    data: held.ptr().offset(skip),
                };
                let name = format!("{dtype:?} {n} {rows} x {columns} at {skip}");
                both(&mut dice, n, (rows, columns), &w, &name, |r| {
                    matvec::gguf(on, &m, r).unwrap();
                });
            }
        }
    }
}

#[test]
fn misfits_are_errors() {
    let Some(on) = emulator() else { return };
    let (x, y, w) = (room(900), room(900), aligned(&[0; 1024]));
    let rows = |n| Operands {
        float: Float::F32,
        n,
        x: x.ptr(),
        y: y.ptr(),
    };
    let blocks = Gguf {
        dtype: candle_core::quantized::GgmlDType::Q4_0,
        rows: 8,
        columns: 32,
        data: w.ptr(),
    };
    let coded = Coded::new(&mut Dice(32), 8, 64, 64, true);
    let changed = |change: fn(&mut Nf4)| {
        let mut matrix = coded.matrix();
        change(&mut matrix);
        matrix
    };
    let narrow = changed(|m| m.columns = 48);
    let shifted = changed(|m| m.codes = m.codes.offset(2));
    for (result, words) in [
        (matvec::nf4(on, &coded.matrix(), &rows(9)), "takes 8, not 9"),
        (matvec::gguf(on, &blocks, &rows(9)), "takes 8, not 9"),
        (matvec::nf4(on, &narrow, &rows(1)), "columns in 32s"),
        (matvec::nf4(on, &shifted, &rows(1)), "multiple of 16"),
    ] {
        let e = result.unwrap_err().to_string();
        assert!(e.contains(words), "{e}");
    }
    matvec::gguf(on, &blocks, &rows(0)).unwrap();
    assert!(y.get().iter().all(|v| v.is_nan()));
}
