//! Random matrices in GGUF's block formats.

use candle_core::quantized::GgmlDType;
use randori_qlora::{GgufMatrix, QuantMatrix};

use super::emulator::Dice;

pub const FORMATS: [GgmlDType; 8] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];

/// Random blocks: any bits, but the halves are finite.
pub fn case(
    dice: &mut Dice,
    dtype: GgmlDType,
    rows: usize,
    columns: usize,
) -> (QuantMatrix, Vec<u8>) {
    let size = dtype.type_size();
    let halves: &[usize] = match dtype {
        GgmlDType::Q6K => &[208],
        GgmlDType::Q4_0 | GgmlDType::Q5_0 | GgmlDType::Q8_0 => &[0],
        _ => &[0, 2],
    };
    let mut data: Vec<u8> = (0..rows * columns / dtype.block_size() * size)
        .map(|_| dice.word() as u8)
        .collect();
    for (i, block) in data.chunks_mut(size).enumerate() {
        for &at in halves {
            match i % 8 {
                0 => block[at + 1] &= 0x83, // without a leading 1
                _ => block[at + 1] &= 0xbb,
            }
        }
    }
    let m = GgufMatrix::new(dtype, rows, columns, &data, None).unwrap();
    (QuantMatrix::Gguf(m), data)
}
