//! A 4-bit matrix in a checkpoint: its block size and levels, and where its scales are.

use std::sync::Arc;

use super::{Nf4Parts, Nf4Scales, scale_bytes};
use crate::{Error, Result, auxiliary::AuxTensor};

/// A 4-bit matrix without its codes, which are the tensor's own bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Bnb4 {
    pub(super) block: usize,
    pub(super) levels: [f32; 16],
    pub(super) absmax: AuxTensor,
    pub(super) nested: Option<Nested>,
}

/// What double quantisation adds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Nested {
    pub(super) absmax: AuxTensor,
    pub(super) map: Arc<[f32; 256]>,
    pub(super) block: usize,
    pub(super) offset: f32,
}

impl Bnb4 {
    /// Whether its scales are quantised too.
    pub fn double(&self) -> bool {
        self.nested.is_some()
    }

    /// Bytes of the scales of `count` weights.
    pub fn scale_bytes(&self, count: u64) -> u64 {
        scale_bytes(count, self.block, self.nested.as_ref().map(|n| n.block))
    }

    /// Reads the scales of the matrix `name` of this shape and joins them with its `codes`.
    ///
    /// # Errors
    /// A file that is cut short, a shape other than a matrix's.
    pub fn parts(&self, name: &str, shape: &[usize], codes: Vec<u8>) -> Result<Nf4Parts> {
        let fail = |what: String| Error::rule(format!("{name}: {what}"));
        let scales = match &self.nested {
            None => Nf4Scales::Plain(self.absmax.floats().map_err(fail)?),
            Some(nested) => Nf4Scales::Double {
                codes: self.absmax.read().map_err(fail)?,
                scales: nested.absmax.floats().map_err(fail)?,
                offset: nested.offset,
                map: nested.map.clone(),
                block: nested.block,
            },
        };
        let [rows, columns] = shape[..] else {
            return Err(fail(format!("has the shape {shape:?}")));
        };
        Ok(Nf4Parts {
            rows,
            columns,
            block: self.block,
            levels: self.levels,
            codes,
            scales,
        })
    }
}
