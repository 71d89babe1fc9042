//! What the ops of one pass share: its rows, the weights they meet, rotary tables, dropout.

use std::{cell::RefCell, rc::Rc};

use randori_kernels::{Kernels, Result};
use randori_sdk::seam::RopeSpec;

use super::{Matrix, Model, Vector};

/// One forward (and backward) pass.
pub(crate) struct Pass<'a, K: Kernels> {
    pub(crate) kernels: &'a K,
    pub(crate) model: &'a dyn Model<K>,
    pub(crate) plan: K::Plan,
    tables: RefCell<Vec<(RopeSpec, Rc<K::RopeTable>)>>,
}

impl<'a, K: Kernels> Pass<'a, K> {
    /// A pass over these rows.
    pub(crate) fn new(kernels: &'a K, model: &'a dyn Model<K>, plan: K::Plan) -> Self {
        Pass {
            kernels,
            model,
            plan,
            tables: RefCell::default(),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.kernels.row_count(&self.plan)
    }

    pub(super) fn matrix(&self, name: &str, shape: (usize, usize)) -> Result<Matrix<K>, String> {
        self.model.matrix(self.kernels, name, shape)
    }

    pub(crate) fn projection(
        &self,
        name: &str,
        shape: (usize, usize),
    ) -> Result<Matrix<K>, String> {
        self.model.projection(self.kernels, name, shape)
    }

    pub(crate) fn vector(&self, full: String, shape: &[usize]) -> Result<Vector<K>, String> {
        self.model.vector(self.kernels, full, shape)
    }

    pub(crate) fn param(&self, full: &str, shape: &[usize]) -> Result<Vector<K>, String> {
        self.model.param(self.kernels, full, shape)
    }

    /// The rotary table of this spec for all rows, made once.
    pub(super) fn table(&self, spec: &RopeSpec) -> Result<Rc<K::RopeTable>> {
        let mut tables = self.tables.borrow_mut();
        if let Some((_, table)) = tables.iter().find(|(s, _)| s == spec) {
            return Ok(table.clone());
        }
        let table = Rc::new(self.kernels.rope_table(&self.plan, spec)?);
        tables.push((spec.clone(), table.clone()));
        Ok(table)
    }

    /// Whether inputs of an update with this dropout are dropped.
    pub(super) fn drops(&self, p: f32) -> bool {
        p > 0.0 && self.kernels.has_dropout(&self.plan)
    }

    /// x (n, in), of the pass's `rows` (`None`: all), with this projection's dropout mask on it
    /// (also: the gradient to x from the gradient to that).
    pub(super) fn drop_out(
        &self,
        x: &K::Tensor,
        projection: &str,
        p: f32,
        rows: Option<&K::Indices>,
    ) -> Result<K::Tensor> {
        match self.drops(p) {
            true => {
                let salt = fnv1a(projection);
                self.kernels.apply_dropout(&self.plan, x, p, rows, salt)
            }
            false => Ok(x.clone()),
        }
    }
}

/// FNV-1a over a name, 64 bits.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
