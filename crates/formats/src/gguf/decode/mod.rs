//! Decoders of the block formats that no product reads: each writes the floats of one block
//! exactly as gguf-py and llama.cpp do. The other formats' decoders are beside their products.
//!
//! Many products and sums here are of small integers and therefore exact; the others are in the
//! order of ggml's, since f32 is not associative.
mod grid;
pub(super) mod levels;
mod scaled;

use half::f16;
use rayon::prelude::*;

use super::Block;
use crate::{Error, Result};

/// Decoder of one block: its bytes, its values.
type Decoder = fn(&[u8], &mut [f32]);

/// Number of blocks that one thread decodes at a time.
const TOGETHER: usize = 256;

/// Decodes whole blocks.
///
/// # Errors
/// Bytes that are not whole blocks; a format that is decoded beside its products.
pub fn decode(block: Block, bytes: &[u8]) -> Result<Vec<f32>> {
    let Some(one) = decoder(block) else {
        return Err(Error::rule(format!(
            "{} is decoded beside its products",
            block.name()
        )));
    };
    if !bytes.len().is_multiple_of(block.bytes()) {
        return Err(Error::rule(format!(
            "{} bytes are no whole blocks of {}, which have {} each",
            bytes.len(),
            block.name(),
            block.bytes()
        )));
    }
    let mut out = vec![0.0; bytes.len() / block.bytes() * block.values()];
    let parts = out.par_chunks_mut(TOGETHER * block.values());
    parts
        .zip(bytes.par_chunks(TOGETHER * block.bytes()))
        .for_each(|(out, bytes)| {
            let blocks = bytes.chunks_exact(block.bytes());
            for (b, y) in blocks.zip(out.chunks_exact_mut(block.values())) {
                one(b, y);
            }
        });
    Ok(out)
}

/// The decoder; `None` for a format that is decoded beside its products.
fn decoder(block: Block) -> Option<Decoder> {
    Some(match block {
        Block::Q4_0 | Block::Q4_1 | Block::Q5_0 | Block::Q5_1 => return None,
        Block::Q8_0 | Block::Q4K | Block::Q5K | Block::Q6K => return None,
        Block::Q1_0 => scaled::q1_0,
        Block::Q2_0 => scaled::q2_0,
        Block::Q2K => scaled::q2_k,
        Block::Q3K => scaled::q3_k,
        Block::Tq1_0 => scaled::tq1_0,
        Block::Tq2_0 => scaled::tq2_0,
        Block::Iq4Nl => levels::iq4_nl,
        Block::Iq4Xs => levels::iq4_xs,
        Block::Mxfp4 => levels::mxfp4,
        Block::Nvfp4 => levels::nvfp4,
        Block::Iq1S => grid::iq1_s,
        Block::Iq1M => grid::iq1_m,
        Block::Iq2Xxs => grid::iq2_xxs,
        Block::Iq2Xs => grid::iq2_xs,
        Block::Iq2S => grid::iq2_s,
        Block::Iq3Xxs => grid::iq3_xxs,
        Block::Iq3S => grid::iq3_s,
    })
}

/// The little-endian 16 bits at `at`.
fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

/// The f16 at `at`.
fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_bits(u16_at(b, at)).to_f32()
}

/// The `i`-th of 4-bit numbers, two a byte, the lower half first.
fn nibble(b: &[u8], i: usize) -> u8 {
    b[i / 2] >> (4 * (i % 2)) & 15
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::{ByteSource, Index, safetensors};

    #[test]
    fn every_value_is_ggufs() {
        let golden = include_bytes!("../../../tests/fixtures/blocks.safetensors");
        let mut index = Index::default();
        let source = ByteSource::memory("blocks.safetensors", golden.to_vec());
        safetensors::add(&mut index, source).unwrap();
        let mut tested = 0;
        for block in Block::ALL {
            let stored = &index.tensors[block.name()];
            let source = index.source_of(stored).unwrap();
            let bytes = source.read(stored.start, stored.len).unwrap();
            let values = format!("{}.values", block.name());
            let theirs = index.tensors[&values].numbers(&values, source).unwrap();
            let Ok(ours) = decode(block, &bytes) else {
                assert!(decoder(block).is_none(), "{}", block.name());
                continue; // held against the same file beside its product
            };
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&ours), bits(&theirs), "{}", block.name());
            assert!(decode(block, &bytes[1..]).is_err());
            tested += 1;
        }
        assert_eq!(tested, 17);
    }
}
