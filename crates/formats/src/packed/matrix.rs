//! A matrix in few bits: each value is (its code's number - the zero point) · scale, in f32, as the
//! formats' definitions have it.

use std::{ops::Range, sync::Arc};

use half::f16;
use rayon::prelude::*;

use super::{
    codes::Codes,
    number::Number,
    scales::{Scales, Zeros},
};
use crate::{
    Error, Result,
    bnb::{Nf4Parts, Nf4Scales},
};

/// Weights of a block of Q8_0.
const EIGHT: usize = 32;
/// Most weights of a block in 4 bits.
const LONGEST: usize = 4096;

/// A matrix (out, in) without its codes, which are the tensor's own bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    /// What its format is called.
    pub(super) kind: &'static str,
    /// Rows and columns of what is stored.
    pub(super) stored: [usize; 2],
    pub(super) codes: Codes,
    pub(super) number: Number,
    pub(super) scales: Scales,
    /// Zero points that are not in `number`.
    pub(super) zeros: Option<Zeros>,
    /// The group of every column, where groups are not neighbours (act-order).
    pub(super) groups: Option<Arc<Vec<u32>>>,
    pub(super) picked: Picked,
}

/// The rows of the stored matrix that are this matrix's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Picked {
    pub(super) first: usize,
    pub(super) step: usize,
    pub(super) count: usize,
}

impl Picked {
    pub(super) fn all(rows: usize) -> Self {
        Picked {
            first: 0,
            step: 1,
            count: rows,
        }
    }
}

/// A format of matrices that products read, in which a packed matrix has exactly its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exact {
    /// 4-bit codes of 16 levels, blocks of so many weights with a scale in f32.
    Four {
        /// Weights of a block.
        block: usize,
    },
    /// GGUF's Q8_0.
    Eight,
}

impl Packed {
    /// What its format is called: `GPTQ's 4 bits`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Weights in all.
    fn count(&self) -> u64 {
        self.picked.count as u64 * self.stored[1] as u64
    }

    /// The format of products that has exactly its values, if there is one: zero points must be one
    /// number and groups neighbours; 8 bits want scales that f16 has.
    pub fn exact(&self) -> Option<Exact> {
        let columns = self.stored[1];
        let group = self.scales.columns.min(columns);
        let block: usize = 1 << group.trailing_zeros().min(columns.trailing_zeros());
        if self.zeros.is_some() || self.groups.is_some() || block < EIGHT {
            return None;
        }
        match self.number {
            Number::Less(_) | Number::E2m1 if self.codes.bits() <= 4 => Some(Exact::Four {
                block: block.min(LONGEST),
            }),
            Number::Less(128) | Number::Signed if self.scales.halves => Some(Exact::Eight),
            _ => None,
        }
    }

    /// Bytes of the matrix in that format.
    pub fn exact_bytes(&self, exact: Exact) -> u64 {
        let count = self.count();
        match exact {
            Exact::Four { block } => count / 2 + 4 * (count / block as u64),
            Exact::Eight => count / EIGHT as u64 * 34,
        }
    }

    /// Bytes that are needed beside the codes while values are read: scales and zero points, as
    /// they are stored and in f32.
    pub fn reading(&self) -> u64 {
        let of = |stored: u64, numbers: usize| stored + 4 * numbers as u64;
        let scales = of(self.scales.tensor.len, self.scales.count(self.stored));
        let zeros = self.zeros.as_ref();
        scales + zeros.map_or(0, |z| of(z.tensor.len, self.scales.count(self.stored)))
    }

    /// Reads scales and zero points of the matrix `name` and joins them with its codes.
    ///
    /// # Errors
    /// A file that is cut short, a scale that is no number.
    pub fn reader<'a>(&'a self, name: &str, codes: &'a [u8]) -> Result<Reader<'a>> {
        let fail = |what: String| Error::rule(format!("{name}: {what}"));
        let wanted = self.codes.shape(self.stored[0], self.stored[1]);
        let width = match self.codes {
            Codes::Bytes | Codes::Nibbles => 1,
            _ => 4,
        };
        if wanted.map(|[a, b]| a * b * width) != Some(codes.len()) {
            return Err(fail(format!(
                "{} bytes of codes are not those of {:?}",
                codes.len(),
                self.stored
            )));
        }
        let (down, across) = (
            self.scales.down(self.stored),
            self.scales.across(self.stored),
        );
        let zeros = self.zeros.as_ref().map(|z| z.read(down, across));
        Ok(Reader {
            packed: self,
            codes,
            levels: self.number.levels(),
            scales: self.scales.read(self.stored).map_err(fail)?,
            zeros: zeros.transpose().map_err(fail)?,
        })
    }

    /// The matrix of expert `expert` of a stack whose codes and scales lie one expert after
    /// another, of which a part's rows are the `first` and every `step`-th after it.
    pub(crate) fn expert(&self, expert: usize, first: usize, step: usize, count: usize) -> Self {
        let mut one = self.clone();
        one.scales.advance(expert, self.stored);
        one.picked = Picked { first, step, count };
        one
    }
}

/// A matrix whose values can be read.
pub struct Reader<'a> {
    packed: &'a Packed,
    codes: &'a [u8],
    /// The numbers of all codes.
    levels: [f32; 256],
    /// One for each block of rows and columns.
    scales: Vec<f32>,
    /// The same, where there are any.
    zeros: Option<Vec<f32>>,
}

impl Reader<'_> {
    /// Writes the values of these rows, one after another.
    pub fn fill(&self, rows: Range<usize>, out: &mut [f32]) {
        let columns = self.packed.stored[1];
        let lines = out.par_chunks_exact_mut(columns).zip(rows);
        lines.for_each(|(out, row)| self.row(row, out));
    }

    fn row(&self, row: usize, out: &mut [f32]) {
        let packed = self.packed;
        let mut codes = vec![0; out.len()];
        self.row_codes(row, &mut codes);
        let first = self.scales_of(row);
        for (column, (value, code)) in out.iter_mut().zip(codes).enumerate() {
            let at = first
                + match &packed.groups {
                    Some(groups) => groups[column] as usize,
                    None => column / packed.scales.columns,
                };
            let zero = self.zeros.as_ref().map_or(0.0, |zeros| zeros[at]);
            *value = (self.levels[usize::from(code)] - zero) * self.scales[at];
        }
    }

    fn row_codes(&self, row: usize, out: &mut [u8]) {
        let packed = self.packed;
        let stored = packed.picked.first + packed.picked.step * row;
        packed.codes.row(self.codes, packed.stored[0], stored, out);
    }

    /// The place of a row's first scale.
    fn scales_of(&self, row: usize) -> usize {
        let packed = self.packed;
        let stored = packed.picked.first + packed.picked.step * row;
        stored / packed.scales.rows * packed.scales.across(packed.stored)
    }

    /// The matrix in blocks of 4-bit codes; `block` is that of [`Packed::exact`].
    pub fn four(&self, block: usize) -> Nf4Parts {
        let (rows, columns) = (self.packed.picked.count, self.packed.stored[1]);
        let mut codes = vec![0u8; rows * columns / 2];
        let lines = codes.par_chunks_exact_mut(columns / 2).enumerate();
        lines.for_each(|(row, out)| {
            let mut one = vec![0; columns];
            self.row_codes(row, &mut one);
            for (byte, pair) in out.iter_mut().zip(one.as_chunks::<2>().0) {
                *byte = pair[0] << 4 | pair[1];
            }
        });
        let blocks = (0..rows).flat_map(|row| (0..columns).step_by(block).map(move |c| (row, c)));
        let wide = self.packed.scales.columns;
        let scale =
            |(row, column): (usize, usize)| self.scales[self.scales_of(row) + column / wide];
        let most = 1usize << self.packed.codes.bits();
        Nf4Parts {
            rows,
            columns,
            block,
            // codes that do not occur have the level 0
            levels: std::array::from_fn(|i| if i < most { self.levels[i] } else { 0.0 }),
            codes,
            scales: Nf4Scales::Plain(blocks.map(scale).collect()),
        }
    }

    /// The matrix in blocks of Q8_0, row after row; wants [`Exact::Eight`].
    pub fn eight(&self) -> Vec<u8> {
        let (rows, columns) = (self.packed.picked.count, self.packed.stored[1]);
        let mut blocks = vec![0u8; rows * columns / EIGHT * 34];
        let lines = blocks.par_chunks_exact_mut(columns / EIGHT * 34);
        lines.enumerate().for_each(|(row, out)| {
            let mut codes = vec![0; columns];
            self.row_codes(row, &mut codes);
            let blocks = out.as_chunks_mut::<34>().0.iter_mut();
            for (i, (block, codes)) in blocks.zip(codes.as_chunks::<EIGHT>().0).enumerate() {
                let at = self.scales_of(row) + i * EIGHT / self.packed.scales.columns;
                let scale = f16::from_f32(self.scales[at]);
                block[..2].copy_from_slice(&scale.to_le_bytes());
                for (byte, code) in block[2..].iter_mut().zip(codes) {
                    *byte = self.levels[usize::from(*code)] as i8 as u8;
                }
            }
        });
        blocks
    }
}
