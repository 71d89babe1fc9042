//! Encoders of block formats, whose bytes are those of llama.cpp's quantiser without an importance
//! matrix: sums are in its order. Each block depends on its own values only.
mod levels;
mod scaled;

use half::f16;
use rayon::prelude::*;

use super::Block;
use crate::{Error, Result};

/// Encoder of one block: its values, its bytes (zeros before).
type Encoder = fn(&[f32], &mut [u8]);

/// Number of blocks that one thread encodes at a time.
const TOGETHER: usize = 64;

/// Encodes finite values; `None` for a format that has no encoder here.
///
/// # Errors
/// Values that are not whole blocks.
pub fn encode(block: Block, values: &[f32]) -> Result<Option<Vec<u8>>> {
    let one: Encoder = match block {
        Block::Q2K => scaled::q2_k,
        Block::Q3K => scaled::q3_k,
        Block::Q5K => scaled::q5_k,
        Block::Iq4Nl => levels::iq4_nl,
        _ => return Ok(None),
    };
    if !values.len().is_multiple_of(block.values()) {
        return Err(Error::rule(format!(
            "{} values are no whole blocks of {}, which have {} each",
            values.len(),
            block.name(),
            block.values()
        )));
    }
    let mut out = vec![0; values.len() / block.values() * block.bytes()];
    out.par_chunks_mut(TOGETHER * block.bytes())
        .zip(values.par_chunks(TOGETHER * block.values()))
        .for_each(|(out, values)| {
            let blocks = out.chunks_exact_mut(block.bytes());
            for (b, x) in blocks.zip(values.chunks_exact(block.values())) {
                one(x, b);
            }
        });
    Ok(Some(out))
}

/// The nearest whole number, the even one of two.
fn nearest(v: f32) -> i32 {
    v.round_ties_even() as i32
}

/// Writes an f16 at `at`, and returns the number that it holds.
fn put_half(b: &mut [u8], at: usize, v: f32) -> f32 {
    let half = f16::from_f32(v);
    b[at..at + 2].copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

/// The first value of the largest magnitude; `None` if all are as good as 0.
fn extreme(x: &[f32]) -> Option<f32> {
    let largest = x
        .iter()
        .fold(0f32, |most, v| if v.abs() > most.abs() { *v } else { most });
    (largest.abs() >= 1e-15).then_some(largest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::{ByteSource, Index, safetensors};

    #[test]
    fn every_byte_is_llama_cpps() {
        let golden = include_bytes!("../../../tests/fixtures/encoded.safetensors");
        let mut index = Index::default();
        let source = ByteSource::memory("encoded.safetensors", golden.to_vec());
        safetensors::add(&mut index, source).unwrap();
        let values = &index.tensors["values"];
        let source = index.source_of(values).unwrap();
        let x = values.numbers("values", source).unwrap();
        for block in [Block::Q2K, Block::Q3K, Block::Q5K, Block::Iq4Nl] {
            let stored = &index.tensors[block.name()];
            let theirs = source.read(stored.start, stored.len).unwrap();
            let ours = encode(block, &x).unwrap().unwrap();
            let other = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
            assert_eq!((other, ours.len()), (0, theirs.len()), "{}", block.name());
            assert!(encode(block, &x[1..]).is_err());
        }
        assert_eq!(encode(Block::Iq2S, &x).unwrap(), None);
    }
}
