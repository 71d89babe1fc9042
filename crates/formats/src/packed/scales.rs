//! Scales and zero points of a packed matrix (out, in): one for each block of rows and columns.

use half::f16;

use super::{codes::Codes, number::power_of_two};
use crate::auxiliary::{AuxTensor, Read};

/// The scales of a matrix.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scales {
    pub(super) tensor: AuxTensor,
    /// Rows that share a scale.
    pub(super) rows: usize,
    /// Columns that share a scale.
    pub(super) columns: usize,
    /// Whether the tensor is the transpose: (groups of columns, out).
    pub(super) turned: bool,
    /// Whether its bytes are exponents of two (E8M0).
    pub(super) exponents: bool,
    /// Whether f16 has all of them.
    pub(super) halves: bool,
}

impl Scales {
    /// One for so many rows and columns, in the order of the matrix.
    pub(super) fn new(tensor: AuxTensor, rows: usize, columns: usize) -> Self {
        Scales {
            tensor,
            rows,
            columns,
            turned: false,
            exponents: false,
            halves: false,
        }
    }

    /// Finds out whether f16 has all of them.
    pub(super) fn see_halves(mut self) -> Read<Self> {
        let held = |v: f32| f16::from_f32(v).to_f32() == v && v.is_finite();
        self.halves = self.tensor.numbers()?.into_iter().all(held);
        Ok(self)
    }

    /// Scales along a row of a matrix of this shape.
    pub(super) fn across(&self, [_, columns]: [usize; 2]) -> usize {
        columns.div_ceil(self.columns)
    }

    /// Scales down a column.
    pub(super) fn down(&self, [rows, _]: [usize; 2]) -> usize {
        rows.div_ceil(self.rows)
    }

    /// Scales in all.
    pub(super) fn count(&self, shape: [usize; 2]) -> usize {
        self.down(shape) * self.across(shape)
    }

    /// Reads them: (blocks of rows, blocks of columns).
    pub(super) fn read(&self, shape: [usize; 2]) -> Read<Vec<f32>> {
        let stored = match self.exponents {
            false => self.tensor.numbers()?,
            true => {
                let bytes = self.tensor.read()?;
                let numbers = bytes.into_iter().map(power_of_two);
                numbers.collect::<Option<_>>().ok_or_else(|| {
                    let name = &self.tensor.name;
                    format!("{name} has the exponent 255, which is no number")
                })?
            }
        };
        let (count, across) = (self.count(shape), self.across(shape));
        if stored.len() != count {
            return Err(format!(
                "{} has {} scales, {count} are wanted",
                self.tensor.name,
                stored.len()
            ));
        }
        Ok(match self.turned {
            false => stored,
            true => turn(&stored, across),
        })
    }

    /// Moves on by so many matrices of this shape, of which one's scales follow the other's.
    pub(super) fn advance(&mut self, matrices: usize, shape: [usize; 2]) {
        let width = match (self.exponents, self.tensor.dtype()) {
            (false, Some(dtype)) => dtype.width(),
            _ => 1,
        };
        self.tensor.len = self.count(shape) as u64 * width;
        self.tensor.start += matrices as u64 * self.tensor.len;
    }
}

/// The zero points of a matrix: a code for each scale.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Zeros {
    pub(super) tensor: AuxTensor,
    pub(super) codes: Codes,
    /// Whether they are stored as a matrix (groups, out), not (out, groups).
    pub(super) turned: bool,
    /// Whether a code is two's complement.
    pub(super) signed: bool,
    /// What the stored codes lack (GPTQ's first format: 1).
    pub(super) added: u8,
}

impl Zeros {
    /// Reads the codes of (out, groups), in the order in which they are stored.
    pub(super) fn stored(&self, out: usize, groups: usize) -> Read<Vec<u8>> {
        let (rows, columns) = match self.turned {
            true => (groups, out),
            false => (out, groups),
        };
        let bytes = self.tensor.read()?;
        let mut codes = vec![0; rows * columns];
        for (row, line) in codes.chunks_exact_mut(columns).enumerate() {
            self.codes.row(&bytes, rows, row, line);
        }
        Ok(codes)
    }

    /// Reads them: (out, groups).
    pub(super) fn read(&self, out: usize, groups: usize) -> Read<Vec<f32>> {
        let number = |code: u8| match self.signed {
            true => f32::from(code as i8),
            false => f32::from(code) + f32::from(self.added),
        };
        let numbers: Vec<f32> = self.stored(out, groups)?.into_iter().map(number).collect();
        Ok(match self.turned {
            true => turn(&numbers, groups),
            false => numbers,
        })
    }
}

/// The transpose of a matrix of so many rows.
fn turn(stored: &[f32], rows: usize) -> Vec<f32> {
    let columns = stored.len() / rows;
    let all = (0..columns).flat_map(|column| (0..rows).map(move |row| (row, column)));
    all.map(|(row, column)| stored[row * columns + column])
        .collect()
}
