//! 4-bit matrices: bit for bit what the CPU's side makes of them.

use std::sync::Arc;

use crate::emulator::*;
use half::bf16;
use randori_cuda::{
    Float,
    ops::nf4::{Nf4, Scales},
};
use randori_qlora::{NF4_LEVELS, Nf4Matrix, Nf4Parts, Nf4Scales, QuantMatrix};

/// A matrix of random codes and scales, on the host and on the device.
struct Case {
    cpu: QuantMatrix,
    codes: Buffer<u8>,
    levels: Buffer<f32>,
    scales: Buffer<f32>,
    scale_codes: Buffer<u8>,
    map: Buffer<f32>,
    double: bool,
}

const OFFSET: f32 = 0.0371;
const NESTED: usize = 5;

impl Case {
    fn new(dice: &mut Dice, rows: usize, columns: usize, block: usize, double: bool) -> Case {
        let levels = if double {
            std::array::from_fn(|_| dice.normal())
        } else {
            NF4_LEVELS
        };
        let blocks = (rows * columns).div_ceil(block);
        let bytes =
            |dice: &mut Dice, n: usize| (0..n).map(|_| dice.word() as u8).collect::<Vec<_>>();
        let codes = bytes(dice, (rows * columns).div_ceil(2));
        let scale_codes = bytes(dice, blocks);
        let map: [f32; 256] = std::array::from_fn(|_| dice.normal());
        let plain = dice.normals(if double {
            blocks.div_ceil(NESTED)
        } else {
            blocks
        });
        let scales = if double {
            Nf4Scales::Double {
                codes: scale_codes.clone(),
                scales: plain.clone(),
                offset: OFFSET,
                map: Arc::new(map),
                block: NESTED,
            }
        } else {
            Nf4Scales::Plain(plain.clone())
        };
        let parts = Nf4Parts {
            rows,
            columns,
            block,
            levels,
            codes: codes.clone(),
            scales,
        };
        Case {
            cpu: QuantMatrix::Nf4(Nf4Matrix::from_parts(parts).unwrap()),
            codes: Buffer::of(&codes, 0xA5),
            levels: floats(&levels),
            scales: floats(&plain),
            scale_codes: Buffer::of(&scale_codes, 0xA5),
            map: floats(&map),
            double,
        }
    }

    fn device(&self, block: usize) -> Nf4 {
        let (rows, columns) = self.cpu.shape();
        let scales = if self.double {
            Scales::Double {
                codes: self.scale_codes.ptr(),
                scales: self.scales.ptr(),
                map: self.map.ptr(),
                offset: OFFSET,
                block: NESTED,
            }
        } else {
            Scales::Plain(self.scales.ptr())
        };
        Nf4 {
            rows,
            columns,
            block,
            codes: self.codes.ptr(),
            levels: self.levels.ptr(),
            scales,
        }
    }
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

fn rounded(v: &[f32]) -> Vec<bf16> {
    v.iter().map(|v| bf16::from_f32(*v)).collect()
}

#[test]
fn dequantised_bit_for_bit() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(11);
    for (rows, columns, block) in [
        (5, 192, 64),
        (7, 33, 32),
        (3, 4096, 4096),
        (1, 1, 64),
        (4, 2500, 128),
    ] {
        for double in [false, true] {
            let case = Case::new(&mut dice, rows, columns, block, double);
            let m = case.device(block);
            for range in [
                0..rows,
                rows / 2..rows,
                1.min(rows)..rows / 2 + 1,
                rows..rows,
            ] {
                let range = range.start.min(range.end)..range.end;
                let n = range.len() * columns;
                let mut want = vec![0.0; n];
                case.cpu.fill(range.clone(), &mut want);
                let (y, h) = (room(n), half_room(n));
                m.dequantise(on, Float::F32, range.clone(), y.ptr())
                    .unwrap();
                m.dequantise(on, Float::Bf16, range.clone(), h.ptr())
                    .unwrap();
                let place = format!("{rows} x {columns} / {block} {double} {range:?}");
                assert_eq!(bits(y.get()), bits(&want), "{place}");
                assert_eq!(h.get(), rounded(&want), "{place}");
            }
        }
    }
}

#[test]
fn rows_looked_up() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(12);
    for (rows, columns) in [(9, 64), (6, 37), (3, 9000)] {
        let case = Case::new(&mut dice, rows, columns, 64, true);
        let m = case.device(64);
        let ids: Vec<u32> = vec![2, 0, 2, rows as u32 - 1];
        let mut want = vec![0.0; ids.len() * columns];
        for (id, w) in ids.iter().zip(want.chunks_mut(columns)) {
            case.cpu.fill(*id as usize..*id as usize + 1, w);
        }
        let place = Buffer::of(&ids, 77);
        let (y, h) = (room(want.len()), half_room(want.len()));
        m.rows(on, Float::F32, place.ptr(), ids.len(), y.ptr())
            .unwrap();
        m.rows(on, Float::Bf16, place.ptr(), ids.len(), h.ptr())
            .unwrap();
        assert_eq!(bits(y.get()), bits(&want));
        assert_eq!(h.get(), rounded(&want));
        let none = Buffer::of(&[rows as u32], 77);
        m.rows(on, Float::F32, none.ptr(), 1, y.ptr()).unwrap();
        assert!(y.get()[..columns].iter().all(|v| v.is_nan()));
        assert_eq!(bits(&y.get()[columns..]), bits(&want[columns..]));
    }
}

#[test]
fn misfits_are_errors() {
    let Some(on) = emulator() else { return };
    let case = Case::new(&mut Dice(1), 2, 64, 64, true);
    let y = room(128);
    for (m, words) in [
        (
            Nf4 {
                block: 48,
                ..case.device(64)
            },
            "blocks of 48 weights",
        ),
        (
            Nf4 {
                rows: 1 << 40,
                ..case.device(64)
            },
            "cannot count the blocks",
        ),
        (
            Nf4 {
                rows: 1,
                ..case.device(64)
            },
            "rows 0..2 of a matrix of 1",
        ),
    ] {
        let e = m.dequantise(on, Float::F32, 0..2, y.ptr()).unwrap_err();
        assert!(e.to_string().contains(words), "{e}");
    }
}
