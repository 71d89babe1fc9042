//! 4-bit matrices, decoded for products: each weight is one of 16 levels times the scale of its
//! block.

use std::{
    ops::Range,
    sync::{Arc, LazyLock},
};

use candle_core::{DType, Tensor};
use randori_formats::{
    bnb::{BLOCK, NF4_LEVELS, Nf4Parts},
    packed::E2M1_LEVELS,
};

use crate::{Result, product::DecodeRows, wide};

/// A matrix (out, in) in 4 bits.
pub struct Nf4Matrix {
    parts: Nf4Parts,
    /// For every byte the levels of its two codes.
    pairs: Arc<Pairs>,
}

type Pairs = [[f32; 2]; 256];

fn pairs(levels: &[f32; 16]) -> Arc<Pairs> {
    static NF4: LazyLock<Arc<Pairs>> = LazyLock::new(|| table(&NF4_LEVELS));
    fn table(levels: &[f32; 16]) -> Arc<Pairs> {
        Arc::new(std::array::from_fn(|byte| {
            [levels[byte >> 4], levels[byte & 15]]
        }))
    }
    if *levels == NF4_LEVELS {
        NF4.clone()
    } else {
        table(levels)
    }
}

impl Nf4Matrix {
    /// Takes over a stored matrix.
    ///
    /// # Errors
    /// A block size that bitsandbytes does not have, or lengths that do not fit the shape.
    pub fn from_parts(parts: Nf4Parts) -> Result<Self> {
        parts.check()?;
        let pairs = pairs(&parts.levels);
        Ok(Self { parts, pairs })
    }

    /// The stored codes, scales and levels.
    pub fn parts(&self) -> &Nf4Parts {
        &self.parts
    }

    pub(crate) fn quantise(w: &Tensor, double: bool) -> Result<Self> {
        let (rows, columns) = w.dims2()?;
        let values = w.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        Self::from_parts(Nf4Parts::quantise(rows, columns, &values, double)?)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.parts.bytes()
    }

    /// `nf4`, `mxfp4`, `int4` (whole numbers), or `fp4`, bitsandbytes' other format.
    pub(crate) fn format(&self) -> &'static str {
        match &self.parts.levels {
            levels if *levels == NF4_LEVELS => "nf4",
            levels if *levels == E2M1_LEVELS => "mxfp4",
            levels if levels.iter().all(|level| level.fract() == 0.0) => "int4",
            _ => "fp4",
        }
    }

    /// Decodes elements `start..start + out.len()` of the flattened matrix.
    fn decode(&self, start: usize, out: &mut [f32]) {
        let Nf4Parts {
            codes,
            block,
            levels,
            ..
        } = &self.parts;
        let mut done = 0;
        while done < out.len() {
            let at = start + done;
            let len = (block - at % block).min(out.len() - done);
            let scale = self.parts.scales.at(at / block);
            let out = &mut out[done..done + len];
            if at.is_multiple_of(2) && len.is_multiple_of(2) {
                let codes = &codes[at / 2..(at + len) / 2];
                let wide = wide::look_up(codes, levels, scale, out);
                let (out, codes) = (&mut out[wide..], &codes[wide / 2..]);
                for (pair, &byte) in out.chunks_exact_mut(2).zip(codes) {
                    let [high, low] = self.pairs[usize::from(byte)];
                    pair[0] = high * scale;
                    pair[1] = low * scale;
                }
            } else {
                for (i, v) in out.iter_mut().enumerate() {
                    let both = self.pairs[usize::from(codes[(at + i) / 2])];
                    *v = both[(at + i) % 2] * scale;
                }
            }
            done += len;
        }
    }
}

impl DecodeRows for Nf4Matrix {
    fn shape(&self) -> (usize, usize) {
        (self.parts.rows, self.parts.columns)
    }

    fn grain(&self) -> usize {
        BLOCK
    }

    fn fill(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        let width = self.parts.columns;
        if columns.len() == width {
            return self.decode(rows.start * width, out);
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(columns.len())) {
            self.decode(row * width + columns.start, out);
        }
    }
}
