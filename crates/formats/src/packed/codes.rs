//! How the codes of a matrix (out, in) lie in its tensor. Words have 32 bits, little-endian; within
//! a word low bits come first, whatever the format.

/// The place of each of eight neighbouring outputs in a word of AWQ's, which holds them in the
/// order 0, 2, 4, 6, 1, 3, 5, 7.
const AWQ_PLACE: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// An arrangement of codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Codes {
    /// Words (in · bits / 32, out): down a column, the codes of one output are one stream of bits.
    Down {
        /// Bits of a code.
        bits: u32,
    },
    /// Words (in, out / 8) of eight outputs' 4-bit codes, in AWQ's order.
    Awq,
    /// Words (out, in · bits / 32): along a row, the codes are one stream of bits.
    Stream {
        /// Bits of a code.
        bits: u32,
    },
    /// Words (out, in / (32 / bits)): along a row, of as many codes as are whole in a word.
    Whole {
        /// Bits of a code.
        bits: u32,
    },
    /// Bytes (out, in).
    Bytes,
    /// Bytes (out, in / 2) of two 4-bit codes, the first in the low half.
    Nibbles,
}

impl Codes {
    /// Bits of a code.
    pub(super) fn bits(self) -> u32 {
        match self {
            Codes::Down { bits } | Codes::Stream { bits } | Codes::Whole { bits } => bits,
            Codes::Awq | Codes::Nibbles => 4,
            Codes::Bytes => 8,
        }
    }

    /// Shape of the tensor that holds a matrix (rows, columns); `None` where none can, or its size
    /// overflows.
    pub(super) fn shape(self, rows: usize, columns: usize) -> Option<[usize; 2]> {
        let words = |codes: usize, bits: u32| Some(codes.checked_mul(bits as usize)?.div_ceil(32));
        Some(match self {
            Codes::Down { bits } => [words(columns, bits)?, rows],
            Codes::Awq if rows.is_multiple_of(8) => [columns, rows / 8],
            Codes::Stream { bits } => [rows, words(columns, bits)?],
            Codes::Whole { bits } => [rows, columns.div_ceil(32 / bits as usize)],
            Codes::Bytes => [rows, columns],
            Codes::Nibbles if columns.is_multiple_of(2) => [rows, columns / 2],
            Codes::Awq | Codes::Nibbles => return None,
        })
    }

    /// Writes the codes of a row of a matrix of so many rows, one for each place of `out`; `bytes`
    /// are the whole tensor's.
    pub(super) fn row(self, bytes: &[u8], rows: usize, row: usize, out: &mut [u8]) {
        let columns = out.len();
        let words = bytes.as_chunks::<4>().0;
        let word = |at: usize| u32::from_le_bytes(words[at]);
        match self {
            Codes::Down { bits } => stream(bits, |i| word(i * rows + row), out),
            Codes::Stream { bits } => {
                let first = row * (columns * bits as usize).div_ceil(32);
                stream(bits, |i| word(first + i), out);
            }
            Codes::Whole { bits } => {
                let each = 32 / bits as usize;
                let first = row * columns.div_ceil(each);
                for (i, codes) in out.chunks_mut(each).enumerate() {
                    stream(bits, |_| word(first + i), codes);
                }
            }
            Codes::Awq => {
                let shift = 4 * AWQ_PLACE[row % 8];
                for (i, code) in out.iter_mut().enumerate() {
                    *code = (word(i * (rows / 8) + row / 8) >> shift & 15) as u8;
                }
            }
            Codes::Bytes => out.copy_from_slice(&bytes[row * columns..][..columns]),
            Codes::Nibbles => {
                let bytes = &bytes[row * columns / 2..][..columns / 2];
                for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
                    pair.copy_from_slice(&[byte & 15, byte >> 4]);
                }
            }
        }
    }
}

/// Takes codes of so many bits, at most 8, from a stream of words.
fn stream(bits: u32, word: impl Fn(usize) -> u32, out: &mut [u8]) {
    let mask = (1u32 << bits) - 1;
    for (i, code) in out.iter_mut().enumerate() {
        let at = i * bits as usize;
        let (index, shift) = (at / 32, (at % 32) as u32);
        let mut value = word(index) >> shift;
        if shift + bits > 32 {
            value |= word(index + 1) << (32 - shift);
        }
        *code = (value & mask) as u8;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn a_code_may_lie_in_two_words() {
        // 3-bit codes 0, 1, 2, …: the eleventh has two bits in the first word
        let codes: Vec<u8> = (0..32).map(|i| i % 8).collect();
        let all = codes
            .iter()
            .rev()
            .fold(0u128, |a, &c| a << 3 | u128::from(c));
        let words = [all as u32, (all >> 32) as u32, (all >> 64) as u32];
        let mut out = vec![0; 32];
        Codes::Stream { bits: 3 }.row(&bytes(&words), 1, 0, &mut out);
        assert_eq!(out, codes);
        // the same down the second of two columns
        let down: Vec<u32> = words.iter().flat_map(|&w| [!w, w]).collect();
        Codes::Down { bits: 3 }.row(&bytes(&down), 2, 1, &mut out);
        assert_eq!(out, codes);
        // ten whole ones a word
        let whole = |c: &[u8]| c.iter().rev().fold(0u32, |a, &c| a << 3 | u32::from(c));
        let words: Vec<u32> = codes.chunks(10).map(whole).collect();
        Codes::Whole { bits: 3 }.row(&bytes(&words), 1, 0, &mut out);
        assert_eq!(out, codes);
    }

    #[test]
    fn tensors_have_the_shape_of_their_codes() {
        let of = |codes: Codes| codes.shape(8, 40);
        assert_eq!(of(Codes::Down { bits: 3 }), Some([4, 8]));
        assert_eq!(of(Codes::Stream { bits: 3 }), Some([8, 4]));
        assert_eq!(of(Codes::Whole { bits: 3 }), Some([8, 4]));
        assert_eq!(of(Codes::Whole { bits: 5 }), Some([8, 7]));
        assert_eq!(of(Codes::Awq), Some([40, 1]));
        assert_eq!(of(Codes::Nibbles), Some([8, 20]));
        assert_eq!(of(Codes::Bytes), Some([8, 40]));
        assert_eq!(Codes::Awq.shape(12, 8), None);
        assert_eq!(Codes::Nibbles.shape(8, 7), None);
        assert_eq!(Codes::Down { bits: 8 }.shape(8, usize::MAX), None);
    }
}
