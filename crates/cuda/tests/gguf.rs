//! GGUF blocks: bit for bit what the CPU's side makes of them.

use crate::blocks::*;
use crate::emulator::*;
use candle_core::quantized::GgmlDType;
use half::bf16;
use randori_cuda::{Float, ops::gguf::Gguf};

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

fn rounded(v: &[f32]) -> Vec<bf16> {
    v.iter().map(|v| bf16::from_f32(*v)).collect()
}

#[test]
fn dequantised_and_looked_up_bit_for_bit() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(21);
    for dtype in FORMATS {
        for (rows, blocks) in [(5, 1), (3, 3), (2, 4096 / dtype.block_size() + 1)] {
            let columns = blocks * dtype.block_size();
            let (cpu, data) = case(&mut dice, dtype, rows, columns);
            let place = Buffer::of(&data, 0xA5);
            let m = Gguf {
                dtype,
                rows,
                columns,
                data: place.ptr(),
            };
            for range in [0..rows, 1..rows, 1..1] {
                let mut want = vec![0.0; range.len() * columns];
                cpu.fill(range.clone(), &mut want);
                let (y, h) = (room(want.len() + 1), half_room(want.len() + 1));
                for skip in [0, 1] {
                    let at = |p: randori_cuda::Ptr, bytes: usize| p.offset(skip * bytes);
                    m.dequantise(on, Float::F32, range.clone(), at(y.ptr(), 4))
                        .unwrap();
                    m.dequantise(on, Float::Bf16, range.clone(), at(h.ptr(), 2))
                        .unwrap();
                    let name = format!("{dtype:?} {rows} x {columns} {range:?} at {skip}");
                    assert_eq!(
                        bits(&y.get()[skip..skip + want.len()]),
                        bits(&want),
                        "{name}"
                    );
                    assert_eq!(h.get()[skip..skip + want.len()], rounded(&want), "{name}");
                }
            }
            let ids = [rows as u32 - 1, 0, rows as u32, 1];
            let ids_at = Buffer::of(&ids, 9);
            let (y, h) = (room(4 * columns), half_room(4 * columns));
            m.rows(on, Float::F32, ids_at.ptr(), 4, y.ptr()).unwrap();
            m.rows(on, Float::Bf16, ids_at.ptr(), 4, h.ptr()).unwrap();
            for (i, &id) in ids.iter().enumerate() {
                let part = i * columns..(i + 1) * columns;
                if id as usize == rows {
                    assert!(y.get()[part.clone()].iter().all(|v| v.is_nan()));
                    assert!(h.get()[part].iter().all(|v| v.is_nan()));
                    continue;
                }
                let mut want = vec![0.0; columns];
                cpu.fill(id as usize..id as usize + 1, &mut want);
                assert_eq!(bits(&y.get()[part.clone()]), bits(&want), "{dtype:?}");
                assert_eq!(h.get()[part], rounded(&want), "{dtype:?}");
            }
        }
    }
}

#[test]
fn misfits_are_errors() {
    let Some(on) = emulator() else { return };
    let place = Buffer::of(&[0u16; 128], 0);
    let m = Gguf {
        dtype: GgmlDType::Q8_0,
        rows: 2,
        columns: 32,
        data: place.ptr(),
    };
    let y = room(64);
    for (m, words) in [
        (Gguf { columns: 33, ..m }, "multiple of 32 weights, not 33"),
        (
            Gguf {
                dtype: GgmlDType::Q2K,
                ..m
            },
            "Q2K has no kernel",
        ),
        (Gguf { rows: 1, ..m }, "rows 0..2 of a matrix of 1"),
        (
            Gguf {
                data: m.data.offset(1),
                ..m
            },
            "odd address",
        ),
    ] {
        let e = m.dequantise(on, Float::F32, 0..2, y.ptr()).unwrap_err();
        assert!(e.to_string().contains(words), "{e}");
    }
    m.dequantise(on, Float::F32, 0..2, y.ptr()).unwrap();
    assert!(y.get().iter().all(|v| *v == 0.0));
}
