//! Values that cross blocks.

use std::mem::offset_of;

use super::{Graph, Session, Tensor};
use crate::abi;

impl<'g> Graph<'g> {
    /// Hands `x` (tokens, trailing axes…) on to later blocks, which find it by `name` with
    /// [`Graph::carried`]; answers `x`. The embedding or one block carries a name, once; the scope
    /// is no part of it. The value stays in memory until the pass needs it no more, and gradients
    /// of all blocks that take it are added up.
    #[track_caller]
    pub fn carry(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        call!(self.session, carry(abi::Str::new(name), x.id))
    }

    /// The value that the embedding or an earlier block carries by `name`. Attention over carried
    /// keys and values that attended where they were made (shared keys and values) finds them in
    /// the cache of generation, which holds them once.
    #[track_caller]
    pub fn carried(&self, name: &str) -> Tensor<'g> {
        call!(self.session, carried(abi::Str::new(name)))
    }
}
