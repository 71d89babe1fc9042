//! Encoders of block formats, whose bytes are those of llama.cpp's quantiser without an importance
//! matrix: sums are in its order. Each block depends on its own values only.
mod even;
mod levels;
mod scaled;
mod search;

use half::f16;
use rayon::prelude::*;

use super::Block;
use crate::{Error, Result};

/// Encoder of one block: its values, its bytes (zeros before).
type Encoder = fn(&[f32], &mut [u8]);

/// Number of values that one thread encodes at a time.
const TOGETHER: usize = 1 << 14;
/// Values below this magnitude are as good as 0.
const TINY: f32 = 1e-15;

/// Encodes finite values.
///
/// # Errors
/// Values that are not whole blocks; a format that is only read.
pub fn encode(block: Block, values: &[f32]) -> Result<Vec<u8>> {
    let Some(one) = encoder(block) else {
        return Err(Error::rule(format!("{} is only read", block.name())));
    };
    if !values.len().is_multiple_of(block.values()) {
        return Err(Error::rule(format!(
            "{} values are no whole blocks of {}, which have {} each",
            values.len(),
            block.name(),
            block.values()
        )));
    }
    let together = TOGETHER / block.values();
    let mut out = vec![0; values.len() / block.values() * block.bytes()];
    out.par_chunks_mut(together * block.bytes())
        .zip(values.par_chunks(together * block.values()))
        .for_each(|(out, values)| {
            let blocks = out.chunks_exact_mut(block.bytes());
            for (b, x) in blocks.zip(values.chunks_exact(block.values())) {
                one(x, b);
            }
        });
    Ok(out)
}

/// The encoder; `None` for a format that is only read.
fn encoder(block: Block) -> Option<Encoder> {
    Some(match block {
        Block::Q4_0 => even::q4_0,
        Block::Q4_1 => even::q4_1,
        Block::Q5_0 => even::q5_0,
        Block::Q5_1 => even::q5_1,
        Block::Q8_0 => even::q8_0,
        Block::Q2K => scaled::q2_k,
        Block::Q3K => scaled::q3_k,
        Block::Q4K => scaled::q4_k,
        Block::Q5K => scaled::q5_k,
        Block::Q6K => scaled::q6_k,
        Block::Iq4Nl => levels::iq4_nl,
        Block::Iq4Xs => levels::iq4_xs,
        _ => return None,
    })
}

/// The nearest whole number, the even one of two, of a magnitude below 2^22: where the last bit of
/// a sum is worth 1, the sum is rounded to whole numbers. (`round_ties_even` is a call to the C
/// library on processors that lack an instruction for it.)
fn nearest(v: f32) -> f32 {
    const ONE_A_BIT: f32 = 12_582_912.0; // 1.5 * 2^23
    (v + ONE_A_BIT) - ONE_A_BIT
}

/// Writes an f16 at `at`, and returns the number that it holds.
fn put_half(b: &mut [u8], at: usize, v: f32) -> f32 {
    let half = f16::from_f32(v);
    b[at..at + 2].copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

/// The first value of the largest magnitude; `None` if all are as good as 0.
fn extreme(x: impl Iterator<Item = f32>) -> Option<f32> {
    let largest = x.fold(0f32, |most, v| if v.abs() > most.abs() { v } else { most });
    (largest.abs() >= TINY).then_some(largest)
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
        let mut tested = 0;
        for block in Block::ALL.into_iter().filter(|b| encoder(*b).is_some()) {
            let stored = &index.tensors[block.name()];
            let theirs = source.read(stored.start, stored.len).unwrap();
            let ours = encode(block, &x).unwrap();
            let other = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
            assert_eq!((other, ours.len()), (0, theirs.len()), "{}", block.name());
            assert!(encode(block, &x[1..]).is_err());
            tested += 1;
        }
        assert_eq!(tested, 12);
        let e = encode(Block::Iq2S, &x).unwrap_err().to_string();
        assert!(e.contains("IQ2_S is only read"), "{e}");
    }

    #[test]
    fn halves_go_to_the_even_number() {
        for v in [
            0.5f32,
            1.5,
            -0.5,
            -2.5,
            2.499_999_8,
            31.5,
            -32.7,
            4_000_000.5,
            0.0,
        ] {
            assert_eq!(nearest(v), v.round_ties_even(), "{v}");
        }
    }
}
